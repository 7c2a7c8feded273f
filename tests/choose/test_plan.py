"""The choice: on curves and accuracies that are known, with what was asked of the accuracy on record."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pomt_edge.choose import search
from pomt_edge.choose.efficient import efficient, narrowed
from pomt_edge.choose.plan import Decision, Limits, Subject, decide, make_plan, settled
from pomt_edge.records import AccuracyPoint, LatencyCurve, LatencyPoint

SUBJECT = Subject("m", "pomt", (0, 0, 0, 37, *(0,) * 8), 3, 4, 224, "fp32", "torch", "cpu", 10)


def curve(latency_ms: dict[int, float], half: float = 0.01) -> LatencyCurve:
    points = (
        LatencyPoint(tokens, ms, ms * (1 - half), ms * (1 + half), 30, 3, "interval")
        for tokens, ms in sorted(latency_ms.items(), reverse=True)
    )
    return LatencyCurve(tuple(points))


class Known:
    """Accuracy by a function of the count; remembers which counts were asked for."""

    def __init__(self, drop: Callable[[int], float], half: float = 0.2) -> None:
        self._drop = drop
        self._half = half
        self.asked: set[int] = set()

    def __call__(self, tokens: int) -> AccuracyPoint:
        self.asked.add(tokens)
        drop = self._drop(tokens)
        return AccuracyPoint(tokens, 90 - drop, 88, 92, 1000, drop, drop - self._half, drop + self._half)


STAIRS = curve({197: 10, 192: 8, 180: 8, 160: 7, 140: 7, 128: 5, 100: 5, 64: 4})


def choose(limits: Limits, accuracy: Known | None, stairs: LatencyCurve = STAIRS) -> Decision:
    return decide(stairs, efficient(stairs.points), limits, accuracy)


def test_the_fastest_count_surely_within_the_drop() -> None:
    accuracy = Known(lambda tokens: (197 - tokens) / 50)
    decision = choose(Limits(max_drop=1.0), accuracy)
    assert (decision.verdict, decision.tokens) == ("prune", 160), "128 would lose 1.38 points"
    assert "128, loses 1.4 points (up to 1.6)" in decision.because


def test_the_interval_and_not_the_estimate_has_to_be_within_the_drop() -> None:
    assert choose(Limits(max_drop=0.9), Known(lambda tokens: (197 - tokens) / 50, half=0.1)).tokens == 160
    assert choose(Limits(max_drop=0.9), Known(lambda tokens: (197 - tokens) / 50, half=0.3)).tokens == 192


def test_accuracy_is_asked_of_efficient_counts_alone() -> None:
    accuracy = Known(lambda tokens: 0.0)
    assert choose(Limits(max_drop=1.0), accuracy).tokens == 64
    assert accuracy.asked <= {197, 192, 160, 128, 64}


def test_few_of_many_counts_are_asked() -> None:
    stairs = curve({tokens: tokens / 20 for tokens in range(197, 19, -1)}, half=0.0001)
    accuracy = Known(lambda tokens: (197 - tokens) / 50)
    decision = choose(Limits(max_drop=1.0), accuracy, stairs)
    assert decision.tokens == 157
    assert len(accuracy.asked) <= 12


def test_a_dip_in_accuracy_at_the_boundary_is_walked_over() -> None:
    accuracy = Known(lambda tokens: 3.0 if tokens == 160 else (197 - tokens) / 100)
    assert choose(Limits(max_drop=1.0), accuracy).tokens == 128


def test_what_is_known_already_narrows_the_search() -> None:
    counts = list(range(190, 20, -2))
    accuracy = Known(lambda tokens: (197 - tokens) / 50)
    found = search.fastest_within_drop(counts, 1.0, accuracy)
    fresh = Known(lambda tokens: (197 - tokens) / 50)
    again = search.fastest_within_drop(counts, 1.0, fresh, [accuracy(160), accuracy(154)])
    assert found == again == 158
    assert len(fresh.asked) < len(accuracy.asked)


def test_wrong_knowledge_does_not_break_the_limit() -> None:
    """A count that fits says nothing sure of larger ones."""
    accuracy = Known(lambda tokens: 0.0 if tokens == 100 else 5.0)
    found = search.fastest_within_drop([190, 150, 101, 60], 1.0, accuracy, [accuracy(100)])
    assert found is None


@pytest.mark.parametrize("limits", [Limits(max_drop=1.0), Limits(keep=0.5), Limits(alpha=0.5)])
def test_keep_when_nothing_is_faster_beyond_the_intervals(limits: Limits) -> None:
    flat = curve({197: 10.0, 150: 9.95, 100: 9.9, 50: 9.99})
    decision = choose(limits, Known(lambda tokens: 0.0) if limits.keep is None else None, flat)
    assert (decision.verdict, decision.tokens) == ("keep", 197)
    assert "no count is faster" in decision.because


def test_keep_when_what_is_faster_loses_too_much_and_says_what() -> None:
    decision = choose(Limits(max_drop=0.5), Known(lambda tokens: 4.0))
    assert decision.verdict == "keep"
    assert "192 of 197 (1.25x, 1.23 to 1.27), loses 4.0 points (3.8 to 4.2)" in decision.because


def test_without_accuracy_the_share_kept_is_the_limit() -> None:
    assert choose(Limits(keep=0.7), None).tokens == 160, "0.7 of 197 is 137.9: 138 stay"
    assert choose(Limits(keep=0.65), None).tokens == 160
    assert choose(Limits(keep=0.64), None).tokens == 128
    assert choose(Limits(keep=0.99), None).verdict == "keep"


def test_a_budget_takes_the_largest_count_surely_within_it() -> None:
    assert choose(Limits(budget_ms=7.2), None).tokens == 160
    assert choose(Limits(budget_ms=7.05), None).tokens == 128, "7 ms and its interval is up to 7.07"
    assert choose(Limits(budget_ms=11), None).verdict == "keep"
    decision = choose(Limits(budget_ms=1), None)
    assert decision.verdict == "unreachable" and "64 tokens, takes 4 ms" in decision.because


def test_a_budget_takes_fewer_tokens_only_if_they_are_surely_more_accurate() -> None:
    assert choose(Limits(budget_ms=7.2), Known(lambda tokens: 1.0 if tokens == 160 else 0.9)).tokens == 160
    assert choose(Limits(budget_ms=7.2), Known(lambda tokens: 2.0 if tokens == 160 else 0.9)).tokens == 128


def test_utility_is_the_papers() -> None:
    accuracy = Known(lambda tokens: (197 - tokens) / 10)
    utility = {
        tokens: 0.5 * (1 - STAIRS.at(tokens).median_ms / 10) + 0.5 * (90 - (197 - tokens) / 10) / 90
        for tokens in (197, 192, 160, 128, 64)
    }
    assert choose(Limits(alpha=0.5), accuracy).tokens == max(utility, key=utility.__getitem__)
    assert choose(Limits(alpha=0.0), accuracy).verdict == "keep"
    assert choose(Limits(alpha=1.0), accuracy).tokens == 64


def test_the_plan_says_what_the_curves_say() -> None:
    accuracy = Known(lambda tokens: (197 - tokens) / 50)
    limits = Limits(max_drop=1.0)
    plan = make_plan(SUBJECT, STAIRS, choose(limits, accuracy), limits, "accuracy", accuracy)
    assert plan.schedule == (0, 0, 0, 37, 0, 0, 0, 0, 0, 0, 0, 0)
    assert (plan.tokens_in, plan.tokens_out, plan.removed) == (197, 160, 37)
    assert (plan.baseline_ms, plan.predicted_ms) == (10, 7)
    assert plan.speedup == pytest.approx(10 / 7)
    assert 1.40 < plan.speedup_low < plan.speedup < plan.speedup_high < 1.46
    assert plan.drop == pytest.approx(0.74) and plan.limits == {"max_drop": 1.0}


def test_a_choice_that_is_not_faster_when_measured_again_is_not_made() -> None:
    close = curve({197: 10.0, 160: 9.95})
    limits = Limits(max_drop=1)
    assert settled(close, Decision(160, "prune", "it looked so"), limits).verdict == "keep"
    assert settled(STAIRS, Decision(160, "prune", "it is so"), limits).tokens == 160


def test_a_budget_that_the_unreduced_model_breaks_is_not_answered_by_keep() -> None:
    lucky = curve({197: 10.0, 196: 9.99, 100: 5.0}, half=0.006)
    limits = Limits(budget_ms=10.055)
    decision = settled(lucky, choose(limits, None, lucky), limits)
    assert (decision.verdict, decision.tokens) == ("prune", 100)


def test_where_every_accuracy_is_known_the_fastest_that_fits_is_found() -> None:
    """However often accuracy goes down and up on the way."""
    counts = list(range(190, 100, -10))
    accuracy = Known(lambda tokens: 3.0 if tokens in (180, 170, 160) else 0.1 if tokens >= 140 else 5.0)
    assert search.fastest_within_drop(counts, 1.0, accuracy, [accuracy(tokens) for tokens in counts]) == 140


def test_a_gentle_slope_is_resolved_by_the_tread_where_points_alone_would_not_do() -> None:
    rng = np.random.default_rng(0)
    line = {tokens: 2 + tokens / 20 for tokens in range(197, 97, -1)}
    points = []
    for tokens, ms in line.items():
        seen = ms + 0.1 * rng.standard_normal()
        points.append(LatencyPoint(tokens, seen, seen - 0.4, seen + 0.4, 30, 3, "interval"))
    assert len(efficient(points)) <= 8
    refined = narrowed(points, list(line.values()), [0.01] * len(points))
    assert len(efficient(refined)) > 90


def test_a_point_off_its_tread_keeps_its_own_interval() -> None:
    points = [LatencyPoint(tokens, ms, ms - 0.1, ms + 0.1, 9, 3, "interval") for tokens, ms in ((3, 5.0), (2, 9.0))]
    assert narrowed(points, [5.05, 5.0], [0.01, 0.01])[1] == points[1]
