from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pomt_edge import demo
from pomt_edge.engines import Setting
from pomt_edge.engines import torch as engine
from pomt_edge.errors import UserError
from pomt_edge.export import LOGITS
from pomt_edge.measure import datasets
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.forwards import by_sessions
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.paired import compare, paired_difference, wilson
from pomt_edge.measure.progress import Silent
from pomt_edge.reduce.reduced_model import reduce_model
from pomt_edge.targets.sessions import Sessions


def demo_sessions() -> Sessions:
    setting = Setting("cpu", "fp32", 1, 28)
    model = engine.prepare(demo.build_model(), setting)

    def variant(tokens: int):  # type: ignore[no-untyped-def]
        schedule = [197 - tokens if block == 3 else 0 for block in range(8)]
        return reduce_model(model, method="pomt", schedule=schedule, copy=False)

    return Sessions(engine, variant, setting, 197)


def accuracy(folder: Path, count: int, labelled: bool = True) -> Accuracy:
    return accuracy_of(Journal(folder, {}), count, labelled)


def accuracy_of(journal: Journal, count: int, labelled: bool = True) -> Accuracy:
    images = datasets.read_demo(count, 0, labelled)
    return Accuracy(images, demo.PREPROCESSING, by_sessions(demo_sessions()), 197, journal, Silent())


def test_the_demos_published_accuracy_is_found(tmp_path: Path) -> None:
    """88.84 % on all 10,000 test images; 80 tokens kept in block 3: 82.32 %. The first 1,000 must fit that."""
    measured = accuracy(tmp_path, 1000)
    full, reduced = measured.at(197), measured.at(80)
    assert full.low <= 88.84 <= full.high and full.images == 1000
    assert reduced.low <= 82.32 <= reduced.high
    assert reduced.drop == pytest.approx(full.percent - reduced.percent)
    assert reduced.drop_low < reduced.drop < reduced.drop_high
    assert (full.drop, full.drop_low, full.drop_high) == (0, 0, 0)


def test_without_labels_it_is_agreement_with_the_unreduced_model(tmp_path: Path) -> None:
    measured = accuracy(tmp_path, 128, labelled=False)
    assert measured.measure == "agreement"
    assert measured.at(197).percent == 100
    assert 50 < measured.at(60).percent < 100


def test_a_count_is_run_once_and_recalled_from_the_journal(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        point = accuracy_of(journal, 64).at(100)
    images = datasets.read_demo(64, 0, True)

    def no_session(tokens: int):  # type: ignore[no-untyped-def]
        raise AssertionError(f"{tokens} tokens were measured again")

    again = Accuracy(images, demo.PREPROCESSING, no_session, 197, Journal(tmp_path, {}), Silent())
    assert again.at(100) == point
    assert [known.tokens for known in again.curve().points] == [197, 100]


def test_two_reductions_are_held_against_each_other_image_by_image(tmp_path: Path) -> None:
    """Many images that the one loses the other loses too: apart, their intervals leave open which is better."""
    measured = accuracy(tmp_path, 64)
    between, back = measured.between(100, 30), measured.between(30, 100)
    more, fewer = measured.at(100), measured.at(30)
    assert (between.tokens, between.images) == (30, 64)
    assert (between.percent, between.low, between.high) == (fewer.percent, fewer.low, fewer.high)
    assert between.drop == pytest.approx(fewer.drop - more.drop) == -back.drop
    assert (between.drop_low, between.drop_high) == pytest.approx((-back.drop_high, -back.drop_low))
    assert fewer.drop_low - more.drop_high < between.drop_low and between.drop_high < fewer.drop_high - more.drop_low


def test_logits_that_are_no_numbers_are_an_error_and_not_perfect_agreement(tmp_path: Path) -> None:
    class Overflown:
        def run(self, images: torch.Tensor) -> dict[str, np.ndarray[Any, Any]]:
            return {LOGITS: np.full((len(images), 10), np.nan, dtype=np.float32)}

    forwards = by_sessions(lambda tokens: Overflown())

    images = datasets.read_demo(8, 0, False)
    broken = Accuracy(images, demo.PREPROCESSING, forwards, 197, Journal(tmp_path, {}), Silent())
    with pytest.raises(UserError, match="the logits at 197 tokens are not finite; try --precision"):
        broken.at(100)


def test_paired_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    for lost, gained, count in ((0.03, 0.02, 1000), (0.005, 0.002, 500), (0.2, 0.05, 200)):
        covered = 0
        for _ in range(400):
            draw = rng.choice(3, size=count, p=[lost, gained, 1 - lost - gained])
            _, low, high = paired_difference(int((draw == 0).sum()), int((draw == 1).sum()), count)
            covered += low <= lost - gained <= high
        assert covered / 400 >= 0.93


def test_no_difference_seen_is_not_none_possible() -> None:
    right = np.ones(1000, dtype=bool)
    point = compare(100, right, right.copy())
    assert point.drop == 0 and point.drop_low < 0 < point.drop_high < 0.5


def test_wilsons_interval_is_the_textbooks() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=2e-4)
