"""What a user is meant to read when a command stops early."""


class UserError(ValueError):
    """What was given, what was expected and what to type next, in one line; the command exits with 2."""


class Unfit(UserError):  # noqa: N818 - it says what it is
    """A method that this model can't be reduced by, while others may do."""


class Unavailable(UserError):  # noqa: N818 - it says what it is
    """An engine that is not here, or no GPU that it runs on; deploy then writes the bundle and exits with 3."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the midst of measuring; the message says how to go on."""
