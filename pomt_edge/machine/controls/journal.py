"""What was changed, and how it was before: on disk before it is changed, so that a crash can be undone."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from pomt_edge.errors import UserError
from pomt_edge.machine.system import System, read_number
from pomt_edge.records import Record, RecordError, write_text

NAME = "clocks.json"
LOCK = "clocks.lock"
STORED = "jetson_clocks-"
PROGRAM_S = 20.0
"""A program that a killed owner had started may still be at work for so long; it holds the lock until it ends."""


def folder(system: System) -> Path:
    """Where the journal is: one place for all users where it can be, so that each sees what another left locked."""
    shared = system.path("/var/lib/pomt-edge")
    if os.path.exists(shared / NAME) or _writable(shared):  # Path.exists raises where a folder is closed to us
        return shared
    return platformdirs.user_state_path("pomt-edge") / str(system.root.resolve()).lstrip("/")


def _writable(path: Path) -> bool:
    nearest = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    return os.access(nearest, os.W_OK)


@dataclass(frozen=True)
class Entry(Record):
    """One setting that was, or is about to be, changed."""

    key: str
    gpu: str
    """UUID, or empty."""
    saved: Any
    """What restoring needs."""
    before: Any
    wanted: Any
    asked_mhz: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> tuple[str, str]:
        return self.key, self.gpu


@dataclass(frozen=True)
class Book(Record):
    """The whole file."""

    entries: tuple[Entry, ...]
    pid: int = 0
    """Who wrote it."""
    kept: bool = False
    """Locked to stay so until it is restored by command."""
    schema: int = 1


class Journal:
    """The journal of one machine. Whoever holds its lock, which dies with the process, may change clocks.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, system: System) -> None:
        self.folder = folder(system)
        self.path = self.folder / NAME
        self._lock: int | None = None
        self.book = self._read()

    def acquire(self) -> bool:
        """Become the owner, or return False: another process is, or the folder can't be written."""
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                sync(self.folder.parent)
            lock = self._lock = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return False
        _readable(self.folder, 0o755)
        _readable(self.folder / LOCK, 0o644)
        if not self._taken(lock):
            self._lock = None
            os.close(lock)
            return False
        # Programs inherit it: should we be killed while one runs, the clocks stay ours until it ends.
        os.set_inheritable(lock, True)
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the number in it
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self.book = self._read()
        return True

    def release(self) -> None:
        if self._lock is not None:
            # Unlocked and not only closed: a process that was forked in between has it too.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = None

    def owner(self) -> int | None:
        """The process that holds the lock now; None if nobody does."""
        if self._lock is not None:
            return os.getpid()
        try:
            descriptor = os.open(self.folder / LOCK, os.O_RDONLY)
        except OSError:
            return None
        try:
            return None if _flock(descriptor, fcntl.LOCK_SH) else read_number(self.folder / LOCK) or 0
        finally:
            os.close(descriptor)

    @property
    def usable(self) -> bool:
        """Whether this user can write it."""
        return _writable(self.folder) and (not self.path.exists() or os.access(self.path, os.W_OK))

    def find(self, subject: tuple[str, str]) -> Entry | None:
        return next((entry for entry in self.book.entries if entry.subject == subject), None)

    def put(self, entry: Entry) -> None:
        """Add an entry or replace that of the same setting."""
        old = self.find(entry.subject)
        known = self.book.entries if old else (*self.book.entries, entry)
        entries = tuple(entry if each is old else each for each in known)
        self._write(Book(entries, os.getpid()))

    def drop(self, subject: tuple[str, str]) -> None:
        """It is as it was before."""
        others = tuple(entry for entry in self.book.entries if entry.subject != subject)
        self._write(dataclasses.replace(self.book, entries=others))

    def keep(self) -> None:
        """What is locked stays so when this process ends."""
        self._write(dataclasses.replace(self.book, kept=True))

    def give_up(self) -> None:
        """From now on nothing in it is to stay locked: should we be killed, the next that locks puts it back."""
        self.book = self._read()
        if self.book.kept:
            self._write(dataclasses.replace(self.book, kept=False))

    def tidy(self) -> None:
        """Remove files that no entry speaks of."""
        if not self.book.entries:
            for stored in (*self.folder.glob(f"{STORED}*.conf"), *self.folder.glob(f".{NAME}.*")):
                stored.unlink(missing_ok=True)

    def _taken(self, lock: int) -> bool:
        deadline = time.monotonic() + PROGRAM_S
        while not _flock(lock, fcntl.LOCK_EX):
            if _alive(read_number(self.folder / LOCK)) or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _read(self) -> Book:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.path.stat()
            try:
                book = Book.load(self.path)
                if book.schema > Book.schema:
                    raise RecordError(f"{self.path}: written by a newer pomt-edge (schema {book.schema})")
                return book
            except RecordError as error:
                raise UserError(_damaged(self.path, str(error))) from error
        return Book(entries=())

    def _write(self, book: Book) -> None:
        if book.entries:
            write_text(self.path, book.to_json() + "\n")
            _readable(self.path, 0o644)
        else:
            self.path.unlink(missing_ok=True)
        sync(self.folder)
        self.book = book


def sync(path: Path) -> None:
    """Onto the disk: a file, or a folder, without which a new file's name does not survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _readable(path: Path, mode: int) -> None:
    """To all users, who must see that clocks are locked, whatever the umask of who made it."""
    with contextlib.suppress(OSError):  # another user's
        path.chmod(mode)


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _alive(pid: int | None) -> bool:
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM  # it is there, and another user's
    return True


def _damaged(path: Path, what: str) -> str:
    return (
        f"{what}: which clocks were changed can't be told; set them by hand or reboot, then type: "
        f"sudo rm {shlex.quote(str(path))}"
    )
