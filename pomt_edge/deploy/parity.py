"""Whether an engine computes what the model in torch does: logits, first classes, and the tokens that are kept.

The yardstick is the float32 model in torch on the CPU. A deviation of logits is told in units of their spread, the
standard deviation over classes: it means the same for a trained classifier and for random weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pomt_edge.engines import Session
from pomt_edge.export import LOGITS
from pomt_edge.records import Parity
from pomt_edge.reduce.reduced_model import ReducedModel

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Tolerance:
    """What a precision may change."""

    spread: float
    """Largest difference of a logit, in standard deviations of the logits."""
    mean_spread: float
    """Mean difference of the logits, in the same unit; the largest is that of the one image with a swapped token."""
    top1_percent: float
    """Images that have to keep their first class."""
    same_tokens: bool
    """Whether the very same tokens have to be kept; in low precision a few swap at the cut."""


TOLERANCES = {
    "fp32": Tolerance(0.01, 0.001, 100.0, same_tokens=True),
    "fp16": Tolerance(1.0, 0.05, 97.0, same_tokens=False),
    "bf16": Tolerance(2.0, 0.1, 95.0, same_tokens=False),
    "int8": Tolerance(2.5, 0.2, 90.0, same_tokens=False),
}
"""Twice and more of what was seen on a trained model: PiToMe in int8 keeps 96 % of the first classes, at a mean of 0.06
standard deviations; all others keep 98 % and more."""
NEAR_TIES_IN_FLOAT32 = 0.02
"""Share of images whose tokens may differ in float32 too: scores nearer than its rounding have no order."""
NEAR_TIE = 0.01
"""Two classes nearer than this, in standard deviations of the logits, have no order that a user could rely on."""


@dataclass(frozen=True)
class Subject:
    """What is compared."""

    variant: str
    engine: str
    precision: str
    real_images: bool


def reference(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, Array]:
    """What torch computes of batches [B, 3, height, width], as an engine's session names it: logits [images, classes]
    and, of each block i that reduces, kept{i} and, where the method has them, merged{i} and into{i}."""
    parts: list[dict[str, Array]] = []
    with torch.inference_mode():
        for batch in batches:
            found = {LOGITS: model(batch).float().numpy()}
            maps = model.token_maps(batch) if isinstance(model, ReducedModel) else {}
            for index, token_map in maps.items():
                fields = {"kept": token_map.kept, "merged": token_map.merged, "into": token_map.into}
                found |= {
                    f"{name}{index}": value.expand(len(batch), -1).numpy()
                    for name, value in fields.items()
                    if value is not None
                }
            parts.append(found)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run(session: Session, batches: Sequence[Tensor]) -> dict[str, Array]:
    """All outputs of a session for the same batches."""
    parts = [session.run(batch) for batch in batches]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compare(subject: Subject, expected: Outputs, found: Outputs) -> Parity:
    """Judge an engine's outputs by the precision's tolerance; tokens only where the engine tells them."""
    tolerance = TOLERANCES[subject.precision]
    right, given = expected[LOGITS].astype(np.float64), found[LOGITS].astype(np.float64)
    deviation = float(right.std(axis=1).mean())
    allowed = tolerance.spread * deviation
    finite = bool(np.isfinite(given).all())
    differences = np.abs(right - given) if finite else np.array([np.finfo(np.float64).max])
    largest, mean = float(differences.max()), float(differences.mean())
    top1 = 100 * float(_same_class(right, given, allowed).mean()) if finite else 0.0
    same_tokens, swapped = _tokens(expected, found)
    reasons = []
    if not finite:
        reasons.append("logits are not finite")
    elif largest > allowed:
        reasons.append(f"a logit differs by {largest:.3g}, allowed {allowed:.3g}")
    elif mean > tolerance.mean_spread * deviation:
        reasons.append(f"the logits differ by {mean:.3g} on average, allowed {tolerance.mean_spread * deviation:.3g}")
    if finite and top1 < tolerance.top1_percent:
        reasons.append(f"only {top1:.1f} % of images keep their first class, asked {tolerance.top1_percent:g} %")
    if tolerance.same_tokens and same_tokens is not None and same_tokens < 100 * (1 - NEAR_TIES_IN_FLOAT32):
        reasons.append(f"only {same_tokens:.1f} % of images keep the same tokens")
    return Parity(
        variant=subject.variant,
        engine=subject.engine,
        precision=subject.precision,
        images=len(right),
        real_images=subject.real_images,
        max_abs_diff=largest,
        mean_abs_diff=mean,
        max_abs_diff_allowed=allowed,
        top1_percent=top1,
        top1_percent_allowed=tolerance.top1_percent,
        same_tokens_percent=same_tokens,
        swapped_per_image=swapped,
        diverges_at=None,
        passed=not reasons,
        because="; ".join(reasons),
    )


def _same_class(right: Array, given: Array, allowed: float) -> Array:
    """Per image, whether the engine's first class is torch's, or one that torch has all but as high."""
    rows = np.arange(len(right))
    tie = min(allowed, NEAR_TIE * float(right.std()))
    return right[rows, given.argmax(axis=1)] >= right.max(axis=1) - tie


def _tokens(expected: Outputs, found: Outputs) -> tuple[float | None, float | None]:
    """Percent of images that keep and merge the same tokens in every block, and tokens swapped per image in the first.

    Behind the first block that reduces positions have moved, and a swap there says little.
    """
    names = [name for name in expected if re.fullmatch(r"(kept|merged)\d+", name) and name in found]
    if not names:
        return None, None
    # As sets: what low precision ranks in another order is the same reduction.
    same = np.all([_swapped(expected[name], found[name]) == 0 for name in names], axis=0)
    first = min((name for name in names if name.startswith("kept")), key=lambda name: int(name[4:]))
    return 100 * float(same.mean()), float(_swapped(expected[first], found[first]).mean())


def _swapped(expected: Array, found: Array) -> Array:
    """Per image, tokens [images, K] of one set that are not in the other."""
    return np.array([len(set(a) - set(b)) for a, b in zip(expected.tolist(), found.tolist(), strict=True)])


def first_divergence(expected: Outputs, found: Outputs, precision: str) -> str | None:
    """The first tap in the order of computation that differs by more than the precision explains.

    Args:
        expected, found: with 'block{i}' [images, N, C] and 'kept{i}' taps, in float32.
    """
    limit = 10 * TOLERANCES[precision].spread
    for index in sorted(int(name[5:]) for name in found if re.fullmatch(r"block\d+", name)):
        kept = f"kept{index}"
        if kept in found and kept in expected and _differ(expected[kept], found[kept], precision):
            return f"block {index}, the tokens that are kept"
        right, given = expected[f"block{index}"], found[f"block{index}"]
        if right.shape != given.shape:
            return f"block {index}, of shape {given.shape} instead of {right.shape}"
        if not np.abs(right - given).max() <= limit * right.std():  # NaN is beyond every limit
            return f"block {index}"
    return "the classifier"


def _differ(expected: Array, found: Array, precision: str) -> bool:
    """Whether more tokens are swapped than ties at the cut explain."""
    if expected.shape != found.shape:
        return True
    share = float(_swapped(expected, found).mean()) / expected.shape[1]
    return share > (NEAR_TIES_IN_FLOAT32 if precision == "fp32" else 0.1)
