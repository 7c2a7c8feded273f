"""Which profile a machine has: a Jetson's board by its device tree and power modes, a GPU by its driver's name.

A file of the user's that is no profile hinders nothing here; `pomt-edge devices` tells of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pomt_edge.machine import board
from pomt_edge.machine.system import System, read
from pomt_edge.profiles.folders import read_all
from pomt_edge.profiles.profile import Board, Profile, bare

PART = re.compile(r"p\d{4}-\d{4}")


def recognise(device_name: str) -> Profile | None:
    """The profile of the device whose driver calls it `device_name`, or None."""
    return next((profile for profile in _own_first() if device_name in profile.recognised_by), None)


def recognise_board(system: System) -> Profile | None:
    """The profile of a Jetson; None on another machine, or a board that no profile or more than one fits."""
    if not board.is_jetson(system):
        return None
    known = [(profile, profile.board) for profile in _own_first() if profile.board is not None]
    parts = set(PART.findall((read(system.path("/proc/device-tree/compatible")) or "").lower()))
    model = board.model_name(system) or ""
    if parts:
        # A module that no profile names is another one, whatever the name it shares.
        fitting = [(profile, marks) for profile, marks in known if parts & set(marks.parts)]
    else:
        fitting = [(profile, marks) for profile, marks in known if marks.models and model.startswith(marks.models)]
    return _told_apart(fitting, {bare(mode.name) for mode in board.power_modes(system)})


def recognise_here(system: System) -> Profile | None:
    """The profile of this machine: of its board, else of its first GPU, else that of any CPU."""
    # Imported here: what is behind them looks profiles up in turn, for a GPU's boost clock.
    from pomt_edge.machine import facts, gpu, nvidia_facts

    if board.is_jetson(system):
        return recognise_board(system)
    device = gpu.handle("cuda:0")
    name = (nvidia_facts.name(device) if device else None) or _by_the_kernel(system)
    if name or nvidia_facts.on_pci(system):
        return recognise(name) if name else None
    named = recognise(facts.cpu_model(system) or "")
    return named or next((each for each in _own_first() if each.kind == "cpu" and not each.recognised_by), None)


def _by_the_kernel(system: System) -> str | None:
    """The first GPU's name where NVML is not installed."""
    files = system.glob("/proc/driver/nvidia/gpus/*/information")
    named = re.search(r"^Model:\s*(.+)$", read(files[0]) or "", re.MULTILINE) if files else None
    return named[1].strip() if named else None


def _told_apart(fitting: Sequence[tuple[Profile, Board]], modes: set[str]) -> Profile | None:
    """Boards that share a name differ in their power modes: AGX Orin 64GB has 50W where the 32GB one has 40W."""
    own = [pair for pair in fitting if pair[0].own]
    left = own or list(fitting)
    if len(left) > 1:
        told = [pair for pair in left if modes & {bare(mode) for mode in pair[1].told_by_modes}]
        left = told or [pair for pair in left if not pair[1].told_by_modes]
    return left[0][0] if len(left) == 1 else None


def _own_first() -> list[Profile]:
    profiles, _ = read_all()
    return sorted(profiles, key=lambda profile: not profile.own)
