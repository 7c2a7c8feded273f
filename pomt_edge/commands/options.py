"""Options that several commands take, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pomt_edge.commands.common import path, show_version

Normalize = Annotated[str | None, typer.Option(metavar="MEAN,STD", help="Of pixel values in 0 to 1. [default: timm's]")]
CropPct = Annotated[float | None, typer.Option(help="Share of the image that the crop keeps. [default: timm's]")]
Interpolation = Annotated[str | None, typer.Option(help="bilinear, bicubic, … [default: timm's]")]
NoLock = Annotated[bool, typer.Option("--no-lock", help="Leave the clocks alone.")]
RequireLocked = Annotated[
    bool, typer.Option("--require-locked", help="Stop with an error unless the clocks are locked and hold.")
]
PowerMode = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Jetson: nvpmodel's mode, or current. [default: MAXN, else the largest]"),
]
GpuClock = Annotated[int | None, typer.Option(metavar="MHZ", help="Lock the GPU here. [default: its boost clock]")]
Sysroot = Annotated[
    Path, typer.Option(parser=path, metavar="DIR", help="Where the machine's / is mounted, in a container.")
]
Version = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
]
