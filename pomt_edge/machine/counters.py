"""Counters that tell, after the fact, whether a device was held back while it was timed, and its energy.

They are read before and after a block of forwards, never during one: polling disturbs what is timed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pomt_edge.machine import board, gpu
from pomt_edge.machine.system import System, read, read_number

VIOLATIONS = {
    "power limit": "NVML_PERF_POLICY_POWER",
    "heat": "NVML_PERF_POLICY_THERMAL",
    "board limit": "NVML_PERF_POLICY_BOARD_LIMIT",
    "reliability limit": "NVML_PERF_POLICY_RELIABILITY",
}
"""What holds a clock down, and NVML's name of it."""
EVENT_REASONS = {
    "power limit": 0x4,
    "hardware slowdown": 0x8,
    "heat": 0x20,
    "heat (hardware)": 0x40,
    "power brake": 0x80,
}
"""Bits of NVML's clocks event reasons; the bits are fixed, their names changed from version to version."""
HARMLESS = ("fan", "pwm", "hot-surface")
"""Cooling devices of a Jetson that slow nothing down; a hot surface is an alert at some 70 degrees."""
PROCESSORS = ("processor", "cpu")
"""Those of a PC that slow a processor down; others dim a screen or a radio."""


@dataclass(frozen=True)
class Reading:
    """The counters at one moment; what a device does not have is absent."""

    counts: dict[str, int] = field(default_factory=dict)
    """By what holds the clock down: nanoseconds or events so far, only ever growing."""
    active: tuple[str, ...] = ()
    """What holds the clock down right now."""
    energy_mj: float | None = None
    """Energy used so far, in millijoules."""
    watched: tuple[str, ...] = ()
    """What would have told, had something held the device back."""


def held_back(before: Reading, after: Reading) -> tuple[str, ...]:
    """What held the device back between two readings; empty where nothing did, or nothing tells."""
    grown = [name for name, count in after.counts.items() if count > before.counts.get(name, count)]
    return tuple(sorted({*grown, *after.active}))


def energy_mj(before: Reading, after: Reading) -> float | None:
    """Energy used between two readings, or None where there is no counter or it began anew."""
    if before.energy_mj is None or after.energy_mj is None or after.energy_mj < before.energy_mj:
        return None
    return after.energy_mj - before.energy_mj


class Counters:
    """The counters of one device of this machine."""

    def __init__(self, device: str, system: System, gpu_uuid: str | None = None) -> None:
        self._device = gpu.handle(device, gpu_uuid) if device.startswith("cuda") else None
        on_cpu = device == "cpu"
        self._events = {path: _event_name(path) for path in _event_files(system, on_cpu)}
        self._cooling = {path / "cur_state": read(path / "type") or path.name for path in _cooling_devices(system)}
        self._energy = _packages(system) if on_cpu else []
        self._watched = sorted({*self._events.values()}) + ["cooling devices"] * bool(self._cooling)

    def read(self) -> Reading:
        counts: dict[str, int] = {}
        for path, name in self._events.items():
            counts[name] = counts.get(name, 0) + (read_number(path) or 0)
        active = [f"heat ({name})" for path, name in self._cooling.items() if (read_number(path) or 0) > 0]
        energy: float | None = None
        if self._device:
            counts |= _violations(self._device)
            active += _reasons(self._device)
            energy = _asked(self._device.nvml.nvmlDeviceGetTotalEnergyConsumption, self._device.handle)
        elif self._energy:
            parts = [read_number(path) for path in self._energy]
            energy = None if None in parts else sum(part for part in parts if part) / 1e3
        watched = [*self._watched, *VIOLATIONS] if self._device else self._watched
        return Reading(counts, tuple(active), energy, tuple(watched))


def _event_files(system: System, on_cpu: bool) -> list[Path]:
    files = system.glob("/sys/class/hwmon/hwmon*/oc*_event_cnt")
    if on_cpu:
        # A package's count appears with each of its cores; that the sum counts it several times does not matter.
        files += system.glob("/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
    return files


def _event_name(path: Path) -> str:
    kind = path.name.split("_")[0]
    return f"heat (cpu {kind})" if path.name.endswith("_throttle_count") else f"over-current ({kind})"


def _packages(system: System) -> list[Path]:
    """The energy counters of whole processor packages: others are parts of them, or the system around them."""
    zones = [path.parent for path in system.glob("/sys/class/powercap/intel-rapl:*/energy_uj")]
    return [zone / "energy_uj" for zone in zones if (read(zone / "name") or "").startswith("package")]


def _cooling_devices(system: System) -> list[Path]:
    """What slows the processors down when they are hot."""
    folders = system.glob("/sys/class/thermal/cooling_device*")
    if board.is_jetson(system):
        return [path for path in folders if not _is_one_of(HARMLESS, path)]
    return [path for path in folders if _is_one_of(PROCESSORS, path)]


def _is_one_of(kinds: tuple[str, ...], cooling_device: Path) -> bool:
    own = (read(cooling_device / "type") or "").lower()
    return any(kind in own for kind in kinds)


def _violations(device: gpu.Device) -> dict[str, int]:
    counts = {}
    for name, constant in VIOLATIONS.items():
        policy = getattr(device.nvml, constant, None)
        status = _asked(device.nvml.nvmlDeviceGetViolationStatus, device.handle, policy)
        if status is not None:
            counts[name] = int(status.violationTime)
    return counts


def _reasons(device: gpu.Device) -> list[str]:
    query = getattr(device.nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    query = query or getattr(device.nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", None)
    bits = _asked(query, device.handle) if query else None
    return [name for name, bit in EVENT_REASONS.items() if bits and bits & bit]


def _asked(question: Callable[..., Any], *arguments: Any) -> Any:
    """NVML's answer, or None where this device has none (each call says so in its own way)."""
    with contextlib.suppress(Exception):
        return question(*arguments)
    return None
