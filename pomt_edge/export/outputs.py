"""A graph with some of its outputs alone, and nothing that they do not need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pomt_edge import catalogue

if TYPE_CHECKING:
    import onnx


def only(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The model with these outputs, in this order; the nodes and weights of the others are gone.

    Raises:
        UserError: the model has no such output.
    """
    import onnx

    outputs = {value.name: value for value in model.graph.output}
    for name in names:
        catalogue.check(name, list(outputs), "output")
    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.output[:]
    found.graph.output.extend(outputs[name] for name in names)
    sweep(found)
    return found


def sweep(model: onnx.ModelProto) -> None:
    """Remove from a graph, in place, all that no output needs."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_reads(node))
    _keep(graph.node, lambda node: bool(needed.intersection(node.output)))
    _keep(graph.initializer, lambda tensor: tensor.name in needed)
    inner = {name for node in graph.node for name in node.output} - {value.name for value in graph.output}
    _keep(graph.value_info, lambda value: value.name in inner)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, those that its own graphs (of an If, of a Loop) take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    # One by one and in place: weights are not copied.
    for index in reversed(range(len(field))):
        if not wanted(field[index]):
            del field[index]
