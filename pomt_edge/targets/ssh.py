"""A board over SSH: the agent there builds engines with trtexec, times them and holds the clocks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pomt_edge.agent import board as agent
from pomt_edge.engines import Setting
from pomt_edge.errors import PointFailed, Reconnected, UserError
from pomt_edge.machine.controls import Control
from pomt_edge.machine.counters import Reading
from pomt_edge.machine.facts import known
from pomt_edge.measure.clocks import LEFT_ALONE, LOCKED, NOT_LOCKED, ClockState, check_required
from pomt_edge.measure.progress import Progress, Silent
from pomt_edge.records import MEASURED, Environment, Kept, named
from pomt_edge.targets import _elsewhere
from pomt_edge.targets._ssh_connection import AGAIN_AFTER_S, RESUME, Connection
from pomt_edge.targets._ssh_engines import Engines, Models
from pomt_edge.targets._ssh_link import Address

TIMER = "trtexec computeMs"
WARM_UP_MS = 500
DEFAULT_WORKSPACE_MIB = 1024
LOAD_S = 2
TOLERANCE = 0.02
"""A clock that is further from the one asked for is not locked."""


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
        self._most_tokens = most_tokens
        self._power_mode = power_mode
        self._folder = folder
        self._board = Connection(
            self.address,
            progress or Silent(),
            ssh_config=ssh_config,
            folder=folder,
            sysroot=sysroot,
            lost_after_s=lost_after_s,
            again_after_s=again_after_s,
        )
        options = {"precision": precision, "workspace_mib": workspace_mib}
        self._engines = Engines(self._board, models, most_tokens, options)
        self.tell(typed, float32_layers)
        self._begun: ClockState | None = None
        """What every connection of a session has to find."""
        self._sm_count: int | None = None

    def tell(self, typed: bool, float32_layers: Sequence[str]) -> None:
        """What follows from the board's TensorRT, which is known once `describe` has asked; before the first build."""
        self._engines.options |= {"typed": typed, "float32_layers": list(float32_layers)}

    def __enter__(self) -> SshTarget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # What a sweep uses

    def time_ms(self, tokens: Kept, count: int) -> list[float]:
        """Milliseconds of at most `count` forwards on the GPU, of one run of trtexec.

        Raises:
            PointFailed: this count can't be built or timed.
            Reconnected: the board was lost since samples were last given.
            UserError: no board, none that can do it, or one that came back in another state.
        """
        request = {"request": "time", "warm_up_ms": WARM_UP_MS, "count": count}
        answer = self._engines.ask(tokens, request, "timing")
        if self._came_back():
            raise Reconnected(f"{self.address}: connection lost while timing {named(tokens)}; {RESUME}")
        return [float(ms) for ms in answer["ms"]]

    def reading(self) -> Reading:
        told = self._board.done({"request": "counters"}, "reading the counters")
        return Reading(told["counts"], tuple(told["active"]), None, tuple(told["watched"]))

    def memory_mib(self, tokens: Kept) -> float | None:
        return None

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def controls(self) -> Sequence[Control]:
        """None of this machine: the agent holds the board's clocks between `begin` and `end`."""
        return ()

    def warm_up(self) -> None:
        """Have the unreduced model's engine."""
        self._engines.of(self._most_tokens)

    def load(self, seconds: float) -> None:
        """Keep the board busy with the unreduced model."""
        self._clocks_under_load(seconds)

    def prepare(self, points: Sequence[Kept], progress: Progress) -> dict[Kept, str]:
        """Build every engine before anything is timed; which counts failed, and why.

        Raises:
            PointFailed: of the unreduced model, without which there is no curve.
            UserError: the board has no room for these.
        """
        progress.stage("building engines on the board", len(points))
        for place, tokens in enumerate(points):
            self._came_back()
            self._engines.to_come = points[place:]
            try:
                self._engines.of(tokens)
                progress.advance(named(tokens))
            except PointFailed as failed:
                if tokens == self._most_tokens:
                    raise  # all others are held against it
                progress.note(str(failed))
                progress.advance(f"{named(tokens)}: failed")
        self._engines.to_come = ()
        failed_ones = self._engines.failed
        return {tokens: str(failed_ones[tokens]) for tokens in points if tokens in failed_ones}

    # Clocks

    def begin(self, lock: bool = True) -> ClockState:
        """Lock the board's clocks until `end`, and verify them under load; what became of it.

        Raises:
            UserError: no such power mode, or the unreduced model can't run.
        """
        if lock:
            self._board.lock(self._power_mode)
        self._begun = self._clock_state()
        self._board.reconnected = False
        return self._begun

    def _clock_state(self) -> ClockState:
        loaded = self._clocks_under_load()
        if not self._board.holds:
            seen = {"power_mode": self._board.facts["power_mode"]} | loaded
            return ClockState(LEFT_ALONE, "--no-lock was given", "leave out --no-lock", seen=known(seen))
        told = self._board.locked
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
        lost, self._board.reconnected = self._board.reconnected, False
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
                why = f" ({now.why})" if self._board.holds and now.why else ""
                mend = (self._board.holds and now.remedy) or "bring it back"
                raise UserError(
                    f"{self.address}: the connection was lost, and the board came back in another state: {name} was "
                    f"{before!r}, is {after!r} now{why}; {mend}; then {RESUME}"
                )

    def end(self) -> None:
        """Put the clocks back; a note where one could not be."""
        self._begun = None
        if not self._board.holds:
            return
        try:
            self._board.unlock()
        except UserError as error:
            self._board.progress.note(
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
            try:
                self._engines.remove()
            except UserError as error:
                self._board.progress.note(f"{error}; what was built stays on the board")
        self._board.close()

    def describe(self) -> dict[str, Any]:
        """Facts of the board for a record of where a number comes from."""
        self._board.connect()
        told = self._board.facts
        facts = {
            # What it is while the clocks are locked, where they are.
            "power_mode": self._board.locked.get("seen", told).get("power_mode"),
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
        python, versions = str(self._board.facts["python"]), known({"tensorrt": tensorrt})
        return _elsewhere.environment(setting, engine, self.device_name, MEASURED, system, facts, python, versions)

    def _clocks_under_load(self, seconds: float = LOAD_S) -> dict[str, Any]:
        request = {"request": "load", "seconds": max(round(seconds), 1)}
        told = self._engines.ask(self._most_tokens, request, "verifying the clocks with")
        self._sm_count = told["sm_count"]
        return dict(told["clocks_mhz"])
