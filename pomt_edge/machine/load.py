"""Keep a device busy for a while, so that its clocks show what they do under load."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import time
from typing import Any

SIDE = 4096
BATCH = 8


def spin_cpus(seconds: float) -> None:
    """One spinning process on each processor that this one may use."""
    code = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    # Sessions of their own: Ctrl-C is for us, and each of them ends by itself.
    command = [sys.executable, "-I", "-S", "-c", code]
    spinning = [subprocess.Popen(command, start_new_session=True) for _ in os.sched_getaffinity(0)]
    try:
        for process in spinning:
            process.wait()
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def torch_with_cuda() -> Any:
    """The module torch, or None where it is missing or finds no GPU."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")
    return torch if torch.cuda.is_available() else None


def multiply(torch: Any, device: str, seconds: float) -> None:
    """Matrix products on a GPU."""
    until = time.monotonic() + seconds
    matrix = torch.zeros(SIDE, SIDE, device=device)
    while time.monotonic() < until:
        for _ in range(BATCH):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize(device)
