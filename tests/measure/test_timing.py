from __future__ import annotations

import numpy as np
import pytest

from pomt_edge.measure import timing
from pomt_edge.measure.timing import StopRule, median_interval, summarise


def blocks(rng: np.random.Generator, count: int, size: int, between: float, within: float) -> list[timing.Block]:
    """Autocorrelated samples about 10 ms: each block has a level of its own."""
    levels = 10 * (1 + between * rng.standard_normal(count))
    return [tuple(level * (1 + within * rng.standard_normal(size))) for level in levels]


@pytest.mark.parametrize("count", [3, 5, 12])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(count: int) -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        _, low, high = median_interval(tuple(blocks(rng, count, 6, between=0.01, within=0.003)))
        covered += low <= 10 <= high
    assert covered / 300 >= 0.90


def test_blocks_count_and_not_samples() -> None:
    """Ten times the samples in the same three blocks say little more about the blocks' spread."""
    rng = np.random.default_rng(2)
    few, many = (
        np.mean([np.ptp(median_interval(tuple(blocks(rng, 3, size, 0.01, 0.001)))[1:]) for _ in range(50)])
        for size in (5, 50)
    )
    assert many > 0.6 * few


@pytest.mark.parametrize(
    ("samples", "supported"), [(43, []), (44, ["p90_ms"]), (90, ["p90_ms", "p95_ms"]), (458, ["p90_ms", "p95_ms"])]
)
def test_percentiles_are_withheld_below_their_sample_counts(samples: int, supported: list[str]) -> None:
    point = summarise(197, [tuple(np.linspace(9, 11, samples))], "interval")
    assert [name for name in timing.LEAST_SAMPLES if getattr(point, name) is not None] == supported


def test_p99_is_given_from_459_samples() -> None:
    samples = np.linspace(9, 11, 459)
    assert summarise(197, [tuple(samples)], "interval").p99_ms == pytest.approx(np.percentile(samples, 99))


def test_a_point_stops_when_its_interval_is_tight_and_says_so() -> None:
    rule = StopRule(interval_percent=1.0, point_seconds=10, least_blocks=3, most_blocks=6)
    tight = [(10.0, 10.01, 10.02)] * 3
    wide = [(10.0,) * 3, (11.0,) * 3, (12.0,) * 3]
    assert rule.reason(tight[:2]) is None
    assert rule.reason(tight) == "interval"
    assert rule.reason(wide) is None
    assert rule.reason(wide * 2) == "block limit"
    assert StopRule(1.0, point_seconds=0.09).reason(wide) == "time limit"


def test_a_stall_does_not_use_up_a_points_time() -> None:
    stalled = [(10.0, 10.0, 900.0), (11.0, 11.0, 11.0), (12.0, 12.0, 12.0)]
    assert StopRule(1.0, point_seconds=0.2).reason(stalled) is None
