"""`pomt-edge clocks`: look at the clocks, lock them, put them back."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pomt_edge.commands.common import INTERRUPTED, NEGATIVE, fail, path
from pomt_edge.commands.options import GpuClock, PowerMode
from pomt_edge.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pomt_edge.machine.controls import Control
    from pomt_edge.machine.system import System
    from pomt_edge.measure.clocks import ClockState

clocks = typer.Typer(
    help="Look at the clocks, lock them until they are restored, put them back.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Sysroot = Annotated[
    Path | None,
    typer.Option(parser=path, metavar="DIR", help="Where the machine's /sys, /proc, /etc and /var are. [default: /]"),
]
Device = Annotated[str, typer.Option(help="cpu or cuda:N, as torch counts them; auto: the GPU where there is one.")]


@clocks.command()
def show(device: Device = "auto", as_json: AsJson = False, sysroot: Sysroot = None) -> int:
    """Each setting now, what it would be locked to, and whether it can be set here."""
    system = _system(sysroot)
    device = _device(device, system)
    rows = [_look(control) for control in _controls(device, system, None, None)]
    locked = _locked(system)
    if as_json:
        print(json.dumps({"device": device, "controls": rows, "locked": locked}, indent=2))
        return 0
    cells = [[row["title"], row["now"], row["wanted"], "yes" if row["can_be_set"] else "no"] for row in rows]
    _table(f"clocks for {device}", ["setting", "now", "would lock to", "can be set"], cells)
    for why in dict.fromkeys(row["why"] for row in rows if row["why"]):
        titles = ", ".join(row["title"] for row in rows if row["why"] == why)
        remedy = next((row["remedy"] for row in rows if row["why"] == why and row["remedy"]), "")
        _say(f"{titles}: {why}" + (f"; {remedy}" if remedy else ""))
    _say(locked["sentence"])
    return 0


@clocks.command()
def lock(
    power_mode: PowerMode = None,
    gpu_clock: GpuClock = None,
    device: Device = "auto",
    as_json: AsJson = False,
    sysroot: Sysroot = None,
) -> int:
    """Lock the clocks, verify them under load and leave them so until `pomt-edge clocks restore`."""
    from pomt_edge.measure.clocks import lock_until_restored

    system = _system(sysroot)
    target = _Machine(system, _device(device, system), power_mode, gpu_clock)
    try:
        state = lock_until_restored(target)
    except KeyboardInterrupt:
        return fail("interrupted; the clocks were put back", INTERRUPTED)
    if as_json:
        print(json.dumps(dataclasses.asdict(state), indent=2))
    else:
        _print_state(state, system)
    return 0 if state.state == "locked" else NEGATIVE


@clocks.command()
def restore(as_json: AsJson = False, sysroot: Sysroot = None) -> int:
    """Put back what `lock`, or a run that was killed, has left changed; fine to do twice."""
    from pomt_edge.measure.clocks import left_sentence
    from pomt_edge.measure.clocks import restore as put_back

    restored, left = put_back(_system(sysroot))
    if as_json:
        print(json.dumps({"restored": restored, "left": [dataclasses.asdict(each) for each in left]}, indent=2))
    else:
        _say(
            f"put back: {', '.join(restored)}"
            if restored
            else "nothing was put back"
            if left
            else "nothing to put back"
        )
        for problem in left:
            _say(left_sentence(problem))
    return NEGATIVE if left else 0


class _Machine:
    """This machine without a model: what `lock` verifies the clocks with."""

    def __init__(self, system: System, device: str, power_mode: str | None, gpu_clock_mhz: int | None) -> None:
        self.system = system
        self._device = device
        self._wishes = (power_mode, gpu_clock_mhz)

    def controls(self) -> Sequence[Control]:
        return _controls(self._device, self.system, *self._wishes)

    def warm_up(self) -> None:
        if self._device != "cpu":
            self.load(0.0)

    def load(self, seconds: float) -> None:
        from pomt_edge.machine import load
        from pomt_edge.measure.clocks import NoLoad

        if self._device == "cpu":
            with load.spinning_cpus():
                time.sleep(seconds)
            return
        torch = load.torch_with_cuda()
        if torch is None:
            raise NoLoad("torch with CUDA is needed for a load on the GPU")
        load.multiply(torch, self._device, seconds)


def _system(sysroot: Path | None) -> System:
    from pomt_edge.machine.system import System

    if sysroot is not None and not sysroot.is_dir():
        raise UserError(f"--sysroot {sysroot}: no such folder; expected one that holds sys, proc, etc and var")
    return System(sysroot.resolve()) if sysroot else System()


def _device(device: str, system: System) -> str:
    from pomt_edge.machine import board
    from pomt_edge.machine.system import nvml

    if device == "auto":
        module = None if board.is_jetson(system) else nvml()
        return "cuda:0" if board.gpu_devfreq(system) or (module and module.nvmlDeviceGetCount()) else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"--device {device}: expected cpu, cuda or cuda:N; leave it out for auto")
    return "cuda:0" if device == "cuda" else device


def _controls(device: str, system: System, power_mode: str | None, gpu_clock_mhz: int | None) -> Sequence[Control]:
    from pomt_edge.machine import board
    from pomt_edge.machine.controls import controls_of

    uuid = None if device == "cpu" or board.is_jetson(system) else _gpu_uuid(device)
    return controls_of(device, system, power_mode, gpu_clock_mhz, uuid)


def _gpu_uuid(device: str) -> str | None:
    """Of the GPU that torch will load: it counts the fastest first, NVML by the bus. None where torch can't tell."""
    from pomt_edge.machine import load

    torch = load.torch_with_cuda()
    if torch is None:
        return None
    if int(device.partition(":")[2]) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: torch knows {torch.cuda.device_count()} GPUs, cuda:0 is the first")
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return str(uuid) if uuid else None


def _look(control: Control) -> dict[str, Any]:
    from pomt_edge.machine.controls import Refused

    row: dict[str, Any] = {"key": control.key, "title": control.title, "now": None, "wanted": None}
    row |= {"can_be_set": True, "why": "", "remedy": ""}
    try:
        row["now"] = control.show()
        row["wanted"] = control.wanted()
        control.check()
    except Refused as refused:
        row |= {"can_be_set": False, "why": refused.why, "remedy": refused.remedy}
    return row


def _locked(system: System) -> dict[str, Any]:
    """Whether something of ours is changed now, by whom, and what to type."""
    from pomt_edge.machine.controls import hints
    from pomt_edge.machine.controls.journal import Journal

    journal = Journal(system)
    owner = journal.owner()
    keys = [entry.key for entry in journal.book.entries]
    found: dict[str, Any] = {"settings": keys, "pid": owner, "kept": journal.book.kept, "journal": str(journal.path)}
    undo = hints.command(system, "clocks restore")
    if owner is not None and journal.book.kept:
        sentence = f"Locked by pomt-edge clocks lock ({', '.join(keys)}); process {owner} measures with it now."
    elif owner is not None:
        sentence = f"Locked by process {owner}, which puts the clocks back when it ends."
    elif journal.book.kept:
        sentence = f"Locked by pomt-edge clocks lock ({', '.join(keys)}); to put back: {undo}"
    elif keys:
        sentence = f"Process {journal.book.pid} ended and left {', '.join(keys)} changed; to put back: {undo}"
    else:
        sentence = "Nothing is locked by pomt-edge."
    return found | {"sentence": sentence}


def _print_state(state: ClockState, system: System) -> None:
    from pomt_edge.machine.controls import hints

    names = list(dict.fromkeys([*state.before, *state.wanted, *state.seen]))
    cells = [[_words(name), *(each.get(name) for each in (state.before, state.wanted, state.seen))] for name in names]
    if cells:
        _table("clocks", ["setting", "before", "locked to", "seen under load"], cells)
    if state.state == "locked":
        _say(f"Locked and verified under load. To put back: {hints.command(system, 'clocks restore')}")
    else:
        kept = "; what could be locked stays locked" if state.wanted else ""
        _say(f"Not locked: {state.why}{kept}." + (f" Next: {state.remedy}" if state.remedy else ""))


def _words(name: str) -> str:
    return name.replace("_mhz", " MHz").replace("_", " ").replace("gpu", "GPU").replace("cpu", "CPU")


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*("" if cell is None else _cell(cell) for cell in row))
    Console(soft_wrap=True).print(table)


def _cell(value: Any) -> str:
    """Processors that differ are summed up: 'powersave x 4, performance x 2'."""
    if not isinstance(value, dict):
        return str(value)
    values = list(value.values())
    return ", ".join(f"{each} x {values.count(each)}" for each in dict.fromkeys(values))


def _say(text: str) -> None:
    print(text)
