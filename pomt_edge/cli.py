"""The console scripts: `offline_compute`, the main job, `deploy`, what follows it, and `pomt-edge` with all commands.

Only this and the commands print and exit. torch and timm are imported once work begins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from pomt_edge.commands.check import check
from pomt_edge.commands.clocks import clocks
from pomt_edge.commands.common import guarded
from pomt_edge.commands.compare import compare
from pomt_edge.commands.deploy import deploy
from pomt_edge.commands.devices import devices
from pomt_edge.commands.doctor import doctor
from pomt_edge.commands.explain import explain
from pomt_edge.commands.import_bundle import import_bundle
from pomt_edge.commands.offline_compute import offline_compute
from pomt_edge.commands.options import Version
from pomt_edge.commands.record import record
from pomt_edge.commands.show import show

OPTIONS: dict[str, Any] = {
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}

main_job = typer.Typer(**OPTIONS)
main_job.command()(offline_compute)

deploying = typer.Typer(**OPTIONS)
deploying.command()(deploy)

app = typer.Typer(**OPTIONS)
app.command(short_help="Measure a device's curve and choose how many tokens to remove.")(offline_compute)
app.add_typer(clocks, name="clocks", short_help="Look at the clocks, lock and restore them.")
app.command(short_help="Hold a plan against a simulated or recorded device.")(check)
app.add_typer(devices, name="devices", short_help="List the devices and recordings that are known.")
app.command(short_help="Compare two runs within their intervals.")(compare)
app.command(short_help="Export, prove, build and measure what a plan says.")(deploy)
app.command(short_help="Check whether this machine can measure.")(doctor)
app.command(short_help="Say why a plan removes as many tokens as it does.")(explain)
app.command("import", short_help="Read what a board measured of a bundle.")(import_bundle)
app.command(short_help="Make a device of a run, to be replayed.")(record)
app.command(short_help="Draw which patches of an image are kept.")(show)


@app.callback()
def _all(
    version: Version = False,
) -> None:
    """Make Vision Transformers fast on the device that will run them."""


def main() -> None:
    """The console script `offline_compute`."""
    sys.exit(run())


def main_of_deploy() -> None:
    """The console script `deploy`."""
    sys.exit(run_deploy())


def main_of_all() -> None:
    """The console script `pomt-edge`."""
    sys.exit(run_any())


def run(arguments: Sequence[str] | None = None) -> int:
    """`offline_compute` with these arguments, or the command line's; returns the exit code."""
    return _run(main_job, arguments, "offline_compute")


def run_deploy(arguments: Sequence[str] | None = None) -> int:
    """`deploy` with these arguments, or the command line's; returns the exit code."""
    return _run(deploying, arguments, "deploy")


def run_any(arguments: Sequence[str] | None = None) -> int:
    """`pomt-edge` with these arguments, or the command line's; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _run(app, given or ["--help"], "pomt-edge")


def _run(commands: typer.Typer, arguments: Sequence[str] | None, name: str) -> int:
    return guarded(lambda: commands(arguments, prog_name=name, standalone_mode=False), name)
