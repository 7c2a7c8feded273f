"""Where each original token went, and back: source maps, and tokens laid out as they were before the reduction.

For dense tasks and pictures. Shapes are written with the legend of `pomt_edge.reduce.token_map`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pomt_edge.errors import UserError
from pomt_edge.reduce.token_map import TokenMap, take

DROPPED = -1
FILLS = ("zero", "nearest")


def source_map(maps: Mapping[int, TokenMap], tokens_in: int) -> Tensor:
    """The output slot that holds each original token, [B, N]; -1 where it was dropped.

    Args:
        maps: what `ReducedModel.token_maps` gives; some blocks' alone for the state after the last of them.
        tokens_in: N, the tokens that enter block 0.

    Returns:
        int64; [1, N] if there are no maps, for then every token of any image is where it was.
    """
    sources = [source for _, source in _blocks(maps, tokens_in)]
    return sources[-1] if sources else torch.arange(tokens_in).unsqueeze(0)


def averaged(maps: Mapping[int, TokenMap], tokens_in: int) -> Tensor:
    """Which original tokens went, in any block, into one mean of all that was discarded there: bool [B, N]."""
    flags = torch.zeros(1, tokens_in, dtype=torch.bool)
    for token_map, source in _blocks(maps, tokens_in):
        # Without a mean no token has a slot behind the kept ones.
        flags = flags.to(source.device) | (source == token_map.kept.shape[1])
    return flags


def unmerge(
    tokens: Tensor, source: Tensor, *, fill: str = "zero", prefix: int = 1, grid: tuple[int, int] | None = None
) -> Tensor:
    """Lay tokens out as they were before the reduction: each original position gets the token of its slot.

    Args:
        tokens: after the reduction, [B, M, C].
        source: `source_map` of the same images, [B, N], or [1, N] for all.
        fill: what dropped positions get: 'zero', or 'nearest', the token of the nearest patch on the grid that was
            not dropped (by Euclidean distance; of equally near ones the first in reading order). An image of which
            no patch is left gets zeros either way.
        prefix: P, tokens before the patches; read by 'nearest' alone.
        grid: rows and columns of patches; None: a square. Read by 'nearest' alone.

    Returns:
        [B, N, C], in the dtype of the tokens; gradients flow to them.

    Raises:
        UserError: no such fill, or N - P patches do not make the grid.
    """
    if fill not in FILLS:
        raise UserError(f"fill={fill!r}: expected one of {', '.join(FILLS)}")
    source = source.to(tokens.device).expand(tokens.shape[0], -1)
    if fill == "nearest":
        patches = _nearest(source[:, prefix:], grid or square(source.shape[1] - prefix))
        source = torch.cat([source[:, :prefix], patches], dim=1)
    return take(tokens, source.clamp(min=0)).masked_fill((source < 0).unsqueeze(-1), 0)


def square(patches: int) -> tuple[int, int]:
    """Rows and columns of a square grid.

    Raises:
        UserError: so many patches make no square.
    """
    side = math.isqrt(max(patches, 0))
    if side * side != patches:
        raise UserError(f"{patches} patches make no square: give prefix=TOKENS_BEFORE_THEM or grid=(rows, columns)")
    return side, side


def _blocks(maps: Mapping[int, TokenMap], tokens_in: int) -> Iterator[tuple[TokenMap, Tensor]]:
    """Each reducing block's map, and the slot behind it that holds each original token, [B, N]."""
    source = torch.arange(tokens_in).unsqueeze(0)
    count = tokens_in
    for block in sorted(maps):
        token_map = maps[block]
        slots = _slots(token_map, count)
        source = source.to(slots.device).expand(slots.shape[0], -1)
        source = slots.gather(1, source.clamp(min=0)).masked_fill(source < 0, DROPPED)
        count = token_map.kept.shape[1] + (token_map.merged is not None and token_map.into is None)
        yield token_map, source


def _slots(token_map: TokenMap, count: int) -> Tensor:
    """The slot of each token that enters the block, [B, count]."""
    kept, merged, into = token_map.kept, token_map.merged, token_map.into
    slots = torch.full((kept.shape[0], count), DROPPED, device=kept.device)
    slots.scatter_(1, kept, torch.arange(kept.shape[1], device=kept.device).expand_as(kept))
    if merged is not None:
        slots.scatter_(1, merged, torch.full_like(merged, kept.shape[1]) if into is None else into)
    return slots


def _nearest(source: Tensor, grid: tuple[int, int]) -> Tensor:
    """The slots of the patches [B, N - P], a dropped one's replaced by that of the nearest one left."""
    rows, columns = grid
    if rows * columns != source.shape[1]:
        raise UserError(f"grid={grid}: {rows * columns} patches, but there are {source.shape[1]} behind the prefix")
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).to(source.device)
    # In integers: equally near ones have to be exactly equal. Image by image: B * T * T can be gigabytes.
    distances = (places.unsqueeze(1) - places).square().sum(dim=-1)
    return torch.stack([_filled(row, distances) for row in source])


def _filled(slots: Tensor, distances: Tensor) -> Tensor:
    left = (slots >= 0).nonzero().flatten()
    return slots[left[distances[:, left].argmin(dim=1)]] if len(left) else slots
