"""The latency sweep: every point several times, in random order, in short blocks, with an anchor throughout.

A machine whose clocks nobody locked has good and bad seconds that differ by far more than neighbouring counts.
Each block is therefore scaled by the anchor measured around it to the anchor's typical speed: counts are
compared by ratios of interleaved runs. The samples as they were stay in the journal.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pomt_edge.measure import timing
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.records import LatencyCurve
from pomt_edge.targets import Target

FloatArray = NDArray[np.float64]

BLOCK_MS = 40.0
BLOCK_SAMPLES = (3, 25)
ANCHOR_EVERY = 4
RECHECKS = 2
CONFIRMATIONS = 8
CONFIRMATION_ROUND = 1000
"""Added to a count it numbers that count's confirming round, behind all others."""
WARM_UP_SECONDS = 10.0


@dataclass(frozen=True)
class Grid:
    """What to sweep."""

    tokens: tuple[int, ...]
    """Counts to measure, most first; the first is the unreduced model, the baseline and the anchor."""
    probe: str = "block"
    seed: int = 0
    rule: timing.StopRule = field(default_factory=timing.StopRule)


@dataclass(frozen=True)
class Visit:
    """One block of one point."""

    round: int
    tokens: int
    block: timing.Block
    segment: int = 0
    """Visits of one segment followed each other without a pause; it begins and ends with the anchor."""
    frames: bool = False
    """An anchor that begins or ends a segment, beside the round's own visits."""


class Sweep:
    """A sweep that keeps every block in the journal, and knows from the journal alone where it is.

    A round visits a set of points in an order of its own. The set follows from the rounds before it and the
    order from the seed, so that the number of a round's blocks in the journal says where to go on.
    """

    def __init__(self, grid: Grid, target: Target, journal: Journal, progress: Progress) -> None:
        self.grid = grid
        self._target = target
        self._journal = journal
        self._progress = progress
        self._warm = False
        self._visits = [
            Visit(entry["round"], entry["tokens"], tuple(entry["ms"]), entry["segment"], entry["frames"])
            for entry in journal.entries
            if "ms" in entry
        ]

    @property
    def _anchor(self) -> int:
        return self.grid.tokens[0]

    def run(self) -> LatencyCurve:
        """Measure all that is not in the journal yet, and give the curve."""
        rule = self.grid.rule
        self._rounds(range(rule.least_blocks), "latency, blocks", self.grid.tokens)
        for number in range(rule.least_blocks, rule.most_blocks):
            blocks = self._blocks(before=number)
            still_open = [tokens for tokens in self.grid.tokens if rule.reason(blocks[tokens]) is None]
            if not still_open:
                break
            self._rounds([number], f"latency, round {number + 1}, blocks", still_open)
        for number in range(rule.most_blocks, rule.most_blocks + RECHECKS):
            suspects = suspicious(self.curve(before=number))
            self._rounds([number], f"suspicious points again ({len(suspects)}), blocks", suspects)
        return self.curve()

    def confirm(self, tokens: int) -> LatencyCurve:
        """Measure a chosen count and the baseline again in turn: what decides deserves the best intervals.

        The chosen point is the luckiest of many; fresh samples take that luck out of its speedup.
        """
        pairs = [self._anchor, tokens] * CONFIRMATIONS
        self._visit_all({CONFIRMATION_ROUND + tokens: pairs}, f"confirming {tokens} tokens, blocks")
        return self.curve()

    def curve(self, before: int | None = None) -> LatencyCurve:
        """The curve so far, or as it stood before a round."""
        rule = self.grid.rule
        points = tuple(
            timing.summarise(tokens, blocks, rule.reason(blocks) or "re-measured")
            for tokens, blocks in self._blocks(before).items()
            if blocks
        )
        anchor = tuple(float(np.median(visit.block)) for visit in self._visits if visit.tokens == self._anchor)
        return LatencyCurve(points, self.grid.probe, anchor, timing.drift_percent(anchor))

    def _blocks(self, before: int | None = None) -> dict[int, list[timing.Block]]:
        """Scaled blocks by count."""
        visits = [visit for visit in self._visits if before is None or visit.round < before]
        blocks: dict[int, list[timing.Block]] = {tokens: [] for tokens in self.grid.tokens}
        for visit, block in zip(visits, scaled(visits, self._anchor), strict=True):
            blocks[visit.tokens].append(block)
        return blocks

    def _rounds(self, numbers: Iterable[int], title: str, points: Sequence[int]) -> None:
        orders = {}
        for number in numbers:
            shuffled = np.random.default_rng([self.grid.seed, number]).permutation(list(points))
            orders[number] = list(_with_anchor(map(int, shuffled), self._anchor))
        self._visit_all(orders, title)

    def _visit_all(self, orders: Mapping[int, Sequence[int]], title: str) -> None:
        total = sum(map(len, orders.values()))
        done = Counter(visit.round for visit in self._visits if not visit.frames)
        done_in_all = sum(min(done[number], len(order)) for number, order in orders.items())
        if done_in_all == total:
            return
        self._progress.stage(title, total, done_in_all)
        self._warm_up_device()
        segment = 1 + max((visit.segment for visit in self._visits), default=-1)
        first = next(number for number, order in orders.items() if done[number] < len(order))
        self._visit(first, self._anchor, segment, frames=True)
        for number, order in orders.items():
            for tokens in order[done[number] :]:
                median = self._visit(number, tokens, segment)
                self._progress.advance(f"{tokens} tokens, {median:.4g} ms")
        self._visit(number, self._anchor, segment, frames=True)

    def _visit(self, number: int, tokens: int, segment: int, frames: bool = False) -> float:
        block = self._block(tokens)
        self._journal.add({"round": number, "tokens": tokens, "segment": segment, "frames": frames, "ms": block})
        self._visits.append(Visit(number, tokens, tuple(block), segment, frames))
        return float(np.median(block))

    def _block(self, tokens: int) -> list[float]:
        """One visit: unrecorded forwards until they get no faster, then the samples."""
        last = math.inf
        for _ in range(5):
            (latest,) = self._target.time_ms(tokens, 1)
            if latest > 0.95 * last:
                break
            last = latest
        count = round(BLOCK_MS / max(latest, 1e-3))
        return self._target.time_ms(tokens, min(max(count, BLOCK_SAMPLES[0]), BLOCK_SAMPLES[1]))

    def _warm_up_device(self) -> None:
        """Run the baseline until two windows of it agree within 2 %, or for ten seconds."""
        if self._warm:
            return
        self._warm = True
        spent, last = 0.0, math.inf
        while spent < WARM_UP_SECONDS * 1e3:
            window = self._target.time_ms(self._anchor, 5)
            median = float(np.median(window))
            if abs(median - last) <= 0.02 * median:
                return
            spent, last = spent + sum(window), median


def _with_anchor(order: Iterable[int], anchor: int) -> Iterable[int]:
    for position, tokens in enumerate(order):
        if position % ANCHOR_EVERY == 0:
            yield anchor
        yield tokens


def scaled(visits: Sequence[Visit], anchor: int) -> list[timing.Block]:
    """The visits' blocks, each at the anchor's typical speed: times the anchor's median over its value then.

    The anchor's value at a visit is interpolated between the anchor's visits before and after in the same segment:
    across a pause, or another process, the machine may have become another. An anchor's own block is held against
    its neighbours' alone, or its own noise would vanish.
    """
    anchors = [float(np.median(visit.block)) for visit in visits if visit.tokens == anchor]
    if not anchors:
        return [visit.block for visit in visits]
    typical = float(np.median(np.log(anchors)))
    factors: list[float] = []
    for _, segment in itertools.groupby(visits, key=lambda visit: visit.segment):
        factors += np.exp(typical - _anchor_then(list(segment), anchor, typical)).tolist()
    return [tuple(factor * ms for ms in visit.block) for visit, factor in zip(visits, factors, strict=True)]


def _anchor_then(segment: Sequence[Visit], anchor: int, typical: float) -> FloatArray:
    """The logarithm of the anchor's value at each visit of a segment."""
    places = np.array([place for place, visit in enumerate(segment) if visit.tokens == anchor])
    if not len(places):
        return np.full(len(segment), typical)
    values = np.log([np.median(segment[place].block) for place in places])
    then: FloatArray = np.interp(np.arange(len(segment)), places, values)
    if len(places) > 1:
        then[places[1:-1]] = (values[:-2] + values[2:]) / 2
        then[places[0]], then[places[-1]] = values[1], values[-2]
    return then


def suspicious(curve: LatencyCurve) -> list[int]:
    """Counts whose latency stands out of their neighbours' by more than the intervals explain.

    They are measured again, never deleted: a real fast or slow point stands out too.
    """
    medians = np.array([point.median_ms for point in curve.points])
    halves = np.array([(point.high_ms - point.low_ms) / 2 for point in curve.points])
    if len(medians) < 5:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(medians, 2, mode="reflect"), 5)
    apart = np.abs(medians - np.median(windows, axis=1))
    expected = 1.5 * np.maximum(halves, np.median(halves))
    return [point.tokens for point, out in zip(curve.points, apart > expected, strict=True) if out]
