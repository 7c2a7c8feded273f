"""`pomt-edge record`: a run becomes a device that anyone can measure again."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from pomt_edge import cli
from pomt_edge.records import Plan, Result, ScheduleSearch, TriedSchedule

STEADY_MS = {197: 10.0, 110: 7.0, 22: 4.0}

pytestmark = pytest.mark.usefixtures("threads_as_before")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the demo on this CPU, whose samples are those of a device as steady as `STEADY_MS`."""
    out = tmp_path_factory.mktemp("run") / "out"
    words = "--bs 4 --grid-start 110 --grid-stop 22 --grid-stride 88 --point-seconds 0.3 --images 20 --max-drop 95"
    assert cli.run([*words.split(), "--no-lock", "--threads", "1", "--device", "cpu", "--out", str(out)]) in (0, 1)
    journal = out / "measurements.jsonl"
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    random = np.random.default_rng(0)
    for entry in entries:
        if "ms" in entry:
            entry["ms"] = list(random.normal(STEADY_MS[entry["tokens"]], 0.02, len(entry["ms"])))
    journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return out


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "pomt-edge" / "recordings"


def record(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    capsys.readouterr()
    code = cli.run_any(["record", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_command_that_is_shown_replays_the_run_and_chooses_by_what_was_recorded(
    run: Path, tmp_path: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = record(capsys, run, "my_cpu")
    assert code == 0 and not err
    said, shown = out.splitlines()
    result = Result.load(run / "result.json")
    samples = sum(point.samples for point in result.curve.points)
    assert f"{samples} samples of 3 counts, in {library / 'my_cpu.json'}" in said
    assert said.startswith("demo, batch 4, fp32 on ")
    command = shlex.split(shown.removeprefix("To replay it: "))
    assert command[:3] == ["offline_compute", "--device", "recorded:my_cpu"]
    again = tmp_path / "again"
    assert cli.run([*command[1:], "--images", "20", "--point-seconds", "0.3", "--out", str(again)]) == 0
    replayed = Plan.load(again)
    assert (replayed.verdict, replayed.tokens_out, replayed.removed) == ("prune", 22, 175)
    assert replayed.origin == "recorded" and replayed.device == "recorded:my_cpu"
    curve = {point.tokens: point.median_ms for point in Result.load(again / "result.json").curve.points}
    assert curve == pytest.approx(STEADY_MS, rel=0.01)
    assert replayed.speedup == pytest.approx(2.5, rel=0.01)
    assert "Recorded" in (again / "report.html").read_text()
    # What was replayed is no measurement, and does not become one.
    code, _, err = record(capsys, again, "second_hand")
    assert code == 2 and "is recorded: a recording is made of a run that measured a device" in err


def test_a_plan_of_several_blocks_is_replayed_by_the_counts_of_the_block_that_was_swept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where what was searched happens to be even."""
    result = Result.load(run / "result.json")
    plan = result.plan
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "measurements.jsonl").write_text((run / "measurements.jsonl").read_text())
    for counts in ({1: 20, 5: 20}, {1: 20, 5: 40}):
        schedule = tuple(counts.get(block, 0) for block in range(12))
        removed = sum(schedule)
        taken = dataclasses.replace(plan, schedule=schedule, removed=removed, tokens_out=197 - removed, block=1)
        search = ScheduleSearch(plan, "faster", None, schedule, (TriedSchedule(schedule, 1.0),))
        dataclasses.replace(result, plan=taken, schedules=search).save(tmp_path / "run" / "result.json")
        code, out, _ = record(capsys, tmp_path / "run", "my_cpu")
        assert code == 0 and "--block 3 " in out and "auto" not in out
        assert "its counts are those of block 3 alone" in out


def test_a_plan_is_checked_on_its_recording(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = record(capsys, run, "my_cpu", "--json")
    found = json.loads(out)
    assert code == 0 and found["device"] == "recorded:my_cpu" and found["tokens"] == [197, 110, 22]
    assert found["samples"] > 20 and Path(found["file"]).is_file() and found["next"].startswith("offline_compute ")
    assert cli.run_any(["check", "--plan", str(run), "--device", "recorded:my_cpu", "--json"]) in (0, 1)
    checked = json.loads(capsys.readouterr().out)
    tokens = Plan.load(run).tokens_out
    assert checked["origin"] == "recorded" and checked["tokens"] == tokens
    assert checked["ms"] == pytest.approx(STEADY_MS[tokens], rel=0.01)


def test_what_is_wrong_is_one_line_and_nothing_is_written(
    run: Path, tmp_path: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        ((tmp_path / "none", "name"), "expected the folder of a finished run"),
        ((run, "My CPU"), "expected lower-case letters"),
        ((run, "h200"), "the package's own recording"),
        ((run,), "(see pomt-edge record --help)"),
    ):
        code, out, err = record(capsys, *words)
        assert code == 2 and not out and said in err and err.count("\n") == 1
    assert not library.exists()
