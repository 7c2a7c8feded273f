#!/usr/bin/env python3
# Python 3.6 and its standard library alone: JetPack 4 has no other.
# ruff: noqa: UP006, UP035, UP045, N818
"""Times TensorRT engines on this board for pomt-edge: one JSON request per line in, JSON answers out.

    python3 board.py                serves until its input ends
    python3 board.py --restore      puts back clocks that a killed session left changed

Every answer has the `id` of its request and `ok`; one that is not ok has `reason`, and `log`, the end of what trtexec
printed. Lines with `progress` may come before it. Blank lines are signs of life: without any for a while the
connection counts as lost. However a session ends, the clocks go back to what they were: before each change it is on
disk how it was, so that after a kill or a reboot the next start puts it back first.
"""

import argparse
import base64
import contextlib
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import platform
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import uuid
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

PROTOCOL = 1
FOLDER = "~/.cache/pomt-edge-board"
LOST_AFTER_S = 90.0
"""Without a sign of life for so long the connection is lost."""
BUSY_LIMIT_S = 30.0
"""A session that ends has so long to put its clocks back before the next one begins."""
ALIVE_EVERY_S = 10.0
PROGRAM_LIMIT_S = 60.0
BUILD_LIMIT_S = 2 * 3600.0
TIME_LIMIT_S = 600.0
LOG_LINES = 20
MIB = 2.0**20
SPARE_DISK_MIB = 32
SPARE_MEMORY_MIB = 256
LEAST_ITERATIONS = 10
TOLERANCE = 0.02
ADMIN_FOLDERS = ("/usr/sbin", "/sbin")
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"
CPUS = "/sys/devices/system/cpu"
JETSON_GPU = re.compile(r"(?:^|\.)(?:gpu(?:-gpc-\d+)?|g[a-z]1[01]b)$")
BEST_MODES = ("MAXN_SUPER", "MAXN")
HARMLESS = ("fan", "pwm", "hot-surface")
"""Cooling devices that slow nothing down."""
JETPACK_OF_L4T = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
NO_INT8 = re.compile(r"nvidia,tegra(?:186|210)\b")
"""The TX2 and the first Nano: TensorRT computes there in fp32 what was asked for in int8."""
READ_BACK = ("scaling_min_freq", "scaling_max_freq", "min_freq", "max_freq")
"""Files, among those that jetson_clocks stores, that read as they were written."""
SUDO_REFUSES = ("sudo:", "Sorry, user")
OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|cudaErrorMemoryAllocation|bad_alloc|insufficient memory|could not allocate", re.I
)

Facts = Dict[str, Any]


class Failed(Exception):
    """A request that can't be done.

    `kind` is 'user' (what was asked is wrong), 'board' (it can't now, whatever the model), 'no engine', 'damaged' (a
    file that arrived) or 'work' (this one can't).
    """

    def __init__(self, reason: str, kind: str = "work", log: Optional[List[str]] = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind
        self.log = log or []


class Refused(Exception):
    """A clock that can't be set, and the command that helps."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.remedy = remedy


class Ended(Exception):
    """The connection is lost, or we were told to stop."""


# --- Files and programs


def read(path: str) -> Optional[str]:
    """A small file's text, stripped; None if it is absent or can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return None


def read_number(path: str) -> Optional[int]:
    try:
        return int(read(path) or "")
    except ValueError:
        return None


def write_json(path: str, content: Any) -> None:
    """Onto the disk, whole or not at all."""
    partial = path + ".partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync(os.path.dirname(path))


def sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def search_path() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *ADMIN_FOLDERS))


class Machine:
    """This board: its files below a root, its programs."""

    def __init__(self, root: str = "/", program_limit_s: float = PROGRAM_LIMIT_S) -> None:
        self.root = root
        self.program_limit_s = program_limit_s
        self.lock: Optional[int] = None
        """What programs get as their input: while one of a killed session still runs, the board is not ours."""

    def path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))

    def glob(self, pattern: str) -> List[str]:
        return sorted(glob.glob(self.path(pattern)))

    def read(self, path: str) -> Optional[str]:
        return read(self.path(path))

    def has(self, program: str) -> bool:
        return shutil.which(program, path=search_path()) is not None

    def run(self, *command: str) -> Tuple[int, str]:
        """Exit status and output. The input is empty, so that a question of the program is never answered."""
        try:
            process = subprocess.Popen(
                command,
                # The lock's file is empty; as another descriptor sudo would not pass it on.
                stdin=subprocess.DEVNULL if self.lock is None else self.lock,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, LC_ALL="C", PATH=search_path()),
                start_new_session=True,
            )
        except OSError as error:
            return 127, f"{command[0]}: {error.strerror}"
        try:
            output, _ = process.communicate(timeout=self.program_limit_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):  # root's, by sudo: not ours to kill, nor to wait for
                os.killpg(process.pid, signal.SIGKILL)
            return 124, f"{command[0]}: no end after {self.program_limit_s:g} s"
        return process.returncode, output.decode("utf-8", "replace").strip()

    def run_as_root(self, *command: str) -> Tuple[int, str]:
        """By sudo, if that asks for no password: nvpmodel's failure for want of permission may look like success."""
        if os.geteuid() == 0:
            return self.run(*command)
        status, output = self.run("sudo", "-n", *command)
        refused = output.splitlines()[-1] if status != 0 and output else ""
        if not refused.startswith(SUDO_REFUSES):
            return status, output
        status, output = self.run(*command)  # which may be enough
        return status, output + "\n" + refused


# --- What the board tells of itself


def recognised(machine: Machine) -> Facts:
    """Which board this is and what it has; what can't be told is None."""
    release = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", machine.read("/etc/nv_tegra_release") or "")
    uname = platform.uname()
    return {
        "model": machine.read("/proc/device-tree/model"),
        "l4t": "{}.{}".format(*release.groups()) if release else None,
        "jetpack": JETPACK_OF_L4T.get(int(release.group(1))) if release else None,
        "power_mode": power_mode(machine),
        "power_modes": [name for name, _ in power_modes(machine)],
        "memory_mib": memory_mib(machine, "MemTotal"),
        "memory_available_mib": memory_mib(machine, "MemAvailable"),
        "python": platform.python_version(),
        "kernel": uname.release,
        "architecture": uname.machine,
        "power_sensors": sorted(power_mw(machine)),
    }


def memory_mib(machine: Machine, name: str) -> Optional[int]:
    found = re.search(rf"^{name}:\s*(\d+) kB", machine.read("/proc/meminfo") or "", re.M)
    return int(found.group(1)) // 1024 if found else None


def disk_free_mib(folder: str) -> int:
    filesystem = os.statvfs(folder)
    return int(filesystem.f_bavail * filesystem.f_frsize / MIB)


def power_modes(machine: Machine) -> List[Tuple[str, str]]:
    """Names and ids. Ids differ per board and per release, so a mode is known by its name."""
    text = machine.read("/etc/nvpmodel.conf") or ""
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text, re.M)
    return [(name, number) for number, name in found]


def power_mode(machine: Machine) -> Optional[str]:
    for run in (machine.run, machine.run_as_root):
        if machine.has("nvpmodel"):
            named = re.search(r"NV Power Mode\s*:\s*(\S+)", run("nvpmodel", "-q")[1])
            if named:
                return named.group(1)
    return None


def gpu_hz(machine: Machine, name: str) -> Optional[int]:
    folders = [path for path in machine.glob("/sys/class/devfreq/*") if JETSON_GPU.search(os.path.basename(path))]
    return read_number(os.path.join(folders[0], name)) if folders else None


def clocks_mhz(machine: Machine) -> Dict[str, int]:
    found = {"gpu_clock_mhz": gpu_hz(machine, "cur_freq")}
    # scaling_cur_freq may be what was asked for rather than what is; the other may need root.
    for name in ("cpuinfo_cur_freq", "scaling_cur_freq"):
        kilohertz = [read_number(path) for path in machine.glob(CPUS + "/cpu[0-9]*/cpufreq/" + name)]
        known = [number for number in kilohertz if number]
        if known:
            found["cpu_clock_mhz"] = 1000 * max(known)
            break
    return {name: round(hertz / 1e6) for name, hertz in found.items() if hertz}


def counters(machine: Machine) -> Facts:
    """What tells afterwards whether the board was held back, and the power at this moment."""
    counts: Dict[str, int] = {}
    for path in machine.glob("/sys/class/hwmon/hwmon*/oc*_event_cnt"):
        name = "over-current ({})".format(os.path.basename(path).split("_")[0])
        counts[name] = counts.get(name, 0) + (read_number(path) or 0)
    active, watched = [], sorted(counts)
    for folder in machine.glob("/sys/class/thermal/cooling_device*"):
        kind = read(os.path.join(folder, "type")) or os.path.basename(folder)
        if any(harmless in kind.lower() for harmless in HARMLESS):
            continue
        watched += [] if "cooling devices" in watched else ["cooling devices"]
        if (read_number(os.path.join(folder, "cur_state")) or 0) > 0:
            active.append(f"heat ({kind})")
    return {"counts": counts, "active": active, "watched": watched, "power_mw": power_mw(machine)}


def power_mw(machine: Machine) -> Dict[str, int]:
    """Milliwatts of each rail of the board's INA3221 sensors."""
    found = {}
    for name in machine.glob("/sys/class/hwmon/hwmon*/name"):
        if not (read(name) or "").startswith("ina3221"):
            continue
        folder = os.path.dirname(name)
        for label in sorted(glob.glob(os.path.join(folder, "in*_label"))):
            channel = os.path.basename(label)[len("in") : -len("_label")]
            millivolt = read_number(os.path.join(folder, f"in{channel}_input"))
            milliampere = read_number(os.path.join(folder, f"curr{channel}_input"))
            if millivolt is not None and milliampere is not None:
                found[read(label) or channel] = millivolt * milliampere // 1000
    # The kernel of JetPack 4 has them elsewhere.
    for label in machine.glob("/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*"):
        channel = label.rpartition("_")[2]
        milliwatt = read_number(os.path.join(os.path.dirname(label), f"in_power{channel}_input"))
        if milliwatt is not None:
            found[read(label) or channel] = milliwatt
    return found


# --- Clocks


class Clocks:
    """Power mode and jetson_clocks; the journal holds how each was before it is changed."""

    def __init__(self, machine: Machine, folder: str) -> None:
        self.machine = machine
        self.folder = folder
        self.journal = os.path.join(folder, "clocks.json")
        self.entries: List[Facts] = []
        text = read(self.journal)
        if text is not None:
            try:
                self.entries = list(json.loads(text)["changed"])
            except (ValueError, KeyError, TypeError):
                raise Failed(f"{self.journal} is damaged: reboot the board, then remove it") from None

    def lock(self, wish: Optional[str]) -> Facts:
        """Set a mode (None: the one without caps; 'current': none) and pin what it allows; what became of it.

        Raises:
            Failed: no such mode; nothing was changed.
        """
        wanted = self._wanted_mode(wish)
        before = self._seen()
        problems: List[Refused] = []
        steps = [self._pin] if wanted is None else [lambda: self._set_mode(str(wanted)), self._pin]
        for step in steps:
            try:
                step()
            except Refused as refused:
                problems.append(refused)
            except OSError as error:
                problems.append(Refused(f"{error.filename or self.folder}: {error.strerror}"))
        asked = gpu_hz(self.machine, "max_freq")
        wishes = {"power_mode": wanted or before.get("power_mode"), "jetson_clocks": "on"}
        return {
            "locked": not problems,
            "why": "; ".join(sorted({problem.why for problem in problems})),
            "remedy": next((problem.remedy for problem in problems if problem.remedy), ""),
            "before": before,
            "wanted": dict(wishes, gpu_clock_mhz=round(asked / 1e6)) if asked else wishes,
            "seen": dict(self._seen(), **clocks_mhz(self.machine)),
        }

    def restore(self) -> Tuple[List[str], List[str]]:
        """Put everything back, the last change first: what was, and what could not be, with the reason."""
        done, left = [], []
        for entry in list(reversed(self.entries)):
            try:
                self._undo(entry)
            except Exception as error:  # whatever it is, the others are put back all the same
                left.append("{}: {}".format(entry.get("what"), error))
                continue
            self._drop(entry)
            done.append(str(entry["what"]))
        if not self.entries:
            for stored in glob.glob(os.path.join(self.folder, "clocks[-.]*")):
                remove(stored)
        return done, left

    def _wanted_mode(self, wish: Optional[str]) -> Optional[str]:
        names = [name for name, _ in power_modes(self.machine)]
        if wish == "current" or (wish is None and not names):
            return None
        if wish is None:
            best = [name for name in BEST_MODES if name in names]
            return best[0] if best else max(names, key=_watts_and_cores)
        for name in names:
            if wish.upper() in (name.upper(), re.sub("^MODE_", "", name.upper())):
                return name
        known = ", ".join([*names, "current"])
        raise Failed(f"--power-mode {wish}: this board has no such mode; known: {known}", "user")

    def _set_mode(self, wanted: str) -> None:
        before = power_mode(self.machine)
        if before is None:
            raise Refused("nvpmodel -q names no power mode")
        if before == wanted:
            return
        # Changing the mode undoes a jetson_clocks that the user had on.
        entry = {"what": "power mode", "before": before, "stored": self._store()}
        self._put(entry)
        try:
            self._switch(wanted)
        except Refused:
            self._give_up(entry)
            raise

    def _switch(self, name: str) -> None:
        """Its exit status is unreliable and it may ask to reboot, so only reading back counts."""
        if power_mode(self.machine) == name:
            return
        ids = dict(power_modes(self.machine))
        if name not in ids:
            raise Refused(f"/etc/nvpmodel.conf has no mode {name} any more")
        command = "sudo nvpmodel -m " + ids[name]
        output = self.machine.run_as_root("nvpmodel", "-m", ids[name])[1]
        if power_mode(self.machine) == name:
            return
        if "reboot" in output.lower():
            raise Refused(f"the board must reboot for {name}, which is left to you", "on the board: " + command)
        raise _refusal("nvpmodel", output, command)

    def _pin(self) -> None:
        self._put({"what": "jetson_clocks", "stored": self._store()})
        status, output = self.machine.run_as_root("jetson_clocks")
        if status != 0:
            self._give_up(self.entries[-1])
            raise _refusal("jetson_clocks", output, "sudo jetson_clocks")
        least, most = gpu_hz(self.machine, "min_freq"), gpu_hz(self.machine, "max_freq")
        if least is None or least != most:
            raise Refused("jetson_clocks ran and the GPU's least clock is still below its most")

    def _store(self) -> str:
        """In a new file: jetson_clocks asks before it overwrites one, and nobody answers."""
        file = os.path.join(self.folder, f"clocks-{uuid.uuid4().hex[:8]}.conf")
        if not self.machine.has("jetson_clocks"):
            raise Refused("the program jetson_clocks, which JetPack installs, is neither on PATH nor in /usr/sbin")
        status, output = self.machine.run_as_root("jetson_clocks", "--store", file)
        if status != 0 or not os.path.exists(file):
            raise _refusal("jetson_clocks --store", output, "sudo jetson_clocks --store FILE")
        with contextlib.suppress(PermissionError):  # root's, who has written it
            sync(file)
        return file

    def _undo(self, entry: Facts) -> None:
        if entry.get("before"):
            self._switch(entry["before"])
        stored = entry["stored"]
        status, output = self.machine.run_as_root("jetson_clocks", "--restore", stored)
        failed = [line for line in output.splitlines() if "error" in line.lower()]
        if status != 0 or failed:
            raise _refusal("jetson_clocks --restore", "\n".join(failed) or output, "sudo jetson_clocks --restore")
        for line in (read(stored) or "").splitlines():
            path, _, value = line.partition(":")
            now = read_number(self.machine.path(path)) if os.path.basename(path) in READ_BACK else None
            if now is not None and value.isdigit() and now != int(value):
                raise Refused(f"jetson_clocks --restore left {path} at {now}, it was {value}")

    def _give_up(self, entry: Facts) -> None:
        """What was refused may be half set; if it can't be put back now, it stays in the journal."""
        with contextlib.suppress(Refused):
            self._undo(entry)
            self._drop(entry)

    def _put(self, entry: Facts) -> None:
        write_json(self.journal, {"changed": [*self.entries, entry]})
        self.entries.append(entry)

    def _drop(self, entry: Facts) -> None:
        self.entries.remove(entry)
        if not self.entries:
            remove(self.journal)
            return
        # A full disk must not keep the others from being put back; what is, may be put back twice.
        with contextlib.suppress(OSError):
            write_json(self.journal, {"changed": self.entries})

    def _seen(self) -> Facts:
        least, most = gpu_hz(self.machine, "min_freq"), gpu_hz(self.machine, "max_freq")
        pinned = None if least is None else "on" if least == most else "off"
        seen = {"power_mode": power_mode(self.machine), "jetson_clocks": pinned}
        return {name: value for name, value in seen.items() if value is not None}


def _watts_and_cores(name: str) -> Tuple[int, int]:
    watts, cores = re.search(r"(\d+)W", name), re.search(r"(\d+)CORE", name)
    return int(watts.group(1)) if watts else 0, int(cores.group(1)) if cores else 0


def _refusal(what: str, output: str, command: str) -> Refused:
    last = output.splitlines()[-1] if output else "no word of why"
    if last.startswith(SUDO_REFUSES) or "root" in last.lower() or "permission" in output.lower():
        programs = "/usr/sbin/nvpmodel, /usr/bin/jetson_clocks"
        allow = f'echo "$USER ALL=(root) NOPASSWD: {programs}" | sudo tee /etc/sudoers.d/pomt-edge'
        return Refused(f"no permission on the board ({what} needs root or sudo without a password)", allow)
    return Refused(f"{what}: {last}", command)


# --- trtexec


class Trtexec:
    """The board's trtexec: its version and the flags that this one knows."""

    def __init__(self, machine: Machine) -> None:
        self.program = shutil.which("trtexec", path=search_path()) or (TRTEXEC if os.path.exists(TRTEXEC) else None)
        self.version: Optional[Tuple[int, int, int]] = None
        self._soc = machine.read("/proc/device-tree/compatible") or ""
        self._help = machine.run(self.program, "--help")[1] if self.program else ""
        banner = re.search(r"TensorRT v([0-9.]+)", self._help)
        if banner:
            self.version = _version(banner.group(1))

    @property
    def tensorrt(self) -> Optional[str]:
        return ".".join(map(str, self.version)) if self.version else None

    def check(self) -> None:
        if self.program is None:
            where = f"neither on PATH nor at {TRTEXEC}"
            raise Failed(f"no trtexec on the board, {where}: sudo apt install libnvinfer-bin", "user")
        if self.version is None:
            raise Failed(f"'{self.program} --help' does not tell the version of TensorRT", "user")

    def knows(self, flag: str) -> bool:
        """Whether it lists the flag at the start of a line; prose may name flags of other versions."""
        return re.search(rf"^\s*{re.escape(flag)}(?:[=,\s]|$)", self._help, re.M) is not None

    def build_flags(self, options: Facts) -> List[str]:
        """TensorRT's defaults changed from version to version, so nothing is left to them."""
        pool = "--memPoolSize=workspace:{}" if self.knows("--memPoolSize") else "--workspace={}"
        only = "--skipInference" if self.knows("--skipInference") else "--buildOnly"
        return [pool.format(int(options["workspace_mib"])), only, "--noTF32", *self._precision_flags(options)]

    def _precision_flags(self, options: Facts) -> List[str]:
        precision, major = str(options["precision"]), self.version[0] if self.version else 0
        if options.get("typed"):
            if major >= 11:
                return []
            if not self.knows("--stronglyTyped"):
                raise Failed(f"TensorRT {self.tensorrt} has no --stronglyTyped, which this graph needs", "user")
            return ["--stronglyTyped"]
        if precision == "fp32":
            return []
        if precision == "int8" and NO_INT8.search(self._soc):
            raise Failed("this board's GPU has no int8; take fp16", "user")
        if not self.knows("--" + precision):
            raise Failed(f"TensorRT {self.tensorrt} has no --{precision}; take another precision", "user")
        flags, layers = ["--" + precision], options.get("float32_layers") or []
        if layers and self._holds_layers:
            named = ",".join(f"{layer}:fp32" for layer in layers)
            flags += ["--precisionConstraints=obey", "--layerPrecisions=" + named]
        return flags

    @property
    def _holds_layers(self) -> bool:
        return self.knows("--layerPrecisions") and self.knows("--precisionConstraints")

    def left_out(self, options: Facts) -> List[str]:
        """What a build is asked for and can't have; a sentence each."""
        if not options.get("float32_layers") or options.get("typed") or self._holds_layers:
            return []
        words = "TensorRT {} can't hold single layers in fp32: all of them may run in {}"
        return [words.format(self.tensorrt, options["precision"])]

    def time_flags(self, warm_up_ms: int, duration_s: int, iterations: int) -> List[str]:
        flags = [f"--warmUp={warm_up_ms}", f"--duration={duration_s}"]
        flags += [f"--iterations={iterations}", "--avgRuns=10"]
        # Where one is not listed, it is what this version does without being told (11 and newer).
        return flags + [flag for flag in ("--useSpinWait", "--noDataTransfers", "--useCudaGraph") if self.knows(flag)]


def _version(digits: str) -> Optional[Tuple[int, int, int]]:
    """v8201 is 8.2.1, v100300 is 10.3.0."""
    parts = digits.split(".")
    if len(parts) < 3:
        if len(digits) not in (4, 6):
            return None
        ends = (1, 2, 4) if len(digits) == 4 else (2, 4, 6)
        parts = [digits[: ends[0]], digits[ends[0] : ends[1]], digits[ends[1] : ends[2]]]
    return int(parts[0]), int(parts[1]), int(parts[2])


def computed_ms(path: str, warm_up_ms: float, count: int) -> List[float]:
    """At most `count` of the samples of a file of --exportTimes, evenly chosen.

    TensorRT 8.2 exports the warm-up's forwards, too: those that began before it was over are left out.
    """
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    samples = [float(row["computeMs"]) for row in rows if row["startComputeMs"] >= warm_up_ms]
    if not samples:
        raise ValueError(f"no forward behind the warm-up of {warm_up_ms} ms")
    kept = min(count, len(samples))
    return [samples[(2 * place + 1) * len(samples) // (2 * kept)] for place in range(kept)]


# --- Engines


class Bench:
    """Models, engines and what runs them, below the work folder."""

    def __init__(self, machine: Machine, folder: str, run: Callable[[List[str], float, str], int]) -> None:
        """`run`: runs trtexec into the log within a limit in seconds, telling what it does; its exit status."""
        self.machine = machine
        self.folder = folder
        self.models = os.path.join(folder, "models")
        self.engines = os.path.join(folder, "engines")
        self.work = os.path.join(folder, "work")
        self.log = os.path.join(folder, "trtexec.log")
        self.trtexec = Trtexec(machine)
        self._run = run
        self._works: Set[str] = set()
        """Engines that were built or have run in this session; others may be damaged."""

    def state(self, request: Facts) -> Facts:
        """Whether the engine of these files is here; if not, how much of each file is."""
        key = self._key(request)
        built, missing = os.path.exists(self._engine(key)), {}
        for one in [] if built else request["files"]:
            path = self._model(one["sha256"])
            if not os.path.exists(path):
                part = path + ".part"
                missing[one["sha256"]] = os.path.getsize(part) if os.path.exists(part) else 0
        return dict(self._sizes(key), built=built, missing=missing)

    def put(self, request: Facts) -> Facts:
        """Take the bytes of a file from `offset` on; the last ones make it whole, if its sum is right."""
        path, size = self._model(request["sha256"]), int(request["bytes"])
        part = path + ".part"
        try:
            os.makedirs(self.models, exist_ok=True)
            have = os.path.getsize(part) if os.path.exists(part) else 0
            self._check_disk((size - have) / MIB, "the model")
            if request["offset"] != have:
                return {"have": have, "complete": False}
            with open(part, "ab") as file:
                file.write(base64.b64decode(request["data"], validate=True))
                file.flush()
                os.fsync(file.fileno())
            have = os.path.getsize(part)
        except OSError as error:
            # What did arrive stays: the board's owner makes room and the rest is sent.
            raise Failed(f"the model can't be kept on the board: {error.strerror}", "board") from error
        if have < size:
            return {"have": have, "complete": False}
        if sha256(part) != request["sha256"]:
            remove(part)
            raise Failed("the model arrived damaged", "damaged")
        os.replace(part, path)
        return {"have": have, "complete": True}

    def build(self, request: Facts) -> Facts:
        """Build the engine of files that are here; the first is the graph."""
        key, notes = self._key(request), self.trtexec.left_out(request["options"])
        engine = self._engine(key)
        if os.path.exists(engine):
            return dict(self._sizes(key), notes=notes)
        absent = [one["name"] for one in request["files"] if not os.path.exists(self._model(one["sha256"]))]
        if absent:
            raise Failed("not on the board: {}".format(", ".join(absent)), "no engine")
        size_mib = sum(os.path.getsize(self._model(one["sha256"])) for one in request["files"]) / MIB
        try:
            self._check_disk(2 * size_mib, "building an engine")
            self._check_memory(2 * size_mib)
            self._build(request, engine)
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
            self._forget(request)
        self._works.add(key)
        return dict(self._sizes(key), notes=notes)

    def _sizes(self, key: str) -> Facts:
        engine = self._engine(key)
        size_mib = os.path.getsize(engine) / MIB if os.path.exists(engine) else None
        return {"engine": key, "engine_mib": size_mib, "disk_free_mib": disk_free_mib(self.folder)}

    def _forget(self, request: Facts) -> None:
        """Two hundred graphs would fill a board's disk; the weights beside this one are those of the next, too."""
        weights = {one["sha256"] for one in request["files"][1:]}
        for name in set(os.listdir(self.models)) - weights:
            remove(os.path.join(self.models, name))

    def clean(self, keys: List[str]) -> None:
        """Remove these engines, which are one run's, and all that is made anew where it is missing."""
        for key in keys:
            remove(self._engine(key))
        remove(self.log)
        others = glob.glob(os.path.join(self.engines, "*.engine"))
        for folder in (self.models, self.work, *([] if others else [self.engines])):
            shutil.rmtree(folder, ignore_errors=True)

    def _build(self, request: Facts, engine: str) -> None:
        shutil.rmtree(self.work, ignore_errors=True)  # of a session that was killed
        for folder in (self.work, self.engines):
            os.makedirs(folder, exist_ok=True)
        for one in request["files"]:
            os.link(self._model(one["sha256"]), os.path.join(self.work, os.path.basename(one["name"])))
        graph = os.path.join(self.work, os.path.basename(request["files"][0]["name"]))
        partial = os.path.join(self.work, "engine")
        mode = re.sub(r"\W", "_", str(power_mode(self.machine)))
        cache = os.path.join(self.engines, f"timing-{self.trtexec.tensorrt}-{mode}.cache")
        words = ["--onnx=" + graph, "--saveEngine=" + partial, "--timingCacheFile=" + cache]
        status = self._run(words + self.trtexec.build_flags(request["options"]), BUILD_LIMIT_S, "building an engine")
        if status != 0 or not (os.path.exists(partial) and os.path.getsize(partial)):
            raise self._failure("the build failed", status)
        sync(partial)
        os.replace(partial, engine)
        sync(self.engines)

    def time(self, request: Facts) -> Facts:
        """Milliseconds of at most `count` forwards, and the counters before and after them."""
        warm_up_ms, count = int(request["warm_up_ms"]), int(request["count"])
        before = counters(self.machine)
        flags = self.trtexec.time_flags(warm_up_ms, 0, max(count, LEAST_ITERATIONS))
        samples = self._timed(request["engine"], flags, warm_up_ms, count)
        return {"ms": samples, "before": before, "after": counters(self.machine)}

    def load(self, request: Facts) -> Facts:
        """Keep the GPU busy for so many seconds; its clocks (median) meanwhile, and its multiprocessors."""
        seconds, over = max(int(request["seconds"]), 1), threading.Event()
        seen: List[Dict[str, int]] = []

        def watch() -> None:
            while not over.wait(0.1):
                seen.append(clocks_mhz(self.machine))

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            self._timed(request["engine"], self.trtexec.time_flags(0, seconds, LEAST_ITERATIONS), 0, 1)
        finally:
            over.set()
            watching.join()
        # Before that trtexec loads the engine.
        late = seen[-10 * seconds :] or [clocks_mhz(self.machine)]
        names = sorted(set().union(*late))
        clocks = {name: statistics.median(one[name] for one in late if name in one) for name in names}
        count = re.search(r"\bSMs: (\d+)", read(self.log) or "")
        return {"clocks_mhz": clocks, "sm_count": int(count.group(1)) if count else None}

    def _timed(self, key: str, flags: List[str], warm_up_ms: int, count: int) -> List[float]:
        engine, times = self._engine(key), os.path.join(self.engines, "times.json")
        if not os.path.exists(engine):
            raise Failed("the board has no such engine", "no engine")
        remove(times)
        try:
            words = ["--loadEngine=" + engine, "--exportTimes=" + times, *flags]
            status = self._run(words, TIME_LIMIT_S, "timing")
            if status != 0 and key not in self._works:
                remove(engine)
                raise Failed("the board's engine does not run", "no engine")
            if status != 0 or not os.path.exists(times):
                raise self._failure("timing failed", status)
            self._works.add(key)
            return computed_ms(times, warm_up_ms, count)
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"trtexec exported no times that can be read: {error}") from error
        finally:
            remove(times)

    def _failure(self, what: str, status: int) -> Failed:
        lines = [line for line in (read(self.log) or "").splitlines() if line.strip()]
        errors = [line.partition("[E]")[2].strip() for line in lines if "[E]" in line]
        why = (errors or lines[-1:] or ["no word of why"])[0]
        number = -status if status < 0 else status - 128 if status > 128 else 0
        if number == signal.SIGKILL:
            why = "trtexec was killed, most likely by the kernel for want of memory"
        elif number:
            why = f"trtexec crashed with signal {number} ({why})"
        # Warnings speak of memory, too, where TensorRT leaves out a kernel that needs more.
        if OUT_OF_MEMORY.search("\n".join(errors or lines[-1:])) or number == signal.SIGKILL:
            why = "out of memory: " + why
        return Failed(f"{what}: {why}", log=lines[-LOG_LINES:])

    def _check_disk(self, needed_mib: float, what: str) -> None:
        os.makedirs(self.models, exist_ok=True)
        free = disk_free_mib(self.models)
        if free < needed_mib + SPARE_DISK_MIB:
            words = "{} needs {:.0f} MiB of the board's disk, {} MiB are free: make room on it"
            raise Failed(words.format(what, needed_mib + SPARE_DISK_MIB, free), "board")

    def _check_memory(self, needed_mib: float) -> None:
        free = memory_mib(self.machine, "MemAvailable")
        if free is not None and free < needed_mib + SPARE_MEMORY_MIB:
            words = "a build needs {:.0f} MiB of memory or more, {} MiB are available: end other programs there"
            raise Failed(words.format(needed_mib + SPARE_MEMORY_MIB, free), "board")

    def _key(self, request: Facts) -> str:
        """Of all that an engine depends on. Its kernels were chosen by their speed in the power mode of then."""
        self.trtexec.check()
        parts = [one["sha256"] for one in request["files"]]
        parts += [
            str(self.trtexec.tensorrt),
            str(power_mode(self.machine)),
            self.machine.read("/proc/device-tree/model"),
        ]
        parts += self.trtexec.build_flags(request["options"])
        return hashlib.sha256("\n".join(map(str, parts)).encode("utf-8")).hexdigest()[:32]

    def _engine(self, key: str) -> str:
        return os.path.join(self.engines, _plain(key) + ".engine")

    def _model(self, digest: str) -> str:
        return os.path.join(self.models, _plain(digest))


def _plain(name: Any) -> str:
    if not re.match(r"^[0-9a-f]{32,64}$", str(name)):
        raise Failed(f"'{name}' is no name of a file here", "user")
    return str(name)


# --- Serving


class Agent:
    """One session: requests from standard input one after the other, answers to standard output."""

    def __init__(self, folder: str, machine: Machine, lost_after_s: float) -> None:
        self.folder = folder
        self.machine = machine
        self.clocks = Clocks(machine, folder)
        self.restored, self.problems = self.clocks.restore()
        self.bench = Bench(machine, folder, self._run_trtexec)
        self._lost_after_s = lost_after_s
        self._ended = ""
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._doing: Optional[Tuple[int, str, float]] = None
        self._id = 0
        self._locked: Facts = {}
        self._lines: List[bytes] = []
        self._arrived = threading.Condition()
        self._out = threading.Lock()
        self._libc = ctypes.CDLL(None)

    def serve(self) -> None:
        """Until 'bye', the end of the input or a signal; then the clocks are put back."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            while True:
                line = self._next_line()
                if line is None or not self._answer_to(line):
                    return
        except (Ended, BrokenPipeError):
            return
        finally:
            self.clocks.restore()

    def _answer_to(self, line: bytes) -> bool:
        """Whether there may be another request."""
        try:
            request = json.loads(line.decode("utf-8"))
            self._id, name = int(request["id"]), str(request["request"])
        except (ValueError, KeyError, TypeError):
            self._say({"id": 0, "ok": False, "reason": f"not a request: {line[:80]!r}", "kind": "user"})
            return True
        try:
            handler = getattr(self, "on_" + name, None)
            if handler is None:
                raise Failed(f"no request '{name}'", "user")
            answer = dict(handler(request), ok=True)
        except Failed as failed:
            answer = {"ok": False, "reason": failed.reason, "kind": failed.kind, "log": failed.log}
        except (Ended, BrokenPipeError):
            raise
        except Exception as error:  # one request that fails must not end the session
            kind = "board" if isinstance(error, OSError) else "work"
            answer = {"ok": False, "reason": f"{type(error).__name__}: {error}", "kind": kind, "log": []}
        self._say(dict(answer, id=self._id))
        return name != "bye"

    def on_hello(self, request: Facts) -> Facts:
        trtexec = self.bench.trtexec
        facts = dict(recognised(self.machine), disk_free_mib=disk_free_mib(self.folder))
        facts.update(protocol=PROTOCOL, trtexec=trtexec.program, tensorrt=trtexec.tensorrt)
        return dict(facts, restored=self.restored, problems=self.problems)

    def on_lock(self, request: Facts) -> Facts:
        # Asked for again when an answer was lost on the way.
        self._locked = self._locked or self.clocks.lock(request.get("power_mode"))
        return self._locked

    def on_unlock(self, request: Facts) -> Facts:
        done, left = self.clocks.restore()
        self._locked = {}
        return {"restored": done, "problems": left}

    def on_engine(self, request: Facts) -> Facts:
        return self.bench.state(request)

    def on_put(self, request: Facts) -> Facts:
        return self.bench.put(request)

    def on_build(self, request: Facts) -> Facts:
        return self.bench.build(request)

    def on_time(self, request: Facts) -> Facts:
        return self.bench.time(request)

    def on_load(self, request: Facts) -> Facts:
        return self.bench.load(request)

    def on_counters(self, request: Facts) -> Facts:
        return counters(self.machine)

    def on_cleanup(self, request: Facts) -> Facts:
        """Remove a run's engines. This file and the lock's stay: another session may wait for that very lock."""
        answer = self.on_unlock(request)
        self.bench.clean(request["engines"])
        return answer

    def on_bye(self, request: Facts) -> Facts:
        return self.on_unlock(request)

    def _run_trtexec(self, words: List[str], limit_s: float, what: str) -> int:
        """While it runs we sleep: whoever listens kills it when the connection is lost or the time is over."""
        with open(self.bench.log, "wb") as log:
            self._child = process = subprocess.Popen(
                [str(self.bench.trtexec.program), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, LC_ALL="C"),
                preexec_fn=self._die_with_us,
            )
        timer = threading.Timer(limit_s, process.kill)
        timer.daemon = True
        timer.start()
        self._doing = (self._id, what, time.monotonic())
        try:
            if self._ended:  # between the last look at it and the start
                process.kill()
            status = process.wait()
        finally:
            self._doing = self._child = None
            late = not timer.is_alive()
            timer.cancel()
        if self._ended:
            raise Ended(self._ended)
        if late:
            raise Failed(f"{what}: no end after {limit_s:.0f} s")
        return status

    def _die_with_us(self) -> None:
        """A kill of this process must not leave the GPU busy: the next session would measure beside it."""
        self._libc.prctl(1, signal.SIGKILL)

    def _next_line(self) -> Optional[bytes]:
        with self._arrived:
            while not self._lines:
                if self._ended:
                    return None
                self._arrived.wait(0.2)  # a signal's handler can't notify
            return self._lines.pop(0)

    def _listen(self) -> None:
        rest, heard = bytearray(), time.monotonic()
        while not self._ended:
            readable = select.select([0], [], [], min(ALIVE_EVERY_S, self._lost_after_s / 3))[0]
            now = time.monotonic()
            if not readable:
                self._tell_what_goes_on()
                if now - heard > self._lost_after_s:
                    self._end(f"no sign of life for {self._lost_after_s:.0f} s")
                continue
            chunk = os.read(0, 2**20)
            heard = now
            if not chunk:
                self._end("the input ended")
                with self._arrived:
                    self._arrived.notify()
                return
            first, *others = chunk.split(b"\n")
            rest += first
            with self._arrived:
                for other in others:
                    self._lines += [bytes(rest)] if rest.strip() else []
                    rest = bytearray(other)
                self._arrived.notify()

    def _tell_what_goes_on(self) -> None:
        doing = self._doing
        if doing:
            number, what, began = doing
            try:
                self._say({"id": number, "progress": f"{what}, {time.monotonic() - began:.0f} s"})
            except OSError:
                self._end("nobody reads any more")

    def _on_signal(self, number: int, frame: Any) -> None:
        self._end(f"signal {number}")

    def _end(self, why: str) -> None:
        self._ended = why
        child = self._child
        if child is not None:
            child.kill()

    def _say(self, answer: Facts) -> None:
        with self._out:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def take(folder: str, busy_limit_s: float) -> int:
    """The descriptor of the board's lock, which dies with us. Another session that ends is waited for so long."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor = os.open(os.path.join(folder, "agent.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + busy_limit_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            if time.monotonic() > deadline:
                words = (
                    "another session of pomt-edge uses this board: wait for it (one that was cut off ends by itself)"
                )
                raise Failed(words, "user") from None
            time.sleep(0.1)


def main(arguments: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Times TensorRT engines on this board for pomt-edge.")
    parser.add_argument("--folder", default=FOLDER, help="where models, engines and the journal are (%(default)s)")
    parser.add_argument("--sysroot", default="/", help="where /sys, /proc and /etc are mounted (%(default)s)")
    parser.add_argument("--restore", action="store_true", help="only put back clocks that were left changed")
    parser.add_argument("--lost-after", type=float, default=LOST_AFTER_S, help="seconds of silence (%(default)s)")
    parser.add_argument(
        "--busy-limit", type=float, default=BUSY_LIMIT_S, help="seconds for another session (%(default)s)"
    )
    given = parser.parse_args(arguments)
    folder, machine = os.path.abspath(os.path.expanduser(given.folder)), Machine(given.sysroot)
    try:
        machine.lock = take(folder, given.busy_limit)
        if not given.restore:
            Agent(folder, machine, given.lost_after).serve()
            return 0
        done, left = Clocks(machine, folder).restore()
    except (Failed, OSError) as error:
        reason = f"{folder}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(reason if given.restore else json.dumps({"id": 0, "ok": False, "reason": reason, "kind": "user"}))
        return 1
    for what in done:
        print("put back: " + what)
    for problem in left:
        print("NOT put back: " + problem)
    if not done and not left:
        print("nothing to put back")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
