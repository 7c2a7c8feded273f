"""Our POMT against recorded outputs of the public one, in float64: the same tokens, the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from reduce_models import fill_by_name, reference_image, small

from pomt_edge import reduce_model
from pomt_edge.reduce import schedule
from pomt_edge.reduce.tokens import pomt

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    case
    for case in json.loads((GOLDEN / "conformance.json").read_text())["cases"]
    if case["method"] in ("baseline", "pomt")
]


@pytest.fixture(scope="module")
def recorded() -> Any:
    return np.load(GOLDEN / "conformance.npz")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_same_tokens_and_logits_as_the_reference(case: dict[str, Any], recorded: Any) -> None:
    is_small = case["model"] == "small"
    model = fill_by_name(small() if is_small else timm.create_model("deit_tiny_patch16_224"))
    removed, block = case["config"].get("R", 0), case["config"].get("layer", 0)
    plan = schedule.in_one_block(removed, block, len(model.blocks))
    reduced = reduce_model(model, method="pomt", schedule=plan)
    image = reference_image(32 if is_small else 224)
    with torch.inference_mode():
        logits, maps = reduced(image), reduced.token_maps(image)
    np.testing.assert_allclose(logits.numpy(), recorded[f"{case['id']}/logits"], rtol=0, atol=1e-9)
    if removed:
        assert maps[block].kept[0, 1:].tolist() == sorted(recorded[f"{case['id']}/kept"].ravel().tolist())
        assert maps[block].merged[0].tolist() == recorded[f"{case['id']}/discard"].ravel().tolist()


@pytest.mark.parametrize("case", [case for case in CASES if "score" in case["arrays"]], ids=lambda case: case["id"])
def test_same_score_as_the_reference(case: dict[str, Any], recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = pomt.importance
    monkeypatch.setattr(pomt, "importance", lambda *given: seen.append(original(*given)) or seen[-1])
    model = fill_by_name(small())
    plan = schedule.in_one_block(case["config"]["R"], case["config"]["layer"], 4)
    with torch.inference_mode():
        reduce_model(model, method="pomt", schedule=plan)(reference_image(32))
    np.testing.assert_allclose(seen[0].numpy(), recorded[f"{case['id']}/score"].reshape(1, -1), rtol=0, atol=1e-12)
