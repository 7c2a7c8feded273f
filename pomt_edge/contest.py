"""Every method, compared: one run each in a folder of its own, and the plan of the best."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from pomt_edge import catalogue, offline
from pomt_edge.errors import Unfit
from pomt_edge.measure.progress import Progress
from pomt_edge.records import Contest, Plan, Result
from pomt_edge.reduce import METHODS
from pomt_edge.report import files, methods
from pomt_edge.request import Request

VARIANTS = ("pomt:score=cls",)
"""Ways of a method that are worth a place of their own."""


def contestants() -> list[str]:
    """The names of all methods, as `--method` takes them."""
    return sorted([*catalogue.names(METHODS), *VARIANTS])


def run(request: Request, progress: Progress) -> tuple[Contest, Path]:
    """Run the main job with each method, or what is left of it, and choose among their plans.

    Raises:
        UserError: anything the user can mend.
    """
    folder = request.out or Path("runs") / f"methods-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    results: list[Result] = []
    unfit: list[str] = []
    names = contestants()
    for number, name in enumerate(names, 1):
        progress.note(f"method {number} of {len(names)}: {name}")
        try:
            result, _ = offline.run(_with_method(request, name, folder), progress)
        except Unfit as reason:
            unfit.append(str(reason))
            continue
        results.append(result)
    if not results:
        raise Unfit("no method can reduce this model: " + "; ".join(unfit))
    best = choose([result.plan for result in results])
    contest = Contest(tuple(results), best.method if best else None, _because(results, best), tuple(unfit))
    files.write_contest(contest, folder)
    return contest, folder


def _with_method(request: Request, name: str, folder: Path) -> Request:
    own = folder / methods.folder_name(name)
    # Accuracy everywhere, or the methods' curves could not be laid over each other.
    grid = request.accuracy_grid or ("full" if request.has_data else None)
    return dataclasses.replace(
        request, method=name, grid_stride=request.stride, accuracy_grid=grid, out=own, grid_as_far_as_possible=True
    )


def choose(plans: list[Plan]) -> Plan | None:
    """The best of the plans that prune: by the limit that each respects, the one that wins most of the other kind."""
    pruning = [plan for plan in plans if plan.verdict == "prune"]
    if not pruning:
        return None
    if "budget_ms" in pruning[0].limits:
        return max(pruning, key=lambda plan: (plan.predicted_percent or 0.0, plan.tokens_out))
    return max(pruning, key=lambda plan: plan.speedup)


def _because(results: list[Result], best: Plan | None) -> str:
    if best is None:
        return "no method has a count that is surely faster within the limits"
    rivals = [result.plan for result in results if result.plan.verdict == "prune" and result.plan is not best]
    near = [plan.method for plan in rivals if plan.speedup_high >= best.speedup_low]
    claim = "the most accurate within the budget" if "budget_ms" in best.limits else "the fastest within the limits"
    if "budget_ms" in best.limits or not near:
        return f"{best.method} is {claim}"
    return f"{best.method} is {claim}; by the intervals of speed {', '.join(near)} may be as good"
