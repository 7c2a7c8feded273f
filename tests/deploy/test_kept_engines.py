"""An interrupted deployment goes on with the very engine that it had built."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pomt_edge.deploy import kept
from pomt_edge.engines import BuildOptions, Built, Setting

SETTING = Setting("cuda:0", "fp16", 1, 224)


@pytest.fixture
def built(tmp_path: Path) -> tuple[Path, BuildOptions, Built]:
    source, engine = tmp_path / "reduced.onnx", tmp_path / "reduced.engine"
    source.write_bytes(b"graph")
    engine.write_bytes(b"engine")
    options = BuildOptions(tmp_path, "reduced")
    made = Built(engine, 3.0, 1.5, "fp16", {"fp16": 9}, None)
    kept.keep(options, kept.key(source, SETTING, "10.3", options), made, 3.0)
    return source, options, made


def test_the_same_is_found_again(built: tuple[Path, BuildOptions, Built]) -> None:
    source, options, made = built
    assert kept.find(options, kept.key(source, SETTING, "10.3", options)) == (made, 3.0)


@pytest.mark.parametrize("change", ["graph", "engine", "setting", "version", "workspace", "gone"])
def test_anything_else_is_built_anew(built: tuple[Path, BuildOptions, Built], change: str) -> None:
    source, options, made = built
    setting, version, own = SETTING, "10.3", options
    if change == "graph":
        source.write_bytes(b"another graph")
    elif change == "engine":
        made.artefact.write_bytes(b"cut sh")
    elif change == "gone":
        made.artefact.unlink()
    elif change == "setting":
        setting = dataclasses.replace(SETTING, precision="fp32")
    elif change == "version":
        version = "10.13"
    else:
        own = dataclasses.replace(options, workspace_mib=64)
    assert kept.find(own, kept.key(source, setting, version, own)) is None


def test_what_an_engine_only_reads_is_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere" / "reduced.onnx"
    source.parent.mkdir()
    source.write_bytes(b"graph")
    options = BuildOptions(tmp_path, "reduced")
    wanted = kept.key(source, SETTING, "1", options)
    kept.keep(options, wanted, Built(source), 0.0)
    assert kept.find(options, wanted) is None
