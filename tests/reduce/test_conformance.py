"""Our methods against recorded outputs of the public ones, in float64: the same tokens, the same logits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from reduce_models import fill_by_name, reference_image, small
from torch import nn

from pomt_edge import reduce_model
from pomt_edge.reduce import schedule
from pomt_edge.reduce.tokens import pomt

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "conformance.json").read_text())["cases"]
SCORED = [case for case in CASES if "score" in case["arrays"]]


@pytest.fixture(scope="module")
def recorded() -> Any:
    return np.load(GOLDEN / "conformance.npz")


def parse_r(r: int | list[int], depth: int) -> list[int]:
    """ToMe's schedules: one number for every block, or a number and how far it falls or rises over the blocks."""
    if isinstance(r, int):
        return [r] * depth
    mean, inflect = r
    least = int(mean * (1 - inflect))
    step = (2 * mean - 2 * least) / (depth - 1)
    return [int(least + step * block) for block in range(depth)]


def by_ratio(ratio: float, depth: int, patches: int) -> list[int]:
    """PiToMe's schedule: the same part of the tokens behind the prefix in every block."""
    removed = []
    for _ in range(depth):
        removed.append(math.floor(patches - patches * ratio))
        patches -= removed[-1]
    return removed


def as_recorded(case: dict[str, Any], model: nn.Module) -> nn.Module:
    """The reduced model of a case."""
    method, config, depth = case["method"], case["config"], len(model.blocks)
    options: dict[str, Any] = {}
    if method == "baseline":
        method, removed = "pomt", [0] * depth
    elif method == "pomt":
        removed = list(schedule.in_one_block(config["R"], config["layer"], depth))
    elif method == "pitome":
        removed = by_ratio(config["ratio"], depth, patches=64)
    else:
        removed = parse_r(config["r"], depth)
        if "prop_attn" in config:
            options["proportional_attention"] = config["prop_attn"]
    return reduce_model(model, method=method, schedule=removed, **options)


def test_every_method_of_the_record_is_compared() -> None:
    assert {case["method"] for case in CASES} == {"baseline", "pomt", "topk", "tome", "pitome"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_same_tokens_and_logits_as_the_reference(case: dict[str, Any], recorded: Any) -> None:
    is_small = case["model"] == "small"
    model = fill_by_name(small() if is_small else timm.create_model("deit_tiny_patch16_224"))
    reduced = as_recorded(case, model)
    image = reference_image(32 if is_small else 224)
    counts: list[list[int]] = []
    for block in reduced.model.blocks:
        block.norm1.register_forward_hook(lambda _, inputs, __: counts.append([inputs[0].shape[1]]))
        block.norm2.register_forward_hook(lambda _, inputs, __: counts[-1].append(inputs[0].shape[1]))
    with torch.inference_mode():
        logits = reduced(image)
    np.testing.assert_allclose(logits.numpy(), recorded[f"{case['id']}/logits"], rtol=0, atol=1e-9)
    assert counts == case["tokens_attn_mlp"]


@pytest.mark.parametrize("case", SCORED, ids=lambda case: case["id"])
def test_same_score_and_indices_as_the_reference(
    case: dict[str, Any], recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = pomt.importance
    monkeypatch.setattr(pomt, "importance", lambda *given: seen.append(original(*given)) or seen[-1])
    with torch.inference_mode():
        maps = as_recorded(case, fill_by_name(small())).token_maps(reference_image(32))[case["config"]["layer"]]
    np.testing.assert_allclose(seen[0].numpy(), recorded[f"{case['id']}/score"].reshape(1, -1), rtol=0, atol=1e-12)
    assert maps.kept[0, 1:].tolist() == sorted(recorded[f"{case['id']}/kept"].ravel().tolist())
    assert maps.merged[0].tolist() == recorded[f"{case['id']}/discard"].ravel().tolist()
