"""The proof's judgement: what passes, what fails, and where a wrong engine goes wrong first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reduce_models import images, small
from torch import nn

from pomt_edge import reduce_model
from pomt_edge.deploy import parity
from pomt_edge.export import graph

SUBJECT = parity.Subject("reduced", "engine", "fp32", real_images=False)
BATCHES = [images(2, 16), images(2, 16).flip(0)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(3)
    whole = small(img_size=16, embed_dim=16, depth=3)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return reduce_model(whole, method="tome", schedule=[0, 4, 3])


@pytest.fixture(scope="module")
def expected(model: nn.Module) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    return parity.reference(model, BATCHES)


def judged(expected: parity.Outputs, precision: str = "fp32", **changes: np.ndarray) -> parity.Parity:  # type: ignore[type-arg]
    subject = parity.Subject("reduced", "engine", precision, real_images=False)
    return parity.compare(subject, expected, {**expected, **changes})


def test_the_yardstick_has_the_logits_and_the_map_of_each_block_that_reduces(model: nn.Module) -> None:
    found = parity.reference(model, BATCHES)
    assert set(found) == {"logits", "kept1", "merged1", "into1", "kept2", "merged2", "into2"}
    assert all(len(value) == 4 for value in found.values())
    with torch.inference_mode():
        np.testing.assert_array_equal(found["logits"][:2], model(BATCHES[0]).numpy())


def test_the_same_passes_in_every_precision(expected: parity.Outputs) -> None:
    for precision in parity.TOLERANCES:
        same = judged(expected, precision)
        assert same.passed and same.because == ""
        assert (same.max_abs_diff, same.top1_percent, same.same_tokens_percent) == (0, 100, 100)
        assert same.swapped_per_image == 0


def test_a_logit_that_is_off_fails_in_float32_and_not_in_half(expected: parity.Outputs) -> None:
    spread = expected["logits"].std(axis=1).mean()
    off = expected["logits"] + np.where(np.arange(expected["logits"].shape[1]) == 0, 0.05 * spread, 0).astype("f4")
    in_float = judged(expected, logits=off)
    assert not in_float.passed and in_float.max_abs_diff == pytest.approx(0.05 * spread, rel=1e-3)
    assert "a logit differs by" in in_float.because and "allowed" in in_float.because
    assert judged(expected, "fp16", logits=off).passed


def test_nan_and_infinity_fail_whatever_the_precision(expected: parity.Outputs) -> None:
    for bad in (np.nan, np.inf):
        logits = expected["logits"].copy()
        logits[0, 0] = bad
        for precision in parity.TOLERANCES:
            failed = judged(expected, precision, logits=logits)
            assert not failed.passed and "not finite" in failed.because
            assert failed.to_json()


def test_other_tokens_fail_in_float32_and_are_counted_in_half(expected: parity.Outputs) -> None:
    kept = expected["kept1"].copy()
    missing = next(token for token in range(17) if token not in kept[0])
    kept[0, 1] = missing
    failed = judged(expected, kept1=kept)
    assert not failed.passed and "1.9 % of the kept tokens are others than torch's" in failed.because
    half = judged(expected, "fp16", kept1=kept)
    assert half.passed and half.same_tokens_percent == 75.0 and half.swapped_per_image == 0.25
    others = np.where(np.isin(np.arange(17), expected["kept1"][0]), 99, np.arange(17))[: kept.shape[1]]
    for precision in parity.TOLERANCES:
        assert not judged(expected, precision, kept1=np.tile(others, (4, 1))).passed, "another selection altogether"


def test_one_swap_between_near_ties_does_not_condemn_the_engine(expected: parity.Outputs) -> None:
    """Of an image with a swapped token the logits are others, rightly; of the others they are judged as ever."""
    many = {name: np.tile(value, (100, 1)) for name, value in expected.items()}
    kept, logits = many["kept1"].copy(), many["logits"].copy()
    kept[0, 1] = next(token for token in range(17) if token not in kept[0])
    logits[0] *= 1.1
    swapped = judged(many, kept1=kept, logits=logits)
    assert swapped.passed and swapped.same_tokens_percent == 99.75 and swapped.max_abs_diff == 0
    logits[1] *= 1.1
    assert not judged(many, kept1=kept, logits=logits).passed
    assert not judged(many, logits=logits).passed


def test_the_same_tokens_in_another_order_are_the_same(expected: parity.Outputs) -> None:
    assert judged(expected, merged1=expected["merged1"][:, ::-1]).same_tokens_percent == 100


def test_all_logits_a_little_off_fail_where_one_may_be(expected: parity.Outputs) -> None:
    spread = expected["logits"].std(axis=1).mean()
    everywhere = expected["logits"] + np.float32(0.3 * spread)
    failed = judged(expected, "int8", logits=everywhere)
    assert not failed.passed and "on average" in failed.because
    one = expected["logits"].copy()
    one[0, 0] += 0.3 * spread
    assert judged(expected, "int8", logits=one).passed


def test_another_first_class_fails(expected: parity.Outputs) -> None:
    logits = np.roll(expected["logits"], 1, axis=1)
    failed = judged(expected, "int8", logits=logits)
    assert not failed.passed and "first class" in failed.because and failed.top1_percent < 50


def test_two_classes_that_torch_itself_has_all_but_equal_may_change_places(expected: parity.Outputs) -> None:
    right = expected["logits"].copy()
    first = right.argmax(axis=1)
    second = (first + 1) % right.shape[1]
    rows = np.arange(len(right))
    right[rows, second] = right[rows, first] - 1e-6
    swapped = right.copy()
    swapped[rows, second] += 2e-6
    assert (swapped.argmax(axis=1) != right.argmax(axis=1)).all()
    assert judged({**expected, "logits": right}, logits=swapped).passed


@pytest.mark.parametrize("broken", [0, 2])
def test_the_first_tensor_that_diverges_is_named(model: nn.Module, broken: int) -> None:
    with torch.inference_mode():
        right = {name: value.numpy() for name, value in graph.tapped(model, BATCHES[0]).items()}
    found = dict(right)
    for index in range(broken, 3):
        found[f"block{index}"] = found[f"block{index}"] + 1.0
    assert parity.first_divergence(right, found, "fp32") == f"block {broken}"
    found = right | {"kept1": right["kept1"][:, ::-1] * 0, "block1": right["block1"] * 2}
    assert parity.first_divergence(right, found, "fp32") == "block 1, the tokens that are kept"
    nan = right | {"block1": right["block1"] * np.nan}
    assert parity.first_divergence(right, nan, "fp16") == "block 1"
    assert parity.first_divergence(right, right, "fp32") == "the classifier"
