"""Accuracy at a count, against labels or against the unreduced model, and its loss paired over the same images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from pomt_edge.engines import Session
from pomt_edge.errors import UserError
from pomt_edge.export import LOGITS
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.records import AccuracyCurve, AccuracyPoint, Preprocessing

Classes = np.ndarray[Any, np.dtype[np.int64]]
BATCH = 32
Z = float(stats.norm.ppf(0.975))


class Accuracy:
    """Measures counts on demand and keeps each one's predictions in the journal, so that none is run twice.

    Without labels the unreduced model's own answers are the labels, and the figure is called agreement.
    """

    def __init__(
        self,
        images: Images,
        preprocessing: Preprocessing,
        session: Callable[[int], Session],
        full: int,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._images = images
        self._preprocessing = preprocessing
        self._session = session
        self._full = full
        self._journal = journal
        self._progress = progress
        self._predictions = {
            entry["accuracy_tokens"]: np.array(entry["classes"])
            for entry in journal.entries
            if "accuracy_tokens" in entry
        }

    @property
    def measure(self) -> str:
        return "agreement" if self._images.labels is None else "accuracy"

    def at(self, tokens: int) -> AccuracyPoint:
        """The accuracy with `tokens` left, and its loss against the unreduced model."""
        truth = self._predict(self._full) if self._images.labels is None else self._images.labels.numpy()
        before = self._predict(self._full) == truth
        after = before if tokens == self._full else self._predict(tokens) == truth
        return compare(tokens, before, after)

    def known(self) -> tuple[AccuracyPoint, ...]:
        """The counts measured so far, most tokens first."""
        return tuple(self.at(tokens) for tokens in sorted(self._predictions, reverse=True))

    def curve(self) -> AccuracyCurve:
        """The counts measured so far and the unreduced model, as a record."""
        self.at(self._full)
        return AccuracyCurve(self.measure, self.known(), self._images.skipped)

    def _predict(self, tokens: int) -> Classes:
        if tokens not in self._predictions:
            classes = self._run(tokens)
            self._journal.add({"accuracy_tokens": tokens, "classes": classes.tolist()})
            self._predictions[tokens] = classes
        return self._predictions[tokens]

    def _run(self, tokens: int) -> Classes:
        count = len(self._images.pixels)
        session = self._session(tokens)  # which may be built now, and is none of the batches' time
        self._progress.stage(f"{self.measure} at {tokens} tokens, batches", math.ceil(count / BATCH))
        classes = []
        for batch in self._images.batches(self._preprocessing, BATCH):
            logits = session.run(batch)[LOGITS]
            if not np.isfinite(logits).all():
                # Their argmax would be class 0 for the unreduced and the reduced model alike: perfect agreement.
                raise UserError(f"the logits at {tokens} tokens are not finite; try --precision fp32 (or bf16)")
            classes.append(logits.argmax(axis=1))
            self._progress.advance()
        return np.concatenate(classes)


def compare(tokens: int, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> AccuracyPoint:
    """Percent right after the reduction and points lost, from right or wrong per image, bool [images] each."""
    count = len(before)
    low, high = wilson(int(after.sum()), count)
    drop, drop_low, drop_high = 0.0, 0.0, 0.0
    if before is not after:
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        drop, drop_low, drop_high = paired_difference(lost, gained, count)
    return AccuracyPoint(
        tokens, 100 * float(after.mean()), 100 * low, 100 * high, count, 100 * drop, 100 * drop_low, 100 * drop_high
    )


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, Wilson (1927)."""
    interval = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def paired_difference(lost: int, gained: int, count: int) -> tuple[float, float, float]:
    """Share lost less share gained over the same images, and its 95 % interval.

    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions" (2005): half an
    image added to each of the four cells, so that no difference seen does not mean none possible.
    """
    total = count + 2
    difference = (lost - gained) / total
    variance = ((lost + gained + 1) / total - difference**2) / total
    half = Z * math.sqrt(variance)
    return (lost - gained) / count, max(difference - half, -1.0), min(difference + half, 1.0)
