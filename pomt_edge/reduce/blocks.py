"""The one reduced forward, shared by all methods and families."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pomt_edge.models.family import Family
from pomt_edge.reduce.method import Method
from pomt_edge.reduce.token_map import Evidence, TokenMap


def attend(
    family: Family, block: nn.Module, tokens: Tensor, explicit: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The attention half of a block.

    Returns:
        The residual stream after attention [B, N, C]; keys and values [B, H, N, d]; the attention matrix
        [B, H, N, N] if `explicit`, else None, and then the fused kernel computes it.
    """
    normed = family.normalise(block, tokens)
    queries, keys, values = family.project(block, normed)
    attention = None
    if explicit:
        attention = (queries * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)).softmax(dim=-1)
        heads = family.drop_attention(block, attention) @ values
    else:
        heads = F.scaled_dot_product_attention(queries, keys, values)
    return tokens + family.join(block, heads, normed), keys, values, attention


def reduce_in_block(
    family: Family,
    block: nn.Module,
    method: Method,
    removed: int,
    tokens: Tensor,
    sizes: Tensor | None,
    prefix: int,
    place: tuple[int, int],
) -> tuple[Tensor, Tensor | None, TokenMap]:
    """One block that reduces between its attention and its MLP.

    Args:
        tokens: [B, N, C]; sizes: [B, N] or None; prefix: P; place: (the block's index, the model's depth).

    Returns:
        Tokens [B, N - removed, C], sizes [B, N - removed] or None, and the map.
    """
    tokens, keys, values, attention = attend(family, block, tokens, method.needs_attention)
    evidence = Evidence(tokens, keys, values, attention, sizes, prefix, *place)
    token_map = method.reduce(evidence, removed)
    tokens, sizes = token_map.apply(tokens, sizes)
    return tokens + family.mlp(block, tokens), sizes, token_map
