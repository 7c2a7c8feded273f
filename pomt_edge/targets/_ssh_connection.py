"""A connection to a board that is made anew when it is lost, with the clocks locked again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pomt_edge.agent import board as agent
from pomt_edge.errors import PointFailed, UserError
from pomt_edge.measure.progress import Progress
from pomt_edge.records import Kept, named
from pomt_edge.targets._ssh_link import Address, Link, Lost

AGAIN_AFTER_S = (0, 1, 2, 5, 10, 20, 40, 60)
"""Long enough in all for a board that boots."""
MOST_LOSSES = 3
"""A request that loses the connection so often is what breaks it, such as a build that takes the board down."""
RESUME = "the same command goes on"
SIGNS_OF_LIFE = 6
"""So many in the time after which the agent counts us as lost: some may be late."""


class Connection:
    """Asks the agent on one board; a request whose connection is lost is repeated on a new one."""

    def __init__(
        self,
        address: Address,
        progress: Progress,
        *,
        ssh_config: Path | None,
        folder: str,
        sysroot: str,
        lost_after_s: float,
        again_after_s: Sequence[float],
    ) -> None:
        """As `SshTarget` takes them."""
        self.address = address
        self.facts: dict[str, Any] = {}
        """What the board is, as it said when it was last connected to; empty before."""
        self.locked: dict[str, Any] = {}
        """What became of locking the clocks, on the last connection that did."""
        self.reconnected = False
        """Set by each new connection after the first; whoever looks resets it."""
        self.progress = progress
        self._ssh_config = ssh_config
        self._folder = folder
        self._sysroot = sysroot
        self._lost_after_s = lost_after_s
        self._again_after_s = again_after_s
        self._link: Link | None = None
        self._lock: dict[str, Any] | None = None
        """The request, where the clocks shall be locked, also on a new connection."""
        self._gone = False
        """The board was waited for in vain."""

    @property
    def holds(self) -> bool:
        """Whether the clocks shall be locked, also on a new connection."""
        return self._lock is not None

    def lock(self, power_mode: str | None) -> None:
        """Lock the clocks now and on each new connection.

        Raises:
            UserError: no such power mode, or no board.
        """
        self._lock = {"request": "lock", "power_mode": power_mode}
        try:
            self.locked = self.done(self._lock, "locking the clocks")
        except UserError:
            self._lock = None
            raise

    def unlock(self) -> None:
        """Put the clocks back; a note where one could not be.

        Raises:
            UserError: no board.
        """
        self._lock = None
        self.note_problems(self.done({"request": "unlock"}, "restoring the clocks"))

    def connect(self) -> Link:
        """The connection, made if there is none.

        Raises:
            UserError: it can't be, or a board that does not do what is asked.
        """
        if self._link is not None:
            return self._link
        again = bool(self.facts)
        why = ""
        for seconds in self._again_after_s if again and not self._gone else (0,):
            time.sleep(seconds)
            try:
                self._link = self._greeted(again)
            except Lost as lost:
                why = str(lost)
                continue
            self.note_problems(self.facts)
            self.reconnected, self._gone = again, False
            return self._link
        self._gone = True
        then = f"{RESUME} when it is back" if again else f"try: {self.address.by_hand}"
        raise UserError(f"{self.address}: no connection ({why}); {then}")

    def _greeted(self, again: bool) -> Link:
        """A new link over which the board has said what it is and has locked its clocks where they shall be."""
        options = ["--sysroot", self._sysroot, "--lost-after", f"{self._lost_after_s:g}"]
        if again:  # where the network was cut the session before does not know it yet
            options += ["--busy-limit", f"{self._lost_after_s + agent.PROGRAM_LIMIT_S:g}"]
        link = Link(self.address, self._ssh_config, self._folder, options, self._lost_after_s / SIGNS_OF_LIFE)
        try:
            self.facts = accepted(self.address, link.ask({"request": "hello"}, self.progress.busy))
            if self._lock is not None:
                self.locked = accepted(self.address, link.ask(self._lock, self.progress.busy))
        except UserError:
            link.close()
            raise
        return link

    def answer(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        """The agent's answer, however it is; on a new connection if that is lost."""
        why = ""
        for _ in range(MOST_LOSSES):
            try:
                return self.connect().ask(request, self.progress.busy)
            except Lost as lost:
                why, self._link = str(lost), None
                self.progress.note(f"{self.address}: connection lost while {what} ({why}); connecting again")
            except BaseException:
                self._link = None  # what was asked may still be under way there
                raise
        raise UserError(f"{self.address}: lost {MOST_LOSSES} times while {what} ({why}); {RESUME} when it stays")

    def done(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        """The answer of an agent that did what was asked."""
        return accepted(self.address, self.answer(request, what))

    def close(self) -> None:
        """End the agent."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def note_problems(self, answer: dict[str, Any]) -> None:
        """Tell what could not be put back."""
        for problem in answer["problems"]:
            self.progress.note(f"{self.address}: not put back: {problem}")


def accepted(address: Address, answer: dict[str, Any], tokens: Kept | None = None) -> dict[str, Any]:
    """The answer, if the agent did what was asked.

    Raises:
        PointFailed: it is about a count, and others may be measured.
        UserError: all other refusals.
    """
    if answer["ok"]:
        return answer
    if answer["kind"] == "board":
        raise UserError(f"{address}: {answer['reason']}; then {RESUME}")
    if tokens is None or answer["kind"] == "user":
        raise UserError(f"{address}: {answer['reason']}")
    raise PointFailed(f"{address}: {named(tokens)}: {answer['reason']}", answer.get("log", ()))
