"""What the fake programs share: a board's facts and its tree. The programs find the board by FAKE_BOARD."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

CPUS = "sys/devices/system/cpu"
EMC = "sys/kernel/debug/bpmp/debug/clk/emc"
TPC_MASK = "sys/devices/gpu.0/tpc_pg_mask"
SM_PER_TPC = 2
Facts = dict[str, Any]


def root() -> Path:
    return Path(os.environ["FAKE_BOARD"])


def log_call() -> None:
    with (root() / ".fake/calls.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps([Path(sys.argv[0]).name, *sys.argv[1:]]) + "\n")


def load(board: Path, name: str) -> Facts:
    return json.loads((board / ".fake" / f"{name}.json").read_text(encoding="utf-8"))


def save(board: Path, name: str, facts: Facts) -> None:
    partial = board / ".fake" / f"{name}.partial"
    partial.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    partial.replace(board / ".fake" / f"{name}.json")  # a reader at the same time sees no half of it


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{value}\n", encoding="utf-8")


def not_root(facts: Facts) -> bool:
    return bool(facts["root_needed"]) and os.geteuid() != 0 and "FAKE_SUDO" not in os.environ


def online_cpus(board: Path) -> list[Path]:
    return sorted((board / CPUS).glob("cpu[0-9]*/cpufreq"))


def devfreq(board: Path, facts: Facts) -> Path:
    return board / "sys/class/devfreq" / facts["gpu"]


def apply_mode(board: Path, facts: Facts, mode: Facts) -> None:
    """What a power mode sets: CPUs online, caps (minima go back to the lowest), TPCs switched off."""
    for cpu in range(facts["cpus"]):
        _set_online(board / CPUS / f"cpu{cpu}", cpu < mode["cores"], facts)
    for cpufreq in online_cpus(board):
        write(cpufreq / "scaling_min_freq", facts["cpu_min_khz"])
        write(cpufreq / "scaling_max_freq", mode["cpu_khz"] or facts["cpu_max_khz"])
    gpu = devfreq(board, facts)
    write(gpu / "min_freq", facts["gpu_min_hz"])
    write(gpu / "max_freq", mode["gpu_hz"] or facts["gpu_max_hz"])
    tpcs, kept = facts["sm"] // SM_PER_TPC, (mode["sm"] or facts["sm"]) // SM_PER_TPC
    write(board / TPC_MASK, (1 << tpcs) - (1 << kept))
    write(board / EMC / "max_rate", mode["emc_hz"] or facts["emc_max_hz"])
    write(board / EMC / "mrq_rate_locked", 0)
    settle(board, facts)


def _set_online(cpu: Path, online: bool, facts: Facts) -> None:
    """A CPU that is offline has no cpufreq folder; one that comes back has the governor it booted with."""
    write(cpu / "online", int(online))
    cpufreq = cpu / "cpufreq"
    if not online and cpufreq.exists():
        for file in cpufreq.iterdir():
            file.unlink()
        cpufreq.rmdir()
    if online and not cpufreq.exists():
        write(cpufreq / "scaling_governor", facts["governor"])
        write(
            cpufreq / "scaling_available_governors", "interactive conservative ondemand userspace performance schedutil"
        )
        write(cpufreq / "cpuinfo_min_freq", facts["cpu_min_khz"])
        write(cpufreq / "cpuinfo_max_freq", facts["cpu_max_khz"])


def settle(board: Path, facts: Facts) -> None:
    """Where idle clocks come to rest: at the minimum, or below a pin that is not enforced."""
    for cpufreq in online_cpus(board):
        low, high = int(read(cpufreq / "scaling_min_freq")), int(read(cpufreq / "scaling_max_freq"))
        write(cpufreq / "scaling_cur_freq", low)
        write(cpufreq / "cpuinfo_cur_freq", low if facts["enforced"] or low < high else low * 8 // 10)
    gpu = devfreq(board, facts)
    low, high = int(read(gpu / "min_freq")), int(read(gpu / "max_freq"))
    steps = [int(step) for step in read(gpu / "available_frequencies").split()]
    below = [step for step in steps if step < low] or [low]
    write(gpu / "cur_freq", low if facts["enforced"] or low < high else below[-1])
    locked = read(board / EMC / "mrq_rate_locked") == "1"
    write(board / EMC / "rate", read(board / EMC / "max_rate") if locked else facts["emc_min_hz"])


def pin(board: Path, facts: Facts) -> None:
    """What jetson_clocks does."""
    for cpufreq in online_cpus(board):
        write(cpufreq / "scaling_governor", "performance")
        write(cpufreq / "scaling_min_freq", read(cpufreq / "scaling_max_freq"))
    gpu = devfreq(board, facts)
    write(gpu / "min_freq", read(gpu / "max_freq"))
    write(board / EMC / "mrq_rate_locked", 1)
    settle(board, facts)


def stored_paths(board: Path, facts: Facts) -> list[Path]:
    """What jetson_clocks --store writes down."""
    names = ("scaling_governor", "scaling_max_freq", "scaling_min_freq")
    gpu = devfreq(board, facts)
    cpus = [cpufreq / name for cpufreq in online_cpus(board) for name in names]
    paths = [*cpus, gpu / "max_freq", gpu / "min_freq", board / EMC / "mrq_rate_locked"]
    return [path for path in paths if path.exists()]
