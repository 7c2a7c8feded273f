"""The difference of two latencies with its 95 % interval, and what it says of a tolerance; all in logarithms."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from pomt_edge.records import LatencyPoint

ONE_SIDED = 0.025
NORMAL = float(stats.norm.ppf(1 - ONE_SIDED))
LEVEL_RESAMPLES = 1000
LEVEL_BLOCKS = 4
"""The anchor's series is resampled in blocks of a quarter of it. A machine's moods last for seconds to minutes, a good
part of a sweep, and blocks shorter than they are would take its mood for noise that averages out: simulated with moods
of 2, 5 and 10 % of the sweep, the difference of two levels lies in its 95 % interval in 92 to 99 % of the cases with
quarters, in 78 to 97 % with tenths and in 41 to 94 % with blocks of n^(1/3)."""
LEAST_ANCHORS = 2 * LEVEL_BLOCKS
Reach = tuple[float, float]
"""How far a latency's 95 % interval reaches below and above it, as logarithms."""


class Gap(NamedTuple):
    """The logarithm of B over A, and how far its 95 % interval reaches down and up; None: not known."""

    value: float
    down: float | None
    up: float | None

    @property
    def low(self) -> float:
        return -math.inf if self.down is None else self.value - self.down

    @property
    def high(self) -> float:
        return math.inf if self.up is None else self.value + self.up


def between(a: LatencyPoint, b: LatencyPoint, a_reach: list[Reach | None], b_reach: list[Reach | None]) -> Gap:
    """B over A; independent errors add in quadrature, each to the side on which it moves the ratio.

    Args:
        a_reach: A's errors; None stands for one that is not known.
        b_reach: B's.
    """
    known = [(up, down) for down, up in filter(None, a_reach)] + list(filter(None, b_reach))
    value = math.log(b.median_ms / a.median_ms)
    if not known:
        return Gap(value, None, None)
    return Gap(value, math.hypot(*(down for down, _ in known)), math.hypot(*(up for _, up in known)))


def reach(point: LatencyPoint) -> Reach:
    """Of a point's own interval."""
    # An interval may reach down to 0 ms, which has no logarithm.
    low_ms = max(point.low_ms, point.median_ms / 100)
    return math.log(point.median_ms / low_ms), math.log(point.high_ms / point.median_ms)


@functools.lru_cache(maxsize=8)
def unrest(anchor_ms: tuple[float, ...]) -> Reach:
    """How far the level might have been off, had the machine's moods fallen otherwise.

    A circular moving-block bootstrap of the anchor's median, widened for few blocks by
    sqrt(n / (n - 1)) * t(n - 1) / z. Of a series too short for blocks the range is taken.
    """
    series = np.log(anchor_ms)
    count, median = len(series), float(np.median(series))
    if count < LEAST_ANCHORS:
        return median - float(series.min()), float(series.max()) - median
    length = math.ceil(count / LEVEL_BLOCKS)
    starts = np.random.default_rng(count).integers(count, size=(LEVEL_RESAMPLES, LEVEL_BLOCKS, 1))
    picks = (starts + np.arange(length)).reshape(LEVEL_RESAMPLES, -1)[:, :count]
    low, high = np.quantile(np.median(series[picks % count], axis=1), [ONE_SIDED, 1 - ONE_SIDED])
    few = math.sqrt(LEVEL_BLOCKS / (LEVEL_BLOCKS - 1)) * float(stats.t.ppf(1 - ONE_SIDED, LEVEL_BLOCKS - 1)) / NORMAL
    return few * max(median - float(low), 0.0), few * max(float(high) - median, 0.0)


@dataclass(frozen=True)
class Band:
    """The differences that do not matter."""

    tolerance_percent: float

    @property
    def ends(self) -> tuple[float, float]:
        return math.log1p(-self.tolerance_percent / 100), math.log1p(self.tolerance_percent / 100)

    def verdict(self, gap: Gap) -> str:
        """'SAME', 'FASTER', 'SLOWER' or 'AMBIGUOUS', by the interval against zero and the tolerance."""
        floor, ceiling = self.ends
        if floor <= gap.low and gap.high <= ceiling:
            return "SAME"
        if gap.low > 0:
            return "SLOWER"
        return "FASTER" if gap.high < 0 else "AMBIGUOUS"

    def beyond(self, gaps: Sequence[Gap]) -> list[bool]:
        """Which differences are surely larger than the tolerance.

        Of a hundred badly measured counts some lie beyond it by chance; Benjamini and Hochberg's procedure takes that
        into account. A single difference is beyond if its whole 95 % interval is.
        """
        floor, ceiling = self.ends
        slower = [_chance(gap.value - ceiling, gap.down) for gap in gaps]
        faster = [_chance(floor - gap.value, gap.up) for gap in gaps]
        return [
            bool(up < ONE_SIDED or down < ONE_SIDED)
            for up, down in zip(
                stats.false_discovery_control(slower), stats.false_discovery_control(faster), strict=True
            )
        ]


def _chance(distance: float, reach: float | None) -> float:
    """The chance of an estimate so far on the wrong side of a bound, were the truth at the bound."""
    if reach is None:
        return 1.0
    return float(stats.norm.sf(NORMAL * distance / max(reach, 1e-9)))
