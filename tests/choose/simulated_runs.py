"""Runs of a machine whose latencies are known, as records: what a comparison of two should say can be said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import samples
from numpy.typing import NDArray

from pomt_edge.choose import sides, staircase
from pomt_edge.choose.sides import Side
from pomt_edge.measure.timing import summarise
from pomt_edge.records import LatencyCurve, LatencyPoint, Result

Mood = Callable[[np.random.Generator, int], NDArray[np.float64]]
"""The machine's slowness at each of so many moments of a sweep, as a factor."""

COUNTS = (197, *range(196, 19, -2))
ANCHORS = 120
BLOCKS, SAMPLES = 6, 8
LOCKED = {"clocks": {"state": "locked", "wanted": {"gpu_clock_mhz": 1200}}}


def two_cliffs(tokens: int) -> float:
    """10 ms at most, 20 % less from 160 tokens, another 20 % less from 128, and a gentle slope."""
    return 10.0 * 0.8 ** ((tokens <= 160) + (tokens <= 128)) * (1 + 0.0005 * (tokens - 197))


def steady(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    return 1 + 0.003 * rng.standard_normal(count)


def moody(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Another speed every ten moments or so, up to 20 % slower."""
    factors = np.empty(count)
    start = 0
    while start < count:
        end = start + 1 + int(rng.exponential(10))
        factors[start:end] = rng.uniform(1, 1.2)
        start = end
    return factors * steady(rng, count)


def run(
    seed: int,
    latency_ms: Callable[[int], float] = two_cliffs,
    *,
    counts: Iterable[int] = COUNTS,
    noise: float = 0.005,
    mood: Mood = steady,
    details: Mapping[str, Any] | None = None,
    chosen: int = 128,
) -> Result:
    """One run: its points scaled to the machine's typical speed, as a sweep does it.

    `noise` is the relative standard deviation of a block's speed beside the anchor's around it.
    """
    rng = np.random.default_rng(seed)
    counts = tuple(counts)
    factors = mood(rng, ANCHORS)
    typical = float(np.median(factors))
    points = tuple(
        _point(rng, n, latency_ms(n) * typical, noise, blocks=BLOCKS if n != counts[0] else ANCHORS) for n in counts
    )
    anchor = tuple(float(value) for value in latency_ms(counts[0]) * factors)
    curve = LatencyCurve(points, "block", anchor)
    return of_curve(curve, details, chosen)


def _point(rng: np.random.Generator, tokens: int, typical_ms: float, noise: float, blocks: int) -> LatencyPoint:
    speeds = 1 + noise * rng.standard_normal((blocks, 1)) + 0.2 * noise * rng.standard_normal((blocks, SAMPLES))
    return summarise(tokens, [tuple(block) for block in (typical_ms * speeds).tolist()], "interval")


def of_curve(curve: LatencyCurve, details: Mapping[str, Any] | None = None, chosen: int = 128) -> Result:
    """A curve as the result of a run on an H200, DeiT-S, batch 4, fp32, that chose `chosen` tokens."""
    result = samples.staircase()
    removed = curve.baseline.tokens - chosen
    plan = dataclasses.replace(
        result.plan,
        precision="fp32",
        tokens_in=curve.baseline.tokens,
        tokens_out=chosen,
        removed=removed,
        schedule=tuple(removed if block == 3 else 0 for block in range(12)),
    )
    environment = dataclasses.replace(result.environment, precision="fp32", details=dict(details or {}))
    return Result(plan, curve, staircase.fit(curve), None, environment)


def side(name: str, result: Result) -> Side:
    return sides.of_result(name, result)


def made(rows: Iterable[tuple[int, float, float, float]], anchor: tuple[float, ...] = (10.0,) * 40) -> LatencyCurve:
    """A curve from rows of tokens, median, low and high in ms, of a machine without any unrest."""
    return LatencyCurve(tuple(LatencyPoint(*row, 48, 6, "interval") for row in rows), "block", anchor)
