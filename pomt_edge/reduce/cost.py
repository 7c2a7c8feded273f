"""What a model costs before any device is asked: operations, parameters, activations."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pomt_edge.records import Cost


def cost_of(model: nn.Module, images: Tensor, tokens_per_block: tuple[int, ...]) -> Cost:
    """Count one forward of images [B, 3, height, width]; figures are per image.

    Operations are those of matrix products and convolutions, a multiplication and an addition each counted as one.
    Attention is counted in full, whichever kernel would run it. The peak is that of eager PyTorch with a fused
    attention where the model has one: all activations alive at the same time, weights and the images aside.
    """
    operations = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), operations:
        model(images)
    peak = _Peak()
    with torch.inference_mode(), peak:
        model(images)
    return Cost(
        gflops=operations.get_total_flops() / len(images) / 1e9,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        peak_activation_mib=peak.most / len(images) / 2**20,
        tokens_per_block=tokens_per_block,
    )


class _Peak(TorchDispatchMode):
    """The most bytes of new tensors that were alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outcome = func(*args, **(kwargs or {}))
        for tensor in outcome if isinstance(outcome, tuple | list) else [outcome]:
            if isinstance(tensor, Tensor) and not func.is_view:
                self._count(tensor.untyped_storage())
        return outcome

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._alive or not storage.nbytes():
            return
        self._alive[key] = storage.nbytes()
        weakref.finalize(storage, self._alive.pop, key, None)
        self.most = max(self.most, sum(self._alive.values()))
