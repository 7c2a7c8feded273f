"""One run against another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pomt_edge.records.base import SCHEMA, Record


@dataclass(frozen=True)
class ComparedPoint(Record):
    """One token count in two runs, B against A."""

    tokens: int
    a_ms: float
    b_ms: float
    a_speedup: float
    """Of A's unreduced model over this count."""
    b_speedup: float
    percent: float
    """How much longer B takes than A, in percent of A; negative is faster. On the relative scale it is the shares of
    the unreduced model's latency that are compared."""
    low: float | None
    """Lower end of the difference's 95 % interval, in percent; None where neither side has an interval."""
    high: float | None
    verdict: str
    """'SAME', 'FASTER', 'SLOWER' or 'AMBIGUOUS' (not measured well enough to tell)."""
    beyond: bool
    """Whether it is faster or slower by surely more than the tolerance, the number of counts looked at allowed for."""


@dataclass(frozen=True)
class FieldPair(Record):
    """A field of the environment that two runs do not share."""

    field: str
    a: Any
    b: Any


@dataclass(frozen=True)
class ComparedPlans(Record):
    """What two runs chose."""

    a_verdict: str
    b_verdict: str
    a_removed: int
    b_removed: int
    agreement: str
    """'same', 'same tread' (of A's staircase) or 'different'."""
    a_schedule: tuple[int, ...] = ()
    """Tokens removed in each block."""
    b_schedule: tuple[int, ...] = ()


@dataclass(frozen=True)
class Comparison(Record):
    """Run B against run A."""

    a: str
    b: str
    verdict: str
    """'SLOWER' (a regression), 'FASTER', 'SAME', 'AMBIGUOUS' or 'INCOMPARABLE'."""
    because: str
    tolerance_percent: float
    scale: str
    """'absolute': counts in milliseconds; 'relative': each in shares of its own run's unreduced model."""
    level: ComparedPoint | None
    """The unreduced model in milliseconds; its interval holds the machine's unrest."""
    points: tuple[ComparedPoint, ...]
    """The reduced counts that both have, most tokens first."""
    counts: dict[str, Any]
    """How many points there are of each verdict."""
    only_in_a: tuple[int, ...]
    only_in_b: tuple[int, ...]
    plans: ComparedPlans | None
    incomparable: tuple[FieldPair, ...]
    """Fields that matter and differ."""
    differs: tuple[FieldPair, ...]
    """Fields that may differ between two runs that are compared, such as versions."""
    unknown_in_a: tuple[str, ...]
    """Fields that matter and that only the other run recorded."""
    unknown_in_b: tuple[str, ...]
    chosen: tuple[int, ...] = ()
    """The counts that the plans chose, A's first; 0 stands for a schedule that is no count of the curve."""
    notes: tuple[str, ...] = ()
    a_origin: str | None = None
    """'measured', 'simulated' or 'recorded'; None: not known."""
    b_origin: str | None = None
    schema: int = SCHEMA
