"""What the commands share: exit codes, paths as typed, one line for what went wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from pomt_edge import __version__
from pomt_edge.errors import UserError

NEGATIVE = 1
"""The command did its work and the answer is no: limits out of reach, a regression, something missing."""
USAGE_ERROR = 2
NO_ENGINE = 3
"""What was asked for can't run here; what can be prepared for it is."""
UNEXPECTED = 70
"""EX_SOFTWARE of sysexits.h: never to be taken for an answer."""
INTERRUPTED = 130


def guarded(command: Callable[[], Any], name: str) -> int:
    """Run a command; what goes wrong becomes one line on standard error and an exit code, never a traceback."""
    debug = bool(os.environ.get("POMT_EDGE_DEBUG"))
    try:
        return int(command() or 0)
    except UserError as error:
        return fail(str(error), USAGE_ERROR)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        if hasattr(error, "format_message"):  # typer's own: an unknown option, a value of a wrong type
            typed = getattr(getattr(error, "ctx", None), "command_path", None) or name
            return fail(f"{_given(error)}{error.format_message()} (see {typed} --help)", USAGE_ERROR)
        return fail(_unexpected(error), UNEXPECTED)


def fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _given(error: Any) -> str:
    """The option and the value that typer's message leaves out, as typed."""
    words = sys.argv[1:]
    names = [name for name in getattr(getattr(error, "param", None), "opts", []) if name in words]
    return "".join(" ".join(words[words.index(name) :][:2]) + ": " for name in names[:1])


def _unexpected(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return "out of memory: try a smaller --bs, a smaller model, or fewer --images"
    return f"unexpected {type(error).__name__}: {text[:300]} (set POMT_EDGE_DEBUG=1 to see where)"


def end_as_interrupted() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does: a lost connection must put the clocks back too."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) != signal.SIG_IGN:
            signal.signal(ending, signal.default_int_handler)


def path(text: str) -> Path:
    """A path as typed; an empty one, such as an unset shell variable's, is not taken for the current folder."""
    if not text:
        raise typer.BadParameter("the path is empty")
    return Path(text).expanduser()


def show_version(value: bool) -> None:
    if value:
        print(f"pomt-edge {__version__}")
        raise typer.Exit
