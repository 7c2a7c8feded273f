"""Random tokens, the same for every image: the baseline that a method has to beat."""

from __future__ import annotations

import torch

from pomt_edge.reduce.token_map import Evidence, TokenMap, keep_best

MULTIPLIER, INCREMENT, MODULUS = 16807, 12345, 2**31 - 1
"""Of a generator in whole numbers below 2**63, so that every engine draws the same tokens."""


def most(patches: int) -> int:
    return patches - 1


def reduce(evidence: Evidence, removed: int, seed: int = 0) -> TokenMap:
    """Drop tokens by a draw that follows from the seed, the block and their positions alone."""
    start = (7919 * (seed % MODULUS) + evidence.block) * 997 % MODULUS
    draw = torch.arange(evidence.patches, device=evidence.tokens.device) + start
    for _ in range(3):
        draw = (draw * MULTIPLIER + INCREMENT) % MODULUS
        # Only products and remainders, which every engine has; the fifth power is one-to-one, as MODULUS is a prime
        # and 5 does not divide MODULUS - 1.
        square = draw * draw % MODULUS
        draw = square * square % MODULUS * draw % MODULUS
    return keep_best(evidence, draw.expand(evidence.tokens.shape[0], -1), removed)
