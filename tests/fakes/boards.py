"""Fake boards: the files and the programs that lock clocks, below a folder of their own. See README.md here."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "bin"))

from fake_board import CPUS, Facts, apply_mode, load, online_cpus, pin, read, save, write  # noqa: E402

PYNVML = HERE / "pynvml_fake"
"""Folder to put on PYTHONPATH (or sys.path) for the fake pynvml."""

MHZ = 1_000_000
PYTHON = Path("/usr/bin/python3") if Path("/usr/bin/python3").exists() else Path(sys.executable).resolve()
"""Runs the fakes: one that another user can reach too, and no shim, which would be slow."""


@dataclass(frozen=True)
class Board:
    root: Path

    @property
    def bin(self) -> Path:
        return self.root / ".fake/bin"

    @property
    def env(self) -> dict[str, str]:
        """For subprocesses: this environment with the fake programs first on PATH."""
        return os.environ | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "FAKE_BOARD": str(self.root)}

    def snapshot(self) -> dict[str, Any]:
        """Every fact that locking may change, to compare before with after."""
        files = sorted(path for path in (self.root / "sys").rglob("*") if path.is_file())
        facts: dict[str, Any] = {str(path.relative_to(self.root)): read(path) for path in files}
        facts["power mode"] = self.mode
        facts["jetson_clocks"] = self.pinned
        for gpu in self.nvidia["gpus"]:
            facts |= {f"gpu{gpu['index']} {name}": gpu[name] for name in ("persistence", "sm_lock", "memory_lock")}
        return facts

    def calls(self) -> list[list[str]]:
        """How the fake programs were called, in order: ['nvpmodel', '-m', '0']."""
        return [json.loads(line) for line in (self.root / ".fake/calls.jsonl").read_text(encoding="utf-8").splitlines()]

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    @property
    def devfreq(self) -> Path:
        """The folder of a Jetson's GPU."""
        return self.root / "sys/class/devfreq" / self.facts["gpu"]

    @property
    def cpufreq(self) -> list[Path]:
        """The cpufreq folders of the CPUs that are online."""
        return online_cpus(self.root)

    @property
    def facts(self) -> Facts:
        return load(self.root, "board")

    @property
    def nvidia(self) -> Facts:
        """What the fake nvidia-smi and pynvml answer from."""
        return load(self.root, "nvidia")

    @property
    def mode(self) -> str | None:
        """The name of the power mode that is on."""
        return self.facts.get("mode")

    @property
    def pinned(self) -> bool:
        """Whether jetson_clocks is on."""
        if not self.facts["modes"]:
            return False
        return read(self.devfreq / "min_freq") == read(self.devfreq / "max_freq")

    @property
    def rebooted(self) -> bool:
        """Whether somebody answered the question of nvpmodel."""
        return (self.root / "REBOOTED").exists()

    def change(self, **facts: Any) -> None:
        """Change the board's options afterwards, such as enforced=False or reboot_modes=['15W']."""
        save(self.root, "board", self.facts | facts)

    def change_nvidia(self, **facts: Any) -> None:
        """Change what NVML answers afterwards: options of the whole driver, or facts of every GPU."""
        now = self.nvidia
        of_gpu = {name: value for name, value in facts.items() if now["gpus"] and name in now["gpus"][0]}
        now |= {name: value for name, value in facts.items() if name not in of_gpu}
        now["gpus"] = [gpu | of_gpu for gpu in now["gpus"]]
        save(self.root, "nvidia", now)


def _mode(
    id: int,
    name: str,
    cores: int,
    *,
    gpu_mhz: float | None = None,
    cpu_mhz: float | None = None,
    sm: int | None = None,
    emc_mhz: int | None = None,
) -> Facts:
    """One power mode; None is no cap."""
    return {
        "id": id,
        "name": name,
        "cores": cores,
        "gpu_hz": int(gpu_mhz * MHZ) if gpu_mhz else None,
        "cpu_khz": int(cpu_mhz * 1000) if cpu_mhz else None,
        "sm": sm,
        "emc_hz": emc_mhz * MHZ if emc_mhz else None,
    }


_ORIN = {"gpu": "17000000.ga10b", "gpu_min_hz": 306 * MHZ, "cpu_min_khz": 115_200, "emc_min_hz": 204 * MHZ}
_XAVIER = {"gpu": "17000000.gv11b", "gpu_min_hz": 114_750_000, "cpu_min_khz": 115_200, "emc_min_hz": 204 * MHZ}
_XAVIER_NX_MODES = [
    _mode(0, "MODE_15W_2CORE", 2, gpu_mhz=1109.25, emc_mhz=1600),
    _mode(1, "MODE_15W_4CORE", 4, gpu_mhz=1109.25, cpu_mhz=1420.8, emc_mhz=1600),
    _mode(2, "MODE_15W_6CORE", 6, gpu_mhz=1109.25, cpu_mhz=1420.8, emc_mhz=1600),
    _mode(3, "MODE_10W_2CORE", 2, gpu_mhz=803.25, cpu_mhz=1497.6, sm=4, emc_mhz=1600),
    _mode(4, "MODE_10W_4CORE", 4, gpu_mhz=803.25, cpu_mhz=1190.4, sm=4, emc_mhz=1600),
    _mode(5, "MODE_10W_DESKTOP", 4, gpu_mhz=510, cpu_mhz=1907.2, sm=4, emc_mhz=1600),
    _mode(6, "MODE_20W_2CORE", 2, gpu_mhz=1109.25, emc_mhz=1866),
    _mode(7, "MODE_20W_4CORE", 4, gpu_mhz=1109.25, emc_mhz=1866),
    _mode(8, "MODE_20W_6CORE", 6, gpu_mhz=1109.25, cpu_mhz=1420.8, emc_mhz=1866),
]
_JETSONS: dict[str, Facts] = {
    "tx2": {
        "model": "quill",
        "compatible": ["nvidia,p2597-0000+p3310-1000", "nvidia,tegra186"],
        "release": "# R32 (release), REVISION: 7.4, GCID: 33514132, BOARD: t186ref, EABI: aarch64",
        "gpu": "17000000.gp10b",
        "gpu_min_hz": 114_750_000,
        "gpu_max_hz": 1_300_500_000,
        "sm": 2,
        "cpus": 6,
        "cpu_min_khz": 345_600,
        "cpu_max_khz": 2_035_200,
        "emc_min_hz": 40_800_000,
        "emc_max_hz": 1866 * MHZ,
        "default": 3,
        "modes": [
            _mode(0, "MAXN", 6),
            _mode(1, "MAXQ", 4, gpu_mhz=854.25, cpu_mhz=1267.2, emc_mhz=1331),
            _mode(2, "MAXP_CORE_ALL", 6, gpu_mhz=1122, cpu_mhz=1420.8, emc_mhz=1600),
            _mode(3, "MAXP_CORE_ARM", 4, gpu_mhz=1122, cpu_mhz=2035.2, emc_mhz=1600),
        ],
    },
    "xavier_nx": _XAVIER
    | {
        "model": "NVIDIA Jetson Xavier NX Developer Kit",
        "compatible": ["nvidia,p3509-0000+p3668-0000", "nvidia,tegra194"],
        "release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64",
        "gpu_max_hz": 1_109_250_000,
        "sm": 6,
        "cpus": 6,
        "cpu_max_khz": 1_907_200,
        "emc_max_hz": 1866 * MHZ,
        "default": 2,
        "modes": _XAVIER_NX_MODES,
    },
    "agx_xavier": _XAVIER
    | {
        "model": "Jetson-AGX",
        "compatible": ["nvidia,p2822-0000+p2888-0004", "nvidia,tegra194"],
        "release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64",
        "gpu_max_hz": 1_377_000_000,
        "sm": 8,
        "cpus": 8,
        "cpu_max_khz": 2_265_600,
        "emc_max_hz": 2133 * MHZ,
        "default": 2,
        "modes": [
            _mode(0, "MAXN", 8),
            _mode(1, "MODE_10W", 2, gpu_mhz=520.2, cpu_mhz=1200, sm=4, emc_mhz=1066),
            _mode(2, "MODE_15W", 4, gpu_mhz=675.75, cpu_mhz=1200, emc_mhz=1331),
            _mode(3, "MODE_30W_ALL", 8, gpu_mhz=905.25, cpu_mhz=1190.4, emc_mhz=1600),
            _mode(4, "MODE_30W_6CORE", 6, gpu_mhz=905.25, cpu_mhz=1420.8, emc_mhz=1600),
            _mode(5, "MODE_30W_4CORE", 4, gpu_mhz=905.25, cpu_mhz=1779.2, emc_mhz=1600),
            _mode(6, "MODE_30W_2CORE", 2, gpu_mhz=905.25, cpu_mhz=2100, emc_mhz=1600),
            _mode(7, "MODE_15W_DESKTOP", 4, gpu_mhz=675.75, cpu_mhz=2188.8, emc_mhz=1331),
        ],
    },
    "agx_orin_64g": _ORIN
    | {
        "model": "NVIDIA Jetson AGX Orin Developer Kit",
        "compatible": ["nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"],
        "release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        "gpu_max_hz": 1_300_500_000,
        "sm": 16,
        "cpus": 12,
        "cpu_max_khz": 2_201_600,
        "emc_max_hz": 3199 * MHZ,
        "default": 2,
        "modes": [
            _mode(0, "MAXN", 12),
            _mode(1, "15W", 4, gpu_mhz=408, cpu_mhz=1113.6, sm=6, emc_mhz=2133),
            _mode(2, "30W", 8, gpu_mhz=612, cpu_mhz=1728, sm=8),
            _mode(3, "50W", 12, gpu_mhz=816, cpu_mhz=1497.6),
        ],
    },
    "agx_orin_32g": _ORIN
    | {
        "model": "NVIDIA Jetson AGX Orin",
        "compatible": ["nvidia,p3737-0000+p3701-0004", "nvidia,p3701-0004", "nvidia,tegra234"],
        "release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64",
        "gpu_max_hz": 930_750_000,
        "sm": 14,
        "cpus": 8,
        "cpu_max_khz": 2_188_800,
        "emc_max_hz": 3199 * MHZ,
        "default": 2,
        "modes": [
            _mode(0, "MAXN", 8),
            _mode(1, "15W", 4, gpu_mhz=408, cpu_mhz=1113.6, sm=6, emc_mhz=2133),
            _mode(2, "30W", 8, gpu_mhz=612, cpu_mhz=1728, sm=8),
            _mode(3, "40W", 8, gpu_mhz=816, cpu_mhz=1497.6),
        ],
    },
    "orin_nano": _ORIN
    | {
        "model": "NVIDIA Jetson Orin Nano Developer Kit",
        "compatible": ["nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005", "nvidia,tegra234"],
        "release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64",
        "gpu_max_hz": 624_750_000,
        "sm": 8,
        "cpus": 6,
        "cpu_max_khz": 1_510_400,
        "emc_max_hz": 2133 * MHZ,
        "default": 0,
        "modes": [_mode(0, "15W", 6), _mode(1, "7W", 4, gpu_mhz=408, cpu_mhz=960, sm=4)],
    },
    "orin_nano_super": _ORIN
    | {
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "compatible": ["nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"],
        "release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        "gpu": "17000000.gpu",
        "gpu_max_hz": 1_020_000_000,
        "sm": 8,
        "cpus": 6,
        "cpu_max_khz": 1_728_000,
        "emc_max_hz": 3199 * MHZ,
        "default": 1,
        "modes": [
            _mode(0, "15W", 6, gpu_mhz=612, cpu_mhz=1497.6, emc_mhz=2133),
            _mode(1, "25W", 6, gpu_mhz=918, cpu_mhz=1344),
            _mode(2, "MAXN_SUPER", 6),
        ],
    },
}
JETSONS = tuple(_JETSONS)
PCS = ("desktop", "desktop_amd", "vm")
KINDS = (*JETSONS, *PCS)


def make(
    kind: str,
    root: Path,
    *,
    mode: str | None = None,
    pinned: bool = False,
    reboot_modes: Iterable[str] = (),
    root_needed: bool = False,
    sudo: bool = False,
    enforced: bool = True,
    permission: bool = True,
    memory_lock: bool = True,
    gpus: int | None = None,
) -> Board:
    """A board of a kind below `root`.

    `mode`: the power mode that is on (default: that of nvpmodel.conf). `pinned`: jetson_clocks is on already.
    `reboot_modes`: names that nvpmodel asks to reboot for. `root_needed`: the Jetson programs refuse who is not root.
    `sudo`: it asks for no password.
    `enforced=False`: a lock is accepted and the clock stays lower. `permission=False`: NVIDIA's tools refuse changes.
    `memory_lock=False`: no lock on memory clocks. `gpus`: NVIDIA GPUs (default 1, none in a vm).
    """
    jetson = kind in _JETSONS
    if kind not in KINDS:
        raise ValueError(kind)
    (root / ".fake/bin").mkdir(parents=True)
    count = gpus if gpus is not None else int(kind != "vm")
    save(root, "nvidia", _nvidia(count, jetson) | {"permission": permission, "memory_lock": memory_lock})
    options = {
        "root_needed": root_needed,
        "refuses_silently": False,
        "sudo": sudo,
        "enforced": enforced,
        "reboot_modes": list(reboot_modes),
    }
    options |= {"not_restored": [], "restores_silently": False}
    board = Board(root)
    board.change_nvidia(enforced=enforced)
    if jetson:
        _make_jetson(root, _JETSONS[kind] | options | {"governor": "schedutil"}, mode, pinned)
    else:
        save(root, "board", options | {"modes": []})
        _make_pc(root, kind)
    # Always a fake nvidia-smi and sudo, so that no test can reach a real one: without a GPU it finds no driver.
    _programs(board, ["nvpmodel", "jetson_clocks"] * jetson + ["nvidia-smi", "sudo"])
    return board


def open_to_all(board: Board) -> None:
    """Let every user reach the board (the folders above it too) and read it; what they may write stays the owner's."""
    temporary = Path(tempfile.gettempdir())
    for folder in board.root.parents:
        if temporary in folder.parents:
            folder.chmod(folder.stat().st_mode | 0o055)
    for path in (board.root, *board.root.rglob("*")):
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    (board.root / ".fake/calls.jsonl").chmod(0o666)


def _programs(board: Board, names: list[str]) -> None:
    interpreter = f"#!{PYTHON} -S\n"
    for name in names:
        _, _, text = (HERE / "bin" / name).read_text(encoding="utf-8").partition("\n")
        (board.bin / name).write_text(interpreter + text, encoding="utf-8")
        (board.bin / name).chmod(0o755)
    for name in ("fake_board.py", "sync"):
        shutil.copy(HERE / "bin" / name, board.bin)
    (board.root / ".fake/calls.jsonl").touch()


def _make_jetson(root: Path, facts: Facts, mode: str | None, pinned: bool) -> None:
    on = mode or next(each["name"] for each in facts["modes"] if each["id"] == facts["default"])
    facts = facts | {"mode": on}
    save(root, "board", facts)
    write(root / "etc/nv_tegra_release", facts["release"])
    write(root / "etc/nvpmodel.conf", _nvpmodel_conf(facts))
    tree = root / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(facts["model"].encode() + b"\0")
    (tree / "compatible").write_bytes(b"".join(each.encode() + b"\0" for each in facts["compatible"]))
    caps = {each["gpu_hz"] for each in facts["modes"] if each["gpu_hz"]}
    steps = range(facts["gpu_min_hz"], facts["gpu_max_hz"], 102 * MHZ)
    gpu = root / "sys/class/devfreq" / facts["gpu"]
    write(gpu / "available_frequencies", " ".join(map(str, sorted({*steps, *caps, facts["gpu_max_hz"]}))))
    write(gpu / "governor", "nvhost_podgov")
    write(root / "sys/class/devfreq/15340000.vic/cur_freq", 115_200_000)
    _make_sensors(root)
    apply_mode(root, facts, next(each for each in facts["modes"] if each["name"] == on))
    if pinned:
        pin(root, facts)


def _nvpmodel_conf(facts: Facts) -> str:
    cpus = range(facts["cpus"])
    gpu = f"/sys/class/devfreq/{facts['gpu']}"
    lines = [
        "# nvpmodel.conf: power models of this board",
        "",
        "< PARAM TYPE=FILE NAME=CPU_ONLINE >",
        *(f"CORE_{cpu} /{CPUS}/cpu{cpu}/online" for cpu in cpus),
        "",
        "< PARAM TYPE=FILE NAME=TPC_POWER_GATING >",
        "TPC_PG_MASK /sys/devices/gpu.0/tpc_pg_mask",
        "",
        "< PARAM TYPE=CLOCK NAME=CPU >",
        f"MAX_FREQ /{CPUS}/cpu0/cpufreq/scaling_max_freq",
        f"MIN_FREQ /{CPUS}/cpu0/cpufreq/scaling_min_freq",
        "",
        "< PARAM TYPE=CLOCK NAME=GPU >",
        f"FREQ_TABLE {gpu}/available_frequencies",
        f"MAX_FREQ {gpu}/max_freq",
        f"MIN_FREQ {gpu}/min_freq",
    ]
    for mode in facts["modes"]:
        kept = (mode["sm"] or facts["sm"]) // 2
        lines += [
            "",
            f"# {mode['name']}: {mode['cores']} cores",
            f"< POWER_MODEL ID={mode['id']} NAME={mode['name']} >",
            *(f"CPU_ONLINE CORE_{cpu} {int(cpu < mode['cores'])}" for cpu in cpus),
            f"TPC_POWER_GATING TPC_PG_MASK {(1 << facts['sm'] // 2) - (1 << kept)}",
            "CPU MIN_FREQ 0",
            f"CPU MAX_FREQ {mode['cpu_khz'] or -1}",
            "GPU MIN_FREQ 0",
            f"GPU MAX_FREQ {mode['gpu_hz'] or -1}",
        ]
    lines += ["", "# mandatory section to configure the default mode", f"< PM_CONFIG DEFAULT={facts['default']} >"]
    return "\n".join(lines)


def _make_sensors(root: Path) -> None:
    hwmon = root / "sys/class/hwmon"
    write(hwmon / "hwmon0/name", "soctherm_oc")
    for number in (1, 2, 3):
        write(hwmon / f"hwmon0/oc{number}_event_cnt", 0)
    write(hwmon / "hwmon1/name", "ina3221")
    for number, (label, millivolt, milliampere) in enumerate(
        (("VDD_GPU_SOC", 19_000, 240), ("VDD_CPU_CV", 19_000, 80), ("VIN_SYS_5V0", 5_000, 900)), 1
    ):
        write(hwmon / f"hwmon1/in{number}_label", label)
        write(hwmon / f"hwmon1/in{number}_input", millivolt)
        write(hwmon / f"hwmon1/curr{number}_input", milliampere)
    thermal = root / "sys/class/thermal"
    devices = (("pwm-fan", 0, 3), ("cpu-throttle-alert", 0, 1), ("gpu-throttle-alert", 0, 1))
    for number, (type, state, most) in enumerate(devices):
        write(thermal / f"cooling_device{number}/type", type)
        write(thermal / f"cooling_device{number}/cur_state", state)
        write(thermal / f"cooling_device{number}/max_state", most)
    for number, (type, millicelsius) in enumerate((("CPU-therm", 45_500), ("GPU-therm", 43_000), ("tj-therm", 45_500))):
        write(thermal / f"thermal_zone{number}/type", type)
        write(thermal / f"thermal_zone{number}/temp", millicelsius)


def _make_pc(root: Path, kind: str) -> None:
    cpus = {"desktop": 8, "desktop_amd": 6, "vm": 4}[kind]
    for cpu in range(cpus):
        write(root / CPUS / f"cpu{cpu}/topology/core_id", cpu)
        if cpu:
            write(root / CPUS / f"cpu{cpu}/online", 1)
    write(root / "sys/class/thermal/thermal_zone0/type", "x86_pkg_temp")
    write(root / "sys/class/thermal/thermal_zone0/temp", 41_000)
    if kind == "desktop":
        write(root / CPUS / "intel_pstate/status", "active")
        write(root / CPUS / "intel_pstate/no_turbo", 0)
    elif kind == "desktop_amd":
        write(root / CPUS / "cpufreq/boost", 1)
    if kind != "vm":
        for cpu in range(cpus):
            _make_cpufreq(root / CPUS / f"cpu{cpu}/cpufreq", intel=kind == "desktop")


def _make_cpufreq(folder: Path, *, intel: bool) -> None:
    low, high = (800_000, 4_900_000) if intel else (2_200_000, 3_700_000)
    governors = "performance powersave" if intel else "conservative ondemand userspace powersave performance schedutil"
    values = {
        "scaling_driver": "intel_pstate" if intel else "acpi-cpufreq",
        "scaling_governor": "powersave" if intel else "schedutil",
        "scaling_available_governors": governors,
        "cpuinfo_min_freq": low,
        "cpuinfo_max_freq": high,
        "scaling_min_freq": low,
        "scaling_max_freq": high,
        "scaling_cur_freq": low,
        "cpuinfo_cur_freq": low,
    }
    if intel:
        values["base_frequency"] = 3_600_000
    for name, value in values.items():
        write(folder / name, value)


def _nvidia(count: int, jetson: bool) -> Facts:
    gpus = [
        {
            "index": index,
            "uuid": f"GPU-{index}f0e1d2c-0000-4000-8000-00000000000{index}",
            "bus": f"00000000:0{index + 1}:00.0",
            "serial": f"132092100000{index}",
            "name": "Orin (nvgpu)" if jetson else "NVIDIA GeForce RTX 3090",
            "compute_cap": "8.7" if jetson else "8.6",
            "persistence": False,
            "sm_lock": None,
            "memory_lock": None,
            "sm_idle_mhz": 210,
            "sm_max_mhz": 2100,
            "sm_supported_mhz": list(range(2100, 195, -15)),
            "memory_idle_mhz": 405,
            "memory_max_mhz": 9751,
            "memory_supported_mhz": [9751, 9501, 5001, 810, 405],
            "event_reasons": 0,
            "violation_ns": {},
            "temperature_c": 41,
            "power_mw": 31_000,
            "power_limit_mw": 350_000,
            "energy_mj": 5_000_000,
            "processes": [],
        }
        for index in range(count)
    ]
    return {
        "jetson": jetson,
        "driver": "560.35.03",
        "made_at_s": time.time(),
        "enforced": True,
        "ignores_locks": False,
        "gpus": gpus,
    }
