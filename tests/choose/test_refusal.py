"""Why nothing is removed: each reason on a curve that has it, with the figures that decide."""

from __future__ import annotations

import pytest
from test_plan import STAIRS, Known, choose, curve

from pomt_edge.choose import refusal
from pomt_edge.choose.plan import Decision, Limits, settled
from pomt_edge.records import AccuracyPoint, LatencyCurve, Refusal


def refused(limits: Limits, accuracy: Known | None, stairs: LatencyCurve = STAIRS) -> Refusal:
    decision = choose(limits, accuracy, stairs)
    assert decision.verdict == "keep" and decision.refusal and decision.refusal.because == decision.because
    return decision.refusal


def test_a_flat_curve_says_by_how_much_the_fewest_tokens_are_faster() -> None:
    found = refused(Limits(keep=0.5), None, curve({197: 10.0, 100: 10.01, 20: 9.95}, half=0.005))
    assert (found.kind, found.tokens) == (refusal.FLAT, 20)
    assert "20 of 197, take 0.5 % less time (-0.2 to 1.2)" in found.because and "launching kernels" in found.because
    assert found.speedup == pytest.approx(10 / 9.95)


def test_a_curve_that_rises_says_where_and_by_how_much() -> None:
    found = refused(Limits(keep=0.5), None, curve({197: 10.0, 196: 10.67, 100: 10.5, 20: 10.02}, half=0.001))
    assert (found.kind, found.slower_tokens) == (refusal.SLOWER, 196)
    assert found.slower_percent == pytest.approx(6.7)
    assert "196 tokens take 6.7 % more time (6.5 to 6.9)" in found.because and "20 of 197" in found.because


def test_intervals_too_wide_to_tell_are_not_called_flat() -> None:
    found = refused(Limits(keep=0.5), None, curve({197: 10.0, 100: 9.9, 20: 9.0}, half=0.08))
    assert found.kind == refusal.NOISY
    assert "10.0 % less time (-0.8 to 19.7), and the intervals are too wide" in found.because


def test_what_is_faster_only_below_the_floor_names_both() -> None:
    found = refused(Limits(keep=0.99), None)
    assert (found.kind, found.tokens) == (refusal.FLOOR, 192)
    assert "192 of 197 (1.25x, 1.23 to 1.27), is below the 196 that have to stay" in found.because


def test_what_is_faster_and_loses_too_much_says_how_far_pruning_does_not_pay() -> None:
    found = refused(
        Limits(max_drop=0.5), Known(lambda tokens: 4.0), curve({197: 10, 196: 10.6, 129: 10.1, 128: 8}, half=0.002)
    )
    assert (found.kind, found.tokens, found.drop_low, found.drop_high) == (refusal.COSTLY, 128, 3.8, 4.2)
    assert found.because.startswith("down to 129 tokens pruning does not pay, 196 take 6.0 % more time (5.7 to 6.3)")
    assert found.because.endswith("loses 4.0 points (3.8 to 4.2); the limit is 0.5")
    assert found.slower_tokens == 196


def test_a_loss_that_the_images_cant_prove_is_another_reason_than_one_that_is_too_large() -> None:
    found = refused(Limits(max_drop=0.5), Known(lambda tokens: 0.4))
    assert (found.kind, found.tokens, found.drop) == (refusal.UNPROVEN, 192, 0.4)
    assert found.because.endswith("the limit is 0.5, which 1000 images can't prove: give more (--images)")


def test_the_images_needed_grow_with_the_square_of_what_is_missing() -> None:
    point = AccuracyPoint(192, 89.6, 88, 91, 1000, 0.4, 0.0, 0.8)
    assert refusal.images_needed(point, 0.6) == pytest.approx(4000, abs=1)
    assert refusal.images_needed(point, 0.8) == pytest.approx(1000, abs=1)
    assert refusal.images_needed(point, 0.4) is None, "no number of images proves a loss at the limit itself"


def test_a_choice_that_is_not_faster_when_measured_again_keeps_its_own_figures() -> None:
    decision = settled(curve({197: 10.0, 160: 9.95}), Decision(160, "prune", "it looked so"), Limits(max_drop=1))
    assert decision.refusal and (decision.refusal.kind, decision.refusal.tokens) == (refusal.NOT_CONFIRMED, 160)
    assert "1.01x (0.99 to 1.02)" in decision.because


def test_where_nothing_has_to_be_removed_that_is_the_reason() -> None:
    found = refused(Limits(budget_ms=11), None)
    assert found.kind == refusal.BUDGET and "takes 10 ms (9.9 to 10.1)" in found.because
    found = refused(Limits(alpha=0.0), Known(lambda tokens: (197 - tokens) / 10))
    assert (found.kind, found.tokens) == (refusal.UTILITY, 192) and "alpha 0;" in found.because


def test_a_plan_that_prunes_has_no_refusal() -> None:
    assert choose(Limits(keep=0.5), None).refusal is None
