"""What has to be settled before the first measurement: model, images, grid, device, folder."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from torch import nn

from pomt_edge import __version__, engines
from pomt_edge.engines import Engine, Setting
from pomt_edge.errors import Unfit, UserError
from pomt_edge.export.pipeline import CALIBRATION_IMAGES
from pomt_edge.machine.system import System
from pomt_edge.measure import datasets
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.journal import NAME as JOURNAL
from pomt_edge.measure.progress import Progress
from pomt_edge.models import create
from pomt_edge.models.create import Created, Wanted
from pomt_edge.models.family import family_of
from pomt_edge.places import Wanted as Elsewhere
from pomt_edge.places import as_recorded, obtainable, open_place
from pomt_edge.records import Kept, Preprocessing
from pomt_edge.reduce import method, schedule
from pomt_edge.reduce.input_probe import probe_at_input
from pomt_edge.reduce.method import Method
from pomt_edge.reduce.reduced_model import reduce_model
from pomt_edge.request import DEFAULT_IMAGES, Request
from pomt_edge.targets import Place
from pomt_edge.targets.local import ClockWishes, LocalTarget
from pomt_edge.targets.sessions import Calibration, Sessions, Variant


@dataclass(frozen=True)
class Job:
    """Everything that is settled before the first measurement."""

    request: Request
    created: Created
    preprocessing: Preprocessing
    setting: Setting
    sessions: Sessions
    target: Place
    variant: Variant
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]
    depth: int
    images: Images | None
    folder: Path

    @property
    def inputs(self) -> dict[str, Any]:
        """What went in beside the model's name, for the report."""
        facts: dict[str, Any] = {"weights": self.created.weights, "method": self.request.method}
        if self.images is not None:
            facts["data"] = str(self.request.data or "embedded demo")
            facts["images"] = f"{self.images.fingerprint}, drawn with seed {self.request.seed}"
            facts["preprocessing"] = ", ".join(f"{key} {value}" for key, value in vars(self.preprocessing).items())
        return facts

    @property
    def configuration(self) -> dict[str, Any]:
        """What has to be the same for measurements to belong together; the limits do not."""
        request, setting = self.request, self.setting
        facts: dict[str, Any] = {
            "model": self.created.name,
            "weights": self.created.weights,
            "num_classes": classes_of(self.created.model),
            "device": setting.device,
            "device_name": self.target.device_name,
            "threads": torch.get_num_threads(),
            "timer": self.target.timer,
            "origin": self.target.origin,
            "noise": request.noise,
            "engine_version": self.sessions.engine.version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "pomt_edge": __version__,
            "grid": f"{self.tokens[:2]} to {self.tokens[-1]} by {request.stride}",
            **dataclasses.asdict(self.preprocessing),
        }
        same = (
            "batch_size",
            "engine",
            "precision",
            "compile",
            "provider",
            "method",
            "probe",
            "seed",
            "unlabelled",
        )
        facts |= {name: getattr(request, name) for name in (*same, "interval_percent", "point_seconds")}
        facts["block"] = request.swept_block
        facts["data"] = str(request.data.resolve()) if request.data else None
        facts["images"] = self.images.fingerprint if self.images else None
        return facts


def prepare(request: Request, progress: Progress) -> Job:
    """Settle everything, from the cheapest check to the dearest.

    Raises:
        UserError: anything the user can mend; nothing has been written then.
    """
    # What is measured elsewhere is built here by torch, for its accuracy.
    engine = engines.load("torch" if request.is_elsewhere else request.engine)
    setting = _here(request) if request.is_elsewhere else setting_of(request, engine)
    check_writable(request.out)
    if request.threads:
        torch.set_num_threads(request.threads)
    progress.busy(f"preparing {request.model}")
    created = create.create(
        Wanted(request.model, request.num_classes, request.image_px, request.weights, request.has_data)
    )
    if request.has_data and not classes_of(created.model):
        raise UserError(
            f"{created.name} has no classifier, so accuracy has no meaning: give --num-classes and --weights"
        )
    setting = dataclasses.replace(setting, image_px=created.preprocessing.image_px)
    depth = len(family_of(created.model).blocks(created.model))
    request = as_recorded(request, created.name)
    blocks = schedule.blocks_of(request.swept_block, depth)
    by = method.load(request.method)
    tokens = obtainable(request, created.name, _grid(request, created.model, by, blocks), progress)
    preprocessing = preprocessing_of(request, created)
    images = _images(request, created, preprocessing, progress) if request.has_data else None
    model = engine.prepare(created.model, setting)
    variant = _variant(request, model, blocks)
    models = [variant(tokens[0]), variant(tokens[-1])]
    if not request.is_elsewhere:
        setting = with_graphs(graphs_wanted(request.cuda_graphs, request.engine), engine, setting, models, progress)
    system = System(request.sysroot)
    calibration = _calibration(images, preprocessing, request.batch_size) if images and request.calibrated else None
    sessions = Sessions(engine, variant, setting, tokens[0], calibration, system)
    target: Place
    if request.is_elsewhere:
        target = open_place(Elsewhere(request, created.name, model, by, blocks, variant, tokens, calibration), progress)
        setting = dataclasses.replace(setting, device=request.device, precision=request.precision)
    else:
        target = _local(request, sessions, setting, tokens[0], system)
    folder = request.out or Path("runs") / _folder_name(created.name, setting)
    return Job(
        request, created, preprocessing, setting, sessions, target, variant, tokens, blocks, depth, images, folder
    )


def _here(request: Request) -> Setting:
    """What accuracy is measured with, where latency is another device's."""
    return Setting("cpu", "fp32", request.batch_size, request.image_px or 0)


def _local(request: Request, sessions: Sessions, setting: Setting, anchor: int, system: System) -> LocalTarget:
    clocks, uuid = ClockWishes(request.power_mode, request.gpu_clock_mhz), sessions.engine.gpu_uuid(setting.device)
    target = LocalTarget(sessions, setting.device, anchor, clocks, system, uuid)
    if request.lock:
        target.controls()  # a power mode that this board does not have is said now
    return target


def graphs_wanted(wanted: bool | None, engine: str) -> bool | None:
    """ONNX Runtime has to be asked for them: whether it can capture a model shows when that is loaded, and fails."""
    return wanted or False if engine == "onnxruntime" else wanted


def with_graphs(
    wanted: bool | None, engine: Engine, setting: Setting, models: Sequence[nn.Module], progress: Progress
) -> Setting:
    """The setting with CUDA graphs where they are wanted (None: where they can be had) and all models take them.

    Raises:
        UserError: they are asked for, and a model does not take them.
    """
    on_cuda = setting.device.startswith("cuda")
    if wanted is False or (wanted is None and not on_cuda):
        return setting
    objections = (engine.objection_to_graphs(model, setting) for model in models)
    objection = next(filter(None, objections), None)
    if objection is None:
        return dataclasses.replace(setting, cuda_graphs=True)
    if wanted:
        raise UserError(f"--cuda-graphs: not to be had here ({objection}); leave it out, or give --no-cuda-graphs")
    progress.note(
        f"CUDA graphs are not to be had here ({objection}); timed by events, launching included; if that fails "
        "later on, repeat with --no-cuda-graphs"
    )
    return setting


def setting_of(request: Request, engine: Engine) -> Setting:
    """All that is settled without the model, which tells the image size.

    Raises:
        UserError: the engine is not installed, or does not have the device or the precision here.
    """
    device = engine.default_device() if request.device == "auto" else request.device
    engine.check_device(device)
    device = "cuda:0" if device == "cuda" else device
    setting = Setting(
        device,
        request.precision,
        request.batch_size,
        request.image_px or 0,
        compile=request.compile,
        provider=request.provider,
    )
    engine.check_setting(setting)
    return setting


def _calibration(images: Images, preprocessing: Preprocessing, batch_size: int) -> Calibration:
    """The first images, in whole batches, as a graph of that batch size takes them."""

    def batches() -> Iterator[np.ndarray[Any, Any]]:
        few = dataclasses.replace(images, pixels=images.pixels[: max(CALIBRATION_IMAGES, batch_size)])
        for batch in few.batches(preprocessing, batch_size):
            # Of a last batch that is not full the first image fills the rest.
            yield torch.cat([batch, batch[:1].expand(batch_size - len(batch), -1, -1, -1)]).numpy()

    return batches


def check_writable(out: Path | None) -> None:
    """Say so before weights are fetched and images are read; the folder itself is made once all is settled."""
    if out is None:
        return
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        reason = "no permission" if there.is_dir() else f"{there} is a file"
        raise UserError(f"--out {out}: can't be written ({reason}); give another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / JOURNAL).exists():
        raise UserError(f"--out {out}: holds other files and no run of ours; give an empty or a new folder")


def classes_of(model: nn.Module) -> int:
    """Classes of a model's classifier; 0 where it has none."""
    return int(cast(Any, model).num_classes)


def _grid(request: Request, model: nn.Module, by: Method, blocks: Sequence[int]) -> tuple[int, ...]:
    family = family_of(model)
    full = family.token_count(model)
    if by.needs_class_token and not family.has_class_token(model):
        raise Unfit(f"--method {by.name} scores tokens by the class token, and {request.model} has none")
    most = schedule.most_in(blocks, len(family.blocks(model)), full, family.prefix_tokens(model), by.most)
    if most < 1:
        raise Unfit(f"{request.model} has {full} tokens at this --image-size; {request.method} can remove none")
    least = full - most
    start = full if request.grid_start is None else request.grid_start
    stop = max(math.ceil(0.1 * full), least) if request.grid_stop is None else request.grid_stop
    if request.grid_as_far_as_possible:
        start, stop = max(start, least), max(stop, least)
    for option, value in (("--grid-start", start), ("--grid-stop", stop)):
        if not least <= value <= full:
            raise UserError(f"{option} {value} is out of range: {request.model} can keep {least} to {full} tokens")
    if start < stop:
        raise UserError(f"--grid-start {start} is below --grid-stop {stop}: the grid goes from more tokens to fewer")
    # The last count is measured whatever the stride: it is what the user named.
    counts = {*range(start, stop - 1, -request.stride), stop} - {full}
    if not counts:
        raise UserError(
            f"--grid-start {start}, --grid-stop {stop}: the grid has no count below the {full} of all tokens"
        )
    return (full, *sorted(counts, reverse=True))


def preprocessing_of(request: Request, created: Created) -> Preprocessing:
    """The model's own, with what the request changes."""
    changes: dict[str, Any] = {}
    if request.mean_and_std:
        changes["mean"], changes["std"] = request.mean_and_std
    if request.crop_pct is not None:
        changes["crop_pct"] = request.crop_pct
    if request.interpolation is not None:
        changes["interpolation"] = request.interpolation
    return dataclasses.replace(created.preprocessing, **changes)


def _images(request: Request, created: Created, preprocessing: Preprocessing, progress: Progress) -> Images:
    count = request.images or DEFAULT_IMAGES
    if request.data is None:
        return datasets.read_demo(count, request.seed, not request.unlabelled)
    progress.busy(f"reading images of {request.data}")
    return datasets.read_folder(
        request.data, preprocessing, count, request.seed, classes_of(created.model), not request.unlabelled
    )


def _variant(request: Request, model: nn.Module, blocks: Sequence[int]) -> Variant:
    family = family_of(model)
    full, depth = family.token_count(model), len(family.blocks(model))

    def variant(point: Kept) -> nn.Module:
        if not isinstance(point, int):
            return reduce_model(model, method=request.method, schedule=point, copy=False)
        removed = full - point
        if not removed:
            return model
        if request.probe == "input":
            return probe_at_input(model, removed, request.seed)
        removals = schedule.spread(removed, blocks, depth)
        return reduce_model(model, method=request.method, schedule=removals, copy=False)

    return variant


def _folder_name(model: str, setting: Setting) -> str:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    local = setting.device.startswith(("cpu", "cuda"))
    device = setting.device.replace(":", "") if local else re.sub(r"[^A-Za-z0-9_.]+", "-", setting.device)
    return f"{model}-bs{setting.batch_size}-{device}-{now}"
