"""The picture of all methods: accuracy over speedup, or latency over tokens where there is no accuracy.

As in `chart`, everything is in per cent of the drawing area; lines are stretched with it, while markers are shapes of
a fixed size put at their place, and names are HTML in a column right of the area.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pomt_edge.records import Contest, Plan, Result
from pomt_edge.report import pareto
from pomt_edge.report.chart import FROM_ZERO_BELOW, Axis, coordinate, nice_step, polyline, token_axis
from pomt_edge.report.numerals import interval, number
from pomt_edge.report.pareto import Measured, Speed

STYLES = 8
"""Colours and shapes in the style sheet and the template."""
DEEPEST_LOSS = 30.0
"""Points below the unreduced model that are drawn: nobody deploys beyond, and it would flatten what matters."""
LABEL_GAP = 5.6
"""Per cent of the area's height from one name to the next, enough for a line of text on a phone."""
MOST_MARKERS = 20
"""Of one line; with more they would run into each other."""
WIDEST_NAME = 18
WHISKER_ROOM = 0.25
"""Share of the lines' range to which a plan's interval of speed may widen the picture on either side."""
ROOM = 0.04
"""Share of the values' range that is left free on either side."""

Place = tuple[float, float]


@dataclass(frozen=True)
class Marker:
    x: str
    y: str
    text: str
    """Shown when the mouse rests on it."""
    kind: str
    """Words of 'front', 'unsure' and 'beaten'."""


@dataclass(frozen=True)
class Line:
    """One method."""

    name: str
    colour: int
    shape: int
    path: str
    markers: tuple[Marker, ...]
    ring: Marker | None
    """Around the count of its plan."""
    whiskers: str
    leader: str
    """From the line's end to its name."""
    label_y: str
    taken: bool


@dataclass(frozen=True)
class Picture:
    x: Axis
    y: Axis
    x_name: str
    y_name: str
    lines: tuple[Line, ...]
    front: str
    unreduced: Marker
    gutter: int
    """Characters of the longest name."""
    title: str
    caption: str
    has_unsure: bool

    def x_marks(self) -> list[tuple[str, str]]:
        unit = "x" if self.front or self.x.decimals else ""
        return [(at, f"{label}{unit}") for at, label in self.x.marks()]


@dataclass(frozen=True)
class _Dot:
    """A measured count in the axes' own units."""

    tokens: int
    x: float
    y: float
    text: str
    kind: str


@dataclass(frozen=True)
class _Series:
    plan: Plan
    dots: list[_Dot]
    line: list[_Dot]
    """Those that its line joins, from the unreduced model on."""
    whiskers: list[tuple[Place, Place]]
    """Of the plan's count, each from one end to the other, in the axes' own units."""


def style(index: int) -> tuple[int, int]:
    """Colour and shape of the method at this place; no two of the first 64 share both."""
    return index % STYLES, (index + index // STYLES) % STYLES


def build(contest: Contest) -> Picture | None:
    """The picture, or None where nothing can be drawn."""
    methods = [(result, pareto.measured(result)) for result in contest.results]
    if any(len(points) > 1 for _, points in methods):
        return _quality_picture(contest, methods)
    return _latency_picture(contest)


def _quality_picture(contest: Contest, methods: list[tuple[Result, list[Measured]]]) -> Picture:
    everything = [point for _, points in methods for point in points]
    best = pareto.front(everything)
    measure = next(result.accuracy.measure for result, points in methods if result.accuracy and points)
    whole = next(point.percent for point in everything if point.unreduced)
    y = _quality_axis(methods, whole)
    series = [_quality_series(result, points, set(best), y.low) for result, points in methods]
    x = value_axis(_across(series), (0.0, 100.0), 5)
    unreduced = _marker(_Dot(0, 1.0, whole, f"unreduced model: {measure} {number(whole, 1)} %", ""), x, y)
    return _picture(
        contest,
        series,
        (x, y),
        ("speedup over the method's own unreduced model", f"{measure.capitalize()}, %"),
        _steps([(1.0, whole), *((point.speedup, point.percent) for point in best)], x, y),
        unreduced,
        f"{measure.capitalize()} against speedup",
        _quality_caption(series, methods, measure, x, y),
    )


def _quality_axis(methods: list[tuple[Result, list[Measured]]], whole: float) -> Axis:
    floor = max(0.0, whole - DEEPEST_LOSS)
    values = [point.percent for _, points in methods for point in points]
    values += [end[1] for result, points in methods for pair in _crosses(result, points) for end in pair]
    return value_axis([max(value, floor) for value in values], (100.0, 0.0), 6, ceiling=100.0)


def _quality_series(result: Result, points: list[Measured], best: set[Measured], floor: float) -> _Series:
    """The line joins the unbeaten counts; it ends with the first of them that is below the drawing for good."""
    unbeaten = pareto.unbeaten(points)
    dots = [_quality_dot(point, result, best, unbeaten) for point in points]
    line = [dot for dot, point in zip(dots, points, strict=True) if point.unreduced or point in unbeaten]
    inside = max((place for place, dot in enumerate(line) if dot.y >= floor), default=0)
    return _Series(result.plan, dots, line[: inside + 2], _crosses(result, points))


def _across(series: list[_Series]) -> list[float]:
    """What the horizontal axis must hold: the lines, and of the whiskers what does not flatten them."""
    lines = [dot.x for one in series for dot in one.line]
    low, high = min(lines), max(lines)
    room = (high - low) * WHISKER_ROOM
    ends = [end[0] for one in series for pair in one.whiskers for end in pair]
    return lines + [min(max(end, low - room), high + room) for end in ends]


def _quality_dot(point: Measured, result: Result, best: set[Measured], unbeaten: list[Measured]) -> _Dot:
    measure = result.accuracy.measure if result.accuracy else ""
    accuracy = f"{measure} {number(point.percent, 1)} % ({interval(point.quality.low, point.quality.high, 1)})"
    kinds = ["front"] * (point in best) + _unsure(point) + ["beaten"] * (point not in unbeaten)
    return _Dot(point.tokens, point.speedup, point.percent, f"{_speed_text(point)}, {accuracy}", " ".join(kinds))


def _unsure(point: Speed) -> list[str]:
    return [] if point.sure or point.unreduced else ["unsure"]


def _speed_text(point: Speed) -> str:
    text = f"{point.method}, {point.tokens} tokens: {number(point.speedup, 2)}x ({interval(point.low, point.high, 2)})"
    return f"{text}, not surely faster" if _unsure(point) else text


def _crosses(result: Result, points: list[Measured]) -> list[tuple[Place, Place]]:
    """The plan's intervals, of speed and of accuracy; those of every count would hide the lines."""
    at = next((point for point in points if point.tokens == result.plan.tokens_out), None)
    if at is None or result.plan.verdict != "prune":
        return []
    across = ((at.low, at.percent), (at.high, at.percent))
    return [across, ((at.speedup, at.quality.low), (at.speedup, at.quality.high))]


def _quality_caption(
    series: list[_Series], methods: list[tuple[Result, list[Measured]]], measure: str, x: Axis, y: Axis
) -> str:
    below = sum(dot.y < y.low for one in series for dot in one.dots)
    without = [result.plan.method for result, points in methods if len(points) < 2]
    sentences = [
        "Each marker is a count of tokens; a line joins those that no other of its method beats, the faint ones "
        "are beaten.",
        _zero(x.low, y.low),
        f"{below} count{'' if below == 1 else 's'} below the drawing: see the table of all counts." if below else "",
        f"Without {measure} at a reduced count: {', '.join(without)}." if without else "",
    ]
    return " ".join(filter(None, sentences))


def _zero(x: float, y: float) -> str:
    if x and y:
        return "Neither axis starts at zero."
    return f"The {'horizontal' if x else 'vertical'} axis does not start at zero." if x or y else ""


def _latency_picture(contest: Contest) -> Picture | None:
    methods = [(result, pareto.speeds(result)) for result in contest.results]
    everything = [point for _, points in methods for point in points]
    if not everything:
        return None
    series = [_latency_series(result, points) for result, points in methods]
    # Fewer tokens to the right: as in the other picture, the reduction goes rightwards and the names are at its end.
    counts = token_axis(point.tokens for point in everything)
    x = Axis(counts.high, counts.low, counts.start, counts.end - 1.5, counts.ticks, 0)
    values = [dot.y for one in series for dot in one.dots]
    y = value_axis([*values, *(end[1] for one in series for pair in one.whiskers for end in pair)], (100.0, 0.0), 6)
    unreduced = _marker(_Dot(0, max(point.tokens for point in everything), 1.0, "unreduced model", ""), x, y)
    caption = f"Each line is one method. {_zero(min(x.low, x.high), y.low)}".strip()
    names = ("tokens kept, fewer to the right", "Latency, share of the unreduced model's")
    return _picture(contest, series, (x, y), names, "", unreduced, "Latency against tokens kept", caption)


def _latency_series(result: Result, points: list[Speed]) -> _Series:
    dots = [_latency_dot(point) for point in points]
    return _Series(result.plan, dots, dots, _bar(result, points))


def _latency_dot(point: Speed) -> _Dot:
    return _Dot(point.tokens, point.tokens, 1 / point.speedup, _speed_text(point), " ".join(_unsure(point)))


def _bar(result: Result, points: list[Speed]) -> list[tuple[Place, Place]]:
    at = next((point for point in points if point.tokens == result.plan.tokens_out), None)
    if at is None or result.plan.verdict != "prune":
        return []
    return [((at.tokens, 1 / at.high), (at.tokens, 1 / at.low))]


def _picture(
    contest: Contest,
    series: list[_Series],
    axes: tuple[Axis, Axis],
    names: tuple[str, str],
    path: str,
    unreduced: Marker,
    title: str,
    caption: str,
) -> Picture:
    x, y = axes
    drawn = [(index, one) for index, one in enumerate(series) if len(one.line) > 1]
    ends = [_end([(x.at(dot.x), y.at(dot.y)) for dot in one.line]) for _, one in drawn]
    labels = apart([end[1] for end in ends], [end[0] for end in ends])
    lines = [
        _line(index, one, axes, end, label, one.plan.method == contest.best)
        for (index, one), end, label in zip(drawn, ends, labels, strict=True)
    ]
    longest = max((len(line.name) for line in lines), default=0)
    return Picture(
        x=x,
        y=y,
        x_name=names[0],
        y_name=names[1],
        # The line that is taken lies over the others.
        lines=tuple(sorted(lines, key=lambda line: line.taken)),
        front=path,
        unreduced=unreduced,
        gutter=min(longest, WIDEST_NAME),
        title=title,
        caption=caption,
        has_unsure=any("unsure" in marker.kind for line in lines for marker in line.markers),
    )


def _line(index: int, one: _Series, axes: tuple[Axis, Axis], end: Place, label: float, taken: bool) -> Line:
    x, y = axes
    colour, shape = style(index)
    shown = [dot for dot in _thinned(one) if dot.y >= y.low]
    planned = [dot for dot in one.dots if dot.tokens == one.plan.tokens_out and one.plan.verdict == "prune"]
    return Line(
        name=one.plan.method,
        colour=colour,
        shape=shape,
        path=polyline((x.at(dot.x), y.at(dot.y)) for dot in one.line),
        markers=tuple(_marker(dot, x, y) for dot in shown),
        ring=_marker(planned[0], x, y) if planned and planned[0].y >= y.low else None,
        whiskers="".join(polyline((x.at(a), y.at(b)) for a, b in pair) for pair in one.whiskers),
        leader=polyline([end, (100.0, label)]),
        label_y=coordinate(label),
        taken=taken,
    )


def _thinned(one: _Series) -> list[_Dot]:
    """Every so many of a dense curve's counts, its ends and its plan; the unreduced model has a mark of its own."""
    every = math.ceil(len(one.dots) / MOST_MARKERS)
    last = len(one.dots) - 1
    return [
        dot
        for place, dot in enumerate(one.dots)
        if dot.tokens != one.plan.tokens_in
        and (place % every == 0 or place == last or "front" in dot.kind or dot.tokens == one.plan.tokens_out)
    ]


def _marker(dot: _Dot, x: Axis, y: Axis) -> Marker:
    return Marker(coordinate(x.at(dot.x)), coordinate(y.at(dot.y)), dot.text, dot.kind)


def value_axis(values: Sequence[float], band: tuple[float, float], count: int, ceiling: float = math.inf) -> Axis:
    """An axis with some room beyond the values, though none beyond `ceiling`, where nothing can be."""
    low, high = min(values), max(values)
    room = ROOM * ((high - low) or abs(high) or 1.0)
    low = 0.0 if 0 <= low - room < FROM_ZERO_BELOW * high else low - room
    high = min(high + room, max(high, ceiling))
    step = nice_step(high - low, count)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += round(step, decimals) != round(step, decimals + 1)
    ticks = tuple(i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1))
    return Axis(low, high, band[0], band[1], ticks, decimals)


def _steps(corners: Iterable[Place], x: Axis, y: Axis) -> str:
    """The best that can be had at each speed or more: down where a count is passed, then on to the next."""
    places = [(x.at(speedup), y.at(percent)) for speedup, percent in corners]
    if len(places) < 2:
        return ""
    path = f"M{coordinate(places[0][0])} {coordinate(places[1][1])}"
    for place, after in zip(places[1:], [*places[2:], None], strict=True):
        path += f"H{coordinate(place[0])}" + (f"V{coordinate(after[1])}" if after else "")
    return path


def _end(places: list[Place]) -> Place:
    """Where a line ends, or where it leaves the drawing at the bottom."""
    (before_x, before_y), (x, y) = places[-2:]
    if y <= 100:
        return x, y
    return before_x + (x - before_x) * (100 - before_y) / (y - before_y), 100.0


def apart(wanted: Sequence[float], ties: Sequence[float]) -> list[float]:
    """Heights for the names, each as near to its line's end as the gap between two of them allows.

    Names that would overlap are spread evenly about their mean; of two ends at one height that with the smaller of
    `ties` stands above.
    """
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], ties[i]))
    gap = min(LABEL_GAP, 96 / max(1, len(wanted) - 1))
    groups: list[list[float]] = []
    for place, index in enumerate(order):
        groups.append([wanted[index] - place * gap])
        while len(groups) > 1 and _mean(groups[-2]) >= _mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    level = [_mean(group) for group in groups for _ in group]
    highest = 98 - gap * (len(wanted) - 1)
    heights = [0.0] * len(wanted)
    for place, index in enumerate(order):
        heights[index] = min(max(level[place], 2.0), highest) + place * gap
    return heights


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
