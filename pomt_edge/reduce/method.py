"""What a token-reduction method is: a pure function from evidence to a map, and three facts about it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pomt_edge import catalogue
from pomt_edge.errors import UserError
from pomt_edge.reduce import METHODS
from pomt_edge.reduce.token_map import Evidence, TokenMap


@dataclass(frozen=True)
class Method:
    """A file of `pomt_edge.reduce.tokens`: its function `reduce` and the facts beside it."""

    name: str
    reduce: Callable[[Evidence, int], TokenMap]
    """From the evidence and the number of tokens to remove to the map that removes exactly so many."""
    needs_attention: bool
    """Whether the reducing block has to compute its attention matrix explicitly."""
    needs_class_token: bool
    """Whether the score reads the first prefix token."""
    least_patches: int
    """The fewest tokens behind the prefix that may be left."""


def load(name: str, **options: Any) -> Method:
    """A method by its file's name, its options bound.

    Raises:
        UserError: no such method, or no such option of it; the message lists the known ones.
    """
    module = catalogue.load(METHODS, name, "method")
    known = list(inspect.signature(module.reduce).parameters)[2:]
    for option in options:
        if option not in known:
            raise UserError(f"unknown option '{option}' of method {name}; known: {', '.join(known) or 'none'}")
    return Method(
        name=name,
        reduce=functools.partial(module.reduce, **options) if options else module.reduce,
        needs_attention=module.NEEDS_ATTENTION,
        needs_class_token=module.NEEDS_CLASS_TOKEN,
        least_patches=module.LEAST_PATCHES,
    )
