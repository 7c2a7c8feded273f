"""The facts around a choice, on a curve whose steps are known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import samples
from test_plan import curve

from pomt_edge.choose.why import Edge, Why, why
from pomt_edge.records import AccuracyCurve, AccuracyPoint, LatencyCurve, Plan, Segment, Staircase, Step

SPARSE = curve({197: 10.0, 192: 8.0, 179: 7.99, 161: 7.98, 160: 7.0, 156: 6.98, 140: 6.9, 128: 5.0}, half=0.001)
STAIRS = Staircase(
    0.0,
    (Segment(197, 197, 10.0), Segment(192, 161, 8.0), Segment(160, 140, 7.0), Segment(128, 128, 5.0)),
    (Step(192, 2.0, 20.0), Step(160, 1.0, 12.5), Step(128, 2.0, 28.6)),
    (197, 192, 160, 128),
)
LOSSES = AccuracyCurve(
    "accuracy",
    tuple(AccuracyPoint(n, 90 - d, 88, 92, 1000, d, d - 0.2, d + 0.2) for n, d in ((197, 0.0), (160, 1.0), (128, 3.0))),
)


def plan(tokens: int) -> Plan:
    removed = 197 - tokens
    schedule = tuple(removed if block == 3 else 0 for block in range(12))
    return dataclasses.replace(samples.few().plan, tokens_out=tokens, removed=removed, schedule=schedule)


def around(tokens: int, points: LatencyCurve = SPARSE) -> Why:
    found = why(plan(tokens), points, STAIRS, LOSSES)
    assert found is not None
    return found


def test_next_means_the_next_measured_count() -> None:
    found = around(160)
    assert found.more and (found.more.tokens, found.more.drop) == (161, None)
    assert found.more.change_percent == pytest.approx(14.0) and not found.more.ties
    assert found.more.change_low < 14 < found.more.change_high
    assert found.fewer and found.fewer.tokens == 156
    assert found.next_faster and (found.next_faster.tokens, found.next_faster.drop) == (128, 3.0)
    assert (found.counts, found.most, found.fewest, found.between) == (8, 197, 128, 62)
    assert (found.accuracies, found.images) == (3, 1000)


def test_a_count_on_the_tread_above_ties_as_far_as_the_intervals_reach() -> None:
    found = around(179)
    assert found.ties == (192, 161) and found.more and found.more.tokens == 192
    assert found.surely_slower and found.surely_slower.tokens == 197
    wide = dataclasses.replace(
        SPARSE,
        points=tuple(
            dataclasses.replace(p, low_ms=0.8 * p.median_ms, high_ms=1.25 * p.median_ms) for p in SPARSE.points
        ),
    )
    assert around(179, wide).ties == (192, 161, 160, 156, 140), "128 is told apart, and the unreduced model never ties"


def test_the_tread_and_the_steps_on_both_sides() -> None:
    found = around(156)
    assert (found.tread_most, found.tread_fewest, found.tread_counts) == (160, 140, 3)
    assert (found.step_above, found.step_below) == (Edge(161, 160, 12.5), Edge(140, 128, 28.6))
    ends = around(197), around(128)
    assert ends[0].step_above is None and ends[1].step_below is None


@pytest.mark.parametrize(
    ("tokens", "measured", "missing"),
    [(156, [160], (152,)), (160, [160], (168, 152)), (128, [128], (136, 120)), (197, [192], ())],
)
def test_the_multiples_of_8_beside_it(tokens: int, measured: list[int], missing: tuple[int, ...]) -> None:
    found = around(tokens)
    assert [one.tokens for one in found.multiples] == measured and found.missing_multiples == missing


def test_around_the_unreduced_model_there_is_nothing_above() -> None:
    found = around(197)
    assert found.more is None and found.surely_slower is None and found.ties == ()
    assert found.next_faster and found.next_faster.tokens == 192


def test_a_curve_without_the_plans_count_has_no_facts_and_points_that_are_none_are_left_out() -> None:
    assert why(plan(150), SPARSE, STAIRS, None) is None
    damaged = dataclasses.replace(
        SPARSE,
        points=tuple(dataclasses.replace(p, median_ms=math.nan) if p.tokens == 161 else p for p in SPARSE.points),
    )
    found = around(160, damaged)
    assert found.more and found.more.tokens == 179 and found.counts == 7
