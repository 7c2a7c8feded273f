"""A PC's NVIDIA GPU, by NVML: persistence mode, locked GPU clock, locked memory clock."""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pomt_edge import profiles
from pomt_edge.errors import UserError
from pomt_edge.machine import gpu as gpus
from pomt_edge.machine import system as machine
from pomt_edge.machine.controls import hints
from pomt_edge.machine.controls.control import Clocks, Control, Refused
from pomt_edge.machine.system import System

GPU_PREFIX = "GPU-"


@dataclass(frozen=True)
class Nvidia:
    """One GPU: `device` is 'cuda:N', or the UUID that NVML gives it; `uuid` what CUDA gives it, if that is known."""

    system: System
    device: str
    uuid: str | None = None

    def call(self, name: str, *arguments: Any, words: str = "clocks lock") -> Any:
        """Call a function of NVML on this GPU; raises Refused with the reason in words."""
        device = self._find()
        try:
            return getattr(device.nvml, name)(device.handle, *arguments)
        except AttributeError as error:
            raise Refused(f"this pynvml has no {name}", _pip("--upgrade nvidia-ml-py")) from error
        except device.nvml.NVMLError as error:
            code = getattr(error, "value", None)
            if code == device.nvml.NVML_ERROR_NO_PERMISSION:
                raise hints.no_permission(self.system, words) from error
            unsupported = code == device.nvml.NVML_ERROR_NOT_SUPPORTED
            why = "this GPU does not support it" if unsupported else f"NVML: {error}"
            raise Refused(why, unsupported=unsupported) from error

    def mhz(self, clock: str) -> int:
        """The clock now: 'SM' or 'MEM'."""
        return int(self.call("nvmlDeviceGetClockInfo", getattr(self._find().nvml, f"NVML_CLOCK_{clock}")))

    def memory_clocks_mhz(self) -> Sequence[int]:
        return self._listed("nvmlDeviceGetSupportedMemoryClocks") or [self._most_mhz("MEM")]

    def gpu_clocks_mhz(self) -> Sequence[int]:
        """What the GPU clock can be locked to, while the memory runs at its highest."""
        memory = self.memory_clocks_mhz()[-1]
        # Without a list the driver takes the nearest that it has.
        return self._listed("nvmlDeviceGetSupportedGraphicsClocks", memory) or range(1, self._most_mhz("SM") + 1)

    def text(self, name: str) -> str:
        value = self.call(name)
        return value.decode() if isinstance(value, bytes) else str(value)

    def name(self) -> str:
        """The UUID as NVML and nvidia-smi have it."""
        return self.device if self.device.startswith(GPU_PREFIX) else self.text("nvmlDeviceGetUUID")

    def _listed(self, name: str, *arguments: int) -> list[int]:
        """Clocks from the lowest, or none: some GPUs that can be locked list none."""
        try:
            return sorted(map(int, self.call(name, *arguments)))
        except Refused as refused:
            if refused.unsupported:
                return []
            raise

    def _most_mhz(self, clock: str) -> int:
        return int(self.call("nvmlDeviceGetMaxClockInfo", getattr(self._find().nvml, f"NVML_CLOCK_{clock}")))

    def _find(self) -> gpus.Device:
        if machine.nvml() is None:
            if importlib.util.find_spec("pynvml") is None:
                raise Refused("the module pynvml is missing", _pip("nvidia-ml-py"))
            raise Refused("NVML does not start (no NVIDIA driver here?)", "nvidia-smi")
        known = self.device.removeprefix(GPU_PREFIX) if self.device.startswith(GPU_PREFIX) else self.uuid
        device = gpus.handle(self.device, known)
        if device is None:
            raise Refused(f"NVML knows no {self.device}", "nvidia-smi -L")
        return device


def _pip(package: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {package}"


@dataclass(frozen=True)
class NvidiaControl(Control):
    nvidia: Nvidia
    atomic: ClassVar[bool] = True

    def gpu(self) -> str:
        return self.nvidia.name()

    def check(self) -> None:
        super().check()
        if os.geteuid() != 0:
            raise hints.no_permission(self.nvidia.system)

    def _smi(self, option: str) -> str:
        return f"sudo nvidia-smi -i {self.gpu()} {option}"


@dataclass(frozen=True)
class Persistence(NvidiaControl):
    """On, else the driver unloads with the last program and forgets the locks."""

    key = "gpu_persistence"
    title = "GPU persistence"

    def show(self) -> str:
        return "on" if self.nvidia.call("nvmlDeviceGetPersistenceMode") else "off"

    def wanted(self) -> str:
        return "on"

    def save(self) -> str:
        return self.show()

    def set(self) -> None:
        self._switch("on", "clocks lock")

    def restore(self, saved: Any) -> None:
        self._switch(saved, "clocks restore")

    def by_hand(self, saved: Any) -> str:
        return self._smi(f"-pm {int(saved == 'on')}")

    def _switch(self, state: str, words: str) -> None:
        if self.show() == state:
            return
        self.nvidia.call("nvmlDeviceSetPersistenceMode", int(state == "on"), words=words)
        if self.show() != state:
            raise Refused(f"the driver accepts persistence {state} and stays {self.show()}")


@dataclass(frozen=True)
class LockedClock(NvidiaControl):
    """A lock of one clock domain. NVML can't tell whether somebody locked it before, so putting back is resetting."""

    domain: ClassVar[str]
    """As in nvmlDeviceSet…LockedClocks and nvmlDeviceReset…LockedClocks."""
    clock: ClassVar[str]
    reset_option: ClassVar[str]

    def show(self) -> int:
        return self.nvidia.mhz(self.clock)

    def save(self) -> str:
        return "no lock"

    def set(self) -> None:
        mhz = self.wanted()
        self.nvidia.call(f"nvmlDeviceSet{self.domain}LockedClocks", mhz, mhz)

    def restore(self, saved: Any) -> None:
        self.nvidia.call(f"nvmlDeviceReset{self.domain}LockedClocks", words="clocks restore")

    def by_hand(self, saved: Any) -> str:
        return self._smi(self.reset_option)

    def holds(self, wanted: Any) -> bool:
        return True  # only the clock under load shows it

    def asked_mhz(self) -> Clocks:
        return {self.key: self.wanted()}

    def seen_mhz(self) -> Clocks:
        return {self.key: self.show()}


@dataclass(frozen=True)
class GpuClock(LockedClock):
    requested_mhz: int | None = None
    key = "gpu_clock_mhz"
    title = "GPU clock"
    domain, clock, reset_option = "Gpu", "SM", "-rgc"

    @property
    def explicit(self) -> bool:  # type: ignore[override]
        return self.requested_mhz is not None

    def wanted(self) -> int:
        """The clock asked for, else the boost clock of the GPU's profile, else the highest; as the GPU supports it."""
        supported = self.nvidia.gpu_clocks_mhz()
        if self.requested_mhz is None:
            profile = profiles.recognise(self.nvidia.text("nvmlDeviceGetName"))
            figure = profile.figures.get("gpu_clock_ghz") if profile else None
            return _floor(figure.value * 1000, supported) or supported[-1] if figure else supported[-1]
        found = _floor(self.requested_mhz, supported)
        if found is None or self.requested_mhz > supported[-1]:
            raise UserError(
                f"--gpu-clock {self.requested_mhz}: out of range; expected {supported[0]} to {supported[-1]} (MHz)"
            )
        return found

    def lower(self, seen_mhz: float) -> str:
        supported = self.nvidia.gpu_clocks_mhz()
        held = _floor(seen_mhz, supported) or supported[0]
        return f"sudo {hints.command(self.nvidia.system, f'clocks lock --gpu-clock {held}')}"


@dataclass(frozen=True)
class MemoryClock(LockedClock):
    optional: ClassVar[bool] = True  # before Ampere there is no such lock
    key = "memory_clock_mhz"
    title = "memory clock"
    domain, clock, reset_option = "Memory", "MEM", "-rmc"

    def wanted(self) -> int:
        return self.nvidia.memory_clocks_mhz()[-1]


def _floor(mhz: float, supported: Sequence[int]) -> int | None:
    """The highest supported clock that is not above `mhz`; half a MHz is rounding."""
    return max((clock for clock in supported if clock <= mhz + 0.5), default=None)
