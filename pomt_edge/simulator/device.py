"""A device as the model sees it: what one SM does in a clock, how many there are, and of which architecture."""

from __future__ import annotations

from dataclasses import dataclass

from pomt_edge.errors import UserError
from pomt_edge.profiles.profile import PowerMode, Profile
from pomt_edge.simulator import constants

ARCHITECTURES = {6: "pascal", 7: "volta", 8: "ampere", 9: "hopper", 10: "blackwell", 11: "blackwell", 12: "blackwell"}
"""By the major compute capability; Ada (8.9) uses Ampere's kernels."""
TENSOR_CORES = 7
TF32 = 8
LAUNCHES = ("eager", "graph", "tensorrt")


@dataclass(frozen=True)
class Way:
    """How the model is run."""

    precision: str = "fp32"
    batch_size: int = 1
    launch: str = "graph"
    """'eager': a host launches each kernel; 'graph': a CUDA graph of them; 'tensorrt': fewer kernels, one launch."""
    tf32: bool = False
    """Whether fp32 products may run in TF32 where there is such a thing; this package's engines never let them."""

    def __post_init__(self) -> None:
        if self.launch not in LAUNCHES:
            raise UserError(f"launch '{self.launch}': expected one of {', '.join(LAUNCHES)}")


@dataclass(frozen=True)
class Device:
    """A GPU in one power mode, at one precision."""

    sm_count: int
    clock_ghz: float
    memory_gb_per_s: float
    l2_bytes: float
    product_flop_per_clock: float
    """Of one SM, at best."""
    product_bytes: int
    """Of one element of a product's inputs."""
    other_bytes: int
    """Of one element of everything else."""
    wide_efficiency: bool
    """Whether products run in TF32."""
    simt: bool
    """Whether products run without tensor cores."""
    architecture: str
    jetson: bool

    def us(self, clocks: float) -> float:
        return clocks / (self.clock_ghz * 1e3)

    @property
    def menu(self) -> constants.Menu:
        return constants.menu(self.architecture, self.product_bytes == 4)


def device_of(profile: Profile, way: Way, mode: PowerMode | None = None) -> Device:
    """The device of a profile, in a power mode (None: the one of its figures).

    Raises:
        UserError: it has no such precision, its profile lacks a figure, or its architecture is not known to the model.
    """
    major = int((profile.compute_capability or "0").split(".")[0])
    if major not in ARCHITECTURES:
        known = ", ".join(f"{number}.x" for number in ARCHITECTURES)
        raise UserError(
            f"{profile.id}: compute capability {profile.compute_capability} can't be simulated; known: {known}"
        )
    tera, size, tf32 = _products(profile, way, major)
    sm_count, clock_ghz = int(_figure(profile, "sm_count")), _figure(profile, "gpu_clock_ghz")
    return Device(
        sm_count=mode.sm_count if mode and mode.sm_count else sm_count,
        clock_ghz=mode.gpu_clock_mhz / 1e3 if mode and mode.gpu_clock_mhz else clock_ghz,
        memory_gb_per_s=mode.memory_gb_per_s if mode and mode.memory_gb_per_s else _figure(profile, "memory_gb_per_s"),
        l2_bytes=1024 * _figure(profile, "l2_kib"),
        product_flop_per_clock=1e3 * tera / (sm_count * clock_ghz),
        product_bytes=size,
        other_bytes=4 if way.precision == "fp32" else 2,
        wide_efficiency=tf32,
        simt=not tf32 and (way.precision == "fp32" or major < TENSOR_CORES),
        architecture=ARCHITECTURES[major],
        jetson=profile.board is not None,
    )


def _products(profile: Profile, way: Way, major: int) -> tuple[float, int, bool]:
    """Trillions of operations per second in products, bytes of an input's element, and whether it is TF32."""
    if way.precision not in profile.precisions:
        raise UserError(
            f"{profile.id} computes no {way.precision} natively: give --precision {' or '.join(profile.precisions)}"
        )
    if way.precision == "int8":
        return _figure(profile, "int8_dense_tops"), 1, False
    if way.precision in ("fp16", "bf16"):
        return _figure(profile, "fp16_dense_tflops"), 2, False
    if way.tf32 and major >= TF32:
        return _figure(profile, "fp16_dense_tflops") / 2, 4, True
    return _figure(profile, "fp32_tflops"), 4, False


def _figure(profile: Profile, name: str) -> float:
    if name not in profile.figures:
        raise UserError(
            f"{profile.file}: figures.{name} is missing, and the simulator needs it; add it, such as "
            f'{name} = [NUMBER, "R"]'
        )
    return profile.figures[name].value
