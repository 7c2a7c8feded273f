"""What `doctor` finds: one line per check, and how to mend what is wrong on this very machine."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomt_edge.machine import board, gpu, jetson_facts, nvidia_facts
from pomt_edge.machine.system import System

OK, WARN, FAIL = "ok", "warn", "fail"
LEAST_JETPACK = 6
"""The first whose Python is new enough for this package, and so the first with a torch for it."""


@dataclass(frozen=True)
class Finding:
    status: str
    """OK, WARN or FAIL."""
    found: str
    remedy: str | None = None
    """The command that mends it here; None where nothing does."""


@dataclass(frozen=True)
class Subject:
    """What is examined: a machine, the device asked for ('auto', 'cpu', 'cuda:N') and the folder one works in."""

    system: System
    asked: str
    folder: Path

    @functools.cached_property
    def device(self) -> str:
        """The device that a measurement would use; imports torch, and is 'cpu' where that can't be."""
        if self.asked != "auto":
            return "cuda:0" if self.asked == "cuda" else self.asked
        torch, _ = imported("torch")
        return "cuda:0" if torch is not None and torch.cuda.is_available() else "cpu"

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def is_jetson(self) -> bool:
        return board.is_jetson(self.system)

    @property
    def has_nvidia_gpu(self) -> bool:
        present = self.is_jetson or nvidia_facts.on_pci(self.system) or nvidia_facts.driver(self.system)
        return bool(present) or self.nvidia is not None or self.sees_cuda

    @functools.cached_property
    def nvidia(self) -> gpu.Device | None:
        """The device as NVML knows it."""
        if not self.on_gpu:
            return None
        return gpu.handle(self.device, self.gpu_uuid)

    @functools.cached_property
    def gpu_uuid(self) -> str | None:
        """The unique id by which CUDA and NVML know the same GPU; only for asking, it is never shown."""
        if not self.sees_cuda:
            return None
        from pomt_edge.engines.torch import gpu_uuid

        return gpu_uuid(self.device)

    @property
    def sees_cuda(self) -> bool:
        """Whether torch can tell of the GPU."""
        torch, _ = imported("torch")
        index = int(self.device.partition(":")[2] or 0)
        return self.on_gpu and torch is not None and index < torch.cuda.device_count()

    @property
    def compute_capability(self) -> tuple[int, int] | None:
        if self.sees_cuda:
            torch, _ = imported("torch")
            major, minor = torch.cuda.get_device_capability(self.device)
            return int(major), int(minor)
        return nvidia_facts.compute_capability(self.nvidia) if self.nvidia else None


@dataclass(frozen=True)
class Check:
    """One thing to look at; `look` gives None where it does not concern this machine."""

    name: str
    look: Callable[[Subject], Finding | None]
    needed: bool = False
    """Without it nothing can be measured here."""


def made(check: Check, subject: Subject) -> Finding | None:
    """What a check finds; one that breaks has found that it breaks."""
    try:
        return check.look(subject)
    except Exception as error:
        return Finding(FAIL, f"could not be checked: {reason(error)}")


def imported(name: str) -> tuple[Any, str]:
    """A library, or None and why it can't be imported: a broken one raises more than ImportError."""
    try:
        return importlib.import_module(name), ""
    except Exception as error:
        return None, "not installed" if _absent(error, name) else f"can't be imported: {reason(error)}"


def _absent(error: Exception, name: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == name


def reason(error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return first if len(first) <= 200 else first[:199] + "…"


def pip_install(*words: str) -> str:
    """The command that installs into the Python that runs this."""
    arguments = shlex.join(words)
    managed = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
    if managed and sys.prefix == sys.base_prefix:
        venv = f"{shlex.quote(sys.executable)} -m venv --system-site-packages .venv"
        return f"{venv} && .venv/bin/pip install {arguments} && .venv/bin/pip install {shlex.quote(_project(''))}"
    if not _has_pip() and shutil.which("uv"):
        return f"uv pip install --python {shlex.quote(sys.executable)} {arguments}"
    return f"{shlex.quote(sys.executable)} -m pip install {arguments}"


def _has_pip() -> bool:
    # Not importlib.util.find_spec: asked for pip, setuptools' own finder changes distutils for the whole process, and
    # importing torchvision, which comes next, then fails on Python 3.10.
    finders = [finder for finder in sys.meta_path if "distutils" not in type(finder).__name__.lower()]
    return any(finder.find_spec("pip", None) for finder in finders)


def with_extra(extra: str) -> str:
    """What pip is given for one of the optional parts."""
    return _project(f"[{extra}]")


def _project(extra: str) -> str:
    try:
        importlib.metadata.distribution("pomt-edge")
    except importlib.metadata.PackageNotFoundError:  # run from its checkout
        return f"{Path(__file__).resolve().parents[2]}{extra}"
    return f"pomt-edge{extra}"


def is_jetpack_6(system: System) -> bool:
    """Where PyPI's builds do not know the board's CUDA, and NVIDIA has its own."""
    return board.is_jetson(system) and jetson_facts.jetpack_major(system) == 6
