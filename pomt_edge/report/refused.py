"""What may help where the answer is not to prune, in words."""

from __future__ import annotations

from dataclasses import dataclass

from pomt_edge.records import AccuracyPoint, Remedy, Result
from pomt_edge.report.numerals import interval, number

LEAD = "What may help instead, in the same command (with another --out, but for limits)"


@dataclass(frozen=True)
class Line:
    options: str
    """What to change in the command."""
    text: str
    helps: bool
    """Whether it was tried and is surely faster."""


def lines(result: Result) -> list[Line]:
    """One for each remedy, in their order."""
    known = {point.tokens: point for point in result.accuracy.points} if result.accuracy else {}
    return [_line(remedy, result, known) for remedy in result.remedies]


def _line(remedy: Remedy, result: Result, known: dict[int, AccuracyPoint]) -> Line:
    if remedy.tokens is None or remedy.speedup is None or remedy.speedup_low is None:
        return Line(remedy.options, f"not tried: {remedy.because}", False)
    faster, slower = remedy.speedup_low > 1, (remedy.speedup_high or 1.0) < 1
    gain = f"{number(remedy.speedup, 2)}x"
    gain = f"{gain} faster" if faster else f"slower: {gain}" if slower else f"not surely faster: {gain}"
    within = f"({interval(remedy.speedup_low, remedy.speedup_high, 2)}; {remedy.origin})"
    loss = _loss(known.get(remedy.tokens), result)
    text = f"{remedy.tokens} of {result.plan.tokens_in} tokens are {gain} {within}{loss}"
    return Line(
        remedy.options, text if remedy.allowed else f"{text}; the limits do not allow it", faster and remedy.allowed
    )


def _loss(point: AccuracyPoint | None, result: Result) -> str:
    """What the count loses, in words that need no name of the measure."""
    if result.accuracy is None:
        return ""
    if point is None:
        return f"; {result.accuracy.measure} was not measured there"
    return f"; {number(point.drop, 1)} points lost ({interval(point.drop_low, point.drop_high, 1)})"
