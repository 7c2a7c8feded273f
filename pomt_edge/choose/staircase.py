"""Explain a latency curve as treads of one common slope, and name the counts worth choosing from.

The model: ms(tokens) = level of the tread + slope * tokens, slope >= 0. For a given slope the best treads
follow from an exact dynamic program (optimal partitioning, Jackson et al. 2005, doi:10.1109/LSP.2001.838216),
for given treads the slope from a regression; the two alternate from many starting slopes.

Shapes: `[N]` one entry per point, most tokens first; `[N, N]` one entry per tread, from point i to point j,
both included; `[S]` one entry per slope tried. Latencies inside are relative to the curve's median: no unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pomt_edge.choose.efficient import efficient, narrowed
from pomt_edge.records import LatencyCurve, LatencyPoint, Segment, Staircase, Step

Array = NDArray[np.float64]
Starts = tuple[int, ...]
"""Index of each tread's first point, the first being 0."""

Z95 = 1.959964
"""Half a 95 % interval, in standard deviations of a normal law."""

MAD_TO_SD = 1.4826

NOISE_FLOOR = 0.0005
"""Relative. A CUDA event ticks at 0.5 us, 0.05 % of a millisecond: finer agreement is luck."""

STEP_COST = 3.0
"""Of one step, in units of log N; with log(tread / N) per tread this is the modified BIC (Zhang and Siegmund,
2007, doi:10.1111/j.1541-0420.2006.00662.x): an edge near another, as about a lone slow point, costs less."""

ENOUGH = 8
"""Points from which the scatter between neighbours tells noise from steps."""

STARTING_SLOPES, ROUNDS = 24, 4


@dataclass(frozen=True)
class _Curve:
    """A curve in relative units, and the weighted sums of squares of every possible tread."""

    tokens: Array
    latency: Array
    weight: Array
    tt: Array
    ty: Array
    yy: Array


def fit(curve: LatencyCurve) -> Staircase:
    """Fit treads of one common slope; the points may lie on any grid, in any order, two or many."""
    fitted = _Fitted(curve)
    levels = _levels(fitted.relative, fitted.slope, fitted.starts) * fitted.unit
    best = efficient(fitted.narrowed())
    return _staircase(fitted.points, fitted.slope * fitted.unit, fitted.starts, levels, best)


def on_treads(curve: LatencyCurve) -> list[LatencyPoint]:
    """The points, most tokens first, with their intervals narrowed by the treads that they lie on; see `narrowed`."""
    return _Fitted(curve).narrowed()


class _Fitted:
    """A curve, and the slope and treads that explain it best."""

    def __init__(self, curve: LatencyCurve) -> None:
        self.points = sorted(curve.points, key=lambda point: -point.tokens)
        tokens = np.array([point.tokens for point in self.points], dtype=np.float64)
        ms = np.array([point.median_ms for point in self.points], dtype=np.float64)
        interval = np.array([point.high_ms - point.low_ms for point in self.points], dtype=np.float64)
        self.unit = float(np.median(ms))
        latency, own = ms / self.unit, interval / (2 * Z95 * self.unit)
        coarse = _weighted(tokens, latency, own, _scatter(tokens, latency))
        slope, starts = _search(coarse)
        scatter = min(_residual(coarse, slope, starts), _scatter(tokens, latency))
        self.relative = _weighted(tokens, latency, own, scatter)
        self.slope, self.starts = _search(self.relative)

    def narrowed(self) -> list[LatencyPoint]:
        line, half = _line(self.relative, self.slope, self.starts)
        return narrowed(self.points, (line * self.unit).tolist(), (half * self.unit).tolist())


def _scatter(tokens: Array, latency: Array) -> float:
    """Relative standard deviation of one point, from neighbours: few steps hardly move the median."""
    if len(tokens) < ENOUGH:
        return 0.0
    gap, difference = -np.diff(tokens), -np.diff(latency)
    slope = np.median(difference / np.maximum(gap, 1))
    error = (difference - slope * gap) / (latency[:-1] + latency[1:]) * 2
    return float(MAD_TO_SD * np.median(np.abs(error)) / np.sqrt(2))


def _residual(curve: _Curve, slope: float, starts: Starts) -> float:
    """Relative standard deviation of one point about the fitted treads, robustly; lone points have no say."""
    size = np.diff([*starts, len(curve.tokens)])
    free = np.repeat(1 - 1 / size, size)
    error = 1 - (slope * curve.tokens + np.repeat(_levels(curve, slope, starts), size)) / curve.latency
    inside = free > 0
    if inside.sum() < ENOUGH:
        return np.inf
    return float(MAD_TO_SD * np.median(np.abs(error[inside]) / np.sqrt(free[inside])))


def _weighted(tokens: Array, latency: Array, own: Array, scatter: float) -> _Curve:
    """Weigh each point by its own interval, no narrower than the typical one, the scatter and the floor.

    Few samples give intervals far too narrow by chance, and real curves ripple from one count to the next by
    more than their intervals: both would be taken for steps.
    """
    typical = float(np.median(own / latency))
    sd = np.maximum(own, max(typical, scatter, NOISE_FLOOR) * latency)
    weight = sd**-2.0
    t, y = tokens - tokens.mean(), latency - np.average(latency, weights=weight)
    return _Curve(tokens, latency, weight, *(_squares(weight, a, b) for a, b in ((t, t), (t, y), (y, y))))


def _squares(weight: Array, a: Array, b: Array) -> Array:
    """Weighted sum of (a - mean a)(b - mean b) within every tread, `[N, N]`, from cumulative sums."""

    def over(values: Array) -> Array:
        total = np.concatenate(([0.0], np.cumsum(values)))
        return total[None, 1:] - total[:-1, None]

    mass = over(weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.triu(over(weight * a * b) - over(weight * a) * over(weight * b) / mass, 1)


def _search(curve: _Curve) -> tuple[float, Starts]:
    """The slope and treads of least cost; a slope above zero is a parameter that must pay for itself."""
    price = np.log(max(len(curve.tokens), ENOUGH))
    slopes = _starting_slopes(curve)
    best: tuple[float, float, Starts] = (np.inf, 0.0, (0,))
    for _ in range(ROUNDS):
        found = _partition(curve, slopes, STEP_COST * price)
        for slope, (cost, starts) in zip(slopes, found, strict=True):
            best = min(best, (cost + price * (slope > 0), float(slope), starts))
        slopes = np.unique([_slope(curve, starts) for starts in {starts for _, starts in found}])
    return best[1], best[2]


def _starting_slopes(curve: _Curve) -> Array:
    """Slopes per token `[S]` from zero to beyond the steepest seen, near by or over the whole curve."""
    seen = [_slope(curve, (0,))]
    for lag in (1, 2, 4):
        if lag < len(curve.tokens):
            gap = np.maximum(curve.tokens[:-lag] - curve.tokens[lag:], 1)
            seen.append(float(np.median((curve.latency[:-lag] - curve.latency[lag:]) / gap)))
    return np.unique(np.maximum([*seen, *np.linspace(0, 1.25 * max(seen), STARTING_SLOPES)], 0.0))


def _slope(curve: _Curve, starts: Starts) -> float:
    """The common slope per token, at least zero, that fits the given treads best."""
    ends = [*(start - 1 for start in starts[1:]), len(curve.tokens) - 1]
    spread = float(curve.tt[list(starts), ends].sum())
    return max(float(curve.ty[list(starts), ends].sum()) / spread, 0.0) if spread > 0 else 0.0


def _partition(curve: _Curve, slopes: Array, step_cost: float) -> list[tuple[float, Starts]]:
    """Cost and treads of the optimum per slope: best[to j] = min over i of best[to i - 1] + cost[i..j]."""
    count, s = len(curve.tokens), slopes[:, None]
    share = np.log(np.arange(count, 0, -1) / count)
    best = np.full((len(slopes), count + 1), -step_cost)
    start = np.zeros((len(slopes), count), dtype=np.intp)
    for j in range(count):
        misfit = curve.yy[: j + 1, j] - 2 * s * curve.ty[: j + 1, j] + s**2 * curve.tt[: j + 1, j]
        total = best[:, : j + 1] + misfit + share[count - j - 1 :]
        start[:, j] = total.argmin(axis=1)
        best[:, j + 1] = total.min(axis=1) + step_cost
    return [(float(cost), _trace(row)) for cost, row in zip(best[:, -1], start, strict=True)]


def _trace(start: NDArray[np.intp]) -> Starts:
    """Walk back from the last point: `start[j]` is where the best last tread up to point j begins."""
    found: list[int] = []
    end = len(start)
    while end > 0:
        end = int(start[end - 1])
        found.append(end)
    return tuple(reversed(found))


def _levels(curve: _Curve, slope: float, starts: Starts) -> Array:
    """Weighted mean of each tread's latency without the slope, `[treads]`."""
    flat = curve.latency - slope * curve.tokens
    return np.add.reduceat(curve.weight * flat, starts) / np.add.reduceat(curve.weight, starts)


def _line(curve: _Curve, slope: float, starts: Starts) -> tuple[Array, Array]:
    """The fitted latency at every point `[N]` and half its 95 % interval: the tread's level and the slope err."""
    size = np.diff([*starts, len(curve.tokens)])
    line = slope * curve.tokens + np.repeat(_levels(curve, slope, starts), size)
    mass = np.add.reduceat(curve.weight, starts)
    centre = np.repeat(np.add.reduceat(curve.weight * curve.tokens, starts) / mass, size)
    ends = [*(start - 1 for start in starts[1:]), len(curve.tokens) - 1]
    spread = float(curve.tt[list(starts), ends].sum())
    tilt = (curve.tokens - centre) ** 2 / spread if slope > 0 and spread > 0 else 0.0
    return line, Z95 * np.sqrt(1 / np.repeat(mass, size) + tilt)


def _staircase(
    points: list[LatencyPoint], slope: float, starts: Starts, levels: Array, best: tuple[int, ...]
) -> Staircase:
    """The records, in ms: `slope` per token, `levels` at zero tokens."""
    ends = [*starts[1:], len(points)]
    segments, steps = [], []
    for start, end, level in zip(starts, ends, levels, strict=True):
        most, fewest = points[start].tokens, points[end - 1].tokens
        segments.append(Segment(most, fewest, float(level + slope * (most + fewest) / 2)))
    for start, near, far in zip(starts[1:], levels, levels[1:], strict=False):
        edge_ms = near + slope * points[start - 1].tokens
        steps.append(Step(points[start].tokens, float(near - far), float(100 * (near - far) / edge_ms)))
    return Staircase(slope, tuple(segments), tuple(steps), best)
