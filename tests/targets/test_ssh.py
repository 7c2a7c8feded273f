"""Boards over a real SSH connection to this machine."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ssh_boards
from ssh_boards import SshBoard, until

from pomt_edge.errors import PointFailed, UserError
from pomt_edge.measure.clocks import LOCKED, NOT_LOCKED
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.measure.sweep import Grid, Sweep
from pomt_edge.measure.timing import StopRule
from pomt_edge.targets._ssh_link import Address
from pomt_edge.targets.ssh import SshTarget

pytestmark = pytest.mark.skipif(bool(ssh_boards.MISSING), reason=ssh_boards.MISSING)

FULL = 197


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
        if tokens == FULL:  # weights of their own, which take several pieces
            path.with_name(f"{path.name}.data").write_bytes(os.urandom(2_500_000))
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
    progress = Notes(at=3, then=board.cut)
    with target(board, progress) as measured:
        state = measured.begin()
        assert state.state == LOCKED, state
        assert state.seen["power_mode"] == "MAXN" and state.before["power_mode"] != "MAXN"
        assert measured.describe()["power_mode"] == "MAXN"
        assert measured.describe()["tensorrt"].startswith(ssh_boards.TENSORRT[kind])
        assert measured.prepare([FULL, 192], Silent()) == {}
        grid = Grid((FULL, 192, 128), rule=StopRule(least_blocks=1, most_blocks=1))
        curve = Sweep(grid, measured, Journal(tmp_path / "run", {}), progress).run()
        assert board.board.pinned  # locked again after the cut
        measured.end()
        assert board.board.snapshot() == before
        measured.cleanup()
    assert [point.median_ms for point in curve.points] == pytest.approx(
        [of_fake(n) for n in (FULL, 192, 128)], rel=0.02
    )
    assert "over-current (oc1)" in curve.steadiness.counters
    assert "connection lost" in progress.notes[0]
    assert not board.folder.exists()


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
        assert measured.time_ms(FULL, 5) == pytest.approx([of_fake(FULL)] * 5, rel=0.02)
        killing.join()
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
