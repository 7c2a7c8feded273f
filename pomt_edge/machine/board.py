"""Which machine this is: a Jetson and its power modes, a container, a virtual machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pomt_edge.machine.system import System, read

CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
JETSON_GPU = re.compile(r"(?:^|\.)(?:gpu(?:-gpc-\d+)?|g[a-z]1[01]b)$")
"""Names of the GPU among /sys/class/devfreq: 17000000.ga10b, 57000000.gpu, 17000000.gv11b, gpu-gpc-0."""


@dataclass(frozen=True)
class PowerMode:
    """A mode of nvpmodel. Ids differ per board and per release: match a mode by its name."""

    id: int
    name: str


def model_name(system: System) -> str | None:
    """The board's name in the device tree, such as 'NVIDIA Jetson AGX Orin Developer Kit'; None on a PC."""
    return read(system.path("/proc/device-tree/model"))


def is_jetson(system: System) -> bool:
    if system.path("/etc/nv_tegra_release").exists():
        return True
    compatible = read(system.path("/proc/device-tree/compatible")) or ""
    return "nvidia,tegra" in compatible


def power_modes(system: System) -> list[PowerMode]:
    """The modes in /etc/nvpmodel.conf, in its order; empty where there is none."""
    text = read(system.path("/etc/nvpmodel.conf")) or ""
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text, re.MULTILINE)
    return [PowerMode(int(number), name) for number, name in found]


def current_power_mode(system: System) -> str | None:
    """The name of the mode that nvpmodel says is on; None where it can't be told."""
    output = system.run(["nvpmodel", "-q"]).output
    named = re.search(r"NV Power Mode\s*:\s*(\S+)", output)
    return named.group(1) if named else None


def gpu_devfreq(system: System) -> Path | None:
    """The folder with a Jetson GPU's cur_freq, min_freq and max_freq (Hz); None where there is none."""
    folders = [path for path in system.glob("/sys/class/devfreq/*") if JETSON_GPU.search(path.name)]
    return folders[0] if folders else None


def container(system: System) -> str | None:
    """What this process is confined in, such as 'docker'; None where it is not."""
    for mark in CONTAINER_MARKS:
        if system.path(mark).exists():
            return "docker" if "docker" in mark else "podman"
    groups = read(system.path("/proc/1/cgroup")) or ""
    named = re.search(r"docker|lxc|kubepods|containerd|podman", groups)
    return named.group(0) if named else None


def virtual_machine(system: System) -> bool:
    """Whether a hypervisor runs this kernel, and with it sets the clocks."""
    cpus = read(system.path("/proc/cpuinfo")) or ""
    marked = re.search(r"^flags\s*:.*\bhypervisor\b", cpus, re.MULTILINE)
    return bool(marked) or system.path("/sys/hypervisor/type").exists()
