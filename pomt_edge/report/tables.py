"""The page's tables, as rows of text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pomt_edge.records import AccuracyPoint, Cost, LatencyPoint, Result, Staircase
from pomt_edge.report import unrest
from pomt_edge.report.chart import Chart, coordinate
from pomt_edge.report.numerals import ABSENT, finite, interval, join, ms_decimals, number, signed
from pomt_edge.report.words import measure_of, where


@dataclass(frozen=True)
class Figure:
    """A key figure: its name, its value with the unit, its 95 % interval where there is one."""

    name: str
    value: str
    interval: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the data table; the chart's tooltip finds its values by `key`."""

    key: str
    name: str


@dataclass(frozen=True)
class Row:
    tokens: int
    x: str
    y: str
    role: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class StepRow:
    edge: str
    height: str
    percent: str
    bar: str
    slower: bool


def decimals_of(result: Result) -> int:
    points = result.curve.points
    return ms_decimals(points[0].median_ms if points else result.plan.baseline_ms)


def key_figures(result: Result) -> list[Figure]:
    """Latency, speedup and accuracy, each with its interval."""
    plan, digits = result.plan, decimals_of(result)
    before, after = _latency_at(result, plan.tokens_in), _latency_at(result, plan.tokens_out)
    if result.schedules and result.searched:
        before, after = result.schedules.baseline, result.searched.latency
    return [
        Figure("Baseline latency", f"{number(plan.baseline_ms, digits)} ms", _latency_interval(before, digits)),
        Figure("Predicted latency", f"{number(plan.predicted_ms, digits)} ms", _latency_interval(after, digits)),
        Figure("Speedup", f"{number(plan.speedup, 2)}x", interval(plan.speedup_low, plan.speedup_high, 2)),
        _memory(result, before, after),
        Figure("Energy per image", _change(before, after, "energy_mj", "mJ")),
        *_quality_figures(result),
    ]


def _memory(result: Result, before: LatencyPoint | None, after: LatencyPoint | None) -> Figure:
    if result.plan.device == "cpu" and after and finite(after.memory_mib):
        return Figure("Memory of the process", f"{number(after.memory_mib, 0)} MiB")
    return Figure("Memory", _change(before, after, "memory_mib", "MiB"))


def _change(before: LatencyPoint | None, after: LatencyPoint | None, field: str, unit: str) -> str:
    values = [getattr(point, field, None) for point in (before, after)]
    if not finite(*values):
        return "absent: not counted here"
    return f"{number(values[0], 1)} → {number(values[1], 1)} {unit}"


def _latency_at(result: Result, tokens: int) -> LatencyPoint | None:
    return next((point for point in result.curve.points if point.tokens == tokens), None)


def _latency_interval(point: LatencyPoint | None, digits: int) -> str:
    return interval(point.low_ms, point.high_ms, digits) if point else ""


def _quality_figures(result: Result) -> list[Figure]:
    measure, plan = measure_of(result), result.plan
    if result.accuracy is None or measure is None:
        return [Figure("Accuracy", "not measured")]
    by_tokens = {point.tokens: point for point in result.accuracy.points}
    after = result.searched.accuracy if result.searched else by_tokens.get(plan.tokens_out)
    drop = Figure("Drop", "not measured")
    if finite(plan.drop):
        drop = Figure("Drop", f"{number(plan.drop, 2)} points", interval(plan.drop_low, plan.drop_high, 2))
    return [
        _percent(f"Baseline {measure}", plan.baseline_percent, by_tokens.get(plan.tokens_in)),
        _percent(f"Predicted {measure}", plan.predicted_percent, after),
        drop,
    ]


def _percent(name: str, percent: float | None, point: AccuracyPoint | None) -> Figure:
    if not finite(percent):
        return Figure(name, "not measured")
    return Figure(name, f"{number(percent, 2)} %", interval(point.low, point.high, 2) if point else "")


def choice(result: Result) -> list[Figure]:
    """What the plan does to the model, and what was asked of it."""
    plan = result.plan
    limits = [f"{limit_name(name, result)} {_text(value)}" for name, value in plan.limits.items()]
    return [
        Figure("Tokens", f"{plan.tokens_in} → {plan.tokens_out}"),
        Figure("Removed", f"{plan.removed} {where(plan)}" if plan.removed else "none"),
        Figure("Method", plan.method),
        Figure("Limits", "; ".join(limits) or "none"),
        Figure("Batch", f"{plan.batch_size} × {plan.image_px} px"),
        Figure("Engine", f"{plan.engine}, {plan.precision}"),
        *_cost_figures(result.costs),
    ]


def _cost_figures(costs: Sequence[Cost]) -> list[Figure]:
    """What the plan costs on paper, per image."""
    if not costs:
        return []
    before, after = costs[0], costs[-1]
    less = 100 * (after.gflops / before.gflops - 1) if before.gflops else 0.0
    return [
        Figure("Operations", f"{number(before.gflops, 2)} → {number(after.gflops, 2)} GFLOP ({signed(less, 1)} %)"),
        Figure("Peak activations", f"{before.peak_activation_mib:.1f} → {after.peak_activation_mib:.1f} MiB"),
        Figure("Parameters", f"{after.parameters / 1e6:.2f} million"),
        Figure("Tokens after each block", _runs(after.tokens_per_block)),
    ]


def _runs(counts: Sequence[int]) -> str:
    """'197 (3 blocks), 141 (9)': equal neighbours together."""
    runs = [(count, len(list(group))) for count, group in itertools.groupby(counts)]
    if len(runs) > 4:
        return ", ".join(map(str, counts))
    return ", ".join(f"{count} ({length} block{'s' if length > 1 else ''})" for count, length in runs)


def limit_name(name: str, result: Result) -> str:
    return name.replace("accuracy", measure_of(result) or "accuracy").replace("_", " ")


def columns(result: Result) -> list[Column]:
    measure = measure_of(result)
    latency = [
        Column("median", "median, ms"),
        Column("low", "low"),
        Column("high", "high"),
        Column("samples", "samples"),
        Column("blocks", "blocks"),
        Column("stop", "stopped by"),
        Column("p90", "p90, ms"),
        Column("p95", "p95"),
        Column("p99", "p99"),
        Column("cv", "CV, %"),
        Column("memory", "memory, MiB"),
        Column("energy", "energy, mJ/image"),
        Column("efficient", "efficient"),
    ]
    quality = [
        Column("quality", f"{measure}, %"),
        Column("quality-interval", "interval"),
        Column("images", "images"),
        Column("drop", "drop, points"),
        Column("drop-interval", "interval"),
    ]
    return [*latency, *(quality if measure else ())]


def data_rows(result: Result, chart: Chart | None) -> list[Row]:
    """Every count that was measured in either way, most tokens first, with its place in the chart."""
    digits = decimals_of(result)
    latency = {point.tokens: point for point in result.curve.points}
    quality = {point.tokens: point for point in result.accuracy.points} if result.accuracy else {}
    efficient, measured = set(result.staircase.efficient), result.accuracy is not None
    rows = []
    for tokens in sorted({*latency, *quality}, reverse=True):
        point = latency.get(tokens)
        cells = _latency_cells(point, tokens in efficient, digits)
        cells += _quality_cells(quality.get(tokens)) if measured else ()
        y = coordinate(chart.latency.at(point.median_ms)) if chart and point and finite(point.median_ms) else ""
        x = coordinate(chart.x.at(tokens)) if chart else ""
        rows.append(Row(tokens, x, y, _role(tokens, result), cells))
    return rows


def _role(tokens: int, result: Result) -> str:
    plan = result.plan
    chosen = tokens == plan.tokens_out and plan.verdict in ("prune", "keep") and not result.searched
    baseline = bool(result.curve.points) and tokens == result.curve.baseline.tokens
    return join(["chosen"] * chosen + ["baseline"] * baseline)


def _latency_cells(point: LatencyPoint | None, efficient: bool, digits: int) -> tuple[str, ...]:
    if point is None:
        return ("",) * 13
    percentiles = (point.p90_ms, point.p95_ms, point.p99_ms)
    return (
        *(number(value, digits) for value in (point.median_ms, point.low_ms, point.high_ms)),
        str(point.samples),
        str(point.blocks),
        point.stop_reason,
        *(number(value, digits) for value in percentiles),
        number(point.cv_percent, 1),
        number(point.memory_mib, 0),
        number(point.energy_mj, 1) if finite(point.energy_mj) else "absent",
        "yes" if efficient else "no",
    )


def _quality_cells(point: AccuracyPoint | None) -> tuple[str, ...]:
    if point is None:
        return ("",) * 5
    return (
        number(point.percent, 2),
        interval(point.low, point.high, 2),
        number(point.images, 0),
        number(point.drop, 2),
        interval(point.drop_low, point.drop_high, 2),
    )


def step_rows(result: Result) -> list[StepRow]:
    """The edges, the largest count first; the bar is the height's share of the highest step."""
    digits, staircase = decimals_of(result), result.staircase
    highest = max((abs(s.height_percent) for s in staircase.steps if finite(s.height_percent)), default=0.0)
    rows = []
    for step in staircase.steps:
        share = abs(step.height_percent) / highest * 100 if finite(step.height_percent) and highest else 0.0
        edge = f"{_last_before(step.tokens, staircase)} → {step.tokens}"
        height, percent = number(step.height_ms, digits), number(step.height_percent, 1)
        rows.append(StepRow(edge, height, percent, coordinate(share), step.height_ms < 0))
    return rows


def _last_before(tokens: int, staircase: Staircase) -> int:
    """The last count measured before the edge: on a sparse curve that is not the count next to it."""
    before = [s.fewest_tokens for s in staircase.segments if s.fewest_tokens > tokens]
    return min(before, default=tokens + 1)


def tread_rows(result: Result) -> list[tuple[str, ...]]:
    """Each tread: its ends, how many counts were measured on it, and the fitted latency at both ends."""
    slope, digits = result.staircase.slope_ms_per_token, decimals_of(result)
    rows: list[tuple[str, ...]] = []
    for s in result.staircase.segments:
        width = s.most_tokens - s.fewest_tokens
        ends = (s.median_ms + width / 2 * slope, s.median_ms - width / 2 * slope)
        counts = f"{s.most_tokens} to {s.fewest_tokens}" if width else str(s.most_tokens)
        measured = sum(s.fewest_tokens <= point.tokens <= s.most_tokens for point in result.curve.points)
        rows.append((counts, str(measured), *(number(end, digits) for end in ends)))
    return rows


def steadiness_lines(result: Result) -> list[tuple[str, bool]]:
    """What is known of the machine's steadiness: a sentence, and whether that disturbs."""
    if not result.curve.anchor_ms:
        return [("The baseline was not measured again during the sweep, so drift is not known.", False)]
    lines = [(event.text, event.disturbs) for event in unrest.events(result.curve)]
    return [*lines, ("Every block is scaled by the baseline measured around it, so that the counts compare.", False)]


def environment_rows(result: Result) -> list[tuple[str, str]]:
    environment = result.environment
    rows = [
        ("device", f"{environment.device_name} ({environment.device})"),
        ("engine", f"{environment.engine}, {environment.precision}"),
        ("images", f"batch {environment.batch_size}, {environment.image_px} px"),
        *([("threads", str(environment.threads))] if environment.threads else []),
        ("platform", environment.platform),
        ("python", environment.python),
        *_flat("", environment.versions),
        ("pomt_edge", environment.toolkit_version),
        ("commit", environment.git_commit or "not in a git checkout"),
        ("started", environment.started),
    ]
    return rows + list(_flat("", environment.details))


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(f"{label}, ", value)
        else:
            yield label, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if finite(value) else ABSENT
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
