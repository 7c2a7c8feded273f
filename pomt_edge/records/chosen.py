"""What is chosen: a plan, and all that one run, or one of each method, found out."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pomt_edge.records.base import SCHEMA, Record, RecordError
from pomt_edge.records.measured import (
    MEASURED,
    AccuracyCurve,
    AccuracyPoint,
    Cost,
    Environment,
    LatencyCurve,
    LatencyPoint,
    Staircase,
)


@dataclass(frozen=True)
class Plan(Record):
    """How many tokens to remove in which block, what that is predicted to give, and why."""

    model: str
    method: str
    schedule: tuple[int, ...]
    """One integer per block: tokens removed there."""
    tokens_in: int
    tokens_out: int
    """What the blocks after the reduction really see."""
    removed: int
    block: int
    batch_size: int
    image_px: int
    precision: str
    engine: str
    device: str
    baseline_ms: float
    predicted_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    verdict: str
    """'prune', 'keep' (do not prune) or 'unreachable' (no count meets the limits)."""
    because: str
    limits: dict[str, Any]
    measure: str | None = None
    """'accuracy', 'agreement', or None where neither was measured."""
    baseline_percent: float | None = None
    predicted_percent: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    probe: str = "block"
    num_classes: int | None = None
    origin: str = MEASURED
    """'measured', 'simulated' or 'recorded': how the latencies came about."""
    power_mode: str | None = None
    """The device's, by name; None where it has none, or it is not known."""
    schema: int = SCHEMA

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        plan = super().from_dict(data)
        if plan.schema > SCHEMA:
            raise RecordError(f"Plan.schema is {plan.schema}, this version reads up to {SCHEMA}: update pomt-edge")
        plan._check()
        return plan

    @property
    def is_even(self) -> bool:
        """Whether the blocks that reduce share the tokens evenly, as all do that were not searched."""
        counts = [removed for removed in self.schedule if removed]
        return not counts or max(counts) - min(counts) <= 1

    def _check(self) -> None:
        """Raise a RecordError for figures that contradict each other: a plan may have been edited by hand."""
        if any(removed < 0 for removed in self.schedule) or sum(self.schedule) != self.removed:
            raise RecordError(f"Plan.schedule {list(self.schedule)} does not remove the {self.removed} of Plan.removed")
        if not 0 < self.tokens_out == self.tokens_in - self.removed:
            raise RecordError(
                f"Plan.tokens_out is {self.tokens_out}, but {self.tokens_in} tokens less {self.removed} removed are "
                f"{self.tokens_in - self.removed}"
            )
        if self.batch_size < 1 or self.image_px < 1:
            raise RecordError(f"Plan.batch_size {self.batch_size} and image_px {self.image_px}: expected 1 or more")

    def kept(self, verdict: str, because: str) -> Plan:
        """The same run's plan, were nothing removed, with that verdict."""
        measured = self.drop is not None
        return replace(
            self,
            schedule=(0,) * len(self.schedule),
            tokens_out=self.tokens_in,
            removed=0,
            predicted_ms=self.baseline_ms,
            speedup=1.0,
            speedup_low=1.0,
            speedup_high=1.0,
            verdict=verdict,
            because=because,
            predicted_percent=self.baseline_percent,
            drop=0.0 if measured else None,
            drop_low=0.0 if measured else None,
            drop_high=0.0 if measured else None,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read plan.json, or the plan of a run's folder."""
        file = Path(path)
        return super().load(file / "plan.json" if file.is_dir() else file)


ADAPTIVE, FULL = "adaptive", "full"
"""Kinds of search."""


@dataclass(frozen=True)
class Probe(Record):
    """One count of a search, and why it was asked for."""

    tokens: int
    why: str


@dataclass(frozen=True)
class Search(Record):
    """How the count was searched: what was measured and why, and what was not."""

    kind: str
    """'adaptive' or 'full'."""
    counts: int
    """Reduced counts that there were to choose from."""
    latency: tuple[Probe, ...]
    """Counts whose latency was asked for, in this order."""
    accuracy: tuple[Probe, ...]
    """The same for accuracy."""
    stopped: str | None = None
    """What ended the search before it was done, such as a time limit; None: it was done."""
    left_open: tuple[str, ...] = ()
    """What it does not know, a sentence each."""


@dataclass(frozen=True)
class Refusal(Record):
    """Why nothing is removed, by what was measured."""

    kind: str
    """One of the kinds in `choose.refusal`."""
    because: str
    """The deciding facts, as one sentence."""
    tokens: int | None = None
    """The count that it turns on: the first that is surely faster, else the fewest measured."""
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    slower_tokens: int | None = None
    """A count that removes less, and that is surely slower than the unreduced model: the slowest of them."""
    slower_percent: float | None = None


@dataclass(frozen=True)
class Remedy(Record):
    """What might make pruning pay where it does not: another setting, tried or only named."""

    what: str
    options: str
    """What to change in the command, as typed."""
    tokens: int | None = None
    """The count that was tried there; None: it was not tried."""
    speedup: float | None = None
    """Of that count over the unreduced model in the same setting."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    origin: str | None = None
    """'measured', 'simulated' or 'recorded': how its latency came about; None: it was not tried."""
    because: str | None = None
    """Why it was not tried."""
    allowed: bool = True
    """Whether the limits allow the count that was tried; else it is the nearest to that which is known."""


@dataclass(frozen=True)
class TriedSchedule(Record):
    """A schedule that `--blocks auto` looked at."""

    schedule: tuple[int, ...]
    foreseen_ms: float
    """Latency as it was foreseen by the model of one block's."""
    latency: LatencyPoint | None = None
    """None: not measured."""
    speedup: float | None = None
    """Over the unreduced model, measured side by side."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    accuracy: AccuracyPoint | None = None
    """None: not measured; on as many images as showed whether it is within the limit, or on all."""


@dataclass(frozen=True)
class ScheduleSearch(Record):
    """How a schedule of several blocks was searched, and what it is held against."""

    single: Plan
    """The best plan that removes in the swept block alone, which is block 3: no other was tried alone."""
    because: str
    """Why a schedule was chosen, or none."""
    baseline: LatencyPoint | None = None
    """The unreduced model side by side with the schedules; None: none was measured."""
    chosen: tuple[int, ...] | None = None
    """None: `single` stands."""
    tried: tuple[TriedSchedule, ...] = ()
    """Slowest first, by what was foreseen."""
    error_percent: float | None = None
    """The median of how far off the foreseen latencies of those tried were."""
    ratio: float | None = None
    """Latency of `single`, or of the unreduced model where that keeps all, over the chosen schedule's, side by side."""
    ratio_low: float | None = None
    ratio_high: float | None = None


@dataclass(frozen=True)
class Result(Record):
    """All that one run of the main job found out."""

    plan: Plan
    curve: LatencyCurve
    staircase: Staircase
    accuracy: AccuracyCurve | None
    environment: Environment
    costs: tuple[Cost, ...] = ()
    """Of the unreduced model and of the plan's."""
    notes: tuple[str, ...] = ()
    """Sentences that the user must read: random weights, skipped images, an imbalance seen."""
    search: Search | None = None
    """None in the records of older versions."""
    refusal: Refusal | None = None
    """Where the plan says not to prune."""
    remedies: tuple[Remedy, ...] = ()
    """What may help instead."""
    schedules: ScheduleSearch | None = None
    """None where no schedule of several blocks was searched."""

    @property
    def searched(self) -> TriedSchedule | None:
        """The plan's schedule where one was searched; it is no count of the curve. None: the plan is a count of it."""
        chosen = self.schedules.chosen if self.schedules else None
        return next((one for one in self.schedules.tried if one.schedule == chosen), None) if self.schedules else None

    @property
    def on_curve(self) -> Plan:
        """The plan that is a count of the curve: the best of the swept block alone, where a schedule was searched."""
        return self.schedules.single if self.schedules else self.plan


@dataclass(frozen=True)
class Final(Record):
    """One of those that were measured in turn with each other: of each engine the unreduced model and the best plan."""

    engine: str
    method: str | None
    """None: the unreduced model."""
    latency: LatencyPoint


@dataclass(frozen=True)
class Contest(Record):
    """Several methods, engines or both on the same model, device and images.

    Each run is held against its own unreduced model, measured in turn with it; across engines the finals compare.
    """

    results: tuple[Result, ...]
    best: str | None
    """The method whose plan is taken; None where no plan that prunes is."""
    because: str
    unfit: tuple[str, ...] = ()
    """Methods and engines that could not be used, each with the reason."""
    engine: str | None = None
    """The engine of what is taken, a plan or the unreduced model; None where nothing meets the limits."""
    finals: tuple[Final, ...] = ()
    """None where there is one engine."""

    @property
    def verdict(self) -> str:
        """See `Plan.verdict`."""
        if self.best is not None:
            return "prune"
        reached = any(result.plan.verdict != "unreachable" for result in self.results)
        return "keep" if self.engine or (reached and not self.finals) else "unreachable"

    @property
    def chosen(self) -> Result:
        """The run of what is taken; where that is no plan that prunes, one that says why."""
        own = [result for result in self.results if self.engine in (None, result.plan.engine)]
        if self.best is not None:
            own = [result for result in own if result.plan.method == self.best]
        return next((result for result in own if result.plan.verdict == self.verdict), own[0])

    @property
    def plan(self) -> Plan:
        """What is taken."""
        plan = self.chosen.plan
        return plan if plan.verdict == self.verdict else plan.kept(self.verdict, self.because)
