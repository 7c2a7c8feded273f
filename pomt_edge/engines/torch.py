"""PyTorch, eager, on the CPU or on CUDA."""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass
from pathlib import Path
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
    if not setting.device.startswith("cuda"):
        return _HostSession(model.eval(), setting)
    if not setting.cuda_graphs:
        return _EventSession(model.eval(), setting)
    try:
        return _GraphSession(model.eval(), setting)
    except RuntimeError as error:
        raise UserError(
            f"a CUDA graph could not be captured ({_first_line(error)}); give --no-cuda-graphs, and another --out"
        ) from error


def objection_to_graphs(model: nn.Module, setting: Setting) -> str | None:
    """Why the model can't be captured as a CUDA graph here, or None if it can."""
    if not setting.device.startswith("cuda"):
        return f"{setting.device} has no CUDA graphs"
    try:
        _GraphSession(model.eval(), setting)
    except RuntimeError as error:
        return _first_line(error)
    return None


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0][:200]


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


def gpu_uuid(device: str) -> str | None:
    """The UUID by which the driver knows a CUDA device; None on the CPU and from a torch that does not tell."""
    if not device.startswith("cuda"):
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return str(uuid) if uuid else None


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

    timer = "host clock"

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

    def memory_mib(self) -> float | None:
        """The process's resident memory, all variants' models in it."""
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except (OSError, ValueError):
            return None
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class _EventSession(_HostSession):
    """Timed on the device, by events around each forward; the host waits once, at the end."""

    timer = "CUDA events"
    _peak_mib: float | None = None

    @torch.inference_mode()
    def time_ms(self, count: int) -> list[float]:
        with torch.cuda.device(self.device):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * count)]
            for start, end in zip(marks[::2], marks[1::2], strict=True):
                start.record()
                self._forward()
                end.record()
            torch.cuda.synchronize()
            return [float(start.elapsed_time(end)) for start, end in zip(marks[::2], marks[1::2], strict=True)]

    def _forward(self) -> None:
        self.model(self.images)

    @torch.inference_mode()
    def memory_mib(self) -> float | None:
        """The peak that torch's allocator held during one forward, weights and images included."""
        if self._peak_mib is None:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.model(self.images)
            torch.cuda.synchronize(self.device)
            self._peak_mib = torch.cuda.max_memory_allocated(self.device) / 2**20
        return self._peak_mib


class _GraphSession(_EventSession):
    """One captured forward, replayed: the time that eager PyTorch takes to launch kernels is not in it."""

    timer = "CUDA graph replay"

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        super().__init__(model, setting)
        place = _capturing(setting.device)
        with torch.cuda.device(self.device), torch.inference_mode():
            self._warm_up_for_capture(place.stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=place.first.pool(), stream=place.stream):
                self._output = self.model(self.images)

    def _warm_up_for_capture(self, stream: torch.cuda.Stream) -> None:
        """On the capturing stream: libraries allocate their workspaces, one per stream, on the first calls."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.model(self.images)
        torch.cuda.current_stream().wait_stream(stream)

    def _forward(self) -> None:
        self._graph.replay()


@dataclass(frozen=True)
class _Capturing:
    """Where all graphs of a device are captured: one stream, and one pool of memory, for they never run together."""

    stream: torch.cuda.Stream
    first: torch.cuda.CUDAGraph
    """Keeps the pool alive: a pool whose last graph is gone can't be captured into again."""


@functools.cache
def _capturing(device: str) -> _Capturing:
    with torch.cuda.device(device):
        stream, first = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        value = torch.zeros(1, device=device)
        with torch.cuda.graph(first, stream=stream):
            value.add_(1)
        return _Capturing(stream, first)
