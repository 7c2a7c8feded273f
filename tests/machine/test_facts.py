"""Facts about machines that are folders: what each tells, and that the rest is absent and no error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import boards
import pytest

from pomt_edge.machine import board as machine_board
from pomt_edge.machine import facts, gpu, jetson_facts, nvidia_facts, redact, system
from pomt_edge.machine.system import System

JTOP = """
class jtop:
    def __init__(self):
        {refuses}
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def ok(self): return True
    board = {{"hardware": {{"Jetpack": "6.2", "Serial Number": "1423721099999"}}}}
    gpu = {{"gpu": {{"freq": {{"cur": 306000}}}}}}
    memory = {{"EMC": {{"cur": 2133000}}}}
    temperature = {{
        "CPU": {{"online": True, "temp": 44.5}},
        "cv0": {{"online": False, "temp": -256}},
        "cv1": {{"temp": -256}},
    }}
    @property
    def nvpmodel(self): raise RuntimeError("no nvpmodel here")
"""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fake pynvml for this process; which board it speaks of is set by `speak_of`."""
    monkeypatch.syspath_prepend(boards.PYNVML)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    system.nvml.cache_clear()
    yield
    system.nvml.cache_clear()
    sys.modules.pop("pynvml", None)


def speak_of(board: boards.Board, monkeypatch: pytest.MonkeyPatch) -> System:
    for name in ("PATH", "FAKE_BOARD"):
        monkeypatch.setenv(name, board.env[name])
    return System(board.root)


def write(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_machine_that_tells_nothing_has_few_facts_and_no_error(tmp_path: Path) -> None:
    empty = System(tmp_path)
    assert set(facts.host(empty)) == {"cpus", "cpu_affinity", "container", "virtual_machine"}
    assert facts.temperatures_c(empty) == {} and facts.cpu_mhz(empty) is None and facts.cpu_model(empty) is None
    assert facts.available_memory_mib(empty) is None and jetson_facts.release(empty) is None
    assert jetson_facts.clocks_mhz(empty) == {} and not nvidia_facts.on_pci(empty)


def test_a_jetson_tells_its_release_mode_clocks_and_heat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", mode="50W")
    here = speak_of(board, monkeypatch)
    write(board.root, "/sys/class/thermal/thermal_zone7/type", "CV0-therm")
    write(board.root, "/sys/class/thermal/thermal_zone7/temp", "-256000")
    write(board.root, "/sys/kernel/debug/bpmp/debug/clk/emc/rate", "3199000000")
    assert (jetson_facts.release(here), jetson_facts.jetpack_major(here)) == ("36.4.3", 6)
    assert machine_board.current_power_mode(here) == "50W"
    assert jetson_facts.clocks_mhz(here) == {"gpu_mhz": 306, "memory_mhz": 3199}
    assert facts.temperatures_c(here) == {"CPU-therm": 45.5, "GPU-therm": 43.0, "tj-therm": 45.5}
    assert facts.host(here)["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert facts.cpu_model(here) == "NVIDIA Jetson AGX Orin Developer Kit", "Arm has no name in /proc/cpuinfo"


@pytest.mark.parametrize(("kind", "jetpack"), [("tx2", 4), ("xavier_nx", 5), ("orin_nano_super", 6)])
def test_the_jetpack_follows_from_the_release(kind: str, jetpack: int, tmp_path: Path) -> None:
    assert jetson_facts.jetpack_major(System(boards.make(kind, tmp_path / "board").root)) == jetpack


@pytest.mark.parametrize(("kind", "governor"), [("desktop", "powersave"), ("desktop_amd", "schedutil")])
def test_a_pc_tells_governor_boost_and_clock(kind: str, governor: str, tmp_path: Path) -> None:
    board = boards.make(kind, tmp_path / "board")
    here = System(board.root)
    assert facts.governor(here) == governor and facts.boost(here) is True
    write(board.root, "/sys/devices/system/cpu/cpu2/cpufreq/cpuinfo_cur_freq", "3612000")
    assert facts.cpu_mhz(here) == 3612, "the fastest core's"
    write(board.root, "/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance")
    assert facts.governor(here) == f"performance, {governor}"
    write(board.root, "/sys/devices/system/cpu/intel_pstate/no_turbo", "1")
    assert facts.boost(here) is False


def test_sensors_of_one_name_and_those_that_cannot_be_read(tmp_path: Path) -> None:
    for number, temperature in enumerate(("41000", "43500", "broken")):
        write(tmp_path, f"/sys/class/thermal/thermal_zone{number}/type", "x86_pkg_temp")
        write(tmp_path, f"/sys/class/thermal/thermal_zone{number}/temp", temperature)
    write(tmp_path, "/sys/class/hwmon/hwmon0/name", "nvme")
    write(tmp_path, "/sys/class/hwmon/hwmon0/temp1_input", "38000")
    write(tmp_path, "/sys/class/hwmon/hwmon1/name", "k10temp")
    write(tmp_path, "/sys/class/hwmon/hwmon1/temp1_input", "52125")
    found = facts.temperatures_c(System(tmp_path))
    assert found == {"x86_pkg_temp": 41.0, "x86_pkg_temp 2": 43.5, "k10temp": 52.125}


def test_a_virtual_machine_is_told_by_the_processors_flags(tmp_path: Path) -> None:
    write(tmp_path, "/proc/cpuinfo", "model name\t: AMD EPYC\nflags\t\t: fpu sse2\ncpu MHz\t\t: 2596.1\n")
    assert facts.virtual_machine(System(tmp_path)) is None and facts.host(System(tmp_path))["virtual_machine"] == "none"
    write(tmp_path, "/proc/cpuinfo", "model name\t: AMD EPYC\nflags\t\t: fpu hypervisor\ncpu MHz\t\t: 2596.1\n")
    assert facts.virtual_machine(System(tmp_path))
    assert facts.cpu_model(System(tmp_path)) == "AMD EPYC" and facts.cpu_mhz(System(tmp_path)) == 2596


def test_free_memory_is_the_containers_where_that_is_less(tmp_path: Path) -> None:
    write(tmp_path, "/proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable: 8388608 kB\n")
    assert facts.available_memory_mib(System(tmp_path)) == 8192
    write(tmp_path, "/sys/fs/cgroup/memory.current", str(3 * 2**30))
    write(tmp_path, "/sys/fs/cgroup/memory.max", "max")
    assert facts.available_memory_mib(System(tmp_path)) == 8192
    write(tmp_path, "/sys/fs/cgroup/memory.max", str(4 * 2**30))
    assert facts.available_memory_mib(System(tmp_path)) == 1024


def test_load_and_lists_of_cpus(tmp_path: Path) -> None:
    write(tmp_path, "/proc/loadavg", "3.50 1.25 0.75 2/345 6789\n")
    assert facts.load_average(System(tmp_path)) == [3.5, 1.25, 0.75]
    write(tmp_path, "/proc/loadavg", "what?")
    assert facts.load_average(System(tmp_path)) is None
    assert [facts.ranges(cpus) for cpus in ({0}, {0, 1, 2, 3}, {6, 2, 3, 0}, set())] == ["0", "0-3", "0,2-3,6", ""]


@pytest.mark.usefixtures("nvml")
def test_a_pcs_gpu_by_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board")
    here = speak_of(board, monkeypatch)
    board.change_nvidia(processes=[[os.getpid(), 2**30], [4242, 3 * 2**30], [4243, None]])
    device = gpu.handle("cuda:0")
    assert device is not None
    assert nvidia_facts.driver(here) == "560.35.03" and nvidia_facts.name(device) == "NVIDIA GeForce RTX 3090"
    assert nvidia_facts.clocks_mhz(device) == {"gpu_mhz": 210, "memory_mhz": 405}
    assert nvidia_facts.temperature_c(device) == 41 and nvidia_facts.power_limit_w(device) == 350
    assert nvidia_facts.other_processes(device) == {"count": 2, "memory_mib": 3072}, "this process is no other"


@pytest.mark.usefixtures("nvml")
def test_other_programs_are_named_without_their_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board")
    speak_of(board, monkeypatch)
    board.change_nvidia(processes=[[4242, 2**20]])
    device = gpu.handle("cuda:0")
    assert device is not None
    line = b"/usr/bin/python3 train.py --password hunter2"
    monkeypatch.setattr(device.nvml, "nvmlSystemGetProcessName", lambda pid: line, raising=False)
    assert nvidia_facts.other_processes(device) == {"count": 1, "memory_mib": 1, "names": ["python3"]}


@pytest.mark.usefixtures("nvml")
def test_nvml_on_a_jetson_tells_nothing_and_that_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speak_of(boards.make("agx_orin_64g", tmp_path / "board"), monkeypatch)
    device = gpu.handle("cuda:0")
    assert device is not None, "it does start there"
    assert nvidia_facts.clocks_mhz(device) == {} and nvidia_facts.other_processes(device) is None
    assert nvidia_facts.temperature_c(device) is None and nvidia_facts.power_limit_w(device) is None
    assert nvidia_facts.free_memory_mib(device) is None and nvidia_facts.compute_capability(device) is None


def test_a_gpu_without_a_driver_is_seen_on_the_bus(tmp_path: Path) -> None:
    write(tmp_path, "/sys/bus/pci/devices/0000:01:00.1/vendor", "0x10de")
    write(tmp_path, "/sys/bus/pci/devices/0000:01:00.1/class", "0x040300")
    assert not nvidia_facts.on_pci(System(tmp_path)), "that is its sound device"
    write(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de")
    write(tmp_path, "/sys/bus/pci/devices/0000:01:00.0/class", "0x030000")
    assert nvidia_facts.on_pci(System(tmp_path))


def test_jetson_stats_is_asked_where_its_service_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    here = System(board.root)
    write(tmp_path, "jtop.py", JTOP.format(refuses="print('welcome')"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "does not run" in jetson_facts.jtop_answer(here)["error"]
    write(board.root, jetson_facts.JTOP_SOCKET, "")
    assert jetson_facts.jtop_answer(here) == {
        "jetpack": "6.2",
        "gpu_mhz": 306,
        "memory_mhz": 2133,
        "temperatures_c": {"CPU": 44.5},
    }


def test_jetson_stats_that_refuses_or_is_absent_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    write(board.root, jetson_facts.JTOP_SOCKET, "")
    write(tmp_path, "jtop.py", JTOP.format(refuses="raise RuntimeError('Mismatch version jtop service: [4.2.1]')"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "Mismatch version" in jetson_facts.jtop_answer(System(board.root))["error"]
    write(tmp_path, "jtop.py", "raise ModuleNotFoundError(\"No module named 'jtop'\")")
    assert "No module named 'jtop'" in jetson_facts.jtop_answer(System(board.root))["error"]


def test_serial_numbers_and_unique_ids_are_taken_out(tmp_path: Path) -> None:
    write(tmp_path, "/proc/device-tree/serial-number", "1423721099999\0")
    write(tmp_path, "/sys/class/dmi/id/product_serial", "Default string")
    write(tmp_path, "/sys/class/dmi/id/board_serial", "1.0")
    secret = redact.secrets(System(tmp_path))
    assert secret == {"1423721099999"}, "fillers are no secrets"
    data = {"name": "Jetson 1423721099999", "version": "1.0", "1423721099999": [1.5, None, "plain"]}
    uuid = "GPU-0f0e1d2c-0000-4000-8000-000000000000"
    assert redact.redacted(data | {"gpu": f"RTX ({uuid})"}, secret) == {
        "name": "Jetson (redacted)",
        "version": "1.0",
        "(redacted)": [1.5, None, "plain"],
        "gpu": "RTX ((redacted))",
    }
