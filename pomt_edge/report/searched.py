"""How the count was searched, in words: what was measured and why, and what was not."""

from __future__ import annotations

from dataclasses import dataclass

from pomt_edge.records import ADAPTIVE, Result, Search


@dataclass(frozen=True)
class Row:
    tokens: int
    timed: str
    """Why its latency was asked for; empty: it was not."""
    judged: str
    """The same for accuracy."""


def sentence(result: Result) -> str | None:
    """How many of the counts were measured, what ended it early, what it leaves open; None for a whole grid."""
    search = result.search
    if search is None or search.kind != ADAPTIVE:
        return None
    timed = sum(probe.tokens != result.plan.tokens_in for probe in search.latency)
    text = f"{timed} of {search.counts} reduced counts were timed"
    if result.accuracy is not None:
        judged = sum(probe.tokens != result.plan.tokens_in for probe in search.accuracy)
        text += f", {judged} judged by {result.accuracy.measure}"
    ending = f"Ended early: {search.stopped}. " if search.stopped else ""
    return f"{ending}{text}. {' '.join(search.left_open)}".strip()


def rows(search: Search | None) -> list[Row]:
    """Every count that was asked for, most tokens first; none for a whole grid."""
    if search is None or search.kind != ADAPTIVE:
        return []
    timed = {probe.tokens: probe.why for probe in search.latency}
    judged = {probe.tokens: probe.why for probe in search.accuracy}
    counts = sorted(timed.keys() | judged.keys(), reverse=True)
    return [Row(tokens, timed.get(tokens, ""), judged.get(tokens, "")) for tokens in counts]
