"""Fake boards for tests of clocks: in this process, and as a target that has a load."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import boards
import pytest

from pomt_edge.machine import system as machine
from pomt_edge.machine.controls import Control, controls_of
from pomt_edge.machine.system import System

CLI = [sys.executable, "-c", "import sys; from pomt_edge import cli; sys.exit(cli.run_any(sys.argv[1:]))"]


def use(board: boards.Board, monkeypatch: pytest.MonkeyPatch) -> System:
    """Programs and NVML of this process are those of the board."""
    for name in ("PATH", "FAKE_BOARD"):
        monkeypatch.setenv(name, board.env[name])
    monkeypatch.syspath_prepend(boards.PYNVML)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    machine.nvml.cache_clear()
    return System(board.root)


def environment(board: boards.Board) -> dict[str, str]:
    """The same for a process of its own, one that finds this checkout and the helpers of the tests."""
    here = Path(__file__).parents[2]
    folders = [here, here / "tests/measure", here / "tests/fakes", boards.PYNVML]
    return board.env | {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def slow(board: boards.Board, program: str, seconds: float, only: str = "") -> Path:
    """Make a program take its time (only when called with the argument `only`); returns a file it makes when called."""
    called = board.root / f".fake/{program} was called"
    real = board.bin / f"real_{program}"
    (board.bin / program).rename(real)
    condition = f'[ "$1" = "{only}" ] || exec {real} "$@"\n' if only else ""
    (board.bin / program).write_text(f'#!/bin/sh\n{condition}: > "{called}"\nsleep {seconds}\nexec {real} "$@"\n')
    (board.bin / program).chmod(0o755)
    return called


@contextlib.contextmanager
def under_load(root: Path, slow_mhz: dict[str, int] | None = None) -> Iterator[None]:
    """The processors of a fake PC run at their boosted clock, or at the base clock where boost is off, and idle again.

    `slow_mhz`: processors that do not reach it, such as {'cpu1': 800}.

    (Jetson clocks and NVML's are those of the fake programs, which know no idle clock once it is pinned.)
    """
    cpus = root / "sys/devices/system/cpu"
    switches = [(cpus / "intel_pstate/no_turbo", "0"), (cpus / "cpufreq/boost", "1")]
    boosted = any(path.exists() and path.read_text().strip() == on for path, on in switches)
    idle = {}
    for folder in cpus.glob("cpu[0-9]*/cpufreq") if any(path.exists() for path, _ in switches) else ():
        base, most = folder / "base_frequency", folder / "scaling_max_freq"
        for name in ("cpuinfo_cur_freq", "scaling_cur_freq"):
            idle[folder / name] = (folder / name).read_text()
            (folder / name).write_text((base if base.exists() and not boosted else most).read_text())
            if folder.parent.name in (slow_mhz or {}):
                (folder / name).write_text(f"{(slow_mhz or {})[folder.parent.name]}000\n")
    yield
    for path, text in idle.items():
        path.write_text(text)


class Target:
    """A board that is kept busy by waiting: its fake clocks are what they would be under load.

    `start_s`: what the load takes to begin where nothing was warmed up. `held=False`: a GPU's lock does not hold under
    load. `slow_mhz` as in `under_load`.
    """

    def __init__(
        self,
        system: System,
        device: str = "cuda:0",
        power_mode: str | None = None,
        gpu_clock_mhz: int | None = None,
        load_s: float = 0.2,
        start_s: float = 0.0,
        held: bool = True,
        slow_mhz: dict[str, int] | None = None,
    ) -> None:
        self.system = system
        self._wishes = (power_mode, gpu_clock_mhz)
        self._device = device
        self._load_s = load_s
        self._start_s = start_s
        self._held = held
        self._slow_mhz = slow_mhz

    def controls(self) -> Sequence[Control]:
        return controls_of(self._device, self.system, *self._wishes)

    def warm_up(self) -> None:
        time.sleep(self._start_s)
        self._start_s = 0.0

    def load(self, seconds: float) -> None:
        self.warm_up()
        board = boards.Board(self.system.root)
        with under_load(board.root, self._slow_mhz):
            if not self._held:
                board.change_nvidia(enforced=False)
            time.sleep(min(seconds, self._load_s))
            if not self._held:
                board.change_nvidia(enforced=True)
