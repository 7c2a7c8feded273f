"""NVML of a fake board: names as in nvidia-ml-py, the state that of the fake nvidia-smi (FAKE_BOARD says where)."""

# ruff: noqa: N801, N802, N816, N818
from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_CLOCK_GRAPHICS, NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_CLOCK_VIDEO = 0, 1, 2, 3
NVML_TEMPERATURE_GPU = 0
NVML_FEATURE_DISABLED, NVML_FEATURE_ENABLED = 0, 1

NVML_PERF_POLICY_POWER = 0
NVML_PERF_POLICY_THERMAL = 1
NVML_PERF_POLICY_SYNC_BOOST = 2
NVML_PERF_POLICY_BOARD_LIMIT = 3
NVML_PERF_POLICY_LOW_UTILIZATION = 4
NVML_PERF_POLICY_RELIABILITY = 5
NVML_PERF_POLICY_TOTAL_APP_CLOCKS = 10
NVML_PERF_POLICY_TOTAL_BASE_CLOCKS = 11

nvmlClocksEventReasonNone = 0x0
nvmlClocksEventReasonGpuIdle = 0x1
nvmlClocksEventReasonApplicationsClocksSetting = 0x2
nvmlClocksEventReasonSwPowerCap = 0x4
nvmlClocksThrottleReasonHwSlowdown = 0x8
nvmlClocksEventReasonHwSlowdown = 0x8
nvmlClocksEventReasonSyncBoost = 0x10
nvmlClocksEventReasonSwThermalSlowdown = 0x20
nvmlClocksThrottleReasonHwThermalSlowdown = 0x40
nvmlClocksEventReasonHwThermalSlowdown = 0x40
nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80
nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80
nvmlClocksEventReasonDisplayClockSetting = 0x100

NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9


class NVMLError(Exception):
    text = "Unknown Error"
    value = 999

    def __init__(self, value: int | None = None) -> None:
        self.value = self.value if value is None else value
        super().__init__(self.value)

    def __str__(self) -> str:
        return self.text


class NVMLError_Uninitialized(NVMLError):
    text, value = "Uninitialized", NVML_ERROR_UNINITIALIZED


class NVMLError_InvalidArgument(NVMLError):
    text, value = "Invalid Argument", NVML_ERROR_INVALID_ARGUMENT


class NVMLError_NotSupported(NVMLError):
    text, value = "Not Supported", NVML_ERROR_NOT_SUPPORTED


class NVMLError_NoPermission(NVMLError):
    text, value = "Insufficient Permissions", NVML_ERROR_NO_PERMISSION


class NVMLError_NotFound(NVMLError):
    text, value = "Not Found", NVML_ERROR_NOT_FOUND


class NVMLError_DriverNotLoaded(NVMLError):
    text, value = "Driver Not Loaded", NVML_ERROR_DRIVER_NOT_LOADED


_initialised = False


def _file() -> Path:
    return Path(os.environ["FAKE_BOARD"]) / ".fake/nvidia.json"


def _load() -> dict[str, Any]:
    if not _initialised:
        raise NVMLError_Uninitialized
    return json.loads(_file().read_text(encoding="utf-8"))


def _gpu(handle: int) -> dict[str, Any]:
    """A GPU's facts for telemetry, which no Jetson has."""
    facts = _load()
    if facts["jetson"]:
        raise NVMLError_NotSupported
    return facts["gpus"][handle] | {name: facts[name] for name in ("enforced", "ignores_locks", "made_at_s")}


def _change(handle: int, name: str, value: Any) -> None:
    facts = _load()
    if facts["jetson"] or (name == "memory_lock" and not facts["memory_lock"]):
        raise NVMLError_NotSupported
    if not facts["permission"]:
        raise NVMLError_NoPermission
    facts["gpus"][handle][name] = value
    _file().write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _domain(clock: int) -> str:
    if clock not in (NVML_CLOCK_GRAPHICS, NVML_CLOCK_SM, NVML_CLOCK_MEM):
        raise NVMLError_NotSupported
    return "memory" if clock == NVML_CLOCK_MEM else "sm"


def nvmlInit() -> None:
    global _initialised
    if "FAKE_BOARD" not in os.environ or not json.loads(_file().read_text(encoding="utf-8"))["gpus"]:
        raise NVMLError_DriverNotLoaded
    _initialised = True


def nvmlShutdown() -> None:
    global _initialised
    _initialised = False


def nvmlSystemGetDriverVersion() -> str:
    return _load()["driver"]


def nvmlDeviceGetCount() -> int:
    return len(_load()["gpus"])


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    if not 0 <= index < nvmlDeviceGetCount():
        raise NVMLError_InvalidArgument
    return index


def nvmlDeviceGetHandleByUUID(uuid: str | bytes) -> int:
    wanted = uuid.decode() if isinstance(uuid, bytes) else uuid
    for gpu in _load()["gpus"]:
        if gpu["uuid"] == wanted:
            return gpu["index"]
    raise NVMLError_NotFound


def nvmlDeviceGetName(handle: int) -> str:
    return _load()["gpus"][handle]["name"]


def nvmlDeviceGetUUID(handle: int) -> str:
    return _load()["gpus"][handle]["uuid"]


def nvmlDeviceGetSerial(handle: int) -> str:
    return _gpu(handle)["serial"]


def nvmlDeviceGetPersistenceMode(handle: int) -> int:
    return int(_gpu(handle)["persistence"])


def nvmlDeviceSetPersistenceMode(handle: int, mode: int) -> None:
    _change(handle, "persistence", bool(mode))


def nvmlDeviceGetClockInfo(handle: int, clock: int) -> int:
    """An idle GPU: its lock, or less where that is not enforced, or the idle clock."""
    gpu, domain = _gpu(handle), _domain(clock)
    lock = gpu[f"{domain}_lock"]
    if lock is None or gpu["ignores_locks"]:
        return gpu[f"{domain}_idle_mhz"]
    return lock[1] if gpu["enforced"] else lock[1] * 8 // 10


def nvmlDeviceGetMaxClockInfo(handle: int, clock: int) -> int:
    return _gpu(handle)[f"{_domain(clock)}_max_mhz"]


def _known(clocks_mhz: list[int] | None) -> list[int]:
    if clocks_mhz is None:
        raise NVMLError_NotSupported
    return clocks_mhz


def nvmlDeviceGetSupportedMemoryClocks(handle: int) -> list[int]:
    return _known(_gpu(handle)["memory_supported_mhz"])


def nvmlDeviceGetSupportedGraphicsClocks(handle: int, memory_mhz: int) -> list[int]:
    gpu = _gpu(handle)
    if memory_mhz not in _known(gpu["memory_supported_mhz"]):
        raise NVMLError_NotFound
    return _known(gpu["sm_supported_mhz"])


def nvmlDeviceSetGpuLockedClocks(handle: int, low_mhz: int, high_mhz: int) -> None:
    _change(handle, "sm_lock", [low_mhz, min(high_mhz, _gpu(handle)["sm_max_mhz"])])


def nvmlDeviceResetGpuLockedClocks(handle: int) -> None:
    _change(handle, "sm_lock", None)


def nvmlDeviceSetMemoryLockedClocks(handle: int, low_mhz: int, high_mhz: int) -> None:
    _change(handle, "memory_lock", [low_mhz, min(high_mhz, _gpu(handle)["memory_max_mhz"])])


def nvmlDeviceResetMemoryLockedClocks(handle: int) -> None:
    _change(handle, "memory_lock", None)


def nvmlDeviceGetCurrentClocksEventReasons(handle: int) -> int:
    return _gpu(handle)["event_reasons"]


nvmlDeviceGetCurrentClocksThrottleReasons = nvmlDeviceGetCurrentClocksEventReasons


def nvmlDeviceGetViolationStatus(handle: int, policy: int) -> SimpleNamespace:
    """Nanoseconds; `violation_ns` of the board is a mapping from policy to violationTime."""
    violations = _gpu(handle)["violation_ns"]
    return SimpleNamespace(referenceTime=time.time_ns(), violationTime=violations.get(str(policy), 0))


def nvmlDeviceGetTotalEnergyConsumption(handle: int) -> int:
    gpu = _gpu(handle)
    return int(gpu["energy_mj"] + gpu["power_mw"] * (time.time() - gpu["made_at_s"]))


def nvmlDeviceGetTemperature(handle: int, sensor: int) -> int:
    return _gpu(handle)["temperature_c"]


def nvmlDeviceGetPowerUsage(handle: int) -> int:
    return _gpu(handle)["power_mw"]


def nvmlDeviceGetPowerManagementLimit(handle: int) -> int:
    return _gpu(handle)["power_limit_mw"]


def nvmlDeviceGetComputeRunningProcesses(handle: int) -> list[SimpleNamespace]:
    """`processes` of the board is a list of [pid, bytes]."""
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in _gpu(handle)["processes"]]
