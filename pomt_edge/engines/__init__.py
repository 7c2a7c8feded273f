"""Engines run a model. One file per engine, found by its name; each builds a model and loads it as a Session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

from pomt_edge import catalogue

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from pomt_edge.export.target import Target

ENGINES = "pomt_edge.engines"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Setting:
    """What an engine runs a model with."""

    device: str
    precision: str
    batch_size: int
    image_px: int
    cuda_graphs: bool = False
    """Replay captured graphs where the engine can: no time goes into launching kernels one by one."""
    compile: bool = False
    """torch alone: through torch.compile."""
    provider: str | None = None
    """ONNX Runtime alone: 'cpu', 'cuda' or 'tensorrt'; None: the device's own."""


@dataclass(frozen=True)
class BuildOptions:
    """Where and how an engine is built."""

    folder: Path
    """Where the engine's files and its log go; it exists."""
    name: str
    """What the files are called, without an ending, such as 'reduced'."""
    workspace_mib: int | None = None
    tell: Callable[[str], None] = lambda text: None
    """Told how far the build is."""
    reuse_timings: bool = True
    """Let a build be quick by what earlier ones have timed of kernels; False: builds that choose for themselves."""


@dataclass(frozen=True)
class Built:
    """What an engine made of a model, ready to be loaded; it may have been made for another machine."""

    artefact: Any
    """A module, the file to load, or what else the engine's `load` needs."""
    seconds: float = 0.0
    size_mib: float | None = None
    precision: str | None = None
    """What the matrix products really run in, where the build tells; else the session may."""
    kernels: Mapping[str, int] = field(default_factory=dict)
    """Layers or kernels by precision, where the build tells."""
    log: Path | None = None


class Session(Protocol):
    """A model made ready on an engine."""

    timer: str
    """How `time_ms` takes the time, such as 'host clock'."""

    @property
    def first_ms(self) -> float | None:
        """The session's very first forward, by the host's clock, in milliseconds; None: not known.

        It comes before any that warms up, captures or profiles: what a deployment's first batch waits for.
        """

    def time_ms(self, count: int) -> list[float]:
        """Latency of each of `count` forwards of one whole batch, in milliseconds."""

    def run(self, images: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        """Images [B, 3, height, width], any number of them, to all outputs by name, floats in float32.

        A session of a fixed batch runs them batch by batch, the last one filled up.
        """

    def memory_mib(self) -> float | None:
        """Memory that a forward needs; see `LatencyPoint.memory_mib`. None: the engine does not tell."""

    def precision(self) -> str | None:
        """What the matrix products really run in, read back: 'fp32', 'fp16', 'bf16', 'int8' or None, not told."""


@runtime_checkable
class Tapped(Protocol):
    """A session that tells what it computes within, as those of modules do; others are given a graph with taps."""

    def tapped(self, images: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        """Images [B, 3, height, width] to the logits, `block{i}`, `kept{i}`, `merged{i}` and `into{i}`.

        Named and shaped as the outputs of `export.graph.to_onnx` with taps, floats in float32; B may be any number.
        """


class Engine(Protocol):
    """A module of this folder."""

    TAKES: Literal["module", "onnx"]
    """What `build` is given: a module in torch, or the path of an ONNX file."""

    def version(self) -> str | None:
        """The version of the engine's library, or None where it is not installed."""

    def default_device(self) -> str:
        """The device to use where the user names none."""

    def check_device(self, device: str) -> None:
        """Raise a UserError unless the engine is installed and can use the device here."""

    def check_setting(self, setting: Setting) -> None:
        """Raise a UserError for a precision or a provider that the engine does not have here."""

    def gpu_uuid(self, device: str) -> str | None:
        """The UUID by which the driver knows a CUDA device; None for others, or where it is not told."""

    def target(self) -> Target:
        """Whose rules a graph for this engine keeps."""

    def objection_to_graphs(self, model: nn.Module, setting: Setting) -> str | None:
        """Why this prepared model can't be captured as a CUDA graph here, or None if it can."""

    def prepare(self, model: nn.Module, setting: Setting) -> nn.Module:
        """The model where the engine wants it, once for all the variants that share its weights."""

    def build(self, source: nn.Module | Path, setting: Setting, options: BuildOptions) -> Built:
        """Make a prepared module, or an ONNX file in the setting's precision, ready to be loaded.

        Raises:
            UserError: out of memory, an operation that the engine does not have (named with the module that it came
                from), a version that does not fit; the message says what to do.
        """

    def load(self, built: Built, setting: Setting) -> Session:
        """A session of what was built.

        Raises:
            UserError: the device or the precision is not to be had here.
        """


def names() -> list[str]:
    """The engines as a user types them, such as 'trt-rtx'."""
    return [as_typed(name) for name in catalogue.names(ENGINES)]


def as_typed(name: str) -> str:
    """'trt-rtx' for its module's name, too."""
    return name.replace("_", "-")


def load(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UserError: no such engine; the message lists the known ones, the nearest first.
    """
    catalogue.check(name, names(), "engine")
    return cast(Engine, catalogue.load(ENGINES, name.replace("-", "_"), "engine"))
