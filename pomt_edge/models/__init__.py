"""Families: how a model is taken apart. One file per family in `families/`, found by its name."""
