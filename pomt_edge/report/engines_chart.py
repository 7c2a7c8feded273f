"""The picture of several engines: accuracy over milliseconds, a marker for each count, the front a line.

As in `methods_chart`, everything is in per cent of the drawing area and markers are shapes of a fixed size; the colour
is the engine, the shape the method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from pomt_edge.choose import winner
from pomt_edge.records import Contest
from pomt_edge.report import across, words
from pomt_edge.report.across import Point
from pomt_edge.report.chart import Axis, coordinate, polyline
from pomt_edge.report.methods_chart import DEEPEST_LOSS, STYLES, value_axis
from pomt_edge.report.numerals import interval, ms_decimals, number


@dataclass(frozen=True)
class Marker:
    x: str
    y: str
    text: str
    """Shown when the mouse rests on it."""
    kind: str
    """Words of 'front', 'unsure', 'beaten' and 'taken'."""
    colour: int
    shape: int | None
    """None: the unreduced model's cross."""


@dataclass(frozen=True)
class Name:
    """One of the legend."""

    text: str
    style: int


@dataclass(frozen=True)
class Picture:
    x: Axis
    y: Axis
    x_name: str
    y_name: str
    markers: tuple[Marker, ...]
    """Those that others beat first, so that they lie below."""
    front: str
    finalists: tuple[Marker, ...]
    """The best plan of each engine, to be ringed."""
    taken: Marker | None
    whiskers: tuple[tuple[int, str], ...]
    """Colour and path of the finalists' 95 % intervals."""
    engines: tuple[Name, ...]
    methods: tuple[Name, ...]
    title: str
    caption: str
    has_unsure: bool


def build(contest: Contest) -> Picture | None:
    """The picture, or None where nothing can be drawn."""
    everything = across.points(contest)
    if not everything:
        return None
    measure = next(filter(None, map(words.measure_of, contest.results)), None)
    best = across.front(everything)
    shown = [point for point in everything if measure is None or point.worth >= _floor(everything)]
    ends = {(final.engine, final.method, final.latency.tokens) for final in contest.finals}
    finalists = [point for point in shown if (point.engine, point.method, point.tokens) in ends]
    x, y = _axes(shown, finalists, measure)
    engines = winner.engines_of(contest.results)
    methods = list(dict.fromkeys(result.plan.method for result in contest.results))

    def marker(point: Point) -> Marker:
        kinds = ["front"] * (point in best) + ["unsure"] * (not point.counts) + ["beaten"] * (point not in best)
        shape = methods.index(point.method) % STYLES if point.method else None
        colour = engines.index(point.engine) % STYLES
        text = _text(point, measure)
        at = (coordinate(x.at(point.latency.ms)), coordinate(y.at(point.worth)))
        return Marker(*at, text, " ".join(kinds), colour, shape)

    taken = [point for point in finalists if (point.engine, point.method) == (contest.engine, contest.best)]
    worth = measure.capitalize() if measure else "Tokens kept"
    below = len(everything) - len(shown)
    return Picture(
        x=x,
        y=y,
        x_name="latency of a batch in ms, faster to the right",
        y_name=f"{worth}, %" if measure else worth,
        markers=tuple(marker(point) for point in sorted(shown, key=lambda point: (point in best, not point.method))),
        front=_steps(best, x, y),
        finalists=tuple(marker(point) for point in finalists if point.method and point not in taken),
        taken=marker(taken[0]) if taken else None,
        whiskers=tuple((engines.index(point.engine) % STYLES, _whisker(point, x, y)) for point in finalists),
        engines=tuple(Name(name, place % STYLES) for place, name in enumerate(engines)),
        methods=tuple(Name(name, place % STYLES) for place, name in enumerate(methods)),
        title=f"{worth} against latency",
        caption=_caption(below),
        has_unsure=any(not point.counts for point in shown),
    )


def _floor(everything: Sequence[Point]) -> float:
    return max(point.worth for point in everything if point.method is None) - DEEPEST_LOSS


def _axes(shown: Sequence[Point], finalists: Sequence[Point], measure: str | None) -> tuple[Axis, Axis]:
    times = [point.latency.ms for point in shown]
    times += [end for point in finalists for end in (point.latency.low_ms, point.latency.high_ms)]
    across_ms = value_axis(times, (0.0, 100.0), 6)
    # As in the picture of one engine, the reduction goes rightwards.
    x = dataclasses.replace(across_ms, low=across_ms.high, high=across_ms.low)
    values = [point.worth for point in shown]
    values += [end for point in finalists for end in (point.low, point.high)]
    return x, value_axis(values, (100.0, 0.0), 6, ceiling=100.0 if measure else max(values))


def _steps(best: Sequence[Point], x: Axis, y: Axis) -> str:
    """The best that can be had in each time: level up to a point of the front, then down to the next."""
    path = ""
    for point in best:
        height = coordinate(y.at(point.worth))
        path += f"{'V' if path else 'M0 '}{height}H{coordinate(x.at(point.latency.ms))}"
    return path


def _whisker(point: Point, x: Axis, y: Axis) -> str:
    at_x, at_y = x.at(point.latency.ms), y.at(point.worth)
    level = [(x.at(end), at_y) for end in (point.latency.low_ms, point.latency.high_ms)]
    return polyline(level) + polyline((at_x, y.at(end)) for end in (point.low, point.high))


def _text(point: Point, measure: str | None) -> str:
    latency, decimals = point.latency, ms_decimals(point.latency.ms)
    ms = f"{number(latency.ms, decimals)} ms ({interval(latency.low_ms, latency.high_ms, decimals)})"
    worth = f", {measure} {number(point.worth, 1)} % ({interval(point.low, point.high, 1)})" if measure else ""
    text = f"{across.named(point)}, {point.tokens} tokens: {ms}{worth}"
    return text if point.counts else f"{text}, not surely faster than unreduced"


def _caption(below: int) -> str:
    sentences = [
        "Each marker is a count of tokens; the faint ones are beaten by another in both.",
        "The unreduced models and each engine's best plan were measured in turn; the other counts are their speedup's "
        "share of their engine's unreduced model.",
        f"{below} count{'' if below == 1 else 's'} below the drawing." if below else "",
    ]
    return " ".join(filter(None, sentences))
