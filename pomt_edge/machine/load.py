"""Keep a device busy for a while, so that its clocks show what they do under load."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

SIDE = 4096
BATCH = 8
SPIN = """
import os, sys
cpu, parent = map(int, sys.argv[1:])
os.sched_setaffinity(0, {cpu})
os.write(1, b".")
while os.getppid() == parent:
    for _ in range(10000): pass
"""


@contextlib.contextmanager
def spinning_cpus() -> Iterator[list[subprocess.Popen[bytes]]]:
    """One process that spins on each processor that this one may use; all run when the body begins."""
    # Sessions of their own: Ctrl-C is for us. Should we be killed, each of them sees it and ends.
    command = [sys.executable, "-I", "-S", "-c", SPIN]
    spinning: list[subprocess.Popen[bytes]] = []
    try:
        for cpu in sorted(os.sched_getaffinity(0)):
            words = [*command, str(cpu), str(os.getpid())]
            spinning.append(subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True))
        for process in spinning:
            if process.stdout is not None:
                process.stdout.read(1)
        yield spinning
    finally:
        for process in spinning:
            process.kill()
            process.communicate()


def torch_with_cuda() -> Any:
    """The module torch, or None where it is missing or finds no GPU."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    return torch if torch.cuda.is_available() else None


def multiply(torch: Any, device: str, seconds: float) -> None:
    """Matrix products on a GPU, for so long from the end of the first: until then libraries are loaded."""
    matrix = torch.zeros(SIDE, SIDE, device=device)
    torch.mm(matrix, matrix)
    torch.cuda.synchronize(device)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for _ in range(BATCH):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize(device)
