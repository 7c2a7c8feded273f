"""Targets are where a latency is obtained: this machine, a simulated or a recorded one, a board over SSH."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from pomt_edge.machine.counters import Reading

if TYPE_CHECKING:
    from pomt_edge.engines import Setting
    from pomt_edge.measure.clocks import ClockState
    from pomt_edge.measure.progress import Progress
    from pomt_edge.records import Environment, Kept


class Target(Protocol):
    """What a sweep measures; the sweep never asks which kind it is."""

    warms_up: bool
    """Whether forwards become faster with the first few of a block; else each run of them is warm from its start."""

    def time_ms(self, tokens: Kept, count: int) -> list[float]:
        """Latency in milliseconds of at most `count` forwards of a whole batch, with `tokens` left, or of a schedule.

        Raises:
            PointFailed: this count can't be measured; the others may be.
        """

    def prepare(self, points: Sequence[Kept], progress: Progress) -> dict[Kept, str]:
        """Make ready what will be measured next; the points that can't be, and why, which the user was told.

        Raises:
            PointFailed: the unreduced model can't be, so that there is no curve.
        """

    def reading(self) -> Reading:
        """The device's throttle and energy counters now; an empty reading where it has none."""

    def memory_mib(self, tokens: Kept) -> float | None:
        """Memory that a forward with `tokens` left needs; see `LatencyPoint.memory_mib`. None: not known."""

    def pause(self, seconds: float) -> None:
        """Leave the device alone for so long, so that it cools."""


class Place(Target, Protocol):
    """A target as a whole job needs it."""

    @property
    def timer(self) -> str:
        """How the time is taken, such as 'host clock'."""

    @property
    def origin(self) -> str:
        """'measured', 'simulated' or 'recorded'."""

    @property
    def device_name(self) -> str:
        """The device's own name, such as 'NVIDIA H200' or the processor's model."""

    def held(self, lock: bool, required: bool, tell: Callable[[str], None]) -> AbstractContextManager[ClockState]:
        """Lock the clocks for as long as the context lasts; see `measure.clocks.locked_clocks`."""

    def environment(self, setting: Setting, engine: str) -> Environment:
        """Where the numbers come from."""

    def close(self, finished: bool = False) -> None:
        """Let go of the device; `finished`: what was kept there for going on is needed no more."""
