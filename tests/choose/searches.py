"""The adaptive search against the whole grid, on curves that are known: `python -m tests.choose.searches [RUNS]`.

The search sees noise of each block, 0.3 % or 1 %; what it chose is judged without noise. Its regret is how much slower
its choice is than that of the whole grid, which knows all latencies without noise and, "everywhere", all accuracies as
well: no search can be better than that. Where accuracy is only nearly monotone the grid finds counts far beyond the
limit's boundary that happen to fit; `--search full`, which measures accuracy only where it can decide, does not look
there either.

Images are lost, and some gained, along real curves of accuracy, each at a threshold of its own, which moves a little
from count to count (`UNREST`) as it does on the models of these curves. Without unrest and gains the loss is monotone.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from curves import COUNTS, comb, flat, isolated, plateaus, sawtooth, slope_plateaus, steep
from numpy.typing import NDArray
from scipy.signal import lfilter

from pomt_edge import profiles
from pomt_edge.choose import adaptive
from pomt_edge.choose.efficient import efficient
from pomt_edge.choose.plan import Limits
from pomt_edge.choose.search import fastest_within_drop
from pomt_edge.measure.paired import compare
from pomt_edge.measure.timing import StopRule, median_interval
from pomt_edge.records import AccuracyPoint, LatencyPoint
from pomt_edge.simulator import Simulator
from pomt_edge.simulator.device import Way
from pomt_edge.simulator.geometry import Geometry, Reduction

GOLDEN = Path(__file__).parents[1] / "golden"
FULL, FEWEST = 197, 20
GRID = tuple(range(FULL, FEWEST - 1, -1))
IMAGES = 1024
UNREST, REACH_TOKENS = 0.012, 20
"""How far an image's threshold moves, as a share of the images, and over how many tokens: on the demo model so that
between neighbouring counts 1 to 3 of 1,000 images change sides, as they do there."""
LIMITS = (1.0, 2.0, 3.0, 5.0, 8.0)
NOISES = (0.003, 0.01)
SMALL = Geometry(depth=12, embed_dim=384, heads=6, mlp_dim=1536, patch_px=16, image_px=224)

Array = NDArray[np.float64]
Rng = np.random.Generator


class Trial(NamedTuple):
    chosen: int
    best: int
    regret: float
    """Against accuracy everywhere."""
    regret_full: float
    """Against `--search full`; negative where the search found better."""
    timed: int
    judged: int
    within: bool
    """Whether the choice's accuracy was measured and is within the limit."""


class KnownBench:
    """Latencies with noise, and images that are right or wrong."""

    def __init__(self, latency: Array, noise: float, rng: Rng, images: Images) -> None:
        """`latency`: [FULL + 1], by tokens."""
        self._latency, self._noise, self._rng, self._images = latency, noise, rng, images
        self._rule = StopRule(point_seconds=1e9, most_blocks=12)
        self._blocks: dict[int, list[tuple[float, ...]]] = {}
        self.judged: dict[int, AccuracyPoint] = {}

    @property
    def timed(self) -> list[int]:
        return list(self._blocks)

    def latency(self, counts: Sequence[int], why: str) -> None:
        for tokens in counts:
            while self._rule.reason(self._blocks.get(tokens, [])) is None:
                self._block(tokens)

    def again(self, counts: Sequence[int], why: str) -> None:
        for tokens in counts:
            self._block(tokens)

    def points(self) -> dict[int, LatencyPoint]:
        return {tokens: self._point(tokens) for tokens in sorted(self._blocks, reverse=True)}

    def accuracy(self, tokens: int, why: str) -> AccuracyPoint:
        self.judged[tokens] = self._images.accuracy(tokens)
        return self.judged[tokens]

    def _block(self, tokens: int) -> None:
        moment = 1 + self._noise * self._rng.standard_normal()
        self._blocks.setdefault(tokens, []).append((float(self._latency[tokens] * moment),))

    def _point(self, tokens: int) -> LatencyPoint:
        blocks = tuple(self._blocks[tokens])
        return LatencyPoint(tokens, *median_interval(blocks), len(blocks), len(blocks), "interval")


class Images:
    """Right or wrong at each count, along a real curve of accuracy that is stretched by chance."""

    def __init__(self, rng: Rng, unrest: float = UNREST) -> None:
        right, loss = _losses()[rng.integers(len(_losses()))]
        loss = np.minimum(loss * rng.uniform(0.5, 2), 0.9 * right)
        # Reduction also gains some images: about a quarter of those that it loses.
        gains = 0.3 if unrest else 0.0
        self._lost, self._gained = (1 + gains) * loss / right, gains * loss / (1 - right)
        self._before = rng.random(IMAGES) < right
        keep = 1 - 1 / REACH_TOKENS
        steps = unrest * np.sqrt(1 - keep**2) * rng.standard_normal((IMAGES, FULL + 1))
        self._threshold = rng.random((IMAGES, 1)) + lfilter([1], [1, -keep], steps, axis=1)

    def accuracy(self, tokens: int) -> AccuracyPoint:
        if tokens == FULL:
            return compare(tokens, self._before, self._before)
        threshold = self._threshold[:, tokens]
        after = np.where(self._before, threshold >= self._lost[tokens], threshold < self._gained[tokens])
        return compare(tokens, self._before, after)


@functools.cache
def _losses() -> list[tuple[float, Array]]:
    """Share of images that the unreduced model has right, and the share lost by tokens, [FULL + 1], never falling."""
    kept = json.loads((GOLDEN / "accuracy_curves.json").read_text())
    found = []
    for name, curves in kept.items():
        if name == "about":
            continue
        tokens, right = map(np.array, zip(*sorted(curves["pomt"]), strict=True))
        loss = curves["full"] - np.interp(np.arange(FULL + 1), tokens, right)
        loss[FULL] = 0.0
        found.append((curves["full"], np.maximum.accumulate(np.maximum(loss[::-1], 0))[::-1]))
    return found


DRAWN = {f.__name__: f for f in (plateaus, slope_plateaus, steep, sawtooth, comb, isolated, flat)}


@functools.cache
def recorded() -> dict[str, Array]:
    """The H200's curves, [FULL + 1] each."""
    found = {}
    for curve in json.loads((GOLDEN / "h200_curves.json").read_text())["curves"]:
        tokens, ms = map(np.array, zip(*sorted(zip(curve["tokens"], curve["median_ms"], strict=True)), strict=True))
        name = f"h200 {curve['model'].split('_patch')[0]} b{curve['batch_size']} {curve['precision']}"
        found[name] = np.interp(np.arange(FULL + 1), tokens, ms)
    return found


@functools.cache
def simulated() -> dict[str, Array]:
    """DeiT-S, batch 4, POMT in block 3, on each simulated Jetson."""
    found = {}
    for profile in profiles.read_all()[0]:
        if profile.board and not profile.own:
            for precision in ("fp32", "fp16"):
                if precision in profile.precisions:
                    way = Way(precision, 4, "tensorrt")
                    device = Simulator(profile, SMALL, way, Reduction((3,), explicit_attention=True))
                    found[f"sim {profile.id} {precision}"] = np.append(np.nan, device.latency_ms(range(1, FULL + 1)))
    return found


def curve_of(kind: str, rng: Rng) -> Array:
    if kind in DRAWN:
        latency = np.empty(FULL + 1)
        latency[COUNTS], _ = DRAWN[kind](rng)
        return latency
    return (recorded() | simulated())[kind]


def trial(kind: str, noise: float, seed: int, unrest: float = UNREST) -> Trial:
    rng = np.random.default_rng([seed, 77])
    latency = curve_of(kind, rng)
    images = Images(rng, unrest)
    max_drop = float(rng.choice(LIMITS))
    bench = KnownBench(latency, noise, rng, images)
    chosen = adaptive.Explorer(GRID, Limits(max_drop), bench).choice() or FULL
    fitting = [n for n in GRID if n == FULL or images.accuracy(n).drop_high <= max_drop]
    best = min(fitting, key=lambda tokens: latency[tokens])
    whole = [LatencyPoint(n, latency[n], latency[n], latency[n], 1, 1, "known") for n in GRID]
    faster = efficient(whole)[1:]
    full = fastest_within_drop(faster, max_drop, images.accuracy) if faster else None
    within = chosen == FULL or bench.judged[chosen].drop_high <= max_drop
    regret, regret_full = (float(latency[chosen] / latency[other] - 1) for other in (best, full or FULL))
    return Trial(chosen, best, regret, regret_full, len(bench.timed), len(bench.judged), within)


GROUPS: dict[str, Callable[[], list[str]]] = {
    "random staircases": lambda: list(DRAWN),
    "recorded H200 curves": lambda: list(recorded()),
    "simulated Jetsons": lambda: list(simulated()),
}


def trials(group: str, noise: float, runs: int, unrest: float = UNREST) -> list[Trial]:
    """As many runs as wanted, each of a curve of the group by turns."""
    kinds = GROUPS[group]()
    return [trial(kinds[seed % len(kinds)], noise, seed, unrest) for seed in range(runs)]


def row(group: str, noise: float, against: str, found: Sequence[Trial]) -> str:
    regret = 100 * np.array([one.regret_full if against == FULL_SEARCH else one.regret for one in found])
    cells = [
        group,
        f"{100 * noise:g} %",
        against,
        f"{np.mean([one.timed for one in found]):.1f} ({max(one.timed for one in found)})",
        f"{np.mean([one.judged for one in found]):.1f} ({max(one.judged for one in found)})",
        *(f"{value:.2f} %" for value in (np.median(regret), np.quantile(regret, 0.95), regret.max())),
        f"{100 * np.mean(regret > 1):.1f} %, {100 * np.mean(regret > 3):.1f} %",
        str(sum(not one.within for one in found)),
    ]
    return f"| {' | '.join(cells)} |"


FULL_SEARCH, EVERYWHERE, MONOTONE = "--search full", "everywhere", "everywhere, monotone"


def table(runs: int) -> str:
    heads = ["curves", "noise of a block", "against", "latency points, mean (most)", "accuracy points, mean (most)"]
    heads += ["regret, median", "95th percentile", "most", "runs over 1 %, over 3 %", "beyond the limit"]
    cases = [(group, noise, unrest) for unrest in (0.0, UNREST) for group in GROUPS for noise in NOISES]
    with ProcessPoolExecutor() as pool:
        found = list(pool.map(trials, *zip(*((group, noise, runs, rest) for group, noise, rest in cases), strict=True)))
    rows = [
        row(group, noise, against, one)
        for against, wanted in ((MONOTONE, 0.0), (FULL_SEARCH, UNREST), (EVERYWHERE, UNREST))
        for (group, noise, unrest), one in zip(cases, found, strict=True)
        if unrest == wanted
    ]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows])


if __name__ == "__main__":
    print(table(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
