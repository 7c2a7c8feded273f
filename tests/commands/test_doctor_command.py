"""`pomt-edge doctor` as a user types it: on this machine, on boards that are folders, and where parts are missing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import boards
import pytest
import torch

from pomt_edge import cli
from pomt_edge.commands._doctor_finding import pip_install
from pomt_edge.machine.controls.journal import Book, Entry

ROOT = Path(__file__).parents[2]
NEEDED = {"python", "torch", "torchvision", "timm", "forward", "results"}

WITHOUT = """
import sys
from importlib.machinery import PathFinder
class Without:
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {names} else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without()
from pomt_edge import cli
sys.exit(cli.run_any(["doctor", *{arguments}]))
"""
"""A Python in which some libraries are not installed."""


def write(root: Path, path: str, text: str) -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def run_without(names: set[str], *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(names=sorted(names), arguments=list(arguments))
    options.setdefault("env", dict(os.environ))
    options["env"]["PYTHONPATH"] = os.pathsep.join([str(ROOT), options["env"].get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)


def findings(text: str) -> dict[str, dict[str, Any]]:
    return {finding["check"]: finding for finding in json.loads(text)}


def examined(
    board: boards.Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code and the findings about a board, with this test's own torch."""
    for name in ("PATH", "FAKE_BOARD"):
        monkeypatch.setenv(name, board.env[name])
    code = cli.run_any(["doctor", "--json", "--device", "cpu", "--sysroot", str(board.root), *arguments])
    return code, findings(capsys.readouterr().out)


def examined_without_torch(board: boards.Board, *arguments: str, path: Path = boards.PYNVML) -> dict[str, Any]:
    """Findings that need no torch, quickly; `path` holds the pynvml."""
    environment = board.env | {"PYTHONPATH": str(path)}
    options = ["--json", "--sysroot", str(board.root), *arguments]
    return findings(run_without({"torch"}, *options, env=environment).stdout)


def test_a_machine_that_can_measure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run_any(["doctor", "--json", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    data = json.loads(printed.out)
    assert all(list(finding) == ["check", "status", "found", "remedy", "needed"] for finding in data)
    found = findings(printed.out)
    assert {name for name, finding in found.items() if finding["needed"]} == NEEDED
    assert {found[name]["status"] for name in NEEDED} == {"ok"}
    assert torch.__version__ in found["torch"]["found"]
    optional = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "device", "clocks", "left locked", "disk"}
    assert optional <= found.keys() and "jtop" not in found and "jetpack" not in found


def test_each_line_is_shown_as_soon_as_it_is_known() -> None:
    command = [sys.executable, "-c", "from pomt_edge import cli; cli.run_any(['doctor', '--device', 'cpu'])"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        waiting = process.poll() is None
        rest = process.stdout.read()
    assert waiting and first.startswith("✓ ok") and "python" in first
    assert rest.splitlines()[-1].startswith("This machine can measure (")
    assert "\x1b" not in first + rest, "colour is for terminals"


def test_without_torch_there_are_lines_with_remedies_and_no_traceback() -> None:
    done = run_without({"torch"}, "--device", "cpu")
    assert done.returncode == 1 and done.stderr == ""
    lines = done.stdout.splitlines()
    failed = [line.split()[2] for line in lines if line.startswith("✗ fail")]
    assert failed == ["torch", "torchvision", "timm", "forward"]
    remedies = [line for line in lines if "try: " in line and " torch torchvision" in line]
    assert len(remedies) == 4 and shlex.quote(sys.executable) in remedies[0]
    assert "before these are mended: torch, torchvision, timm, forward" in lines[-1]


def test_the_remedy_suits_a_python_without_pip(tmp_path: Path) -> None:
    write(tmp_path, "uv", "#!/bin/sh")
    (tmp_path / "uv").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    found = findings(run_without({"torch", "pip"}, "--json", "--device", "cpu", env=environment).stdout)
    assert found["torch"]["remedy"].startswith(f"uv pip install --python {shlex.quote(sys.executable)} ")


def test_the_remedy_suits_a_python_that_the_distribution_manages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "EXTERNALLY-MANAGED", "")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    remedy = pip_install("timm>=1.0.20")
    assert "-m venv --system-site-packages .venv && .venv/bin/pip install 'timm>=1.0.20' && " in remedy


def test_without_timm_only_timm_fails() -> None:
    done = run_without({"timm"}, "--json", "--device", "cpu")
    found = findings(done.stdout)
    assert done.returncode == 1
    assert [name for name in found if found[name]["status"] == "fail"] == ["timm"]
    assert found["timm"]["found"].startswith("not installed") and "pip install 'timm>=" in found["timm"]["remedy"]


def test_a_torchvision_of_another_build_is_a_failing_line(tmp_path: Path) -> None:
    """What a torchvision for CUDA does beside a torch for the CPU."""
    write(tmp_path, "torchvision/__init__.py", "raise RuntimeError('operator torchvision::nms does not exist')")
    done = run_without(set(), "--json", "--device", "cpu", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    found = findings(done.stdout)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "torchvision::nms does not exist" in found["torchvision"]["found"]
    assert re.search(r"--(force-)?reinstall .*torch torchvision", found["torchvision"]["remedy"])
    assert found["forward"]["status"] == "ok"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with CUDA can't show its absence")
def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run_any(["doctor", "--json", "--device", "cuda", "--sysroot", str(tmp_path)]) == 1
    found = findings(capsys.readouterr().out)["forward"]
    assert found["status"] == "fail" and "no CUDA device is usable" in found["found"]
    assert found["remedy"] == "pomt-edge doctor --device cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with CUDA can't show its absence")
def test_a_gpu_that_is_only_asked_for_is_not_called_one_that_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_any(["doctor", "--json", "--device", "cuda:1", "--sysroot", str(tmp_path)]) == 1
    found = findings(capsys.readouterr().out)
    assert "driver" not in found and "beside an NVIDIA GPU" not in found["torch"]["found"]
    assert found["tensorrt"]["found"] == "can't run here: it needs an NVIDIA GPU"


def test_a_folder_that_cannot_be_written() -> None:
    """The kernel lets nobody make a file in /proc, root neither."""
    done = run_without({"torch"}, "--json", "--device", "cpu", cwd="/proc")
    found = findings(done.stdout)["results"]
    assert found["status"] == "fail" and "can't be written" in found["found"] and found["needed"]
    assert Path(found["remedy"].removeprefix("cd ")).is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, sys
from pomt_edge.commands import _doctor_software
from pomt_edge.commands._doctor_finding import Subject
from pomt_edge.machine.system import System
os.chdir({str(tmp_path)!r})
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(_doctor_software.results_folder(Subject(System(), "cpu", pathlib.Path())).status)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fail"


def test_a_file_in_the_place_of_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.run_any(["doctor", "--json", "--device", "cpu"]) == 1
    found = findings(capsys.readouterr().out)["results"]
    assert subprocess.run(found["remedy"], shell=True, check=False).returncode == 0
    assert cli.run_any(["doctor", "--json", "--device", "cpu"]) == 0, "the remedy mends it"
    assert not (tmp_path / "runs").exists(), "and looking leaves nothing behind"


def test_a_jetson_without_jetson_stats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", mode="30W")
    before = board.snapshot()
    code, found = examined(board, monkeypatch, capsys)
    assert code == 0, "it is optional"
    assert found["jtop"]["status"] == "warn" and "jetson-stats" in found["jtop"]["remedy"]
    assert found["jetpack"]["found"] == "JetPack 6 (L4T 36.4.3)" and found["jetpack"]["status"] == "ok"
    assert found["power mode"]["found"] == "30W (others: MAXN, 15W, 50W)"
    assert found["tensorrt_rtx"]["found"] == "can't run here: there is none for a Jetson"
    assert "python3-libnvinfer" in found["tensorrt"]["remedy"]
    assert "NVIDIA Jetson AGX Orin" in found["device"]["found"]
    assert board.snapshot() == before, "looking changes nothing"


def test_a_gpu_that_torch_cannot_use_is_told_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("here torch can use one")
    board = boards.make("agx_orin_64g", tmp_path / "board")
    _, found = examined(board, monkeypatch, capsys, "--device", "auto")
    assert found["device"]["status"] == "warn" and "can't use the NVIDIA GPU" in found["device"]["found"]


def test_a_jetson_with_an_old_jetpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = examined(boards.make("xavier_nx", tmp_path / "board"), monkeypatch, capsys)
    assert found["jetpack"]["status"] == "warn" and "JetPack 5 (L4T 35.4.1)" in found["jetpack"]["found"]
    assert found["torch"]["remedy"] is None or "cu126" not in found["torch"]["remedy"], "there is none to install"


def test_a_torch_for_a_jetson_comes_from_nvidia(tmp_path: Path) -> None:
    found = examined_without_torch(boards.make("agx_orin_64g", tmp_path / "board"))
    assert "NVIDIA's torch for JetPack 6" in found["torch"]["remedy"]


def test_a_desktop_without_pynvml(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    options = ["--json", "--device", "cuda:0", "--sysroot", str(board.root)]
    found = findings(run_without({"torch", "pynvml"}, *options, env=board.env).stdout)
    assert found["nvml"]["status"] == "warn" and "pynvml not installed" in found["nvml"]["found"]
    assert "pip install 'nvidia-ml-py" in found["nvml"]["remedy"]
    assert found["clocks"]["status"] == "warn" and "gpu processes" not in found


def test_a_desktop_with_a_busy_gpu(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    board.change_nvidia(processes=[[4242, 3 * 2**30]])
    found = examined_without_torch(board, "--device", "cuda:0")
    assert found["device"]["found"].startswith("cuda:0: NVIDIA GeForce RTX 3090")
    assert found["nvml"]["status"] == "ok" and found["driver"]["found"] == "560.35.03"
    assert found["gpu processes"]["status"] == "warn" and "1 other on the GPU" in found["gpu processes"]["found"]
    assert "GPU clock" in found["clocks"]["found"] and found["clocks"]["status"] == "ok"
    assert "cu126" in found["torch"]["remedy"], "driver 560 is too old for CUDA 13"


def test_an_old_driver_beside_a_new_torch(tmp_path: Path) -> None:
    write(tmp_path, "torch.py", "class version: cuda = '13.0'\n__version__ = '2.11.0+cu130'")
    write(tmp_path, "root/sys/module/nvidia/version", "470.82.01")
    write(tmp_path, "root/sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de")
    write(tmp_path, "root/sys/bus/pci/devices/0000:01:00.0/class", "0x030200")
    options = ["--json", "--device", "cpu", "--sysroot", str(tmp_path / "root")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    found = findings(run_without({"pynvml", "timm", "torchvision"}, *options, env=environment).stdout)
    assert found["driver"]["status"] == "warn" and "needs 580 or newer" in found["driver"]["found"]
    write(tmp_path, "root/sys/module/nvidia/version", "580.65.06")
    found = findings(run_without({"pynvml", "timm", "torchvision"}, *options, env=environment).stdout)
    assert found["driver"]["status"] == "ok" and found["driver"]["found"] == "580.65.06, fits torch's CUDA 13.0"
    (tmp_path / "root/sys/module/nvidia/version").unlink()
    found = findings(run_without({"pynvml", "timm", "torchvision"}, *options, env=environment).stdout)
    assert found["driver"]["status"] == "warn" and "its driver is not loaded" in found["driver"]["found"]


@pytest.mark.parametrize(
    ("capability", "says"),
    [((9, 0), "a Hopper GPU (compute capability 9.0)"), ((7, 0), "this GPU (compute capability 7.0)"), ((8, 9), "")],
)
def test_tensorrt_rtx_names_the_gpus_it_does_not_run_on(capability: tuple[int, int], says: str, tmp_path: Path) -> None:
    write(
        tmp_path,
        "pynvml.py",
        f"""
def nvmlInit(): pass
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetCudaComputeCapability(handle): return {capability}
""",
    )
    board = boards.make("desktop", tmp_path / "board")
    found = examined_without_torch(board, "--device", "cuda:0", path=tmp_path)["tensorrt_rtx"]
    assert says in found["found"] and ("can't run here" in found["found"]) == bool(says)


def test_a_virtual_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    board = boards.make("vm", tmp_path / "board")
    write(board.root, "/proc/cpuinfo", "model name\t: Some CPU\nflags\t\t: fpu hypervisor\n")
    code, found = examined(board, monkeypatch, capsys)
    assert code == 0
    assert found["host"]["status"] == "warn" and "virtual machine" in found["host"]["found"]
    assert found["clocks"]["status"] == "warn" and "can't be locked" in found["clocks"]["found"]
    assert "Some CPU" in found["device"]["found"] and "governor" not in found


def test_clocks_that_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = boards.make("desktop_amd", tmp_path / "board")
    before = board.snapshot()
    _, found = examined(board, monkeypatch, capsys)
    assert found["clocks"]["status"] == "ok" and "CPU governor" in found["clocks"]["found"]
    assert found["governor"]["status"] == "ok" and "measuring sets 'performance'" in found["governor"]["found"]
    assert board.snapshot() == before


def test_what_an_interrupted_run_left_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = boards.make("desktop_amd", tmp_path / "board")
    assert examined(board, monkeypatch, capsys)[1]["left locked"]["status"] == "ok"
    folder = board.path("/var/lib/pomt-edge")
    folder.mkdir(parents=True)
    Book((Entry("cpu_boost", "", {}, "on", "off"),), 1).save(folder / "clocks.json")
    code, found = examined(board, monkeypatch, capsys)
    assert code == 0 and found["left locked"]["status"] == "warn" and "cpu_boost" in found["left locked"]["found"]
    assert f"clocks restore --sysroot {board.root}" in found["left locked"]["remedy"]
    (folder / "clocks.json").write_text("{")
    code, found = examined(board, monkeypatch, capsys)
    assert code == 0 and found["left locked"]["status"] == "fail", "a check that fails is a line like others"
    assert "could not be checked" in found["left locked"]["found"]


def test_a_busy_machine_with_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpus = os.cpu_count() or 1
    board = boards.make("desktop", tmp_path / "board")
    write(board.root, "/proc/loadavg", f"{0.4 * cpus} 0 0 1/2 3")
    write(board.root, "/proc/meminfo", "MemAvailable: 8388608 kB")
    _, found = examined(board, monkeypatch, capsys)
    assert found["load"]["status"] == found["memory"]["status"] == "ok"
    write(board.root, "/proc/loadavg", f"{0.6 * cpus} 0 0 1/2 3")
    write(board.root, "/proc/meminfo", "MemAvailable: 1048576 kB")
    _, found = examined(board, monkeypatch, capsys)
    assert found["load"]["status"] == found["memory"]["status"] == "warn"
    assert "1.0 GiB of memory free" in found["memory"]["found"] and found["load"]["remedy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device tpu: expected auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:x"], "--device cuda:x: expected"),
        (["--sysroot", "absent"], "--sysroot absent: no such folder"),
        (["--sysroot", ""], "the path is empty"),
    ],
)
def test_wrong_input_gives_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_any(["doctor", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.strip().splitlines()) == 1 and message in printed.err
