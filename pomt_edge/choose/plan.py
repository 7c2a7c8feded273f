"""From a curve, its efficient set and the limits to a decision, and from a decision to a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pomt_edge.choose import refusal, search
from pomt_edge.choose.ratio import speedup_of
from pomt_edge.choose.search import AccuracyAt
from pomt_edge.records import MEASURED, AccuracyPoint, LatencyCurve, Plan, Refusal


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

    def floor(self, full: int) -> int:
        """The fewest tokens that may stay of so many."""
        return math.ceil((self.keep or 0.0) * full - 1e-9)


@dataclass(frozen=True)
class Decision:
    tokens: int
    verdict: str
    """'prune', 'keep' or 'unreachable'; see `Plan.verdict`."""
    because: str
    refusal: Refusal | None = None
    """Where the verdict is 'keep': the same reason, as figures."""


def _keep(curve: LatencyCurve, reason: Refusal) -> Decision:
    return Decision(curve.baseline.tokens, "keep", reason.because, reason)


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
    floor = limits.floor(full)
    faster = [tokens for tokens in efficient if floor <= tokens < full]
    if limits.budget_ms is not None:
        return _by_budget(curve, efficient, floor, limits.budget_ms, accuracy_at)
    if len(efficient) == 1:
        return _keep(curve, refusal.none_faster(curve))
    if not faster:
        return _keep(curve, refusal.below_floor(curve, efficient[1], floor))
    if accuracy_at is None:
        return _by_keep(faster, floor)
    if limits.alpha is not None:
        return _by_utility(curve, [full, *faster], limits.alpha, accuracy_at)
    assert limits.max_drop is not None
    return _by_drop(curve, faster, limits.max_drop, accuracy_at, known)


def settled(curve: LatencyCurve, decision: Decision, limits: Limits) -> Decision:
    """The decision, or 'keep' where the count, measured again, is not surely faster than the unreduced model.

    A budget is met or not, whatever the gain.
    """
    if decision.verdict != "prune" or limits.budget_ms is not None:
        return decision
    if speedup_of(curve, decision.tokens)[1] > 1:
        return decision
    return _keep(curve, refusal.not_confirmed(curve, decision.tokens))


def _by_keep(faster: list[int], floor: int) -> Decision:
    return Decision(
        faster[-1],
        "prune",
        f"{faster[-1]} is the fastest count that keeps at least {floor} tokens; accuracy was not measured",
    )


def _by_drop(
    curve: LatencyCurve,
    faster: list[int],
    max_drop: float,
    accuracy_at: AccuracyAt,
    known: Iterable[AccuracyPoint],
) -> Decision:
    chosen = search.fastest_within_drop(faster, max_drop, accuracy_at, known)
    if chosen is None:
        return _keep(curve, refusal.too_costly(curve, accuracy_at(faster[0]), max_drop))
    because = f"{chosen} is the fastest count whose loss is surely within {max_drop:g} points"
    beyond = faster[faster.index(chosen) + 1 :]
    if beyond:
        because += f"; the next faster one, {_loss(accuracy_at(beyond[0]))}"
    return Decision(chosen, "prune", because)


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
        return _keep(curve, refusal.within_budget(curve, budget_ms))
    claim = "most accurate" if accuracy_at else "largest"
    return Decision(chosen, "prune", f"{chosen} is the {claim} count whose latency is surely within {budget_ms:g} ms")


def _by_utility(curve: LatencyCurve, candidates: list[int], alpha: float, accuracy_at: AccuracyAt) -> Decision:
    chosen = search.largest_utility(curve.points, candidates, alpha, accuracy_at)
    if chosen == curve.baseline.tokens:
        return _keep(curve, refusal.by_utility(curve, candidates[1], accuracy_at(candidates[1]), alpha))
    return Decision(chosen, "prune", f"{chosen} tokens have the largest utility at alpha {alpha:g}")


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
