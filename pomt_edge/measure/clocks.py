"""Clocks locked while measuring, verified under load, and put back whatever happens."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pomt_edge.errors import UserError
from pomt_edge.machine.controls import Control, Refused, control_of, hints
from pomt_edge.machine.controls.control import Clocks
from pomt_edge.machine.controls.journal import Entry, Journal
from pomt_edge.machine.interrupts import Interrupts
from pomt_edge.machine.system import System

LOAD_S = 1.0
EVERY_S = 0.05
TOLERANCE = 0.02
"""A clock that is further from the one asked for is not locked."""
LOCKED, NOT_LOCKED, LEFT_ALONE = "locked", "not locked", "left alone"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ClockState:
    """What became of the clocks. Values by name, the unit in it; clocks in `seen` are read under load."""

    state: str
    """'locked', 'not locked' or 'left alone'."""
    why: str = ""
    """One sentence; empty when locked."""
    remedy: str = ""
    """The exact command to run on this very machine, or empty."""
    wanted: dict[str, Any] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Clocked(Protocol):
    """What has clocks to lock and can be kept busy."""

    @property
    def system(self) -> System: ...

    def controls(self) -> Sequence[Control]:
        """The settings, in the order of setting."""

    def warm_up(self) -> None:
        """Do what comes before a load and leaves the device idle: import, load, allocate. Raises NoLoad as below."""

    def load(self, seconds: float) -> None:
        """Keep the device busy for so long, at once. Raises NoLoad where it can't."""


class NoLoad(Exception):  # noqa: N818 - it says what there is
    """The device can't be kept busy here; the message says why."""


@dataclass(frozen=True)
class Problem:
    """One setting that is not as it should be."""

    title: str
    why: str
    remedy: str = ""


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@contextlib.contextmanager
def locked_clocks(
    target: object, *, lock: bool = True, required: bool = False, tell: Tell = to_stderr
) -> Iterator[ClockState]:
    """Lock the clocks of a target (Clocked), say what became of it, and put everything back at the end.

    What can't be locked is left as it is and said; what can stays locked. Clocks that another living process or
    `pomt-edge clocks lock` has locked are used and left to them. With `lock=False` clocks are only looked at.
    `tell` gets a sentence for each setting that can't be put back; it stays in the journal.

    Raises:
        UserError: `required` and the clocks are not locked; everything has been put back.
    """
    if not isinstance(target, Clocked):
        state = ClockState(NOT_LOCKED, "no clock control here: this target sets no clocks")
        check_required(state, required)
        yield state
        return
    with Interrupts() as interrupts:
        session = _Session(target, tell)
        # Nested, so that a signal between the two still finds the outer one.
        try:
            try:
                state = session.lock() if lock else session.look()
                check_required(state, required)
                yield state
            finally:
                interrupts.hold()
        finally:
            session.end()


def lock_until_restored(target: Clocked, tell: Tell = to_stderr) -> ClockState:
    """Lock the clocks and leave them so when this process ends, for `restore`; what fails is said in the state."""
    with Interrupts() as interrupts:
        session = _Session(target, tell)
        try:
            try:
                state = session.lock(anew=True)
                session.keep()
            finally:
                interrupts.hold()
        finally:
            session.end()
    return state


def restore(system: System) -> tuple[list[str], list[Problem]]:
    """Put back all that the journal holds: titles of what was put back, and what could not be."""
    with Interrupts() as interrupts:
        journal = Journal(system)
        if not journal.folder.exists():
            return [], []
        if not journal.acquire():
            return [], [_not_ours(journal, system)]
        interrupts.hold()
        try:
            return _put_back(journal, system)
        finally:
            journal.release()


class _Session:
    """One process's turn with the clocks."""

    def __init__(self, target: Clocked, tell: Tell) -> None:
        self._target = target
        self._tell = tell
        self._system = target.system
        self._journal = Journal(self._system)
        self._mine = False
        """What the journal holds is this session's to put back."""
        self._problems: list[Problem] = []
        self._asked: Clocks = {}
        self._wanted: dict[str, Any] = {}
        self._before: dict[str, Any] = {}
        self._unsupported: dict[str, str] = {}

    def look(self) -> ClockState:
        """The clocks under load, untouched."""
        controls = self._target.controls()
        clocks = {name: round(_highest(mhz)) for name, mhz in self._under_load(controls).items()}
        seen = _values(controls) | clocks
        return ClockState(LEFT_ALONE, "--no-lock was given", "leave out --no-lock", seen=seen)

    def lock(self, *, anew: bool = False) -> ClockState:
        """Lock what can be locked, or use what is locked already, and verify it. `anew`: also what is kept locked."""
        owner = self._journal.acquire()
        kept = self._journal.book.kept
        if owner and not kept:
            self._mine = True
            self._put_back()  # what a process that died has left
        controls = self._target.controls()
        if not owner:
            self._problems += [_not_ours(self._journal, self._system)] if anew else self._borrow(controls)
        elif kept and not anew:
            self._problems += self._compare(controls, "pomt-edge clocks lock")
        else:
            self._mine = True
            for control in controls:
                self._lock_one(control)
            if not self._journal.book.entries:
                self.end()  # nothing is locked: no other process needs to wait for us
        return self._verified(controls)

    def keep(self) -> None:
        if self._mine:
            self._journal.keep()
            self._mine = False

    def end(self) -> None:
        if self._mine:
            self._put_back()
        self._mine = False
        self._journal.release()

    def _lock_one(self, control: Control) -> None:
        try:
            known = self._journal.find((control.key, control.gpu()))
            entry = self._entry(control)
            if known or not control.needless():
                self._journal.put(entry)
                try:
                    control.set()
                except Refused:
                    self._undo(control, entry, known)
                    raise
        except Refused as refused:
            if refused.unsupported and control.optional:
                self._unsupported[control.key] = "not supported here"
            else:
                self._problems.append(Problem(control.title, refused.why, refused.remedy))
        except OSError as error:
            self._problems.append(Problem(control.title, f"{self._journal.path} can't be written ({error.strerror})"))
        else:
            self._note(entry)

    def _entry(self, control: Control) -> Entry:
        gpu = control.gpu()
        known = self._journal.find((control.key, gpu))
        # What is in the journal already was changed by us: how it was before is there, and nowhere else.
        saved, before = (known.saved, known.before) if known else (control.save(), control.show())
        return Entry(control.key, gpu, saved, before, control.wanted(), control.asked_mhz())

    def _undo(self, control: Control, entry: Entry, known: Entry | None) -> None:
        """A setting that was refused may be half set; if it can't be put back now, it stays in the journal."""
        if control.atomic and known:
            self._journal.put(known)  # what an earlier lock has set is still in force
            return
        with contextlib.suppress(Refused):
            if not control.atomic:
                control.restore(entry.saved)
            self._journal.drop(entry.subject)

    def _borrow(self, controls: Sequence[Control]) -> list[Problem]:
        """Use what a living process, or a user with more rights, has locked."""
        journal = self._journal
        pid = journal.owner()
        if pid is None and not journal.book.kept:
            return [_not_ours(journal, self._system)]
        return self._compare(controls, "pomt-edge clocks lock" if pid is None else f"process {pid}")

    def _compare(self, controls: Sequence[Control], holder: str) -> list[Problem]:
        """What the holder did not lock as it is wanted here."""
        problems = []
        for control in controls:
            try:
                problem = self._compare_one(control, holder)
            except Refused as refused:
                problem = Problem(control.title, refused.why, refused.remedy)
            problems += [problem] if problem else []
        return problems

    def _compare_one(self, control: Control, holder: str) -> Problem | None:
        entry = self._journal.find((control.key, control.gpu()))
        remedy = hints.command(self._system, "clocks restore")
        if entry is None and control.needless():
            self._note(self._entry(control))
            return None
        if entry is None:
            return None if control.optional else Problem(control.title, f"not among what {holder} locked", remedy)
        self._note(entry)
        if control.explicit and control.wanted() != entry.wanted:
            return Problem(control.title, f"{holder} locked it at {entry.wanted}, not {control.wanted()}", remedy)
        if not control.holds(entry.wanted):
            return Problem(control.title, f"{holder} locked it at {entry.wanted}, it is {control.show()} now", remedy)
        return None

    def _note(self, entry: Entry) -> None:
        self._wanted[entry.key] = entry.wanted
        self._before[entry.key] = entry.before
        self._asked |= entry.asked_mhz

    def _verified(self, controls: Sequence[Control]) -> ClockState:
        asked = {name: _highest(mhz) for name, mhz in self._asked.items()}
        try:
            clocks = self._under_load(controls)
            pairs = {name: _worst(self._asked.get(name), mhz) for name, mhz in clocks.items()}
            asked |= {name: pair[0] for name, pair in pairs.items() if name in asked}
            seen = _values(controls) | {name: round(pair[1]) for name, pair in pairs.items()}
            self._problems += _not_held(asked, seen, controls)
        except NoLoad as error:
            seen = _values(controls)
            if self._wanted or not self._problems:
                self._problems.append(Problem("", f"set, but not verified under load: {error}"))
        wanted = self._wanted | {name: round(mhz) for name, mhz in asked.items()}
        why, remedy = _sentence(self._problems)
        state = NOT_LOCKED if self._problems or not controls else LOCKED
        if not controls:
            why = "no clock control here"
        return ClockState(state, why, remedy, wanted, seen | self._unsupported, self._before)

    def _under_load(self, controls: Sequence[Control]) -> Clocks:
        """Clocks as they were in the second half of a load: in the first they may still rise or fall."""
        self._target.warm_up()  # its thread may take seconds for that, and idle clocks would be read
        readings: list[Clocks] = []
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self._target.load, LOAD_S)
            while not readings or not running.done():
                readings.append(_clocks_mhz(controls))
                time.sleep(EVERY_S)
            running.result()
        late = readings[len(readings) // 2 :]
        names = {name for reading in late for name in reading}
        return {name: _median([reading[name] for reading in late if name in reading]) for name in sorted(names)}

    def _put_back(self) -> None:
        for problem in _put_back(self._journal, self._system)[1]:
            self._tell(left_sentence(problem))


def left_sentence(problem: Problem) -> str:
    by_hand = f"; by hand: {problem.remedy}" if problem.remedy else ""
    return f"{problem.title} could not be put back ({problem.why}){by_hand}"


def _put_back(journal: Journal, system: System) -> tuple[list[str], list[Problem]]:
    """Undo the journal from its end: titles of what was put back, and what could not be and stays in the journal."""
    done, left = [], []
    with contextlib.suppress(OSError):  # a full disk: what follows matters more
        journal.give_up()
    for entry in reversed(journal.book.entries):
        title = entry.key
        try:
            control = control_of(entry, system)
            title = control.title
            control.restore(entry.saved)
            journal.drop(entry.subject)
            done.append(title)
        except Exception as error:  # whatever it is, the other settings are put back all the same
            left.append(Problem(title, str(error) or type(error).__name__, _by_hand(entry, system)))
    journal.tidy()
    return done, left


def _by_hand(entry: Entry, system: System) -> str:
    """The command that puts it back; empty where what it is made of can't be read any more."""
    with contextlib.suppress(Exception):  # as above: it must not end the restoring
        return control_of(entry, system).by_hand(entry.saved)
    return ""


def _not_ours(journal: Journal, system: System) -> Problem:
    """Why this process may not touch the clocks."""
    pid = journal.owner()
    if pid is not None:
        doing = "measures with the clocks locked" if journal.book.kept else "has locked the clocks until it ends"
        return Problem("", f"process {pid} {doing}; wait for it", "")
    if journal.book.entries:
        left = f"process {journal.book.pid}, which has ended, left the clocks changed"
        why = "another user's pomt-edge clocks lock holds the clocks" if journal.book.kept else left
        return Problem("", f"{why}, and you may not put them back", f"sudo {hints.command(system, 'clocks restore')}")
    return Problem("", f"{journal.folder} can't be written", f"sudo {hints.command(system, 'clocks lock')}")


def check_required(state: ClockState, required: bool) -> None:
    if required and state.state != LOCKED:
        then = f"; {state.remedy}" if state.remedy else ""
        raise UserError(f"--require-locked: the clocks are {state.state}: {state.why}{then}")


def _clocks_mhz(controls: Sequence[Control]) -> Clocks:
    found: Clocks = {}
    for control in controls:
        with contextlib.suppress(Refused):
            found |= control.seen_mhz()
    return found


def _median(readings: Sequence[float | dict[str, float]]) -> float | dict[str, float]:
    """Of each processor by itself, where there are several: a single reading may be off."""
    parts = [reading if isinstance(reading, dict) else {"": reading} for reading in readings]
    names = {name for part in parts for name in part}
    medians = {name: statistics.median(part[name] for part in parts if name in part) for name in sorted(names)}
    return medians[""] if names == {""} else medians


def _highest(mhz: float | dict[str, float]) -> float:
    return max(mhz.values()) if isinstance(mhz, dict) else mhz


def _worst(asked: float | dict[str, float] | None, seen: float | dict[str, float]) -> tuple[float, float]:
    """What was asked for and what was seen, MHz, of the processor that falls shortest: they need not be alike."""
    if not isinstance(seen, dict):
        return _highest(asked or seen), seen
    most = _highest(asked or seen)
    each = {name: asked.get(name, most) if isinstance(asked, dict) else most for name in seen}
    slowest = min(seen, key=lambda name: seen[name] / each[name])
    return each[slowest], seen[slowest]


def _values(controls: Sequence[Control]) -> dict[str, Any]:
    found = {}
    for control in controls:
        with contextlib.suppress(Refused):
            found[control.key] = control.show()
    return found


def _not_held(asked_mhz: Mapping[str, float], seen: Mapping[str, Any], controls: Sequence[Control]) -> list[Problem]:
    """Locks that were accepted and are not what the machine does."""
    problems = []
    for name, asked in asked_mhz.items():
        title = name.removesuffix("_mhz").replace("_", " ").replace("gpu", "GPU").replace("cpu", "CPU")
        found = seen.get(name)
        if found is None:
            problems.append(Problem(title, "can't be read back"))
        elif abs(found - asked) > TOLERANCE * asked:
            why = f"asked for {asked:.0f} MHz, {found} MHz seen under load"
            problems.append(Problem(title, why, _lower(name, found, controls)))
    return problems


def _lower(name: str, seen_mhz: float, controls: Sequence[Control]) -> str:
    for control in controls:
        with contextlib.suppress(Refused):
            if name in control.asked_mhz():
                return control.lower(seen_mhz)
    return ""


def _sentence(problems: Sequence[Problem]) -> tuple[str, str]:
    """What is wrong, settings with the same reason together, and the first remedy there is."""
    titles: dict[str, list[str]] = {}
    for problem in problems:
        titles.setdefault(problem.why, []).append(problem.title)
    parts = [f"{', '.join(names)}: {why}" if names != [""] else why for why, names in titles.items()]
    return "; ".join(parts), next((problem.remedy for problem in problems if problem.remedy), "")
