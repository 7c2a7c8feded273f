"""Compute in advance what depends on no image: random tokens, indices, and sizes where the batch is left open.

The exporter leaves TopK, large constants and most sizes to the engine; TensorRT needs the K of a TopK to be constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pomt_edge.export import nodes, shapes

if TYPE_CHECKING:
    import onnx

LARGEST = 2**20
"""Elements of the largest constant to compute."""
OPEN = -(2**61)
"""Stands in a shape for the size that is not fixed."""
MOVES = {"Slice", "Gather", "Concat", "Squeeze", "Unsqueeze", "Reshape", "Identity"}
"""Operations that hand numbers on as they are, so that an open size among them does no harm."""


def fold(model: onnx.ModelProto) -> None:
    """Replace the nodes whose results are known by constants; in place, unused ones are left lying."""
    nodes.rewrite(model, _Folding(model).fold)


class _Folding:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.values = shapes.inferred(model)
        self.tensors = nodes.constants(model)
        self.half_known: dict[str, np.ndarray[Any, Any]] = {}
        """Shapes of which a part is fixed."""
        self.outward = {value.name for value in model.graph.output}

    def fold(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        results = self._results(node)
        if results is None or sum(result.size for result in results) > LARGEST:
            self._close_shape(node)
            return [node]
        if any((result == OPEN).any() for result in results):
            self.half_known.update(zip(node.output, results, strict=True))
            return [node]
        return [
            part for name, result in zip(node.output, results, strict=True) for part in self._constant(name, result)
        ]

    def _constant(self, name: str, result: np.ndarray[Any, Any]) -> list[onnx.NodeProto]:
        from onnx import helper

        if name not in self.outward:
            self._add(name, result)
            return []
        # An output has to be a node's; what reads it can be computed in advance all the same.
        self._add(f"{name}_constant", result)
        self.tensors[name] = self.tensors[f"{name}_constant"]
        return [helper.make_node("Identity", [f"{name}_constant"], [name], f"{name}_constant")]

    def _results(self, node: onnx.NodeProto) -> list[np.ndarray[Any, Any]] | None:
        """What a node computes; None: that is not known in advance."""
        from onnx import numpy_helper
        from onnx.reference import ReferenceEvaluator

        if node.op_type == "Shape":
            return self._shape(node)
        if not node.input:
            return None  # it may draw random numbers
        given: dict[str, np.ndarray[Any, Any]] = {}
        for name in filter(None, node.input):
            if name in self.tensors:
                given[name] = numpy_helper.to_array(self.tensors[name])
            elif name in self.half_known and node.op_type in MOVES:
                given[name] = self.half_known[name]
            else:
                return None
        if node.op_type == "GatherElements":
            data, indices = (given[name] for name in node.input)
            # onnx's own evaluator fails beyond the 32 choices of numpy's choose.
            return [np.take_along_axis(data, indices, nodes.attributes(node).get("axis", 0))]
        return [np.asarray(result) for result in ReferenceEvaluator(node).run(None, given)]

    def _shape(self, node: onnx.NodeProto) -> list[np.ndarray[Any, Any]] | None:
        dims = shapes.dims(self.values[node.input[0]])
        if dims is None:
            return None
        stated = nodes.attributes(node)
        part = dims[stated.get("start", 0) : stated.get("end")]
        return [np.array([OPEN if size is None else size for size in part], np.int64)]

    def _close_shape(self, node: onnx.NodeProto) -> None:
        """Where one size of a Reshape is open, the reader can find it by itself."""
        if node.op_type != "Reshape" or node.input[1] not in self.half_known:
            return
        shape = self.half_known[node.input[1]]
        if (shape == OPEN).sum() == 1 and not np.isin(shape, (-1, 0)).any():
            name = f"{node.input[1]}_closed"
            if name not in self.tensors:
                self._add(name, np.where(shape == OPEN, -1, shape))
            node.input[1] = name

    def _add(self, name: str, array: np.ndarray[Any, Any]) -> None:
        nodes.add_constant(self.model, name, array)
        self.tensors[name] = self.model.graph.initializer[-1]
