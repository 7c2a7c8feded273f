"""Schedules of several blocks: the best of them by dynamic programming, and the search among those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from pomt_edge.choose.block_model import BlockModel, FloatArray, Schedule
from pomt_edge.choose.ratio import ratio
from pomt_edge.records import LatencyPoint

APART = 0.005
"""Share of latency by which two schedules of a family differ at least: no more than a measurement can tell."""
RESOLUTION = 0.001


@dataclass(frozen=True)
class Foreseen:
    """A schedule as it is foreseen, before anything of it was measured."""

    schedule: Schedule
    ms: float
    loss: float
    """In the unit of what the sensitivity was measured in."""


def interpolated(counts: Sequence[int], losses: Sequence[Sequence[float]], wanted: Sequence[int]) -> FloatArray:
    """Losses at more counts than were measured; fewer tokens never lose less. [blocks, wanted]

    Args:
        counts: most tokens first; the first is the unreduced model's.
        losses: of each block at each of the counts.
    """
    falling = np.maximum.accumulate(np.maximum(np.asarray(losses, dtype=np.float64), 0.0), axis=1)
    curve = PchipInterpolator(np.array(counts[::-1]), falling[:, ::-1], axis=1)
    return np.asarray(curve(np.asarray(wanted)), dtype=np.float64)


@dataclass(frozen=True)
class Costs:
    """What the schedules of a model cost: latency by its block model, and loss block by block."""

    model: BlockModel
    losses: FloatArray
    """What reducing to each of the model's counts in one block alone loses; [blocks, counts]."""
    allowed: NDArray[np.bool_]
    """Whether one block can go from one count to another; [counts, counts]."""

    def of(self, schedule: Schedule) -> Foreseen:
        """A schedule whose counts are all among the model's."""
        counts = self.model.counts
        before, loss = 0, 0.0
        for block, behind in enumerate(np.cumsum(schedule)):
            place = counts.index(counts[0] - int(behind))
            loss += float(self.losses[block, place] - self.losses[block, before])
            before = place
        return Foreseen(schedule, self.model.foresee_ms(schedule), loss)


def allowed(counts: Sequence[int], prefix: int, most_of: Callable[[int], int]) -> NDArray[np.bool_]:
    """Whether one block can go from one count to another, or stay; `most_of`: see `Method.most`."""
    tokens = np.array(counts)
    most = np.array([max(most_of(count - prefix), 0) for count in counts])
    removed = tokens[:, None] - tokens[None, :]
    return np.asarray((removed >= 0) & (removed <= most[:, None]))


def family(costs: Costs, apart: float = APART, resolution: float = RESOLUTION) -> list[Foreseen]:
    """The schedules that no other is foreseen to beat in both latency and loss, slowest first.

    By dynamic programming, block by block: of the ways to the same count behind a block only those go on that no
    other such way beats. The front need not be convex, so that no price of a loss would find all of it.

    Args:
        apart: share of latency by which two of them differ at least.
        resolution: of two ways whose latencies fall into one such share of the unreduced model's, the one that loses
            less goes on. 0: both do, which is exact and takes far longer.
    """
    counts = costs.model.counts
    bucket_ms = resolution * costs.model.full_ms
    step_ms = costs.model.block_ms()
    behind: list[_Ways | None] = [_Ways.none_yet(), *[None] * (len(counts) - 1)]
    for losses in costs.losses:
        behind = [_ways_to(place, behind, step_ms, losses, costs.allowed, bucket_ms) for place in range(len(counts))]
    ends = [(ways, index) for ways in behind if ways for index in range(len(ways.ms))]
    found: list[Foreseen] = []
    for ways, index in sorted(ends, key=lambda end: (end[0].loss[end[1]], end[0].ms[end[1]])):
        one = Foreseen(
            ways.schedule(index, counts), costs.model.full_ms + float(ways.ms[index]), float(ways.loss[index])
        )
        if any(one.schedule) and one.ms < (1 - apart) * (found[-1].ms if found else costs.model.full_ms):
            found.append(one)
    return found


@dataclass(frozen=True)
class _Ways:
    """Ways to one count behind one block, none of which beats another in both latency and loss."""

    ms: FloatArray
    """More than the unreduced model; [ways]"""
    loss: FloatArray
    place: int
    before: tuple[_Ways, ...] = ()
    """Ways to the counts before the block."""
    origin: NDArray[np.int64] | None = None
    """Which of those each comes from, and which way there; [ways, 2]"""

    @staticmethod
    def none_yet() -> _Ways:
        return _Ways(np.zeros(1), np.zeros(1), 0)

    def schedule(self, index: int, counts: Sequence[int]) -> Schedule:
        """Tokens removed in each block so far."""
        if self.origin is None:
            return ()
        before = self.before[self.origin[index, 0]]
        removed = counts[before.place] - counts[self.place]
        return (*before.schedule(int(self.origin[index, 1]), counts), removed)


def _ways_to(
    place: int,
    behind: Sequence[_Ways | None],
    step_ms: FloatArray,
    losses: FloatArray,
    allowed: NDArray[np.bool_],
    bucket_ms: float,
) -> _Ways | None:
    """Ways to a count behind the next block, from all there are to the counts before it."""
    before = tuple(ways for ways in behind if ways is not None and allowed[ways.place, place])
    if not before:
        return None
    ms = np.concatenate([ways.ms + step_ms[ways.place, place] for ways in before])
    loss = np.concatenate([ways.loss + losses[place] - losses[ways.place] for ways in before])
    sizes = [len(ways.ms) for ways in before]
    origin = np.stack(
        [np.repeat(np.arange(len(before)), sizes), np.concatenate([np.arange(size) for size in sizes])], 1
    )
    buckets = np.floor(ms / bucket_ms) if bucket_ms else ms
    order = np.lexsort((ms, loss, buckets))
    # Fastest first, a way goes on if it loses less than all that are faster.
    lost = np.concatenate([[np.inf], np.minimum.accumulate(loss[order])[:-1]])
    going_on = order[loss[order] < lost]
    return _Ways(ms[going_on], loss[going_on], place, before, origin[going_on])


def surely_faster(rival: LatencyPoint, points: Mapping[Schedule, LatencyPoint]) -> list[Schedule]:
    """Those that are faster than the rival by more than both intervals, fastest first."""
    faster = [one for one, point in points.items() if ratio(rival, point)[1] > 1]
    return sorted(faster, key=lambda one: points[one].median_ms)


def last_that_fits(fits: Callable[[int], bool], count: int, start: int, further: int) -> int | None:
    """The last of `count` places that fits, were all before it to fit; None where not even the first does.

    From `start` in growing strides to where the answer changes, from there by bisection; then so many `further` places
    beyond, for what is asked is only nearly monotone. `fits` should remember.
    """
    if not count:
        return None
    good, bad = -1, count
    place, stride = min(max(start, 0), count - 1), max(count // 16, 1)
    while bad - good > 1:
        if fits(place):
            good = place
        else:
            bad = place
        if good >= 0 and bad < count:
            place = (good + bad) // 2
        else:
            place = min(good + stride, count - 1) if good >= 0 else max(bad - stride, 0)
            stride *= 2
    beyond = [place for place in range(good + 2, min(good + 2 + further, count)) if fits(place)]
    good = max([good, *beyond])
    return good if good >= 0 else None
