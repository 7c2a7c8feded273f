"""What NVML tells of an NVIDIA GPU and who else uses it; on a Jetson it knows next to nothing."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any

from pomt_edge.machine import system as machine
from pomt_edge.machine.facts import asked, known
from pomt_edge.machine.gpu import Device
from pomt_edge.machine.system import System, read

PCI_VENDOR = "0x10de"
PCI_DISPLAY = "0x03"


def driver(system: System) -> str | None:
    """The version of the NVIDIA driver that is loaded, such as '580.95.05'."""
    nvml = machine.nvml()
    version = asked(lambda: nvml.nvmlSystemGetDriverVersion()) if nvml else None
    return _text(version) or read(system.path("/sys/module/nvidia/version"))


def on_pci(system: System) -> bool:
    """Whether an NVIDIA GPU is plugged in, with or without a driver."""
    devices = system.glob("/sys/bus/pci/devices/*")
    return any(
        read(path / "vendor") == PCI_VENDOR and (read(path / "class") or "").startswith(PCI_DISPLAY) for path in devices
    )


def name(device: Device) -> str | None:
    return _text(asked(lambda: device.nvml.nvmlDeviceGetName(device.handle)))


def clocks_mhz(device: Device) -> dict[str, int]:
    """The clocks of the GPU and of its memory at this moment, in MHz."""
    nvml, handle = device.nvml, device.handle
    return known(
        {
            "gpu_mhz": asked(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            "memory_mhz": asked(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))),
        }
    )


def temperature_c(device: Device) -> float | None:
    nvml = device.nvml
    return asked(lambda: float(nvml.nvmlDeviceGetTemperature(device.handle, nvml.NVML_TEMPERATURE_GPU)))


def power_limit_w(device: Device) -> float | None:
    return asked(lambda: device.nvml.nvmlDeviceGetPowerManagementLimit(device.handle) / 1e3)


def free_memory_mib(device: Device) -> int | None:
    return asked(lambda: int(device.nvml.nvmlDeviceGetMemoryInfo(device.handle).free) // 2**20)


def total_memory_mib(device: Device) -> int | None:
    return asked(lambda: int(device.nvml.nvmlDeviceGetMemoryInfo(device.handle).total) // 2**20)


def compute_capability(device: Device) -> tuple[int, int] | None:
    found = asked(lambda: device.nvml.nvmlDeviceGetCudaComputeCapability(device.handle))
    return (int(found[0]), int(found[1])) if found else None


def other_processes(device: Device) -> dict[str, Any] | None:
    """How many other processes use the GPU, their names and memory in MiB; None where NVML does not tell.

    In a container that has its own process ids this process can't be told from others, and counts.
    """
    running = asked(lambda: device.nvml.nvmlDeviceGetComputeRunningProcesses(device.handle))
    if running is None:
        return None
    others = [process for process in running if process.pid != os.getpid()]
    memory = [process.usedGpuMemory for process in others if process.usedGpuMemory is not None]
    names = {_program(device, process.pid) for process in others} - {None}
    return known(
        {
            "count": len(others),
            "memory_mib": sum(memory) // 2**20 if memory else None,
            "names": sorted(str(name) for name in names) or None,
        }
    )


def _program(device: Device, pid: int) -> str | None:
    """The program's name alone: a command line may hold what is nobody's business."""
    path = _text(asked(lambda: device.nvml.nvmlSystemGetProcessName(pid)))
    return PurePath(path.split()[0]).name if path and path.strip() else None


def _text(value: Any) -> str | None:
    """Older bindings give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
