"""What a long measurement tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Stages, one after the other; each of known or growing length."""

    def busy(self, text: str) -> None:
        """Something of unknown length goes on; worth showing on a terminal only."""

    def stage(self, title: str, total: int, done: int = 0) -> None:
        """A stage begins, with `done` of `total` pieces of work already behind it (a resumed run)."""

    def advance(self, detail: str = "") -> None:
        """One more piece of the stage's work is done."""

    def note(self, text: str) -> None:
        """A sentence that the user should read now."""


class Silent:
    """For library use and tests."""

    def busy(self, text: str) -> None: ...

    def stage(self, title: str, total: int, done: int = 0) -> None: ...

    def advance(self, detail: str = "") -> None: ...

    def note(self, text: str) -> None: ...
