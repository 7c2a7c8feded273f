"""What is deployed: the model that a plan, or the command line, names, reduced and not, and images to prove it on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from pomt_edge import __version__, demo
from pomt_edge.deploy_request import DeployRequest
from pomt_edge.errors import UserError
from pomt_edge.export.pipeline import CALIBRATION_IMAGES
from pomt_edge.job import classes_of, preprocessing_of
from pomt_edge.measure import datasets
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.progress import Progress
from pomt_edge.models import create
from pomt_edge.models.create import Created, Wanted
from pomt_edge.models.family import family_of
from pomt_edge.records import Environment, Plan, Preprocessing, RecordError
from pomt_edge.reduce import schedule
from pomt_edge.reduce.reduced_model import reduce_model
from pomt_edge.request import Request

SEEDED_BATCHES = 4


@dataclass(frozen=True)
class Subject:
    """A model in float32 on the CPU, the plan, and images."""

    created: Created
    plan: Plan
    preprocessing: Preprocessing
    reduced: nn.Module | None
    """It shares the weights; None: the plan removes nothing."""
    batches: Sequence[Tensor]
    """Whole batches for the proof, [B, 3, height, width]."""
    real_images: bool
    calibration: Sequence[Tensor]
    """Batches of other images for int8; empty for other precisions."""
    labels: tuple[str, ...]
    """Names of the classes, where they are known."""

    @property
    def baseline(self) -> nn.Module:
        return self.created.model

    def with_tokens(self, tokens: int) -> nn.Module:
        """The model reduced to another count, in the plan's blocks by the plan's method.

        Raises:
            UserError: a count that those blocks can't leave.
        """
        places = [index for index, removed in enumerate(self.plan.schedule) if removed]
        removals = schedule.spread(self.plan.tokens_in - tokens, places, len(self.plan.schedule))
        return reduce_model(self.baseline, method=self.plan.method, schedule=removals, copy=False)

    def check_counts(self, counts: Sequence[int]) -> None:
        """Raise a UserError for a count that the plan's blocks can't leave."""
        if counts and not self.plan.removed:
            raise UserError(
                "--counts are for a plan that removes tokens, and this one removes none; leave --counts out"
            )
        if counts and not self.plan.is_even:
            raise UserError(
                "--counts go evenly over the plan's blocks, and this plan's schedule does not; leave --counts out"
            )
        for tokens in counts:
            if tokens != self.plan.tokens_in:
                if not 0 < tokens < self.plan.tokens_in:
                    raise UserError(f"--counts {tokens}: expected 1 to {self.plan.tokens_in} tokens")
                self.with_tokens(tokens)

    def facts(self, precision: str) -> dict[str, Any]:
        """What the files say of themselves."""
        return {
            "plan": self.plan.to_dict(),
            "weights": self.created.weights,
            "labels": list(self.labels),
            "precision": precision,
            "pomt_edge": __version__,
            **dataclasses.asdict(self.preprocessing),
        }


def subject_of(request: DeployRequest, plan: Plan | None, device: str, progress: Progress) -> Subject:
    """Make the model and read the images.

    Args:
        plan: what was found, or None where the request names a model and a number of tokens.

    Raises:
        UserError: weights that can't be had, a plan of another model, no images where some are needed.
    """
    options = _options(request)
    options.check()
    progress.busy(f"preparing {request.model}")
    created = _created(request)
    preprocessing = preprocessing_of(options, created)
    plan = plan or _plan_by_hand(request, created, device)
    reduced = reduce_model(created.model, plan, copy=False) if plan.removed else None
    batch_size = request.batch_size or plan.batch_size
    images = _images(request, created, preprocessing, progress)
    return Subject(
        created,
        plan,
        preprocessing,
        reduced,
        _batches(images, preprocessing, batch_size) if images else _seeded(batch_size, preprocessing.image_px),
        images is not None,
        _calibration(request, created, preprocessing, batch_size) if request.precision == "int8" else (),
        _labels(request, created),
    )


def check_weights(request: DeployRequest, subject: Subject, environment: Path) -> None:
    """Raise a UserError where a plan was made with other weights than will be deployed and nobody asked for these.

    Args:
        environment: of the plan's run, beside the plan; where it is not there nothing is known.
    """
    if request.weights is not None or request.random_weights or not environment.exists():
        return
    try:
        made_with = Environment.load(environment).details.get("weights")
    except RecordError:
        return
    # Latency alone was measured with random weights; any will do then.
    if made_with not in (None, "random", subject.created.weights):
        raise UserError(
            f"the plan was made with weights {made_with}, and without --weights {subject.created.weights} would be "
            "deployed: give --weights FILE, the same file as then"
        )


def _options(request: DeployRequest) -> Request:
    """The main job's request, which knows how to check and to read what both commands take."""
    return Request(
        model=request.model or demo.NAME,
        batch_size=request.batch_size or 1,
        data=request.data,
        unlabelled=request.data is not None,
        weights=request.weights,
        num_classes=request.num_classes,
        image_px=request.image_px,
        normalize=request.normalize,
        crop_pct=request.crop_pct,
        interpolation=request.interpolation,
        device=request.device,
        engine=request.engine if request.engine != "onnx" and request.engine else "torch",
        precision=request.precision or "fp32",
        compile=request.compile,
        provider=request.provider,
        threads=request.threads,
        lock=request.lock,
        require_locked=request.require_locked,
        power_mode=request.power_mode,
        gpu_clock_mhz=request.gpu_clock_mhz,
        sysroot=request.sysroot,
    )


def _created(request: DeployRequest) -> Created:
    name = request.model or demo.NAME
    pretrained = not request.random_weights and request.weights is None
    try:
        return create.create(Wanted(name, request.num_classes, request.image_px, request.weights, pretrained))
    except UserError as error:
        if pretrained and name != demo.NAME and "weights" in str(error):
            raise UserError(f"{error}; or --random-weights, for latency and parity alone") from error
        raise


def _plan_by_hand(request: DeployRequest, created: Created, device: str) -> Plan:
    """A plan that promises nothing."""
    family = family_of(created.model)
    full, depth = family.token_count(created.model), len(family.blocks(created.model))
    removed = request.removed or 0
    blocks = schedule.blocks_of(request.block or "3", depth)
    return Plan(
        model=created.name,
        method=request.method or "pomt",
        schedule=schedule.spread(removed, blocks, depth),
        tokens_in=full,
        tokens_out=full - removed,
        removed=removed,
        block=blocks[0],
        batch_size=request.batch_size or 1,
        image_px=created.preprocessing.image_px,
        precision=request.precision or "fp32",
        engine=request.engine or "torch",
        device=device,
        baseline_ms=0.0,
        predicted_ms=0.0,
        speedup=1.0,
        speedup_low=1.0,
        speedup_high=1.0,
        verdict="prune" if removed else "keep",
        because="given by hand",
        limits={},
        num_classes=classes_of(created.model),
    )


def _images(
    request: DeployRequest, created: Created, preprocessing: Preprocessing, progress: Progress
) -> Images | None:
    if request.data is None:
        return datasets.read_demo(request.images, 0, False) if created.name == demo.NAME else None
    progress.busy(f"reading images of {request.data}")
    return datasets.read_folder(request.data, preprocessing, request.images, 0, classes_of(created.model), False)


def _batches(images: Images, preprocessing: Preprocessing, size: int) -> tuple[Tensor, ...]:
    """Whole batches; where there is not even one, it is filled with the same images again."""
    pixels = images.pixels.repeat(math.ceil(size / len(images.pixels)), 1, 1, 1)
    whole = Images(pixels[: len(pixels) // size * size], None, ())
    return tuple(whole.batches(preprocessing, size))


def _seeded(size: int, image_px: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    count = max(SEEDED_BATCHES, math.ceil(16 / size))
    return tuple(torch.randn(size, 3, image_px, image_px, generator=generator) for _ in range(count))


def _calibration(
    request: DeployRequest, created: Created, preprocessing: Preprocessing, size: int
) -> tuple[Tensor, ...]:
    """Images drawn with another seed than the proof's."""
    count = max(CALIBRATION_IMAGES, size)
    if request.data is not None:
        images = datasets.read_folder(request.data, preprocessing, count, 1, classes_of(created.model), False)
    elif created.name == demo.NAME:
        images = datasets.read_demo(count, 1, False)
    else:
        raise UserError("--precision int8 is calibrated on images: give --data DIR as well")
    return _batches(images, preprocessing, size)


def _labels(request: DeployRequest, created: Created) -> tuple[str, ...]:
    classes = classes_of(created.model)
    if created.name == demo.NAME:
        return demo.CLASSES
    if request.data is not None:
        names = sorted(path.name for path in Path(request.data).iterdir() if path.is_dir())
        if len(names) == classes:
            return tuple(names)
    if created.weights.startswith("pretrained") and (subset := timm.data.infer_imagenet_subset(created.model)):
        known = timm.data.ImageNetInfo(subset)
        return tuple(known.index_to_description(index) for index in range(classes))
    return ()
