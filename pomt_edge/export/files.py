"""ONNX files: written whole or not at all, and with shared weights where many graphs have the same."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pomt_edge.export import shapes

if TYPE_CHECKING:
    import onnx

LIMIT_BYTES = 2**31 - 2**26
"""Weights that one file holds: protobuf ends at 2 GB, and the graph needs some of that."""
PAGE_BYTES = 4096
"""Weights begin at a page, so that engines can map them into memory."""


def write(model: onnx.ModelProto, path: str | os.PathLike[str], limit_bytes: int = LIMIT_BYTES) -> list[Path]:
    """Write a model; returns its files.

    Weights of more than `limit_bytes` go into a file of their own, `NAME.onnx.data`, which has to stay beside it.
    """
    target = Path(path)
    data = target.with_name(f"{target.name}.data")
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) <= limit_bytes:
        _replace(target, model.SerializeToString())
        data.unlink(missing_ok=True)
        return [target]
    partial = _partial(data)
    with open(partial, "wb") as file:
        places = {index: _append(file, tensor.raw_data) for index, tensor in _weights(model)}
        _sync(file)
    # An older model must not be read with these weights, should the process be killed in between.
    target.unlink(missing_ok=True)
    os.replace(partial, data)
    _replace(target, _pointing(model, data.name, places).SerializeToString())
    return [target, data]


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


class Shared:
    """Models of one folder whose weights lie in one file, each once.

    The folder holds as much for two hundred token counts as for one. Every `Shared` has a file of its own, so that a
    process that resumes another's work does not touch the weights of the models that are there.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="weights-", suffix=".data", dir=self.folder)
        os.close(handle)
        self.weights = Path(name)
        self._places: dict[bytes, tuple[int, int]] = {}

    def write(self, model: onnx.ModelProto, name: str) -> Path:
        """Write a model as NAME.onnx and return its path; the model file and the weights must stay together."""
        path = self.folder / f"{name}.onnx"
        with open(self.weights, "ab") as file:
            places = {index: self._place(file, tensor.raw_data) for index, tensor in _weights(model)}
            _sync(file)
        _replace(path, _pointing(model, self.weights.name, places).SerializeToString())
        return path

    def _place(self, file: IO[bytes], raw: bytes) -> tuple[int, int]:
        content = hashlib.sha256(raw).digest()
        if content not in self._places:
            self._places[content] = _append(file, raw)
        return self._places[content]


def _weights(model: onnx.ModelProto) -> list[tuple[int, onnx.TensorProto]]:
    """The large initializers, by their index."""
    return [(index, tensor) for index, tensor in enumerate(model.graph.initializer) if shapes.is_large(tensor)]


def _append(file: IO[bytes], raw: bytes) -> tuple[int, int]:
    """Write bytes from the next page on; returns where they begin and how many they are."""
    file.seek(0, os.SEEK_END)
    file.write(b"\0" * (-file.tell() % PAGE_BYTES))
    begin = file.tell()
    file.write(raw)
    return begin, len(raw)


def _pointing(model: onnx.ModelProto, location: str, places: dict[int, tuple[int, int]]) -> onnx.ModelProto:
    """The model with its weights told by file, offset and length."""
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    for index, (begin, length) in places.items():
        tensor = found.graph.initializer[index]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(begin)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    return found


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, never sees half of it."""
    partial = _partial(path)
    with open(partial, "wb") as file:
        file.write(content)
        _sync(file)
    os.replace(partial, path)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
