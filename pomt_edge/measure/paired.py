"""Accuracy and its loss over the same images, with their intervals; and when fewer images tell as much as all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from pomt_edge.records import AccuracyPoint

Z = float(stats.norm.ppf(0.975))
SURE = 3.0
"""Standard deviations that a foreseen loss may be off by. More than the 1.96 of one look at one count: there are
several looks, and some ten counts."""


def compare(tokens: int, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> AccuracyPoint:
    """Percent right after the reduction and points lost, from right or wrong per image, bool [images] each."""
    count = len(before)
    low, high = wilson(int(after.sum()), count)
    drop, drop_low, drop_high = 0.0, 0.0, 0.0
    if before is not after:
        drop, drop_low, drop_high = paired_difference(*changed(before, after), count)
    return AccuracyPoint(
        tokens, 100 * float(after.mean()), 100 * low, 100 * high, count, 100 * drop, 100 * drop_low, 100 * drop_high
    )


def changed(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Images lost and images gained, from right or wrong per image, bool [images] each."""
    return int((before & ~after).sum()), int((after & ~before).sum())


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, Wilson (1927)."""
    interval = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference(lost: int, gained: int, count: int) -> tuple[float, float, float]:
    """Share lost less share gained over the same images, and its 95 % interval.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions" (2005): half an
    image added to each of the four cells, so that no difference seen does not mean none possible.
    """
    difference, deviation = _centre(lost, gained, count)
    half = Z * deviation / math.sqrt(count + 2)
    return (lost - gained) / count, max(difference - half, -1.0), min(difference + half, 1.0)


def decided(lost: int, gained: int, seen: int, images: int, max_drop: float) -> bool:
    """Whether the images seen tell if the upper end of the loss on all of them will be at most `max_drop` points.

    Stochastic curtailment (Lan, Simon and Halperin 1982): what is foreseen is the verdict on all `images`, of which
    those seen are a random draw. The loss on all is within `SURE` deviations of the one seen, finite population and
    all, and its interval is as wide as so many images make it. Then the images seen give the same verdict by
    themselves, by the upper end of their own interval d + Z s / sqrt(n). Surely beyond: their interval is the wider
    one. Surely within: sqrt(1/n) <= sqrt(1/n - 1/N) + sqrt(1/N) and Z < SURE, so that their upper end is below

        d + SURE s sqrt(1/n - 1/N) + Z s / sqrt(N) <= max_drop

    with n and N two more than the images, as in `paired_difference`.
    """
    difference, deviation = _centre(lost, gained, seen)
    margin = SURE * deviation * math.sqrt(1 / (seen + 2) - 1 / (images + 2))
    high = difference + Z * deviation / math.sqrt(images + 2)
    return 100 * (high + margin) <= max_drop or 100 * min(high - margin, 1.0) > max_drop


def _centre(lost: int, gained: int, count: int) -> tuple[float, float]:
    """The middle of Agresti and Min's interval, and the standard deviation of one image."""
    total = count + 2
    difference = (lost - gained) / total
    return difference, math.sqrt((lost + gained + 1) / total - difference**2)
