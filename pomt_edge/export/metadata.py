"""What a graph tells of itself: the plan, the labels, how images are to be prepared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def stamped(model: onnx.ModelProto, facts: Mapping[str, Any]) -> onnx.ModelProto:
    """The model with these facts, each as JSON; one that was there already is replaced.

    Raises:
        TypeError: a fact that JSON can't say.
        ValueError: NaN or infinity.
    """
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    held = {entry.key: entry.value for entry in model.metadata_props}
    held |= {name: json.dumps(fact, allow_nan=False, ensure_ascii=False) for name, fact in facts.items()}
    del found.metadata_props[:]
    for name, text in held.items():
        found.metadata_props.add(key=name, value=text)
    return found


def read(model: onnx.ModelProto) -> dict[str, Any]:
    """The facts of a model; what is no JSON was written by others, and is handed back as it stands."""
    return {entry.key: _parsed(entry.value) for entry in model.metadata_props}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
