from __future__ import annotations

import copy
import dataclasses
import io
from pathlib import Path

import pytest
import timm
import torch
from reduce_models import VARIANTS, images, small
from timm.models.vision_transformer import ResPostBlock
from torch import nn

from pomt_edge import Plan, reduce_model
from pomt_edge.errors import UserError
from pomt_edge.models.family import family_of
from pomt_edge.reduce.input_probe import probe_at_input


def tokens_seen(model: nn.Module, reduced: nn.Module, batch: torch.Tensor) -> list[int]:
    """The token counts that enter each block's MLP."""
    counts: list[int] = []
    hooks = [
        block.norm2.register_forward_hook(lambda _, inputs, __: counts.append(inputs[0].shape[1]))
        for block in reduced.model.blocks
    ]
    with torch.inference_mode():
        reduced(batch)
    for hook in hooks:
        hook.remove()
    return counts


@pytest.fixture(params=VARIANTS, ids=str)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return VARIANTS[request.param]()


def test_schedule_zero_is_the_original_bit_for_bit(model: nn.Module) -> None:
    batch = images(3)
    with torch.inference_mode():
        expected = model(batch)
        assert torch.equal(reduce_model(model, method="pomt", schedule=[0, 0, 0, 0], copy=False)(batch), expected)
        # Copied weights may lie otherwise in memory, which can move the last bit.
        torch.testing.assert_close(reduce_model(model, method="pomt", schedule=[0, 0, 0, 0])(batch), expected)


@pytest.mark.parametrize("removed", [1, 2, 17, 40])
def test_later_blocks_see_tokens_in_less_removed(model: nn.Module, removed: int) -> None:
    full = family_of(model).token_count(model)
    reduced = reduce_model(model, method="pomt", schedule=[0, removed, 0, 0])
    left = full - removed
    assert tokens_seen(model, reduced, images(2)) == [full, left, left, left]


def test_most_tokens_that_can_go_leave_the_prefix_and_two(model: nn.Module) -> None:
    family = family_of(model)
    most = family.token_count(model) - family.prefix_tokens(model) - 2
    reduced = reduce_model(model, method="pomt", schedule=[0, most, 0, 0])
    with torch.inference_mode():
        assert torch.isfinite(reduced(images(2))).all()
    with pytest.raises(UserError, match=rf"block 1 can't remove {most + 1} .* 0 to {most} are allowed"):
        reduce_model(model, method="pomt", schedule=[0, most + 1, 0, 0])


def test_an_image_does_not_depend_on_its_batch_nor_its_place(model: nn.Module) -> None:
    reduced = reduce_model(model.double(), method="pomt", schedule=[0, 20, 0, 0])
    batch = images(4, dtype=torch.float64)
    batch[0] *= 0.01
    with torch.inference_mode():
        together = reduced(batch)
        alone = torch.cat([reduced(image[None]) for image in batch])
        turned = reduced(batch.flip(0)).flip(0)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(together, turned, rtol=0, atol=1e-12)


def test_prefix_tokens_and_kept_tokens_stay_in_place(model: nn.Module) -> None:
    prefix = family_of(model).prefix_tokens(model)
    kept = reduce_model(model, method="pomt", schedule=[0, 20, 0, 0]).token_maps(images(3))[1].kept
    assert torch.equal(kept[:, :prefix], torch.arange(prefix).expand(3, -1))
    assert (kept.diff(dim=1) > 0).all()


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"]
)
def test_plans_tokens_out_on_models_users_ship(name: str) -> None:
    model = timm.create_model(name, img_size=112, num_classes=5).eval()
    full = family_of(model).token_count(model)
    reduced = reduce_model(model, method="pomt", schedule=[0, 0, 0, 13] + [0] * 8)
    assert tokens_seen(model, reduced, images(1, 112)) == [full] * 3 + [full - 13] * 9


def test_average_pooling_counts_the_merged_token_for_all_it_stands_for() -> None:
    model = small(class_token=False, global_pool="avg").double()
    reduced = reduce_model(model, method="pomt", schedule=[0, 0, 0, 30], copy=False)
    batch = images(2, dtype=torch.float64)
    with torch.inference_mode():
        tokens = reduced.forward_features(batch)
        weights = torch.ones(tokens.shape[1], dtype=torch.float64)
        weights[-1] = 31
        pooled = (tokens * weights[:, None]).sum(1) / weights.sum()
        expected = model.head(model.fc_norm(pooled))
        torch.testing.assert_close(reduced(batch), expected, rtol=0, atol=1e-12)


def test_the_model_passed_in_is_unchanged_and_shares_nothing() -> None:
    model = small()
    before, state = model(images(1)), copy.deepcopy(model.state_dict())
    reduced = reduce_model(model, method="pomt", schedule=[0, 30, 0, 0])
    with torch.no_grad():
        for parameter in reduced.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model(images(1)), before)


def test_untouched_blocks_keep_their_fused_attention() -> None:
    model = small()
    fused = torch.nn.functional.scaled_dot_product_attention
    calls = []

    def counting(*args: object, **options: object) -> torch.Tensor:
        calls.append(1)
        return fused(*args, **options)

    torch.nn.functional.scaled_dot_product_attention = counting
    try:
        reduce_model(model, method="pomt", schedule=[0, 0, 30, 0])(images(1))
    finally:
        torch.nn.functional.scaled_dot_product_attention = fused
    assert len(calls) == 3


def test_a_reduced_model_can_be_copied_saved_and_exported() -> None:
    reduced = reduce_model(small(), method="pomt", schedule=[0, 30, 0, 0])
    batch = images(2)
    with torch.no_grad():
        expected = reduced(batch)
        assert torch.equal(copy.deepcopy(reduced)(batch), expected)
        file = io.BytesIO()
        torch.save(reduced, file)
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=False)(batch), expected)
        for strict in (False, True):
            exported = torch.export.export(reduced, (batch,), strict=strict).module()
            torch.testing.assert_close(exported(batch), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_keeps_nearly_the_same_tokens(dtype: torch.dtype) -> None:
    model = small()
    expected = reduce_model(model, method="pomt", schedule=[0, 30, 0, 0]).token_maps(images(4))[1].kept
    low = reduce_model(model.to(dtype), method="pomt", schedule=[0, 30, 0, 0])
    found = low.token_maps(images(4).to(dtype))[1].kept
    same = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(expected, found, strict=True)]
    assert min(same) >= expected.shape[1] - 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "pomt", "schedule": [0, 1]}, "expected 4, got 2"),
        ({"method": "pomt", "schedule": [0, -1, 0, 0]}, "can't remove -1"),
        ({"method": "pomt", "schedule": [0, 1.5, 0, 0]}, "integers"),
        ({"method": "pmot", "schedule": [0, 1, 0, 0]}, "unknown method 'pmot'; known: pomt"),
        ({"method": "pomt", "schedule": [0, 1, 0, 0], "alpha": 1}, "unknown option 'alpha'"),
        ({"method": "pomt"}, "one integer per block"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        reduce_model(small(), **arguments)


def test_a_model_of_another_family_is_named_with_what_is_supported() -> None:
    with pytest.raises(UserError, match=r"ResNet .* supported: timm's VisionTransformer"):
        reduce_model(timm.create_model("resnet18"), method="pomt", schedule=[0])
    with pytest.raises(UserError, match=r"block 0 is a ResPostBlock"):
        reduce_model(small(block_fn=ResPostBlock), method="pomt", schedule=[0, 0, 0, 0])


def test_a_mask_is_refused() -> None:
    reduced = reduce_model(small(), method="pomt", schedule=[0, 3, 0, 0])
    with pytest.raises(UserError, match="no attention mask"):
        reduced(images(1), attn_mask=torch.ones(65, 65))


def test_a_plan_of_another_model_is_refused(a_plan: Plan) -> None:
    with pytest.raises(UserError, match="the plan is for 197 tokens, the model has 65"):
        reduce_model(small(), a_plan)


def test_a_plan_of_another_architecture_is_refused_though_its_numbers_would_fit(a_plan: Plan, tmp_path: Path) -> None:
    plan = dataclasses.replace(a_plan, model="deit_small_patch16_224", schedule=(0,) * 3 + (56,) + (0,) * 8)
    plan.save(tmp_path / "plan.json")
    assert reduce_model(timm.create_model("deit_small_patch16_224"), tmp_path).schedule == plan.schedule
    with pytest.raises(UserError, match="the plan is for deit_small_patch16_224, the model is deit_tiny_patch16_224"):
        reduce_model(timm.create_model("deit_tiny_patch16_224"), tmp_path / "plan.json")


def test_a_reduced_model_is_not_reduced_again() -> None:
    reduced = reduce_model(small(), method="pomt", schedule=[0, 5, 0, 0])
    with pytest.raises(UserError, match="a reduced one already"):
        reduce_model(reduced, method="pomt", schedule=[0, 5, 0, 0])


@pytest.fixture
def a_plan() -> Plan:
    return Plan(
        model="small", method="pomt", schedule=(0, 56, 0, 0), tokens_in=197, tokens_out=141, removed=56, block=1,
        batch_size=1, image_px=32, precision="fp32", engine="torch", device="cpu", baseline_ms=2.0, predicted_ms=1.0,
        speedup=2.0, speedup_low=1.9, speedup_high=2.1, verdict="prune", because="a test", limits={},
    )  # fmt: skip


def test_the_input_probe_shows_every_block_the_kept_tokens_and_the_prefix() -> None:
    model = VARIANTS["four registers"]()
    probe = probe_at_input(model, 30, seed=1)
    assert tokens_seen(model, probe, images(2)) == [39] * 4
    assert probe.kept[:5].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(probe.kept, probe_at_input(model, 30, seed=1).kept)
    assert not torch.equal(probe.kept, probe_at_input(model, 30, seed=2).kept)


def test_images_of_another_size_are_refused_and_not_wrongly_reduced() -> None:
    reduced = reduce_model(small(dynamic_img_size=True), method="pomt", schedule=[0, 12, 0, 0])
    reduced(images(1))
    with pytest.raises(UserError, match="the schedule is for 65 tokens, these images make 10"):
        reduced(images(1, 12))
