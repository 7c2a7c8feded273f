"""A built engine in a CUDA device's memory: run, timed and inspected."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pomt_edge.engines import Built, Session, Setting, _tensorrt_layers
from pomt_edge.engines._host import Outputs, batch_by_batch, first_line, once_ms, seeded_images
from pomt_edge.engines._tensorrt import Library, listening, logger, on
from pomt_edge.engines._tensorrt_faults import of_loading
from pomt_edge.errors import UserError

MIB = 2**20
TORCH_TYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}
WARM_UP_FORWARDS = 3


def load(library: Library, built: Built, setting: Setting) -> Session:
    """The session of an engine file.

    Raises:
        UserError: it was built by another version or for another GPU, runs in another precision than asked, or its
            forward fails or can't be captured as a CUDA graph.
    """
    trt, file = library.load(), Path(built.artefact)
    with on(setting.device), listening(trt) as messages:
        runtime = trt.Runtime(logger(trt))
        engine = runtime.deserialize_cuda_engine(_content(file))
        context = execution_context(trt, engine) if engine is not None else None
        if context is None:
            raise of_loading(library, messages, file)
    try:
        session = _Session(trt, runtime, engine, context, setting, file)
    except RuntimeError as error:
        raise UserError(
            f"{file} was loaded and does not run ({first_line(error)}): give a smaller --batch-size, or build it again"
        ) from error
    _tensorrt_layers.check(setting.precision, session.layers, library.title)
    if setting.cuda_graphs:
        session.capture()
    return session


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); build it again") from error


def execution_context(trt: Any, engine: Any) -> Any:
    """A context; where kernels are compiled at run time, all at once: the time must not change half-way."""
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)


def inspected(trt: Any, engine: Any) -> list[_tensorrt_layers.Layer]:
    """The engine's layers; none from a library without an inspector."""
    if not hasattr(engine, "create_engine_inspector"):
        return []
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return _tensorrt_layers.from_inspector(text)


class Buffers(Protocol):
    """An engine's inputs and outputs, bound to tensors of a fixed batch."""

    images: Tensor
    outputs: dict[str, Tensor]

    def enqueue(self, stream: int) -> bool:
        """Put one forward on a CUDA stream; False: it was refused."""


def buffers(trt: Any, engine: Any, context: Any, setting: Setting, device: str) -> Buffers:
    """By names where the library knows them (8.5 and newer), else by the indices of its bindings."""
    kind = _Named if hasattr(engine, "num_io_tensors") else _Indexed
    return kind(trt, engine, context, setting, device)


def _shape(sizes: Any, setting: Setting) -> tuple[int, ...]:
    return tuple(size if size != -1 else wanted for size, wanted in zip(sizes, _wanted(setting), strict=True))


def _wanted(setting: Setting) -> tuple[int, int, int, int]:
    return (setting.batch_size, 3, setting.image_px, setting.image_px)


class _Named:
    def __init__(self, trt: Any, engine: Any, context: Any, setting: Setting, device: str) -> None:
        self._context = context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        tensors: dict[str, Tensor] = {}
        for name in sorted(names, key=lambda name: name not in inputs):  # outputs' shapes follow from the inputs'
            if name in inputs:
                context.set_input_shape(name, _shape(engine.get_tensor_shape(name), setting))
            kind = TORCH_TYPES[engine.get_tensor_dtype(name).name]
            tensors[name] = torch.zeros(tuple(context.get_tensor_shape(name)), dtype=kind, device=device)
            context.set_tensor_address(name, tensors[name].data_ptr())
        self.images = tensors[inputs[0]]
        self.outputs = {name: tensors[name] for name in names if name not in inputs}

    def enqueue(self, stream: int) -> bool:
        return bool(self._context.execute_async_v3(stream))


class _Indexed:
    def __init__(self, trt: Any, engine: Any, context: Any, setting: Setting, device: str) -> None:
        self._context = context
        indices = range(engine.num_bindings)
        inputs = [index for index in indices if engine.binding_is_input(index)]
        for index in inputs:
            context.set_binding_shape(index, _shape(engine.get_binding_shape(index), setting))
        tensors = [
            torch.zeros(
                tuple(context.get_binding_shape(index)),
                dtype=TORCH_TYPES[engine.get_binding_dtype(index).name],
                device=device,
            )
            for index in indices
        ]
        self._addresses = [tensor.data_ptr() for tensor in tensors]
        self.images = tensors[inputs[0]]
        self.outputs = {engine.get_binding_name(index): tensors[index] for index in indices if index not in inputs}

    def enqueue(self, stream: int) -> bool:
        return bool(self._context.execute_async_v2(self._addresses, stream))


class _Session:
    """Timed on the device by events around each forward; the host waits once, at the end."""

    timer = "CUDA events"

    def __init__(self, trt: Any, runtime: Any, engine: Any, context: Any, setting: Setting, file: Path) -> None:
        self._trt, self._setting, self._file = trt, setting, file
        self._runtime, self._engine, self._context = runtime, engine, context  # each needs the one before it
        self._graph: torch.cuda.CUDAGraph | None = None
        self.layers = inspected(trt, engine)
        with on(setting.device):
            self._stream = torch.cuda.Stream()
            self._buffers = buffers(trt, engine, context, setting, setting.device)
            self._buffers.images.copy_(seeded_images(setting.batch_size, setting.image_px))
            torch.cuda.synchronize()
            self.first_ms = once_ms(self._awaited_forward)

    def _awaited_forward(self) -> None:
        self._enqueue()
        self._stream.synchronize()

    def capture(self) -> None:
        """Replay a captured graph from now on."""
        graph = torch.cuda.CUDAGraph()
        try:
            with on(self._setting.device):
                with torch.cuda.stream(self._stream):
                    for _ in range(WARM_UP_FORWARDS):  # the first calls allocate, which a capture does not allow
                        self._enqueue()
                self._stream.synchronize()
                with torch.cuda.graph(graph, stream=self._stream):
                    self._enqueue()
        except RuntimeError as error:
            raise UserError(
                f"a CUDA graph could not be captured ({first_line(error)}); give --no-cuda-graphs"
            ) from error
        self._graph, self.timer = graph, "CUDA graph replay"

    def _enqueue(self) -> None:
        with listening(self._trt) as messages:
            if not self._buffers.enqueue(self._stream.cuda_stream):
                raise RuntimeError(f"TensorRT refused a forward: {messages.first_error()}")

    def _forward(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        else:
            self._enqueue()

    def time_ms(self, count: int) -> list[float]:
        with on(self._setting.device), torch.cuda.stream(self._stream):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * count)]
            for start, end in zip(marks[::2], marks[1::2], strict=True):
                start.record()
                self._forward()
                end.record()
            self._stream.synchronize()
            return [float(start.elapsed_time(end)) for start, end in zip(marks[::2], marks[1::2], strict=True)]

    def run(self, images: Tensor) -> Outputs:
        return batch_by_batch(self._run_batch, images, len(self._buffers.images))

    def _run_batch(self, images: Tensor) -> Outputs:
        with on(self._setting.device), torch.cuda.stream(self._stream):
            self._buffers.images.copy_(images)
            self._forward()
            return {name: _numpy(output.cpu()) for name, output in self._buffers.outputs.items()}

    def memory_mib(self) -> float | None:
        """What the engine says of activations and weights, and the inputs and outputs."""
        scratch = getattr(self._engine, "device_memory_size_v2", None)  # 10.1 and newer
        scratch = self._engine.device_memory_size if scratch is None else scratch
        bound = sum(tensor.nbytes for tensor in [self._buffers.images, *self._buffers.outputs.values()])
        return float(scratch + self._weights_bytes() + bound) / MIB

    def _weights_bytes(self) -> int:
        """Older engines do not tell: their file holds little but weights."""
        if hasattr(self._engine, "get_engine_stat"):
            return int(self._engine.get_engine_stat(self._trt.EngineStat.TOTAL_WEIGHTS_SIZE))
        return self._file.stat().st_size

    def precision(self) -> str | None:
        return _tensorrt_layers.precision(self.layers)


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
