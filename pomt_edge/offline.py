"""The main job, end to end: model, sweep, curve, staircase, accuracy, plan, report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch

from pomt_edge import remedies, schedules
from pomt_edge.choose import plan as planning
from pomt_edge.choose.search import AccuracyAt
from pomt_edge.decision import Decided, decide, decide_adaptively
from pomt_edge.errors import Interrupted
from pomt_edge.job import Job, classes_of, prepare
from pomt_edge.machine.system import System
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.forwards import Forwards, SharedPrefix, available_bytes, by_sessions
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.measure.sweep import Begin, Grid, Sweep
from pomt_edge.measure.timing import StopRule
from pomt_edge.records import MEASURED, Cost, Environment, Kept, Plan, Remedy, Result, ScheduleSearch, named
from pomt_edge.reduce import schedule
from pomt_edge.reduce.cost import cost_of
from pomt_edge.report import files
from pomt_edge.request import Request
from pomt_edge.searching import Deadline, OutOfTimeError
from pomt_edge.starting import start


def run(request: Request, progress: Progress) -> tuple[Result, Path]:
    """Do all that the request asks, or what is left of it, and give the result and the folder that holds it.

    Raises:
        UserError: anything the user can mend.
    """
    request.check()
    job = prepare(request, progress)
    finished = False
    try:
        result = _measured(job, progress)
        files.write(result, job.folder)
        finished = True
    finally:
        job.target.close(finished)
    return result, job.folder


def _measured(job: Job, progress: Progress) -> Result:
    with job.sessions, Journal(job.folder, job.configuration) as journal, contextlib.ExitStack() as locks:
        progress.note(f"results and resumable measurements: {job.folder}")
        try:
            begin = functools.cache(lambda: _begin(job, journal, progress, locks))
            return _measure_and_choose(job, journal, progress, begin)
        except KeyboardInterrupt as error:
            kept = f"interrupted; what was measured is kept: give the same options and --out {job.folder} to go on"
            raise Interrupted(kept) from error


def _begin(job: Job, journal: Journal, progress: Progress, locks: contextlib.ExitStack) -> dict[str, Any]:
    what = (job.request, job.target, job.setting, job.request.engine, job.inputs)
    return start(*what, journal, progress, locks)


def _measure_and_choose(job: Job, journal: Journal, progress: Progress, begin: Begin) -> Result:
    request = job.request
    rule = StopRule(request.interval_percent, request.point_seconds)
    grid = Grid(job.tokens, request.probe, request.seed, rule, batch_size=request.batch_size)
    deadline = Deadline(progress, request.max_minutes)
    sweep = Sweep(grid, job.target, journal, deadline, begin)
    accuracy = _accuracy(job, journal, deadline)
    if accuracy and request.accuracy_grid == "full":
        for tokens in job.tokens:
            accuracy.at(tokens)
    if request.searches(job.tokens):
        found = decide_adaptively(sweep, request.limits, request.detrend, accuracy, journal, deadline)
    else:
        found = decide(sweep, request.limits, request.detrend, accuracy)
    plan = _plan(job, found, accuracy, journal)
    searched = None
    if accuracy and request.searches_blocks:
        measuring = schedules.Measuring(sweep, accuracy, journal, deadline)
        plan, searched = _over_blocks(job, measuring, found, plan, deadline)
    helpful: tuple[Remedy, ...] = ()
    refusal = found.decision.refusal if plan.verdict != "prune" else None
    if refusal and not found.search.stopped:
        helpful = remedies.find(remedies.Asked(job, refusal, found.curve, accuracy), journal, progress, begin)
    result = Result(
        plan,
        found.curve,
        found.staircase,
        accuracy.curve() if accuracy else None,
        _environment(journal),
        _costs(job, plan),
        search=found.search,
        refusal=refusal,
        remedies=helpful,
        schedules=searched,
    )
    return dataclasses.replace(result, notes=tuple(_notes(job, result, sweep.failed)))


def _plan(job: Job, found: Decided, accuracy: Accuracy | None, journal: Journal) -> Plan:
    """What was decided, with its figures."""
    request, removed = job.request, job.tokens[0] - found.decision.tokens
    subject = planning.Subject(
        model=job.created.name,
        method=request.method,
        schedule=schedule.spread(removed, job.blocks, job.depth),
        block=job.blocks[0],
        batch_size=request.batch_size,
        image_px=job.setting.image_px,
        precision=request.precision,
        engine=request.engine,
        device=job.setting.device,
        num_classes=classes_of(job.created.model),
        origin=job.target.origin,
        power_mode=_environment(journal).power_mode,
    )
    if accuracy is None:
        return planning.make_plan(subject, found.curve, found.decision, request.limits, None, None)
    known = _recalled(accuracy) if found.search.stopped else accuracy.at
    return planning.make_plan(subject, found.curve, found.decision, request.limits, accuracy.measure, known)


def _over_blocks(
    job: Job, measuring: schedules.Measuring, found: Decided, plan: Plan, deadline: Deadline
) -> tuple[Plan, ScheduleSearch]:
    """The plan of a schedule, if that is better; what becomes of the search if the time is over."""
    if found.search.stopped:
        return plan, ScheduleSearch(plan, f"{found.search.stopped}: no schedule of several blocks was looked for")
    try:
        with deadline.running():
            return schedules.search(job, measuring, found.staircase, plan)
    except OutOfTimeError as over:
        return plan, ScheduleSearch(plan, f"{over}: the plan of block {plan.block} alone stands")


def _recalled(accuracy: Accuracy) -> AccuracyAt:
    """Where the time was over, what is known has to do; of the unreduced model too."""
    known = {point.tokens: point for point in accuracy.curve().points}
    return known.__getitem__


def _costs(job: Job, plan: Plan) -> tuple[Cost, ...]:
    """Of the unreduced model and of the plan's, on one image."""
    if plan.probe == "input":
        return ()
    model = job.variant(plan.tokens_in)
    weights = next(model.parameters())
    image = torch.zeros(1, 3, plan.image_px, plan.image_px, device=weights.device, dtype=weights.dtype)
    variants: dict[Kept, tuple[int, ...]] = {plan.tokens_in: (0,) * job.depth}
    if plan.removed:
        variants[plan.schedule] = plan.schedule
    return tuple(
        cost_of(job.variant(point), image, schedule.tokens_per_block(removals, plan.tokens_in))
        for point, removals in variants.items()
    )


def _environment(journal: Journal) -> Environment:
    """The machine when this run was last measured, which may have been in another process."""
    return Environment.from_dict([entry["environment"] for entry in journal.entries if "environment" in entry][-1])


def _accuracy(job: Job, journal: Journal, progress: Progress) -> Accuracy | None:
    if job.images is None:
        return None
    return Accuracy(job.images, job.preprocessing, _forwards(job, job.images), job.tokens[0], journal, progress)


def _forwards(job: Job, images: Images) -> Forwards:
    """What counts share can be shared where they are eager modules that reduce in a block."""
    engine, setting = job.sessions.engine, job.sessions.setting
    if engine.TAKES != "module" or setting.compile or job.request.probe == "input":
        return by_sessions(job.sessions)
    available = functools.partial(available_bytes, setting.device, System(job.request.sysroot))
    return SharedPrefix(job.variant, job.blocks[0], len(images.pixels), available)


def _notes(job: Job, result: Result, failed: dict[Kept, str]) -> list[str]:
    notes = [f"{named(tokens)} could not be measured: {because}." for tokens, because in failed.items()]
    clocks = result.environment.details.get("clocks") or {}
    if job.request.is_elsewhere and result.accuracy is not None:
        notes.append("Accuracy was measured on this machine, by torch in fp32, whatever the device computes in.")
    measured = job.target.origin == MEASURED
    if job.request.budget_ms is not None and measured and clocks.get("state") != "locked":
        notes.append("The clocks were not locked: whether the budget is met holds for the machine as it was.")
    if job.created.weights == "random":
        notes.append("Random weights: latency does not depend on them, and none were fetched.")
    baseline = result.plan.baseline_percent
    if baseline is not None and result.plan.measure == "accuracy":
        chance = 100 / classes_of(job.created.model)
        if baseline < 2 * chance:
            notes.append(
                f"The unreduced model gets {baseline:.1f} %, near chance ({chance:.1f} %): do these weights, this "
                "normalisation and this class order belong to the data?"
            )
    return notes
