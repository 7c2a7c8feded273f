"""The chart's geometry: scales, ticks and paths, all in per cent of the drawing area.

The area is stretched to whatever width the page has, and text is laid over it as HTML, so one drawing serves
a phone, a desktop and paper, with or without JavaScript.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pomt_edge.records import AccuracyPoint, LatencyPoint, Result
from pomt_edge.report.numerals import finite

QUALITY_BAND = (1.0, 23.0)
"""Where accuracy is drawn: a band of its own above latency, as two curves over each other hide both."""
LATENCY_BAND_BELOW = (33.0, 100.0)
LATENCY_BAND_ALONE = (2.0, 100.0)
SIDE_MARGIN = 1.8
LABEL_TURNS = 60.0
"""Right of this, in per cent, the label of the choice runs to the left, where there is more room."""
TOKEN_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
"""Kernels work in powers of two, so the cliffs fall on such counts and the ticks should too."""
FROM_ZERO_BELOW = 0.35
"""An axis starts at zero where the smallest value is under this share of the largest: little room is lost."""


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to per cent of the drawing area; `start` is where `low` lies."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    decimals: int

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def marks(self) -> list[tuple[str, str]]:
        """Each tick as position and label."""
        return [(coordinate(self.at(tick)), f"{tick:.{self.decimals}f}") for tick in self.ticks]


@dataclass(frozen=True)
class Mark:
    """A labelled place in the chart."""

    x: str
    y: str
    path: str
    leftwards: bool
    """Whether its label must run to the left to stay inside."""


@dataclass(frozen=True)
class Chart:
    x: Axis
    latency: Axis
    quality: Axis | None
    points: str
    intervals: str
    treads: str
    risers: str
    efficient: str
    quality_line: str
    quality_points: str
    quality_intervals: str
    baseline: Mark | None
    chosen: Mark | None
    clipped: int
    """Intervals that run out of the axis: one bad sample must not flatten the rest of the picture."""
    density: str
    """'sparse' or 'dense' where the markers should be larger or smaller than usual."""


def build(result: Result) -> Chart | None:
    """The chart of a result, or None where there is no finite latency to draw."""
    points = [p for p in result.curve.points if finite(p.median_ms)]
    if not points:
        return None
    quality = [p for p in result.accuracy.points if finite(p.percent)] if result.accuracy else []
    chosen = chosen_place(result)
    x = token_axis([p.tokens for p in points] + [p.tokens for p in quality] + ([chosen[0]] if chosen else []))
    y = latency_axis(points, [chosen[1]] if chosen else [], bool(quality))
    right = quality_axis(quality) if quality else None
    kept = set(result.staircase.efficient)
    treads, risers = staircase_paths(result, x, y)
    return Chart(
        x=x,
        latency=y,
        quality=right,
        points=_latency_dots(points, x, y),
        intervals=bars(((p.tokens, p.low_ms, p.high_ms) for p in points), x, y),
        treads=treads,
        risers=risers,
        efficient=_latency_dots([p for p in points if p.tokens in kept], x, y),
        quality_line=polyline(_places(quality, x, right)),
        quality_points=dots(_places(quality, x, right)),
        quality_intervals=bars(((p.tokens, p.low, p.high) for p in quality), x, right) if right else "",
        baseline=_mark((result.curve.baseline.tokens, result.curve.baseline.median_ms), x, y),
        chosen=_mark(chosen, x, y) if chosen else None,
        clipped=sum(p.high_ms > y.high or p.low_ms < y.low for p in points),
        density=_density(len(points)),
    )


def _density(count: int) -> str:
    return "sparse" if count <= 40 else "dense" if count > 300 else ""


def chosen_place(result: Result) -> tuple[int, float] | None:
    """Count and latency of the choice, as measured, else as predicted; None where no count of the curve was chosen."""
    plan = result.plan
    if plan.verdict not in ("prune", "keep") or result.searched:
        return None
    measured = [p.median_ms for p in result.curve.points if p.tokens == plan.tokens_out]
    latency_ms = measured[0] if measured else plan.predicted_ms
    return (plan.tokens_out, latency_ms) if finite(latency_ms) else None


def token_axis(counts: Iterable[int]) -> Axis:
    low, high = _spread(*_ends(counts))
    step = next((step for step in TOKEN_STEPS if (high - low) / step <= 7), TOKEN_STEPS[-1])
    return Axis(low, high, SIDE_MARGIN, 100 - SIDE_MARGIN, _multiples(low, high, step), 0)


def latency_axis(points: list[LatencyPoint], more: list[float], above: bool) -> Axis:
    """The axis holds every median and any usual interval; one wild interval may not flatten the picture."""
    low, high = _ends([p.median_ms for p in points] + more)
    whole = [p for p in points if finite(p.low_ms, p.high_ms)]
    usual = float(np.median([p.high_ms - p.low_ms for p in whole])) if whole else 0.0
    room = max(0.15 * (high - low), 2 * usual)
    ends = [end for p in whole for end in (p.low_ms, p.high_ms)]
    low = min([low, *(max(end, low - room) for end in ends)])
    high = max([high, *(min(end, high + room) for end in ends)])
    return _value_axis(low, high, LATENCY_BAND_BELOW if above else LATENCY_BAND_ALONE, 6)


def quality_axis(points: list[AccuracyPoint]) -> Axis:
    ends = [end for p in points for end in (p.percent, p.low, p.high) if finite(end)]
    return _value_axis(*_ends(ends), QUALITY_BAND, 3)


def _value_axis(low: float, high: float, band: tuple[float, float], count: int) -> Axis:
    """Values grow upwards, from a round number that is said aloud where it is not zero."""
    low, high = _spread(low, high)
    low = 0.0 if 0 <= low < FROM_ZERO_BELOW * high else low
    step = nice_step(high - low, count)
    low = math.floor(low / step + 1e-9) * step
    high += 0.06 * (high - low)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += round(step, decimals) != round(step, decimals + 1)
    return Axis(low, high, band[1], band[0], _multiples(low, high, step), decimals)


def nice_step(span: float, count: int) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that makes at most `count` steps."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (power * factor) <= count)


def _ends(values: Iterable[float]) -> tuple[float, float]:
    array = np.fromiter(values, dtype=float)
    return float(array.min()), float(array.max())


def _spread(low: float, high: float) -> tuple[float, float]:
    """A range with room in it, as one point alone has none."""
    if high > low:
        return low, high
    return low - (abs(low) * 0.05 or 1.0), high + (abs(high) * 0.05 or 1.0)


def _multiples(low: float, high: float, step: float) -> tuple[float, ...]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(i * step for i in range(first, last + 1))


def coordinate(value: float) -> str:
    """A hundredth of a per cent is a tenth of a pixel; more digits would only make the page heavier."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def dots(places: Iterable[tuple[float, float]]) -> str:
    """Strokes without length: with round caps they stay round however the drawing is stretched."""
    return "".join(f"M{coordinate(x)} {coordinate(y)}h0" for x, y in places)


def polyline(places: Iterable[tuple[float, float]]) -> str:
    text = "L".join(f"{coordinate(x)} {coordinate(y)}" for x, y in places)
    return f"M{text}" if text else ""


def bars(intervals: Iterable[tuple[int, float, float]], x: Axis, y: Axis) -> str:
    return "".join(
        f"M{coordinate(x.at(tokens))} {coordinate(y.at(low))}V{coordinate(y.at(high))}"
        for tokens, low, high in intervals
        if finite(low, high)
    )


def staircase_paths(result: Result, x: Axis, y: Axis) -> tuple[str, str]:
    """The treads, each along the common slope, and the risers that join them."""
    slope = result.staircase.slope_ms_per_token
    ends = []
    for segment in result.staircase.segments:
        if not finite(slope, segment.median_ms):
            continue
        half = (segment.most_tokens - segment.fewest_tokens) / 2 * slope
        ends.append(
            (
                (x.at(segment.most_tokens), y.at(segment.median_ms + half)),
                (x.at(segment.fewest_tokens), y.at(segment.median_ms - half)),
            )
        )
    risers = [(before[1], after[0]) for before, after in itertools.pairwise(ends)]
    return "".join(polyline(tread) for tread in ends), "".join(polyline(riser) for riser in risers)


def _places(points: list[AccuracyPoint], x: Axis, y: Axis | None) -> list[tuple[float, float]]:
    return [(x.at(p.tokens), y.at(p.percent)) for p in points] if y else []


def _latency_dots(points: list[LatencyPoint], x: Axis, y: Axis) -> str:
    return dots((x.at(p.tokens), y.at(p.median_ms)) for p in points)


def _mark(place: tuple[int, float], x: Axis, y: Axis) -> Mark | None:
    if not finite(place[1]):
        return None
    across, down = x.at(place[0]), y.at(place[1])
    return Mark(coordinate(across), coordinate(down), dots([(across, down)]), across > LABEL_TURNS)


def sparkline(values: tuple[float, ...]) -> tuple[str, str]:
    """A line and its dots over the whole area, for the anchor; not-numbers leave a gap in the order."""
    kept = [(i, value) for i, value in enumerate(values) if finite(value)]
    if not kept:
        return "", ""
    low, high = _spread(*_ends([value for _, value in kept]))
    across = Axis(0, max(1, len(values) - 1), 1, 99, (), 0)
    up = Axis(low, high, 88, 12, (), 0)
    places = [(across.at(i), up.at(value)) for i, value in kept]
    return polyline(places), dots(places)
