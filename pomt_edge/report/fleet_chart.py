"""Small multiples: each device's curve and staircase, relative to its own unreduced model, on common axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from pomt_edge.records import FleetRun, Result
from pomt_edge.report.chart import (
    Axis,
    bars,
    chosen_place,
    coordinate,
    dots,
    latency_axis,
    staircase_paths,
    token_axis,
)
from pomt_edge.report.numerals import finite

SPARSE, DENSE = 25, 120
"""Points of a panel below and above which its markers are larger and smaller than usual."""
LABEL_TURNS = 55.0


@dataclass(frozen=True)
class Panel:
    """One device; positions in per cent of the drawing area."""

    name: str
    points: str
    intervals: str
    treads: str
    risers: str
    chosen: str
    """The mark of the choice; nothing where there is none."""
    chosen_x: float
    chosen_tokens: int
    leftwards: bool
    density: str


@dataclass(frozen=True)
class Picture:
    x: Axis
    y: Axis
    whole: str
    """Where the unreduced model lies."""
    panels: tuple[Panel, ...]
    clipped: int
    """Intervals that run out of the axis."""

    def y_marks(self) -> list[tuple[str, str]]:
        return [(at, f"{label} %") for at, label in self.y.marks()]


def build(results: Sequence[tuple[FleetRun, Result]]) -> Picture | None:
    """The picture, or None where nothing can be drawn."""
    shares = [(run, _shares(result)) for run, result in results if _is_drawn(result)]
    if not shares:
        return None
    points = [point for _, result in shares for point in result.curve.points]
    x = token_axis([point.tokens for point in points] + [result.plan.tokens_out for _, result in shares])
    y = latency_axis(points, [100.0], above=False)
    return Picture(
        x=x,
        y=y,
        whole=coordinate(y.at(100.0)),
        panels=tuple(_panel(run, result, x, y) for run, result in shares),
        clipped=sum(point.high_ms > y.high or point.low_ms < y.low for point in points),
    )


def _is_drawn(result: Result) -> bool:
    return bool(result.curve.points) and finite(result.curve.baseline.median_ms) and result.curve.baseline.median_ms > 0


def _shares(result: Result) -> Result:
    """The same with every latency in per cent of the unreduced model's."""
    scale = 100 / result.curve.baseline.median_ms
    points = tuple(
        dataclasses.replace(
            point,
            median_ms=point.median_ms * scale,
            low_ms=point.low_ms * scale,
            high_ms=point.high_ms * scale,
        )
        for point in result.curve.points
        if finite(point.median_ms, point.low_ms, point.high_ms)
    )
    segments = tuple(
        dataclasses.replace(segment, median_ms=segment.median_ms * scale) for segment in result.staircase.segments
    )
    slope = result.staircase.slope_ms_per_token * scale
    return dataclasses.replace(
        result,
        plan=dataclasses.replace(result.plan, predicted_ms=result.plan.predicted_ms * scale),
        curve=dataclasses.replace(result.curve, points=points),
        staircase=dataclasses.replace(result.staircase, segments=segments, slope_ms_per_token=slope),
    )


def _panel(run: FleetRun, result: Result, x: Axis, y: Axis) -> Panel:
    points = result.curve.points
    treads, risers = staircase_paths(result, x, y)
    chosen = chosen_place(result)
    across = x.at(chosen[0]) if chosen else 0.0
    return Panel(
        name=run.name,
        points=dots((x.at(point.tokens), y.at(point.median_ms)) for point in points),
        intervals=bars(((point.tokens, point.low_ms, point.high_ms) for point in points), x, y),
        treads=treads,
        risers=risers,
        chosen=dots([(across, y.at(chosen[1]))]) if chosen else "",
        chosen_x=round(across, 2),
        chosen_tokens=chosen[0] if chosen else 0,
        leftwards=across > LABEL_TURNS,
        density="sparse" if len(points) <= SPARSE else "dense" if len(points) > DENSE else "",
    )
