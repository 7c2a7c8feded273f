"""`pomt-edge show`: what a plan, or a method and a schedule, does to one image, as a picture and a source map."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pomt_edge import demo
from pomt_edge.commands.common import path
from pomt_edge.errors import UserError
from pomt_edge.records import Plan, RecordError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from pomt_edge.models.create import Created
    from pomt_edge.records import Preprocessing
    from pomt_edge.reduce.reduced_model import ReducedModel
    from pomt_edge.report.patches import Patches
    from pomt_edge.request import Request

DEMO_IMAGE = "demo:"


def show(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file, or demo:N, the embedded demo's.")],
    plan: Annotated[
        Path | None, typer.Option(parser=path, metavar="PATH", help="A run's folder or its plan.json; or else …")
    ] = None,
    method: Annotated[str | None, typer.Option(help="… a method, with options as in pomt:score=cls, and …")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(metavar="N,N,…", help="… tokens removed, one number per block, as in 0,0,0,56,0,0,0,0."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="[default: the plan's, else demo]")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FILE", help="safetensors or torch checkpoint. [default: pretrained]"),
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes of the model. [default: the plan's]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Image height and width in pixels. [default: the plan's]")
    ] = None,
    normalize: Annotated[
        str | None, typer.Option(metavar="MEAN,STD", help="As it was given to offline_compute. [default: timm's]")
    ] = None,
    crop_pct: Annotated[float | None, typer.Option(help="The same. [default: timm's]")] = None,
    interpolation: Annotated[str | None, typer.Option(help="The same. [default: timm's]")] = None,
    block: Annotated[int | None, typer.Option(help="Show the state after this block. [default: the last]")] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", parser=path, metavar="OUT.png", help="[default: IMAGE-METHOD.png, here]"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: counts, classes and the source map.")
    ] = False,
) -> None:
    """Draw which patches of an image are kept, merged, averaged into one token, or dropped.

    The model runs on the CPU in float32. Left the image as the model sees it, right the same with its patches.
    """
    from pomt_edge.request import Request

    reduction = _reduction(plan, model, method, schedule)
    options = Request(
        model=reduction.model,
        method=reduction.method,
        data=Path(),  # one image is data, too: what is said of images is allowed
        weights=weights,
        num_classes=num_classes,
        image_px=image_size,
        normalize=normalize,
        crop_pct=crop_pct,
        interpolation=interpolation,
    )
    options.check()
    picture = _open(image)
    out = _writable(out or Path(_default_name(image, reduction.method)), image)
    created = _created(reduction, options)
    shown = _shown(reduction, created, _preprocessing(created, options), picture, block)
    _save(shown, out)
    if as_json:
        print(json.dumps({"image": image, "picture": str(out), **shown.facts}))
    else:
        print("; ".join(filter(None, [f"{out}: {reduction.method}, {shown.patches.sentence()}", shown.classes])))


@dataclass(frozen=True)
class Reduction:
    """What is to be shown: a plan, or a method and a schedule; and of which model."""

    model: str
    method: str
    schedule: tuple[int, ...]
    plan: Plan | None


@dataclass(frozen=True)
class Shown:
    """The image as the model saw it, and what became of it."""

    pixels: Any
    """uint8 [height, width, 3]"""
    patches: Patches
    facts: dict[str, Any]

    @property
    def classes(self) -> str:
        """What the model takes the image for; nothing where it has no classifier."""
        before, after = self.facts["class_unreduced"], self.facts["class_reduced"]
        if before is None:
            return ""
        if before == after:
            return f"class {before} with and without reduction"
        return f"class {before} without reduction, {after} with it"

    @property
    def legend(self) -> list[str]:
        facts = self.facts
        count = f"{facts['tokens_in']} to {facts['tokens_out']} tokens after block {facts['block']}"
        return list(filter(None, [f"{facts['model']}, {facts['method']}", count, self.classes]))


def _reduction(plan_path: Path | None, model: str | None, method: str | None, schedule: str | None) -> Reduction:
    if plan_path is None:
        if method is None or schedule is None:
            raise UserError("give --plan PATH, or --method NAME and --schedule N,N,… (one number per block)")
        return Reduction(model or demo.NAME, method, _counts(schedule), None)
    if method is not None or schedule is not None:
        raise UserError("give --plan, or --method and --schedule, not both")
    try:
        plan = Plan.load(plan_path)
    except RecordError as error:
        raise UserError(f"--plan {error}; expected the folder of a run, or its plan.json") from error
    if model is not None and _full_name(model) != plan.model.split(".")[0]:
        raise UserError(
            f"--plan {plan_path} is for {plan.model}, not {model}: leave out --model, or give --method and --schedule"
        )
    return Reduction(model or plan.model, plan.method, plan.schedule, plan)


def _counts(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise UserError(f"--schedule {text}: expected tokens removed, one number per block, such as 0,0,0,56,0,0,0,0")
    return tuple(map(int, words))


def _full_name(model: str) -> str:
    if model == demo.NAME:
        return model
    import timm

    from pomt_edge.models import names

    return names.resolve(model, timm.list_models()).split(".")[0]


def _open(typed: str) -> Image:
    """The image in RGB, before any preprocessing."""
    from PIL import Image

    if typed.startswith(DEMO_IMAGE) and not Path(typed).exists():
        return _demo_image(typed)
    file = path(typed)
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise UserError(f"{typed}: {what}; expected an image, or demo:N for one of the embedded demo's")
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{typed} can't be read as an image; expected a PNG, a JPEG or the like") from error


def _demo_image(typed: str) -> Image:
    from PIL import Image

    pixels, _ = demo.read_images()
    number = typed.removeprefix(DEMO_IMAGE)
    if not number.isdecimal() or int(number) >= len(pixels):
        raise UserError(f"{typed}: the embedded demo has images demo:0 to demo:{len(pixels) - 1}")
    return Image.fromarray(pixels[int(number)]).convert("RGB")


def _default_name(image: str, method: str) -> str:
    stem = image if image.startswith(DEMO_IMAGE) else Path(image).stem
    return re.sub(r"[^\w.-]+", "-", f"{stem}-{method}") + ".png"


def _writable(out: Path, image: str) -> Path:
    """Said before weights are fetched."""
    folder = out.absolute().parent
    if out.suffix.lower() != ".png":
        raise UserError(f"-o {out}: expected a file name that ends in .png")
    if out.is_file() and Path(image).is_file() and out.samefile(image):
        raise UserError(f"-o {out} is the image itself; give another name")
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "is a folder" if out.is_dir() else "no permission" if folder.is_dir() else f"no folder {folder}"
        raise UserError(f"-o {out}: can't be written ({reason}); give another file")
    return out


def _created(reduction: Reduction, options: Request) -> Created:
    from pomt_edge.models import create

    num_classes, image_px = options.num_classes, options.image_px
    if reduction.plan is not None and reduction.model != demo.NAME:
        num_classes = reduction.plan.num_classes if num_classes is None else num_classes
        image_px = image_px or reduction.plan.image_px
    return create.create(create.Wanted(reduction.model, num_classes, image_px, options.weights, pretrained=True))


def _preprocessing(created: Created, options: Request) -> Preprocessing:
    changes: dict[str, Any] = {"crop_pct": options.crop_pct, "interpolation": options.interpolation}
    if options.mean_and_std:
        changes["mean"], changes["std"] = options.mean_and_std
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(created.preprocessing, **given)


def _shown(
    reduction: Reduction, created: Created, preprocessing: Preprocessing, image: Image, block: int | None
) -> Shown:
    import torch

    from pomt_edge.measure.datasets import Images, pixels_of
    from pomt_edge.reduce import source
    from pomt_edge.reduce.reduced_model import ReducedModel, reduce_model
    from pomt_edge.report.patches import Patches

    if reduction.plan is not None:
        made = reduce_model(created.model, reduction.plan, copy=False)
    else:
        made = reduce_model(created.model, method=reduction.method, schedule=reduction.schedule, copy=False)
    reduced = cast(ReducedModel, made)
    block = _block(block, reduced)
    pixels = pixels_of(image, preprocessing)
    batch = next(Images(pixels[None], None, ()).batches(preprocessing, 1))
    with torch.inference_mode():
        before, after = (_class(model, batch, created.model) for model in (created.model, reduced))
        maps = {index: found for index, found in reduced.token_maps(batch).items() if index <= block}
    slots, averaged = source.source_map(maps, reduced.tokens_in), source.averaged(maps, reduced.tokens_in)
    grid = source.square(reduced.tokens_in - reduced.prefix)
    patches = Patches(*(values[0, reduced.prefix :].view(grid).numpy() for values in (slots, averaged)))
    facts = {
        "model": created.name,
        "weights": created.weights,
        "method": reduced.method.name,
        "schedule": list(reduced.schedule),
        "block": block,
        "tokens_in": reduced.tokens_in,
        "tokens_out": reduced.tokens_in - sum(reduced.schedule[: block + 1]),
        "prefix_tokens": reduced.prefix,
        "grid": list(grid),
        **patches.counts(),
        "class_unreduced": before,
        "class_reduced": after,
        "source_map": slots[0].tolist(),
    }
    return Shown(pixels.permute(1, 2, 0).numpy(), patches, facts)


def _block(block: int | None, reduced: ReducedModel) -> int:
    depth = len(reduced.schedule)
    if block is not None and not 0 <= block < depth:
        raise UserError(f"--block {block}: the model has {depth} blocks, 0 to {depth - 1}")
    return depth - 1 if block is None else block


def _class(model: nn.Module, batch: Tensor, original: nn.Module) -> int | None:
    """The top class, or None where the original has no classifier."""
    return int(model(batch)[0].argmax()) if original.num_classes else None


def _save(shown: Shown, out: Path) -> None:
    from pomt_edge.report.patches import picture

    page = picture(shown.pixels, shown.patches, shown.legend)
    partial = out.with_name(f".{out.name}.partial")
    try:
        page.save(partial, format="PNG")
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"-o {out}: can't be written ({error.strerror}); give another file") from error
