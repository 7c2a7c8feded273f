"""From a module in PyTorch to a float32 ONNX graph that every engine reads alike."""

from __future__ import annotations

import ast
import contextlib
import gc
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pomt_edge.errors import UserError
from pomt_edge.export import LOGITS, constants, nodes, outputs, shapes
from pomt_edge.export.nodes import module_of
from pomt_edge.models.family import family_of
from pomt_edge.reduce.reduced_model import ReducedModel, reduce_model

if TYPE_CHECKING:
    import onnx

__all__ = ["check_exporter", "module_of", "to_onnx"]

IMAGES = "images"
OPSET = 18
IR_VERSION = 8
"""The lowest that opset 18 may come in; what newer ones add, these graphs do without."""
NEEDED_TORCH = (2, 6)
WRAPPED = "model.model."
"""Where the user's own model lies in what is exported."""


def to_onnx(
    model: nn.Module, *, batch_size: int, image_px: int, dynamic_batch: bool = False, taps: bool = False
) -> onnx.ModelProto:
    """Export a model, in float32 on the CPU, with the input `images` [B, 3, px, px] and the output `logits`.

    Args:
        model: a reduced model, or one of a supported family.
        batch_size: B.
        image_px: height and width.
        dynamic_batch: leave B open; its name is 'batch'.
        taps: further outputs, for a proof: `block{i}` [B, M, C] behind every block, and of each block that reduces
            `kept{i}` [B, K], `merged{i}` and `into{i}` [B, D], those that its token map has.

    Raises:
        UserError: torch is too old, a package is missing, or the model is in training mode.
    """
    check_exporter()
    if any(module.training for module in model.modules()):
        raise UserError("the model is in training mode; call model.eval() before it is exported")
    module = _Outputs(_as_reduced(model), taps).eval()
    # A batch of 1 is taken for a constant by the exporter.
    images = torch.zeros(2 if dynamic_batch else batch_size, 3, image_px, image_px)
    with torch.no_grad(), _quiet(), _no_collection():
        program = torch.onnx.export(
            module,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=[IMAGES],
            output_names=module.names(images[:1]),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None,
        )
    assert program is not None
    found: onnx.ModelProto = program.model_proto
    _check_opset(found)
    _name_by_module(found, module)
    constants.fold(found)
    _sort_by_largest(found)
    _shorten_slices(found)
    outputs.sweep(found)
    found.ir_version = IR_VERSION
    shapes.annotate(found)
    return found


def check_exporter() -> None:
    """Raise a UserError unless this torch exports, and what it needs for that is installed."""
    if tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2]) < NEEDED_TORCH:
        needed = ".".join(map(str, NEEDED_TORCH))
        raise UserError(
            f"the export to ONNX needs torch {needed} or newer, this is {torch.__version__}; "
            f"type: pip install 'torch>={needed}' (on a board, export on another machine)"
        )
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"the export to ONNX needs {error.name}; type: pip install onnx onnxscript") from None


def tapped(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What torch computes for images [B, 3, height, width] of all that the graph with taps has as outputs."""
    return _Outputs(_as_reduced(model), taps=True).named(images)


class _Outputs(nn.Module):
    """A reduced model that returns what the graph is to have as outputs."""

    def __init__(self, model: ReducedModel, taps: bool) -> None:
        super().__init__()
        self.model = model
        self.taps = taps

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.named(images).values())

    def names(self, images: Tensor) -> list[str]:
        return list(self.named(images)) if self.taps else [LOGITS]

    def named(self, images: Tensor) -> dict[str, Tensor]:
        if not self.taps:
            return {LOGITS: self.model(images)}
        logits, behind, maps = self.model.traced(images)
        found = {LOGITS: logits} | {f"block{index}": tokens for index, tokens in enumerate(behind)}
        for index, token_map in maps.items():
            parts = {"kept": token_map.kept, "merged": token_map.merged, "into": token_map.into}
            found |= {f"{name}{index}": part for name, part in parts.items() if part is not None}
        return found


def _as_reduced(model: nn.Module) -> ReducedModel:
    if not isinstance(model, ReducedModel):
        depth = len(family_of(model).blocks(model))
        # One way through for all: a model that removes nothing computes what the original does.
        model = reduce_model(model, method="pomt", schedule=[0] * depth, copy=False)
    assert isinstance(model, ReducedModel)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, log lines or prints of the exporter; its exceptions pass."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    chatter = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(chatter), contextlib.redirect_stderr(chatter):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection: an export makes a million objects that live to its end; a sixth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_opset(model: onnx.ModelProto) -> None:
    versions = {imported.domain: imported.version for imported in model.opset_import}
    if versions.get("") != OPSET or model.functions:
        raise UserError(
            f"torch {torch.__version__} wrote ONNX opset {versions.get('')} where {OPSET} was asked for; "
            "type: pip install --upgrade torch onnxscript"
        )
    del model.opset_import[:]
    model.opset_import.add(domain="", version=OPSET)


def _name_by_module(model: onnx.ModelProto, exported: _Outputs) -> None:
    """Name nodes 'blocks.3.attn/MatMul_12', which every engine repeats in its errors and profiles.

    The exporter's own notes are dropped: they hold the stack, with the paths of this machine, and older engines
    don't know them.
    """
    names = {name: part for name, part in exported.named_modules() if name.startswith(WRAPPED)}
    parts = list(exported.model.family.blocks(exported.model.model))
    blocks = [name for name, part in names.items() if any(part is block for block in parts)]
    block = ""
    for index, node in enumerate(model.graph.node):
        module = next((scope for scope in reversed(_scopes(node)) if scope in names), "")
        if module:
            block = next((name for name in blocks if f"{module}.".startswith(f"{name}.")), "")
        # A block that reduces is not called as a whole: between its own modules nothing but their order tells.
        module = (module or block).removeprefix(WRAPPED)
        node.name = f"{module}/{node.op_type}_{index}" if module else f"{node.op_type}_{index}"
        node.input[:] = [name.removeprefix(WRAPPED) for name in node.input]
        del node.metadata_props[:]
        node.doc_string = ""
    graph = model.graph
    for tensor in graph.initializer:
        tensor.name = tensor.name.removeprefix(WRAPPED)
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del graph.metadata_props[:], model.metadata_props[:]


def _scopes(node: onnx.NodeProto) -> list[str]:
    """What the exporter notes of a node's modules, such as ['', 'model.model.blocks.1.norm1', 'layer_norm_2']."""
    notes = {note.key: note.value for note in node.metadata_props}
    return list(ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]")))


def _sort_by_largest(model: onnx.ModelProto) -> None:
    """Sort positions upwards by their negatives: TensorRT 8.0 to 8.4 ignores `largest=0`, and sorts floats alone."""
    from onnx import TensorProto, helper

    values = shapes.inferred(model)

    def sorted_down(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if node.op_type != "TopK" or nodes.attributes(node).get("largest", 1):
            return [node]
        given, found = node.input[0], node.output[0]
        element = values[given].type.tensor_type.elem_type
        wide, falling, ranked, rising = (f"{found}_{step}" for step in ("float", "falling", "ranked", "rising"))
        node.input[0], node.output[0] = falling, ranked
        next(attribute for attribute in node.attribute if attribute.name == "largest").i = 1
        return [
            # Positions are exact in float32.
            helper.make_node("Cast", [given], [wide], f"{node.name}_float", to=TensorProto.FLOAT),
            helper.make_node("Neg", [wide], [falling], f"{node.name}_falling"),
            node,
            helper.make_node("Neg", [ranked], [rising], f"{node.name}_rising"),
            helper.make_node("Cast", [rising], [found], f"{node.name}_back", to=element),
        ]

    nodes.rewrite(model, sorted_down)


def _shorten_slices(model: onnx.ModelProto) -> None:
    """Let slices that run to the end do so in 32 bits, all that TensorRT had before 10."""
    limits = np.iinfo(np.int32)
    known = nodes.constants(model)

    def shortened(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        for place in (1, 2) if node.op_type == "Slice" else ():
            ends = nodes.integers(known, node.input[place])
            if ends and not all(limits.min <= end <= limits.max for end in ends):
                node.input[place] = short(node.input[place], ends)
        return [node]

    def short(name: str, ends: list[int]) -> str:
        found = f"{name}_short"
        if found not in known:
            nodes.add_constant(model, found, np.clip(np.array(ends), limits.min, limits.max))
            known[found] = model.graph.initializer[-1]
        return found

    nodes.rewrite(model, shortened)
