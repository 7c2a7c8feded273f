"""Types and shapes in a graph, inferred without handling its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomt_edge.errors import UserError

if TYPE_CHECKING:
    import onnx

SMALL_BYTES = 1024
"""Shapes, axes and indices are smaller, and inference reads them; weights are larger, and it does not."""


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its weights turned into inputs: quick to check, and never beyond protobuf's 2 GB."""
    import onnx
    from onnx import helper

    graph = model.graph
    weights = [tensor for tensor in graph.initializer if is_large(tensor)]
    taken = {tensor.name for tensor in weights}
    inputs = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in weights]
    found = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    found.graph.name = graph.name or "graph"
    found.graph.node.extend(graph.node)
    found.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name not in taken)
    found.graph.input.extend([*(value for value in graph.input if value.name not in taken), *inputs])
    found.graph.output.extend(graph.output)
    return found


def inferred(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Every value of the graph by its name, inputs, outputs and initializers included.

    Raises:
        UserError: a node does not fit its inputs.
    """
    import onnx
    from onnx import helper, shape_inference

    try:
        graph = shape_inference.infer_shapes(light(model), check_type=True, strict_mode=True, data_prop=True).graph
    except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise UserError(f"not a valid ONNX graph: {' '.join(str(error).split())}") from error
    values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    for tensor in graph.initializer:
        values[tensor.name] = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
    return values


def annotate(model: onnx.ModelProto) -> None:
    """Write the inferred type and shape of every value into the graph itself."""
    graph = model.graph
    named = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    values = inferred(model)
    del graph.value_info[:]
    graph.value_info.extend(value for name, value in values.items() if name not in named)


def is_large(tensor: onnx.TensorProto) -> bool:
    """Whether an initializer is a weight rather than a shape, an axis or an index; raw data alone is looked at."""
    return len(tensor.raw_data) > SMALL_BYTES


def dims(value: onnx.ValueInfoProto) -> list[int | None] | None:
    """The shape of a value; None for a dimension that is not fixed, and for all where not even the rank is known."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    shape = value.type.tensor_type.shape
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in shape.dim]
