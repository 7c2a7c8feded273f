"""Sessions are built once, kept while there is memory, and leave nothing behind."""

from __future__ import annotations

import contextlib
import gc
import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reduce_models import images, small

from pomt_edge import reduce_model
from pomt_edge.engines import Built, Session, Setting
from pomt_edge.engines import torch as torch_engine
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.export import LOGITS
from pomt_edge.machine.system import System
from pomt_edge.measure.progress import Silent
from pomt_edge.targets.sessions import Sessions

CPU = Setting("cpu", "fp32", 2, 32)
FULL = 65
COUNTS = (65, 60, 55, 50)
MODEL = small(depth=2)


def variant(tokens: int) -> torch.nn.Module:
    return reduce_model(MODEL, method="pomt", schedule=[0, FULL - tokens], copy=False) if tokens < FULL else MODEL


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


class Counting:
    """An engine of ours that writes down what it builds and loads."""

    def __init__(self, name: str, library: str | None = None) -> None:
        pytest.importorskip("onnx")
        pytest.importorskip(library or name)
        self._engine = importlib.import_module(f"pomt_edge.engines.{name}")
        self.built: list[str] = []
        self.loaded: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def build(self, source: Any, setting: Setting, options: Any) -> Built:
        self.built.append(options.name)
        return self._engine.build(source, setting, options)

    def load(self, built: Built, setting: Setting) -> Session:
        self.loaded.append(getattr(built.artefact, "file", built.artefact).stem)
        return self._engine.load(built, setting)


def with_memory(root: Path, available: int) -> System:
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 8000000 kB\nMemAvailable: {available} kB\n")
    return System(root)


def test_a_count_is_exported_once_and_loaded_again_where_memory_was_short(folders: Path) -> None:
    engine: Any = Counting("onnxruntime")
    system = with_memory(folders / "board", 7_000_000)
    with Sessions(engine, variant, CPU, FULL, system=system) as sessions:
        sessions.prepare(COUNTS[:3], Silent())
        assert engine.built == engine.loaded == ["tokens65", "tokens60", "tokens55"]
        for tokens in COUNTS[:3]:
            with torch.inference_mode():
                expected = variant(tokens)(images(2)).numpy()
            np.testing.assert_allclose(sessions(tokens).run(images(2))[LOGITS], expected, atol=2e-5)
        (own,) = folders.glob("pomt-edge-*")
        weights = sum(file.stat().st_size for file in own.iterdir())
        assert weights < 2 * 4 * sum(parameter.numel() for parameter in MODEL.parameters()), "one copy for all counts"

        anchor, used_last = sessions(65), sessions(60)
        with_memory(folders / "board", 1_900_000)
        sessions(50)
        assert sessions(60) is used_last and len(engine.loaded) == 4
        sessions(55)
        assert engine.loaded[3:] == ["tokens50", "tokens55"], "of 60 and 55, 55 was used longer ago"
        for tokens in (50, 60, 55):
            sessions(tokens)
        assert sessions(65) is anchor, "it was used before all others, and stays"
    assert engine.built == [f"tokens{tokens}" for tokens in COUNTS]
    assert not list(folders.glob("pomt-edge-*"))


def test_what_is_let_go_without_closing_leaves_no_files(folders: Path) -> None:
    engine: Any = Counting("openvino")
    sessions = Sessions(engine, variant, CPU, FULL)
    sessions(60)
    assert list(folders.glob("pomt-edge-*"))
    del sessions
    gc.collect()
    assert not list(folders.glob("pomt-edge-*"))


def test_of_a_build_that_succeeded_no_log_stays(folders: Path) -> None:
    engine: Any = Counting("trt_rtx", "tensorrt_rtx_bindings")
    with Sessions(engine, variant, Setting("cuda", "fp32", 2, 32), FULL) as sessions:
        with contextlib.suppress(Unavailable):  # it builds anywhere, and loads on a GPU
            sessions(60)
        (own,) = folders.glob("pomt-edge-*")
        assert (own / "tokens60.engine").exists()
        assert not list(own.glob("*.log"))


def test_modules_are_neither_exported_nor_ever_let_go(folders: Path) -> None:
    system = with_memory(folders / "board", 1)
    sessions = Sessions(torch_engine, variant, CPU, FULL, system=system)
    kept = [sessions(tokens) for tokens in COUNTS]
    assert [sessions(tokens) for tokens in COUNTS] == kept
    assert not list(folders.glob("pomt-edge-*"))


def test_int8_needs_images_to_calibrate_on(folders: Path) -> None:
    engine: Any = Counting("onnxruntime")
    setting = Setting("cpu", "int8", 2, 32)
    with (
        Sessions(engine, variant, setting, FULL) as sessions,
        pytest.raises(UserError, match="--precision int8 is calibrated on images: give --data DIR"),
    ):
        sessions(60)
    with Sessions(engine, variant, setting, FULL, lambda: [images(2).numpy()]) as sessions:
        assert sessions(60).precision() == "int8"
