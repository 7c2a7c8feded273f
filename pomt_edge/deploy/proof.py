"""The proof of a deployment, before anything is measured: the graph by ONNX Runtime, the engine by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pomt_edge.deploy import parity
from pomt_edge.deploy.graphs import Graph
from pomt_edge.engines import Session, Tapped
from pomt_edge.export import graph as exporting
from pomt_edge.records import Parity

Array = np.ndarray[Any, Any]
Load = Callable[[Path, str], Session]
"""Builds and loads an ONNX file on the engine; the name is for its files."""


@dataclasses.dataclass(frozen=True)
class Yardstick:
    """What torch computes in float32 of one variant, on the images of the proof."""

    variant: str
    model: nn.Module
    batches: Sequence[Tensor]
    real_images: bool
    expected: Mapping[str, Array]

    @classmethod
    def of(cls, variant: str, model: nn.Module, batches: Sequence[Tensor], real_images: bool) -> Yardstick:
        return cls(variant, model, batches, real_images, parity.reference(model, batches))

    def judge(self, engine: str, precision: str, found: Mapping[str, Array]) -> Parity:
        subject = parity.Subject(self.variant, engine, precision, self.real_images)
        return parity.compare(subject, self.expected, found)


def of_graph(yardstick: Yardstick, graph: Graph, precision: str) -> Parity | None:
    """The exported graph in ONNX Runtime on the CPU; None where that is not installed or lacks the precision."""
    run = _runner(graph.token_taps)
    if run is None:
        return None
    result = yardstick.judge("onnxruntime", precision, _all(run, yardstick.batches))
    return result if result.passed else _located(result, yardstick, _runner(graph.tapped), precision)


def of_engine(
    yardstick: Yardstick, engine: str, precision: str, session: Session, graph: Graph | None, load: Load
) -> Parity:
    """The very session that is deployed; the kept tokens, which it does not tell, from the same graph with taps."""
    found = parity.run(session, yardstick.batches)
    if len(yardstick.expected) > 1:
        if isinstance(session, Tapped):
            found = _all(session.tapped, yardstick.batches) | found
        elif graph is not None:
            found = _all(load(graph.token_taps, f"{graph.variant}.tokens").run, yardstick.batches) | found
    result = yardstick.judge(engine, precision, found)
    if result.passed or graph is None:
        return result
    return _located(result, yardstick, load(graph.tapped, f"{graph.variant}.taps").run, precision)


Run = Callable[[Tensor], Mapping[str, Array]]


def _all(run: Run, batches: Sequence[Tensor]) -> dict[str, Array]:
    parts = [run(batch) for batch in batches]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _located(result: Parity, yardstick: Yardstick, run: Run | None, precision: str) -> Parity:
    """The failure with the first tensor that diverges, found on the first batch."""
    if run is None:
        return result
    batch = yardstick.batches[0]
    with torch.inference_mode():
        expected = {name: value.numpy() for name, value in exporting.tapped(yardstick.model, batch).items()}
    where = parity.first_divergence(expected, run(batch), precision)
    return dataclasses.replace(result, diverges_at=where)


def _runner(file: Path) -> Run | None:
    """The file in ONNX Runtime, whatever it makes of low precision: here only the graph's meaning counts."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return None  # such as bfloat16: it has no kernels for it
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> dict[str, Array]:
        return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images.numpy()}), strict=True))

    return run
