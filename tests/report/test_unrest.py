from __future__ import annotations

import dataclasses

import pytest
import samples

from pomt_edge.records import Result, Shift, Steadiness
from pomt_edge.report import page, unrest, words


def unsteady(clocks: dict[str, object] | None = None, **changes: object) -> Result:
    result = samples.staircase()
    curve = dataclasses.replace(
        result.curve,
        anchor_ms=(1.6,) * 30,
        steadiness=dataclasses.replace(samples.STEADY, **changes),  # type: ignore[arg-type]
    )
    details = result.environment.details | {"clocks": samples.CLOCKS | (clocks or {})}
    environment = dataclasses.replace(result.environment, details=details)
    return dataclasses.replace(result, curve=curve, environment=environment)


def test_a_steady_machine_gets_no_warning_and_its_figures_are_on_the_page() -> None:
    assert unrest.warning(unsteady()) is None
    text = page.render(unsteady())
    for fact in ("drifted by +0.4 % (-0.2 to +0.9)", "0.2 % of 4,310 forwards", "the first took 1.9 times", "0.8 %"):
        assert fact in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"drift_percent": 5.1, "drift_low": 4.6, "drift_high": 5.6}, "drifted by +5.1 % (+4.6 to +5.6)"),
        ({"shifts": (Shift(12, 20.3),)}, "changed suddenly, once by 20 % slower after 12 of 30 blocks"),
        ({"outliers": 90}, "2.1 % of 4,310 forwards"),
        ({"cv_percent": 3.4}, "coefficient of variation is 3.4 %"),
        (
            {"dropped_blocks": 9, "throttled_blocks": 3, "throttled_by": {"heat": 12}},
            "throttled in 12 blocks (heat 12): 9 were dropped and measured again, 3 are in the curve",
        ),
    ],
)
def test_each_event_is_a_warning_with_its_size(changes: dict[str, object], said: str) -> None:
    warning = unrest.warning(unsteady(**changes))
    assert warning and said in warning and "Remedy: " in warning
    assert said in page.render(unsteady(**changes)).replace("&#39;", "'")
    assert [callout.label for callout in words.callouts(unsteady(**changes))].count("Restless") == 1


def test_the_remedy_is_that_of_this_machine() -> None:
    noisy = {"cv_percent": 4.0}
    assert "lock the clocks (see there)" in (unrest.warning(unsteady(**noisy)) or "")
    locked = unrest.warning(unsteady({"state": "locked", "remedy": ""}, **noisy)) or ""
    assert "clocks are locked, so close other programs" in locked
    assert "more cooling" in (unrest.warning(unsteady(throttled_by={"heat": 2}, dropped_blocks=2)) or "")


def test_a_detrended_curve_says_so() -> None:
    result = unsteady(drift_percent=5.1, drift_low=4.6, drift_high=5.6)
    assert "--detrend gives those of its start" in page.render(result)
    corrected = dataclasses.replace(result, curve=dataclasses.replace(result.curve, detrended=True))
    assert "first tenth (--detrend)" in page.render(corrected)


def test_a_device_without_counters_says_so_and_one_with_them_that_it_was_not_throttled() -> None:
    texts = [event.text for event in unrest.events(unsteady().curve)]
    assert "No throttle counter can be read here." in texts
    texts = [event.text for event in unrest.events(unsteady(counters=("heat", "power limit")).curve)]
    assert "Not throttled, by the device's counters (heat, power limit)." in texts
    assert unrest.events(dataclasses.replace(unsteady().curve, anchor_ms=(), steadiness=Steadiness())) == []


def test_the_state_of_the_clocks_is_a_sentence() -> None:
    assert unrest.clock_sentence(samples.CLOCKS) == (
        "clocks: not locked: no permission to set GPU clocks; try: sudo pomt-edge clocks lock"
    )
    locked = samples.CLOCKS | {"state": "locked"}
    assert unrest.clock_sentence(locked) == "clocks: locked (gpu clock mhz 1980)"
    assert unrest.clock_sentence({}) == "clocks: not known"
