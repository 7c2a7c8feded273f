"""PiToMe: merge redundant tokens, those with many similar ones, and protect the others (Tran et al., 2024).

Differences from the public code, each deliberate: every prefix token is protected, for any number of them; LayerScale,
q/k norm and proportional attention are respected. Decisions hang on a complete ranking of energies that are often
1e-8 apart: they are the same for the same engine and precision only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pomt_edge.reduce.token_map import Evidence, TokenMap, ranked_by, take

MERGES = True
PROPORTIONAL_ATTENTION = False
MODES = ("deit", "bsm", "plain")
VALUES = {"mode": MODES}


def most(patches: int) -> int:
    return patches // 2


def reduce(evidence: Evidence, removed: int, margin: float = 0.75, mode: str = "deit") -> TokenMap:
    """Merge `removed` tokens into similar ones.

    Args:
        margin: similarities above it count in full towards a token's energy; it falls linearly to 0 behind the
            last block.
        mode: 'plain': only among the 2 * removed tokens of the highest energy; 'bsm': half of all tokens are
            candidates; 'deit': bsm in the first half of the blocks, plain in the second.
    """
    metric = F.normalize(evidence.raw_keys[:, :, evidence.prefix :].mean(dim=1), dim=-1)
    own_margin = margin - margin * evidence.block / evidence.depth
    order = ranked_by(energy(metric, own_margin))
    first_half = evidence.block < math.ceil(evidence.depth / 2)
    if mode == "bsm" or (mode == "deit" and first_half):
        return _bipartite(evidence, metric, order, removed)
    return _plain(evidence, metric, order, removed)


def energy(metric: Tensor, margin: float) -> Tensor:
    """How redundant each token is, from unit vectors [B, T, d] to [B, T]."""
    return F.elu(metric @ metric.transpose(1, 2) - margin).mean(dim=-1)


def _plain(evidence: Evidence, metric: Tensor, order: Tensor, removed: int) -> TokenMap:
    sources, targets = order[:, 0 : 2 * removed : 2], order[:, 1 : 2 * removed : 2]
    partner = (take(metric, sources) @ take(metric, targets).transpose(1, 2)).argmax(dim=-1)
    rest = order[:, 2 * removed :]
    kept = torch.cat([rest, targets], dim=1)
    return _behind_prefix(evidence, kept, sources, rest.shape[1] + partner)


def _bipartite(evidence: Evidence, metric: Tensor, order: Tensor, removed: int) -> TokenMap:
    candidates, targets = order[:, 0::2], order[:, 1::2]
    best, partner = (take(metric, candidates) @ take(metric, targets).transpose(1, 2)).max(dim=-1)
    ranked = ranked_by(best)
    candidates, partner = candidates.gather(1, ranked), partner.gather(1, ranked)
    kept = torch.cat([candidates[:, removed:], targets], dim=1)
    unmerged = kept.shape[1] - targets.shape[1]
    return _behind_prefix(evidence, kept, candidates[:, :removed], unmerged + partner[:, :removed])


def _behind_prefix(evidence: Evidence, kept: Tensor, merged: Tensor, into: Tensor) -> TokenMap:
    prefix = evidence.prefix
    return TokenMap(torch.cat([evidence.protected(), kept + prefix], dim=1), merged + prefix, into + prefix)
