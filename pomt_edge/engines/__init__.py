"""Engines run a model. One file per engine, found by its name; each holds `load`, which gives a Session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

ENGINES = "pomt_edge.engines"
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Setting:
    """What an engine runs a model with."""

    device: str
    precision: str
    batch_size: int
    image_px: int
    cuda_graphs: bool = False
    """Replay captured graphs where the engine can: no time goes into launching kernels one by one."""


class Session(Protocol):
    """A model made ready on an engine."""

    timer: str
    """How `time_ms` takes the time, such as 'host clock'."""

    def time_ms(self, count: int) -> list[float]:
        """Latency of each of `count` forwards of one whole batch, in milliseconds."""

    def logits(self, images: Tensor) -> np.ndarray[Any, Any]:
        """Images [B, 3, height, width] to logits [B, classes] in float32."""

    def memory_mib(self) -> float | None:
        """Memory that a forward needs; see `LatencyPoint.memory_mib`. None: the engine does not tell."""


class Engine(Protocol):
    """A module of this folder."""

    def default_device(self) -> str:
        """The device to use where the user names none."""

    def check_device(self, device: str) -> None:
        """Raise a UserError unless the engine can use the device here."""

    def gpu_uuid(self, device: str) -> str | None:
        """The UUID by which the driver knows a CUDA device; None for others, or where it is not told."""

    def objection_to_graphs(self, model: nn.Module, setting: Setting) -> str | None:
        """Why this prepared model can't be captured as a CUDA graph here, or None if it can."""

    def prepare(self, model: nn.Module, setting: Setting) -> nn.Module:
        """The model where the engine wants it, once for all the variants that share its weights."""

    def load(self, model: nn.Module, setting: Setting) -> Session:
        """A session of a prepared model, or of a variant that shares its weights.

        Raises:
            UserError: the device or the precision is not to be had here.
        """
