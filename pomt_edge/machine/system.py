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

TIMEOUT_S = 60.0


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
        """Where an absolute path such as '/sys/class/hwmon' is to be found."""
        return self.root / path.lstrip("/")

    def glob(self, pattern: str) -> list[Path]:
        """Files that match an absolute pattern such as '/sys/class/hwmon/hwmon*/oc*_event_cnt', sorted."""
        return sorted(self.root.glob(pattern.lstrip("/")))

    def run(self, command: Sequence[str]) -> Finished:
        """Run a program without a terminal and without input, so that none of its questions is ever answered."""
        environment = os.environ | {"LC_ALL": "C"}
        try:
            done = subprocess.run(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                env=environment,
                check=False,
                # Its own session: Ctrl-C in the terminal reaches us alone, and no question finds a terminal.
                start_new_session=True,
                # A file that was made inheritable is meant to outlive us in the program, such as a lock.
                close_fds=False,
            )
        except FileNotFoundError:
            return Finished(127, f"{command[0]}: not found")
        except OSError as error:
            return Finished(126, f"{command[0]}: {error.strerror}")
        except subprocess.TimeoutExpired:
            return Finished(124, f"{command[0]}: no end after {TIMEOUT_S:g} s")
        return Finished(done.returncode, done.stdout.strip())

    def has_program(self, name: str) -> bool:
        return shutil.which(name) is not None


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
