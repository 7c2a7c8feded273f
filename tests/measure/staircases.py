"""A target whose latency is known: what a sweep of it should find can be said."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pomt_edge.machine.counters import Reading
from pomt_edge.measure.progress import Progress
from pomt_edge.records import Kept, tokens_left

FULL = 197


class KnownTarget:
    """Latency as a function of the count, times noise drawn from a seed, times the machine's speed of the moment."""

    warms_up = True

    def __init__(
        self,
        latency_ms: Callable[[int], float],
        noise: float = 0.003,
        speed: Callable[[int], float] = lambda call: 1.0,
        seed: int = 0,
    ) -> None:
        self._latency_ms = latency_ms
        self._noise = noise
        self._speed = speed
        self._rng = np.random.default_rng(seed)
        self.calls: list[tuple[Kept, int]] = []
        self.throttled_until = 0
        """Up to this call the target is held back, and its counter of that grows."""
        self.unbuilt: dict[Kept, str] = {}
        """Points that can't be made ready, and why."""
        self.prepared: list[Kept] = []

    def prepare(self, points: Sequence[Kept], progress: Progress) -> dict[Kept, str]:
        self.prepared += points
        return {point: because for point, because in self.unbuilt.items() if point in points}

    def time_ms(self, tokens: Kept, count: int) -> list[float]:
        base = self._latency_ms(tokens_left(tokens, FULL)) * self._speed(len(self.calls))
        self.calls.append((tokens, count))
        return [float(base * (1 + self._noise * self._rng.standard_normal())) for _ in range(count)]

    def reading(self) -> Reading:
        held = min(len(self.calls), self.throttled_until)
        return Reading({"heat": held}, energy_mj=5.0 * self.forwards, watched=("heat",))

    def pause(self, seconds: float) -> None:
        """Nothing to wait for."""

    def memory_mib(self, tokens: Kept) -> float | None:
        return 100.0 + tokens_left(tokens, FULL)

    @property
    def forwards(self) -> int:
        return sum(count for _, count in self.calls)

    def blocks(self) -> list[Kept]:
        """The counts of the timed blocks, warm-ups and energy left out, in the order of measurement."""
        return [tokens for tokens, count in self.calls if 1 < count <= 25 and count != 5]


def two_cliffs(tokens: int) -> float:
    """10 ms, 20 % less from 160 tokens, another 20 % less from 128."""
    return 10.0 * 0.8 ** ((tokens <= 160) + (tokens <= 128))
