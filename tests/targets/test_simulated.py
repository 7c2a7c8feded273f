"""A sweep of a simulated device: at once, the same each time, and through throttling."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from pomt_edge import profiles
from pomt_edge.engines import Setting
from pomt_edge.errors import UserError
from pomt_edge.machine import counters
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.measure.sweep import Grid, Sweep
from pomt_edge.simulator import Geometry, Simulator, Way
from pomt_edge.simulator.noise import parse
from pomt_edge.targets.simulated import COUNTER, SimulatedTarget

SMALL = Geometry(12, 384, 6, 1536, 16, 224)


def target(noise: str = "none", device: str = "jetson_tx2") -> SimulatedTarget:
    return SimulatedTarget(Simulator(profiles.load(device), SMALL, Way("fp32", 4)), parse(noise))


def test_a_sweep_of_all_counts_does_not_wait_and_finds_the_models_curve(tmp_path: Path) -> None:
    device = target("white=0.003,outliers=0.02,drift=0.05")
    began = time.perf_counter()
    with Journal(tmp_path, {}) as journal:
        curve = Sweep(Grid(tuple(range(197, 1, -1))), device, journal, Silent()).run()
    assert time.perf_counter() - began < device.seconds / 5  # nothing waits for the simulated device
    found = np.array([point.median_ms for point in curve.points])
    own = np.array([device.latency_ms(point.tokens) for point in curve.points])
    assert np.median(np.abs((found / found[0]) / (own / own[0]) - 1)) < 0.005


def test_the_same_calls_give_the_same_samples_and_time_goes_on_by_as_much() -> None:
    one, other = target("white=0.01"), target("white=0.01")
    first = one.time_ms(197, 5) + one.time_ms(100, 5)
    assert first == other.time_ms(197, 5) + other.time_ms(100, 5)
    assert one.seconds == pytest.approx(sum(first) / 1e3)
    assert one.time_ms(197, 5) != first[:5]


def test_the_throttle_counter_tells_and_a_pause_ends_it() -> None:
    device = target("white=0,throttling=0.2")
    before = device.reading()
    assert before.watched == (COUNTER,) and not before.active
    device.load(600)
    after = device.reading()
    assert counters.held_back(before, after) == (COUNTER,) and after.active
    assert device.time_ms(197, 1)[0] == pytest.approx(1.2 * device.latency_ms(197))
    device.pause(120)
    calm = device.reading()
    device.time_ms(197, 1)
    assert counters.held_back(calm, device.reading()) == ()
    assert target().reading() == counters.Reading()


def test_a_clock_that_cant_be_locked_is_said() -> None:
    assert target().clock_problem is None and target().controls() == ()
    assert "permission" in (target("permission_denied").clock_problem or "")
    assert "77 %" in (target("stuck_clock=0.3").clock_problem or "")


def test_a_count_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(UserError, match="1 to 197"):
        target().time_ms(198, 1)
    with pytest.raises(UserError, match="1 to 197"):
        target().time_ms(0, 1)


def test_the_environment_tells_the_mode_its_processors_and_what_is_only_assumed_of_it() -> None:
    orin = profiles.load("jetson_agx_orin_64g")
    setting = Setting("sim:jetson_agx_orin_64g", "fp32", 4, 224)
    of = {
        mode: SimulatedTarget(Simulator(orin, SMALL, Way("fp32", 4), mode=orin.mode(mode) if mode else None))
        for mode in (None, "15W")
    }
    whole, few = (target.environment(setting, "trt") for target in of.values())
    keys = ("power_mode", "sm_count", "gpu_clock_mhz", "memory_gb_per_s")
    assert [whole.details[key] for key in keys] == ["MAXN", 16, 1300, 204.8] and "assumed" not in whole.details
    assert [few.details[key] for key in keys] == ["15W", 6, 408, 204.8] and few.power_mode == "15W"
    assert few.details["assumed"] == ["The memory bandwidth in 15W is not known: that of MAXN is taken, 204.8 GB/s."]
