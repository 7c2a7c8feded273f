"""How far a build is, told as it goes; and what ends the process, which would otherwise end up inside the library."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AT_MOST_EVERY_S = 0.1
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a scheduler and a lost connection."""


class Phases:
    """Phases within phases, each of so many steps, as the share of all that is done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a builder may report from several threads
        self._parents: dict[str, str | None] = {}
        self._steps: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._parents[phase], self._steps[phase], self._done[phase] = parent, max(steps, 1), 0

    def step(self, phase: str, step: int) -> None:
        with self._lock:
            self._done[phase] = step + 1

    def finish(self, phase: str) -> None:
        with self._lock:
            for table in (self._parents, self._steps, self._done):
                table.pop(phase, None)

    def share(self) -> float:
        """From 0 to 1, of the outermost phase that is on."""
        with self._lock:
            return max((self._share(phase) for phase, parent in self._parents.items() if parent is None), default=0.0)

    def _share(self, phase: str) -> float:
        inner = max((self._share(child) for child, parent in self._parents.items() if parent == phase), default=0.0)
        return min((self._done[phase] + inner) / self._steps[phase], 1.0)


class Teller:
    """Tells the percentage, each once, rising, and not too often."""

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self._name, self._tell = name, tell
        self._percent, self._told_at = -1, 0.0

    def at(self, share: float) -> None:
        percent = int(100 * share)
        if percent > self._percent and (percent == 100 or time.monotonic() - self._told_at >= AT_MOST_EVERY_S):
            self._percent, self._told_at = percent, time.monotonic()
            self._tell(f"building {self._name}: {percent} %")


def monitor(trt: Any, teller: Teller, stop: threading.Event) -> Any:
    """A progress monitor for the builder (TensorRT 10 and newer), which cancels the build once `stop` is set."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases = Phases()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.phases.step(phase_name, step)
            teller.at(self.phases.share())
            return not stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self.phases.finish(phase_name)

    return Monitor()


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, and any other ending for which Python has a handler.

    KeyboardInterrupt is raised at the end, for the library swallows it or dies of it. A second signal does what it did
    before.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    handlers = {ending: signal.getsignal(ending) for ending in ENDINGS}
    # What the system handles ends the process at once, and what is ignored stays so.
    before = {ending: handler for ending, handler in handlers.items() if callable(handler)}

    def put_back() -> None:
        for ending, handler in before.items():
            signal.signal(ending, handler)

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()
        put_back()

    for ending in before:
        signal.signal(ending, note)
    try:
        yield stop
    finally:
        put_back()
    if stop.is_set():
        raise KeyboardInterrupt
