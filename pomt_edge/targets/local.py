"""This machine: each token count is the reduced model itself, loaded on the engine."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pomt_edge.engines import Engine, Session, Setting

Variant = Callable[[int], nn.Module]
"""From a token count to the model that leaves so many; all share one model's weights."""


class LocalTarget:
    """Sessions are made when first asked for and kept: they share the weights, so they cost next to nothing."""

    def __init__(self, variant: Variant, engine: Engine, setting: Setting) -> None:
        self._variant = variant
        self._engine = engine
        self._setting = setting
        self._sessions: dict[int, Session] = {}

    def session(self, tokens: int) -> Session:
        if tokens not in self._sessions:
            self._sessions[tokens] = self._engine.load(self._variant(tokens), self._setting)
        return self._sessions[tokens]

    def time_ms(self, tokens: int, count: int) -> list[float]:
        return self.session(tokens).time_ms(count)
