"""From a device, a model's geometry and a token count to the milliseconds of one forward of a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pomt_edge.errors import UserError
from pomt_edge.profiles.profile import PowerMode, Profile
from pomt_edge.simulator import kernels, processor, work
from pomt_edge.simulator.constants import Constants, constants
from pomt_edge.simulator.device import Device, Way, device_of
from pomt_edge.simulator.geometry import Geometry, Reduction
from pomt_edge.simulator.work import Gemm, Pass

Times = NDArray[np.float64]


STANDARD = Way()
AT_INPUT = Reduction()


class Simulator:
    """The latency of one model, reduced in one way, on one device; never measured, always the same."""

    def __init__(
        self,
        profile: Profile,
        geometry: Geometry,
        way: Way = STANDARD,
        reduction: Reduction = AT_INPUT,
        mode: PowerMode | None = None,
        assumed: Constants | None = None,
    ) -> None:
        """
        Raises:
            UserError: the device does not have the precision, or can't be simulated.
        """
        self.profile = profile
        self.geometry = geometry
        self.way = way
        self.reduction = reduction
        self.mode = mode
        self._constants = assumed or constants()
        self.device: Device | None = None if profile.kind == "cpu" else device_of(profile, way, mode)
        """None: an ordinary processor."""
        if self.device is None:
            processor.check(profile, way.precision)

    def latency_ms(self, tokens: Sequence[int]) -> Times:
        """Milliseconds of one forward of a whole batch, with so many tokens left, [T]."""
        counts = np.asarray(tokens, dtype=np.int64)
        if counts.size and (counts.min() < 1 or counts.max() > self.geometry.tokens):
            raise UserError(f"tokens {list(tokens)}: the model has 1 to {self.geometry.tokens}")
        latency = np.empty(len(counts))
        for which, blocks in work.alike(self.geometry, self.reduction, counts):
            times = self.kernels_us(counts[which], dataclasses.replace(self.reduction, blocks=blocks))
            latency[which] = self._together_ms([time for _, time in times])
        return latency

    def schedule_ms(self, removals: Sequence[int]) -> float:
        """Milliseconds of one forward of a whole batch where each block removes so many tokens."""
        blocks = tuple(block for block, removed in enumerate(removals) if removed)
        reduction = dataclasses.replace(self.reduction, blocks=blocks, removals=tuple(removals))
        left = np.array([self.geometry.tokens - sum(removals)])
        return float(self._together_ms([time for _, time in self.kernels_us(left, reduction)])[0])

    def _together_ms(self, kernels_us: Sequence[Times]) -> Times:
        on_device = np.sum(kernels_us, axis=0) / 1e3
        if self.device is None or self.way.launch != "eager":
            return np.asarray(on_device)
        # The host runs ahead of the device or the device waits for it: the slower of the two sets the pace.
        launching = self._constants.host_us_jetson if self.device.jetson else self._constants.host_us_pc
        return np.maximum(on_device, len(kernels_us) * launching / 1e3)

    def kernels_us(self, counts: NDArray[np.int64], reduction: Reduction) -> list[tuple[str, Times]]:
        """Each kernel's name and microseconds [T], in order, of counts that make the same kernels (`work.alike`)."""
        known: dict[bytes, Times] = {}
        found = []
        for kernel in work.forward(self.geometry, reduction, self.way.batch_size, counts):
            if self.way.launch == "tensorrt":
                if isinstance(kernel, Pass) and kernel.foldable:
                    continue
                if isinstance(kernel, Gemm) and kernel.convolution:
                    kernel = _as_product(kernel)
            key = _key(kernel)
            if key not in known:
                known[key] = self._time_us(kernel)
            found.append((kernel.name, known[key]))
        return found

    def memory_mib(self, tokens: int) -> float:
        """An estimate: the weights, and what the largest block has alive at once."""
        geometry, batch = self.geometry, self.way.batch_size
        size = {"fp32": 4, "int8": 1}.get(self.way.precision, 2)
        alive = batch * self._most_in_a_block(tokens) * (2 * geometry.embed_dim + geometry.mlp_dim)
        if self.reduction.explicit_attention and tokens < geometry.tokens:
            alive += 2 * batch * geometry.heads * geometry.tokens**2
        return (geometry.parameters * size + alive * max(size, 2)) / 2**20

    def _most_in_a_block(self, tokens: int) -> int:
        return self.geometry.tokens if self.reduction.blocks else tokens

    def _time_us(self, kernel: work.Kernel) -> Times:
        if self.device is None:
            return processor.time_us(kernel)
        weights_stay = self.geometry.parameters * self.device.product_bytes <= self.device.l2_bytes
        return kernels.time_us(kernel, self.device, self._constants, weights_stay)


def _as_product(convolution: Gemm) -> Gemm:
    return Gemm(convolution.name, convolution.rows, convolution.columns, convolution.inner)


def _key(kernel: work.Kernel) -> bytes:
    """Equal for kernels of equal sizes: blocks are alike."""
    parts = [type(kernel).__name__.encode()]
    for name, value in vars(kernel).items():
        if name != "name":
            parts.append(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return b"|".join(parts)
