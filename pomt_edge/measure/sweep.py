"""The latency sweep: every point several times, in random order, in short blocks, with an anchor throughout.

A machine whose clocks nobody locked has good and bad seconds that differ by far more than neighbouring counts.
Each block is therefore scaled by the anchor measured around it to the anchor's typical speed: counts are
compared by ratios of interleaved runs. The samples as they were stay in the journal.

Counters are read before and after each block's samples, never during them. A block that was throttled is dropped,
the device cools, and the block is measured again.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pomt_edge.errors import PointFailed, Reconnected, UserError
from pomt_edge.machine import counters
from pomt_edge.measure import steadiness, timing, visits
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.measure.visits import Visit, scaled, suspicious
from pomt_edge.records import Kept, LatencyCurve, LatencyPoint, Steadiness, named, tokens_left
from pomt_edge.targets import Target

BLOCK_MS = 40.0
BLOCK_SAMPLES = (3, 25)
ANCHOR_EVERY = 4
RECHECKS = 2
CONFIRMATIONS = 8
"""Pairs of blocks of a choice and the baseline; so many again while their intervals overlap, …"""
MOST_CONFIRMATIONS = 40
SAME = 0.0025
"""… unless half of each is within so much: a smaller difference is none."""
RECONNECTIONS = 3
"""Of one block; a connection that is lost so often is said."""
CONFIRMATION_ROUND = 1000
"""Added to a count it numbers that count's confirming round, behind all others of counts."""
SEARCH_ROUND = 100_000
"""Rounds from here on are passes of a search: never those of a whole grid, which know what is left of them."""
SCHEDULE_ROUND = 1_000_000
"""Rounds from here on measure schedules. Their anchors are none of the curve's: a run that is started again has to
choose a count by what it chose by before."""
COMPARISON_ROUND = 2_000_000
"""Rounds from here on compare: of them only `Sweep.compared` knows, for the same reason."""
ENERGY_SECONDS = 3.0
"""Many times the period in which a GPU's energy counter advances."""
WARM_UP_SECONDS = 10.0
WARM_UP_WINDOWS = 6
"""Windows of forwards whose two halves have to agree before a device counts as warm."""


@dataclass(frozen=True)
class Cooling:
    """What to do about throttled blocks."""

    pause_s: float = 10.0
    most_pauses: int = 3
    """In a row, while the device is still held back."""
    attempts: int = 3
    """Of one block; the last is kept, throttled as it may be."""
    most_kept: int = 3
    """So many such blocks in a row, and measuring again is given up until one comes out clean."""


Begin = Callable[[], dict[str, Any]]
"""Makes the device ready, and gives what has to be the same in all sessions of a run: the state of its clocks."""


@dataclass(frozen=True)
class Grid:
    """What to sweep."""

    tokens: tuple[int, ...]
    """Counts that may be measured, most first; the first is the unreduced model, the baseline and the anchor."""
    probe: str = "block"
    seed: int = 0
    rule: timing.StopRule = field(default_factory=timing.StopRule)
    cooling: Cooling = field(default_factory=Cooling)
    batch_size: int = 1


@dataclass(frozen=True)
class _Failure:
    """A count that this process could not measure; a round's points follow from the rounds before it alone."""

    because: str
    round: int


class Sweep:
    """A sweep that keeps every block in the journal, and knows from the journal alone where it is.

    `run` measures the whole grid, in rounds: a round visits a set of points in an order of its own. The set follows
    from the rounds before it and the order from the seed, so that a round's blocks in the journal say what is left of
    it. The others take some points, whose blocks in the journal say what is left of them. A point is a count of the
    grid or a schedule. One that could not be measured has no blocks: the next process tries it again.
    """

    def __init__(self, grid: Grid, target: Target, journal: Journal, progress: Progress, begin: Begin = dict) -> None:
        """`begin` is called before the first measurement of this process, if there is one."""
        self.grid = grid
        self._begin = begin
        self._target = target
        self._journal = journal
        self._progress = progress
        self._started = False
        self._prepared: set[Kept] = set()
        self._failed: dict[Kept, _Failure] = {}
        self._visits = [visits.of_entry(entry) for entry in journal.entries if "ms" in entry]
        self._segment = 1 + max((visit.segment for visit in self._visits), default=-1)

    @property
    def failed(self) -> dict[Kept, str]:
        """Points that could not be measured, and why."""
        return {tokens: failure.because for tokens, failure in self._failed.items()}

    @property
    def _anchor(self) -> int:
        return self.grid.tokens[0]

    def run(self) -> LatencyCurve:
        """Measure all that is not in the journal yet, and give the curve."""
        rule = self.grid.rule
        self._rounds(range(rule.least_blocks), "latency, blocks", self.grid.tokens)
        for number in range(rule.least_blocks, rule.most_blocks):
            blocks = self._blocks(before=number)
            still_open = [tokens for tokens, found in blocks.items() if rule.reason(found) is None]
            if not still_open:
                break
            self._rounds([number], f"latency, round {number + 1}, blocks", still_open)
        for number in range(rule.most_blocks, rule.most_blocks + RECHECKS):
            suspects = suspicious(self.curve(before=number))
            self._rounds([number], f"suspicious points again ({len(suspects)}), blocks", suspects)
        return self.curve()

    def measure(self, points: Iterable[Kept], title: str) -> None:
        """Measure these points, all counts or all schedules, until each is known well enough, or goes on to fail."""
        rule = self.grid.rule
        points = list(points)
        of_counts = all(isinstance(one, int) for one in points)
        rounds = range(SEARCH_ROUND, SCHEDULE_ROUND) if of_counts else range(SCHEDULE_ROUND, COMPARISON_ROUND)
        while True:
            blocks = self._blocks(SCHEDULE_ROUND if of_counts else COMPARISON_ROUND)
            left = [one for one in points if one not in self._failed and rule.reason(blocks.get(one, ())) is None]
            if not left:
                return
            self._pass(left, title, rounds)

    def again(self, tokens: Iterable[int], title: str) -> None:
        """Measure these counts once more, whatever is known of them."""
        self._pass(tokens, title, range(SEARCH_ROUND, SCHEDULE_ROUND))

    def compare(self, points: Iterable[Kept], title: str) -> None:
        """Measure these points once more, side by side; what is chosen by their figures elsewhere stays."""
        self._pass(points, title, range(COMPARISON_ROUND, sys.maxsize))

    def _pass(self, points: Iterable[Kept], title: str, rounds: range) -> None:
        """One block of each point; a pass that was interrupted is not gone on with, for the next sees what is left."""
        able = [one for one in points if one not in self._failed]
        last = max((visit.round for visit in self._visits if visit.round in rounds), default=rounds.start - 1)
        if able:
            self._rounds([last + 1], f"{title}, blocks", able)

    def point(self, tokens: Kept) -> LatencyPoint | None:
        """A count or a schedule as it is known so far, without what compared it; None where it has no blocks."""
        return self._known(tokens, COMPARISON_ROUND)

    def compared(self, tokens: Kept) -> LatencyPoint | None:
        """The same by all of its blocks, for a comparison with other points by all of theirs."""
        return self._known(tokens, sys.maxsize)

    def _known(self, tokens: Kept, before: int) -> LatencyPoint | None:
        blocks = self._blocks(before).get(tokens)
        return self._point(tokens, blocks, before) if blocks else None

    def confirm(self, tokens: int) -> LatencyCurve:
        """Measure a chosen count and the baseline again in turn, until their intervals separate: they decide.

        The chosen point is the luckiest of many; fresh samples take that luck out of its speedup.
        """
        for pairs in range(CONFIRMATIONS, MOST_CONFIRMATIONS + 1, CONFIRMATIONS):
            order = [self._anchor, tokens] * pairs
            self._visit_all({CONFIRMATION_ROUND + tokens: order}, f"confirming {tokens} tokens, blocks")
            if tokens in self._failed or self._is_apart(tokens):
                break
        for count in (self._anchor, tokens):
            if count not in self._failed:
                self._count_energy(count)
        return self.curve()

    def _is_apart(self, tokens: int) -> bool:
        """Whether a count is surely faster or slower than the baseline, or surely as fast, for all that matters."""
        blocks = self._blocks()
        point, anchor = (self._point(one, blocks[one]) for one in (tokens, self._anchor))
        if point.high_ms < anchor.low_ms or anchor.high_ms < point.low_ms:
            return True
        return all((one.high_ms - one.low_ms) / 2 <= SAME * one.median_ms for one in (point, anchor))

    def _count_energy(self, tokens: int) -> None:
        """One long stretch of forwards: the counters advance in steps that a block is too short for."""
        if not self._started or self._energy_mj(tokens) is not None or self._target.reading().energy_mj is None:
            return
        forwards = max(math.ceil(1e3 * ENERGY_SECONDS / self.curve().at(tokens).median_ms), 1)
        before = self._target.reading()
        self._target.time_ms(tokens, forwards)
        used = counters.energy_mj(before, self._target.reading())
        if used is not None:
            self._journal.add({"energy": {"tokens": tokens, "forwards": forwards, "mj": used}})

    def curve(self, before: int = SCHEDULE_ROUND) -> LatencyCurve:
        """The curve so far, or as it stood before a round."""
        blocks = self._blocks(before)
        counts = [tokens for tokens in self.grid.tokens if blocks.get(tokens)]
        points = tuple(self._point(tokens, blocks[tokens]) for tokens in counts)
        taken = self._taken(SCHEDULE_ROUND)
        anchor = tuple(float(np.median(visit.block)) for visit in taken if visit.tokens == self._anchor)
        return LatencyCurve(points, self.grid.probe, anchor, self._steadiness(anchor, points))

    def _taken(self, before: int) -> list[Visit]:
        return [visit for visit in self._visits if visit.round < before]

    def _point(self, tokens: Kept, blocks: Sequence[timing.Block], before: int = SCHEDULE_ROUND) -> LatencyPoint:
        left = tokens_left(tokens, self._anchor)
        point = timing.summarise(left, blocks, self.grid.rule.reason(blocks) or "re-measured")
        visits = [visit for visit in self._taken(before) if visit.tokens == tokens]
        # The least: on the CPU it is the whole process's, and accuracy holds much of its own between two visits.
        memory = min((visit.memory_mib for visit in visits if visit.memory_mib is not None), default=None)
        return dataclasses.replace(point, energy_mj=self._energy_mj(tokens), memory_mib=memory)

    def _energy_mj(self, tokens: Kept) -> float | None:
        """Energy per image where it was counted."""
        stretches = [entry["energy"] for entry in self._journal.entries if "energy" in entry]
        own = [stretch for stretch in stretches if stretch["tokens"] == tokens]
        images = self.grid.batch_size * sum(stretch["forwards"] for stretch in own)
        return sum(stretch["mj"] for stretch in own) / images if images else None

    def _steadiness(self, anchor: tuple[float, ...], points: Sequence[LatencyPoint]) -> Steadiness:
        entries = self._journal.entries
        warm_ups = [entry["warm_up"] for entry in entries if "warm_up" in entry]
        dropped = [entry["dropped"] for entry in entries if "dropped" in entry]
        kept = [entry["held_by"] for entry in entries if "held_by" in entry]
        return dataclasses.replace(
            steadiness.of_blocks([visit.block for visit in self._taken(SCHEDULE_ROUND)], anchor, points),
            warm_up_forwards=sum(warm_up["forwards"] for warm_up in warm_ups),
            warm_up_ratio=max((warm_up["ratio"] for warm_up in warm_ups), default=None),
            dropped_blocks=len(dropped),
            throttled_blocks=len(kept),
            throttled_by=dict(Counter(itertools.chain(*dropped, *kept))),
            counters=tuple(sorted({name for entry in entries for name in entry.get("counters", ())})),
        )

    def _blocks(self, before: int = SCHEDULE_ROUND) -> dict[Kept, list[timing.Block]]:
        """Scaled blocks by point, without the points that failed, as far as that was known then."""
        taken = self._taken(before)
        failed = [tokens for tokens, one in self._failed.items() if one.round < before]
        blocks: dict[Kept, list[timing.Block]] = {}
        for visit, block in zip(taken, scaled(taken, self._anchor), strict=True):
            if visit.tokens not in failed:
                blocks.setdefault(visit.tokens, []).append(block)
        return blocks

    def _rounds(self, numbers: Iterable[int], title: str, points: Sequence[Kept]) -> None:
        orders = {}
        for number in numbers:
            places = np.random.default_rng([self.grid.seed, number]).permutation(len(points))
            orders[number] = list(_with_anchor([points[place] for place in places], self._anchor))
        self._visit_all(orders, title)

    def _visit_all(self, orders: Mapping[int, Sequence[Kept]], title: str) -> None:
        left = {number: self._left(number, order) for number, order in orders.items()}
        if not any(left.values()):
            return
        first = next(number for number, order in left.items() if order)
        self._start_session()
        self._prepare(first, itertools.chain(*orders.values()))
        if set(itertools.chain(*left.values())) <= self._failed.keys():
            return
        total = sum(map(len, orders.values()))
        self._progress.stage(title, total, total - sum(map(len, left.values())))
        self._visit(first, self._anchor, frames=True)
        for number, order in left.items():
            for tokens in order:
                self._progress.advance(f"{named(tokens)}, {self._visit_if_possible(number, tokens)}")
        self._visit(number, self._anchor, frames=True)
        self._segment += 1

    def _left(self, number: int, order: Sequence[Kept]) -> list[Kept]:
        """What of a round's order is not in the journal."""
        done = Counter(visit.tokens for visit in self._visits if visit.round == number and not visit.frames)
        left = []
        for tokens in order:
            if done[tokens]:
                done[tokens] -= 1
            else:
                left.append(tokens)
        return left

    def _visit_if_possible(self, number: int, tokens: Kept) -> str:
        """Visit a point; one that can't be measured is skipped from then on, and the others go on."""
        if tokens in self._failed:
            return "failed"
        try:
            return f"{self._visit(number, tokens):.4g} ms"
        except PointFailed as failed:
            if tokens == self._anchor:
                raise
            self._failed[tokens] = _Failure(str(failed), number)
            self._progress.note(f"{named(tokens)} can't be measured: {failed}")
            return "failed"

    def _visit(self, number: int, tokens: Kept, frames: bool = False) -> float:
        """Measure one block of a point and keep it; again while the device throttles, or was lost meanwhile."""
        losses, attempt = 0, 1
        while True:
            try:
                visit, held_by = self._measured(number, tokens, frames)
            except Reconnected:
                losses += 1
                if losses == RECONNECTIONS:
                    raise
                self._begin_segment(number, tokens)
                continue
            if not held_by or attempt >= self.grid.cooling.attempts or self._always_throttled():
                break
            self._journal.add({"dropped": held_by, "tokens": tokens, "round": number, "dropped_ms": visit.block})
            self._cool(held_by)
            self._begin_segment(number, tokens)
            attempt += 1
        self._keep(visit, held_by)
        return float(np.median(visit.block))

    def _begin_segment(self, number: int, tokens: Kept) -> None:
        """Across a pause the device may have become another: an anchor first."""
        self._segment += 1
        if tokens != self._anchor:
            self._visit(number, self._anchor, frames=True)

    def _measured(self, number: int, tokens: Kept, frames: bool) -> tuple[Visit, tuple[str, ...]]:
        samples = self._warm_up(tokens)
        before = self._target.reading()
        block = tuple(self._target.time_ms(tokens, samples))
        held_by = counters.held_back(before, self._target.reading())
        memory = self._target.memory_mib(tokens)
        return Visit(number, tokens, block, self._segment, frames, memory, bool(held_by)), held_by

    def _keep(self, visit: Visit, held_by: tuple[str, ...]) -> None:
        entry = {"ms": visit.block, **{name: value for name, value in vars(visit).items() if name != "block"}}
        self._journal.add(entry | ({"held_by": held_by} if held_by else {}))
        self._visits.append(visit)

    def _always_throttled(self) -> bool:
        last = self._visits[-self.grid.cooling.most_kept :]
        return len(last) == self.grid.cooling.most_kept and all(visit.throttled for visit in last)

    def _cool(self, held_by: tuple[str, ...]) -> None:
        cooling = self.grid.cooling
        self._progress.busy(f"throttled by {', '.join(held_by)}: cooling")
        for _ in range(cooling.most_pauses):
            self._target.pause(cooling.pause_s)
            if not self._target.reading().active:
                return

    def _warm_up(self, tokens: Kept) -> int:
        """Unrecorded forwards until they get no faster; how many samples make a block then."""
        if not self._target.warms_up:
            return BLOCK_SAMPLES[1]
        last = math.inf
        for _ in range(5):
            (latest,) = self._target.time_ms(tokens, 1)
            if latest > 0.95 * last:
                break
            last = latest
        count = round(BLOCK_MS / max(latest, 1e-3))
        return min(max(count, BLOCK_SAMPLES[0]), BLOCK_SAMPLES[1])

    def _start_session(self) -> None:
        """Once in a process: make the device ready, refuse to mix with another state of it, and warm it up."""
        if self._started:
            return
        self._started = True
        begun = self._begin()
        self._prepare(0, [self._anchor])
        state = json.loads(json.dumps(begun))
        for earlier in (entry["session"] for entry in self._journal.entries if "session" in entry):
            if different := [name for name in state if state[name] != earlier.get(name)]:
                name = different[0]
                raise UserError(
                    f"--out {self._journal.path.parent} holds measurements of another state of the device: {name} was "
                    f"{earlier.get(name)!r}, is {state[name]!r} now; bring it back, or give another --out"
                )
        self._journal.add({"session": state, "counters": self._target.reading().watched})
        self._warm_up_device()

    def _prepare(self, number: int, points: Iterable[Kept]) -> None:
        """Make ready what a round will measure, and what was measured before: a board forgets what it is not asked for.

        `number`: of the round.
        """
        wanted = dict.fromkeys([*points, *(visit.tokens for visit in self._visits)])
        missing = [tokens for tokens in wanted if tokens not in self._prepared]
        if not missing:
            return
        self._prepared.update(missing)
        for tokens, because in self._target.prepare(missing, self._progress).items():
            if tokens == self._anchor:
                raise PointFailed(because)  # kept nowhere: it may be mended, and the run go on
            self._failed.setdefault(tokens, _Failure(because, number))

    def _warm_up_device(self) -> None:
        """Run the baseline until its latency no longer changes, or for ten seconds."""
        if not self._target.warms_up:
            return
        (first,) = self._target.time_ms(self._anchor, 1)
        spent, forwards = first, 1
        medians: list[float] = []
        while spent < WARM_UP_SECONDS * 1e3 and not _settled(medians):
            window = self._target.time_ms(self._anchor, 5)
            medians.append(float(np.median(window)))
            spent, forwards = spent + sum(window), forwards + len(window)
        ratio = max(first, *medians) / medians[-1] if medians else 1.0
        self._journal.add({"warm_up": {"forwards": forwards, "ratio": ratio}})


def _settled(medians: Sequence[float]) -> bool:
    """Whether the last windows are neither faster nor slower than those before; noise alone may be as it likes."""
    last = np.array(medians[-WARM_UP_WINDOWS:])
    if len(last) < WARM_UP_WINDOWS:
        return False
    before, after = np.median(last.reshape(2, -1), axis=1)
    return bool(abs(after / before - 1) <= 0.01)


def _with_anchor(order: Iterable[Kept], anchor: int) -> Iterable[Kept]:
    for position, tokens in enumerate(order):
        if position % ANCHOR_EVERY == 0:
            yield anchor
        yield tokens
