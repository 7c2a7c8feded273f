"""Eight-bit integers in a float32 graph: its linear layers between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pomt_edge.errors import UserError
from pomt_edge.export.precision import PRODUCTS, main_tensors

if TYPE_CHECKING:
    import numpy as np
    import onnx


def quantised(
    model: onnx.ModelProto, batches: Iterable[np.ndarray[Any, Any]], *, float_weights: bool = False
) -> onnx.ModelProto:
    """The float32 graph with its linear layers and its patch embedding in int8; all else stays float32.

    Weights are symmetric per output channel, activations symmetric, by the extremes that they take over the batches.

    Args:
        batches: float32 images [B, 3, height, width] to calibrate with, preprocessed as the model wants them.
        float_weights: leave it to the engine to quantise the weights, by the scales in the graph: TensorRT 8 refuses
            weights in int8 ("invalid weights type of Int8"). The file is four times as large.

    Raises:
        UserError: onnxruntime, which quantises, is not installed, or there are no batches.
    """
    try:
        from onnxruntime import quantization  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("int8 is calibrated by onnxruntime, which is not installed: pip install onnxruntime") from None
    import onnx

    given = iter(batches)
    first = next(given, None)
    if first is None:
        raise UserError("int8 is calibrated on images, and none were given; give --data DIR")
    prepared = onnx.shape_inference.infer_shapes(model)  # a copy: the quantiser empties what it is given
    _lift_biases(prepared.graph)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        written = Path(folder) / "quantised.onnx"
        quantization.quantize_static(
            prepared,
            written,
            _Images(model.graph.input[0].name, itertools.chain([first], given)),
            per_channel=True,
            nodes_to_quantize=linear_layers(model.graph),
            extra_options={
                # TensorRT takes neither zero points nor 32-bit biases.
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "AddQDQPairToWeight": float_weights,
                # What a layer gives goes on in float32: rounding it would lose and save nothing.
                "OpTypesToExcludeOutputQuantization": sorted(PRODUCTS),
            },
        )
        return onnx.load(written)


def linear_layers(graph: onnx.GraphProto) -> list[str]:
    """The names of the products with stored weights that reach the outputs by their values."""
    main = main_tensors(graph)
    stored = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in PRODUCTS and node.input[1] in stored and node.output[0] in main
    ]


def _lift_biases(graph: onnx.GraphProto) -> None:
    """Give the biases of matrix products the shape [1, 1, C].

    ONNX Runtime makes one Gemm of a product and a bias [C] before it looks for integers, finds none in a Gemm whose
    bias is a float, and runs it in float32, slower than the graph was.
    """
    layers = set(linear_layers(graph))
    ranks = {tensor.name: len(tensor.type.tensor_type.shape.dim) for tensor in graph.value_info}
    products = {node.output[0] for node in graph.node if node.name in layers and node.op_type == "MatMul"}
    high = {name for name in products if ranks.get(name, 0) > 2}
    stored = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 1}
    for node in graph.node:
        if node.op_type == "Add" and high.intersection(node.input):
            for place, name in enumerate(node.input):
                if name in stored:
                    # A copy: equal biases are one tensor, which norms may read as well.
                    node.input[place] = lifted = f"{node.output[0]}_bias"
                    graph.initializer.append(stored[name])
                    graph.initializer[-1].name = lifted
                    graph.initializer[-1].dims[:] = [1, 1, *stored[name].dims]
    read = {name for node in graph.node for name in node.input}
    for name in stored.keys() - read:
        graph.initializer.remove(stored[name])


class _Images:
    """Batches as the quantiser asks for them."""

    def __init__(self, name: str, batches: Iterator[np.ndarray[Any, Any]]) -> None:
        self.name = name
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.name: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises, through the root logger, steps that this graph has behind it or that gain nothing."""
    root, mute = logging.getLogger(), logging.NullHandler()
    # Without any handler the first such message would set one up, for all that is logged from then on.
    root.addHandler(mute)
    root.addFilter(_nothing)
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(mute)


def _nothing(record: logging.LogRecord) -> bool:
    return False
