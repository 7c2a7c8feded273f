"""Searches on real sweeps: in time, gone on with, nothing twice, and nothing that all images refuse."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from quick import TAME
from staircases import KnownTarget, two_cliffs

from pomt_edge import cli
from pomt_edge.choose.plan import Limits
from pomt_edge.decision import Decided, decide_adaptively
from pomt_edge.errors import UserError
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.measure.sweep import Grid, Sweep
from pomt_edge.records import Result
from pomt_edge.searching import Deadline, OutOfTimeError

GRID = tuple(range(197, 19, -1))
SIMULATED = ["--device", "sim:jetson_tx2", "--images", "64", *TAME]

pytestmark = pytest.mark.usefixtures("threads_as_before")


def found(folder: Path, target: KnownTarget, limits: Limits, minutes: float | None = None) -> Decided:
    with Journal(folder, {}) as journal:
        deadline = Deadline(Silent(), minutes)
        return decide_adaptively(Sweep(Grid(GRID), target, journal, deadline), limits, False, None, journal, deadline)


def test_the_last_count_of_a_cliff_is_found_and_a_run_that_is_over_measures_nothing(tmp_path: Path) -> None:
    limits = Limits(keep=0.5)
    target = KnownTarget(two_cliffs, noise=0.02)
    first = found(tmp_path, target, limits)
    assert first.decision.tokens == 128 and first.decision.verdict == "prune"
    assert len(first.search.latency) <= 25 and target.prepared[0] == 197
    assert set(target.prepared) == {point.tokens for point in first.curve.points}, "only what is asked for is built"
    again = KnownTarget(two_cliffs, noise=0.02)
    second = found(tmp_path, again, limits)
    assert again.calls == [] and second.curve == first.curve and second.decision == first.decision
    assert {probe.tokens for probe in second.search.latency} == {probe.tokens for probe in first.search.latency}


def test_another_limit_in_the_same_folder_measures_only_what_it_needs(tmp_path: Path) -> None:
    found(tmp_path, KnownTarget(two_cliffs), Limits(keep=0.5))
    target = KnownTarget(two_cliffs)
    loose = found(tmp_path, target, Limits(budget_ms=8.2))
    assert loose.decision.tokens == 160
    fresh = KnownTarget(two_cliffs)
    assert found(tmp_path / "fresh", fresh, Limits(budget_ms=8.2)).decision.tokens == 160
    assert len(target.blocks()) < len(fresh.blocks())


def test_where_the_time_is_over_the_best_that_is_known_is_taken_and_said_to_be(tmp_path: Path) -> None:
    class Slow(KnownTarget):
        def time_ms(self, tokens: object, count: int) -> list[float]:
            time.sleep(0.002)
            return super().time_ms(tokens, count)  # type: ignore[arg-type]

    limits = Limits(keep=0.5)
    with pytest.raises(UserError, match=r"the 1e-06 minutes of --max-minutes were over before a reduced count"):
        found(tmp_path, Slow(two_cliffs), limits, minutes=1e-6)
    early = found(tmp_path, Slow(two_cliffs), limits, minutes=0.01)
    assert early.search.stopped and "--max-minutes" in early.search.stopped
    assert early.decision.tokens in {point.tokens for point in early.curve.points}
    assert found(tmp_path, KnownTarget(two_cliffs), limits).decision.tokens == 128  # gone on with


def test_only_what_runs_in_its_context_is_ended_by_a_deadline() -> None:
    deadline = Deadline(Silent(), 1e-9)
    deadline.advance()
    with pytest.raises(OutOfTimeError), deadline.running():
        deadline.advance()
    deadline.stage("afterwards", 1)


def test_counts_that_can_not_be_built_do_not_eat_the_search(tmp_path: Path) -> None:
    target = KnownTarget(two_cliffs)
    target.unbuilt = dict.fromkeys(range(140, 197), "out of memory")
    decided = found(tmp_path, target, Limits(keep=0.5))
    assert decided.decision.tokens == 128


def test_a_model_with_many_tokens_is_searched_to_its_end(tmp_path: Path) -> None:
    def latency(tokens: int) -> float:
        return 5.0 + 0.01 * tokens

    grid = tuple(range(1370, 136, -1))
    with Journal(tmp_path, {}) as journal:
        deadline = Deadline(Silent(), None)
        sweep = Sweep(Grid(grid), KnownTarget(latency), journal, deadline)
        decided = decide_adaptively(sweep, Limits(keep=0.3), False, None, journal, deadline)
    assert decided.decision.tokens < 0.31 * 1370 and len(decided.curve.points) <= 25


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-minutes", "1", "--search", "full"], "--max-minutes bounds an adaptive search"),
        (["--search", "adaptive", "--accuracy-grid", "full"], "--accuracy-grid full measures everywhere"),
        (["--search", "some"], "expected one of adaptive, full"),
        (["--method", "pomt,tome", "--max-minutes", "1"], "a comparison measures whole coarse grids"),
    ],
)
def test_what_does_not_go_together_is_said(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_whole_run_says_what_it_measured_and_a_plan_is_within_its_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*SIMULATED, "--max-drop", "12", "--out", str(tmp_path)]) == 0
    result = Result.load(tmp_path / "result.json")
    assert result.search and result.accuracy and result.search.kind == "adaptive"
    assert len(result.search.latency) <= 25 and len(result.search.accuracy) <= 11  # with the unreduced model
    assert result.plan.verdict == "prune" and (result.plan.drop_high or 99) <= 12
    chosen = next(point for point in result.accuracy.points if point.tokens == result.plan.tokens_out)
    assert chosen.images == 64, "the plan's own count runs on all images"
    assert "What was measured, and why" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"Searched: {len(result.search.latency) - 1} of 177 reduced counts were timed" in capsys.readouterr().out
