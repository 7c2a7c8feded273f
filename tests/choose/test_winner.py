"""Which of several methods' plans is taken, on one engine and on several."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pomt_edge.choose import winner
from pomt_edge.records import (
    AccuracyCurve,
    AccuracyPoint,
    Contest,
    Environment,
    Final,
    LatencyCurve,
    LatencyPoint,
    Plan,
    Result,
    Staircase,
)

DROP = {"max_drop": 1.0}
Row = tuple[str, str, float, int, float, float]
"""Engine, method, unreduced ms, tokens kept, speedup and accuracy; nothing removed is no plan that prunes."""


def point(tokens: int, ms: float, reach: float = 0.01) -> LatencyPoint:
    return LatencyPoint(tokens, ms, ms * (1 - reach), ms * (1 + reach), 100, 8, "interval")


def quality(tokens: int, percent: float) -> AccuracyPoint:
    return AccuracyPoint(tokens, percent, percent - 0.5, percent + 0.5, 500, 90 - percent, 89 - percent, 91 - percent)


def run(row: Row, limits: dict[str, Any], verdict: str) -> Result:
    engine, method, baseline_ms, tokens, speedup, percent = row
    removed = 197 - tokens
    plan = Plan(
        model="demo",
        method=method,
        schedule=(0, removed),
        tokens_in=197,
        tokens_out=tokens,
        removed=removed,
        block=1,
        batch_size=4,
        image_px=28,
        precision="fp32",
        engine=engine,
        device="cpu",
        baseline_ms=baseline_ms,
        predicted_ms=baseline_ms / speedup,
        speedup=speedup,
        speedup_low=speedup * 0.98 if removed else 1.0,
        speedup_high=speedup * 1.02 if removed else 1.0,
        verdict="prune" if removed else verdict,
        because="as it is",
        limits=limits,
        measure="accuracy",
        baseline_percent=90.0,
        predicted_percent=percent,
        drop=90 - percent,
        drop_low=89 - percent,
        drop_high=91 - percent,
    )
    curve = LatencyCurve((point(197, baseline_ms), *([point(tokens, baseline_ms / speedup)] if removed else [])))
    accuracy = AccuracyCurve("accuracy", (quality(197, 90.0), *([quality(tokens, percent)] if removed else [])))
    here = Environment("cpu", "a processor", engine, "fp32", 4, 28, 1, "linux", "3.11", {}, "0", None, "", {})
    return Result(plan, curve, Staircase(0.0, (), (), (197,)), accuracy, here)


def contest(
    *rows: Row,
    limits: dict[str, Any] = DROP,
    finals: tuple[Final, ...] = (),
    verdict: str = "keep",
) -> Contest:
    results = [run(row, limits, verdict) for row in rows]
    everyone = winner.contenders(results, finals)
    best = winner.choose(winner.finalists(everyone), everyone)
    taken, engine = (best.method, best.engine) if best else (None, None)
    return Contest(tuple(results), taken, winner.because(best, everyone), (), engine, finals)


def final(engine: str, method: str | None, tokens: int, ms: float, reach: float = 0.01) -> Final:
    return Final(engine, method, point(tokens, ms, reach))


def test_of_one_engine_the_fastest_within_the_limits_is_taken_whatever_the_milliseconds_of_its_run() -> None:
    # tome's run was at a slow time of the machine, which its own unreduced model shows.
    found = contest(("torch", "tome", 20.0, 100, 1.5, 89.5), ("torch", "pomt", 10.0, 100, 1.2, 89.5))
    assert (found.best, found.engine, found.plan.method) == ("tome", "torch", "tome")
    assert found.because == "tome is the fastest within the limits"


def test_who_may_be_as_fast_on_the_same_engine_is_named() -> None:
    found = contest(
        ("torch", "tome", 10.0, 100, 1.50, 89.5),
        ("torch", "topk", 10.0, 100, 1.47, 89.5),
        ("torch", "pomt", 10.0, 100, 1.2, 89.5),
    )
    assert found.because.endswith("; by the intervals of speed topk may be as good")


def test_across_engines_milliseconds_decide_and_not_the_speedup() -> None:
    rows = (("torch", "tome", 20.0, 100, 2.0, 89.5), ("openvino", "pomt", 9.0, 120, 1.5, 89.5))
    finals = (
        final("torch", None, 197, 20.0),
        final("torch", "tome", 100, 10.0),
        final("openvino", None, 197, 9.0),
        final("openvino", "pomt", 120, 6.0),
    )
    found = contest(*rows, finals=finals)
    assert (found.best, found.engine) == ("pomt", "openvino")
    assert found.because == "pomt on openvino is the fastest within the limits: 6 ms (5.94 to 6.06)"


def test_what_was_measured_in_turn_comes_before_what_the_runs_say() -> None:
    rows = (("torch", "tome", 10.0, 100, 2.0, 89.5), ("openvino", "tome", 9.0, 100, 2.0, 89.5))
    finals = (
        final("torch", None, 197, 10.0),
        final("torch", "tome", 100, 4.0),
        final("openvino", None, 197, 11.0),
        final("openvino", "tome", 100, 5.5, reach=0.3),
    )
    found = contest(*rows, finals=finals)
    assert found.engine == "torch"
    assert found.because.endswith("4 ms (3.96 to 4.04); by the intervals of latency tome on openvino may be as good")


def test_an_engine_whose_unreduced_model_is_the_fastest_wins_and_nothing_is_pruned() -> None:
    rows = (("torch", "tome", 20.0, 100, 1.5, 89.5), ("openvino", "tome", 6.0, 197, 1.0, 90.0))
    finals = (final("torch", None, 197, 20.0), final("torch", "tome", 100, 13.0), final("openvino", None, 197, 6.0))
    found = contest(*rows, finals=finals)
    assert (found.best, found.engine, found.verdict) == (None, "openvino", "keep")
    assert found.because == "the unreduced model on openvino is faster than every plan: 6 ms (5.94 to 6.06)"
    assert (found.plan.engine, found.plan.removed, found.plan.verdict) == ("openvino", 0, "keep")


def test_the_unreduced_model_that_beats_its_own_engines_plan_is_a_plan_without_removal() -> None:
    finals = (
        final("torch", None, 197, 20.0),
        final("torch", "tome", 100, 13.0),
        final("openvino", None, 197, 6.0),
        final("openvino", "tome", 100, 6.5),
    )
    rows = (("torch", "tome", 20.0, 100, 1.5, 89.5), ("openvino", "tome", 6.0, 100, 1.1, 89.0))
    plan = contest(*rows, finals=finals).plan
    assert (plan.engine, plan.verdict, plan.schedule, plan.tokens_out) == ("openvino", "keep", (0, 0), 197)
    assert (plan.speedup, plan.predicted_ms, plan.predicted_percent, plan.drop) == (1.0, 6.0, 90.0, 0.0)
    assert Plan.from_dict(plan.to_dict()) == plan


def test_alpha_chooses_by_utility_on_one_scale_and_not_by_speed() -> None:
    rows = (("torch", "random", 10.0, 50, 2.0, 45.0), ("torch", "tome", 10.0, 100, 1.6, 89.0))
    assert contest(*rows).best == "random"  # by speed alone
    found = contest(*rows, limits={"alpha": 0.5})
    # 0.5 * (1 - 5/10) + 0.5 * 45/90 = 0.5; 0.5 * (1 - 6.25/10) + 0.5 * 89/90 = 0.682; unreduced: 0.5
    assert found.best == "tome" and found.because == "tome has the largest utility at alpha 0.5"
    everyone = winner.contenders(found.results)
    assert [round(winner.utility(one, everyone, 0.5), 3) for one in everyone] == [0.5, 0.5, 0.682]
    assert contest(*rows, limits={"alpha": 1.0}).best == "random"


def test_alpha_may_take_the_unreduced_model_though_plans_prune() -> None:
    found = contest(("torch", "random", 10.0, 50, 1.1, 30.0), limits={"alpha": 0.1})
    assert (found.best, found.engine, found.plan.removed, found.plan.verdict) == (None, "torch", 0, "keep")
    assert found.because == "the unreduced model has the largest utility at alpha 0.1"


def test_a_budget_takes_the_most_accurate_that_is_within_it_as_measured_in_turn() -> None:
    rows = (
        ("torch", "tome", 20.0, 100, 2.0, 89.5),
        ("torch", "topk", 20.0, 80, 2.5, 80.0),
        ("openvino", "tome", 12.0, 150, 1.25, 89.9),
    )
    finals = (
        final("torch", None, 197, 20.0),
        final("torch", "tome", 100, 9.0),
        final("openvino", None, 197, 12.0),
        final("openvino", "tome", 150, 9.95),
    )
    found = contest(*rows, limits={"budget_ms": 10.0}, finals=finals)
    assert (found.best, found.engine) == ("tome", "torch")  # openvino's may take 10.05 ms
    assert found.because.startswith("tome on torch is the most accurate within 10 ms: 9 ms (8.91 to 9.09)")
    assert (contest(*rows, limits={"budget_ms": 15.0}, finals=finals).engine) == "openvino"
    none = contest(*rows, limits={"budget_ms": 5.0}, finals=finals)
    assert (none.verdict, none.plan.verdict, none.plan.removed) == ("unreachable", "unreachable", 0)
    assert none.because == "no plan that was measured in turn and no unreduced model is surely within 5 ms"


@pytest.mark.parametrize("verdict", ["keep", "unreachable"])
def test_where_no_method_prunes_one_engines_contest_says_so(verdict: str) -> None:
    limits = DROP if verdict == "keep" else {"budget_ms": 5.0}
    found = contest(("torch", "tome", 10.0, 197, 1.0, 90.0), limits=limits, verdict=verdict)
    assert (found.best, found.verdict, found.plan.verdict) == (None, verdict, verdict)
    told = {"keep": "no method has a count that is surely faster within", "unreachable": "surely within 5 ms"}
    assert told[verdict] in found.because


def test_finalists_are_each_engines_unreduced_model_and_its_best_plan() -> None:
    rows = (
        ("torch", "tome", 20.0, 100, 2.0, 89.5),
        ("torch", "topk", 20.0, 80, 1.5, 80.0),
        ("openvino", "tome", 12.0, 197, 1.0, 90.0),
    )
    everyone = winner.contenders([run(row, DROP, "keep") for row in rows])
    assert [(one.engine, one.method) for one in winner.finalists(everyone)] == [
        ("torch", None),
        ("torch", "tome"),
        ("openvino", None),
    ]


def test_a_contest_is_read_back_as_it_was_written() -> None:
    found = contest(("torch", "tome", 20.0, 100, 2.0, 89.5), finals=(final("torch", None, 197, 20.0),))
    assert Contest.from_dict(dataclasses.asdict(found)) == found
