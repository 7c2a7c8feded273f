"""The agent on fake boards, spoken to as the host does; on the oldest Python here, for a board has an old one."""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boards
import pytest
import ssh_boards
from ssh_boards import until

from pomt_edge.agent import board as agent

FILE = Path(agent.__file__)
NOBODY = 65534
OPTIONS = {"precision": "fp32", "workspace_mib": 512}


def _oldest_python() -> tuple[str, str]:
    """The oldest here that runs, as pyenv's shims need not; and its version."""
    for version in ("3.6", "3.7", "3.8"):
        installed = Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
        for found in (shutil.which(f"python{version}"), *map(str, installed)):
            if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
                return found, version
    return sys.executable, "{}.{}".format(*sys.version_info)


PYTHON, VERSION = _oldest_python()


class Session:
    """One agent and what is said to it."""

    def __init__(self, board: boards.Board, folder: Path, words: Sequence[str] = (), **environment: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [PYTHON, str(FILE), "--folder", str(folder), "--sysroot", str(board.root), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=board.env | {"FAKE_TRT_VERSION": "10.3"} | environment,
        )
        self._number = 0

    def send(self, request: str, **more: Any) -> None:
        assert self.process.stdin is not None
        self._number += 1
        self.process.stdin.write(json.dumps({"id": self._number, "request": request, **more}).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, request: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdout is not None
        self.send(request, **more)
        answer = json.loads(self.process.stdout.readline())
        assert answer["id"] == self._number
        return answer

    def put(self, name: str, content: bytes) -> list[dict[str, Any]]:
        """A whole file in one piece; the files of a request that is about it."""
        digest = hashlib.sha256(content).hexdigest()
        data = base64.b64encode(content).decode()
        assert self.ask("put", sha256=digest, bytes=len(content), offset=0, data=data)["complete"]
        return [{"name": name, "sha256": digest}]

    def engine(self, name: str = "tokens_64.onnx", **options: Any) -> str:
        built = self.ask("build", files=self.put(name, name.encode()), options=OPTIONS | options)
        assert built["ok"], built
        return built["engine"]

    def end(self) -> None:
        """As when the connection is lost."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


Start = Callable[..., tuple[boards.Board, Session]]


@pytest.fixture(params=[VERSION], ids=[f"python{VERSION}"])
def start(tmp_path: Path) -> Iterator[Start]:
    """A session on a board of a kind; on the same board again where it is there."""
    sessions: list[Session] = []
    made: list[boards.Board] = []

    def begin(kind: str = "agx_orin_64g", *words: str, **options: Any) -> tuple[boards.Board, Session]:
        environment = {name: options.pop(name) for name in list(options) if name.isupper()}
        if not made:
            made.append(boards.make(kind, tmp_path / "board", **options))
            ssh_boards.programs(made[0])
        environment.setdefault("FAKE_TRT_VERSION", ssh_boards.TENSORRT[kind])
        sessions.append(Session(made[0], tmp_path / "agent", words, **environment))
        return made[0], sessions[-1]

    yield begin
    for session in sessions:
        session.process.kill()
        session.end()


def test_it_is_python_3_6() -> None:
    ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_its_library_is_that_of_python_3_6() -> None:
    vermin = pytest.importorskip("vermin", reason="pip install vermin")
    found = vermin.visit(FILE.read_text(encoding="utf-8"))
    assert [least for least in found.minimum_versions() if least and least[0] == 3] == [(3, 6)]


def test_it_imports_the_standard_library_alone() -> None:
    nodes = ast.walk(ast.parse(FILE.read_text(encoding="utf-8")))
    names = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    nodes = ast.walk(ast.parse(FILE.read_text(encoding="utf-8")))
    names |= {str(node.module).split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "json" in names and names <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("tx2", {"l4t": "32.7.4", "jetpack": 4, "tensorrt": "8.2.1", "power_mode": "MAXP_CORE_ARM"}),
        ("agx_orin_64g", {"l4t": "36.4.3", "jetpack": 6, "tensorrt": "10.3.0", "power_mode": "30W"}),
    ],
)
def test_it_recognises_the_board(start: Start, kind: str, expected: dict[str, Any]) -> None:
    board, session = start(kind)
    told = session.ask("hello")
    assert {name: told[name] for name in expected} == expected
    assert told["model"] == board.facts["model"] and told["protocol"] == agent.PROTOCOL
    assert told["power_sensors"] == ["VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"]


def test_clocks_are_locked_in_order_and_put_back_when_the_connection_is_lost(start: Start) -> None:
    board, session = start()
    before = board.snapshot()
    told = session.ask("lock")
    assert told["locked"] and told["seen"]["power_mode"] == "MAXN"
    assert board.mode == "MAXN" and board.pinned
    setting = [call[:2] for call in board.calls() if call != ["nvpmodel", "-q"]]
    assert setting == [
        ["jetson_clocks", "--store"],
        ["nvpmodel", "-m"],
        ["jetson_clocks", "--store"],
        ["jetson_clocks"],
    ]
    session.end()
    assert board.snapshot() == before
    assert not (session.folder / "clocks.json").exists()


def test_a_user_s_own_jetson_clocks_is_on_again_afterwards(start: Start) -> None:
    board, session = start(pinned=True)
    before = board.snapshot()
    session.ask("lock", power_mode="15w")
    assert board.mode == "15W"
    assert session.ask("unlock")["problems"] == []
    assert board.snapshot() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_mid_run_ends_trtexec_and_puts_the_clocks_back(start: Start, number: signal.Signals) -> None:
    board, session = start()
    before, engine = board.snapshot(), session.engine()
    session.ask("lock")
    board.path("/.fake/slow").touch()
    session.send("time", engine=engine, warm_up_ms=200, count=5)
    until(lambda: _trtexec(board))
    session.process.send_signal(number)
    session.process.wait(20)
    assert not _trtexec(board)
    assert board.snapshot() == before


def test_an_agent_that_was_killed_leaves_no_trtexec_and_the_next_restores(start: Start) -> None:
    board, session = start()
    before, engine = board.snapshot(), session.engine()
    session.ask("lock")
    board.path("/.fake/slow").touch()
    session.send("time", engine=engine, warm_up_ms=200, count=5)
    until(lambda: _trtexec(board))
    session.process.kill()
    session.process.wait()
    until(lambda: not _trtexec(board))
    assert board.pinned and board.snapshot() != before
    _, second = start()
    assert second.ask("hello")["restored"] == ["jetson_clocks", "power mode"]
    assert board.snapshot() == before


@pytest.mark.parametrize("step", ["nvpmodel", "jetson_clocks"])
def test_a_kill_right_behind_a_step_is_undone_by_restore_alone(start: Start, step: str) -> None:
    board, session = start()
    before = board.snapshot()
    told = session.ask("hello")
    _kills_its_parent(board, step)
    session.send("lock")
    session.process.wait(20)
    assert told["restored"] == [] and board.snapshot() != before
    words = [PYTHON, str(FILE), "--restore", "--folder", str(session.folder), "--sysroot", str(board.root)]
    done = subprocess.run(words, env=board.env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "put back: power mode" in done.stdout
    assert board.snapshot() == before
    again = subprocess.run(words, env=board.env, capture_output=True, text=True, check=False)
    assert again.stdout == "nothing to put back\n"


def test_silence_counts_as_a_lost_connection(start: Start) -> None:
    board, session = start("agx_orin_64g", "--lost-after", "0.5")
    before = board.snapshot()
    assert session.ask("lock")["locked"]
    session.process.wait(20)
    assert board.snapshot() == before


def _as_a_user(board: boards.Board, folder: Path) -> dict[str, Any]:
    """What a session of a user who is not root is told when it locks the clocks; then it ends."""
    shutil.copy(FILE, folder)
    (folder / "agent").mkdir()
    (folder / "agent").chmod(0o777)
    boards.open_to_all(board)
    words = [str(boards.PYTHON), str(folder / FILE.name), "--folder", str(folder / "agent")]
    request = json.dumps({"id": 1, "request": "lock"})
    done = subprocess.run(
        [*words, "--sysroot", str(board.root)], input=request + "\n", env=board.env, capture_output=True, text=True,
        check=True, user=NOBODY if os.geteuid() == 0 else None,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_without_permission_nothing_is_changed_and_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", root_needed=True)
    before = board.snapshot()
    for silently in (False, True):
        board.change(refuses_silently=silently)
        (tmp_path / str(silently)).mkdir()
        told = _as_a_user(board, tmp_path / str(silently))
        assert not told["locked"] and "no permission on the board" in told["why"]
        assert "/etc/sudoers.d/" in told["remedy"]
        assert board.snapshot() == before


def test_clocks_are_locked_and_put_back_by_sudo(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board", root_needed=True, sudo=True)
    board.change(refuses_silently=True)
    before = board.snapshot()
    for path in (board.root, *board.root.rglob("*")):
        path.chmod(0o777)  # the fakes write as who they are
    told = _as_a_user(board, tmp_path)
    assert told["locked"] and told["seen"]["power_mode"] == "MAXN"
    assert board.snapshot() == before and ["nvpmodel", "-m", "0"] in board.calls()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a program that another user can't kill")
def test_a_program_of_root_s_that_hangs_does_not_hang_the_agent(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    boards.open_to_all(board)
    shutil.copy(FILE, tmp_path)
    sudo = tmp_path / "sudo"
    shutil.copy(boards.PYTHON.resolve(), sudo)
    sudo.chmod(0o4755)
    hang = "import os, time; os.setresuid(0, 0, 0); print(os.getpid(), flush=True); time.sleep(60)"
    code = f"import board; print(board.Machine(program_limit_s=1).run({str(sudo)!r}, '-S', '-c', {hang!r}))"
    done = subprocess.run(
        [str(boards.PYTHON), "-c", code], cwd=tmp_path, user=NOBODY, capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    left = [pid for pid, words in ssh_boards.commands().items() if words[0] == str(sudo)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    if not left:
        pytest.skip("a program can't become root's here")
    assert "no end after 1 s" in done.stdout, done.stderr


def test_a_board_has_one_session_at_a_time(start: Start) -> None:
    _, first = start()
    assert first.ask("hello")["ok"]
    _, second = start("agx_orin_64g", "--busy-limit", "0.2")
    assert second.process.stdout is not None
    told = json.loads(second.process.stdout.readline())
    assert (told["id"], told["kind"]) == (0, "user") and "another session" in told["reason"]
    assert first.ask("counters")["ok"]


def test_a_reboot_is_left_to_the_user(start: Start) -> None:
    board, session = start(reboot_modes={"MAXN"})
    before = board.snapshot()
    told = session.ask("lock")
    assert not told["locked"] and "reboot" in told["why"] and "nvpmodel -m 0" in told["remedy"]
    assert not board.rebooted and board.mode == "30W" and board.pinned
    session.end()
    assert board.snapshot() == before


def test_a_mode_that_the_board_has_not_is_refused_with_those_it_has(start: Start) -> None:
    board, session = start()
    before = board.snapshot()
    told = session.ask("lock", power_mode="MAXQ")
    assert (told["ok"], told["kind"]) == (False, "user")
    assert "MAXN, 15W, 30W, 50W, current" in told["reason"]
    assert board.snapshot() == before


def test_clocks_that_do_not_go_back_are_said_and_stay_in_the_journal(start: Start) -> None:
    board, session = start()
    session.ask("lock", power_mode="current")
    board.change(not_restored=["min_freq"], restores_silently=True)
    assert "min_freq" in session.ask("unlock")["problems"][0]
    board.change(not_restored=[])
    session.end()
    assert not board.pinned  # the end tries once more


def test_a_file_arrives_in_pieces_and_goes_on_where_it_stopped(start: Start) -> None:
    _, session = start()
    content = os.urandom(3000)
    digest = hashlib.sha256(content).hexdigest()

    def put(offset: int, data: bytes) -> dict[str, Any]:
        encoded = base64.b64encode(data).decode()
        return session.ask("put", sha256=digest, bytes=len(content), offset=offset, data=encoded)

    files = [{"name": "tokens_64.onnx", "sha256": digest}]
    assert put(0, content[:1000])["have"] == 1000
    assert session.ask("engine", files=files, options=OPTIONS)["missing"] == {digest: 1000}
    assert put(2000, content[2000:])["have"] == 1000  # not what comes next: nothing was taken
    assert not put(1000, b"\0" * 2000)["ok"]  # whole and wrong: to be sent anew
    assert session.ask("engine", files=files, options=OPTIONS)["missing"] == {digest: 0}
    assert put(0, content)["complete"]
    assert session.ask("engine", files=files, options=OPTIONS)["missing"] == {}


def test_an_engine_is_built_once_and_the_model_is_not_kept(start: Start) -> None:
    board, session = start()
    boards.write(session.folder / "work/tokens_64.onnx", "left by a session that was killed")
    files = session.put("tokens_64.onnx", b"graph")
    first = session.ask("build", files=files, options=OPTIONS)
    assert first["ok"] and first["engine_mib"] > 0
    engine = session.folder / "engines" / f"{first['engine']}.engine"
    written = engine.stat().st_mtime_ns
    assert session.ask("build", files=files, options=OPTIONS)["engine"] == first["engine"]
    assert engine.stat().st_mtime_ns == written
    assert session.ask("engine", files=files, options=OPTIONS)["built"]
    assert not any((session.folder / "models").iterdir())
    other = session.ask("engine", files=files, options=OPTIONS | {"precision": "fp16"})
    assert not other["built"]
    session.ask("lock")  # another power mode: other kernels would be the fastest
    assert not session.ask("engine", files=files, options=OPTIONS)["built"]
    assert board.mode == "MAXN"


@pytest.mark.parametrize(
    ("kind", "version", "options", "build", "time"),
    [
        ("tx2", "8.2", {}, "--workspace=512 --buildOnly --noTF32", "--useSpinWait --noDataTransfers --useCudaGraph"),
        (
            "agx_orin_64g",
            "10.3",
            {"precision": "fp16", "float32_layers": ["a", "b"]},
            "--memPoolSize=workspace:512 --skipInference --noTF32 --fp16 --precisionConstraints=obey "
            "--layerPrecisions=a:fp32,b:fp32",
            "--useSpinWait --noDataTransfers --useCudaGraph",
        ),
        (
            "agx_orin_64g",
            "11.0",
            {"precision": "fp16", "typed": True},
            "--memPoolSize=workspace:512 --skipInference --noTF32",
            "--useCudaGraph",
        ),
    ],
)
def test_each_version_gets_its_flags(
    start: Start, kind: str, version: str, options: dict[str, Any], build: str, time: str
) -> None:
    _, session = start(kind, FAKE_TRT_VERSION=version)
    engine = session.engine(**options)
    assert _last_flags(session).endswith(build)
    told = session.ask("time", engine=engine, warm_up_ms=300, count=25)
    assert len(told["ms"]) == 25
    assert all(abs(ms - 2.28) < 0.1 for ms in told["ms"])  # a forward of 8.2's warm-up takes three times as long
    assert _last_flags(session).endswith(f"--warmUp=300 --duration=0 --iterations=25 --avgRuns=10 {time}")


def test_weights_beside_a_graph_stay_for_the_next_one(start: Start) -> None:
    _, session = start()
    weights = session.put("weights.data", b"weights")
    for name in ("tokens_64.onnx", "tokens_32.onnx"):
        files = session.put(name, name.encode()) + weights
        assert session.ask("build", files=files, options=OPTIONS)["ok"]
        assert [path.name for path in (session.folder / "models").iterdir()] == [weights[0]["sha256"]]


@pytest.mark.parametrize("damage", [b"", b"half of an engine"])
def test_an_engine_that_does_not_run_is_removed_once_to_be_built_again(start: Start, damage: bytes) -> None:
    _, session = start()
    key = session.engine()
    session.end()
    engine = session.folder / f"engines/{key}.engine"
    engine.write_bytes(damage)
    _, session = start()
    assert session.ask("time", engine=key, warm_up_ms=200, count=3)["kind"] == "no engine"
    assert not engine.exists() and session.engine() == key
    engine.write_bytes(damage)  # one of this session: it is no use to build it again and again
    assert session.ask("time", engine=key, warm_up_ms=200, count=3)["kind"] == "work"


def test_what_a_build_can_not_have_is_said(start: Start) -> None:
    _, session = start("tx2")
    files = session.put("tokens_64.onnx", b"graph")
    wanted = OPTIONS | {"precision": "fp16", "float32_layers": ["norm"]}
    assert "can't hold single layers in fp32" in session.ask("build", files=files, options=wanted)["notes"][0]
    told = session.ask("engine", files=files, options=OPTIONS | {"precision": "int8"})
    assert told["kind"] == "user" and "has no int8" in told["reason"]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("FAKE_TRT_CRASH", "tokens_32", "signal 11"), ("FAKE_TRT_OUT_OF_MEMORY", "tokens_32", "out of memory")],
)
def test_a_build_that_fails_is_an_answer_and_others_go_on(start: Start, name: str, value: str, reason: str) -> None:
    _, session = start(**{name: value})
    told = session.ask("build", files=session.put("tokens_32.onnx", b"graph"), options=OPTIONS)
    assert (told["ok"], told["kind"]) == (False, "work")
    assert reason in told["reason"] and "RUNNING TensorRT.trtexec" in told["log"][0]
    assert session.ask("time", engine=session.engine(), warm_up_ms=200, count=3)["ok"]


def test_a_build_is_not_begun_without_memory_for_it(start: Start) -> None:
    board, session = start()
    boards.write(board.root / "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable:  100000 kB")
    told = session.ask("build", files=session.put("tokens_32.onnx", b"graph"), options=OPTIONS)
    assert told["kind"] == "board" and "97 MiB are available" in told["reason"]
    assert not (session.folder / "trtexec.log").exists()


def test_a_model_that_the_disk_has_no_room_for_is_refused(start: Start) -> None:
    _, session = start()
    told = session.ask("put", sha256="0" * 64, bytes=10**15, offset=0, data="AAAA")
    assert told["kind"] == "board" and "make room" in told["reason"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_disk_that_runs_full_is_an_answer(start: Start, tmp_path: Path) -> None:
    small = tmp_path / "agent"
    small.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(small)]
    if subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        board, session = start()
        before, files = board.snapshot(), session.put("tokens_32.onnx", b"graph")
        session.ask("lock")
        (small / "other").write_bytes(b"\0" * (15 << 20))
        told = session.ask("build", files=files, options=OPTIONS)
        assert not told["ok"] and "32 MiB of the board's disk" in told["reason"]
        (small / "other").unlink()
        assert session.ask("time", engine=session.engine(), warm_up_ms=200, count=3)["ok"]
        with contextlib.suppress(OSError), open(small / "other", "wb") as other:
            while True:
                other.write(b"\0" * 4096)
        session.end()
        assert board.snapshot() == before  # also without a byte for the journal
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_counters_tell_what_held_the_board_back(start: Start) -> None:
    board, session = start()
    engine = session.engine()
    boards.write(board.path("/sys/class/hwmon/hwmon0/oc2_event_cnt"), 7)
    boards.write(board.path("/sys/class/thermal/cooling_device2/cur_state"), 1)
    boards.write(board.path("/sys/class/thermal/cooling_device0/cur_state"), 3)  # a fan
    told = session.ask("time", engine=engine, warm_up_ms=200, count=3)
    assert told["before"]["counts"]["over-current (oc2)"] == 7
    assert told["after"]["active"] == ["heat (gpu-throttle-alert)"]
    assert told["after"]["power_mw"] == {"VDD_GPU_SOC": 4560, "VDD_CPU_CV": 1520, "VIN_SYS_5V0": 4500}
    assert not [call for call in board.calls() if call[0] == "tegrastats"]  # it would disturb what is timed


def test_a_request_that_makes_no_sense_is_answered_and_the_next_one_too(start: Start) -> None:
    _, session = start()
    assert session.ask("dance")["kind"] == "user"
    assert session.ask("time", engine="../../etc/passwd", warm_up_ms=1, count=1)["kind"] == "user"
    assert not session.ask("time")["ok"]
    assert session.ask("time", engine="0" * 32, warm_up_ms=1, count=1)["kind"] == "no engine"


def test_cleaning_up_leaves_what_is_another_run_s_and_the_lock_that_a_session_waits_for(start: Start) -> None:
    board, session = start()
    before = board.snapshot()
    session.ask("lock")
    mine, other = session.engine(), session.engine("tokens_32.onnx")
    _, waiting = start()
    assert session.ask("cleanup", engines=[mine])["problems"] == []
    assert session.ask("bye")["ok"]
    session.process.wait(20)
    assert board.snapshot() == before
    assert waiting.ask("hello")["ok"]
    _, third = start("agx_orin_64g", "--busy-limit", "0.2")
    assert third.process.stdout is not None
    assert "another session" in third.process.stdout.readline().decode()
    assert [path.stem for path in (session.folder / "engines").glob("*.engine")] == [other]
    waiting.ask("cleanup", engines=[other])
    assert [path.name for path in session.folder.iterdir()] == ["agent.lock"]


def _trtexec(board: boards.Board) -> list[int]:
    return [pid for pid, words in ssh_boards.commands().items() if str(board.bin / "trtexec") in words]


def _last_flags(session: Session) -> str:
    return (session.folder / "trtexec.log").read_text(encoding="utf-8").splitlines()[0]


def _kills_its_parent(board: boards.Board, name: str) -> None:
    """The program does once what it shall, and then whoever called it is gone."""
    real = board.bin / f"{name}.real"
    (board.bin / name).rename(real)
    setting = '[ "$1" = -m ]' if name == "nvpmodel" else "[ $# = 0 ]"
    script = f'#!/bin/sh\n"{real}" "$@"\nif {setting}; then mv "{real}" "$0"; kill -9 $PPID; fi\n'
    (board.bin / name).write_text(script, encoding="utf-8")
    (board.bin / name).chmod(0o755)
