"""ONNX files appear whole or not at all, share their weights, and say what they are."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from exported import batch_of, deployed, run  # noqa: E402

from pomt_edge.export import files, metadata  # noqa: E402


def test_a_model_comes_back_as_it_was_written(tmp_path: Path) -> None:
    model = deployed("pomt")
    assert files.write(model, tmp_path / "it.onnx") == [tmp_path / "it.onnx"]
    assert onnx.load(tmp_path / "it.onnx") == model
    assert sorted(os.listdir(tmp_path)) == ["it.onnx"]
    whole = (tmp_path / "it.onnx").read_bytes()
    assert files.sha256(tmp_path / "it.onnx") == hashlib.sha256(whole).hexdigest()


def test_large_weights_go_into_a_file_of_their_own(tmp_path: Path) -> None:
    model = deployed("pomt")
    written = files.write(model, tmp_path / "it.onnx", limit_bytes=1000)
    assert [path.name for path in written] == ["it.onnx", "it.onnx.data"]
    assert sorted(os.listdir(tmp_path)) == ["it.onnx", "it.onnx.data"]
    assert written[0].stat().st_size < len(model.SerializeToString()) < written[1].stat().st_size * 3
    (tmp_path / "moved").mkdir()
    for path in written:
        path.rename(tmp_path / "moved" / path.name)
    found = run(tmp_path / "moved" / "it.onnx", batch_of(3))["logits"]
    assert (found == run(model, batch_of(3))["logits"]).all()


def test_a_small_model_leaves_no_weights_of_a_large_one_behind(tmp_path: Path) -> None:
    files.write(deployed("pomt"), tmp_path / "it.onnx", limit_bytes=1000)
    files.write(deployed("pomt"), tmp_path / "it.onnx")
    assert os.listdir(tmp_path) == ["it.onnx"]


def test_models_share_their_weights(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    shared = files.Shared(tmp_path / "sweep")
    names = ["topk", "l2_norm", "random"]
    paths = [shared.write(deployed(name), name) for name in names]
    alone = sum(len(tensor.raw_data) for tensor in deployed("topk").graph.initializer if len(tensor.raw_data) > 1024)
    count = len([tensor for tensor in deployed("topk").graph.initializer if len(tensor.raw_data) > 1024])
    assert shared.weights.stat().st_size < alone + files.PAGE_BYTES * (count + 3)
    assert all(path.stat().st_size < len(deployed("topk").SerializeToString()) for path in paths)
    core = openvino.Core()
    for name, path in zip(names, paths, strict=True):
        expected = run(deployed(name), batch_of(3))["logits"]
        assert (run(path, batch_of(3))["logits"] == expected).all()
        compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled(batch_of(3).numpy())[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_resumed_process_leaves_the_models_of_the_first_alone(tmp_path: Path) -> None:
    first = files.Shared(tmp_path).write(deployed("topk"), "first")
    expected = run(first, batch_of(3))["logits"]
    second = files.Shared(tmp_path).write(deployed("l2_norm"), "second")
    assert (run(first, batch_of(3))["logits"] == expected).all()
    assert (run(second, batch_of(3))["logits"] == run(deployed("l2_norm"), batch_of(3))["logits"]).all()


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with other weights, in its own file and beside it, which must not be mixed up with the old."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for tensor in found.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.raw_data = (onnx.numpy_helper.to_array(tensor) / 2).tobytes()
    return found


KILLED = """
import os, signal, sys
import onnx
from pomt_edge.export import files
model = onnx.load(sys.argv[1])
calls = 0
def step(event, args):
    global calls
    if event in ("open", "os.rename", "os.remove") and sys.argv[2] in str(args[0]):
        calls += 1
        if calls == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
files.write(model, os.path.join(sys.argv[2], "it.onnx"), limit_bytes=int(sys.argv[3]))
"""


@pytest.mark.parametrize("limit", [1000, files.LIMIT_BYTES])
def test_a_killed_process_leaves_no_broken_model(tmp_path: Path, limit: int) -> None:
    old = deployed("topk")
    files.write(halved(old), tmp_path / "new.onnx")
    expected = [run(model, batch_of(3))["logits"] for model in (old, halved(old))]
    folder = tmp_path / "target"
    folder.mkdir()
    killed = 0
    for step in range(1, 12):
        files.write(old, folder / "it.onnx", limit_bytes=1000)
        arguments = [str(tmp_path / "new.onnx"), str(folder), str(limit), str(step)]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if (folder / "it.onnx").exists():
            found = run(folder / "it.onnx", batch_of(3))["logits"]
            assert any((found == either).all() for either in expected)
        if done.returncode == 0:
            break
        killed += 1
    assert killed >= 2


FACTS = {"plan": {"method": "pomt", "schedule": [0, 3]}, "labels": ["Katze", "猫"], "mean": [0.5, 0.25], "px": 16}


def test_a_model_tells_what_it_is(tmp_path: Path) -> None:
    model = deployed("pomt")
    stamped = metadata.stamped(metadata.stamped(model, {"px": 32}), FACTS)
    assert metadata.read(model) == {}
    files.write(stamped, tmp_path / "it.onnx")
    assert metadata.read(onnx.load(tmp_path / "it.onnx")) == FACTS
    stamped.metadata_props.add(key="author", value="someone")
    assert metadata.read(stamped)["author"] == "someone"


def test_a_fact_that_json_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        metadata.stamped(deployed("pomt"), {"mean": float("nan")})
