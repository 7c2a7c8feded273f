"""Top-K: keep the tokens that the class token attends to.

Differences from the public code, each deliberate: every prefix token is protected and the count is right for any
number of them; equal scores go to the lower index; the kept tokens stay in spatial order; only the class token's
row of the attention is computed, so that the block keeps its fused kernel.
"""

from __future__ import annotations

from typing import Any

from pomt_edge.reduce.token_map import Evidence, TokenMap, keep_best


def most(patches: int) -> int:
    return patches - 1


def needs_class_token(options: dict[str, Any]) -> bool:
    return True


def reduce(evidence: Evidence, removed: int) -> TokenMap:
    """Drop the tokens with the least attention from the class token, averaged over the heads."""
    return keep_best(evidence, evidence.class_attention(), removed)
