"""The graph that an engine is given, by its target and its precision."""

from __future__ import annotations

import numpy as np
import pytest
from reduce_models import images, small

from pomt_edge import reduce_model
from pomt_edge.export import lint, pipeline
from pomt_edge.export.target import TARGETS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", ["jetpack4", "jetpack5", "jetpack6"])
def test_int8_is_in_the_graph_where_other_precisions_are_a_flag(name: str) -> None:
    target = TARGETS[name]
    assert not target.typed
    model = reduce_model(small(depth=2), method="pomt", schedule=[0, 20])
    made = pipeline.deployable(
        model, batch_size=2, image_px=32, precision="int8", target=target, calibration=[images(2).numpy()]
    )
    lint.check(made, target)
    operations = [node.op_type for node in made.graph.node]
    assert operations.count("DequantizeLinear") >= operations.count("QuantizeLinear") > 8
    makers = {name: node for node in made.graph.node for name in node.output}
    for node in made.graph.node:
        if node.name.startswith("blocks.1.mlp.fc1/MatMul"):
            assert [makers[name].op_type for name in node.input] == ["DequantizeLinear", "DequantizeLinear"]
            break
    else:
        raise AssertionError("a linear layer is gone")
    scales = {name for node in made.graph.node if node.op_type == "QuantizeLinear" for name in node.input[1:2]}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert scales <= stored.keys()
    assert all(np.isfinite(stored[scale]).all() and (stored[scale] > 0).all() for scale in scales)
