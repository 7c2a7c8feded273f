"""Precision in the older TensorRT, which gets a float32 graph and flags, and may lower any layer that it likes."""

from __future__ import annotations

import re
from typing import Any

FLAGS = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}
"""What may be lowered to; which layers run in int8 the graph marks, and the rest of it stays float32."""
FIXED = ("CONSTANT", "SHAPE", "IDENTITY", "CAST")
"""Layers whose type is what they are for."""
OF_ONNX = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def ask(trt: Any, network: Any, config: Any, precision: str, float32: set[str]) -> None:
    """Allow the precision, and hold the layers of the ONNX nodes `float32` to float32."""
    if precision == "fp32":
        return
    config.set_flag(getattr(trt.BuilderFlag, FLAGS[precision]))
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if _comes_from(layer, float32):
            _hold(trt, layer)


def _comes_from(layer: Any, nodes: set[str]) -> bool:
    """The parser names a layer after its node, and counts up where a node makes several; newer ones add a note."""
    noted = OF_ONNX.findall(getattr(layer, "metadata", "") or "")
    if noted:
        return any(name in nodes for name in noted)
    return layer.name in nodes or re.sub(r"_\d+$", "", layer.name) in nodes


def _hold(trt: Any, layer: Any) -> None:
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    if not any(tensor is not None and tensor.dtype == trt.float32 for tensor in [*inputs, *outputs]):
        return  # indices and shapes have no precision to hold
    if layer.type in [getattr(trt.LayerType, name, None) for name in FIXED]:
        return
    layer.precision = trt.float32
    for index, tensor in enumerate(outputs):
        if tensor.dtype == trt.float32:
            layer.set_output_type(index, trt.float32)
