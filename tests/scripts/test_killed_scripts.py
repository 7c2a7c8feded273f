"""A power cut or kill -9 between any two steps of a script: restoring puts everything back all the same."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boards
import pytest
from clock_scripts import done, run, state_files

# Bash reads this before the script: it counts every simple command, in subshells too, and ends all at the n-th.
TRACER = """
set -o functrace
trap '{{ read -r _step; }} <{counter}
echo $((_step + 1)) >{counter}
case {kill_at} in
  0) echo "$_step $BASH_COMMAND" >>{log} ;;
  $_step) kill -9 $$ $BASHPID ;;
esac' DEBUG
"""
CHANGES = re.compile(r'^\d+ (?:"\$@"|rm |mv |sync |mkdir |[^>]*> *"\$)')
"""Steps that change something, the machine or the disk: a kill anywhere between two of them is the same kill."""

STRIDE = 199
"""Of all other steps every so many are tried too."""


def traced(board: boards.Board, script: str, kill_at: int) -> tuple[int, list[str]]:
    """Exit status (-9 if it was killed) and the steps it came to."""
    folder = board.root / ".fake"
    (folder / "counter").write_text("1\n")
    (folder / "log").write_text("")
    tracer = folder / "tracer"
    tracer.write_text(TRACER.format(counter=folder / "counter", log=folder / "log", kill_at=kill_at))
    status = run(board, script, env={"BASH_ENV": str(tracer)}).returncode
    return status, [line for line in (folder / "log").read_text().splitlines() if line[:1].isdigit()]


def kill_points(steps: list[str]) -> list[int]:
    changing = [int(step.split()[0]) for step in steps if CHANGES.match(step)]
    # The many CPUs of a desktop are set one like the other.
    thinned = changing[6:-5:3] if len(changing) > 25 else changing
    return sorted({*changing[:6], *thinned, *changing[-5:], *range(1, len(steps), STRIDE)})


def copy(board: boards.Board, root: Path) -> boards.Board:
    shutil.copytree(board.root, root)
    return boards.Board(root)


BOARDS = {
    "jetson": ("orin_nano_super", {"pinned": True}),
    "cpu": ("desktop_amd", {}),
    "nvidia": ("desktop", {"gpus": 2}),
}


@pytest.mark.parametrize("killed", ["lock", "restore"])
@pytest.mark.parametrize("what", BOARDS)
def test_restores_after_a_kill_at_any_step(tmp_path: Path, what: str, killed: str) -> None:
    lock, restore, script = (f"{what}_{verb}_clocks" for verb in ("lock", "restore", killed))
    kind, options = BOARDS[what]
    start = boards.make(kind, tmp_path / "start", **options)
    original = start.snapshot()
    if killed == "restore":
        done(run(start, lock))
    whole, steps = traced(copy(start, tmp_path / "whole"), script, kill_at=0)
    assert whole == 0

    def changed_when_killed(point: int) -> bool:
        board = copy(start, tmp_path / f"{point}")
        status, _ = traced(board, script, kill_at=point)
        assert status == -9, point
        changed = board.snapshot() != original
        locked_again = copy(board, tmp_path / f"{point}-again")
        done(run(locked_again, lock))
        for each in (board, locked_again):
            done(run(each, restore))
            assert each.snapshot() == original, f"{script} killed before: {steps[point - 1]}"
            assert all(name.endswith(".new") for name in state_files(each))
        return changed

    with ThreadPoolExecutor(2) as pool:
        changed = set(pool.map(changed_when_killed, kill_points(steps)))
    assert changed == {True, False}  # kills came before, between and after the changes
