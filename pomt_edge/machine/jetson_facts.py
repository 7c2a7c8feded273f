"""What a Jetson tells of itself: its release, its clocks and, where jetson-stats runs, what only that knows."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from pomt_edge.machine import board
from pomt_edge.machine.facts import LOWEST_C, asked, known
from pomt_edge.machine.system import System, read, read_number

JETPACK_OF_L4T = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
"""The JetPack whose Linux (L4T) has this major release."""
EMC_RATES_HZ = (
    "/sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "/sys/kernel/debug/clk/emc/clk_rate",
    "/sys/kernel/debug/tegra_bwmgr/emc_rate",
)
"""Where the memory's clock is, by the kernel's age; root alone may read them."""
JTOP_SOCKET = "/run/jtop.sock"


def release(system: System) -> str | None:
    """The release of Linux for Tegra, such as '36.4.3'."""
    text = read(system.path("/etc/nv_tegra_release")) or ""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{found.group(1)}.{found.group(2)}" if found else None


def jetpack_major(system: System) -> int | None:
    """6 for JetPack 6.x; None where there is no release file or an unknown one."""
    found = release(system)
    return JETPACK_OF_L4T.get(int(found.partition(".")[0])) if found else None


def clocks_mhz(system: System) -> dict[str, int]:
    """The clocks of the GPU and of the memory at this moment, in MHz."""
    folder = board.gpu_devfreq(system)
    gpu_hz = read_number(folder / "cur_freq") if folder else None
    memory_hz = next(filter(None, (read_number(system.path(path)) for path in EMC_RATES_HZ)), None)
    return known({"gpu_mhz": _mhz(gpu_hz), "memory_mhz": _mhz(memory_hz)})


def jtop_answer(system: System) -> dict[str, Any]:
    """What jetson-stats says, or {'error': why it does not.}

    Asked in a process of its own: its client starts threads, which would run on beside a measurement, and
    a service of another version can leave it waiting.
    """
    if not system.path(JTOP_SOCKET).exists():
        return {"error": f"no {JTOP_SOCKET}: its service does not run"}
    package = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.append({package!r}); from {__name__} import print_jtop; print_jtop()"
    done = system.run([sys.executable, "-c", code])
    lines = done.output.splitlines() or ["no answer"]
    answer = asked(lambda: json.loads(lines[-1]))
    return answer if isinstance(answer, dict) else {"error": lines[-1]}


def print_jtop() -> None:
    """Ask the service of jetson-stats once and print the answer as JSON."""
    with importlib.import_module("jtop").jtop() as jetson:
        jetson.ok()
        answer = {
            "jetpack": asked(lambda: jetson.board["hardware"]["Jetpack"]),
            "power_mode": asked(lambda: str(jetson.nvpmodel.name)),
            "gpu_mhz": asked(lambda: _khz_to_mhz(next(iter(jetson.gpu.values()))["freq"]["cur"])),
            "memory_mhz": asked(lambda: _khz_to_mhz(jetson.memory["EMC"]["cur"])),
            "temperatures_c": asked(lambda: _sensors(jetson.temperature)),
        }
    print(json.dumps(known(answer)))


def _sensors(temperature: Any) -> dict[str, float]:
    return {
        name: sensor["temp"]
        for name, sensor in temperature.items()
        if sensor.get("online", True) and sensor["temp"] > LOWEST_C
    }


def _mhz(hertz: int | None) -> int | None:
    return None if hertz is None else round(hertz / 1e6)


def _khz_to_mhz(kilohertz: float) -> int:
    return round(kilohertz / 1e3)
