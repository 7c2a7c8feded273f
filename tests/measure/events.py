"""What may happen to a machine in mid-sweep, injected into a target of known latency.

`python tests/measure/events.py 100` runs each event with so many seeds and prints how often the choice stayed on
the right tread and how often the event was reported.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from staircases import KnownTarget, two_cliffs

from pomt_edge.choose.plan import Limits
from pomt_edge.decision import decide
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.measure.steadiness import DRIFT_PERCENT
from pomt_edge.measure.sweep import Cooling, Grid, Sweep
from pomt_edge.measure.timing import StopRule
from pomt_edge.records import Steadiness
from pomt_edge.report import unrest

TOKENS = tuple(range(197, 97, -1))
KEEP = 0.6
"""119 tokens and more: the right tread is 128 to 119, and its first count the efficient one."""
RIGHT = range(119, 129)
CALLS = 1300
"""Roughly the calls of a sweep of these counts."""


class Disturbed(KnownTarget):
    """Some forwards take half as long again."""

    def __init__(self, *args: object, outliers: float = 0.0, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self._outliers = outliers

    def time_ms(self, tokens: int, count: int) -> list[float]:
        samples = super().time_ms(tokens, count)
        hit = self._rng.random(count) < self._outliers
        return [1.5 * ms if slow else ms for ms, slow in zip(samples, hit, strict=True)]


def level_shift(seed: int) -> Disturbed:
    begins, lasts = np.random.default_rng(seed).integers((200, 150), (CALLS - 300, CALLS))
    return Disturbed(two_cliffs, seed=seed, speed=lambda call: 1.2 if begins <= call < begins + lasts else 1.0)


def drift(seed: int) -> Disturbed:
    return Disturbed(two_cliffs, seed=seed, speed=lambda call: 1 + 0.05 * call / CALLS)


def outliers(seed: int) -> Disturbed:
    return Disturbed(two_cliffs, seed=seed, outliers=0.02)


def warm_up(seed: int) -> Disturbed:
    return Disturbed(two_cliffs, seed=seed, speed=lambda call: 1 + max(0.0, 1 - call / 60))


EVENTS: dict[str, tuple[Callable[[int], Disturbed], Callable[[Steadiness], bool]]] = {
    "level shift of 20 %": (level_shift, lambda found: any(10 < abs(shift.percent) < 30 for shift in found.shifts)),
    "drift of 5 %": (drift, lambda found: found.drift_percent > DRIFT_PERCENT and found.drift_low > 0),
    "2 % outliers of +50 %": (outliers, lambda found: 0.01 < found.outliers / found.samples < 0.03),
    "warm-up ramp of 2x": (warm_up, lambda found: (found.warm_up_ratio or 0) > 1.7),
}


def outcome(event: str, seed: int, folder: Path) -> tuple[int, bool, list[str]]:
    """The chosen count, whether the event was noticed, and what the report says of the machine."""
    target, noticed = EVENTS[event][0](seed), EVENTS[event][1]
    rule = StopRule(point_seconds=0.3)
    with Journal(folder, {}) as journal:
        sweep = Sweep(Grid(TOKENS, seed=seed, rule=rule, cooling=Cooling(pause_s=0)), target, journal, Silent())
        found = decide(sweep, Limits(keep=KEEP))
        curve, decision = found.curve, found.decision
    return decision.tokens, noticed(curve.steadiness), [found.text for found in unrest.events(curve)]


def main(seeds: int) -> None:
    for event in EVENTS:
        right = seen = 0
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
                tokens, noticed, _ = outcome(event, seed, Path(folder))
            right += tokens in RIGHT
            seen += noticed
        print(f"{event}: {right} of {seeds} on the right tread, {seen} reported", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
