"""Speed and accuracy of each method's counts: which of them no other beats, and who wins at which speed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pomt_edge.choose.gap import between, reach
from pomt_edge.records import AccuracyPoint, LatencyPoint, Result
from pomt_edge.report.numerals import finite

LEVELS = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


@dataclass(frozen=True)
class Speed:
    """One count of a method against its own unreduced model."""

    method: str
    tokens: int
    unreduced: bool
    speedup: float
    low: float
    """Lower end of the speedup's 95 % interval."""
    high: float

    @property
    def sure(self) -> bool:
        """Whether it is faster than the unreduced model by more than the intervals."""
        return self.low > 1


@dataclass(frozen=True)
class Measured(Speed):
    """A count whose accuracy was measured too."""

    quality: AccuracyPoint

    @property
    def percent(self) -> float:
        return self.quality.percent


@dataclass(frozen=True)
class Level:
    """Who wins among the counts that are at least so fast."""

    speedup: float
    best: Measured
    near: tuple[Measured, ...]
    """The best of each other method whose accuracy is within the winner's interval, the most accurate first."""
    behind: tuple[str, ...]
    """Methods that are that fast only with an accuracy below that interval."""
    absent: tuple[str, ...]
    """Methods of which no count is surely faster than the unreduced model and that fast."""


def speeds(result: Result) -> list[Speed]:
    """Every count with a usable latency, the unreduced one too."""
    points = [point for point in result.curve.points if _usable(point)]
    if not points or points[0] is not result.curve.baseline:
        return []
    return [_speed(result.plan.method, point, points[0]) for point in points]


def _usable(point: LatencyPoint) -> bool:
    return finite(point.median_ms, point.low_ms, point.high_ms) and point.median_ms > 0 and point.high_ms > 0


def _speed(method: str, point: LatencyPoint, baseline: LatencyPoint) -> Speed:
    if point is baseline:
        return Speed(method, point.tokens, True, 1.0, 1.0, 1.0)
    gap = between(point, baseline, [reach(point)], [reach(baseline)])
    return Speed(method, point.tokens, False, *(math.exp(end) for end in (gap.value, gap.low, gap.high)))


def measured(result: Result) -> list[Measured]:
    """Every count that was measured in both ways, by rising speedup; none if the unreduced one was not."""
    points = result.accuracy.points if result.accuracy else ()
    by_tokens = {point.tokens: point for point in points if finite(point.percent, point.low, point.high)}
    both = [
        Measured(**vars(speed), quality=by_tokens[speed.tokens])
        for speed in speeds(result)
        if speed.tokens in by_tokens
    ]
    if not any(point.unreduced for point in both):
        return []
    return sorted(both, key=lambda point: (point.speedup, -point.tokens))


def front(points: Iterable[Measured]) -> list[Measured]:
    """The surely faster counts that no other such count beats, by rising speedup."""
    return [point for point in unbeaten(points) if point.sure]


def unbeaten(points: Iterable[Measured]) -> list[Measured]:
    """Those that no other beats in both speed and accuracy, by rising speedup; an unsure one beats no sure one."""
    known = sorted(points, key=lambda point: point.speedup)
    return [point for point in known if not any(_beats(other, point) for other in known)]


def _beats(other: Measured, point: Measured) -> bool:
    if not other.sure and (point.sure or point.unreduced):
        return False
    ours, theirs = (point.speedup, point.percent), (other.speedup, other.percent)
    return theirs != ours and theirs[0] >= ours[0] and theirs[1] >= ours[1]


def levels(methods: Sequence[Sequence[Measured]]) -> list[Level]:
    """The winner at each speed that any method reaches.

    Args:
        methods: the counts of each method.
    """
    found = []
    for speedup in LEVELS:
        reaching = [[point for point in points if point.sure and point.speedup >= speedup] for points in methods]
        bests = sorted(
            (max(points, key=lambda point: (point.percent, point.speedup)) for points in reaching if points),
            key=lambda point: (-point.percent, -point.speedup),
        )
        if not bests:
            break
        best, others = bests[0], bests[1:]
        near = tuple(point for point in others if point.percent >= best.quality.low)
        behind = tuple(point.method for point in others[len(near) :])
        absent = tuple(points[0].method for points, left in zip(methods, reaching, strict=True) if points and not left)
        found.append(Level(speedup, best, near, behind, absent))
    return found
