"""TensorRT and TensorRT for RTX: how each is found here, and what both have in common."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

import torch

from pomt_edge.errors import Unavailable, UserError

LAYERS = "Layers:"
"""How the message begins in which a builder lists its kernels, where it does."""
ERRORS = ("ERROR", "INTERNAL_ERROR")


@dataclass(frozen=True)
class Library:
    """One of the two, by the name of its Python module."""

    module: str
    title: str
    how_to_get: Callable[[], str]
    """What to type to have it on this machine."""

    def version(self) -> str | None:
        """None where it is not installed."""
        try:
            return str(self._import().__version__)
        except ImportError:
            return None

    def load(self) -> Any:
        """The module.

        Raises:
            Unavailable: it is not installed; the message says how to get it.
        """
        try:
            return self._import()
        except ImportError as error:
            raise Unavailable(f"{self.title} is not installed here ({error}); {self.how_to_get()}") from error

    def _import(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except OSError as error:  # the package is there, a shared library that it needs is not
            raise ImportError(str(error)) from error

    def check_device_name(self, device: str) -> None:
        """Raise a UserError for a device that is not a CUDA one."""
        if not re.fullmatch(r"cuda(:\d+)?", device):
            raise UserError(f"--device {device}: {self.title} runs on CUDA devices alone; give --device cuda")


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (compute capability {dotted(self.capability)})"


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def gpu(device: str) -> Gpu | None:
    """The GPU of that name, such as 'cuda:1'; None where there is none that torch can use."""
    index = int(device.partition(":")[2] or 0)
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return None
    return Gpu(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index))


def on(device: str) -> AbstractContextManager[Any]:
    """Both libraries use the thread's current CUDA device."""
    return torch.cuda.device(device) if gpu(device) else nullcontext()


@dataclass
class Messages:
    """What a library logs while something is done."""

    file: TextIO | None = None
    errors: list[str] = field(default_factory=list)
    everything_of_memory: list[str] = field(default_factory=list)
    """Warnings and errors that speak of memory."""
    layers: str = ""

    def take(self, severity: str, text: str) -> None:
        if self.file is not None and not self.file.closed:
            self.file.write(f"[{severity}] {text}\n")
        if severity in ERRORS:
            self.errors.append(text)
        if severity != "VERBOSE" and re.search(r"memory|workspace", text, re.IGNORECASE):
            self.everything_of_memory.append(text)
        if text.startswith(LAYERS):
            self.layers = text

    def first_error(self) -> str:
        """The first of a cascade says what was wrong."""
        return shortened(self.errors[0]) if self.errors else "it gave no reason"


def shortened(text: str) -> str:
    """The first line of what a library said, without the place in its own sources."""
    line = text.strip().partition("\n")[0]
    return re.sub(r"^\[[\w./]+::.*?::\d+\] |\. In \w+ at \S+:\d+|\s*\(See https?:.*", "", line)[:300]


@functools.cache
def logger(trt: Any) -> Any:
    """The one logger that a process may give a library; it keeps silent and hands all to `messages`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages = Messages()

        def log(self, severity: Any, text: str) -> None:
            try:
                self.messages.take(severity.name, text)
            except OSError:  # a full disk: an exception must not run into the library
                self.messages.file = None

    return Logger()


@contextmanager
def listening(trt: Any, file: TextIO | None = None) -> Iterator[Messages]:
    """What the library logs meanwhile, written to the file too."""
    before = logger(trt).messages
    logger(trt).messages = messages = Messages(file)
    try:
        yield messages
    finally:
        logger(trt).messages = before
