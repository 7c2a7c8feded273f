"""Sentences on how steady the machine was, and what to do about it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pomt_edge.measure.steadiness import DRIFT_PERCENT, OUTLIER_PERCENT, is_sure
from pomt_edge.records import LatencyCurve, Result, Steadiness
from pomt_edge.report.numerals import finite

SPREAD_PERCENT = 5.0
CV_PERCENT = 2.5
"""As trtexec has it: a larger coefficient of variation deserves a warning."""
OUTLIERS_PERCENT = 1.0
FEWEST = 20
"""Blocks of the anchor from which its spread can be told."""


@dataclass(frozen=True)
class Event:
    """One thing that a machine does while it is measured."""

    text: str
    disturbs: bool
    """Beyond what is to be expected of a machine with locked clocks and nothing else to do."""


def events(curve: LatencyCurve) -> list[Event]:
    """All that is known of the machine's steadiness, what disturbs and what does not."""
    found = (_spread(curve), _cv(curve.steadiness), _shifts(curve), _drift(curve))
    more = (_outliers(curve.steadiness), _throttling(curve.steadiness), _warm_up(curve.steadiness))
    return [event for event in (*found, *more) if event]


def warning(result: Result) -> str | None:
    """One sentence on all that disturbed, with the remedy for this very machine; None if nothing did."""
    disturbing = [event.text for event in events(result.curve) if event.disturbs]
    if not disturbing:
        return None
    return f"{' '.join(disturbing)} {remedy(result)}"


def remedy(result: Result) -> str:
    """What to type or to do next for steadier figures on the machine that was measured."""
    clocks = result.environment.details.get("clocks") or {}
    if result.curve.steadiness.throttled_by:
        return "Remedy: more cooling or a lower clock (--power-mode on a Jetson, --gpu-clock elsewhere)."
    if clocks.get("state") == "locked":
        return "Remedy: the clocks are locked, so close other programs."
    return f"Remedy: close other programs; {_lock_command(clocks)}."


def _lock_command(clocks: Mapping[str, Any]) -> str:
    return "lock the clocks (see there)" if clocks.get("remedy") else "and know that the clocks can't be locked here"


def clock_sentence(clocks: Mapping[str, Any]) -> str:
    """The state of the clocks, what is wrong with it and what to type."""
    state = clocks.get("state")
    if not state:
        return "clocks: not known"
    wanted = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in (clocks.get("wanted") or {}).items())
    if state == "locked":
        return f"clocks: locked ({wanted})"
    why = clocks.get("why") or ""
    next_step = clocks.get("remedy") or ""
    return f"clocks: {state}" + (f": {why.rstrip('.')}" if why else "") + (f"; try: {next_step}" if next_step else "")


def _spread(curve: LatencyCurve) -> Event | None:
    anchors = [value for value in curve.anchor_ms if finite(value)]
    if len(anchors) < FEWEST:
        return None
    edges = statistics.quantiles(anchors, n=20)
    fastest, slowest = edges[0], edges[-1]
    text = f"The unreduced model took {fastest:.4g} to {slowest:.4g} ms (middle 90 % of {len(anchors)} blocks)."
    return Event(text, slowest > (1 + SPREAD_PERCENT / 100) * fastest)


def _cv(steadiness: Steadiness) -> Event | None:
    if not finite(steadiness.cv_percent):
        return None
    text = f"The coefficient of variation is {steadiness.cv_percent:.1f} % at the middle point."
    return Event(text, (steadiness.cv_percent or 0.0) > CV_PERCENT)


def _shifts(curve: LatencyCurve) -> Event | None:
    shifts = curve.steadiness.shifts
    if not shifts:
        return None
    largest = max(shifts, key=lambda shift: abs(shift.percent))
    word = "slower" if largest.percent > 0 else "faster"
    times = "once" if len(shifts) == 1 else f"{len(shifts)} times, the most"
    if largest.percent > 100:
        by = f"to {1 + largest.percent / 100:.0f} times its latency"
    else:
        by = f"by {abs(largest.percent):.0f} % {word}"
    where = f"after {largest.anchor} of {len(curve.anchor_ms)} blocks"
    return Event(f"Its speed changed suddenly, {times} {by} {where}.", True)


def _drift(curve: LatencyCurve) -> Event | None:
    steadiness = curve.steadiness
    drift = steadiness.drift_percent
    if not finite(drift) or not curve.anchor_ms:
        return None
    interval = f"{steadiness.drift_low:+.1f} to {steadiness.drift_high:+.1f}"
    text = f"From the sweep's start to its end it drifted by {drift:+.1f} % ({interval})"
    large = abs(drift) > DRIFT_PERCENT and is_sure(steadiness)
    if curve.detrended:
        return Event(f"{text}; milliseconds are those of the sweep's first tenth (--detrend).", large)
    if not large:
        return Event(f"{text}.", False)
    return Event(
        f"{text}; milliseconds are those of the whole sweep's median, --detrend gives those of its start.", True
    )


def _outliers(steadiness: Steadiness) -> Event | None:
    if not steadiness.samples:
        return None
    share = 100 * steadiness.outliers / steadiness.samples
    over = 1 + OUTLIER_PERCENT / 100
    text = (
        f"{share:.1f} % of {steadiness.samples:,} forwards took over {over:g} times their block's median; all are kept."
    )
    return Event(text, share > OUTLIERS_PERCENT)


def _throttling(steadiness: Steadiness) -> Event | None:
    if not steadiness.throttled_by:
        if steadiness.counters:
            return Event(f"Not throttled, by the device's counters ({', '.join(steadiness.counters)}).", False)
        return Event("No throttle counter can be read here.", False) if steadiness.samples else None
    by = ", ".join(f"{name} {count}" for name, count in steadiness.throttled_by.items())
    dropped, kept = steadiness.dropped_blocks, steadiness.throttled_blocks
    text = f"The device was throttled in {dropped + kept} blocks ({by}): {dropped} were dropped and measured again"
    return Event(f"{text}, {kept} are in the curve." if kept else f"{text}.", True)


def _warm_up(steadiness: Steadiness) -> Event | None:
    if not finite(steadiness.warm_up_ratio):
        return None
    ratio = steadiness.warm_up_ratio or 1.0
    text = f"Warm-up: {steadiness.warm_up_forwards} forwards that are in no figure; the first took {ratio:.1f} times"
    return Event(f"{text} the settled.", False)
