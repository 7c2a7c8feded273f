"""A folder that runs on a board without this package: graphs, their checksums, and a script for trtexec.

Written whole or not at all, and read with distrust: it has been on another machine in between.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from pomt_edge import __version__
from pomt_edge.errors import UserError
from pomt_edge.export.files import sha256
from pomt_edge.export.target import Target
from pomt_edge.records import MEASURED, SCHEMA, File, Plan, Record, RecordError

MANIFEST, SUMS, PLAN, SETTINGS, SCRIPT, README = (
    "manifest.json",
    "SHA256SUMS",
    "plan.json",
    "settings.txt",
    "run_trtexec.sh",
    "README.md",
)
BASELINE, REDUCED = "baseline", "reduced"
FURTHER = re.compile(r"tokens_(\d+)")
"""Further graphs, for a curve, by the tokens that they leave."""
INPUT = "images"
LEAST_FOR_OPSET_18 = (10, 0)
"""Older TensorRT misreads the operations of opset 18, without a word."""


@dataclass(frozen=True)
class Graph(Record):
    """One graph of a bundle; its file is its name with '.onnx'."""

    name: str
    tokens: int
    """What the blocks after the reduction see."""

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"


@dataclass(frozen=True)
class Manifest(Record):
    """What a bundle holds."""

    toolkit_version: str
    target: str
    precision: str
    batch_size: int
    plan: dict[str, Any]
    """The plan in short; plan.json is the whole of it."""
    graphs: tuple[Graph, ...]
    """The unreduced model first, then most tokens first."""
    files: tuple[File, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def from_dict(cls, data: Any) -> Manifest:
        if isinstance(data, Mapping) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
            raise RecordError(f"schema is {data['schema']}, this version reads up to {SCHEMA}: update pomt-edge")
        return super().from_dict(data)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are what was exported."""

    folder: Path
    manifest: Manifest
    plan: Plan
    manifest_sha256: str
    """By which results are known as this bundle's."""


def write(
    folder: Path, *, plan: Plan, graphs: Mapping[str, Path], target: Target, precision: str, facts: Mapping[str, Any]
) -> tuple[File, ...]:
    """Write a bundle; one that is there already is replaced, and keeps its engines and results.

    Args:
        graphs: ONNX files by 'baseline', 'reduced' and, for a curve, 'tokens_NNN'.
        facts: what else is to be known of the export. Read from it: `float32_layers` (names of layers that stay
            float32 where TensorRT is asked for another precision by a flag), `workspace_mib`, `batch_size` (else the
            plan's), `dynamic_batch` (whether the graphs leave the batch open) and `proven` (of each graph by name,
            what ran it and agreed with torch, such as 'onnxruntime', or nothing).

    Returns: all files of the bundle.

    Raises:
        UserError: see `check_folder`.
    """
    check_folder(folder)
    folder = folder.resolve()
    replaced = _replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        files = _fill(partial, folder.name, plan, graphs, target, precision, facts)
        partial.chmod(0o755)
        _put(partial, folder, replaced)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return files


def check_folder(folder: Path) -> None:
    """Whether a bundle can be written there, to be asked before the dear work.

    Raises:
        UserError: no folder, not empty and no bundle, or not to be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not there.is_dir():
        raise UserError(f"{folder}: {there} is a file; give another folder for the bundle")
    # A bundle grows beside its folder, under another name.
    for place in (there, folder.resolve().parent) if there == folder else (there,):
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise UserError(f"{folder}: no permission to write in {place}; give another folder for the bundle")
    try:
        tempfile.TemporaryDirectory(dir=there).cleanup()  # /proc and its like permit it, and then can't
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror}); give another folder for the bundle") from error
    _replaceable(folder)


def open_checked(folder: Path) -> Bundle:
    """Read a bundle, all of whose files have to be what was written.

    Raises:
        UserError: no bundle, a newer one, or a file that is missing, foreign, changed or lies elsewhere, by its name.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a bundle, as it came back from the board")
    try:
        manifest = Manifest.load(folder / MANIFEST)
    except RecordError as error:
        raise UserError(f"{error}; expected the folder of a bundle, as it came back from the board") from error
    for file in manifest.files:
        _check(folder, file)
    _check_graphs(folder, manifest)
    own = _described(folder, MANIFEST)
    if _read(folder / SUMS) != _sums([*manifest.files, own]):
        raise UserError(f"{folder / SUMS} is not what was exported: copy the bundle again, whole")
    try:
        plan = Plan.load(folder / PLAN)
    except RecordError as error:
        raise UserError(str(error)) from error
    return Bundle(folder, manifest, plan, own.sha256)


def _fill(
    folder: Path,
    name: str,
    plan: Plan,
    graphs: Mapping[str, Path],
    target: Target,
    precision: str,
    facts: Mapping[str, Any],
) -> tuple[File, ...]:
    ordered = _ordered(plan, graphs)
    names = [PLAN, *_copy_graphs(folder, graphs), SCRIPT, SETTINGS, README]
    plan.save(folder / PLAN)
    script = folder / SCRIPT
    script.write_text(_packaged(SCRIPT), encoding="utf-8")
    script.chmod(0o755)
    (folder / SETTINGS).write_text(_settings(plan, ordered, target, precision, facts), encoding="utf-8")
    (folder / README).write_text(_readme(name, plan, ordered, target, precision, facts), encoding="utf-8")
    files = [_described(folder, name) for name in names]
    short = ("model", "method", "schedule", "tokens_in", "tokens_out", "removed", "image_px", "speedup")
    Manifest(
        toolkit_version=__version__,
        target=target.name,
        precision=precision,
        batch_size=_batch_size(plan, facts),
        plan={name: getattr(plan, name) for name in short},
        graphs=ordered,
        files=tuple(files),
        facts=dict(facts),
    ).save(folder / MANIFEST)
    files.append(_described(folder, MANIFEST))
    (folder / SUMS).write_text(_sums(files), encoding="utf-8")
    return (*files, _described(folder, SUMS))


def _ordered(plan: Plan, graphs: Mapping[str, Path]) -> tuple[Graph, ...]:
    tokens = {BASELINE: plan.tokens_in, REDUCED: plan.tokens_out}
    for name in graphs.keys() - tokens.keys():
        further = FURTHER.fullmatch(name)
        if not further:
            raise ValueError(f"graph '{name}': expected '{BASELINE}', '{REDUCED}' or 'tokens_NNN'")
        tokens[name] = int(further[1])
    counts = [tokens[name] for name in graphs]
    if BASELINE not in graphs or len(set(counts)) < len(counts) or max(counts) > plan.tokens_in:
        raise ValueError(f"graphs of {counts} tokens: expected the baseline's {plan.tokens_in} and others, each once")
    return tuple(sorted((Graph(name, tokens[name]) for name in graphs), key=lambda graph: -graph.tokens))


def _copy_graphs(folder: Path, graphs: Mapping[str, Path]) -> list[str]:
    """Copy the graphs and the files that their weights are in; returns all names."""
    sources: dict[str, Path] = {}
    for name, path in graphs.items():
        wanted = {f"{name}.onnx": path} | {data: path.parent / data for data in _external_data(path)}
        for target, source in wanted.items():
            known = sources.setdefault(target, source)
            if known != source and sha256(known) != sha256(source):
                raise UserError(f"{known} and {source} are two files of one name: export one of the graphs elsewhere")
    for target, source in sources.items():
        if Path(target).name != target:
            raise UserError(f"{source}: a graph's weights have to lie beside it")
        shutil.copyfile(source, folder / target)
    return list(sources)


def _external_data(path: Path) -> set[str]:
    """Files, relative to a graph's folder, that hold weights of it."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    model = onnx.load(str(path), load_external_data=False)
    return {ExternalDataInfo(tensor).location for tensor in model.graph.initializer if uses_external_data(tensor)}


def _settings(plan: Plan, graphs: Iterable[Graph], target: Target, precision: str, facts: Mapping[str, Any]) -> str:
    """What the script reads: one key and its value per line, because a board may have nothing that reads JSON."""
    layers = list(facts.get("float32_layers", ()))
    for layer in layers:
        if not re.fullmatch(r"[^\s,:]+", layer):
            raise ValueError(f"float32_layers: trtexec cannot be told of a layer named {layer!r}")
    least = target.tensorrt or LEAST_FOR_OPSET_18
    shape = f"{_batch_size(plan, facts)}x3x{plan.image_px}x{plan.image_px}"
    lines = [
        f"target {target.name}",
        f"precision {precision}",
        f"typed {'yes' if target.typed else 'no'}",
        f"tensorrt_least {least[0]}.{least[1]}",
        *([f"workspace_mib {int(facts['workspace_mib'])}"] if facts.get("workspace_mib") else []),
        *([f"shapes {INPUT}:{shape}"] if facts.get("dynamic_batch") else []),
        *(f"float32_layer {layer}" for layer in layers),
        *(f"graph {graph.name}" for graph in graphs),
    ]
    return "\n".join(lines) + "\n"


def _batch_size(plan: Plan, facts: Mapping[str, Any]) -> int:
    return int(facts.get("batch_size") or plan.batch_size)


def _readme(
    name: str, plan: Plan, graphs: Iterable[Graph], target: Target, precision: str, facts: Mapping[str, Any]
) -> str:
    return Template(_packaged("BUNDLE.md")).substitute(
        vars(plan) | {"batch_size": _batch_size(plan, facts)},
        folder=name,
        target=target.title,
        precision=precision,
        toolkit_version=__version__,
        graphs="\n".join(f"| {graph.file} | {graph.tokens} |" for graph in graphs),
        promise=_promise(plan),
    )


def _promise(plan: Plan) -> str:
    if not plan.removed:
        return "Nothing was promised: the plan removes no tokens."
    if not plan.predicted_ms:
        return "Nothing was promised: the tokens to remove were given by hand."
    how = "" if plan.origin == MEASURED else f" ({plan.origin}, never measured)"
    return (
        f"Predicted: {plan.speedup:.2f}x for {plan.engine} {plan.precision} batch {plan.batch_size} on {plan.device}"
        f"{how}; of this board that promises nothing."
    )


def _packaged(name: str) -> str:
    return resources.files("pomt_edge.deploy").joinpath(name).read_text(encoding="utf-8")


def _replaceable(folder: Path) -> Manifest | None:
    """The manifest of the bundle that is to be replaced; None: nothing is there."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        return Manifest.load(folder / MANIFEST)
    except RecordError as error:
        raise UserError(f"{folder} is not empty and no bundle: give another folder, or empty it") from error


def _put(partial: Path, folder: Path, replaced: Manifest | None) -> None:
    """Give the new bundle its name, and what the board had added to the old one."""
    if replaced is None:
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        partial.rename(folder)
        return
    # Beside the folder under a name of its own, so that nothing is lost whenever this ends.
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".replaced", dir=folder.parent))
    os.replace(folder, aside)
    partial.rename(folder)
    written = {MANIFEST, SUMS, *(file.name for file in replaced.files)}
    for entry in aside.iterdir():
        if entry.name not in written and not (folder / entry.name).exists():
            entry.rename(folder / entry.name)
    shutil.rmtree(aside)


def _check(folder: Path, file: File) -> None:
    path = folder / file.name
    if Path(file.name).name != file.name or "\\" in file.name or file.name in ("", ".", ".."):
        raise UserError(
            f"{folder / MANIFEST} names '{file.name}', which is no file of this folder: it was tampered with"
        )
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} is a link that leads out of the folder: copy the bundle again, whole")
    if not path.is_file():
        raise UserError(f"{path} is missing: copy the bundle again, whole")
    if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
        raise UserError(f"{path} is not what was exported (its checksum differs): copy the bundle again, whole")


def _check_graphs(folder: Path, manifest: Manifest) -> None:
    listed = {file.name for file in manifest.files}
    for name in (PLAN, SETTINGS, SCRIPT, *(graph.file for graph in manifest.graphs)):
        if name not in listed:
            raise UserError(f"{folder / MANIFEST} has no checksum of {name}: it was tampered with")
    if extra := sorted(path.name for path in folder.glob("*.onnx") if path.name not in listed):
        raise UserError(f"{folder / extra[0]} is no graph of this bundle: remove it")
    if not manifest.graphs or manifest.graphs[0].name != BASELINE:
        raise UserError(f"{folder / MANIFEST} does not begin with the baseline: it was tampered with")


def _described(folder: Path, name: str) -> File:
    return File(name, sha256(folder / name), (folder / name).stat().st_size)


def _sums(files: Iterable[File]) -> str:
    """As sha256sum --check reads it."""
    return "".join(f"{file.sha256}  {file.name}\n" for file in files)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({error}): copy the bundle again, whole") from error
