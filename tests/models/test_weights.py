from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from reduce_models import distilled, small
from safetensors.torch import save_file

from pomt_edge.errors import UserError
from pomt_edge.models.create import Wanted, create
from pomt_edge.models.weights import load_into


def shifted(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value + 1 for key, value in model.state_dict().items()}


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_checkpoints_plain_and_wrapped(tmp_path: Path, wrapper: str | None) -> None:
    model, wanted = small(), shifted(small())
    torch.save({wrapper: wanted, "epoch": 3} if wrapper else wanted, tmp_path / "w.pth")
    load_into(model, tmp_path / "w.pth")
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def test_safetensors_and_the_prefix_of_data_parallel(tmp_path: Path) -> None:
    model, wanted = small(), shifted(small())
    save_file({f"module.{key}": value for key, value in wanted.items()}, tmp_path / "w.safetensors")
    load_into(model, tmp_path / "w.safetensors")
    assert torch.equal(model.head.bias, wanted["head.bias"])


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_file(small(num_classes=7).state_dict(), tmp_path / "classes.safetensors")
    with pytest.raises(UserError, match=r"head.weight is \[7, 64\], expected \[10, 64\] \(give --num-classes\)"):
        load_into(small(), tmp_path / "classes.safetensors")
    save_file(small(depth=3).state_dict(), tmp_path / "depth.safetensors")
    with pytest.raises(UserError, match=r"blocks.3.attn.proj.bias is missing; .*and 9 more"):
        load_into(small(), tmp_path / "depth.safetensors")
    save_file(small().state_dict(), tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"dist_token is missing"):
        load_into(distilled(), tmp_path / "plain.safetensors")


def test_another_image_size_resamples_the_position_embedding(tmp_path: Path) -> None:
    save_file(small().state_dict(), tmp_path / "w.safetensors")
    larger = small(img_size=48)
    load_into(larger, tmp_path / "w.safetensors")
    assert torch.equal(larger.head.weight, small().head.weight)
    assert larger.pos_embed.shape[1] == 145


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('touched', 'w')",)


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"head.weight": Malicious()}, "w.pth")
    with pytest.raises(UserError, match="can't be read as weights"):
        load_into(small(), Path("w.pth"))
    assert not Path("touched").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_files_that_are_no_weights(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_into(small(), tmp_path / name)
    for first in ("n", "a", "e", "s", "t", "}", "]", "("):
        (tmp_path / name).write_text(f"{first}othing of the kind")
        with pytest.raises(UserError, match="can't be read as weights"):
            load_into(small(), tmp_path / name)
    torch.save({1: torch.zeros(1)}, tmp_path / "keys.pth")
    with pytest.raises(UserError, match="holds no weights"):
        load_into(small(), tmp_path / "keys.pth")


def test_latency_needs_no_weights_and_fetches_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    created = create(Wanted("deit_tiny"))
    assert (created.name, created.weights) == ("deit_tiny_patch16_224", "random")
    assert created.preprocessing.image_px == 224 and created.preprocessing.crop_pct == 0.9


def test_weights_that_cannot_be_had_name_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="give --weights FILE"):
        create(Wanted("deit_tiny", pretrained=True))
    with pytest.raises(UserError, match="the pretrained deit_tiny_patch16_224 has 1000; give --weights FILE"):
        create(Wanted("deit_tiny", num_classes=10, pretrained=True))
    with pytest.raises(UserError, match="has no classifier"):
        create(Wanted("vit_small_patch14_reg4_dinov2", pretrained=True))


def test_another_family_is_refused_with_what_is_supported() -> None:
    for wanted in (Wanted("resnet18"), Wanted("resnet18", image_px=64), Wanted("resnet18", pretrained=True)):
        with pytest.raises(UserError, match="supported: timm's VisionTransformer"):
            create(wanted)


def test_the_classes_of_the_pretrained_tag_asked_for_are_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"augreg_in21k has 21843; give --weights FILE"):
        create(Wanted("vit_base_patch16_224.augreg_in21k", num_classes=1000, pretrained=True))
    with pytest.raises(UserError, match="has no classifier"):
        create(Wanted("vit_base_patch16_224.dino", pretrained=True))
    with pytest.raises(UserError, match=r"no_such_tag"):
        create(Wanted("vit_base_patch16_224.no_such_tag"))
