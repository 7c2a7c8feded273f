"""Bundles of tiny graphs, and the fake trtexec that runs them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import samples
from onnx import TensorProto, helper

from pomt_edge.deploy import bundle
from pomt_edge.export.target import TARGETS
from pomt_edge.records import File, Plan

FAKES = Path(__file__).parents[1] / "fakes/bin"
TIMED = {"tokens_in": 197, "tokens_out": 107, "removed": 90, "verdict": "prune", "engine": "trt", "device": "cuda:0"}
SPEEDUP = (1 + 1.28 * 4) / (1 + 1.28 * 2)
"""On the fake, of 107 tokens against 197: 1.72x."""


def plan(**changes: Any) -> Plan:
    promise = {"speedup": 1.7, "speedup_low": 1.65, "speedup_high": 1.75, "precision": "fp16", "batch_size": 1}
    facts = TIMED | promise | changes
    schedule = tuple(facts["removed"] if block == 3 else 0 for block in range(12))
    return dataclasses.replace(samples.few().plan, schedule=schedule, **facts)


NARROW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def graph(path: Path, scale: float = 1.0, precision: str = "fp32") -> Path:
    """A real ONNX file that multiplies its input, which goes through the precision before."""
    nodes, narrow = [], "images"
    if precision in NARROW:
        nodes.append(helper.make_node("Cast", ["images"], ["half"], f"to_{precision}", to=NARROW[precision]))
        nodes.append(helper.make_node("Cast", ["half"], [narrow := "narrow"], to=TensorProto.FLOAT))
    elif precision == "int8":
        nodes.append(helper.make_node("QuantizeLinear", ["images", "step"], ["whole"]))
        nodes.append(helper.make_node("DequantizeLinear", ["whole", "step"], [narrow := "narrow"]))
    nodes.append(helper.make_node("Mul", [narrow, "scale"], ["logits"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "logits")]
    weights = [helper.make_tensor("scale", TensorProto.FLOAT, [1], [scale])]
    if precision == "int8":
        weights.append(helper.make_tensor("step", TensorProto.FLOAT, [], [0.1]))
    onnx.save(helper.make_model(helper.make_graph(nodes, "tiny", values[:1], values[1:], weights)), str(path))
    return path


def write(
    folder: Path,
    plan: Plan,
    further: tuple[int, ...] = (),
    target: str = "jetpack6",
    precision: str = "fp16",
    **facts: Any,
) -> tuple[File, ...]:
    source = folder.parent / "exported"
    source.mkdir(exist_ok=True)
    names = ["baseline", *(["reduced"] if plan.removed else []), *(f"tokens_{tokens}" for tokens in further)]
    # As deploy does: an older TensorRT is told by a flag, but for the scales of int8.
    written = precision if TARGETS[target].typed or precision == "int8" else "fp32"
    graphs = {name: graph(source / f"{name}.onnx", scale, written) for scale, name in enumerate(names)}
    return bundle.write(folder, plan=plan, graphs=graphs, target=TARGETS[target], precision=precision, facts=facts)


def run(
    folder: Path, *options: str, version: str = "10.3", crash: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """run_trtexec.sh of a bundle on a board whose TensorRT is of this version."""
    python = Path(sys.executable).resolve().parent  # itself, not a slow shim that looks for it
    path = os.pathsep.join([str(FAKES), str(python), os.environ["PATH"]])
    board = {"PATH": path, "FAKE_TRT_VERSION": version, "FAKE_TRT_CRASH": crash}
    command = [str(folder / "run_trtexec.sh"), *options]
    return subprocess.run(command, env=os.environ | board | env, capture_output=True, text=True, check=False)
