"""Several methods, engines or both: one run of each in a folder of its own, and the best of them."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path

from pomt_edge import engines, finals, offline
from pomt_edge.choose import winner
from pomt_edge.errors import Interrupted, PointFailed, Unavailable, Unfit, UserError
from pomt_edge.job import setting_of
from pomt_edge.measure.journal import NAME as JOURNAL
from pomt_edge.measure.progress import Progress
from pomt_edge.records import Contest, Result
from pomt_edge.reduce import method
from pomt_edge.report import files, methods
from pomt_edge.request import Request


def run(request: Request, progress: Progress) -> tuple[Contest, Path]:
    """Run the main job with each method on each engine, or what is left of it, and choose among their plans.

    Raises:
        UserError: anything the user can mend.
        Interrupted: what was measured is kept.
    """
    request.check()
    for name in request.method_names:
        method.load(name)  # an option that it does not have is said before hours of others
    folder = request.out or Path("runs") / f"methods-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if (folder / JOURNAL).exists():
        raise UserError(f"--out {folder}: holds a run of one method; give another folder for the comparison")
    try:
        contest = _compare(request, folder, progress)
    except KeyboardInterrupt as error:
        kept = f"interrupted; what was measured is kept: give the same options and --out {folder} to go on"
        raise Interrupted(kept) from error
    files.write_contest(contest, folder)
    return contest, folder


def _compare(request: Request, folder: Path, progress: Progress) -> Contest:
    requests, unfit = _usable(request, folder)
    results: list[Result] = []
    ran: list[Request] = []
    for number, one in enumerate(requests, 1):
        progress.note(f"{number} of {len(requests)}: {one.method} on {one.engine}")
        try:
            results.append(offline.run(one, progress)[0])
        except (Unfit, PointFailed, Unavailable) as reason:
            unfit.append(str(reason) if isinstance(reason, Unfit) else f"{one.method} on {one.engine}: {reason}")
            continue
        ran.append(one)
    unfit = list(dict.fromkeys(unfit))  # a method that does not fit the model fits it on no engine
    if not results:
        raise UserError(f"nothing is left to compare: {'; '.join(unfit)}")
    everyone = winner.contenders(results)
    if len(winner.engines_of(results)) == 1:
        best = winner.choose(everyone, everyone)
        return _contest(results, unfit, everyone, best)
    measured = finals.measure(winner.finalists(everyone), ran, folder, progress)
    everyone = winner.contenders(results, measured)
    named = {(final.engine, final.method) for final in measured}
    best = winner.choose([one for one in everyone if (one.engine, one.method) in named], everyone)
    return dataclasses.replace(_contest(results, unfit, everyone, best), finals=measured)


def _contest(
    results: list[Result], unfit: list[str], everyone: list[winner.Contender], best: winner.Contender | None
) -> Contest:
    taken, engine = (best.method, best.engine) if best else (None, None)
    return Contest(tuple(results), taken, winner.because(best, everyone), tuple(unfit), engine)


def _usable(request: Request, folder: Path) -> tuple[list[Request], list[str]]:
    """A request of each method on each engine that is here, and why the other engines are left out.

    All are measured on one device: the first engine's own where none is named.
    """
    names, device, unfit = request.engine_names, request.device, []
    if len(names) > 1:
        names = ()
        for name in request.engine_names:
            one = dataclasses.replace(request.contender(request.method_names[0], name), device=device)
            try:
                device = setting_of(one, engines.load(name)).device
            except UserError as reason:
                unfit.append(f"{name}: {reason}")
                continue
            names = (*names, name)
        if not names:
            raise UserError(f"--engine {request.engine}: none of them can be used here: {'; '.join(unfit)}")
    return [_alone(request, by, engine, device, folder) for engine in names for by in request.method_names], unfit


def _alone(request: Request, by: str, engine: str, device: str, folder: Path) -> Request:
    return dataclasses.replace(
        request.contender(by, engine),
        device=device,
        grid_stride=request.stride,
        # Accuracy everywhere, or the curves could not be laid over each other.
        accuracy_grid=request.accuracy_grid or ("full" if request.has_data and not request.is_searched else None),
        search=request.search or "full",
        grid_as_far_as_possible=True,
        out=folder / methods.folder_name(engine, by),
    )
