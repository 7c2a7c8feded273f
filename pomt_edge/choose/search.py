"""Which count to choose, with accuracy measured at as few counts as decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pomt_edge.records import AccuracyPoint, LatencyPoint

AccuracyAt = Callable[[int], AccuracyPoint]
"""Measures the accuracy at a count, or recalls it."""

NEIGHBOURS = 2
"""Candidates beyond a boundary that have to fail before it is believed: accuracy is only nearly monotone."""


def fastest_within_drop(
    candidates: Sequence[int], max_drop: float, accuracy_at: AccuracyAt, known: Iterable[AccuracyPoint] = ()
) -> int | None:
    """The fewest tokens whose loss is at most `max_drop` points by its interval's upper end, or None.

    The boundary is found by bisection, which starts between what is known already; then the candidate in front
    of it and the ones behind it are measured themselves, because accuracy is only nearly monotone.

    Args:
        candidates: counts, most tokens first, each faster than the one before it.
        known: accuracies measured before, at any counts.
    """
    known = list(known)

    def fits(index: int) -> bool:
        return accuracy_at(candidates[index]).drop_high <= max_drop

    good, bad = _bracket(candidates, max_drop, known)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    while good >= 0 and not fits(good):
        good -= 1
    failures, index = 0, good + 1
    while index < len(candidates) and failures <= NEIGHBOURS:
        good, failures = (index, 0) if fits(index) else (good, failures + 1)
        index += 1
    measured = {point.tokens for point in known if point.drop_high <= max_drop}
    good = max([good, *(index for index, tokens in enumerate(candidates) if tokens in measured)])
    return candidates[good] if good >= 0 else None


def _bracket(candidates: Sequence[int], max_drop: float, known: Sequence[AccuracyPoint]) -> tuple[int, int]:
    """Indices between which the boundary lies, were accuracy monotone: the last that fits, the first that doesn't."""
    failed = max((point.tokens for point in known if point.drop_high > max_drop), default=-1)
    fitted = min(
        (point.tokens for point in known if failed < point.tokens and point.drop_high <= max_drop), default=None
    )
    bad = next((index for index, tokens in enumerate(candidates) if tokens <= failed), len(candidates))
    good = -1
    if fitted is not None:
        good = max((index for index, tokens in enumerate(candidates[:bad]) if tokens >= fitted), default=-1)
    return good, bad


def most_accurate_within_budget(
    points: Sequence[LatencyPoint], efficient: Sequence[int], budget_ms: float, accuracy_at: AccuracyAt | None
) -> int | None:
    """The most accurate efficient count whose latency interval is within the budget, or None.

    More tokens are as a rule more accurate, so the largest count within the budget wins unless one of the next
    ones is better beyond both intervals. Without accuracy the largest count is the answer.
    """
    within = [point.tokens for point in points if point.high_ms <= budget_ms and point.tokens in efficient]
    if not within:
        return None
    best, *rivals = sorted(within, reverse=True)[: 1 + NEIGHBOURS]
    if accuracy_at is None:
        return best
    for rival in rivals:
        if accuracy_at(rival).drop_high < accuracy_at(best).drop_low:
            best = rival
    return best


def largest_utility(
    points: Sequence[LatencyPoint], candidates: Sequence[int], alpha: float, accuracy_at: AccuracyAt
) -> int:
    """The paper's choice: the largest alpha * (1 - L / max L) + (1 - alpha) * A / max A; ties to more tokens.

    L is the median latency, its maximum that of the whole curve; A the accuracy at the candidates.
    """
    slowest = max(point.median_ms for point in points)
    latency = {point.tokens: point.median_ms / slowest for point in points}
    percent = {tokens: accuracy_at(tokens).percent for tokens in candidates}
    best = max(percent.values()) or 1.0

    def utility(tokens: int) -> tuple[float, int]:
        return alpha * (1 - latency[tokens]) + (1 - alpha) * percent[tokens] / best, tokens

    return max(candidates, key=utility)
