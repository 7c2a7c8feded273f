"""What schedules of several blocks are foreseen to cost, and the best of them, against trying them all."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from pomt_edge import profiles
from pomt_edge.choose import block_model, schedules
from pomt_edge.choose.block_model import BlockModel, Schedule
from pomt_edge.choose.schedules import Costs, last_that_fits
from pomt_edge.records import LatencyPoint
from pomt_edge.reduce import schedule as schedule_of
from pomt_edge.simulator import Geometry, Reduction, Simulator, Way

COUNTS = (30, 24, 17, 11, 5)
DEPTH = 4


def made_up(seed: int, most_of: Callable[[int], int]) -> Costs:
    """Gains and losses that follow no rule, but that fewer tokens gain and lose more."""
    rng = np.random.default_rng(seed)
    gains = (0.0, *np.sort(rng.uniform(0, 2, len(COUNTS) - 1)).tolist())
    losses = np.sort(rng.uniform(0, 1, (DEPTH, len(COUNTS))), axis=1)
    losses[:, 0] = 0
    model = BlockModel(COUNTS, 10.0, gains, 0.6, *rng.uniform(-0.1, 0.4, 2).tolist())
    return Costs(model, losses, schedules.allowed(COUNTS, 1, most_of))


def everything(costs: Costs) -> list[Schedule]:
    """All schedules over the counts that the method can do."""
    ways = itertools.combinations_with_replacement(range(len(COUNTS)), DEPTH)
    walks = ([0, *way] for way in ways)
    return [
        tuple(COUNTS[before] - COUNTS[behind] for before, behind in itertools.pairwise(walk))
        for walk in walks
        if all(costs.allowed[before, behind] for before, behind in itertools.pairwise(walk))
    ]


@pytest.mark.parametrize("most_of", [lambda patches: patches - 2, lambda patches: patches // 2], ids=["pomt", "tome"])
@pytest.mark.parametrize("seed", range(8))
def test_the_family_is_the_front_of_all_schedules(seed: int, most_of: Callable[[int], int]) -> None:
    costs = made_up(seed, most_of)
    found = schedules.family(costs, apart=0, resolution=0)
    front = []
    for one in sorted(map(costs.of, everything(costs)), key=lambda one: (one.loss, one.ms)):
        if any(one.schedule) and one.ms < (front[-1].ms if front else costs.model.full_ms):
            front.append(one)
    assert front
    assert [one.schedule for one in found] == [one.schedule for one in front]
    for one, best in zip(found, front, strict=True):
        assert one.ms == pytest.approx(best.ms) and one.loss == pytest.approx(best.loss)
        schedule_of.check(one.schedule, DEPTH, COUNTS[0], 1, most_of)


@pytest.mark.parametrize("seed", range(4))
def test_rounded_latencies_lose_next_to_nothing_of_the_front(seed: int) -> None:
    costs = made_up(seed, lambda patches: patches - 2)
    rounded = schedules.family(costs, apart=0, resolution=0.001)
    for one in schedules.family(costs, apart=0, resolution=0):
        near = [other.loss for other in rounded if other.ms <= one.ms + DEPTH * 0.001 * costs.model.full_ms]
        assert min(near) <= one.loss
    apart = [one.ms for one in schedules.family(costs, apart=0.05)]
    assert all(after < 0.95 * before for before, after in itertools.pairwise(apart))


def test_no_family_where_reducing_gains_nothing() -> None:
    costs = made_up(0, lambda patches: patches - 2)
    slower = BlockModel(COUNTS, 10.0, (0.0,) * len(COUNTS), 0.6, 0.1, 0.1)
    assert schedules.family(Costs(slower, costs.losses, costs.allowed)) == []


def test_fewer_tokens_never_lose_less_between_counts_either() -> None:
    losses = schedules.interpolated((20, 15, 10, 5), [[0.0, 0.4, 0.3, 2.0], [-0.1, 0.0, 0.0, 0.0]], range(20, 4, -1))
    assert losses.shape == (2, 16)
    assert losses[0, [0, 5, -1]] == pytest.approx([0, 0.4, 2.0])
    assert (np.diff(losses, axis=1) >= 0).all() and losses[1] == pytest.approx(0)


@pytest.mark.parametrize("start", [-3, 0, 7, 99])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_the_last_that_fits_is_found_from_wherever_the_search_starts(count: int, start: int) -> None:
    for boundary in (0, 1, 2, 37, 99, 100):
        asked: set[int] = set()

        def fits(place: int, asked: set[int] = asked, boundary: int = boundary) -> bool:
            asked.add(place)
            assert 0 <= place < count
            return place < boundary

        last = last_that_fits(fits, count, start, 2)
        assert last == (min(boundary, count) - 1 if min(boundary, count) else None)
        assert len(asked) <= 16


def test_only_what_is_faster_by_more_than_both_intervals_is_surely_faster() -> None:
    def point(median: float) -> LatencyPoint:
        return LatencyPoint(100, median, 0.98 * median, 1.02 * median, 60, 6, "interval")

    points = {(1,): point(9.5), (2,): point(9.85), (3,): point(8.0), (4,): point(12.0)}
    assert schedules.surely_faster(point(10.0), points) == [(3,), (1,)]


def test_one_that_fails_in_front_of_others_that_fit_ends_no_search() -> None:
    assert last_that_fits(lambda place: place in (0, 1, 2, 3, 4, 6), 20, 0, 2) == 6
    assert last_that_fits(lambda place: place in (0, 1, 2, 3, 4, 6), 20, 0, 0) == 4


def simulated(device: str, way: Way, counts: tuple[int, ...]) -> tuple[Callable[[Schedule], float], list[Schedule]]:
    """Whole models of DeiT-tiny on a simulated device: latency of any schedule, and those that a search measures."""
    tiny = Geometry(12, 192, 3, 768, 16, 224)
    simulator = Simulator(profiles.load(device), tiny, way, Reduction(explicit_attention=True))
    single = [schedule_of.in_one_block(197 - count, 3, 12) for count in counts[1:]]
    return simulator.schedule_ms, [*single, *block_model.probes(counts, 3, 12)]


@pytest.mark.parametrize(
    ("device", "way", "percent"),
    [("cpu", Way("fp32", 4), 1.0), ("jetson_tx2", Way("fp16", 8), 2.0), ("h200", Way("fp16", 64), 2.0)],
)
def test_schedules_that_were_never_measured_are_foreseen(device: str, way: Way, percent: float) -> None:
    counts = tuple(range(197, 20, -16))
    latency_ms, probes = simulated(device, way, counts)
    assert len(probes) - len(counts) + 1 <= 6
    rng = np.random.default_rng(0)
    points = {}
    for probe in probes:
        median = latency_ms(probe) * (1 + 0.002 * rng.standard_normal())
        points[probe] = LatencyPoint(197 - sum(probe), median, 0.995 * median, 1.005 * median, 60, 6, "interval")
    full_ms = latency_ms((0,) * 12)
    full = LatencyPoint(197, full_ms, 0.999 * full_ms, 1.001 * full_ms, 60, 6, "interval")
    model = block_model.fit(counts, points, full)
    off = []
    for _ in range(40):
        left = [197, *sorted(rng.choice(counts, 12), reverse=True)]
        schedule = tuple(int(before - behind) for before, behind in itertools.pairwise(left))
        off.append(abs(model.foresee_ms(schedule) / latency_ms(schedule) - 1))
    assert 100 * float(np.median(off)) < percent
