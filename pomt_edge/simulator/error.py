"""How far the model was off where it could be checked; written by benchmarks/simulator_error.py."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

NAME = "error.json"
REDUCED = "reduced_in_a_block"


@functools.cache
def published_error() -> dict[str, Any]:
    """The published figures: of curves, per curve and in all, of pruning in a block, and of fixed sizes.

    Percentages; shares as counts.
    """
    text = (resources.files("pomt_edge.simulator") / NAME).read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def totals() -> dict[str, Any]:
    """What a result keeps of it: the check's figures in all, and those of pruning in a block."""
    published = published_error()
    reduced = {name: value for name, value in published[REDUCED].items() if not isinstance(value, str | list)}
    return published["check"] | {REDUCED: reduced}


def in_words(known: Mapping[str, Any]) -> str:
    """Sentences for a reader who is to judge a simulated figure; `known`: as `totals` gives it."""
    text = (
        f"Checked on a real H200: with tokens sliced at the input it is {known['median_percent']:g} % off (median; "
        f"{known['p90_percent']:g} % at the 90th percentile) on curves that its constants were not fitted on, though "
        f"kernels' tiles were chosen with them in view, and foresees {known['cliffs_predicted']} of {known['cliffs']} "
        f"steps over 4 % within one token; of {known['predicted']} that it shows {known['predicted_that_are_real']} "
        "are real."
    )
    if reduced := known.get(REDUCED):
        text += (
            f" Pruning in a block, ratios to the unreduced model are {reduced['median_percent']:g} % off (median; "
            f"{reduced['most_percent']:g} % at most), too fast in {reduced['too_fast']} of {reduced['ratios']}."
        )
    return f"{text} Of other devices' steps nothing is known."
