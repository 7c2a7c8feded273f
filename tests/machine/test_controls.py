"""Which settings a machine has and what they would be locked to."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import boards
import pytest
from clock_boards import use

from pomt_edge.errors import UserError
from pomt_edge.machine import board as machine_board
from pomt_edge.machine import system as machine
from pomt_edge.machine.controls import Control, Refused, controls_of, jetson
from pomt_edge.machine.controls.journal import Entry, Journal
from pomt_edge.machine.system import System


@pytest.fixture(autouse=True)
def _nvml_as_before() -> Iterator[None]:
    yield
    machine.nvml.cache_clear()
    sys.modules.pop("pynvml", None)


def keyed(controls: list[Control]) -> dict[str, Control]:
    return {control.key: control for control in controls}


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("tx2", "MAXN"),
        ("xavier_nx", "MODE_20W_6CORE"),
        ("agx_xavier", "MAXN"),
        ("agx_orin_64g", "MAXN"),
        ("agx_orin_32g", "MAXN"),
        ("orin_nano", "15W"),
        ("orin_nano_super", "MAXN_SUPER"),
    ],
)
def test_the_default_power_mode_is_the_largest_by_name(kind: str, mode: str, tmp_path: Path) -> None:
    board = boards.make(kind, tmp_path / "board")
    controls = controls_of("cuda:0", System(board.root), None, None)
    assert [control.key for control in controls] == ["power_mode", "jetson_clocks"]
    assert controls[0].wanted() == mode


def test_a_power_mode_is_named_as_it_is_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = use(boards.make("xavier_nx", tmp_path / "board"), monkeypatch)
    for name in ("15W_6CORE", "mode_15w_6core", "MODE_15W_6CORE"):
        mode = controls_of("cuda:0", system, name, None)[0]
        assert mode.wanted() == "MODE_15W_6CORE" and mode.explicit
    current = controls_of("cuda:0", system, "current", None)[0]
    assert current.wanted() == current.show() == "MODE_15W_6CORE" and not current.explicit
    with pytest.raises(UserError, match=r"--power-mode MAXN: .*; known: MODE_15W_2CORE, .*MODE_20W_6CORE, current"):
        controls_of("cuda:0", system, "MAXN", None)


def test_the_mode_that_is_set_is_the_one_of_that_name_whatever_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {}
    for kind in ("agx_orin_64g", "orin_nano"):
        board = boards.make(kind, tmp_path / kind, mode={"agx_orin_64g": "30W", "orin_nano": "7W"}[kind])
        system = use(board, monkeypatch)
        control = controls_of("cuda:0", system, "15W", None)[0]
        control.set()
        assert board.mode == "15W"
        ids[kind] = next(call[2] for call in board.calls() if call[:2] == ["nvpmodel", "-m"])
    assert ids == {"agx_orin_64g": "1", "orin_nano": "0"}


def test_a_pc_is_locked_without_boost_at_its_base_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = use(boards.make("desktop", tmp_path / "board"), monkeypatch)
    controls = keyed(controls_of("cuda:0", system, None, None))
    assert list(controls) == [
        "cpu_boost",
        "cpu_governor",
        "cpu_min_mhz",
        "gpu_persistence",
        "gpu_clock_mhz",
        "memory_clock_mhz",
    ]
    wanted = {key: control.wanted() for key, control in controls.items()}
    assert wanted["cpu_boost"] == "off" and wanted["cpu_governor"] == "performance" and wanted["cpu_min_mhz"] == 3600
    assert wanted["gpu_persistence"] == "on"
    assert wanted["gpu_clock_mhz"] == 1695, "the profile of the RTX 3090, which this GPU supports"
    assert wanted["memory_clock_mhz"] == max(boards.Board(system.root).nvidia["gpus"][0]["memory_supported_mhz"])
    assert list(keyed(controls_of("cpu", system, None, None))) == ["cpu_boost", "cpu_governor", "cpu_min_mhz"]


def test_the_gpu_clock_is_rounded_down_to_one_that_the_gpu_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board")
    system = use(board, monkeypatch)

    def clock(asked: int | None) -> int:
        return keyed(controls_of("cuda:0", system, None, asked))["gpu_clock_mhz"].wanted()

    assert clock(1500) == 1500 and clock(1511) == 1500
    for absurd in (5, 9000):
        with pytest.raises(UserError, match=rf"--gpu-clock {absurd}: out of range; expected 210 to 2100 \(MHz\)"):
            clock(absurd)
    board.change_nvidia(name="NVIDIA Something Else")
    assert clock(None) == 2100, "no profile: the highest"


def test_what_a_machine_does_not_have_is_refused_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jetson = use(boards.make("tx2", tmp_path / "tx2"), monkeypatch)
    with pytest.raises(UserError, match=r"--gpu-clock: .* give --power-mode NAME"):
        controls_of("cuda:0", jetson, None, 1000)
    pc = use(boards.make("desktop", tmp_path / "pc"), monkeypatch)
    with pytest.raises(UserError, match=r"--power-mode MAXN: only a Jetson has power modes"):
        controls_of("cuda:0", pc, "MAXN", None)
    with pytest.raises(UserError, match=r"--gpu-clock 900: the device is cpu"):
        controls_of("cpu", pc, None, 900)


def test_a_virtual_machine_says_that_it_is_one(tmp_path: Path) -> None:
    board = boards.make("vm", tmp_path / "board")
    board.path("/proc").mkdir(exist_ok=True)
    board.path("/proc/cpuinfo").write_text("processor : 0\nflags\t\t: fpu sse2 hypervisor lahf_lm\n")
    controls = controls_of("cpu", System(board.root), None, None)
    assert [control.key for control in controls] == ["cpu_governor", "cpu_min_mhz"]
    for control in controls:
        with pytest.raises(Refused, match="a virtual machine has no CPU frequency control") as refused:
            control.check()
    assert refused.value.remedy.endswith("sudo pomt-edge clocks lock")


def test_a_container_is_told_to_lock_on_its_host(tmp_path: Path) -> None:
    (tmp_path / ".dockerenv").touch()
    with pytest.raises(Refused, match=r"this container \(docker\) has no CPU frequency control") as refused:
        controls_of("cpu", System(tmp_path), None, None)[0].check()
    assert "on the host" in refused.value.remedy


def test_without_pynvml_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = use(boards.make("desktop", tmp_path / "board"), monkeypatch)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(boards.PYNVML)])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    machine.nvml.cache_clear()
    with pytest.raises(Refused, match="pynvml is missing") as refused:
        keyed(controls_of("cuda:0", system, None, None))["gpu_clock_mhz"].check()
    assert refused.value.remedy.endswith("-m pip install nvidia-ml-py")


def test_the_gpu_is_the_one_that_cuda_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board", gpus=2)
    system = use(board, monkeypatch)
    uuids = [gpu["uuid"] for gpu in board.nvidia["gpus"]]

    def uuid(device: str, known: str | None = None) -> str:
        return keyed(controls_of(device, system, None, None, known))["gpu_clock_mhz"].gpu()

    assert [uuid("cuda:0"), uuid("cuda:1")] == uuids
    assert uuid("cuda:0", uuids[1].removeprefix("GPU-")) == uuids[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert uuid("cuda:0") == uuids[1]


def test_the_journal_is_one_for_all_users_where_it_can_be(tmp_path: Path) -> None:
    journal = Journal(System(tmp_path))
    assert journal.acquire()
    journal.put(Entry("cpu_governor", "", {"/sys/x": "powersave"}, "powersave", "performance"))
    assert (tmp_path / "var/lib/pomt-edge/clocks.json").exists()
    again = Journal(System(tmp_path))
    assert not again.acquire(), "one owner at a time"
    assert [entry.key for entry in again.book.entries] == ["cpu_governor"]
    journal.drop(("cpu_governor", ""))
    journal.release()
    assert again.acquire() and not again.book.entries
    again.release()


def test_a_damaged_journal_is_named_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "var/lib/pomt-edge/clocks.json"
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with pytest.raises(UserError, match=r"clocks\.json: not JSON"):
        Journal(System(tmp_path))
    assert file.read_text() == "{"


def test_an_absolute_link_is_followed_below_the_root(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    modes = machine_board.power_modes(System(board.root))
    conf = board.path("/etc/nvpmodel.conf")
    (conf.parent / "nvpmodel").mkdir()
    conf.rename(conf.parent / "nvpmodel/nvpmodel_p3701_0000.conf")
    conf.symlink_to("/etc/alternative.conf")
    (conf.parent / "alternative.conf").symlink_to("nvpmodel/../../../etc/nvpmodel/nvpmodel_p3701_0000.conf")
    assert modes and machine_board.power_modes(System(board.root)) == modes
    assert controls_of("cuda:0", System(board.root), None, None)[0].wanted() == "MAXN"
    conf.unlink()
    conf.symlink_to("nvpmodel.conf")
    assert machine_board.power_modes(System(board.root)) == [], "a link to itself ends"


def test_a_gpu_that_lists_no_clocks_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board")
    system = use(board, monkeypatch)
    board.change_nvidia(sm_supported_mhz=None, memory_supported_mhz=None)

    def locks(asked: int | None) -> list[int]:
        controls = keyed(controls_of("cuda:0", system, None, asked))
        for key in ("gpu_clock_mhz", "memory_clock_mhz"):
            controls[key].set()
        gpu = board.nvidia["gpus"][0]
        return [gpu["sm_lock"][1], gpu["memory_lock"][1]]

    assert locks(None) == [1695, 9751] and locks(1203) == [1203, 9751]
    board.change_nvidia(name="NVIDIA Something Else")
    assert locks(None) == [2100, 9751]
    with pytest.raises(UserError, match=r"--gpu-clock 2101: out of range; expected 1 to 2100 \(MHz\)"):
        locks(2101)


def test_a_jetson_whose_gpu_came_late_can_be_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("tx2", tmp_path / "board")
    system = use(board, monkeypatch)
    board.path("/var/lib/pomt-edge").mkdir(parents=True)
    gpu, elsewhere = board.devfreq, tmp_path / "devfreq"
    control = jetson.JetsonClocks(system)
    gpu.rename(elsewhere)
    saved = control.save()
    elsewhere.rename(gpu)
    control.restore(saved)


def test_programs_of_the_administrator_are_found_under_cron(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    name = "ldconfig"
    if shutil.which(name) or not shutil.which(name, path="/usr/sbin:/sbin"):
        pytest.skip("no program that only /usr/sbin or /sbin has")
    assert System().has_program(name) and System().run([name, "--version"]).status == 0
    monkeypatch.delenv("PATH")
    assert System().has_program(name) and System().run([name, "--version"]).status == 0


def test_a_missing_program_is_no_fault_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("tx2", tmp_path / "board")
    system = use(board, monkeypatch)
    (board.bin / "jetson_clocks").unlink()
    with pytest.raises(Refused, match="the program jetson_clocks, which JetPack installs, is neither on PATH nor in"):
        controls_of("cuda:0", system, "current", None)[-1].check()
