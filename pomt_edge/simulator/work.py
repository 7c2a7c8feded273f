"""The kernels of one forward of a ViT: how many there are of each, and how large, for many token counts at once.

Sizes that follow from the tokens are arrays [T], one entry per token count asked for; all others are plain numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pomt_edge.simulator.geometry import Geometry, Reduction

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Gemm:
    """`batch` products of [rows, inner] by [inner, columns]."""

    name: str
    rows: Counts
    columns: Counts
    inner: Counts
    batch: int = 1
    weights: bool = True
    """Whether one factor is a weight, which is read from memory; otherwise both are activations."""
    convolution: bool = False


@dataclass(frozen=True)
class FusedAttention:
    """Scores, softmax and values of `batch` heads in one kernel; no matrix leaves the processor."""

    name: str
    tokens: Counts
    head_dim: int
    batch: int


@dataclass(frozen=True)
class Pass:
    """An element-wise kernel, a norm, a softmax or a copy: it reads and writes so many elements."""

    name: str
    elements: Counts
    foldable: bool = True
    """Whether a compiler folds it into the kernel before or behind it."""


@dataclass(frozen=True)
class Sort:
    """Sorting `rows` rows of `length` keys."""

    name: str
    rows: int
    length: Counts


Kernel = Gemm | FusedAttention | Pass | Sort


def alike(
    geometry: Geometry, reduction: Reduction, tokens: Counts
) -> Iterator[tuple[NDArray[np.bool_], tuple[int, ...]]]:
    """Which of the token counts, [T], make the same kernels, and the blocks that reduce there.

    A block that removes nothing is left as it is: where there are more blocks than tokens to remove, the last ones.
    """
    blocks = tuple(sorted(reduction.blocks))
    reducing = np.minimum(geometry.tokens - tokens, max(len(blocks), 1))
    for number in np.unique(reducing):
        yield reducing == number, blocks[:number]


def forward(geometry: Geometry, reduction: Reduction, batch: int, tokens: Counts) -> Iterator[Kernel]:
    """All kernels in order, for each of the token counts that are left at the end, [T]; they have to be `alike`."""
    full = np.full_like(tokens, geometry.tokens)
    wide, patches = geometry.embed_dim, np.full_like(tokens, batch * geometry.patches)
    pixels = geometry.image_channels * geometry.patch_px**2
    yield Pass("patches", 2 * patches * pixels, foldable=False)
    yield Gemm("patch embed", patches, _as(tokens, wide), _as(tokens, pixels), convolution=True)
    yield Pass("class token", 2 * batch * full * wide, foldable=False)
    yield Pass("position", 2 * batch * full * wide)
    count = full if reduction.blocks else tokens
    if not reduction.blocks and (tokens < full).any():
        yield Pass("slice", 2 * batch * tokens * wide, foldable=False)
    merged = False
    for block in range(geometry.depth):
        left = count - _removed_in(block, reduction, full - tokens)
        reduces = block in reduction.blocks
        yield from _attention(geometry, batch, count, explicit=reduces and reduction.explicit_attention, biased=merged)
        if reduces:
            yield from _reduction(geometry, reduction, batch, count, left)
            merged = reduction.proportional
        yield from _mlp(geometry, batch, left)
        count = left
    yield Pass("last norm", 2 * batch * count * wide, foldable=False)
    yield Gemm("head", _as(tokens, batch), _as(tokens, geometry.classes), _as(tokens, wide))


def _attention(geometry: Geometry, batch: int, count: Counts, *, explicit: bool, biased: bool) -> Iterator[Kernel]:
    wide, heads, narrow = geometry.embed_dim, geometry.heads, geometry.head_dim
    yield Pass("norm", 2 * batch * count * wide, foldable=False)
    yield Gemm("qkv", batch * count, _as(count, 3 * wide), _as(count, wide))
    if explicit:
        yield Pass("scale", 2 * batch * count * wide)
        yield Gemm("scores", count, count, _as(count, narrow), batch * heads, weights=False)
        if biased:
            yield Pass("size bias", 2 * batch * heads * count**2)
        yield Pass("softmax", 2 * batch * heads * count**2, foldable=False)
        yield Gemm("values", count, _as(count, narrow), count, batch * heads, weights=False)
        yield Pass("join heads", 2 * batch * count * wide)
    else:
        yield FusedAttention("attention", count, narrow, batch * heads)
    yield Gemm("projection", batch * count, _as(count, wide), _as(count, wide))
    yield Pass("residual", 3 * batch * count * wide)


def _mlp(geometry: Geometry, batch: int, count: Counts) -> Iterator[Kernel]:
    wide, hidden = geometry.embed_dim, geometry.mlp_dim
    yield Pass("norm", 2 * batch * count * wide, foldable=False)
    yield Gemm("mlp up", batch * count, _as(count, hidden), _as(count, wide))
    yield Pass("activation", 2 * batch * count * hidden)
    yield Gemm("mlp down", batch * count, _as(count, wide), _as(count, hidden))
    yield Pass("residual", 3 * batch * count * wide)


def _reduction(geometry: Geometry, reduction: Reduction, batch: int, count: Counts, left: Counts) -> Iterator[Kernel]:
    """What a method does: score, order, gather and merge; the number of small kernels is that of this package."""
    wide, heads = geometry.embed_dim, geometry.heads
    if reduction.explicit_attention:
        yield Pass("score: strongest head", batch * heads * count**2, foldable=False)
        yield Pass("score: sum", batch * count**2, foldable=False)
    if reduction.matches:
        yield Pass("match: normalise", 2 * batch * count * geometry.head_dim, foldable=False)
        yield Gemm("match", count // 2, count // 2, _as(count, geometry.head_dim), batch, weights=False)
        yield Pass("match: best", batch * (count // 2) ** 2, foldable=False)
    for step in ("normalise", "weigh", "add"):
        yield Pass(f"score: {step}", 2 * batch * count)
    yield Sort("order", batch, count)
    yield Sort("order of the kept", batch, left)
    for step in ("kept", "discarded", "offset", "join"):
        yield Pass(f"index: {step}", 2 * batch * count)
    yield Pass("gather", 2 * batch * left * wide, foldable=False)
    if reduction.matches:
        yield Gemm("merge", left, _as(left, wide), count // 2, batch, weights=False)
    yield Pass("merge", 2 * batch * (count - left + 1) * wide, foldable=False)
    yield Pass("append", 2 * batch * left * wide, foldable=False)


def _removed_in(block: int, reduction: Reduction, removed: Counts) -> Counts:
    """Evenly over the reducing blocks; what does not divide goes to the first ones."""
    if block not in reduction.blocks:
        return np.zeros_like(removed)
    if reduction.removals:
        return np.full_like(removed, reduction.removals[block])
    share, rest = np.divmod(removed, len(reduction.blocks))
    return share + (sorted(reduction.blocks).index(block) < rest)


def _as(like: Counts, value: int) -> Counts:
    return np.full_like(like, value)
