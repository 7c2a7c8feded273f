"""The model's constants, from the file beside this one."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


@dataclass(frozen=True)
class Menu:
    """The tiles that an architecture's libraries choose from."""

    token_tiles: tuple[int, ...]
    channel_tiles: tuple[int, ...]
    most_elements: int
    """Of one tile: its sums have to fit the registers."""
    splits: int
    """The largest number of parts of a product's inner dimension that are computed side by side."""
    attention_tile: tuple[int, int]
    """Queries and keys."""


@dataclass(frozen=True)
class Constants:
    """Clocks are those of the GPU; efficiencies are shares of what its profile says is the most."""

    mma_efficiency: float
    """Of the tensor cores in the inner loop of a product in fp16, bf16 and int8."""
    tf32_efficiency: float
    load_bytes_per_clock: float
    """Of one SM, for the two sides of its tile."""
    step_clocks: float
    """The least time of one step of the inner loop, 128 bytes deep."""
    tile_clocks: float
    """Beginning and end of one tile."""
    gemm_clocks: float
    """Beginning and end of a product's kernel."""
    pass_clocks: float
    """The least time of any kernel."""
    attention_clocks: float
    attention_efficiency: float
    attention_tf32_efficiency: float
    split_clocks: float
    """Adding up the parts of a split product."""
    l2_bytes_per_clock: float
    """Of one SM, in element-wise kernels."""
    convolution_efficiency: float
    """Of the patch embedding, which libraries run far below a product of its size."""
    simt_efficiency: float
    memory_efficiency: float
    l2_share: float
    gap_us: float
    sort_us: float
    host_us_pc: float
    host_us_jetson: float


@dataclass(frozen=True)
class Processor:
    """An ordinary processor."""

    gflops: float
    memory_gb_per_s: float
    group: int
    remainder: float
    kernel_us: float


@functools.cache
def constants() -> Constants:
    data = _file()
    return Constants(**data["fitted"], **data["assumed"])


def with_fitted(values: Mapping[str, float]) -> Constants:
    """The constants with other fitted ones."""
    return dataclasses.replace(constants(), **values)


@functools.cache
def processor() -> Processor:
    return Processor(**_file()["cpu"])


@functools.cache
def menu(architecture: str, wide: bool) -> Menu:
    """`wide`: of inputs of 4 bytes."""
    data = _file()["architectures"][architecture]
    kind = "wide_" if wide else ""
    return Menu(
        tuple(data[f"{kind}token_tiles"]),
        tuple(data[f"{kind}channel_tiles"]),
        data["most_elements"],
        data[f"{kind}splits"],
        tuple(data[f"{kind}attention_tile"]),
    )


@functools.cache
def _file() -> Any:
    return tomllib.loads((resources.files("pomt_edge.simulator") / "constants.toml").read_text(encoding="utf-8"))
