"""A board over SSH: the agent there builds engines with trtexec, times them and holds the clocks."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pomt_edge.agent import board as agent
from pomt_edge.engines import Setting
from pomt_edge.errors import PointFailed, UserError
from pomt_edge.export import files
from pomt_edge.machine.controls import Control
from pomt_edge.machine.counters import Reading
from pomt_edge.machine.facts import known
from pomt_edge.measure.clocks import LEFT_ALONE, LOCKED, NOT_LOCKED, ClockState, check_required
from pomt_edge.measure.progress import Progress, Silent
from pomt_edge.records import MEASURED, Environment
from pomt_edge.targets import _elsewhere
from pomt_edge.targets._ssh_link import Address, Link, Lost

TIMER = "trtexec computeMs"
WARM_UP_MS = 500
DEFAULT_WORKSPACE_MIB = 1024
CHUNK_BYTES = 2**20
LOAD_S = 2
TOLERANCE = 0.02
"""A clock that is further from the one asked for is not locked."""
AGAIN_AFTER_S = (0, 1, 2, 5, 10, 20, 40, 60)
"""Pauses before each try to connect again: long enough in all for a board that boots."""
MOST_LOSSES = 3
"""A request that loses the connection so often is what breaks it, such as a build that takes the board down."""

Models = Callable[[int], Path]
"""From a token count to its ONNX file; weights in NAME.onnx.data beside it are sent, too. Asked for once per count
and process, and the files are not needed afterwards."""


class SshTarget:
    """Times the engines of one board.

    A connection that is lost is made anew, the clocks are locked again and the request is repeated. A point that
    fails raises PointFailed; the target stays usable. As a context manager it puts the clocks back and ends the agent;
    what was built stays on the board for another run unless `cleanup` was called.
    """

    timer = TIMER
    origin = MEASURED
    warms_up = False

    def __init__(
        self,
        address: str,
        models: Models,
        most_tokens: int,
        *,
        precision: str = "fp32",
        typed: bool = False,
        float32_layers: Sequence[str] = (),
        workspace_mib: int = DEFAULT_WORKSPACE_MIB,
        power_mode: str | None = None,
        progress: Progress | None = None,
        ssh_config: Path | None = None,
        folder: str = agent.FOLDER,
        sysroot: str = "/",
    ) -> None:
        """`most_tokens`: of the unreduced model, with which the clocks are verified. `typed`: the graph's own types
        tell its precision (see `export.target.Target`). `power_mode`: a name or 'current'; None: the board's default.
        `ssh_config`: another file than the user's. `folder`, `sysroot`: on the board.

        Raises:
            UserError: no such address.
        """
        self.address = Address.parse(address)
        self._models = models
        self._most_tokens = most_tokens
        self._options = {
            "precision": precision,
            "typed": typed,
            "float32_layers": list(float32_layers),
            "workspace_mib": workspace_mib,
        }
        self._power_mode = power_mode
        self._progress = progress or Silent()
        self._where = (ssh_config, folder, sysroot)
        self._link: Link | None = None
        self._facts: dict[str, Any] = {}
        self._hold = False
        """The clocks shall be locked, also after a new connection."""
        self._seen: dict[str, Any] = {}
        """The clocks as they were locked."""
        self._engines: dict[int, str] = {}
        self._failed: dict[int, PointFailed] = {}
        self.power_mw: dict[str, int] = {}
        """Power of each rail right after the last samples."""

    def tell(self, typed: bool, float32_layers: Sequence[str]) -> None:
        """What follows from the board's TensorRT, which is known once `describe` has asked; before the first build."""
        self._options |= {"typed": typed, "float32_layers": list(float32_layers)}

    def __enter__(self) -> SshTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What a sweep uses

    def time_ms(self, tokens: int, count: int) -> list[float]:
        """Milliseconds of at most `count` forwards on the GPU, of one run of trtexec.

        Raises:
            PointFailed: this count can't be built or timed.
            UserError: no board, or none that can do it.
        """
        answer = self._with_engine(tokens, {"request": "time", "warm_up_ms": WARM_UP_MS, "count": count})
        self.power_mw = answer["after"]["power_mw"]
        return [float(ms) for ms in answer["ms"]]

    def reading(self) -> Reading:
        told = self._done({"request": "counters"}, "reading the counters")
        return Reading(told["counts"], tuple(told["active"]), None, tuple(told["watched"]))

    def memory_mib(self, tokens: int) -> float | None:
        return None

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def controls(self) -> Sequence[Control]:
        """None of this machine: the agent holds the board's clocks between `begin` and `end`."""
        return ()

    def warm_up(self) -> None:
        """Have the unreduced model's engine."""
        self._engine(self._most_tokens)

    def load(self, seconds: float) -> None:
        """Keep the board busy with the unreduced model."""
        self._clocks_under_load(seconds)

    def prepare(self, counts: Sequence[int], progress: Progress) -> dict[int, str]:
        """Build every engine before anything is timed; which counts failed, and why.

        Raises:
            PointFailed: of the unreduced model, without which there is no curve.
        """
        progress.stage("building engines on the board, token counts", len(counts))
        for tokens in counts:
            try:
                self._engine(tokens)
                progress.advance(f"{tokens} tokens")
            except PointFailed as failed:
                if tokens == self._most_tokens:
                    raise  # all others are held against it
                progress.note(str(failed))
                progress.advance(f"{tokens} tokens: failed")
        return {tokens: str(self._failed[tokens]) for tokens in counts if tokens in self._failed}

    # Clocks

    def begin(self, lock: bool = True) -> ClockState:
        """Lock the board's clocks until `end`, and verify them under load; what became of it.

        Raises:
            UserError: no such power mode, or the unreduced model can't run.
        """
        if not lock:
            return ClockState(LEFT_ALONE, "--no-lock was given", "leave out --no-lock", seen=self._clocks_under_load())
        self._hold = True
        try:
            told = self._done(self._lock_request, "locking the clocks")
        except UserError:
            self._hold = False
            raise
        self._seen = told["seen"]
        why, asked = told["why"], told["wanted"].get("gpu_clock_mhz")
        loaded = self._clocks_under_load()
        seen = loaded.get("gpu_clock_mhz")
        if not why and (asked is None or seen is None):
            why = "the GPU's clock can't be read back"
        elif not why and abs(seen - asked) > TOLERANCE * asked:
            why = f"GPU clock: asked for {asked} MHz, {seen:.0f} MHz seen under load"
        state = NOT_LOCKED if why else LOCKED
        return ClockState(state, why, told["remedy"], told["wanted"], told["seen"] | loaded, told["before"])

    def end(self) -> None:
        """Put the clocks back; a note where one could not be."""
        if not self._hold:
            return
        self._hold = False
        try:
            self._note_problems(self._done({"request": "unlock"}, "restoring the clocks"))
        except UserError as error:
            self._progress.note(f"{error}; the agent puts the clocks back by itself, at the latest at its next start")

    def cleanup(self) -> None:
        """Remove all that was kept on the board; the clocks are put back first."""
        self.close(finished=True)

    def close(self, finished: bool = False) -> None:
        """Put the clocks back and end the agent; `finished`: remove what was built, which would fill the disk."""
        self.end()
        if finished:
            try:
                self._note_problems(self._done({"request": "cleanup"}, "cleaning up"))
                self._engines.clear()
            except UserError as error:
                self._progress.note(f"{error}; what was built stays on the board")
        if self._link is not None:
            self._link.close()
            self._link = None

    def describe(self) -> dict[str, Any]:
        """Facts of the board for a record of where a number comes from."""
        self._connected()
        told = self._facts
        facts = {
            # What it is while the clocks are locked, where they are.
            "power_mode": self._seen.get("power_mode", told["power_mode"]),
            "board": told["model"],
            "board_python": told["python"],
            "memory_total_mib": told["memory_mib"],
            "memory_available_mib": told["memory_available_mib"],
        }
        same = ("l4t", "jetpack", "tensorrt", "trtexec", "kernel", "architecture", "disk_free_mib")
        sensors = {"power_sensors": told["power_sensors"] or None}
        return known(facts | {name: told[name] for name in same} | sensors)

    @contextlib.contextmanager
    def held(self, lock: bool, required: bool, tell: Callable[[str], None]) -> Iterator[ClockState]:
        try:
            state = self.begin(lock)
            check_required(state, required)
            yield state
        finally:
            self.end()

    @property
    def device_name(self) -> str:
        return str(self.describe().get("board") or f"a board without a name ({self.address})")

    def environment(self, setting: Setting, engine: str) -> Environment:
        facts = self.describe()
        system = f"Linux {facts.get('kernel', '')} {facts.get('architecture', '')}".strip()
        return _elsewhere.environment(setting, engine, self.device_name, MEASURED, system, facts)

    # The connection

    @property
    def _lock_request(self) -> dict[str, Any]:
        return {"request": "lock", "power_mode": self._power_mode}

    def _connected(self) -> Link:
        if self._link is not None:
            return self._link
        again = bool(self._facts)
        why = ""
        for seconds in AGAIN_AFTER_S if again else (0,):
            time.sleep(seconds)
            link = None
            try:
                link = Link(self.address, *self._where)
                self._facts = _accepted(self.address, link.ask({"request": "hello"}, self._progress.busy))
                if self._hold:
                    _accepted(self.address, link.ask(self._lock_request, self._progress.busy))
            except Lost as lost:
                why = str(lost)
                continue
            except UserError:
                if link is not None:
                    link.close()
                raise
            self._note_problems(self._facts)
            self._link = link
            return link
        then = "the same command resumes when it is back" if again else f"try: {self.address.by_hand}"
        raise UserError(f"{self.address}: no connection ({why}); {then}")

    def _answer(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        """The agent's answer, however it is; on a new connection if that is lost."""
        why = ""
        for _ in range(MOST_LOSSES):
            try:
                return self._connected().ask(request, self._progress.busy)
            except Lost as lost:
                why, self._link = str(lost), None
                self._progress.note(f"{self.address}: connection lost while {what} ({why}); connecting again")
            except BaseException:
                self._link = None  # what was asked may still be under way there
                raise
        raise PointFailed(f"{self.address}: lost {MOST_LOSSES} times while {what} ({why})")

    def _done(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        return _accepted(self.address, self._answer(request, what))

    def _note_problems(self, answer: dict[str, Any]) -> None:
        for problem in answer["problems"]:
            self._progress.note(f"{self.address}: not put back: {problem}")

    # Engines

    def _with_engine(self, tokens: int, request: dict[str, Any]) -> dict[str, Any]:
        """Ask something of a count's engine; it is built once more if the board has it no longer."""
        what = f"{request['request']} of {tokens} tokens"
        answer = self._answer({**request, "engine": self._engine(tokens)}, what)
        if answer.get("kind") == "no engine":
            del self._engines[tokens]
            answer = self._answer({**request, "engine": self._engine(tokens)}, what)
        return _accepted(self.address, answer, tokens)

    def _engine(self, tokens: int) -> str:
        if tokens in self._failed:
            raise self._failed[tokens]
        if tokens not in self._engines:
            try:
                self._engines[tokens] = self._built(tokens)
            except PointFailed as failed:
                self._failed[tokens] = failed
                raise
        return self._engines[tokens]

    def _built(self, tokens: int) -> str:
        path = self._models(tokens)
        data = path.with_name(f"{path.name}.data")
        parts = {files.sha256(part): part for part in (path, data) if part.exists()}
        told = [{"name": part.name, "sha256": digest} for digest, part in parts.items()]
        of_files = {"files": told, "options": self._options}
        looking = self._answer({"request": "engine", **of_files}, "looking for an engine")
        state = _accepted(self.address, looking, tokens)
        if not state["built"]:
            for digest, have in state["missing"].items():
                self._send(parts[digest], digest, have, tokens)
            self._progress.busy(f"building the engine of {tokens} tokens on {self.address}")
            building = self._answer({"request": "build", **of_files}, f"building the engine of {tokens} tokens")
            _accepted(self.address, building, tokens)
        return str(state["engine"])

    def _send(self, path: Path, digest: str, have: int, tokens: int) -> None:
        """Send what the board does not have of a file; from its beginning if what was there is damaged."""
        size = path.stat().st_size
        damaged = False
        with open(path, "rb") as file:
            while True:
                file.seek(have)
                data = base64.b64encode(file.read(CHUNK_BYTES)).decode()
                put = {"request": "put", "sha256": digest, "bytes": size, "offset": have, "data": data}
                answer = self._answer(put, f"sending {path.name}")
                if answer.get("kind") == "damaged" and not damaged:
                    damaged, have = True, 0
                    continue
                _accepted(self.address, answer, tokens)
                if answer["complete"]:
                    return
                have = answer["have"]
                self._progress.busy(f"sending {path.name}, {100 * have // size} %")

    def _clocks_under_load(self, seconds: float = LOAD_S) -> dict[str, Any]:
        told = self._with_engine(self._most_tokens, {"request": "load", "seconds": max(round(seconds), 1)})
        return dict(told["clocks_mhz"])


def _accepted(address: Address, answer: dict[str, Any], tokens: int | None = None) -> dict[str, Any]:
    """The answer, if the agent did what was asked."""
    if answer["ok"]:
        return answer
    if tokens is None or answer["kind"] == "user":
        raise UserError(f"{address}: {answer['reason']}")
    raise PointFailed(f"{address}: {tokens} tokens: {answer['reason']}", answer.get("log", ()))
