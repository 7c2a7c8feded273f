"""The unreduced model and the best plan of each engine, measured in turn: what compares engines.

Each run was held against its own unreduced model, minutes or hours apart from the others, on a machine that may have
been another meanwhile. Its milliseconds say little beside another run's; those measured here in turn do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pomt_edge import engines
from pomt_edge.choose.winner import Contender
from pomt_edge.engines import Session
from pomt_edge.job import Job, prepare, setting_of
from pomt_edge.machine.system import System
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.measure.sweep import CONFIRMATIONS, Grid, Sweep
from pomt_edge.measure.timing import StopRule
from pomt_edge.records import Final, Kept
from pomt_edge.request import Request
from pomt_edge.starting import start
from pomt_edge.targets.local import ClockWishes, LocalTarget


def measure(
    finalists: Sequence[Contender], requests: Sequence[Request], folder: Path, progress: Progress
) -> tuple[Final, ...]:
    """Measure the finalists in turn, or what is left of that, in a folder of their own below `folder`.

    Args:
        requests: of the runs that the finalists come from.

    Raises:
        UserError: as of any run.
    """
    what = [[one.engine, one.method, one.tokens] for one in finalists]
    # Another limit has other finalists, and what was measured of these stays theirs.
    name = f"finals-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]}"
    first = requests[0]
    rule = StopRule(first.interval_percent, first.point_seconds, least_blocks=CONFIRMATIONS)
    facts = {"finalists": what, "interval_percent": rule.interval_percent, "point_seconds": rule.point_seconds}
    with (
        Journal(folder / name, facts) as journal,
        contextlib.ExitStack() as locks,
        _Sessions(finalists, requests, progress) as sessions,
    ):
        target = _target(first, sessions)

        def begin() -> dict[str, Any]:
            setting = setting_of(first, engines.load(first.engine))
            names = ", ".join(dict.fromkeys(one.engine for one in finalists))
            places = range(len(finalists))
            state = start(first, target, setting, names, facts, journal, progress, locks)
            sessions.load(places)
            return state

        grid = Grid(tuple(range(len(finalists))), seed=first.seed, rule=rule, batch_size=first.batch_size)
        curve = Sweep(grid, target, journal, _Told(progress), begin).run()
    return tuple(
        Final(one.engine, one.method, dataclasses.replace(curve.at(place), tokens=one.tokens))
        for place, one in enumerate(finalists)
    )


class _Sessions(contextlib.ExitStack):
    """From a finalist's place to its session, made when it is asked for: all may have been measured already."""

    def __init__(self, finalists: Sequence[Contender], requests: Sequence[Request], progress: Progress) -> None:
        super().__init__()
        self._finalists = finalists
        self._requests = requests
        self._progress = progress
        self._job = functools.cache(self._prepared)

    def __call__(self, place: Kept) -> Session:
        assert isinstance(place, int)  # no schedules are asked for
        one = self._finalists[place]
        return self._job(one.engine).sessions(one.tokens)

    def load(self, places: Sequence[int]) -> None:
        """Build all before anything is measured: a build between two blocks heats the second."""
        self._progress.stage("building the finalists", len(places))
        for place in places:
            self(place)
            self._progress.advance(self._finalists[place].name(several=True))

    def _prepared(self, engine: str) -> Job:
        """The job of the engine's best plan, whose sessions have the unreduced model as well."""
        methods = [one.method for one in self._finalists if one.engine == engine and one.method]
        own = [one for one in self._requests if one.engine == engine and (not methods or one.method in methods)]
        job = prepare(own[0], self._progress)
        self.enter_context(job.sessions)
        return job


def _target(request: Request, sessions: _Sessions) -> LocalTarget:
    engine = engines.load(request.engine)
    device = setting_of(request, engine).device
    wishes = ClockWishes(request.power_mode, request.gpu_clock_mhz)
    return LocalTarget(sessions, device, 0, wishes, System(request.sysroot), engine.gpu_uuid(device))


class _Told:
    """The sweep's progress, without the token counts that it takes the finalists' places for."""

    def __init__(self, progress: Progress) -> None:
        self.busy, self.note = progress.busy, progress.note
        self._progress = progress

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self._progress.stage("the best of each engine in turn, blocks", total, done)

    def advance(self, detail: str = "") -> None:
        self._progress.advance()
