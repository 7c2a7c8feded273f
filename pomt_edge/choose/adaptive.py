"""Which counts to measure next, so that few lead to the plan that all of them would have led to.

The order: latency on a coarse skeleton, which tells whether anything is faster at all; the boundary of what the limits
allow, by accuracy or by latency; latency at the counts above the boundary and at the tiles above those, for the fastest
count allowed need not be the one with the fewest tokens; the largest count that is as fast as the fastest, which is its
tread's right edge; and what decides again, until its intervals separate. Nothing is kept here: asked again with what is
known, it asks for the same, so that what was interrupted goes on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from pomt_edge.choose import search, staircase
from pomt_edge.choose.efficient import efficient
from pomt_edge.choose.plan import Limits
from pomt_edge.records import AccuracyPoint, LatencyCurve, LatencyPoint

LATENCY_POINTS, ACCURACY_POINTS = 25, 10
SKELETON = 32
"""Tokens between the skeleton's counts: kernels come in tiles, the largest of 64 and the commonest of 32."""
SKELETON_POINTS = 8
"""Of a model with more tokens the skeleton is as many times wider."""
WINDOW = 8
"""Counts above a boundary that are all measured: one period of the commonest sawtooth."""
TILES = (32, 16, 8)
SURE = 0.0025
"""Half an interval, relative, below which no difference matters any more."""
WORTH = 0.01
"""A gain, relative, that is looked for before more tokens that cost nothing are."""
MOST_BLOCKS = 24
"""Of a count that can't be told from others; then they are taken for equal."""
LOSS_POWER = 2.5
"""The loss grows about with this power of the tokens removed, by which the next guess is made, not the answer."""
CHECKS = 2
"""Accuracy points that the search for a boundary leaves for the counts that turn out fastest."""
BEYOND = (2, 5)
"""Counts beyond a boundary that are tried as well: accuracy is only nearly monotone."""


class Bench(Protocol):
    """What measures for a search, and knows what was measured."""

    def latency(self, counts: Sequence[int], why: str) -> None:
        """Measure those of these counts that are not known yet."""

    def again(self, counts: Sequence[int], why: str) -> None:
        """One more block of each."""

    def points(self) -> dict[int, LatencyPoint]:
        """What is known of latency, of the unreduced model too; a count that can't be measured has no point."""

    def accuracy(self, tokens: int, why: str) -> AccuracyPoint:
        """The accuracy at a count, measured or recalled."""


def best_known(
    counts: Sequence[int], limits: Limits, points: Mapping[int, LatencyPoint], known: Mapping[int, AccuracyPoint]
) -> int | None:
    """The choice among what a search that was stopped knows already; None: it knows of none."""
    full = counts[0]
    allowed = [tokens for tokens in counts if tokens in points and tokens >= limits.floor(full)]
    if limits.budget_ms is not None:
        return max((tokens for tokens in allowed if points[tokens].high_ms <= limits.budget_ms), default=None)
    if limits.alpha is not None:
        asked = [tokens for tokens in allowed if tokens in known]
        if full not in asked:
            return None
        best = search.largest_utility(list(points.values()), asked, limits.alpha, known.__getitem__)
        return None if best == full else best
    if limits.max_drop is not None:
        within = {tokens for tokens, point in known.items() if point.drop_high <= limits.max_drop}
        allowed = [tokens for tokens in allowed if tokens in within]
    best = efficient(points[tokens] for tokens in {full, *allowed})[-1]
    return None if best == full else best


class Explorer:
    """One search. At most `LATENCY_POINTS` counts are asked for their latency, the unreduced model included, and
    `ACCURACY_POINTS` for their accuracy, however often the choice is asked for.
    """

    def __init__(self, counts: Sequence[int], limits: Limits, bench: Bench) -> None:
        """`counts`: what there is to choose from, most tokens first; the first is the unreduced model."""
        self._full = counts[0]
        self._first = counts[1]
        self._allowed = [tokens for tokens in counts[1:] if tokens >= limits.floor(counts[0])]
        self._limits = limits
        self._bench = bench
        self._timed: set[int] = set()
        self._judged: dict[int, AccuracyPoint] = {}

    def choice(self) -> int | None:
        """Measure what decides, and give the choice by what is known then; asked again, it may have become another.

        None: no count is faster than the unreduced model within the limits.
        """
        self._judged = {tokens: self._bench.accuracy(tokens, "again") for tokens in self._judged}
        coarse = skeleton(self._allowed) or [self._first]
        self._time([self._full, *coarse], "the ends, and tiles between them")
        if not self._allowed:
            return None
        if self._limits.budget_ms is not None:
            return self._within_budget(self._limits.budget_ms)
        if self._limits.alpha is not None:
            return self._by_utility(self._limits.alpha)
        if self._limits.max_drop is not None:
            return self._within_drop(self._limits.max_drop)
        return self._fastest(self._allowed)

    # What is asked of the bench

    def _time(self, counts: Iterable[int], why: str, spare: int = 0) -> None:
        """Latency at as many of these as the number of points leaves, the first ones first; `spare`: left for later."""
        new = [tokens for tokens in dict.fromkeys(counts) if tokens not in self._timed]
        taken = new[: max(LATENCY_POINTS - spare - len(self._timed), 0)]
        self._timed.update(taken)
        if taken:
            self._bench.latency(taken, why)

    def _accuracy(self, tokens: int, why: str, spare: int = 0) -> AccuracyPoint | None:
        """None: no more points but those left for later."""
        if tokens not in self._judged:
            if len(self._judged) >= ACCURACY_POINTS - spare:
                return None
            self._judged[tokens] = self._bench.accuracy(tokens, why)
        return self._judged[tokens]

    def _fits(self, tokens: int, why: str, spare: int = 0) -> bool | None:
        point = self._accuracy(tokens, why, spare)
        return None if point is None else point.drop_high <= (self._limits.max_drop or 0.0)

    # A limit on the loss

    def _within_drop(self, max_drop: float) -> int | None:
        """The fastest count whose accuracy was measured and fits; beyond the boundary, where points are left, too."""
        good, bad = self._boundary(max_drop, -1, len(self._allowed), CHECKS)
        chosen = self._fastest_that_fits(good)
        further, bad = self._boundary(max_drop, good, bad, 0)
        for place in (further, *(bad + step for step in BEYOND)):
            if good < place < len(self._allowed) and self._fits(self._allowed[place], "beyond the boundary"):
                self._time([self._allowed[place]], "beyond the boundary")
                chosen = self._fastest_that_fits(place)
        return chosen

    def _fastest_that_fits(self, last: int) -> int | None:
        open_to = [tokens for tokens in self._allowed[: last + 1] if self._is_open(tokens)]
        while open_to:
            chosen = self._fastest(open_to)
            if chosen is None or self._fits(chosen, "the fastest"):
                return chosen
            # Without points left only those that are known to fit are left.
            spent = chosen not in self._judged
            open_to = [tokens for tokens in open_to if tokens in self._judged or not spent]
            open_to = [tokens for tokens in open_to if self._is_open(tokens)]
        return None

    def _is_open(self, tokens: int) -> bool:
        """Whether it is not known to be beyond the limit."""
        point = self._judged.get(tokens)
        return point is None or point.drop_high <= (self._limits.max_drop or 0.0)

    def _boundary(self, max_drop: float, good: int, bad: int, spare: int) -> tuple[int, int]:
        """Places of the last count that fits and the first that doesn't, if the loss were monotone.

        By guesses between the two, every second in the middle: guesses alone may creep. `spare`: points left for later.
        """
        asked = 0
        while bad - good > 1:
            place = (good + bad) // 2 if asked % 2 else self._guess(good, bad, max_drop)
            asked += 1
            fits = self._fits(self._allowed[place], "the limit's boundary", spare)
            if fits is None:
                break
            good, bad = (place, bad) if fits else (good, place)
        return good, bad

    def _guess(self, good: int, bad: int, max_drop: float) -> int:
        """A place strictly between: where the loss would reach the limit if it grew as it does as a rule."""
        known = [self._judged[self._allowed[place]] for place in (good, bad) if 0 <= place < len(self._allowed)]
        if not any(point.drop > 0 for point in known):
            return (good + bad) // 2
        low, high = (0.0, 0.0), self._bent(known[-1])
        if len(known) == 2:
            low = self._bent(known[0])
        aim = max(max_drop - min(point.drop_high - point.drop for point in known), 0.0) ** (1 / LOSS_POWER)
        share = (aim - low[1]) / max(high[1] - low[1], 1e-9)
        wanted = self._full - (low[0] + share * (high[0] - low[0]))
        return min(range(good + 1, bad), key=lambda place: abs(self._allowed[place] - wanted))

    def _bent(self, point: AccuracyPoint) -> tuple[float, float]:
        """Tokens removed, and the loss as it would lie on a line."""
        return float(self._full - point.tokens), max(point.drop, 0.0) ** (1 / LOSS_POWER)

    # The fastest of some counts

    def _fastest(self, open_to: Sequence[int]) -> int | None:
        """The largest of the fastest counts; None: none is faster than the unreduced model."""
        spare = len(BEYOND)
        self._time(neighbourhood(open_to), "the boundary, one period above it, and the tiles above that", spare)
        if self._ragged(open_to[-1 - WINDOW :]):
            self._time(reversed(open_to[-1 - 2 * WINDOW :]), "another period: fewer tokens were slower", spare)
        chosen = self._decided(open_to)
        while chosen is not None and (further := self._worth_a_look(chosen, open_to)):
            before = len(self._timed)
            self._time(further[len(further) // 2 :][:1], "the tread's end", spare)
            if len(self._timed) == before:
                break
            chosen = self._decided(open_to)
        return chosen

    def _worth_a_look(self, chosen: int, open_to: Sequence[int]) -> list[int]:
        """Counts that may be better, between two that are known: a slope's end, or more tokens for nothing.

        Where latency falls along a tread and rises behind it, the fastest count is the tread's last.
        """
        gain, ending = self._slopes_end(chosen, open_to)
        above = self._between(chosen, open_to)
        if above and gain < WORTH:
            return above
        return ending if gain > 2 * SURE else []

    def _slopes_end(self, chosen: int, open_to: Sequence[int]) -> tuple[float, list[int]]:
        """The largest gain over the choice that a slope's end may have, relative, and the counts among which it is."""
        points = self._bench.points()
        slope = staircase.fit(LatencyCurve(tuple(points.values()))).slope_ms_per_token
        best, found = 0.0, list[int]()
        known = [tokens for tokens in (self._full, *open_to) if tokens in points]
        for more, fewer in itertools.pairwise(known):
            between = [tokens for tokens in open_to if fewer < tokens < more and tokens not in self._timed]
            at_best_ms = points[more].median_ms - slope * len(between)
            gain = 1 - at_best_ms / points[chosen].median_ms
            if between and points[fewer].low_ms > at_best_ms and gain > best:
                best, found = gain, between
        return best, found

    def _ragged(self, counts: Sequence[int]) -> bool:
        """Whether fewer tokens are surely slower somewhere among these neighbours."""
        points = self._bench.points()
        known = [points[tokens] for tokens in counts if tokens in points]
        return any(fewer.low_ms > more.high_ms for more, fewer in itertools.pairwise(known))

    def _between(self, chosen: int, open_to: Sequence[int]) -> list[int]:
        """Counts between a choice and the next larger one that is known, which were not asked for yet."""
        known = self._bench.points()
        # One that could not be measured bounds as well: its neighbours will hardly do better.
        bounds = {*known, *self._timed}
        next_known = min(tokens for tokens in (self._full, *open_to) if tokens > chosen and tokens in bounds)
        return [tokens for tokens in open_to if chosen < tokens < next_known and tokens not in self._timed]

    def _decided(self, open_to: Sequence[int]) -> int | None:
        """The choice, after what may still change it was measured until it is slower for sure, or as good as equal."""
        while True:
            chosen, rivals = self._rivals(open_to)
            if not rivals:
                return chosen
            self._bench.again(rivals, "too near to one another")

    def _rivals(self, open_to: Sequence[int]) -> tuple[int | None, list[int]]:
        """The choice among what is known, and the counts whose intervals leave open whether they are as fast."""
        points = self._bench.points()
        known = staircase.on_treads(LatencyCurve(tuple(points.values())))
        known = [point for point in known if point.tokens == self._full or point.tokens in open_to]
        chosen = efficient(known)[-1]
        fastest = min(known, key=lambda point: point.median_ms)
        near = [point for point in known if point.low_ms <= fastest.high_ms]
        unsure = [point.tokens for point in near if len(near) > 1 and _is_unsure(point)]
        return (None if chosen == self._full else chosen), unsure

    # A budget

    def _within_budget(self, budget_ms: float) -> int | None:
        """The most tokens whose latency is surely within the budget."""
        if self._most_within(budget_ms) is None:
            self._fastest(self._allowed)  # whether anything is
        largest = self._most_within(budget_ms)
        if largest is not None:
            self._time(tiles_above([tokens for tokens in self._allowed if tokens > largest], largest), "tiles above it")
            largest = self._most_within(budget_ms)
        return largest

    def _most_within(self, budget_ms: float) -> int | None:
        """Bisect between the most tokens that are known to be within and the next known count above them."""
        while True:
            points = self._narrow(budget_ms)
            within = max((tokens for tokens, point in points.items() if point.high_ms <= budget_ms), default=None)
            if within is None or within == self._full:
                return within
            between = self._between(within, self._allowed)
            if not between or len(self._timed) == LATENCY_POINTS:
                return within
            self._time([between[len(between) // 2]], "the budget's boundary")

    def _narrow(self, budget_ms: float) -> dict[int, LatencyPoint]:
        """What is known, after counts whose interval holds the budget were measured until it is narrow."""
        while True:
            points = self._bench.points()
            near = [point for point in points.values() if point.low_ms <= budget_ms < point.high_ms]
            unsure = [point.tokens for point in near if _is_unsure(point)]
            if not unsure:
                break
            self._bench.again(unsure, "too near to the budget")
        return {tokens: point for tokens, point in points.items() if tokens == self._full or tokens in self._allowed}

    # Utility

    def _by_utility(self, alpha: float) -> int | None:
        """Accuracy at the efficient counts of the skeleton, then between the best and its neighbours."""
        while True:
            points = {tokens: p for tokens, p in self._bench.points().items() if tokens in (self._full, *self._allowed)}
            for tokens in _spread(efficient(points.values()), ACCURACY_POINTS - 2):
                self._accuracy(tokens, "its utility")
            asked = sorted((tokens for tokens in self._judged if tokens in points), reverse=True)
            best = search.largest_utility(list(points.values()), asked, alpha, self._judged.__getitem__)
            near = [tokens for tokens in _halfway(self._allowed, asked, best) if tokens not in self._judged]
            if not near or len(self._judged) == ACCURACY_POINTS:
                return None if best == self._full else best
            self._time(near, "beside the largest utility")
            for tokens in near:
                self._accuracy(tokens, "beside the largest utility")


def skeleton(allowed: Sequence[int]) -> list[int]:
    """The ends first; then the last count of each large tile, or the nearest that there is with more tokens."""
    if not allowed:
        return []
    most, fewest = allowed[0], allowed[-1]
    step = SKELETON * math.ceil((most - fewest) / (SKELETON * SKELETON_POINTS) or 1)
    edges = range(most // step * step, fewest, -step)
    return list(dict.fromkeys([most, fewest, *(_at_least(allowed, edge) for edge in edges)]))


def neighbourhood(allowed: Sequence[int]) -> list[int]:
    """The fewest tokens and the counts above them: first the near ones, then the last counts of tiles."""
    fewest = allowed[-1]
    return [*reversed(allowed[-1 - WINDOW :]), *tiles_above(allowed, fewest - 1)]


def tiles_above(allowed: Sequence[int], tokens: int) -> list[int]:
    """The last count of the first tile of each size above so many tokens, and of the second."""
    edges = [(tokens // tile + step) * tile for step in (1, 2) for tile in TILES]
    return [_at_least(allowed, edge) for edge in edges if allowed and edge <= allowed[0]]


def _at_least(allowed: Sequence[int], tokens: int) -> int:
    return min(count for count in allowed if count >= tokens)


def _is_unsure(point: LatencyPoint) -> bool:
    """Whether more blocks would tell more; how many there were is known from the journal, in every process."""
    return (point.high_ms - point.low_ms) / 2 > SURE * point.median_ms and point.blocks < MOST_BLOCKS


def _spread(counts: Sequence[int], most: int) -> list[int]:
    """Evenly chosen, both ends among them."""
    if len(counts) <= most:
        return list(counts)
    return [counts[round(place * (len(counts) - 1) / (most - 1))] for place in range(most)]


def _halfway(allowed: Sequence[int], asked: Sequence[int], best: int) -> list[int]:
    """The counts in the middle between the best and its neighbours among those asked, most first."""
    found = []
    for neighbours in ([n for n in asked if n > best][-1:], [n for n in asked if n < best][:1]):
        for neighbour in neighbours:
            between = [tokens for tokens in allowed if min(best, neighbour) < tokens < max(best, neighbour)]
            found += between[len(between) // 2 : len(between) // 2 + 1]
    return found
