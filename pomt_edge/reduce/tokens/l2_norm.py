"""Pruning by saliency: a token's saliency is the L2 norm of its vector; the least salient are dropped."""

from __future__ import annotations

import torch

from pomt_edge.reduce.token_map import Evidence, TokenMap, keep_best


def most(patches: int) -> int:
    return patches - 1


def reduce(evidence: Evidence, removed: int) -> TokenMap:
    """Keep the tokens with the largest norms, so many whatever the image (the static form, which exports)."""
    wide = torch.promote_types(evidence.tokens.dtype, torch.float32)
    patches = evidence.tokens[:, evidence.prefix :]
    return keep_best(evidence, torch.linalg.vector_norm(patches, dim=-1, dtype=wide), removed)
