"""A device that was measured before: real samples, replayed. What was not recorded is refused, never interpolated."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pomt_edge import records
from pomt_edge.engines import Setting
from pomt_edge.errors import UserError
from pomt_edge.machine.controls import Control
from pomt_edge.machine.counters import Reading
from pomt_edge.measure import visits
from pomt_edge.measure.clocks import LOCKED, ClockState, check_required
from pomt_edge.measure.journal import NAME as JOURNAL
from pomt_edge.measure.progress import Progress
from pomt_edge.records import MEASURED, RECORDED, Environment, Kept, RecordError, Result, named, power_mode_of
from pomt_edge.targets import _elsewhere, recordings
from pomt_edge.targets.recordings import NAME, REPLAYED, SUFFIX, TF32, RecordedCurve, Recording

SCHEMA = 1
IN_TF32 = "products of fp32 ran in TF32, which rounds their inputs to 10 bits and which this package never lets them"


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
        self._replays: dict[Kept, Iterator[float]] = {
            tokens: itertools.cycle(samples) for tokens, samples in curve.samples_ms.items()
        }
        self._replays |= {
            tokens: _drawn(spread, [seed, tokens]) for tokens, spread in curve.spread_ms.items() if not curve.samples_ms
        }

    def time_ms(self, tokens: Kept, count: int) -> list[float]:
        """The next samples of this count.

        Raises:
            UserError: this count was not recorded.
        """
        if tokens not in self._replays:
            raise UserError(f"{named(tokens)} of {self.curve.title} were not recorded; there are {self.curve.counts}")
        samples = list(itertools.islice(self._replays[tokens], count))
        self.seconds += sum(samples) / 1e3
        return samples

    def reading(self) -> Reading:
        return Reading()

    def memory_mib(self, tokens: Kept) -> float | None:
        return self.curve.memory_mib.get(tokens) if isinstance(tokens, int) else None

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

    def prepare(self, points: Sequence[Kept], progress: Progress) -> dict[Kept, str]:
        """Nothing to make ready; counts that were not recorded can't be measured."""
        return {tokens: "not recorded" for tokens in points if tokens not in self._replays}

    @property
    def device_name(self) -> str:
        return f"{self._recording.device if self._recording else 'a device'} (recorded)"

    @property
    def power_mode(self) -> str | None:
        """The recorded device's; None where it has none, or it was not kept."""
        return power_mode_of(self._recording.environment.get("details")) if self._recording else None

    def environment(self, setting: Setting, engine: str) -> Environment:
        details: dict[str, Any] = {"samples": self.curve.how, "reduction": self.curve.reduction}
        details |= {"power_mode": self.power_mode}
        if self.curve.products == TF32:
            details |= {"tf32_matmul": True, "products": IN_TF32}
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


def record(run_folder: Path, name: str, folder: Path | None = None) -> Path:
    """Make a recording of a finished run, or add the run's curve to the recording of that name; gives its file.

    A curve of the same model, batch size and precision is replaced.

    Raises:
        UserError: no finished run, or one that measured no device; a damaged journal; a name that is none or is taken
            by the package; another device's recording.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' can't name a recording: expected lower-case letters, digits, - and _")
    if name in recordings.packaged():
        raise UserError(f"'{name}' is the package's own recording; give another name")
    result = _result(run_folder)
    environment = result.environment
    library = folder or recordings.own_folder()
    file = library / f"{name}{SUFFIX}"
    data = _data_of(result)
    new = _curve_of(result, run_folder / JOURNAL)
    if file.exists():
        earlier = recordings.parsed(name, file)
        if earlier.get("device") != data["device"]:
            raise UserError(
                f"recording '{name}' is of {earlier.get('device')}, this run of {environment.device_name}; "
                "give another name"
            )
        data["curves"] = [curve for curve in earlier["curves"] if recordings.key(curve) != recordings.key(new)]
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
    try:
        return _samples_of(result, journal)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{journal} is damaged, or of another version of pomt-edge: {recordings.damage(error)}; measure again, "
            "with another --out"
        ) from error


def _samples_of(result: Result, journal: Path) -> dict[str, Any]:
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    configuration = entries[0]["configuration"]
    made = [visits.of_entry(entry) for entry in entries if "ms" in entry]
    visited = [visit for visit in made if isinstance(visit.tokens, int)]
    samples: dict[int, list[float]] = {}
    memory: dict[int, float] = {}
    for visit, block in zip(visited, visits.scaled(visited, result.curve.baseline.tokens), strict=True):
        assert isinstance(visit.tokens, int)
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
        raise UserError(
            f"{run_folder}: no finished run there; expected the folder of a finished run of offline_compute, "
            f"with {JOURNAL} and result.json"
        )
    try:
        result = Result.load(run_folder / "result.json")
    except RecordError as error:
        raise UserError(f"{error}; expected the folder of a finished run of offline_compute") from error
    # What was itself no measurement must not become one by being recorded.
    if (origin := result.environment.origin) != MEASURED:
        raise UserError(
            f"{run_folder} is {origin}: a recording is made of a run that measured a device; give such a one"
        )
    return result
