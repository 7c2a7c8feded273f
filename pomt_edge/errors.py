"""What a user is meant to read when a command stops early."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """What was given, what was expected and what to type next, in one line; the command exits with 2."""


class Unfit(UserError):  # noqa: N818 - it says what it is
    """A method that this model can't be reduced by, while others may do."""


class Unavailable(UserError):  # noqa: N818 - it says what it is
    """An engine that is not here, or no GPU that it runs on; deploy then writes the bundle and exits with 3."""


class PointFailed(UserError):  # noqa: N818 - it says what it is
    """One point that can't be measured, such as an engine whose build runs out of memory; the others may be."""

    def __init__(self, message: str, log: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.log = tuple(log)
        """The end of what the tool that failed had printed."""


class Reconnected(UserError):  # noqa: N818 - it says what happened
    """The device was lost while this was measured and is back, verified to be as before: measure it again."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the midst of measuring; the message says how to go on."""
