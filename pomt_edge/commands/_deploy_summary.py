"""The tables and the sentence that `deploy` ends with."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from pomt_edge.deploy_request import DEPLOYMENT
from pomt_edge.records import Benchmark, Build, Deployment, LatencyPoint, Parity, ServeCheck
from pomt_edge.report.unrest import clock_sentence

DASH = "-"
Row = tuple[str, ...]


def print_deployment(result: Deployment, folder: Path, to_stderr: bool) -> None:
    """Proof, builds, benchmark, the way from image to label, notes, and one plain sentence."""
    console = Console(stderr=to_stderr, soft_wrap=True)
    plan = result.plan
    console.print(
        f"{plan.model}, {plan.method}, {plan.tokens_out} of {plan.tokens_in} tokens, batch {_batch(result)}, "
        f"{result.engine} {result.precision}",
        highlight=False,
    )
    if result.parities:
        console.print(_proof(result.parities))
    if result.builds:
        console.print(_builds(result.builds))
    if result.benchmark is not None:
        console.print(_benchmark(result.benchmark))
    if result.serve is not None:
        console.print(_serve(result.serve))
    clocks = (result.environment.details.get("clocks") if result.environment else None) or {}
    notes = [*([clock_sentence(clocks)] if clocks else []), *result.notes]
    for note in notes:
        console.print(f"Note: {note}", markup=False, highlight=False)
    console.print(f"{_sentence(result)} Results: {folder / DEPLOYMENT}", markup=False, highlight=False)


def _batch(result: Deployment) -> int:
    return result.environment.batch_size if result.environment else result.plan.batch_size


def _sentence(result: Deployment) -> str:
    lead = {
        "deployed": "Deployed",
        "exported": "Exported",
        "not run": "Not deployed",
        "diverges": "Not deployed, the proof failed",
    }[result.verdict]
    because = result.because.rstrip(".")
    return f"{lead}: {because}." if because else f"{lead}."


def _table(title: str, headings: tuple[str, ...], rows: list[Row], left: int = 1) -> Table:
    """A table without the columns that no row has anything for."""
    filled = [any(row[column] not in ("", DASH) for row in rows) for column in range(len(headings))]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column, heading in enumerate(headings):
        if filled[column]:
            table.add_column(heading, justify="left" if column < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell for cell, shown in zip(row, filled, strict=True) if shown))
    return table


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4g}"


def _proof(parities: tuple[Parity, ...]) -> Table:
    rows: list[Row] = [
        (
            one.variant,
            f"{one.engine} {one.precision}",
            f"{one.max_abs_diff:.2g} ({one.max_abs_diff_allowed:.2g})",
            f"{one.top1_percent:.1f}",
            DASH if one.same_tokens_percent is None else f"{one.same_tokens_percent:.1f}",
            "ok" if one.passed else "FAILED",
        )
        for one in parities
    ]
    images = f"{parities[0].images} {'images' if parities[0].real_images else 'seeded inputs'}"
    headings = ("model", "in", "logits off (allowed)", "class %", "tokens %", "proof")
    return _table(f"Against torch fp32, {images}; class, tokens: images with the same ones", headings, rows, left=2)


def _builds(builds: tuple[Build, ...]) -> Table:
    rows: list[Row] = [
        (
            f"{one.variant} {one.number}",
            one.precision or "not told",
            f"{one.seconds:.2f}",
            "" if one.load_seconds is None else f"{one.load_seconds:.2f}",
            _number(one.size_mib),
            _number(one.first_inference_ms),
            _number(one.median_ms),
        )
        for one in builds
    ]
    headings = ("build", "runs in", "build s", "load s", "MiB", "first inference ms", "median ms")
    return _table("", headings, rows, left=2)


def _benchmark(found: Benchmark) -> Table:
    points: list[tuple[str, LatencyPoint, float | None]] = [("baseline", found.baseline, found.baseline_images_per_s)]
    if found.reduced is not None:
        points.append(("reduced", found.reduced, found.reduced_images_per_s))
    rows: list[Row] = [
        (
            f"{name}, {point.tokens}",
            f"{_number(point.median_ms)} ({_number(point.low_ms)} to {_number(point.high_ms)})",
            *map(_number, (point.p90_ms, point.p95_ms, point.p99_ms, rate, point.memory_mib, point.energy_mj)),
        )
        for name, point, rate in points
    ]
    headings = ("model, tokens", "latency ms (95 %)", "p90", "p95", "p99", "images/s", "MiB", "mJ/image")
    return _table("", headings, rows)


def _serve(check: ServeCheck) -> Table:
    speedup = f"{check.speedup:.2f}x ({check.speedup_low:.2f} to {check.speedup_high:.2f})"
    title = f"From image file to label: {speedup}; same label for {check.same_labels_percent:.1f} % of {check.images}"
    rows: list[Row] = [(stage.name, f"{stage.baseline_ms:.3g}", f"{stage.reduced_ms:.3g}") for stage in check.stages]
    totals = [sum(stage.baseline_ms for stage in check.stages), sum(stage.reduced_ms for stage in check.stages)]
    rows.append(("all", *(f"{total:.3g}" for total in totals)))
    return _table(title, ("ms per image", "baseline", "reduced"), rows)
