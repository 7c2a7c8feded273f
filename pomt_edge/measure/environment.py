"""Where a number comes from: device, versions, threads, commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from pomt_edge import __version__, profiles
from pomt_edge.engines import Setting, _allocator
from pomt_edge.records import Environment

PACKAGES = ("torchvision", "timm", "numpy", "scipy")


def describe(setting: Setting, engine: str) -> Environment:
    """The environment of a run that starts now on this machine."""
    return Environment(
        device=setting.device,
        device_name=device_name(setting.device),
        engine=engine,
        precision=setting.precision,
        batch_size=setting.batch_size,
        image_px=setting.image_px,
        threads=torch.get_num_threads(),
        platform=platform.platform(),
        python=platform.python_version(),
        versions={"torch": torch.__version__} | {name: importlib.metadata.version(name) for name in PACKAGES},
        toolkit_version=__version__,
        git_commit=_git_commit(),
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        details=_cuda_details(setting.device) if setting.device.startswith("cuda") else _cpu_details(),
    )


def device_name(device: str) -> str:
    """The device's own name, such as 'NVIDIA H200' or the processor's model."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpu = _first_line_with(Path("/proc/cpuinfo"), "model name")
    return cpu or platform.processor() or platform.machine()


def _cuda_details(device: str) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(device)
    profile = profiles.recognise(properties.name)
    return {
        "cuda": torch.version.cuda,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "sm_count": properties.multi_processor_count,
        "memory_mib": properties.total_memory // 2**20,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "profile": profile.id if profile else "none",
    }


def _cpu_details() -> dict[str, Any]:
    cpu = Path("/sys/devices/system/cpu")
    governor = _text(cpu / "cpu0/cpufreq/scaling_governor")
    return {
        "cpus": os.cpu_count(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "governor": governor or "not readable",
        "heap": _allocator.describe(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _git_commit() -> str | None:
    """The commit of the toolkit's own checkout, or None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _first_line_with(path: Path, key: str) -> str | None:
    for line in (_text(path) or "").splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
