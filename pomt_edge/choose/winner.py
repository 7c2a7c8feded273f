"""Which plan is taken of several methods', on one engine or on several.

Methods of one engine are compared by their speedups, each over the unreduced model measured in turn with it. Engines
have unreduced models of their own, so that across engines milliseconds are compared, which the finals measure in turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pomt_edge.records import AccuracyPoint, Final, LatencyPoint, Plan, Result


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a forward of the whole batch, with their 95 % interval."""

    ms: float
    low_ms: float
    high_ms: float

    @classmethod
    def of(cls, point: LatencyPoint) -> Latency:
        return cls(point.median_ms, point.low_ms, point.high_ms)

    def over(self, speedup: float, low: float, high: float) -> Latency:
        """Of what is faster than this by a speedup with its interval; independent errors add in quadrature."""
        ms = self.ms / speedup
        down = math.hypot(_log(self.ms, self.low_ms), _log(high, speedup))
        up = math.hypot(_log(self.high_ms, self.ms), _log(speedup, low))
        return Latency(ms, ms * math.exp(-down), ms * math.exp(up))

    def surely_below(self, other: Latency) -> bool:
        """Whether it is the shorter one by more than both intervals."""
        room = math.hypot(_log(self.high_ms, self.ms), _log(other.ms, other.low_ms))
        return math.log(other.ms / self.ms) > room

    def __str__(self) -> str:
        return f"{self.ms:.4g} ms ({self.low_ms:.4g} to {self.high_ms:.4g})"


def _log(high: float, low: float) -> float:
    # An interval may reach down to 0, which has no logarithm.
    return math.log(high / max(low, high / 100))


@dataclass(frozen=True)
class Contender:
    """A plan that prunes, or the unreduced model of an engine."""

    engine: str
    method: str | None
    """None: the unreduced model."""
    tokens: int
    latency: Latency
    quality: AccuracyPoint | None
    allowed: bool
    """Whether it respects the limits."""
    plan: Plan
    """Its own; of the unreduced model that of any run on its engine."""

    def name(self, several: bool) -> str:
        """As a sentence has it; with `several` engines its own is named."""
        name = self.method or "the unreduced model"
        return f"{name} on {self.engine}" if several else name


def engines_of(results: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(result.plan.engine for result in results))


def unreduced(results: Sequence[Result], finals: Sequence[Final] = ()) -> dict[str, Latency]:
    """The unreduced model on each engine, as the finals have measured it.

    Without finals it is the middle one of its runs' and reaches as far as any of theirs, which were not measured in
    turn.
    """
    found = {}
    for engine in engines_of(results):
        final = [one.latency for one in finals if one.engine == engine and one.method is None]
        runs = [result.curve.baseline for result in results if result.plan.engine == engine and result.curve.points]
        if final:
            found[engine] = Latency.of(final[0])
        elif runs:
            middle = sorted(point.median_ms for point in runs)[len(runs) // 2]
            found[engine] = Latency(middle, min(run.low_ms for run in runs), max(run.high_ms for run in runs))
    return found


def latency_of(plan: Plan, level: Latency, finals: Sequence[Final] = ()) -> Latency:
    """A plan's: as the finals have measured it, else its speedup's share of its engine's unreduced model."""
    what = (plan.engine, plan.method, plan.tokens_out)
    for final in finals:
        if (final.engine, final.method, final.latency.tokens) == what:
            return Latency.of(final.latency)
    return level.over(plan.speedup, plan.speedup_low, plan.speedup_high)


def contenders(results: Sequence[Result], finals: Sequence[Final] = ()) -> list[Contender]:
    """The unreduced model of each engine and every plan that prunes."""
    levels = unreduced(results, finals)
    found = [_unreduced(results, engine, level, bool(finals)) for engine, level in levels.items()]
    for result in results:
        plan = result.plan
        if plan.verdict == "prune":
            latency = latency_of(plan, levels[plan.engine], finals)
            budget_ms = plan.limits.get("budget_ms") if finals else None  # without finals its own run has seen to it
            own = (plan.engine, plan.method, plan.tokens_out)
            found.append(Contender(*own, latency, _quality(result, plan.tokens_out), _within(latency, budget_ms), plan))
    return found


def _unreduced(results: Sequence[Result], engine: str, level: Latency, final: bool) -> Contender:
    own = [result for result in results if result.plan.engine == engine]
    plan = own[0].plan
    known = filter(None, (_quality(result, plan.tokens_in) for result in own))
    verdicts = {result.plan.verdict for result in own}
    # Where runs disagree at the budget's edge, one that reduces comes first.
    by_its_runs = not final and "keep" in verdicts and "prune" not in verdicts
    allowed = by_its_runs or _within(level, plan.limits.get("budget_ms"))
    return Contender(engine, None, plan.tokens_in, level, next(known, None), allowed, plan)


def _quality(result: Result, tokens: int) -> AccuracyPoint | None:
    points = result.accuracy.points if result.accuracy else ()
    return next((point for point in points if point.tokens == tokens), None)


def _within(latency: Latency, budget_ms: float | None) -> bool:
    return budget_ms is None or latency.high_ms <= budget_ms


def finalists(everyone: Sequence[Contender]) -> list[Contender]:
    """Of each engine the unreduced model and the best plan: the best of all is among them."""
    found = []
    for engine in dict.fromkeys(one.engine for one in everyone):
        own = [one for one in everyone if one.engine == engine]
        best = choose([one for one in own if one.method], everyone)
        found += [one for one in own if one.method is None] + ([best] if best else [])
    return found


def choose(candidates: Iterable[Contender], everyone: Sequence[Contender]) -> Contender | None:
    """The best that respects the limits; None where none does.

    With a budget the most accurate, the faster one of two that are as accurate; with alpha the one of the largest
    alpha * (1 - L / max L) + (1 - alpha) * A / max A, the maxima over `everyone`; else the fastest.
    """
    return max(
        (one for one in candidates if one.allowed),
        key=lambda one: _merit(one, everyone, one.plan.limits),
        default=None,
    )


def _merit(one: Contender, everyone: Sequence[Contender], limits: Mapping[str, Any]) -> tuple[float, float]:
    if "budget_ms" in limits:
        # To a tenth, as it is shown: engines round differently, and an image more is no reason to wait longer.
        worth = round(one.quality.percent, 1) if one.quality else one.tokens
        return worth, -one.latency.ms
    if "alpha" in limits:
        return utility(one, everyone, limits["alpha"]), one.tokens
    return -one.latency.ms, one.tokens


def utility(one: Contender, everyone: Sequence[Contender], alpha: float) -> float:
    """The paper's, on one scale for all: alpha * (1 - L / max L) + (1 - alpha) * A / max A."""
    slowest = max(other.latency.ms for other in everyone)
    best = max((other.quality.percent for other in everyone if other.quality), default=0.0) or 1.0
    percent = one.quality.percent if one.quality else 0.0
    return alpha * (1 - one.latency.ms / slowest) + (1 - alpha) * percent / best


def because(best: Contender | None, everyone: Sequence[Contender]) -> str:
    """Why this one, and who may be as good by the intervals; one sentence without its stop."""
    several = len({one.engine for one in everyone}) > 1
    limits = everyone[0].plan.limits
    plans = [one for one in everyone if one.method]
    if best is None:
        what = "no plan that was measured in turn and no unreduced model is" if several else "no method has a count"
        return f"{what} surely within {limits.get('budget_ms', 0):g} ms"
    if best.method is None and not plans and not several:
        return "no method has a count that is surely faster within the limits"
    sentence = f"{best.name(several)} {_claim(best, plans, several)}"
    near = [one.name(several) for one in everyone if one is not best and one.allowed and _as_good(one, best)]
    by = "accuracy" if "budget_ms" in limits else "latency" if several else "speed"
    return f"{sentence}; by the intervals of {by} {', '.join(near)} may be as good" if near else sentence


def _claim(best: Contender, plans: Sequence[Contender], several: bool) -> str:
    limits = best.plan.limits
    took = f": {best.latency}" if several else ""
    if "alpha" in limits:
        return f"has the largest utility at alpha {limits['alpha']:g}{took}"
    if "budget_ms" in limits:
        return f"is the most accurate within {limits['budget_ms']:g} ms{took}"
    if best.method is None:
        return f"is faster than every {'plan' if plans else 'other, and no plan prunes'}{took}"
    return f"is the fastest within the limits{took}"


def _as_good(one: Contender, best: Contender) -> bool:
    """Whether the intervals leave it open which is better; of a utility they are not known."""
    limits = best.plan.limits
    if "alpha" in limits:
        return False
    if "budget_ms" in limits:
        return bool(one.quality and best.quality and one.quality.high >= best.quality.low)
    if one.engine == best.engine and best.method:
        rival = one.plan.speedup_high if one.method else 1.0
        return rival >= best.plan.speedup_low
    return not best.latency.surely_below(one.latency)
