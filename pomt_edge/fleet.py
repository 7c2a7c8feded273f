"""The main job on every device of a fleet, each a process of its own, and one report that compares them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pomt_edge.errors import Interrupted, UserError
from pomt_edge.fleet_file import FleetDevice, Options
from pomt_edge.machine.interrupts import ENDING
from pomt_edge.measure.journal import NAME as JOURNAL
from pomt_edge.measure.progress import Progress
from pomt_edge.records import Contest, Fleet, FleetRun, RecordError, Result, write_text
from pomt_edge.report import fleet as page
from pomt_edge.report import words

CODE = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from pomt_edge.cli import main; main()"
"""With this process's own path, as it may run from a checkout."""
ANSWERS = (0, 1)
"""Exit codes of a run that came to its end; 1: no count meets the limits."""
SAID = "error: "


@dataclass(frozen=True)
class _Running:
    device: FleetDevice
    process: subprocess.Popen[bytes]


Event = _Running | int
"""A run that ended, or a signal that arrived."""


def run(devices: Sequence[FleetDevice], typed: Options, folder: Path, progress: Progress) -> Fleet:
    """Run the main job on all devices, or what is left of it, into folders of their names, and compare them.

    Raises:
        UserError: the folder can't be used; nothing was started.
        Interrupted: by a signal; it was passed on, and all runs have put back what they had set.
    """
    _make(folder)
    progress.note(f"{len(devices)} devices; results, and what each run prints (NAME.log): {folder}")
    codes = _Fleet(devices, typed, folder, progress).run()
    fleet = Fleet(tuple(_outcome(device, folder, codes[device.name]) for device in devices))
    fleet.save(folder / "fleet.json")
    write_text(folder / "fleet.html", page.render(fleet))
    return fleet


def _make(folder: Path) -> None:
    if (folder / JOURNAL).exists():
        raise UserError(f"--out {folder}: holds a run of one device; give another folder for the fleet")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: can't be written ({error.strerror}); give another folder") from error


class _Fleet:
    """Starts each run when it may, and waits for all."""

    def __init__(self, devices: Sequence[FleetDevice], typed: Options, folder: Path, progress: Progress) -> None:
        self._waiting = list(devices)
        self._running: list[_Running] = []
        self._codes: dict[str, int] = {}
        self._typed, self._folder, self._progress = typed, folder, progress
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._interrupted = False

    def run(self) -> dict[str, int]:
        """Exit codes by the devices' names."""
        with self._signals():
            while self._waiting or self._running:
                self._start_what_may()
                event = self._events.get()
                if isinstance(event, int):
                    self._stop()
                else:
                    self._ended(event)
        if self._interrupted:
            kept = "interrupted; what was measured is kept: give the same options and"
            raise Interrupted(f"{kept} --out {self._folder} to go on")
        return self._codes

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals become events: none can come between a run's start and its being known here."""
        before = {number: signal.getsignal(number) for number in ENDING}
        taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]
        for number in taken:
            signal.signal(number, lambda arrived, _: self._events.put(arrived))
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    def _start_what_may(self) -> None:
        for device in list(self._waiting):
            if self._may_start(device):
                self._waiting.remove(device)
                self._start(device)

    def _may_start(self, device: FleetDevice) -> bool:
        if not device.is_elsewhere:
            # It is measured on the processors that serve the others, so it waits for them and runs alone.
            return not self._running and not any(other.is_elsewhere for other in self._waiting)
        boards = [running.device.board for running in self._running]
        if device.board is not None:
            return device.board not in boards
        return boards.count(None) < len(os.sched_getaffinity(0))

    def _start(self, device: FleetDevice) -> None:
        options = device.options(self._typed) | {"--out": [f"--out={self._folder / device.name}"]}
        words = [word for typed in options.values() for word in typed]
        environment = dict(os.environ)
        if device.is_elsewhere:
            environment.setdefault("OMP_NUM_THREADS", "1")  # several share the processors
        with open(_log(self._folder, device), "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", CODE, json.dumps(sys.path), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                # A terminal's Ctrl-C would reach it a second time, while it puts the clocks back.
                start_new_session=True,
            )
        running = _Running(device, process)
        self._running.append(running)
        threading.Thread(target=self._wait, args=[running], daemon=True).start()
        self._progress.note(f"{device.name}: started ({device})")

    def _wait(self, running: _Running) -> None:
        running.process.wait()
        self._events.put(running)

    def _ended(self, running: _Running) -> None:
        self._running.remove(running)
        name = running.device.name
        self._codes[name] = running.process.returncode
        if self._interrupted:
            self._progress.note(f"{name}: interrupted")
            return
        outcome = _outcome(running.device, self._folder, self._codes[name])
        said = words.verdict(outcome.result).sentence if outcome.result else f"failed: {outcome.error}"
        self._progress.note(f"{name}: {said}")

    def _stop(self) -> None:
        if not self._interrupted:
            self._progress.note("interrupted; waiting until all runs have put back what they had set")
        self._interrupted = True
        self._waiting.clear()
        for running in self._running:
            running.process.send_signal(signal.SIGTERM)


def _log(folder: Path, device: FleetDevice) -> Path:
    return folder / f"{device.name}.log"


def _outcome(device: FleetDevice, folder: Path, code: int) -> FleetRun:
    what = (device.name, device.device, dict(device.own))
    if code in ANSWERS:
        with contextlib.suppress(RecordError):
            result, report = _read(folder / device.name)
            # Whatever breaks Python exits with 1 as well, and leaves an earlier run's result where it is.
            if (result.plan.verdict == "unreachable") == (code == 1):
                return FleetRun(*what, f"{device.name}/{report}", result)
    return FleetRun(*what, error=_error(_log(folder, device), code))


def _read(folder: Path) -> tuple[Result, str]:
    """A run's result, or of several that were compared what is taken, and the name of its page."""
    if not (folder / "methods.json").exists():
        return Result.load(folder / "result.json"), "report.html"
    contest = Contest.load(folder / "methods.json")
    return dataclasses.replace(contest.chosen, plan=contest.plan), "methods.html"


def _error(log: Path, code: int) -> str:
    """The line that the run ended with."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix(SAID) for line in lines if line.startswith(SAID)]
    if said:
        return said[-1]
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"the run {how}; see {log}"
