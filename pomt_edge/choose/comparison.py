"""Run B against run A: which counts are faster or slower, within the intervals, and whether they may be compared.

Inside a run the counts are scaled to the unreduced model measured around them, so their ratios to it are tight, while
its milliseconds follow the machine's speed from one run to the next. The unreduced model, the level, is therefore
compared with an interval that holds the machine's unrest, and the counts by their ratios unless the clocks were locked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

from pomt_edge.choose.gap import Band, Gap, Reach, between, reach, unrest
from pomt_edge.choose.sides import ORIGIN, Side, shown, software, unknown, unlike
from pomt_edge.errors import UserError
from pomt_edge.records import RECORDED, SIMULATED, ComparedPlans, ComparedPoint, Comparison, LatencyCurve, LatencyPoint

SAME_SHARE = 0.95
"""The share of the counts that has to be the same for the whole to be called so."""
TOLERANCE_PERCENT = 3.0
UNLOCKED_TOLERANCE_PERCENT = 5.0
"""A machine whose clocks move is not measured more finely than that in reasonable time."""
NAMED = 8
"""Counts that a sentence names; the rest are counted."""


Pair = tuple[LatencyPoint, LatencyPoint]
"""A's point and B's."""


def compare(
    a: Side,
    b: Side,
    tolerance_percent: float | None = None,
    scale: str | None = None,
    force: bool = False,
) -> Comparison:
    """Compare B with A.

    Args:
        tolerance_percent: differences up to it do not matter; None: 3 where the clocks were locked in both, else 5.
        scale: 'absolute' or 'relative', see `Comparison.scale`; None: absolute where the clocks were locked in both.
        force: compare even where the environments differ in what matters.

    Raises:
        UserError: no reduced count in common.
    """
    locked = a.locked and b.locked
    scale = scale or ("absolute" if locked else "relative")
    if tolerance_percent is None:
        tolerance_percent = TOLERANCE_PERCENT if locked else UNLOCKED_TOLERANCE_PERCENT
    incomparable = unlike(a, b)
    if incomparable and not force:
        pairs = "; ".join(f"{pair.field} is {shown(pair.a)} in A, {shown(pair.b)} in B" for pair in incomparable)
        return _comparison(a, b, "INCOMPARABLE", pairs, tolerance_percent, scale)
    shared = _shared(a, b)
    band = Band(tolerance_percent)
    ends = (a.curve.baseline, b.curve.baseline)
    level = _level(ends, between(*ends, [_unrest(a)], [_unrest(b)]), band, scale)
    gaps = [_gap_at(a, b, tokens, scale) for tokens in shared]
    chosen = {side.chosen for side in (a, b) if side.chosen is not None}
    # The choices were singled out before any comparison, so they stand for themselves; the others are looked through.
    beyond = [
        band.beyond([gap])[0] if tokens in chosen else out
        for tokens, gap, out in zip(shared, gaps, band.beyond(gaps), strict=True)
    ]
    points = tuple(
        _point(ends, (a.curve.at(tokens), b.curve.at(tokens)), gap, band.verdict(gap), out)
        for tokens, gap, out in zip(shared, gaps, beyond, strict=True)
    )
    verdict, because = _overall(level, points, chosen, tolerance_percent, scale)
    if a.curve == b.curve and a.intervals:
        verdict, because = "SAME", "both are the same measurement"
    return _comparison(a, b, verdict, because, tolerance_percent, scale, level, points)


def _level(ends: Pair, gap: Gap, band: Band, scale: str) -> ComparedPoint:
    """The unreduced model. Where counts are compared by ratios because the clocks were free, its milliseconds prove
    nothing: the machine may have been another all through one of the runs, which no interval from within can hold.
    """
    verdict, beyond = band.verdict(gap), band.beyond([gap])[0]
    if scale == "relative" and verdict != "SAME":
        verdict, beyond = "AMBIGUOUS", False
    return _point(ends, ends, gap, verdict, beyond)


def _shared(a: Side, b: Side) -> list[int]:
    there = {point.tokens for point in b.curve.points[1:]}
    shared = [point.tokens for point in a.curve.points[1:] if point.tokens in there]
    if not shared:
        raise UserError(
            f"{a.name} and {b.name} have no reduced count in common ({_grid(a.curve)}, {_grid(b.curve)}): measure one "
            "of them again with the other's --grid-start, --grid-stop and --grid-stride"
        )
    return shared


def _grid(curve: LatencyCurve) -> str:
    counts = [point.tokens for point in curve.points[1:]]
    return f"{len(counts)} counts from {counts[0]} to {counts[-1]}" if counts else "none"


def _gap_at(a: Side, b: Side, tokens: int, scale: str) -> Gap:
    left, right = a.curve.at(tokens), b.curve.at(tokens)
    if scale == "absolute":
        # A point's own interval is that of its ratio to the anchor: its milliseconds have the anchor's as well.
        return between(left, right, [_reach(a, left), _unrest(a)], [_reach(b, right), _unrest(b)])
    ratio = between(
        left, right, [_reach(a, left), _reach(a, a.curve.baseline)], [_reach(b, right), _reach(b, b.curve.baseline)]
    )
    level = math.log(b.curve.baseline.median_ms / a.curve.baseline.median_ms)
    return ratio._replace(value=ratio.value - level)


def _reach(side: Side, point: LatencyPoint) -> Reach | None:
    return reach(point) if side.intervals else None


def _unrest(side: Side) -> Reach | None:
    anchor_ms = side.curve.anchor_ms
    return unrest(anchor_ms) if anchor_ms else _reach(side, side.curve.baseline)


def _point(baselines: Pair, pair: Pair, gap: Gap, verdict: str, beyond: bool) -> ComparedPoint:
    a, b = pair
    return ComparedPoint(
        tokens=a.tokens,
        a_ms=a.median_ms,
        b_ms=b.median_ms,
        a_speedup=baselines[0].median_ms / a.median_ms,
        b_speedup=baselines[1].median_ms / b.median_ms,
        percent=_percent(gap.value),
        low=None if gap.down is None else _percent(gap.low),
        high=None if gap.up is None else _percent(gap.high),
        verdict=verdict,
        beyond=beyond,
    )


def _percent(logarithm: float) -> float:
    return 100 * math.expm1(logarithm)


def _overall(
    level: ComparedPoint, points: Sequence[ComparedPoint], chosen: Collection[int], tolerance: float, scale: str
) -> tuple[str, str]:
    slower, faster = (_surely(verdict, level, points, chosen, tolerance) for verdict in ("SLOWER", "FASTER"))
    if slower or faster:
        return "SLOWER" if slower else "FASTER", "; ".join(slower + faster)
    counted = Counter(point.verdict for point in points)
    same, itself = counted["SAME"], f"{level.verdict}: {difference(level)}"
    if same >= SAME_SHARE * len(points):
        because = f"{same} of {len(points)} counts are the same within {tolerance:g} %, and none is surely beyond"
        if scale == "relative":
            because += ", relative to the unreduced model"
        if _may_be_unchanged(level, tolerance):
            return "SAME", because
        return "AMBIGUOUS", f"{because}; but that itself is {difference(level)}, by the machine's mood or by the change"
    kinds = ", ".join(f"{number} {kind}" for kind, number in counted.most_common())
    because = f"of {len(points)} counts {kinds}, none surely more than {tolerance:g} % off"
    return "AMBIGUOUS", f"{because} (the unreduced model {itself})"


def _may_be_unchanged(level: ComparedPoint, tolerance: float) -> bool:
    """Whether the level's interval reaches into the tolerance."""
    low, high = (
        level.low if level.low is not None else level.percent,
        level.high if level.high is not None else level.percent,
    )
    return low <= tolerance and high >= -tolerance


def _surely(
    verdict: str, level: ComparedPoint, points: Sequence[ComparedPoint], chosen: Collection[int], tolerance: float
) -> list[str]:
    """What is surely beyond the tolerance on one side, a clause each."""
    is_so = f"surely more than {tolerance:g} % {verdict.lower()}"
    found = [point.tokens for point in points if point.beyond and point.verdict == verdict]
    clauses = []
    if level.beyond and level.verdict == verdict:
        clauses.append(f"the unreduced model is {is_so}, {difference(level)}")
    if found:
        named = ", ".join(f"{tokens} (chosen)" if tokens in chosen else str(tokens) for tokens in found[:NAMED])
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        clauses.append(f"{len(found)} of {len(points)} counts {is_so}: {named}{more}")
    return clauses


def difference(point: ComparedPoint) -> str:
    """'+4.1 % (+3.2 to +5.0)', or without an interval where there is none."""
    text = f"{_signed(point.percent)} %"
    if point.low is None or point.high is None:
        return text
    return f"{text} ({_signed(point.low)} to {_signed(point.high)})"


def _signed(percent: float) -> str:
    # Adding 0.0 turns the -0.0 that rounding can leave into 0.0.
    return f"{round(percent, 1) + 0.0:+.1f}"


def _comparison(
    a: Side,
    b: Side,
    verdict: str,
    because: str,
    tolerance_percent: float,
    scale: str,
    level: ComparedPoint | None = None,
    points: tuple[ComparedPoint, ...] = (),
) -> Comparison:
    counts_a = {point.tokens for point in a.curve.points}
    counts_b = {point.tokens for point in b.curve.points}
    kinds = Counter(point.verdict for point in points)
    return Comparison(
        a=a.name,
        b=b.name,
        verdict=verdict,
        because=because,
        tolerance_percent=tolerance_percent,
        scale=scale,
        level=level,
        points=points,
        counts={kind: kinds[kind] for kind in ("SAME", "FASTER", "SLOWER", "AMBIGUOUS")},
        only_in_a=tuple(sorted(counts_a - counts_b, reverse=True)),
        only_in_b=tuple(sorted(counts_b - counts_a, reverse=True)),
        plans=_plans(a, b) if level else None,
        incomparable=unlike(a, b),
        differs=software(a, b),
        unknown_in_a=unknown(a, b),
        unknown_in_b=unknown(b, a),
        chosen=tuple(side.chosen or 0 for side in (a, b) if side.plan),
        notes=(*_origins(a, b), *(_notes(a, b, scale) if level else ())),
        a_origin=a.facts.get(ORIGIN),
        b_origin=b.facts.get(ORIGIN),
    )


def _plans(a: Side, b: Side) -> ComparedPlans | None:
    if a.plan is None or b.plan is None:
        return None
    ends = (a.chosen, b.chosen)
    treads = a.staircase.segments if a.staircase else ()
    agreement = "different"
    if a.plan.verdict == b.plan.verdict and a.plan.schedule == b.plan.schedule:
        agreement = "same"
    elif a.plan.verdict == b.plan.verdict and any(
        all(end is not None and tread.fewest_tokens <= end <= tread.most_tokens for end in ends) for tread in treads
    ):
        agreement = "same tread"
    schedules = a.plan.schedule, b.plan.schedule
    return ComparedPlans(a.plan.verdict, b.plan.verdict, a.plan.removed, b.plan.removed, agreement, *schedules)


def _origins(a: Side, b: Side) -> list[str]:
    """Which side is no measurement of its device."""
    said = {
        SIMULATED: "is simulated: no device was measured",
        RECORDED: "was replayed from a recording",
    }
    return [f"{side.name} {said[kind]}." for side in (a, b) if (kind := side.facts.get(ORIGIN)) in said]


def _notes(a: Side, b: Side, scale: str) -> list[str]:
    notes = []
    if not (a.locked and b.locked):
        notes.append(
            "The clocks were not known to be locked in both: the unreduced model's milliseconds tell of the machine "
            "too, and its interval holds only the unrest seen while measuring. "
            + (
                "They decide nothing here; --absolute lets them."
                if scale == "relative"
                else "They decide here all the same."
            )
        )
    if not (a.intervals or b.intervals):
        notes.append("Neither has intervals, so that none of the differences is sure.")
    for side in (a, b):
        if not side.intervals and (a.intervals or b.intervals):
            notes.append(f"{side.name} has no intervals of its own: those shown are the other side's alone.")
        if side.intervals and not side.curve.anchor_ms:
            notes.append(f"{side.name} does not say how restless its machine was: the level's interval lacks that.")
        if side.remark:
            notes.append(f"{side.name}: {side.remark}.")
    return notes + _schedules(a, b)


def _schedules(a: Side, b: Side) -> list[str]:
    """What a comparison of counts leaves out where a plan is a schedule of several blocks."""
    searched = [side for side in (a, b) if side.plan and side.chosen is None]
    if not searched:
        return []
    whose = "both plans are schedules" if len(searched) == 2 else f"{searched[0].name}'s plan is a schedule"
    block = searched[0].facts["block"]
    gains = [
        f"{side.name}'s plan {side.plan.speedup:.2f}x ({side.plan.speedup_low:.2f} to {side.plan.speedup_high:.2f})"
        for side in (a, b)
        if side.plan
    ]
    return [
        f"The counts compared, and the verdict, are those of block {block} alone, but {whose} of several blocks. "
        f"Over the unreduced model of its own run: {', '.join(gains)}."
    ]
