"""A plan explained in about ten lines: why so many tokens, what the neighbours would have cost, how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pomt_edge.choose.refusal import images_needed
from pomt_edge.choose.why import Edge, Why, why
from pomt_edge.records import (
    MEASURED,
    SIMULATED,
    Plan,
    Record,
    Refusal,
    Remedy,
    Result,
    ScheduleSearch,
    TriedSchedule,
)
from pomt_edge.report import refused, schedule_words, searched, unrest, words
from pomt_edge.report.neighbours import and_loses, beside, beyond, gap, takes
from pomt_edge.report.numerals import finite, interval, join, number

PRUNE = "prune"
LIMITS = {
    "max_drop": "at most {} points lost",
    "budget_ms": "at most {} ms",
    "alpha": "the largest utility at alpha {}",
    "keep": "at least {} of the tokens kept",
}
NAMED = 4
"""Counts that are named one by one."""
ELSEWHERE = "what the neighbours cost, the steps, the clocks and the number of images are in the run's result.json"


@dataclass(frozen=True)
class Line(Record):
    label: str
    text: str


@dataclass(frozen=True)
class Explanation(Record):
    """The facts and the same in words."""

    plan: Plan
    device_name: str
    lines: tuple[Line, ...]
    why: Why | None = None
    """None where only the plan is known, and where its schedule of several blocks is no count of the curve."""
    schedules: ScheduleSearch | None = None
    """None where no schedule was searched."""
    refusal: Refusal | None = None
    remedies: tuple[Remedy, ...] = ()
    clocks: str | None = None
    restless: tuple[str, ...] = ()
    """What disturbed while it was measured, a sentence each."""
    missing: str | None = None
    """What is not known, and where it would be."""


def explain(plan: Plan, result: Result | None, missing: str | None = None) -> Explanation:
    """`result`: the plan's own; `missing`: why there is none."""
    if result is None:
        lines = [*_head(plan, plan.device), Line("Missing", f"{ELSEWHERE}; {missing or 'it was not given'}.")]
        return Explanation(plan, plan.device, tuple(lines), missing=missing)
    device = result.environment.device_name
    chosen = result.searched
    facts = None if chosen else why(plan, result.curve, result.staircase, result.accuracy)
    lines = _head(plan, device)
    if result.schedules and chosen:
        lines += _of_schedule(result, result.schedules, chosen)
    elif facts is None:
        missing = f"the curve does not hold the plan's {plan.tokens_out} tokens"
        lines.append(Line("Missing", f"{missing}; what its neighbours cost is not known."))
    else:
        lines += _around(facts, result)
        if result.schedules:
            lines.append(Line("Several blocks", words.schedule_search(result)))
    lines += [Line("Instead", f"{one.options}: {one.text}") for one in refused.lines(result)]
    clocks = (result.environment.details.get("clocks") or {}).get("state")
    restless = tuple(event.text for event in unrest.events(result.curve) if event.disturbs)
    return Explanation(
        plan, device, tuple(lines), facts, result.schedules, result.refusal, result.remedies, clocks, restless, missing
    )


def _head(plan: Plan, device: str) -> list[Line]:
    """What it is of, the decision with its limit, and the reason as the run gave it."""
    how = "tokens dropped at the input" if plan.probe == "input" else f"{plan.method} {words.where(plan)}"
    if plan.verdict != PRUNE:
        how = f"nothing removed; the figures are of {how}"
    of = f"{words.title(plan, device)}; {plan.engine} {plan.precision}, {how}"
    origin = "no device was measured, the latencies are simulated" if plan.origin == SIMULATED else plan.origin
    limits = "; ".join(LIMITS.get(name, f"{name} {{}}").format(_plain(value)) for name, value in plan.limits.items())
    sentence = words.verdict_of(plan, plan.measure).sentence
    said = "" if "the limit is" in plan.because and plan.verdict != PRUNE else f" The limit is: {limits or 'none'}."
    lines = [Line("Of", f"{of}; {origin}."), Line("Decision", f"{sentence}{said}")]
    return lines + ([Line("Why", f"{plan.because.rstrip('.')}.")] if plan.verdict == PRUNE else [])


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _around(facts: Why, result: Result) -> list[Line]:
    plan, measure = result.plan, words.measure_of(result)
    lines = []
    if plan.verdict == PRUNE:
        lines = [
            Line("Not more", _sentence(_not_more(facts, plan, measure))),
            Line("Not fewer", _sentence(_not_fewer(facts, plan, measure))),
        ]
    elif facts.fewer:
        lines = [Line("Fewer", _sentence(beside(facts.fewer, facts.tokens, measure)))]
    lines += [
        Line("Tread", _sentence(_tread(facts))),
        Line("By 8", _sentence(_multiples(facts, measure))),
        Line("How sure", _sentence(_how_sure(facts, result))),
    ]
    surer = "; ".join(_surer(facts, result))
    measured = searched.sentence(result) or _measured(facts, measure)
    return [
        *lines,
        *([Line("Surer", _sentence(surer))] if surer else []),
        Line("Measured", measured),
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _not_more(facts: Why, plan: Plan, measure: str | None) -> str:
    following = facts.next_faster
    if following is None:
        return f"no measured count with fewer than {facts.tokens} tokens is surely faster"
    between = gap(following, facts.tokens) if following == facts.fewer else ""
    text = (
        f"the next faster count, {following.tokens} tokens{between}, {takes(following)}{and_loses(following, measure)}"
    )
    return f"{text}{beyond(following, plan)}"


def _not_fewer(facts: Why, plan: Plan, measure: str | None) -> str:
    """What keeping more would have cost."""
    if facts.more is None:
        return f"no measured count keeps more but all {plan.tokens_in}, the unreduced model"
    text = beside(facts.more, facts.tokens, measure)
    slower = facts.surely_slower
    if slower and slower.tokens != facts.more.tokens:
        name = "the unreduced model" if slower.tokens == plan.tokens_in else f"{slower.tokens} tokens"
        text += f"; the first that surely takes longer is {name}, which {takes(slower)}{and_loses(slower, measure)}"
    return text


def _tread(facts: Why) -> str:
    alone = facts.tread_most == facts.tread_fewest
    text = f"{facts.tokens} tokens lie on no tread with others"
    if not alone:
        text = f"{facts.tokens} tokens lie on the tread {facts.tread_most} to {facts.tread_fewest}"
        text += f" ({facts.tread_counts} counts measured on it)"
    above, below = _step(facts.step_above), _step(facts.step_below)
    if not (above or below):
        return f"{facts.tokens} tokens lie on a slope without steps from {facts.most} to {facts.fewest}"
    if facts.tokens == facts.most:
        return f"{text}; step towards fewer: {below}"
    return f"{text}; step towards more tokens: {above or 'none'}; towards fewer: {below or 'none'}"


def _step(edge: Edge | None) -> str:
    if edge is None:
        return ""
    word = "slower" if edge.height_percent < 0 else "faster"
    return f"{edge.before} → {edge.after}, {number(abs(edge.height_percent), 1)} % {word} beyond it"


def _multiples(facts: Why, measure: str | None) -> str:
    """What the multiples of 8 next to it would have given."""
    parts = []
    for one in facts.multiples:
        own = one.tokens == facts.tokens
        parts.append(f"{one.tokens} is it itself" if own else f"{one.tokens} {takes(one)}{and_loses(one, measure)}")
    missing = join([str(tokens) for tokens in facts.missing_multiples])
    parts += [f"{missing} not measured"] if missing else []
    return f"multiples of 8 next to it: {'; '.join(parts)}" if parts else "no multiple of 8 is near"


def _of_schedule(result: Result, search: ScheduleSearch, chosen: TriedSchedule) -> list[Line]:
    """Of a plan that is no count of the curve: nothing there is its neighbour."""
    limit = result.plan.limits.get("max_drop")
    nearest = schedule_words.nearest(search, chosen, limit if isinstance(limit, float | int) else None)
    images = chosen.accuracy.images if chosen.accuracy else None
    surer = "; ".join(_surer_machine(result))
    return [
        Line("One block", _sentence(schedule_words.against_one_block(search))),
        Line("Nearest", _sentence(nearest)),
        Line("How sure", _sentence("; ".join([*_intervals(result.plan, images), *_steadiness(result)]))),
        *([Line("Surer", _sentence(surer))] if surer else []),
        Line("Measured", _sentence(schedule_words.measured(result, search))),
    ]


def _how_sure(facts: Why, result: Result) -> str:
    return "; ".join([*_intervals(result.plan, facts.images), _told_apart(facts), *_steadiness(result)])


def _intervals(plan: Plan, images: int | None) -> Iterator[str]:
    if plan.verdict == PRUNE:
        yield f"95 % intervals: speedup {interval(plan.speedup_low, plan.speedup_high, 2)}"
        if finite(plan.drop):
            yield f"points lost {interval(plan.drop_low, plan.drop_high, 1)}"
    if images:
        yield f"{number(images, 0)} images"


def _steadiness(result: Result) -> Iterator[str]:
    clocks = (result.environment.details.get("clocks") or {}).get("state") or "not known"
    yield f"clocks {clocks}"
    disturbing = [event.text for event in unrest.events(result.curve) if event.disturbs]
    if result.environment.origin == MEASURED:
        yield _restless(disturbing) if disturbing else "the machine was steady"


def _restless(disturbing: Sequence[str]) -> str:
    more = f" ({len(disturbing) - 1} more in the report)" if len(disturbing) > 1 else ""
    return f"the machine was restless: {disturbing[0].rstrip('.')}{more}"


def _told_apart(facts: Why) -> str:
    name = "it" if facts.tokens != facts.most else "the unreduced model"
    if not facts.ties:
        return f"no neighbour ties with {name}"
    most = facts.ties[0] - facts.tokens
    keeps = f" ({facts.ties[0]} keeps {most} more)" if most > 0 else ""
    return f"the intervals can't tell {_counts(facts.ties)} from {name}{keeps}"


def _counts(counts: Sequence[int]) -> str:
    if len(counts) <= NAMED:
        return join([str(tokens) for tokens in counts])
    return f"{counts[0]} to {counts[-1]} ({len(counts)} counts)"


def _surer(facts: Why, result: Result) -> Iterator[str]:
    """What would narrow the answer, with what to type."""
    yield from _surer_machine(result)
    if result.environment.origin != MEASURED:
        return
    if facts.ties:
        yield "ties: repeat with --interval 0.5 --point-seconds 4 and another --out"
    if images := _images(facts, result):
        yield images


def _surer_machine(result: Result) -> Iterator[str]:
    if result.environment.origin != MEASURED:
        yield "measure on the device itself (offline_compute there, or --device ssh://USER@HOST)"
        return
    clocks = result.environment.details.get("clocks") or {}
    if clocks.get("state") != "locked" and clocks.get("remedy"):
        yield f"clocks: {clocks['remedy']}"


def _images(facts: Why, result: Result) -> str:
    """More images, where the next faster count fails by its interval alone."""
    following, most = facts.next_faster, result.plan.limits.get("max_drop")
    if result.accuracy is None:
        return "loss: give --data DIR, for it was not measured"
    point = next((one for one in result.accuracy.points if following and one.tokens == following.tokens), None)
    if point is None or not isinstance(most, float | int) or point.drop_high <= most:
        return ""
    needed = images_needed(point, most)
    return f"loss at {point.tokens}: about --images {needed} would tell, if there are so many" if needed else ""


def _measured(facts: Why, measure: str | None) -> str:
    counts = f"{facts.counts} counts from {facts.most} to {facts.fewest}"
    latency = (
        f"latency at all {counts}" if not facts.between else f"latency at {counts}, not at {facts.between} between"
    )
    if measure is None:
        return _sentence(f"{latency}; accuracy was not measured")
    return _sentence(f"{latency}; {measure} at {facts.accuracies} of them")
