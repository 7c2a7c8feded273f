"""What accuracy costs where counts share their first blocks, and where only as many images run as decide.

First, by simulation: how often the verdict on the first images is another one than that on all, and how many images
were run. Each simulated model loses and gains images at random, and is visited as `measure.accuracy` visits: the losses
lie around the limit, where it is hard. Then, on the embedded demo: the time of the counts that a search asks, run whole
and separately on all images, with shared blocks on all images, and with shared blocks on as many as decide; in turn,
and compared by the ratio of each round. `python benchmarks/fewer_images.py --help`
"""

from __future__ import annotations

import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from pomt_edge import demo
from pomt_edge.engines import BuildOptions, Session, Setting
from pomt_edge.engines import torch as engine
from pomt_edge.machine.system import System
from pomt_edge.measure import datasets, paired
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.answers import BATCH, Visits
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.forwards import Forwards, SharedPrefix, available_bytes, by_sessions
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.models.family import family_of
from pomt_edge.records import AccuracyPoint, Kept, Preprocessing
from pomt_edge.reduce import schedule
from pomt_edge.reduce.reduced_model import reduce_model

LIMITS = (1.0, 2.0, 5.0)
LOSSES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
"""As multiples of the limit."""
BLOCK = 3
COUNTS = (114, 156, 135, 125, 120, 117, 119, 118, 116)
"""Below the 197 of all tokens: what a search over every count asks for a loss of 5 points."""


def simulated(images: int, max_drop: float, repeats: int) -> tuple[float, float, float]:
    """Percent of verdicts that differ, over all losses and at the loss where it is worst, and of images run."""
    draw = np.random.default_rng(0)
    pixels = torch.zeros(images, 3, 1, 1, dtype=torch.uint8)
    looks = [BATCH * look for look in sorted(Visits(Images(pixels, None, ()), demo.PREPROCESSING).looks())]
    looks = [*(look for look in looks if look < images), images]
    differ, run = [], []
    for loss in LOSSES:
        gained = 0.005 + 0.0025 * loss * max_drop
        lost = gained + loss * max_drop / 100
        wrong = 0
        for _ in range(repeats):
            change = draw.choice(3, size=images, p=[lost, gained, 1 - lost - gained])
            losses, gains = (change == 0).cumsum(), (change == 1).cumsum()
            seen = next(
                look
                for look in looks
                if look == images or paired.decided(losses[look - 1], gains[look - 1], look, images, max_drop)
            )
            verdicts = {
                100 * paired.paired_difference(int(losses[last - 1]), int(gains[last - 1]), last)[2] <= max_drop
                for last in (seen, images)
            }
            wrong += len(verdicts) > 1
            run.append(seen)
        differ.append(100 * wrong / repeats)
    return statistics.mean(differ), max(differ), 100 * statistics.mean(run) / images


class Search:
    """A model, its images, and the three ways to get the accuracy of some counts."""

    def __init__(self, model: nn.Module, images: Images, preprocessing: Preprocessing, max_drop: float) -> None:
        self.setting = Setting("cpu", "fp32", 1, preprocessing.image_px)
        self.model = engine.prepare(model, self.setting)
        self.images, self.preprocessing, self.max_drop = images, preprocessing, max_drop
        self.full = family_of(model).token_count(model)

    def variant(self, kept: Kept) -> nn.Module:
        if kept == self.full:
            return self.model
        assert isinstance(kept, int)
        removals = schedule.spread(self.full - kept, (BLOCK,), len(family_of(self.model).blocks(self.model)))
        return reduce_model(self.model, method="pomt", schedule=removals, copy=False)

    def session(self, kept: Kept) -> Session:
        return engine.load(engine.build(self.variant(kept), self.setting, BuildOptions(Path(), "")), self.setting)

    def separate(self) -> Forwards:
        return by_sessions(functools.cache(self.session))

    def shared(self) -> Forwards:
        available = functools.partial(available_bytes, self.setting.device, System())
        return SharedPrefix(self.variant, BLOCK, len(self.images.pixels), available)

    def timed(self, forwards: Forwards, decide: bool) -> tuple[float, tuple[AccuracyPoint, ...]]:
        """Processor seconds that all counts take, and their accuracies: a busy machine moves them least."""
        with tempfile.TemporaryDirectory() as folder, Journal(Path(folder), {}) as journal:
            accuracy = Accuracy(self.images, self.preprocessing, forwards, self.full, journal, Silent())
            start = time.process_time()
            points = [accuracy.within(tokens, self.max_drop) if decide else accuracy.at(tokens) for tokens in COUNTS]
            return time.process_time() - start, tuple(points)

    def compare(self, rounds: int) -> dict[str, object]:
        ways: dict[str, Callable[[], tuple[float, tuple[AccuracyPoint, ...]]]] = {
            "separate": lambda: self.timed(self.separate(), decide=False),
            "shared": lambda: self.timed(self.shared(), decide=False),
            "shared, as many as decide": lambda: self.timed(self.shared(), decide=True),
        }
        self.timed(self.shared(), decide=True)  # warms up
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        points: dict[str, tuple[AccuracyPoint, ...]] = {}
        for _ in range(rounds):
            for name, way in ways.items():
                took, points[name] = way()
                seconds[name].append(took)
        separate, shared, fewer = ways
        return {
            "processor seconds": {name: round(statistics.median(values), 2) for name, values in seconds.items()},
            "times faster": {
                name: sorted(round(a / b, 2) for a, b in zip(seconds[separate], values, strict=True))
                for name, values in seconds.items()
            },
            "same figures on all images": points[separate] == points[shared],
            "same verdicts": self._verdicts(points[separate]) == self._verdicts(points[fewer]),
            "images run": {str(point.tokens): point.images for point in points[fewer]},
            "points lost on all": {str(point.tokens): round(point.drop, 2) for point in points[separate]},
        }

    def _verdicts(self, points: tuple[AccuracyPoint, ...]) -> list[bool]:
        return [point.drop_high <= self.max_drop for point in points]


def main(
    images: Annotated[int, typer.Option(help="images of the demo")] = 1000,
    max_drop: Annotated[float, typer.Option(help="points that may be lost")] = 5.0,
    repeats: Annotated[int, typer.Option(help="simulated models per loss")] = 200,
    rounds: Annotated[int, typer.Option(help="rounds of the timing; 0: simulate alone")] = 3,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
) -> None:
    torch.set_num_threads(threads)
    table = Table("images", "limit, points", "verdicts that differ %", "at the worst loss %", "images run %")
    for count in (500, 1000, 5000):
        for limit in LIMITS:
            table.add_row(str(count), f"{limit:g}", *(f"{value:.1f}" for value in simulated(count, limit, repeats)))
    Console().print(table)
    if rounds:
        search = Search(demo.build_model(), datasets.read_demo(images, 0, True), demo.PREPROCESSING, max_drop)
        print(json.dumps(search.compare(rounds), indent=2))


if __name__ == "__main__":
    typer.run(main)
