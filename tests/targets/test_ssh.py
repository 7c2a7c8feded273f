"""Boards over a real SSH connection to this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boards
import pytest
import ssh_boards
from ssh_boards import SshBoard, until

from pomt_edge.engines import Setting
from pomt_edge.errors import PointFailed, Reconnected, UserError
from pomt_edge.measure.clocks import LOCKED, NOT_LOCKED
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.measure.sweep import Grid, Sweep
from pomt_edge.measure.timing import StopRule
from pomt_edge.starting import start
from pomt_edge.targets._ssh_link import Address, reason
from pomt_edge.targets.ssh import SshTarget

pytestmark = pytest.mark.skipif(bool(ssh_boards.MISSING), reason=ssh_boards.MISSING)

FULL = 197
WEIGHTS = os.urandom(2_500_000)
"""The same for all counts; they take several pieces."""


class Notes(Silent):
    """What the user is told; `then` is done at so many points."""

    def __init__(self, at: int = 0, then: Callable[[], None] | None = None) -> None:
        self.notes: list[str] = []
        self._left = at
        self._then = then

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, detail: str = "") -> None:
        self._left -= 1
        if self._left == 0 and self._then:
            self._then()


Serve = Callable[..., SshBoard]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    served = []

    def begin(kind: str = "agx_orin_64g", **environment: str) -> SshBoard:
        served.append(ssh_boards.serve(kind, tmp_path, **environment))
        return served[-1].__enter__()

    yield begin
    for one in served:
        one.__exit__(None, None, None)


def target(board: SshBoard, progress: Notes | None = None, **options: Any) -> SshTarget:
    folder = board.config.parent / "models"
    folder.mkdir(exist_ok=True)

    def model(tokens: int) -> Path:
        path = folder / f"tokens_{tokens}.onnx"
        path.write_bytes(str(tokens).encode() * 100)
        path.with_name(f"{path.name}.data").write_bytes(WEIGHTS)
        return path

    given = {"ssh_config": board.config, "folder": str(board.folder), "sysroot": str(board.board.root)} | options
    return SshTarget(board.address, model, FULL, progress=progress or Notes(), **given)


def of_fake(tokens: int) -> float:
    """The milliseconds of the fake trtexec's forward."""
    return 1 + 1.28 * math.ceil(tokens / 64)


@pytest.mark.parametrize("kind", ssh_boards.TENSORRT)
def test_a_sweep_survives_a_cut_and_leaves_the_board_as_it_was(serve: Serve, tmp_path: Path, kind: str) -> None:
    board = serve(kind)
    before = board.board.snapshot()
    progress = Notes(at=6, then=board.cut)  # after the three builds, at the third block
    with target(board, progress) as measured:
        state = measured.begin()
        assert state.state == LOCKED, state
        assert state.seen["power_mode"] == "MAXN" and state.before["power_mode"] != "MAXN"
        assert measured.describe()["power_mode"] == "MAXN"
        assert measured.describe()["tensorrt"].startswith(ssh_boards.TENSORRT[kind])
        assert measured.prepare([FULL, 192], Silent()) == {}
        weights = list((board.folder / "models").iterdir())
        assert len(weights) == 1
        sent = weights[0].stat().st_mtime_ns
        grid = Grid((FULL, 192, 128), rule=StopRule(least_blocks=1, most_blocks=1))
        journal = Journal(tmp_path / "run", {})
        curve = Sweep(grid, measured, journal, progress).run()
        segments = [entry["segment"] for entry in journal.entries if "ms" in entry]
        assert len(set(segments)) == 2 and segments == sorted(segments)
        assert weights[0].stat().st_mtime_ns == sent  # those of 128 tokens are the same, and were not sent again
        assert board.board.pinned  # locked again after the cut
        measured.end()
        assert board.board.snapshot() == before
        measured.cleanup()
    assert [point.median_ms for point in curve.points] == pytest.approx(
        [of_fake(n) for n in (FULL, 192, 128)], rel=0.02
    )
    assert "over-current (oc1)" in curve.steadiness.counters
    assert "connection lost" in progress.notes[0]
    assert sorted(path.name for path in board.folder.iterdir()) == ["agent.lock", "board.py"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reboot_modes": ["MAXN"]}, r"power mode was 'MAXN', is '30W' now \(.*must reboot for MAXN"),
        ({"enforced": False}, r"clocks was 'locked', is 'not locked' now \(GPU clock: asked for 1300 MHz"),
    ],
)
def test_a_board_that_comes_back_in_another_state_ends_the_run(
    serve: Serve, change: dict[str, Any], words: str
) -> None:
    board = serve()
    with target(board) as measured:
        assert measured.begin().state == LOCKED
        board.board.change(**change)
        board.cut()
        with pytest.raises(UserError, match=f"came back in another state: {words}") as caught:
            measured.time_ms(FULL, 3)
        assert "the same command goes on" in str(caught.value) and "\n" not in str(caught.value)


class Proxy:
    """To a port; `swallow` has all connections that are there now go silent, as where the network is gone."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def swallow(self) -> None:
        self._silent |= {end for pair in self._pairs for end in pair}

    def close(self) -> None:
        self._listening.close()
        for pair in self._pairs:
            for end in pair:
                end.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._pairs.append((near, far))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    sink.sendall(data)
            if source not in self._silent:
                sink.shutdown(socket.SHUT_WR)


def test_a_session_that_does_not_know_yet_that_it_was_cut_off_is_waited_for(serve: Serve) -> None:
    board = serve()
    port = int(board.address.rpartition(":")[2])
    proxy = Proxy(port)
    known = board.config.parent / "known_hosts"
    board.known_host(known.read_text(encoding="utf-8").replace(f":{port} ", f":{proxy.port} "))
    through = dataclasses.replace(board, address=f"ssh://127.0.0.1:{proxy.port}")
    with target(through, progress := Notes(), lost_after_s=1.5) as measured:
        assert measured.begin().state == LOCKED
        (first,) = board.agents()
        proxy.swallow()
        for pid, words in ssh_boards.commands().items():
            if words[0] == "ssh" and str(proxy.port) in words:
                os.kill(pid, signal.SIGKILL)  # our ssh has noticed
        with pytest.raises(Reconnected):
            measured.time_ms(FULL, 3)
        assert len(measured.time_ms(FULL, 3)) == 3
        assert board.agents() != [first] and board.board.pinned
    assert len(progress.notes) == 1
    proxy.close()


def test_a_board_that_is_gone_is_waited_for_once(serve: Serve) -> None:
    board = serve()
    with target(board, again_after_s=(0,) * 4) as measured:
        measured.begin()
        board.cut()
        os.kill(board.sshd, signal.SIGKILL)
        os.waitid(os.P_PID, board.sshd, os.WEXITED | os.WNOWAIT)  # its port is free
        tries = []
        with socket.create_server(("127.0.0.1", int(board.address.rpartition(":")[2]))) as gone:

            def answer() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        tries.append(gone.accept()[0].close())

            threading.Thread(target=answer, daemon=True).start()
            with pytest.raises(UserError, match=r"no connection .*the same command goes on when it is back"):
                measured.time_ms(FULL, 3)
            assert len(tries) == 4
            measured.close(finished=True)
            assert len(tries) == 4 + 2  # unlocking and cleaning up


def test_a_master_connection_of_the_user_s_is_not_shared(serve: Serve) -> None:
    """Nobody would notice that it has gone silent."""
    board = serve()
    control = board.config.parent / "master"
    with open(board.config, "a", encoding="utf-8") as config:
        config.write(f"ControlPath {control}\nControlMaster auto\n")
    port = board.address.rpartition(":")[2]
    with subprocess.Popen(["ssh", "-F", str(board.config), "-N", "-p", port, "127.0.0.1"]) as master:
        try:
            until(control.exists)
            connections = len(ssh_boards.children(board.sshd))
            with target(board) as measured:
                measured.describe()
                assert len(ssh_boards.children(board.sshd)) > connections
        finally:
            master.kill()


def test_a_want_of_memory_ends_the_run_and_is_kept_nowhere(serve: Serve) -> None:
    board = serve()
    with target(board) as measured:
        measured.begin()
        boards.write(board.board.path("/proc/meminfo"), "MemTotal: 8000000 kB\nMemAvailable:  100000 kB")
        with pytest.raises(UserError, match="97 MiB are available: end other programs there") as caught:
            measured.prepare([FULL, 192], Silent())
        assert not isinstance(caught.value, PointFailed)
        boards.write(board.board.path("/proc/meminfo"), "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB")
        assert measured.prepare([FULL, 192], Silent()) == {}


def test_engines_that_the_disk_has_no_room_for_are_not_begun(serve: Serve) -> None:
    board = serve()
    with target(board) as measured:
        measured.warm_up()
    (engine,) = (board.folder / "engines").glob("*.engine")
    size = shutil.disk_usage(board.folder).free // 20
    os.truncate(engine, size)  # a file with a hole
    with target(board) as measured:
        measured.warm_up()
        with pytest.raises(UserError, match=r"96 engines of \d+ MiB .*begin anew with --grid-stride (\d+)") as caught:
            measured.prepare(range(FULL, 100, -1), Silent())
    stride = int(str(caught.value).rpartition(" ")[2])
    assert len({*range(FULL, 100, -stride), 101}) + 2 <= 20
    assert len({*range(FULL, 100, -stride + 2), 101}) + 3 > 20  # not for nothing much fewer
    assert len(list((board.folder / "engines").glob("*.engine"))) == 1


@dataclasses.dataclass
class Clocks:
    lock: bool = True
    require_locked: bool = False


def test_engines_are_built_when_the_clocks_are_held_and_another_state_is_not_mixed_in(
    serve: Serve, tmp_path: Path
) -> None:
    board = serve()

    def sweep(clocks: Clocks, progress: Notes, most_blocks: int = 1) -> None:
        grid = Grid((FULL, 192, 128), rule=StopRule(least_blocks=most_blocks, most_blocks=most_blocks))
        setting = Setting(board.address, "fp32", 1, 224)
        with (
            target(board) as measured,
            Journal(tmp_path / str(clocks.lock), {}) as journal,
            contextlib.ExitStack() as locks,
        ):
            what = (clocks, measured, setting, "trt", {}, journal, progress, locks)
            Sweep(grid, measured, journal, progress, lambda: start(*what)).run()

    seen = []
    sweep(Clocks(), Notes(at=2, then=lambda: seen.append((board.board.mode, board.board.pinned))))
    assert seen == [("MAXN", True)]  # when the second was built
    sweep(Clocks(lock=False), Notes())
    release = board.board.path("/etc/nv_tegra_release")
    text = release.read_text(encoding="utf-8")
    release.write_text(text.replace("4.3", "5.0"), encoding="utf-8")
    with pytest.raises(UserError, match=r"l4t was '36.4.3', is '36.5.0' now"):
        sweep(Clocks(lock=False), Notes(), most_blocks=2)
    release.write_text(text, encoding="utf-8")
    subprocess.run([str(board.board.bin / "nvpmodel"), "-m", "1"], env=board.board.env, check=True)
    with pytest.raises(UserError, match=r"power mode was '30W', is '15W' now"):
        sweep(Clocks(lock=False), Notes(), most_blocks=2)


@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        ("nvidia@orin: Permission denied (publickey,password).\n", 255, "ssh-copy-id nvidia@orin"),
        ("PermissionError: [Errno 13] Permission denied: '/home/x'\n", 1, "agent on the board failed (PermissionError"),
        ("/home/x/.bashrc: Permission denied\nclient_loop: send disconnect: Broken pipe\n", 255, "Broken pipe"),
    ],
)
def test_what_ssh_and_what_the_board_says_are_told_apart(text: str, status: int, told: str) -> None:
    assert told in str(reason(Address("orin", "nvidia"), text, status))


def test_points_that_fail_do_not_end_the_others(serve: Serve) -> None:
    board = serve(FAKE_TRT_CRASH="tokens_64", FAKE_TRT_OUT_OF_MEMORY="tokens_65")
    with target(board) as measured:
        failed = measured.prepare([64, 65, 66], Silent())
        assert list(failed) == [64, 65]
        assert "signal 11" in failed[64] and "out of memory" in failed[65]
        with pytest.raises(PointFailed) as caught:
            measured.time_ms(65, 5)
        assert any("OutOfMemory" in line for line in caught.value.log)
        assert measured.time_ms(66, 5) == pytest.approx([of_fake(66)] * 5, rel=0.02)
        assert len(measured.time_ms(66, 1)) == 1


def test_engines_stay_for_the_next_run(serve: Serve) -> None:
    board = serve()
    for _ in range(2):
        with target(board) as measured:
            measured.time_ms(64, 3)
    engines = list((board.folder / "engines").glob("*.engine"))
    assert len(engines) == 1
    with target(board) as measured:
        measured.time_ms(64, 3)
        engines[0].unlink()  # somebody made room
        assert len(measured.time_ms(64, 3)) == 3


def test_an_agent_that_is_killed_in_mid_run_is_started_again(serve: Serve) -> None:
    board = serve()
    before = board.board.snapshot()
    with target(board, progress := Notes()) as measured:
        measured.begin()
        slow = board.board.path("/.fake/slow")
        slow.touch()

        def kill() -> None:
            until(lambda: any(str(board.board.bin / "trtexec") in words for words in ssh_boards.commands().values()))
            slow.unlink()
            for pid in board.agents():
                os.kill(pid, signal.SIGKILL)

        killing = threading.Thread(target=kill)
        killing.start()
        with pytest.raises(Reconnected):
            measured.time_ms(FULL, 5)
        killing.join()
        assert measured.time_ms(FULL, 5) == pytest.approx([of_fake(FULL)] * 5, rel=0.02)
        assert board.board.pinned and "connection lost" in progress.notes[0]
    assert board.board.snapshot() == before


def test_ctrl_c_in_mid_run_puts_the_clocks_back(serve: Serve) -> None:
    board = serve()
    before = board.board.snapshot()
    measured = target(board)
    measured.begin()
    board.board.path("/.fake/slow").touch()
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), measured:
        measured.time_ms(FULL, 5)
    assert board.board.snapshot() == before
    until(lambda: not board.agents())


def test_clocks_that_are_not_enforced_are_seen_under_load(serve: Serve) -> None:
    board = serve()
    board.board.change(enforced=False)
    with target(board) as measured:
        state = measured.begin()
    assert state.state == NOT_LOCKED and "asked for 1300 MHz" in state.why
    with target(board, power_mode="nonsense") as measured, pytest.raises(UserError, match="known: MAXN, 15W"):
        measured.begin()
    assert not board.board.pinned


def test_only_the_board_that_is_known_is_spoken_to(serve: Serve, tmp_path: Path) -> None:
    board = serve()
    port = board.address.rpartition(":")[2]
    known = board.config.parent / "known_hosts"
    with target(board) as measured:
        measured.describe()
    (board.folder / "board.py").unlink()

    board.known_host("")
    with pytest.raises(UserError, match=rf"not known here; type once: ssh -p {port} 127\.0\.0\.1"):
        target(board).describe()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    kind, key, *_ = (tmp_path / "other.pub").read_text(encoding="utf-8").split()
    board.known_host(f"[127.0.0.1]:{port} {kind} {key}\n")
    with pytest.raises(UserError, match=rf"not the one that is known.*ssh-keygen -R '\[127\.0\.0\.1\]:{port}'"):
        target(board).describe()
    assert key in known.read_text(encoding="utf-8")  # and nothing was accepted
    assert not (board.folder / "board.py").exists()


def test_what_a_user_can_mend_is_one_line(serve: Serve, tmp_path: Path) -> None:
    board = serve()
    board.config.write_text(board.config.read_text(encoding="utf-8").replace("/ssh/user\n", "/ssh/host\n"))
    with pytest.raises(UserError, match=r"no login without a password; type once: ssh-copy-id -p") as caught:
        target(board).describe()
    assert "\n" not in str(caught.value)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"no connection \(.*refused.*\); try: ssh -p 1 127\.0\.0\.1"):
        SshTarget("ssh://127.0.0.1:1", lambda tokens: tmp_path, FULL, ssh_config=board.config).describe()
    assert time.monotonic() - began < 60  # a board that never was there is not waited for


def test_a_board_without_trtexec_says_what_to_install(serve: Serve) -> None:
    board = serve()
    (board.board.bin / "trtexec").unlink()
    with target(board) as measured, pytest.raises(UserError, match=r"no trtexec on the board.*apt install"):
        measured.time_ms(FULL, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh://orin", ["--", "orin"]),
        ("ssh://nvidia@Orin-1.local:2222/", ["-p", "2222", "--", "nvidia@Orin-1.local"]),
        ("ssh://[fe80::1]:22", ["-p", "22", "--", "fe80::1"]),
    ],
)
def test_an_address_says_what_ssh_is_told(text: str, words: list[str]) -> None:
    assert Address.parse(text).words == words


@pytest.mark.parametrize(
    "text", ["orin", "ssh://", "ssh://-oProxyCommand=x", "ssh://a:0", "ssh://a:99999", "ssh://a b", "ssh://a/b"]
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(UserError, match="expected ssh://USER@HOST"):
        Address.parse(text)
