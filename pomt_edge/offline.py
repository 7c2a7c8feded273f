"""The main job, end to end: model, sweep, curve, staircase, accuracy, plan, report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch

from pomt_edge import schedules
from pomt_edge.choose import plan as planning
from pomt_edge.decision import decide
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
from pomt_edge.records import MEASURED, Cost, Environment, Kept, Plan, Result, named
from pomt_edge.reduce import schedule
from pomt_edge.reduce.cost import cost_of
from pomt_edge.report import files
from pomt_edge.request import Request
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
            return _measure_and_choose(job, journal, progress, lambda: _begin(job, journal, progress, locks))
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
    sweep = Sweep(grid, job.target, journal, progress, begin)
    accuracy = _accuracy(job, journal, progress)
    if accuracy and request.accuracy_grid == "full":
        for tokens in job.tokens:
            accuracy.at(tokens)
    curve, fitted, decision = decide(sweep, request.limits, request.detrend, accuracy)
    environment = _environment(journal)
    subject = planning.Subject(
        model=job.created.name,
        method=request.method,
        schedule=schedule.spread(job.tokens[0] - decision.tokens, job.blocks, job.depth),
        block=job.blocks[0],
        batch_size=request.batch_size,
        image_px=job.setting.image_px,
        precision=request.precision,
        engine=request.engine,
        device=job.setting.device,
        num_classes=classes_of(job.created.model),
        origin=job.target.origin,
        power_mode=environment.power_mode,
    )
    measured = accuracy.curve() if accuracy else None
    plan = planning.make_plan(
        subject,
        curve,
        decision,
        request.limits,
        measured.measure if measured else None,
        accuracy.at if accuracy else None,
    )
    found = None
    if accuracy and request.searches_blocks:
        plan, found = schedules.search(job, schedules.Measuring(sweep, accuracy, journal, progress), fitted, plan)
        environment = _environment(journal)
    result = Result(plan, curve, fitted, measured, environment, _costs(job, plan), schedules=found)
    return dataclasses.replace(result, notes=tuple(_notes(job, result, sweep.failed)))


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
