"""Read what is compared: the folder of a run, its result.json, or a recorded curve as JSON or CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pomt_edge.choose.sides import Side, of_result
from pomt_edge.errors import UserError
from pomt_edge.records import LatencyCurve, LatencyPoint, Result
from pomt_edge.targets.recordings import PRECISIONS, TF32

EXPECTED = "expected the folder of a finished run, its result.json, or a recorded curve (JSON with 'curves', or CSV)"


def read(path: Path) -> tuple[Side, ...]:
    """The sides that a path holds: one, or of a file of recorded curves one for each.

    Raises:
        UserError: nothing there, a run that is not finished, or a file that is no result and no curve.
    """
    try:
        file = path / "result.json" if path.is_dir() else path
        if path.is_dir() and not file.exists():
            raise UserError(_not_finished(path))
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file; {EXPECTED}") from error
    try:
        sides = _from_csv(path, text) if file.suffix == ".csv" else _from_json(file, text)
        for side in sides:
            _check(side.curve)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, csv.Error) as error:
        reason = f"the field {error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: {reason}; {EXPECTED}") from error
    return sides


def _not_finished(folder: Path) -> str:
    if (folder / "measurements.jsonl").exists():
        return f"{folder}: the run is not finished: give the same options and --out {folder} to finish it"
    return f"{folder}: no result.json in this folder; {EXPECTED}"


def _from_json(file: Path, text: str) -> tuple[Side, ...]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    if isinstance(data, Mapping) and "curves" in data:
        if not data["curves"] or not all(isinstance(curve, Mapping) for curve in data["curves"]):
            raise ValueError("'curves' is not a list of curves")
        return tuple(_from_recorded(_name(file), data, curve) for curve in data["curves"])
    result = Result.from_dict(data)
    return (of_result(_name(file), result),)


def _name(file: Path) -> str:
    """The folder's name for a file of a run, else the file's own."""
    return file.absolute().parent.name if file.name in ("result.json", "curve.csv") else file.stem


def _from_recorded(name: str, data: Mapping[str, Any], curve: Mapping[str, Any]) -> Side:
    precision = curve.get("precision")
    tokens, medians = curve["tokens"], curve["median_ms"]
    if len(tokens) != len(medians):
        raise ValueError(f"{len(tokens)} tokens and {len(medians)} median_ms in one curve")
    latency = _curve(zip(tokens, medians, strict=True))
    facts = {
        "model": curve.get("model"),
        "batch size": curve.get("batch_size"),
        "precision": PRECISIONS.get(str(precision), precision),
        "TF32": True if curve.get("products") == TF32 else None,
        "tokens of the unreduced model": latency.baseline.tokens,
        # The text goes on with what else is known of the device.
        "device": str(data["device"]).split(",")[0].strip() if "device" in data else None,
    }
    # The range over a few blocks, where it is given, is no interval of the median.
    return Side(name, latency, facts, _versions(str(data.get("software", ""))), False, remark=data.get("method", ""))


def _versions(software: str) -> dict[str, str]:
    """'torch 2.11.0+cu130, timm 1.0.31' by package."""
    pairs = [part.split() for part in software.split(",")]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _from_csv(path: Path, text: str) -> tuple[Side, ...]:
    table = csv.DictReader(text.splitlines())
    given = set(table.fieldnames or ())
    if not {"tokens", "median_ms"} <= given:
        raise ValueError("the columns tokens and median_ms are missing")
    intervals = {"low_ms", "high_ms"} <= given
    columns = ("median_ms", "low_ms", "high_ms") if intervals else ("median_ms",)
    rows = []
    for number, row in enumerate(table, 2):
        if any(row[column] is None for column in columns):
            raise ValueError(f"row {number} is cut short")
        rows.append((int(row["tokens"]), *(float(row[column]) for column in columns)))
    curve = _curve(rows)
    facts = {"tokens of the unreduced model": curve.baseline.tokens}
    return (Side(_name(path), curve, facts, intervals=intervals),)


def _curve(rows: Iterable[tuple[Any, ...]]) -> LatencyCurve:
    """A curve from rows of tokens, median and, where they are known, both ends of its interval."""
    points = []
    for tokens, median, *ends in rows:
        low, high = ends or (median, median)
        points.append(
            LatencyPoint(int(tokens), float(median), float(low), float(high), samples=0, blocks=0, stop_reason="")
        )
    if not points:
        raise ValueError("no points")
    return LatencyCurve(tuple(sorted(points, key=lambda point: -point.tokens)), probe="")


def _check(curve: LatencyCurve) -> None:
    if not curve.points:
        raise ValueError("no points")
    seen = set()
    for point in curve.points:
        values = (point.low_ms, point.median_ms, point.high_ms)
        if not all(map(math.isfinite, values)) or not 0 <= point.low_ms <= point.median_ms <= point.high_ms:
            raise ValueError(
                f"{point.tokens} tokens: {point.low_ms} <= {point.median_ms} <= {point.high_ms} ms is wrong"
            )
        if point.median_ms <= 0 or point.tokens in seen:
            raise ValueError(f"{point.tokens} tokens: {'listed twice' if point.tokens in seen else 'no latency'}")
        seen.add(point.tokens)
    if any(not math.isfinite(ms) or ms <= 0 for ms in curve.anchor_ms):
        raise ValueError("anchor_ms holds what is no latency")
