"""A plan explained: what each kind of plan is told, by the figures that the page has too."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import samples

from pomt_edge.records import Remedy, Result
from pomt_edge.report.explain import Explanation, explain
from pomt_edge.report.page import render
from pomt_edge.report.words import verdict


def told(result: Result, **changes: Any) -> dict[str, str]:
    result = dataclasses.replace(result, plan=dataclasses.replace(result.plan, **changes))
    return by_label(explain(result.plan, result))


def by_label(explanation: Explanation) -> dict[str, str]:
    return {line.label: line.text for line in explanation.lines}


def test_a_plan_is_explained_in_about_ten_lines() -> None:
    result = samples.staircase()
    explanation = explain(result.plan, result)
    lines = by_label(explanation)
    assert list(lines) == [
        *("Of", "Decision", "Why", "Not more", "Not fewer", "Tread", "By 8", "How sure", "Surer", "Measured")
    ]
    assert lines["Of"].startswith("deit_small_patch16_224, batch 4, NVIDIA H200; torch float32, pomt in block 3")
    assert lines["Decision"].startswith(f"{verdict(result).sentence} The limit is: at most 2 points lost; ")
    assert verdict(result).rest in render(result), "the page says the same"
    assert "129 → 128, " in lines["Tread"] and "faster beyond it; towards fewer: 97 → 96, " in lines["Tread"]
    assert lines["By 8"].startswith("Multiples of 8 next to it: 136 takes ") and "; 128 is it itself; " in lines["By 8"]
    assert "10\u202f000 images" in lines["How sure"] and "clocks not locked" in lines["How sure"]
    assert "sudo pomt-edge clocks lock" in lines["Surer"]
    assert "at all 196 counts from 197 to 2;" in lines["Measured"]
    assert explanation.why and explanation.clocks == "not locked" and explanation.missing is None


def test_the_next_faster_count_is_held_against_the_limit() -> None:
    result = samples.staircase()
    assert result.accuracy is not None
    (lost,) = [point for point in result.accuracy.points if point.tokens == 96]
    following = f"loses {lost.drop:.1f} points ({lost.drop_low:.1f} to {lost.drop_high:.1f})"
    for limits, said in (
        ({"max_drop": lost.drop - 0.1}, f"{following}, more than"),
        ({"max_drop": lost.drop + 0.1}, f"{following}, which is not surely within"),
        ({"keep": 0.6}, "is below the 119 that have to stay"),
        ({"budget_ms": 9.0}, "the budget is met without it"),
        ({"alpha": 0.5}, "and its utility is smaller"),
    ):
        result = dataclasses.replace(result, staircase=dataclasses.replace(result.staircase, efficient=(197, 128, 96)))
        assert said in told(result, limits=limits)["Not more"]
    more = told(result, limits={"max_drop": lost.drop + 0.1})["Surer"]
    assert "loss at 96: about --images " in more


def test_counts_that_were_not_measured_are_said() -> None:
    result = samples.smooth(20)
    lines = told(result)
    assert "not at 158 between" in lines["Measured"] and "not measured)" in lines["Not fewer"]


def test_do_not_prune_is_explained_with_what_may_help() -> None:
    lines = told(dataclasses.replace(samples.few(), remedies=samples.few().remedies[:1]))
    assert lines["Decision"].startswith("Do not prune: No count is faster")
    assert "Not more" not in lines and "160 tokens (196 to 161 not measured)" in lines["Fewer"]
    assert lines["Measured"] == "Latency at 5 counts from 197 to 64, not at 129 between; accuracy was not measured."
    assert lines["Instead"] == "--bs 4: 128 of 197 tokens are 1.12x faster (1.10 to 1.14; measured)"


def test_other_plans_are_explained_too() -> None:
    unreachable = told(samples.few(), verdict="unreachable", because="no count is within 1 ms")
    assert unreachable["Decision"].startswith("No token count meets the limits: no count is within 1 ms.")
    several = told(samples.staircase(), schedule=(0, 0, 0, 23, 0, 0, 23, 0, 0, 23, 0, 0))
    assert "in blocks 3, 6 and 9: " in several["Decision"] and "pomt in blocks 3, 6 and 9" in several["Of"]
    probe = told(samples.staircase(), probe="input")
    assert "tokens dropped at the input" in probe["Of"] and "not what pruning" in probe["Decision"]
    assert "accuracy" not in " ".join(told(samples.agreement()).values())
    simulated = told(samples.staircase(), origin="simulated")
    assert "no device was measured, the latencies are simulated" in simulated["Of"]
    told(samples.broken())
    told(samples.hostile())


def test_a_schedule_is_held_against_one_block_and_the_nearest_schedules_not_against_a_curve_that_lacks_it() -> None:
    result = samples.several_blocks()
    assert any(point.tokens == result.plan.tokens_out for point in result.curve.points), "a count of block 3 alone"
    explanation = explain(result.plan, result)
    lines = by_label(explanation)
    assert list(lines) == ["Of", "Decision", "Why", "One block", "Nearest", "How sure", "Surer", "Measured"]
    assert lines["One block"].startswith("R=69 of 197 tokens in block 3 alone: ")
    assert lines["One block"].endswith("side by side the schedule is 1.30x (1.25 to 1.35) as fast.")
    slower, faster = lines["Nearest"].split("; ")
    assert "0,0,0,30,0,0,40,0,0,20,0,0, takes 20.0 % more time (" in slower
    assert slower.endswith("loses 1.2 points (0.9 to 1.5) on 500 images")
    assert "0,0,0,50,0,0,40,0,0,20,0,0, latency not measured, loses 1.9 points" in faster
    assert faster.endswith("which is not surely within 2.")
    assert "speedup 1.95 to 2.05; points lost 1.3 to 1.9; 500 images; clocks not locked" in lines["How sure"]
    assert lines["Measured"].startswith("Latency of 2 and loss of 3 schedules, foreseen latencies 1.4 % off")
    assert explanation.why is None and explanation.missing is None and explanation.schedules == result.schedules


def test_a_schedule_where_one_block_has_no_plan_is_held_against_the_unreduced_model() -> None:
    result = samples.several_blocks()
    assert result.schedules is not None
    single = result.plan.kept("keep", "no count is within 2 points.")
    result = dataclasses.replace(result, schedules=dataclasses.replace(result.schedules, single=single))
    said = told(result)["One block"]
    assert said.startswith("Block 3 alone has no plan: no count is within 2 points; side by side ")
    assert said.endswith("as fast as the unreduced model.")


def test_where_the_search_kept_one_block_it_is_said_beside_the_facts_of_the_count() -> None:
    result = samples.several_blocks(kept=True)
    lines = told(result)
    assert "Not more" in lines and "Tread" in lines
    assert lines["Several blocks"].startswith("Schedule 0,0,0,40,")
    assert "Several blocks" not in told(samples.staircase())


def test_a_plan_alone_says_what_is_missing_and_where_it_would_be() -> None:
    plan = samples.staircase().plan
    explanation = explain(plan, None, "there is none beside plan.json")
    lines = by_label(explanation)
    assert list(lines) == ["Of", "Decision", "Why", "Missing"]
    assert lines["Missing"].endswith("result.json; there is none beside plan.json.")
    assert explanation.why is None and explanation.missing


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "128 of 197 tokens are 1.12x faster (1.10 to 1.14; measured)"),
        ({"speedup": 1.0, "speedup_low": 0.98}, "are not surely faster: 1.00x (0.98 to 1.14; measured)"),
        ({"speedup": 0.9, "speedup_low": 0.8, "speedup_high": 0.95}, "are slower: 0.90x (0.80 to 0.95; measured)"),
        ({"allowed": False}, "measured); the limits do not allow it"),
        ({"tokens": None, "because": "out of memory"}, "not tried: out of memory"),
    ],
)
def test_a_remedy_says_what_it_gave_or_why_it_was_not_tried(changes: dict[str, Any], said: str) -> None:
    remedy: Remedy = dataclasses.replace(samples.few().remedies[0], **changes)
    result = dataclasses.replace(samples.few(), remedies=(remedy,))
    assert said in told(result)["Instead"] and said in render(result)
