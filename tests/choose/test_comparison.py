from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import simulated_runs
from simulated_runs import LOCKED, made, moody, of_curve, side, steady, two_cliffs

from pomt_edge.choose.comparison import compare
from pomt_edge.choose.sides import Side, closest
from pomt_edge.errors import UserError
from pomt_edge.records import Comparison, LatencyPoint, Result

UNLOCKED = {"clocks": {"state": "not locked", "why": "no permission"}}


def compared(a: Result, b: Result, tolerance_percent: float = 3.0, **kwargs: Any) -> Comparison:
    return compare(side("before", a), side("after", b), tolerance_percent, **kwargs)


def slower_at(*counts: int, by: float = 1.10) -> Any:
    return lambda tokens: two_cliffs(tokens) * (by if tokens in counts else 1.0)


@pytest.mark.parametrize("details", [UNLOCKED, LOCKED])
@pytest.mark.parametrize("seed", range(4))
def test_two_runs_of_one_machine_are_the_same(seed: int, details: dict[str, Any]) -> None:
    outcome = compared(simulated_runs.run(seed, details=details), simulated_runs.run(seed + 100, details=details))
    assert outcome.verdict == "SAME", outcome.because
    assert outcome.counts["SAME"] >= 0.95 * len(outcome.points) and len(outcome.points) == 89
    assert outcome.level is not None and outcome.level.verdict == "SAME"
    assert not outcome.incomparable and outcome.plans is not None and outcome.plans.agreement == "same"


def test_a_regression_at_some_counts_is_named_and_its_opposite_is_faster() -> None:
    before, after = simulated_runs.run(1), simulated_runs.run(2, slower_at(150, 128, 64))
    outcome = compared(before, after)
    assert outcome.verdict == "SLOWER"
    assert [point.tokens for point in outcome.points if point.beyond] == [150, 128, 64]
    assert "3 of 89 counts surely more than 3 % slower: 150, 128 (chosen), 64" in outcome.because
    for point in outcome.points:
        if point.beyond:
            assert point.low is not None and point.high is not None and 3 < point.low < 10 < point.high
    assert outcome.level is not None and outcome.level.verdict == "SAME"
    opposite = compared(after, before)
    assert opposite.verdict == "FASTER" and "150, 128 (chosen), 64" in opposite.because


def test_what_is_slower_somewhere_and_faster_elsewhere_is_slower_and_says_both() -> None:
    after = simulated_runs.run(2, lambda n: two_cliffs(n) * {150: 1.1, 64: 0.9}.get(n, 1.0))
    outcome = compared(simulated_runs.run(1), after)
    assert outcome.verdict == "SLOWER" and "slower: 150" in outcome.because and "faster: 64" in outcome.because


def test_with_unlocked_clocks_the_level_proves_nothing_unless_milliseconds_are_asked_for() -> None:
    """Two runs of one unlocked machine were seen 23 % apart, each steady in itself."""
    before = simulated_runs.run(1, details=UNLOCKED)
    after = simulated_runs.run(2, lambda n: 1.2 * two_cliffs(n), details=UNLOCKED)
    outcome = compared(before, after)
    assert outcome.verdict == "AMBIGUOUS" and outcome.scale == "relative"
    assert outcome.level is not None and outcome.level.verdict == "AMBIGUOUS" and not outcome.level.beyond
    assert outcome.level.percent == pytest.approx(20, abs=1)
    assert outcome.counts["SAME"] >= 0.95 * len(outcome.points)
    assert any("not known to be locked" in note for note in outcome.notes) and "+20" in outcome.because
    absolute = compared(before, after, scale="absolute")
    assert absolute.verdict == "SLOWER" and absolute.level is not None and absolute.level.beyond


def test_with_locked_clocks_counts_are_compared_in_milliseconds() -> None:
    before = simulated_runs.run(1, details=LOCKED)
    after = simulated_runs.run(2, lambda n: 1.2 * two_cliffs(n), details=LOCKED)
    outcome = compared(before, after)
    assert outcome.scale == "absolute" and outcome.counts["SLOWER"] == len(outcome.points)
    assert all(point.percent == pytest.approx(20, abs=3) for point in outcome.points)
    assert not any("locked" in note for note in outcome.notes)
    relative = compared(before, after, scale="relative")
    assert relative.scale == "relative" and relative.counts["SLOWER"] < 5


def test_a_machine_with_moods_leaves_the_level_ambiguous_and_the_counts_the_same() -> None:
    levels, ratios = [], []
    for seed in range(20):
        outcome = compared(
            simulated_runs.run(seed, mood=moody, counts=(197, 128, 64)),
            simulated_runs.run(seed + 100, lambda n: 1.04 * two_cliffs(n), mood=moody, counts=(197, 128, 64)),
        )
        assert outcome.level is not None
        levels.append(outcome.level)
        ratios += [point.verdict for point in outcome.points]
    assert sum(level.verdict == "AMBIGUOUS" for level in levels) >= 16
    assert sum(level.beyond for level in levels) <= 1
    assert ratios.count("SAME") >= 0.95 * len(ratios)
    assert sum(level.low <= 4 <= level.high for level in levels if level.low is not None and level.high) >= 18


def test_in_milliseconds_a_count_has_the_unrest_of_the_machine_in_its_interval() -> None:
    calm, restless = (simulated_runs.run(1, mood=mood, counts=(197, 128, 64)) for mood in (steady, moody))
    for pair in ((calm, restless), (restless, calm)):
        relative, absolute = (compared(*pair, scale=scale) for scale in ("relative", "absolute"))
        for tight, wide in zip(relative.points, absolute.points, strict=True):
            assert wide.high is not None and wide.low is not None and tight.high is not None and tight.low is not None
            assert wide.high - wide.low > 3 * (tight.high - tight.low)


def test_what_was_not_measured_well_enough_is_ambiguous() -> None:
    outcome = compared(simulated_runs.run(1, noise=0.05), simulated_runs.run(2, noise=0.05))
    assert outcome.verdict == "AMBIGUOUS" and outcome.counts["AMBIGUOUS"] > 70
    assert "89 counts" in outcome.because and "AMBIGUOUS" in outcome.because


@pytest.mark.parametrize(
    ("low", "high", "verdict", "beyond"),
    [
        (-2.9, 2.9, "SAME", False),
        (0.5, 2.5, "SAME", False),
        (-2.5, -0.5, "SAME", False),
        (0.5, 4.0, "SLOWER", False),
        (2.9, 5.0, "SLOWER", False),
        (3.2, 5.0, "SLOWER", True),
        (-4.0, -0.5, "FASTER", False),
        (-5.0, -3.2, "FASTER", True),
        (-1.0, 4.0, "AMBIGUOUS", False),
        (-9.0, 9.0, "AMBIGUOUS", False),
        (0.0, 4.0, "AMBIGUOUS", False),
    ],
)
def test_the_interval_decides_against_zero_and_the_tolerance(
    low: float, high: float, verdict: str, beyond: bool
) -> None:
    exact = made([(197, 10.0, 10.0, 10.0), (64, 5.0, 5.0, 5.0)])
    ends = 5.0 * (1 + low / 100), 5.0 * (1 + high / 100)
    other = made([(197, 10.0, 10.0, 10.0), (64, float(np.sqrt(ends[0] * ends[1])), *ends)])
    outcome = compared(of_curve(exact, chosen=64), of_curve(other, chosen=64))
    (point,) = outcome.points
    assert (point.verdict, point.beyond) == (verdict, beyond)
    assert point.low == pytest.approx(low, abs=1e-9) and point.high == pytest.approx(high, abs=1e-9)


def test_a_larger_tolerance_forgives_and_a_smaller_one_does_not() -> None:
    before, after = simulated_runs.run(1), simulated_runs.run(2, slower_at(150))
    assert compared(before, after, 3.0).verdict == "SLOWER"
    assert compared(before, after, 15.0).verdict == "SAME"
    before, after = (simulated_runs.run(1, curve, noise=0.001) for curve in (two_cliffs, slower_at(150, by=1.02)))
    assert compared(before, after, 3.0).verdict == "SAME"
    assert compared(before, after, 0.5).verdict == "SLOWER"


def test_of_many_badly_measured_counts_none_is_called_a_regression_by_chance() -> None:
    """Intervals of ten percent that are right 95 times in 100: among 150 counts a few exceed the tolerance."""
    rng = np.random.default_rng(5)

    def noisy() -> Result:
        rows = [(197, 10.0, 10.0, 10.0)]
        for tokens in range(170, 20, -1):
            median = 5.0 * float(np.exp(0.05 * rng.standard_normal()))
            rows.append((tokens, median, median * float(np.exp(-0.098)), median * float(np.exp(0.098))))
        return of_curve(made(rows), chosen=197)

    outcomes = [compared(noisy(), noisy()) for _ in range(20)]
    outside = [point.low is not None and point.low > 3 for outcome in outcomes for point in outcome.points]
    assert sum(outside) >= 20
    assert sum(outcome.verdict == "SLOWER" for outcome in outcomes) <= 2


def test_the_chosen_count_stands_for_itself_and_not_among_the_many() -> None:
    def rows(at_100: float) -> list[tuple[int, float, float, float]]:
        medians = {tokens: at_100 if tokens == 100 else 5.0 for tokens in range(170, 20, -1)}
        return [(197, 10.0, 10.0, 10.0), *((n, ms, 0.97 * ms, 1.03 * ms) for n, ms in medians.items())]

    for chosen, verdict in ((100, "SLOWER"), (90, "AMBIGUOUS")):
        outcome = compared(of_curve(made(rows(5.0)), chosen=chosen), of_curve(made(rows(5.0 * 1.08)), chosen=chosen))
        (point,) = (point for point in outcome.points if point.tokens == 100)
        assert point.low is not None and 3 < point.low < 4
        assert outcome.verdict == verdict and point.beyond == (chosen == 100)


def changed(result: Result, where: str, field: str, value: Any) -> Result:
    if where == "details":
        environment = dataclasses.replace(result.environment, details={**result.environment.details, field: value})
        return dataclasses.replace(result, environment=environment)
    return dataclasses.replace(result, **{where: dataclasses.replace(getattr(result, where), **{field: value})})


@pytest.mark.parametrize(
    ("where", "field", "values", "named"),
    [
        ("plan", "model", ("deit_small_patch16_224", "deit_tiny_patch16_224"), "model"),
        ("plan", "method", ("pomt", "other"), "method"),
        ("plan", "block", (3, 4), "block"),
        ("curve", "probe", ("block", "input"), "probe"),
        ("environment", "device_name", ("NVIDIA H200", "NVIDIA A100-SXM4-40GB"), "device"),
        ("environment", "engine", ("torch", "onnxruntime"), "engine"),
        ("environment", "precision", ("fp32", "fp16"), "precision"),
        ("environment", "batch_size", (4, 1), "batch size"),
        ("environment", "image_px", (224, 384), "image px"),
        ("details", "power_mode", ("MAXN", "15W"), "power mode"),
        ("details", "sm_count", (16, 8), "SM count"),
        ("details", "tf32_matmul", (True, False), "TF32"),
        ("details", "timer", ("CUDA graph replay", "CUDA events"), "timer"),
        ("details", "clocks", (LOCKED["clocks"], UNLOCKED["clocks"]), "clocks"),
        (
            "details",
            "clocks",
            (LOCKED["clocks"], {"state": "locked", "wanted": {"gpu_clock_mhz": 900}}),
            "clocks wanted",
        ),
    ],
)
def test_environments_that_differ_where_it_matters_are_incomparable(
    where: str, field: str, values: tuple[Any, Any], named: str
) -> None:
    base = simulated_runs.run(1, counts=(197, 128, 64))
    a, b = (changed(base, where, field, value) for value in values)
    outcome = compared(a, b)
    assert outcome.verdict == "INCOMPARABLE" and outcome.level is None and not outcome.points
    (pair,) = outcome.incomparable
    assert pair.field == named and pair.a != pair.b
    assert named in outcome.because
    forced = compared(a, b, force=True)
    assert forced.verdict == "SAME" and forced.incomparable == outcome.incomparable
    assert compared(a, a).verdict == "SAME"


def test_threads_matter_on_the_cpu_alone() -> None:
    base = simulated_runs.run(1, counts=(197, 128, 64))
    more = changed(base, "environment", "threads", 8)
    assert compared(base, more).verdict == "SAME"
    on_cpu = [changed(result, "environment", "device", "cpu") for result in (base, more)]
    assert [pair.field for pair in compared(*on_cpu).incomparable] == ["threads"]


def test_what_only_one_run_recorded_is_unknown_and_no_reason() -> None:
    old = simulated_runs.run(1, counts=(197, 128, 64))
    new = changed(changed(old, "details", "clocks", LOCKED["clocks"]), "details", "sm_count", 16)
    outcome = compared(old, new)
    assert outcome.verdict == "SAME" and outcome.scale == "relative"
    assert outcome.unknown_in_a == ("SM count", "clocks", "clocks wanted") and not outcome.unknown_in_b


def test_versions_are_compared_on_purpose_and_listed() -> None:
    before = changed(simulated_runs.run(1), "details", "driver", "580.159.04")
    after = changed(before, "details", "driver", "590.1")
    after = changed(after, "environment", "versions", before.environment.versions | {"torch": "2.12.0"})
    outcome = compared(before, after)
    assert outcome.verdict == "SAME"
    assert {(pair.field, pair.b) for pair in outcome.differs} == {("torch", "2.12.0"), ("driver", "590.1")}


@pytest.mark.parametrize(
    ("chosen", "agreement"), [((128, 128), "same"), ((128, 120), "same tread"), ((160, 128), "different")]
)
def test_choices_are_the_same_or_on_one_tread_or_different(chosen: tuple[int, int], agreement: str) -> None:
    outcome = compared(*(simulated_runs.run(seed, chosen=count) for seed, count in enumerate(chosen)))
    assert outcome.plans is not None and outcome.plans.agreement == agreement
    assert outcome.chosen == chosen
    assert (outcome.plans.a_removed, outcome.plans.b_removed) == (197 - chosen[0], 197 - chosen[1])


def recorded(result: Result, intervals: bool) -> Side:
    """The same curve, of which nothing is known but its medians."""
    points = tuple(LatencyPoint(p.tokens, p.median_ms, p.median_ms, p.median_ms, 0, 0, "") for p in result.curve.points)
    curve = dataclasses.replace(result.curve, points=points, anchor_ms=())
    return Side("profile", curve, {"tokens of the unreduced model": 197}, intervals=intervals)


def test_of_a_side_without_intervals_the_others_stand_and_it_says_so() -> None:
    result = simulated_runs.run(1)
    run = side("run", result)
    own, outcome = compare(run, run, 3.0), compare(run, recorded(result, intervals=False), 3.0)
    assert outcome.verdict == "SAME" and "model" in outcome.unknown_in_b
    assert any("profile has no intervals of its own" in note for note in outcome.notes)
    for alone, both in zip(outcome.points, own.points, strict=True):
        assert alone.low is not None and alone.high is not None and both.high is not None
        reaches = np.log1p(np.array([alone.low, alone.high, both.high]) / 100)
        assert np.hypot(reaches[0], reaches[1]) == pytest.approx(reaches[2])


def test_without_any_interval_nothing_is_called_the_same() -> None:
    profile = recorded(simulated_runs.run(1), intervals=False)
    outcome = compare(profile, profile, 3.0)
    assert outcome.verdict == "AMBIGUOUS" and {point.verdict for point in outcome.points} == {"AMBIGUOUS"}
    assert all(point.low is None and point.high is None and point.percent == 0 for point in outcome.points)


def test_the_closest_of_several_curves_is_taken() -> None:
    result = simulated_runs.run(1)
    run, profile = side("run", result), recorded(result, intervals=False)
    curves = [
        dataclasses.replace(profile, name=str(size), facts={"model": result.plan.model, "batch size": size})
        for size in (1, 4, 64)
    ]
    assert closest(curves, run).name == "4"


def test_counts_of_one_run_alone_are_counted_and_no_common_one_is_an_error() -> None:
    whole = simulated_runs.run(1, counts=(197, 160, 128, 64))
    part = simulated_runs.run(2, counts=(197, 128, 100))
    outcome = compared(whole, part)
    assert [point.tokens for point in outcome.points] == [128]
    assert (outcome.only_in_a, outcome.only_in_b) == ((160, 64), (100,))
    with pytest.raises(UserError, match=r"no reduced count in common.*--grid-stride"):
        compared(simulated_runs.run(1, counts=(197, 160)), simulated_runs.run(1, counts=(197, 128)))


def test_another_unreduced_model_is_incomparable_and_can_be_forced() -> None:
    part = simulated_runs.run(2, counts=(192, 128, 64))
    outcome = compared(simulated_runs.run(1, counts=(197, 128, 64)), part)
    assert "tokens of the unreduced model is 197 in A, 192 in B" in outcome.because
    forced = compared(simulated_runs.run(1, counts=(197, 128, 64)), part, force=True)
    assert [point.tokens for point in forced.points] == [128, 64]


def test_a_comparison_survives_json() -> None:
    outcome = compared(simulated_runs.run(1), simulated_runs.run(2, slower_at(150)))
    assert Comparison.from_dict(json.loads(outcome.to_json())) == outcome
    refused = compared(simulated_runs.run(1), changed(simulated_runs.run(2), "environment", "engine", "onnxruntime"))
    assert Comparison.from_dict(json.loads(refused.to_json())) == refused


@pytest.mark.parametrize(("details", "tolerance"), [(UNLOCKED, 5.0), (LOCKED, 3.0)])
def test_the_default_tolerance_is_finer_where_the_clocks_were_locked(details: dict[str, Any], tolerance: float) -> None:
    sides = [side(name, simulated_runs.run(seed, details=details)) for name, seed in (("a", 1), ("b", 2))]
    assert compare(*sides).tolerance_percent == tolerance
