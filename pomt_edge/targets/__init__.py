"""Targets are where a latency is obtained: this machine now, others later. One file per kind."""

from __future__ import annotations

from typing import Protocol

from pomt_edge.machine.counters import Reading


class Target(Protocol):
    """What a sweep measures; the sweep never asks which kind it is."""

    def time_ms(self, tokens: int, count: int) -> list[float]:
        """Latency in milliseconds of each of `count` forwards of a whole batch, with `tokens` left."""

    def reading(self) -> Reading:
        """The device's throttle and energy counters now; an empty reading where it has none."""

    def memory_mib(self, tokens: int) -> float | None:
        """Memory that a forward with `tokens` left needs; see `LatencyPoint.memory_mib`. None: not known."""
