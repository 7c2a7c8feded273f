"""The efficient set: the counts worth choosing from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from pomt_edge.records import LatencyPoint


def efficient(points: Iterable[LatencyPoint]) -> tuple[int, ...]:
    """The counts for which no larger count is as fast within the intervals, most tokens first.

    A count n is kept if low_ms(m) > high_ms(n) for every measured m > n; the full count always is.
    """
    kept: list[int] = []
    fastest_low_ms = math.inf
    for point in sorted(points, key=lambda point: -point.tokens):
        if fastest_low_ms > point.high_ms:
            kept.append(point.tokens)
        fastest_low_ms = min(fastest_low_ms, point.low_ms)
    return tuple(kept)


def narrowed(points: Sequence[LatencyPoint], line_ms: Sequence[float], half_ms: Sequence[float]) -> list[LatencyPoint]:
    """The points with their intervals narrowed by the treads that they lie on.

    One wide interval among hundreds would deny every smaller count its place. A tread is measured by all of its
    points, so where its line, `line_ms` give or take `half_ms`, goes through a point's own interval, the line's
    stands for it if that is narrower. A point that departs from its tread keeps its own.
    """
    result = []
    for point, line, half in zip(points, line_ms, half_ms, strict=True):
        agrees = point.low_ms <= line <= point.high_ms
        if agrees and 2 * half < point.high_ms - point.low_ms:
            point = dataclasses.replace(point, low_ms=line - half, high_ms=line + half)
        result.append(point)
    return result
