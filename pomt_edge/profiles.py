"""What is known of a device before anything is measured: one TOML file each in `device_profiles`."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pomt_edge import catalogue
from pomt_edge.errors import UserError

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

EVIDENCE = {"V": "read from the device or its vendor's files", "R": "widely quoted", "D": "derived"}


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from; only 'V' was read from the thing itself, and none was measured here."""

    value: float
    evidence: str


@dataclass(frozen=True)
class Profile:
    id: str
    name: str
    kind: str
    """'cpu' or 'cuda'."""
    recognised_by: tuple[str, ...]
    """The names that the device's driver gives it."""
    compute_capability: str | None
    figures: dict[str, Figure]


def names() -> list[str]:
    """The ids of all profiles."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def load(name: str) -> Profile:
    """Read one profile.

    Raises:
        UserError: no such profile, or a file that is not one; the message names the field.
    """
    catalogue.check(name, names(), "device profile")
    return parse(name, _folder().joinpath(f"{name}.toml").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Profile:
    """A profile from the text of its file; raises UserError with the file and the field that is wrong."""
    try:
        data = tomllib.loads(text)
        figures = {key: Figure(*pair) for key, pair in data["figures"].items()}
        profile = Profile(
            id=name,
            name=data["name"],
            kind=data["kind"],
            recognised_by=tuple(data["recognised_by"]),
            compute_capability=data.get("compute_capability"),
            figures=figures,
        )
    except KeyError as error:
        raise UserError(f"{name}.toml: the field {error} is missing") from error
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise UserError(f"{name}.toml: {error}") from error
    for key, figure in figures.items():
        if figure.evidence not in EVIDENCE or isinstance(figure.value, bool | str):
            raise UserError(f"{name}.toml: {key} is {list(vars(figure).values())}; expected [number, V, R or D]")
    return profile


def recognise(device_name: str) -> Profile | None:
    """The profile of the device whose driver calls it `device_name`, or None."""
    profiles: list[Any] = [load(name) for name in names()]
    return next((profile for profile in profiles if device_name in profile.recognised_by), None)


def _folder() -> Any:
    packaged = resources.files("pomt_edge") / "device_profiles"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "device_profiles"
