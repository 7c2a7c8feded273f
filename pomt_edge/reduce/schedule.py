"""A schedule is one integer per block: tokens removed there. Here it is checked, before any model is built."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from pomt_edge.errors import UserError


def in_one_block(removed: int, block: int, depth: int) -> tuple[int, ...]:
    """The schedule that removes tokens in one block alone.

    Raises:
        UserError: the model has no such block.
    """
    if not 0 <= block < depth:
        raise UserError(f"block {block} is past the depth: the model has {depth} blocks, 0 to {depth - 1}")
    return tuple(removed if index == block else 0 for index in range(depth))


def check(
    schedule: Sequence[int], depth: int, tokens: int, prefix: int, most_of: Callable[[int], int]
) -> tuple[int, ...]:
    """The schedule as integers, if no block removes more than a method can; `most_of`: see `Method.most`.

    Raises:
        UserError: a wrong length, a number that is no integer or negative, or too many tokens removed; the
            message names the largest number that is allowed there.
    """
    try:
        counts = tuple(operator.index(item) for item in schedule)
    except TypeError:
        raise UserError(f"a schedule is integers, one per block, got {list(schedule)!r}") from None
    if len(counts) != depth:
        raise UserError(f"a schedule has one integer per block: expected {depth}, got {len(counts)}")
    for block, removed in enumerate(counts):
        most = max(most_of(tokens - prefix), 0)
        if not 0 <= removed <= most:
            raise UserError(
                f"block {block} can't remove {removed} of {tokens} tokens: 0 to {most} are allowed "
                f"(the {prefix} prefix tokens and {tokens - prefix - most} more stay)"
            )
        tokens -= removed
    return counts
