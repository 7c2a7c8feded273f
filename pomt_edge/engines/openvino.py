"""OpenVINO on the CPU."""

from __future__ import annotations

import functools
import importlib
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pomt_edge.engines import BuildOptions, Built, Session, Setting
from pomt_edge.engines._host import (
    Outputs,
    as_float32,
    batch_by_batch,
    first_line,
    once_ms,
    resident_mib,
    seeded_images,
)
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.export.target import TARGETS, Target

TAKES: Literal["module", "onnx"] = "onnx"
CPU = "CPU"
HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32"}
"""Always given: by itself OpenVINO takes bf16 wherever the processor has it. int8 is in the graph."""
CAPABILITIES = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
PRODUCTS = {"FullyConnected", "MatMul", "Convolution", "ScaledDotProductAttention"}
PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
"""By a layer's `runtimePrecision`."""


def version() -> str | None:
    try:
        return str(_library().__version__).partition("-")[0]
    except UserError:
        return None


def target() -> Target:
    return TARGETS["generic"]


def default_device() -> str:
    return "cpu"


def check_device(device: str) -> None:
    """Raise a UserError unless OpenVINO is installed and the device is the CPU."""
    _library()
    if device != "cpu":
        raise UserError(f"--engine openvino runs on the CPU here; give --device cpu instead of --device {device}")


def check_setting(setting: Setting) -> None:
    """Raise a UserError for a precision that this processor does not have."""
    found = {CAPABILITIES[name]: name for name in CAPABILITIES}
    has = [found[name] for name in _core().get_property(CPU, "OPTIMIZATION_CAPABILITIES") if name in found]
    if setting.precision not in has:
        raise UserError(f"--precision {setting.precision}: OpenVINO has {', '.join(sorted(has))} on this processor")


def gpu_uuid(device: str) -> str | None:
    return None


def objection_to_graphs(model: nn.Module, setting: Setting) -> str | None:
    return f"{setting.device} has no CUDA graphs"


def prepare(model: nn.Module, setting: Setting) -> nn.Module:
    """The model in evaluation, in float32 on the host: it is exported from there."""
    return model.eval().float().cpu()


def build(source: nn.Module | Path, setting: Setting, options: BuildOptions) -> Built:
    """The file as it is: OpenVINO compiles it for the processor at each load."""
    path = cast(Path, source)
    return Built(path, size_mib=path.stat().st_size / 2**20)


def load(built: Built, setting: Setting) -> Session:
    """A session of an ONNX file.

    Raises:
        UserError: a graph that OpenVINO does not take, or a precision that it runs as another.
    """
    session = _Session(built.artefact, setting)
    found = session.precision()
    if found not in (None, setting.precision):
        raise UserError(
            f"OpenVINO runs {setting.precision} in {found} on this processor; give --precision {found}, or another "
            "--engine"
        )
    return session


class _Session:
    """Timed with the host's clock: one request whose image buffer is fixed, and no output is copied."""

    timer = "host clock"

    def __init__(self, path: Path, setting: Setting) -> None:
        self._setting = setting
        self._seeded = seeded_images(setting.batch_size, setting.image_px).numpy()
        # A copy: the tensor shares the array's memory, and is overwritten.
        self._images = self._seeded.copy()
        try:
            self._compiled = _compiled(path, setting)
            self._request = self._compiled.create_infer_request()
            self._request.set_input_tensor(_library().Tensor(self._images, shared_memory=True))
            self.first_ms = once_ms(self._forward)
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO {version()} can't run {path.name} in {setting.precision} ({_reason(error)}); try "
                "--precision fp32, or another --engine"
            ) from error

    def _forward(self) -> None:
        self._request.infer(share_outputs=True)

    def time_ms(self, count: int) -> list[float]:
        self._images[...] = self._seeded
        samples = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self._request.infer(share_outputs=True)
            samples.append((time.perf_counter_ns() - start) / 1e6)
        return samples

    def run(self, images: Tensor) -> Outputs:
        return batch_by_batch(self._run_batch, images, self._setting.batch_size)

    def _run_batch(self, images: Tensor) -> Outputs:
        self._images[...] = images.float().numpy()
        self._forward()
        return {
            output.get_any_name(): as_float32(self._request.get_tensor(output).data)
            for output in self._compiled.outputs
        }

    def memory_mib(self) -> float | None:
        return resident_mib()

    def precision(self) -> str | None:
        """What most layers that multiply matrices run in, as the compiled model tells."""
        layers = [operation.get_rt_info() for operation in self._compiled.get_runtime_model().get_ordered_ops()]
        found = Counter(
            PRECISIONS.get(layer["runtimePrecision"].astype(str))
            for layer in layers
            if layer["layerType"].astype(str) in PRODUCTS
        )
        return found.most_common(1)[0][0] if found else None


def _reason(error: RuntimeError) -> str:
    """OpenVINO begins with where in its sources it was, line by line."""
    return str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__


def _compiled(path: Path, setting: Setting) -> Any:
    model = _core().read_model(path)
    model.reshape([setting.batch_size, 3, setting.image_px, setting.image_px])
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": HINTS[setting.precision],
    }
    return _core().compile_model(model, CPU, properties)


@functools.cache
def _core() -> Any:
    return _library().Core()


def _library() -> Any:
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "openvino"
        found = "not installed" if absent else f"can't be imported ({first_line(error)})"
        install = "pip install openvino" if absent else "pip install --force-reinstall openvino"
        raise Unavailable(f"--engine openvino: {found}; type: {install}") from error
