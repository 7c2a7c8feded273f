"""Clocks locked, verified and put back: whatever ends the process, and whoever else is there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boards
import pytest
from clock_boards import CLI, Target, environment, slow, use

from pomt_edge.errors import UserError
from pomt_edge.machine import system as machine
from pomt_edge.machine.controls.journal import Journal
from pomt_edge.machine.system import System
from pomt_edge.measure.clocks import lock_until_restored, locked_clocks, restore

HERE = Path(__file__).parent
ALL = ("tx2", "xavier_nx", "agx_orin_64g", "agx_orin_32g", "orin_nano", "orin_nano_super", "desktop", "desktop_amd")
HOLD = """
import sys, time
from pathlib import Path
from clock_boards import Target
from pomt_edge.machine.system import System
from pomt_edge.measure.clocks import locked_clocks
try:
    with locked_clocks(Target(System(Path(sys.argv[1])))) as state:
        print(state.state, flush=True)
        print(state, file=sys.stderr)
        time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(autouse=True)
def _nvml_as_before() -> Iterator[None]:
    yield
    machine.nvml.cache_clear()
    sys.modules.pop("pynvml", None)


def holding(board: boards.Board) -> subprocess.Popen[str]:
    """Another process in the midst of measuring with locked clocks."""
    command = [sys.executable, "-c", HOLD, str(board.root)]
    process = subprocess.Popen(
        command,
        env=environment(board),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as in a terminal: its programs would be in its group
    )
    assert process.stdout is not None
    if process.stdout.readline() != "locked\n":
        process.kill()
        pytest.fail(process.communicate()[1])
    return process


@pytest.mark.parametrize("kind", ALL)
def test_locked_verified_and_put_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make(kind, tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    with locked_clocks(Target(system)) as state:
        assert (state.state, state.why, state.remedy) == ("locked", "", "")
        assert state.seen == state.seen | {
            name: state.wanted[name] for name in state.wanted if name.endswith("clock_mhz")
        }
        assert board.snapshot() != before
        assert json.loads(json.dumps(vars(state))) == vars(state)
        if kind in boards.JETSONS:
            assert state.wanted["power_mode"] == state.seen["power_mode"] == board.mode
            assert board.pinned and state.before["jetson_clocks"] == "off"
        else:
            assert state.wanted["cpu_boost"] == "off" and state.before["cpu_boost"] == "on"
            assert board.nvidia["gpus"][0]["sm_lock"] == [state.wanted["gpu_clock_mhz"]] * 2
    assert board.snapshot() == before
    assert [file.name for file in Journal(system).folder.iterdir()] == ["clocks.lock"]
    assert not board.rebooted


def test_a_jetson_that_was_pinned_in_another_mode_is_so_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", mode="50W", pinned=True)
    system = use(board, monkeypatch)
    before = board.snapshot()
    with locked_clocks(Target(system)) as state:
        assert state.state == "locked" and board.mode == "MAXN"
    assert board.snapshot() == before and board.pinned


def test_an_exception_puts_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("tx2", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    seen = []
    with contextlib.suppress(ZeroDivisionError), locked_clocks(Target(system)):
        seen.append(board.snapshot())
        raise ZeroDivisionError
    assert seen[0] != before and board.snapshot() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_puts_back(number: signal.Signals, tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    before = board.snapshot()
    process = holding(board)
    assert board.snapshot() != before
    process.send_signal(number)
    assert process.wait(30) == 130
    assert board.snapshot() == before


def test_a_second_ctrl_c_does_not_cut_the_restoring_short(tmp_path: Path) -> None:
    board = boards.make("tx2", tmp_path / "board")
    before = board.snapshot()
    called = slow(board, "jetson_clocks", 0.3, only="--restore")
    process = holding(board)
    process.send_signal(signal.SIGINT)
    while not called.exists():
        assert process.poll() is None
        time.sleep(0.01)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.killpg(process.pid, number)  # as a terminal does, to all that run in it
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "could not be put back" not in said
    assert board.snapshot() == before


def test_a_signal_while_locking_puts_back_what_was_locked(tmp_path: Path) -> None:
    board = boards.make("tx2", tmp_path / "board")
    before = board.snapshot()
    called = slow(board, "nvpmodel", 0.5, only="-m")
    command = [sys.executable, "-c", HOLD, str(board.root)]
    process = subprocess.Popen(command, env=environment(board), stdout=subprocess.DEVNULL)
    while not called.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert board.snapshot() == before


def test_under_nohup_a_hangup_stays_ignored(tmp_path: Path) -> None:
    board = boards.make("desktop", tmp_path / "board")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = holding(board)
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130


def test_after_kill_9_the_next_that_locks_puts_back_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    process = holding(board)
    process.kill()
    process.wait()
    assert board.snapshot() != before
    with locked_clocks(Target(system)) as state:
        assert state.state == "locked" and state.before["power_mode"] == "30W"
    assert board.snapshot() == before


def test_a_restore_that_was_killed_is_finished_by_the_next_that_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("tx2", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    assert lock_until_restored(Target(system)).state == "locked"
    called = slow(board, "nvpmodel", 0.3, only="-m")
    command = [*CLI, "clocks", "restore", "--sysroot", str(board.root)]
    process = subprocess.Popen(command, env=environment(board), stdout=subprocess.DEVNULL)
    while not called.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    with locked_clocks(Target(system)) as state:
        assert state.state == "locked" and state.before["power_mode"] == "MAXP_CORE_ARM"
    assert board.snapshot() == before


def test_the_current_mode_is_that_from_before_the_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", mode="15W")
    system = use(board, monkeypatch)
    process = holding(board)
    process.kill()
    process.wait()
    assert board.mode == "MAXN"
    with locked_clocks(Target(system, power_mode="current")) as state:
        assert state.state == "locked" and state.seen["power_mode"] == board.mode == "15W"


def test_kill_9_while_a_program_runs_is_undone_once_that_has_ended(tmp_path: Path) -> None:
    board = boards.make("tx2", tmp_path / "board")
    before = board.snapshot()
    called = slow(board, "nvpmodel", 1.5, only="-m")
    command = [*CLI, "clocks", "lock", "--device", "cpu", "--sysroot", str(board.root)]
    process = subprocess.Popen(command, env=environment(board), stdout=subprocess.DEVNULL)
    while not called.exists():
        assert process.poll() is None
        time.sleep(0.01)
    over = time.monotonic() + 2.0
    process.kill()
    process.wait()
    assert board.mode != "MAXN", "the program it started is still at work"
    done = subprocess.run(
        [*CLI, "clocks", "restore", "--sysroot", str(board.root)], env=environment(board), check=False
    )
    assert done.returncode == 0 and board.snapshot() == before
    time.sleep(max(0.0, over - time.monotonic()))
    assert board.snapshot() == before


def test_kill_9_between_every_two_steps_leaves_nothing_behind(tmp_path: Path) -> None:
    runs = {}
    for kind, device in (("tx2", "cpu"), ("desktop", "cuda:0")):
        for killed in ("lock", "restore"):
            folder = tmp_path / f"{kind}-{killed}"
            folder.mkdir()
            command = [sys.executable, str(HERE / "killed_clocks.py"), kind, str(folder), killed, "--device", device]
            environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *_fakes()])}
            runs[kind, killed] = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    places = {}
    for name, run in runs.items():
        said, _ = run.communicate()
        assert run.returncode == 0, f"{name}: {said}"
        places[name] = int(said)
    # Each setting is at least a write of the journal (a file, its new name) and a change.
    assert places["tx2", "lock"] >= 12 and places["desktop", "lock"] >= 30
    assert places["tx2", "restore"] >= 6 and places["desktop", "restore"] >= 15


def _fakes() -> list[str]:
    return [str(HERE.parent / "fakes"), str(boards.PYNVML)]


def test_beside_a_living_owner_clocks_are_used_and_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    process = holding(board)
    locked = board.snapshot()
    try:
        with locked_clocks(Target(system)) as state:
            assert state.state == "locked" and state.wanted["power_mode"] == "MAXN"
            assert state.before["power_mode"] == "30W", "as it was before the other locked it"
        with locked_clocks(Target(system, power_mode="15W")) as state:
            assert state.state == "not locked"
            assert f"power mode: process {process.pid} locked it at MAXN, not 15W" in state.why
        assert restore(system)[1][0].why.startswith(f"process {process.pid} has locked the clocks")
        assert lock_until_restored(Target(system)).state == "not locked"
        assert board.snapshot() == locked
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert board.snapshot() == before


def test_another_gpu_than_the_locked_one_is_not_called_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = use(boards.make("desktop", tmp_path / "board", gpus=2), monkeypatch)
    assert lock_until_restored(Target(system, "cuda:0")).state == "locked"
    with locked_clocks(Target(system, "cuda:1")) as state:
        assert state.state == "not locked"
        assert "GPU persistence, GPU clock: not among what pomt-edge clocks lock locked" in state.why
        assert "clocks restore" in state.remedy
    restore(system)


def test_a_lock_that_is_kept_is_verified_and_outlives_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    assert lock_until_restored(Target(system, gpu_clock_mhz=1200)).state == "locked"
    locked = board.snapshot()
    with locked_clocks(Target(system)) as state:
        assert state.state == "locked" and state.wanted["gpu_clock_mhz"] == 1200
        assert restore(system)[0] == [], "not under a run that relies on it"
    with locked_clocks(Target(system, gpu_clock_mhz=1500)) as state:
        assert state.state == "not locked" and "locked it at 1200, not 1500" in state.why
    assert board.snapshot() == locked
    board.cpufreq[0].joinpath("scaling_governor").write_text("powersave")
    with locked_clocks(Target(system)) as state:
        assert (
            state.state == "not locked" and "CPU governor: pomt-edge clocks lock locked it at performance" in state.why
        )
    assert lock_until_restored(Target(system, gpu_clock_mhz=1500)).state == "locked"
    assert board.nvidia["gpus"][0]["sm_lock"] == [1500, 1500]
    done, left = restore(system)
    assert "GPU clock" in done and not left and board.snapshot() == before
    assert restore(system) == ([], [])


@pytest.mark.parametrize(("kind", "remedy"), [("agx_orin_64g", "--power-mode 50W"), ("desktop", "--gpu-clock 1350")])
def test_a_lock_that_is_accepted_and_not_enforced_is_found_out(
    kind: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make(kind, tmp_path / "board", enforced=False)
    system = use(board, monkeypatch)
    before = board.snapshot()
    with locked_clocks(Target(system)) as state:
        assert state.state == "not locked"
        asked, seen = state.wanted["gpu_clock_mhz"], state.seen["gpu_clock_mhz"]
        assert seen < 0.98 * asked
        assert f"GPU clock: asked for {asked} MHz, {seen} MHz seen under load" in state.why
        assert remedy in state.remedy
        assert board.snapshot() != before, "what was locked still steadies"
    assert board.snapshot() == before


def test_a_question_to_reboot_is_declined_and_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", reboot_modes=["MAXN"])
    system = use(board, monkeypatch)
    before = board.snapshot()
    with locked_clocks(Target(system)) as state:
        assert state.state == "not locked" and "must reboot for MAXN" in state.why
        assert state.remedy.startswith("sudo nvpmodel -m 0")
        assert board.mode == "30W" and board.pinned, "the clocks of the mode that is on are pinned all the same"
    with (
        pytest.raises(UserError, match=r"--require-locked: .* must reboot"),
        locked_clocks(Target(system), required=True),
    ):
        pytest.fail("measured")
    assert board.snapshot() == before and not board.rebooted
    with locked_clocks(Target(system, power_mode="current"), required=True) as state:
        assert state.state == "locked" and state.seen["power_mode"] == "30W"
    assert lock_until_restored(Target(system)).state == "not locked"
    assert [entry.key for entry in Journal(system).book.entries] == ["jetson_clocks"], "what was declined is not held"
    restore(system)
    assert board.snapshot() == before


def test_what_cannot_be_put_back_stays_in_the_journal_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("tx2", tmp_path / "board", mode="MAXQ")
    system = use(board, monkeypatch)
    before = board.snapshot()
    told: list[str] = []
    with locked_clocks(Target(system), tell=told.append):
        board.change(reboot_modes=["MAXQ"])
    assert len(told) == 1 and "power mode could not be put back (the board must reboot for MAXQ" in told[0]
    assert "sudo nvpmodel -m 1" in told[0]
    assert not board.pinned, "the other setting was put back"
    assert [entry.key for entry in Journal(system).book.entries] == ["power_mode"]
    assert [problem.title for problem in restore(system)[1]] == ["power mode"]
    with locked_clocks(Target(system), tell=told.append) as state:
        assert state.state == "locked" and state.before["power_mode"] == "MAXQ", "the first mode is not forgotten"
    board.change(reboot_modes=[])
    assert restore(system) == (["power mode"], [])
    assert board.snapshot() == before


def test_no_permission_for_the_gpu_keeps_what_could_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board", permission=False)
    system = use(board, monkeypatch)
    before = board.snapshot()
    with locked_clocks(Target(system)) as state:
        assert state.state == "not locked"
        assert state.why == "GPU persistence, GPU clock, memory clock: no permission, not even for root"
        assert state.seen["cpu_governor"] == "performance" and "gpu_clock_mhz" not in state.wanted
    assert board.snapshot() == before


def test_a_memory_clock_that_this_gpu_cannot_lock_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board", memory_lock=False)
    system = use(board, monkeypatch)
    before = board.snapshot()
    with locked_clocks(Target(system), required=True) as state:
        assert state.state == "locked" and state.seen["memory_clock_mhz"] == "not supported here"
    assert board.snapshot() == before


def test_no_lock_leaves_everything_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    with locked_clocks(Target(system), lock=False) as state:
        assert state.state == "left alone" and state.seen["gpu_clock_mhz"] == 210 and state.wanted == {}
        assert board.snapshot() == before and not Journal(system).folder.exists()


def test_a_target_without_controls_says_so() -> None:
    with locked_clocks(object()) as state:
        assert state.state == "not locked" and "no clock control here" in state.why
    with pytest.raises(UserError, match="--require-locked"), locked_clocks(object(), required=True):
        pytest.fail("measured")


def test_a_gpu_clock_out_of_range_stops_with_everything_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("desktop", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    with pytest.raises(UserError, match="--gpu-clock 9000"), locked_clocks(Target(system, gpu_clock_mhz=9000)):
        pytest.fail("measured")
    assert board.snapshot() == before


def test_handlers_are_those_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = use(boards.make("desktop", tmp_path / "board"), monkeypatch)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with locked_clocks(Target(system)):
        pass
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert isinstance(system, System)


def test_the_start_of_a_load_is_not_taken_for_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = use(boards.make("desktop", tmp_path / "board"), monkeypatch)
    with locked_clocks(Target(system, load_s=1.0, start_s=0.8, held=False)) as state:
        asked, seen = state.wanted["gpu_clock_mhz"], state.seen["gpu_clock_mhz"]
        assert state.state == "not locked" and seen < 0.98 * asked
        assert f"GPU clock: asked for {asked} MHz, {seen} MHz seen under load" in state.why


two_cpus = pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="needs the use of processors 0 and 1")


@two_cpus
def test_a_single_processor_below_the_lock_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = use(boards.make("desktop", tmp_path / "board"), monkeypatch)
    with locked_clocks(Target(system, "cpu", slow_mhz={"cpu1": 800})) as state:
        assert state.state == "not locked"
        assert "CPU clock: asked for 3600 MHz, 800 MHz seen under load" in state.why
    with locked_clocks(Target(system, "cuda:0", slow_mhz={"cpu1": 800})) as state:
        assert state.state == "locked" and state.seen["cpu_clock_mhz"] == 3600, "it idles while the GPU is busy"


@two_cpus
def test_processors_that_are_not_alike_are_each_held_to_their_own_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("desktop", tmp_path / "board")
    system = use(board, monkeypatch)
    board.path("/sys/devices/system/cpu/cpu1/cpufreq/base_frequency").write_text("2700000")
    with locked_clocks(Target(system, "cpu")) as state:
        assert (state.state, state.why) == ("locked", "")
    with locked_clocks(Target(system, "cpu", slow_mhz={"cpu0": 3000})) as state:
        assert "CPU clock: asked for 3600 MHz, 3000 MHz seen under load" in state.why
    # Locked for a GPU's run, used by one on the processors.
    assert lock_until_restored(Target(system, "cuda:0")).state == "locked"
    with locked_clocks(Target(system, "cpu")) as state:
        assert (state.state, state.why) == ("locked", "")
    restore(system)


def test_a_refused_second_lock_leaves_the_first_to_be_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("desktop", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    assert lock_until_restored(Target(system, gpu_clock_mhz=1200)).state == "locked"
    board.change_nvidia(permission=False)
    state = lock_until_restored(Target(system, gpu_clock_mhz=1500))
    assert state.state == "not locked" and "GPU clock" in state.why
    assert board.nvidia["gpus"][0]["sm_lock"] == [1200, 1200]
    with locked_clocks(Target(system, gpu_clock_mhz=1200)) as state:
        assert state.state == "locked" and state.wanted["gpu_clock_mhz"] == 1200
    board.change_nvidia(permission=True)
    assert "GPU clock" in restore(system)[0]
    assert board.snapshot() == before


@pytest.mark.parametrize("silently", [False, True])
def test_what_jetson_clocks_did_not_restore_is_not_called_put_back(
    silently: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("tx2", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    assert lock_until_restored(Target(system, power_mode="current")).state == "locked"
    board.change(not_restored=["scaling_min_freq"], restores_silently=silently)
    done, left = restore(system)
    assert done == [] and [problem.title for problem in left] == ["jetson_clocks"]
    assert "scaling_min_freq" in left[0].why and left[0].remedy.startswith("sudo jetson_clocks --restore ")
    board.change(not_restored=[])
    assert restore(system) == (["jetson_clocks"], [])
    assert board.snapshot() == before


def test_a_power_mode_that_is_on_already_is_none_to_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.make("tx2", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    board.path("/etc/nvpmodel.conf").rename(tmp_path / "nvpmodel.conf")
    state = lock_until_restored(Target(system))
    assert state.state == "locked" and state.wanted["power_mode"] == "MAXP_CORE_ARM"
    assert [entry.key for entry in Journal(system).book.entries] == ["jetson_clocks"]
    with locked_clocks(Target(system)) as state:
        assert (state.state, state.why) == ("locked", ""), "the lock that is kept is as good"
    assert restore(system) == (["jetson_clocks"], [])
    assert board.snapshot() == before


def test_a_mode_that_cannot_be_named_any_more_does_not_stop_the_restoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = boards.make("tx2", tmp_path / "board")
    system = use(board, monkeypatch)
    before = board.snapshot()
    assert lock_until_restored(Target(system)).state == "locked"
    board.path("/etc/nvpmodel.conf").rename(tmp_path / "nvpmodel.conf")
    done, left = restore(system)
    assert done == ["jetson_clocks"] and [problem.remedy for problem in left] == [""]
    assert "nvpmodel.conf has no mode MAXP_CORE_ARM" in left[0].why
    assert system.run(["nvpmodel", "-m", "3"]).status == 0  # by the user's own hand
    assert restore(system) == (["power mode"], [])
    assert board.snapshot() == before
