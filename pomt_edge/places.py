"""Devices that are not this machine: simulated, recorded, or a board over SSH; which, their name's beginning says."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pomt_edge import profiles
from pomt_edge.errors import UserError
from pomt_edge.export import files, pipeline
from pomt_edge.export import target as targets
from pomt_edge.export.precision import float32_names
from pomt_edge.measure.progress import Progress
from pomt_edge.models.family import family_of
from pomt_edge.profiles.profile import Profile
from pomt_edge.records import Kept
from pomt_edge.reduce.method import Method
from pomt_edge.request import OF_A_RECORDING, Request
from pomt_edge.simulator import asked, noise
from pomt_edge.simulator.geometry import Geometry, Reduction
from pomt_edge.simulator.model import Simulator
from pomt_edge.targets import Place, recordings
from pomt_edge.targets.recorded import RecordedTarget
from pomt_edge.targets.recordings import RecordedCurve, Recording
from pomt_edge.targets.sessions import Calibration, Variant
from pomt_edge.targets.simulated import SimulatedTarget
from pomt_edge.targets.ssh import SshTarget


@dataclass(frozen=True)
class Wanted:
    """What is to be obtained there."""

    request: Request
    name: str
    """timm's full name of the model."""
    model: nn.Module
    by: Method
    blocks: tuple[int, ...]
    variant: Variant
    tokens: Sequence[int]
    calibration: Calibration | None = None
    """For int8."""


def open_place(wanted: Wanted, progress: Progress) -> Place:
    """The target that --device names.

    Raises:
        UserError: no such device, or it has not what is asked for.
    """
    kind, _, name = wanted.request.device.partition(":")
    if kind == "sim":
        return _simulated(wanted, profiles.load(name))
    if kind == "recorded":
        return RecordedTarget(*_recorded(wanted.request, wanted.name), wanted.request.seed)
    return _board(wanted, progress)


def as_recorded(request: Request, model: str) -> Request:
    """The request with what its recording was made with, where nothing else was asked for; others as they are.

    Raises:
        UserError: no such recording, or it was made with another engine, probe or method.
    """
    if not request.is_recorded:
        return request
    curve, _ = _recorded(request, model)
    kept = {name: getattr(curve, name) for name in OF_A_RECORDING if getattr(curve, name)}
    for name, value in kept.items():
        asked_for = name in request.typed or getattr(request, name) != getattr(Request(), name)
        if asked_for and getattr(request, name) != value:
            given = f"--{name} {getattr(request, name)}"
            raise UserError(f"{given}: --device {request.device} was recorded with --{name} {value}; leave it out")
    return dataclasses.replace(request, **kept)


def obtainable(request: Request, model: str, tokens: tuple[int, ...], progress: Progress) -> tuple[int, ...]:
    """The grid; of a recording, what of it was recorded.

    Raises:
        UserError: a grid was asked for that was not recorded.
    """
    if not request.is_recorded:
        return tokens
    curve, _ = _recorded(request, model)
    there = tuple(count for count in tokens if count in curve.tokens)
    if there == tokens:
        return tokens
    recorded_counts = f"{curve.title} was recorded at {curve.counts} tokens"
    grid = (request.grid_start, request.grid_stop, request.grid_stride)
    if any(given is not None for given in grid) or tokens[0] not in there or len(there) < 2:
        raise UserError(f"--device {request.device} has not all counts of the grid: {recorded_counts}")
    progress.note(f"the grid is what was recorded: {recorded_counts}")
    return there


def _recorded(request: Request, model: str) -> tuple[RecordedCurve, Recording]:
    recording = recordings.load(request.device.partition(":")[2])
    return recording.curve(model, request.batch_size, request.precision), recording


def _simulated(wanted: Wanted, profile: Profile) -> SimulatedTarget:
    request = wanted.request
    way = asked.way_of(profile, **request.simulated)
    mode = asked.mode_of(profile, request.power_mode)
    simulator = Simulator(profile, geometry_of(wanted.model), way, _reduction(wanted), mode)
    parts = noise.parse(request.noise) if request.noise else noise.STANDARD
    return SimulatedTarget(simulator, dataclasses.replace(parts, seed=parts.seed or request.seed))


def _reduction(wanted: Wanted) -> Reduction:
    if wanted.request.probe == "input":
        return Reduction()
    by = wanted.by
    matches = by.name.partition(":")[0] in ("tome", "pitome")
    return Reduction(wanted.blocks, by.needs_attention, matches, by.proportional_attention)


def geometry_of(model: nn.Module) -> Geometry:
    """The sizes of a model as the simulator needs them."""
    family = family_of(model)
    blocks = family.blocks(model)
    vit: Any = model
    first: Any = blocks[0]
    return Geometry(
        depth=len(blocks),
        embed_dim=int(vit.embed_dim),
        heads=int(first.attn.num_heads),
        mlp_dim=int(first.mlp.fc1.out_features),
        patch_px=int(vit.patch_embed.patch_size[0]),
        image_px=family.image_px(model),
        prefix=family.prefix_tokens(model),
        classes=max(int(vit.num_classes), 1),
    )


def _board(wanted: Wanted, progress: Progress) -> SshTarget:
    request = wanted.request
    if request.engine != "trt":
        raise UserError(f"--device {request.device} is measured with --engine trt, by its own trtexec")
    exports = _Exports(wanted)
    target = SshTarget(
        request.device,
        exports.file,
        wanted.tokens[0],
        precision=request.precision,
        power_mode=request.power_mode,
        progress=progress,
        ssh_config=request.ssh_config,
    )
    try:
        exports.rules = targets.of_tensorrt(_version(target.describe().get("tensorrt")))
        held = [] if exports.rules.typed else exports.float32_layers()
    except BaseException:
        target.close()
        raise
    target.tell(typed=exports.rules.typed, float32_layers=held)
    return target


def _version(text: Any) -> tuple[int, int]:
    parts = [int(part) for part in str(text or "").split(".")[:2] if part.isdecimal()]
    if len(parts) < 2:
        raise UserError(f"the board's TensorRT version is not known ({text}); is trtexec installed there?")
    return parts[0], parts[1]


class _Exports:
    """The graphs for a board, made when they are asked for; each is the same file whenever it is made."""

    def __init__(self, wanted: Wanted) -> None:
        self.rules = targets.named("jetpack6")
        self._wanted = wanted
        self._folder = Path(tempfile.mkdtemp(prefix="pomt-edge-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def file(self, tokens: Kept) -> Path:
        wanted = self._wanted
        made = pipeline.deployable(
            wanted.variant(tokens),
            batch_size=wanted.request.batch_size,
            image_px=family_of(wanted.model).image_px(wanted.model),
            precision=wanted.request.precision,
            target=self.rules,
            calibration=wanted.calibration() if wanted.calibration else None,
        )
        for earlier in self._folder.iterdir():
            earlier.unlink()
        name = f"tokens_{tokens}" if isinstance(tokens, int) else f"schedule_{'_'.join(map(str, tokens))}"
        path = self._folder / f"{name}.onnx"
        # In a file of their own the weights are the same for all counts, and go over the wire once.
        files.write(made, path, limit_bytes=0)
        return path

    def float32_layers(self) -> list[str]:
        """Of the unreduced and of a reduced graph; all reduced ones are alike."""
        import onnx

        ends = (self._wanted.tokens[0], self._wanted.tokens[-1])
        names = (float32_names(onnx.load(str(self.file(tokens))), self._wanted.request.precision) for tokens in ends)
        return sorted({name for own in names for name in own})
