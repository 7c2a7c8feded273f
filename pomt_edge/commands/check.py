"""`pomt-edge check`: does a plan still stand, after its model has changed? For CI, where the device is not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pomt_edge.commands import _next_command
from pomt_edge.commands.common import NEGATIVE, path
from pomt_edge.errors import UserError
from pomt_edge.records import RECORDED, SIMULATED, Plan, RecordError

if TYPE_CHECKING:
    from pomt_edge.checking import Checked, CheckRequest


def check(
    plan: Annotated[
        Path | None, typer.Option(parser=path, metavar="PATH", help="A run's folder, or its plan.json.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--profile", "--device", help="sim:PROFILE or recorded:NAME; where to check it.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="PERCENT", help="Of latency: changes up to so much do not matter.")
    ] = 5.0,
    model: Annotated[str | None, typer.Option(help="Another model, by timm's name. [default: the plan's]")] = None,
    weights: Annotated[
        Path | None, typer.Option(parser=path, metavar="FILE", help="Checkpoint that has to fit. [default: random]")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes of the model. [default: the plan's]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Image height and width in pixels. [default: the plan's]")
    ] = None,
    power_mode: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of a simulated Jetson. [default: the plan's]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Whether a plan's count of tokens still lies on its tread, on a simulated or a recorded device.

    Exit code 1 if a count that keeps more tokens is as fast now, if the promised speedup is gone (where the plan was
    made on the same device), or if the model no longer has the plan's tokens or blocks; else 0.
    """
    if plan is None or device is None:
        raise UserError("check needs a plan and a device: pomt-edge check --plan plan.json --profile sim:PROFILE")
    if not 0 < tolerance < 100:
        raise UserError(f"--tolerance {tolerance:g}: expected percent above 0 and below 100, such as 5")
    if weights is not None and not weights.is_file():
        raise UserError(f"--weights {weights}: no such file; expected .safetensors or a checkpoint")
    from pomt_edge import checking

    request = checking.CheckRequest(_plan(plan), device, tolerance, model, weights, num_classes, image_size, power_mode)
    found = checking.check(request)
    if as_json:
        print(json.dumps(_facts(request, found), indent=2, allow_nan=False))
    else:
        _print(request, found)
    return 0 if found.standing.holds else NEGATIVE


def _plan(typed: Path) -> Plan:
    try:
        return Plan.load(typed)
    except RecordError as error:
        raise UserError(f"--plan {error}; expected the folder of a run, or its plan.json") from error


def _origin(request: CheckRequest) -> str:
    return SIMULATED if request.device.startswith("sim:") else RECORDED


def _subject(request: CheckRequest, found: Checked) -> str:
    plan = request.plan
    mode = f", {found.power_mode}" if found.power_mode else ""
    return f"{found.model}, batch {plan.batch_size}, {found.engine} {plan.precision}{mode}"


def _print(request: CheckRequest, found: Checked) -> None:
    standing, origin = found.standing, _origin(request)
    verdict = "HOLDS" if standing.holds else "MOVED"
    print(f"{verdict} on {request.device} ({origin}; {_subject(request, found)}): {standing.because}.")
    for note in (_limits(origin), *found.notes):
        print(note)
    if not standing.holds:
        if standing.instead is not None:
            print(f"Instead: {standing.instead} tokens, R={request.plan.tokens_in - standing.instead}.")
        print(f"For a new plan: {_command(request, found)}")


def _limits(origin: str) -> str:
    if origin == RECORDED:
        return "Recorded: the latencies were measured before, not now."
    from pomt_edge.simulator import error

    return f"Simulated: no device was measured, an analytic model made the latencies. {error.in_words(error.totals())}"


def _command(request: CheckRequest, found: Checked) -> str:
    plan = request.plan
    changes = {
        "model": found.model,
        "weights": str(request.weights) if request.weights else None,
        "num_classes": str(request.num_classes) if request.num_classes else None,
        "image_size": str(request.image_px) if request.image_px else None,
        "power_mode": found.power_mode if _origin(request) == SIMULATED else None,
    }
    return _next_command.offline_compute(plan, request.device, changes=changes)


def _facts(request: CheckRequest, found: Checked) -> dict[str, object]:
    facts: dict[str, object] = {
        "device": request.device,
        "origin": _origin(request),
        "power_mode": found.power_mode,
        "engine": found.engine,
        "model": found.model,
        "plan_model": request.plan.model,
        "plan_device": request.plan.device,
        "plan_power_mode": request.plan.power_mode,
        "tokens_in": request.plan.tokens_in,
        "tokens": request.plan.tokens_out,
        "tolerance_percent": request.tolerance_percent,
        **dataclasses.asdict(found.standing),
        "notes": [_limits(_origin(request)), *found.notes],
    }
    return facts if found.standing.holds else facts | {"new_plan": _command(request, found)}
