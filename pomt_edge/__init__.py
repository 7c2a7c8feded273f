"""Measure a Vision Transformer's latency against its tokens on your device, and choose how many to remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pomt_edge.records import Plan
    from pomt_edge.reduce.reduced_model import reduce_model

__version__ = "0.1.0"
__all__ = ["Plan", "__version__", "reduce_model"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command's help must not wait for torch."""
    if name == "Plan":
        from pomt_edge.records import Plan

        return Plan
    if name == "reduce_model":
        from pomt_edge.reduce.reduced_model import reduce_model

        return reduce_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
