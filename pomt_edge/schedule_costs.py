"""What schedules of several blocks are foreseen to cost, from probes of latency and of sensitivity; and their family.

All of it is in the run's journal, so that a run that goes on decides as it would have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pomt_edge.choose import block_model, schedules
from pomt_edge.choose.block_model import BlockModel, FloatArray, Schedule
from pomt_edge.choose.schedules import Costs, Foreseen
from pomt_edge.errors import UserError
from pomt_edge.job import Job
from pomt_edge.measure import sensitivity
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.measure.sweep import Sweep
from pomt_edge.models.family import family_of
from pomt_edge.reduce import method, schedule
from pomt_edge.reduce.reduced_model import ReducedModel

MOST_COUNTS = 40
"""That the schedules go by; an even selection where there are more."""
SENSITIVITY_COUNTS = 7
SENSITIVITY_IMAGES = 64


@dataclass(frozen=True)
class Foresight:
    """What every schedule over some counts is foreseen to cost, and the schedules worth a look, slowest first."""

    costs: Costs
    family: list[Foreseen]


def foresee(
    job: Job, sweep: Sweep, journal: Journal, progress: Progress, efficient: tuple[int, ...]
) -> Foresight | None:
    """Measure what the family of schedules follows from; None where too few counts are faster than all tokens.

    Args:
        efficient: counts of the curve of one block that are worth choosing from. The schedules go by these alone, for
            between two counts that were measured a step may lie.
    """
    request = job.request
    once = _Once(journal)
    # A search measures only what its limits ask for, and so do the counts that it leaves to choose from.
    searched = {"limits": request.limits.to_dict(), "adaptive": request.searches(job.tokens)}
    counts = tuple(once("schedule_counts", searched, lambda: _selected(job, efficient)))
    if len(counts) < 2:
        return None
    model = _block_model(job, sweep, once, counts)
    losses = _losses(job, once, progress, counts)
    prefix = family_of(job.created.model).prefix_tokens(job.created.model)
    costs = Costs(model, losses, schedules.allowed(counts, prefix, method.load(request.method).most))
    kept = once("schedules", list(counts), lambda: [one.schedule for one in schedules.family(costs)])
    return Foresight(costs, [costs.of(tuple(one)) for one in kept])


class _Once:
    """What the journal has under a name, made from the same; else it is made, and kept."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __call__(self, name: str, made_from: Any, make: Callable[[], Any]) -> Any:
        for entry in self._journal.entries:
            if name in entry and entry["made_from"] == made_from:
                return entry[name]
        made = make()
        self._journal.add({name: made, "made_from": made_from})
        return made


def _selected(job: Job, efficient: tuple[int, ...]) -> list[int]:
    least = (job.request.limits.keep or 0.0) * job.tokens[0] - 1e-9
    counts = [count for count in efficient if count >= least]
    places = np.unique(np.linspace(0, len(counts) - 1, min(MOST_COUNTS, len(counts))).round().astype(int))
    return [counts[place] for place in places]


def _block_model(job: Job, sweep: Sweep, once: _Once, counts: tuple[int, ...]) -> BlockModel:
    full, block = counts[0], job.blocks[0]
    probes = [one for one in block_model.probes(counts, block, job.depth) if _is_possible(job, one)]
    sweep.measure(probes, "several blocks, latency")

    def fitted() -> dict[str, Any]:
        points = {schedule.in_one_block(full - count, block, job.depth): sweep.point(count) for count in counts[1:]}
        points |= {one: sweep.point(one) for one in probes}
        baseline = sweep.point(full)
        assert baseline is not None  # the anchor is measured first
        known = {one: point for one, point in points.items() if point is not None}
        return dataclasses.asdict(block_model.fit(counts, known, baseline))

    return BlockModel.from_dict(once("block_model", list(counts), fitted))


def _is_possible(job: Job, one: Schedule) -> bool:
    prefix = family_of(job.created.model).prefix_tokens(job.created.model)
    try:
        schedule.check(one, job.depth, job.tokens[0], prefix, method.load(job.request.method).most)
    except UserError:
        return False
    return True


def _losses(job: Job, once: _Once, progress: Progress, counts: tuple[int, ...]) -> FloatArray:
    """What each block alone loses at each count, from some counts on a few images."""
    assert job.images is not None  # without images there is nothing to choose by, which the request says
    few = dataclasses.replace(job.images, pixels=job.images.pixels[:SENSITIVITY_IMAGES], labels=None)
    asked = np.unique(np.linspace(counts[-1], counts[0], SENSITIVITY_COUNTS + 1).round().astype(int))
    some = list(map(int, asked[::-1]))

    def nats() -> list[list[float]]:
        model = job.variant(job.tokens[0])

        def reduced(one: Schedule) -> ReducedModel:
            found = job.variant(one)
            assert isinstance(found, ReducedModel)
            return found

        return sensitivity.divergences(model, reduced, some, few, job.preprocessing, progress)

    return schedules.interpolated(some, once("sensitivity", some, nats), counts)
