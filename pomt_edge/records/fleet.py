"""The same job on several devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pomt_edge.records.base import SCHEMA, Record
from pomt_edge.records.chosen import Result


@dataclass(frozen=True)
class FleetRun(Record):
    """One device's run."""

    name: str
    """As the fleet file calls the device; also the folder of the run."""
    device: str
    own: dict[str, Any]
    """Options that the fleet file gives this device."""
    report: str | None = None
    """Its own report, relative to the fleet's folder; None where it failed."""
    result: Result | None = None
    error: str | None = None
    """Why there is no result, in one line."""


@dataclass(frozen=True)
class Fleet(Record):
    """All devices' runs, in the fleet file's order."""

    runs: tuple[FleetRun, ...]
    schema: int = SCHEMA

    @property
    def results(self) -> list[tuple[FleetRun, Result]]:
        """Those that have one."""
        return [(run, run.result) for run in self.runs if run.result is not None]

    @property
    def failed(self) -> list[FleetRun]:
        return [run for run in self.runs if run.result is None]


def in_words(own: Mapping[str, Any]) -> str:
    """Options of one device as a reader has them: 'power mode 15W, precision fp16'."""
    pairs = ((name.replace("_", " "), value) for name, value in own.items())
    return ", ".join(f"{name} {str(value).lower() if isinstance(value, bool) else value}" for name, value in pairs)
