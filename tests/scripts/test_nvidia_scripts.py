"""nvidia_lock_clocks.sh and nvidia_restore_clocks.sh."""

from __future__ import annotations

from pathlib import Path

import boards
import pytest
from clock_scripts import (
    FAILED,
    NO_SUCH_CONTROL,
    NOT_AS_ASKED,
    NOT_PERMITTED,
    WRONG_USE,
    done,
    refusal,
    run,
    state_files,
)


def locks(board: boards.Board) -> list[tuple[bool, list[int] | None, list[int] | None]]:
    return [(gpu["persistence"], gpu["sm_lock"], gpu["memory_lock"]) for gpu in board.nvidia["gpus"]]


@pytest.mark.parametrize("persistence", [False, True])
@pytest.mark.parametrize("gpus", [1, 2])
def test_locks_every_gpu_and_restores(tmp_path: Path, gpus: int, persistence: bool) -> None:
    board = boards.make("desktop", tmp_path / "board", gpus=gpus)
    board.change_nvidia(persistence=persistence)
    before = board.snapshot()

    assert "pomt-edge clocks lock" in done(run(board, "nvidia_lock_clocks"))
    assert locks(board) == [(True, [2100, 2100], [9751, 9751])] * gpus
    done(run(board, "nvidia_lock_clocks", "--gpu-clock", "1400"))
    assert locks(board) == [(True, [1400, 1400], [9751, 9751])] * gpus

    done(run(board, "nvidia_restore_clocks"))
    assert board.snapshot() == before
    assert state_files(board) == []
    assert "Nothing to restore" in done(run(board, "nvidia_restore_clocks"))


def test_one_gpu_then_all(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board", gpus=2)
    before = board.snapshot()
    done(run(board, "nvidia_lock_clocks", "--gpu", "1"))
    assert locks(board) == [(False, None, None), (True, [2100, 2100], [9751, 9751])]
    done(run(board, "nvidia_lock_clocks"))
    done(run(board, "nvidia_restore_clocks"))
    assert board.snapshot() == before


def test_no_lock_on_memory_clocks_is_said(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board", memory_lock=False)
    before = board.snapshot()
    assert "can't lock its memory clock" in done(run(board, "nvidia_lock_clocks"))
    assert locks(board) == [(True, [2100, 2100], None)]
    done(run(board, "nvidia_restore_clocks"))
    assert board.snapshot() == before


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board", permission=False)
    before = board.snapshot()
    printed = done(run(board, "nvidia_lock_clocks", "--dry-run"))
    uuid = board.nvidia["gpus"][0]["uuid"]
    assert f"+ nvidia-smi -i {uuid} -lgc 2100,2100\n" in printed
    assert board.snapshot() == before
    assert state_files(board) == []


@pytest.mark.parametrize("persistence", [False, True])
def test_who_may_not_is_told_what_to_type(tmp_path: Path, persistence: bool) -> None:
    board = boards.make("desktop", tmp_path / "board", permission=False)
    board.change_nvidia(persistence=persistence)
    before = board.snapshot()
    error = refusal(run(board, "nvidia_lock_clocks", "--gpu-clock=1500"), NOT_PERMITTED)
    assert "type: sudo /" in error and error.endswith("--gpu-clock=1500")
    assert board.snapshot() == before
    assert state_files(board) == []


def test_refused_restore_keeps_the_state(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    before = board.snapshot()
    done(run(board, "nvidia_lock_clocks"))
    board.change_nvidia(permission=False)
    refusal(run(board, "nvidia_restore_clocks"), NOT_PERMITTED)
    board.change_nvidia(permission=True)
    done(run(board, "nvidia_restore_clocks"))
    assert board.snapshot() == before


def test_a_gpu_that_is_gone_keeps_no_other_locked(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board", gpus=3)
    before = board.snapshot()
    done(run(board, "nvidia_lock_clocks"))
    gpus = board.nvidia["gpus"]
    board.change_nvidia(gpus=gpus[1:])
    said = refusal(run(board, "nvidia_restore_clocks"), FAILED)
    state = board.path("/var/lib/pomt-edge/nvidia.clocks")
    assert gpus[0]["uuid"] in said and "No devices were found" in said and f"sudo rm {state}" in said
    assert locks(board) == [(False, None, None)] * 2
    assert state.read_text() == f"{gpus[0]['uuid']} Disabled\n"
    board.change_nvidia(gpus=[gpus[0], *board.nvidia["gpus"]])  # it is back
    done(run(board, "nvidia_restore_clocks"))
    assert board.snapshot() == before and state_files(board) == []


@pytest.mark.parametrize(
    "options", [["--gpu-clock", "fast"], ["--gpu-clock", "2400"], ["--gpu", "7"], ["--clock", "1"]]
)
def test_wrong_use(tmp_path: Path, options: list[str]) -> None:
    board = boards.make("desktop", tmp_path / "board")
    before = board.snapshot()
    assert options[1] in refusal(run(board, "nvidia_lock_clocks", *options), WRONG_USE) or options[0] == "--clock"
    assert board.snapshot() == before
    assert state_files(board) == []


def test_clock_above_the_accepted_one_is_reported(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    board.change_nvidia(ignores_locks=True, sm_idle_mhz=1800)
    assert "runs at 1800 MHz" in refusal(run(board, "nvidia_lock_clocks", "--gpu-clock", "900"), NOT_AS_ASKED)


@pytest.mark.parametrize("kind", ["vm", "agx_orin_64g"])
def test_no_such_control(tmp_path: Path, kind: str) -> None:
    board = boards.make(kind, tmp_path / "board")
    refusal(run(board, "nvidia_lock_clocks"), NO_SUCH_CONTROL)
    assert state_files(board) == []
