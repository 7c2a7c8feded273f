"""The graph in int8: which layers, that engines run them in integers, and that nothing is left behind."""

import collections
import functools
import logging
import sys
import tempfile

import numpy as np
import pytest
from reduce_models import images, small

from pomt_edge import demo
from pomt_edge.errors import UserError

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

import exported  # noqa: E402

from pomt_edge.export import graph, int8  # noqa: E402
from pomt_edge.reduce.reduced_model import reduce_model  # noqa: E402

BATCH = 16
LINEAR = 8 * 4 + 2


@functools.cache
def pictures():
    grey, _ = demo.read_images()
    scaled = (grey[: 6 * BATCH, None].repeat(3, axis=1).astype(np.float32) / 255 - 0.5) / 0.5
    return scaled.reshape(6, BATCH, 3, 28, 28)


@functools.cache
def wide():
    reduced = reduce_model(demo.build_model(), method="tome", schedule=[0, 0, 0, 80, 0, 0, 0, 0])
    return graph.to_onnx(reduced, batch_size=BATCH, image_px=28, taps=True)


@functools.cache
def narrow():
    return int8.quantised(wide(), iter(pictures()[:2]))


def session(model, path=None):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if path:
        options.optimized_model_filepath = str(path)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model):
    """Logits [B, 10] and kept tokens [B, K] of the pictures that are not calibrated with."""
    running = session(model)
    found = [running.run(["logits", "kept3"], {"images": batch}) for batch in pictures()[2:]]
    return [np.concatenate(each) for each in zip(*found, strict=True)]


def test_it_answers_as_float32_does_and_keeps_every_output():
    before = wide().SerializeToString()
    onnx.checker.check_model(narrow(), full_check=True)
    assert wide().SerializeToString() == before
    assert [output.name for output in narrow().graph.output] == [output.name for output in wide().graph.output]
    (given, kept), (found, own) = run(wide()), run(narrow())
    assert (given.argmax(1) == found.argmax(1)).mean() > 0.95
    assert 0 < np.abs(given - found).mean() < 0.1
    assert kept.dtype == own.dtype
    assert np.mean([len(np.intersect1d(*pair)) for pair in zip(kept, own, strict=True)]) > kept.shape[1] - 2


def test_the_linear_layers_and_no_others_are_quantised():
    others = exported.products(wide())["fp32"] - LINEAR
    assert exported.products(narrow()) == {"int8": LINEAR, "fp32": others}
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in narrow().graph.initializer}
    marks = [node for node in narrow().graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(not stored[node.input[2]].any() for node in marks)
    weights = [node for node in marks if node.input[0] in stored]
    assert len(weights) == LINEAR
    for node in weights:
        axis = onnx.helper.get_node_attr_value(node, "axis")
        assert stored[node.input[0]].dtype == np.int8
        assert stored[node.input[1]].shape == (stored[node.input[0]].shape[axis],)
    assert len(narrow().SerializeToString()) < len(wide().SerializeToString()) - 1_500_000


def test_onnx_runtime_multiplies_integers(tmp_path):
    assert integer_products(narrow(), tmp_path) == 8 * 4


def test_equal_biases_are_no_hindrance(tmp_path):
    # As it is initialised, a model's biases are all zero: one tensor in the graph.
    made = graph.to_onnx(small(img_size=16, embed_dim=16, depth=2), batch_size=1, image_px=16)
    quantised = int8.quantised(made, [images(1, 16).numpy()])
    assert integer_products(quantised, tmp_path) == 2 * 4
    read = {name for node in quantised.graph.node for name in node.input}
    assert {tensor.name for tensor in quantised.graph.initializer} <= read


def integer_products(model, folder):
    session(model, folder / "optimised.onnx")
    ran = collections.Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)
    return ran["MatMulIntegerToFloat"] + ran["QLinearMatMul"] + ran["MatMulInteger"]


def test_openvino_multiplies_integers():
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(narrow().SerializeToString()), "CPU")
    told = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ops()]
    kinds = [layer["runtimePrecision"].value for layer in told if layer["layerType"].value == "FullyConnected"]
    assert set(kinds) <= {"i8", "u8"} and len(kinds) == LINEAR - 1
    logits = compiled({"images": pictures()[2]})["logits"]
    assert (logits.argmax(1) == run(wide())[0][:BATCH].argmax(1)).mean() > 0.9


@pytest.mark.parametrize("float_weights", [False, True])
def test_tensorrt_builds_it(float_weights):
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    made = int8.quantised(wide(), iter(pictures()[:1]), float_weights=float_weights)
    held = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    marks = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    weights = [held[node.input[0]] for node in marks if node.input[0] in held]
    assert weights == [onnx.TensorProto.FLOAT] * (LINEAR if float_weights else 0)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(made.SerializeToString()), parser.get_error(0)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None


def test_it_says_nothing_and_leaves_nothing_behind(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers = list(logging.getLogger().handlers)
    int8.quantised(wide(), iter(pictures()[:1]))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers
    assert not logging.getLogger().filters


def test_no_images_are_refused():
    with pytest.raises(UserError, match="none were given"):
        int8.quantised(wide(), iter([]))


def test_without_onnx_runtime_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        int8.quantised(wide(), iter(pictures()[:1]))
