"""The efficient set: the counts worth choosing from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from pomt_edge.records import LatencyPoint


def efficient(points: Iterable[LatencyPoint]) -> tuple[int, ...]:
    """The counts for which no larger count of the set is as fast within the intervals, most tokens first.

    From most tokens down, a count joins if its interval lies wholly below that of the last one that joined; the
    full count always does. Asked of all larger counts instead of the set's, one badly measured count, itself no
    candidate, would deny its place to every count that it might tie with.
    """
    kept: list[int] = []
    bar_ms = math.inf
    for point in sorted(points, key=lambda point: -point.tokens):
        if point.high_ms < bar_ms:
            kept.append(point.tokens)
            bar_ms = point.low_ms
    return tuple(kept)


def narrowed(points: Sequence[LatencyPoint], line_ms: Sequence[float], half_ms: Sequence[float]) -> list[LatencyPoint]:
    """The points with their intervals narrowed by the treads that they lie on.

    A tread is measured by all of its points, so where its line, `line_ms` give or take `half_ms`, goes through a
    point's own interval, the line's stands for it if that is narrower: a gentle slope is then resolved to a few
    tokens, which no point's own interval would do. A point that departs from its tread keeps its own.
    """
    result = []
    for point, line, half in zip(points, line_ms, half_ms, strict=True):
        agrees = point.low_ms <= line <= point.high_ms
        if agrees and 2 * half < point.high_ms - point.low_ms:
            point = dataclasses.replace(point, low_ms=line - half, high_ms=line + half)
        result.append(point)
    return result
