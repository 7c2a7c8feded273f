from __future__ import annotations

import pytest
import timm
import torch
from reduce_models import images, small

from pomt_edge.reduce.cost import cost_of
from pomt_edge.reduce.reduced_model import reduce_model


def test_deit_tinys_operations_are_those_of_its_paper() -> None:
    """DeiT-Ti is said to have 1.3 G multiply-adds, that is 2.5 GFLOP, and 5.7 million parameters."""
    cost = cost_of(timm.create_model("deit_tiny_patch16_224").eval(), torch.zeros(1, 3, 224, 224), ())
    assert cost.gflops == pytest.approx(2.51, abs=0.02)
    assert cost.parameters == pytest.approx(5.72e6, rel=0.01)


def test_operations_by_hand_and_the_same_for_every_image_of_a_batch() -> None:
    """4 blocks of width 64 on 65 tokens: qkv, two products of attention, projection, MLP of 4 times the width."""
    tokens, width = 65, 64
    block = 2 * tokens * width * width * (3 + 1 + 8) + 2 * 2 * tokens * tokens * width
    patches, head = 2 * 64 * 48 * width, 2 * width * 10
    for batch in (1, 3):
        cost = cost_of(small(), images(batch), ())
        assert cost.gflops * 1e9 == pytest.approx(4 * block + patches + head, rel=1e-9)


def test_fewer_tokens_cost_less_and_the_peak_is_at_least_the_largest_activation() -> None:
    model = small()
    full = cost_of(model, images(1), ())
    reduced = cost_of(reduce_model(model, method="topk", schedule=[32, 0, 0, 0]), images(1), (33,) * 4)
    assert reduced.gflops < 0.7 * full.gflops
    assert full.peak_activation_mib >= 2 * 65 * 256 * 4 / 2**20
    assert reduced.tokens_per_block == (33,) * 4
