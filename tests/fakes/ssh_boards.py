"""A fake Jetson behind a real sshd on a free port of this machine, with keys and a configuration of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boards

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
KEYGEN = shutil.which("ssh-keygen")
MISSING = "" if SSHD and KEYGEN and shutil.which("ssh") else "needs OpenSSH: apt install openssh-server openssh-client"
TENSORRT = {"tx2": "8.2", "agx_orin_64g": "10.3"}
START_S = 10.0


def programs(board: boards.Board) -> None:
    """The rest of what a session finds on the board: trtexec and tegrastats."""
    for name in ("trtexec", "tegrastats"):
        _, _, text = (boards.HERE / "bin" / name).read_text(encoding="utf-8").partition("\n")
        (board.bin / name).write_text(f"#!{boards.PYTHON} -S\n{text}", encoding="utf-8")
        (board.bin / name).chmod(0o755)


@dataclass(frozen=True)
class SshBoard:
    board: boards.Board
    address: str
    config: Path
    """For ssh -F."""
    folder: Path
    """The agent's, on the board."""
    sshd: int

    def cut(self) -> None:
        """Kill what serves the connections, as a network that breaks does."""
        for pid in children(self.sshd):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def agents(self) -> list[int]:
        """The processes of the agent."""
        return [pid for pid, words in commands().items() if str(self.folder / "board.py") in words]

    def known_host(self, line: str) -> None:
        (self.config.parent / "known_hosts").write_text(line, encoding="utf-8")


@contextlib.contextmanager
def serve(kind: str, root: Path, **environment: str) -> Iterator[SshBoard]:
    """A board of a kind, in reach until the end; `environment` is that of its sessions."""
    board = boards.make(kind, root / "board")
    programs(board)
    ssh = root / "ssh"
    ssh.mkdir()
    for name in ("host", "user"):
        subprocess.run([str(KEYGEN), "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / name)], check=True)
    port = _free_port()
    public = (ssh / "host.pub").read_text(encoding="utf-8").split()
    (ssh / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n", encoding="utf-8")
    (ssh / "config").write_text(
        f"UserKnownHostsFile {ssh}/known_hosts\nGlobalKnownHostsFile /dev/null\nIdentityFile {ssh}/user\n"
        "IdentitiesOnly yes\nIdentityAgent none\n",
        encoding="utf-8",
    )
    path = f"{board.bin}:{Path(boards.PYTHON).parent}:/usr/bin:/bin"
    session = {"PATH": path, "FAKE_BOARD": str(board.root), "FAKE_TRT_VERSION": TENSORRT[kind], **environment}
    (ssh / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {ssh}/host\nAuthorizedKeysFile {ssh}/user.pub\n"
        "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin yes\nSetEnv {' '.join(f'{name}={value}' for name, value in session.items())}\n",
        encoding="utf-8",
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself in; the service makes it, else
    with open(ssh / "log", "wb") as log:
        server = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(ssh / "sshd_config")], stderr=log)
    served = SshBoard(board, f"ssh://127.0.0.1:{port}", ssh / "config", root / "agent", server.pid)
    try:
        _wait_for(port, server, ssh / "log")
        yield served
    finally:
        served.cut()
        server.kill()
        server.wait()
        until(lambda: not served.agents())


def until(true: object) -> None:
    """Wait for it."""
    deadline = time.monotonic() + START_S
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def commands() -> dict[int, list[str]]:
    """The words of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return found


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found.append(int(entry.name))
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not start: {log.read_text(errors='replace')}")
