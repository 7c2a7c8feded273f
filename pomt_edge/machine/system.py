"""Reach the machine: files below a root, programs on PATH, NVML. Everything that reads or sets hardware goes here."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomt_edge.machine.interrupts import deferred

TIMEOUT_S = 60.0
MOST_LINKS = 40
"""As many symbolic links as Linux follows in one path."""
ADMIN_FOLDERS = ("/usr/sbin", "/sbin")
"""Where nvpmodel and its like are; neither cron nor a plain user has them on PATH."""


@dataclass(frozen=True)
class Finished:
    """A program that ran: its exit status (127: no such program, 124: it hung) and what it printed."""

    status: int
    output: str
    """Standard output and error together, stripped."""


@dataclass(frozen=True)
class System:
    """One machine; `root` is another than / where the machine's own files are mounted elsewhere (a container)."""

    root: Path = Path("/")

    def path(self, path: str) -> Path:
        """Where an absolute path such as '/sys/class/hwmon' is to be found; a link in it means what it does there."""
        if self.root == Path("/"):
            return Path("/", path.lstrip("/"))
        return self._below_root(path)

    def glob(self, pattern: str) -> list[Path]:
        """Files that match an absolute pattern such as '/sys/class/hwmon/hwmon*/oc*_event_cnt', sorted."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def run(self, command: Sequence[str]) -> Finished:
        """Run a program without a terminal and without input, so that none of its questions is ever answered."""
        environment = os.environ | {"LC_ALL": "C", "PATH": _search_path()}
        try:
            # Between its start and our knowing of it a program could not be waited for, and would act behind our back.
            with deferred():
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    env=environment,
                    # Its own session: Ctrl-C in the terminal reaches us alone, and no question finds a terminal.
                    start_new_session=True,
                    # A file that was made inheritable is meant to outlive us in the program, such as a lock.
                    close_fds=False,
                )
        except FileNotFoundError:
            return Finished(127, f"{command[0]}: not found")
        except OSError as error:
            return Finished(126, f"{command[0]}: {error.strerror}")
        with process:
            try:
                output, _ = process.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                return Finished(124, f"{command[0]}: no end after {TIMEOUT_S:g} s")
            except BaseException:
                process.kill()
                raise
        return Finished(process.returncode, output.strip())

    def has_program(self, name: str) -> bool:
        return shutil.which(name, path=_search_path()) is not None

    def _below_root(self, path: str) -> Path:
        """The kernel would follow an absolute link, as /etc/nvpmodel.conf is one, out of the machine's own tree."""
        found, ahead, links = self.root, path.split("/"), 0
        while ahead:
            name, *ahead = ahead
            if name in ("", "."):
                continue
            if name == "..":
                found = found if found == self.root else found.parent
            elif links < MOST_LINKS and os.path.islink(found / name):
                links += 1
                target = os.readlink(found / name)
                found, ahead = self.root if target.startswith("/") else found, target.split("/") + ahead
            else:
                found = found / name
        return found


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *ADMIN_FOLDERS])


def read(path: Path) -> str | None:
    """A small file's text, stripped; None if it is absent or can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()
    except OSError:
        return None


def read_number(path: Path) -> int | None:
    """A file that holds one integer; None if it is absent, can't be read or holds something else."""
    text = read(path)
    with contextlib.suppress(TypeError, ValueError):
        return int(text)  # type: ignore[arg-type]
    return None


def write(path: Path, text: str) -> None:
    """Give a file of the kernel its new value; raises OSError where it declines."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


@functools.cache
def nvml() -> Any:
    """The module pynvml, initialised, or None where it or a driver is missing."""
    try:
        module = importlib.import_module("pynvml")
        module.nvmlInit()
    except Exception:  # a driver that is missing, broken or of another version: each has its own error
        return None
    return module
