"""The page's table of schedules of several blocks, as rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pomt_edge.records import LatencyPoint, Result, TriedSchedule
from pomt_edge.report.numerals import ABSENT, interval, number
from pomt_edge.report.tables import decimals_of


@dataclass(frozen=True)
class ScheduleRow:
    schedule: str
    cells: tuple[str, ...]
    role: str
    remark: str = ""


def schedule_rows(result: Result) -> list[ScheduleRow]:
    """The schedules that were tried, slowest first, and last the swept block alone; none where none was tried."""
    search, digits = result.schedules, decimals_of(result)
    if search is None or not search.tried:
        return []
    return [*(_schedule_row(one, one is result.searched, digits) for one in search.tried), _single_row(result, digits)]


def _schedule_row(one: TriedSchedule, chosen: bool, digits: int) -> ScheduleRow:
    point, quality = one.latency, one.accuracy
    cells = (
        number(one.foreseen_ms, digits),
        number(point.median_ms if point else None, digits),
        _within(point, digits),
        number(one.speedup, 2),
        interval(one.speedup_low, one.speedup_high, 2) or ABSENT,
        number(quality.drop if quality else None, 2),
        (interval(quality.drop_low, quality.drop_high, 2) if quality else "") or ABSENT,
        str(quality.images) if quality else ABSENT,
    )
    return ScheduleRow(_listed(one.schedule), cells, "chosen" if chosen else "")


def _single_row(result: Result, digits: int) -> ScheduleRow:
    plan = result.on_curve
    point = next((one for one in result.curve.points if one.tokens == plan.tokens_out), None)
    points = result.accuracy.points if result.accuracy else ()
    images = [str(one.images) for one in points if one.tokens == plan.tokens_out]
    remark = f"block {plan.block} alone" if plan.verdict == "prune" else "unreduced"
    cells = (
        ABSENT,
        number(plan.predicted_ms, digits),
        _within(point, digits),
        number(plan.speedup, 2),
        interval(plan.speedup_low, plan.speedup_high, 2),
        number(plan.drop, 2),
        interval(plan.drop_low, plan.drop_high, 2) or ABSENT,
        *(images or [ABSENT]),
    )
    return ScheduleRow(_listed(plan.schedule), cells, "" if result.searched else "chosen", remark)


def _listed(schedule: Sequence[int]) -> str:
    return ",".join(map(str, schedule))


def _within(point: LatencyPoint | None, digits: int) -> str:
    return (interval(point.low_ms, point.high_ms, digits) if point else "") or ABSENT
