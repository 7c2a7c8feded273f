"""A profile from the text of its TOML file; what is wrong with one is said with its file, line and field."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pomt_edge import catalogue
from pomt_edge.errors import UserError
from pomt_edge.profiles.profile import (
    EVIDENCE,
    FIGURES,
    PRECISIONS,
    Board,
    ClockLock,
    Figure,
    PowerMode,
    Profile,
    Software,
    bare,
)

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

KINDS = ("cpu", "cuda")
PLAUSIBLE = {"gpu_clock_ghz": (0.05, 20), "gpu_clock_mhz": (50, 20000)}
"""Clocks beyond these are of another unit."""
OF_EVERY_GPU = ("sm_count", "gpu_clock_ghz", "memory_gb_per_s")
MARKS = "V, R or D"
HEADER = re.compile(r"^\s*(\[\[?)\s*([\w.-]+)\s*\]")
KEY = re.compile(r"^\s*[\"']?([\w-]+)[\"']?(?:\.[\w.-]+)?\s*=")

Where = tuple[str | int, ...]
"""A path to a value: ('modes', 2, 'sm_count')."""


def parse(name: str, text: str, file: str | None = None, own: bool = False) -> Profile:
    """The profile called `name` from the text of its file.

    Raises:
        UserError: no TOML, or a field that is missing, unknown or wrong; names `file`, the line and the field.
    """
    file = file or f"{name}.toml"
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(_not_toml(file, str(error))) from error
    top = _Table(_Source(file, _lines(text)), (), data)
    top.knows(
        "name",
        "kind",
        "recognised_by",
        "compute_capability",
        "precisions",
        "figures_in",
        "memory_mib",
        "notes",
        "board",
        "figures",
        "modes",
        "software",
        "clock_lock",
    )
    profile = Profile(
        id=name,
        name=top.text("name"),
        kind=top.choice("kind", KINDS),
        recognised_by=top.texts("recognised_by"),
        board=_board(top.table("board")) if top.has("board") else None,
        compute_capability=_capability(top) if top.has("compute_capability") else None,
        precisions=top.choices("precisions", PRECISIONS),
        figures=_figures(top.table("figures")),
        figures_in=top.text("figures_in") if top.has("figures_in") else None,
        memory_mib=top.figure("memory_mib") if top.has("memory_mib") else None,
        modes=tuple(_mode(table) for table in top.tables("modes")),
        software=tuple(_software(table) for table in top.tables("software")),
        clock_lock=_clock_lock(top.table("clock_lock")),
        notes=top.texts("notes") if top.has("notes") else (),
        file=file,
        own=own,
    )
    _check(top, profile)
    return profile


@dataclass(frozen=True)
class _Source:
    """A file, and where in it each of its values is given."""

    file: str
    lines: Mapping[Where, int]

    def error(self, where: Where, text: str) -> UserError:
        """`text` behind the file, the line (of the nearest that has one) and the field."""
        given = next((where[:end] for end in range(len(where), 0, -1) if where[:end] in self.lines), None)
        line = f", line {self.lines[given]}" if given else ""
        return UserError(f"{self.file}{line}: {text}")


class _Table:
    """A table of the file; each question for a value checks it."""

    def __init__(self, source: _Source, where: Where, data: Any) -> None:
        self._source, self._where, self._data = source, where, data
        if not isinstance(data, dict):
            raise self._source.error(where, f"{_dotted(where)} is {data!r}; expected a table")

    def knows(self, *fields: str) -> None:
        """Raise on a field that is none of these."""
        for key in self._data:
            if key not in fields:
                raise self._error(key, f"unknown field {self._field(key)}; known: {catalogue.listed(key, fields)}")

    def has(self, key: str) -> bool:
        return key in self._data

    def fields(self) -> list[str]:
        return list(self._data)

    def text(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, 'a text in quotes, such as "x"')
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._value(key)
        if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
            raise self.wrong(key, 'a list of texts, such as ["x", "y"]')
        return tuple(value)

    def choice(self, key: str, known: Sequence[str]) -> str:
        value = self._value(key)
        if value not in known:
            raise self.wrong(key, " or ".join(f'"{each}"' for each in known))
        return str(value)

    def choices(self, key: str, known: Sequence[str]) -> tuple[str, ...]:
        values = self.texts(key)
        if not values or set(values) - set(known):
            raise self.wrong(key, f"a list of some of {', '.join(known)}")
        return values

    def whole(self, key: str) -> int:
        value = self._value(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, "a whole number of 1 or more")
        return value

    def figure(self, key: str, whole: bool = False) -> Figure:
        value = self._value(key)
        kind = "whole number" if whole else "number"
        if not (
            isinstance(value, list) and len(value) == 2 and _positive(value[0], whole) and value[1] in tuple(EVIDENCE)
        ):
            raise self.wrong(key, f'[{kind} above 0, mark], the mark one of {MARKS}, such as [8, "V"]')
        least, most = PLAUSIBLE.get(key, (0, math.inf))
        if not least <= value[0] <= most:
            raise self.wrong(key, f"{least:g} to {most:g}, by the unit in its name")
        return Figure(value[0], value[1])

    def table(self, key: str) -> _Table:
        return _Table(self._source, (*self._where, key), self._value(key))

    def tables(self, key: str) -> list[_Table]:
        """Those of [[key]]; none is fine."""
        values = self._data.get(key, [])
        if not isinstance(values, list):
            raise self.wrong(key, f"[[{key}]]")
        return [_Table(self._source, (*self._where, key, index), value) for index, value in enumerate(values)]

    def wrong(self, key: str, expected: str) -> UserError:
        return self._error(key, f"{self._field(key)} is {_shown(self._data[key])}; expected {expected}")

    def missing(self, key: str) -> UserError:
        return self._error(key, f"the field {self._field(key)} is missing")

    def _value(self, key: str) -> Any:
        if key not in self._data:
            raise self.missing(key)
        return self._data[key]

    def _error(self, key: str, text: str) -> UserError:
        return self._source.error((*self._where, key), text)

    def _field(self, key: str) -> str:
        return _dotted((*self._where, key))


def _figures(table: _Table) -> dict[str, Figure]:
    table.knows(*FIGURES)
    return {key: table.figure(key, whole=key == "sm_count") for key in table.fields()}


def _board(table: _Table) -> Board:
    table.knows("parts", "models", "told_by_modes")
    if not table.texts("parts") and not table.texts("models"):
        raise table.wrong("parts", "a part number of its module, or models a beginning of its device tree's model")
    return Board(table.texts("parts"), table.texts("models"), table.texts("told_by_modes"))


def _mode(table: _Table) -> PowerMode:
    table.knows("name", "sm_count", "gpu_clock_mhz", "memory_gb_per_s")
    fields = ("sm_count", "gpu_clock_mhz", "memory_gb_per_s")
    known = {key: table.figure(key, whole=key == "sm_count") for key in fields if table.has(key)}
    values = {key: figure.value for key, figure in known.items()}
    return PowerMode(
        name=table.text("name"),
        sm_count=int(values["sm_count"]) if "sm_count" in values else None,
        gpu_clock_mhz=values.get("gpu_clock_mhz"),
        memory_gb_per_s=values.get("memory_gb_per_s"),
        evidence={key: figure.evidence for key, figure in known.items()},
    )


def _software(table: _Table) -> Software:
    table.knows("jetpack", "tensorrt", "cuda", "python", "onnx_opset", "precisions", "evidence")
    return Software(
        jetpack=table.texts("jetpack"),
        tensorrt=table.text("tensorrt"),
        cuda=table.text("cuda"),
        python=table.text("python"),
        onnx_opset=table.whole("onnx_opset"),
        precisions=table.choices("precisions", PRECISIONS),
        evidence=table.choice("evidence", tuple(EVIDENCE)),
    )


def _clock_lock(table: _Table) -> ClockLock:
    table.knows("lock", "restore", "by_hand")
    return ClockLock(table.text("lock"), table.text("restore"), table.texts("by_hand"))


def _capability(top: _Table) -> str:
    value = top.text("compute_capability")
    if not re.fullmatch(r"\d+\.\d", value):
        raise top.wrong("compute_capability", 'two numbers in quotes, such as "8.7"')
    return value


def _check(top: _Table, profile: Profile) -> None:
    """What can be seen only of several fields together."""
    if profile.kind == "cuda":
        figures = top.table("figures")
        for key in OF_EVERY_GPU:
            if not figures.has(key):
                raise figures.missing(key)
    names = [bare(mode.name) for mode in profile.modes]
    for index, (mode, table) in enumerate(zip(profile.modes, top.tables("modes"), strict=True)):
        if bare(mode.name) in names[:index]:
            raise table.wrong("name", "a name that no other mode has")
        if mode.sm_count and "sm_count" in profile.figures and mode.sm_count > profile.figures["sm_count"].value:
            raise table.wrong("sm_count", f"at most the {profile.figures['sm_count'].value} of figures.sm_count")
    if profile.modes and profile.figures_in is None:
        raise top.missing("figures_in")
    if profile.figures_in is not None and bare(profile.figures_in) not in names:
        listed = ", ".join(mode.name for mode in profile.modes) or "none"
        raise top.wrong("figures_in", f"the name of one of the modes ({listed})")
    for mode, table in zip(profile.modes, top.tables("modes"), strict=True):
        if profile.figures_in is not None and bare(mode.name) == bare(profile.figures_in):
            _check_same(table, mode, profile)


def _check_same(table: _Table, mode: PowerMode, profile: Profile) -> None:
    """The mode of the figures says what they say."""
    for field, figure, times in (
        ("sm_count", "sm_count", 1),
        ("gpu_clock_mhz", "gpu_clock_ghz", 1000),
        ("memory_gb_per_s", "memory_gb_per_s", 1),
    ):
        given = getattr(mode, field)
        if given is None or figure not in profile.figures:
            continue
        expected = times * profile.figures[figure].value
        if not math.isclose(given, expected, rel_tol=0.01):
            raise table.wrong(field, f"{expected:g} as in figures.{figure}, which are of this mode (figures_in)")


def _positive(value: Any, whole: bool) -> bool:
    """A boolean is an int to Python."""
    kinds = (int,) if whole else (int, float)
    # Compared, not converted: a whole number can be beyond what a float holds.
    return isinstance(value, kinds) and not isinstance(value, bool) and 0 < value < 1e15


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _dotted(where: Where) -> str:
    """modes[2].sm_count; the first of a list is [1]."""
    parts = [f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in where]
    return "".join(parts).lstrip(".")


def _not_toml(file: str, text: str) -> str:
    place = re.search(r"\s*\(at line (\d+), column (\d+)\)", text)
    if place is None:
        return f"{file}: no TOML: {text}"
    return f"{file}, line {place[1]}: no TOML: {text.replace(place[0], '')}, column {place[2]}"


def _lines(text: str) -> dict[Where, int]:
    """The line (from 1) of each table and key, as far as the text's lines tell; tomllib does not keep them.

    A key within an inline table has none of its own: the line of what holds it is the nearest.
    """
    found: dict[Where, int] = {}
    counts: dict[str, int] = {}
    inside: Where = ()
    for number, line in enumerate(text.splitlines(), 1):
        header, key = HEADER.match(line), KEY.match(line)
        if header:
            name = header[2]
            inside = tuple(name.split("."))
            if header[1] == "[[":
                inside = (*inside, counts.setdefault(name, 0))
                counts[name] += 1
            found.setdefault(inside, number)
        elif key:
            found.setdefault((*inside, key[1]), number)
    return found
