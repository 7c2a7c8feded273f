"""The main job, end to end: model, sweep, curve, staircase, accuracy, plan, report."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

from pomt_edge.choose import plan as planning
from pomt_edge.choose import staircase
from pomt_edge.errors import Interrupted
from pomt_edge.job import Job, classes_of, prepare
from pomt_edge.measure import environment
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.measure.sweep import Grid, Sweep
from pomt_edge.measure.timing import StopRule
from pomt_edge.records import LatencyCurve, Result, Staircase
from pomt_edge.report import files
from pomt_edge.request import Request

CONFIRMED_CHOICES = 6
"""Choices that are measured again, should each turn out otherwise than it looked; then one of them is taken."""


RESTLESS_PERCENT = 5.0


def run(request: Request, progress: Progress) -> tuple[Result, Path]:
    """Do all that the request asks, or what is left of it, and give the result and the folder that holds it.

    Raises:
        UserError: anything the user can mend.
    """
    request.check()
    job = prepare(request, progress)
    with Journal(job.folder, job.configuration) as journal:
        progress.note(f"results and resumable measurements: {job.folder}")
        try:
            result = _measure_and_choose(job, journal, progress)
        except KeyboardInterrupt as error:
            kept = f"interrupted; what was measured is kept: give the same options and --out {job.folder} to go on"
            raise Interrupted(kept) from error
    files.write(result, job.folder)
    return result, job.folder


def _measure_and_choose(job: Job, journal: Journal, progress: Progress) -> Result:
    request = job.request
    here = environment.describe(job.setting, request.engine)
    here = dataclasses.replace(here, details=here.details | job.inputs)
    rule = StopRule(request.interval_percent, request.point_seconds)
    sweep = Sweep(Grid(job.tokens, request.probe, request.seed, rule), job.target, journal, progress)
    accuracy = _accuracy(job, journal, progress)
    if accuracy and request.accuracy_grid == "full":
        for tokens in job.tokens:
            accuracy.at(tokens)
    curve, fitted, decision = _decide(job, sweep, accuracy)
    subject = planning.Subject(
        model=job.created.name,
        method=request.method,
        depth=job.depth,
        block=request.block,
        batch_size=request.batch_size,
        image_px=job.setting.image_px,
        precision=request.precision,
        engine=request.engine,
        device=job.setting.device,
        num_classes=classes_of(job.created.model),
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
    result = Result(plan, curve, fitted, measured, here)
    return dataclasses.replace(result, notes=tuple(_notes(job, result)))


def _accuracy(job: Job, journal: Journal, progress: Progress) -> Accuracy | None:
    if job.images is None:
        return None
    return Accuracy(job.images, job.preprocessing, job.target.session, job.tokens[0], journal, progress)


def _decide(job: Job, sweep: Sweep, accuracy: Accuracy | None) -> tuple[LatencyCurve, Staircase, planning.Decision]:
    """Choose, measure the choice again beside the baseline, and choose again until that changes nothing."""
    curve = sweep.run()
    confirmed: set[int] = set()
    while True:
        fitted = staircase.fit(curve)
        candidates = fitted.efficient
        if len(confirmed) == CONFIRMED_CHOICES:
            candidates = tuple(tokens for tokens in candidates if tokens in confirmed or tokens == job.tokens[0])
        decision = planning.decide(
            curve,
            candidates,
            job.request.limits,
            accuracy.at if accuracy else None,
            accuracy.known() if accuracy else (),
        )
        if decision.verdict != "prune" or decision.tokens in confirmed:
            return curve, fitted, planning.settled(curve, decision, job.request.limits)
        confirmed.add(decision.tokens)
        curve = sweep.confirm(decision.tokens)


def _unrest(result: Result) -> list[str]:
    """A note if the machine's speed changed by more than the differences that are looked for."""
    anchor = result.curve.anchor_ms
    if len(anchor) < 20:
        return []
    edges = statistics.quantiles(anchor, n=20)
    fastest, slowest = edges[0], edges[-1]
    if slowest <= (1 + RESTLESS_PERCENT / 100) * fastest:
        return []
    return [
        f"The machine was restless: the unreduced model took {fastest:.4g} to {slowest:.4g} ms (middle 90 % of its "
        "blocks). Counts are compared by ratios to it; for milliseconds to rely on, close other programs and lock the "
        "clocks."
    ]


def _notes(job: Job, result: Result) -> list[str]:
    notes = _unrest(result)
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
