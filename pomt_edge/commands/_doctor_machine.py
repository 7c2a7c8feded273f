"""What `doctor` looks at in the machine: the device, its clocks, and what would disturb a measurement."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from pomt_edge import profiles
from pomt_edge.commands._doctor_finding import (
    LEAST_JETPACK,
    OK,
    WARN,
    Check,
    Finding,
    Subject,
    imported,
    pip_install,
    with_extra,
)
from pomt_edge.machine import board, facts, jetson_facts, nvidia_facts
from pomt_edge.machine import system as machine
from pomt_edge.machine.controls import Control, Refused, controls_of, cpu, hints
from pomt_edge.machine.controls.journal import Journal

LEAST_DISK_GB = 5
LEAST_MEMORY_MIB = 2048
"""DeiT-B: 330 MiB of weights, as much again while they are loaded, torch itself and the activations."""
MOST_LOAD = 0.5
"""Load average per CPU from which on a measurement is disturbed."""
SHOW_MEMORY = "ps -eo pid,rss,comm --sort=-rss | head"
SHOW_LOAD = "ps -eo pid,pcpu,comm --sort=-pcpu | head"


def device(subject: Subject) -> Finding:
    name = _device_name(subject)
    profile = profiles.recognise(name) or (profiles.recognise_board(subject.system) if subject.on_gpu else None)
    if profile:
        return Finding(OK, f"{subject.device}: {name} (profile {profile.id})")
    if subject.on_gpu:
        return Finding(WARN, f"{subject.device}: {name}; no profile knows it, it is measured all the same")
    found = f"{subject.device}: {name}, {os.cpu_count()} CPUs (profile cpu)"
    if subject.asked == "auto" and subject.has_nvidia_gpu:
        return Finding(WARN, f"{found}, for torch can't use the NVIDIA GPU that is here")
    return Finding(OK, found)


def host(subject: Subject) -> Finding | None:
    """A virtual machine's processor is shared with guests that nobody here can see."""
    confined, virtual = board.container(subject.system), facts.virtual_machine(subject.system)
    parts = [f"container ({confined})"] if confined else []
    parts += ["a virtual machine" if virtual == "yes" else f"a virtual machine ({virtual})"] if virtual else []
    if not parts:
        return None
    found = " in ".join(parts)
    if virtual and not subject.on_gpu:
        return Finding(WARN, f"{found}: other guests of its host can disturb a measurement")
    return Finding(OK, found)


def nvml(subject: Subject) -> Finding | None:
    if not subject.on_gpu or subject.is_jetson:
        return None
    if machine.nvml() is None:
        _, error = imported("pynvml")
        found = f"pynvml {error}" if error else "pynvml finds no driver"
        remedy = pip_install("nvidia-ml-py>=12.560") if error else None
        return Finding(WARN, f"{found}: neither clocks nor temperature nor processes can be read", remedy)
    if subject.nvidia is None:
        return Finding(WARN, f"does not know {subject.device}")
    return Finding(OK, "answers")


def jetpack(subject: Subject) -> Finding | None:
    if not subject.is_jetson:
        return None
    release = jetson_facts.release(subject.system)
    major = jetson_facts.jetpack_major(subject.system)
    if release is None or major is None:
        return Finding(WARN, "which JetPack this is can't be told: /etc/nv_tegra_release is missing or unknown")
    if major < LEAST_JETPACK:
        found = f"JetPack {major} (L4T {release}): no torch with CUDA exists for its release and Python 3.10"
        return Finding(WARN, f"{found}; flash JetPack {LEAST_JETPACK} or newer if the board takes it")
    return Finding(OK, f"JetPack {major} (L4T {release})")


def jtop(subject: Subject) -> Finding | None:
    """An extra source of facts: without it the board's own files are read."""
    if not subject.is_jetson:
        return None
    answer = jetson_facts.jtop_answer(subject.system)
    error = answer.get("error")
    if error is None:
        return Finding(OK, "the service of jetson-stats answers")
    return Finding(WARN, f"jetson-stats (optional): {error}", _jtop_remedy(error))


def power_mode(subject: Subject) -> Finding | None:
    if not subject.is_jetson:
        return None
    mode = board.current_power_mode(subject.system)
    if mode is None:
        return Finding(WARN, "nvpmodel does not say which power mode is on", "sudo nvpmodel -q")
    others = [each.name for each in board.power_modes(subject.system) if each.name != mode]
    return Finding(OK, f"{mode}" + (f" (others: {', '.join(others)})" if others else ""))


def governor(subject: Subject) -> Finding | None:
    found = facts.governor(subject.system)
    if found is None or subject.is_jetson:  # there jetson_clocks pins the clock whatever the governor
        return None
    boost = {True: ", boost on", False: ", boost off", None: ""}[facts.boost(subject.system)]
    if found == "performance":
        return Finding(OK, f"{found}{boost}")
    if _refusal(cpu.Governor(subject.system)) is None:
        return Finding(OK, f"{found}{boost}; measuring sets 'performance' for its time")
    files = subject.system.path("/sys/devices/system/cpu")
    remedy = f"echo performance | sudo tee {files}/cpu*/cpufreq/scaling_governor"
    return Finding(WARN, f"{found}{boost}: the CPU's clock follows its load", remedy)


def clocks(subject: Subject) -> Finding:
    """By the settings' own account; nothing is tried, for a check must change nothing."""
    settings = controls_of(subject.device, subject.system, None, None, subject.gpu_uuid)
    refused = {setting.title: _refusal(setting) for setting in settings}
    can = [title for title, refusal in refused.items() if refusal is None]
    # What hardware of this kind never had is not missing.
    lacking = {title: refusal for title, refusal in refused.items() if refusal and not refusal.unsupported}
    found = f"can be locked: {', '.join(can)}" if can else "can't be locked"
    if not lacking:
        return Finding(OK if can else WARN, found)
    reasons: dict[str, list[str]] = {}
    for title, refusal in lacking.items():
        reasons.setdefault(refusal.why, []).append(title)
    why = "; ".join(f"{', '.join(titles)}: {reason}" for reason, titles in reasons.items())
    remedy = next((refusal.remedy for refusal in lacking.values() if refusal.remedy), None)
    return Finding(WARN, f"{found}; not {why}" if can else f"{found}: {why}", remedy)


def left_locked(subject: Subject) -> Finding:
    """A run that was killed could not put the clocks back."""
    journal = Journal(subject.system)
    book, owner = journal.book, journal.owner()
    if not book.entries:
        return Finding(OK, "no run has left the clocks locked")
    locked = ", ".join(entry.key for entry in book.entries)
    if owner is not None:
        return Finding(WARN, f"process {owner} holds the clocks now ({locked}): let it end before you measure")
    if book.kept:
        return Finding(OK, f"locked until they are restored by command: {locked}")
    privilege = "" if journal.usable and os.geteuid() == 0 else "sudo "
    remedy = f"{privilege}{hints.command(subject.system, 'clocks restore')}"
    return Finding(WARN, f"an interrupted run left locked: {locked}", remedy)


def gpu_processes(subject: Subject) -> Finding | None:
    others = nvidia_facts.other_processes(subject.nvidia) if subject.nvidia else None
    if others is None:
        return None
    if not others["count"]:
        return Finding(OK, "no other process uses the GPU")
    names = f" ({', '.join(others['names'])})" if "names" in others else ""
    memory = f" with {others['memory_mib']} MiB" if "memory_mib" in others else ""
    return Finding(WARN, f"{others['count']} other on the GPU{memory}{names}: it is timed with them", "nvidia-smi")


def load(subject: Subject) -> Finding | None:
    average = facts.load_average(subject.system)
    if average is None:
        return None
    cpus = os.cpu_count() or 1
    found = f"load average {average[0]:.2f} on {cpus} CPUs"
    if average[0] / cpus > MOST_LOAD:
        return Finding(WARN, f"{found}: other programs would disturb a measurement", SHOW_LOAD)
    return Finding(OK, found)


def memory(subject: Subject) -> Finding | None:
    parts = {"memory": facts.available_memory_mib(subject.system)}
    if subject.nvidia:
        parts["GPU memory"] = nvidia_facts.free_memory_mib(subject.nvidia)
    free = {name: mib for name, mib in parts.items() if mib is not None}
    if not free:
        return None
    found = ", ".join(f"{mib / 1024:.1f} GiB of {name} free" for name, mib in free.items())
    if min(free.values()) < LEAST_MEMORY_MIB:
        remedy = "nvidia-smi" if min(free, key=free.__getitem__) == "GPU memory" else SHOW_MEMORY
        return Finding(WARN, f"{found}; DeiT-B needs about {LEAST_MEMORY_MIB // 1024} GiB", remedy)
    return Finding(OK, found)


def disk(subject: Subject) -> Finding:
    folders = {Path(subject.folder).resolve(), Path(tempfile.gettempdir()).resolve()}
    free = {folder: shutil.disk_usage(folder).free / 1e9 for folder in sorted(folders)}
    found = ", ".join(f"{gigabytes:.1f} GB free in {folder}" for folder, gigabytes in free.items())
    least = min(free, key=free.__getitem__)
    if free[least] < LEAST_DISK_GB:
        return Finding(WARN, found, f"du -xh --max-depth=2 {least} | sort -h | tail")
    return Finding(OK, found)


CHECKS = (
    Check("device", device),
    Check("host", host),
    Check("nvml", nvml),
    Check("jetpack", jetpack),
    Check("jtop", jtop),
    Check("power mode", power_mode),
    Check("governor", governor),
    Check("clocks", clocks),
    Check("left locked", left_locked),
    Check("gpu processes", gpu_processes),
    Check("load", load),
    Check("memory", memory),
    Check("disk", disk),
)


def _device_name(subject: Subject) -> str:
    """By torch where that can be, for the profiles go by its names."""
    if subject.sees_cuda:
        torch, _ = imported("torch")
        return str(torch.cuda.get_device_name(subject.device))
    if subject.on_gpu:
        named = nvidia_facts.name(subject.nvidia) if subject.nvidia else None
        return named or board.model_name(subject.system) or "unknown GPU"
    return facts.cpu_model(subject.system) or platform.machine()


def _refusal(setting: Control) -> Refused | None:
    """Why a setting can't be changed here, or None where it can."""
    try:
        setting.check()
    except Refused as refusal:
        return refusal
    return None


def _jtop_remedy(error: str) -> str:
    """Its service runs as root, outside of virtual environments; both sides need the same version."""
    reach = " --break-system-packages" if Path("/usr/lib/python3.12/EXTERNALLY-MANAGED").exists() else ""
    service = f"sudo pip3 install -U{reach} jetson-stats"
    client = pip_install("-U", with_extra("jetson")) if sys.prefix != sys.base_prefix else ""
    both = f"{service} && {client}" if client else service
    if "ermission" in error:
        return 'sudo usermod -aG jtop "$USER" && newgrp jtop'
    if "does not run" in error or "not active" in error:
        return "sudo systemctl restart jtop.service" if shutil.which("jtop") else both
    return both
