"""`--blocks auto`: a schedule of several blocks that is better than the best plan of block 3 alone, within the limits.

What is foreseen of schedules (`schedule_costs`) only says which to look at. Which of them are within the limits, and
whether the best of those is surely better than the plan of that block, is measured.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pomt_edge import schedule_costs
from pomt_edge.choose.block_model import Schedule
from pomt_edge.choose.plan import Limits
from pomt_edge.choose.ratio import ratio
from pomt_edge.choose.schedules import Foreseen, last_that_fits, surely_faster
from pomt_edge.job import Job
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.measure.sweep import Sweep
from pomt_edge.records import AccuracyPoint, Kept, LatencyPoint, Plan, ScheduleSearch, Staircase, TriedSchedule
from pomt_edge.schedule_costs import Foresight

FINALISTS = 3
"""Of those within the limits: so many are held against the plan of block 3 alone."""
FURTHER = 2
"""Places beyond the last that fits which are asked as well: accuracy is only nearly monotone."""
ROUNDS = 10, 30
"""Blocks of each finalist, interleaved with that plan and the unreduced model: at least, and at most where
none is surely faster yet, or it is open whether one is within the budget."""


@dataclass(frozen=True)
class Measuring:
    """What measures, and keeps what was measured."""

    sweep: Sweep
    accuracy: Accuracy
    journal: Journal
    progress: Progress


def search(job: Job, measuring: Measuring, staircase: Staircase, single: Plan) -> tuple[Plan, ScheduleSearch]:
    """The plan of a schedule if one is surely better than `single`, the best of block 3 alone; else that plan."""
    limits = job.request.limits
    if limits.budget_ms is not None and single.verdict == "keep":
        return single, ScheduleSearch(single, "the unreduced model is within the budget already")
    if not _is_faster_somewhere(staircase):
        return single, ScheduleSearch(single, "no count is surely faster than the unreduced model: nothing to combine")
    sweep, journal, progress = measuring.sweep, measuring.journal, measuring.progress
    foresight = schedule_costs.foresee(job, sweep, journal, progress, staircase.efficient)
    if foresight is None or not foresight.family:
        return single, ScheduleSearch(single, "of the counts that may be kept no schedule is foreseen to be faster")
    return _Search(foresight, measuring, single, limits).decide()


def _is_faster_somewhere(staircase: Staircase) -> bool:
    return len(staircase.efficient) > 1


class _Search:
    """The family of schedules, and what is measured of its members."""

    def __init__(self, foresight: Foresight, measuring: Measuring, single: Plan, limits: Limits) -> None:
        self._costs = foresight.costs
        self._sweep = measuring.sweep
        self._accuracy = measuring.accuracy
        self._single = single
        self._limits = limits
        self._full = single.tokens_in
        # Where nothing is pruned the unreduced model is the one to beat.
        self._rival: Kept = single.tokens_out if single.verdict == "prune" else self._full
        # By the curve's median, which stays: the same members are asked when a run is started again.
        self._curve = measuring.sweep.curve()
        scale = self._curve.baseline.median_ms / foresight.costs.model.full_ms
        self._family = [dataclasses.replace(one, ms=scale * one.ms) for one in foresight.family]
        self._looked: dict[Schedule, AccuracyPoint] = {}

    def decide(self) -> tuple[Plan, ScheduleSearch]:
        """Find those within the limits, and take the best that, side by side, surely beats the rival."""
        by_budget = self._limits.budget_ms is not None
        within = self._within_budget() if by_budget else self._within_drop()
        finalists = self._side_by_side([one.schedule for one in within[:FINALISTS]])
        best, because = self._most_accurate(finalists) if by_budget else self._fastest(finalists)
        tried = tuple(filter(None, map(self._tried, self._family)))
        gain = self._ratio(self._rival, best) if best else (None, None, None)
        baseline = self._point(self._full)
        record = ScheduleSearch(self._single, because, baseline, best, tried, _error_percent(tried), *gain)
        return self._plan(best, because) if best else self._single, record

    def _within_drop(self) -> list[Foreseen]:
        """Those whose loss is surely within the limit and that should be faster than the rival, fastest first."""
        rival_ms = self._curve.at(self._single.tokens_out).median_ms
        faster = [one for one in self._family if one.ms < rival_ms]
        start = sum(one.loss <= self._rival_loss() for one in faster) - 1
        last_that_fits(lambda place: self._is_within(faster[place]), len(faster), start, FURTHER)
        for one in faster:
            if self._blocks(one.schedule) >= ROUNDS[0]:  # a finalist of an earlier search in this folder
                self._is_within(one)
        return [one for one in reversed(faster) if one.schedule in self._looked and self._is_within(one)]

    def _rival_loss(self) -> float:
        """What the plan of block 3 alone is foreseen to lose: about there the limit lies."""
        counts = self._costs.model.counts
        nearest = min(counts, key=lambda count: abs(count - self._single.tokens_out))
        return float(self._costs.losses[self._single.block, counts.index(nearest)])

    def _is_within(self, one: Foreseen) -> bool:
        limit = self._limits.max_drop
        assert limit is not None
        if one.schedule not in self._looked:
            self._looked[one.schedule] = self._accuracy.within(one.schedule, limit)
        return self._looked[one.schedule].drop_high <= limit

    def _within_budget(self) -> list[Foreseen]:
        """Those whose latency is surely within the budget, the most accurate that was foreseen first."""
        budget_ms = self._limits.budget_ms
        assert budget_ms is not None
        fastest_first = self._family[::-1]

        @functools.cache
        def fits(place: int) -> bool:
            one = fastest_first[place].schedule
            self._sweep.measure([one], "several blocks, within the budget?")
            point = self._sweep.point(one)
            return point is not None and point.high_ms <= budget_ms

        start = sum(one.ms <= budget_ms for one in fastest_first) - 1
        last = last_that_fits(fits, len(fastest_first), start, 0)
        return [] if last is None else fastest_first[max(last + 1 - FINALISTS, 0) : last + 1][::-1]

    def _side_by_side(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        """Those that could be measured, after enough blocks of each beside the rival and the unreduced model."""
        while left := self._open(schedules):
            title = f"several blocks, side by side, pass {1 + min(map(self._blocks, left))}"
            self._sweep.compare([*dict.fromkeys((self._full, self._rival)), *left], title)
        return [one for one in schedules if one not in self._sweep.failed]

    def _open(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        """Those to measure on; what was measured tells, so that a run that goes on asks for no more."""
        least, most = ROUNDS
        able = [one for one in schedules if one not in self._sweep.failed]
        if left := [one for one in able if self._blocks(one) < least]:
            return left
        return [one for one in self._undecided(able) if self._blocks(one) < most]

    def _undecided(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        """Those that may be within the budget, or faster than the rival where none surely is."""
        points = {one: self._point(one) for one in schedules}
        budget_ms = self._limits.budget_ms
        if budget_ms is not None:
            return [one for one, point in points.items() if point.low_ms <= budget_ms < point.high_ms]
        if surely_faster(self._point(self._rival), points):
            return []
        return [one for one in schedules if self._ratio(self._rival, one)[2] > 1]

    def _blocks(self, one: Schedule) -> int:
        point = self._sweep.compared(one)
        return point.blocks if point else 0

    def _fastest(self, schedules: Sequence[Schedule]) -> tuple[Schedule | None, str]:
        limit = self._limits.max_drop
        assert limit is not None
        if not schedules:
            return None, f"no schedule that is foreseen to be faster has a loss that is surely within {limit:g} points"
        points = {one: self._point(one) for one in schedules}
        sure = surely_faster(self._point(self._rival), points)
        for one in sure:
            point = self._looked[one] = self._accuracy.at(one)
            if point.drop_high <= limit:
                return one, f"{self._compared(one)}, and its loss is surely within {limit:g} points"
        if sure:
            return None, (
                f"of the {len(schedules)} schedules measured side by side none that is faster has, on all images, a "
                f"loss that is surely within {limit:g} points"
            )
        fastest = min(points, key=lambda one: points[one].median_ms)
        return None, f"{self._compared(fastest)}, which is not surely faster"

    def _compared(self, one: Schedule) -> str:
        gain, low, high = self._ratio(self._rival, one)
        return f"schedule {_listed(one)} is {gain:.2f}x as fast as {self._rival_named()} ({low:.2f} to {high:.2f})"

    def _most_accurate(self, schedules: Sequence[Schedule]) -> tuple[Schedule | None, str]:
        budget_ms = self._limits.budget_ms
        if not schedules:
            return None, f"of the schedules that were tried none is surely within {budget_ms:g} ms"
        met = [one for one in schedules if self._point(one).high_ms <= (budget_ms or 0.0)]
        if not met:
            measured = f"of the {len(schedules)} schedules measured side by side"
            return None, f"{measured} none is surely within {budget_ms:g} ms"
        self._looked |= {one: self._accuracy.at(one) for one in met}
        best = max(met, key=lambda one: self._looked[one].percent)
        after = self._looked[best]
        claim = f"schedule {_listed(best)}, within {budget_ms:g} ms, {_loss(after)}"
        if self._single.verdict != "prune":
            return best, f"{claim}; no count removed in block {self._single.block} alone is within it"
        claim += f", {self._rival_named()} {_loss(self._accuracy.at(self._rival))}"
        paired = self._accuracy.between(self._rival, best)
        claim += f", {-paired.drop:.1f} points more ({-paired.drop_high:.1f} to {-paired.drop_low:.1f}), image by image"
        if paired.drop_high < 0:
            return best, claim
        return None, f"{claim}, which is not surely more accurate"

    def _rival_named(self) -> str:
        if self._rival == self._full:
            return "the unreduced model"
        return f"R={self._single.removed} in block {self._single.block} alone"

    def _point(self, key: Kept) -> LatencyPoint:
        """Of what was measured."""
        point = self._sweep.compared(key)
        assert point is not None
        return point

    def _ratio(self, slower: Kept, faster: Kept) -> tuple[float, float, float]:
        return ratio(self._point(slower), self._point(faster))

    def _tried(self, one: Foreseen) -> TriedSchedule | None:
        """Of the members that were looked at; None of the others."""
        latency, accuracy = self._sweep.compared(one.schedule), self._looked.get(one.schedule)
        if latency is None and accuracy is None:
            return None
        # At the speed that what was measured is told at.
        foreseen_ms = one.ms * self._point(self._full).median_ms / self._curve.baseline.median_ms
        if latency is None:
            return TriedSchedule(one.schedule, foreseen_ms, accuracy=accuracy)
        return TriedSchedule(one.schedule, foreseen_ms, latency, *self._ratio(self._full, one.schedule), accuracy)

    def _plan(self, one: Schedule, because: str) -> Plan:
        baseline, chosen, accuracy = self._point(self._full), self._point(one), self._looked[one]
        speedup, low, high = ratio(baseline, chosen)
        return dataclasses.replace(
            self._single,
            schedule=one,
            tokens_out=self._full - sum(one),
            removed=sum(one),
            block=next(block for block, removed in enumerate(one) if removed),
            baseline_ms=baseline.median_ms,
            predicted_ms=chosen.median_ms,
            speedup=speedup,
            speedup_low=low,
            speedup_high=high,
            verdict="prune",
            because=because,
            predicted_percent=accuracy.percent,
            drop=accuracy.drop,
            drop_low=accuracy.drop_low,
            drop_high=accuracy.drop_high,
        )


def _listed(one: Schedule) -> str:
    return ",".join(map(str, one))


def _loss(point: AccuracyPoint) -> str:
    return f"loses {point.drop:.1f} points ({point.drop_low:.1f} to {point.drop_high:.1f})"


def _error_percent(tried: Sequence[TriedSchedule]) -> float | None:
    """The median of how far off latencies were that were foreseen and then measured, in per cent."""
    off = [abs(one.foreseen_ms / one.latency.median_ms - 1) for one in tried if one.latency]
    return 100 * float(np.median(off)) if off else None
