"""POMT: keep the tokens that others attend to and whose values stand out, and average the rest into one.

Differences from the public code, each deliberate: the score is normalised within the image, not over the
batch; every prefix token is protected and the count is right for any number of them; equal scores go to the
lower index; the kept tokens stay in spatial order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pomt_edge.reduce.token_map import Evidence, TokenMap, ranked_by

SCORES = ("attention", "cls")
VALUES = {"score": SCORES}


def most(patches: int) -> int:
    """One token of its own stays, and the mean of the discarded ones."""
    return patches - 2


def needs_attention(options: dict[str, Any]) -> bool:
    return bool(options["score"] == "attention")


def needs_class_token(options: dict[str, Any]) -> bool:
    return bool(options["score"] == "cls")


def importance(evidence: Evidence, score: str = "attention") -> Tensor:
    """Importance of each token behind the prefix, [B, N - P], in (0, 2], at least in float32."""
    received = evidence.class_attention() if score == "cls" else _received(evidence)
    received = received / received.amax(dim=-1, keepdim=True)
    strength = evidence.values.amax(dim=1).sum(dim=-1, dtype=received.dtype)
    return received + strength.softmax(dim=-1)[:, evidence.prefix :]


def _received(evidence: Evidence) -> Tensor:
    """Attention from all tokens behind the prefix to each of them, the strongest head's, [B, N - P]."""
    assert evidence.attention is not None
    prefix = evidence.prefix
    wide = torch.promote_types(evidence.attention.dtype, torch.float32)
    return evidence.attention[:, :, prefix:, prefix:].amax(dim=1).sum(dim=1, dtype=wide)


def reduce(evidence: Evidence, removed: int, score: str = "attention") -> TokenMap:
    """Keep the best N - P - removed - 1 tokens and the prefix, and average the other removed + 1 into one.

    Args:
        score: 'attention', the paper's; 'cls', attention from the class token alone, which leaves the fused kernel.
    """
    keep = evidence.patches - removed - 1
    ranked = ranked_by(importance(evidence, score)) + evidence.prefix
    in_place = ranked[:, :keep].sort(dim=-1).values
    return TokenMap(kept=torch.cat([evidence.protected(), in_place], dim=1), merged=ranked[:, keep:])
