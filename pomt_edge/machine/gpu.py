"""An NVIDIA GPU as NVML knows it, found from the name that torch gives it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

from pomt_edge.machine import system


@dataclass(frozen=True)
class Device:
    """NVML and its handle of one GPU."""

    nvml: Any
    handle: Any


def handle(device: str, uuid: str | None = None) -> Device | None:
    """The GPU that `cuda:N` means, or None where NVML is missing or does not know it.

    NVML numbers all GPUs by their bus, CUDA those that CUDA_VISIBLE_DEVICES lets through, by speed: the `uuid`
    that CUDA knows (without 'GPU-') is sure; without it the numbers are taken to be the same.
    """
    nvml = system.nvml()
    if nvml is None:
        return None
    with contextlib.suppress(Exception):  # each NVML error has its own class
        if uuid:
            return Device(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
        return Device(nvml, _by_number(nvml, int(device.partition(":")[2] or 0)))
    return None


def _by_number(nvml: Any, number: int) -> Any:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not visible:
        return nvml.nvmlDeviceGetHandleByIndex(number)
    name = visible.split(",")[number].strip()
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(name)
