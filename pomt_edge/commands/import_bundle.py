"""`pomt-edge import`: what trtexec measured on a board, as a table, and whether the plan's promise held there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pomt_edge.commands.common import NEGATIVE, path
from pomt_edge.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from pomt_edge.deploy.bundle import Bundle
    from pomt_edge.deploy.trtexec import BoardRun, Layer, RunsIn
    from pomt_edge.records import LatencyCurve, LatencyPoint

RESULTS = "results"
LATENCY = ("median ms (95 %)", "p90", "p95", "p99")
SLOWEST = 10
BOARD = "a board"
"""Whatever the plan was made on: nobody knows whether it is this one."""
UNCOMPARED = "the board's outputs were not compared with torch's"


def import_bundle(
    source: Annotated[
        Path,
        typer.Argument(
            parser=path,
            metavar="DIR|TIMES.json",
            help="A bundle's folder with its results, or trtexec's --exportTimes.",
        ),
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="TIMES.json", help="The unreduced model's times, to hold TIMES.json against."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", parser=path, metavar="FOLDER", help="[default: DIR/results]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Read what run_trtexec.sh of a bundle, or trtexec itself, measured on a board.

    Exit code 1 if an engine runs in another precision than was asked for, else 0.
    """
    if source.is_dir():
        if baseline:
            raise UserError(f"--baseline {baseline}: a bundle has its own baseline; leave --baseline out")
        return _import_folder(source, out or source / RESULTS, as_json)
    if out:
        raise UserError(f"--out {out}: of a file of times nothing is written; leave --out out")
    return _import_times(source, baseline, as_json)


def _import_folder(folder: Path, out: Path, as_json: bool) -> int:
    from pomt_edge.deploy import bundle as bundles
    from pomt_edge.deploy import trtexec
    from pomt_edge.deploy.promise import promise

    bundle = bundles.open_checked(folder)
    results = folder / RESULTS
    run = trtexec.board_run(bundle, results)
    curve = trtexec.curve(bundle, results)
    benchmark = trtexec.benchmark_of(bundle, curve)
    precision, batch_size = bundle.manifest.precision, bundle.manifest.batch_size
    ran = _ran(bundle, results)
    wrong = _wrong(ran, precision)
    notes, failures = _notes(bundle, run, ran), [*trtexec.failures(run), *wrong]
    really = next((found.precision for found in ran.values() if found and found.precision != precision), precision)
    measured_with = {"engine": "trt", "precision": really, "batch_size": batch_size, "device": BOARD}
    word, sentence = promise(bundle.plan, benchmark, measured_with)
    _make(out)
    benchmark.save(out / "benchmark.json")
    _write_curve(curve, out)
    if as_json:
        told = {"promise": word, "because": sentence, "notes": notes, "failures": failures}
        print(json.dumps({"benchmark": benchmark.to_dict()} | told, indent=2, allow_nan=False))
    else:
        about = f"{bundle.plan.model}, batch {batch_size}, TensorRT {run.tensorrt} {precision}"
        _print(
            [
                f"{about}, {run.uname}{f', {_line(run.power_mode)}' if run.power_mode else ''}",
                _points(curve.points, batch_size),
                *_profiles(bundle, results),
                *(f"Note: {note}." for note in notes),
                *(f"Error: {failure}." for failure in failures),
                f"{sentence[0].upper()}{sentence[1:]}. Written: {out / 'benchmark.json'}",
            ]
        )
    return NEGATIVE if wrong else 0


def _ran(bundle: Bundle, results: Path) -> dict[str, RunsIn | None]:
    """What each graph's engine runs in; None: nobody tells."""
    from pomt_edge.deploy import trtexec

    names = [graph.name for graph in bundle.manifest.graphs]
    return {name: trtexec.runs_in(results / f"{name}.layers.json") for name in names}


def _wrong(ran: Mapping[str, RunsIn | None], asked: str) -> list[str]:
    return [
        f"{name} runs in {found}, and {asked} was asked for: its times are not those of {asked}"
        for name, found in ran.items()
        if found and found.precision != asked
    ]


def _notes(bundle: Bundle, run: BoardRun, ran: Mapping[str, RunsIn | None]) -> list[str]:
    from pomt_edge.deploy import trtexec

    cut_off = trtexec.cut_off(run)
    asked = bundle.manifest.precision
    untold = [name for name, found in ran.items() if found is None]
    return [
        *run.notes,
        *([cut_off] if cut_off else []),
        *(f"{name} runs in {found}" for name, found in ran.items() if found and found.precision == asked),
        *([f"whether it runs in {asked} is not told of: {', '.join(untold)}"] if untold else []),
        *_unproven(bundle),
        UNCOMPARED,
    ]


def _unproven(bundle: Bundle) -> list[str]:
    proven = bundle.manifest.facts.get("proven")
    if not isinstance(proven, Mapping):
        return []
    names = [graph.name for graph in bundle.manifest.graphs if not proven.get(graph.name)]
    return [f"not proven before they were sent to the board: {', '.join(names)}"] if names else []


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}; give a folder that can be written to") from error


def _write_curve(curve: LatencyCurve, out: Path) -> None:
    """What more than two graphs tell: the curve, and the staircase in it."""
    if len(curve.points) < 3:
        return
    from pomt_edge.choose import staircase
    from pomt_edge.records import write_text
    from pomt_edge.report import files

    write_text(out / "curve.csv", files.curve_csv(curve))
    curve.save(out / "curve.json")
    staircase.fit(curve).save(out / "staircase.json")


def _import_times(source: Path, baseline: Path | None, as_json: bool) -> int:
    from pomt_edge.choose.gap import between, reach
    from pomt_edge.deploy import trtexec

    point = trtexec.point(trtexec.times(source))
    record: dict[str, object] = {"point": point.to_dict()}
    lines: list[object] = [_runs({"times": point})]
    if baseline:
        unreduced = trtexec.point(trtexec.times(baseline))
        gap = between(point, unreduced, [reach(point)], [reach(unreduced)])
        speedup, low, high = (math.exp(value) for value in (gap.value, gap.low, gap.high))
        record |= {"baseline": unreduced.to_dict(), "speedup": speedup, "speedup_low": low, "speedup_high": high}
        lines = [
            _runs({"baseline": unreduced, "times": point}),
            f"{source.name} is {speedup:.2f}x ({low:.2f} to {high:.2f}) as fast as {baseline.name}. They were timed "
            "one after the other: a change of the machine in between is not in that interval.",
        ]
    if as_json:
        print(json.dumps(record, indent=2, allow_nan=False))
    else:
        _print(lines)
    return 0


def _points(points: Sequence[LatencyPoint], batch_size: int) -> Table:
    """One row per token count, the unreduced model's first."""
    table = _table("tokens", *LATENCY, "images/s", "speedup")
    for point in points:
        name = f"{point.tokens}{' (all)' if point is points[0] else ''}"
        images, speedup = 1e3 * batch_size / point.median_ms, points[0].median_ms / point.median_ms
        table.add_row(name, *_latency(point), f"{images:.4g}", f"{speedup:.2f}x")
    return table


def _runs(points: Mapping[str, LatencyPoint]) -> Table:
    """One row per file of times, by its name in the table."""
    table = _table("", *LATENCY, "samples")
    for name, point in points.items():
        table.add_row(name, *_latency(point), str(point.samples))
    return table


def _latency(point: LatencyPoint) -> list[str]:
    """The cells below `LATENCY`; a percentile that the samples do not support is not told."""
    from pomt_edge.report.numerals import interval, ms_decimals, number

    decimals = ms_decimals(point.median_ms)
    median = f"{number(point.median_ms, decimals)} ({interval(point.low_ms, point.high_ms, decimals)})"
    return [median, *(number(ms, decimals) for ms in (point.p90_ms, point.p95_ms, point.p99_ms))]


def _profiles(bundle: Bundle, results: Path) -> list[Table]:
    """The slowest layers of each graph that was profiled."""
    from pomt_edge.deploy import trtexec

    found = {graph.name: results / f"{graph.name}.profile.json" for graph in bundle.manifest.graphs}
    return [_layers(name, trtexec.profile(file)) for name, file in found.items() if file.exists()]


def _layers(name: str, layers: Sequence[Layer]) -> Table:
    from rich.text import Text

    count = f"the {SLOWEST} slowest of {len(layers)}" if len(layers) > SLOWEST else f"all {len(layers)}"
    table = _table(f"layers of {name}, {count}", "ms", "%")
    for layer in layers[:SLOWEST]:
        ms = layer.average_ms if layer.median_ms is None else layer.median_ms
        label = layer.name if len(layer.name) <= 60 else f"{layer.name[:59]}…"
        table.add_row(Text(label), f"{ms:.4f}", f"{layer.percent:.1f}")
    return table


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == headings[0] else "right", no_wrap=True)
    return table


def _line(text: str) -> str:
    return " ".join(text.split())


def _print(lines: Sequence[object]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    for line in lines:
        console.print(line, markup=False, highlight=False)
