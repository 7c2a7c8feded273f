"""How a model shrinks: a model and a plan give a reduced model."""

METHODS = "pomt_edge.reduce.tokens"
