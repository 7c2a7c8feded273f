"""PyTorch, eager, on the CPU or on CUDA."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pomt_edge.engines import Session, Setting
from pomt_edge.engines._allocator import keep_memory
from pomt_edge.errors import UserError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def prepare(model: nn.Module, setting: Setting) -> nn.Module:
    """The model in evaluation, on the device, in the precision; moved in place."""
    check_device(setting.device)
    if setting.device == "cpu":
        keep_memory()
    return model.eval().to(device=setting.device, dtype=DTYPES[setting.precision])


def load(model: nn.Module, setting: Setting) -> Session:
    session = _CudaSession if setting.device.startswith("cuda") else _HostSession
    return session(model.eval(), setting)


def check_device(device: str) -> None:
    """Raise a UserError unless torch can use the device."""
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise UserError(
            f"--device {device}: no CUDA device is usable here (torch {torch.__version__}); try --device cpu"
        )
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise UserError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, cuda:0 is the first")


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.lru_cache(maxsize=1)
def _batch(setting: Setting) -> Tensor:
    """One seeded batch [B, 3, height, width]; a sweep's hundreds of sessions share it."""
    shape = (setting.batch_size, 3, setting.image_px, setting.image_px)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return images.to(setting.device, DTYPES[setting.precision])


class _HostSession:
    """Timed with the host's clock: on the CPU a forward has ended when the call returns."""

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.model = model
        self.dtype = DTYPES[setting.precision]
        self.device = setting.device
        self.images = _batch(setting)

    @torch.inference_mode()
    def time_ms(self, count: int) -> list[float]:
        samples = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self.model(self.images)
            samples.append((time.perf_counter_ns() - start) / 1e6)
        return samples

    @torch.inference_mode()
    def logits(self, images: Tensor) -> np.ndarray[Any, Any]:
        output: Tensor = self.model(images.to(self.device, self.dtype))
        return output.float().cpu().numpy()


class _CudaSession(_HostSession):
    """Timed on the device, by events around each forward; the host waits once, at the end."""

    @torch.inference_mode()
    def time_ms(self, count: int) -> list[float]:
        with torch.cuda.device(self.device):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * count)]
            for start, end in zip(marks[::2], marks[1::2], strict=True):
                start.record()
                self.model(self.images)
                end.record()
            torch.cuda.synchronize()
            return [float(start.elapsed_time(end)) for start, end in zip(marks[::2], marks[1::2], strict=True)]
