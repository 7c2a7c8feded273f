"""Opset 13 computes what opset 18 does, in what TensorRT 8 knows, or it is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from exported import METHODS, batch_of, deployed, logits, operators, reduced, run, tapped  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from pomt_edge.errors import UserError  # noqa: E402
from pomt_edge.export import graph, opset, shapes  # noqa: E402


@pytest.mark.parametrize("method", METHODS)
def test_opset_13_computes_the_same(method: str) -> None:
    model = tapped(method, 3)
    held = model.SerializeToString()
    older = opset.lowered(model, 13, 7)
    assert model.SerializeToString() == held
    onnx.checker.check_model(older, full_check=True)
    assert older.opset_import[0].version == 13 and older.ir_version == 7
    assert "LayerNormalization" not in operators(older)
    given = batch_of(3)
    found, expected = run(older, given), run(model, given)
    np.testing.assert_allclose(found["logits"], logits(reduced(method), given), rtol=0, atol=1e-5)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5)


def test_an_open_batch_stays_open() -> None:
    older = opset.lowered(tapped("tome", 1, dynamic=True), 13, 7)
    found = run(older, batch_of(5))["logits"]
    np.testing.assert_allclose(found, logits(reduced("tome"), batch_of(5)), rtol=0, atol=1e-5)


def test_nodes_keep_their_module_and_values_their_shape() -> None:
    older = opset.lowered(deployed("topk"), 13, 7)
    assert {graph.module_of(node) for node in older.graph.node} == {
        graph.module_of(node) for node in deployed("topk").graph.node
    }
    norm = next(node for node in older.graph.node if node.op_type == "Sqrt")
    assert graph.module_of(norm) == "blocks.0.norm1"
    named = {value.name for value in (*older.graph.value_info, *older.graph.output)}
    assert {name for node in older.graph.node for name in node.output} <= named


def test_the_same_opset_changes_the_ir_alone() -> None:
    model = deployed("topk")
    same = opset.lowered(model, 18, 8)
    assert list(same.graph.node) == list(model.graph.node)


def one(
    op: str,
    dims: list[int | str],
    extra: list[Any] = (),
    outputs: int = 1,
    element: int = 1,
    **stated: Any,  # type: ignore[assignment]
) -> onnx.ModelProto:
    """A model of one operation; `extra` are its constant inputs."""
    names = [f"c{index}" for index in range(len(extra))]
    node = helper.make_node(op, ["images", *names], [f"y{i}" for i in range(outputs)], "blocks.3.attn/it", **stated)
    images = helper.make_tensor_value_info("images", element, dims)
    body = helper.make_graph(
        [node],
        "one",
        [images],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [numpy_helper.from_array(np.array(value), name) for value, name in zip(extra, names, strict=True)],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    values = shapes.inferred(model)
    del model.graph.output[:]
    model.graph.output.extend(values[name] for name in node.output)
    return model


FORMS = {
    "some axes": one("ReduceMax", [2, 3, 4], [[1]], keepdims=0),
    "all axes": one("ReduceL2", [2, 3, 4]),
    "no axes": one("ReduceMean", [2, 3, 4], [np.zeros(0, np.int64)], noop_with_empty_axes=1),
    "log of a sum of exponents": one("ReduceLogSumExp", [2, 3, 4], [[-1, 0]]),
    "axes that stay an input": one("ReduceSum", [2, 3, 4], [[1]]),
    "unequal parts": one("Split", [2, 7], outputs=3, num_outputs=3, axis=1),
    "a norm over two axes": one(
        "LayerNormalization", [2, 3, 4], [np.full((3, 4), 2, np.float32), np.ones((3, 4), np.float32)], axis=1
    ),
    "a norm without a bias": one("LayerNormalization", [2, 3, 4], [np.full(4, 2, np.float32)], epsilon=0.1),
    "a shape that allows no zero": one("Reshape", [2, 3, 4], [[6, 4]], allowzero=1),
    "a part of a shape": one("Shape", [2, 3, 4], start=-2, end=3),
    "a cast": one("CastLike", [2, 3, 4], [np.int64(1)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_rewritten(form: str) -> None:
    model = FORMS[form]
    older = opset.lowered(model, 13, 7)
    onnx.checker.check_model(older, full_check=True)
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    import torch

    given = torch.randn(dims, generator=torch.Generator().manual_seed(0)) * 3
    expected, found = run(model, given), run(older, given)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-5)
        assert found[name].shape == values.shape and found[name].dtype == values.dtype


REFUSED = {
    "an operation of 18": (one("Mish", [2, 3]), "the operation: Mish in blocks.3.attn"),
    "an attribute of 16": (
        one("ScatterElements", [2, 3], [np.zeros((1, 3), np.int64), np.ones((1, 3), np.float32)], reduction="add"),
        "its attribute 'reduction': ScatterElements in blocks.3.attn",
    ),
    "a half norm": (
        one("LayerNormalization", [2, 3], [np.ones(3, np.float16)], element=TensorProto.FLOAT16),
        "any layer norm but one in float32",
    ),
    "a split of the batch": (one("Split", ["batch", 3], outputs=2, num_outputs=2), "a split of an open dimension"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_opset_13_has_not_is_refused_by_name(case: str) -> None:
    model, message = REFUSED[case]
    with pytest.raises(UserError, match=f"ONNX opset 13 has not {message}.*--target"):
        opset.lowered(model, 13, 7)


def test_opsets_beyond_its_reach_are_refused() -> None:
    for version in (11, 20):
        with pytest.raises(UserError, match=f"from opset 18 to {version}"):
            opset.lowered(deployed("topk"), version, 7)
