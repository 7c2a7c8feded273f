"""The processor's clock by its files in /sys: boost, governor, least frequency."""

from __future__ import annotations

import errno
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomt_edge.machine.controls import hints
from pomt_edge.machine.controls.control import Clocks, Control, Refused
from pomt_edge.machine.system import System, read, read_number, write

CPUS = "/sys/devices/system/cpu"
NO_TURBO = f"{CPUS}/intel_pstate/no_turbo"
BOOST = f"{CPUS}/cpufreq/boost"
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
TOLERANCE = 0.02
CLOCK = "cpu_clock_mhz"


def each_cpu(system: System, name: str) -> list[Path]:
    """The file `name` of every processor's cpufreq folder."""
    return system.glob(f"{CPUS}/cpu[0-9]*/cpufreq/{name}")


def has_boost(system: System) -> bool:
    return any(system.path(path).exists() for path in (NO_TURBO, BOOST))


def each_mhz(system: System, name: str) -> dict[str, float]:
    """What the file `name` of every processor holds, in MHz by the processor's name such as 'cpu3'."""
    found = {path.parts[-3]: read_number(path) for path in each_cpu(system, name)}
    return {cpu: kilohertz / 1000 for cpu, kilohertz in found.items() if kilohertz}


def clock_mhz(system: System) -> float | None:
    """The clock of the fastest processor now: one that is idle says nothing of a lock."""
    return max(_now_mhz(system).values(), default=None)


def seen_mhz(system: System, *, all_busy: bool) -> Clocks:
    """The clocks now of the processors that this process may use, or of the fastest where not all are busy."""
    if not all_busy:
        # A GPU is kept busy by one thread, wherever that is: the other processors idle and may be slower.
        fastest = clock_mhz(system)
        return {} if fastest is None else {CLOCK: fastest}
    now = _now_mhz(system)
    usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    found = {cpu: mhz for cpu, mhz in now.items() if cpu in usable} or now
    return {CLOCK: found} if found else {}


def _now_mhz(system: System) -> dict[str, float]:
    # scaling_cur_freq may be what was asked for rather than what is; the other needs root on most machines.
    return each_mhz(system, "cpuinfo_cur_freq") or each_mhz(system, "scaling_cur_freq")


class SysfsControl(Control):
    """A setting that is one or several files, each holding one word."""

    system: System

    def target(self) -> dict[Path, str]:
        """Which file shall hold what; raises Refused where there is none."""
        raise NotImplementedError

    def shown(self, text: str) -> Any:
        """A file's word as the user knows it."""
        return text

    def agree(self, wanted: str, found: str | None) -> bool:
        return wanted == found

    def show(self) -> Any:
        return self._compact({path: self._read(path) for path in self.target()})

    def wanted(self) -> Any:
        return self._compact(self.target())

    def save(self) -> dict[str, str]:
        return {self._name(path): self._read(path) for path in self.target()}

    def set(self) -> None:
        self._write(self.target(), "clocks lock")

    def restore(self, saved: Any) -> None:
        # A processor that is offline by now has no such file, and nothing to put back.
        files = {self.system.path(name): value for name, value in saved.items()}
        self._write({path: value for path, value in files.items() if path.exists()}, "clocks restore")

    def by_hand(self, saved: Any) -> str:
        lines = [f"echo {shlex.quote(value)} > {self.system.path(name)}" for name, value in saved.items()]
        return f"sudo sh -c {shlex.quote('; '.join(lines))}"

    def check(self) -> None:
        super().check()
        if not all(os.access(path, os.W_OK) for path in self.target()):
            raise hints.no_permission(self.system)

    def _write(self, files: Mapping[Path, str], words: str) -> None:
        for path, value in files.items():
            if read(path) == value:
                continue
            try:
                write(path, value)
            except OSError as error:
                if error.errno in DENIED:
                    raise hints.no_permission(self.system, words) from error
                raise Refused(f"{path} does not take '{value}' ({error.strerror})") from error
            if not self.agree(value, read(path)):
                raise Refused(f"{path} was given '{value}' and says '{read(path)}'")

    def _read(self, path: Path) -> str:
        text = read(path)
        if text is None:
            raise Refused(f"{path} can't be read")
        return text

    def _name(self, path: Path) -> str:
        return f"/{path.relative_to(self.system.root)}"

    def _compact(self, files: Mapping[Path, str]) -> Any:
        """One value if all processors agree, which is the rule; else each one's."""
        values = {path.parts[-3]: self.shown(text) for path, text in files.items()}
        return next(iter(values.values())) if len(set(values.values())) == 1 else values


@dataclass(frozen=True)
class Boost(SysfsControl):
    """Off: a boosted clock depends on heat and on what else runs."""

    system: System
    key = "cpu_boost"
    title = "CPU boost"

    def target(self) -> dict[Path, str]:
        turbo, boost = self.system.path(NO_TURBO), self.system.path(BOOST)
        if turbo.exists():
            return {turbo: "1"}
        if boost.exists():
            return {boost: "0"}
        raise hints.no_such_control(self.system, "CPU boost switch")

    def shown(self, text: str) -> str:
        off = "1" if self.system.path(NO_TURBO).exists() else "0"
        return "off" if text == off else "on"


@dataclass(frozen=True)
class Governor(SysfsControl):
    system: System
    key = "cpu_governor"
    title = "CPU governor"

    def target(self) -> dict[Path, str]:
        files = each_cpu(self.system, "scaling_governor")
        if not files:
            raise hints.no_such_control(self.system, "CPU frequency control")
        offered = read(files[0].with_name("scaling_available_governors"))
        if offered is not None and "performance" not in offered.split():
            raise Refused(f"this kernel has no governor 'performance', only {offered}")
        return dict.fromkeys(files, "performance")


@dataclass(frozen=True)
class LeastFrequency(SysfsControl):
    """The least frequency raised to the highest that the processor holds without boost."""

    system: System
    all_busy: bool = True
    """The load keeps every processor busy that this process may use, so that the slowest tells of the lock."""
    key = "cpu_min_mhz"
    title = "CPU min frequency"

    def target(self) -> dict[Path, str]:
        files = {path: self._highest(path.parent) for path in each_cpu(self.system, "scaling_min_freq")}
        if not files:
            raise hints.no_such_control(self.system, "CPU frequency control")
        return {path: str(kilohertz) for path, kilohertz in files.items()}

    def shown(self, text: str) -> int:
        if not text.isdecimal():
            raise Refused(f"this kernel says '{text}' for a frequency")
        return round(int(text) / 1000)

    def agree(self, wanted: str, found: str | None) -> bool:
        # Drivers round to a frequency of their table.
        return found is not None and found.isdecimal() and abs(int(found) - int(wanted)) <= TOLERANCE * int(wanted)

    def holds(self, wanted: Any) -> bool:
        now = self.show()
        if isinstance(now, dict) or isinstance(wanted, dict):
            return bool(now == wanted)
        return bool(abs(now - wanted) <= TOLERANCE * wanted)

    def asked_mhz(self) -> Clocks:
        return {CLOCK: {path.parts[-3]: int(value) / 1000 for path, value in self.target().items()}}

    def seen_mhz(self) -> Clocks:
        return seen_mhz(self.system, all_busy=self.all_busy)

    def _highest(self, folder: Path) -> int:
        # With boost off intel_pstate may still call the boosted frequency its maximum; the base is what it holds.
        found = [read_number(folder / name) for name in ("base_frequency", "scaling_max_freq")]
        known = [kilohertz for kilohertz in found if kilohertz]
        if not known:
            raise Refused(f"{folder}/scaling_max_freq can't be read")
        return min(known)
