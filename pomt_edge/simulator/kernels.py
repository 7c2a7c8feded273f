"""The time of one kernel on a GPU: the larger of computing, moving data, and a floor; for many token counts at once."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pomt_edge.simulator.constants import Constants, Menu
from pomt_edge.simulator.device import Device
from pomt_edge.simulator.work import Counts, FusedAttention, Gemm, Kernel, Pass

Times = NDArray[np.float64]

STEP_BYTES = 128
"""How deep one step of a product's inner loop reads each side of its tile."""
ACCESS_BYTES = 16
"""The most that a thread reads or writes at once, if it lies at a multiple of so many bytes."""


def time_us(kernel: Kernel, device: Device, constants: Constants, weights_stay: bool) -> Times:
    """Microseconds, the gap to the next kernel included, [T]; `weights_stay`: in the L2, between forwards."""
    busy: NDArray[Any]
    if isinstance(kernel, Gemm):
        busy = _gemm_us(kernel, device, constants, weights_stay)
    elif isinstance(kernel, FusedAttention):
        busy = _attention_us(kernel, device, constants)
    elif isinstance(kernel, Pass):
        busy = _moving_us(kernel.elements * device.other_bytes, device, constants)
    else:
        rows_in_turn = _ceil(np.full_like(kernel.length, kernel.rows), device.sm_count)
        busy = constants.sort_us * 1.98 / device.clock_ghz * rows_in_turn * _sorting_depth(kernel.length)
    return np.asarray(np.maximum(busy, device.us(constants.pass_clocks)) + constants.gap_us, dtype=np.float64)


def _gemm_us(gemm: Gemm, device: Device, constants: Constants, weights_stay: bool) -> Times:
    """The fastest tile of the menu; all tiles take as long as the SM with most of them, one after another."""
    if gemm.convolution and not device.simt:  # without tensor cores it is a product like any other
        flop_per_us = device.product_flop_per_clock * device.sm_count * device.clock_ghz * 1e3
        work = 2.0 * gemm.rows * gemm.columns * gemm.inner
        busy = work / (flop_per_us * constants.convolution_efficiency)
        return np.asarray(device.us(constants.gemm_clocks) + busy, dtype=np.float64)
    tokens, channels, parts = _tiles(device.menu)
    in_turn = _ceil(gemm.batch * _ceil(gemm.rows, tokens) * _ceil(gemm.columns, channels) * parts, device.sm_count)
    clocks = in_turn * _tile_clocks(gemm, tokens, channels, parts, device, constants)
    split = np.where(parts > 1, device.us(constants.split_clocks), 0.0)
    # Each part writes its sums in fp32, and the last reads them.
    split = split + np.where(parts > 1, _moving_us(8 * parts * gemm.rows * gemm.columns, device, constants), 0.0)
    computing = device.us(constants.gemm_clocks) + (clocks / (device.clock_ghz * 1e3) + split).min(axis=0)
    return np.maximum(computing, _gemm_moving_us(gemm, device, constants, weights_stay))


def _tile_clocks(
    gemm: Gemm, tokens: Counts, channels: Counts, parts: Counts, device: Device, constants: Constants
) -> Times:
    size = device.product_bytes
    depth = STEP_BYTES // size
    multiply = 2 * tokens * channels * depth / (device.product_flop_per_clock * _efficiency(device, constants))
    load = (tokens * _pieces(gemm.inner * size) + channels) * depth * size / constants.load_bytes_per_clock
    step = np.maximum(np.maximum(multiply, load), constants.step_clocks)
    store = tokens * channels * size * _pieces(gemm.columns * size) / constants.load_bytes_per_clock
    return _ceil(_ceil(gemm.inner, parts), depth) * step + store + constants.tile_clocks


def _pieces(row_bytes: Counts) -> Counts:
    """In how many accesses 16 bytes are read or written: one where a matrix's rows begin at multiples of them."""
    return ACCESS_BYTES // np.gcd(row_bytes, ACCESS_BYTES)


def _gemm_moving_us(gemm: Gemm, device: Device, constants: Constants, weights_stay: bool) -> Times:
    activations = gemm.batch * gemm.rows * (gemm.inner + gemm.columns)
    second = gemm.batch * gemm.inner * gemm.columns
    if not gemm.weights:
        return _moving_us((activations + second) * device.product_bytes, device, constants)
    moving = _moving_us(activations * device.product_bytes, device, constants)
    return moving if weights_stay else moving + second * device.product_bytes / _memory_bytes_per_us(device, constants)


def _attention_us(kernel: FusedAttention, device: Device, constants: Constants) -> Times:
    """One block of threads per head and tile of queries, which goes through all tiles of keys."""
    queries, keys = device.menu.attention_tile
    in_turn = _ceil(kernel.batch * _ceil(kernel.tokens, queries), device.sm_count)
    efficiency = constants.attention_efficiency
    if device.wide_efficiency:
        efficiency = constants.attention_tf32_efficiency
    elif device.simt:
        efficiency = constants.simt_efficiency / 2
    flop_per_clock = device.product_flop_per_clock / (2 if device.product_bytes == 1 else 1)  # never in int8
    one = 4 * queries * keys * kernel.head_dim / (flop_per_clock * efficiency)
    clocks = constants.attention_clocks + in_turn * (_ceil(kernel.tokens, keys) * one + constants.tile_clocks)
    moved = 4 * kernel.batch * kernel.tokens * kernel.head_dim * device.other_bytes
    return np.maximum(clocks / (device.clock_ghz * 1e3), _moving_us(moved, device, constants))


def _moving_us(size: Counts, device: Device, constants: Constants) -> Times:
    """Of so many bytes: through the L2 where they fit, from and to memory where not."""
    memory = size / _memory_bytes_per_us(device, constants)
    cache = size / (constants.l2_bytes_per_clock * device.sm_count * device.clock_ghz * 1e3)
    return np.where(size <= constants.l2_share * device.l2_bytes, np.minimum(cache, memory), memory)


def _memory_bytes_per_us(device: Device, constants: Constants) -> float:
    return device.memory_gb_per_s * 1e3 * constants.memory_efficiency


def _efficiency(device: Device, constants: Constants) -> float:
    if device.simt:
        return constants.simt_efficiency
    return constants.tf32_efficiency if device.wide_efficiency else constants.mma_efficiency


@functools.cache
def _tiles(menu: Menu) -> tuple[Counts, Counts, Counts]:
    """All combinations of a tile and a number of parts, each [K, 1]."""
    parts = range(1, menu.splits + 1)
    tokens, channels, split = (
        axis.ravel() for axis in np.meshgrid(menu.token_tiles, menu.channel_tiles, parts, indexing="ij")
    )
    fits = tokens * channels <= menu.most_elements
    return tokens[fits, None], channels[fits, None], split[fits, None]


def _sorting_depth(length: Counts) -> Times:
    """A sort's work against that of a thousand keys."""
    keys = np.maximum(length, 2).astype(float)
    return keys * np.log2(keys) / 1e4


def _ceil(numerator: Counts, denominator: Counts | int) -> Counts:
    return -(-numerator // denominator)
