"""How much faster one count is than another, with the interval of that."""

from __future__ import annotations

import math

from pomt_edge.records import LatencyCurve, LatencyPoint


def speedup_of(curve: LatencyCurve, tokens: int) -> tuple[float, float, float]:
    """Baseline over chosen with its 95 % interval."""
    return (1.0, 1.0, 1.0) if tokens == curve.baseline.tokens else ratio(curve.baseline, curve.at(tokens))


def ratio(over: LatencyPoint, under: LatencyPoint) -> tuple[float, float, float]:
    """One latency over another with its 95 % interval: the two points' relative errors add in quadrature."""
    value = over.median_ms / under.median_ms
    down = math.hypot(math.log(over.median_ms / max(over.low_ms, 1e-9)), math.log(under.high_ms / under.median_ms))
    up = math.hypot(math.log(over.high_ms / over.median_ms), math.log(under.median_ms / max(under.low_ms, 1e-9)))
    return value, value * math.exp(-down), value * math.exp(up)
