"""The page's sentences: the verdict, and what the reader must know before believing a number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from pomt_edge.records import RECORDED, SIMULATED, Plan, Result
from pomt_edge.report import unrest
from pomt_edge.report.chart import Axis, Chart
from pomt_edge.report.numerals import finite, interval, join, number
from pomt_edge.simulator import error

QUIET = ("locked", SIMULATED, RECORDED)
"""States of the clocks that need no warning; what is not measured has one of its own."""
NAMED = 5
"""Unreadable images that are named; the rest are counted."""

PROBE_LABEL = "The paper's probe: random tokens dropped at the input, not the model that will be deployed"


@dataclass(frozen=True)
class Verdict:
    """One sentence in two halves: what to do, and what that gives."""

    lead: str
    rest: str

    @property
    def sentence(self) -> str:
        return f"{self.lead} {self.rest}".strip()


@dataclass(frozen=True)
class Callout:
    label: str
    text: str
    warns: bool = False


def measure_of(result: Result) -> str | None:
    """'accuracy' or 'agreement' where the run measured one; every label on the page follows this word."""
    return result.accuracy.measure if result.accuracy is not None else None


def title(plan: Plan, device: str) -> str:
    mode = f" in {plan.power_mode}" if plan.power_mode else ""
    return f"{plan.model}, batch {plan.batch_size}, {device}{mode}"


def verdict(result: Result) -> Verdict:
    return verdict_of(result.plan, measure_of(result))


def verdict_of(plan: Plan, measure: str | None) -> Verdict:
    """`measure`: 'accuracy', 'agreement', or None where neither was measured."""
    if plan.verdict == "prune" and plan.probe == "input":
        gain = f"{_speed(plan)}{_loss(plan, measure)}; not what pruning {where(plan)} gives."
        return Verdict(f"Probe, {plan.removed} of {plan.tokens_in} tokens dropped at the input:", gain)
    if plan.verdict == "prune":
        gain = f"{_speed(plan)}{_loss(plan, measure)}."
        return Verdict(f"Remove R={plan.removed} of {plan.tokens_in} tokens {where(plan)}:", gain)
    leads = {"keep": "Do not prune:", "unreachable": "No token count meets the limits:"}
    return Verdict(leads.get(plan.verdict, f"{plan.verdict}:"), _stopped(plan.because))


def where(plan: Plan) -> str:
    if all(plan.schedule) and plan.is_even:
        return "in every block"
    reducing = [(str(block), removed) for block, removed in enumerate(plan.schedule) if removed]
    blocks = [block if plan.is_even else f"{block} ({removed})" for block, removed in reducing]
    return f"in blocks {join(blocks)}" if len(blocks) > 1 else f"in block {plan.block}"


def schedule_search(result: Result) -> str:
    """What the search of a schedule came to, against the swept block alone; nothing where none was searched."""
    search = result.schedules
    if search is None:
        return ""
    sentences = [_stopped(search.because[:1].upper() + search.because[1:])]
    if search.chosen is not None:
        plan, single = result.plan, search.single
        pruned = single.verdict == "prune"
        alone = f"{_speed(single)} {where(single)} alone" if pruned else f"no plan of block {single.block} alone"
        sentences.append(f"{_speed(plan)} against {alone}.")
    if search.error_percent is not None:
        tried = sum(one.latency is not None for one in search.tried)
        sentences.append(
            f"The latencies foreseen were {number(search.error_percent, 1)} % off in the median of {tried} measured."
        )
    return " ".join(sentences)


def _stopped(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _speed(plan: Plan) -> str:
    within = _bracketed(interval(plan.speedup_low, plan.speedup_high, 2))
    word = "faster" if plan.speedup >= 1 else "the speed, which is slower"
    return f"{number(plan.speedup, 2)}x {word}{within}"


def _loss(plan: Plan, measure: str | None) -> str:
    if measure is None:
        return "; accuracy was not measured"
    if plan.drop is None or not finite(plan.drop):
        return f"; {measure} was not measured at this count"
    gained = round(plan.drop, 1) < 0
    low, high = (_minus(plan.drop_high), _minus(plan.drop_low)) if gained else (plan.drop_low, plan.drop_high)
    within = _bracketed(interval(low, high, 1))
    points = "points of agreement" if measure == "agreement" else "points"
    return f", {number(abs(plan.drop), 1)} {points} {'gained' if gained else 'lost'}{within}"


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _bracketed(text: str) -> str:
    return f" ({text})" if text else ""


def callouts(result: Result) -> list[Callout]:
    """What a reader must see before the numbers, the most limiting first."""
    found = [*origin(result), *_steadiness(result), *_quality(result)]
    return found + [Callout("Note", note) for note in result.notes]


def origin(result: Result) -> list[Callout]:
    """What is said of latencies that are not the device's, or not of the model that is deployed."""
    found = []
    if "input" in (result.plan.probe, result.curve.probe):
        found.append(Callout("Probe", PROBE_LABEL, warns=True))
    kind = result.environment.origin
    if kind == SIMULATED:
        found.append(Callout("Simulated", _simulated(result), warns=True))
    if kind == RECORDED:
        details = result.environment.details
        text = f"The latencies were recorded on {result.environment.device_name.removesuffix(' (recorded)')}, not here"
        how = "; ".join(str(details[name]) for name in ("reduction", "samples", "products") if details.get(name))
        found.append(Callout("Recorded", f"{text}: {how}." if how else f"{text}.", warns=True))
    return found


def _simulated(result: Result) -> str:
    details = result.environment.details
    known = details.get("simulator_error")
    sentences = ["No device was measured: an analytic model made these latencies.", *details.get("assumed", [])]
    sentences += [error.in_words(known), "Measure before you deploy."] if known else []
    return " ".join(sentences)


def _steadiness(result: Result) -> list[Callout]:
    """The state of the clocks, and what moved while they were as they were."""
    found = []
    if clocks := result.environment.details.get("clocks"):
        sentence = unrest.clock_sentence(clocks).removeprefix("clocks: ")
        found.append(Callout("Clocks", sentence, warns=clocks.get("state") not in QUIET))
    if warning := unrest.warning(result):
        found.append(Callout("Restless", warning, warns=True))
    return found


def _quality(result: Result) -> list[Callout]:
    if result.accuracy is None:
        text = "Accuracy was not measured; this is about latency alone."
        return [Callout("Not measured", text, warns=True)]
    found = []
    if result.accuracy.measure == "agreement":
        meaning = "The share of images given the top class that the unreduced model gives; no labels were used."
        found.append(Callout("Agreement", meaning))
    if skipped := result.accuracy.skipped:
        named = ", ".join(PurePath(path).name for path in skipped[:NAMED])
        more = ", …" if len(skipped) > NAMED else ""
        text = f"{len(skipped)} image{_s(len(skipped))} could not be read: {named}{more}."
        found.append(Callout("Skipped", text, warns=True))
    return found


def caption(result: Result, chart: Chart | None) -> str:
    """What the picture alone would leave a reader to guess."""
    if chart is None:
        return ""
    counts, out = len(result.curve.points), chart.clipped
    sentences = [f"{counts} count{_s(counts)} of tokens.", _start("latency", chart.latency, "ms")]
    if chart.quality is not None:
        sentences.append(_start(measure_of(result) or "", chart.quality, "%"))
    if out:
        sentences.append(f"{out} interval{_s(out)} run{'' if out > 1 else 's'} beyond the latency axis.")
    return " ".join(filter(None, sentences))


def _start(name: str, axis: Axis, unit: str) -> str:
    text = number(axis.low, axis.decimals).rstrip("0").rstrip(".") if axis.decimals else number(axis.low, 0)
    return f"The {name} axis starts at {text} {unit}, not at zero." if axis.low else ""


def _s(count: int) -> str:
    return "" if count == 1 else "s"
