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
    swapped: float
    """Share of the kept tokens that may be others, the mean over images; in low precision some swap at the cut."""


TOLERANCES = {
    "fp32": Tolerance(0.01, 0.001, 100.0, 0.001),
    "fp16": Tolerance(1.0, 0.05, 97.0, 0.1),
    "bf16": Tolerance(2.0, 0.1, 95.0, 0.3),
    "int8": Tolerance(2.5, 0.2, 90.0, 0.6),
}
"""About twice what was seen on a trained model, where PiToMe sets the limits: in int8 it keeps 96 % of the first
classes, at a mean of 0.06 standard deviations, and two thirds of its tokens; the others keep 98 % and 99 %."""
BEYOND = 1e300
"""Stands in records, which are JSON, for the difference from what is not finite."""
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
    """Judge an engine's outputs by the precision's tolerance; tokens only where the engine tells them.

    Scores nearer than float32's rounding have no order: an image of which a token is swapped computes something else
    from there on. Such images count as swaps, and not with their logits, unless they are most.
    """
    tolerance = TOLERANCES[subject.precision]
    right, given = expected[LOGITS].astype(np.float64), found[LOGITS].astype(np.float64)
    deviation = float(right.std(axis=1).mean())
    allowed = tolerance.spread * deviation
    finite = bool(np.isfinite(given).all())
    differences = np.abs(right - given) if finite else np.full(right.shape, BEYOND)
    top1 = 100 * float(_same_class(right, given, allowed).mean()) if finite else 0.0
    tokens = _tokens(expected, found)
    judged = differences[tokens.same] if tokens and tokens.same.mean() >= 0.5 else differences
    reasons = [
        *_of_logits(judged, tolerance, deviation, finite),
        *(_of_tokens(tokens, tolerance) if tokens else ()),
    ]
    if finite and top1 < tolerance.top1_percent:
        reasons.append(f"only {top1:.1f} % of images keep their first class, asked {tolerance.top1_percent:g} %")
    return Parity(
        variant=subject.variant,
        engine=subject.engine,
        precision=subject.precision,
        images=len(right),
        real_images=subject.real_images,
        max_abs_diff=float(judged.max()),
        mean_abs_diff=float(judged.mean()),
        max_abs_diff_allowed=allowed,
        top1_percent=top1,
        top1_percent_allowed=tolerance.top1_percent,
        same_tokens_percent=100 * float(tokens.same.mean()) if tokens else None,
        swapped_per_image=tokens.swapped if tokens else None,
        diverges_at=None,
        passed=not reasons,
        because="; ".join(reasons),
    )


def _of_logits(differences: Array, tolerance: Tolerance, deviation: float, finite: bool) -> list[str]:
    largest, mean = float(differences.max()), float(differences.mean())
    if not finite:
        return ["logits are not finite"]
    if largest > tolerance.spread * deviation:
        return [f"a logit differs by {largest:.3g}, allowed {tolerance.spread * deviation:.3g}"]
    if mean > tolerance.mean_spread * deviation:
        return [f"the logits differ by {mean:.3g} on average, allowed {tolerance.mean_spread * deviation:.3g}"]
    return []


def _of_tokens(tokens: Tokens, tolerance: Tolerance) -> list[str]:
    share = tokens.swapped / tokens.kept
    if share <= tolerance.swapped:
        return []
    return [f"{100 * share:.2g} % of the kept tokens are others than torch's, allowed {100 * tolerance.swapped:g} %"]


@dataclass(frozen=True)
class Tokens:
    """What became of the tokens, where both sides tell."""

    same: Array
    """Per image, whether the same tokens were kept and merged in every block; as sets, whatever their order."""
    swapped: float
    """Kept by one and not by the other, in the first block that reduces, the mean over images: behind it positions
    have moved, and a swap there says little."""
    kept: int
    """Tokens that the first block that reduces keeps."""


def _same_class(right: Array, given: Array, allowed: float) -> Array:
    """Per image, whether the engine's first class is torch's, or one that torch has all but as high."""
    rows = np.arange(len(right))
    tie = min(allowed, NEAR_TIE * float(right.std()))
    return right[rows, given.argmax(axis=1)] >= right.max(axis=1) - tie


def _tokens(expected: Outputs, found: Outputs) -> Tokens | None:
    names = [name for name in expected if re.fullmatch(r"(kept|merged)\d+", name) and name in found]
    if not names:
        return None
    same = np.all([_swapped(expected[name], found[name]) == 0 for name in names], axis=0)
    first = min((name for name in names if name.startswith("kept")), key=lambda name: int(name[4:]))
    return Tokens(same, float(_swapped(expected[first], found[first]).mean()), expected[first].shape[1])


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
    return float(_swapped(expected, found).mean()) / expected.shape[1] > TOLERANCES[precision].swapped
