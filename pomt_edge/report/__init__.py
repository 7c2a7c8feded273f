"""One self-contained HTML page about one run; it asks nothing of the network."""
