"""Every record that crosses a stage: small, frozen, the unit in the field's name, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

SCHEMA = 1

R = TypeVar("R", bound="Record")


class RecordError(ValueError):
    """A file or a mapping that is not the record it should be; the message says what is wrong."""


class Record:
    """To and from JSON for the frozen dataclasses below."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_dict(cls: type[R], data: Any) -> R:
        """Build the record from plain JSON data; unknown keys are ignored, so that old code reads new files.

        Raises:
            RecordError: a field is missing or of another type.
        """
        if not isinstance(data, Mapping):
            raise RecordError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
        hints = typing.get_type_hints(cls)
        values = {}
        for spec in dataclasses.fields(cls):  # type: ignore[arg-type]
            if spec.name in data:
                values[spec.name] = _decode(hints[spec.name], data[spec.name], f"{cls.__name__}.{spec.name}")
            elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
                raise RecordError(f"{cls.__name__}: the field '{spec.name}' is missing")
        return cls(**values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON; the file appears whole or not at all."""
        write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls: type[R], path: str | os.PathLike[str]) -> R:
        """Read the record from a JSON file.

        Raises:
            RecordError: no such file, not JSON, or not this record.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise RecordError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise RecordError(f"{path}: not JSON ({error})") from error
        try:
            return cls.from_dict(data)
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file so that a reader, or a crash, never sees half of it."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, target)


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
        return _decode(hint, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise RecordError(f"{where}: expected a list, got {value!r}")
        return tuple(_decode(typing.get_args(hint)[0], item, where) for item in value)
    if isinstance(hint, type) and issubclass(hint, Record):
        return hint.from_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = dict if origin is dict else hint
    if plain is Any:
        return value
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        raise RecordError(f"{where}: expected {plain.__name__}, got {value!r}")
    return value


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
    percent: float
    low: float
    high: float
    images: int
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
class Plan(Record):
    """How many tokens to remove in which block, what that is predicted to give, and why."""

    model: str
    method: str
    schedule: tuple[int, ...]
    """One integer per block: tokens removed there."""
    tokens_in: int
    tokens_out: int
    """What the blocks after the reduction really see."""
    removed: int
    block: int
    batch_size: int
    image_px: int
    precision: str
    engine: str
    device: str
    baseline_ms: float
    predicted_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float
    verdict: str
    """'prune', 'keep' (do not prune) or 'unreachable' (no count meets the limits)."""
    because: str
    limits: dict[str, Any]
    measure: str | None = None
    """'accuracy', 'agreement', or None where neither was measured."""
    baseline_percent: float | None = None
    predicted_percent: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    probe: str = "block"
    num_classes: int | None = None
    schema: int = SCHEMA

    @classmethod
    def from_dict(cls, data: Any) -> Plan:
        plan = super().from_dict(data)
        if plan.schema > SCHEMA:
            raise RecordError(f"Plan.schema is {plan.schema}, this version reads up to {SCHEMA}: update pomt-edge")
        return plan

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read plan.json, or the plan of a run's folder."""
        file = Path(path)
        return super().load(file / "plan.json" if file.is_dir() else file)


@dataclass(frozen=True)
class Cost(Record):
    """What a model costs on paper, per image; a device may see it otherwise."""

    gflops: float
    """Multiplications and additions of matrix products and convolutions, 10^9."""
    parameters: int
    peak_activation_mib: float
    tokens_per_block: tuple[int, ...]
    """Tokens that leave each block."""


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


@dataclass(frozen=True)
class Result(Record):
    """All that one run of the main job found out."""

    plan: Plan
    curve: LatencyCurve
    staircase: Staircase
    accuracy: AccuracyCurve | None
    environment: Environment
    costs: tuple[Cost, ...] = ()
    """Of the unreduced model and of the plan's."""
    notes: tuple[str, ...] = ()
    """Sentences that the user must read: random weights, skipped images, an imbalance seen."""


@dataclass(frozen=True)
class ComparedPoint(Record):
    """One token count in two runs, B against A."""

    tokens: int
    a_ms: float
    b_ms: float
    a_speedup: float
    """Of A's unreduced model over this count."""
    b_speedup: float
    percent: float
    """How much longer B takes than A, in percent of A; negative is faster. On the relative scale it is the shares of
    the unreduced model's latency that are compared."""
    low: float | None
    """Lower end of the difference's 95 % interval, in percent; None where neither side has an interval."""
    high: float | None
    verdict: str
    """'SAME', 'FASTER', 'SLOWER' or 'AMBIGUOUS' (not measured well enough to tell)."""
    beyond: bool
    """Whether it is faster or slower by surely more than the tolerance, the number of counts looked at allowed for."""


@dataclass(frozen=True)
class Contest(Record):
    """Every method on the same model, device and images, each against its own interleaved baseline."""

    results: tuple[Result, ...]
    best: str | None
    """The method whose plan is taken; None where no plan prunes."""
    because: str
    unfit: tuple[str, ...] = ()
    """Methods that could not be used, each with the reason."""

    @property
    def plan(self) -> Plan:
        """The best method's, else the first one's, which says why not to prune."""
        plans = [result.plan for result in self.results]
        return next((plan for plan in plans if plan.method == self.best), plans[0])


@dataclass(frozen=True)
class FieldPair(Record):
    """A field of the environment that two runs do not share."""

    field: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ComparedPlans(Record):
    """What two runs chose."""

    a_verdict: str
    b_verdict: str
    a_removed: int
    b_removed: int
    agreement: str
    """'same', 'same tread' (of A's staircase) or 'different'."""


@dataclass(frozen=True)
class Comparison(Record):
    """Run B against run A."""

    a: str
    b: str
    verdict: str
    """'SLOWER' (a regression), 'FASTER', 'SAME', 'AMBIGUOUS' or 'INCOMPARABLE'."""
    because: str
    tolerance_percent: float
    scale: str
    """'absolute': counts in milliseconds; 'relative': each in shares of its own run's unreduced model."""
    level: ComparedPoint | None
    """The unreduced model in milliseconds; its interval holds the machine's unrest."""
    points: tuple[ComparedPoint, ...]
    """The reduced counts that both have, most tokens first."""
    counts: dict[str, Any]
    """How many points there are of each verdict."""
    only_in_a: tuple[int, ...]
    only_in_b: tuple[int, ...]
    plans: ComparedPlans | None
    incomparable: tuple[FieldPair, ...]
    """Fields that matter and differ."""
    differs: tuple[FieldPair, ...]
    """Fields that may differ between two runs that are compared, such as versions."""
    unknown_in_a: tuple[str, ...]
    """Fields that matter and that only the other run recorded."""
    unknown_in_b: tuple[str, ...]
    chosen: tuple[int, ...] = ()
    """The counts that the plans chose, A's first."""
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA
