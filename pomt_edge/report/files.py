"""The files of a run's folder, each written whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from pomt_edge.records import MEASURED, Contest, LatencyCurve, Record, Result, write_text
from pomt_edge.report import methods, page

CURVE = ("tokens", "median_ms", "low_ms", "high_ms", "samples", "stop_reason")
ACCURACY = ("tokens", "percent", "low", "high", "images")


def write(result: Result, folder: Path) -> None:
    """Write curve.csv, accuracy.csv, environment.json, result.json, report.html and, last, plan.json."""
    write_text(folder / "curve.csv", curve_csv(result.curve, result.environment.origin))
    write_text(folder / "accuracy.csv", _csv(ACCURACY, result.accuracy.points if result.accuracy else ()))
    result.environment.save(folder / "environment.json")
    result.save(folder / "result.json")
    write_text(folder / "report.html", page.render(result))
    result.plan.save(folder / "plan.json")


def write_contest(contest: Contest, folder: Path) -> None:
    """Write methods.json, methods.html and, last, plan.json, the plan of the best method."""
    contest.save(folder / "methods.json")
    write_text(folder / "methods.html", methods.render(contest))
    contest.plan.save(folder / "plan.json")


def curve_csv(curve: LatencyCurve, origin: str = MEASURED) -> str:
    """The text of curve.csv; each row says whether it was measured."""
    return _csv(CURVE, curve.points, {"origin": origin})


def _csv(columns: Sequence[str], records: Sequence[Record], same: Mapping[str, str] | None = None) -> str:
    """`same`: further columns, the same in all rows."""
    more = same or {}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*columns, *more])
    for record in records:
        table.writerow([*(_cell(getattr(record, column)) for column in columns), *more.values()])
    return text.getvalue()


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
