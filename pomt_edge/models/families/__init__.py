"""One file per family; each holds one `FAMILY` that satisfies `pomt_edge.models.family.Family`."""
