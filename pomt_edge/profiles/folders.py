"""Where profiles are: the package's, the user's own, and a folder that a command was given."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import platformdirs

from pomt_edge import catalogue
from pomt_edge.errors import UserError
from pomt_edge.profiles.profile import Profile
from pomt_edge.profiles.reading import parse

SUFFIX = ".toml"
ID = re.compile(r"[a-z0-9][a-z0-9_-]*")


def own_folder() -> Path:
    """Where the user's own profiles are found; it need not exist."""
    return platformdirs.user_config_path("pomt-edge") / "device_profiles"


def names(folder: Path | None = None) -> list[str]:
    """The ids of all profiles, those of `folder` among them."""
    return sorted(_files(folder))


def load(name: str, folder: Path | None = None) -> Profile:
    """Read one profile: from `folder`, else the user's own of that id, else the package's.

    Raises:
        UserError: no such profile, or a file that is not one; names the file, the line and the field.
    """
    files = _files(folder)
    catalogue.check(name, sorted(files), "device profile")
    return _read(name, *files[name])


def read_all(folder: Path | None = None) -> tuple[list[Profile], list[UserError]]:
    """All profiles that can be read, by their ids, and what is wrong with the others."""
    profiles, errors = [], []
    for name, (file, own) in sorted(_files(folder).items()):
        try:
            profiles.append(_read(name, file, own))
        except UserError as error:
            errors.append(error)
    return profiles, errors


def _files(folder: Path | None) -> dict[str, tuple[Any, bool]]:
    """Each id's file, and whether it is the user's own; a later folder overrides an earlier."""
    found: dict[str, tuple[Any, bool]] = {}
    for place, own in ((_packaged(), False), (own_folder(), True), (folder, True)):
        if place is not None and place.is_dir():
            files = [file for file in place.iterdir() if file.name.endswith(SUFFIX) and not file.name.startswith(".")]
            found |= {file.name.removesuffix(SUFFIX): (file, own) for file in files}
    return found


def _read(name: str, file: Any, own: bool) -> Profile:
    if not ID.fullmatch(name):
        raise UserError(f"{file}: a device is called as its file; rename it to small letters, digits, _ and - alone")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"can't be read ({error.strerror})"
        raise UserError(f"{file} {why}; expected a device profile in TOML") from error
    return parse(name, text, str(file), own)


def _packaged() -> Any:
    installed = resources.files("pomt_edge") / "device_profiles"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "device_profiles"
