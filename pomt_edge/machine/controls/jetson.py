"""A Jetson's clocks: the power mode by its name, then jetson_clocks, which pins what the mode allows."""

from __future__ import annotations

import math
import os
import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomt_edge.errors import UserError
from pomt_edge.machine import board
from pomt_edge.machine.board import PowerMode as Mode
from pomt_edge.machine.controls import cpu, hints, journal
from pomt_edge.machine.controls.control import Clocks, Control, Refused
from pomt_edge.machine.system import System, read, read_number

CURRENT = "current"
BEST = ("MAXN_SUPER", "MAXN")
READ_BACK = ("scaling_min_freq", "scaling_max_freq", "min_freq", "max_freq")
"""Files, among those that jetson_clocks stores, that read as they were written."""


def default_mode(modes: Sequence[Mode]) -> Mode:
    """The mode without caps; where there is none, most watts and then most cores by the name."""
    by_name = {mode.name: mode for mode in modes}
    return next((by_name[name] for name in BEST if name in by_name), max(modes, key=_watts_and_cores))


def named_mode(name: str, modes: Sequence[Mode]) -> Mode:
    """The mode that the user means: '15w_6core' is MODE_15W_6CORE.

    Raises:
        UserError: no such mode; the message lists those of this board.
    """
    for mode in modes:
        if name.upper() in (mode.name.upper(), mode.name.upper().removeprefix("MODE_")):
            return mode
    known = ", ".join([*(mode.name for mode in modes), CURRENT])
    raise UserError(f"--power-mode {name}: this board has no such mode; known: {known}")


def _watts_and_cores(mode: Mode) -> tuple[int, int]:
    watts, cores = re.search(r"(\d+)W", mode.name), re.search(r"(\d+)CORE", mode.name)
    return int(watts.group(1)) if watts else 0, int(cores.group(1)) if cores else 0


@dataclass(frozen=True)
class PowerMode(Control):
    """nvpmodel. Its exit status is unreliable and it may ask to reboot, so only reading back counts."""

    system: System
    mode: Mode
    explicit: bool = False
    key = "power_mode"
    title = "power mode"

    def show(self) -> str:
        name = board.current_power_mode(self.system)
        if name is None:
            raise self._unknown()
        return name

    def wanted(self) -> str:
        return self.mode.name

    def save(self) -> dict[str, Any]:
        now = self.show()
        # Changing the mode undoes a jetson_clocks that the user had on before.
        return {"mode": now, "file": None if now == self.mode.name else _store(self.system)}

    def set(self) -> None:
        self._switch(self.mode.name, "clocks lock")

    def restore(self, saved: Any) -> None:
        self._switch(saved["mode"], "clocks restore")
        if saved["file"]:
            _restore_from(self.system, saved["file"])

    def by_hand(self, saved: Any) -> str:
        mode = f"sudo {self._command(saved['mode'])}"
        return f"{mode} && sudo jetson_clocks --restore {shlex.quote(saved['file'])}" if saved["file"] else mode

    def needless(self) -> bool:
        return self.show() == self.mode.name

    def check(self) -> None:
        super().check()
        _check_root(self.system)

    def _unknown(self) -> Refused:
        if os.geteuid() != 0 and self.system.has_program("nvpmodel"):
            return hints.no_permission(self.system)
        return _absent(self.system, "nvpmodel") or Refused("nvpmodel -q names no power mode", "sudo nvpmodel -q")

    def _switch(self, name: str, words: str) -> None:
        if self.show() == name:
            return
        command = self._command(name)
        output = self.system.run(command.split()).output
        if self.show() == name:
            return
        if "reboot" in output.lower():
            raise Refused(
                f"the board must reboot for {name}, which is left to you", f"sudo {command}  # and confirm the reboot"
            )
        _check_root(self.system, words)
        raise Refused(f"nvpmodel stays at {self.show()}: {_last_line(output)}", f"sudo {command}")

    def _command(self, name: str) -> str:
        ids = {mode.name: mode.id for mode in board.power_modes(self.system)}
        if name not in ids:
            raise Refused(f"/etc/nvpmodel.conf has no mode {name} any more")
        return f"nvpmodel -m {ids[name]}"


@dataclass(frozen=True)
class JetsonClocks(Control):
    """GPU, CPU and memory pinned to what the power mode allows; the state before is a file that it stores itself."""

    system: System
    with_gpu: bool = True
    """The GPU's clock is verified too, not the processors' alone."""
    key = "jetson_clocks"
    title = "jetson_clocks"

    def show(self) -> str:
        least, most = self._gpu_hz("min_freq"), self._gpu_hz("max_freq")
        if least is None or most is None:
            raise _absent(self.system, "jetson_clocks") or Refused("the GPU's devfreq files can't be read")
        return "on" if least == most else "off"

    def wanted(self) -> str:
        return "on"

    def save(self) -> dict[str, Any]:
        return {"file": _store(self.system)}

    def set(self) -> None:
        _run(self.system, ["jetson_clocks"], "clocks lock")
        if self.show() != "on":
            raise Refused("jetson_clocks ran and the GPU's least clock is still below its most")

    def restore(self, saved: Any) -> None:
        _restore_from(self.system, saved["file"])

    def by_hand(self, saved: Any) -> str:
        return f"sudo jetson_clocks --restore {shlex.quote(saved['file'])}"

    def check(self) -> None:
        missing = _absent(self.system, "jetson_clocks")
        if missing:
            raise missing
        _check_root(self.system)

    def asked_mhz(self) -> Clocks:
        most = cpu.each_mhz(self.system, "scaling_max_freq")
        return self._of_gpu("max_freq") | ({cpu.CLOCK: most} if most else {})

    def seen_mhz(self) -> Clocks:
        return self._of_gpu("cur_freq") | cpu.seen_mhz(self.system, all_busy=not self.with_gpu)

    def lower(self, seen_mhz: float) -> str:
        now = board.current_power_mode(self.system)
        modes = sorted(board.power_modes(self.system), key=_watts_and_cores)
        limit = next((_watts_and_cores(mode)[0] for mode in modes if mode.name == now), 0) or math.inf
        below = [mode.name for mode in modes if 0 < _watts_and_cores(mode)[0] < limit]
        return f"sudo {hints.command(self.system, f'clocks lock --power-mode {below[-1]}')}" if below else ""

    def _of_gpu(self, name: str) -> Clocks:
        hertz = self._gpu_hz(name) if self.with_gpu else None
        return {"gpu_clock_mhz": hertz / 1e6} if hertz else {}

    def _gpu_hz(self, name: str) -> int | None:
        folder = board.gpu_devfreq(self.system)
        return read_number(folder / name) if folder else None


def _store(system: System) -> str:
    """All clocks as they are now, in a new file: jetson_clocks asks before it overwrites one, and nobody answers."""
    file = journal.folder(system) / f"{journal.STORED}{secrets.token_hex(4)}.conf"
    _run(system, ["jetson_clocks", "--store", str(file)], "clocks lock")
    if not file.exists():
        raise Refused(f"jetson_clocks --store wrote no {file}")
    journal.sync(file)
    return str(file)


def _restore_from(system: System, file: str) -> None:
    """Put back what a file stores. jetson_clocks exits with 0 where it failed, so only reading back counts."""
    output = _run(system, ["jetson_clocks", "--restore", file], "clocks restore")
    failed = [line for line in output.splitlines() if "error" in line.lower()]
    if failed:
        raise Refused(f"jetson_clocks --restore: {failed[0]}", f"sudo jetson_clocks --restore {shlex.quote(file)}")
    for line in (read(Path(file)) or "").splitlines():
        path, _, value = line.partition(":")
        now = read_number(system.path(path)) if path.rpartition("/")[2] in READ_BACK and value.isdecimal() else None
        if now is not None and now != int(value):
            raise Refused(f"jetson_clocks --restore left {path} at {now}, it was {value}")


def _run(system: System, command: list[str], words: str) -> str:
    missing = _absent(system, command[0])
    if missing:
        raise missing
    done = system.run(command)
    if done.status != 0:
        _check_root(system, words)
        raise Refused(f"{command[0]}: {_last_line(done.output)}", f"sudo {shlex.join(command)}")
    return done.output


def _absent(system: System, program: str) -> Refused | None:
    if system.has_program(program):
        return None
    if board.container(system):
        return hints.no_such_control(system, f"program {program}")
    return Refused(f"the program {program}, which JetPack installs, is neither on PATH nor in /usr/sbin")


def _check_root(system: System, words: str = "clocks lock") -> None:
    if os.geteuid() != 0:
        raise hints.no_permission(system, words)


def _last_line(output: str) -> str:
    return output.splitlines()[-1] if output else "no word of why"
