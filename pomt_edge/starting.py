"""Make the device ready to be measured, and keep what it was like."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from pomt_edge.engines import Setting
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.report.unrest import clock_sentence
from pomt_edge.targets import Place

BOARD_SOFTWARE = ("trtexec", "l4t")
"""Details of a board elsewhere that a run's configuration, which is of this machine, does not hold."""


class Locking(Protocol):
    """The part of a request that says what to do about the clocks."""

    @property
    def lock(self) -> bool: ...

    @property
    def require_locked(self) -> bool: ...


def start(
    locking: Locking,
    target: Place,
    setting: Setting,
    engine: str,
    inputs: Mapping[str, Any],
    journal: Journal,
    progress: Progress,
    locks: contextlib.ExitStack,
) -> dict[str, Any]:
    """Lock the clocks until `locks` closes, and keep the environment; what has to stay the same in a run.

    Before any model is made ready: TensorRT chooses kernels by their speed at the clocks of then.
    """
    progress.busy("locking the clocks")
    clocks = locks.enter_context(target.held(locking.lock, locking.require_locked, progress.note))
    facts = {"timer": target.timer, "clocks": dataclasses.asdict(clocks), **inputs}
    here = target.environment(setting, engine)
    journal.add({"environment": dataclasses.replace(here, details=here.details | facts).to_dict()})
    progress.note(clock_sentence(facts["clocks"]))
    state = {"clocks": clocks.state, "clocks wanted": clocks.wanted, "power mode": clocks.seen.get("power_mode")}
    board = {name: here.details[name] for name in BOARD_SOFTWARE if name in here.details}
    return {**state, **board}
