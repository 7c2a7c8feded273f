"""A device that is not here: latencies from an analytic model, with noise on top. Nothing is run and nothing sleeps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from pomt_edge.engines import Setting
from pomt_edge.machine.controls import Control
from pomt_edge.machine.counters import Reading
from pomt_edge.measure.clocks import NOT_LOCKED, ClockState, check_required
from pomt_edge.measure.progress import Progress
from pomt_edge.records import SIMULATED, Environment, Kept, tokens_left
from pomt_edge.simulator import Noise, Simulator
from pomt_edge.simulator.asked import assumptions
from pomt_edge.simulator.error import totals
from pomt_edge.simulator.noise import STANDARD, NoisyClock
from pomt_edge.targets import _elsewhere

COUNTER = "heat (simulated)"


class SimulatedTarget:
    """The latencies of one simulated model; the same calls in the same order give the same samples."""

    timer = "simulated"
    origin = SIMULATED
    warms_up = True

    def __init__(self, simulator: Simulator, noise: Noise = STANDARD) -> None:
        self.simulator = simulator
        self.noise = noise
        self._clock = NoisyClock(noise)

    def time_ms(self, tokens: Kept, count: int) -> list[float]:
        """Samples drawn, not measured; the simulated clock goes on by as much."""
        return list(map(float, self._clock.samples(self.latency_ms(tokens), count)))

    def latency_ms(self, tokens: Kept) -> float:
        """The model's own figure, without noise.

        Raises:
            UserError: the model does not have so many tokens.
        """
        if not isinstance(tokens, int):
            return self.simulator.schedule_ms(tokens)
        if not 1 <= tokens <= len(self._curve):
            self.simulator.latency_ms([tokens])  # says what there is
        return self._curve[tokens - 1]

    def reading(self) -> Reading:
        """The simulated throttle counter; an empty reading where nothing throttles."""
        if not self.noise.throttling:
            return Reading()
        counts = {COUNTER: round(1e9 * self._clock.throttled_s)}
        return Reading(counts, (COUNTER,) if self._clock.throttled else (), None, (COUNTER,))

    def memory_mib(self, tokens: Kept) -> float | None:
        """An estimate."""
        return self.simulator.memory_mib(tokens_left(tokens, self.simulator.geometry.tokens))

    def controls(self) -> Sequence[Control]:
        """None: a simulated clock is held by nobody; see `clock_problem`."""
        return ()

    @contextlib.contextmanager
    def held(self, lock: bool, required: bool, tell: Callable[[str], None]) -> Iterator[ClockState]:
        problem = self.clock_problem
        state = (
            ClockState(NOT_LOCKED, problem) if problem else ClockState(SIMULATED, seen={"power_mode": self.power_mode})
        )
        if problem:
            check_required(state, required)
        yield state

    def prepare(self, points: Sequence[Kept], progress: Progress) -> dict[Kept, str]:
        return {}

    @property
    def device_name(self) -> str:
        return f"{self.simulator.profile.name} (simulated)"

    @property
    def power_mode(self) -> str | None:
        """None: a device without modes."""
        mode = self.simulator.mode
        return mode.name if mode else self.simulator.profile.figures_in

    def environment(self, setting: Setting, engine: str) -> Environment:
        details = {
            "profile": self.simulator.profile.id,
            "power_mode": self.power_mode,
            **self._hardware(),
            "noise": {name: value for name, value in vars(self.noise).items() if value},
            "simulator_error": totals(),
        }
        return _elsewhere.environment(setting, engine, self.device_name, SIMULATED, "simulated", details)

    def _hardware(self) -> dict[str, object]:
        device = self.simulator.device
        if device is None:
            return {}
        assumed = assumptions(self.simulator.profile, self.simulator.mode)
        return {
            "sm_count": device.sm_count,
            "gpu_clock_mhz": round(1e3 * device.clock_ghz),
            "memory_gb_per_s": device.memory_gb_per_s,
            **({"assumed": list(assumed)} if assumed else {}),
        }

    def close(self, finished: bool = False) -> None:
        """There is nothing to let go of."""

    @property
    def clock_problem(self) -> str | None:
        """Why the clocks are not locked, as it would be on a device with such a fault; None where there is none."""
        if self.noise.permission_denied:
            return "no permission to lock the clocks (simulated)"
        if self.noise.stuck_clock:
            return f"the clock stays at {100 / (1 + self.noise.stuck_clock):.0f} % of the one asked for (simulated)"
        return None

    def warm_up(self) -> None:
        """There is nothing to load."""

    def load(self, seconds: float) -> None:
        """Keep the simulated device busy for so long."""
        until = self._clock.seconds + seconds
        while self._clock.seconds < until:
            self.time_ms(len(self._curve), 1)

    def pause(self, seconds: float) -> None:
        """Let the simulated device idle, and cool, for so long; at once."""
        self._clock.pause(seconds)

    @property
    def seconds(self) -> float:
        """Simulated time so far."""
        return self._clock.seconds

    @cached_property
    def _curve(self) -> list[float]:
        most = self.simulator.geometry.tokens
        return list(map(float, self.simulator.latency_ms(range(1, most + 1))))
