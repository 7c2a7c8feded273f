"""The time of one kernel on an ordinary processor: a generic curve, of no processor in particular."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pomt_edge.errors import UserError
from pomt_edge.profiles.profile import Profile
from pomt_edge.simulator.constants import processor
from pomt_edge.simulator.work import Counts, FusedAttention, Gemm, Kernel, Pass

BYTES = 4


def check(profile: Profile, precision: str) -> None:
    """Raise a UserError for a precision that the processor is not simulated in."""
    if precision not in profile.precisions:
        raise UserError(f"{profile.id} is simulated in {' or '.join(profile.precisions)} alone")


def time_us(kernel: Kernel) -> NDArray[np.float64]:
    """Microseconds, [T]."""
    known = processor()
    busy: NDArray[Any]
    if isinstance(kernel, Gemm):
        busy = _flop_us(2.0 * kernel.batch * _grouped(kernel.rows) * kernel.columns * kernel.inner)
        if kernel.weights:
            busy = np.maximum(busy, _moving_us(kernel.columns * kernel.inner))
    elif isinstance(kernel, FusedAttention):
        busy = _flop_us(4.0 * kernel.batch * _grouped(kernel.tokens) * kernel.tokens * kernel.head_dim)
    elif isinstance(kernel, Pass):
        busy = _moving_us(kernel.elements)
    else:
        busy = kernel.rows * kernel.length * 0.05
    return np.asarray(known.kernel_us + busy, dtype=np.float64)


def _grouped(rows: Counts) -> NDArray[np.float64]:
    """Rows as they count: in part one by one, in part as whole groups, the last of them padded."""
    known = processor()
    whole = -(-rows // known.group) * known.group
    return np.asarray((1 - known.remainder) * rows + known.remainder * whole)


def _flop_us(flop: NDArray[np.float64]) -> NDArray[np.float64]:
    return flop / (processor().gflops * 1e3)


def _moving_us(elements: Counts) -> NDArray[np.float64]:
    return elements * BYTES / (processor().memory_gb_per_s * 1e3)
