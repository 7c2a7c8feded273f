"""From a token count or a schedule to the logits of a batch: by sessions of any engine, or by what counts share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pomt_edge.engines import Session
from pomt_edge.export import LOGITS
from pomt_edge.machine import facts
from pomt_edge.machine.system import System
from pomt_edge.measure.answers import BATCH, Batch
from pomt_edge.records import Kept
from pomt_edge.reduce.blocks import Attended
from pomt_edge.reduce.reduced_model import ReducedModel, unreduced

Logits = np.ndarray[Any, Any]
Forward = Callable[[Batch], Logits]
"""One model: from a batch to its logits, float [B, classes]."""
Forwards = Callable[[Kept], Forward]
"""The model that keeps so many tokens, made ready."""
SHARE = 0.25
"""Of the memory that is available: as much may be held of activations."""


def by_sessions(session: Callable[[Kept], Session]) -> Forwards:
    """Each count runs whole, as any engine runs it."""

    def forward(kept: Kept) -> Forward:
        run = session(kept).run
        return lambda batch: run(batch.images())[LOGITS]

    return forward


class SharedPrefix:
    """Eager modules of one model: the blocks before the first that reduces run once per batch, not once per count.

    The logits are those of the whole models, bit for bit: the same kernels on the same input. What is shared is held
    as long as memory lasts; beyond that it is computed anew.
    """

    def __init__(
        self, variant: Callable[[Kept], nn.Module], block: int, images: int, available: Callable[[], int | None]
    ) -> None:
        """
        Args:
            variant: from a count to its model, prepared; a ReducedModel, or the model itself.
            block: the first that reduces where a count is asked for; the unreduced model shares as much.
            images: how many there are.
            available: bytes of memory that are free where the model is; None: unknown, and nothing is held.
        """
        self._variant = variant
        self._block = block
        self._held = Activations(math.ceil(images / BATCH), available)

    def __call__(self, kept: Kept) -> Forward:
        model = self._variant(kept)
        return functools.partial(self._logits, model if isinstance(model, ReducedModel) else unreduced(model))

    @torch.inference_mode()
    def _logits(self, model: ReducedModel, batch: Batch) -> Logits:
        reducing = model.first_block
        block = self._block if reducing is None else reducing
        state = self._held.get(block, batch.number)
        if state is None or (reducing is None and isinstance(state, Attended)):
            weight = next(model.parameters())
            state = model.entering(batch.images().to(weight.device, weight.dtype), block)
            self._held.put(block, batch.number, state)
        if reducing is not None and not isinstance(state, Attended):
            state = model.attended(state, block)
            self._held.put(block, batch.number, state)
        logits: Logits = model.resume(state, block).float().cpu().numpy()
        return logits


class Activations:
    """What enters a block, or is behind its attention, for each batch: as long as memory lasts.

    What enters comes first: it is smaller, and spares more. The block that was used longest ago makes room for it.
    """

    def __init__(self, batches: int, available: Callable[[], int | None]) -> None:
        self._batches = batches
        self._available = available
        self._states: dict[int, dict[int, Tensor | Attended]] = {}  # by block, the one used last at the end

    @property
    def held_bytes(self) -> int:
        return sum(size_bytes(state) for states in self._states.values() for state in states.values())

    def get(self, block: int, batch: int) -> Tensor | Attended | None:
        self._states[block] = self._states.pop(block, {})
        return self._states[block].get(batch)

    def put(self, block: int, batch: int, state: Tensor | Attended) -> None:
        """Hold a state in the place of the batch's former one, where there is room."""
        states = self._states.setdefault(block, {})
        before = states.get(batch)
        more = size_bytes(state) - (size_bytes(before) if before is not None else 0)
        if isinstance(state, Attended):
            missing = self._batches - len(states) - (before is None)
            more += missing * size_bytes(state.tokens)  # as much as what enters will take
        else:
            self._make_room(more, block)
        if more <= self._room():
            states[batch] = state

    def _make_room(self, wanted: int, block: int) -> None:
        for other in [other for other in self._states if other != block]:
            if wanted > self._room():
                del self._states[other]

    def _room(self) -> int:
        available = self._available()
        held = self.held_bytes
        return 0 if available is None else int(SHARE * (available + held)) - held


def size_bytes(state: Tensor | Attended) -> int:
    """The memory of a state; queries, keys and values are views of one tensor."""
    tensors = [state] if isinstance(state, Tensor) else [state.tokens, *state.projected, state.attention]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors if tensor is not None
    }
    return sum(storage.nbytes() for storage in storages.values())


def available_bytes(device: str, system: System) -> int | None:
    """Memory that activations can have: the host's, or the CUDA device's."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    available = facts.available_memory_mib(system)
    return None if available is None else available * 2**20
