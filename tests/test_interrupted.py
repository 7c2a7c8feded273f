"""The command that is interrupted, killed or refused its clocks: nothing measured is lost, clocks are put back."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boards
import pytest
from processes import Running
from quick import QUICK, TAME, rows

from pomt_edge import Plan, cli
from pomt_edge.commands.common import INTERRUPTED
from pomt_edge.measure.sweep import CONFIRMATION_ROUND

pytestmark = pytest.mark.usefixtures("threads_as_before")


LOCKED_RUN = [*QUICK[:-1], "--grid-stride", "100", "--budget-ms", "1e6", "--device", "cpu", "--bs", "4"]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> boards.Board:
    """A Jetson whose clocks can be locked, below a folder."""
    made = boards.make("agx_orin_64g", tmp_path / "board", mode="30W")
    monkeypatch.setenv("PATH", made.env["PATH"])
    monkeypatch.setenv("FAKE_BOARD", str(made.root))
    return made


@pytest.fixture
def original(board: boards.Board) -> dict[str, str]:
    """What the board is like before anything is locked."""
    return board.snapshot()


def test_the_clocks_are_locked_while_measuring_and_put_back(
    board: boards.Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = board.snapshot()
    options = [*LOCKED_RUN, "--sysroot", str(board.root), "--require-locked"]
    assert cli.run([*options, "--out", str(tmp_path / "out")]) == 0
    assert "clocks: locked (power mode MAXN" in capsys.readouterr().err
    assert board.snapshot() == before
    assert ["jetson_clocks"] in board.calls()
    environment = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert environment["details"]["power_mode"] == "MAXN"
    assert environment["details"]["clocks"]["before"]["power_mode"] == "30W"

    calls = len(board.calls())
    assert cli.run([*options, "--out", str(tmp_path / "out")]) == 0
    assert len([call for call in board.calls()[calls:] if call[1:] != ["-q"]]) == 0, (
        "nothing to measure, nothing to lock"
    )
    kept = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert kept == environment, "the environment is that of the measurement"


def test_another_power_mode_is_not_mixed_into_a_run(
    board: boards.Board, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*LOCKED_RUN, "--sysroot", str(board.root), "--out", str(tmp_path / "out")]
    assert cli.run([*options, "--power-mode", "15W"]) == 0
    lines = (tmp_path / "out" / "measurements.jsonl").read_text().splitlines()
    half = [line for line in lines if '"ms"' not in line] + [line for line in lines if '"ms"' in line][:3]
    (tmp_path / "out" / "measurements.jsonl").write_text("".join(f"{line}\n" for line in half))
    assert cli.run([*options, "--power-mode", "MAXN"]) == 2
    assert "'15W'" in capsys.readouterr().err
    assert board.mode == "30W"


def test_a_lock_that_does_not_hold_is_said_and_can_be_made_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = boards.make("agx_orin_64g", tmp_path / "board", enforced=False)
    monkeypatch.setenv("PATH", made.env["PATH"])
    monkeypatch.setenv("FAKE_BOARD", str(made.root))
    before = made.snapshot()
    options = [*LOCKED_RUN, "--sysroot", str(made.root), "--out", str(tmp_path / "out")]
    assert cli.run([*options, "--require-locked"]) == 2
    assert "--require-locked: the clocks are not locked" in capsys.readouterr().err
    assert made.snapshot() == before
    assert cli.run(options) == 0
    assert "clocks: not locked" in capsys.readouterr().err and made.snapshot() == before
    assert "not locked" in (tmp_path / "out" / "report.html").read_text()


def wait_until(happened: Callable[[], bool], running: Running, said: Path) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert running.poll() is None and time.monotonic() < deadline, said.read_text()
        time.sleep(0.002)


@pytest.fixture
def locked_run(board: boards.Board, tmp_path: Path) -> Running:
    """One that has locked the clocks and measures."""
    options = [*LOCKED_RUN, "--grid-stride", "5", "--sysroot", str(board.root), "--out", str(tmp_path / "out")]
    running = Running(options, tmp_path / "said")
    journal = tmp_path / "out" / "measurements.jsonl"
    wait_until(lambda: journal.exists() and '"ms"' in journal.read_text(), running, tmp_path / "said")
    return running


def test_a_locked_run_that_is_killed_leaves_a_journal_that_puts_the_clocks_back(
    board: boards.Board, original: dict[str, str], locked_run: Running
) -> None:
    locked_run.send(signal.SIGKILL)
    assert locked_run.wait() == -signal.SIGKILL
    assert board.snapshot() != original
    assert cli.run_any(["clocks", "restore", "--sysroot", str(board.root)]) == 0
    assert board.snapshot() == original


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_a_locked_run_that_is_ended_puts_the_clocks_back(
    ending: signal.Signals, board: boards.Board, original: dict[str, str], locked_run: Running, tmp_path: Path
) -> None:
    locked_run.send(ending)
    assert locked_run.wait() == INTERRUPTED and "give the same options" in (tmp_path / "said").read_text()
    assert board.snapshot() == original


class Killed:
    """A run that is killed again and again until it is done."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.out = folder / "out"
        self.said = folder / "said"
        options = ["--grid-stride", "10", "--images", "64", "--accuracy-grid", "full", "--max-drop", "60", *TAME]
        self.words = ["--bs", "4", "--device", "sim:cpu", *options, "--out", str(self.out)]

    def measured(self) -> list[dict[str, Any]]:
        path = self.out / "measurements.jsonl"
        lines = path.read_text().split("\n")[1:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def kill_once(self, reached: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Start, and kill -9 soon after what is on disk is as wanted."""
        running = Running(self.words, self.said)
        wait_until(lambda: reached(self.measured()), running, self.said)
        time.sleep(random.uniform(0, 0.01))
        running.send(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, self.said.read_text()


def test_kill_9_at_ten_random_moments_loses_nothing_that_was_on_disk(tmp_path: Path) -> None:
    run = Killed(tmp_path / "cut")
    kept: list[dict[str, Any]] = []
    for _ in range(10):
        wanted = len(kept) + random.randint(1, 8)
        run.kill_once(lambda found, wanted=wanted: len(found) >= wanted)
        assert run.measured()[: len(kept)] == kept, "what was on disk is still there, and was not measured again"
        kept = run.measured()
    run.kill_once(lambda found: sum(entry.get("round", 0) >= CONFIRMATION_ROUND for entry in found) > 3)
    assert Running(run.words, run.said).wait() == 0, run.said.read_text()
    whole = Killed(tmp_path / "whole")
    assert Running(whole.words, whole.said).wait() == 0, whole.said.read_text()

    # The first rounds follow from the seed; the later ones from what was measured, which has another noise.
    first, second = (
        [
            (entry["round"], entry["tokens"])
            for entry in each.measured()
            if entry.get("round", 9) < 3 and not entry["frames"]
        ]
        for each in (run, whole)
    )
    assert first == second, "the same points in the same order, each once"
    assert rows(run.out / "accuracy.csv") == rows(whole.out / "accuracy.csv")
    assert sorted(os.listdir(run.out)) == sorted(os.listdir(whole.out))
    counts = [[row["tokens"] for row in rows(each.out / "curve.csv")] for each in (run, whole)]
    assert counts[0] == counts[1]
    plans = [Plan.load(each.out).to_dict() for each in (run, whole)]
    assert plans[0]["verdict"] == "prune" and plans[0]["speedup"] == pytest.approx(plans[1]["speedup"], rel=0.01)
    timed = {"baseline_ms", "predicted_ms", "speedup", "speedup_low", "speedup_high", "because"}
    assert {name: value for name, value in plans[0].items() if name not in timed} == {
        name: value for name, value in plans[1].items() if name not in timed
    }


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = Running(["--device", "cpu", *TAME, "--out", str(out)], tmp_path / "said")
    journal = out / "measurements.jsonl"
    wait_until(lambda: journal.exists() and journal.read_text().count("\n") >= 3, running, tmp_path / "said")
    running.send(signal.SIGINT)
    assert running.wait() == INTERRUPTED
    said = (tmp_path / "said").read_text()
    assert said.strip().splitlines()[-1].startswith("error: interrupted") and f"--out {out}" in said
    assert "Traceback" not in said
