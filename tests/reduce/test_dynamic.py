from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from reduce_models import VARIANTS, images, small
from torch import nn

from pomt_edge import reduce_model
from pomt_edge.errors import UserError
from pomt_edge.models.family import family_of
from pomt_edge.reduce.dynamic import DynamicModel, calibrate, reduce_dynamically


@pytest.fixture(params=VARIANTS, ids=str)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return VARIANTS[request.param]().double()


def unlike(count: int) -> torch.Tensor:
    """Images of unlike contrast, so that a threshold keeps another number of tokens in each."""
    contrast = torch.linspace(0.9, 1.15, count, dtype=torch.float64).view(-1, 1, 1, 1)
    return images(count, dtype=torch.float64) * contrast


def kept(model: DynamicModel, batch: torch.Tensor) -> dict[int, list[int]]:
    with torch.inference_mode():
        return {block: counts.tolist() for block, counts in model.counts(batch).items()}


def test_a_threshold_of_zero_is_the_original(model: nn.Module) -> None:
    batch = unlike(3)
    with torch.inference_mode():
        expected = model(batch)
        for thresholds in ({}, {0: 0}, {1: 0.0, 3: 0.0}):
            dynamic = reduce_dynamically(model, thresholds)
            torch.testing.assert_close(dynamic(batch), expected, rtol=0, atol=1e-12)


def test_an_image_gives_the_same_alone_and_in_a_batch(model: nn.Module) -> None:
    batch = unlike(6)
    dynamic = reduce_dynamically(model, calibrate(model, batch, 0.3, [0, 2]))
    counts = kept(dynamic, batch)
    assert len(set(counts[0])) > 1 and len(set(counts[2])) > 1
    with torch.inference_mode():
        together = dynamic(batch)
        alone = torch.cat([dynamic(image[None]) for image in batch])
        turned = dynamic(batch.flip(0)).flip(0)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(together, turned, rtol=0, atol=1e-12)
    assert not torch.allclose(together, model(batch))


def test_it_is_the_model_run_on_the_tokens_that_pass_and_nothing_else(model: nn.Module) -> None:
    """Against the static form, told how many tokens the image kept: norms rank them the same way."""
    image = unlike(4)[2:3]
    dynamic = reduce_dynamically(model, calibrate(model, image, 0.4, [1]))
    (left,) = kept(dynamic, image)[1]
    count = family_of(model).token_count(model)
    assert left < count
    static = reduce_model(model, method="l2_norm", schedule=[0, count - left, 0, 0])
    with torch.inference_mode():
        torch.testing.assert_close(dynamic(image), static(image), rtol=0, atol=1e-12)


def test_later_blocks_are_computed_with_no_more_than_the_longest_image_keeps() -> None:
    model, batch = small().double(), unlike(4)
    dynamic = reduce_dynamically(model, calibrate(model, batch, 0.5, [1]))
    counts = kept(dynamic, batch)[1]
    seen: list[int] = []
    for block in dynamic.model.blocks:
        block.mlp.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[1]))
    with torch.inference_mode():
        dynamic(batch)
        dynamic(batch[:1])
    assert seen == [65] + [max(counts)] * 3 + [65] + [counts[0]] * 3
    assert min(counts) < max(counts) < 65


def test_a_higher_threshold_keeps_no_more_of_any_image(model: nn.Module) -> None:
    batch = unlike(4)
    rising = [calibrate(model, batch, quantile, [1])[1] for quantile in (0.0, 0.25, 0.5, 0.75, 0.95)]
    assert rising == sorted(rising)
    counts = [kept(reduce_dynamically(model, {1: threshold}), batch)[1] for threshold in rising]
    for more, fewer in pairwise(counts):
        assert all(a >= b for a, b in zip(more, fewer, strict=True))
        assert sum(more) > sum(fewer)


def test_the_prefix_and_the_best_patch_stay_under_any_threshold(model: nn.Module) -> None:
    prefix = family_of(model).prefix_tokens(model)
    dynamic = reduce_dynamically(model, {0: 1e30, 2: 1e30})
    assert kept(dynamic, unlike(3)) == {0: [prefix + 1] * 3, 2: [prefix + 1] * 3}
    with torch.inference_mode():
        assert torch.isfinite(dynamic(unlike(3))).all()


@pytest.mark.parametrize("quantile", [0.0, 0.1, 0.3125, 0.7])
def test_calibrated_blocks_each_drop_about_that_share_of_what_reaches_them(model: nn.Module, quantile: float) -> None:
    prefix = family_of(model).prefix_tokens(model)
    seen, unseen = unlike(12)[::2], unlike(12)[1::2]
    dynamic = reduce_dynamically(model, calibrate(model, seen, quantile, [0, 2]))
    for batch, tolerance in ((seen, 0.01), (unseen, 0.1)):
        patches = 64.0
        for counts in kept(dynamic, batch).values():
            left = sum(counts) / len(counts) - prefix
            assert 1 - left / patches == pytest.approx(quantile, abs=tolerance)
            patches = left


def test_the_model_passed_in_is_unchanged_and_shares_only_if_asked() -> None:
    model = small()
    state = copy.deepcopy(model.state_dict())
    calibrate(model, images(2), 0.5, [1])
    own, shared = reduce_dynamically(model, {1: 3.0}), reduce_dynamically(model, {1: 3.0}, copy=False)
    assert shared.model is model and not model.training and not own.training
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_it_does_not_export_and_a_trace_is_refused_before_it_fixes_a_count() -> None:
    model = small()
    dynamic = reduce_dynamically(model, calibrate(model, images(2), 0.5, [1]))
    with pytest.raises(UserError, match="method='l2_norm'"):
        torch.jit.trace(dynamic, images(1))
    with pytest.raises(Exception, match=r"data-dependent|Could not"):
        torch.export.export(dynamic, (images(1),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_about_the_same_counts(dtype: torch.dtype) -> None:
    model, batch = small(), unlike(4).float()
    thresholds = calibrate(model, batch, 0.4, [1])
    full = kept(reduce_dynamically(model, thresholds), batch)[1]
    dynamic = reduce_dynamically(model.to(dtype), thresholds)
    low = kept(dynamic, batch.to(dtype))[1]
    assert max(abs(a - b) for a, b in zip(full, low, strict=True)) <= 3
    with torch.inference_mode():
        assert torch.isfinite(dynamic(batch.to(dtype))).all()


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({1: -0.5}, r"from 0, got -0.5 for block 1"),
        ({1: math.nan}, r"from 0, got nan for block 1"),
        ({1: math.inf}, r"finite number from 0, got inf"),
        ({4: 1.0}, r"block 4 does not exist: the model has 4 blocks, 0 to 3"),
        ({-1: 1.0}, r"block -1 does not exist"),
    ],
)
def test_wrong_thresholds_say_what_is_right(thresholds: Mapping[int, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        reduce_dynamically(small(), thresholds)


@pytest.mark.parametrize(
    ("quantile", "blocks", "count", "message"),
    [
        (1.0, [1], 2, "from 0 to below 1, got 1.0"),
        (-0.1, [1], 2, "from 0 to below 1, got -0.1"),
        (math.nan, [1], 2, "from 0 to below 1, got nan"),
        (0.5, [7], 2, "block 7 does not exist: the model has 4 blocks, 0 to 3"),
        (0.5, [1], 0, "takes images, got none"),
    ],
)
def test_a_wrong_calibration_says_what_is_right(quantile: float, blocks: list[int], count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibrate(small(), images(2)[:count], quantile, blocks)
