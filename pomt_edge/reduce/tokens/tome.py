"""ToMe: merge the most similar tokens in pairs, by a bipartite soft matching of the keys (Bolya et al., 2023).

Differences from the public code, each deliberate: every prefix token is protected, for any number of them; a key of
length zero is like no other, not NaN; q/k norm and LayerScale are respected.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pomt_edge.reduce.token_map import Evidence, TokenMap, ranked_by

MERGES = True
PROPORTIONAL_ATTENTION = True


def most(patches: int) -> int:
    return patches // 2


def reduce(evidence: Evidence, removed: int) -> TokenMap:
    """Merge `removed` tokens of the even positions, each into the most similar one of the odd positions.

    Output order: prefix, unmerged even positions, all odd positions; the next block's matching depends on it.
    """
    prefix = evidence.prefix
    metric = F.normalize(evidence.raw_keys.mean(dim=1), dim=-1)
    # Slices instead of masks: protected tokens are in neither half.
    even, odd = prefix + prefix % 2, prefix + 1 - prefix % 2
    similar = metric[:, even::2] @ metric[:, odd::2].transpose(1, 2)
    best, partner = similar.max(dim=-1)
    order = ranked_by(best)
    sources, unmerged = order[:, :removed], order[:, removed:].sort(dim=-1).values
    odds = torch.arange(odd, metric.shape[1], 2, device=metric.device).expand(metric.shape[0], -1)
    kept = torch.cat([evidence.protected(), even + 2 * unmerged, odds], dim=1)
    into = prefix + unmerged.shape[1] + partner.gather(1, sources)
    return TokenMap(kept, even + 2 * sources, into)
