"""What keeps a device busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pomt_edge.machine.load import multiply, spinning_cpus
from pomt_edge.targets.local import LocalTarget

ROOT = Path(__file__).parents[2]
SPINNING = """
import time
from pomt_edge.machine.load import spinning_cpus
with spinning_cpus() as processes:
    print(*(each.pid for each in processes), flush=True)
    time.sleep(60)
"""


def children() -> dict[int, set[int]]:
    """The processes that this one has started, and the processors that each may use."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found[int(folder.name)] = os.sched_getaffinity(int(folder.name))
        except OSError:
            continue
    return found


def spinning(before: dict[int, set[int]]) -> list[set[int]]:
    return sorted(cpus for process, cpus in children().items() if process not in before)


def test_every_processor_has_one_that_spins_until_the_end() -> None:
    each = [{cpu} for cpu in sorted(os.sched_getaffinity(0))]
    before = children()
    with spinning_cpus():
        assert sorted(spinning(before), key=min) == each
    assert spinning(before) == []


def test_the_spinning_ends_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", SPINNING], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert pids and all(_runs(pid) for pid in pids)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_model_on_the_processors_is_not_the_only_load_there(device: str) -> None:
    before = children()
    seen: list[int] = []

    class Session:
        def time_ms(self, count: int) -> list[float]:
            seen.append(len(spinning(before)))
            time.sleep(0.02)
            return [20.0] * count

    sessions: Any = {197: Session()}
    target = LocalTarget(sessions.__getitem__, device, 197)
    target.warm_up()
    assert seen == [0], "the model is loaded and has run before the load"
    target.load(0.1)
    assert len(seen) > 2 and set(seen[1:]) == {len(os.sched_getaffinity(0)) if device == "cpu" else 0}


def test_a_gpu_is_busy_for_the_whole_time_however_long_it_took_to_start() -> None:
    products = []

    def zeros(*shape: int, device: str) -> torch.Tensor:
        time.sleep(0.3)  # the context and the libraries
        return torch.zeros(1, 1)

    def mm(left: torch.Tensor, right: torch.Tensor) -> None:
        products.append(time.monotonic())
        time.sleep(0.005)

    multiply(SimpleNamespace(zeros=zeros, mm=mm, cuda=SimpleNamespace(synchronize=lambda device: None)), "cuda:0", 0.2)
    assert products[-1] - products[0] > 0.15
