"""The fit against curves with known edges, recorded H200 curves and another library; the efficient set."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomt_edge.choose.staircase import _levels, _partition, _weighted, efficient, fit
from pomt_edge.records import LatencyCurve, LatencyPoint, Staircase
from tests.choose import curves

GOLDEN = Path(__file__).parents[1] / "golden" / "h200_curves.json"
WITH_EDGES = ("plateaus", "slope_plateaus", "steep", "sawtooth", "comb", "isolated")
WITHOUT_EDGES = ("slope_only", "flat")


def h200(model: str, batch_size: int, precision: str) -> LatencyCurve:
    """A recorded curve, with the fastest and slowest of 7 blocks as the interval of the median.

    These two cover the median of the blocks' law with 98.4 % (sign test: 1 - 2 / 2**7) whatever the law. No
    narrower pair of order statistics reaches 95 %: second fastest to second slowest has 87.5 %.
    """
    recorded: list[dict[str, Any]] = json.loads(GOLDEN.read_text())["curves"]
    wanted = (model, batch_size, precision)
    curve = next(c for c in recorded if (c["model"], c["batch_size"], c["precision"]) == wanted)
    return curves.as_curve(curve["tokens"], curve["median_ms"], curve["min_ms"], curve["max_ms"])


def scaled(curve: LatencyCurve, factor: float) -> LatencyCurve:
    return dataclasses.replace(
        curve,
        points=tuple(
            dataclasses.replace(
                point, median_ms=point.median_ms * factor, low_ms=point.low_ms * factor, high_ms=point.high_ms * factor
            )
            for point in curve.points
        ),
    )


def widened(curve: LatencyCurve, factor: float) -> LatencyCurve:
    return dataclasses.replace(
        curve,
        points=tuple(
            dataclasses.replace(
                point,
                low_ms=point.median_ms - factor * (point.median_ms - point.low_ms),
                high_ms=point.median_ms + factor * (point.high_ms - point.median_ms),
            )
            for point in curve.points
        ),
    )


def edges(staircase: Staircase) -> list[int]:
    return [step.tokens for step in staircase.steps]


# Simulated curves


@pytest.mark.parametrize("kind", curves.KINDS)
def test_the_simulator_draws_the_edges_it_says(kind: str) -> None:
    for index in range(32):
        level, wanted = curves.KINDS[kind](np.random.default_rng([0, index]))
        fall = level[:-1] - level[1:]
        percent = 100 * np.abs(fall - np.median(fall)) / level[:-1]
        assert {int(n) for n in curves.COUNTS[1:][percent > 1e-6]} == wanted
        assert level.min() > 0 and (percent[percent > 1e-6] >= 2).all()


@pytest.mark.parametrize("kind", WITH_EDGES)
def test_edges_are_found_and_no_others(kind: str) -> None:
    result = curves.score(kind, noise=0.003, curves=32)
    assert result.precision >= 0.95 and result.recall >= 0.95, result


@pytest.mark.parametrize("kind", WITHOUT_EDGES)
def test_a_slope_is_no_staircase(kind: str) -> None:
    assert curves.score(kind, noise=0.003, curves=32).false_per_curve <= 0.1


@pytest.mark.parametrize("kind", ["plateaus", "slope_plateaus"])
def test_intervals_of_width_zero_do_not_shatter_the_curve(kind: str) -> None:
    """One block gives no interval at all: the scatter between neighbours must then stand in for it."""
    hits = found = true = 0
    for index in range(16):
        rng = np.random.default_rng([2, index])
        level, wanted = curves.KINDS[kind](rng)
        steps = edges(fit(widened(curves.measure(level, rng, 0.003), 0.0)))
        hits, found, true = hits + curves.matched(steps, wanted), found + len(steps), true + len(wanted)
    assert hits / found >= 0.9 and hits / true >= 0.95


def test_a_sawtooth_under_heavy_noise_gives_few_false_edges() -> None:
    """1 % of noise against teeth of 2 to 4 %: most pass for slope; `python -m tests.choose.curves` tells."""
    assert curves.score("sawtooth", noise=0.01, curves=32).false_per_curve < 2


def test_flat_steps_do_not_become_slope() -> None:
    level = np.select([curves.COUNTS > 128, curves.COUNTS > 64], [2.0, 1.8], 1.6)
    staircase = fit(curves.measure(level, np.random.default_rng(0), 0.003))
    assert edges(staircase) == [128, 64]
    assert staircase.slope_ms_per_token * 195 < 0.02


def test_the_slope_is_found_beside_the_steps() -> None:
    level = np.float64(1.0) + 0.002 * curves.COUNTS + 0.1 * (curves.COUNTS > 128).astype(np.float64)
    staircase = fit(curves.measure(level, np.random.default_rng(0), 0.001))
    assert staircase.slope_ms_per_token == pytest.approx(0.002, rel=0.02)
    assert edges(staircase) == [128]


# What the records say


def test_segments_and_steps_mean_what_the_records_say() -> None:
    tokens = np.arange(197, 99, -1)
    level = 1.0 + 0.001 * tokens + np.where(tokens > 192, 0.2, 0.0) + np.where(tokens == 150, 0.1, 0.0)
    staircase = fit(curves.as_curve(tokens, level))
    assert [(s.most_tokens, s.fewest_tokens) for s in staircase.segments] == [
        (197, 193),
        (192, 151),
        (150, 150),
        (149, 100),
    ]
    assert [s.median_ms for s in staircase.segments] == pytest.approx([1.395, 1.1715, 1.25, 1.1245], abs=1e-6)
    assert edges(staircase) == [192, 150, 149]
    assert [s.height_ms for s in staircase.steps] == pytest.approx([0.2, -0.1, 0.1], abs=1e-6)
    assert [s.height_percent for s in staircase.steps] == pytest.approx(
        [100 * 0.2 / 1.393, -100 * 0.1 / 1.151, 100 * 0.1 / 1.25], abs=1e-4
    )


def test_segments_cover_the_curve_in_order() -> None:
    staircase = fit(h200("vit_large_patch16_224", 8, "float16"))
    assert staircase.segments[0].most_tokens == 197 and staircase.segments[-1].fewest_tokens == 2
    for near, far, step in zip(staircase.segments, staircase.segments[1:], staircase.steps, strict=False):
        assert near.most_tokens >= near.fewest_tokens > far.most_tokens == step.tokens
    assert len(staircase.steps) == len(staircase.segments) - 1


# Recorded curves


def test_h200_float32_cliffs() -> None:
    curve = h200("deit_small_patch16_224", 4, "float32")
    staircase = fit(curve)
    heights = {step.tokens: step.height_percent for step in staircase.steps}
    assert {192, 160, 128, 64} <= set(staircase.efficient)
    assert {192, 160, 128, 64} <= set(heights)
    assert [heights[n] for n in (192, 160, 128, 64)] == pytest.approx([10.9, 5.0, 9.4, 9.4], abs=1.0)
    assert heights[8] < -15


def test_h200_float16_is_slower_with_one_token_less() -> None:
    staircase = fit(h200("deit_small_patch16_224", 4, "float16"))
    assert {step.tokens: step.height_percent for step in staircase.steps}[196] < -5
    assert 196 not in staircase.efficient
    assert staircase.efficient[:2] == (197, 128)
    assert 128 in edges(staircase)


# Grids, units, oracles


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_strided_grid_gives_the_first_measured_count_beyond_each_edge(stride: int) -> None:
    level = np.select([curves.COUNTS > 128, curves.COUNTS > 64], [2.0, 1.8], 1.6) + 0.001 * curves.COUNTS
    curve = curves.measure(level[::stride], np.random.default_rng(3), 0.003, curves.COUNTS[::stride])
    wanted = [max(int(n) for n in curves.COUNTS[::stride] if n <= edge) for edge in (128, 64)]
    assert edges(fit(curve)) == wanted


@pytest.mark.parametrize("count", [5, 8, 12, 24])
def test_few_points_at_random_places(count: int) -> None:
    """Where the scatter says little, the intervals decide: a slope stays whole, a large step is seen."""
    false = seen = 0
    for index in range(40):
        rng = np.random.default_rng([6, count, index])
        tokens = np.sort(rng.choice(curves.COUNTS, count, replace=False))[::-1]
        edge = int(tokens[count // 2])
        slope: curves.Array = 1 + 0.001 * tokens.astype(np.float64)
        false += len(fit(curves.measure(slope, rng, 0.003, tokens)).steps)
        seen += edge in edges(fit(curves.measure(slope + 0.1 * (tokens > edge), rng, 0.003, tokens)))
    assert false / 40 <= 0.25 and seen / 40 >= 0.9


def test_the_order_of_the_points_does_not_matter() -> None:
    curve = h200("deit_small_patch16_224", 4, "float32")
    shuffled = tuple(curve.points[i] for i in np.random.default_rng(0).permutation(len(curve.points)))
    assert fit(LatencyCurve(shuffled)) == fit(curve)


@pytest.mark.parametrize("ms", [[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]])
def test_two_points(ms: list[float]) -> None:
    staircase = fit(curves.as_curve([197, 98], ms))
    assert staircase.segments[0].most_tokens == 197 and staircase.segments[-1].fewest_tokens == 98
    assert staircase.slope_ms_per_token >= 0
    assert edges(staircase) == ([98] if ms == [1.0, 2.0] else [])


def test_one_point() -> None:
    staircase = fit(curves.as_curve([197], [2.0]))
    assert staircase.steps == () and staircase.efficient == (197,) and len(staircase.segments) == 1


@pytest.mark.parametrize("slope_ms", [0.0, 0.001, 0.02])
def test_an_exact_line_has_no_steps(slope_ms: float) -> None:
    staircase = fit(curves.as_curve(curves.COUNTS, 1.0 + slope_ms * curves.COUNTS))
    assert staircase.steps == () and len(staircase.segments) == 1
    assert staircase.slope_ms_per_token == pytest.approx(slope_ms, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.integers(1, 600),
        st.tuples(st.floats(1e-3, 1e4), st.floats(0, 0.2), st.floats(0, 0.2)),
        min_size=1,
        max_size=40,
    )
)
def test_any_curve_has_a_staircase(drawn: dict[int, tuple[float, float, float]]) -> None:
    staircase = fit(LatencyCurve(points(drawn)))
    counts = [n for s in staircase.segments for n in drawn if s.fewest_tokens <= n <= s.most_tokens]
    assert sorted(counts) == sorted(drawn)
    assert np.isfinite([staircase.slope_ms_per_token, *(s.median_ms for s in staircase.segments)]).all()
    assert np.isfinite([value for s in staircase.steps for value in (s.height_ms, s.height_percent)]).all()
    assert staircase.slope_ms_per_token >= 0


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("factor", [1000.0, 0.001])
def test_the_unit_does_not_matter(precision: str, factor: float) -> None:
    curve = h200("deit_small_patch16_224", 4, precision)
    plain, other = fit(curve), fit(scaled(curve, factor))
    assert edges(plain) == edges(other) and plain.efficient == other.efficient
    assert [s.height_ms * factor for s in plain.steps] == pytest.approx([s.height_ms for s in other.steps])
    assert [s.height_percent for s in plain.steps] == pytest.approx([s.height_percent for s in other.steps])
    assert other.slope_ms_per_token == pytest.approx(plain.slope_ms_per_token * factor)


@pytest.mark.parametrize("seed", range(3))
def test_ruptures_puts_the_edges_at_the_same_places(seed: int) -> None:
    ruptures = pytest.importorskip("ruptures", reason="ruptures, the oracle, is not installed")
    rng = np.random.default_rng([5, seed])
    level, wanted = curves.plateaus(rng)
    curve = curves.measure(level, rng, 0.003)
    medians = np.array([point.median_ms for point in curve.points])
    oracle = ruptures.Dynp(model="l2", min_size=1, jump=1).fit(medians).predict(n_bkps=len(wanted))[:-1]
    assert edges(fit(curve)) == [curve.points[start].tokens for start in oracle]


@pytest.mark.parametrize("seed", range(4))
def test_the_dynamic_program_is_exact(seed: int) -> None:
    """Against every one of the 2**9 ways to cut ten points, at a given slope."""
    rng = np.random.default_rng(seed)
    tokens, latency = np.arange(20.0, 10.0, -1.0), 1 + 0.1 * rng.standard_normal(10)
    curve = _weighted(tokens, latency, 0.01 + 0.05 * rng.random(10), 0.02)
    slope, penalty = 0.01, 5.0

    def cost(starts: tuple[int, ...]) -> float:
        levels = np.repeat(_levels(curve, slope, starts), np.diff([*starts, 10]))
        error = latency - slope * tokens - levels
        return float(
            (curve.weight * error**2).sum() + penalty * (len(starts) - 1) + np.log(np.diff([*starts, 10]) / 10).sum()
        )

    cuts = ((0, *rest) for size in range(10) for rest in itertools.combinations(range(1, 10), size))
    best = min(cuts, key=cost)
    [(found_cost, found)] = _partition(curve, np.array([slope]), penalty)
    assert found == best and found_cost == pytest.approx(cost(best))


# The efficient set

DRAWN = st.dictionaries(
    st.integers(1, 250),
    st.tuples(st.integers(1, 60).map(float), st.floats(0, 0.2), st.floats(0, 0.2)),
    min_size=1,
    max_size=30,
)


def points(drawn: dict[int, tuple[float, float, float]]) -> tuple[LatencyPoint, ...]:
    """Points from {tokens: (median in ms, relative width below it, above it)}."""
    return tuple(
        LatencyPoint(n, ms, ms * (1 - below), ms * (1 + above), 150, 5, "precise")
        for n, (ms, below, above) in drawn.items()
    )


@given(DRAWN)
def test_efficient_is_its_definition(drawn: dict[int, tuple[float, float, float]]) -> None:
    """A count is in the set if, and only if, every larger count of the set is surely slower."""
    measured = points(drawn)
    kept = efficient(measured)
    for n in measured:
        larger = [m for m in measured if m.tokens in kept and m.tokens > n.tokens]
        assert (n.tokens in kept) == all(m.low_ms > n.high_ms for m in larger)


@given(DRAWN)
def test_a_count_that_beats_all_larger_ones_is_efficient(drawn: dict[int, tuple[float, float, float]]) -> None:
    measured = points(drawn)
    best = {n.tokens for n in measured if all(m.low_ms > n.high_ms for m in measured if m.tokens > n.tokens)}
    assert best <= set(efficient(measured))


def test_one_badly_measured_count_does_not_hide_the_faster_ones_below_it() -> None:
    drawn = {197: (10.0, 0.001, 0.001), 180: (9.8, 0.4, 0.4), 160: (9.0, 0.001, 0.001), 128: (8.0, 0.001, 0.001)}
    assert efficient(points(drawn)) == (197, 160, 128)


@given(DRAWN)
def test_the_full_count_is_efficient(drawn: dict[int, tuple[float, float, float]]) -> None:
    assert efficient(points(drawn))[0] == max(drawn)


@given(DRAWN, st.integers(-8, 8))
def test_the_efficient_set_has_no_unit(drawn: dict[int, tuple[float, float, float]], power: int) -> None:
    """By powers of two, which floating point scales without a rounding error."""
    curve = LatencyCurve(points(drawn))
    assert efficient(scaled(curve, 2.0**power).points) == efficient(curve.points)


@given(DRAWN)
def test_fewer_efficient_tokens_are_faster(drawn: dict[int, tuple[float, float, float]]) -> None:
    kept = efficient(points(drawn))
    assert all(drawn[far][0] < drawn[near][0] for near, far in itertools.pairwise(kept))


def test_no_points_no_counts() -> None:
    assert efficient(()) == ()
