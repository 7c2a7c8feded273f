"""`pomt-edge clocks` as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import boards
import pytest
from clock_boards import CLI, environment

from pomt_edge.cli import run_any

NOBODY = 65534


def clocks(board: boards.Board, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "clocks", *arguments, "--sysroot", str(board.root)]
    return subprocess.run(
        command, env=environment(board) | {"COLUMNS": "120"} | more, capture_output=True, text=True, check=False
    )


def test_lock_shows_before_and_after_and_stays_until_restore(tmp_path: Path) -> None:
    board = boards.make("tx2", tmp_path / "board")
    before = board.snapshot()
    shown = clocks(board, "show", "--json")
    rows = {row["key"]: row for row in json.loads(shown.stdout)["controls"]}
    assert rows["power_mode"]["now"] == "MAXP_CORE_ARM" and rows["power_mode"]["wanted"] == "MAXN"
    assert rows["jetson_clocks"]["now"] == "off" and all(row["can_be_set"] for row in rows.values())
    assert board.snapshot() == before

    locked = clocks(board, "lock", "--device", "cpu")
    assert locked.returncode == 0, locked.stderr
    assert "Locked and verified under load" in locked.stdout and "clocks restore" in locked.stdout
    line = next(line for line in locked.stdout.splitlines() if line.strip().startswith("power mode"))
    assert line.split() == ["power", "mode", "MAXP_CORE_ARM", "MAXN", "MAXN"]
    assert board.mode == "MAXN" and board.pinned
    assert "Locked by pomt-edge clocks lock (power_mode, jetson_clocks)" in clocks(board, "show").stdout

    restored = clocks(board, "restore")
    assert restored.returncode == 0 and restored.stdout == "put back: jetson_clocks, power mode\n"
    assert board.snapshot() == before
    again = clocks(board, "restore", "--json")
    assert again.returncode == 0 and json.loads(again.stdout) == {"restored": [], "left": []}


def test_a_lock_that_does_not_hold_exits_with_1_and_says_what_to_type(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", enforced=False)
    done = clocks(board, "lock", "--device", "cpu", "--power-mode", "30w", "--json")
    state = json.loads(done.stdout)
    assert done.returncode == 1 and state["state"] == "not locked"
    assert state["wanted"]["power_mode"] == "30W"
    assert f"asked for 1728 MHz, {state['seen']['cpu_clock_mhz']} MHz seen under load" in state["why"]
    assert "clocks lock --power-mode 15W" in state["remedy"]
    assert clocks(board, "restore").returncode == 0


def test_what_cannot_be_put_back_exits_with_1_and_is_named(tmp_path: Path) -> None:
    board = boards.make("tx2", tmp_path / "board")
    assert clocks(board, "lock", "--device", "cpu").returncode == 0
    board.change(reboot_modes=["MAXP_CORE_ARM"])
    done = clocks(board, "restore")
    assert done.returncode == 1 and not board.pinned
    first, second = done.stdout.splitlines()
    assert first == "put back: jetson_clocks"
    assert second.startswith("power mode could not be put back (the board must reboot") and "nvpmodel -m 3" in second
    assert not board.rebooted
    board.change(reboot_modes=[])
    assert clocks(board, "restore").stdout == "put back: power mode\n"


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("tx2", ["lock", "--power-mode", "40W"], "--power-mode 40W: this board has no such mode; known: MAXN, MAXQ"),
        ("tx2", ["lock", "--gpu-clock", "900"], "a Jetson's GPU clock follows from its power mode"),
        ("desktop", ["lock", "--power-mode", "MAXN"], "only a Jetson has power modes"),
        ("desktop", ["lock", "--device", "cuda:0", "--gpu-clock", "9000"], "--gpu-clock 9000: out of range"),
        ("desktop", ["show", "--device", "gpu"], "--device gpu: expected cpu, cuda or cuda:N"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_gives_one_line_and_changes_nothing(
    kind: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    board = boards.make(kind, tmp_path / "board")
    before = board.snapshot()
    done = clocks(board, *arguments)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert board.snapshot() == before


def test_a_folder_that_is_no_machine_is_named() -> None:
    done = subprocess.run([*CLI, "clocks", "show", "--sysroot", "absent"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--sysroot absent: no such folder" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root to become another user")
@pytest.mark.parametrize("kind", ["tx2", "desktop"])
def test_without_root_the_exact_command_is_named_and_nothing_changes(kind: str, tmp_path: Path) -> None:
    board = boards.make(kind, tmp_path / "board", root_needed=True, permission=False)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    boards.open_to_all(board)
    before = board.snapshot()
    done = as_nobody(board, home, "lock", "--device", "cpu", "--json")
    state = json.loads(done.stdout)
    assert done.returncode == 1 and state["state"] == "not locked", done.stderr
    assert "no permission (not root)" in state["why"]
    assert state["remedy"].startswith("sudo ") and f"clocks lock --sysroot {board.root}" in state["remedy"]
    assert board.snapshot() == before
    rows = json.loads(as_nobody(board, home, "show", "--device", "cpu", "--json").stdout)["controls"]
    assert not any(row["can_be_set"] for row in rows) and all("not root" in row["why"] for row in rows)
    assert as_nobody(board, home, "restore").returncode == 0

    # What root has locked is seen, and not this user's to put back.
    clocks(board, "lock", "--device", "cpu")
    assert "Locked by pomt-edge clocks lock" in as_nobody(board, home, "show", "--device", "cpu").stdout
    refused = as_nobody(board, home, "restore")
    assert refused.returncode == 1 and "sudo " in refused.stdout and "clocks restore" in refused.stdout
    assert clocks(board, "restore").returncode == 0
    assert board.snapshot() == before


def as_nobody(board: boards.Board, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Reading everything, so that a Python in a closed home folder starts; writing nothing.
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *reading]
    command = [*user, *CLI, "clocks", *arguments, "--sysroot", str(board.root)]
    more = {"HOME": str(home), "XDG_STATE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, env=environment(board) | more, capture_output=True, text=True, check=False)


def test_help_waits_for_no_torch() -> None:
    code = "import sys; from pomt_edge import cli; cli.run_any(['clocks', 'lock', '--help']); "
    code += "print([name for name in ('torch', 'numpy', 'pynvml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--gpu-clock" in done.stdout and done.stdout.strip().endswith("[]")


TORCH = """
import json, os
from pathlib import Path
from types import SimpleNamespace

def gpus(): return json.loads((Path(os.environ["FAKE_BOARD"]) / ".fake/nvidia.json").read_text())["gpus"][::-1]
def properties(device): return SimpleNamespace(uuid=gpus()[int(device[5:])]["uuid"][len("GPU-"):])
cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: len(gpus()),
    get_device_properties=properties, synchronize=lambda device: None)
def zeros(*shape, device): return device
def mm(left, right): pass
"""
"""A torch with CUDA that counts GPUs from the other end than NVML does: the fastest first."""


def test_the_gpu_that_is_locked_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    board = boards.make("vm", tmp_path / "board", gpus=2)
    (tmp_path / "torch.py").write_text(TORCH)
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment(board)["PYTHONPATH"]])}
    locked = clocks(board, "lock", "--device", "cuda:0", **path)
    assert locked.returncode == 0, locked.stdout + locked.stderr
    assert [gpu["sm_lock"] is not None for gpu in board.nvidia["gpus"]] == [False, True]
    unknown = clocks(board, "lock", "--device", "cuda:2", **path)
    assert unknown.returncode == 2 and "--device cuda:2: torch knows 2 GPUs, cuda:0 is the first" in unknown.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root to become another user")
def test_what_is_locked_can_be_read_by_all_users(tmp_path: Path) -> None:
    board = boards.make("desktop_amd", tmp_path / "board")
    state = board.path("/var/lib/pomt-edge")
    state.parent.mkdir(parents=True)
    boards.open_to_all(board)
    command = [*CLI, "clocks", "lock", "--device", "cpu", "--sysroot", str(board.root)]
    subprocess.run(command, env=environment(board), umask=0o027, stdout=subprocess.DEVNULL, check=False)
    for name in ("clocks.json", "clocks.lock"):
        reading = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "cat", str(state / name)]
        done = subprocess.run(reading, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize("text", ["{}", '{"entries": [], "schema": 99}', "[]", "no json"])
def test_a_journal_that_cannot_be_read_is_never_taken_for_an_empty_one(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = boards.make("desktop", tmp_path / "board")
    journal = board.path("/var/lib/pomt-edge/clocks.json")
    journal.parent.mkdir(parents=True)
    journal.write_text(text)
    assert run_any(["clocks", "restore", "--sysroot", str(board.root)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"then type: sudo rm {journal}" in line
    assert journal.read_text() == text
