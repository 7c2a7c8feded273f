"""A board over SSH: the agent there builds engines with trtexec, times them and holds the clocks."""

from __future__ import annotations

import base64
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pomt_edge.agent import board as agent
from pomt_edge.engines import Setting
from pomt_edge.errors import PointFailed, Reconnected, UserError
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
"""Long enough in all for a board that boots."""
MOST_LOSSES = 3
"""A request that loses the connection so often is what breaks it, such as a build that takes the board down."""
RESUME = "the same command goes on"
SIGNS_OF_LIFE = 6
"""So many in the time after which the agent counts us as lost: some may be late."""

Models = Callable[[int], Path]
"""From a token count to its ONNX file; weights in NAME.onnx.data beside it are sent, too, where the board has not had
the same ones with the count before. The files are needed until the next count is asked for."""


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
        lost_after_s: float = agent.LOST_AFTER_S,
        again_after_s: Sequence[float] = AGAIN_AFTER_S,
    ) -> None:
        """`most_tokens`: of the unreduced model, with which the clocks are verified. `typed`: the graph's own types
        tell its precision (see `export.target.Target`). `power_mode`: a name or 'current'; None: the board's default.
        `ssh_config`: another file than the user's. `folder`, `sysroot`: on the board. `lost_after_s`: of silence the
        agent there puts the clocks back and ends. `again_after_s`: pauses before each try to connect again.

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
        self._ssh_config = ssh_config
        self._folder = folder
        self._sysroot = sysroot
        self._lost_after_s = lost_after_s
        self._again_after_s = again_after_s
        self._link: Link | None = None
        self._facts: dict[str, Any] = {}
        self._gone = False
        """The board was waited for in vain."""
        self._hold = False
        """The clocks shall be locked, also after a new connection."""
        self._told: dict[str, Any] = {}
        """What became of locking the clocks, on this connection."""
        self._begun: ClockState | None = None
        """What every connection of a session has to find."""
        self._reconnected = False
        """Since samples were last given."""
        self._sm_count: int | None = None
        self._engines: dict[int, str] = {}
        self._failed: dict[int, PointFailed] = {}
        self._engine_mib: float | None = None
        """Of the unreduced model; those of the others hold the same weights."""
        self._to_come: Sequence[int] = ()
        """Counts that `prepare` has still to build."""
        self._notes: set[str] = set()

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
            Reconnected: the board was lost since samples were last given.
            UserError: no board, none that can do it, or one that came back in another state.
        """
        answer = self._with_engine(tokens, {"request": "time", "warm_up_ms": WARM_UP_MS, "count": count})
        if self._came_back():
            raise Reconnected(f"{self.address}: connection lost while timing {tokens} tokens; {RESUME}")
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
            UserError: the board has no room for all.
        """
        progress.stage("building engines on the board, token counts", len(counts))
        for place, tokens in enumerate(counts):
            self._came_back()
            self._to_come = counts[place:]
            try:
                self._engine(tokens)
                progress.advance(f"{tokens} tokens")
            except PointFailed as failed:
                if tokens == self._most_tokens:
                    raise  # all others are held against it
                progress.note(str(failed))
                progress.advance(f"{tokens} tokens: failed")
        self._to_come = ()
        return {tokens: str(self._failed[tokens]) for tokens in counts if tokens in self._failed}

    # Clocks

    def begin(self, lock: bool = True) -> ClockState:
        """Lock the board's clocks until `end`, and verify them under load; what became of it.

        Raises:
            UserError: no such power mode, or the unreduced model can't run.
        """
        if lock:
            self._hold = True
            try:
                self._told = self._done(self._lock_request, "locking the clocks")
            except UserError:
                self._hold = False
                raise
        self._begun = self._clock_state()
        self._reconnected = False
        return self._begun

    def _clock_state(self) -> ClockState:
        loaded = self._clocks_under_load()
        if not self._hold:
            seen = {"power_mode": self._facts["power_mode"]} | loaded
            return ClockState(LEFT_ALONE, "--no-lock was given", "leave out --no-lock", seen=known(seen))
        told = self._told
        why, asked, seen_mhz = told["why"], told["wanted"].get("gpu_clock_mhz"), loaded.get("gpu_clock_mhz")
        if not why and (asked is None or seen_mhz is None):
            why = "the GPU's clock can't be read back"
        elif not why and abs(seen_mhz - asked) > TOLERANCE * asked:
            why = f"GPU clock: asked for {asked} MHz, {seen_mhz:.0f} MHz seen under load"
        state = NOT_LOCKED if why else LOCKED
        return ClockState(state, why, told["remedy"], told["wanted"], told["seen"] | loaded, told["before"])

    def _came_back(self) -> bool:
        """Whether the connection was lost since this was last asked.

        Raises:
            UserError: the board is not as it was when the session began.
        """
        lost, self._reconnected = self._reconnected, False
        if lost and self._begun is not None:
            self._check_same(self._begun, self._clock_state())
        return lost

    def _check_same(self, begun: ClockState, now: ClockState) -> None:
        for name, before, after in (
            ("power mode", begun.seen.get("power_mode"), now.seen.get("power_mode")),
            ("clocks wanted", begun.wanted, now.wanted),
            ("clocks", begun.state, now.state),
        ):
            if before != after:
                why = f" ({now.why})" if self._hold and now.why else ""
                mend = (self._hold and now.remedy) or "bring it back"
                raise UserError(
                    f"{self.address}: the connection was lost, and the board came back in another state: {name} was "
                    f"{before!r}, is {after!r} now{why}; {mend}; then {RESUME}"
                )

    def end(self) -> None:
        """Put the clocks back; a note where one could not be."""
        self._begun = None
        if not self._hold:
            return
        self._hold = False
        try:
            self._note_problems(self._done({"request": "unlock"}, "restoring the clocks"))
        except UserError as error:
            self._progress.note(
                f"{error}; the agent puts the clocks back by itself, after a power cut the next run does; by hand, on "
                f"the board: python3 {self._folder}/board.py --restore"
            )

    def cleanup(self) -> None:
        """Remove what this run has built on the board; the clocks are put back first."""
        self.close(finished=True)

    def close(self, finished: bool = False) -> None:
        """Put the clocks back and end the agent; `finished`: remove what was built, which would fill the disk."""
        self.end()
        if finished:
            cleanup = {"request": "cleanup", "engines": list(self._engines.values())}
            try:
                self._note_problems(self._done(cleanup, "cleaning up"))
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
            "power_mode": self._told.get("seen", told).get("power_mode"),
            "board": told["model"],
            "sm_count": self._sm_count,
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
        tensorrt = facts.pop("tensorrt", None)
        facts["trtexec"] = f"{facts.get('trtexec')}, TensorRT {tensorrt}"
        system = f"Linux {facts.get('kernel', '')} {facts.get('architecture', '')}".strip()
        of_board = (self.device_name, MEASURED, system, facts, str(self._facts["python"]))
        return _elsewhere.environment(setting, engine, *of_board, versions=known({"tensorrt": tensorrt}))

    # The connection

    @property
    def _lock_request(self) -> dict[str, Any]:
        return {"request": "lock", "power_mode": self._power_mode}

    def _connected(self) -> Link:
        if self._link is not None:
            return self._link
        again = bool(self._facts)
        why = ""
        for seconds in self._again_after_s if again and not self._gone else (0,):
            time.sleep(seconds)
            link = None
            try:
                link = self._new_link(again)
                self._facts = _accepted(self.address, link.ask({"request": "hello"}, self._progress.busy))
                if self._hold:
                    self._told = _accepted(self.address, link.ask(self._lock_request, self._progress.busy))
            except Lost as lost:
                why = str(lost)
                continue
            except UserError:
                if link is not None:
                    link.close()
                raise
            self._note_problems(self._facts)
            self._link, self._reconnected, self._gone = link, again, False
            return link
        self._gone = True
        then = f"{RESUME} when it is back" if again else f"try: {self.address.by_hand}"
        raise UserError(f"{self.address}: no connection ({why}); {then}")

    def _new_link(self, again: bool) -> Link:
        # Where the network was cut the session before does not know it yet.
        busy_limit_s = self._lost_after_s + agent.PROGRAM_LIMIT_S if again else self._lost_after_s / 3
        options = ["--sysroot", self._sysroot]
        options += ["--lost-after", f"{self._lost_after_s:g}", "--busy-limit", f"{busy_limit_s:g}"]
        return Link(self.address, self._ssh_config, self._folder, options, self._lost_after_s / SIGNS_OF_LIFE)

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
        raise UserError(f"{self.address}: lost {MOST_LOSSES} times while {what} ({why}); {RESUME} when it stays")

    def _done(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        return _accepted(self.address, self._answer(request, what))

    def _note_once(self, notes: Sequence[str]) -> None:
        for note in notes:
            if note not in self._notes:
                self._progress.note(f"{self.address}: {note}")
        self._notes |= set(notes)

    def _note_problems(self, answer: dict[str, Any]) -> None:
        for problem in answer["problems"]:
            self._progress.note(f"{self.address}: not put back: {problem}")

    # Engines

    def _with_engine(self, tokens: int, request: dict[str, Any]) -> dict[str, Any]:
        """Ask something of a count's engine; it is built once more if the board has it no longer."""
        doing = {"time": "timing", "load": "verifying the clocks with"}
        what = f"{doing[request['request']]} {tokens} tokens"
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
            self._check_room(state["disk_free_mib"])
            for digest, have in state["missing"].items():
                self._send(parts[digest], digest, have, tokens)
            self._progress.busy(f"building the engine of {tokens} tokens on {self.address}")
            building = self._answer({"request": "build", **of_files}, f"building the engine of {tokens} tokens")
            state = _accepted(self.address, building, tokens)
            self._note_once(state["notes"])
        if tokens == self._most_tokens:
            self._engine_mib = state["engine_mib"]
        return str(state["engine"])

    def _check_room(self, free_mib: float) -> None:
        """Raise a UserError if the engines that are still to be built do not fit on the board's disk."""
        counts = self._to_come
        if self._engine_mib is None or not counts:
            return
        # Beside them the weights that were sent, and the engine that is being written.
        fit = int((free_mib - agent.SPARE_DISK_MIB) / self._engine_mib) - 2
        if len(counts) <= fit:
            return
        span = self._most_tokens - min(counts)
        fewer = f", or begin anew with --grid-stride {math.ceil(span / (fit - 2))}" if fit > 2 else ""
        raise UserError(
            f"{self.address}: {len(counts)} engines of {self._engine_mib:.0f} MiB are still to be built, and "
            f"{free_mib} MiB of the board's disk are free: make room on it{fewer}"
        )

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
        self._sm_count = told["sm_count"]
        return dict(told["clocks_mhz"])


def _accepted(address: Address, answer: dict[str, Any], tokens: int | None = None) -> dict[str, Any]:
    """The answer, if the agent did what was asked."""
    if answer["ok"]:
        return answer
    if answer["kind"] == "board":
        raise UserError(f"{address}: {answer['reason']}; then {RESUME}")
    if tokens is None or answer["kind"] == "user":
        raise UserError(f"{address}: {answer['reason']}")
    raise PointFailed(f"{address}: {tokens} tokens: {answer['reason']}", answer.get("log", ()))
