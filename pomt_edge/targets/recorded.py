"""A device that was measured before: real samples, replayed. What was not recorded is refused, never interpolated."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from pomt_edge import catalogue, records
from pomt_edge.engines import Setting
from pomt_edge.errors import UserError
from pomt_edge.machine.controls import Control
from pomt_edge.machine.counters import Reading
from pomt_edge.measure import sweep
from pomt_edge.measure.clocks import LOCKED, ClockState, check_required
from pomt_edge.measure.journal import NAME as JOURNAL
from pomt_edge.measure.progress import Progress
from pomt_edge.records import RECORDED, Environment, RecordError, Result
from pomt_edge.targets import _elsewhere

SUFFIX = ".json"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
DRAWN = (
    "of each count only the median, minimum and maximum were kept: samples are drawn, half of them evenly between "
    "minimum and median, half between median and maximum"
)
REPLAYED = (
    "samples as they were measured, in their order and from the first again after the last; each block at the anchor's "
    "typical speed, as in the run's own curve"
)
SCHEMA = 1


@dataclass(frozen=True)
class RecordedCurve:
    """One model in one setting."""

    model: str
    batch_size: int
    precision: str
    samples_ms: Mapping[int, tuple[float, ...]]
    """By tokens left, in the order of measurement; empty where only `spread_ms` was kept."""
    spread_ms: Mapping[int, tuple[float, float, float]]
    """Minimum, median and maximum by tokens left; empty where there are samples."""
    engine: str = "torch"
    probe: str = "block"
    """'input': the tokens were dropped before the first block, so that no reduction took part."""
    method: str = ""
    block: str = ""
    """By which method and where, as typed; empty where that was not kept."""
    memory_mib: Mapping[int, float] = field(default_factory=dict)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The counts that were recorded, most first."""
        return tuple(sorted(self.samples_ms or self.spread_ms, reverse=True))

    @property
    def counts(self) -> str:
        """'197 to 150, 100': runs of neighbours."""
        runs = []
        for _, group in itertools.groupby(enumerate(self.tokens), key=lambda pair: pair[0] + pair[1]):
            run = [tokens for _, tokens in group]
            runs.append(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}")
        return ", ".join(runs)

    @property
    def title(self) -> str:
        return f"{self.model}, batch {self.batch_size}, {self.precision}"

    @property
    def reduction(self) -> str:
        """How the tokens were removed."""
        return "tokens dropped at the input" if self.probe == "input" else f"{self.method} in block {self.block}"

    @property
    def how(self) -> str:
        """What a sample of it is, for a report."""
        return REPLAYED if self.samples_ms else DRAWN


@dataclass(frozen=True)
class Recording:
    """What was measured on one device."""

    name: str
    device: str
    software: str
    method: str
    """How it was measured."""
    environment: Mapping[str, Any]
    """Of the run that it was made from; empty where there is none."""
    curves: tuple[RecordedCurve, ...]

    def curve(self, model: str, batch_size: int, precision: str) -> RecordedCurve:
        """The curve of a model in a setting.

        Raises:
            UserError: it was not recorded; the message lists what was.
        """
        for curve in self.curves:
            if (curve.model, curve.batch_size, curve.precision) == (model, batch_size, precision):
                return curve
        known = "; ".join(curve.title for curve in self.curves)
        raise UserError(f"recorded:{self.name} has no {model}, batch {batch_size}, {precision}; it has {known}")


class RecordedTarget:
    """Replays one recorded curve. The recorded device can't be asked anything else: no clocks, no counters."""

    timer = "recorded"
    origin = RECORDED
    warms_up = False

    def __init__(self, curve: RecordedCurve, recording: Recording | None = None, seed: int = 0) -> None:
        """`recording`: that the curve is of, for the record; `seed`: of what is drawn, see `RecordedCurve.how`."""
        self.curve = curve
        self._recording = recording
        self.seconds = 0.0
        """Recorded time so far."""
        self._replays: dict[int, Iterator[float]] = {
            tokens: itertools.cycle(samples) for tokens, samples in curve.samples_ms.items()
        }
        self._replays |= {
            tokens: _drawn(spread, [seed, tokens]) for tokens, spread in curve.spread_ms.items() if not curve.samples_ms
        }

    def time_ms(self, tokens: int, count: int) -> list[float]:
        """The next samples of this count.

        Raises:
            UserError: this count was not recorded.
        """
        if tokens not in self._replays:
            raise UserError(f"{tokens} tokens of {self.curve.title} were not recorded; there are {self.curve.counts}")
        samples = list(itertools.islice(self._replays[tokens], count))
        self.seconds += sum(samples) / 1e3
        return samples

    def reading(self) -> Reading:
        return Reading()

    def memory_mib(self, tokens: int) -> float | None:
        return self.curve.memory_mib.get(tokens)

    def controls(self) -> Sequence[Control]:
        return ()

    @contextlib.contextmanager
    def held(self, lock: bool, required: bool, tell: Callable[[str], None]) -> Iterator[ClockState]:
        environment = self._recording.environment if self._recording else {}
        clocks = environment.get("details", {}).get("clocks") or {}
        if clocks.get("state") == LOCKED:
            yield ClockState(RECORDED, "locked on the recorded device")
            return
        state = ClockState(RECORDED, "not known to have been locked on the recorded device")
        check_required(state, required)
        yield state

    def prepare(self, counts: Sequence[int], progress: Progress) -> dict[int, str]:
        """Nothing to make ready; counts that were not recorded can't be measured."""
        return {tokens: "not recorded" for tokens in counts if tokens not in self._replays}

    @property
    def device_name(self) -> str:
        return f"{self._recording.device if self._recording else 'a device'} (recorded)"

    def environment(self, setting: Setting, engine: str) -> Environment:
        details: dict[str, Any] = {"samples": self.curve.how, "reduction": self.curve.reduction}
        if self._recording:
            details |= {"software": self._recording.software, "method": self._recording.method}
            details |= {"recorded_environment": dict(self._recording.environment)}
        return _elsewhere.environment(setting, engine, self.device_name, RECORDED, "recorded", details)

    def close(self, finished: bool = False) -> None:
        """There is nothing to let go of."""

    def warm_up(self) -> None:
        """There is nothing to load."""

    def load(self, seconds: float) -> None:
        """There is nothing to keep busy."""

    def pause(self, seconds: float) -> None:
        """Nothing cools."""
        self.seconds += seconds


def _drawn(spread: tuple[float, float, float], seed: Sequence[int]) -> Iterator[float]:
    random = np.random.default_rng(seed)
    least, median, most = spread
    while True:
        place = random.random()
        upper = random.random() < 0.5
        yield float(median + place * (most - median) if upper else median - place * (median - least))


def own_folder() -> Path:
    """Where the user's own recordings are; it need not exist."""
    return platformdirs.user_data_path("pomt-edge") / "recordings"


def recordings(folder: Path | None = None) -> list[str]:
    """The names of the package's recordings and of the user's own in `folder` (None: `own_folder()`)."""
    return sorted(_files(folder))


def load(name: str, folder: Path | None = None) -> Recording:
    """Read one recording.

    Raises:
        UserError: no such recording, or a file that is not one.
    """
    files = _files(folder)
    catalogue.check(name, sorted(files), "recording")
    return _read(name, files[name])


def record(run_folder: Path, name: str, folder: Path | None = None) -> Path:
    """Make a recording of a finished run, or add the run's curve to the recording of that name; gives its file.

    A curve of the same model, batch size and precision is replaced.

    Raises:
        UserError: no finished run, a name that is none or is taken by the package, another device's recording.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' can't name a recording: expected lower-case letters, digits, - and _")
    if name in _packaged():
        raise UserError(f"'{name}' is the package's own recording; give another name")
    result = _result(run_folder)
    environment = result.environment
    library = folder or own_folder()
    file = library / f"{name}{SUFFIX}"
    data = _data_of(result)
    new = _curve_of(result, run_folder / JOURNAL)
    if file.exists():
        earlier = _parsed(name, file)
        if earlier.get("device") != data["device"]:
            raise UserError(
                f"recording '{name}' is of {earlier.get('device')}, this run of {environment.device_name}; "
                "give another name"
            )
        data["curves"] = [curve for curve in earlier["curves"] if _key(curve) != _key(new)]
    data["curves"].append(new)
    try:
        library.mkdir(parents=True, exist_ok=True)
        records.write_text(file, json.dumps(data, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{file}: can't be written ({error.strerror}); give another folder") from error
    return file


def _data_of(result: Result) -> dict[str, Any]:
    environment = result.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    return {
        "schema": SCHEMA,
        "device": environment.device_name,
        "software": versions,
        "method": f"pomt-edge {environment.toolkit_version}: {REPLAYED}",
        "environment": environment.to_dict(),
        "curves": [],
    }


def _curve_of(result: Result, journal: Path) -> dict[str, Any]:
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    configuration = entries[0]["configuration"]
    names = ("round", "tokens", "segment", "frames", "memory_mib", "throttled")
    visits = [
        sweep.Visit(block=tuple(entry["ms"]), **{name: entry[name] for name in names})
        for entry in entries
        if "ms" in entry
    ]
    samples: dict[int, list[float]] = {}
    memory: dict[int, float] = {}
    for visit, block in zip(visits, sweep.scaled(visits, result.curve.baseline.tokens), strict=True):
        samples.setdefault(visit.tokens, []).extend(float(f"{ms:.5g}") for ms in block)
        if visit.memory_mib is not None:
            memory[visit.tokens] = max(memory.get(visit.tokens, 0.0), visit.memory_mib)
    return {
        "model": configuration["model"],
        "batch_size": configuration["batch_size"],
        "precision": configuration["precision"],
        "engine": configuration["engine"],
        **{name: configuration[name] for name in ("probe", "method", "block")},
        "tokens": sorted(samples, reverse=True),
        "samples_ms": [samples[tokens] for tokens in sorted(samples, reverse=True)],
        "memory_mib": [memory.get(tokens) for tokens in sorted(samples, reverse=True)],
    }


def _result(run_folder: Path) -> Result:
    if not (run_folder / JOURNAL).is_file() or not (run_folder / "result.json").is_file():
        raise UserError(f"{run_folder}: no finished run there; expected a folder with {JOURNAL} and result.json")
    try:
        return Result.load(run_folder / "result.json")
    except RecordError as error:
        raise UserError(f"{error}; expected the folder of a finished run") from error


def _packaged() -> dict[str, Any]:
    folder = resources.files("pomt_edge.simulator") / "recorded"
    return {_stem(entry.name): entry for entry in folder.iterdir() if entry.name.endswith(SUFFIX)}


def _files(folder: Path | None) -> dict[str, Any]:
    library = folder or own_folder()
    own = {_stem(entry.name): entry for entry in sorted(library.glob(f"*{SUFFIX}"))} if library.is_dir() else {}
    return own | _packaged()


def _stem(name: str) -> str:
    return name.removesuffix(SUFFIX)


def _parsed(name: str, file: Any) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"recording '{name}' ({file}) can't be read: {error}; record it again") from error
    if not isinstance(data, dict) or not isinstance(data.get("curves"), list):
        raise UserError(f"recording '{name}' ({file}) is none: expected an object with 'curves'; record it again")
    return data


def _read(name: str, file: Any) -> Recording:
    data = _parsed(name, file)
    try:
        curves = tuple(map(_curve, data["curves"]))
        return Recording(name, data["device"], data["software"], data["method"], data.get("environment", {}), curves)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"recording '{name}' ({file}) is damaged: {reason}; record it again") from error


def _curve(data: Mapping[str, Any]) -> RecordedCurve:
    tokens = data["tokens"]
    samples: dict[int, tuple[float, ...]] = {}
    spread: dict[int, tuple[float, float, float]] = {}
    if "samples_ms" in data:
        samples = {count: _positive(own) for count, own in zip(tokens, data["samples_ms"], strict=True)}
    else:
        rows = zip(data["min_ms"], data["median_ms"], data["max_ms"], strict=True)
        for count, row in zip(tokens, rows, strict=True):
            least, median, most = _positive(row)
            spread[count] = (least, median, most)
    memory = zip(tokens, data.get("memory_mib") or [None] * len(tokens), strict=True)
    return RecordedCurve(
        *_key(data),
        samples,
        spread,
        **{name: data[name] for name in ("engine", "probe", "method", "block") if name in data},
        memory_mib={count: mib for count, mib in memory if mib is not None},
    )


def _key(data: Mapping[str, Any]) -> tuple[str, int, str]:
    return data["model"], data["batch_size"], PRECISIONS.get(data["precision"], data["precision"])


def _positive(values: Sequence[float]) -> tuple[float, ...]:
    if not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"latencies are positive numbers, got {values}")
    return tuple(values)
