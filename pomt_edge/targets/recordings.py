"""Recordings: files of curves that were measured on a device before; the package's and the user's own."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from pomt_edge import catalogue
from pomt_edge.errors import UserError

T = TypeVar("T")
SUFFIX = ".json"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
TF32 = "TF32"
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
DRAWN = (
    "of each count only the median, minimum and maximum were kept: samples are drawn, half of them evenly between "
    "minimum and median, half between median and maximum"
)
REPLAYED = (
    "samples as they were measured, in their order and from the first again after the last; each block at the anchor's "
    "typical speed, as in the run's own curve"
)


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
    products: str = ""
    """'TF32' where products of fp32 ran in that."""
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
        products = f" ({self.products})" if self.products else ""
        return f"{self.model}, batch {self.batch_size}, {self.precision}{products}"

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


def packaged() -> dict[str, Any]:
    """The files of the package's recordings by their names."""
    folder = resources.files("pomt_edge.simulator") / "recorded"
    return {_stem(entry.name): entry for entry in folder.iterdir() if entry.name.endswith(SUFFIX)}


def _files(folder: Path | None) -> dict[str, Any]:
    library = folder or own_folder()
    own = {_stem(entry.name): entry for entry in sorted(library.glob(f"*{SUFFIX}"))} if library.is_dir() else {}
    return own | packaged()


def _stem(name: str) -> str:
    return name.removesuffix(SUFFIX)


def parsed(name: str, file: Any) -> dict[str, Any]:
    """A recording's file as plain data; its curves are not looked into.

    Raises:
        UserError: it can't be read, or is none.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"recording '{name}' ({file}) can't be read: {error}; record it again") from error
    if not isinstance(data, dict) or not isinstance(data.get("curves"), list):
        raise UserError(f"recording '{name}' ({file}) is none: expected an object with 'curves'; record it again")
    return data


def _read(name: str, file: Any) -> Recording:
    data = parsed(name, file)
    try:
        return Recording(
            name,
            device=_of(str, data, "device"),
            software=_of(str, data, "software"),
            method=_of(str, data, "method"),
            environment=_of(dict, data, "environment") if "environment" in data else {},
            curves=tuple(map(_curve, data["curves"])),
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"recording '{name}' ({file}) is damaged: {damage(error)}; record it again") from error


def damage(error: Exception) -> str:
    """What is wrong with a file, by what went wrong in reading it."""
    return f"the field {error} is missing" if isinstance(error, KeyError) else str(error)


def _curve(data: Mapping[str, Any]) -> RecordedCurve:
    tokens = [_count(value) for value in data["tokens"]]
    samples: dict[int, tuple[float, ...]] = {}
    spread: dict[int, tuple[float, float, float]] = {}
    if "samples_ms" in data:
        samples = {count: _positive(own) for count, own in zip(tokens, data["samples_ms"], strict=True)}
    else:
        rows = zip(data["min_ms"], data["median_ms"], data["max_ms"], strict=True)
        for count, row in zip(tokens, rows, strict=True):
            least, median, most = _positive(row)
            spread[count] = (least, median, most)
    names = ("engine", "probe", "method", "block", "products")
    texts: dict[str, Any] = {name: _of(str, data, name) for name in names if name in data}
    memory = zip(tokens, data.get("memory_mib") or [None] * len(tokens), strict=True)
    return RecordedCurve(
        *key(data),
        samples,
        spread,
        **texts,
        memory_mib={count: _positive([mib])[0] for count, mib in memory if mib is not None},
    )


def key(data: Mapping[str, Any]) -> tuple[str, int, str]:
    """What tells a curve from the others of its recording: model, batch size and precision."""
    precision = _of(str, data, "precision")
    return _of(str, data, "model"), _count(data["batch_size"]), PRECISIONS.get(precision, precision)


def _of(kind: type[T], data: Mapping[str, Any], name: str) -> T:
    if not isinstance(data[name], kind):
        raise ValueError(f"'{name}' is {_short(data[name])}, expected {'a text' if kind is str else 'an object'}")
    return data[name]


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{_short(value)} is no count, expected a whole number of 1 or more")
    return value


def _positive(values: Sequence[Any]) -> tuple[float, ...]:
    """Latencies, or what else has to be above 0."""
    if not values:
        raise ValueError("a count has no latencies")
    for value in values:
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ValueError(f"expected positive numbers, got {_short(value)}")
    return tuple(values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
