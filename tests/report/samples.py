"""Results to draw: a smooth CPU slope, a real staircase, five points, and records that mean harm."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pomt_edge.records import (
    AccuracyCurve,
    AccuracyPoint,
    Environment,
    LatencyCurve,
    LatencyPoint,
    Plan,
    Remedy,
    Result,
    ScheduleSearch,
    Segment,
    Staircase,
    Steadiness,
    Step,
    TriedSchedule,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "h200_curves.json"
STEADY = Steadiness(0.4, -0.2, 0.9, samples=4310, outliers=9, cv_percent=0.8, warm_up_forwards=21, warm_up_ratio=1.9)
CLOCKS = {
    "state": "not locked",
    "why": "no permission to set GPU clocks",
    "remedy": "sudo pomt-edge clocks lock",
    "wanted": {"gpu_clock_mhz": 1980},
    "seen": {"gpu_clock_mhz": 1980},
    "before": {},
}
HOSTILE = "<script>alert(1)</script>\"</script>'&amp;"


def staircase(precision: str = "float32") -> Result:
    """DeiT-S batch 4 on an H200: float32 has clean cliffs, float16 is flat and noisy."""
    curves = json.loads(GOLDEN.read_text(encoding="utf-8"))["curves"]
    curve = next(c for c in curves if c["batch_size"] == 4 and c["precision"] == precision)
    rows = zip(curve["tokens"], curve["median_ms"], curve["min_ms"], curve["max_ms"], strict=True)
    points = tuple(_point(n, median, low, high, 210, 7) for n, median, low, high in rows)
    edges = {
        "float32": (192, 160, 128, 96, 80, 64, 31, 27),
        "float16": (196, 128, 96, 64, 8),
    }[precision]
    chosen = {"float32": 128, "float16": 128}[precision]
    return _result(points, edges, chosen, model="deit_small_patch16_224", precision=precision, batch_size=4)


def smooth(count: int = 178, top: int = 197) -> Result:
    """A laptop's CPU: latency falls with every token, and no step stands out."""
    rng = np.random.default_rng(7)
    counts = np.unique(np.linspace(20, top, count).round().astype(int))[::-1]
    clean = 11.2 + 0.148 * counts * 197 / top + 0.00011 * counts**2
    medians = clean * (1 + rng.normal(0, 0.004, counts.size))
    spread = clean * (0.004 + 0.012 * rng.random(counts.size))
    points = tuple(
        _point(int(n), float(m), float(m - s), float(m + 1.6 * s), 60, 6)
        for n, m, s in zip(counts, medians, spread, strict=True)
    )
    chosen = int(counts[np.abs(counts - 0.7 * top).argmin()])
    return _result(points, (), chosen, device="cpu", device_name="AMD EPYC 9V74, 2 cores", engine="openvino")


def few() -> Result:
    """Five counts, no images, and advice to leave the model alone."""
    values = {197: 42.31, 160: 42.05, 128: 41.7, 96: 42.9, 64: 40.8}
    points = tuple(_point(n, ms, ms * 0.97, ms * 1.03, 32, 4) for n, ms in values.items())
    result = _result(points, (), 197, device="jetson-orin-nano", device_name="Jetson Orin Nano", accuracy=False)
    plan = dataclasses.replace(
        result.plan,
        verdict="keep",
        removed=0,
        schedule=(0,) * 12,
        speedup=1.0,
        speedup_low=1.0,
        speedup_high=1.0,
        because="No count is faster than the unreduced model beyond the intervals: the largest gain is "
        "3.6 %, and the intervals are 6 % wide.",
    )
    remedies = (
        Remedy("batch 4", "--bs 4", 128, 1.12, 1.10, 1.14, origin="measured"),
        Remedy("fp16", "--precision fp16", because="the board would have to build it"),
    )
    notes = ("The weights are random, so accuracy cannot be measured.",)
    return dataclasses.replace(result, plan=plan, notes=notes, remedies=remedies)


SCHEDULES = tuple(tuple({3: first, 6: 40, 9: 20}.get(block, 0) for block in range(12)) for first in (30, 40, 50))
"""Slowest first; the second is taken."""


def several_blocks(kept: bool = False) -> Result:
    """A schedule whose tokens, by chance, are as many as a count of block 3 alone leaves; or, `kept`, that block."""
    result = staircase()
    base = result.curve.baseline
    losses = [
        AccuracyPoint(197 - sum(s), 87.0, 86.8, 87.2, 500, d, d - 0.3, d + 0.3)
        for s, d in zip(SCHEDULES, (1.2, 1.6, 1.9), strict=True)
    ]
    times = [
        LatencyPoint(
            197 - sum(s),
            base.median_ms * share,
            base.median_ms * share * 0.99,
            base.median_ms * share * 1.01,
            480,
            10,
            "",
        )
        for s, share in zip(SCHEDULES, (0.6, 0.5), strict=False)
    ]
    tried = tuple(
        TriedSchedule(schedule, 1.0, time, accuracy=loss)
        for schedule, time, loss in itertools.zip_longest(SCHEDULES, times, losses)
    )
    because = "schedule 0,0,0,40,0,0,40,0,0,20,0,0 is 1.30x as fast as R=69 in block 3 alone (1.25 to 1.35)"
    search = ScheduleSearch(result.plan, because, base, None if kept else SCHEDULES[1], tried, 1.4)
    if kept:
        return dataclasses.replace(result, schedules=search)
    plan = dataclasses.replace(
        result.plan,
        schedule=SCHEDULES[1],
        tokens_out=97,
        removed=100,
        predicted_ms=times[1].median_ms,
        speedup=2.0,
        speedup_low=1.95,
        speedup_high=2.05,
        because=because,
        drop=1.6,
        drop_low=1.3,
        drop_high=1.9,
    )
    search = dataclasses.replace(search, ratio=1.3, ratio_low=1.25, ratio_high=1.35)
    return dataclasses.replace(result, plan=plan, schedules=search)


def large() -> Result:
    """More points than a screen has columns."""
    return smooth(1200, 2100)


def agreement() -> Result:
    result = smooth()
    assert result.accuracy is not None
    plan = dataclasses.replace(result.plan, measure="agreement", baseline_percent=100.0)
    curve = dataclasses.replace(result.accuracy, measure="agreement")
    return dataclasses.replace(result, plan=plan, accuracy=curve)


def hostile(text: str = HOSTILE) -> Result:
    """Every text that a user or a file can set tries to leave its place."""
    result = staircase()
    plan = dataclasses.replace(
        result.plan,
        model=text,
        because=text,
        method=text,
        device="sim:" + text,
        limits={text: text},
    )
    environment = dataclasses.replace(
        result.environment,
        device_name=text,
        versions={text: text},
        details={text: {text: [text]}},
    )
    points = tuple(dataclasses.replace(p, stop_reason=text) for p in result.curve.points)
    curve = dataclasses.replace(result.curve, points=points)
    remedies = (Remedy(text, text, because=text),)
    return dataclasses.replace(
        result, plan=plan, environment=environment, curve=curve, notes=(text,), remedies=remedies
    )


def long_names() -> Result:
    """Names without a space, as paths are, that no line can hold."""
    return hostile("/data/checkpoints" * 12)


def broken() -> Result:
    """Not-numbers wherever a float may stand, as a file written elsewhere can hold them."""
    nan = float("nan")
    result = smooth(12)
    points = list(result.curve.points)
    points[3] = dataclasses.replace(points[3], median_ms=nan, low_ms=nan, high_ms=nan)
    points[5] = dataclasses.replace(points[5], low_ms=nan, high_ms=float("inf"))
    unsteady = Steadiness(drift_percent=nan, cv_percent=nan, warm_up_ratio=nan)
    curve = dataclasses.replace(result.curve, points=tuple(points), anchor_ms=(1.0, nan, 1.1), steadiness=unsteady)
    stairs = dataclasses.replace(result.staircase, steps=(Step(100, nan, nan),))
    plan = dataclasses.replace(result.plan, speedup_low=nan, drop=nan, predicted_percent=None)
    return dataclasses.replace(result, plan=plan, curve=curve, staircase=stairs)


def _point(tokens: int, median: float, low: float, high: float, samples: int, blocks: int) -> LatencyPoint:
    spread = high - median
    reason = "interval within 1 %" if (high - low) < 0.03 * median else "time limit"
    return LatencyPoint(
        tokens,
        median,
        low,
        high,
        samples,
        blocks,
        reason,
        p90_ms=median + 0.8 * spread if samples >= 44 else None,
        p95_ms=median + spread if samples >= 90 else None,
    )


def fit(points: Sequence[LatencyPoint], edges: Sequence[int]) -> Staircase:
    """Least squares with the edges given: one level for each tread and one slope for all."""
    tokens = np.array([p.tokens for p in points])
    medians = np.array([p.median_ms for p in points])
    tread = np.searchsorted(-np.array(edges), -tokens, side="right")
    members = [tokens[tread == i] for i in range(len(edges) + 1)]
    middles = np.array([(m.max() + m.min()) / 2 for m in members])
    design = np.column_stack([tokens - middles[tread], np.eye(len(members))[tread]])
    slope, *levels = np.linalg.lstsq(design, medians, rcond=None)[0]
    segments = tuple(Segment(int(m.max()), int(m.min()), float(v)) for m, v in zip(members, levels, strict=True))
    steps = tuple(_step(a, b, float(slope)) for a, b in itertools.pairwise(segments))
    return Staircase(float(slope), segments, steps, _efficient(points))


def _step(before: Segment, after: Segment, slope: float) -> Step:
    middle = (before.most_tokens + before.fewest_tokens) / 2
    near = before.median_ms + slope * (before.fewest_tokens - middle)
    far = after.median_ms + slope * (before.fewest_tokens - (after.most_tokens + after.fewest_tokens) / 2)
    return Step(after.most_tokens, near - far, (near - far) / near * 100)


def _efficient(points: Sequence[LatencyPoint]) -> tuple[int, ...]:
    best, kept = float("inf"), []
    for point in points:
        if point.median_ms < best:
            kept.append(point.tokens)
            best = min(best, point.low_ms)
    return tuple(kept)


def _accuracy(counts: Sequence[int], top: int) -> AccuracyCurve:
    points = []
    for tokens in counts:
        drop = 11.0 * (1 - tokens / top) ** 2.2
        percent = 88.4 - drop
        points.append(
            AccuracyPoint(
                tokens,
                percent,
                percent - 0.6,
                percent + 0.6,
                10_000,
                drop,
                drop - 0.35 if drop else 0.0,
                drop + 0.35 if drop else 0.0,
            )
        )
    return AccuracyCurve("accuracy", tuple(points))


def _result(
    points: tuple[LatencyPoint, ...],
    edges: Sequence[int],
    chosen: int,
    *,
    model: str = "vit_small_patch16_224",
    precision: str = "float32",
    batch_size: int = 1,
    device: str = "cuda:0",
    device_name: str = "NVIDIA H200",
    engine: str = "torch",
    accuracy: bool = True,
) -> Result:
    top = points[0].tokens
    counts = [p.tokens for p in points if p.tokens % 16 == 0 or p.tokens in (chosen, top)]
    curve = _accuracy([*counts[:: max(1, len(counts) // 16)], chosen], top) if accuracy else None
    if curve is not None:
        by_tokens = {p.tokens: p for p in curve.points}
        curve = dataclasses.replace(curve, points=tuple(by_tokens[n] for n in sorted(by_tokens, reverse=True)))
    at = LatencyCurve(points).at(chosen)
    plan = _plan(points[0], at, curve, model, precision, batch_size, device, engine)
    rng = np.random.default_rng(3)
    anchors = points[0].median_ms * (1 + 0.004 * np.linspace(0, 1, 28) + rng.normal(0, 0.0015, 28))
    return Result(
        plan,
        LatencyCurve(points, "block", tuple(float(a) for a in anchors), STEADY),
        fit(points, edges),
        curve,
        _environment(plan, device_name),
    )


def _plan(
    base: LatencyPoint,
    at: LatencyPoint,
    curve: AccuracyCurve | None,
    model: str,
    precision: str,
    batch_size: int,
    device: str,
    engine: str,
) -> Plan:
    lost = next(p for p in curve.points if p.tokens == at.tokens) if curve else None
    quality: dict[str, Any] = {}
    if lost is not None and curve is not None:
        quality = {
            "measure": curve.measure,
            "baseline_percent": curve.points[0].percent,
            "predicted_percent": lost.percent,
            "drop": lost.drop,
            "drop_low": lost.drop_low,
            "drop_high": lost.drop_high,
        }
    removed = base.tokens - at.tokens
    return Plan(
        model=model,
        method="pomt",
        schedule=tuple(removed if block == 3 else 0 for block in range(12)),
        tokens_in=base.tokens,
        tokens_out=at.tokens,
        removed=removed,
        block=3,
        batch_size=batch_size,
        image_px=224,
        precision=precision,
        engine=engine,
        device=device,
        baseline_ms=base.median_ms,
        predicted_ms=at.median_ms,
        speedup=base.median_ms / at.median_ms,
        speedup_low=base.low_ms / at.high_ms,
        speedup_high=base.high_ms / at.low_ms,
        verdict="prune",
        because=f"{at.tokens} is the last count below a step, and the fastest that loses no more than asked.",
        limits={"max_drop": 2.0, "min_tokens": None},
        **quality,
    )


def _environment(plan: Plan, device_name: str) -> Environment:
    return Environment(
        plan.device,
        device_name,
        plan.engine,
        plan.precision,
        plan.batch_size,
        plan.image_px,
        2,
        "Linux-6.1-x86_64",
        "3.11.7",
        {"torch": "2.11.0", "timm": "1.0.31", "numpy": "2.4.6"},
        "0.1.0",
        "0f3c2a91b7d44e0d9c1b",
        "2026-03-02T09:14:07+01:00",
        {"clocks": CLOCKS, "driver": "580.159.04"},
    )
