"""PyTorch, eager or through torch.compile, on the CPU or on CUDA."""

from __future__ import annotations

import functools
import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pomt_edge.engines import BuildOptions, Built, Session, Setting
from pomt_edge.engines._allocator import keep_memory
from pomt_edge.engines._host import (
    Outputs,
    as_float32,
    batch_by_batch,
    first_line,
    once_ms,
    resident_mib,
    seeded_images,
)
from pomt_edge.errors import UserError
from pomt_edge.export import LOGITS, graph
from pomt_edge.export.target import TARGETS, Target
from pomt_edge.machine.facts import asked

TAKES: Literal["module", "onnx"] = "module"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NO_LIMIT = 2**31
RECOMPILE_LIMITS = (
    "recompile_limit",
    "accumulated_recompile_limit",
    "cache_size_limit",
    "accumulated_cache_size_limit",
)
"""Of torch._dynamo.config; the last two are their names before torch 2.6."""


def version() -> str | None:
    return str(torch.__version__)


def target() -> Target:
    return TARGETS["generic"]


def check_setting(setting: Setting) -> None:
    """Raise a UserError for what torch does not run here."""
    if setting.precision not in DTYPES:
        raise UserError(
            f"--precision {setting.precision}: torch does not run {setting.precision} here; give --engine "
            "onnxruntime, openvino or trt"
        )
    if setting.provider is not None:
        raise UserError(f"--provider {setting.provider} is ONNX Runtime's; give --engine onnxruntime, or leave it out")


def prepare(model: nn.Module, setting: Setting) -> nn.Module:
    """The model in evaluation, on the device, in the precision; moved in place."""
    check_device(setting.device)
    if setting.device == "cpu":
        keep_memory()
    else:
        _compute_in_float32()
    return model.eval().to(device=setting.device, dtype=DTYPES[setting.precision])


def _compute_in_float32() -> None:
    """Or fp32 would be TF32, which has the mantissa of fp16.

    cuDNN's convolutions take it by themselves, matrix products where an image sets TORCH_ALLOW_TF32_CUBLAS_OVERRIDE.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def build(source: nn.Module | Path, setting: Setting, options: BuildOptions) -> Built:
    """The prepared module as it is, or compiled for the setting's batch."""
    model = cast(nn.Module, source).eval()
    start = time.perf_counter()
    return Built(_compiled(model, setting) if setting.compile else model, time.perf_counter() - start)


def _compiled(model: nn.Module, setting: Setting) -> nn.Module:
    """One graph of the whole forward, compiled now; no part of it falls back to eager without a word."""
    _lift_recompile_limits()
    compiled = cast(nn.Module, torch.compile(model, fullgraph=True, dynamic=False))
    try:
        with torch.inference_mode():
            compiled(_batch(setting))
    except Exception as error:  # dynamo, inductor and the C++ compiler each have their own
        raise UserError(
            f"torch.compile can't compile this model here ({first_line(error)}); leave --compile out"
        ) from error
    return compiled


def _lift_recompile_limits() -> None:
    """Hundreds of variants share the code of one forward; past a handful dynamo would take them for a mistake."""
    config = importlib.import_module("torch._dynamo").config
    for name in RECOMPILE_LIMITS:
        if hasattr(config, name):
            setattr(config, name, NO_LIMIT)


def load(built: Built, setting: Setting) -> Session:
    """A session of a built module.

    Raises:
        UserError: a CUDA graph is asked for and can't be captured.
    """
    model: nn.Module = built.artefact
    if not setting.device.startswith("cuda"):
        return _HostSession(model, setting)
    if not setting.cuda_graphs:
        return _EventSession(model, setting)
    try:
        return _GraphSession(model, setting)
    except RuntimeError as error:
        raise UserError(
            f"a CUDA graph could not be captured ({first_line(error)}); give --no-cuda-graphs, and another --out"
        ) from error


def objection_to_graphs(model: nn.Module, setting: Setting) -> str | None:
    """Why the model can't be captured as a CUDA graph here, or None if it can."""
    if not setting.device.startswith("cuda"):
        return f"{setting.device} has no CUDA graphs"
    try:
        _GraphSession(model.eval(), setting)
    except RuntimeError as error:
        return first_line(error)
    return None


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
    uuid = asked(lambda: torch.cuda.get_device_properties(device).uuid)
    return str(uuid) if uuid else None


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.lru_cache(maxsize=1)
def _batch(setting: Setting) -> Tensor:
    return _placed(seeded_images(setting.batch_size, setting.image_px), setting)


def _placed(images: Tensor, setting: Setting) -> Tensor:
    """A copy on the device, made in inference mode always: a compiled model is compiled anew for other tensors."""
    with torch.inference_mode():
        return images.to(setting.device, DTYPES[setting.precision], copy=True)


class _HostSession:
    """Timed with the host's clock: on the CPU a forward has ended when the call returns."""

    timer = "host clock"

    def __init__(self, model: nn.Module, setting: Setting) -> None:
        self.model = model
        self.setting = setting
        self.device = setting.device
        self.images = _batch(setting)
        self.first_ms = self._first_ms()

    @torch.inference_mode()
    def _first_ms(self) -> float:
        return once_ms(lambda: self.model(self.images))

    @torch.inference_mode()
    def time_ms(self, count: int) -> list[float]:
        samples = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self.model(self.images)
            samples.append((time.perf_counter_ns() - start) / 1e6)
        return samples

    @torch.inference_mode()
    def run(self, images: Tensor) -> Outputs:
        # A compiled model would be compiled anew for each batch size.
        return batch_by_batch(self._outputs, images, self.setting.batch_size if self.setting.compile else len(images))

    def _outputs(self, images: Tensor) -> Outputs:
        output: Tensor = self.model(_placed(images, self.setting))
        return {LOGITS: as_float32(output.float().cpu().numpy())}

    @torch.inference_mode()
    def tapped(self, images: Tensor) -> Outputs:
        """Images [B, 3, height, width] to all that a graph with taps has as outputs, see `export.graph.to_onnx`.

        Run in eager, on the session's device and in its precision.
        """
        eager = getattr(self.model, "_orig_mod", self.model)
        found = graph.tapped(eager, _placed(images, self.setting))
        return {
            name: (value.float() if value.is_floating_point() else value).cpu().numpy() for name, value in found.items()
        }

    def memory_mib(self) -> float | None:
        return resident_mib()

    def precision(self) -> str | None:
        """That of the weights, which is that of every product in torch."""
        dtype = next(self.model.parameters()).dtype
        return next((name for name, known in DTYPES.items() if known is dtype), None)


class _EventSession(_HostSession):
    """Timed on the device, by events around each forward; the host waits once, at the end."""

    timer = "CUDA events"
    _peak_mib: float | None = None

    @torch.inference_mode()
    def _first_ms(self) -> float:
        torch.cuda.synchronize(self.device)
        return once_ms(self._awaited_forward)

    def _awaited_forward(self) -> None:
        self.model(self.images)
        torch.cuda.synchronize(self.device)

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
            self._awaited_forward()
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
