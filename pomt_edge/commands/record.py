"""`pomt-edge record`: keep a run's samples under a name, so that `--device recorded:NAME` replays them anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pomt_edge.commands import _next_command
from pomt_edge.commands.common import path
from pomt_edge.errors import UserError
from pomt_edge.records import LatencyCurve, Plan, Result


def record(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="The folder of a finished run.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, - and _.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Make a recording of a run of offline_compute, or add the run to the recording of that name.

    A recording holds curves of one device, each of a model, a batch size and a precision; the same one again replaces
    the earlier.
    """
    if run is None or name is None:  # older typers let a missing argument through
        raise UserError("record needs a run and a name: pomt-edge record RUN NAME")
    from pomt_edge.targets import recorded, recordings

    file = recorded.record(run, name)
    result = Result.load(run / "result.json")
    plan = result.plan
    kept = recordings.load(name).curve(plan.model, plan.batch_size, plan.precision)
    samples = sum(map(len, kept.samples_ms.values()))
    # What was swept: a schedule that was searched is none of the recording's counts, though its plan may look even.
    changes = {"block": kept.block}
    command = _next_command.offline_compute(plan, f"recorded:{name}", _grid(result.curve), changes)
    if as_json:
        facts = {
            "device": f"recorded:{name}",
            "device_name": result.environment.device_name,
            "file": str(file),
            "model": plan.model,
            "batch_size": plan.batch_size,
            "precision": plan.precision,
            "tokens": list(kept.tokens),
            "samples": samples,
            "next": command,
        }
        print(json.dumps(facts, indent=2))
        return 0
    print(
        f"{kept.title} on {result.environment.device_name}: {samples} samples of {len(kept.tokens)} counts, in {file}"
    )
    if result.searched:
        print(f"The plan's schedule of several blocks is not in it: its counts are those of block {kept.block} alone.")
    print(f"To replay it: {command}{_unsaid(plan)}")
    return 0


def _grid(curve: LatencyCurve) -> tuple[str, ...]:
    """Options that ask for the counts that there are; what the choice measured again besides is among them."""
    counts = [point.tokens for point in curve.points][1:]
    if not counts:
        return ()
    stride = counts[0] - counts[1] if len(counts) > 1 else 1
    words = ["--grid-start", str(counts[0]), "--grid-stop", str(counts[-1])]
    return (*words, *(["--grid-stride", str(stride)] if stride > 1 else []))


def _unsaid(plan: Plan) -> str:
    """What a plan does not know of its run."""
    return " (and --data and the images' options, as the run had them)" if plan.measure and plan.model != "demo" else ""
