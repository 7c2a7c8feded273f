"""Why a plan removes as many tokens as it does: what its neighbours cost, the steps around it, what is not told apart.

Everything is of counts that were measured: "next" is the next measured one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pomt_edge.choose.ratio import ratio
from pomt_edge.records import AccuracyCurve, AccuracyPoint, LatencyCurve, LatencyPoint, Plan, Record, Segment, Staircase

MULTIPLE = 8
"""Token counts that are often recommended unmeasured, because tensor cores like them."""


@dataclass(frozen=True)
class Neighbour(Record):
    """Another measured count beside the plan's."""

    tokens: int
    median_ms: float
    low_ms: float
    high_ms: float
    change_percent: float
    """Its latency against the plan's count's: negative is faster."""
    change_low: float
    change_high: float
    drop: float | None = None
    """Points lost there; None: not measured."""
    drop_low: float | None = None
    drop_high: float | None = None

    @property
    def ties(self) -> bool:
        """Whether the intervals can't tell it from the plan's count."""
        return self.change_low <= 0 <= self.change_high


@dataclass(frozen=True)
class Edge(Record):
    """A step of the staircase beside the plan's tread."""

    before: int
    """The last measured count on the side of more tokens."""
    after: int
    """The first beyond it."""
    height_percent: float
    """Negative where fewer tokens are slower."""


@dataclass(frozen=True)
class Why(Record):
    """The facts around a plan's count, or, where nothing is removed, around the unreduced model."""

    tokens: int
    next_faster: Neighbour | None
    """Of the efficient set, the next with fewer tokens."""
    more: Neighbour | None
    """The next measured count with more tokens, short of the unreduced model."""
    surely_slower: Neighbour | None
    """The first with more tokens that surely takes longer; it may be the unreduced model."""
    fewer: Neighbour | None
    """The next measured count with fewer tokens."""
    ties: tuple[int, ...]
    """Measured counts, those beside it without a gap, that the intervals can't tell from it, most tokens first."""
    tread_most: int
    tread_fewest: int
    tread_counts: int
    """Counts measured on the tread."""
    step_above: Edge | None
    """Where the tread ends towards more tokens."""
    step_below: Edge | None
    multiples: tuple[Neighbour, ...]
    """The measured multiples of 8 next to it on both sides, and itself if it is one."""
    missing_multiples: tuple[int, ...]
    """Those of them that were not measured."""
    counts: int
    """Counts whose latency was measured."""
    most: int
    fewest: int
    accuracies: int
    """Counts whose accuracy was measured."""
    images: int | None

    @property
    def between(self) -> int:
        """Counts from the most to the fewest that were not measured."""
        return self.most - self.fewest + 1 - self.counts


def why(plan: Plan, curve: LatencyCurve, staircase: Staircase, accuracy: AccuracyCurve | None) -> Why | None:
    """The facts around the plan's count; None where the curve does not hold that count."""
    points = [point for point in curve.points if _usable(point)]
    chosen = next((point for point in points if point.tokens == plan.tokens_out), None)
    if chosen is None:
        return None
    known = {point.tokens: point for point in accuracy.points} if accuracy else {}
    beside = [neighbour(point, chosen, known.get(point.tokens)) for point in points]
    more = [one for one in reversed(beside) if one.tokens > chosen.tokens]
    fewer = [one for one in beside if one.tokens < chosen.tokens]
    place = _tread(staircase.segments, chosen.tokens)
    tread = staircase.segments[place] if place is not None else Segment(chosen.tokens, chosen.tokens, chosen.median_ms)
    near, missing = _multiples(beside, chosen.tokens, plan.tokens_in)
    return Why(
        chosen.tokens,
        next_faster=next((one for one in fewer if one.tokens in staircase.efficient), None),
        more=next((one for one in more if one.tokens < plan.tokens_in), None),
        surely_slower=next((one for one in more if one.change_low > 0), None),
        fewer=fewer[0] if fewer else None,
        ties=_ties(more, fewer, plan.tokens_in),
        tread_most=tread.most_tokens,
        tread_fewest=tread.fewest_tokens,
        tread_counts=sum(tread.fewest_tokens <= point.tokens <= tread.most_tokens for point in points),
        step_above=_edge(staircase, place),
        step_below=_edge(staircase, place + 1) if place is not None else None,
        multiples=near,
        missing_multiples=missing,
        counts=len(points),
        most=points[0].tokens,
        fewest=points[-1].tokens,
        accuracies=len(known),
        images=known[max(known)].images if known else None,
    )


def _usable(point: LatencyPoint) -> bool:
    """A record read from elsewhere may hold what is no latency."""
    return all(math.isfinite(ms) and ms > 0 for ms in (point.median_ms, point.low_ms, point.high_ms))


def neighbour(point: LatencyPoint, chosen: LatencyPoint, known: AccuracyPoint | None) -> Neighbour:
    """What a point costs beside the chosen one; `known`: its accuracy."""
    change, low, high = (100 * (value - 1) for value in ratio(point, chosen))
    loss = (known.drop, known.drop_low, known.drop_high) if known else (None, None, None)
    return Neighbour(point.tokens, point.median_ms, point.low_ms, point.high_ms, change, low, high, *loss)


def _ties(more: Sequence[Neighbour], fewer: Sequence[Neighbour], full: int) -> tuple[int, ...]:
    """Outwards from the plan's count, on each side up to the first that is told apart; not the unreduced model."""
    found = []
    for side in (more, fewer):
        for one in side:
            if not one.ties or one.tokens == full:
                break
            found.append(one.tokens)
    return tuple(sorted(found, reverse=True))


def _tread(segments: Sequence[Segment], tokens: int) -> int | None:
    return next((place for place, s in enumerate(segments) if s.fewest_tokens <= tokens <= s.most_tokens), None)


def _edge(staircase: Staircase, place: int | None) -> Edge | None:
    """The step into the tread at that place."""
    segments = staircase.segments
    if not place or place >= len(segments):
        return None
    after = segments[place].most_tokens
    step = next((step for step in staircase.steps if step.tokens == after), None)
    return Edge(segments[place - 1].fewest_tokens, after, step.height_percent) if step else None


def _multiples(beside: Sequence[Neighbour], tokens: int, full: int) -> tuple[tuple[Neighbour, ...], tuple[int, ...]]:
    """Those measured and those not, of the count itself and the next on both sides below the unreduced model."""
    below, above = (tokens - 1) // MULTIPLE * MULTIPLE, (tokens // MULTIPLE + 1) * MULTIPLE
    wanted = [count for count in (above, tokens - tokens % MULTIPLE, below) if MULTIPLE <= count < full]
    by_tokens = {one.tokens: one for one in beside}
    wanted = sorted(set(wanted), reverse=True)
    return (
        tuple(by_tokens[count] for count in wanted if count in by_tokens),
        tuple(count for count in wanted if count not in by_tokens),
    )
