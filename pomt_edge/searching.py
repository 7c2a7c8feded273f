"""The adaptive search on real measurements: what the search asks for, the sweep and the accuracy answer."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pomt_edge.measure.progress import Progress
from pomt_edge.measure.steadiness import detrended
from pomt_edge.measure.sweep import Sweep
from pomt_edge.records import AccuracyPoint, LatencyPoint, Probe

if TYPE_CHECKING:
    from pomt_edge.measure.accuracy import Accuracy

EARLIER = "asked for before, with other limits or other knowledge"


class OutOfTimeError(Exception):
    """The time that a search was given is over; what was measured until then is kept."""


class Deadline:
    """A progress that ends, when the time is over, what runs in its context: between two measurements.

    What comes after is not hurried.
    """

    def __init__(self, progress: Progress, minutes: float | None) -> None:
        self._progress = progress
        self._minutes = minutes
        self._until = time.monotonic() + 60 * minutes if minutes is not None else math.inf
        self._running = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """
        Raises:
            OutOfTimeError: from whatever measures in the context.
        """
        self._running = True
        try:
            yield
        finally:
            self._running = False

    def busy(self, text: str) -> None:
        self._progress.busy(text)

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self.check()
        self._progress.stage(title, total, done)

    def advance(self, detail: str = "") -> None:
        self._progress.advance(detail)
        self.check()

    def note(self, text: str) -> None:
        self._progress.note(text)

    def check(self) -> None:
        """Raise an OutOfTimeError if the time of the context is over."""
        if self._running and time.monotonic() > self._until:
            raise OutOfTimeError(f"the {self._minutes:g} minutes of --max-minutes were over")


class Measuring:
    """A bench of `choose.adaptive` that measures, and keeps what was asked for and why."""

    def __init__(self, sweep: Sweep, accuracy: Accuracy | None, max_drop: float | None, detrend: bool) -> None:
        self._sweep = sweep
        self._accuracy = accuracy
        self._max_drop = max_drop
        self._detrend = detrend
        self._timed: dict[int, str] = {}
        self._judged: dict[int, str] = {}

    def latency(self, counts: Sequence[int], why: str) -> None:
        for tokens in counts:
            self._timed.setdefault(tokens, why)
        self._sweep.measure(counts, f"latency of {_few(counts)} ({why})")

    def again(self, counts: Sequence[int], why: str) -> None:
        self._sweep.again(counts, f"latency again of {_few(counts)} ({why})")

    def points(self) -> dict[int, LatencyPoint]:
        curve = self._sweep.curve()
        return {point.tokens: point for point in (detrended(curve) if self._detrend else curve).points}

    def accuracy(self, tokens: int, why: str = "beside the choice") -> AccuracyPoint:
        """On as many images as the limit on the loss needs; where there is none, on all."""
        assert self._accuracy is not None  # a limit that needs it is refused without images
        self._judged.setdefault(tokens, why)
        return self._accuracy.at(tokens) if self._max_drop is None else self._accuracy.within(tokens, self._max_drop)

    def judged(self) -> dict[int, AccuracyPoint]:
        """What is known of accuracy, each on the images that it was measured on."""
        return {point.tokens: point for point in self._accuracy.known()} if self._accuracy else {}

    @property
    def judges(self) -> bool:
        """Whether there is accuracy at all."""
        return self._accuracy is not None

    def decided(self) -> dict[int, AccuracyPoint]:
        """What is known well enough of accuracy for the verdict by this limit."""
        known = self.judged()
        if self._accuracy is None or self._max_drop is None:
            return known
        return {n: point for n, point in known.items() if self._accuracy.is_decided(n, self._max_drop)}

    def asked(self) -> dict[str, Any]:
        """What was asked for and why, for a journal."""
        return {"timed": list(self._timed.items()), "judged": list(self._judged.items())}

    def recall(self, kept: Mapping[str, Any]) -> int | None:
        """Take what a finished search had asked for, from a journal; its choice."""
        self._timed, self._judged = dict(kept["timed"]), dict(kept["judged"])
        chosen: int | None = kept["chosen"]
        return chosen

    def probes(self) -> tuple[tuple[Probe, ...], tuple[Probe, ...]]:
        """What is known of latency and of accuracy, and why it was asked for; of an earlier search only that it was."""
        return _probes(self._timed, self.points()), _probes(self._judged, self.judged())

    def left_open(self) -> list[str]:
        """What the search does not know, a sentence each."""
        sentences = []
        if untimed := [tokens for tokens in self._sweep.grid.tokens if tokens not in self.points()]:
            sentences.append(f"The other {len(untimed)} were not: a lone fast one among them would be missed.")
        if self._max_drop is not None and (between := self._undecided(self._max_drop)):
            sentences.append(
                f"Whether {between[-1]} to {between[0]} tokens are within the limit was not measured."
                if len(between) > 1
                else f"Whether {between[0]} tokens are within the limit was not measured."
            )
        return sentences

    def _undecided(self, max_drop: float) -> list[int]:
        """Counts between the last that is known to be within the limit and the first known to be beyond it."""
        known = self.judged()
        within = min((n for n, point in known.items() if point.drop_high <= max_drop), default=None)
        beyond = max((n for n, point in known.items() if point.drop_high > max_drop), default=0)
        if within is None or beyond > within:
            return []
        return [tokens for tokens in self._sweep.grid.tokens if beyond < tokens < within]


def _probes(asked: Mapping[int, str], known: Iterable[int]) -> tuple[Probe, ...]:
    """What was asked for and is known, in the order of asking; then what else is known."""
    left = set(known)
    order = [*(tokens for tokens in asked if tokens in left), *sorted(left - asked.keys(), reverse=True)]
    return tuple(Probe(tokens, asked.get(tokens, EARLIER)) for tokens in order)


def _few(counts: Iterable[int]) -> str:
    named = [str(tokens) for tokens in counts]
    return ", ".join(named) + " tokens" if len(named) <= 3 else f"{len(named)} counts"
