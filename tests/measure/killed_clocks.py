"""Kill -9 a command between every two steps that change the world, restore, and compare the board with before.

Called with a kind of board, a folder, 'lock' or 'restore', and options of `pomt-edge clocks lock`; prints how many
places there were, or what differed. Each command is a fork of this process, which saves the start of Python.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boards

from pomt_edge import cli
from pomt_edge.measure import clocks  # noqa: F401 - imported before the forks

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.truncate", "subprocess.Popen", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def kill_at(place: int, root: Path) -> None:
    """From now on this process kills itself before the so-manieth change."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and arguments[2] & WRITING and str(arguments[0]).startswith(str(root))
        if writes or event in CHANGES:
            seen += 1
            if seen == place:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def command(arguments: Sequence[str], root: Path, kill_place: int = 0) -> int:
    """The exit code of `pomt-edge clocks …` in a process of its own; -9 if it was killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        if kill_place:
            kill_at(kill_place, root)
        code = cli.run_any(["clocks", *arguments, "--sysroot", str(root)])
    if arguments == ["restore"] and code:
        print(said.getvalue(), file=sys.stderr, flush=True)
    os._exit(code)


def main(kind: str, folder: Path, killed: str, options: Sequence[str]) -> int:
    if "cuda:0" in options:
        importlib.import_module("torch")  # once, and not in each fork
    root = folder / "board"
    template = folder / "template"
    board = boards.make(kind, root)
    os.environ |= board.env
    before = board.snapshot()
    if killed == "restore":
        command(["lock", *options], root)
        assert board.snapshot() != before
    root.rename(template)
    arguments = ["lock", *options] if killed == "lock" else ["restore"]
    place, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        place += 1
        assert place < 200
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)
        code = command(arguments, root, place)
        restored = command(["restore"], root)
        after = board.snapshot()
        if restored != 0 or after != before:
            changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
            print(f"killed at {place}: restore gave {restored}, different: {sorted(changed)}")
            return 1
        state = root / "var/lib/pomt-edge"
        stray = {file.name for file in state.glob("*")} - {"clocks.lock"}
        if stray:
            print(f"killed at {place}: left {stray}")
            return 1
    print(place - 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
