"""What makes a real device's samples differ; each part has its own switch, and a seed makes it repeat."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pomt_edge.errors import UserError

TAIL = 0.25
"""How much slower an outlier is on average, beyond the first tenth."""
WARM_UP_FORWARDS = 20.0
SETTLING_S = 60.0
"""In which drift and temperature come within 37 % of their ends."""
COOL_C, LOADED_C, HOT_C, COOLED_C = 35.0, 95.0, 80.0, 70.0
"""Idle, the end under load, where throttling begins and where it ends: the gap between these is the hysteresis."""


@dataclass(frozen=True)
class Noise:
    """Shares are relative: 0.01 is one percent. Zero or False switches a part off."""

    white: float = 0.003
    """Standard deviation of every sample."""
    outliers: float = 0.0
    """Share of the samples that are far slower."""
    warm_up: float = 0.0
    """How much slower the first forward is; it fades within some tens of forwards."""
    drift: float = 0.0
    """How much slower a device that was busy for minutes becomes."""
    throttling: float = 0.0
    """How much slower a hot device is, all at once, until it has cooled well below where that began."""
    stuck_clock: float = 0.0
    """How much slower the whole time, because the clock stays below the one asked for."""
    permission_denied: bool = False
    """Whether clocks can't be locked here."""
    timer_quantum: float = 0.0
    """Milliseconds: the timer tells multiples of it alone."""
    seed: int = 0

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            most = MOST.get(spec.name, math.inf)
            if not (0 <= value <= most and math.isfinite(value)):
                limits = "0 or more" if math.isinf(most) else f"0 to {most:g}; 0.01 is one percent"
                raise UserError(f"--noise {spec.name}={value:g}: expected {limits}")


MOST = {"white": 0.5, "outliers": 1.0, "warm_up": 10.0, "drift": 10.0, "throttling": 10.0, "stuck_clock": 10.0}
"""Shares beyond which nothing is a device any more."""
NONE = Noise(white=0.0)
STANDARD = Noise()
WHEN_NAMED = {
    "white": 0.003,
    "outliers": 0.01,
    "warm_up": 0.5,
    "drift": 0.03,
    "throttling": 0.25,
    "stuck_clock": 0.3,
    "timer_quantum": 0.001,
}
"""What a part is when it is named without a value."""


def parse(text: str) -> Noise:
    """'none', or parts such as 'white=0.01,drift=0.05,throttling'; white noise stays unless it is set.

    Raises:
        UserError: a part that there is not, or a value that is not a number.
    """
    if text.strip() == "none":
        return NONE
    found: dict[str, Any] = {}
    known = [spec.name for spec in dataclasses.fields(Noise)]
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in known:
            raise UserError(f"--noise {text}: unknown part '{name}'; known: {', '.join(known)}, or none alone")
        if name in found:
            raise UserError(f"--noise {text}: names {name} twice; expected each part once")
        found[name] = _value(text, name, value if equals else None)
    return Noise(**found)


def _value(text: str, name: str, value: str | None) -> float | int | bool:
    try:
        if name == "permission_denied":
            return {None: True, "true": True, "false": False}[value]
        if name == "seed":
            return int(value or "")
        return WHEN_NAMED[name] if value is None else float(value)
    except (KeyError, ValueError):
        expected = {"permission_denied": "true, false or nothing", "seed": "a whole number"}.get(name, "a number")
        raise UserError(f"--noise {text}: {name}={value or ''}; expected {expected}") from None


class NoisyClock:
    """A simulated device's time and temperature, and what they do to its samples; nothing here sleeps."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise
        self._random = np.random.default_rng(noise.seed)
        self._warmth = 0.0
        """From idle (0) to the end under load (1)."""
        self._forwards = 0
        self.seconds = 0.0
        self.throttled_s = 0.0
        self.throttled = False

    def pause(self, seconds: float) -> None:
        """The device is left idle for so long."""
        self._pass(seconds, towards=0.0)

    def samples(self, latency_ms: float, count: int) -> NDArray[np.float64]:
        """Milliseconds of each of `count` forwards, one after another, of a device whose own time is `latency_ms`."""
        noise, random = self._noise, self._random
        # All numbers are drawn whatever is on: one switch never changes what another part does.
        white = np.exp(noise.white * random.standard_normal(count))
        far = 1 + TAIL * random.exponential(size=count) + 0.1
        white = np.where(random.random(count) < noise.outliers, white * far, white)
        slow = np.array([self._forward(latency_ms * factor) for factor in white.tolist()])
        if noise.timer_quantum:
            slow = np.maximum(np.round(slow / noise.timer_quantum), 1) * noise.timer_quantum
        return slow

    def _forward(self, latency_ms: float) -> float:
        noise = self._noise
        latency_ms *= 1 + noise.stuck_clock
        latency_ms *= 1 + noise.warm_up * math.exp(-self._forwards / WARM_UP_FORWARDS)
        latency_ms *= 1 + noise.drift * self._warmth
        if self.throttled:
            latency_ms *= 1 + noise.throttling
            self.throttled_s += latency_ms / 1e3
        self._forwards += 1
        self._pass(latency_ms / 1e3, towards=1.0)
        return latency_ms

    def _pass(self, seconds: float, towards: float) -> None:
        self.seconds += seconds
        self._warmth = towards + (self._warmth - towards) * math.exp(-seconds / SETTLING_S)
        if not self._noise.throttling:
            return
        celsius = COOL_C + (LOADED_C - COOL_C) * self._warmth
        # Between the two thresholds it stays what it was.
        self.throttled = celsius > HOT_C or (self.throttled and celsius > COOLED_C)
