"""What can be told of the host without torch: processor, clocks, heat, load, memory, what it is confined in.

Every fact is optional: one that this machine does not tell is None or absent, never an error.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from pomt_edge.machine import board
from pomt_edge.machine.controls import cpu
from pomt_edge.machine.system import System, read, read_number

CPU_SENSORS = ("coretemp", "k10temp", "zenpower")
"""Drivers of a PC's CPU sensors; a board has its own among the thermal zones."""
LOWEST_C = -100.0
"""A Jetson's sensor that is off reads -256."""


def host(system: System) -> dict[str, Any]:
    """All facts that belong into a record of where a number comes from."""
    facts = {
        "board": board.model_name(system),
        "cpus": os.cpu_count(),
        "cpu_affinity": ranges(os.sched_getaffinity(0)),
        "governor": governor(system),
        "boost": boost(system),
        "load_before": load_average(system),
        "container": board.container(system) or "none",
        "virtual_machine": virtual_machine(system) or "none",
    }
    return known(facts)


def known(facts: dict[str, Any]) -> dict[str, Any]:
    """Without the facts that this machine does not tell."""
    return {name: value for name, value in facts.items() if value is not None and value != {}}


def asked(question: Callable[[], Any]) -> Any:
    """The answer of a library that may not know it here, or None: each has exceptions of its own."""
    with contextlib.suppress(Exception):
        return question()
    return None


def cpu_model(system: System) -> str | None:
    """The processor's own name; an Arm processor has none in /proc/cpuinfo, then it is the board's."""
    named = re.search(r"^model name\s*:\s*(.+)$", read(system.path("/proc/cpuinfo")) or "", re.MULTILINE)
    return named.group(1).strip() if named else board.model_name(system)


def governor(system: System) -> str | None:
    """The frequency governor of the CPUs, such as 'performance'; several where they differ."""
    found = {read(path) for path in cpu.each_cpu(system, "scaling_governor")} - {None}
    return ", ".join(sorted(str(name) for name in found)) or None


def boost(system: System) -> bool | None:
    """Whether the CPU may clock itself above its base clock."""
    no_turbo, on = read_number(system.path(cpu.NO_TURBO)), read_number(system.path(cpu.BOOST))
    if no_turbo is not None:
        return no_turbo == 0
    return None if on is None else on == 1


def cpu_mhz(system: System) -> int | None:
    """The clock of the fastest core at this moment; of a virtual machine, the one that it was started with."""
    seen = cpu.clock_mhz(system)
    if seen is not None:
        return round(seen)
    listed = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", read(system.path("/proc/cpuinfo")) or "", re.MULTILINE)
    return round(max(map(float, listed))) if listed else None


def temperatures_c(system: System) -> dict[str, float]:
    """Every sensor that is on, by its name: the thermal zones, and a PC's CPU sensor."""
    sensors = [(zone / "type", zone / "temp") for zone in system.glob("/sys/class/thermal/thermal_zone*")]
    chips = system.glob("/sys/class/hwmon/hwmon*")
    sensors += [(chip / "name", chip / "temp1_input") for chip in chips if read(chip / "name") in CPU_SENSORS]
    found: dict[str, float] = {}
    for name, value in sensors:
        label, millidegrees = read(name), read_number(value)
        if label and millidegrees is not None and millidegrees / 1e3 > LOWEST_C:
            found[_unused(label, found)] = millidegrees / 1e3
    return found


def load_average(system: System) -> list[float] | None:
    """Processes that ran or waited, on average over the last 1, 5 and 15 minutes."""
    text = read(system.path("/proc/loadavg")) or ""
    return asked(lambda: [float(word) for word in text.split()[:3]]) or None


def available_memory_mib(system: System) -> int | None:
    """Memory that a new process can have: the host's, or what a container's limit leaves of it."""
    available = re.search(r"^MemAvailable:\s*(\d+) kB", read(system.path("/proc/meminfo")) or "", re.MULTILINE)
    limit = read_number(system.path("/sys/fs/cgroup/memory.max"))
    used = read_number(system.path("/sys/fs/cgroup/memory.current"))
    choices = [int(available.group(1)) // 1024] if available else []
    choices += [max(limit - used, 0) // 2**20] if limit is not None and used is not None else []
    return min(choices, default=None)


def total_memory_mib(system: System) -> int | None:
    """All the memory that `available_memory_mib` is a part of."""
    total = re.search(r"^MemTotal:\s*(\d+) kB", read(system.path("/proc/meminfo")) or "", re.MULTILINE)
    limit = read_number(system.path("/sys/fs/cgroup/memory.max"))
    choices = [int(total.group(1)) // 1024] if total else []
    choices += [limit // 2**20] if limit is not None else []
    return min(choices, default=None)


def virtual_machine(system: System) -> str | None:
    """The hypervisor below, such as 'kvm' ('yes' where it has no name), or None on bare metal."""
    if not board.virtual_machine(system):
        return None
    named = system.run(["systemd-detect-virt", "--vm"])
    return named.output if named.status == 0 and named.output.isalpha() else "yes"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as Linux writes lists of CPUs: '0-3,6'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _unused(label: str, taken: dict[str, float]) -> str:
    """A server has one zone of the same name per socket."""
    names = [label, *(f"{label} {number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)
