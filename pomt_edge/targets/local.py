"""This machine: each token count is the reduced model itself, loaded on the engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pomt_edge.engines import Session, Setting
from pomt_edge.machine.controls import Control, controls_of
from pomt_edge.machine.counters import Counters, Reading
from pomt_edge.machine.load import spinning_cpus
from pomt_edge.machine.system import System
from pomt_edge.measure import environment
from pomt_edge.measure.clocks import ClockState, locked_clocks
from pomt_edge.measure.progress import Progress
from pomt_edge.records import MEASURED, Environment, Kept
from pomt_edge.targets.sessions import Sessions


@dataclass(frozen=True)
class ClockWishes:
    """What to lock the clocks to; None: the device's default."""

    power_mode: str | None = None
    gpu_clock_mhz: int | None = None


class LocalTarget:
    """Times the sessions of one device, such as `Sessions`, and reads and sets what the device has."""

    origin = MEASURED
    warms_up = True

    def __init__(
        self,
        session: Callable[[Kept], Session],
        device: str,
        most_tokens: int,
        clocks: ClockWishes = ClockWishes(),
        system: System | None = None,
        gpu_uuid: str | None = None,
    ) -> None:
        """`session`: from a token count or a schedule to its session, the same one as long as it is kept."""
        self.session = session
        self.system = system or System()
        self._clocks = clocks
        self._device = device
        self._most_tokens = most_tokens
        self._gpu_uuid = gpu_uuid
        self._counters = Counters(device, self.system, gpu_uuid)

    @property
    def timer(self) -> str:
        return self.session(self._most_tokens).timer

    def time_ms(self, tokens: Kept, count: int) -> list[float]:
        return self.session(tokens).time_ms(count)

    def prepare(self, points: Sequence[Kept], progress: Progress) -> dict[Kept, str]:
        """Build the sessions, where they are of a kind that is built; a count that can't be ends the run."""
        if isinstance(self.session, Sessions):
            self.session.prepare(points, progress)
        return {}

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def held(self, lock: bool, required: bool, tell: Callable[[str], None]) -> AbstractContextManager[ClockState]:
        return locked_clocks(self, lock=lock, required=required, tell=tell)

    @property
    def device_name(self) -> str:
        return environment.device_name(self._device, self.system)

    def environment(self, setting: Setting, engine: str) -> Environment:
        return environment.describe(setting, engine, self.system)

    def close(self, finished: bool = False) -> None:
        """There is nothing to let go of."""

    def reading(self) -> Reading:
        return self._counters.read()

    def memory_mib(self, tokens: Kept) -> float | None:
        return self.session(tokens).memory_mib()

    def controls(self) -> Sequence[Control]:
        """The settings of this machine that hold its clocks."""
        wishes = self._clocks
        return controls_of(self._device, self.system, wishes.power_mode, wishes.gpu_clock_mhz, self._gpu_uuid)

    def warm_up(self) -> None:
        """Load the unreduced model and run it once."""
        self.time_ms(self._most_tokens, 1)

    def load(self, seconds: float) -> None:
        """Keep the device busy with the unreduced model for so long; on the CPU, every processor."""
        # The model may use fewer threads than there are processors, and an idle one tells nothing of its clock.
        on_cpu = not self._device.startswith("cuda")
        with spinning_cpus() if on_cpu else contextlib.nullcontext():
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                self.time_ms(self._most_tokens, 1)
