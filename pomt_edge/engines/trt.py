"""NVIDIA TensorRT 8.2 and newer, as JetPack has it and as it is installed on a PC with a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from torch import nn

from pomt_edge.engines import PRECISIONS, BuildOptions, Built, Session, Setting, _tensorrt_cache
from pomt_edge.engines import _tensorrt_build as building
from pomt_edge.engines import _tensorrt_session as sessions
from pomt_edge.engines._tensorrt import Gpu, Library, gpu
from pomt_edge.engines.torch import gpu_uuid as gpu_uuid
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.export.target import Target, of_tensorrt
from pomt_edge.machine.board import is_jetson
from pomt_edge.machine.system import System

TAKES: Literal["module", "onnx"] = "onnx"


def _how_to_get() -> str:
    if is_jetson(System()):
        return (
            "JetPack has it: sudo apt-get install nvidia-jetpack (or python3-libnvinfer alone), and make the virtual "
            "environment with --system-site-packages"
        )
    return "a PC with an NVIDIA GPU has it by: pip install tensorrt; a Jetson by its JetPack"


LIBRARY = Library("tensorrt", "TensorRT", _how_to_get)


def version() -> str | None:
    return LIBRARY.version()


def default_device() -> str:
    return "cuda"


def check_device(device: str) -> None:
    """Raise a UserError unless TensorRT is installed and there is such a GPU: it builds on the GPU that it builds for.

    Raises:
        Unavailable: TensorRT or the GPU is not here.
    """
    LIBRARY.check_device_name(device)
    LIBRARY.load()
    _gpu(device)


def _gpu(device: str) -> Gpu:
    found = gpu(device)
    if found is None:
        raise Unavailable(f"--device {device}: TensorRT is here, but torch finds no such GPU; run it on the device")
    return found


def check_setting(setting: Setting) -> None:
    if setting.precision not in PRECISIONS:
        raise UserError(f"--precision {setting.precision}: TensorRT has {', '.join(PRECISIONS)}")
    if setting.precision == "bf16" and not target().typed and not hasattr(LIBRARY.load().BuilderFlag, "BF16"):
        raise UserError(f"--precision bf16: TensorRT {version()} does not have it; give --precision fp16")
    found = gpu(setting.device)
    if found is None:
        return
    if setting.precision == "bf16" and found.capability < (8, 0):
        raise UserError(f"--precision bf16: a {found} does not have it; give --precision fp16")
    if setting.precision == "int8" and (found.capability < (6, 1) or found.capability == (6, 2)):
        raise UserError(f"--precision int8: a {found} does not have it; give --precision fp16")


def target() -> Target:
    """The rules of the TensorRT that is installed."""
    return of_tensorrt(_version())


def _version() -> tuple[int, int]:
    major, minor = re.findall(r"\d+", LIBRARY.load().__version__)[:2]
    return int(major), int(minor)


def objection_to_graphs(model: nn.Module, setting: Setting) -> str | None:
    """None: every model that we export has fixed shapes within a batch, which is all that a capture needs."""
    return None


def prepare(model: nn.Module, setting: Setting) -> nn.Module:
    """The model in evaluation; it is exported from where it is."""
    return model.eval()


def build(source: Path, setting: Setting, options: BuildOptions) -> Built:
    """Build for the GPU that is here; see `Engine.build`."""
    return building.build(LIBRARY, source, setting, options, rules(_gpu(setting.device)))


def rules(found: Gpu) -> building.Rules:
    """How the installed TensorRT builds for a GPU."""
    return building.Rules(target().typed, timing_cache=_tensorrt_cache.place(str(version()), found))


def load(built: Built, setting: Setting) -> Session:
    check_device(setting.device)
    return sessions.load(LIBRARY, built, setting)
