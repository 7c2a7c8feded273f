"""Every method exported for every target, proven, built and timed: the tables of a deployment on this machine.

    python benchmarks/deployment_table.py --model deit_small --bs 1
    python benchmarks/deployment_table.py --model deit_tiny --num-classes 10 --weights w.safetensors --data folder

Latency is told as the ratio of the reduced to the unreduced model of the same engine, measured in turn. One engine is
measured at a time: the threads of two would wait for each other.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

from pomt_edge.deploy import parity
from pomt_edge.engines import BuildOptions, Session, Setting, onnxruntime, openvino
from pomt_edge.engines import torch as eager
from pomt_edge.errors import UserError
from pomt_edge.export import files, graph, lint, opset, outputs, precision, target
from pomt_edge.measure import datasets
from pomt_edge.models import create
from pomt_edge.models.family import family_of
from pomt_edge.reduce import schedule
from pomt_edge.reduce.reduced_model import reduce_model

METHODS = ("pomt", "topk", "tome", "pitome")
ROUNDS = 15
BLOCK_MS = 300.0


def main(
    model: Annotated[str, typer.Option()] = "deit_small",
    batch_size: Annotated[int, typer.Option("--bs")] = 1,
    removed: Annotated[int, typer.Option()] = 98,
    block: Annotated[int, typer.Option()] = 3,
    num_classes: Annotated[int | None, typer.Option()] = None,
    weights: Annotated[Path | None, typer.Option()] = None,
    data: Annotated[Path | None, typer.Option()] = None,
    normalize: Annotated[float | None, typer.Option(help="One mean and std, such as 0.5.")] = None,
    latency: Annotated[bool, typer.Option()] = True,
) -> None:
    created = create.create(create.Wanted(model, num_classes, None, weights))
    variants: dict[str, nn.Module] = {"unreduced": created.model}
    depth = len(family_of(created.model).blocks(created.model))
    for method in METHODS:
        removals = schedule.spread(removed, [block], depth)
        variants[method] = reduce_model(created.model, method=method, schedule=removals, copy=False)
    preprocessing = created.preprocessing
    if normalize is not None:
        preprocessing = dataclasses.replace(preprocessing, mean=(normalize,) * 3, std=(normalize,) * 3)
    batches = _batches(data, preprocessing, batch_size)
    print(f"{created.name}, weights {created.weights}, batch {batch_size}, {removed} tokens removed in block {block}")
    with tempfile.TemporaryDirectory() as scratch:
        paths = {name: _export(name, one, batches, batch_size, Path(scratch)) for name, one in variants.items()}
        if latency:
            _latencies(variants, paths, batch_size, preprocessing.image_px)


def _batches(data: Path | None, preprocessing: Any, size: int) -> list[torch.Tensor]:
    if data is None:
        px = preprocessing.image_px
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(size, 3, px, px, generator=generator) for _ in range(32 // size)]
    images = datasets.read_folder(data, preprocessing, 64, 0, 0, False)
    return list(images.batches(preprocessing, size))


def _export(name: str, model: nn.Module, batches: list[torch.Tensor], size: int, folder: Path) -> Path:
    """Write the graph, and print what each target and each engine says of it."""
    px = batches[0].shape[-1]
    expected = parity.reference(model, batches)
    whole = graph.to_onnx(model, batch_size=size, image_px=px, taps=True)
    taps = [output.name for output in whole.graph.output if not output.name.startswith("block")]
    tapped = outputs.only(whole, taps)
    plain = outputs.only(whole, ["logits"])
    path, tokens = folder / f"{name}.onnx", folder / f"{name}.tokens.onnx"
    files.write(plain, path)
    files.write(tapped, tokens)
    accepted = [one.name for one in target.TARGETS.values() if _passes(plain, one, "fp32")]
    half = [one.name for one in target.TARGETS.values() if one.typed and _passes(plain, one, "fp16")]
    print(
        f"\n{name}: {len(plain.graph.node)} nodes; fp32 for {', '.join(accepted)}; "
        f"fp16 in the graph for {', '.join(half)}"
    )
    setting = Setting("cpu", "fp32", size, px)
    for engine in (onnxruntime, openvino):
        found = parity.run(_session(engine, tokens, setting, folder), batches)
        _say(engine.__name__.rpartition(".")[2], "fp32", expected, found)
    lowered = folder / f"{name}.13.onnx"
    files.write(opset.lowered(tapped, 13, 7), lowered)
    _say(
        "onnxruntime, opset 13", "fp32", expected, parity.run(_session(onnxruntime, lowered, setting, folder), batches)
    )
    for kind, made in (("fp32", plain), ("fp16", precision.typed(plain, "fp16"))):
        _build(name, kind, made, setting, folder)
    return path


def _passes(model: Any, one: target.Target, kind: str) -> bool:
    made = model if kind == "fp32" else precision.typed(model, "fp16")
    try:
        lint.check(opset.lowered(made, one.opset, one.ir_version), one)
    except UserError as error:
        print(f"  {one.name}: {error}")
        return False
    return True


def _session(engine: Any, path: Path, setting: Setting, folder: Path) -> Session:
    session: Session = engine.load(engine.build(path, setting, BuildOptions(folder, path.stem)), setting)
    return session


def _say(engine: str, kind: str, expected: parity.Outputs, found: parity.Outputs) -> None:
    result = parity.compare(parity.Subject("", engine, kind, True), expected, found)
    tokens = "" if result.same_tokens_percent is None else f", same tokens {result.same_tokens_percent:.1f} %"
    verdict = "ok" if result.passed else f"FAILED: {result.because}"
    print(
        f"  {engine}: logits off by {result.max_abs_diff:.2g} (allowed {result.max_abs_diff_allowed:.2g}), "
        f"same class {result.top1_percent:.1f} % of {result.images}{tokens}: {verdict}"
    )


def _build(name: str, kind: str, model: Any, setting: Setting, folder: Path) -> None:
    from pomt_edge.engines import trt_rtx

    path = folder / f"{name}.{kind}.onnx"
    files.write(model, path)
    began = time.perf_counter()
    built = trt_rtx.build(
        path, dataclasses.replace(setting, device="cuda", precision=kind), BuildOptions(folder, path.stem)
    )
    seconds = time.perf_counter() - began
    print(
        f"  trt-rtx {kind}: built in {seconds:.1f} s, {built.size_mib:.1f} MiB, runs in {built.precision}, "
        f"{dict(built.kernels)}"
    )


def _latencies(variants: dict[str, nn.Module], paths: dict[str, Path], size: int, px: int) -> None:
    setting = Setting("cpu", "fp32", size, px)
    print(f"\n{'ms (ratio to unreduced, 95 %)':32s}" + "".join(f"{name:>24s}" for name in variants))
    for engine in (eager, onnxruntime, openvino):
        with tempfile.TemporaryDirectory() as folder:
            if engine is eager:
                options = BuildOptions(Path(folder), "x")
                prepared = {name: eager.prepare(model, setting) for name, model in variants.items()}
                sessions = {
                    name: eager.load(eager.build(one, setting, options), setting) for name, one in prepared.items()
                }
            else:
                sessions = {name: _session(engine, path, setting, Path(folder)) for name, path in paths.items()}
            medians = _in_turn(sessions)
        cells = [f"{np.median(medians['unreduced']):.2f}"]
        for name in list(variants)[1:]:
            ratios = medians[name] / medians["unreduced"]
            low, high = np.quantile(
                np.median(ratios[np.random.default_rng(0).integers(ROUNDS, size=(2000, ROUNDS))], axis=1),
                [0.025, 0.975],
            )
            cells.append(f"{np.median(medians[name]):.2f} ({np.median(ratios):.3f}, {low:.3f}-{high:.3f})")
        print(f"{engine.__name__.rpartition('.')[2]:32s}" + "".join(f"{cell:>24s}" for cell in cells), flush=True)


def _in_turn(sessions: dict[str, Session]) -> dict[str, np.ndarray[Any, Any]]:
    """The medians of each session's blocks, a block of each in every round."""
    medians: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            (one,) = session.time_ms(1)
            medians[name].append(float(np.median(session.time_ms(max(round(BLOCK_MS / one), 3)))))
    return {name: np.array(values) for name, values in medians.items()}


if __name__ == "__main__":
    typer.run(main)
