"""Small reduced models, exported once for all tests of a file, and what ONNX Runtime computes from a graph."""

from __future__ import annotations

import collections
import functools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from reduce_models import images, small
from torch import nn

from pomt_edge import reduce_model
from pomt_edge.export import graph, outputs, precision

METHODS = ["pomt", "pomt:score=cls", "topk", "tome", "pitome", "l2_norm", "random"]
PX = 16


@functools.cache
def reduced(method: str) -> nn.Module:
    """A block that reduces, one that reduces behind a merge, and with ToMe one that attends to merged tokens."""
    schedule = [4, 3, 0] if method == "tome" else [4, 3]
    model = small(img_size=PX, embed_dim=16, depth=len(schedule), reg_tokens=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return reduce_model(model, method=method, schedule=schedule, copy=False)


@functools.cache
def tapped(method: str, batch: int, dynamic: bool = False) -> onnx.ModelProto:
    return graph.to_onnx(reduced(method), batch_size=batch, image_px=PX, dynamic_batch=dynamic, taps=True)


def deployed(method: str, batch: int = 3) -> onnx.ModelProto:
    return outputs.only(tapped(method, batch), ["logits"])


def run(model: Any, given: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Every output of a model, or of its file, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": given.numpy()}), strict=True))


def logits(model: nn.Module, given: torch.Tensor) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return model(given).numpy()


def batch_of(count: int) -> torch.Tensor:
    return images(count, PX)


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def products(model: onnx.ModelProto) -> dict[str, int]:
    """How many products (MatMul, Gemm, Conv) run in each precision, such as {'fp16': 48, 'fp32': 1}."""
    kinds = onnx.TensorProto
    names = {int(kinds.FLOAT): "fp32", int(kinds.FLOAT16): "fp16", int(kinds.BFLOAT16): "bf16"}
    types = precision.element_types(onnx.shape_inference.infer_shapes(model).graph)
    quantised = _dequantised(model.graph)
    found: collections.Counter[str] = collections.Counter()
    for node in model.graph.node:
        if node.op_type in precision.PRODUCTS:
            in_int8 = quantised.issuperset(node.input[:2])
            found["int8" if in_int8 else names.get(types.get(node.output[0], 0), "unknown")] += 1
    return dict(found)


def _dequantised(graph: onnx.GraphProto) -> set[str]:
    return {output for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
