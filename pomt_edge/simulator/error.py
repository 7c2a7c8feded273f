"""How far the model was off where it could be checked; written by benchmarks/simulator_error.py."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any

NAME = "error.json"


@functools.cache
def published_error() -> dict[str, Any]:
    """The published figures: the split, per curve and in all, and the fixed sizes; percentages, shares as counts."""
    text = (resources.files("pomt_edge.simulator") / NAME).read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data
