"""Build and load the engines of a deployment, several times if asked, and see how much the builds differ."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from pomt_edge.deploy import kept
from pomt_edge.engines import BuildOptions, Built, Engine, Session, Setting
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.records import Build


class BuiltOnly(Exception):  # noqa: N818 - it says what there is
    """Built here, and not to be run here."""

    def __init__(self, reason: str, builds: tuple[Build, ...]) -> None:
        super().__init__(reason)
        self.builds = builds


ROUNDS = 5
ROUND_MS = 200.0


@dataclass(frozen=True)
class Made:
    """A variant on the engine: the first build, which is the one that is proven, measured and kept."""

    session: Session
    builds: tuple[Build, ...]


def make(
    variant: str, engine: Engine, source: nn.Module | Path, setting: Setting, options: BuildOptions, count: int
) -> Made:
    """Build `count` times and load each build.

    Raises:
        UserError: what the engine can't build, or a build in another precision than was asked for.
        BuiltOnly: the builds are there and can't run here.
    """
    sessions: list[Session] = []
    records: list[Build] = []
    reason = ""
    for number in range(1, count + 1):
        name = options.name if number == 1 else f"{options.name}.build{number}"
        # Timings kept from one build would make the next one the same.
        own = dataclasses.replace(options, name=name, reuse_timings=count == 1)
        try:
            built, seconds = _built(engine, source, setting, own)
        except Unavailable as here:
            raise BuiltOnly(str(here), tuple(records)) from here
        try:
            session, record = _loaded(variant, number, engine, built, setting, seconds)
        except Unavailable as here:
            reason, record = str(here), of_built(variant, number, built, seconds)
            check_precision(record, setting.precision)
        else:
            sessions.append(session)
        records.append(record)
    if reason:
        raise BuiltOnly(reason, tuple(records))
    if count > 1:
        medians = _in_turn(sessions)
        records = [dataclasses.replace(record, median_ms=ms) for record, ms in zip(records, medians, strict=True)]
    return Made(sessions[0], tuple(records))


def _built(engine: Engine, source: nn.Module | Path, setting: Setting, options: BuildOptions) -> tuple[Built, float]:
    """Build, or find what an earlier start had built of the same; and the seconds that the build took."""
    key = kept.key(source, setting, engine.version(), options) if isinstance(source, Path) else None
    if key is not None and (found := kept.find(options, key)):
        return found
    began = time.perf_counter()
    built = engine.build(source, setting, options)
    seconds = time.perf_counter() - began
    if key is not None and built.artefact != source:
        kept.keep(options, key, built, seconds)
    return built, seconds


def _loaded(
    variant: str, number: int, engine: Engine, built: Built, setting: Setting, seconds: float
) -> tuple[Session, Build]:
    began = time.perf_counter()
    session = engine.load(built, setting)
    load_seconds = time.perf_counter() - began
    record = of_built(variant, number, built, seconds, session.precision())
    check_precision(record, setting.precision)
    return session, dataclasses.replace(record, load_seconds=load_seconds, first_inference_ms=session.first_ms)


def of_built(variant: str, number: int, built: Built, seconds: float, precision: str | None = None) -> Build:
    """The record of a build, which may not run here."""
    return Build(variant, number, seconds, built.size_mib, precision or built.precision, dict(built.kernels))


def check_precision(build: Build, asked: str) -> None:
    """Raise a UserError where the engine says that it runs in another precision than was asked for."""
    if build.precision not in (None, asked):
        raise UserError(
            f"--precision {asked}: the {build.variant} model was built, and the engine says that it runs in "
            f"{build.precision}; nothing is deployed: give --precision {build.precision}, or another --engine"
        )


def _in_turn(sessions: Sequence[Session]) -> list[float]:
    """The median latency of each build in milliseconds, measured in turn."""
    samples: list[list[float]] = [[] for _ in sessions]
    for _ in range(ROUNDS):
        for own, session in zip(samples, sessions, strict=True):
            (one,) = session.time_ms(1)
            own += session.time_ms(max(round(ROUND_MS / max(one, 1e-3)), 3))
    return [float(np.median(own)) for own in samples]
