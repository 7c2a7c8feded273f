"""This machine: each token count is the reduced model itself, loaded on the engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from pomt_edge.engines import Engine, Session, Setting
from pomt_edge.machine.controls import Control, controls_of
from pomt_edge.machine.counters import Counters, Reading
from pomt_edge.machine.load import spinning_cpus
from pomt_edge.machine.system import System

Variant = Callable[[int], nn.Module]
"""From a token count to the model that leaves so many; all share one model's weights."""


@dataclass(frozen=True)
class ClockWishes:
    """What to lock the clocks to; None: the device's default."""

    power_mode: str | None = None
    gpu_clock_mhz: int | None = None


class LocalTarget:
    """Sessions are made when first asked for and kept: they share the weights, so they cost next to nothing."""

    def __init__(
        self,
        variant: Variant,
        engine: Engine,
        setting: Setting,
        most_tokens: int,
        clocks: ClockWishes = ClockWishes(),
        system: System | None = None,
    ) -> None:
        self.system = system or System()
        self._clocks = clocks
        self._variant = variant
        self._engine = engine
        self._setting = setting
        self._most_tokens = most_tokens
        self._sessions: dict[int, Session] = {}
        self._gpu_uuid = engine.gpu_uuid(setting.device)
        self._counters = Counters(setting.device, self.system, self._gpu_uuid)

    @property
    def timer(self) -> str:
        return self.session(self._most_tokens).timer

    def session(self, tokens: int) -> Session:
        if tokens not in self._sessions:
            self._sessions[tokens] = self._engine.load(self._variant(tokens), self._setting)
        return self._sessions[tokens]

    def time_ms(self, tokens: int, count: int) -> list[float]:
        return self.session(tokens).time_ms(count)

    def reading(self) -> Reading:
        return self._counters.read()

    def memory_mib(self, tokens: int) -> float | None:
        return self.session(tokens).memory_mib()

    def controls(self) -> Sequence[Control]:
        """The settings of this machine that hold its clocks."""
        wishes, device = self._clocks, self._setting.device
        return controls_of(device, self.system, wishes.power_mode, wishes.gpu_clock_mhz, self._gpu_uuid)

    def warm_up(self) -> None:
        """Load the unreduced model and run it once."""
        self.time_ms(self._most_tokens, 1)

    def load(self, seconds: float) -> None:
        """Keep the device busy with the unreduced model for so long; on the CPU, every processor."""
        # The model may use fewer threads than there are processors, and an idle one tells nothing of its clock.
        on_cpu = not self._setting.device.startswith("cuda")
        with spinning_cpus() if on_cpu else contextlib.nullcontext():
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                self.time_ms(self._most_tokens, 1)
