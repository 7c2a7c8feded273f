from __future__ import annotations

import numpy as np
import pytest

from pomt_edge.measure import steadiness

RNG_SEEDS = range(20)


def anchors(seed: int, count: int = 60, noise: float = 0.004) -> np.ndarray:
    return 10 * (1 + noise * np.random.default_rng(seed).standard_normal(count))


@pytest.mark.parametrize("seed", RNG_SEEDS)
def test_a_steady_machine_neither_drifts_nor_shifts(seed: int) -> None:
    found = steadiness.drift(anchors(seed))
    assert abs(found.percent) < 0.8
    assert steadiness.shifts(anchors(seed)) == ()


@pytest.mark.parametrize("seed", RNG_SEEDS)
def test_a_drift_is_found_with_its_size_and_a_few_slow_blocks_do_not_bend_it(seed: int) -> None:
    rising = anchors(seed) * np.linspace(1, 1.05, 60)
    rising[[7, 21]] *= 3
    found = steadiness.drift(rising)
    assert found.percent == pytest.approx(5.0, abs=1.0)
    assert found.low > 0
    assert steadiness.shifts(rising) == ()


@pytest.mark.parametrize("seed", RNG_SEEDS)
def test_a_sudden_shift_is_found_at_its_place_and_is_not_called_a_drift(seed: int) -> None:
    shifted = anchors(seed)
    shifted[24:] *= 1.2
    (shift,) = steadiness.shifts(shifted)
    assert abs(shift.anchor - 24) <= 1
    assert shift.percent == pytest.approx(20, abs=2)
    assert abs(steadiness.drift(shifted, (shift,)).percent) < 2


def test_a_machine_that_is_throttled_for_a_while_shifts_twice() -> None:
    shifted = anchors(3)
    shifted[20:35] *= 1.2
    slower, faster = steadiness.shifts(shifted)
    assert slower.percent > 15 and faster.percent < -12


def test_moods_are_seldom_called_a_drift() -> None:
    """Speeds that wander by 4 %, each block much like the one before, have no trend."""
    reported = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        level, levels = 0.04 * rng.standard_normal(), []
        for _ in range(200):
            level = 0.95 * level + (1 - 0.95**2) ** 0.5 * 0.04 * rng.standard_normal()
            levels.append(10 * (1 + level))
        found = steadiness.drift(levels)
        reported += abs(found.percent) > steadiness.DRIFT_PERCENT and (found.low > 0 or found.high < 0)
    assert reported <= 12


def test_outliers_are_counted_and_ordinary_noise_is_not() -> None:
    rng = np.random.default_rng(5)
    samples = 10 * (1 + 0.005 * rng.standard_normal((500, 10)))
    assert steadiness.outliers([tuple(block) for block in samples]) == 0
    hit = rng.random(samples.shape) < 0.02
    samples[hit] *= 1.5
    assert steadiness.outliers([tuple(block) for block in samples]) == pytest.approx(hit.sum(), rel=0.05)


def test_too_few_blocks_say_nothing() -> None:
    assert steadiness.drift([10.0, 11.0]) == (0.0, 0.0, 0.0)
    assert steadiness.shifts([10.0, 20.0]) == ()
    assert steadiness.outliers([(1.0, 9.0)]) == 0
