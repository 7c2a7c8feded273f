"""Why a setting can't be changed on this very machine, and the command that helps."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from pomt_edge.machine import board
from pomt_edge.machine.controls.control import Refused
from pomt_edge.machine.system import System


def command(system: System, words: str) -> str:
    """`pomt-edge WORDS` as it must be typed here; by its full path, since sudo does not search a venv's PATH."""
    beside = Path(sys.executable).with_name("pomt-edge")
    program = str(beside) if beside.exists() else "pomt-edge"
    root = "" if system.root == Path("/") else f" --sysroot {shlex.quote(str(system.root))}"
    return f"{shlex.quote(program)} {words}{root}"


def no_permission(system: System, words: str = "clocks lock") -> Refused:
    """The operating system or the driver said no."""
    confined = board.container(system)
    if confined:
        return Refused(f"no permission in this container ({confined})", f"on the host: sudo pomt-edge {words}")
    if os.geteuid() != 0:
        return Refused("no permission (not root)", f"sudo {command(system, words)}")
    return Refused("no permission, not even for root")


def no_such_control(system: System, what: str) -> Refused:
    """The kernel offers no such file."""
    if board.virtual_machine(system):
        return Refused(f"a virtual machine has no {what}", "on the host that runs it: sudo pomt-edge clocks lock")
    confined = board.container(system)
    if confined:
        return Refused(f"this container ({confined}) has no {what}", "on the host: sudo pomt-edge clocks lock")
    return Refused(f"this kernel has no {what}")
