"""TokenMap: which output slot each token goes to; the reduced tokens and their sizes follow from the one map.

Legend of the shapes in this package:
    B  batch                                  H  attention heads
    N  tokens entering, prefix included       d  channels per head
    M  tokens leaving                         C  channels, H * d
    P  prefix tokens (class, distillation, registers)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """What a method may look at: a block's state between its attention and its MLP."""

    tokens: Tensor
    """The residual stream after attention, [B, N, C]."""
    queries: Tensor
    """[B, H, N, d], as attention uses them."""
    keys: Tensor
    """[B, H, N, d], as attention uses them."""
    values: Tensor
    """[B, H, N, d]"""
    raw_keys: Tensor
    """[B, H, N, d], before any norm of keys."""
    attention: Tensor | None
    """Softmax attention, row = query, column = key, [B, H, N, N]; None unless the method asks for it."""
    sizes: Tensor | None
    """How many original tokens each token stands for, [B, N]; None: one each."""
    prefix: int
    """P, the first tokens, which no method may touch."""
    block: int
    depth: int

    @property
    def patches(self) -> int:
        """N - P"""
        return self.tokens.shape[1] - self.prefix

    def protected(self) -> Tensor:
        """The positions of the prefix tokens, [B, P]."""
        return torch.arange(self.prefix, device=self.tokens.device).expand(self.tokens.shape[0], -1)

    def class_attention(self) -> Tensor:
        """Attention from the class token to each token behind the prefix, the mean of the heads, [B, N - P].

        One row of the matrix: the fused kernel can go on computing the rest. At least in float32.
        """
        wide = torch.promote_types(self.tokens.dtype, torch.float32)
        query = self.queries[:, :, :1] * self.queries.shape[-1] ** -0.5
        logits = (query @ self.keys.transpose(-2, -1)).to(wide)
        return logits.softmax(dim=-1).mean(dim=1)[:, 0, self.prefix :]


def ranked_by(score: Tensor) -> Tensor:
    """Positions by falling score, [B, T] to [B, T]; of equal scores the lower position comes first, on any engine."""
    if torch.onnx.is_in_onnx_export():
        # ONNX has no stable sort, and its TopK breaks ties by the lower index by definition; torch's does not.
        return score.topk(score.shape[-1]).indices
    return score.sort(dim=-1, descending=True, stable=True).indices


def keep_best(evidence: Evidence, score: Tensor, removed: int) -> TokenMap:
    """Drop the `removed` tokens of the lowest score [B, N - P]; the others stay in their order."""
    kept = ranked_by(score)[:, : evidence.patches - removed].sort(dim=-1).values + evidence.prefix
    return TokenMap(torch.cat([evidence.protected(), kept], dim=1))


@dataclass(frozen=True)
class TokenMap:
    """Where the N tokens go. Tokens in neither `kept` nor `merged` are dropped."""

    kept: Tensor
    """The token of each of the first K slots, in output order, [B, K]."""
    merged: Tensor | None = None
    """Tokens that live on in a mean, [B, D]."""
    into: Tensor | None = None
    """The slot of each merged token, [B, D]; None: all go into one slot of their own, behind the kept ones."""

    def apply(self, tokens: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Reduce tokens [B, N, C] and sizes [B, N] to [B, M, C] and [B, M]; means are weighted by size."""
        kept = take(tokens, self.kept)
        kept_sizes = None if sizes is None else sizes.gather(1, self.kept)
        if self.merged is None:
            return kept, kept_sizes
        merged = take(tokens, self.merged)
        weights = None if sizes is None else sizes.gather(1, self.merged)
        if self.into is None:
            return _append_mean(kept, kept_sizes, merged, weights)
        return _merge_into(kept, kept_sizes, merged, weights, self.into)


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens [B, N, C] at [B, K]: whole rows of the flattened batch, one copy each, and one plain Gather in ONNX."""
    batch, count, channels = tokens.shape
    first = torch.arange(batch, device=index.device).unsqueeze(1) * count
    return tokens.reshape(-1, channels).index_select(0, (index + first).flatten()).view(batch, -1, channels)


def _append_mean(
    kept: Tensor, kept_sizes: Tensor | None, merged: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    if kept_sizes is None or weights is None:
        return torch.cat([kept, merged.mean(dim=1, keepdim=True)], dim=1), None
    total = weights.sum(dim=1, keepdim=True)
    mean = (merged * (weights / total).unsqueeze(-1)).sum(dim=1, keepdim=True)
    return torch.cat([kept, mean.to(kept.dtype)], dim=1), torch.cat([kept_sizes, total], dim=1)


def _merge_into(
    kept: Tensor, kept_sizes: Tensor | None, merged: Tensor, weights: Tensor | None, into: Tensor
) -> tuple[Tensor, Tensor]:
    if kept_sizes is None or weights is None:
        kept_sizes, weights = ones(kept), ones(merged)
    slots = torch.arange(kept.shape[1], device=into.device)
    # A product with a one-hot matrix: a scatter with a reduction is misread or refused by several engines.
    share = (into.unsqueeze(1) == slots.view(1, -1, 1)) * weights.unsqueeze(1)
    total = kept_sizes + share.sum(dim=2)
    summed = kept * kept_sizes.unsqueeze(-1) + share @ merged.to(share.dtype)
    return (summed / total.unsqueeze(-1)).to(kept.dtype), total


def ones(tokens: Tensor) -> Tensor:
    """Sizes [B, N] before any merge: every token stands for itself. Never below float32, which counts exactly."""
    wide = torch.promote_types(tokens.dtype, torch.float32)
    return torch.ones(tokens.shape[:2], dtype=wide, device=tokens.device)
