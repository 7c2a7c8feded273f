"""`--blocks auto` as a user types it, on the embedded demo and a simulated device."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick import SIMULATED

from pomt_edge import Plan, cli, demo, reduce_model, schedule_costs, schedules
from pomt_edge.choose import staircase
from pomt_edge.job import Job, prepare
from pomt_edge.measure import datasets
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.answers import BATCH, Batch
from pomt_edge.measure.forwards import Forward
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.measure.sweep import Grid, Sweep
from pomt_edge.records import Kept, Result, ScheduleSearch
from pomt_edge.reduce.reduced_model import ReducedModel
from pomt_edge.request import Request

pytestmark = pytest.mark.usefixtures("threads_as_before")

SEARCH = ["--bs", "4", *SIMULATED, "--images", "24", "--blocks", "auto"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run within a limit that 24 images can prove."""
    out = tmp_path_factory.mktemp("searched") / "out"
    assert cli.run([*SEARCH, "--max-drop", "20", "--out", str(out)]) == 0
    return out


def test_the_schedule_is_within_the_limit_and_surely_faster_than_one_block(searched: Path) -> None:
    result = Result.load(searched / "result.json")
    plan, search = result.plan, result.schedules
    assert search is not None and plan.schedule == search.chosen and plan == Plan.load(searched)
    assert sum(removed > 0 for removed in plan.schedule) > 1
    assert plan.drop_high is not None and plan.drop_high <= 20
    assert search.ratio_low is not None and search.ratio_low > 1 and plan.speedup > search.single.speedup
    assert plan.speedup == pytest.approx(plan.baseline_ms / plan.predicted_ms)
    assert plan.block == next(block for block, removed in enumerate(plan.schedule) if removed)
    assert search.single.verdict == "prune" and search.single.schedule[3] == search.single.removed
    chosen = result.searched
    assert chosen is not None and chosen.latency is not None and chosen.accuracy is not None
    assert chosen.latency.median_ms == plan.predicted_ms and chosen.accuracy.images == 24
    assert search.error_percent is not None and search.error_percent < 3
    assert [cost.tokens_per_block[-1] for cost in result.costs] == [197, plan.tokens_out]


def test_a_finished_search_measures_nothing_twice(searched: Path) -> None:
    journal, plan = (searched / "measurements.jsonl").read_text(), Plan.load(searched)
    assert cli.run([*SEARCH, "--max-drop", "20", "--out", str(searched)]) == 0
    assert (searched / "measurements.jsonl").read_text() == journal
    assert Plan.load(searched) == plan


def test_a_search_goes_on_where_it_was_interrupted(searched: Path, tmp_path: Path) -> None:
    """From a journal that was cut off in the middle of what each block bears, and of the accuracy of schedules."""
    lines = (searched / "measurements.jsonl").read_text().splitlines(keepends=True)
    cuts = [place for place, line in enumerate(lines) if '"schedules"' in line or '"accuracy_tokens": [' in line]
    cut = cuts[len(cuts) // 2] + 1
    (tmp_path / "measurements.jsonl").write_text("".join(lines[:cut]))
    assert cli.run([*SEARCH, "--max-drop", "20", "--out", str(tmp_path)]) == 0
    entries = [json.loads(line) for line in (tmp_path / "measurements.jsonl").read_text().splitlines()]
    assert sum("sensitivity" in entry for entry in entries) == 1
    asked = [json.dumps([entry["accuracy_tokens"], entry["first"]]) for entry in entries if "accuracy_tokens" in entry]
    assert len(set(asked)) == len(asked)
    assert Plan.load(tmp_path).schedule == Plan.load(searched).schedule


def test_the_plan_makes_the_model_and_the_commands_take_it(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan.load(searched)
    reduced = reduce_model(demo.build_model(), plan)
    assert isinstance(reduced, ReducedModel) and reduced.schedule == plan.schedule
    capsys.readouterr()
    assert cli.run_any(["check", "--plan", str(searched), "--device", "sim:cpu"]) == 0
    assert f"{plan.speedup:.2f}x the speed of all 197 (promised: {plan.speedup:.2f}x)" in capsys.readouterr().out


def test_page_and_console_hold_it_against_one_block(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.run([*SEARCH, "--max-drop", "20", "--out", str(searched)]) == 0
    plan, search = Plan.load(searched), Result.load(searched / "result.json").schedules
    assert search is not None
    listed = ",".join(map(str, plan.schedule))
    told = capsys.readouterr().out
    assert f"Schedule {listed} is {search.ratio:.2f}x as fast as R={search.single.removed} in block 3 alone" in told
    assert f"{plan.speedup:.2f}x faster" in told and f"against {search.single.speedup:.2f}x faster" in told
    page = (searched / "report.html").read_text()
    assert page.count(listed) >= 2 and f"{search.single.speedup:.2f}" in page
    blocks = [f"{block} ({removed})" for block, removed in enumerate(plan.schedule) if removed]
    assert f"tokens in blocks {', '.join(blocks[:-1])} and {blocks[-1]}:" in page


def test_where_no_schedule_is_within_the_limit_the_plan_of_one_block_stands(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(searched, tmp_path / "out")
    capsys.readouterr()
    assert cli.run([*SEARCH, "--max-drop", "0", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "Several blocks: No schedule" in told and "surely within 0 points" in told and "Do not prune:" in told
    result = Result.load(tmp_path / "out" / "result.json")
    search = result.schedules
    assert search is not None and search.chosen is None and search.tried and result.searched is None
    assert result.plan == search.single and result.plan.verdict == "keep" and not any(result.plan.schedule)


def test_what_the_budget_allows_is_no_less_accurate_than_one_block(searched: Path, tmp_path: Path) -> None:
    """Another limit where a run has finished: nothing that was measured is lost."""
    shutil.copytree(searched, tmp_path / "out")
    budget = 0.9 * Plan.load(searched).baseline_ms
    limits = ["--budget-ms", str(budget), "--keep", "0.4"]
    assert cli.run([*SEARCH, *limits, "--out", str(tmp_path / "out")]) == 0
    result = Result.load(tmp_path / "out" / "result.json")
    search = result.schedules
    assert search is not None and result.plan.predicted_ms <= budget
    single = search.single
    assert result.plan.drop is not None and single.drop is not None and result.plan.drop <= single.drop
    assert any(one.latency and one.latency.high_ms <= budget and one.accuracy for one in search.tried)
    assert all(197 - sum(one.schedule) >= 0.4 * 197 for one in search.tried)
    journal, plan = (tmp_path / "out" / "measurements.jsonl").read_text(), (tmp_path / "out" / "plan.json").read_text()
    assert cli.run([*SEARCH, *limits, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "measurements.jsonl").read_text() == journal
    assert (tmp_path / "out" / "plan.json").read_text() == plan


class Tiring:
    """A simulated device on which a schedule gets slower behind so many of its blocks."""

    def __init__(self, target: Any, from_block: int) -> None:
        self._target = target
        self._from_block = from_block
        self._blocks: Counter[Kept] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def time_ms(self, tokens: Kept, count: int) -> list[float]:
        self._blocks[tokens] += count > 1
        tired = not isinstance(tokens, int) and self._blocks[tokens] > self._from_block
        return [(1.2 if tired else 1.0) * ms for ms in self._target.time_ms(tokens, count)]


class Budgeted:
    """The search of a schedule in a budget that one block meets, with answers whose losses are known."""

    def __init__(self, folder: Path, single: Plan, tired_from: int = sys.maxsize) -> None:
        words = {"grid_stride": 35, "grid_stop": 22, "threads": 1, "lock": False, "images": 8, "block": "auto"}
        job = prepare(Request(device="sim:cpu", batch_size=4, budget_ms=1.0, **words), Silent())  # type: ignore[arg-type]
        self.journal = Journal(folder, {})
        self.sweep = Sweep(Grid(job.tokens), Tiring(job.target, tired_from), self.journal, Silent())
        self.curve = self.sweep.run()
        self.single = single
        budget_ms = 1.001 * self.curve.at(single.tokens_out).high_ms
        self.job = dataclasses.replace(job, request=dataclasses.replace(job.request, budget_ms=budget_ms))

    def search(self, folder: Path, lost_by_one_block: int, lost_by_schedules: int) -> tuple[Plan, ScheduleSearch]:
        """Of the images, both lose the first so many."""
        lost = {197: 0, self.single.tokens_out: lost_by_one_block}

        def forwards(kept: Kept) -> Forward:
            def answers(batch: Batch) -> np.ndarray[Any, Any]:
                wrong = BATCH * batch.number + np.arange(len(batch.pixels)) < lost.get(kept, lost_by_schedules)
                return np.stack([~wrong, wrong], axis=1).astype(float)

            return answers

        images = datasets.read_demo(96, 0, labelled=False)
        accuracy = Accuracy(images, self.job.preprocessing, forwards, 197, Journal(folder, {}), Silent())
        measuring = schedules.Measuring(self.sweep, accuracy, self.journal, Silent())
        return schedules.search(self.job, measuring, staircase.fit(self.curve), self.single)


@pytest.fixture(scope="module")
def single(searched: Path) -> Plan:
    search = Result.load(searched / "result.json").schedules
    assert search is not None
    return search.single


def test_in_a_budget_the_losses_are_compared_image_by_image(single: Plan, tmp_path: Path) -> None:
    """What both lose tells nothing: of 9 and 3 images lost 6 are for sure more, though the intervals overlap."""
    budgeted = Budgeted(tmp_path / "run", single)
    plan, search = budgeted.search(tmp_path / "sure", lost_by_one_block=9, lost_by_schedules=3)
    assert plan.schedule == search.chosen and "6.2 points more" in search.because
    plan, search = budgeted.search(tmp_path / "unsure", lost_by_one_block=5, lost_by_schedules=3)
    assert plan == single and search.chosen is None and "not surely more accurate" in search.because


def test_schedules_that_turn_out_slower_say_nothing_of_the_others(single: Plan, tmp_path: Path) -> None:
    budgeted = Budgeted(tmp_path / "run", single, tired_from=5)
    plan, search = budgeted.search(tmp_path / "answers", lost_by_one_block=9, lost_by_schedules=3)
    assert (
        plan == single
        and f"schedules measured side by side none is surely within {budgeted.job.request.budget_ms:g} ms"
        in search.because
    )


def test_what_is_foreseen_follows_from_the_counts_that_the_limits_leave(single: Plan, tmp_path: Path) -> None:
    budgeted = Budgeted(tmp_path, single)
    other = dataclasses.replace(budgeted.job, request=dataclasses.replace(budgeted.job.request, budget_ms=2.0))

    def counts(job: Job, efficient: tuple[int, ...]) -> tuple[int, ...]:
        found = schedule_costs.foresee(job, budgeted.sweep, budgeted.journal, Silent(), efficient)
        assert found is not None
        left = {197 - sum(one.schedule[: block + 1]) for one in found.family for block in range(8)}
        assert left <= set(efficient) and found.costs.losses.shape == (8, len(efficient))
        return found.costs.model.counts

    assert counts(budgeted.job, (197, 127, 57, 22)) == (197, 127, 57, 22)
    assert counts(other, (197, 162, 92, 22)) == (197, 162, 92, 22)
    assert sum("sensitivity" in entry for entry in budgeted.journal.entries) == 1
    before = len(budgeted.journal.entries)
    assert counts(budgeted.job, (197, 127, 57, 22)) == (197, 127, 57, 22)
    assert len(budgeted.journal.entries) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "deit_tiny"], "weighs latency against accuracy; give --data DIR as well, or --block 3"),
        (["--device", "recorded:h200"], "a recording has one block"),
        (["--probe", "input"], "leave one out"),
        (["--method", "all"], "is for one method on one engine"),
        (["--alpha", "0.5"], "give --max-drop or --budget-ms, not --alpha"),
        (["--detrend"], "leave one out"),
    ],
)
def test_what_can_not_be_searched_with_is_said(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*words, "--blocks", "auto", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --blocks auto ") and message in line
    assert not (tmp_path / "out").exists()
