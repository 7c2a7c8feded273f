"""The whole way from a module to the graph that an engine is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from pomt_edge.errors import UserError
from pomt_edge.export.target import Target

if TYPE_CHECKING:
    from onnx import ModelProto

CALIBRATION_IMAGES = 32
"""Enough for the ranges of activations; each count of a sweep runs them all once."""
INT8_WEIGHTS_FROM = (10, 0)
"""The first TensorRT that surely takes weights stored in int8; 8.0 and 8.2 refuse them."""


def deployable(
    model: nn.Module,
    *,
    batch_size: int,
    image_px: int,
    precision: str,
    target: Target,
    taps: bool = False,
    dynamic_batch: bool = False,
    calibration: Iterable[np.ndarray[Any, Any]] | None = None,
) -> ModelProto:
    """The graph of a model by the target's rules and in the precision, as far as that is the graph's business.

    Args:
        model: in float32 on the CPU.
        precision: 'fp32', 'fp16', 'bf16' or 'int8'; an older TensorRT gets fp16 by a flag and a float32 graph.
        taps: further outputs for the proof, the tokens behind each block and the maps of those that reduce.
        dynamic_batch: any number of images; else just `batch_size`.
        calibration: float32 batches [batch_size, 3, height, width], which int8 needs.

    Raises:
        UserError: int8 without calibration, or a graph that the target would not read as it is meant.
    """
    from pomt_edge.export import graph, int8, lint, opset
    from pomt_edge.export import precision as precisions

    if precision == "int8" and calibration is None:
        raise UserError("--precision int8 is calibrated on images: give --data DIR, or --precision fp32")
    made = graph.to_onnx(model, batch_size=batch_size, image_px=image_px, taps=taps, dynamic_batch=dynamic_batch)
    if precision == "int8" and calibration is not None:
        old = target.tensorrt is not None and target.tensorrt < INT8_WEIGHTS_FROM
        made = int8.quantised(made, calibration, float_weights=old)
    elif precision != "fp32" and target.typed:
        made = precisions.typed(made, "fp16" if precision == "fp16" else "bf16")
    made = opset.lowered(made, target.opset, target.ir_version)
    lint.check(made, target)
    return made
