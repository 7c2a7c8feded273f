"""Make the device ready to be measured, and keep what it was like."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from pomt_edge.engines import Setting
from pomt_edge.measure import environment
from pomt_edge.measure.clocks import locked_clocks
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.report.unrest import clock_sentence
from pomt_edge.targets.local import LocalTarget


class Locking(Protocol):
    """The part of a request that says what to do about the clocks."""

    @property
    def lock(self) -> bool: ...

    @property
    def require_locked(self) -> bool: ...


def start(
    locking: Locking,
    target: LocalTarget,
    setting: Setting,
    engine: str,
    inputs: Mapping[str, Any],
    journal: Journal,
    progress: Progress,
    locks: contextlib.ExitStack,
) -> dict[str, Any]:
    """Lock the clocks until `locks` closes and keep the environment; gives what has to stay the same in a run."""
    progress.busy("locking the clocks")
    wishes: dict[str, Any] = {"lock": locking.lock, "required": locking.require_locked}
    clocks = locks.enter_context(locked_clocks(target, **wishes, tell=progress.note))
    facts = {"timer": target.timer, "clocks": dataclasses.asdict(clocks), **inputs}
    here = environment.describe(setting, engine, target.system)
    journal.add({"environment": dataclasses.replace(here, details=here.details | facts).to_dict()})
    progress.note(clock_sentence(facts["clocks"]))
    return {"clocks": clocks.state, "clocks wanted": clocks.wanted, "power mode": clocks.seen.get("power_mode")}
