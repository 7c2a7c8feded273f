"""One connection to the agent on a board: the system's ssh, the agent's code sent ahead, then JSON lines."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomt_edge.agent import board as agent
from pomt_edge.errors import UserError

END_S = 60.0
"""The agent puts the clocks back before it ends."""
ADDRESS = re.compile(
    r"ssh://(?:(?P<user>[^@:/\s]+)@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^-@:/\[\]\s][^@:/\[\]\s]*)(?::(?P<port>\d+))?/?"
)
OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ConnectTimeout=15",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    # A master that stays behind would keep our pipes open; with the user's own nobody notices a silent connection.
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
)
START = """
import os, sys
folder, size = os.path.abspath(os.path.expanduser(sys.argv[1])), int(sys.argv[2])
os.makedirs(folder, mode=0o700, exist_ok=True)
file = os.path.join(folder, "board.py")
with open(file + ".%d" % os.getpid(), "wb") as out:
    while size:
        chunk = os.read(0, min(size, 65536))
        size -= len(chunk) or sys.exit("the connection was cut")
        out.write(chunk)
os.replace(out.name, file)
os.execv(sys.executable, [sys.executable, file, "--folder", folder] + sys.argv[3:])
"""
"""Runs on the board: keeps the agent's code, which comes first on standard input, and becomes the agent."""


class Lost(Exception):  # noqa: N818 - it says what happened
    """The connection is gone, which may be otherwise at the next try."""


@dataclass(frozen=True)
class Address:
    """Where a board is; what is not given is the user's ssh configuration's to say."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Of ssh://[USER@]HOST[:PORT].

        Raises:
            UserError: anything else.
        """
        found = ADDRESS.fullmatch(text)
        if found is None or not 0 < int(found["port"] or 22) < 65536:
            raise UserError(
                f"'{text}' is no address of a board; expected ssh://USER@HOST, such as ssh://nvidia@orin:22"
            )
        return cls(found["host"].strip("[]"), found["user"], int(found["port"]) if found["port"] else None)

    @property
    def words(self) -> list[str]:
        """What ssh is told."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, "--", f"{self.user}@{self.host}" if self.user else self.host]

    @property
    def by_hand(self) -> str:
        """What a user types to get there."""
        return shlex.join(["ssh", *(word for word in self.words if word != "--")])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{f'{self.user}@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


@functools.cache
def agent_code() -> bytes:
    return Path(agent.__file__).read_bytes()


class Link:
    """A running agent on the board.

    Raises, in all methods:
        Lost: no connection, or no more.
        UserError: one that can't be without the user's doing.
    """

    def __init__(
        self, address: Address, ssh_config: Path | None, folder: str, options: Sequence[str], alive_every_s: float
    ) -> None:
        """`folder`, `options`: of the agent, which gets a sign of life so often."""
        self._address = address
        self._alive_every_s = alive_every_s
        self._number = 0
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads fills up
        # In one line: csh, as a login shell, takes no other.
        start = ["python3", "-c", f"exec({START!r})", folder, str(len(agent_code())), *options]
        config = ["-F", str(ssh_config)] if ssh_config else []
        settings = [word for option in OPTIONS for word in ("-o", option)]
        try:
            self._ssh = subprocess.Popen(
                ["ssh", "-T", *config, *settings, *address.words, shlex.join(start)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                # Ctrl-C is for us: the agent shall first put the clocks back.
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"ssh can't be run ({error.strerror}): install OpenSSH's client") from error
        threading.Thread(target=self._show_life, daemon=True).start()
        self._write(agent_code())

    def ask(self, request: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
        """The agent's answer; `tell` gets what it says of its progress before."""
        self._number += 1
        try:
            self._write(json.dumps({"id": self._number, **request}).encode() + b"\n")
            for answer in self._answers():
                if answer["id"] == 0:
                    raise UserError(f"{self._address}: {answer.get('reason')}")
                if answer["id"] != self._number:
                    continue
                if "progress" not in answer:
                    return answer
                tell(answer["progress"])
            raise self._gone()
        except BaseException:
            self.close(0)
            raise

    def close(self, seconds: float = END_S) -> None:
        """Let the agent end, which sees the end of its input; ssh is killed after so many seconds."""
        self._over.set()
        if not seconds:
            self._ssh.kill()  # first: closing a pipe that is full would wait for it
        with contextlib.suppress(OSError):
            self._pipe.close()
        try:
            self._ssh.wait(seconds or None)
        except subprocess.TimeoutExpired:
            self._ssh.kill()
            self._ssh.wait()
        if self._ssh.stdout:
            self._ssh.stdout.close()

    @property
    def _pipe(self) -> Any:
        return self._ssh.stdin

    def _write(self, content: bytes) -> None:
        try:
            with self._writing:
                self._pipe.write(content)
                self._pipe.flush()
        except (OSError, ValueError) as error:
            raise self._gone() from error

    def _answers(self) -> Iterator[dict[str, Any]]:
        """Lines of ours; a login shell may print others."""
        assert self._ssh.stdout is not None
        for line in self._ssh.stdout:
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict) and isinstance(answer.get("id"), int):
                    yield answer

    def _show_life(self) -> None:
        with contextlib.suppress(Lost, UserError):
            while not self._over.wait(self._alive_every_s):
                self._write(b"\n")

    def _gone(self) -> Exception:
        """Why there is no connection."""
        self._over.set()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ssh.wait(END_S)
        size = os.fstat(self._errors.fileno()).st_size
        text = os.pread(self._errors.fileno(), size, 0).decode(errors="replace")
        return reason(self._address, text, self._ssh.poll())


def reason(address: Address, text: str, status: int | None) -> Exception:
    """What the agent's last words mean, or ssh's own: UserError where a further try is no use, else Lost."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else f"ssh ended with status {status}"
    if status == 127:
        return UserError(f"{address}: the board has no python3 ({last}); type there: sudo apt install python3")
    if status is not None and 0 < status < 128 and lines:
        return UserError(f"{address}: the agent on the board failed ({last})")
    return _refusal(address, text) or Lost(last)


def _refusal(address: Address, text: str) -> UserError | None:
    """What ssh does not let us do until the user has done something."""
    first = f"type once: {address.by_hand}"
    if "HOST IDENTIFICATION HAS CHANGED" in text:
        known = f"[{address.host}]:{address.port}" if address.port not in (None, 22) else address.host
        return UserError(
            f"{address}: its host key is not the one that is known, so it may be another machine; if the board was set "
            f"up anew, type: ssh-keygen -R {shlex.quote(known)}, then once: {address.by_hand}"
        )
    if "Host key verification failed" in text or "host key is known for" in text:
        return UserError(
            f"{address}: its host key is not known here; {first}, and accept the key after comparing it with "
            "'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub' on the board"
        )
    if "Permission denied (" in text:
        copy = address.by_hand.replace("ssh", "ssh-copy-id", 1)
        return UserError(f"{address}: no login without a password; type once: {copy} (or load the key: ssh-add)")
    return None
