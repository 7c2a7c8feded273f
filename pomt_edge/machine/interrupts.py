"""Signals that end a process, kept from cutting its clearing up short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The first signal that ends the process is raised as before; later ones wait until all is put back."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = False
        self._late: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in ENDING:
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # under nohup a hangup stays ignored
                    self._before[number] = before
                    signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._late is not None and error is None:
            signal.raise_signal(self._late)

    def hold(self) -> None:
        """From now on nothing interrupts."""
        self._held = True

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._late = number
            return
        self._held = True
        before = self._before[number]
        if not callable(before):
            raise KeyboardInterrupt
        before(number, frame)
        self._held = False  # the program's own handler chose to go on


@contextmanager
def deferred() -> Iterator[None]:
    """Signals that end the process wait until the body is done: it must not be left half-way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in ENDING}
    own = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in own:
        signal.signal(number, lambda number, frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in own.items():
            signal.signal(number, handler)
    if arrived:
        signal.raise_signal(arrived[0])
