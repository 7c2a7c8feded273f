"""TensorRT for RTX: it builds on any machine, for RTX GPUs alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pomt_edge.engines import PRECISIONS, BuildOptions, Built, Session, Setting
from pomt_edge.engines import _tensorrt_build as building
from pomt_edge.engines import _tensorrt_session as sessions
from pomt_edge.engines._tensorrt import Library, dotted, gpu
from pomt_edge.engines.torch import gpu_uuid as gpu_uuid
from pomt_edge.errors import Unavailable, UserError
from pomt_edge.export.target import TARGETS, Target

TAKES: Literal["module", "onnx"] = "onnx"
TURING = (7, 5)
LIBRARY = Library(
    "tensorrt_rtx_bindings",
    "TensorRT for RTX",
    lambda: "pip install tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings on an x86_64 machine",
)


def version() -> str | None:
    return LIBRARY.version()


def default_device() -> str:
    return "cuda"


def check_device(device: str) -> None:
    """Raise a UserError unless it is installed; a GPU is needed to load an engine, not to build it.

    Raises:
        Unavailable: it is not installed here.
    """
    LIBRARY.check_device_name(device)
    LIBRARY.load()


def check_setting(setting: Setting) -> None:
    if setting.precision not in PRECISIONS:
        raise UserError(f"--precision {setting.precision}: TensorRT for RTX has {', '.join(PRECISIONS)}")


def target() -> Target:
    return TARGETS["generic"]


def objection_to_graphs(model: nn.Module, setting: Setting) -> str | None:
    """None: every model that we export has fixed shapes within a batch, which is all that a capture needs."""
    return None


def prepare(model: nn.Module, setting: Setting) -> nn.Module:
    """The model in evaluation; it is exported from where it is."""
    return model.eval()


def build(source: Path, setting: Setting, options: BuildOptions) -> Built:
    """For the GPU that is here, else for all that run float32 as well: Turing has no such product."""
    known = _capabilities(LIBRARY.load())
    found = gpu(setting.device)
    here = found.capability if found else None
    chosen = [name for capability, name in known.items() if capability == here] or [
        name for capability, name in known.items() if capability > TURING
    ]
    return building.build(LIBRARY, source, setting, options, building.Rules(True, capabilities=tuple(chosen)))


def load(built: Built, setting: Setting) -> Session:
    """A session of what was built.

    Raises:
        Unavailable: no GPU that the library runs on is here; the engine that was built stays.
    """
    known = _capabilities(LIBRARY.load())
    found = gpu(setting.device)
    if found is None or found.capability not in known:
        what = f"the GPU is a {found}" if found else f"torch finds no GPU '{setting.device}'"
        runs_on = ", ".join(dotted(capability) for capability in known)
        raise Unavailable(
            f"TensorRT for RTX can't run here: {what}, and it runs on GPUs of compute capability {runs_on}; "
            f"the built engine is at {built.artefact}"
        )
    return sessions.load(LIBRARY, built, setting)


def _capabilities(trt: Any) -> dict[tuple[int, int], str]:
    """Compute capabilities that the library knows, by the names of its enumeration: SM89, SM120."""
    names = [name for name in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d{2,}", name)]
    pairs = [((int(name[2:-1]), int(name[-1])), name) for name in names]
    return dict(sorted(pairs))
