"""POMT: keep the tokens that others attend to and whose values stand out, and average the rest into one.

Differences from the public code, each deliberate: the score is normalised within the image, not over the
batch; every prefix token is protected and the count is right for any number of them; equal scores go to the
lower index; the kept tokens stay in spatial order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pomt_edge.reduce.token_map import Evidence, TokenMap

NEEDS_ATTENTION = True
NEEDS_CLASS_TOKEN = False
LEAST_PATCHES = 2
"""One token of its own and the mean of the discarded ones."""


def score(evidence: Evidence) -> Tensor:
    """Importance of each token behind the prefix, [B, N - P], in (0, 2], at least in float32."""
    assert evidence.attention is not None
    prefix = evidence.prefix
    wide = torch.promote_types(evidence.attention.dtype, torch.float32)
    received = evidence.attention[:, :, prefix:, prefix:].amax(dim=1).sum(dim=1, dtype=wide)
    received = received / received.amax(dim=-1, keepdim=True)
    strength = evidence.values.amax(dim=1).sum(dim=-1, dtype=wide)
    return received + strength.softmax(dim=-1)[:, prefix:]


def reduce(evidence: Evidence, removed: int) -> TokenMap:
    """Keep the best N - P - removed - 1 tokens and the prefix, and average the other removed + 1 into one."""
    prefix = evidence.prefix
    batch, count, _ = evidence.tokens.shape
    keep = count - prefix - removed - 1
    ranked = score(evidence).sort(dim=-1, descending=True, stable=True).indices + prefix
    protected = torch.arange(prefix, device=ranked.device).expand(batch, prefix)
    in_place = ranked[:, :keep].sort(dim=-1).values
    return TokenMap(kept=torch.cat([protected, in_place], dim=1), merged=ranked[:, keep:])
