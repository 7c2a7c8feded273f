"""Whether a plan's predicted speedup was found on the engine that it was deployed to."""

from __future__ import annotations

from collections.abc import Mapping

from pomt_edge.records import MEASURED, Benchmark, Plan

NONE, HELD, EXCEEDED, BROKEN, UNCLEAR = "none", "held", "exceeded", "broken", "unclear"
COMPARED = {"engine": "", "precision": "", "batch_size": "batch ", "device": "on "}
"""What a prediction is for, and how it is said."""


def promise(plan: Plan, benchmark: Benchmark, measured_with: Mapping[str, object]) -> tuple[str, str]:
    """A word and a sentence about the plan's promise.

    Args:
        measured_with: what the benchmark ran with: 'engine', 'precision', 'batch_size' and 'device'.

    Returns:
        'held' (the intervals of the predicted and the measured speedup meet), 'exceeded', 'broken', 'unclear' (they
        meet, and the measured one is wider than the promised gain) or 'none' (the plan promises nothing for this).
    """
    if benchmark.reduced is None or plan.removed == 0:
        return NONE, "nothing was promised: the plan removes no tokens"
    measured = f"measured {benchmark.speedup:.2f}x ({benchmark.speedup_low:.2f} to {benchmark.speedup_high:.2f})"
    if not plan.predicted_ms:
        return NONE, f"nothing was promised: the tokens to remove were given by hand; {measured}"
    if plan.origin != MEASURED:
        return NONE, f"{measured}; the {plan.speedup:.2f}x were {plan.origin} ({plan.device}): no promise to hold"
    if any(measured_with[name] != getattr(plan, name) for name in COMPARED):
        return NONE, (
            f"predicted {plan.speedup:.2f}x for {_said(vars(plan))}; {measured} for {_said(measured_with)}: "
            "no promise to hold"
        )
    if plan.speedup <= 1:
        return NONE, f"{measured}; the plan promises no gain"
    word = _word(plan, benchmark)
    return word, f"predicted {plan.speedup:.2f}x, {measured}: {word}"


def _word(plan: Plan, benchmark: Benchmark) -> str:
    if benchmark.speedup_low > plan.speedup_high:
        return EXCEEDED
    if benchmark.speedup_high < plan.speedup_low:
        return BROKEN
    if benchmark.speedup_high - benchmark.speedup_low > plan.speedup - 1:
        return UNCLEAR
    return HELD


def _said(facts: Mapping[str, object]) -> str:
    return " ".join(f"{lead}{facts[name]}" for name, lead in COMPARED.items())
