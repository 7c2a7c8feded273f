"""Targets are where a latency is obtained: this machine now, others later. One file per kind."""

from __future__ import annotations

from typing import Protocol


class Target(Protocol):
    """What a sweep measures; the sweep never asks which kind it is."""

    def time_ms(self, tokens: int, count: int) -> list[float]:
        """Latency in milliseconds of each of `count` forwards of a whole batch, with `tokens` left."""
