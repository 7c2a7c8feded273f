"""Make the model that a user named, with the weights and the preprocessing that belong to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from pomt_edge import demo
from pomt_edge.errors import UserError
from pomt_edge.models import hub, names, weights
from pomt_edge.models.family import family_of
from pomt_edge.records import Preprocessing


@dataclass(frozen=True)
class Wanted:
    """What a user asks of a model; None: what timm says."""

    model: str
    num_classes: int | None = None
    image_px: int | None = None
    weights: Path | None = None
    pretrained: bool = False
    """Whether weights are needed at all: without `weights` they are then fetched, else random ones serve."""


@dataclass(frozen=True)
class Created:
    name: str
    """timm's full name, or 'demo'."""
    model: nn.Module
    preprocessing: Preprocessing
    weights: str
    """Where the weights come from: 'random', 'pretrained' and timm's tag, 'embedded demo', or the file's checksum."""


def create(wanted: Wanted) -> Created:
    """The model in float32 on the CPU, in evaluation, of a supported family.

    Raises:
        UserError: an unknown name, a family that is not supported, weights that do not fit or can't be had.
    """
    if wanted.model == demo.NAME:
        return _embedded_demo(wanted)
    name = names.resolve(wanted.model, timm.list_models())
    torch.manual_seed(0)
    # As timm has it, and before anything is fetched: another family may not even take the options.
    model, source = _untrained(name, Wanted(name)), "random"
    family_of(model)
    if wanted.pretrained and wanted.weights is None:
        model, source = _pretrained(name, wanted)
    elif _arguments(wanted):
        model = _untrained(name, wanted)
    if wanted.weights is not None:
        weights.load_into(model, wanted.weights)
        source = f"sha256:{_sha256(wanted.weights)[:16]}"
    return Created(name, model.eval(), _preprocessing(model), source)


def _embedded_demo(wanted: Wanted) -> Created:
    given = [
        option
        for option, value in (
            ("--weights", wanted.weights),
            ("--num-classes", wanted.num_classes),
            ("--image-size", wanted.image_px),
        )
        if value is not None
    ]
    if given:
        raise UserError(f"the embedded demo has its own weights, classes and size; leave out {', '.join(given)}")
    return Created(demo.NAME, demo.build_model(), demo.PREPROCESSING, "embedded demo")


def _arguments(wanted: Wanted) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if wanted.num_classes is not None:
        arguments["num_classes"] = wanted.num_classes
    if wanted.image_px is not None:
        arguments["img_size"] = wanted.image_px
    return arguments


def _untrained(name: str, wanted: Wanted) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=False, **_arguments(wanted))
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"timm can't make {name} with {_arguments(wanted) or 'its defaults'}: {error}") from error
    _check_size(model, wanted.image_px)
    return model


def _check_size(model: nn.Module, image_px: int | None) -> None:
    """A side that is no multiple of the patch would lose its last pixels in silence."""
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if image_px is not None and patch and image_px % patch[0]:
        near = max(round(image_px / patch[0]), 1) * patch[0]
        raise UserError(
            f"--image-size {image_px}: expected a multiple of the patch's {patch[0]} pixels, such as {near}"
        )


def _pretrained(name: str, wanted: Wanted) -> tuple[nn.Module, str]:
    trained = timm.get_pretrained_cfg(name)
    classes = trained.num_classes if trained else None
    if wanted.num_classes is not None and wanted.num_classes != classes:
        raise UserError(
            f"--num-classes {wanted.num_classes}: the pretrained {name} has {classes}; give --weights FILE of a "
            "model trained on your classes"
        )
    if not classes:
        raise UserError(f"the pretrained {name} has no classifier; give --weights FILE and --num-classes N")
    hub.go_offline_if_unreachable()
    try:
        model = timm.create_model(name, pretrained=True, **_arguments(wanted))
        return model, f"pretrained {trained.tag}"
    except Exception as error:  # each hub client and version fails with classes of its own
        reason = str(error).strip().split(". ")[0].split("\n")[0] or type(error).__name__
        raise UserError(
            f"the pretrained weights of {name} can't be had ({reason[:200]}); what is said of images needs real "
            "weights: give --weights FILE"
        ) from error


def _preprocessing(model: nn.Module) -> Preprocessing:
    config = timm.data.resolve_model_data_config(model)
    return Preprocessing(
        image_px=family_of(model).image_px(model),
        mean=tuple(map(float, config["mean"])),
        std=tuple(map(float, config["std"])),
        crop_pct=float(config["crop_pct"]),
        interpolation=str(config["interpolation"]),
        crop_mode=str(config["crop_mode"]),
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
