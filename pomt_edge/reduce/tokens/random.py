"""Random tokens, the same for every image: the baseline that a method has to beat."""

from __future__ import annotations

import torch

from pomt_edge.reduce.token_map import Evidence, TokenMap, keep_best

MULTIPLIER, INCREMENT, MODULUS = 1103515245, 12345, 2**31
"""A linear congruential generator: whole numbers, so that every engine draws the same tokens."""


def most(patches: int) -> int:
    return patches - 1


def reduce(evidence: Evidence, removed: int, seed: int = 0) -> TokenMap:
    """Drop tokens by a draw that follows from the seed, the block and their positions alone."""
    draw = (
        torch.arange(evidence.patches, device=evidence.tokens.device) + (7919 * (seed % MODULUS) + evidence.block) * 997
    )
    for _ in range(3):
        draw = (draw * MULTIPLIER + INCREMENT) % MODULUS
        draw = draw ^ (draw >> 13)
    return keep_best(evidence, draw.expand(evidence.tokens.shape[0], -1), removed)
