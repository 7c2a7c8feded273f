"""What the counters of real-looking machines tell about a stretch of time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import boards
import pytest

from pomt_edge.machine import system
from pomt_edge.machine.counters import Counters, Reading, energy_mj, held_back
from pomt_edge.machine.system import System

SW_POWER_CAP, SW_THERMAL, IDLE = 0x4, 0x20, 0x1


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[boards.Board]:
    board = boards.make("desktop", tmp_path / "board")
    monkeypatch.setenv("FAKE_BOARD", str(board.root))
    monkeypatch.syspath_prepend(boards.PYNVML)
    system.nvml.cache_clear()
    yield board
    system.nvml.cache_clear()


def write(board: boards.Board, path: str, value: object) -> None:
    board.path(path).parent.mkdir(parents=True, exist_ok=True)
    board.path(path).write_text(f"{value}\n")


def jetson(tmp_path: Path) -> tuple[boards.Board, Counters]:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    return board, Counters("cuda:0", System(board.root))


def test_a_quiet_jetson_is_not_held_back(tmp_path: Path) -> None:
    _, counters = jetson(tmp_path)
    before = counters.read()
    assert held_back(before, counters.read()) == ()
    assert any(name.startswith("over-current") for name in before.counts)
    assert before.energy_mj is None, "INA3221 gives power, not energy"


def test_an_over_current_event_of_a_jetson_is_seen(tmp_path: Path) -> None:
    board, counters = jetson(tmp_path)
    before = counters.read()
    (path, *_) = sorted(board.path("/sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
    path.write_text(str(int(path.read_text()) + 3))
    (reason,) = held_back(before, counters.read())
    assert reason.startswith("over-current (oc")


def test_a_cooling_device_at_work_holds_back_and_a_fan_does_not(tmp_path: Path) -> None:
    board, counters = jetson(tmp_path)
    before = counters.read()
    folders = sorted(board.path("/sys/class/thermal").glob("cooling_device*"))
    fan = next(folder for folder in folders if "fan" in (folder / "type").read_text())
    alert = board.path("/sys/class/thermal/cooling_device9")
    write(board, "/sys/class/thermal/cooling_device9/type", "hot-surface-alert")
    write(board, "/sys/class/thermal/cooling_device9/cur_state", 1)
    other = next(folder for folder in folders if folder not in (fan, alert))
    (fan / "cur_state").write_text("3\n")
    assert held_back(before, counters.read()) == ()
    (other / "cur_state").write_text("2\n")
    assert held_back(before, counters.read()) == (f"heat ({(other / 'type').read_text().strip()})",)


def test_nvml_tells_what_held_a_gpu_back_between_the_readings(desktop: boards.Board) -> None:
    counters = Counters("cuda:0", System(desktop.root))
    before = counters.read()
    assert held_back(before, counters.read()) == ()
    desktop.change_nvidia(violation_ns={"1": 5_000_000})
    assert held_back(before, counters.read()) == ("heat",)
    desktop.change_nvidia(event_reasons=SW_POWER_CAP | IDLE)
    assert held_back(before, counters.read()) == ("heat", "power limit")
    assert held_back(counters.read(), counters.read()) == ("power limit",), "still held back, right now"


def test_nvml_counts_energy(desktop: boards.Board) -> None:
    counters = Counters("cuda:0", System(desktop.root))
    before = counters.read()
    used = energy_mj(before, counters.read())
    assert before.energy_mj is not None and used is not None
    time.sleep(0.2)
    later = energy_mj(before, counters.read())
    assert later is not None and later > used, "the fake draws 31 W"


def test_a_cpu_counts_its_own_heat_and_energy(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    for cpu in (0, 1):
        write(board, f"/sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", 7)
    zones = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:1": "psys"}
    for zone, name in zones.items():
        write(board, f"/sys/class/powercap/{zone}/name", name)
        write(board, f"/sys/class/powercap/{zone}/energy_uj", 1_000_000)
    counters = Counters("cpu", System(board.root))
    before = counters.read()
    assert before.energy_mj == 1000.0
    write(board, "/sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count", 8)
    write(board, "/sys/class/powercap/intel-rapl:0/energy_uj", 1_250_000)
    after = counters.read()
    assert held_back(before, after) == ("heat (cpu core)",)
    assert energy_mj(before, after) == 250.0
    assert energy_mj(after, before) is None, "the counter began anew"


def test_a_package_that_is_too_hot_is_seen(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    write(board, "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", 0)
    counters = Counters("cpu", System(board.root))
    before = counters.read()
    write(board, "/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", 50)
    assert held_back(before, counters.read()) == ("heat (cpu package)",)
    assert before.watched == ("heat (cpu package)",)


def test_a_virtual_machine_has_no_counters(tmp_path: Path) -> None:
    board = boards.make("vm", tmp_path / "board")
    assert Counters("cpu", System(board.root)).read() == Reading()
