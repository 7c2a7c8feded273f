"""What a block bears, held against whole models."""

from __future__ import annotations

import pytest
import torch
from reduce_models import VARIANTS, small

from pomt_edge.errors import UserError
from pomt_edge.measure import sensitivity
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.progress import Silent
from pomt_edge.records import Preprocessing
from pomt_edge.reduce.reduced_model import ReducedModel, reduce_model
from pomt_edge.reduce.schedule import in_one_block

AS_THEY_ARE = Preprocessing(32, (0.5,) * 3, (0.25,) * 3, 1.0, "bilinear")


def some(count: int) -> Images:
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Images(pixels, None, ())


def divergences(model: torch.nn.Module, method: str, counts: tuple[int, ...], images: Images) -> list[list[float]]:
    def variant(schedule: tuple[int, ...]) -> ReducedModel:
        reduced = reduce_model(model, method=method, schedule=schedule, copy=False)
        assert isinstance(reduced, ReducedModel)
        return reduced

    return sensitivity.divergences(model, variant, counts, images, AS_THEY_ARE, Silent())


@pytest.mark.parametrize("method", ["pomt", "topk", "tome"])
@pytest.mark.parametrize("name", ["class token", "class token, average pool"])
@torch.inference_mode()
def test_it_is_the_divergence_of_the_whole_reduced_models(name: str, method: str) -> None:
    model, images = VARIANTS[name](), some(40)
    found = divergences(model, method, (65, 50, 35), images)
    (batch,) = images.batches(AS_THEY_ARE, 40)
    before = model(batch).double().log_softmax(-1)
    for block, row in enumerate(found):
        assert row[0] == 0
        for count, nats in zip((50, 35), row[1:], strict=True):
            reduced = reduce_model(model, method=method, schedule=in_one_block(65 - count, block, 4), copy=False)
            after = reduced(batch).double().log_softmax(-1)
            expected = float((before.exp() * (before - after)).sum(-1).mean())
            assert nats == pytest.approx(expected, rel=1e-3, abs=1e-9)
    # Behind the last attention a classifier that reads the class token alone sees no other.
    assert (found[-1][2] < 1e-9) == (name == "class token") and found[0][2] > 1e-9


def test_logits_that_are_not_finite_are_refused() -> None:
    model = small()
    torch.nn.init.constant_(model.head.weight, 3e38)
    with pytest.raises(UserError, match=r"logits are not finite; try --precision fp32"):
        divergences(model, "pomt", (65, 35), some(2))
