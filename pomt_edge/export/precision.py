"""Mixed precision written into a float32 graph: what costs runs narrow, what loses by it stays in float32.

narrow    products (MatMul, Gemm, Conv) and, behind them, their biases, scales and moves of data
float32   norms, softmax, activations, reductions; the stream that the blocks add to, which grows with the depth
          (in DINOv2 beyond float16's range); merges of tokens; and all that only ranks tokens
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pomt_edge.errors import UserError

if TYPE_CHECKING:
    import onnx

NARROW = ("fp16", "bf16")

PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
MOVES = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Split", "Squeeze"}
    | {"Tile", "Transpose", "Unsqueeze"}
)
COMPARISONS = frozenset({"ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})


def typed(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The float32 graph with its precision in its types, as strongly typed engines take it.

    Its inputs and outputs keep their types. Activations beyond float16's range become infinite and the logits NaN.

    Raises:
        UserError: a weight is beyond the range of the precision.
    """
    import onnx

    if precision not in NARROW:
        raise ValueError(f"precision '{precision}': expected one of {', '.join(NARROW)}")
    # A graph may come without the types of its inner tensors; the model passed in stays as it is.
    narrowed = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    _Pass(narrowed, precision).run()
    return onnx.shape_inference.infer_shapes(narrowed, strict_mode=True)


def float32_names(model: onnx.ModelProto, precision: str) -> set[str]:
    """The nodes of a float32 graph that the graph of mixed precision leaves in float32, for engines told by a flag."""
    if precision not in NARROW:
        return set()
    import onnx

    graph = typed(model, precision).graph
    types = element_types(graph)
    narrow = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    touched = {node.name: {types.get(name) for name in (*node.input, *node.output)} for node in graph.node}
    return {name for name, kinds in touched.items() if onnx.TensorProto.FLOAT in kinds and not kinds & narrow}


def element_types(graph: onnx.GraphProto) -> dict[str, int]:
    """The element type of every tensor that the graph tells one of."""
    told = [*graph.value_info, *graph.input, *graph.output]
    types = {tensor.name: tensor.type.tensor_type.elem_type for tensor in told}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def main_tensors(graph: onnx.GraphProto) -> set[str]:
    """The tensors that reach an output of the graph by their values, not only by how they rank."""
    producers = {output: node for node in graph.node for output in node.output}
    reached: set[str] = set()
    pending = [output.name for output in graph.output]
    while pending:
        tensor = pending.pop()
        if not tensor or tensor in reached:
            continue
        reached.add(tensor)
        node = producers.get(tensor)
        if node is not None and not _ranks(node, tensor):
            pending.extend(node.input)
    return reached


def _ranks(node: onnx.NodeProto, output: str) -> bool:
    """Whether an output tells the order of the node's inputs alone."""
    return node.op_type in COMPARISONS or (node.op_type == "TopK" and output == node.output[1])


class _Pass:
    """One walk over the nodes in their order, which writes the narrow graph in the place of the float32 one."""

    def __init__(self, model: onnx.ModelProto, precision: str) -> None:
        import onnx

        self.graph = model.graph
        self.precision = precision
        self.float32 = int(onnx.TensorProto.FLOAT)
        self.narrow = int({"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision])
        self.allowed = _operators(model, {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}[precision])
        self.types = element_types(self.graph)
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.main = main_tensors(self.graph)
        self.selections = _selections(self.graph, self.types)
        self.outputs = {output.name for output in self.graph.output}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.cast: dict[tuple[str, int], str] = {}
        """Names of tensors in their other type: one cast for all who read it."""
        self.taken = set(self.types)

    def run(self) -> None:
        for node in self.graph.node:
            self._write(node)
        used = {name for node in self.nodes for name in node.input} | self.outputs
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used] + self.weights
        told = [tensor for tensor in self.graph.value_info if tensor.name in self.types]
        for tensor in told:
            tensor.type.tensor_type.elem_type = self.types[tensor.name]
        _replace(self.graph.node, self.nodes)
        _replace(self.graph.initializer, kept)

    def _write(self, node: onnx.NodeProto) -> None:
        wanted = self.narrow if self._is_narrow(node) else self.float32
        for place, name in enumerate(node.input):
            if self._is_float(name) and self.types[name] != wanted:
                node.input[place] = self._in_type(name, wanted, node)
        self.nodes.append(node)
        if wanted == self.narrow:
            for place, name in enumerate(node.output):
                self._narrow_output(node, place, name)

    def _is_narrow(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in self.allowed or not self.main.intersection(node.output):
            return False
        floats = [name for name in node.input if self._is_float(name)]
        computed = [name for name in floats if name not in self.stored]
        if node.op_type in PRODUCTS:
            return not self.selections.intersection(computed)
        follows = node.op_type in MOVES or (node.op_type in ("Add", "Mul") and len(computed) < len(floats))
        return follows and bool(computed) and all(self.types[name] == self.narrow for name in computed)

    def _narrow_output(self, node: onnx.NodeProto, place: int, name: str) -> None:
        if not self._is_float(name):
            return
        if name not in self.outputs:
            self.types[name] = self.narrow
            return
        node.output[place] = inner = self._free_name(name, self.narrow)
        self.cast[name, self.narrow] = inner
        self._add_cast(inner, name, self.float32, node)

    def _in_type(self, name: str, wanted: int, reader: onnx.NodeProto) -> str:
        if (name, wanted) not in self.cast:
            self.cast[name, wanted] = other = self._free_name(name, wanted)
            if name in self.stored:
                self.weights.append(self._narrow_weight(name, other, reader))
            else:
                self._add_cast(name, other, wanted, reader)
        return self.cast[name, wanted]

    def _add_cast(self, name: str, other: str, wanted: int, beside: onnx.NodeProto) -> None:
        import onnx

        # Engines name a node where they fail: what stands before the stroke is its module.
        module = "".join(beside.name.rpartition("/")[:2])
        self.nodes.append(onnx.helper.make_node("Cast", [name], [other], name=f"{module}{other}_cast", to=wanted))

    def _narrow_weight(self, name: str, other: str, reader: onnx.NodeProto) -> onnx.TensorProto:
        import onnx

        wide = onnx.numpy_helper.to_array(self.stored[name])
        with np.errstate(over="ignore"):
            narrow = wide.astype(onnx.helper.tensor_dtype_to_np_dtype(self.narrow))
        lost = np.isfinite(wide) & ~np.isfinite(narrow.astype(np.float32))
        if lost.any():
            raise UserError(
                f"{name} of {reader.name} holds {wide[lost][0]:.4g}, beyond the range of {self.precision}; "
                f"give --precision {'bf16' if self.precision == 'fp16' else 'fp32'}"
            )
        return onnx.numpy_helper.from_array(narrow, other)

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) in (self.float32, self.narrow)

    def _free_name(self, name: str, wanted: int) -> str:
        free = f"{name}_{self.precision if wanted == self.narrow else 'fp32'}"
        while free in self.taken:
            free += "_"
        self.taken.add(free)
        return free


def _selections(graph: onnx.GraphProto, types: dict[str, int]) -> set[str]:
    """Matrices of zeros and sizes, made of comparisons: a product with one adds tokens up, as a reduction does."""
    import onnx

    found: set[str] = set()
    for node in graph.node:
        chosen = node.op_type == "Cast" and types.get(node.input[0]) == onnx.TensorProto.BOOL
        if chosen or (node.op_type in MOVES | {"Mul"} and found.intersection(node.input)):
            found.update(node.output)
    return found


def _operators(model: onnx.ModelProto, kind: str) -> set[str]:
    """The operators that take this type in the model's opset: Conv takes bfloat16 from opset 22 only."""
    import onnx

    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    found = set()
    for name in PRODUCTS | MOVES | {"Add", "Mul"}:
        schema = onnx.defs.get_schema(name, opset)
        found |= {name} if kind in schema.inputs[0].types else set()
    return found


def _replace(repeated: Any, items: list[Any]) -> None:
    del repeated[:]
    repeated.extend(items)
