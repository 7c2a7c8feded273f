"""One file per method; each holds what `pomt_edge.reduce.method.Method` names."""
