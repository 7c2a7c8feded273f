"""The order in which images are visited, and what a model answered so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from pomt_edge.measure.datasets import Images
from pomt_edge.measure.journal import Journal
from pomt_edge.records import Kept, Preprocessing

Classes = np.ndarray[Any, np.dtype[np.int64]]
BATCH = 32
FIRST_LOOK, GROWTH = 2, 1.25
KEY, FIRST, CLASSES = "accuracy_tokens", "first", "classes"
"""Of a journal's entry: what was kept, how many images had been visited before, the classes of those visited then."""


@dataclass(frozen=True)
class Batch:
    """A few images, made into a model's input when they are wanted."""

    number: int
    pixels: Tensor
    """uint8 [B, 3, height, width]"""
    preprocessing: Preprocessing

    def images(self) -> Tensor:
        """Normalised float32, [B, 3, height, width]."""
        (images,) = Images(self.pixels, None, ()).batches(self.preprocessing, len(self.pixels))
        return images


class Visits:
    """Images in an order of chance, so that the first of them stand for all.

    A draw is class by class in turn: of a thousand classes, its first images would be of the first classes alone. The
    order follows from the images themselves, so that it is the same in each process.
    """

    def __init__(self, images: Images, preprocessing: Preprocessing) -> None:
        self.count = len(images.pixels)
        self.batches = -(-self.count // BATCH)
        seed = int(images.fingerprint.rpartition(":")[2], 16)
        self.order = np.random.default_rng(seed).permutation(self.count)
        self.labels: Classes | None = None if images.labels is None else images.labels.numpy()[self.order]
        self._images = images
        self._preprocessing = preprocessing

    def batch(self, number: int) -> Batch:
        chosen = self.order[number * BATCH : (number + 1) * BATCH]
        return Batch(number, self._images.pixels[chosen], self._preprocessing)

    def looks(self) -> frozenset[int]:
        """Numbers of batches after which it may be enough: 2, and always a quarter more.

        A look after every batch spares little more and errs more often: `benchmarks/fewer_images.py`.
        """
        looks = [FIRST_LOOK]
        while looks[-1] < self.batches:
            looks.append(math.ceil(looks[-1] * GROWTH))
        return frozenset(looks)


class Answers:
    """The classes that each model gave, in the order of the visits, kept in the journal as far as they go."""

    def __init__(self, journal: Journal, visits: Visits) -> None:
        self._journal = journal
        self._classes: dict[Kept, Classes] = {}
        self._saved: dict[Kept, int] = {}
        for entry in journal.entries:
            if KEY in entry:
                self._recall(entry, visits)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The counts and schedules that were asked for."""
        return tuple(self._classes)

    def of(self, kept: Kept) -> Classes:
        """[images visited]"""
        return self._classes.get(kept, np.empty(0, dtype=np.int64))

    def add(self, kept: Kept, classes: Classes) -> None:
        self._classes[kept] = np.concatenate([self.of(kept), classes])

    def save(self) -> None:
        """Put into the journal what was added since."""
        for kept, classes in self._classes.items():
            first = self._saved.get(kept, 0)
            if len(classes) > first:
                self._journal.add({KEY: kept, FIRST: first, CLASSES: classes[first:].tolist()})
                self._saved[kept] = len(classes)

    def _recall(self, entry: dict[str, Any], visits: Visits) -> None:
        kept = tuple(entry[KEY]) if isinstance(entry[KEY], list) else entry[KEY]
        classes = np.array(entry[CLASSES], dtype=np.int64)
        if FIRST not in entry:  # all images, in their own order
            classes = classes[visits.order]
        self._classes[kept] = np.concatenate([self.of(kept)[: entry.get(FIRST, 0)], classes])
        self._saved[kept] = len(self._classes[kept])
