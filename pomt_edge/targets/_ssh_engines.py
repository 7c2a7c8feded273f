"""The engines of a board: graphs are sent, and built there where they are not yet."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pomt_edge.agent import board as agent
from pomt_edge.errors import PointFailed, UserError
from pomt_edge.export import files
from pomt_edge.records import Kept, named, tokens_left
from pomt_edge.targets._ssh_connection import Connection, accepted

CHUNK_BYTES = 2**20

Models = Callable[[Kept], Path]
"""From a token count or a schedule to its ONNX file; weights in NAME.onnx.data beside it are sent, too, where the board
has not had the same ones with the count before. The files are needed until the next count is asked for."""


class Engines:
    """By token count; a count that could not be built is not tried again."""

    def __init__(self, board: Connection, models: Models, most_tokens: int, options: dict[str, Any]) -> None:
        """`options`: of every build, as the agent takes them."""
        self.options = options
        self.failed: dict[Kept, PointFailed] = {}
        self.to_come: Sequence[Kept] = ()
        """Counts that are still to be built, for which there has to be room."""
        self._board = board
        self._models = models
        self._most_tokens = most_tokens
        self._names: dict[Kept, str] = {}
        self._engine_mib: float | None = None
        """Of the unreduced model; those of the others hold the same weights."""
        self._notes: set[str] = set()

    def ask(self, tokens: Kept, request: dict[str, Any], what: str) -> dict[str, Any]:
        """Ask something of a count's engine; it is built once more if the board has it no longer."""
        answer = self._board.answer({**request, "engine": self.of(tokens)}, f"{what} {named(tokens)}")
        if answer.get("kind") == "no engine":
            del self._names[tokens]
            answer = self._board.answer({**request, "engine": self.of(tokens)}, f"{what} {named(tokens)}")
        return accepted(self._board.address, answer, tokens)

    def of(self, tokens: Kept) -> str:
        """The name of a count's engine, built if it is not yet.

        Raises:
            PointFailed: it can't be.
            UserError: no room for it and those to come, or no board.
        """
        if tokens in self.failed:
            raise self.failed[tokens]
        if tokens not in self._names:
            try:
                self._names[tokens] = self._built(tokens)
            except PointFailed as failed:
                self.failed[tokens] = failed
                raise
        return self._names[tokens]

    def remove(self) -> None:
        """Remove from the board what was built or taken for this run.

        Raises:
            UserError: no board.
        """
        cleanup = {"request": "cleanup", "engines": list(self._names.values())}
        self._board.note_problems(self._board.done(cleanup, "cleaning up"))
        self._names.clear()

    def _built(self, tokens: Kept) -> str:
        board = self._board
        path = self._models(tokens)
        data = path.with_name(f"{path.name}.data")
        parts = {files.sha256(part): part for part in (path, data) if part.exists()}
        told = [{"name": part.name, "sha256": digest} for digest, part in parts.items()]
        of_files = {"files": told, "options": self.options}
        looking = board.answer({"request": "engine", **of_files}, "looking for an engine")
        state = accepted(board.address, looking, tokens)
        if not state["built"]:
            self._check_room(state["disk_free_mib"])
            for digest, have in state["missing"].items():
                self._send(parts[digest], digest, have, tokens)
            board.progress.busy(f"building the engine of {named(tokens)} on {board.address}")
            building = board.answer({"request": "build", **of_files}, f"building the engine of {named(tokens)}")
            state = accepted(board.address, building, tokens)
            self._note_once(state["notes"])
        if tokens == self._most_tokens:
            self._engine_mib = state["engine_mib"]
        return str(state["engine"])

    def _note_once(self, notes: Sequence[str]) -> None:
        for note in notes:
            if note not in self._notes:
                self._board.progress.note(f"{self._board.address}: {note}")
        self._notes |= set(notes)

    def _check_room(self, free_mib: float) -> None:
        """Raise a UserError if the engines that are still to be built do not fit on the board's disk."""
        counts = self.to_come
        if self._engine_mib is None or not counts:
            return
        # Beside them the weights that were sent, and the engine that is being written.
        fit = int((free_mib - agent.SPARE_DISK_MIB) / self._engine_mib) - 2
        if len(counts) <= fit:
            return
        span = self._most_tokens - min(tokens_left(one, self._most_tokens) for one in counts)
        fewer = f", or begin anew with --grid-stride {math.ceil(span / (fit - 2))}" if fit > 2 else ""
        raise UserError(
            f"{self._board.address}: {len(counts)} engines of {self._engine_mib:.0f} MiB are still to be built, and "
            f"{free_mib} MiB of the board's disk are free: make room on it{fewer}"
        )

    def _send(self, path: Path, digest: str, have: int, tokens: Kept) -> None:
        """Send what the board does not have of a file; from its beginning if what was there is damaged."""
        board = self._board
        size = path.stat().st_size
        damaged = False
        with open(path, "rb") as file:
            while True:
                file.seek(have)
                data = base64.b64encode(file.read(CHUNK_BYTES)).decode()
                put = {"request": "put", "sha256": digest, "bytes": size, "offset": have, "data": data}
                answer = board.answer(put, f"sending {path.name}")
                if answer.get("kind") == "damaged" and not damaged:
                    damaged, have = True, 0
                    continue
                accepted(board.address, answer, tokens)
                if answer["complete"]:
                    return
                have = answer["have"]
                board.progress.busy(f"sending {path.name}, {100 * have // size} %")
