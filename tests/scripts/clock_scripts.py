"""Run the clock scripts on fake boards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from boards import Board, open_to_all

SCRIPTS = Path(__file__).parents[2] / "scripts"
FAILED, WRONG_USE, NOT_PERMITTED, NO_SUCH_CONTROL, NEEDS_REBOOT, NOT_AS_ASKED = 1, 2, 3, 4, 5, 6
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def run(
    board: Board, script: str, *options: str, env: dict[str, str] | None = None, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """A script by its name without the ending, such as 'jetson_lock_clocks', on a board's tree."""
    return subprocess.run(
        [*prefix, str(SCRIPTS / f"{script}.sh"), "--sysroot", str(board.root), *options],
        env=board.env | (env or {}),
        # Whoever reads here finds consent to everything: no question may be answered.
        input="YES\nY\n" * 20,
        capture_output=True,
        text=True,
        timeout=60,
    )


def run_not_permitted(board: Board, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """As a user who may read the board and not change it."""
    open_to_all(board)
    if os.geteuid() != 0:
        for path in (board.root / "sys").rglob("*"):
            path.chmod(path.stat().st_mode & ~0o222)
        return run(board, script, *options)
    copy = board.root / "scripts"  # where that user can reach them
    shutil.copytree(SCRIPTS, copy, dirs_exist_ok=True)
    return run(board, script, *options, prefix=(*NOBODY, "bash", "-c", 'exec "$0" "$@"'))


def done(result: subprocess.CompletedProcess[str]) -> str:
    """What a script printed that must have succeeded."""
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def refusal(result: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line with which a script must have refused."""
    assert result.returncode == status, result.stdout + result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def state_files(board: Board) -> list[str]:
    """What the scripts keep on disk."""
    folder = board.path("/var/lib/pomt-edge")
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
