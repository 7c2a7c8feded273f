"""`python offline_compute.py …` from a checkout; installed, the command is `offline_compute`."""

from pomt_edge.cli import main

main()
