"""From blocks of samples to a latency with its interval, and when to stop sampling."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pomt_edge.records import LatencyPoint

CONFIDENCE = 0.95
RESAMPLES = 400
LEAST_SAMPLES = {"p90_ms": (90, 44), "p95_ms": (95, 90), "p99_ms": (99, 459)}
"""Percentile and the samples that support it at 99 % confidence (MLPerf LoadGen's early-stopping bound)."""

Block = tuple[float, ...]
"""The samples in milliseconds of one visit to a point."""


@dataclass(frozen=True)
class StopRule:
    """When a point has been measured well enough."""

    interval_percent: float = 1.0
    """Enough when both ends of the median's interval are this near to it."""
    point_seconds: float = 1.0
    """Otherwise stop when so much time of typical forwards has gone into a point, whatever its interval."""
    least_blocks: int = 3
    most_blocks: int = 30

    def reason(self, blocks: Sequence[Block]) -> str | None:
        """Why to stop now, or None to go on."""
        if len(blocks) < self.least_blocks:
            return None
        median, low, high = median_interval(tuple(blocks))
        if max(high - median, median - low) <= self.interval_percent / 100 * median:
            return "interval"
        # Typical forwards, not the clock: a machine that stalls must not use up a point's time.
        if median * sum(map(len, blocks)) >= self.point_seconds * 1e3:
            return "time limit"
        return "block limit" if len(blocks) >= self.most_blocks else None


@functools.lru_cache(maxsize=4096)
def median_interval(blocks: tuple[Block, ...]) -> tuple[float, float, float]:
    """The median of all samples and its 95 % interval, (median, low, high) in milliseconds.

    Samples of one block share their moment's clock, cache and neighbours, so whole blocks are resampled
    (block bootstrap). With few blocks that interval is too narrow; it is widened by
    sqrt(n / (n - 1)) * t(n - 1) / z, as in Hesterberg, "What Teachers Should Know About the Bootstrap" (2015).
    A single block has no such interval; its range, minimum to maximum, is given instead.
    """
    samples = np.concatenate([np.asarray(block) for block in blocks])
    median = float(np.median(samples))
    count = len(blocks)
    if count < 2:
        return median, float(samples.min()), float(samples.max())
    ends = np.quantile(_resampled_medians(blocks), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = map(float, ends)
    wider = _few_blocks_factor(count)
    return median, max(median - wider * (median - low), 0.0), median + wider * (high - median)


def _resampled_medians(blocks: tuple[Block, ...]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    generator = np.random.default_rng(len(blocks))
    picks = generator.integers(len(blocks), size=(RESAMPLES, len(blocks)))
    longest = max(map(len, blocks))
    padded = np.full((len(blocks), longest), np.nan)
    for row, block in zip(padded, blocks, strict=True):
        row[: len(block)] = block
    resampled = padded[picks].reshape(RESAMPLES, -1)
    medians: np.ndarray[tuple[int], np.dtype[np.float64]] = np.nanmedian(resampled, axis=1)
    return medians


@functools.cache
def _few_blocks_factor(count: int) -> float:
    quantile = (1 + CONFIDENCE) / 2
    return float(np.sqrt(count / (count - 1)) * stats.t.ppf(quantile, count - 1) / stats.norm.ppf(quantile))


def summarise(tokens: int, blocks: Sequence[Block], stop_reason: str) -> LatencyPoint:
    """The record of one point; a percentile that the samples do not support is withheld."""
    samples = np.concatenate([np.asarray(block) for block in blocks])
    median, low, high = median_interval(tuple(blocks))
    percentiles = {
        name: float(np.percentile(samples, percent)) if samples.size >= least else None
        for name, (percent, least) in LEAST_SAMPLES.items()
    }
    return LatencyPoint(
        tokens,
        median,
        low,
        high,
        samples=int(samples.size),
        blocks=len(blocks),
        stop_reason=stop_reason,
        cv_percent=float(100 * samples.std(ddof=1) / samples.mean()) if samples.size > 1 else None,
        p90_ms=percentiles["p90_ms"],
        p95_ms=percentiles["p95_ms"],
        p99_ms=percentiles["p99_ms"],
    )
