"""The settings that hold a machine's clocks: one small class each, and the journal that undoes them."""

from __future__ import annotations

from pomt_edge.errors import UserError
from pomt_edge.machine import board
from pomt_edge.machine.controls import cpu, jetson, nvidia
from pomt_edge.machine.controls.control import Control, Refused
from pomt_edge.machine.controls.journal import Entry
from pomt_edge.machine.system import System

__all__ = ["Control", "Refused", "control_of", "controls_of"]


def controls_of(
    device: str, system: System, power_mode: str | None, gpu_clock_mhz: int | None, gpu_uuid: str | None = None
) -> list[Control]:
    """The settings of this machine in the order of setting, for measuring on `device`: 'cpu' or 'cuda:N'.

    `power_mode` is a mode's name or 'current', `gpu_clock_mhz` the GPU's clock; None: the board's default.
    `gpu_uuid` is what CUDA calls the GPU (without 'GPU-'), which is sure where its number is not.

    Raises:
        UserError: no such power mode, or an option that this machine has no use for.
    """
    on_gpu = device.startswith("cuda")
    if board.is_jetson(system):
        if gpu_clock_mhz is not None:
            raise UserError("--gpu-clock: a Jetson's GPU clock follows from its power mode; give --power-mode NAME")
        return _of_jetson(system, power_mode, on_gpu)
    if power_mode not in (None, jetson.CURRENT):
        raise UserError(f"--power-mode {power_mode}: only a Jetson has power modes; leave it out")
    if gpu_clock_mhz is not None and not on_gpu:
        raise UserError(f"--gpu-clock {gpu_clock_mhz}: the device is {device}; leave it out or give --device cuda:0")
    gpu = nvidia.Nvidia(system, device, gpu_uuid)
    of_gpu = [nvidia.Persistence(gpu), nvidia.GpuClock(gpu, gpu_clock_mhz), nvidia.MemoryClock(gpu)] if on_gpu else []
    # A virtual machine with a GPU often has no say in its processor's clock: what is measured is the GPU's.
    of_cpu = [] if on_gpu and not cpu.each_cpu(system, "scaling_governor") else _of_cpu(system, on_gpu)
    return [*of_cpu, *of_gpu]


def control_of(entry: Entry, system: System) -> Control:
    """The setting that an entry of the journal speaks of, for restoring it."""
    gpu = nvidia.Nvidia(system, entry.gpu)
    known: list[Control] = [
        jetson.PowerMode(system, board.PowerMode(-1, str(entry.wanted))),
        jetson.JetsonClocks(system),
        cpu.Boost(system),
        cpu.Governor(system),
        cpu.LeastFrequency(system),
        nvidia.Persistence(gpu),
        nvidia.GpuClock(gpu),
        nvidia.MemoryClock(gpu),
    ]
    found = next((control for control in known if control.key == entry.key), None)
    if found is None:
        raise UserError(f"the journal of clocks speaks of '{entry.key}', which this version does not know; update it")
    return found


def _of_jetson(system: System, power_mode: str | None, on_gpu: bool) -> list[Control]:
    clocks = jetson.JetsonClocks(system, on_gpu)
    modes = board.power_modes(system)
    if power_mode not in (None, jetson.CURRENT):
        return [jetson.PowerMode(system, jetson.named_mode(str(power_mode), modes), explicit=True), clocks]
    if power_mode is None and modes:
        return [jetson.PowerMode(system, jetson.default_mode(modes)), clocks]
    now = board.current_power_mode(system)
    return [jetson.PowerMode(system, board.PowerMode(-1, now)), clocks] if now else [clocks]


def _of_cpu(system: System, on_gpu: bool) -> list[Control]:
    # A processor without a boost switch has nothing to switch off; one without cpufreq can't be held at all.
    boost: list[Control] = [cpu.Boost(system)] if cpu.has_boost(system) else []
    return [*boost, cpu.Governor(system), cpu.LeastFrequency(system, all_busy=not on_gpu)]
