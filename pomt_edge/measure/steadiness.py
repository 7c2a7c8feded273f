"""How steady a machine was while it was measured: drift, sudden shifts, outliers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pomt_edge.measure.timing import Block
from pomt_edge.records import LatencyCurve, LatencyPoint, Shift, Steadiness

FloatArray = NDArray[np.float64]

DRIFT_PERCENT = 2.0
"""A trend of the anchor beyond this is reported."""
SHIFT_PERCENT = 4.0
"""A sudden change of the anchor beyond this, and beyond its noise, is reported."""
SHIFT_WINDOW = 3
"""Anchor blocks before and after a place whose medians are compared there."""
OUTLIER_PERCENT = 15.0
"""A forward is an outlier from here above its block's median, or from six deviations of the noise."""
CHUNKS = 5
"""A machine's moods last for a good part of a sweep. Without any trend, moods of 4 % (autocorrelation 0.9 to 0.97 from
block to block, 60 to 300 blocks) look like a drift in 1 to 10 % of the sweeps with five chunks, in 6 to 41 % with ten.
"""
ROBUST_SD = 1.4826
"""From a median absolute deviation to the standard deviation of normal noise."""


class Drift(NamedTuple):
    """Change from start to end in percent, with its 95 % interval."""

    percent: float
    low: float
    high: float


def of_blocks(blocks: Sequence[Block], anchor_ms: Sequence[float], points: Sequence[LatencyPoint]) -> Steadiness:
    """What the samples themselves tell; warm-up and throttling are known to who measured them.

    Args:
        blocks: all of them; anchor_ms: medians of the anchor's, in the order of measurement.
    """
    sudden = shifts(anchor_ms)
    trend = drift(anchor_ms, sudden)
    spreads = [point.cv_percent for point in points if point.cv_percent is not None]
    return Steadiness(
        drift_percent=trend.percent,
        drift_low=trend.low,
        drift_high=trend.high,
        shifts=sudden,
        samples=sum(map(len, blocks)),
        outliers=outliers(blocks),
        cv_percent=float(np.median(spreads)) if spreads else None,
    )


def drift(anchor_ms: Sequence[float], shifts: Sequence[Shift] = ()) -> Drift:
    """The trend of a series of block medians, by Theil and Sen, which a few slow blocks don't bend.

    Neighbouring blocks are alike, so the line goes through the medians of five chunks of the series. Sudden
    shifts are taken out first: they are no trend.
    """
    if len(anchor_ms) < CHUNKS:
        return Drift(0.0, 0.0, 0.0)
    levels = _without(np.log(anchor_ms), shifts)
    chunks = [float(np.median(chunk)) for chunk in np.array_split(levels, CHUNKS)]
    slope, _, low, high = stats.theilslopes(chunks)
    return Drift(*(float(100 * np.expm1(value * len(chunks))) for value in (slope, low, high)))


def shifts(anchor_ms: Sequence[float]) -> tuple[Shift, ...]:
    """Places where the anchor's latency changed suddenly and stayed so for some blocks."""
    if len(anchor_ms) < 2 * SHIFT_WINDOW:
        return ()
    levels = np.log(anchor_ms)
    windows = np.median(np.lib.stride_tricks.sliding_window_view(levels, SHIFT_WINDOW), axis=1)
    jumps = windows[SHIFT_WINDOW:] - windows[:-SHIFT_WINDOW]
    noise = ROBUST_SD * float(np.median(np.abs(np.diff(levels))))
    beyond = np.abs(jumps) > max(np.log1p(SHIFT_PERCENT / 100), 4 * noise)
    runs = np.split(np.arange(len(jumps)), np.flatnonzero(np.diff(np.sign(jumps) * beyond)) + 1)
    peaks = [run[np.argmax(np.abs(jumps[run]))] for run in runs if beyond[run[0]]]
    return tuple(Shift(int(peak) + SHIFT_WINDOW, float(100 * np.expm1(jumps[peak]))) for peak in peaks)


def outliers(blocks: Sequence[Block]) -> int:
    """Forwards far above the median of their block; blocks of less than three say nothing."""
    ratios = [np.asarray(block) / np.median(block) for block in blocks if len(block) > 2]
    if not ratios:
        return 0
    apart = np.concatenate(ratios) - 1
    noise = ROBUST_SD * float(np.median(np.abs(apart)))
    return int(np.sum(apart > max(OUTLIER_PERCENT / 100, 6 * noise)))


def detrended(curve: LatencyCurve) -> LatencyCurve:
    """The curve as the machine was in the first tenth of the sweep, if it drifted or shifted since.

    Blocks are scaled to the anchor's median over the whole sweep, so a drift is in it by half. A drift whose interval
    holds zero is none; without that and without a sudden shift the curve is given as it was.
    """
    if not (is_sure(curve.steadiness) or curve.steadiness.shifts):
        return curve
    first = curve.anchor_ms[: max(len(curve.anchor_ms) // 10, SHIFT_WINDOW)]
    factor = float(np.median(first) / np.median(curve.anchor_ms))
    points = tuple(_times(point, factor) for point in curve.points)
    return dataclasses.replace(curve, points=points, detrended=True)


def is_sure(steadiness: Steadiness) -> bool:
    """Whether the drift's interval lies on one side of zero."""
    return steadiness.drift_low > 0 or steadiness.drift_high < 0


def _times(point: LatencyPoint, factor: float) -> LatencyPoint:
    latencies = {name: value for name, value in vars(point).items() if name.endswith("_ms") and value is not None}
    return dataclasses.replace(point, **{name: value * factor for name, value in latencies.items()})


def _without(levels: FloatArray, shifts: Sequence[Shift]) -> FloatArray:
    levels = levels.copy()
    for shift in shifts:
        levels[shift.anchor :] -= np.log1p(shift.percent / 100)
    return levels
