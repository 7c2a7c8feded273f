"""`pomt-edge devices`: what is known of each device before anything is measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from pomt_edge import profiles
from pomt_edge.commands.common import USAGE_ERROR, fail, path
from pomt_edge.errors import UserError
from pomt_edge.machine.system import System
from pomt_edge.profiles import EVIDENCE, FIGURES, Figure, PowerMode, Profile
from pomt_edge.targets import recordings
from pomt_edge.targets.recordings import Recording

devices = typer.Typer(
    help="List the devices that are known; show NAME tells all of one.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    invoke_without_command=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Folder = Annotated[
    Path | None,
    typer.Option("--profiles", parser=path, metavar="DIR", help="A folder of more profiles, before all others."),
]
Sysroot = Annotated[
    Path,
    typer.Option(parser=path, metavar="DIR", help="Where the machine's own files are, if not below /."),
]


@devices.callback()
def list_devices(
    context: typer.Context, as_json: AsJson = False, folder: Folder = None, sysroot: Sysroot = Path("/")
) -> int:
    """List the devices that are known; show NAME tells all of one.

    A profile of your own is a TOML file in the folder that the list names; it overrides a packaged one of its name.
    """
    context.obj = (as_json, folder)
    if context.invoked_subcommand is not None:
        return 0
    _check_folders(folder, sysroot)
    known, errors = profiles.read_all(folder)
    here = profiles.recognise_here(System(sysroot))
    if as_json:
        rows = [_plain(profile) | {"this_machine": _same(profile, here)} for profile in known]
        print(json.dumps(rows, indent=2))
    else:
        _print_list(known, here)
    for error in errors:
        fail(str(error), USAGE_ERROR)
    return USAGE_ERROR if errors else 0


@devices.command()
def show(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As in the list, such as jetson_orin_nano, or recorded:h200.")
    ],
    as_json: AsJson = False,
    folder: Folder = None,
) -> int:
    """Everything that is known of one device: figures with their evidence, power modes, software, clocks."""
    before = context.obj or (False, None)
    folder = folder or before[1]
    _check_folders(folder)
    kind, _, rest = name.rpartition(":")
    if kind == "recorded":
        return _show_recording(recordings.load(rest), as_json or before[0])
    profile = profiles.load(rest if kind == "sim" else name, folder)
    if as_json or before[0]:
        print(json.dumps(_plain(profile), indent=2))
    else:
        _print_profile(profile)
    return 0


def _show_recording(recording: Recording, as_json: bool) -> int:
    if as_json:
        names = ("model", "batch_size", "precision", "products", "engine", "reduction", "tokens")
        curves = [{name: getattr(curve, name) for name in names} for curve in recording.curves]
        facts = {name: getattr(recording, name) for name in ("name", "device", "software", "method")}
        print(json.dumps(facts | {"curves": curves}, indent=2))
        return 0
    console = Console(highlight=False, markup=False)
    _say(console, f"recorded:{recording.name}: {recording.device}, {recording.software}")
    _say(console, recording.method)
    for curve in recording.curves:
        _copy(console, f"  {curve.title}: {curve.engine}, {curve.counts} tokens, {curve.reduction}")
    return 0


def _check_folders(folder: Path | None, sysroot: Path = Path("/")) -> None:
    if folder is not None and not folder.is_dir():
        raise UserError(f"--profiles {folder}: no such folder; expected one with device profiles, NAME.toml each")
    if not sysroot.is_dir():
        raise UserError(f"--sysroot {sysroot}: no such folder; give the one that holds the machine's /sys and /proc")


def _same(profile: Profile, here: Profile | None) -> bool:
    return here is not None and profile.id == here.id


def _plain(profile: Profile) -> dict[str, Any]:
    """A profile for JSON, with what follows from it."""
    modes = [dataclasses.asdict(mode) | {"moves_steps": profile.moves_steps(mode)} for mode in profile.modes]
    return dataclasses.asdict(profile) | {"modes": modes, "differs_by_mode": profile.differs_by_mode}


def _print_list(known: Sequence[Profile], here: Profile | None) -> None:
    console = Console(highlight=False, markup=False)
    table = _table("", "id", "name", "GHz", "SMs", "GB/s", "fp16 TF", "modes", right=3)
    for profile in known:
        keys = ("gpu_clock_ghz", "sm_count", "memory_gb_per_s", "fp16_dense_tflops")
        figures = [_number(profile.figures[key]) if key in profile.figures else "" for key in keys]
        modes = str(len(profile.modes)) if profile.modes else ""
        mark = "*" if _same(profile, here) else ""
        table.add_row(mark, profile.id, profile.name, *figures, modes, style="bold" if mark else None)
    console.print(table)
    _say(
        console, f"* this machine: {here.id}" if here else "No profile knows this machine: it is measured all the same."
    )
    for profile in known:
        if profile.own:
            _copy(console, f"your own: {profile.id} ({profile.file})")
    _copy(console, f"All others come with the package; your own go into {profiles.own_folder()}")
    _say(console, "Nothing here was measured. pomt-edge devices show NAME tells where each figure comes from.")
    known_too = ", ".join(f"recorded:{name}" for name in recordings.recordings())
    _say(console, f"Real measurements to replay: {known_too}; show tells of which models.")


def _print_profile(profile: Profile) -> None:
    console = Console(highlight=False, markup=False)
    _say(console, f"{profile.id}: {profile.name}")
    origin = f"your own, {profile.file}" if profile.own else "comes with the package"
    _copy(console, f"profile: {origin}; nothing in it was measured here")
    for line in _identity(profile):
        _say(console, line)
    if profile.figures or profile.memory_mib:
        console.print(_figures(profile))
    if profile.modes:
        console.print(_modes(profile))
        _say(console, _marks({mark for mode in profile.modes for mark in mode.evidence.values()}))
        _say(console, f"By power mode: {profile.differs_by_mode}.")
    if profile.software:
        console.print(_software(profile))
        _say(console, _marks({each.evidence for each in profile.software}))
    for note in profile.notes:
        _say(console, f"Note: {note}.")
    lock = profile.clock_lock
    _say(console, "")
    _copy(console, f"To lock the clocks: {lock.lock}")
    _copy(console, f"To put them back: {lock.restore}")
    _say(console, "Where the package runs, pomt-edge clocks lock and restore do the same. By hand, in order:")
    for number, step in enumerate(lock.by_hand, 1):
        _copy(console, f"  {number}. {step}")


def _identity(profile: Profile) -> list[str]:
    lines = []
    if profile.recognised_by:
        lines.append(f"recognised by its driver's name: {', '.join(profile.recognised_by)}")
    if profile.board:
        lines.append(f"recognised by its device tree: {', '.join(profile.board.parts)}")
        names = " or ".join(profile.board.models)
        if names:
            lines.append(f"  or, where that names no part, a model that begins {names}")
        if profile.board.told_by_modes:
            lines.append(
                f"  told from boards that share this by its power mode {', '.join(profile.board.told_by_modes)}"
            )
    if profile.compute_capability:
        lines.append(f"compute capability: {profile.compute_capability}")
    lines.append(f"precisions: {', '.join(profile.precisions)}")
    return lines


def _figures(profile: Profile) -> Table:
    mode = f" in {profile.figures_in}" if profile.figures_in else ""
    table = _table(f"figures{mode}", "value", "evidence", right=1)
    table.columns[2].justify = "left"
    for key, figure in profile.figures.items():
        label, unit = FIGURES[key]
        table.add_row(label, f"{_number(figure)} {unit}".rstrip(), EVIDENCE[figure.evidence])
    if profile.memory_mib:
        table.add_row("memory", f"{_number(profile.memory_mib)} MiB", EVIDENCE[profile.memory_mib.evidence])
    return table


def _modes(profile: Profile) -> Table:
    table = _table("power mode", "SMs", "GPU MHz", "GB/s", "steps of the staircase", right=1)
    table.columns[4].justify = "left"
    for mode in profile.modes:
        cells = [_marked(mode, key) for key in ("sm_count", "gpu_clock_mhz", "memory_gb_per_s")]
        table.add_row(mode.name, *cells, _steps(profile, mode))
    return table


def _steps(profile: Profile, mode: PowerMode) -> str:
    moves = profile.moves_steps(mode)
    if moves is None:
        return "not known"
    most = _number(profile.figures["sm_count"])
    return f"elsewhere: {mode.sm_count} of {most} SMs on" if moves else "at the same token counts"


def _software(profile: Profile) -> Table:
    table = _table("JetPack", "TensorRT", "CUDA", "Python", "ONNX opset", "precisions", "")
    for each in profile.software:
        cells = (each.tensorrt, each.cuda, each.python, f"up to {each.onnx_opset}", " ".join(each.precisions))
        table.add_row(", ".join(each.jetpack), *cells, each.evidence)
    return table


def _marks(used: set[str]) -> str:
    return "; ".join(f"{mark}: {meaning}" for mark, meaning in EVIDENCE.items() if mark in used)


def _marked(mode: PowerMode, key: str) -> str:
    value = getattr(mode, key)
    return "not known" if value is None else f"{value:g} {mode.evidence[key]}"


def _number(figure: Figure) -> str:
    """Without digits that say nothing: 65536, 204.8, 1.3."""
    return f"{figure.value:.6g}"


def _table(*headings: str, right: int | None = None) -> Table:
    """Columns from number `right` on hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, heading in enumerate(headings):
        number = right is not None and index >= right
        table.add_column(heading, justify="right" if number else "left", no_wrap=number or heading == "id")
    return table


def _say(console: Console, text: str) -> None:
    console.print(text)


def _copy(console: Console, text: str) -> None:
    """A path or a command in one line, however narrow the terminal."""
    console.print(text, soft_wrap=True)
