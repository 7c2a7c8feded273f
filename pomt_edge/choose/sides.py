"""The two sides of a comparison: a run or a recorded curve, and what is known of where it was measured."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pomt_edge.records import FieldPair, LatencyCurve, Plan, Result, Staircase


@dataclass(frozen=True)
class Fact:
    """Something of a run's environment."""

    name: str
    of: Callable[[Result], Any]
    """Its value in a run; None: not recorded, or of no meaning there."""
    same: Callable[[Any, Any], bool] = operator.eq


def _detail(name: str) -> Callable[[Result], Any]:
    return lambda result: result.environment.details.get(name)


def _clocks(name: str) -> Callable[[Result], Any]:
    def of(result: Result) -> Any:
        clocks = result.environment.details.get("clocks")
        return clocks.get(name) if isinstance(clocks, Mapping) else None

    return of


def _locked(state: Any) -> bool:
    return bool(state == "locked")


def _wanted(result: Result) -> Any:
    return _clocks("wanted")(result) if _locked(_clocks("state")(result)) else None


def _of_the_block_probe(name: str) -> Callable[[Result], Any]:
    """The input probe drops tokens before any block and by no method."""
    return lambda result: getattr(result.on_curve, name) if result.curve.probe == "block" else None


def _threads(result: Result) -> Any:
    return result.environment.threads if result.environment.device.startswith("cpu") else None


def _tf32(result: Result) -> Any:
    """Whether fp32 is rounded to 19 bits in products, which doubles the speed and more."""
    return _detail("tf32_matmul")(result) if result.environment.precision == "fp32" else None


CLOCKS = "clocks"
ORIGIN = "origin"
MATTERS = (
    Fact("model", lambda result: result.plan.model),
    Fact("tokens of the unreduced model", lambda result: result.curve.baseline.tokens),
    Fact("probe", lambda result: result.curve.probe),
    Fact("method", _of_the_block_probe("method")),
    Fact("block", _of_the_block_probe("block")),
    Fact("device", lambda result: result.environment.device_name),
    Fact(ORIGIN, operator.attrgetter("environment.origin")),
    Fact("engine", lambda result: result.environment.engine),
    Fact("precision", lambda result: result.environment.precision),
    Fact("batch size", lambda result: result.environment.batch_size),
    Fact("image px", lambda result: result.environment.image_px),
    Fact("threads", _threads),
    Fact("power mode", operator.attrgetter("environment.power_mode")),
    Fact("SM count", _detail("sm_count")),
    Fact("TF32", _tf32),
    Fact(CLOCKS, _clocks("state"), lambda a, b: _locked(a) == _locked(b)),
    Fact("clocks wanted", _wanted),
    Fact("timer", _detail("timer")),
)
"""Where these differ, a difference in latency says nothing of what the runs are compared for."""

DETAILS = (
    "driver",
    "cuda",
    "cudnn",
    "compute_capability",
    "power_limit_w",
    "instruction_set",
    "governor",
    "heap",
    "weights",
)
PLATFORM = ("toolkit_version", "git_commit", "python", "platform")
MAY_DIFFER = (
    *(Fact(name.replace("_", " "), operator.attrgetter(f"environment.{name}")) for name in PLATFORM),
    *(Fact(name.replace("_", " "), _detail(name)) for name in DETAILS),
    Fact("drift taken out", lambda result: result.curve.detrended),
    Fact("limits", lambda result: result.plan.limits),
)
"""What is often compared on purpose, beside the versions of packages; it is listed."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a run, or a recorded curve with what is known of it."""

    name: str
    curve: LatencyCurve
    facts: Mapping[str, Any] = field(default_factory=dict)
    """By the names in MATTERS; what is not known is left out."""
    software: Mapping[str, Any] = field(default_factory=dict)
    """Versions, and the names in MAY_DIFFER."""
    intervals: bool = True
    """Whether the points have intervals of their own."""
    plan: Plan | None = None
    staircase: Staircase | None = None
    chosen: int | None = None
    """The count of the curve that the plan takes; None: there is no plan, or its schedule is none of the curve's."""
    remark: str = ""
    """How a recorded curve was measured, in its own words."""

    @property
    def locked(self) -> bool:
        return _locked(self.facts.get(CLOCKS))


def of_result(name: str, result: Result) -> Side:
    """A finished run as one side."""
    return Side(
        name,
        result.curve,
        {fact.name: fact.of(result) for fact in MATTERS},
        {**result.environment.versions, **{fact.name: fact.of(result) for fact in MAY_DIFFER}},
        plan=result.plan,
        staircase=result.staircase,
        chosen=None if result.searched else result.plan.tokens_out,
    )


def closest(candidates: Sequence[Side], other: Side) -> Side:
    """Of the curves of one file the one whose facts are nearest to the other side's."""
    return min(candidates, key=lambda side: len(unlike(side, other)))


def unlike(a: Side, b: Side) -> tuple[FieldPair, ...]:
    """The fields that matter and differ."""
    known = [(fact, a.facts.get(fact.name), b.facts.get(fact.name)) for fact in MATTERS]
    return tuple(
        FieldPair(fact.name, left, right)
        for fact, left, right in known
        if left is not None and right is not None and not fact.same(left, right)
    )


def unknown(side: Side, other: Side) -> tuple[str, ...]:
    """The fields that matter and that only the other side knows."""
    names = [fact.name for fact in MATTERS]
    return tuple(name for name in names if side.facts.get(name) is None and other.facts.get(name) is not None)


def software(a: Side, b: Side) -> tuple[FieldPair, ...]:
    """The fields that may differ, and do."""
    known = [(name, a.software[name], b.software[name]) for name in a.software if name in b.software]
    return tuple(
        FieldPair(name, left, right) for name, left, right in known if None not in (left, right) and left != right
    )


def shown(value: Any) -> str:
    """A field's value as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(part)}" for key, part in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
