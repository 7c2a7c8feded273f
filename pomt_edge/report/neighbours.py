"""What another count or schedule would have cost beside the plan's, in words."""

from __future__ import annotations

import math

from pomt_edge.choose.why import Neighbour
from pomt_edge.records import Plan
from pomt_edge.report.numerals import finite, interval, number, signed


def takes(one: Neighbour) -> str:
    """Its latency against the plan's."""
    if one.ties:
        return f"takes as long within the intervals ({signed(one.change_low, 1)} to {signed(one.change_high, 1)} %)"
    if one.change_percent < 0:
        return f"takes {number(-one.change_percent, 1)} % less time ({interval(-one.change_high, -one.change_low, 1)})"
    return f"takes {number(one.change_percent, 1)} % more time ({interval(one.change_low, one.change_high, 1)})"


def loses(drop: float | None, low: float | None, high: float | None) -> str:
    return f"loses {number(drop, 1)} points ({interval(low, high, 1)})"


def and_loses(one: Neighbour, measure: str | None) -> str:
    """To follow `takes`; nothing where neither accuracy nor agreement was measured in the run."""
    if measure is None:
        return ""
    if not finite(one.drop):
        return f", {measure} not measured there"
    return f", {loses(one.drop, one.drop_low, one.drop_high)}"


def beyond_drop(drop: float, high: float, most: float) -> str:
    """How a loss stands to the limit; nothing where it is surely within."""
    if high <= most:
        return ""
    return f", more than {most:g}" if drop > most else f", which is not surely within {most:g}"


def beside(one: Neighbour, tokens: int, measure: str | None) -> str:
    keeps = f"keeps {abs(one.tokens - tokens)} {'more' if one.tokens > tokens else 'fewer'}"
    text = f"the next measured count, {one.tokens} tokens{gap(one, tokens)}, {keeps}, {takes(one)}"
    return text + and_loses(one, measure)


def gap(one: Neighbour | None, tokens: int) -> str:
    """Which counts between it and the plan's were not measured."""
    if one is None or abs(one.tokens - tokens) < 2:
        return ""
    step = 1 if one.tokens > tokens else -1
    first, last = tokens + step, one.tokens - step
    return f" ({first} not measured)" if first == last else f" ({first} to {last} not measured)"


def beyond(one: Neighbour, plan: Plan) -> str:
    """Which limit keeps the plan from that count."""
    keep, most, alpha = (plan.limits.get(name) for name in ("keep", "max_drop", "alpha"))
    if isinstance(keep, float | int) and one.tokens < keep * plan.tokens_in:
        return f", and is below the {math.ceil(keep * plan.tokens_in - 1e-9)} that have to stay"
    if isinstance(most, float | int) and one.drop is not None and one.drop_high is not None and one.drop_high > most:
        return beyond_drop(one.drop, one.drop_high, most)
    if plan.limits.get("budget_ms") is not None:
        return "; the budget is met without it"
    return ", and its utility is smaller" if alpha is not None else ""
