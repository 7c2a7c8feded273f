"""Latency curves with known edges, and how well `fit` finds them: `python -m tests.choose.curves`.

A true edge is the first count beyond a change of level of at least 2 % of the latency on the side of more
tokens, the slope aside; a found edge is right if it is at most one token off, and each counts once. Curves
are `[N]` latencies in ms, one entry per count, most tokens first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pomt_edge.choose.staircase import fit
from pomt_edge.records import LatencyCurve, LatencyPoint

COUNTS = np.arange(197, 1, -1)
FULL_MS = 1.6
BLOCKS = 5
MEDIAN_OF_FIVE = 0.536
"""Standard deviation of the median of five normal values of standard deviation one."""

Array = NDArray[np.float64]
Rng = np.random.Generator
Drawn = tuple[Array, set[int]]
"""A curve without noise, and its true edges."""


def plateaus(rng: Rng) -> Drawn:
    edges = _places(rng, 6)
    return _treads(rng, edges), set(edges)


def slope_plateaus(rng: Rng) -> Drawn:
    edges = _places(rng, 6)
    return _treads(rng, edges) + _tilt(rng), set(edges)


def steep(rng: Rng) -> Drawn:
    """A processor without tiles to fill: nearly proportional to the tokens, a few steps on top."""
    edges = [edge for edge in _places(rng, 12) if edge > 40]
    return _treads(rng, edges, low=0.05, high=0.12) * 0.6 + 0.006 * COUNTS, set(edges)


def sawtooth(rng: Rng) -> Drawn:
    """A step at every multiple of 8: down, or (every second curve) up while the slope makes up for it."""
    height, edges = rng.uniform(0.021, 0.04), range(8, 197, 8)
    if rng.random() < 0.5:
        return _treads(rng, edges, height, height, up=0.0), set(edges)
    jump_ms = FULL_MS * height
    slope_ms = jump_ms / 8 * rng.uniform(1.0, 1.3)
    return FULL_MS + slope_ms * (COUNTS - 197) + jump_ms * (24 - COUNTS // 8), {edge - 1 for edge in edges}


def comb(rng: Rng) -> Drawn:
    """Multiples of 8 are fast, each alone, on a slope."""
    fast = np.where(COUNTS % 8 == 0, FULL_MS * rng.uniform(0.022, 0.08), 0.0)
    return FULL_MS + _tilt(rng) - fast, {int(n) for n in COUNTS if n % 8 in (0, 7) and n < 197}


def isolated(rng: Rng) -> Drawn:
    """Single slow points, some on a plateau of their own, on a slope."""
    lone = _places(rng, 12)
    edges = [n + 6 for n in lone if rng.random() < 0.5]
    level = _treads(rng, edges)
    for n in lone:
        level = level * np.where(n == COUNTS, rng.uniform(1.022, 1.25), 1.0)
    return level + _tilt(rng), {*lone, *(n - 1 for n in lone), *edges}


def slope_only(rng: Rng) -> Drawn:
    return FULL_MS + _tilt(rng), set()


def flat(rng: Rng) -> Drawn:
    return np.full(len(COUNTS), FULL_MS), set()


KINDS: dict[str, Callable[[Rng], Drawn]] = {
    draw.__name__: draw for draw in (plateaus, slope_plateaus, steep, sawtooth, comb, isolated, slope_only, flat)
}


def _places(rng: Rng, apart: int) -> list[int]:
    """Three to eight counts, at least `apart` from each other and from both ends."""
    wanted, found = int(rng.integers(3, 9)), list[int]()
    while len(found) < wanted:
        place = int(rng.integers(2 + apart, 197 - apart))
        if all(abs(place - other) >= apart for other in found):
            found.append(place)
    return found


def _treads(rng: Rng, edges: Iterable[int], low: float = 0.021, high: float = 0.1, up: float = 0.2) -> Array:
    """A flat staircase: at each edge the latency falls, or with chance `up` rises, by its height."""
    level = np.full(len(COUNTS), FULL_MS)
    for edge in edges:
        height = rng.uniform(low, high) * (1 if rng.random() < up else -1)
        level = level * np.where(edge >= COUNTS, 1 + height, 1.0)
    return level


def _tilt(rng: Rng) -> Array:
    return rng.uniform(0.1, 0.4) * (COUNTS - 197) / 195


def measure(level_ms: Array, rng: Rng, noise: float, tokens: Iterable[int] = COUNTS) -> LatencyCurve:
    """Measure a curve as a sweep does: medians of blocks, their median, and its 95 % percentile bootstrap.

    `noise` is the relative standard deviation of a point's median; the interval is itself noisy: five blocks.
    """
    spread = noise / MEDIAN_OF_FIVE * rng.standard_normal((len(level_ms), BLOCKS))
    blocks = level_ms[:, None] * (1 + spread)
    again = np.median(blocks[:, rng.integers(0, BLOCKS, (100, BLOCKS))], axis=2)
    low, high = np.percentile(again, [2.5, 97.5], axis=1)
    return as_curve(tokens, np.median(blocks, axis=1), low, high)


def as_curve(
    tokens: Iterable[int],
    median_ms: Iterable[float],
    low_ms: Iterable[float] | None = None,
    high_ms: Iterable[float] | None = None,
) -> LatencyCurve:
    """A curve from columns; without intervals, they are of width zero."""
    medians = [float(value) for value in median_ms]
    rows = zip(
        tokens,
        medians,
        low_ms if low_ms is not None else medians,
        high_ms if high_ms is not None else medians,
        strict=True,
    )
    points = (
        LatencyPoint(int(n), median, float(low), float(high), 150, BLOCKS, "precise") for n, median, low, high in rows
    )
    return LatencyCurve(tuple(points))


class Score(NamedTuple):
    precision: float
    recall: float
    false_per_curve: float


def score(kind: str, noise: float, curves: int = 32, seed: int = 0) -> Score:
    """Precision and recall over all edges of `curves` curves; 1 where none was found, or none was there."""
    hits = found = true = 0
    for index in range(curves):
        rng = np.random.default_rng([seed, index])
        level, edges = KINDS[kind](rng)
        steps = {step.tokens for step in fit(measure(level, rng, noise)).steps}
        hits, found, true = hits + matched(steps, edges), found + len(steps), true + len(edges)
    return Score(hits / found if found else 1.0, hits / true if true else 1.0, (found - hits) / curves)


def matched(found: Iterable[int], true: Iterable[int]) -> int:
    """Pairs of a found and a true edge at most one token apart, no edge in two pairs."""
    left, hits = sorted(true), 0
    for edge in sorted(found):
        near = next((n for n in left if abs(n - edge) <= 1), None)
        if near is not None:
            left.remove(near)
            hits += 1
    return hits


def table(curves: int = 40) -> str:
    lines = [f"{'noise':>5}  {'curve':15}{'precision':>10}{'recall':>8}{'false/curve':>13}"]
    for noise in (0.003, 0.01):
        for kind in KINDS:
            precision, recall, false = score(kind, noise, curves)
            lines.append(f"{noise:5.1%}  {kind:15}{precision:10.3f}{recall:8.3f}{false:13.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
