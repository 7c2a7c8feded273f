"""What is deployed: graphs, engines, their proof, their benchmark, and whether the plan's promise held."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pomt_edge.records.base import SCHEMA, Record
from pomt_edge.records.chosen import Plan
from pomt_edge.records.measured import Environment, LatencyPoint, Steadiness


@dataclass(frozen=True)
class Parity(Record):
    """An engine's outputs against those of the float32 model in torch, on the same images."""

    variant: str
    """'baseline' or 'reduced'."""
    engine: str
    """'onnxruntime' for the graph's own proof, else the engine that is deployed."""
    precision: str
    images: int
    real_images: bool
    """False: seeded noise."""
    max_abs_diff: float
    """Largest difference of a logit."""
    mean_abs_diff: float
    max_abs_diff_allowed: float
    top1_percent: float
    """Images whose first class is the same; one whose two first classes torch has nearer than the precision is."""
    top1_percent_allowed: float
    same_tokens_percent: float | None
    """Images of which the very same tokens were kept and merged; None: nothing is reduced, or not told."""
    swapped_per_image: float | None
    """Tokens kept by one and not by the other, the mean over images."""
    diverges_at: str | None
    """The first tensor beyond the threshold, such as 'block 3 kept'; None: none, or not looked for."""
    passed: bool
    because: str
    """What failed, or an empty string."""


@dataclass(frozen=True)
class Build(Record):
    """One build of one engine."""

    variant: str
    number: int
    """From 1; several builds of the same graph show how much they vary."""
    seconds: float
    """Including the engine's own optimisation, without the export."""
    size_mib: float | None
    precision: str | None
    """What the engine's matrix products really run in, read back; None: the engine does not tell."""
    kernels: dict[str, Any]
    """How many layers or kernels run in each precision, as the engine tells."""
    load_seconds: float | None = None
    first_inference_ms: float | None = None
    median_ms: float | None = None
    """Latency of this build, where there are several."""


@dataclass(frozen=True)
class Benchmark(Record):
    """The unreduced and the reduced model on the engine, measured in turn."""

    baseline: LatencyPoint
    reduced: LatencyPoint | None
    """None: the plan removes nothing."""
    baseline_images_per_s: float
    reduced_images_per_s: float | None
    speedup: float
    speedup_low: float
    speedup_high: float
    steadiness: Steadiness
    timer: str
    """How the time was taken, such as 'host clock' or 'trtexec computeMs'."""


@dataclass(frozen=True)
class Stage(Record):
    """A part of the way from an image file to a label, per image."""

    name: str
    """'read', 'preprocess', 'engine' or 'label'."""
    baseline_ms: float
    reduced_ms: float


@dataclass(frozen=True)
class ServeCheck(Record):
    """The whole way from image files to labels."""

    images: int
    stages: tuple[Stage, ...]
    speedup: float
    """Of the whole way; the engine's own is the benchmark's."""
    speedup_low: float
    speedup_high: float
    same_labels_percent: float
    """Images that the reduced model gives the unreduced model's label."""


@dataclass(frozen=True)
class File(Record):
    """A file of the deployment, by its name in the folder."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Deployment(Record):
    """All that one deployment found out."""

    plan: Plan
    engine: str
    engine_version: str | None
    target: str
    """Whose rules the graphs keep, such as 'jetpack6'."""
    opset: int
    precision: str
    weights: str
    files: tuple[File, ...]
    parities: tuple[Parity, ...]
    builds: tuple[Build, ...]
    benchmark: Benchmark | None
    serve: ServeCheck | None
    promise: str
    """'held', 'exceeded', 'broken', 'unclear' or 'none' (no prediction for this engine, or nothing measured)."""
    verdict: str
    """'deployed', 'exported' (no engine was asked for), 'not run' (the engine is not here or can't run here) or
    'diverges' (the proof failed)."""
    because: str
    environment: Environment | None
    notes: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
