"""From a sweep to a decision: fit, choose, measure the choice again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pomt_edge.choose import plan as planning
from pomt_edge.choose import staircase
from pomt_edge.errors import PointFailed
from pomt_edge.measure.steadiness import detrended
from pomt_edge.measure.sweep import Sweep
from pomt_edge.records import LatencyCurve, Staircase

if TYPE_CHECKING:
    from pomt_edge.measure.accuracy import Accuracy

CONFIRMED_CHOICES = 6
"""Choices that are measured again, should each turn out otherwise than it looked; then one of them is taken."""


def decide(
    sweep: Sweep, limits: planning.Limits, detrend: bool = False, accuracy: Accuracy | None = None
) -> tuple[LatencyCurve, Staircase, planning.Decision]:
    """Choose, measure the choice again beside the baseline, and choose again until that changes nothing.

    Raises:
        PointFailed: no reduced count could be measured, so that there is nothing to choose from.
    """
    correct = detrended if detrend else _as_measured
    curve = correct(sweep.run())
    if sweep.failed and len(curve.points) == 1:
        first = next(iter(sweep.failed.values()))
        raise PointFailed(f"none of {len(sweep.failed)} reduced counts could be measured; the first: {first}")
    confirmed: set[int] = set()
    while True:
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
            accuracy.known() if accuracy else (),
        )
        if decision.verdict != "prune" or decision.tokens in confirmed:
            return curve, fitted, planning.settled(curve, decision, limits)
        confirmed.add(decision.tokens)
        curve = correct(sweep.confirm(decision.tokens))


def _as_measured(curve: LatencyCurve) -> LatencyCurve:
    return curve
