"""ONNX Runtime: on the CPU, on CUDA, or through its TensorRT provider.

Spinning is off: the threads of one session, waiting in a loop for its next forward, take the processors from the
session that is being timed, and a sweep keeps hundreds of them. Where the processors are not all the process's own it
is the faster setting for a single session too. A deployment that wants the same figures sets it as well.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from pomt_edge.engines import BuildOptions, Built, Session, Setting
from pomt_edge.engines._host import Outputs, as_float32, batch_by_batch, first_line, resident_mib, seeded_images
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.export.target import TARGETS, Target
from pomt_edge.machine import gpu
from pomt_edge.machine.facts import asked
from pomt_edge.machine.system import nvml

TAKES: Literal["module", "onnx"] = "onnx"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
TENSORRT_FLAGS = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}
PRODUCTS = ("MatMul", "Gemm", "Conv", "Attention")
"""What the names of kernels that multiply matrices have in them: FusedMatMul, QLinearMatMul, QGemm, …"""
PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
"""By the type of such a kernel's first input, as the profiler writes it."""
NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
BEFORE_INT8 = ["MatMulAddFusion"]
"""It comes before products in whole numbers are looked for, and makes ones of floats of them."""
SILENT = 4
"""Log fatal errors alone: what fails is raised too, and said in one line."""


def version() -> str | None:
    try:
        return str(_library().__version__)
    except UserError:
        return None


def target() -> Target:
    return TARGETS["generic"]


def default_device() -> str:
    """`cuda` where ONNX Runtime is built for it and there is one, else `cpu`."""
    with contextlib.suppress(UserError):
        check_device("cuda")
        return "cuda"
    return "cpu"


def check_device(device: str) -> None:
    """Raise Unavailable unless ONNX Runtime is installed and can use the device."""
    available = _library().get_available_providers()
    if not device.startswith("cuda"):
        return
    if PROVIDERS["cuda"] not in available:
        raise Unavailable(
            f"--device {device}: this ONNX Runtime is built without CUDA; type: pip uninstall -y onnxruntime && "
            "pip install onnxruntime-gpu"
        )
    if not torch.cuda.is_available() and nvml() is None:
        raise Unavailable(f"--device {device}: no CUDA device is usable here; try --device cpu")


def check_setting(setting: Setting) -> None:
    """Raise a UserError for a provider that does not fit, or a precision that no kernel of it is in."""
    provider = _provider(setting)
    on_gpu = setting.device.startswith("cuda")
    if on_gpu == (provider == "cpu"):
        fitting = "cuda or tensorrt" if on_gpu else "cpu"
        raise UserError(f"--provider {provider} does not run on --device {setting.device}; give --provider {fitting}")
    available = _library().get_available_providers()
    if PROVIDERS[provider] not in available:
        known = ", ".join(name for name, title in PROVIDERS.items() if title in available)
        raise UserError(f"--provider {provider}: this ONNX Runtime has {known}; type: pip install onnxruntime-gpu")
    if provider == "cpu" and setting.precision == "bf16":
        raise UserError("ONNX Runtime's CPU provider does not run bf16; give --precision fp32, or --engine openvino")


def gpu_uuid(device: str) -> str | None:
    """The UUID by which the driver knows a CUDA device, from torch or from NVML; None for others."""
    if not device.startswith("cuda"):
        return None
    uuid = asked(lambda: torch.cuda.get_device_properties(device).uuid)
    found = None if uuid else gpu.handle(device)
    uuid = asked(lambda: found.nvml.nvmlDeviceGetUUID(found.handle)) if found else uuid
    return str(uuid).removeprefix("GPU-") if uuid else None


def objection_to_graphs(model: nn.Module, setting: Setting) -> str | None:
    """Whether a graph can be captured shows when it is loaded."""
    return None if setting.device.startswith("cuda") else f"{setting.device} has no CUDA graphs"


def prepare(model: nn.Module, setting: Setting) -> nn.Module:
    """The model in evaluation, in float32 on the host: it is exported from there."""
    return model.eval().float().cpu()


def build(source: nn.Module | Path, setting: Setting, options: BuildOptions) -> Built:
    """The file as it is: ONNX Runtime optimises it for the machine at each load."""
    path = cast(Path, source)
    return Built(path, size_mib=path.stat().st_size / 2**20)


def load(built: Built, setting: Setting) -> Session:
    """A session of an ONNX file.

    Raises:
        UserError: a provider that does not come up, a graph it does not take, or a precision that it runs as another.
    """
    session = _Session(built.artefact, setting)
    if setting.precision != "fp32":
        _check_precision(session.precision(), setting)
    return session


def _check_precision(found: str | None, setting: Setting) -> None:
    """Graphs are loaded in any precision: kernels that the provider lacks are run in float32, between casts."""
    if found not in (None, setting.precision):
        title = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}[_provider(setting)]
        raise UserError(
            f"ONNX Runtime's {title} provider runs {setting.precision} in {found}; give --precision {found}, or "
            "another --engine"
        )


class _Session:
    """Timed with the host's clock round a forward on bound buffers: no image and no output is copied in it."""

    timer = "host clock"

    def __init__(self, path: Path, setting: Setting) -> None:
        self._path, self._setting = path, setting
        self._session = _opened(path, setting)
        self._binding = self._session.io_binding()
        self._seeded = seeded_images(setting.batch_size, setting.image_px).numpy()
        given = self._session.get_inputs()[0]
        # A copy: the buffer lies where the array does on the CPU, and is overwritten.
        self._images = _library().OrtValue.ortvalue_from_numpy(self._seeded.copy(), *self._place)
        self._binding.bind_ortvalue_input(given.name, self._images)
        self._outputs = {output.name: self._buffer(output) for output in self._session.get_outputs()}
        for name, buffer in self._outputs.items():
            self._binding.bind_ortvalue_output(name, buffer)
        self._forward()

    @property
    def _place(self) -> tuple[str, int]:
        """Where the buffers are: kind and number of the device."""
        kind, _, index = self._setting.device.partition(":")
        return kind, int(index or 0)

    def _buffer(self, output: Any) -> Any:
        shape = [size if isinstance(size, int) else self._setting.batch_size for size in output.shape]
        return _library().OrtValue.ortvalue_from_shape_and_type(shape, NUMPY[output.type], *self._place)

    def _forward(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
        except Exception as error:
            raise _refusal(self._path, self._setting, error) from error

    def time_ms(self, count: int) -> list[float]:
        self._images.update_inplace(self._seeded)
        samples = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            samples.append((time.perf_counter_ns() - start) / 1e6)
        return samples

    def run(self, images: Tensor) -> Outputs:
        return batch_by_batch(self._run_batch, images, self._setting.batch_size)

    def _run_batch(self, images: Tensor) -> Outputs:
        self._images.update_inplace(np.ascontiguousarray(images.float().numpy()))
        self._forward()
        return {name: as_float32(buffer.numpy()) for name, buffer in self._outputs.items()}

    def memory_mib(self) -> float | None:
        return resident_mib()

    def precision(self) -> str | None:
        """What most kernels that multiply matrices run in, by the profile of one forward of a session of its own."""
        kernels = Counter(
            PRECISIONS.get(next(iter(event["args"]["input_type_shape"][0])))
            for event in _profile(self._path, self._setting)
            if any(word in event["args"]["op_name"] for word in PRODUCTS)
        )
        return kernels.most_common(1)[0][0] if kernels else None


def _profile(path: Path, setting: Setting) -> list[dict[str, Any]]:
    """The kernels of one forward."""
    with tempfile.TemporaryDirectory(prefix="pomt-edge-") as folder:
        session = _opened(path, setting, profile_into=Path(folder))
        session.run(None, {session.get_inputs()[0].name: seeded_images(setting.batch_size, setting.image_px).numpy()})
        events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event["name"].endswith("_kernel_time")]


def _opened(path: Path, setting: Setting, profile_into: Path | None = None) -> Any:
    """A session on the very provider that was asked for: by itself ONNX Runtime takes the CPU where that fails."""
    library = _library()
    options = library.SessionOptions()
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = SILENT
    if profile_into is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_into / "profile")
    wanted = PROVIDERS[_provider(setting)]
    # A forward that is profiled is bound to no fixed buffers, as a captured one has to be.
    graphs = setting.cuda_graphs and profile_into is None
    try:
        providers = [(wanted, _provider_options(path, setting, graphs))]
        disabled = BEFORE_INT8 if setting.precision == "int8" else []
        session = library.InferenceSession(str(path), options, providers=providers, disabled_optimizers=disabled)
    except Exception as error:
        raise _refusal(path, setting, error) from error
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise UserError(
            f"ONNX Runtime's {wanted} does not come up here: its CUDA, cuDNN or TensorRT libraries are missing or of "
            "another version; type: pip install 'onnxruntime-gpu[cuda,cudnn]', or give --device cpu"
        )
    return session


def _provider_options(path: Path, setting: Setting, graphs: bool) -> dict[str, str]:
    provider = _provider(setting)
    if provider == "cpu":
        return {}
    options = {"device_id": setting.device.partition(":")[2] or "0"}
    if provider == "cuda":
        return options | ({"enable_cuda_graph": "1"} if graphs else {})
    options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(path.parent)}
    options |= {TENSORRT_FLAGS[setting.precision]: "1"} if setting.precision in TENSORRT_FLAGS else {}
    return options | ({"trt_cuda_graph_enable": "1"} if graphs else {})


def _refusal(path: Path, setting: Setting, error: Exception) -> UserError:
    graphs = "; give --no-cuda-graphs" if setting.cuda_graphs else ""
    return UserError(
        f"ONNX Runtime {version()} can't run {path.name} in {setting.precision} ({first_line(error)}){graphs}"
        + ("" if graphs else "; try --precision fp32, or another --engine")
    )


def _provider(setting: Setting) -> str:
    return setting.provider or ("cuda" if setting.device.startswith("cuda") else "cpu")


def _library() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        found = "not installed" if absent else f"can't be imported ({first_line(error)})"
        install = "pip install onnxruntime" if absent else "pip install --force-reinstall onnxruntime"
        raise Unavailable(f"--engine onnxruntime: {found}; type: {install}") from error
