"""The one reduced forward, shared by all methods and families."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pomt_edge.models.family import Family
from pomt_edge.reduce.method import Method
from pomt_edge.reduce.token_map import Evidence, TokenMap


class Attended(NamedTuple):
    """A block's state behind its attention; how many tokens it will remove is not in it."""

    tokens: Tensor
    """The residual stream, [B, N, C]."""
    projected: tuple[Tensor, Tensor, Tensor, Tensor]
    """Queries, keys, values and raw keys, [B, H, N, d]."""
    attention: Tensor | None
    """The attention matrix [B, H, N, N] where it is computed explicitly."""


class Place(NamedTuple):
    """Where in a model a block stands."""

    prefix: int
    """P"""
    block: int
    depth: int


def attend(family: Family, block: nn.Module, tokens: Tensor, weights: Tensor | None, explicit: bool) -> Attended:
    """The attention half of a block.

    Args:
        tokens: [B, N, C]
        weights: how much each key counts, [B, N]; None: all the same.
        explicit: whether the attention matrix is wanted; else the fused kernel computes what it is for.
    """
    normed = family.normalise(block, tokens)
    projected = queries, keys, values, _ = family.project(block, normed)
    bias = None if weights is None else weights.log().to(queries.dtype)[:, None, None, :]
    attention = None
    if explicit:
        logits = queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)
        attention = (logits if bias is None else logits + bias).softmax(dim=-1)
        heads = family.drop_attention(block, attention) @ values
    else:
        heads = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    return Attended(tokens + family.join(block, heads, normed), projected, attention)


def run_block(family: Family, block: nn.Module, tokens: Tensor, weights: Tensor) -> Tensor:
    """One block that reduces nothing, behind one that merged, with proportional attention."""
    tokens, _, _ = attend(family, block, tokens, weights, explicit=False)
    return tokens + family.mlp(block, tokens)


def reduce_in_block(
    family: Family,
    block: nn.Module,
    method: Method,
    removed: int,
    attended: Attended,
    sizes: Tensor | None,
    place: Place,
) -> tuple[Tensor, Tensor | None, TokenMap]:
    """The rest of a block that reduces between its attention and its MLP.

    Args:
        sizes: how many original tokens each stands for, [B, N], or None.

    Returns:
        Tokens [B, N - removed, C], sizes [B, N - removed] or None, and the map.
    """
    evidence = Evidence(attended.tokens, *attended.projected, attended.attention, sizes, *place)
    token_map = method.reduce(evidence, removed)
    tokens, sizes = token_map.apply(attended.tokens, sizes)
    return tokens + family.mlp(block, tokens), sizes, token_map
