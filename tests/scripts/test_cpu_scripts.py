"""cpu_lock_clocks.sh and cpu_restore_clocks.sh."""

from __future__ import annotations

from pathlib import Path

import boards
import pytest
from clock_scripts import NO_SUCH_CONTROL, NOT_PERMITTED, done, refusal, run, run_not_permitted, state_files

TURBO = {
    "desktop": ("/sys/devices/system/cpu/intel_pstate/no_turbo", "1"),
    "desktop_amd": ("/sys/devices/system/cpu/cpufreq/boost", "0"),
}
LOCKED_KHZ = {"desktop": "3600000", "desktop_amd": "3700000"}


def values(board: boards.Board, name: str) -> list[str]:
    return [(folder / name).read_text().strip() for folder in board.cpufreq]


@pytest.mark.parametrize("kind", TURBO)
def test_locks_and_restores_every_value(tmp_path: Path, kind: str) -> None:
    board = boards.make(kind, tmp_path / "board")
    (board.cpufreq[1] / "scaling_governor").write_text("performance\n")  # each CPU has values of its own
    (board.cpufreq[2] / "scaling_max_freq").write_text("2600000\n")
    before = board.snapshot()

    done(run(board, "cpu_lock_clocks"))
    file, off = TURBO[kind]
    assert board.path(file).read_text().strip() == off
    assert set(values(board, "scaling_governor")) == {"performance"}
    assert {*values(board, "scaling_min_freq"), *values(board, "scaling_max_freq")} == {LOCKED_KHZ[kind]}
    locked = board.snapshot()

    done(run(board, "cpu_lock_clocks"))
    assert board.snapshot() == locked

    done(run(board, "cpu_restore_clocks"))
    assert board.snapshot() == before
    assert state_files(board) == []
    assert "Nothing to restore" in done(run(board, "cpu_restore_clocks"))


def test_boost_of_each_cpu(tmp_path: Path) -> None:
    board = boards.make("desktop_amd", tmp_path / "board")
    for folder in board.cpufreq:
        (folder / "boost").write_text("1\n")
    before = board.snapshot()
    done(run(board, "cpu_lock_clocks"))
    assert set(values(board, "boost")) == {"0"}
    done(run(board, "cpu_restore_clocks"))
    assert board.snapshot() == before


@pytest.mark.parametrize("kind", TURBO)
def test_dry_run_needs_no_permission_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    board = boards.make(kind, tmp_path / "board")
    before = board.snapshot()
    file, off = TURBO[kind]
    printed = done(run_not_permitted(board, "cpu_lock_clocks", "--dry-run"))
    assert f"+ echo {off} > {board.path(file)}\n" in printed
    assert f"+ echo performance > {board.cpufreq[0] / 'scaling_governor'}\n" in printed
    assert board.snapshot() == before
    assert state_files(board) == []


def test_who_may_not_is_told_what_to_type(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    before = board.snapshot()
    assert "type: sudo /" in refusal(run_not_permitted(board, "cpu_lock_clocks"), NOT_PERMITTED)
    assert board.snapshot() == before
    assert state_files(board) == []


def test_virtual_machine_has_no_such_control(tmp_path: Path) -> None:
    board = boards.make("vm", tmp_path / "board")
    assert "virtual" in refusal(run(board, "cpu_lock_clocks"), NO_SUCH_CONTROL)
    assert state_files(board) == []
