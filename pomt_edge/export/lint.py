"""Does a graph keep its target's rules? Older parsers don't refuse what they don't know: they misread it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pomt_edge.errors import UserError
from pomt_edge.export import nodes, shapes
from pomt_edge.export.target import Target

if TYPE_CHECKING:
    import onnx

FIRST_IN_TENSORRT = {
    "GatherND": (8, 2),
    "ScatterND": (8, 2),
    "LayerNormalization": (8, 6),
    "Gelu": (10, 0),
    "Attention": (10, 14),
}
"""The TensorRT that reads an operation first; what is not here, all of them read."""
RULE_SINCE = {"smallest": (8, 5), "axes": (10, 0), "int64": (10, 0), "bf16": (9, 0)}
"""The TensorRT from which on it is read as it is meant."""
TOP_K_LIMIT = 3840
NAMED = 3
"""Operations to name for each offence."""


def check(model: onnx.ModelProto, target: Target) -> None:
    """Refuse a graph that the target would not read as it is meant.

    Raises:
        UserError: every offence, with the operations that commit it and the modules they came from.
    """
    _check_valid(model)
    found: dict[str, list[str]] = {}
    for rule, where in _offences(_Graph(model, target)):
        found.setdefault(rule, []).append(where)
    if found:
        told = "; ".join(f"{rule}{_some(places)}" for rule, places in found.items())
        raise UserError(f"the graph breaks the rules of {target.title}: {told}; try another --target or --method")


def _some(places: list[str]) -> str:
    named = [place for place in places if place][:NAMED]
    rest = len(places) - len(named)
    return f": {', '.join(named)}{f' and {rest} more' if rest else ''}" if named else ""


def _check_valid(model: onnx.ModelProto) -> None:
    """What ONNX itself asks of a graph."""
    from onnx import checker, shape_inference

    try:
        for tensor in model.graph.initializer:
            checker.check_tensor(tensor)
        checker.check_model(shapes.light(model), full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise UserError(f"not a valid ONNX graph: {' '.join(str(error).split())}") from error


class _Graph:
    """A graph and what follows from it."""

    def __init__(self, model: onnx.ModelProto, target: Target) -> None:
        self.model = model
        self.target = target
        self.values = shapes.inferred(model)
        self.constants = nodes.constants(model)

    def older_than(self, version: tuple[int, int]) -> bool:
        return self.target.tensorrt is not None and self.target.tensorrt < version

    def element(self, name: str) -> int:
        return self.values[name].type.tensor_type.elem_type if name in self.values else 0


def _offences(graph: _Graph) -> Iterator[tuple[str, str]]:
    """A rule, and what breaks it ('': the graph as a whole)."""
    yield from _version(graph)
    for node in graph.model.graph.node:
        for rule in NODE_RULES:
            if broken := rule(graph, node):
                yield broken, nodes.described(node)
    yield from _values(graph)
    yield from _constants(graph)


def _version(graph: _Graph) -> Iterator[tuple[str, str]]:
    model, target = graph.model, graph.target
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset != target.opset:
        yield f"opset {opset}, expected {target.opset}", ""
    if model.ir_version > target.ir_version:
        yield f"IR {model.ir_version}, expected {target.ir_version} at most", ""


def _known(graph: _Graph, node: onnx.NodeProto) -> str | None:
    if node.domain not in ("", "ai.onnx"):
        return f"operations of the domain {node.domain}, which engines other than ONNX Runtime don't have"
    first = FIRST_IN_TENSORRT.get(node.op_type)
    if first and graph.older_than(first):
        return f"{node.op_type}, which TensorRT has from {_dotted(first)} on"
    return None


def _top_k(graph: _Graph, node: onnx.NodeProto) -> str | None:
    if node.op_type != "TopK":
        return None
    if not nodes.attributes(node).get("largest", 1) and graph.older_than(RULE_SINCE["smallest"]):
        return "TopK largest=0, which is read as largest=1"
    count = nodes.integers(graph.constants, node.input[1])
    if graph.target.tensorrt and (count is None or count[0] >= TOP_K_LIMIT):
        return f"TopK of {TOP_K_LIMIT} or more"
    return None


def _reduction_axes(graph: _Graph, node: onnx.NodeProto) -> str | None:
    # ReduceSum has had its axes as an input since opset 13, and they are read.
    wrong = node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) > 1
    return "axes as an input, which are not read" if wrong and graph.older_than(RULE_SINCE["axes"]) else None


def _scatter(graph: _Graph, node: onnx.NodeProto) -> str | None:
    reduction = nodes.attributes(node).get("reduction", b"none") if node.op_type.startswith("Scatter") else b"none"
    return (
        f"a scatter that reduces by {reduction.decode()}, which is refused or misread" if reduction != b"none" else None
    )


def _cumulated(graph: _Graph, node: onnx.NodeProto) -> str | None:
    from onnx import TensorProto

    floats = {0, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
    wrong = node.op_type == "CumSum" and graph.element(node.input[0]) not in floats
    return "CumSum of whole numbers" if wrong and graph.target.tensorrt else None


NODE_RULES: tuple[Callable[[_Graph, onnx.NodeProto], str | None], ...] = (
    _known,
    _top_k,
    _reduction_axes,
    _scatter,
    _cumulated,
)


def _values(graph: _Graph) -> Iterator[tuple[str, str]]:
    """Types that an engine does not have, and shapes that are not fixed."""
    from onnx import TensorProto

    dynamic = _has_open_batch(graph)
    makers = {name: nodes.described(node) for node in graph.model.graph.node for name in node.output}
    for name, value in graph.values.items():
        where = makers.get(name, name)
        element = value.type.tensor_type.elem_type
        if element == TensorProto.DOUBLE:
            yield "float64", where
        if element == TensorProto.BFLOAT16 and graph.older_than(RULE_SINCE["bf16"]):
            yield "bfloat16", where
        dims = shapes.dims(value)
        if dims is None or (None in dims and not dynamic):
            yield "a shape that is not fixed", where
    for value in (*graph.model.graph.input, *graph.model.graph.output) if dynamic else ():
        if None in (shapes.dims(value) or [])[1:]:
            yield "a dimension other than the batch that is not fixed", value.name


def _has_open_batch(graph: _Graph) -> bool:
    return any((shapes.dims(value) or [0])[0] is None for value in graph.model.graph.input)


def _constants(graph: _Graph) -> Iterator[tuple[str, str]]:
    from onnx import TensorProto, numpy_helper

    limits = np.iinfo(np.int32)
    for name, tensor in graph.constants.items() if graph.older_than(RULE_SINCE["int64"]) else ():
        if tensor.data_type == TensorProto.INT64:
            numbers = numpy_helper.to_array(tensor)
            if numbers.size and (numbers.min() < limits.min or numbers.max() > limits.max):
                yield "whole numbers beyond 32 bits", name


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
