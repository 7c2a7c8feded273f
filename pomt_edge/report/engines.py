"""What the page of a comparison says where there are several engines: its picture, its tables, its sentences."""

from __future__ import annotations

from typing import Any

from pomt_edge.choose import winner
from pomt_edge.records import Contest, Environment
from pomt_edge.report import across, engines_chart, words
from pomt_edge.report.numerals import interval, join, ms_decimals, number
from pomt_edge.report.unrest import clock_sentence
from pomt_edge.report.words import Verdict


def parts(contest: Contest, measure: str | None) -> dict[str, Any]:
    """What `engines.html.j2` draws."""
    picture = engines_chart.build(contest)
    everything = across.points(contest)
    styles = {name.text: name.style for name in (*picture.engines, *picture.methods)} if picture else {}
    return {
        "picture": picture,
        "styles": styles,
        "columns": across.columns(measure),
        "rows": across.rows(contest),
        "front": [_on_the_front(point, measure) for point in across.front(everything)],
        "counts": len(everything),
    }


def _on_the_front(point: across.Point, measure: str | None) -> tuple[str, ...]:
    latency, decimals = point.latency, ms_decimals(point.latency.ms)
    worth = f"{number(point.worth, 1)} ({interval(point.low, point.high, 1)})" if measure else ""
    ms = f"{number(latency.ms, decimals)} ({interval(latency.low_ms, latency.high_ms, decimals)})"
    return (point.engine, point.method or across.UNREDUCED, str(point.tokens), ms, worth)


def verdict(contest: Contest) -> Verdict:
    """What to take, and what that gives; or why nothing."""
    because = f"{contest.because.rstrip('.')}."
    if contest.best is None:
        return Verdict("Do not prune:" if contest.engine else "No token count meets the limits:", because)
    result = contest.chosen
    plan = result.plan
    level = winner.unreduced(contest.results, contest.finals)[plan.engine]
    latency = winner.latency_of(plan, level, contest.finals)
    decimals = ms_decimals(latency.ms)
    ms = f"{number(latency.ms, decimals)} ms ({interval(latency.low_ms, latency.high_ms, decimals)})"
    gain = words.verdict(result).rest.replace("faster", f"faster than unreduced on {plan.engine}", 1)
    return Verdict(f"Take {plan.method} on {plan.engine}, R={plan.removed} {words.where(plan)}:", f"{ms}, {gain}")


def environment_line(contest: Contest) -> str:
    """Device, precision, batch and clocks, and what each engine's unreduced model took."""
    lines = dict.fromkeys(_environment(result.environment) for result in contest.results)
    levels = winner.unreduced(contest.results, contest.finals)
    took = [f"{number(level.ms, ms_decimals(level.ms))} ms on {engine}" for engine, level in levels.items()]
    return f"{'; in other runs: '.join(lines)}. The unreduced model took {join(took)}."


def _environment(here: Environment) -> str:
    clocks = clock_sentence(here.details.get("clocks") or {})
    threads = f"{here.threads} thread{'' if here.threads == 1 else 's'}, " if here.device == "cpu" else ""
    size = f"batch {here.batch_size} × {here.image_px} px"
    return f"{here.device_name} ({here.device}), {here.precision}, {size}, {threads}{clocks}"
