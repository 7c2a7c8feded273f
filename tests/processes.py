"""Commands in processes of their own, which can be interrupted and killed, without the seconds that imports take.

A server imports the package once, and each command is a fork of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pomt_edge import cli

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pomt_edge.offline", "pomt_edge.targets.local"])
ROOT = Path(__file__).parents[1]


def _command(words: Sequence[str], environment: dict[str, str], said: str) -> None:
    os.chdir(ROOT)
    os.environ.clear()
    os.environ |= environment
    for stream in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.exit(cli.run(words))


class Running:
    """`offline_compute` with some words, in the environment of now; what it prints goes to the end of a file."""

    def __init__(self, words: Sequence[str], said: Path) -> None:
        self._process = FORKS.Process(target=_command, args=(list(words), dict(os.environ), str(said)), daemon=True)
        self._process.start()

    def poll(self) -> int | None:
        """The exit code once it has ended; that of a signal is negative."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        pid = self._process.pid
        if pid and self.poll() is None:
            os.kill(pid, number)

    def wait(self) -> int:
        self._process.join(300)
        code = self.poll()
        assert code is not None, "it runs on and on"
        return code
