"""What a schedule will take: a model of one block's latency, fitted to latencies of whole models.

The blocks of a Vision Transformer are alike, so a block's latency follows from the tokens before and behind its
reduction, and a whole model's is the sum. N are the tokens of the unreduced model:

    T(schedule) = T(N) - sum over blocks of [(1 - m) g(before) + m g(behind)] + sum over reducing blocks of h(before)
    h(before) = fixed + square (before / N)^2

g(n) is what a block gains with n tokens instead of N, m the MLP's share of that, for the reduction stands between
attention and MLP, and h what reducing costs itself; its second part is that of an attention matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pomt_edge.records import LatencyPoint, Record

FloatArray = NDArray[np.float64]
Schedule = tuple[int, ...]

MLP_SHARES = np.linspace(0.3, 0.9, 25)
MLP_SHARE = 0.6, 0.15
"""Expected, and give or take: of a block's products the MLP has 8 C^2 of 12 C^2 per token, attention's own aside."""
OVERHEAD_SHARE = 0.02
"""Of the unreduced model's latency: so much a reducing block may well cost or spare; the latencies outvote that."""


@dataclass(frozen=True)
class BlockModel(Record):
    """The fitted model; its counts are those that were measured, for between two of them a step may lie."""

    counts: tuple[int, ...]
    """Tokens that a block may have, most first; the first is the unreduced model's."""
    full_ms: float
    gains_ms: tuple[float, ...]
    """g of each count."""
    mlp_share: float
    """m"""
    fixed_ms: float
    square_ms: float

    def block_ms(self) -> FloatArray:
        """What a block takes more than one with all tokens, by its counts before and behind; [counts, counts]."""
        gains, counts = np.array(self.gains_ms), np.array(self.counts, dtype=np.float64)
        taken = -((1 - self.mlp_share) * gains[:, None] + self.mlp_share * gains[None, :])
        overhead = self.fixed_ms + self.square_ms * (counts / counts[0]) ** 2
        reduces = ~np.eye(len(counts), dtype=bool)
        return np.asarray(taken + reduces * overhead[:, None])

    def foresee_ms(self, schedule: Schedule) -> float:
        """Latency of a schedule whose counts are all among the model's."""
        block_ms = self.block_ms()
        places = [self.counts.index(count) for count in _before_and_behind(schedule, self.counts[0])]
        return self.full_ms + float(sum(block_ms[pair] for pair in itertools.pairwise(places)))


def fit(counts: Sequence[int], measured: Mapping[Schedule, LatencyPoint], full: LatencyPoint) -> BlockModel:
    """Weighted least squares over whole models, for the share m that explains them best.

    Args:
        counts: most first, the unreduced model's among them; each has to occur in a schedule.
        measured: schedules, whose counts are all among `counts`, with their latencies.
        full: the unreduced model's.
    """
    gains = np.array([full.median_ms - point.median_ms for point in measured.values()])
    half_ms = np.array([max((point.high_ms - point.low_ms) / 2, 1e-4 * full.median_ms) for point in measured.values()])
    usual_ms = OVERHEAD_SHARE * full.median_ms
    prior = np.zeros((2, len(counts) + 1))
    prior[0, -2] = prior[1, -1] = 1 / usual_ms
    best: tuple[float, float, FloatArray] | None = None
    for share in MLP_SHARES:
        rows = np.array([_row(schedule, counts, share) for schedule in measured]) / half_ms[:, None]
        system, wanted = np.vstack([rows, prior]), np.append(gains / half_ms, [0.0, 0.0])
        found = np.linalg.lstsq(system, wanted, rcond=None)[0]
        unexplained = float(np.sum((system @ found - wanted) ** 2) + ((share - MLP_SHARE[0]) / MLP_SHARE[1]) ** 2)
        if best is None or unexplained < best[0]:
            best = unexplained, float(share), found
    assert best is not None
    _, share, found = best
    block_gains, (fixed, square) = found[:-2], found[-2:]
    return BlockModel(
        tuple(counts), full.median_ms, (0.0, *map(float, block_gains)), float(share), float(fixed), float(square)
    )


def probes(counts: Sequence[int], block: int, depth: int) -> list[Schedule]:
    """Schedules to measure beside those that reduce in one early block: in a late block alone, and over many blocks.

    The first tell a block's gain from the rest of the model, the second what reducing in many blocks costs.

    Args:
        counts: most first; schedules go by these alone.
        block: the early block.
    """
    late = max(depth - 2, min(block + 1, depth - 1))
    full, reduced = counts[0], counts[1:]
    places = np.unique(np.linspace(0, len(reduced) - 1, 4).round().astype(int))
    found = [_schedule([full] * (late + 1) + [reduced[place]] * (depth - late)) for place in places]
    for last in (len(reduced), len(reduced) // 2):
        steps = np.linspace(0, last, depth + 1).round().astype(int)
        found.append(_schedule([counts[step] for step in steps]))
    return list(dict.fromkeys(schedule for schedule in found if any(schedule)))


def _schedule(counts: Sequence[int]) -> Schedule:
    """From the tokens before the first block and behind each."""
    return tuple(before - behind for before, behind in itertools.pairwise(counts))


def _before_and_behind(schedule: Schedule, full: int) -> list[int]:
    return [full - sum(schedule[:index]) for index in range(len(schedule) + 1)]


def _row(schedule: Schedule, counts: Sequence[int], share: float) -> FloatArray:
    """The equation of one schedule: coefficients of g at each reduced count, and of h's two parts."""
    row = np.zeros(len(counts) + 2)
    tokens = _before_and_behind(schedule, counts[0])
    for before, behind in itertools.pairwise(tokens):
        row[counts.index(before)] += 1 - share
        row[counts.index(behind)] += share
        if before != behind:
            row[-2:] -= 1.0, (before / counts[0]) ** 2
    return row[1:]
