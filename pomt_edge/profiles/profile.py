"""What is known of a device before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EVIDENCE = {
    "V": "read from the device or its vendor's files",
    "R": "widely quoted, not verified",
    "D": "derived from other figures",
}
"""What the mark next to a figure means; none of them says that it was measured here."""
FIGURES = {
    "sm_count": ("multiprocessors (SMs)", ""),
    "gpu_clock_ghz": ("GPU clock, highest", "GHz"),
    "memory_gb_per_s": ("memory bandwidth", "GB/s"),
    "fp32_tflops": ("fp32", "TFLOPS"),
    "fp16_dense_tflops": ("fp16, dense", "TFLOPS"),
    "int8_dense_tops": ("int8, dense", "TOPS"),
    "l2_kib": ("L2 cache", "KiB"),
}
"""The figures that a profile may give: what each is, and its unit."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from."""

    value: float
    evidence: str
    """A key of EVIDENCE."""


@dataclass(frozen=True)
class PowerMode:
    """A mode of nvpmodel. Its ids differ per board and per release, so it is known by its name alone."""

    name: str
    """Without the 'MODE_' that some releases put before it."""
    sm_count: int | None
    """Streaming multiprocessors that are on; None: not known."""
    gpu_clock_mhz: float | None
    """The highest GPU clock; None: not known."""
    memory_gb_per_s: float | None
    """None: not known."""
    evidence: Mapping[str, str]
    """The mark of each of the three that is known, by its field name."""


@dataclass(frozen=True)
class Software:
    """What JetPack puts on a board."""

    jetpack: tuple[str, ...]
    """The releases that have it, such as ('6.1', '6.2')."""
    tensorrt: str
    cuda: str
    python: str
    onnx_opset: int
    """The highest that its TensorRT reads as it is meant."""
    precisions: tuple[str, ...]
    evidence: str


@dataclass(frozen=True)
class Board:
    """How a Jetson is recognised."""

    parts: tuple[str, ...]
    """Part numbers of its module, as in the device tree's 'compatible': 'p3701-0005'."""
    models: tuple[str, ...]
    """Beginnings of the device tree's 'model', for device trees without part numbers."""
    told_by_modes: tuple[str, ...]
    """Power modes that, of all boards it could be mistaken for, this one alone has."""


@dataclass(frozen=True)
class ClockLock:
    """How its clocks are locked without this package, in order."""

    lock: str
    restore: str
    """The project's scripts; `pomt-edge clocks lock` does the same where the package runs."""
    by_hand: tuple[str, ...]
    """The same with the vendor's tools alone."""


@dataclass(frozen=True)
class Profile:
    id: str
    name: str
    kind: str
    """'cpu' or 'cuda'."""
    recognised_by: tuple[str, ...]
    """The names that the device's driver gives it."""
    board: Board | None
    """None: no Jetson."""
    compute_capability: str | None
    precisions: tuple[str, ...]
    """What it computes natively."""
    figures: dict[str, Figure]
    """Named as in FIGURES; of the mode `figures_in`, where there are modes."""
    figures_in: str | None
    memory_mib: Figure | None
    modes: tuple[PowerMode, ...]
    software: tuple[Software, ...]
    """Empty where it is installed, not flashed."""
    clock_lock: ClockLock
    notes: tuple[str, ...]
    file: str
    """Where it was read from."""
    own: bool
    """The user's, not the package's."""

    def mode(self, name: str) -> PowerMode | None:
        """The power mode of that name, in any case, with or without 'MODE_'."""
        return next((mode for mode in self.modes if bare(mode.name) == bare(name)), None)

    def moves_steps(self, mode: PowerMode) -> bool | None:
        """Whether a mode switches SMs off, which moves the steps of the staircase; None: not known."""
        if mode.sm_count is None:
            return None
        return mode.sm_count < self.figures["sm_count"].value

    @property
    def differs_by_mode(self) -> str:
        """What a change of the power mode does to the staircase, in one sentence; empty where there are no modes."""
        moving = [f"{mode.name} ({mode.sm_count} SMs)" for mode in self.modes if self.moves_steps(mode)]
        unknown = [mode.name for mode in self.modes if mode.sm_count is None]
        parts = []
        if moving:
            off = f"SMs are off in {', '.join(moving)}, which moves the steps of the staircase"
            parts.append(f"{off}: a plan of another mode does not hold there")
        elif self.modes and not unknown:
            parts.append("all modes have the same SMs: they stretch the staircase, they do not move its steps")
        if unknown:
            parts.append(f"how many SMs are on in {', '.join(unknown)} is not known")
        return "; ".join(parts)


def bare(mode: str) -> str:
    """A power mode's name as all releases have it: 'MODE_15W_6CORE' is '15W_6CORE'."""
    return mode.upper().removeprefix("MODE_")
