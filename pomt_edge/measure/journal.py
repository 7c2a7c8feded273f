"""The journal of a run: one JSON line per finished measurement, so that an interrupted run goes on."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pomt_edge.errors import UserError

NAME = "measurements.jsonl"


class Journal:
    """Lines of measurements behind one line that says of which configuration they are.

    A line is on disk before the next measurement starts; a last line cut short by a crash is dropped.

    Raises:
        UserError: the folder can't be written, another process is writing there, or its measurements are of
            another configuration; the message names the first field that differs.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the run
        except OSError as error:
            raise UserError(f"--out {folder}: can't be written ({error.strerror}); give another folder") from error
        self._lock()
        self.entries = self._read()
        if self.entries:
            self._check(self.entries.pop(0).get("configuration", {}), configuration)
        else:
            self._append({"configuration": dict(configuration)})

    def add(self, entry: dict[str, Any]) -> None:
        """Keep one finished measurement."""
        self._append(entry)
        self.entries.append(entry)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A child that some library started inherits the file, and would keep the lock with it.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise UserError(f"--out {self.path.parent}: another run is writing there; give another folder") from None

    def _read(self) -> list[dict[str, Any]]:
        try:
            self._file.seek(0)
            text = self._file.read()
            whole = text[: text.rfind("\n") + 1]
            entries = [json.loads(line) for line in whole.splitlines()]
            if not all(isinstance(entry, dict) for entry in entries):
                raise ValueError("a line is no object")
            if whole != text:
                self._file.truncate(len(whole.encode()))
            return entries
        except ValueError:
            self._file.close()
            raise UserError(f"{self.path} is damaged; move it away or give another --out") from None

    def _check(self, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for key, value in json.loads(json.dumps(wanted)).items():
            if found.get(key) != value:
                self._file.close()
                raise UserError(
                    f"--out {self.path.parent} holds measurements of another configuration: "
                    f"{key} is {found.get(key)!r} there, {value!r} now; give another --out"
                )
