"""What the wiring of devices takes from a model, and what a board is sent."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from reduce_models import small

from pomt_edge import profiles
from pomt_edge.errors import UserError
from pomt_edge.measure.progress import Silent
from pomt_edge.places import Wanted, _Exports, as_recorded, geometry_of, obtainable, open_place
from pomt_edge.reduce import method
from pomt_edge.request import Request, default_engine

RECORDED = Request(device="recorded:h200", batch_size=4)
DEIT = "deit_small_patch16_224"


def test_the_simulator_is_given_the_models_own_sizes() -> None:
    model = small()
    geometry = geometry_of(model)
    assert geometry.depth == len(model.blocks) and geometry.embed_dim == model.embed_dim
    assert geometry.heads == model.blocks[0].attn.num_heads
    assert geometry.mlp_dim == model.blocks[0].mlp.fc1.out_features
    assert geometry.tokens == model.patch_embed.num_patches + model.num_prefix_tokens


def test_a_recording_says_what_it_was_made_with() -> None:
    request = as_recorded(RECORDED, DEIT)
    assert (request.engine, request.probe) == ("torch", "input")
    assert as_recorded(Request(device="sim:a100"), DEIT).probe == "block"
    with pytest.raises(UserError, match="has no deit_small_patch16_224, batch 1, fp32"):
        as_recorded(Request(device="recorded:h200"), DEIT)


def test_a_grid_that_was_not_recorded_is_cut_or_refused() -> None:
    assert obtainable(RECORDED, DEIT, (197, 2, 1), Silent()) == (197, 2)
    with pytest.raises(UserError, match="was recorded at 197 to 2 tokens"):
        obtainable(Request(device="recorded:h200", batch_size=4, grid_stop=1), DEIT, (197, 2, 1), Silent())
    with pytest.raises(UserError, match="not all counts of the grid"):
        obtainable(RECORDED, DEIT, (198, 197, 2), Silent())  # the unreduced model itself


def wanted(request: Request) -> Wanted:
    model = small()
    tokens = geometry_of(model).tokens
    image_px = geometry_of(model).image_px
    images = np.random.default_rng(0).standard_normal((1, 3, image_px, image_px)).astype(np.float32)
    by = method.load("pomt")
    return Wanted(request, "a model", model, by, (1,), lambda _: model, (tokens,), lambda: iter([images]))


def test_the_graphs_for_a_board_in_int8_are_calibrated() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    exports = _Exports(wanted(Request(device="ssh://orin", engine="trt", precision="int8", data=Path())))
    path = exports.file(geometry_of(small()).tokens)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(str(path)).graph.node}


def test_what_is_typed_is_never_overridden_by_a_recording() -> None:
    for changes, said in (
        ({"probe": "block", "typed": frozenset({"probe"})}, "--probe block: --device recorded:h200 was recorded with"),
        ({"engine": "trt"}, "--engine trt: --device recorded:h200 was recorded with --engine torch; leave it out"),
    ):
        with pytest.raises(UserError, match=said):
            as_recorded(dataclasses.replace(RECORDED, **changes), DEIT)  # type: ignore[arg-type]


def test_what_is_not_built_is_not_calibrated_and_a_users_own_board_has_tensorrt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Request(model=DEIT, device="sim:jetson_orin_nano", engine="trt", precision="int8").check()
    with pytest.raises(UserError, match="--precision int8 is calibrated on images"):
        Request(model=DEIT, device="ssh://orin", engine="trt", precision="int8").check()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    profiles.own_folder().mkdir(parents=True)
    (profiles.own_folder() / "my_robot.toml").write_text(Path(profiles.load("jetson_tx2").file).read_text())
    devices = ("sim:my_robot", "sim:jetson_tx2", "ssh://orin", "sim:a100", "recorded:h200", "cpu")
    assert [default_engine(device) for device in devices] == ["trt", "trt", "trt", "torch", "torch", "torch"]


def test_a_simulated_device_takes_the_requests_precision_and_mode() -> None:
    latencies = {}
    for name, changes in {"fp32": {}, "fp16": {"precision": "fp16"}, "15W": {"power_mode": "15W"}}.items():
        request = Request(device="sim:jetson_agx_orin_64g", engine="trt", noise="none", **changes)  # type: ignore[arg-type]
        place = open_place(wanted(request), Silent())
        (latencies[name],) = place.time_ms(geometry_of(small()).tokens, 1)
    assert latencies["fp16"] < latencies["fp32"] < latencies["15W"]
