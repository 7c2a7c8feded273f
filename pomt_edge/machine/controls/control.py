"""What every setting of a clock offers, and what it says when it can't be set."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

Clocks = dict[str, "float | dict[str, float]"]
"""MHz by the clock's name, such as 'gpu_clock_mhz'; where several have such a clock, by theirs: {'cpu0': 3600.0}."""


class Refused(Exception):  # noqa: N818 - it says what happened
    """A setting that is absent here, can't be read, or did not take what was asked.

    `why` is a clause without a full stop; `remedy` the exact command to run, or empty. `unsupported`: hardware of
    this kind never had it, so that it is no fault of the machine's state.
    """

    def __init__(self, why: str, remedy: str = "", *, unsupported: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy
        self.unsupported = unsupported


class Control(abc.ABC):
    """One kind of setting. All methods raise Refused where it is absent or declines."""

    key: ClassVar[str]
    """Unique; with the unit, such as 'gpu_clock_mhz'."""
    title: ClassVar[str]
    """For sentences and tables, such as 'GPU clock'."""
    atomic: ClassVar[bool] = False
    """What was refused has changed nothing, so that there is nothing to put back."""
    optional: ClassVar[bool] = False
    """Hardware that does not support it is locked all the same."""
    explicit: bool = False
    """The user asked for this very value: another one, locked by somebody else, will not do."""

    def gpu(self) -> str:
        """The UUID of the GPU that this is about; empty for the whole machine."""
        return ""

    @abc.abstractmethod
    def show(self) -> Any:
        """The value now, short, JSON."""

    @abc.abstractmethod
    def wanted(self) -> Any:
        """The value to lock to, as `show` would give it."""

    @abc.abstractmethod
    def save(self) -> Any:
        """All that `restore` needs, JSON."""

    @abc.abstractmethod
    def set(self) -> None:
        """Set what is wanted and read it back."""

    @abc.abstractmethod
    def restore(self, saved: Any) -> None:
        """Put back what `save` gave and read it back; fine to do twice."""

    @abc.abstractmethod
    def by_hand(self, saved: Any) -> str:
        """The command with which a user puts it back."""

    def check(self) -> None:
        """Raise Refused if it is plain before trying that it can't be set here."""
        self.show()
        self.wanted()

    def needless(self) -> bool:
        """Whether it is as wanted already and stays so by itself, so that there is nothing to set or to put back."""
        return False

    def holds(self, wanted: Any) -> bool:
        """Whether it still is what `wanted` once gave, as far as that can be read."""
        return bool(self.show() == wanted)

    def asked_mhz(self) -> Clocks:
        """The clocks that the machine shall run at under load once this is set."""
        return {}

    def seen_mhz(self) -> Clocks:
        """The same clocks as they are at this moment, of all that the load keeps busy."""
        return {}

    def lower(self, seen_mhz: float) -> str:
        """The command that asks for a clock the machine can hold; empty where there is none."""
        return ""
