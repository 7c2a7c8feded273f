"""A bundle is written whole or not at all, and read with distrust."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")

import bundles  # noqa: E402

from pomt_edge.deploy import bundle  # noqa: E402
from pomt_edge.errors import UserError  # noqa: E402
from pomt_edge.export.target import TARGETS  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundles.write(tmp_path / "board", bundles.plan())
    return tmp_path / "board"


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        bundle.open_checked(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def forge(folder: Path, **changes: object) -> None:
    """A manifest that somebody changed, and whose checksum was made to fit."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines(keepends=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    lines[-1] = f"{digest}  manifest.json\n"
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def test_what_was_written_is_read_back_and_passes_the_boards_own_check(tmp_path: Path) -> None:
    plan = bundles.plan()
    files = bundles.write(tmp_path / "board", plan, further=(164,), float32_layers=["score"], batch_size=4)
    read = bundle.open_checked(tmp_path / "board")
    assert read.plan == plan
    assert [(graph.file, graph.tokens) for graph in read.manifest.graphs] == [
        ("baseline.onnx", 197),
        ("tokens_164.onnx", 164),
        ("reduced.onnx", 107),
    ]
    assert read.manifest.batch_size == 4
    assert {file.name for file in files} == {path.name for path in (tmp_path / "board").iterdir()}
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "board", check=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_plan_that_keeps_all_tokens_has_the_baseline_alone(tmp_path: Path) -> None:
    bundles.write(tmp_path / "board", bundles.plan(removed=0, tokens_out=197, verdict="keep"))
    assert [graph.name for graph in bundle.open_checked(tmp_path / "board").manifest.graphs] == ["baseline"]


def test_weights_beside_the_graph_come_along(tmp_path: Path) -> None:
    model = onnx.load(str(bundles.graph(tmp_path / "plain.onnx")))
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]).repeat(1000)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "scale"))
    source = tmp_path / "large.onnx"
    onnx.save(model, str(source), save_as_external_data=True, location="large.onnx.data", size_threshold=0)
    plan = bundles.plan(removed=0, tokens_out=197)
    options = {"target": TARGETS["jetpack6"], "precision": "fp32", "facts": {}}
    bundle.write(tmp_path / "board", plan=plan, graphs={"baseline": source}, **options)
    bundle.open_checked(tmp_path / "board")
    moved = onnx.load(str(tmp_path / "board/baseline.onnx"))
    assert len(onnx.numpy_helper.to_array(moved.graph.initializer[0])) == 1000


def test_a_foreign_folder_is_left_alone_and_a_bundle_is_replaced_with_its_results_kept(tmp_path: Path) -> None:
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter.txt").write_text("all of it")
    with pytest.raises(UserError, match="not empty and no bundle"):
        bundles.write(foreign, bundles.plan())
    assert [path.name for path in foreign.iterdir()] == ["chapter.txt"]

    board = tmp_path / "board"
    bundles.write(board, bundles.plan(), further=(164,))
    (board / "results").mkdir()
    (board / "results/run.json").write_text("measured for an hour")
    bundles.write(board, bundles.plan(), precision="fp32")
    assert bundle.open_checked(board).manifest.precision == "fp32"
    assert not (board / "tokens_164.onnx").exists()
    assert (board / "results/run.json").read_text() == "measured for an hour"


def test_a_folder_can_be_checked_before_the_dear_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    wrong = {
        tmp_path: "is not empty and no bundle",
        tmp_path / "notes.txt": "notes.txt is a file",
        tmp_path / "notes.txt/deep/board": "notes.txt is a file",
    }
    for folder, said in wrong.items():
        with pytest.raises(UserError) as error:
            bundle.check_folder(folder)
        assert said in str(error.value) and "another folder" in str(error.value)
    bundles.write(tmp_path / "board", bundles.plan())
    for folder in (tmp_path / "board", tmp_path / "new/deep"):
        bundle.check_folder(folder)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_before_the_dear_work(tmp_path: Path) -> None:
    bundles.write(tmp_path / "board", bundles.plan())
    tmp_path.chmod(0o555)
    try:
        for folder in (tmp_path / "board", tmp_path / "new/deep"):
            with pytest.raises(UserError, match="no permission to write"):
                bundle.check_folder(folder)
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Predicted: 1.70x for trt fp16 batch 1 on cuda:0; of this board that promises nothing."),
        ({"predicted_ms": 0.0, "speedup": 1.0}, "Nothing was promised: the tokens to remove were given by hand."),
        ({"removed": 0, "tokens_out": 197}, "Nothing was promised: the plan removes no tokens."),
    ],
)
def test_the_bundle_tells_what_was_promised(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    bundles.write(tmp_path / "board", bundles.plan(**changes))
    readme = (tmp_path / "board/README.md").read_text(encoding="utf-8")
    assert said in readme.splitlines() and "1.00x" not in readme
    assert "outputs are not compared with torch's" in readme


def test_nothing_is_left_of_a_bundle_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a layer named 'a,b'"):
        bundles.write(tmp_path / "board", bundles.plan(), float32_layers=["a,b"])
    assert {path.name for path in tmp_path.iterdir()} == {"exported"}


@pytest.mark.parametrize("name", ["baseline.onnx", "reduced.onnx", "run_trtexec.sh", "plan.json", "settings.txt"])
def test_a_file_that_was_changed_or_lost_is_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"{folder / name} is not what was exported" in refused(folder)
    (folder / name).unlink()
    assert f"{folder / name} is missing" in refused(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "..", "a/b.onnx", "a\\b.onnx", ""])
def test_a_manifest_that_names_files_elsewhere_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    known = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    forge(folder, files=[*known, {"name": name, "sha256": digest, "bytes": 1}])
    assert "no file of this folder" in refused(folder)


def test_a_link_that_leads_outside_is_refused(folder: Path) -> None:
    (folder / "reduced.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "reduced.onnx").symlink_to("../elsewhere.onnx")
    assert f"{folder / 'reduced.onnx'} is a link that leads out" in refused(folder)


def test_graphs_that_nobody_vouches_for_are_refused(folder: Path) -> None:
    extra = bundles.graph(folder / "extra.onnx")
    assert f"{extra} is no graph of this bundle" in refused(folder)
    extra.unlink()
    known = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    forge(folder, files=[file for file in known if file["name"] != "reduced.onnx"])
    assert "no checksum of reduced.onnx" in refused(folder)


def test_other_checksums_for_the_board_newer_bundles_and_other_folders_are_refused(folder: Path) -> None:
    sums = (folder / "SHA256SUMS").read_text(encoding="utf-8")
    (folder / "SHA256SUMS").write_text("", encoding="utf-8")
    assert f"{folder / 'SHA256SUMS'} is not what was exported" in refused(folder)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
    forge(folder, schema=99)
    assert "schema is 99" in refused(folder) and "update pomt-edge" in refused(folder)
    assert "expected the folder of a bundle" in refused(folder.parent)
    assert "no such folder" in refused(folder.parent / "gone")
