"""From a sweep to a decision: what to measure, fit, choose, measure the choice again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pomt_edge.choose import adaptive, staircase
from pomt_edge.choose import plan as planning
from pomt_edge.choose.search import AccuracyAt
from pomt_edge.errors import PointFailed, UserError
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.steadiness import detrended
from pomt_edge.measure.sweep import Sweep
from pomt_edge.records import ADAPTIVE, FULL, AccuracyPoint, LatencyCurve, Probe, Search, Staircase
from pomt_edge.searching import Deadline, Measuring, OutOfTimeError

if TYPE_CHECKING:
    from pomt_edge.measure.accuracy import Accuracy

CONFIRMED_CHOICES = 6
"""Choices that are measured again, should each turn out otherwise than it looked; then one of them is taken."""


@dataclass(frozen=True)
class Decided:
    """The curve, what explains it, what follows from it, and how it was come by."""

    curve: LatencyCurve
    staircase: Staircase
    decision: planning.Decision
    search: Search


def decide(sweep: Sweep, limits: planning.Limits, detrend: bool = False, accuracy: Accuracy | None = None) -> Decided:
    """Measure the whole grid, choose, measure the choice again, and choose again until that changes nothing.

    Raises:
        PointFailed: no reduced count could be measured, so that there is nothing to choose from.
    """
    sweep.run()
    _check_measured(sweep)
    confirmed: set[int] = set()
    while True:
        curve = _curve(sweep, detrend)
        fitted = staircase.fit(curve)
        candidates = fitted.efficient
        if len(confirmed) == CONFIRMED_CHOICES:
            known = confirmed | {curve.baseline.tokens}
            candidates = tuple(tokens for tokens in candidates if tokens in known)
        decision = planning.decide(
            curve,
            candidates,
            limits,
            accuracy.at if accuracy else None,
            # Judged for another limit on fewer images, a count may fit this one by luck.
            accuracy.known(whole=True) if accuracy else (),
        )
        if decision.verdict != "prune" or decision.tokens in confirmed:
            whole = Search(FULL, len(sweep.grid.tokens) - 1, *_all_of(curve, accuracy))
            return Decided(curve, fitted, planning.settled(curve, decision, limits), whole)
        confirmed.add(decision.tokens)
        sweep.confirm(decision.tokens)


def _all_of(curve: LatencyCurve, accuracy: Accuracy | None) -> tuple[tuple[Probe, ...], tuple[Probe, ...]]:
    judged = accuracy.known() if accuracy else ()
    return (
        tuple(Probe(point.tokens, "all counts of the grid") for point in curve.points),
        tuple(Probe(point.tokens, "where it can decide") for point in judged),
    )


def decide_adaptively(
    sweep: Sweep,
    limits: planning.Limits,
    detrend: bool,
    accuracy: Accuracy | None,
    journal: Journal,
    deadline: Deadline,
) -> Decided:
    """Measure what decides, choose, measure the choice again, and search on with that until it changes nothing.

    A search that came to its end with all that it asked for is kept, and not made again with the same limits: what was
    measured meanwhile, for others, would lead it elsewhere.

    Args:
        deadline: the progress that the sweep and the accuracy report to.

    Raises:
        PointFailed: no reduced count could be measured, so that there is nothing to choose from.
        UserError: the time was over before one was.
    """
    bench = Measuring(sweep, accuracy, limits.max_drop, detrend)
    stopped = None
    search = {**limits.to_dict(), "detrend": detrend}
    kept = next((entry for entry in reversed(journal.entries) if entry.get("searched") == search), None)
    try:
        if kept:
            chosen = bench.recall(kept)
        else:
            with deadline.running():
                chosen = _searched(sweep, limits, bench, accuracy)
            if not sweep.failed:
                journal.add({"searched": search, "chosen": chosen, **bench.asked()})
    except OutOfTimeError as over:
        stopped = str(over)
        _check_begun(sweep, stopped)
        chosen = adaptive.best_known(sweep.grid.tokens, limits, bench.points(), bench.decided())
    _check_measured(sweep)
    curve = _curve(sweep, detrend)
    fitted = staircase.fit(curve)
    decision = _decision(curve, fitted, chosen, limits, bench, stopped)
    found = Search(ADAPTIVE, len(sweep.grid.tokens) - 1, *bench.probes(), stopped, tuple(bench.left_open()))
    return Decided(curve, fitted, planning.settled(curve, decision, limits), found)


def _decision(
    curve: LatencyCurve,
    fitted: Staircase,
    chosen: int | None,
    limits: planning.Limits,
    bench: Measuring,
    stopped: str | None,
) -> planning.Decision:
    """The choice with its reason; once the time is over nothing more is measured for that."""
    if stopped and chosen is None:
        because = f"{stopped} before a count was found that is surely faster within the limits: give it more"
        return planning.Decision(curve.baseline.tokens, "keep", because)
    known = bench.judged()
    candidates = _candidates(curve, fitted, chosen, limits, known)
    judge: AccuracyAt | None = bench.accuracy if bench.judges else None
    if stopped:
        judge = known.__getitem__ if known and limits.budget_ms is None else None
    return planning.decide(curve, candidates, limits, judge)


def _searched(sweep: Sweep, limits: planning.Limits, bench: Measuring, accuracy: Accuracy | None) -> int | None:
    """The choice, its accuracy measured on all images and its latency again, until both leave it the choice."""
    explorer = adaptive.Explorer(sweep.grid.tokens, limits, bench)
    confirmed: set[int] = set()
    while True:
        chosen = explorer.choice()
        if chosen is None or chosen == sweep.grid.tokens[0]:
            return chosen
        # What is promised is promised of all images.
        if accuracy and limits.max_drop is not None and accuracy.at(chosen).drop_high > limits.max_drop:
            continue
        if chosen in confirmed or len(confirmed) == CONFIRMED_CHOICES:
            return chosen
        confirmed.add(chosen)
        sweep.confirm(chosen)


def _candidates(
    curve: LatencyCurve,
    fitted: Staircase,
    chosen: int | None,
    limits: planning.Limits,
    known: Mapping[int, AccuracyPoint],
) -> tuple[int, ...]:
    """What the choice is made from: the count that was found, and what the reason has to name beside it."""
    full = curve.baseline.tokens
    if limits.alpha is not None:
        named = {point.tokens for point in curve.points if point.tokens in known}
    elif limits.budget_ms is not None:
        named = set(fitted.efficient)
    elif chosen is None:
        named = set(fitted.efficient[1:2])
    else:
        most = limits.max_drop if limits.max_drop is not None else 0.0
        beyond = {tokens for tokens, point in known.items() if point.drop_high > most}
        named = {tokens for tokens in fitted.efficient if tokens < chosen and tokens in beyond}
    return tuple(sorted({full, *named} | ({chosen} if chosen else set()), reverse=True))


def _curve(sweep: Sweep, detrend: bool) -> LatencyCurve:
    return detrended(sweep.curve()) if detrend else sweep.curve()


def _check_measured(sweep: Sweep) -> None:
    if sweep.failed and len(sweep.curve().points) == 1:
        first = next(iter(sweep.failed.values()))
        raise PointFailed(f"none of {len(sweep.failed)} reduced counts could be measured; the first: {first}")


def _check_begun(sweep: Sweep, stopped: str) -> None:
    if len(sweep.curve().points) < 2:
        raise UserError(f"{stopped} before a reduced count was measured; what was measured is kept: give it more")
