"""A schedule of several blocks explained: against one block alone, and beside the nearest that were tried."""

from __future__ import annotations

from pomt_edge.choose.why import neighbour
from pomt_edge.records import LatencyPoint, Result, ScheduleSearch, TriedSchedule
from pomt_edge.report import neighbours, searched, words
from pomt_edge.report.numerals import interval, number


def against_one_block(search: ScheduleSearch) -> str:
    """The plan of the swept block, and how much faster the schedule is side by side."""
    single = search.single
    gain = f"{number(search.ratio, 2)}x ({interval(search.ratio_low, search.ratio_high, 2)}) as fast"
    if single.verdict == "prune":
        verdict = words.verdict_of(single, single.measure)
        lead = verdict.lead.removeprefix("Remove ").removesuffix(":")
        return f"{lead} alone: {verdict.rest.rstrip('.')}; side by side the schedule is {gain}"
    why = single.because.rstrip(".")
    return f"block {single.block} alone has no plan: {why}; side by side the schedule is {gain} as the unreduced model"


def nearest(search: ScheduleSearch, chosen: TriedSchedule, limit: float | None) -> str:
    """The schedules on both sides of the chosen one, in the order of the latencies that were foreseen."""
    place = search.tried.index(chosen)
    slower, faster = search.tried[max(place - 1, 0) : place], search.tried[place + 1 : place + 2]
    parts = [f"the next slower, {_told(one, chosen, limit)}" for one in slower]
    parts += [f"the next faster, {_told(one, chosen, limit)}" for one in faster]
    return f"of those tried, as foreseen: {'; '.join(parts)}" if parts else "no other schedule was tried"


def _told(one: TriedSchedule, chosen: TriedSchedule, limit: float | None) -> str:
    text = f"{','.join(map(str, one.schedule))}, {_latency(one, chosen.latency)}"
    if one.accuracy is None:
        return f"{text}, loss not measured"
    loss = one.accuracy
    beyond = neighbours.beyond_drop(loss.drop, loss.drop_high, limit) if limit is not None else ""
    images = f" on {number(loss.images, 0)} images"
    return f"{text}, {neighbours.loses(loss.drop, loss.drop_low, loss.drop_high)}{images}{beyond}"


def _latency(one: TriedSchedule, chosen: LatencyPoint | None) -> str:
    if one.latency is None or chosen is None:
        return "latency not measured"
    return neighbours.takes(neighbour(one.latency, chosen, one.accuracy))


def measured(result: Result, search: ScheduleSearch) -> str:
    """What was measured: schedules, and the counts of the swept block."""
    timed, judged = (sum(getattr(one, name) is not None for one in search.tried) for name in ("latency", "accuracy"))
    text = f"latency of {timed} and loss of {judged} schedules"
    if search.error_percent is not None:
        text += f", foreseen latencies {number(search.error_percent, 1)} % off in the median"
    counts = searched.sentence(result) or f"{len(result.curve.points)} counts were timed"
    return f"{text}; in block {search.single.block} alone: {counts}"
