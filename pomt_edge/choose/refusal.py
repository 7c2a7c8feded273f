"""Why not to prune, classified from what was measured; each reason is one sentence with the deciding figures."""

from __future__ import annotations

import dataclasses
import math

from pomt_edge.choose.ratio import speedup_of
from pomt_edge.records import AccuracyPoint, LatencyCurve, LatencyPoint, Refusal

FLAT, SLOWER, NOISY = "flat", "slower", "noisy"
"""No count is surely faster: latency hardly changes, it rises on the way, or the intervals can't tell."""
FLOOR, COSTLY, UNPROVEN = "floor", "costly", "unproven"
"""What is surely faster keeps too few tokens, or loses too much, or may: the images are too few to prove it."""
NOT_CONFIRMED = "not confirmed"
"""What looked faster was not when it was measured again."""
BUDGET, UTILITY = "budget", "utility"
"""Nothing needs to be removed, or removing is not worth it at this alpha."""
FLAT_PERCENT = 5.0
"""Of latency: removing most of the tokens changes it surely by no more than this."""


def images_needed(point: AccuracyPoint, max_drop: float) -> int | None:
    """About how many images would prove the loss, were its estimate to stay; None: no number of them would."""
    spare = max_drop - point.drop
    if spare <= 0:
        return None
    # The interval narrows with the root of the images.
    return math.ceil(point.images * ((point.drop_high - point.drop) / spare) ** 2)


def none_faster(curve: LatencyCurve) -> Refusal:
    """No count is surely faster than the unreduced model; the fewest tokens measured tell which kind it is."""
    fewest = curve.points[-1]
    speedup, low, high = speedup_of(curve, fewest.tokens)
    takes = f"the fewest tokens measured, {_of(curve, fewest.tokens)}, take {_less(speedup, low, high)}"
    claim = "no count is faster than the unreduced model by more than the intervals"
    slowest = max(curve.points[1:], key=lambda point: point.median_ms)
    if _percent_more(curve, slowest) > FLAT_PERCENT and speedup_of(curve, slowest.tokens)[2] < 1:
        text = f"{claim}: pruning is slower, {slowest.tokens} tokens take {_less(*speedup_of(curve, slowest.tokens))}"
        text += f", and {takes}" if slowest is not fewest else ""
        found = _refusal(curve, SLOWER, fewest.tokens, text)
        percent = _percent_more(curve, slowest)
        return dataclasses.replace(found, slower_tokens=slowest.tokens, slower_percent=percent)
    if max(abs(100 * (1 - 1 / end)) for end in (low, high)) <= FLAT_PERCENT:
        text = f"{claim}: {takes}, so the time goes into something else than tokens, such as launching kernels"
        return _refusal(curve, FLAT, fewest.tokens, text)
    return _refusal(curve, NOISY, fewest.tokens, f"{claim}: {takes}, and the intervals are too wide to tell")


def below_floor(curve: LatencyCurve, first: int, floor: int) -> Refusal:
    """`first`: the first count that is surely faster; `floor`: the fewest tokens that may stay."""
    text = f"{_first(curve, first)}, is below the {floor} that have to stay"
    return _refusal(curve, FLOOR, first, _slower_before(curve, first) + text)


def too_costly(curve: LatencyCurve, first: AccuracyPoint, max_drop: float) -> Refusal:
    """`first`: the accuracy at the first count that is surely faster."""
    lead = f"{_slower_before(curve, first.tokens)}{_first(curve, first.tokens)}, {_loses(first)}"
    if first.drop > max_drop:
        refused = _refusal(curve, COSTLY, first.tokens, f"{lead}; the limit is {max_drop:g}")
    else:
        text = f"{lead}; the limit is {max_drop:g}, which {first.images} images can't prove: give more (--images)"
        refused = _refusal(curve, UNPROVEN, first.tokens, text)
    return dataclasses.replace(refused, drop=first.drop, drop_low=first.drop_low, drop_high=first.drop_high)


def not_confirmed(curve: LatencyCurve, tokens: int) -> Refusal:
    """`tokens`: the choice, which is not surely faster now that it was measured again."""
    speedup, low, high = speedup_of(curve, tokens)
    text = (
        f"{tokens} tokens, the choice by the limits, are not faster than the unreduced model by more than the "
        f"interval: {speedup:.2f}x ({low:.2f} to {high:.2f}), measured again side by side"
    )
    return _refusal(curve, NOT_CONFIRMED, tokens, text)


def within_budget(curve: LatencyCurve, budget_ms: float) -> Refusal:
    base = curve.baseline
    return Refusal(
        BUDGET,
        f"the unreduced model is within {budget_ms:g} ms already: it takes {base.median_ms:.4g} ms "
        f"({base.low_ms:.4g} to {base.high_ms:.4g})",
    )


def by_utility(curve: LatencyCurve, first: int, accuracy: AccuracyPoint, alpha: float) -> Refusal:
    """`first`: the first count that is surely faster, and `accuracy` there."""
    full = curve.baseline.tokens
    text = f"all {full} tokens have the largest utility at alpha {alpha:g}; {_first(curve, first)}, {_loses(accuracy)}"
    refused = _refusal(curve, UTILITY, first, text)
    return dataclasses.replace(refused, drop=accuracy.drop, drop_low=accuracy.drop_low, drop_high=accuracy.drop_high)


def _refusal(curve: LatencyCurve, kind: str, tokens: int, because: str) -> Refusal:
    slowest = _slowest_before(curve, tokens)
    return Refusal(
        kind,
        because,
        tokens,
        *speedup_of(curve, tokens),
        slower_tokens=slowest.tokens if slowest else None,
        slower_percent=_percent_more(curve, slowest) if slowest else None,
    )


def _slowest_before(curve: LatencyCurve, tokens: int) -> LatencyPoint | None:
    """Of the counts that keep more, the slowest, if it is surely slower than the unreduced model."""
    before = [point for point in curve.points[1:] if point.tokens > tokens]
    slowest = max(before, key=lambda point: point.median_ms, default=None)
    return slowest if slowest and speedup_of(curve, slowest.tokens)[2] < 1 else None


def _percent_more(curve: LatencyCurve, point: LatencyPoint) -> float:
    return 100 * (point.median_ms / curve.baseline.median_ms - 1)


def _slower_before(curve: LatencyCurve, first: int) -> str:
    slowest = _slowest_before(curve, first)
    if slowest is None:
        return ""
    last = min(point.tokens for point in curve.points if point.tokens > first)
    takes = _less(*speedup_of(curve, slowest.tokens))
    return f"down to {last} tokens pruning does not pay, {slowest.tokens} take {takes}; "


def _first(curve: LatencyCurve, tokens: int) -> str:
    speedup, low, high = speedup_of(curve, tokens)
    return f"the first surely faster count, {_of(curve, tokens)} ({speedup:.2f}x, {low:.2f} to {high:.2f})"


def _of(curve: LatencyCurve, tokens: int) -> str:
    return f"{tokens} of {curve.baseline.tokens}"


def _less(speedup: float, low: float, high: float) -> str:
    """'6.7 % more time (6.5 to 6.9)', or less; of the unreduced model's latency."""
    less, least, most = (100 * (1 - 1 / value) for value in (speedup, low, high))
    if less < 0:
        return f"{_tenths(-less)} % more time ({_tenths(-most)} to {_tenths(-least)})"
    return f"{_tenths(less)} % less time ({_tenths(least)} to {_tenths(most)})"


def _tenths(value: float) -> str:
    # Adding 0.0 turns the -0.0 that rounding can leave into 0.0.
    return f"{round(value, 1) + 0.0:.1f}"


def _loses(point: AccuracyPoint) -> str:
    low, high = _tenths(point.drop_low), _tenths(point.drop_high)
    return f"loses {_tenths(point.drop)} points ({low} to {high})"
