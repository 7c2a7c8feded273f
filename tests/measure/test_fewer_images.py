"""As many images as decide: the verdict is that on all images, by the plain rule, and goes on where it stopped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pomt_edge import demo
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.answers import BATCH, Batch, Visits
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.forwards import Forward, Logits
from pomt_edge.measure.journal import NAME, Journal
from pomt_edge.measure.paired import decided, paired_difference
from pomt_edge.measure.progress import Silent
from pomt_edge.records import Kept

FULL = 197
IMAGES = 1000
CLASSES = 10


def numbered_images(labelled: bool = True, count: int = IMAGES) -> Images:
    """Each image holds its own number, in two bytes; its class is its number's last digit."""
    numbers = torch.arange(count)
    pixels = torch.stack([numbers // 256, numbers % 256, numbers * 0], dim=1).to(torch.uint8)
    return Images(pixels[:, :, None, None], numbers % CLASSES if labelled else None, ())


class KnownModel:
    """Right but for the images it is known to lose at a count, the same ones at each; counts what it runs."""

    def __init__(self, losses_percent: dict[Kept, float]) -> None:
        self.losses = losses_percent | {FULL: 0.0}
        self.ran: Counter[Kept] = Counter()
        self._chance = np.random.default_rng(11).random(IMAGES)

    def __call__(self, kept: Kept) -> Forward:
        return lambda batch: self._logits(kept, batch)

    def _logits(self, kept: Kept, batch: Batch) -> Logits:
        self.ran[kept] += len(batch.pixels)
        high, low, _ = batch.pixels[:, :, 0, 0].long().numpy().T
        number = 256 * high + low
        lost = 100 * self._chance[number] < self.losses[kept]
        return np.eye(CLASSES)[(number + lost) % CLASSES]


class Told(Silent):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self.stages.append(f"{title}: {done} of {total}")

    def note(self, text: str) -> None:
        self.notes.append(text)


def measured(model: KnownModel, journal: Journal, labelled: bool = True, progress: Silent | None = None) -> Accuracy:
    return Accuracy(numbered_images(labelled), demo.PREPROCESSING, model, FULL, journal, progress or Silent())


def test_what_is_decided_early_has_the_same_verdict_by_its_own_interval() -> None:
    draw = np.random.default_rng(2)
    early = Counter[bool]()
    for _ in range(20_000):
        images = int(draw.integers(2, 20_000))
        seen = int(draw.integers(1, images))
        share = draw.choice([0.0, 0.003, 0.03, 0.3, 1.0])
        lost, gained = draw.binomial(seen, share), 0
        gained = int(draw.binomial(seen - lost, draw.choice([0.0, 0.01, 0.2])))
        limit = float(draw.choice([0.0, 0.1, 1.0, 3.0, 10.0, 50.0, 100.0]))
        if decided(int(lost), gained, seen, images, limit):
            # Were all further images like the ones seen, all would say the same.
            scale = images / seen
            on_all = 100 * paired_difference(round(lost * scale), round(gained * scale), images)[2] <= limit
            assert (100 * paired_difference(int(lost), gained, seen)[2] <= limit) == on_all
            early[on_all] += 1
    assert min(early[True], early[False]) > 1000


def test_the_foreseen_verdict_is_nearly_always_that_on_all_images() -> None:
    draw = np.random.default_rng(4)
    looks = [BATCH * look for look in sorted(Visits(numbered_images(), demo.PREPROCESSING).looks())]
    wrong, seen, models = 0, 0, 0
    for limit in (1.0, 5.0):
        for loss in (0.0, 0.5, 0.7, 0.9, 1.2, 2.0):
            lost = 0.01 + loss * limit / 100
            for _ in range(50):
                change = draw.choice(3, size=IMAGES, p=[lost, 0.01, 0.99 - lost])
                losses, gains = (change == 0).cumsum(), (change == 1).cumsum()
                stop = next(
                    look
                    for look in [*(look for look in looks if look < IMAGES), IMAGES]
                    if look == IMAGES or decided(losses[look - 1], gains[look - 1], look, IMAGES, limit)
                )
                verdicts = [
                    100 * paired_difference(int(losses[last - 1]), int(gains[last - 1]), last)[2] <= limit
                    for last in (stop, IMAGES)
                ]
                wrong += verdicts[0] != verdicts[1]
                seen += stop
                models += 1
    assert wrong / models <= 0.02
    assert seen / models <= 0.85 * IMAGES


@pytest.mark.parametrize("labelled", [True, False])
def test_few_images_decide_what_is_far_from_the_limit(tmp_path: Path, labelled: bool) -> None:
    model, told = KnownModel({180: 0.5, 60: 25.0, 120: 3.9}), Told()
    with Journal(tmp_path, {}) as journal:
        accuracy = measured(model, journal, labelled, told)
        far_in, far_out = accuracy.within(180, 5.0), accuracy.within(60, 5.0)
        assert far_in.drop_high <= 5.0 < far_out.drop_high
        assert far_in.images == model.ran[180] < IMAGES / 4 and far_out.images == model.ran[60] < IMAGES / 4
        assert model.ran[FULL] == max(far_in.images, far_out.images)
        name = accuracy.measure
        assert told.stages == [f"{name} at 180 tokens, batches: 0 of 32", f"{name} at 60 tokens, batches: 0 of 32"]
        assert told.notes == [
            f"{name} at 180 tokens: within 5 points, decided after {far_in.images} of 1000 images",
            f"{name} at 60 tokens: beyond 5 points, decided after {far_out.images} of 1000 images",
        ]
        near = accuracy.within(120, 5.0)
        assert IMAGES / 2 < near.images == model.ran[120]
        assert (near.drop_high <= 5.0) == (accuracy.at(120).drop_high <= 5.0)
        known = {point.tokens: point.images for point in accuracy.known()}
        assert known == {FULL: IMAGES, 180: far_in.images, 120: IMAGES, 60: far_out.images}


def test_another_limit_and_all_images_go_on_where_it_stopped_in_another_process_too(tmp_path: Path) -> None:
    model = KnownModel({110: 3.0})
    with Journal(tmp_path, {}) as journal:
        first = measured(model, journal).within(110, 20.0)
        again = measured(model, journal).within(110, 20.0)
        assert first == again and first.images == model.ran[110] < IMAGES
    with Journal(tmp_path, {}) as journal:
        later = measured(model, journal).within(110, 6.0)
        assert first.images < later.images == model.ran[110] < IMAGES
    with Journal(tmp_path, {}) as journal:
        whole = measured(model, journal).at(110)
        assert measured(model, journal).within(110, 3.2) == whole
    assert whole.images == model.ran[110] == model.ran[FULL] == IMAGES
    lost = int((100 * model._chance < 3.0).sum())
    assert whole.percent == pytest.approx(100 - lost / 10)


def test_interrupted_in_mid_count_no_image_is_run_twice(tmp_path: Path) -> None:
    model = KnownModel({110: 3.0})

    def interrupted(kept: Kept) -> Forward:
        def forward(batch: Batch) -> Logits:
            if kept == 110 and batch.number == 5:
                raise KeyboardInterrupt
            return model(kept)(batch)

        return forward

    with Journal(tmp_path, {}) as journal:
        accuracy = Accuracy(numbered_images(), demo.PREPROCESSING, interrupted, FULL, journal, Silent())
        with pytest.raises(KeyboardInterrupt):
            accuracy.at(110)
    told = Told()
    with Journal(tmp_path, {}) as journal:
        point = measured(model, journal, progress=told).at(110)
    assert told.stages == ["accuracy at 110 tokens, batches: 5 of 32"]
    assert point.images == model.ran[110] == model.ran[FULL] == IMAGES


def test_entries_of_all_images_in_their_own_order_are_still_read(tmp_path: Path) -> None:
    expected, model = KnownModel({110: 3.0}), KnownModel({})
    with Journal(tmp_path / "new", {}) as journal:
        point = measured(expected, journal).at(110)
    with Journal(tmp_path / "old", {}) as journal:
        for tokens, loss in ((FULL, 0.0), (110, 3.0)):
            classes = [int(number + (100 * model._chance[number] < loss)) % CLASSES for number in range(IMAGES)]
            journal.add({"accuracy_tokens": tokens, "classes": classes})
    with Journal(tmp_path / "old", {}) as journal:
        accuracy = measured(model, journal)
        assert accuracy.at(110) == point
        assert [known.tokens for known in accuracy.curve().points] == [FULL, 110]
    assert not model.ran


def test_a_schedule_is_told_by_the_tokens_left_and_kept_apart_from_counts(tmp_path: Path) -> None:
    schedule = (0, 40, 0, 47)
    model, told = KnownModel({schedule: 2.0, 110: 30.0}), Told()
    with Journal(tmp_path, {}) as journal:
        accuracy = measured(model, journal, progress=told)
        point = accuracy.at(schedule)
        assert point.tokens == 110 and point.drop == pytest.approx(2.0, abs=1.0)
        assert accuracy.at(110).drop > 20
        assert [known.tokens for known in accuracy.curve().points] == [FULL, 110]
        assert accuracy.curve().points[1].drop > 20
    assert "at 110 tokens (schedule 0,40,0,47), batches" in told.stages[0]
    with Journal(tmp_path, {}) as journal:
        assert measured(model, journal).at(schedule) == point
    assert model.ran[schedule] == IMAGES


def test_the_first_images_are_of_all_classes_and_the_order_is_the_same_each_time() -> None:
    """A draw of a thousand classes has them in turn: its first 64 images would be of 64 classes, next to each other."""
    images = numbered_images()
    by_class = Images(images.pixels, torch.arange(IMAGES), ())
    visits, again = Visits(by_class, demo.PREPROCESSING), Visits(by_class, demo.PREPROCESSING)
    assert np.array_equal(visits.order, again.order)
    assert visits.labels is not None and sorted(visits.labels) == list(range(IMAGES))
    early = visits.labels[:64]
    assert 350 < early.mean() < 650 and early.min() < 200 and early.max() > 800
    batch = visits.batch(1).pixels[:, :, 0, 0].long()
    assert (256 * batch[:, 0] + batch[:, 1]).tolist() == visits.order[BATCH : 2 * BATCH].tolist()


def test_the_journal_holds_a_counts_classes_once(tmp_path: Path) -> None:
    model = KnownModel({60: 25.0})
    with Journal(tmp_path, {}) as journal:
        accuracy = measured(model, journal)
        seen = accuracy.within(60, 5.0).images
        accuracy.at(60)
    entries = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()[1:]]
    spans = [(entry["first"], len(entry["classes"])) for entry in entries if entry["accuracy_tokens"] == 60]
    assert spans == [(0, seen), (seen, IMAGES - seen)]
