"""The graph in a narrow precision: what is narrow, what stays in float32, and that engines take it."""

import collections
import functools

import numpy as np
import pytest
import torch
from reduce_models import small

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

import exported  # noqa: E402

from pomt_edge.errors import UserError  # noqa: E402
from pomt_edge.export import graph, precision  # noqa: E402
from pomt_edge.reduce.reduced_model import reduce_model  # noqa: E402

METHODS = ("pomt", "topk", "tome", "pitome")
BATCH = 3
FLOAT, NARROW = onnx.TensorProto.FLOAT, {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
LINEAR, ATTENTION = 3 * 4 + 1, 3 * 2
"""Products of the three blocks and the classifier of the model that ToMe reduces twice."""


def wide(method):
    return exported.tapped(method, BATCH)


@functools.cache
def narrow(method, kind):
    return precision.typed(wide(method), kind)


@functools.cache
def with_more_norms():
    model = small(img_size=16, embed_dim=16, depth=2, qk_norm=True, init_values=0.5)
    reduced = reduce_model(model, method="tome", schedule=[4, 3])
    return precision.typed(graph.to_onnx(reduced, batch_size=1, image_px=16, taps=True), "fp16")


def as_written(model):
    """Logits with every tensor in its type: ONNX Runtime computes float16 in float32 where it can."""
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(["logits"], {"images": exported.batch_of(BATCH).numpy()})[0]


def types(model):
    return precision.element_types(onnx.shape_inference.infer_shapes(model).graph)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_the_graph_is_valid_and_its_inputs_and_outputs_stay_what_they_are(method, kind):
    before = wide(method).SerializeToString()
    made = narrow(method, kind)
    onnx.checker.check_model(made, full_check=True)
    assert wide(method).SerializeToString() == before
    for side in ("input", "output"):
        told = [[(one.name, one.type) for one in getattr(model.graph, side)] for model in (wide(method), made)]
        assert told[0] == told[1]


@pytest.mark.parametrize("method", METHODS)
def test_float16_answers_as_float32_does(method):
    batch = exported.batch_of(BATCH)
    given, found = exported.run(wide(method), batch), exported.run(narrow(method, "fp16"), batch)
    assert {name: one.dtype for name, one in given.items()} == {name: one.dtype for name, one in found.items()}
    for name in ("block0", "logits"):
        np.testing.assert_allclose(found[name], given[name], atol=5e-3 * np.abs(given[name]).max())
        assert not np.array_equal(found[name], given[name])


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_the_products_of_the_main_stream_are_narrow_and_so_are_their_weights(kind):
    made = narrow("tome", kind)
    stored = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    found = types(made)
    products = [node for node in made.graph.node if node.op_type in precision.PRODUCTS]
    linear = [node for node in products if node.input[1] in stored and node.op_type != "Conv"]
    assert len(linear) == LINEAR
    assert {stored[node.input[1]] for node in linear} == {NARROW[kind]}
    assert {found[node.output[0]] for node in linear} == {NARROW[kind]}
    # In float32: in each of two blocks the similarity that ranks and the merge, and Conv, which has no bfloat16.
    many = LINEAR + ATTENTION
    expected = {"fp16": {"fp16": many + 1, "fp32": 4}, "bf16": {"bf16": many, "fp32": 4 + 1}}
    assert exported.products(made) == expected[kind]
    assert exported.products(wide("tome")) == {"fp32": many + 1 + 4}


@pytest.mark.parametrize("made", [*METHODS, "more norms"])
def test_what_loses_by_it_and_what_ranks_stays_in_float32(made):
    model = with_more_norms() if made == "more norms" else narrow(made, "fp16")
    found = types(model)
    narrowed = [n for n in model.graph.node if n.op_type != "Cast" and found.get(n.output[0]) == NARROW["fp16"]]
    assert {node.op_type for node in narrowed} <= {"Add", "Mul"} | precision.PRODUCTS | precision.MOVES
    stored = {tensor.name for tensor in model.graph.initializer}
    assert all(stored.intersection(node.input) for node in narrowed if node.op_type in ("Add", "Mul"))
    main = precision.main_tensors(model.graph)
    assert {node.name for node in narrowed if node.output[0] not in main} == set()
    assert {found[n.input[0]] for n in model.graph.node if n.op_type in ("TopK", "ArgMax")} <= {
        FLOAT,
        onnx.TensorProto.INT64,
    }
    # Attention is narrow whatever stands between the linear layers and it.
    assert sum(n.op_type == "MatMul" for n in narrowed) == len(model_blocks(model)) * (4 + 2)


def model_blocks(model):
    return [output.name for output in model.graph.output if output.name.startswith("block")]


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_no_cast_is_made_twice_undone_or_touches_an_index(method, kind):
    made = narrow(method, kind)
    found = types(made)
    casts = [node for node in made.graph.node if node.op_type == "Cast" and node.name.endswith("_cast")]
    assert casts
    assert all({found[node.input[0]], found[node.output[0]]} == {FLOAT, NARROW[kind]} for node in casts)
    counts = collections.Counter((node.input[0], node.attribute[0].i) for node in casts)
    assert max(counts.values()) == 1
    assert not {node.input[0] for node in casts} & {node.output[0] for node in casts}
    # Down to the narrow type for products alone: all else could read the float32 as it is.
    down = {node.output[0] for node in casts if node.attribute[0].i == NARROW[kind]}
    assert {node.op_type for node in made.graph.node if down.intersection(node.input)} <= precision.PRODUCTS


def test_a_stream_beyond_float16s_range_goes_through():
    model = small(img_size=16, embed_dim=16, depth=3)
    with torch.no_grad():
        # Two blocks add 60,000 to a channel: the sum is beyond 65,504, no addend is.
        for block in model.blocks[:2]:
            block.mlp.fc2.bias[5] = 6e4
    given = graph.to_onnx(model, batch_size=BATCH, image_px=16)
    assert np.isfinite(as_written(precision.typed(given, "fp16"))).all()


def test_a_layer_beyond_float16s_range_is_not_silent():
    model = small(img_size=16, embed_dim=16, depth=2)
    with torch.no_grad():
        model.blocks[0].mlp.fc1.bias.fill_(1e3)
        model.blocks[0].mlp.fc2.weight[5] = 1e2
    given = graph.to_onnx(model, batch_size=BATCH, image_px=16)
    assert np.isfinite(exported.run(given, exported.batch_of(BATCH))["logits"]).all()
    assert np.isnan(as_written(precision.typed(given, "fp16"))).all()


def test_a_weight_beyond_float16s_range_is_refused_by_name():
    model = small(img_size=16, embed_dim=16, depth=2)
    with torch.no_grad():
        model.blocks[1].mlp.fc1.weight[3, 4] = -1e5
    given = graph.to_onnx(model, batch_size=1, image_px=16)
    with pytest.raises(UserError, match=r"blocks\.1\.mlp\.fc1.*-1e\+05.*beyond the range of fp16; give .*bf16") as told:
        precision.typed(given, "fp16")
    assert "\n" not in str(told.value)
    onnx.checker.check_model(precision.typed(given, "bf16"), full_check=True)


def test_an_open_batch_stays_open():
    made = precision.typed(exported.tapped("tome", 1, dynamic=True), "fp16")
    onnx.checker.check_model(made, full_check=True)
    assert exported.run(made, exported.batch_of(4))["logits"].shape == (4, 10)


@pytest.mark.parametrize(("method", "kind"), [("pomt", "fp16"), ("tome", "bf16"), ("pitome", "fp16"), ("topk", "bf16")])
def test_tensorrt_builds_it_strongly_typed(method, kind):
    trt = pytest.importorskip("tensorrt_rtx_bindings")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(narrow(method, kind).SerializeToString()), parser.get_error(0)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_openvino_reads_it(kind):
    openvino = pytest.importorskip("openvino")
    batch, core = exported.batch_of(BATCH), openvino.Core()
    compiled = core.compile_model(core.read_model(narrow("tome", kind).SerializeToString()), "CPU")
    given = exported.run(wide("tome"), batch)["logits"]
    np.testing.assert_allclose(compiled({"images": batch.numpy()})["logits"], given, atol=0.1 * np.abs(given).max())
