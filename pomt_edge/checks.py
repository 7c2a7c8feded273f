"""Checks of what a user typed, shared by all requests; each raises one line with exit code 2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pomt_edge.errors import UserError


def in_range(option: str, value: float | None, least: float, most: float) -> None:
    """Raise a UserError unless the value is given and within, or not given."""
    if value is not None and not least <= value <= most:
        given = f"{value:g}" if isinstance(value, float) else str(value)
        raise UserError(f"{option} {given} is out of range: expected {least:g} to {most:g}")


def one_of(option: str, value: str | None, known: Sequence[str]) -> None:
    """Raise a UserError that lists the known words, unless the value is one of them or not given."""
    if value is not None and value not in known:
        raise UserError(f"{option} {value}: expected one of {', '.join(known)}")


def several(option: str, typed: str) -> tuple[str, ...]:
    """Names with commas between them; one's own options may have commas as well: `tome,pitome:margin=0.9,mode=deit`.

    Raises:
        UserError: a name is missing, or given twice.
    """
    names: list[str] = []
    for part in typed.split(","):
        if names and "=" in part and ":" not in part:
            names[-1] += f",{part}"
        elif not part:
            raise UserError(f"{option} {typed}: a name is missing; expected names with commas between them")
        else:
            names.append(part)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{option} {typed}: {name} is given twice; leave one out")
    return tuple(names)


def a_folder(option: str, path: Path | None, expected: str) -> None:
    """Raise a UserError unless the path is a folder or not given."""
    if path is not None and not path.is_dir():
        raise UserError(f"{option} {path}: {absent(path)}; expected {expected}")


def a_file(option: str, path: Path | None, expected: str) -> None:
    """Raise a UserError unless the path is a file or not given."""
    if path is not None and not path.is_file():
        raise UserError(f"{option} {path}: {absent(path)}; expected {expected}")


def is_here(device: str) -> bool:
    """Whether a device's name is of this machine: auto, cpu, cuda or cuda:N."""
    kind, _, number = device.partition(":")
    return kind in ("auto", "cpu", "cuda") and (not number or (kind == "cuda" and number.isdecimal()))


def absent(path: Path) -> str:
    """What is at a path where something else was expected."""
    return "is a folder" if path.is_dir() else "is a file" if path.exists() else "no such file or folder"
