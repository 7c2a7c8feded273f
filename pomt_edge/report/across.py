"""Several engines on one scale: each count's milliseconds and accuracy, which of them no other beats, and the table."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pomt_edge.choose import winner
from pomt_edge.choose.winner import Contender, Latency
from pomt_edge.records import Contest, Result
from pomt_edge.report import pareto, words
from pomt_edge.report.numerals import ABSENT, interval, ms_decimals, number

UNREDUCED = "unreduced"


@dataclass(frozen=True)
class Point:
    """A measured count of a method on an engine, or the unreduced model of an engine."""

    engine: str
    method: str | None
    """None: the unreduced model."""
    tokens: int
    latency: Latency
    worth: float
    """Accuracy or agreement in percent; where neither was measured, the tokens kept."""
    low: float
    high: float
    sure: bool
    """Whether it is faster than its engine's unreduced model by more than the intervals."""

    @property
    def counts(self) -> bool:
        """Whether it may be on the front, and keep others off it."""
        return self.sure or self.method is None


@dataclass(frozen=True)
class Row:
    """A plan, an unreduced model, or why a run has no plan."""

    engine: str
    method: str | None
    """None: the unreduced model."""
    taken: bool
    cells: tuple[tuple[str, str], ...]
    """Value and its 95 % interval, under `columns`; of a run without a plan none."""
    baseline: str
    verdict: str
    because: str
    """Why there is no plan, else nothing."""


def points(contest: Contest) -> list[Point]:
    """The unreduced model of each engine and every reduced count, by its speedup over that or as the finals have it."""
    levels = winner.unreduced(contest.results, contest.finals)
    found: dict[tuple[str, str | None, int], Point] = {}
    for result in contest.results:
        engine = result.plan.engine
        for speed in pareto.measured(result) or pareto.speeds(result) * (not _has_quality(contest)):
            method = None if speed.unreduced else result.plan.method
            latency = levels[engine].over(speed.speedup, speed.low, speed.high)
            low, worth, high = _worth(speed)
            point = Point(engine, method, speed.tokens, latency, worth, low, high, speed.sure)
            found.setdefault((engine, method, speed.tokens), point)
    for final in contest.finals:
        what = (final.engine, final.method, final.latency.tokens)
        if what in found:
            found[what] = _measured_again(found[what], Latency.of(final.latency))
    return list(found.values())


def _measured_again(point: Point, latency: Latency) -> Point:
    own = (point.engine, point.method, point.tokens)
    return Point(*own, latency, point.worth, point.low, point.high, point.sure)


def _has_quality(contest: Contest) -> bool:
    return any(map(words.measure_of, contest.results))


def _worth(speed: pareto.Speed) -> tuple[float, float, float]:
    if isinstance(speed, pareto.Measured):
        return speed.quality.low, speed.percent, speed.quality.high
    return (float(speed.tokens),) * 3


def front(everything: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both, the slowest first."""
    best = [one for one in everything if one.counts and not any(_beats(other, one) for other in everything)]
    return sorted(best, key=lambda one: -one.latency.ms)


def _beats(other: Point, one: Point) -> bool:
    ours, theirs = (-one.latency.ms, one.worth), (-other.latency.ms, other.worth)
    return other.counts and theirs != ours and theirs[0] >= ours[0] and theirs[1] >= ours[1]


def columns(measure: str | None) -> list[str]:
    """What stands in a row's cells."""
    quality = [f"{measure} %", "points lost"] if measure else []
    return ["tokens", "R", "latency ms", "speedup", *quality]


def rows(contest: Contest) -> list[Row]:
    """Plans and unreduced models, the fastest first, then the runs without a plan."""
    everyone = winner.contenders(contest.results, contest.finals)
    levels = winner.unreduced(contest.results, contest.finals)
    best = {(point.engine, point.method, point.tokens) for point in front(points(contest))}
    found = [
        Row(
            one.engine,
            one.method,
            _is_taken(one, contest),
            _cells(one, _has_quality(contest)),
            _ms(levels[one.engine]),
            _standing(one, contest, best),
            "",
        )
        for one in sorted(everyone, key=lambda one: one.latency.ms)
    ]
    return found + [_without(result, levels) for result in contest.results if result.plan.verdict != "prune"]


def _is_taken(one: Contender, contest: Contest) -> bool:
    return (one.engine, one.method) == (contest.engine, contest.best)


def _standing(one: Contender, contest: Contest, best: Collection[tuple[str, str | None, int]]) -> str:
    if _is_taken(one, contest):
        return "taken"
    if not one.allowed:
        return "over the budget"
    return "on the front" if (one.engine, one.method, one.tokens) in best else "beaten"


def _cells(one: Contender, quality: bool) -> tuple[tuple[str, str], ...]:
    plan, latency = one.plan, one.latency
    decimals = ms_decimals(latency.ms)
    cells = [
        (str(one.tokens), ""),
        (str(plan.tokens_in - one.tokens), ""),
        (number(latency.ms, decimals), interval(latency.low_ms, latency.high_ms, decimals)),
    ]
    if one.method:
        cells.append((f"{number(plan.speedup, 2)}x", interval(plan.speedup_low, plan.speedup_high, 2)))
    else:
        cells.append((f"{number(1, 2)}x", ""))
    if quality:
        cells.append((number(one.quality.percent, 1) if one.quality else ABSENT, ""))
        lost = (number(plan.drop, 1), interval(plan.drop_low, plan.drop_high, 1))
        cells.append(lost if one.method else (number(0, 1), ""))
    return tuple(cells)


def _without(result: Result, levels: dict[str, Latency]) -> Row:
    plan = result.plan
    named = {"keep": "do not prune", "unreachable": "no plan"}
    baseline = _ms(levels[plan.engine]) if plan.engine in levels else ABSENT
    return Row(plan.engine, plan.method, False, (), baseline, named.get(plan.verdict, plan.verdict), plan.because)


def _ms(latency: Latency) -> str:
    return number(latency.ms, ms_decimals(latency.ms))


def named(one: Point | Row) -> str:
    """'tome on openvino'."""
    return f"{one.method or UNREDUCED} on {one.engine}"
