"""What sessions share on the host: the images they are timed on, runs batch by batch, the process's memory."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Outputs = dict[str, np.ndarray[Any, Any]]


@functools.lru_cache(maxsize=1)
def seeded_images(batch_size: int, image_px: int) -> Tensor:
    """One seeded float32 batch [B, 3, height, width]; a sweep's hundreds of sessions share it."""
    shape = (batch_size, 3, image_px, image_px)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def once_ms(forward: Callable[[], object]) -> float:
    """How long one forward, which waits for its own end, takes by the host's clock, in milliseconds."""
    start = time.perf_counter_ns()
    forward()
    return (time.perf_counter_ns() - start) / 1e6


def batch_by_batch(forward: Callable[[Tensor], Outputs], images: Tensor, batch_size: int) -> Outputs:
    """All outputs for images [B, 3, height, width] of a session that takes `batch_size` at once.

    The last batch is filled up with its last image.
    """
    parts = []
    for batch in images.split(batch_size):
        missing = batch_size - len(batch)
        filled = torch.cat([batch, batch[-1:].expand(missing, -1, -1, -1)]) if missing else batch
        parts.append({name: array[: len(batch)] for name, array in forward(filled).items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def as_float32(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of an engine's own buffer, floats in float32, whole numbers as they are."""
    return array.astype(np.float32 if array.dtype.kind == "f" else array.dtype)


def resident_mib() -> float | None:
    """The process's resident memory, all variants' models in it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def first_line(error: Exception) -> str:
    """What went wrong, as short as a message needs it."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0][:200]
