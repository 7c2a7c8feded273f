"""The nodes of a graph: where they came from, what they say, and how to put others in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx


def module_of(node: onnx.NodeProto) -> str:
    """The module that a node came from, such as 'blocks.3.attn'; '': from none, or it is not told."""
    return node.name.rpartition("/")[0]


def described(node: onnx.NodeProto) -> str:
    """An operation for a message, such as 'TopK in blocks.3 (node blocks.3/TopK_41)'."""
    module = module_of(node)
    return f"{node.op_type}{f' in {module}' if module else ''} (node {node.name or 'without a name'})"


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """What the node says of itself, by name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The constant tensors of a graph by the names of their values."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    return found


def integers(constants: dict[str, onnx.TensorProto], name: str) -> list[int] | None:
    """The numbers of a constant such as axes or a shape; None where the value is no constant."""
    from onnx import numpy_helper

    if name not in constants:
        return None
    return [int(number) for number in numpy_helper.to_array(constants[name]).flatten()]


def add_constant(model: onnx.ModelProto, name: str, array: np.ndarray[Any, Any]) -> str:
    """Add an initializer; returns its name."""
    from onnx import numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def rewrite(model: onnx.ModelProto, rule: Callable[[onnx.NodeProto], Sequence[onnx.NodeProto]]) -> None:
    """Put in the place of every node what the rule makes of it, which may be the node itself; in place."""
    import onnx

    # Nodes hold no weights: their graph is emptied, so that what the rule is given must be a copy.
    before = onnx.GraphProto(node=model.graph.node)
    del model.graph.node[:]
    for node in before.node:
        model.graph.node.extend(rule(node))
