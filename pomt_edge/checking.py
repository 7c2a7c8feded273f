"""Whether a plan still stands: its model, as it is now, on a simulated or a recorded device, without noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from pomt_edge import demo, profiles
from pomt_edge.choose.standing import Standing, judge, judge_schedule
from pomt_edge.errors import UserError
from pomt_edge.measure.progress import Silent
from pomt_edge.models import create
from pomt_edge.models.create import Created
from pomt_edge.models.family import family_of
from pomt_edge.places import Wanted, open_place
from pomt_edge.profiles.profile import bare
from pomt_edge.records import Kept, LatencyCurve, LatencyPoint, Plan
from pomt_edge.reduce import method, schedule
from pomt_edge.reduce.method import Method
from pomt_edge.reduce.reduced_model import reduce_model
from pomt_edge.request import Request
from pomt_edge.simulator.asked import assumptions
from pomt_edge.targets import recordings
from pomt_edge.targets.recorded import IN_TF32, RecordedTarget
from pomt_edge.targets.simulated import SimulatedTarget

Checkable = SimulatedTarget | RecordedTarget
"""Places that have a curve without measuring."""
LEAST_SHARE = 0.1
"""Of the tokens: how far down the curve goes, as in the main job."""


@dataclass(frozen=True)
class CheckRequest:
    """The options of `pomt-edge check`; None: the plan's."""

    plan: Plan
    device: str
    tolerance_percent: float = 5.0
    model: str | None = None
    weights: Path | None = None
    num_classes: int | None = None
    image_px: int | None = None
    power_mode: str | None = None
    """Of a simulated device; where it lacks the plan's, that of its profile's figures."""


@dataclass(frozen=True)
class Checked:
    """What became of the plan."""

    model: str
    """timm's full name of the model that was checked."""
    engine: str
    """That the latencies are of: a recording's own."""
    power_mode: str | None
    """The device's; None: it has none, or it is not known."""
    standing: Standing
    notes: tuple[str, ...]
    """What limits the answer, a sentence each."""


def check(request: CheckRequest) -> Checked:
    """Make the plan's model, obtain its curve, and judge where the plan's count lies on it.

    Raises:
        UserError: no such model or device, a model that the plan's method can't reduce, a count that was not recorded.
    """
    plan = request.plan
    _check_device(request)
    request = dataclasses.replace(request, power_mode=_power_mode(request))
    created = _created(request)
    objection = _objection(plan, created.model)
    if objection:
        return Checked(created.name, plan.engine, request.power_mode, Standing(False, objection), ())
    place, curve = _curve_of(request, created)
    before = _before(request, curve, place)
    promised = plan.speedup if _is_the_plans(request, place) else None
    if plan.is_even:
        standing = judge(curve, before, plan.tokens_out, request.tolerance_percent, promised)
    else:
        standing = judge_schedule(_ms_of_schedule(place, plan), curve.baseline, request.tolerance_percent, promised)
    engine = place.curve.engine if isinstance(place, RecordedTarget) else plan.engine
    return Checked(created.name, engine, place.power_mode, standing, tuple(_notes(request, place)))


def _ms_of_schedule(place: Checkable, plan: Plan) -> float:
    if isinstance(place, SimulatedTarget):
        return place.latency_ms(plan.schedule)
    raise UserError(
        f"{place.curve.title} is a recording of one block, and the plan removes differently many tokens in several; "
        "check it on sim:PROFILE"
    )


def _is_the_plans(request: CheckRequest, place: Checkable) -> bool:
    """Whether it is the device that the plan was made on, as it was then."""
    plan = request.plan
    return plan.device == request.device and _bare(plan.power_mode) == _bare(place.power_mode)


def _bare(mode: str | None) -> str | None:
    return bare(mode) if mode else None


def _before(request: CheckRequest, curve: LatencyCurve, place: Checkable) -> LatencyCurve | None:
    """The curve of the plan's own model on this device; None where that would not be what the plan was chosen on."""
    plan = request.plan
    own = CheckRequest(plan, request.device, power_mode=request.power_mode)
    if (request.model, request.num_classes, request.image_px) == (None, None, None):
        return curve if _is_the_plans(request, place) else None
    try:
        created = _created(own)
        return None if _objection(plan, created.model) else _curve_of(own, created)[1]
    except UserError:  # not recorded, or timm no longer has it
        return None


def _created(request: CheckRequest) -> Created:
    wishes = _request(request)
    return create.create(create.Wanted(wishes.model, wishes.num_classes, wishes.image_px, wishes.weights))


def _curve_of(request: CheckRequest, created: Created) -> tuple[Checkable, LatencyCurve]:
    plan = request.plan
    by = method.load(plan.method)
    blocks = tuple(block for block, removed in enumerate(plan.schedule) if removed and plan.is_even) or (plan.block,)
    counts = _counts(plan, created.model, by, blocks)

    def variant(point: Kept) -> nn.Module:
        if isinstance(point, int):
            point = schedule.spread(plan.tokens_in - point, blocks, len(plan.schedule))
        return reduce_model(created.model, method=plan.method, schedule=point, copy=False)

    variant(plan.schedule)  # says so if the method can't reduce this model
    wanted = Wanted(_request(request), created.name, created.model, by, blocks, variant, counts)
    place = open_place(wanted, Silent())
    assert isinstance(place, (SimulatedTarget, RecordedTarget))  # `_check_device` refuses all others
    return place, _curve(place, counts, plan)


def _request(request: CheckRequest) -> Request:
    """The main job's request for the same setting."""
    plan = request.plan
    model = request.model or plan.model
    of_plan = model != demo.NAME  # the demo has its own, and takes no others
    return Request(
        model=model,
        batch_size=plan.batch_size,
        weights=request.weights,
        num_classes=request.num_classes or (plan.num_classes if of_plan else None),
        image_px=request.image_px or (plan.image_px if of_plan else None),
        device=request.device,
        noise="none" if request.device.startswith("sim:") else None,
        engine=plan.engine,
        precision=plan.precision,
        method=plan.method,
        probe=plan.probe,
        power_mode=request.power_mode,
    )


def _check_device(request: CheckRequest) -> None:
    """Raise a UserError for a device that can't be checked on, or whose power mode can't be chosen."""
    kind, _, name = request.device.partition(":")
    if kind == "sim":
        profiles.load(name)
    elif kind == "recorded":
        recordings.load(name)
        if request.power_mode:
            raise UserError(
                f"--power-mode can't be changed in a recording; leave it out with --device {request.device}"
            )
    else:
        raise UserError(
            f"--device {request.device}: check takes sim:PROFILE or recorded:NAME; where a device is at hand, measure "
            "again (offline_compute) and hold the two runs together (pomt-edge compare)"
        )


def _power_mode(request: CheckRequest) -> str | None:
    """That to simulate: the one asked for, else the plan's where the device has it; None: that of its figures."""
    kind, _, name = request.device.partition(":")
    if kind != "sim" or request.power_mode:
        return request.power_mode
    of_plan = request.plan.power_mode
    mode = profiles.load(name).mode(of_plan) if of_plan else None
    return mode.name if mode and mode.sm_count is not None else None


def _objection(plan: Plan, model: nn.Module) -> str | None:
    """Why the plan can't be this model's at all; None where it can."""
    family = family_of(model)
    tokens, depth = family.token_count(model), len(family.blocks(model))
    if tokens != plan.tokens_in:
        return f"the model has {tokens} tokens, the plan is for {plan.tokens_in}"
    if depth != len(plan.schedule):
        return f"the model has {depth} blocks, the plan is for {len(plan.schedule)}"
    return None


def _counts(plan: Plan, model: nn.Module, by: Method, blocks: Sequence[int]) -> tuple[int, ...]:
    """From all tokens down as far as the main job goes, or the plan, or as the method can."""
    full, depth = plan.tokens_in, len(plan.schedule)
    most = schedule.most_in(blocks, depth, full, family_of(model).prefix_tokens(model), by.most)
    least = max(min(math.ceil(LEAST_SHARE * full), plan.tokens_out), full - most)
    return tuple(range(full, least - 1, -1))


def _curve(place: Checkable, counts: Sequence[int], plan: Plan) -> LatencyCurve:
    """The curve itself: what is simulated without noise, what was recorded by its medians."""
    if isinstance(place, SimulatedTarget):
        median = {tokens: place.latency_ms(tokens) for tokens in counts}
    else:
        kept = place.curve
        median = {tokens: spread[1] for tokens, spread in kept.spread_ms.items()}
        median |= {tokens: float(np.median(samples)) for tokens, samples in kept.samples_ms.items()}
        for needed in (plan.tokens_in, plan.tokens_out):
            if needed not in median:
                raise UserError(
                    f"{needed} tokens of {kept.title} were not recorded, and the plan needs them; record a run of it"
                )
    points = (LatencyPoint(n, median[n], median[n], median[n], 1, 1, "not measured") for n in counts if n in median)
    return LatencyCurve(tuple(points), plan.probe)


def _notes(request: CheckRequest, place: Checkable) -> list[str]:
    plan = request.plan
    notes = []
    if plan.device != request.device:
        notes.append(f"The plan was made on {plan.device}: its speedup there is not compared with {request.device}.")
    elif not _is_the_plans(request, place):
        was = f"was made in {plan.power_mode}" if plan.power_mode else "does not say in which power mode it was made"
        now = f"is {place.power_mode}" if place.power_mode else "is of an unknown one"
        notes.append(f"The plan {was}, and this {now}: its speedup is not compared.")
    if isinstance(place, SimulatedTarget):
        return notes + list(assumptions(place.simulator.profile, place.simulator.mode))
    if place.curve.engine != plan.engine:
        notes.append(f"Recorded with {place.curve.engine}, the plan is for {plan.engine}: the steps may differ.")
    if place.curve.products:
        notes.append(f"In the recording {IN_TF32}.")
    if place.curve.reduction:
        blocks = "at the input" if plan.probe == "input" else f"in block {plan.block}"
        if place.curve.reduction != f"{plan.method} {blocks}":
            notes.append(f"Recorded with {place.curve.reduction}, the plan has {plan.method} {blocks}.")
    return notes
