"""A small TensorRT whose version FAKE_TENSORRT_VERSION gives, written from NVIDIA's public documents of 8.2 to 11.

What a version does not have, this does not have either. It parses with onnx, builds nothing, and its engine copies the
first numbers of each image to the logits. `calls` says what was asked for, `trouble` what is to go wrong.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
from types import SimpleNamespace
from typing import Any

import onnx

__version__ = os.environ["FAKE_TENSORRT_VERSION"]
VERSION = tuple(int(number) for number in __version__.split(".")[:2])
NAMED_IO, POOLS, METADATA = VERSION >= (8, 5), VERSION >= (8, 4), VERSION >= (8, 6)
TYPED, PROGRESS, INT64 = VERSION >= (10, 0), VERSION >= (10, 0), VERSION >= (10, 0)
BINDINGS = VERSION < (10, 0)
WEAK, EXPLICIT = VERSION < (11, 0), VERSION < (11, 0)

calls: list[tuple[Any, ...]] = []
trouble = SimpleNamespace(build=[], layers=None)
"""`build`: errors that the builder logs instead of building. `layers`: what the inspector shows."""


def _enum(name: str, members: str) -> Any:
    return enum.IntEnum(name, {member: index for index, member in enumerate(members.split())})


DataType = _enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8" + (" BF16 INT64" if INT64 else ""))
float32 = DataType.FLOAT
BuilderFlag = _enum("BuilderFlag", "TF32 " + ("FP16 INT8 OBEY_PRECISION_CONSTRAINTS" if WEAK else "") + " "
                    + ("BF16" if (9, 0) <= VERSION < (11, 0) else ""))  # fmt: skip
NetworkDefinitionCreationFlag = _enum(
    "NetworkDefinitionCreationFlag", ("EXPLICIT_BATCH " if EXPLICIT else "") + ("STRONGLY_TYPED" if TYPED else "")
)
ProfilingVerbosity = _enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
LayerInformationFormat = _enum("LayerInformationFormat", "ONELINE JSON")
LayerType = _enum("LayerType", "CONSTANT SHAPE IDENTITY MATRIX_MULTIPLY SOFTMAX TOPK OTHER")
if POOLS:
    MemoryPoolType = _enum("MemoryPoolType", "WORKSPACE")
if NAMED_IO:
    TensorIOMode = _enum("TensorIOMode", "NONE INPUT OUTPUT")


class ILogger:
    Severity = _enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")

    def __init__(self) -> None:
        pass


if PROGRESS:

    class IProgressMonitor:
        def __init__(self) -> None:
            pass


def _tensor(name: str, types: dict[str, int], shapes: dict[str, list[int]]) -> Any:
    kinds = {1: DataType.FLOAT, 10: DataType.HALF, 9: DataType.BOOL}
    return SimpleNamespace(name=name, dtype=kinds.get(types.get(name, 0), DataType.INT32), shape=shapes.get(name, []))


class _Layer:
    def __init__(self, node: Any, types: dict[str, int], shapes: dict[str, list[int]], again: str) -> None:
        self.name = node.name + again
        if METADATA:
            self.name, self.metadata = f"{node.op_type}{again}", f"[ONNX Layer: {node.name}]"
        kinds = {"MatMul": LayerType.MATRIX_MULTIPLY, "Softmax": LayerType.SOFTMAX, "TopK": LayerType.TOPK}
        self.type = kinds.get(node.op_type, LayerType.IDENTITY if node.op_type == "Cast" else LayerType.OTHER)
        self.op, self.node, self.precision, self.output_types = node.op_type, node.name, None, {}
        self._inputs = [_tensor(name, types, shapes) if name else None for name in node.input]
        self._outputs = [_tensor(name, types, shapes) for name in node.output]
        self.num_inputs, self.num_outputs = len(self._inputs), len(self._outputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_output(self, index: int) -> Any:
        return self._outputs[index]

    def set_output_type(self, index: int, kind: Any) -> None:
        self.output_types[index] = kind


class _Network:
    def __init__(self, flags: int) -> None:
        self.flags, self.layers, self.inputs, self.outputs = flags, [], [], []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Any:
        return self.layers[index]

    def get_input(self, index: int) -> Any:
        return self.inputs[index]


class OnnxParser:
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network, self._errors = network, []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse_from_file(self, path: str) -> bool:
        try:
            model = onnx.shape_inference.infer_shapes(onnx.load(path))
        except Exception:
            return self._refuse("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model.", -1, None)
        for index, node in enumerate(model.graph.node):
            if node.op_type == "Frobnicate":
                return self._refuse("UNSUPPORTED_NODE", "No importer registered for op: Frobnicate", index, node)
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        shapes = {value.name: [d.dim_value or -1 for d in value.type.tensor_type.shape.dim] for value in values}
        for node in model.graph.node:  # a softmax takes several layers
            self._network.layers += [_Layer(node, types, shapes, "")]
            if node.op_type == "Softmax":
                self._network.layers += [_Layer(node, types, shapes, "_1")]
        self._network.inputs = [_tensor(value.name, types, shapes) for value in model.graph.input]
        self._network.outputs = [_tensor(value.name, types, shapes) for value in model.graph.output]
        return True

    def _refuse(self, code: str, text: str, index: int, node: Any) -> bool:
        error = SimpleNamespace(
            code=lambda: SimpleNamespace(name=code), desc=lambda: text, node=lambda: index, func=lambda: "importModel"
        )
        if METADATA:  # since then an error tells its node's name
            error.node_name = lambda: node.name if node else ""
        self._errors.append(error)
        return False


class _Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return b"cache+" + self.content.removeprefix(b"cache+")


class _Config:
    def __init__(self) -> None:
        self._cache = None
        if not POOLS:
            self.max_workspace_size = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name != "progress_monitor":
            calls.append((name, value))
        object.__setattr__(self, name, value)

    def set_flag(self, flag: Any) -> None:
        calls.append(("set_flag", flag.name))

    def clear_flag(self, flag: Any) -> None:
        calls.append(("clear_flag", flag.name))

    def add_optimization_profile(self, profile: Any) -> None:
        calls.append(("profile", profile.shapes))

    def create_timing_cache(self, content: bytes) -> _Cache | None:
        return _Cache(content) if content in (b"",) or content.startswith(b"cache+") else None

    def set_timing_cache(self, cache: _Cache, ignore_mismatch: bool) -> bool:
        calls.append(("timing cache", cache.content))
        self._cache = cache
        return True

    def get_timing_cache(self) -> _Cache | None:
        return self._cache

    if POOLS:

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            calls.append(("workspace", size))


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.shapes[name] = (low, best, high)


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> _Network:
        calls.append(("network", [flag.name for flag in NetworkDefinitionCreationFlag if flags >> flag & 1]))
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        calls.append(("float32", {layer.node for layer in network.layers if layer.precision == float32}))
        calls.append(("float32 layers", network.layers))
        for text in trouble.build:
            self._logger.log(ILogger.Severity.ERROR, text)
        if trouble.build:
            return None
        if PROGRESS:
            config.progress_monitor.phase_start("Building engine", None, 2)
            for step in range(2):
                if not config.progress_monitor.step_complete("Building engine", step):
                    return None
        io = [[t.name, t in network.inputs, list(t.shape), int(t.dtype)] for t in [*network.inputs, *network.outputs]]
        return json.dumps({"version": __version__, "io": io}).encode()


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        plan = json.loads(content)
        if plan["version"] != __version__:
            self._logger.log(
                ILogger.Severity.ERROR,
                "The engine plan file is not compatible with this version of TensorRT, expecting library version "
                f"{__version__} got {plan['version']}, please rebuild.",
            )
            return None
        return _Engine(plan["io"])


class _Engine:
    device_memory_size = 2**20

    def __init__(self, io: list[Any]) -> None:
        self._io = io

    def create_execution_context(self) -> Any:
        return _Context(self)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": trouble.layers or []}))

    def _row(self, name: str) -> Any:
        return next(row for row in self._io if row[0] == name)

    if NAMED_IO:

        @property
        def num_io_tensors(self) -> int:
            return len(self._io)

        def get_tensor_name(self, index: int) -> str:
            return self._io[index][0]

        def get_tensor_mode(self, name: str) -> Any:
            return TensorIOMode.INPUT if self._row(name)[1] else TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> Any:
            return self._row(name)[2]

        def get_tensor_dtype(self, name: str) -> Any:
            return DataType(self._row(name)[3])

    if BINDINGS:

        @property
        def num_bindings(self) -> int:
            return len(self._io)

        def get_binding_name(self, index: int) -> str:
            return self._io[index][0]

        def binding_is_input(self, index: int) -> bool:
            return self._io[index][1]

        def get_binding_shape(self, index: int) -> Any:
            return self._io[index][2]

        def get_binding_dtype(self, index: int) -> Any:
            return DataType(self._io[index][3])


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine, self._addresses, self._batch = engine, {}, None

    def _shape_of(self, row: Any) -> list[int]:
        return [self._batch if size == -1 else size for size in row[2]]

    def _forward(self, images: int, logits: int) -> bool:
        rows = {row[0]: self._shape_of(row) for row in self._engine._io}
        (batch, classes), size = rows["logits"], 4 * rows["images"][1] * rows["images"][2] * rows["images"][3]
        for index in range(batch):
            ctypes.memmove(logits + 4 * classes * index, images + size * index, 4 * classes)
        return True

    if NAMED_IO:

        def set_input_shape(self, name: str, shape: Any) -> bool:
            self._batch = shape[0]
            return True

        def get_tensor_shape(self, name: str) -> Any:
            return self._shape_of(self._engine._row(name))

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            calls.append(("execute_async_v3", stream_handle))
            return self._forward(self._addresses["images"], self._addresses["logits"])

    if BINDINGS:

        def set_binding_shape(self, index: int, shape: Any) -> bool:
            self._batch = shape[0]
            return True

        def get_binding_shape(self, index: int) -> Any:
            return self._shape_of(self._engine._io[index])

        def execute_async_v2(self, bindings: list[int], stream_handle: int) -> bool:
            calls.append(("execute_async_v2", stream_handle))
            return self._forward(*bindings)
