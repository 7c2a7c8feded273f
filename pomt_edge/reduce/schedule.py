"""A schedule is one integer per block: tokens removed there. Here it is checked, before any model is built."""

from __future__ import annotations

import math
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


def blocks_of(text: str, depth: int) -> tuple[int, ...]:
    """The blocks that a user names: '3', '3,6,9', or 'all'.

    Raises:
        UserError: something else, or a block that the model does not have.
    """
    if text == "all":
        return tuple(range(depth))
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise UserError(f"--block {text}: expected a block's number, some such as 3,6,9, or all")
    found = tuple(sorted({int(word) for word in words}))
    if len(found) < len(words):
        raise UserError(f"--block {text}: names a block twice; expected each once")
    in_one_block(0, found[-1], depth)
    return found


def most_in(blocks: Sequence[int], depth: int, tokens: int, prefix: int, most_of: Callable[[int], int]) -> int:
    """The most tokens that can be removed in all when they are spread over these blocks."""
    for removed in range(tokens - prefix, 0, -1):
        try:
            check(spread(removed, blocks, depth), depth, tokens, prefix, most_of)
        except UserError:
            continue
        return removed
    return 0


def spread(removed: int, blocks: Sequence[int], depth: int) -> tuple[int, ...]:
    """Remove so many tokens in all, evenly in some blocks; what does not divide goes to the first ones.

    Raises:
        UserError: the model has no such block.
    """
    for block in blocks:
        in_one_block(0, block, depth)
    share, rest = divmod(removed, len(blocks))
    counts = {block: share + (place < rest) for place, block in enumerate(sorted(blocks))}
    return tuple(counts.get(index, 0) for index in range(depth))


def linear(removed: int, factor: float, depth: int) -> tuple[int, ...]:
    """ToMe's schedule of every block: `removed` in each on average, from (1 - factor) to (1 + factor) times that.

    A factor of 0 is the constant schedule, -1 removes most in the first block and none in the last. Rounded down as
    there, so that the sum may be smaller than removed * depth.

    Raises:
        UserError: a factor outside -1 to 1.
    """
    if not -1 <= factor <= 1:
        raise UserError(f"a schedule's factor is -1 (falling) to 1 (rising), got {factor}")
    least = int(removed * (1 - factor))
    step = (2 * removed - 2 * least) / max(depth - 1, 1)
    return tuple(int(least + step * index) for index in range(depth))


def by_ratio(ratio: float, tokens: int, prefix: int, depth: int) -> tuple[int, ...]:
    """PiToMe's schedule of every block: each keeps this share of the tokens behind the prefix, rounded up.

    Raises:
        UserError: a ratio outside (0, 1].
    """
    if not 0 < ratio <= 1:
        raise UserError(f"a ratio of tokens to keep is above 0 and at most 1, got {ratio}")
    counts, patches = [], tokens - prefix
    for _ in range(depth):
        counts.append(math.floor(patches - patches * ratio))
        patches -= counts[-1]
    return tuple(counts)


def tokens_per_block(schedule: Sequence[int], tokens: int) -> tuple[int, ...]:
    """The tokens that each block's MLP sees, which are those that leave it."""
    return tuple(tokens - sum(schedule[: index + 1]) for index in range(len(schedule)))


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
        raise UserError(f"a schedule is integers, one per block, got {schedule!r}") from None
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
