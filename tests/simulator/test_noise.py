"""Each part of the noise, by what it does to the samples."""

from __future__ import annotations

import numpy as np
import pytest

from pomt_edge.errors import UserError
from pomt_edge.simulator.noise import NONE, Noise, NoisyClock, parse


def samples(text: str, count: int = 4000, ms: float = 10.0) -> np.ndarray:
    return NoisyClock(parse(text)).samples(ms, count)


def test_without_noise_every_sample_is_the_same() -> None:
    assert set(samples("none")) == {10.0}
    assert parse("none") == NONE


def test_white_noise_has_the_spread_that_was_asked_for_and_the_seed_repeats_it() -> None:
    drawn = samples("white=0.02")
    assert drawn.std() / drawn.mean() == pytest.approx(0.02, rel=0.1) and np.median(drawn) == pytest.approx(
        10, rel=0.01
    )
    assert (samples("white=0.02") == drawn).all()
    assert (samples("white=0.02,seed=1") != drawn).any()


def test_outliers_are_slow_only_and_as_many_as_asked_for() -> None:
    drawn = samples("white=0,outliers=0.05")
    far = drawn > 10.5
    assert far.mean() == pytest.approx(0.05, abs=0.015) and (drawn[~far] == 10).all()


def test_one_switch_leaves_the_other_parts_as_they_were() -> None:
    plain, also = samples("white=0.01"), samples("white=0.01,outliers=0.05")
    same = plain == also
    assert 0.9 < same.mean() < 1


def test_the_first_forwards_are_slow_and_a_stuck_clock_slows_all() -> None:
    drawn = samples("white=0,warm_up=0.5", 200)
    assert drawn[0] == pytest.approx(15) and (np.diff(drawn) <= 0).all() and drawn[-1] == pytest.approx(10, rel=0.001)
    assert set(samples("white=0,stuck_clock=0.25")) == {12.5}


def test_drift_grows_while_busy_and_is_undone_by_a_pause() -> None:
    clock = NoisyClock(parse("white=0,drift=0.05"))
    drawn = clock.samples(100.0, 3000)
    assert (np.diff(drawn) >= 0).all() and drawn[-1] == pytest.approx(105, rel=0.001)
    clock.pause(600)
    assert clock.samples(100.0, 1)[0] == pytest.approx(100, rel=0.001)


def test_throttling_is_a_shift_that_ends_well_below_where_it_began() -> None:
    clock = NoisyClock(parse("white=0,throttling=0.25"))
    drawn = clock.samples(100.0, 3000)
    assert set(np.round(drawn, 9)) == {100.0, 125.0} and (np.diff(drawn) >= 0).all()
    assert clock.throttled and clock.throttled_s == pytest.approx(drawn[drawn > 101].sum() / 1e3)
    clock.pause(25)
    assert clock.throttled  # cooler than where it began, not yet cool enough
    assert NoisyClock(parse("throttling")).samples(100.0, 600)[-1] < 110  # as warm on the way up it was not
    clock.pause(60)
    assert not clock.throttled
    assert clock.samples(100.0, 1)[0] == 100


def test_a_coarse_timer_tells_multiples_and_never_nothing() -> None:
    drawn = samples("white=0.1,timer_quantum=0.5")
    assert np.allclose(drawn % 0.5, 0) and len(set(drawn)) > 3
    assert set(samples("timer_quantum=0.5", ms=0.01)) == {0.5}


def test_the_option_is_read_and_a_wrong_one_is_one_line() -> None:
    assert parse("white=0.01,drift=0.05,throttling") == Noise(white=0.01, drift=0.05, throttling=0.25)
    assert parse("permission_denied,seed=3") == Noise(permission_denied=True, seed=3)
    for text, message in [
        ("whit=0.1", "unknown part 'whit'; known: white, outliers"),
        ("white=much", "white=much; expected a number"),
        ("seed", "expected a whole number"),
        ("white=-1", "expected 0 to 0.5"),
        ("drift=nan", "expected 0 to 10"),
        ("outliers=2", "0 to 1"),
        ("white=99", "0 to 0.5"),
        ("drift=0.1,drift=0.2", "names drift twice"),
        ("", "unknown part"),
        ("none,white=0.1", "unknown part 'none'"),
    ]:
        with pytest.raises(UserError, match=message):
            parse(text)
