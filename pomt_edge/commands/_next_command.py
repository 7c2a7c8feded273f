"""The `offline_compute` that a command tells the user to type next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pomt_edge.records import Plan


def offline_compute(
    plan: Plan, device: str, grid: Sequence[str] = (), changes: Mapping[str, str | None] | None = None
) -> str:
    """The command that makes a plan of the same model in the same setting, within the same limits, on that device.

    Args:
        grid: options of the counts to measure; none: all.
        changes: `model`, `block` and others in place of the plan's, by their option's name; None leaves one out.
    """
    blocks = [str(block) for block, removed in enumerate(plan.schedule) if removed] or [str(plan.block)]
    options = {
        "device": device,
        "model": plan.model,
        "bs": str(plan.batch_size),
        "engine": plan.engine,
        "precision": plan.precision,
        "method": plan.method,
        "block": ("all" if all(plan.schedule) else ",".join(blocks)) if plan.is_even else "auto",
        **{name: f"{value:g}" for name, value in plan.limits.items()},
        **(changes or {}),
    }
    if plan.probe != "block":
        options["probe"] = plan.probe
    words = [word for name, value in options.items() if value for word in (f"--{name.replace('_', '-')}", value)]
    return shlex.join(["offline_compute", *words, *grid])
