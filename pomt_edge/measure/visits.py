"""Visits of a sweep: one block of samples of one point each, and what makes them comparable."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pomt_edge.measure import timing
from pomt_edge.records import Kept, LatencyCurve

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Visit:
    """One block of one point."""

    round: int
    tokens: Kept
    block: timing.Block
    segment: int = 0
    """Visits of one segment followed each other without a pause; it begins and ends with the anchor."""
    frames: bool = False
    """An anchor that begins or ends a segment, beside the round's own visits."""
    memory_mib: float | None = None
    throttled: bool = False


def of_entry(entry: Mapping[str, Any]) -> Visit:
    """A visit as it was kept in the journal."""
    names = ("round", "segment", "frames", "memory_mib", "throttled")
    tokens = entry["tokens"]
    point = tuple(tokens) if isinstance(tokens, list) else tokens
    return Visit(tokens=point, block=tuple(entry["ms"]), **{name: entry[name] for name in names})


def scaled(visits: Sequence[Visit], anchor: int) -> list[timing.Block]:
    """The visits' blocks, each at the anchor's typical speed: times the anchor's median over its value then.

    The anchor's value at a visit is interpolated between the anchor's visits before and after in the same segment:
    across a pause, or another process, the machine may have become another. An anchor's own block is held against
    its neighbours' alone, or its own noise would vanish.
    """
    anchors = [float(np.median(visit.block)) for visit in visits if visit.tokens == anchor]
    if not anchors:
        return [visit.block for visit in visits]
    typical = float(np.median(np.log(anchors)))
    factors: list[float] = []
    for _, segment in itertools.groupby(visits, key=lambda visit: visit.segment):
        factors += np.exp(typical - _anchor_then(list(segment), anchor, typical)).tolist()
    return [tuple(factor * ms for ms in visit.block) for visit, factor in zip(visits, factors, strict=True)]


def _anchor_then(segment: Sequence[Visit], anchor: int, typical: float) -> FloatArray:
    """The logarithm of the anchor's value at each visit of a segment."""
    places = np.array([place for place, visit in enumerate(segment) if visit.tokens == anchor])
    if not len(places):
        return np.full(len(segment), typical)
    values = np.log([np.median(segment[place].block) for place in places])
    then: FloatArray = np.interp(np.arange(len(segment)), places, values)
    if len(places) > 1:
        then[places[1:-1]] = (values[:-2] + values[2:]) / 2
        then[places[0]], then[places[-1]] = values[1], values[-2]
    return then


def suspicious(curve: LatencyCurve) -> list[int]:
    """Counts whose latency stands out of their neighbours' by more than the intervals explain.

    They are measured again, never deleted: a real fast or slow point stands out too.
    """
    medians = np.array([point.median_ms for point in curve.points])
    halves = np.array([(point.high_ms - point.low_ms) / 2 for point in curve.points])
    if len(medians) < 5:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(medians, 2, mode="reflect"), 5)
    apart = np.abs(medians - np.median(windows, axis=1))
    expected = 1.5 * np.maximum(halves, np.median(halves))
    return [point.tokens for point, out in zip(curve.points, apart > expected, strict=True) if out]
