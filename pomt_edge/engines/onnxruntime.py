"""ONNX Runtime: on the CPU, on CUDA, or through its TensorRT provider.

Spinning is off: the threads of one session, waiting in a loop for its next forward, take the processors from the
session that is being timed, and a sweep keeps hundreds of them. Where the processors are not all the process's own it
is the faster setting for a single session too. A deployment that wants the same figures sets it as well.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
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
from pomt_edge.machine import gpu
from pomt_edge.machine.facts import asked
from pomt_edge.machine.system import nvml

TAKES: Literal["module", "onnx"] = "onnx"
MIB = 2**20
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
TITLES = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
TENSORRT_FLAGS = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8": "trt_int8_enable"}
PRODUCTS = ("MatMul", "Gemm", "Conv", "Attention")
"""What the names of kernels that multiply matrices have in them: FusedMatMul, QLinearMatMul, QGemm, …"""
PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
"""By the type of such a kernel's first input, as the profiler writes it."""
NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
BEFORE_INT8 = ["MatMulAddFusion"]
"""It comes before products in whole numbers are looked for, and makes ones of floats of them."""
WHY_NOT_UP = re.compile(r"(?:CU\w+ failure|Unknown provider option|Please install)[^;\n]*")
"""Where a provider says what it lacks; before that comes the place in its sources, and templates."""
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
    if provider == "cpu" and setting.precision == "fp16":  # known before minutes of exports
        with tempfile.TemporaryDirectory(prefix="pomt-edge-") as folder:
            single = _Session(Artefact(_half_product(Path(folder), setting)), setting)
            _check_precision(single.precision(), setting)


def _half_product(folder: Path, setting: Setting) -> Path:
    """A graph of one product in float16, by which a provider shows whether it has a kernel for that."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    px = setting.image_px
    shape = [setting.batch_size, 3, px, px]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("MatMul", ["half", "weight"], ["product"]),
            helper.make_node("Cast", ["product"], ["logits"], to=TensorProto.FLOAT),
        ],
        "half_product",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.eye(px, dtype=np.float16), "weight")],
    )
    file = folder / "half_product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return file


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
    return Built(_artefact(path, setting, options), size_mib=path.stat().st_size / MIB)


@dataclass(frozen=True)
class Artefact:
    """What a session is opened from."""

    file: Path
    engines: Path | None = None
    """Where the TensorRT provider keeps the engines of this build, so that it is quick to load again."""
    workspace_mib: int | None = None


def _artefact(path: Path, setting: Setting, options: BuildOptions) -> Artefact:
    if _provider(setting) != "tensorrt":
        return Artefact(path)
    engines = options.folder / f"{options.name}.trt_cache"
    # An engine of other weights is taken for this graph's where file and nodes have the same names.
    shutil.rmtree(engines, ignore_errors=True)
    engines.mkdir()
    return Artefact(path, engines, options.workspace_mib)


def load(built: Built, setting: Setting) -> Session:
    """A session of an ONNX file.

    Raises:
        UserError: a provider that does not come up, a graph it does not take, products that it leaves to the CPU, or a
            precision that it runs as another.
    """
    session = _Session(built.artefact, setting)
    # CUDA has all products in float32, and a profile of each count takes a second session.
    if _provider(setting) == "tensorrt" or setting.precision != "fp32":
        _check_places(session.products, setting)
    if setting.precision != "fp32":
        _check_precision(session.precision(), setting)
    return session


def _check_places(products: Sequence[Kernel], setting: Setting) -> None:
    """What a provider refuses the next one runs, and the last one is the CPU."""
    provider = _provider(setting)
    on_cpu = sum(kernel.provider == PROVIDERS["cpu"] for kernel in products)
    if provider != "cpu" and on_cpu:
        other = "--provider cuda" if provider == "tensorrt" else "--precision fp32"
        raise UserError(
            f"ONNX Runtime's {TITLES[provider]} provider leaves {on_cpu} kernels that multiply matrices to the CPU; "
            f"give {other}, or another --engine"
        )


def _check_precision(found: str | None, setting: Setting) -> None:
    """Graphs are loaded in any precision: kernels that the provider lacks are run in float32, between casts."""
    if found not in (None, setting.precision):
        raise UserError(
            f"ONNX Runtime's {TITLES[_provider(setting)]} provider runs {setting.precision} in {found}; "
            f"give --precision {found}, or another --engine"
        )


class _Session:
    """Timed with the host's clock round a forward on bound buffers: no image and no output is copied in it."""

    timer = "host clock"

    def __init__(self, artefact: Artefact, setting: Setting) -> None:
        self._artefact, self._setting = artefact, setting
        self._session = _opened(artefact, setting)
        self._binding = self._session.io_binding()
        self._seeded = seeded_images(setting.batch_size, setting.image_px).numpy()
        given = self._session.get_inputs()[0]
        # A copy: the buffer lies where the array does on the CPU, and is overwritten.
        self._images = _library().OrtValue.ortvalue_from_numpy(self._seeded.copy(), *self._place)
        self._binding.bind_ortvalue_input(given.name, self._images)
        self._outputs = {output.name: self._buffer(output) for output in self._session.get_outputs()}
        for name, buffer in self._outputs.items():
            self._binding.bind_ortvalue_output(name, buffer)
        self.first_ms = once_ms(self._forward)

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
            raise _refusal(self._artefact.file, self._setting, error) from error

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

    @functools.cached_property
    def products(self) -> list[Kernel]:
        """The kernels that multiply matrices, by the profile of one forward of a session of its own.

        What the TensorRT provider runs is not among them: to ONNX Runtime that is one kernel, which tells nothing.
        """
        kernels = _profile(self._artefact, self._setting)
        return [kernel for kernel in kernels if any(word in kernel.operation for word in PRODUCTS)]

    def precision(self) -> str | None:
        """What most kernels that multiply matrices run in."""
        found = Counter(kernel.precision for kernel in self.products)
        return found.most_common(1)[0][0] if found else None


@dataclass(frozen=True)
class Kernel:
    """One kernel of a forward."""

    operation: str
    provider: str
    precision: str | None

    @classmethod
    def of(cls, event: dict[str, Any]) -> Kernel:
        args = event["args"]
        first_type = next((kind for read in args["input_type_shape"] for kind in read), "")
        return cls(args["op_name"], args["provider"], PRECISIONS.get(first_type))


def _profile(artefact: Artefact, setting: Setting) -> list[Kernel]:
    """The kernels of one forward."""
    images = seeded_images(setting.batch_size, setting.image_px).numpy()
    with tempfile.TemporaryDirectory(prefix="pomt-edge-") as folder:
        session = _opened(artefact, setting, profile_into=Path(folder))
        try:
            session.run(None, {session.get_inputs()[0].name: images})
        except Exception as error:
            raise _refusal(artefact.file, setting, error) from error
        events = json.loads(Path(session.end_profiling()).read_text())
    return [Kernel.of(event) for event in events if event["name"].endswith("_kernel_time")]


def _opened(artefact: Artefact, setting: Setting, profile_into: Path | None = None) -> Any:
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
    # A forward that is profiled is bound to no fixed buffers, as a captured one has to be.
    providers = _providers(artefact, setting, setting.cuda_graphs and profile_into is None)
    try:
        session = library.InferenceSession(
            str(artefact.file),
            options,
            providers=providers,
            disabled_optimizers=BEFORE_INT8 if setting.precision == "int8" else [],
            # Or the constructor prints to the output, and tries the CPU.
            enable_fallback=0,
        )
    except (RuntimeError, ValueError) as error:  # of a provider; what is wrong with a graph has types of its own
        raise _not_up(setting, _why_not_up(error)) from error
    except Exception as error:
        raise _refusal(artefact.file, setting, error) from error
    wanted = [name for name, _ in providers]
    if session.get_providers()[: len(wanted)] != wanted:
        raise _not_up(setting, "its CUDA, cuDNN or TensorRT libraries are missing or of another version")
    return session


def _providers(artefact: Artefact, setting: Setting, graphs: bool) -> list[tuple[str, dict[str, str]]]:
    """The provider and its options, and the one that runs what it refuses."""
    provider = _provider(setting)
    if provider == "cpu":
        return [(PROVIDERS["cpu"], {})]
    device = {"device_id": setting.device.partition(":")[2] or "0"}
    # fp32 is to be float32: by itself CUDA multiplies it in TF32, which has the mantissa of fp16.
    cuda = device | {"use_tf32": "0"}
    if provider == "cuda":
        return [(PROVIDERS["cuda"], cuda | ({"enable_cuda_graph": "1"} if graphs else {}))]
    # The TensorRT provider has no such option, but TensorRT heeds this.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    # Unlike CUDA's, its switches are not taken as 1 and 0.
    tensorrt = device | ({"trt_cuda_graph_enable": "True"} if graphs else {})
    tensorrt |= {TENSORRT_FLAGS[setting.precision]: "True"} if setting.precision in TENSORRT_FLAGS else {}
    if artefact.engines is not None:
        tensorrt |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(artefact.engines)}
    if artefact.workspace_mib is not None:
        tensorrt |= {"trt_max_workspace_size": str(artefact.workspace_mib * MIB)}
    return [(PROVIDERS["tensorrt"], tensorrt), (PROVIDERS["cuda"], cuda)]


def _why_not_up(error: Exception) -> str:
    found = WHY_NOT_UP.search(str(error))
    return found.group().strip()[:200] if found else first_line(error)


def _not_up(setting: Setting, why: str) -> UserError:
    if _provider(setting) == "cpu":
        return UserError(f"ONNX Runtime {version()} does not start here ({why}); type: pip install -U onnxruntime")
    return UserError(
        f"ONNX Runtime's {TITLES[_provider(setting)]} provider does not come up here ({why}); type: pip install -U "
        "'onnxruntime-gpu[cuda,cudnn]', or give --device cpu"
    )


def _refusal(path: Path, setting: Setting, error: Exception) -> UserError:
    lower = "another --engine" if setting.precision == "fp32" else "--precision fp32, or another --engine"
    other = "give --no-cuda-graphs" if setting.cuda_graphs else f"try {lower}"
    return UserError(
        f"ONNX Runtime {version()} can't run {path.name} in {setting.precision} ({first_line(error)}); {other}"
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
