"""Whether a count that was chosen once is still worth choosing on a curve of today."""

from __future__ import annotations

from dataclasses import dataclass

from pomt_edge.choose import staircase
from pomt_edge.records import LatencyCurve, LatencyPoint

AS_FAST_SHARE = 0.1
"""A count that keeps more tokens is as fast if removing them gains less than this share of what they are worth."""


@dataclass(frozen=True)
class Standing:
    """Where the count lies, and what is to be done about it."""

    holds: bool
    because: str
    tread: tuple[int, int] | None = None
    """Most and fewest tokens of the fitted tread that the count lies on."""
    tread_before: tuple[int, int] | None = None
    """The same of the curve that it was chosen on; None: not known."""
    ms: float | None = None
    baseline_ms: float | None = None
    """Of the unreduced model."""
    speedup: float | None = None
    promised_speedup: float | None = None
    """By the plan; None: not compared."""
    instead: int | None = None
    """The count to take now; None where the old one holds, or none is known."""


@dataclass(frozen=True)
class _Rival:
    """A count that keeps more tokens and is as fast."""

    point: LatencyPoint
    given_away_percent: float
    """What the tokens between are worth, in percent of the chosen count's latency, less what removing them gains."""
    more_percent: float
    """Of that, what was not given away before."""


def judge(
    curve: LatencyCurve, before: LatencyCurve | None, tokens: int, tolerance_percent: float, promised: float | None
) -> Standing:
    """Whether the count has moved off its tread, or its speedup is gone.

    Tokens are worth what removing one gains on the average of the whole curve. The count has moved if one that keeps
    more is as fast, so that those between them are given away, and that is worth more than the tolerance. Were it
    enough to be as fast within the tolerance, no count on a slope would stand: its neighbour is.

    Args:
        before: the curve that it was chosen on, where more may have been given away from the start, for limits may
            ask for the fastest count at any price; only what is given away beyond that counts. None: not known.
        promised: the speedup that the plan promised, on the same device; None: not to be compared.
    """
    baseline, chosen = curve.baseline, curve.at(tokens)
    speedup = baseline.median_ms / chosen.median_ms
    rival = _rival(curve, before, tokens)
    reasons, instead = [], None
    if rival and rival.more_percent > tolerance_percent:
        instead = rival.point.tokens
        reasons.append(
            f"{_as_fast(rival)}, so that {instead - tokens} tokens are given away, by the curve's average slope "
            f"{rival.given_away_percent:.1f} % of latency"
            + (f" ({rival.more_percent:.1f} % more than before)" if before else "")
        )
    if promised is not None and speedup < promised * (1 - tolerance_percent / 100):
        reasons.append(f"the speedup is {100 * (1 - speedup / promised):.1f} % lower than promised")
        instead = _as_fast_as_promised(curve, promised)
        reasons += [] if instead else ["no count reaches it"]
    tread, tread_before = _tread(curve, tokens), _tread(before, tokens) if before else None
    facts = [_place(tokens, tread, tread_before), _gain(chosen, baseline, promised)]
    return Standing(
        not reasons,
        "; ".join([*facts, *(reasons or [_calm(rival, before)])]),
        tread,
        tread_before,
        chosen.median_ms,
        baseline.median_ms,
        speedup,
        promised,
        instead,
    )


def judge_schedule(ms: float, baseline: LatencyPoint, tolerance_percent: float, promised: float | None) -> Standing:
    """The same of a schedule whose blocks remove differently many tokens: it lies on no curve, and has no tread.

    Args:
        ms: its latency.
        promised: see `judge`; None: it has to be faster than the unreduced model.
    """
    speedup = baseline.median_ms / ms
    because = f"the schedule takes {ms:.4g} ms, {speedup:.2f}x the speed of all {baseline.tokens}"
    because += f" (promised: {promised:.2f}x)" if promised is not None else ""
    holds = speedup >= promised * (1 - tolerance_percent / 100) if promised is not None else speedup > 1
    if promised is not None and not holds:
        because += f"; the speedup is {100 * (1 - speedup / promised):.1f} % lower than promised"
    return Standing(holds, because, None, None, ms, baseline.median_ms, speedup, promised)


def _rival(curve: LatencyCurve, before: LatencyCurve | None, tokens: int) -> _Rival | None:
    """The count above it that is as fast and for which most is given away since; None where none is as fast."""
    now, then = _given_away(curve, tokens), _given_away(before, tokens) if before else {}
    slope, chosen = _average_slope(curve), curve.at(tokens)
    rivals = [
        _Rival(point, now[point.tokens], now[point.tokens] - max(then.get(point.tokens, 0.0), 0.0))
        for point in curve.points
        if point.tokens > tokens
        and point.median_ms - chosen.median_ms < AS_FAST_SHARE * slope * (point.tokens - tokens)
    ]
    return max(rivals, key=lambda rival: rival.more_percent, default=None)


def _given_away(curve: LatencyCurve, tokens: int) -> dict[int, float]:
    """In percent, by the count that would keep more; negative where removing tokens gains more than they are worth."""
    slope, chosen = _average_slope(curve), curve.at(tokens)
    return {
        point.tokens: 100 * (slope * (point.tokens - tokens) - point.median_ms + chosen.median_ms) / chosen.median_ms
        for point in curve.points
        if point.tokens > tokens
    }


def _average_slope(curve: LatencyCurve) -> float:
    """Milliseconds per token from the one end of the curve to the other."""
    most, least = curve.points[0], curve.points[-1]
    return max(most.median_ms - least.median_ms, 0.0) / max(most.tokens - least.tokens, 1)


def _as_fast_as_promised(curve: LatencyCurve, promised: float) -> int | None:
    enough = curve.baseline.median_ms / promised
    return next((point.tokens for point in curve.points if point.median_ms <= enough), None)


def _tread(curve: LatencyCurve, tokens: int) -> tuple[int, int]:
    treads = staircase.fit(curve).segments
    tread = next(tread for tread in treads if tread.fewest_tokens <= tokens <= tread.most_tokens)
    return tread.most_tokens, tread.fewest_tokens


def _place(tokens: int, tread: tuple[int, int], before: tuple[int, int] | None) -> str:
    was = f", before {before[0]} to {before[1]}" if before and before != tread else ""
    return f"{tokens} tokens lie on the tread {tread[0]} to {tread[1]}{was}"


def _gain(chosen: LatencyPoint, baseline: LatencyPoint, promised: float | None) -> str:
    speedup = baseline.median_ms / chosen.median_ms
    then = f" (promised: {promised:.2f}x)" if promised is not None else ""
    return f"{chosen.median_ms:.4g} ms, {speedup:.2f}x the speed of all {baseline.tokens}{then}"


def _as_fast(rival: _Rival) -> str:
    return f"{rival.point.tokens} are as fast ({rival.point.median_ms:.4g} ms)"


def _calm(rival: _Rival | None, before: LatencyCurve | None) -> str:
    if rival is None:
        return "no count that keeps more is as fast"
    return f"{_as_fast(rival)}, " + ("about as before" if before else "which is within the tolerance")
