"""From opset 18 down to 13, for the TensorRT of older JetPacks, which misreads newer graphs without a word.

torch's exporter writes opset 18 whatever it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pomt_edge.errors import UserError
from pomt_edge.export import nodes, outputs, shapes

if TYPE_CHECKING:
    import onnx

OLDEST, NEWEST = 13, 18
NODE_NOTES_IR = 10
"""The first IR whose nodes and values have metadata of their own."""


def lowered(model: onnx.ModelProto, opset: int, ir_version: int) -> onnx.ModelProto:
    """The same computation in an older opset and an IR, with the types and shapes of all values written down.

    Raises:
        UserError: an operation that can't be said in that opset, named with the module that it came from.
    """
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    entry = next(entry for entry in found.opset_import if entry.domain in ("", "ai.onnx"))
    if not OLDEST <= opset <= entry.version <= NEWEST:
        raise UserError(f"can't bring a graph from opset {entry.version} to {opset}; from {NEWEST} down to {OLDEST}")
    if opset < entry.version:
        nodes.rewrite(found, _Lowering(found, opset).lower)
        entry.version = opset
    found.ir_version = ir_version
    if ir_version < NODE_NOTES_IR:
        _drop_notes(found)
    outputs.sweep(found)
    shapes.annotate(found)
    return found


def _drop_notes(model: onnx.ModelProto) -> None:
    graph = model.graph
    for noted in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        del noted.metadata_props[:]


class _Lowering:
    """What the rules need to know of the graph as it was."""

    def __init__(self, model: onnx.ModelProto, opset: int) -> None:
        self.model = model
        self.opset = opset
        self.values = shapes.inferred(model)
        self.constants = nodes.constants(model)

    def lower(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        rule = _rule_of(node.op_type)
        found = rule.lower(self, node) if rule and self.opset < rule.since else [node]
        for part in found:
            _check(part, self.opset, node)
        return found

    def dims(self, name: str) -> list[int | None]:
        """The shape of a value; [] where not even its rank is known."""
        return (shapes.dims(self.values[name]) if name in self.values else None) or []

    def element(self, name: str) -> int:
        return self.values[name].type.tensor_type.elem_type if name in self.values else 0


@dataclass(frozen=True)
class _Rule:
    since: int
    """The opset that brought the operation, or the form that is rewritten."""
    lower: Callable[[_Lowering, onnx.NodeProto], list[onnx.NodeProto]]


def _rule_of(op: str) -> _Rule | None:
    if op in RULES:
        return RULES[op]
    # ReduceSum alone took its axes as an input in 13 already.
    return REDUCE if op.startswith("Reduce") and op != "ReduceSum" else None


def _check(node: onnx.NodeProto, opset: int, source: onnx.NodeProto) -> None:
    """Refuse what the opset does not have: the operation, an attribute of it, or so many inputs."""
    from onnx import defs

    if node.domain not in ("", "ai.onnx"):
        return
    try:
        schema = defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        raise _refusal(source, opset, "the operation") from None
    for attribute in node.attribute:
        if attribute.name not in schema.attributes:
            raise _refusal(source, opset, f"its attribute '{attribute.name}'")
    if not schema.min_input <= len(node.input) <= schema.max_input:
        raise _refusal(source, opset, f"its form with {len(node.input)} inputs")


def _refusal(node: onnx.NodeProto, opset: int, what: str) -> UserError:
    return UserError(
        f"ONNX opset {opset} has not {what}: {nodes.described(node)}; give a newer --target, or another --method"
    )


def _reduce(graph: _Lowering, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Axes from an input to an attribute."""
    from onnx import helper

    stated = nodes.attributes(node)
    axes: list[int] | None = []
    if len(node.input) > 1 and node.input[1]:
        axes = nodes.integers(graph.constants, node.input[1])
    if axes is None:
        raise _refusal(node, graph.opset, "axes that are computed")
    if not axes and stated.get("noop_with_empty_axes"):
        return [helper.make_node("Identity", node.input[:1], node.output, node.name)]
    # No axes at all are all axes, then as now.
    kept = {"keepdims": stated.get("keepdims", 1)} | ({"axes": axes} if axes else {})
    return [helper.make_node(node.op_type, node.input[:1], node.output, node.name, **kept)]


def _layer_norm(graph: _Lowering, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Into the steps that TensorRT and ONNX Runtime know for a layer norm, and fuse again."""
    from onnx import TensorProto, helper

    stated = nodes.attributes(node)
    given, scale, bias = (*node.input, "")[:3]
    rank = len(graph.dims(given))
    if graph.element(given) != TensorProto.FLOAT or len(node.output) > 1 or not rank:
        raise _refusal(node, graph.opset, "any layer norm but one in float32 with one output")
    axis = stated.get("axis", -1)
    axes = list(range(axis if axis < 0 else axis - rank, 0))

    def name(step: str) -> str:
        return f"{node.output[0]}_{step}"

    def step(op: str, inputs: list[str], output: str, **extra: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], f"{node.name}_{output.rpartition('_')[2]}", **extra)

    epsilon = nodes.add_constant(graph.model, name("epsilon"), np.float32(stated.get("epsilon", 1e-5)))
    two = nodes.add_constant(graph.model, name("two"), np.float32(2))
    scaled = name("scaled") if bias else node.output[0]
    steps = [
        step("ReduceMean", [given], name("mean"), axes=axes, keepdims=1),
        step("Sub", [given, name("mean")], name("centred")),
        step("Pow", [name("centred"), two], name("squared")),
        step("ReduceMean", [name("squared")], name("variance"), axes=axes, keepdims=1),
        step("Add", [name("variance"), epsilon], name("above")),
        step("Sqrt", [name("above")], name("deviation")),
        step("Div", [name("centred"), name("deviation")], name("normed")),
        step("Mul", [name("normed"), scale], scaled),
    ]
    return [*steps, step("Add", [scaled, bias], node.output[0])] if bias else steps


def _split(graph: _Lowering, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A number of parts into their sizes."""
    from onnx import helper

    stated = nodes.attributes(node)
    if "num_outputs" not in stated:
        return [node]
    axis, parts = stated.get("axis", 0), stated["num_outputs"]
    dims = graph.dims(node.input[0])
    size = dims[axis] if dims else None
    if size is None:
        raise _refusal(node, graph.opset, "a split of an open dimension")
    part = -(-size // parts)
    sizes = nodes.add_constant(
        graph.model, f"{node.output[0]}_sizes", np.array([part] * (parts - 1) + [size - part * (parts - 1)])
    )
    return [helper.make_node("Split", [node.input[0], sizes], node.output, node.name, axis=axis)]


def _reshape(graph: _Lowering, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Without `allowzero`, which says something only where the shape has a zero."""
    stated = nodes.attributes(node)
    if stated.get("allowzero"):
        shape = nodes.integers(graph.constants, node.input[1])
        if shape is None or 0 in shape:
            return [node]
    del node.attribute[:]
    return [node]


def _shape(graph: _Lowering, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A part of a shape into all of it, and a slice."""
    from onnx import helper

    stated = nodes.attributes(node)
    if not stated:
        return [node]
    output = node.output[0]
    begin = nodes.add_constant(graph.model, f"{output}_begin", np.array([stated.get("start", 0)]))
    end = nodes.add_constant(graph.model, f"{output}_end", np.array([stated.get("end", np.iinfo(np.int32).max)]))
    whole = f"{output}_whole"
    return [
        helper.make_node("Shape", node.input, [whole], node.name),
        helper.make_node("Slice", [whole, begin, end], [output], f"{node.name}_part"),
    ]


def _cast_like(graph: _Lowering, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    from onnx import helper

    element = graph.element(node.input[1])
    if not element:
        return [node]
    return [helper.make_node("Cast", node.input[:1], node.output, node.name, to=element)]


REDUCE = _Rule(18, _reduce)
RULES = {
    "LayerNormalization": _Rule(17, _layer_norm),
    "Split": _Rule(18, _split),
    "Reshape": _Rule(14, _reshape),
    "Shape": _Rule(15, _shape),
    "CastLike": _Rule(15, _cast_like),
}
