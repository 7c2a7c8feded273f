"""What every record is: a frozen dataclass to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

SCHEMA = 1

R = TypeVar("R", bound="Record")


class RecordError(ValueError):
    """A file or a mapping that is not the record it should be; the message says what is wrong."""


class Record:
    """To and from JSON for the frozen dataclasses of this package."""

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
