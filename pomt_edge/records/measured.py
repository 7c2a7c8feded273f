"""What is measured: latency, accuracy, cost, and where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pomt_edge.records.base import Record

MEASURED, SIMULATED, RECORDED = "measured", "simulated", "recorded"

Kept = int | tuple[int, ...]
"""So many tokens left, removed as --block says; or a schedule, one integer per block."""


def tokens_left(point: Kept, full: int) -> int:
    """The tokens at the model's end; `full`: of the unreduced model."""
    return point if isinstance(point, int) else full - sum(point)


def named(point: Kept) -> str:
    """'128 tokens', or 'schedule 0,0,0,8,8'."""
    return f"{point} tokens" if isinstance(point, int) else f"schedule {','.join(map(str, point))}"


@dataclass(frozen=True)
class Preprocessing(Record):
    """From an image file to the model's input."""

    image_px: int
    mean: tuple[float, ...]
    """Per channel, of values in 0 to 1."""
    std: tuple[float, ...]
    crop_pct: float
    """Share of the shorter side that the centre crop keeps."""
    interpolation: str
    crop_mode: str = "center"
    """As timm has it: 'center', 'squash' (no part is cut off, the aspect is) or 'border'."""


@dataclass(frozen=True)
class LatencyPoint(Record):
    """Latency of one forward of the whole batch with `tokens` left after the reduction."""

    tokens: int
    median_ms: float
    low_ms: float
    """Lower end of the 95 % interval of the median (block bootstrap)."""
    high_ms: float
    samples: int
    blocks: int
    """Separate visits to this point, spread over the sweep."""
    stop_reason: str
    p90_ms: float | None = None
    """Withheld (None) below 44 samples; p95 below 90, p99 below 459."""
    p95_ms: float | None = None
    p99_ms: float | None = None
    cv_percent: float | None = None
    """Coefficient of variation of the samples: standard deviation over mean."""
    energy_mj: float | None = None
    """Energy per image in millijoules, of the baseline and the choice, where the device counts it."""
    memory_mib: float | None = None
    """On CUDA the peak of what one forward and the weights have allocated; on the CPU the resident memory of the
    whole process, all counts' models in it."""


@dataclass(frozen=True)
class Shift(Record):
    """A sudden change of the machine's speed."""

    anchor: int
    """Blocks of the anchor measured before it."""
    percent: float
    """Of the anchor's latency, positive for slower."""


@dataclass(frozen=True)
class Steadiness(Record):
    """How steady the machine was through the sweep, by what was measured and by the device's own counters."""

    drift_percent: float = 0.0
    """Change of the anchor from the sweep's start to its end, by a robust line, sudden shifts aside."""
    drift_low: float = 0.0
    """Lower end of the drift's 95 % interval, in percent."""
    drift_high: float = 0.0
    shifts: tuple[Shift, ...] = ()
    samples: int = 0
    outliers: int = 0
    """Forwards far above the median of their block; they are counted and kept."""
    cv_percent: float | None = None
    """The middle point's coefficient of variation."""
    warm_up_forwards: int = 0
    warm_up_ratio: float | None = None
    """First forward over settled one."""
    dropped_blocks: int = 0
    """Blocks that the device's counters say were throttled; they were measured again."""
    throttled_blocks: int = 0
    """Throttled blocks that are in the curve, because measuring again did not help."""
    throttled_by: dict[str, Any] = field(default_factory=dict)
    """What held the device back, and in how many blocks."""
    counters: tuple[str, ...] = ()
    """The throttle counters that the device has."""


@dataclass(frozen=True)
class LatencyCurve(Record):
    """The points, most tokens first; the first is the unreduced model, the baseline."""

    points: tuple[LatencyPoint, ...]
    probe: str = "block"
    """'block': the reduced model itself; 'input': the paper's probe, random tokens dropped before block 0."""
    anchor_ms: tuple[float, ...] = ()
    """Block medians of the baseline in the order of measurement, as they were: they show drift and unrest.
    The points' latencies are scaled by the anchor around them to its median."""
    steadiness: Steadiness = Steadiness()
    detrended: bool = False
    """Whether the latencies are those of the sweep's first tenth, the drift and shifts since taken out."""
    percentile_method: str = "linear"

    @property
    def baseline(self) -> LatencyPoint:
        return self.points[0]

    def at(self, tokens: int) -> LatencyPoint:
        return next(point for point in self.points if point.tokens == tokens)


@dataclass(frozen=True)
class Segment(Record):
    """One tread: from `most_tokens` down to `fewest_tokens`, on one line of the common slope."""

    most_tokens: int
    fewest_tokens: int
    median_ms: float
    """The fitted latency in the tread's middle, (most_tokens + fewest_tokens) / 2."""


@dataclass(frozen=True)
class Step(Record):
    """An edge between two treads: `tokens` is the first (largest) count beyond it."""

    tokens: int
    height_ms: float
    """How much faster the far side is, the slope aside; negative where fewer tokens are slower."""
    height_percent: float
    """Height relative to the latency on the side of more tokens."""


@dataclass(frozen=True)
class Staircase(Record):
    """The fit that explains a curve, and the counts worth choosing from."""

    slope_ms_per_token: float
    segments: tuple[Segment, ...]
    steps: tuple[Step, ...]
    efficient: tuple[int, ...]
    """Counts for which no larger count of the set is as fast within the intervals, most tokens first."""


@dataclass(frozen=True)
class AccuracyPoint(Record):
    """Accuracy (or agreement) at one count, in percent, and its loss against the unreduced model, in points."""

    tokens: int
    """Of a schedule: those left at its end."""
    percent: float
    low: float
    high: float
    images: int
    """All, or as many as showed whether the loss is within a limit."""
    drop: float
    """Points lost, paired over the same images; negative is a gain."""
    drop_low: float
    drop_high: float


@dataclass(frozen=True)
class AccuracyCurve(Record):
    """Accuracy at the counts where it was measured, most tokens first; the first is the unreduced model."""

    measure: str
    """'accuracy' (top-1 against labels) or 'agreement' (top-1 equal to the unreduced model's)."""
    points: tuple[AccuracyPoint, ...]
    skipped: tuple[str, ...] = ()
    """Images that could not be read."""


@dataclass(frozen=True)
class Environment(Record):
    """Where a number comes from; two results whose environments differ where it matters are incomparable."""

    device: str
    device_name: str
    engine: str
    precision: str
    batch_size: int
    image_px: int
    threads: int
    platform: str
    python: str
    versions: dict[str, Any]
    toolkit_version: str
    git_commit: str | None
    started: str
    """ISO 8601 with the offset."""
    details: dict[str, Any] = field(default_factory=dict)
    """What only this kind of device has: clocks, driver, CUDA, governor."""
    origin: str = MEASURED
    """'measured', 'simulated' or 'recorded': how the latencies came about."""

    @property
    def power_mode(self) -> str | None:
        """The name of the mode that the device was measured in; None where it has none, or it was not kept."""
        return power_mode_of(self.details)


def power_mode_of(details: Any) -> str | None:
    """The name of the power mode in an environment's details: as read back under the lock, else as found."""
    if not isinstance(details, Mapping):
        return None
    clocks = details.get("clocks")
    seen = clocks.get("seen") if isinstance(clocks, Mapping) else None
    mode = (seen.get("power_mode") if isinstance(seen, Mapping) else None) or details.get("power_mode")
    if isinstance(mode, Mapping):
        mode = mode.get("name")
    return str(mode) if mode else None


@dataclass(frozen=True)
class Cost(Record):
    """What a model costs on paper, per image; a device may see it otherwise."""

    gflops: float
    """Multiplications and additions of matrix products and convolutions, 10^9."""
    parameters: int
    peak_activation_mib: float
    tokens_per_block: tuple[int, ...]
    """Tokens that leave each block."""
