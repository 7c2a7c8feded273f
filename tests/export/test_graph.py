"""The exported graph computes what torch does, tells which tokens it kept, and where each of its nodes came from."""

from __future__ import annotations

import logging
import sys
import warnings

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from exported import METHODS, batch_of, deployed, logits, operators, reduced, run, tapped  # noqa: E402
from reduce_models import distilled, images, small  # noqa: E402

from pomt_edge import reduce_model  # noqa: E402
from pomt_edge.errors import UserError  # noqa: E402
from pomt_edge.export import graph, outputs  # noqa: E402


@pytest.mark.parametrize(
    ("method", "batch"), [*((method, 3) for method in METHODS), ("pomt", 1), ("tome", 1), ("random", 1)]
)
def test_onnx_runtime_computes_what_torch_does_and_keeps_the_same_tokens(method: str, batch: int) -> None:
    given = batch_of(batch)
    found = run(tapped(method, batch), given)
    np.testing.assert_allclose(found["logits"], logits(reduced(method), given), rtol=0, atol=1e-5)
    with torch.no_grad():
        _, behind, maps = reduced(method).traced(given)
    expected = {f"block{index}" for index in range(len(behind))} | {"logits"}
    for index, token_map in maps.items():
        for part in ("kept", "merged", "into"):
            positions = getattr(token_map, part)
            if positions is not None:
                expected.add(f"{part}{index}")
                assert found[f"{part}{index}"].tolist() == positions.tolist()
    assert set(found) == expected
    for index, tokens in enumerate(behind):
        np.testing.assert_allclose(found[f"block{index}"], tokens.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_without_its_taps_the_graph_computes_the_same_from_no_more_than_it_needs(method: str) -> None:
    whole, bare = tapped(method, 3), deployed(method)
    assert [output.name for output in bare.graph.output] == ["logits"]
    given = batch_of(3)
    np.testing.assert_allclose(run(bare, given)["logits"], run(whole, given)["logits"], rtol=0, atol=1e-6)
    read = {name for node in bare.graph.node for name in node.input}
    made = {name for node in bare.graph.node for name in node.output}
    assert {tensor.name for tensor in bare.graph.initializer} <= read
    assert {value.name for value in bare.graph.value_info} <= made
    assert all(read.intersection(node.output) or "logits" in node.output for node in bare.graph.node)
    assert len(whole.graph.output) > 1


def test_one_output_alone_needs_only_what_comes_before_it() -> None:
    first = outputs.only(tapped("topk", 3), ["block0"])
    assert list(run(first, batch_of(3))) == ["block0"]
    assert not any(graph.module_of(node).startswith(("blocks.1", "norm", "head")) for node in first.graph.node)
    assert not any(tensor.name.startswith("head") for tensor in first.graph.initializer)
    with pytest.raises(UserError, match="unknown output 'block9'"):
        outputs.only(first, ["block9"])


@pytest.mark.parametrize("method", METHODS)
def test_sorts_by_the_largest_alone_and_nothing_that_engines_misread(method: str) -> None:
    model = tapped(method, 3)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert all(
        attribute.i == 1
        for node in model.graph.node
        if node.op_type == "TopK"
        for attribute in node.attribute
        if attribute.name == "largest"
    )
    assert not operators(model) & {"ScatterElements", "ScatterND", "CastLike", "Constant", "Shape", "Range", "Mod"}
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [3, 3, 16, 16]


def test_random_tokens_are_constants_of_the_graph() -> None:
    assert "TopK" not in operators(deployed("random"))


def test_a_node_names_the_module_it_came_from() -> None:
    model = tapped("topk", 3)
    modules = {name for name, _ in reduced("topk").model.named_modules()}
    named = {graph.module_of(node) for node in model.graph.node}
    assert named <= modules
    assert {"patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.mlp.fc1", "head"} <= named
    ranking = next(node for node in model.graph.node if node.op_type == "TopK")
    assert graph.module_of(ranking) == "blocks.0"
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_a_graph_holds_no_path_of_the_machine_that_made_it() -> None:
    assert __file__.rpartition("/tests/")[0].encode() not in tapped("topk", 3).SerializeToString()


def test_an_open_batch_takes_any_number_of_images() -> None:
    model = tapped("tome", 1, dynamic=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    known = {tensor.name for tensor in model.graph.initializer}
    assert all(node.input[1] in known for node in model.graph.node if node.op_type in ("TopK", "Reshape"))
    for count in (1, 5):
        found = run(model, batch_of(count))["logits"]
        np.testing.assert_allclose(found, logits(reduced("tome"), batch_of(count)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        reduce_model(distilled(), method="pomt", schedule=[0, 9, 0, 0]),
        # As DINOv2 is: LayerScale, and registers that have no positions.
        reduce_model(
            small(reg_tokens=4, no_embed_class=True, init_values=0.5, depth=2), method="tome", schedule=[9, 0]
        ),
        small(depth=1),
    ],
    ids=["distilled", "DINOv2", "a plain model"],
)
def test_every_kind_of_model_is_exported(model: torch.nn.Module) -> None:
    exported = graph.to_onnx(model, batch_size=2, image_px=32)
    np.testing.assert_allclose(run(exported, images(2))["logits"], logits(model, images(2)), rtol=0, atol=1e-5)


def test_the_exporter_is_silent_and_what_it_held_is_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    before = (logging.root.manager.disable, sys.stdout, sys.stderr, warnings.filters[:])
    with warnings.catch_warnings(record=True) as heard:
        graph.to_onnx(small(img_size=8, depth=1, embed_dim=16), batch_size=1, image_px=8)
    assert not heard and not "".join(capfd.readouterr())
    assert (logging.root.manager.disable, sys.stdout, sys.stderr, warnings.filters[:]) == before


def test_what_can_not_be_exported_is_said_and_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(img_size=8, depth=1, embed_dim=16)
    with pytest.raises(UserError, match=r"training mode; call model\.eval\(\)"):
        graph.to_onnx(model.train(), batch_size=1, image_px=8)
    with pytest.raises(Exception, match="16"):
        graph.to_onnx(model.eval(), batch_size=1, image_px=16)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cu121")
    with pytest.raises(UserError, match=r"torch 2\.6 or newer, this is 2\.5\.1\+cu121; type: pip install"):
        graph.to_onnx(model, batch_size=1, image_px=8)


def test_half_of_all_patches_merged_leaves_known_indices_that_are_folded_right() -> None:
    """Of a batch of one; then which tokens stay depends on no image, and so many are more than numpy's choose takes."""
    model = reduce_model(small(depth=2), method="tome", schedule=[32, 0])
    batch = images(1)
    found = run(graph.to_onnx(model, batch_size=1, image_px=32), batch)
    with torch.no_grad():
        np.testing.assert_allclose(found["logits"], model(batch).numpy(), atol=1e-5)
