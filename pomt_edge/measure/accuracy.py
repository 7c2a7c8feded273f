"""Accuracy at a count, against labels or against the unreduced model, and its loss paired over the same images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pomt_edge.errors import UserError
from pomt_edge.measure import paired
from pomt_edge.measure.answers import BATCH, Answers, Batch, Classes, Visits
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.forwards import Forward, Forwards
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.records import AccuracyCurve, AccuracyPoint, Kept, Preprocessing, tokens_left


class Accuracy:
    """Measures counts on demand and keeps each one's answers in the journal, so that no image is run twice.

    Without labels the unreduced model's own answers are the labels, and the figure is called agreement.
    """

    def __init__(
        self,
        images: Images,
        preprocessing: Preprocessing,
        forwards: Forwards,
        full: int,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._images = images
        self._visits = Visits(images, preprocessing)
        self._forwards = forwards
        self._full = full
        self._progress = progress
        self._answers = Answers(journal, self._visits)

    @property
    def measure(self) -> str:
        return "agreement" if self._images.labels is None else "accuracy"

    def at(self, kept: Kept) -> AccuracyPoint:
        """The accuracy with so many tokens left, and its loss against the unreduced model, on all images."""
        self._visit(kept, lambda: False)
        return self._point(kept)

    def within(self, kept: Kept, max_drop: float) -> AccuracyPoint:
        """The same on as many images as tell whether the loss is surely at most `max_drop` points.

        Its `drop_high` is then at most `max_drop`, or above it, as on all images: see `paired.decided`.
        """
        already = self._seen(kept)
        self._visit(kept, lambda: self.is_decided(kept, max_drop))
        point = self._point(kept)
        if already < point.images < self._visits.count and kept != self._full:
            side = "within" if point.drop_high <= max_drop else "beyond"
            self._progress.note(
                f"{self.measure} {self._title(kept)}: {side} {max_drop:g} points, decided after {point.images} of "
                f"{self._visits.count} images"
            )
        return point

    def between(self, before: Kept, after: Kept) -> AccuracyPoint:
        """`after` on all images, and its loss against `before`, paired over them."""
        for kept in (before, after):
            self._visit(kept, lambda: False)
        return paired.compare(tokens_left(after, self._full), self._right(before)[1], self._right(after)[1])

    def known(self, whole: bool = False) -> tuple[AccuracyPoint, ...]:
        """The counts measured so far, each on the images it was measured on, most tokens first; `whole`: on all."""
        least = self._visits.count if whole else 1
        counts = [kept for kept in self._answers.kept if isinstance(kept, int) and self._seen(kept) >= least]
        return tuple(self._point(kept) for kept in sorted(counts, reverse=True))

    def curve(self) -> AccuracyCurve:
        """The counts measured so far and the unreduced model, as a record."""
        if not self._seen(self._full):
            self.at(self._full)
        return AccuracyCurve(self.measure, self.known(), self._images.skipped)

    def is_decided(self, kept: Kept, max_drop: float) -> bool:
        """Whether the images that were measured tell the verdict on all."""
        seen = self._seen(kept)
        if not seen or kept == self._full:
            return bool(seen)
        return paired.decided(*paired.changed(*self._right(kept)), seen, self._visits.count, max_drop)

    def _point(self, kept: Kept) -> AccuracyPoint:
        return paired.compare(tokens_left(kept, self._full), *self._right(kept))

    def _right(self, kept: Kept) -> tuple[Classes, Classes]:
        """Whether the unreduced model was right, and whether this one was, on the images that both have seen."""
        seen = self._seen(kept)
        unreduced = self._answers.of(self._full)[:seen]
        truth = unreduced if self._visits.labels is None else self._visits.labels[:seen]
        before = unreduced == truth
        return before, before if kept == self._full else self._answers.of(kept)[:seen] == truth

    def _seen(self, kept: Kept) -> int:
        return min(len(self._answers.of(kept)), len(self._answers.of(self._full)))

    def _visit(self, kept: Kept, enough: Callable[[], bool]) -> None:
        """Go on where the count stopped, batch by batch beside the unreduced model, until it is enough or all."""
        if self._seen(kept) == self._visits.count or enough():
            return
        both = tuple(dict.fromkeys((self._full, kept)))
        # Which may be built now, and is none of the batches' time.
        forwards = {each: self._forwards(each) for each in both if len(self._answers.of(each)) < self._visits.count}
        done = self._seen(kept) // BATCH
        self._progress.stage(f"{self.measure} {self._title(kept)}, batches", self._visits.batches, done)
        looks = self._visits.looks()
        try:
            for number in range(done, self._visits.batches):
                batch = self._visits.batch(number)
                for each in both:
                    if len(self._answers.of(each)) <= number * BATCH:
                        self._answers.add(each, self._classes(each, forwards[each], batch))
                self._progress.advance()
                if number + 1 in looks and enough():
                    return
        finally:
            self._answers.save()

    def _classes(self, kept: Kept, forward: Forward, batch: Batch) -> Classes:
        logits = forward(batch)
        if not np.isfinite(logits).all():
            # Their argmax would be class 0 for the unreduced and the reduced model alike: perfect agreement.
            raise UserError(f"the logits {self._title(kept)} are not finite; try --precision fp32 (or bf16)")
        return logits.argmax(axis=1)

    def _title(self, kept: Kept) -> str:
        schedule = "" if isinstance(kept, int) else f" (schedule {','.join(map(str, kept))})"
        return f"at {tokens_left(kept, self._full)} tokens{schedule}"
