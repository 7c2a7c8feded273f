"""The ONNX files of a deployment: of each variant what is deployed, and the same with taps for the proof."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pomt_edge.export import LOGITS, files, metadata, outputs, pipeline
from pomt_edge.export.precision import float32_names
from pomt_edge.export.target import Target

KEPT = re.compile(r"(kept|merged|into)\d+")


@dataclass(frozen=True)
class Wanted:
    """How a graph is to be."""

    batch_size: int
    image_px: int
    precision: str
    target: Target
    dynamic_batch: bool
    facts: Mapping[str, Any]
    """What the file says of itself."""
    calibration: Sequence[Tensor]
    """Batches [B, 3, height, width] for int8."""


@dataclass(frozen=True)
class Graph:
    """One variant's files."""

    variant: str
    """'baseline' or 'reduced'."""
    file: Path
    """What is deployed."""
    tapped: Path
    """The same with every block's output and the tokens that are kept; gone when the deployment is done."""
    token_taps: Path
    """The same with the tokens that are kept alone."""
    opset: int


def export(variant: str, model: nn.Module, wanted: Wanted, folder: Path, scratch: Path) -> Graph:
    """Export a model once, and write what is deployed and what is needed for the proof.

    Raises:
        UserError: a graph that the target does not take.
    """
    whole = pipeline.deployable(
        model,
        batch_size=wanted.batch_size,
        image_px=wanted.image_px,
        precision=wanted.precision,
        target=wanted.target,
        taps=True,
        dynamic_batch=wanted.dynamic_batch,
        calibration=[batch.numpy() for batch in wanted.calibration] or None,
    )
    tokens = [output.name for output in whole.graph.output if KEPT.fullmatch(output.name)]
    deployed = metadata.stamped(outputs.only(whole, [LOGITS]), wanted.facts)
    graph = Graph(
        variant,
        folder / f"{variant}.onnx",
        scratch / f"{variant}.taps.onnx",
        scratch / f"{variant}.tokens.onnx",
        deployed.opset_import[0].version,
    )
    files.write(whole, graph.tapped)
    files.write(outputs.only(whole, [LOGITS, *tokens]), graph.token_taps)
    files.write(deployed, graph.file)
    return graph


def float32_layers(paths: Iterable[Path], precision: str) -> list[str]:
    """Nodes of float32 graphs that a TensorRT that is told its precision by a flag has to keep in float32."""
    import onnx

    names = (float32_names(onnx.load(str(path)), precision) for path in paths)
    return sorted({name for own in names for name in own})
