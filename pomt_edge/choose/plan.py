"""From a curve, its efficient set and the limits to a decision, and from a decision to a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pomt_edge.choose import search
from pomt_edge.choose.search import AccuracyAt
from pomt_edge.records import MEASURED, AccuracyPoint, LatencyCurve, LatencyPoint, Plan


@dataclass(frozen=True)
class Limits:
    """What the choice has to respect; exactly one of `max_drop`, `budget_ms` and `alpha`, or none."""

    max_drop: float | None = None
    """Points of accuracy that may be lost, by the upper end of the loss's 95 % interval."""
    budget_ms: float | None = None
    alpha: float | None = None
    keep: float | None = None
    """The least share of the tokens that stays."""

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Decision:
    tokens: int
    verdict: str
    """'prune', 'keep' or 'unreachable'; see `Plan.verdict`."""
    because: str


def decide(
    curve: LatencyCurve,
    efficient: tuple[int, ...],
    limits: Limits,
    accuracy_at: AccuracyAt | None,
    known: Iterable[AccuracyPoint] = (),
) -> Decision:
    """Choose a count of the curve.

    Args:
        efficient: counts for which no larger count is as fast, most tokens first, the unreduced model first.
        accuracy_at: measures accuracy at a count; None where there is no data.
        known: accuracies measured before, from which the search may start.
    """
    full = curve.baseline.tokens
    floor = math.ceil((limits.keep or 0.0) * full - 1e-9)
    faster = [tokens for tokens in efficient if floor <= tokens < full]
    if limits.budget_ms is not None:
        return _by_budget(curve, efficient, floor, limits.budget_ms, accuracy_at)
    if len(efficient) == 1:
        return Decision(full, "keep", "no count is faster than the unreduced model by more than the intervals")
    if not faster:
        return Decision(full, "keep", f"the first count that is faster, {efficient[1]}, is below the {floor} that stay")
    if accuracy_at is None:
        return _by_keep(faster, floor)
    if limits.alpha is not None:
        return _by_utility(curve, [full, *faster], limits.alpha, accuracy_at)
    assert limits.max_drop is not None
    return _by_drop(full, faster, limits.max_drop, accuracy_at, known)


def settled(curve: LatencyCurve, decision: Decision, limits: Limits) -> Decision:
    """The decision, or 'keep' where the count, measured again, is not surely faster than the unreduced model.

    A budget is met or not, whatever the gain.
    """
    if decision.verdict != "prune" or limits.budget_ms is not None:
        return decision
    speedup, low, high = speedup_of(curve, decision.tokens)
    if low > 1:
        return decision
    because = (
        f"{decision.tokens} tokens, the choice by the limits, are not faster than the unreduced model by more than "
        f"the interval: {speedup:.2f}x ({low:.2f} to {high:.2f}), measured again side by side"
    )
    return Decision(curve.baseline.tokens, "keep", because)


def _by_keep(faster: list[int], floor: int) -> Decision:
    return Decision(
        faster[-1],
        "prune",
        f"{faster[-1]} is the fastest count that keeps at least {floor} tokens; accuracy was not measured",
    )


def _by_drop(
    full: int, faster: list[int], max_drop: float, accuracy_at: AccuracyAt, known: Iterable[AccuracyPoint]
) -> Decision:
    chosen = search.fastest_within_drop(faster, max_drop, accuracy_at, known)
    if chosen is None:
        return Decision(
            full,
            "keep",
            f"the first count that is faster, {_loss(accuracy_at(faster[0]))}; the limit is {max_drop:g}"
            + _too_few_images(accuracy_at(faster[0]), max_drop),
        )
    because = f"{chosen} is the fastest count whose loss is surely within {max_drop:g} points"
    beyond = faster[faster.index(chosen) + 1 :]
    if beyond:
        because += f"; the next faster one, {_loss(accuracy_at(beyond[0]))}"
    return Decision(chosen, "prune", because)


def _too_few_images(point: AccuracyPoint, max_drop: float) -> str:
    """Where the estimate is within the limit and its interval is not, more images are the remedy."""
    if point.drop > max_drop:
        return ""
    return f", which {point.images} images can't prove: give more (--images)"


def _by_budget(
    curve: LatencyCurve, efficient: tuple[int, ...], floor: int, budget_ms: float, accuracy_at: AccuracyAt | None
) -> Decision:
    full = curve.baseline.tokens
    allowed = [point for point in curve.points if point.tokens >= floor]
    chosen = search.most_accurate_within_budget(allowed, efficient, budget_ms, accuracy_at)
    if chosen is None:
        nearest = min(allowed, key=lambda point: point.high_ms)
        return Decision(
            full,
            "unreachable",
            f"no count is within {budget_ms:g} ms; the fastest allowed, {nearest.tokens} tokens, "
            f"takes {nearest.median_ms:.4g} ms (up to {nearest.high_ms:.4g})",
        )
    if chosen == full:
        return Decision(full, "keep", f"the unreduced model is within {budget_ms:g} ms already")
    claim = "most accurate" if accuracy_at else "largest"
    return Decision(chosen, "prune", f"{chosen} is the {claim} count whose latency is surely within {budget_ms:g} ms")


def _by_utility(curve: LatencyCurve, candidates: list[int], alpha: float, accuracy_at: AccuracyAt) -> Decision:
    chosen = search.largest_utility(curve.points, candidates, alpha, accuracy_at)
    verdict = "keep" if chosen == curve.baseline.tokens else "prune"
    return Decision(chosen, verdict, f"{chosen} tokens have the largest utility at alpha {alpha:g}")


def _loss(point: AccuracyPoint) -> str:
    return f"{point.tokens}, loses {point.drop:.1f} points (up to {point.drop_high:.1f})"


@dataclass(frozen=True)
class Subject:
    """What a plan is about."""

    model: str
    method: str
    schedule: tuple[int, ...]
    """Tokens removed in each block."""
    block: int
    """The first block that reduces."""
    batch_size: int
    image_px: int
    precision: str
    engine: str
    device: str
    num_classes: int | None
    origin: str = MEASURED
    power_mode: str | None = None


def make_plan(
    subject: Subject,
    curve: LatencyCurve,
    decision: Decision,
    limits: Limits,
    measure: str | None,
    accuracy_at: AccuracyAt | None,
) -> Plan:
    """The plan's record; every figure in it is one of the curves'."""
    baseline, chosen = curve.baseline, curve.at(decision.tokens)
    removed = baseline.tokens - chosen.tokens
    speedup, low, high = speedup_of(curve, chosen.tokens)
    before = accuracy_at(baseline.tokens) if accuracy_at else None
    after = accuracy_at(chosen.tokens) if accuracy_at else None
    return Plan(
        model=subject.model,
        method=subject.method,
        schedule=subject.schedule,
        tokens_in=baseline.tokens,
        tokens_out=chosen.tokens,
        removed=removed,
        block=subject.block,
        batch_size=subject.batch_size,
        image_px=subject.image_px,
        precision=subject.precision,
        engine=subject.engine,
        device=subject.device,
        baseline_ms=baseline.median_ms,
        predicted_ms=chosen.median_ms,
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        verdict=decision.verdict,
        because=decision.because,
        limits=limits.to_dict(),
        measure=measure,
        baseline_percent=before.percent if before else None,
        predicted_percent=after.percent if after else None,
        drop=after.drop if after else None,
        drop_low=after.drop_low if after else None,
        drop_high=after.drop_high if after else None,
        probe=curve.probe,
        num_classes=subject.num_classes,
        origin=subject.origin,
        power_mode=subject.power_mode,
    )


def speedup_of(curve: LatencyCurve, tokens: int) -> tuple[float, float, float]:
    """Baseline over chosen with its interval: the two points' relative errors add in quadrature."""
    return (1.0, 1.0, 1.0) if curve.baseline.tokens == tokens else ratio(curve.baseline, curve.at(tokens))


def ratio(before: LatencyPoint, after: LatencyPoint) -> tuple[float, float, float]:
    """How many times as fast the second is, with its interval: the two points' relative errors add in quadrature."""
    times = before.median_ms / after.median_ms
    down = math.hypot(math.log(before.median_ms / max(before.low_ms, 1e-9)), math.log(after.high_ms / after.median_ms))
    up = math.hypot(math.log(before.high_ms / before.median_ms), math.log(after.median_ms / max(after.low_ms, 1e-9)))
    return times, times * math.exp(-down), times * math.exp(up)
