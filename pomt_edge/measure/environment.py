"""Where a number comes from: device, clocks, driver, versions, threads, commit."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import torch

from pomt_edge import __version__, profiles
from pomt_edge.engines import Setting, _allocator
from pomt_edge.engines.torch import gpu_uuid
from pomt_edge.machine import board, facts, gpu, jetson_facts, nvidia_facts, redact
from pomt_edge.machine.facts import known
from pomt_edge.machine.system import System
from pomt_edge.records import Environment

PACKAGES = {
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13-bindings",),
}
"""A library, and the names under which it is distributed."""
HERE = System()


def describe(setting: Setting, engine: str, system: System = HERE) -> Environment:
    """The environment of a run that starts now on this machine; without serial numbers and unique ids."""
    device = _nvidia(setting.device)
    environment = Environment(
        device=setting.device,
        device_name=device_name(setting.device, system),
        engine=engine,
        precision=setting.precision,
        batch_size=setting.batch_size,
        image_px=setting.image_px,
        threads=torch.get_num_threads(),
        platform=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
        toolkit_version=__version__,
        git_commit=git_commit(system),
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        details=_details(setting.device, device, system),
    )
    return Environment.from_dict(redact.redacted(environment.to_dict(), redact.secrets(system, device)))


def device_name(device: str, system: System = HERE) -> str:
    """The device's own name, such as 'NVIDIA H200' or the processor's model."""
    if device.startswith("cuda"):
        # Another engine may have CUDA beside a torch that has not.
        nvidia = _nvidia(device)
        told = facts.asked(lambda: torch.cuda.get_device_name(device))
        return told or (nvidia_facts.name(nvidia) if nvidia else None) or device
    return facts.cpu_model(system) or platform.processor() or platform.machine()


def _nvidia(device: str) -> gpu.Device | None:
    if not device.startswith("cuda"):
        return None
    return gpu.handle(device, gpu_uuid(device))


def _details(device: str, nvidia: gpu.Device | None, system: System) -> dict[str, Any]:
    jetson = _jetson(system) if board.is_jetson(system) else {}
    clocks = {"cpu_mhz": facts.cpu_mhz(system)} | jetson.pop("clocks_seen", {})
    heat = jetson.pop("temperatures_c", {}) | facts.temperatures_c(system)
    if nvidia is not None:
        clocks |= nvidia_facts.clocks_mhz(nvidia)
        heat |= known({"gpu": nvidia_facts.temperature_c(nvidia)})
    own = _cuda(device, nvidia, system) if device.startswith("cuda") else _cpu()
    seen = {"clocks_seen": known(clocks), "temperatures_c": heat}
    return known(own | jetson | seen | facts.host(system))


def _cuda(device: str, nvidia: gpu.Device | None, system: System) -> dict[str, Any]:
    profile = profiles.recognise(device_name(device, system)) or profiles.recognise_board(system)
    own = {
        "driver": nvidia_facts.driver(system),
        "power_limit_w": nvidia_facts.power_limit_w(nvidia) if nvidia else None,
        "profile": profile.id if profile else "none",
        "gpu_processes": nvidia_facts.other_processes(nvidia) if nvidia else None,
    }
    properties = facts.asked(lambda: torch.cuda.get_device_properties(device))
    return own | (_by_torch(properties) if properties else {})


def _by_torch(properties: Any) -> dict[str, Any]:
    return {
        "cuda": torch.version.cuda,
        "cudnn": _cudnn(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "sm_count": properties.multi_processor_count,
        "memory_mib": properties.total_memory // 2**20,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
    }


def _cpu() -> dict[str, Any]:
    return {"instruction_set": torch.backends.cpu.get_cpu_capability(), "heap": _allocator.describe()}


def _jetson(system: System) -> dict[str, Any]:
    """The board's own files first; jetson-stats for what they do not tell."""
    told = jetson_facts.jtop_answer(system)
    major = jetson_facts.jetpack_major(system)
    clocks = {name: told[name] for name in ("gpu_mhz", "memory_mhz") if name in told}
    return {
        "l4t": jetson_facts.release(system),
        "jetpack": told.get("jetpack") or (str(major) if major else None),
        "power_mode": board.current_power_mode(system) or told.get("power_mode"),
        "clocks_seen": clocks | jetson_facts.clocks_mhz(system),
        "temperatures_c": told.get("temperatures_c", {}),
    }


def _cudnn() -> str | None:
    """cuDNN packs its version into a number: 8902 is 8.9.2, 92600 is 9.26.0."""
    packed = facts.asked(lambda: int(torch.backends.cudnn.version()))
    if packed is None:
        return None
    major = 10000 if packed >= 90000 else 1000
    return f"{packed // major}.{packed % major // 100}.{packed % 100}"


def _versions() -> dict[str, str]:
    found = {name: _version(distributions) for name, distributions in PACKAGES.items()}
    return {"torch": torch.__version__} | {name: version for name, version in found.items() if version}


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def git_commit(system: System = HERE) -> str | None:
    """The commit of the toolkit's own checkout, or None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = system.run(command)
    return done.output if done.status == 0 and done.output else None
