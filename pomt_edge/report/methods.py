"""The page that lays methods, and engines, over each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pomt_edge.choose import winner
from pomt_edge.records import Contest, Environment, Result
from pomt_edge.report import engines, methods_chart, pareto, words
from pomt_edge.report.numerals import finite, interval, join, number, signed
from pomt_edge.report.pareto import Level, Measured
from pomt_edge.report.templates import templates, text
from pomt_edge.report.unrest import clock_sentence
from pomt_edge.report.words import Callout, Verdict


@dataclass(frozen=True)
class Row:
    """One method; the cells are empty where its plan removes nothing."""

    name: str
    href: str
    colour: int
    shape: int
    taken: bool
    plan: str
    because: str
    """Why there is no plan, else nothing."""
    cells: tuple[tuple[str, str], ...]
    """Value and its 95 % interval."""


@dataclass(frozen=True)
class Win:
    """One row of the table of speeds."""

    level: str
    best: str
    figures: tuple[str, str, str]
    others: str


def folder_name(engine: str, method: str) -> str:
    """The folder of a method's own run on an engine, inside that of the comparison."""
    return f"{engine}-{method}".translate(str.maketrans(":=,", "---"))


def render(contest: Contest) -> str:
    """The whole page as text; save it as UTF-8."""
    first = contest.results[0]
    measure = next(filter(None, map(words.measure_of, contest.results)), None)
    methods = [pareto.measured(result) for result in contest.results]
    sentence = verdict(contest)
    several = is_across(contest)
    return (
        templates()
        .get_template("methods.html.j2")
        .render(
            style=text("page.css") + text("methods.css"),
            title=words.title(first.plan, first.environment.device_name),
            verdict=sentence,
            because=contest.because if contest.because not in sentence.sentence else "",
            callouts=callouts(contest.results),
            measure=measure,
            compared=_compared(contest),
            across=engines.parts(contest, measure) if several else None,
            href=href,
            picture=None if several else methods_chart.build(contest),
            wins=[_win(level) for level in pareto.levels(methods)],
            points=_points(methods),
            columns=_columns(measure),
            rows=[_row(place, result, contest) for place, result in enumerate(contest.results)],
            unfit=contest.unfit,
            environment=engines.environment_line(contest) if several else environment_line(contest.results),
        )
    )


def is_across(contest: Contest) -> bool:
    """Whether engines are compared, so that milliseconds are, and not each method's speedup."""
    return len(winner.engines_of(contest.results)) > 1


def _compared(contest: Contest) -> str:
    methods = len({result.plan.method for result in contest.results})
    names = winner.engines_of(contest.results)
    on = f" on {len(names)} engines" if len(names) > 1 else ""
    return f"{methods} method{'s' if methods > 1 else ''}{on}"


def href(engine: str, method: str) -> str:
    """The report of a method's own run on an engine."""
    return f"{quote(folder_name(engine, method), safe='')}/report.html"


def verdict(contest: Contest) -> Verdict:
    """What to take, and what that gives; or why nothing."""
    if is_across(contest):
        return engines.verdict(contest)
    if contest.best is not None:
        return Verdict(f"Take {contest.best}:", words.verdict(contest.chosen).rest)
    lead = "No token count meets the limits:" if contest.verdict == "unreachable" else "Do not prune:"
    return Verdict(lead, f"{contest.because.rstrip('.')}.")


def callouts(results: Sequence[Result]) -> list[Callout]:
    """What a reader must see first: what all runs say, and of what only some say where to read it."""
    several = len(winner.engines_of(results)) > 1
    said: dict[Callout, list[str]] = {}
    for result in results:
        plan = result.plan
        for callout in words.callouts(result):
            said.setdefault(callout, []).append(f"{plan.method} on {plan.engine}" if several else plan.method)
    common = [callout for callout, methods in said.items() if len(methods) == len(results)]
    some: dict[tuple[str, bool], list[str]] = {}
    for callout, methods in said.items():
        if callout not in common:
            some.setdefault((callout.label, callout.warns), []).extend(methods)
    return common + [
        Callout(label, f"{_run_of(methods, len(results))}; the methods' own reports say more.", warns)
        for (label, warns), methods in some.items()
    ]


def _run_of(methods: Iterable[str], runs: int) -> str:
    named = list(dict.fromkeys(methods))
    return "In every run" if len(named) == runs else f"In the run{'s' if len(named) > 1 else ''} of {join(named)}"


def environment_line(results: Sequence[Result]) -> str:
    """Device, engine, precision, batch and clocks; where the runs differ, all that there were."""
    lines = dict.fromkeys(_environment(result.environment) for result in results)
    baselines = [result.curve.baseline.median_ms for result in results if result.curve.points]
    usable = [value for value in baselines if finite(value)]
    line = "; in other runs: ".join(lines)
    if not usable:
        return f"{line}."
    low, high = (f"{end:.4g}" for end in (min(usable), max(usable)))
    took = f"{low} to {high} ms, by run" if low != high else f"{low} ms"
    return f"{line}. The unreduced model took {took}."


def _environment(here: Environment) -> str:
    threads = f"{here.threads} thread{'' if here.threads == 1 else 's'}, " if here.device == "cpu" else ""
    clocks = clock_sentence(here.details.get("clocks") or {})
    return (
        f"{here.device_name} ({here.device}), {here.engine}, {here.precision}, batch {here.batch_size} × "
        f"{here.image_px} px, {threads}{clocks}"
    )


def _win(level: Level) -> Win:
    best = level.best
    figures = (f"{number(best.percent, 1)} %", str(best.tokens), _with(number(best.speedup, 2) + "x", _range(best)))
    return Win(f"{level.speedup:g}x", best.method, figures, _others(level))


def _range(point: Measured) -> str:
    return interval(point.low, point.high, 2)


def _with(value: str, within: str) -> str:
    return f"{value} ({within})" if within else value


def _others(level: Level) -> str:
    low = f"{number(level.best.quality.low, 1)} %"
    near = [f"{point.method} ({number(point.percent, 1)} %)" for point in level.near]
    sentences = [f"{join(near)} may be as good: above {low}." if near else ""]
    if level.behind:
        sentences.append(f"{join(list(level.behind))} {'are' if len(level.behind) > 1 else 'is'} below {low}.")
    if level.absent:
        sentences.append(f"{join(list(level.absent))} {'have' if len(level.absent) > 1 else 'has'} no such count.")
    return " ".join(filter(None, sentences)) or "There is no other."


def _points(methods: Iterable[Sequence[Measured]]) -> list[tuple[str, ...]]:
    """Every count that was measured in both ways."""
    best = set(pareto.front(point for points in methods for point in points))
    return [
        (
            point.method,
            str(point.tokens),
            _with(number(point.speedup, 2), _range(point) if not point.unreduced else ""),
            _with(number(point.percent, 1), interval(point.quality.low, point.quality.high, 1)),
            "yes" if point in best else "no" if point.sure or point.unreduced else "not surely faster",
        )
        for points in methods
        for point in points
    ]


def _columns(measure: str | None) -> list[str]:
    quality = [f"{measure.capitalize()}, %", "Points lost"] if measure else []
    return ["Tokens kept", "Speedup", *quality, "GFLOP", "Peak activations, MiB"]


def _row(place: int, result: Result, contest: Contest) -> Row:
    plan = result.plan
    prunes = plan.verdict == "prune"
    named = {"prune": f"R={plan.removed} {words.where(plan)}", "keep": "do not prune", "unreachable": "none"}
    colour, shape = methods_chart.style(place)
    return Row(
        name=plan.method,
        href=href(plan.engine, plan.method),
        colour=colour,
        shape=shape,
        taken=plan.method == contest.best,
        plan=named.get(plan.verdict, plan.verdict),
        because="" if prunes else plan.because,
        cells=tuple(_cells(result, any(map(words.measure_of, contest.results)))) if prunes else (),
    )


def _cells(result: Result, has_quality: bool) -> list[tuple[str, str]]:
    plan = result.plan
    cells = [
        (f"{plan.tokens_in} → {plan.tokens_out}", ""),
        (f"{number(plan.speedup, 2)}x", interval(plan.speedup_low, plan.speedup_high, 2)),
    ]
    if has_quality:
        lost = (number(plan.drop, 1), interval(plan.drop_low, plan.drop_high, 1))
        cells += [(number(plan.predicted_percent, 1), ""), lost]
    return cells + _costs(result)


def _costs(result: Result) -> list[tuple[str, str]]:
    if not result.costs:
        return [(number(None, 0), "")] * 2
    before, after = result.costs[0], result.costs[-1]
    less = 100 * (after.gflops / before.gflops - 1) if before.gflops else None
    peaks = f"{number(before.peak_activation_mib, 1)} → {number(after.peak_activation_mib, 1)}"
    return [(f"{signed(less, 1)} %", f"{number(before.gflops, 2)} → {number(after.gflops, 2)}"), (peaks, "")]
