"""jetson_lock_clocks.sh and jetson_restore_clocks.sh on every Jetson."""

from __future__ import annotations

from pathlib import Path

import boards
import pytest
from clock_scripts import (
    FAILED,
    NEEDS_REBOOT,
    NO_SUCH_CONTROL,
    NOT_AS_ASKED,
    NOT_PERMITTED,
    WRONG_USE,
    done,
    refusal,
    run,
    run_not_permitted,
    state_files,
)

BEST_MODE = {
    "tx2": "MAXN",
    "xavier_nx": "MODE_20W_6CORE",
    "agx_xavier": "MAXN",
    "agx_orin_64g": "MAXN",
    "agx_orin_32g": "MAXN",
    "orin_nano": "15W",
    "orin_nano_super": "MAXN_SUPER",
}


def clocks(board: boards.Board) -> set[str]:
    """min, max and current of the GPU and of every CPU: one value per domain if all are pinned."""
    gpu = {(board.devfreq / name).read_text().strip() for name in ("min_freq", "max_freq", "cur_freq")}
    cpu = {
        (folder / name).read_text().strip()
        for folder in board.cpufreq
        for name in ("scaling_min_freq", "scaling_max_freq", "cpuinfo_cur_freq")
    }
    return gpu | cpu


def order(board: boards.Board) -> list[str]:
    """The calls, with the names of files alone."""
    return [" ".join([call[0], *(Path(word).name for word in call[1:])]) for call in board.calls()]


@pytest.mark.parametrize("pinned", [False, True], ids=["free", "pinned_before"])
@pytest.mark.parametrize("kind", boards.JETSONS)
def test_locks_the_best_mode_and_restores_every_fact(tmp_path: Path, kind: str, pinned: bool) -> None:
    board = boards.make(kind, tmp_path / "board", pinned=pinned)
    before = board.snapshot()

    printed = done(run(board, "jetson_lock_clocks"))
    assert board.mode == BEST_MODE[kind]
    assert BEST_MODE[kind] in printed
    assert len(clocks(board)) == 2  # the GPU's and the CPUs'
    locked = board.snapshot()

    done(run(board, "jetson_lock_clocks"))
    assert board.snapshot() == locked

    done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() == before
    assert state_files(board) == []

    assert "Nothing to restore" in done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() == before


def test_order_of_the_tools(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", mode="30W")
    done(run(board, "jetson_lock_clocks"))
    assert order(board) == [
        "nvpmodel -q",
        "sync jetson.mode.new",
        "sync pomt-edge",
        "jetson_clocks --store jetson.clocks-before.new",
        "sync jetson.clocks-before.new",
        "sync pomt-edge",
        "nvpmodel -m 0",
        "nvpmodel -q",
        "jetson_clocks --store jetson.clocks-in-mode.new",
        "sync jetson.clocks-in-mode.new",
        "sync pomt-edge",
        "jetson_clocks",
    ]
    locking = len(board.calls())

    done(run(board, "jetson_restore_clocks"))
    assert order(board)[locking:] == [
        "jetson_clocks --restore jetson.clocks-in-mode",
        "nvpmodel -q",
        "nvpmodel -m 2",
        "nvpmodel -q",
        "jetson_clocks --restore jetson.clocks-before",
        "sync pomt-edge",
    ]


@pytest.mark.parametrize("kind", boards.JETSONS)
def test_dry_run_prints_and_changes_nothing(tmp_path: Path, kind: str) -> None:
    board = boards.make(kind, tmp_path / "board")
    before = board.snapshot()
    printed = done(run_not_permitted(board, "jetson_lock_clocks", "--dry-run"))
    assert board.snapshot() == before
    assert state_files(board) == []
    assert "+ jetson_clocks\n" in printed
    if board.mode != BEST_MODE[kind]:
        mode_id = next(mode["id"] for mode in board.facts["modes"] if mode["name"] == BEST_MODE[kind])
        assert f"+ nvpmodel -m {mode_id}\n" in printed


def test_dry_run_of_restore_changes_nothing(tmp_path: Path) -> None:
    board = boards.make("agx_xavier", tmp_path / "board")
    done(run(board, "jetson_lock_clocks"))
    locked, kept = board.snapshot(), state_files(board)
    assert "+ nvpmodel -m 2\n" in done(run(board, "jetson_restore_clocks", "--dry-run"))
    assert board.snapshot() == locked
    assert state_files(board) == kept


@pytest.mark.parametrize(
    ("kind", "asked", "mode"),
    [
        ("xavier_nx", "15W_2core", "MODE_15W_2CORE"),
        ("xavier_nx", "MODE_10W_DESKTOP", "MODE_10W_DESKTOP"),
        ("agx_orin_64g", "mode_50w", "50W"),
        ("orin_nano", "7w", "7W"),
        ("agx_xavier", "current", "MODE_15W"),
    ],
)
def test_mode_by_its_name(tmp_path: Path, kind: str, asked: str, mode: str) -> None:
    board = boards.make(kind, tmp_path / "board")
    before = board.snapshot()
    done(run(board, "jetson_lock_clocks", "--mode", asked))
    assert board.mode == mode
    assert board.pinned
    done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() == before


@pytest.mark.parametrize("asked", ["50W", "0", "MAXNN"])
def test_unknown_mode_lists_the_known_ones(tmp_path: Path, asked: str) -> None:
    board = boards.make("agx_orin_32g", tmp_path / "board")
    before = board.snapshot()
    error = refusal(run(board, "jetson_lock_clocks", f"--mode={asked}"), WRONG_USE)
    assert "MAXN 15W 30W 40W" in error
    assert board.snapshot() == before
    assert state_files(board) == []


def test_another_mode_while_locked_keeps_the_first_state(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", mode="30W", pinned=True)
    before = board.snapshot()
    for mode in ("MAXN", "15W", "30W", "50W"):
        done(run(board, "jetson_lock_clocks", "--mode", mode))
        assert board.mode == mode
        assert board.pinned
    done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() == before


def test_declined_reboot_changes_nothing(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", reboot_modes=["15W"])
    before = board.snapshot()
    error = refusal(run(board, "jetson_lock_clocks", "--mode", "15W"), NEEDS_REBOOT)
    assert "sudo nvpmodel -m 1" in error
    assert not board.rebooted
    assert board.snapshot() == before
    assert state_files(board) == []


def test_mode_that_fails_half_way_can_be_undone(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", pinned=True)
    before = board.snapshot()
    whole = (board.bin / "nvpmodel").read_text()
    half = f"#!/bin/sh\n[ $1 = -q ] && echo 'NV Power Mode: 30W' && exit\necho 306000000 > {board.devfreq}/min_freq\n"
    (board.bin / "nvpmodel").write_text(half + "echo 'NVPM ERROR: optMask is 2'\nexit 1\n")
    assert "optMask" in refusal(run(board, "jetson_lock_clocks"), FAILED)
    assert board.snapshot() != before
    (board.bin / "nvpmodel").write_text(whole)
    done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() == before


def test_reboot_declined_on_the_way_back_keeps_the_state(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", mode="15W")
    before = board.snapshot()
    done(run(board, "jetson_lock_clocks"))
    board.change(reboot_modes=["15W"])
    error = refusal(run(board, "jetson_restore_clocks"), NEEDS_REBOOT)
    assert "sudo nvpmodel -m 1" in error
    assert not board.rebooted
    assert not board.pinned

    board.change(reboot_modes=[])  # the user has rebooted
    done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() == before


def test_lock_that_is_not_enforced_is_reported(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", enforced=False)
    before = board.snapshot()
    error = refusal(run(board, "jetson_lock_clocks"), NOT_AS_ASKED)
    assert f"GPU at {(board.devfreq / 'cur_freq').read_text().strip()} Hz" in error
    assert "cpu0 at" in error
    done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() == before


def test_who_may_not_is_told_what_to_type(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", root_needed=True)
    before = board.snapshot()
    error = refusal(run_not_permitted(board, "jetson_lock_clocks", "--mode", "50W"), NOT_PERMITTED)
    assert error.endswith(f"/jetson_lock_clocks.sh --sysroot {board.root} --mode 50W")
    assert "type: sudo /" in error
    assert board.snapshot() == before
    assert state_files(board) == []


def test_jetson_clocks_that_cannot_store_changes_nothing(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    (board.bin / "jetson_clocks").write_text("#!/bin/sh\necho 'Error: no such board'\nexit 1\n")
    before = board.snapshot()
    assert "no such board" in refusal(run(board, "jetson_lock_clocks"), FAILED)
    assert board.snapshot() == before
    assert state_files(board) == []


def test_who_may_not_restore_is_told_what_to_type(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    done(run(board, "jetson_lock_clocks"))
    locked, kept = board.snapshot(), state_files(board)
    assert "type: sudo /" in refusal(run_not_permitted(board, "jetson_restore_clocks"), NOT_PERMITTED)
    assert board.snapshot() == locked
    assert state_files(board) == kept


@pytest.mark.parametrize("kind", boards.PCS)
def test_what_is_no_jetson(tmp_path: Path, kind: str) -> None:
    board = boards.make(kind, tmp_path / "board")
    for script in ("jetson_lock_clocks", "jetson_restore_clocks"):
        assert "no Jetson" in refusal(run(board, script), NO_SUCH_CONTROL)


def test_state_goes_where_it_is_told(tmp_path: Path) -> None:
    board = boards.make("tx2", tmp_path / "board")
    before = board.snapshot()
    elsewhere = str(tmp_path / "with space")
    done(run(board, "jetson_lock_clocks", "--state-dir", elsewhere))
    assert "Nothing to restore" in done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() != before
    done(run(board, "jetson_restore_clocks", f"--state-dir={elsewhere}"))
    assert board.snapshot() == before


def test_the_modes_are_found_by_an_absolute_link(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    before = board.snapshot()
    conf = board.path("/etc/nvpmodel.conf")
    conf.rename(conf.with_name("nvpmodel_p3701_0000.conf"))
    conf.symlink_to("/etc/nvpmodel_p3701_0000.conf")
    done(run(board, "jetson_lock_clocks"))
    assert board.mode == "MAXN"
    done(run(board, "jetson_restore_clocks"))
    assert board.snapshot() == before
