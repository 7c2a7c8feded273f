"""`pomt-edge explain`: why a plan removes as many tokens as it does, and how sure that is."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pomt_edge.commands.common import path
from pomt_edge.errors import UserError
from pomt_edge.records import Contest, Plan, RecordError, Result

EXPECTED = "expected a plan.json, the folder of a finished run, or its result.json"
JOURNAL = "measurements.jsonl"


@dataclass(frozen=True)
class _Found:
    plan: Plan
    result: Result | None
    missing: str | None = None
    """Why there is no result."""


def explain(
    what: Annotated[
        Path, typer.Argument(parser=path, metavar="PATH", help="A run's folder, its plan.json or its result.json.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the same facts as one JSON object.")] = False,
) -> int:
    """Why this many tokens are removed, or none: what the neighbours cost, the steps around, and how sure it is."""
    if what is None:  # older typers let a missing argument through
        raise UserError("explain needs a plan: pomt-edge explain PATH")
    from pomt_edge.report import explain as explaining

    found = _read(what)
    explanation = explaining.explain(found.plan, found.result, found.missing)
    if as_json:
        print(explanation.to_json())
        return 0
    for line in explanation.lines:
        print(f"{line.label}: {line.text}")
    return 0


def _read(typed: Path) -> _Found:
    """The plan, and the result that it is of."""
    file = _file(typed)
    data = _json(file)
    try:
        if "curve" in data:
            result = Result.from_dict(data)
            return _Found(result.plan, result)
        if "results" in data and "best" in data:
            contest = Contest.from_dict(data)
            return _Found(contest.plan, _of_contest(contest, contest.plan))
        if "schedule" in data:
            return _beside(file, Plan.from_dict(data))
    except (RecordError, LookupError) as error:
        raise UserError(f"{typed}: {error}; {EXPECTED}") from error
    kind = " is of a deployment" if "parities" in data else " is of a fleet" if "runs" in data else ": no plan in it"
    raise UserError(f"{typed}{kind}; {EXPECTED}")


def _file(typed: Path) -> Path:
    """The file to begin with; of a folder its plan.json, which says whether result.json is of the same."""
    if not typed.is_dir():
        return typed
    for name in ("plan.json", "result.json"):
        if (typed / name).exists():
            return typed / name
    if (typed / JOURNAL).exists():
        raise UserError(f"{typed}: the run is not finished: give the same options and --out {typed} to finish it")
    raise UserError(f"{typed}: no plan.json in this folder; {EXPECTED}")


def _json(file: Path) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        data = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; {EXPECTED}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error}); {EXPECTED}") from error
    if not isinstance(data, dict):
        raise UserError(f"{file}: no JSON object; {EXPECTED}")
    return data


def _beside(file: Path, plan: Plan) -> _Found:
    """The plan with the result that lies beside it, if that is of the same plan."""
    own, contest = file.with_name("result.json"), file.with_name("methods.json")
    try:
        if own.exists():
            result = Result.from_dict(_json(own))
            if result.plan == plan:
                return _Found(plan, result)
            return _Found(plan, None, f"{own} is of another plan")
        if contest.exists():
            found = _of_contest(Contest.from_dict(_json(contest)), plan)
            return _Found(plan, found, None if found else f"{contest} is of other plans")
    except (UserError, RecordError) as error:
        return _Found(plan, None, f"the file beside the plan is damaged: {error}")
    return _Found(plan, None, f"there is none beside {file}")


def _of_contest(contest: Contest, plan: Plan) -> Result | None:
    """The run of that plan; where nothing is taken though a run has a plan, that run with the contest's reason."""
    if plan == contest.plan:
        return dataclasses.replace(contest.chosen, plan=plan)
    return next((result for result in contest.results if result.plan == plan), None)
