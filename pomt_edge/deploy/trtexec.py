"""What trtexec wrote: its times, its profiles, and what `run_trtexec.sh` of a bundle made of them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pomt_edge.choose.ratio import speedup_of
from pomt_edge.deploy.bundle import BASELINE, REDUCED, Bundle, Graph
from pomt_edge.engines import _tensorrt_layers
from pomt_edge.errors import UserError
from pomt_edge.measure import steadiness, timing
from pomt_edge.measure.visits import Visit, scaled
from pomt_edge.records import SCHEMA, Benchmark, LatencyCurve, LatencyPoint, Record, RecordError

TIMER = "trtexec computeMs"
RUN = "run.json"
DEFAULT_WARM_UP_MS = 200.0
"""trtexec's own."""
MOST_SAMPLES = 2000
"""Of one block. A fast engine has many thousands, and bootstrapping them all takes gigabytes and tells no more."""
CHUNKS = 8
"""Blocks that a single run is cut into for its interval: neighbouring samples are alike."""
EXPORTED = "expected the file of trtexec's --exportTimes"
PROFILED = "expected the file of trtexec's --exportProfile"


@dataclass(frozen=True)
class Layer:
    """A layer's time per forward."""

    name: str
    average_ms: float
    median_ms: float | None
    """None: TensorRT before 8.5 does not tell."""
    percent: float


@dataclass(frozen=True)
class RunsIn:
    """What most of an engine's matrix layers run in."""

    precision: str
    layers: int
    """Matrix layers in this precision …"""
    of: int
    """… of so many in all."""

    def __str__(self) -> str:
        return f"{self.precision} ({self.layers} of {self.of} matrix layers)"


@dataclass(frozen=True)
class EngineBuilt(Record):
    """One engine, as `run_trtexec.sh` tells of it."""

    graph: str
    status: str
    """'ok', 'kept' (built before) or 'failed'."""
    seconds: float
    why: str


@dataclass(frozen=True)
class EngineRun(Record):
    """One run of trtexec, as `run_trtexec.sh` tells of it."""

    graph: str
    what: str
    """'times' or 'profile'."""
    file: str
    status: str
    """'ok' or 'failed'."""
    why: str


@dataclass(frozen=True)
class BoardRun(Record):
    """results/run.json: all that `run_trtexec.sh` did, in order."""

    manifest_sha256: str
    tensorrt: str
    warm_up_ms: float
    status: str
    """'running' (the file is written after every round) or 'done'."""
    rounds: int
    rounds_done: int
    written: str
    uname: str
    power_mode: str
    notes: tuple[str, ...]
    builds: tuple[EngineBuilt, ...]
    runs: tuple[EngineRun, ...]
    schema: int = SCHEMA


def times(path: Path, warm_up_ms: float = DEFAULT_WARM_UP_MS) -> timing.Block:
    """Milliseconds that each forward took on the GPU, of a file of trtexec's --exportTimes, from 8.2 to 11.

    TensorRT 8.2 exports the warm-up's forwards, too: those that began before it was over are left out.

    Raises:
        UserError: not such a file, or no forward behind the warm-up.
    """
    rows = _rows(path, EXPORTED)
    samples = []
    for number, row in enumerate(rows, 1):
        ms = _number(path, row, "computeMs", f"record {number}", EXPORTED)
        if ms <= 0:
            raise UserError(f"{path}: record {number} took {ms:g} ms; {EXPORTED}")
        if _number(path, row, "startComputeMs", f"record {number}", EXPORTED) >= warm_up_ms:
            samples.append(ms)
    if not samples:
        raise UserError(f"{path}: no forward behind the warm-up of {warm_up_ms:g} ms: give trtexec a longer --duration")
    return tuple(samples)


def profile(path: Path) -> tuple[Layer, ...]:
    """The layers of a file of trtexec's --exportProfile, slowest first.

    Raises:
        UserError: not such a file.
    """
    layers = []
    for row in _rows(path, PROFILED):
        if "name" not in row:
            continue  # the count of forwards, which goes before the layers
        where = f"layer '{row['name']}'"
        average, percent = (_number(path, row, key, where, PROFILED) for key in ("averageMs", "percentage"))
        median = _number(path, row, "medianMs", where, PROFILED) if "medianMs" in row else None
        layers.append(Layer(str(row["name"]), average, median, percent))
    if not layers:
        raise UserError(f"{path}: no layers; {PROFILED}")
    return tuple(sorted(layers, key=lambda layer: -layer.average_ms))


def runs_in(path: Path) -> RunsIn | None:
    """What an engine runs in, of a file of trtexec's --exportLayerInfo; None: it does not tell, or there is none."""
    try:
        layers = _tensorrt_layers.from_inspector(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, RecursionError, TypeError, AttributeError):
        return None  # the times are worth reading all the same
    found = _tensorrt_layers.precision(layers)
    matrix = [layer.precision for layer in layers if layer.multiplies]
    return RunsIn(found, matrix.count(found), len(matrix)) if found else None


def point(block: timing.Block, tokens: int = 0) -> LatencyPoint:
    """The latency of one run alone."""
    chunks = np.array_split(np.asarray(block), min(CHUNKS, len(block)))
    return timing.summarise(tokens, [tuple(map(float, chunk)) for chunk in chunks], "trtexec")


def board_run(bundle: Bundle, results: Path) -> BoardRun:
    """What `run_trtexec.sh` tells of its run.

    Raises:
        UserError: not run, ended before its first round did, or run with another bundle.
    """
    file = results / RUN
    if not file.exists():
        raise UserError(
            f"{file} is missing: type bash run_trtexec.sh on the board and let it end, then copy the folder back"
        )
    try:
        run = BoardRun.load(file)
    except RecordError as error:
        raise UserError(str(error)) from error
    if run.schema > SCHEMA:
        raise UserError(f"{file}: schema is {run.schema}, this version reads up to {SCHEMA}: update pomt-edge")
    if run.manifest_sha256 != bundle.manifest_sha256:
        raise UserError(f"{results} are results of another bundle: type bash run_trtexec.sh in this one on the board")
    return run


def failures(run: BoardRun) -> list[str]:
    """What failed on the board, a sentence each."""
    built = [f"{build.graph}: the build failed ({build.why})" for build in run.builds if build.status == "failed"]
    return built + [f"{one.graph}: {one.file} failed ({one.why})" for one in run.runs if one.status == "failed"]


def cut_off(run: BoardRun) -> str | None:
    """What is missing of a run that did not end, as a sentence."""
    if run.status == "done":
        return None
    return f"run_trtexec.sh did not end: {run.rounds_done} of {run.rounds} rounds"


def curve(bundle: Bundle, results: Path) -> LatencyCurve:
    """The points of all graphs that were timed; each block is scaled by the unreduced model's around it.

    Raises:
        UserError: see `board_run`; a file that is missing or malformed; nothing of the unreduced or reduced model.
    """
    run = board_run(bundle, results)
    visits = _visits(bundle, run, results)
    anchor = bundle.manifest.graphs[0].tokens
    blocks = scaled(visits, anchor)
    points = []
    for graph in bundle.manifest.graphs:
        own = [block for visit, block in zip(visits, blocks, strict=True) if visit.tokens == graph.tokens]
        if own:
            points.append(timing.summarise(graph.tokens, own, "rounds"))
        elif graph.name in (BASELINE, REDUCED):
            raise UserError(f"{results}: nothing of the {graph.name} model was timed: {_reason(run, graph)}")
    anchors = tuple(float(np.median(visit.block)) for visit in visits if visit.tokens == anchor)
    return LatencyCurve(
        tuple(points),
        anchor_ms=anchors,
        steadiness=steadiness.of_blocks([visit.block for visit in visits], anchors, points),
    )


def benchmark(bundle: Bundle, results: Path) -> Benchmark:
    """The unreduced and the reduced model, by the rounds in which they were timed in turn.

    Raises:
        UserError: see `curve`.
    """
    return benchmark_of(bundle, curve(bundle, results))


def benchmark_of(bundle: Bundle, measured: LatencyCurve) -> Benchmark:
    """The same of a curve that was read before."""
    graphs = {graph.name: graph.tokens for graph in bundle.manifest.graphs}
    reduced = measured.at(graphs[REDUCED]) if REDUCED in graphs else None
    speedup, low, high = speedup_of(measured, graphs.get(REDUCED, graphs[BASELINE]))
    images = 1e3 * bundle.manifest.batch_size
    return Benchmark(
        baseline=measured.baseline,
        reduced=reduced,
        baseline_images_per_s=images / measured.baseline.median_ms,
        reduced_images_per_s=images / reduced.median_ms if reduced else None,
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        steadiness=measured.steadiness,
        timer=TIMER,
    )


def _visits(bundle: Bundle, run: BoardRun, results: Path) -> list[Visit]:
    tokens = {graph.name: graph.tokens for graph in bundle.manifest.graphs}
    numbers = {name: itertools.count(1) for name in tokens}
    visits = []
    for one in run.runs:
        if one.what != "times" or one.status != "ok":
            continue
        if one.graph not in tokens or Path(one.file).name != one.file:
            raise UserError(f"{results / RUN} names '{one.file}' of '{one.graph}', which is not this bundle's")
        block = times(results / one.file, run.warm_up_ms)
        block = block[:: math.ceil(len(block) / MOST_SAMPLES)]
        visits.append(Visit(next(numbers[one.graph]), tokens[one.graph], block))
    return visits


def _reason(run: BoardRun, graph: Graph) -> str:
    found = [sentence for sentence in failures(run) if sentence.startswith(f"{graph.name}: ")]
    return found[0] if found else "type bash run_trtexec.sh on the board again"


def _rows(path: Path, expected: str) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {expected}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); {expected}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: no list of records; {expected}")
    return rows


def _number(path: Path, row: Mapping[str, Any], key: str, where: str, expected: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise UserError(f"{path}: {where} has the {key} {value!r}; {expected}")
    return float(value)
