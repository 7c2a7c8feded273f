"""What an engine's layers really run in, read from the inspector's JSON or from the list in a builder's log."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from pomt_edge.errors import UserError

TYPES = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("bf16", re.compile(r"\b(?:bfloat16|bf16|bfp16)\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(?:half|fp16)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(?:float|fp32)\b", re.IGNORECASE)),
)
"""From the narrowest: 'Half', 'Channel major FP16 format where channel % 8 == 0', …"""
OTHER = "other"
"""A kernel of integers alone."""

MATRIX_TYPE = re.compile(r"gemm|conv|correlation|matrix|fullyconnected|runtime_fusion|attention", re.IGNORECASE)
MATRIX_NAME = re.compile(r"^_?gemm|_gemm_|mha_|__myl_(?:[A-Z][a-z]+)*?Fc(?![a-z])")
OPAQUE = re.compile(r"^myelin", re.IGNORECASE)
"""A subgraph of which older TensorRT shows nothing of the inside; in TensorRT 8 that is most of a transformer."""


@dataclass(frozen=True)
class Layer:
    """One kernel, or one layer where the library does not go deeper."""

    name: str
    kind: str
    precision: str
    """The narrowest of the types that it reads; single numbers, such as a scale, do not count."""

    @property
    def multiplies(self) -> bool:
        """Whether it is a matrix product or a convolution."""
        return bool(MATRIX_TYPE.search(self.kind) or MATRIX_NAME.search(self.name))


def from_log(text: str) -> list[Layer]:
    """The layers in a message 'Layers:' with one line 'Name: …, LayerType: …, Inputs: […], …' each."""
    lines = re.findall(r"^Name: (.*?), LayerType: (\w+), (.*)$", text, re.MULTILINE)
    return [Layer(name, kind, _precision(_read_in_log(rest))) for name, kind, rest in lines]


def _read_in_log(rest: str) -> list[tuple[int, str]]:
    reads = rest.partition(", Outputs: [")[0]
    found = re.findall(r"Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)", reads)
    return [(_elements([int(size) for size in sizes.split(",") if size]), kind) for sizes, kind in found]


def from_inspector(text: str) -> list[Layer]:
    """The layers in an inspector's JSON; none where the engine was built without their details."""
    try:
        layers = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return []
    return [
        Layer(str(layer.get("Name", "")), str(layer.get("LayerType", "")), _precision(_read_in_json(layer)))
        for layer in layers
        if isinstance(layer, dict)
    ]


def _read_in_json(layer: dict[str, Any]) -> list[tuple[int, str]]:
    reads = [*layer.get("Inputs", []), *layer.get("Constants", [])]
    return [(_elements(read.get("Dimensions", ())), _type(read)) for read in reads if isinstance(read, dict)]


def _type(read: dict[str, Any]) -> str:
    """Under 'Format/Datatype' until TensorRT 10, under 'Datatype' later."""
    return str(read.get("Datatype") or read.get("Format/Datatype") or read.get("Format") or "")


def _elements(sizes: Any) -> int:
    return math.prod(abs(size) for size in sizes) if sizes else 2


def _precision(reads: list[tuple[int, str]]) -> str:
    for precision, pattern in TYPES:
        if any(elements > 1 and pattern.search(kind) for elements, kind in reads):
            return precision
    return OTHER


def kernels(layers: list[Layer]) -> dict[str, int]:
    """How many layers there are of each precision, the most frequent first."""
    return dict(Counter(layer.precision for layer in layers).most_common())


def precision(layers: list[Layer]) -> str | None:
    """What most matrix products run in; None where a part of the engine does not tell."""
    if any(OPAQUE.search(layer.kind) for layer in layers):
        return None
    found = Counter(layer.precision for layer in layers if layer.multiplies and layer.precision != OTHER)
    return found.most_common(1)[0][0] if found else None


def check(asked: str, layers: list[Layer], title: str) -> None:
    """Raise a UserError where the matrix products run in another precision than was asked for."""
    found = precision(layers)
    if found is None or found == asked:
        return
    raise UserError(
        f"--precision {asked}: the matrix products of the engine that {title} built run in {found} "
        f"({_counted(layers)}); export the graph again for {asked}, or give --precision {found}"
    )


def _counted(layers: list[Layer]) -> str:
    found = Counter(layer.precision for layer in layers if layer.multiplies)
    return ", ".join(f"{count} in {name}" for name, count in found.most_common())
