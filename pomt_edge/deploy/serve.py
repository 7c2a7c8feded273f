"""The whole way from an image file to a label, where a gain on the engine may vanish beside reading and preparing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from scipy import stats
from torch import Tensor

from pomt_edge.engines import Session
from pomt_edge.errors import UserError
from pomt_edge.export import LOGITS
from pomt_edge.measure import datasets
from pomt_edge.records import Preprocessing, ServeCheck, Stage

STAGES = ("read", "preprocess", "engine", "label")
LEAST_BATCHES = 3
MOST_IMAGES = 256
Images = Sequence[Image.Image]
Transform = Callable[[Image.Image], Any]


@dataclass
class _Run:
    """One variant's way, batch by batch."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {stage: [] for stage in STAGES})
    labels: list[int] = field(default_factory=list)

    def totals(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Seconds of each batch."""
        return np.sum([self.seconds[stage] for stage in STAGES], axis=0)


def serve_check(
    folder: Path, sessions: Mapping[str, Session], preprocessing: Preprocessing, batch_size: int
) -> ServeCheck:
    """Serve the folder's images with the baseline and the reduced model in turn, batch by batch.

    Args:
        sessions: of 'baseline' and 'reduced'.

    Raises:
        UserError: too few images, or one that can't be read.
    """
    files = files_in(folder, batch_size)
    transform = datasets.transform_of(preprocessing)
    runs = {name: _Run() for name in sessions}
    for name, session in sessions.items():  # the first run of a session is not what is served later
        _serve(files[:batch_size], session, transform, preprocessing, _Run())
        runs[name] = _Run()
    for number, start in enumerate(range(0, len(files), batch_size)):
        order = list(sessions.items())
        for name, session in order if number % 2 else reversed(order):
            _serve(files[start : start + batch_size], session, transform, preprocessing, runs[name])
    return _summary(runs["baseline"], runs["reduced"], len(files))


def files_in(folder: Path, batch_size: int) -> list[Path]:
    """What is served: whole batches only, for a last one that is filled up would cost as much for fewer images.

    Raises:
        UserError: too few images.
    """
    files = datasets.images_under(folder)
    batches = min(len(files), max(MOST_IMAGES, LEAST_BATCHES * batch_size)) // batch_size
    if batches < LEAST_BATCHES:
        raise UserError(
            f"--serve-check {folder}: {len(files)} images; expected at least {LEAST_BATCHES * batch_size}, "
            f"{LEAST_BATCHES} batches of {batch_size}"
        )
    return files[: batches * batch_size]


def _serve(
    files: Sequence[Path], session: Session, transform: Transform, preprocessing: Preprocessing, run: _Run
) -> None:
    marks = [time.perf_counter()]
    images = [_decoded(file) for file in files]
    marks.append(time.perf_counter())
    batch = _batch(images, transform, preprocessing)
    marks.append(time.perf_counter())
    logits = session.run(batch)[LOGITS]
    marks.append(time.perf_counter())
    run.labels += logits.argmax(axis=1).tolist()
    marks.append(time.perf_counter())
    for stage, seconds in zip(STAGES, np.diff(marks), strict=True):
        run.seconds[stage].append(float(seconds))


def _decoded(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise UserError(f"--serve-check: {file} can't be read as an image ({error}); take it out") from error


def _batch(images: Images, transform: Transform, preprocessing: Preprocessing) -> Tensor:
    """[B, 3, height, width], normalised."""
    pixels = torch.stack([torch.as_tensor(transform(image)) for image in images])
    (batch,) = datasets.Images(pixels, None, ()).batches(preprocessing, len(images))
    return batch


def _summary(baseline: _Run, reduced: _Run, images: int) -> ServeCheck:
    stages = tuple(
        Stage(name, 1e3 * sum(baseline.seconds[name]) / images, 1e3 * sum(reduced.seconds[name]) / images)
        for name in STAGES
    )
    before, after = baseline.totals(), reduced.totals()
    interval = stats.bootstrap(
        (before, after), _ratio, paired=True, vectorized=True, n_resamples=2000, method="percentile", random_state=0
    ).confidence_interval
    same = np.mean(np.array(baseline.labels) == np.array(reduced.labels))
    speedup = float(_ratio(before, after))
    return ServeCheck(images, stages, speedup, float(interval.low), float(interval.high), 100 * float(same))


def _ratio(before: Any, after: Any, axis: int = -1) -> Any:
    """Medians: one batch during which the machine was elsewhere must not decide."""
    return np.median(before, axis=axis) / np.median(after, axis=axis)
