"""The lint lets through what every target reads, and names what one of them would misread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from exported import METHODS, deployed, tapped  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from pomt_edge.errors import UserError  # noqa: E402
from pomt_edge.export import lint, opset  # noqa: E402
from pomt_edge.export.target import TARGETS, Target, named  # noqa: E402


def for_target(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    return opset.lowered(model, named(name).opset, named(name).ir_version)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_passes_for_every_target(method: str) -> None:
    for name, target in TARGETS.items():
        lint.check(for_target(tapped(method, 3), name), target)


def test_an_open_batch_passes() -> None:
    for name, target in TARGETS.items():
        lint.check(for_target(tapped("tome", 1, dynamic=True), name), target)


def add(model: onnx.ModelProto, op: str, element: int, dims: list[int], *inputs: str, **stated: object) -> None:
    """One more operation and its first output, in front of all others."""
    outputs = ["new", "new_indices"] if op == "TopK" else ["new"]
    node = helper.make_node(op, inputs, outputs, f"blocks.3.attn/{op}_7", **stated)
    nodes = [node, *model.graph.node]
    copied = onnx.GraphProto(node=nodes)
    del model.graph.node[:]
    model.graph.node.extend(copied.node)
    model.graph.output.append(helper.make_tensor_value_info("new", element, dims))


def constant(model: onnx.ModelProto, value: np.ndarray) -> str:  # type: ignore[type-arg]
    name = f"constant{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


SIZE = [3, 3, 16, 16]
Plant = Callable[[onnx.ModelProto], object]


def int64(*numbers: int) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(numbers, np.int64)


def smallest(model: onnx.ModelProto) -> None:
    add(model, "TopK", 1, [3, 3, 16, 2], "images", constant(model, int64(2)), largest=0)


def too_many(model: onnx.ModelProto) -> None:
    flat = constant(model, np.zeros(4000, np.float32))
    add(model, "TopK", 1, [3840], flat, constant(model, int64(3840)))


def axes_input(model: onnx.ModelProto) -> None:
    add(model, "ReduceMax", 1, [3, 1, 16, 16], "images", constant(model, int64(1)))


def scatter(model: onnx.ModelProto) -> None:
    where = constant(model, np.zeros((1, 3, 16, 16), np.int64))
    values = constant(model, np.zeros((1, 3, 16, 16), np.float32))
    add(model, "ScatterElements", 1, SIZE, "images", where, values, reduction="add")


def scatter_nd(model: onnx.ModelProto) -> None:
    where, values = constant(model, int64(0).reshape(1, 1)), constant(model, np.zeros((1, 3, 16, 16), np.float32))
    add(model, "ScatterND", 1, SIZE, "images", where, values, reduction="mul")


def cumulated(model: onnx.ModelProto) -> None:
    add(model, "CumSum", TensorProto.INT64, [3], constant(model, int64(1, 2, 3)), constant(model, np.array(0)))


def wide(model: onnx.ModelProto) -> None:
    add(model, "Identity", TensorProto.INT64, [1], constant(model, int64(2**31)))


def bfloat(model: onnx.ModelProto) -> None:
    add(model, "Cast", TensorProto.BFLOAT16, SIZE, "images", to=TensorProto.BFLOAT16)


def double(model: onnx.ModelProto) -> None:
    add(model, "Cast", TensorProto.DOUBLE, SIZE, "images", to=TensorProto.DOUBLE)


def open_side(model: onnx.ModelProto) -> None:
    add(model, "NonZero", TensorProto.INT64, [4, "many"], "images")  # type: ignore[list-item]


def gather_nd(model: onnx.ModelProto) -> None:
    add(model, "GatherND", 1, [1, 3, 16, 16], "images", constant(model, int64(0).reshape(1, 1)))


def invalid(model: onnx.ModelProto) -> None:
    add(model, "Relu", 1, [1, 2], "images")


def ir_of(version: int) -> Plant:
    return lambda model: setattr(model, "ir_version", version)


PLANTED: dict[str, tuple[Plant, str, str, str]] = {
    # what is planted: how, the message, who refuses it, who takes it ('': nobody)
    "smallest": (smallest, "TopK largest=0.*TopK in blocks.3.attn", "jetpack4", "jetpack5"),
    "too many": (too_many, "TopK of 3840 or more", "jetpack7", "generic"),
    "axes": (axes_input, "axes as an input.*ReduceMax in blocks.3.attn", "trt9", "jetpack6"),
    "scatter": (scatter, "reduces by add.*ScatterElements in blocks.3.attn", "generic", ""),
    "scatter by slices": (scatter_nd, "reduces by mul.*ScatterND in blocks.3.attn", "jetpack7", ""),
    "whole sums": (cumulated, "CumSum of whole numbers", "jetpack4", "generic"),
    "64 bits": (wide, "whole numbers beyond 32 bits: constant", "jetpack5", "jetpack6"),
    "bfloat16": (bfloat, "bfloat16: Cast in blocks.3.attn", "jetpack5", "jetpack6"),
    "float64": (double, "float64: Cast in blocks.3.attn", "jetpack7", ""),
    "an open side": (open_side, "a shape that is not fixed: NonZero in blocks.3.attn", "generic", ""),
    "a newer IR": (ir_of(9), "IR 9, expected 8", "jetpack6", ""),
    "no valid graph": (invalid, "not a valid ONNX graph", "generic", ""),
    "a late operation": (
        gather_nd,
        "GatherND, which TensorRT has from 8.2 on",
        "trt8.0",
        "jetpack4",
    ),
}

OTHERS = {
    "trt9": Target("trt9", "TensorRT 9", 18, 8, (9, 0)),
    "trt8.0": Target("trt8.0", "TensorRT 8.0", 13, 7, (8, 0)),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_offence_is_refused_by_name_where_it_does_harm(planted: str) -> None:
    plant, message, refuser, taker = PLANTED[planted]
    refusing = OTHERS.get(refuser) or named(refuser)
    model = opset.lowered(deployed("pomt"), refusing.opset, refusing.ir_version)
    plant(model)
    with pytest.raises(UserError, match=message) as refused:
        lint.check(model, refusing)
    assert "\n" not in str(refused.value)
    if taker:
        other = for_target(deployed("pomt"), taker)
        plant(other)
        lint.check(other, named(taker))


def test_every_offence_is_told_at_once() -> None:
    model = for_target(deployed("pomt"), "generic")
    with pytest.raises(UserError) as refused:
        lint.check(model, named("jetpack4"))
    told = str(refused.value)
    assert "JetPack 4.6, TensorRT 8.2" in told and "opset 18, expected 13" in told and "IR 8, expected 7" in told
    assert "LayerNormalization, which TensorRT has from 8.6 on: LayerNormalization in blocks.0.norm1" in told
    assert "axes as an input" in told and "2 more" in told and len(told) < 1500


def test_operations_of_other_domains_are_refused() -> None:
    model = for_target(deployed("pomt"), "generic")
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.add(domain="com.microsoft", version=1)
    with pytest.raises(UserError):
        lint.check(model, named("generic"))
