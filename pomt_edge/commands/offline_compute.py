"""`offline_compute`: the main job."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pomt_edge.commands.common import INTERRUPTED, NEGATIVE, end_as_interrupted, fail, path
from pomt_edge.commands.options import (
    CropPct,
    GpuClock,
    Interpolation,
    NoLock,
    Normalize,
    PowerMode,
    RequireLocked,
    Sysroot,
    Version,
)

if TYPE_CHECKING:
    from pomt_edge.console import LiveProgress
    from pomt_edge.fleet_file import Options
    from pomt_edge.request import Request

AUTO = "auto"
OF_THE_FLEET = ("--fleet", "--device", "--out", "--json")


def offline_compute(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="A timm name or an unambiguous beginning; 'demo': the embedded one.")
    ] = "demo",
    batch_size: Annotated[int, typer.Option("--bs", "--batch-size", help="Images per forward.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="PATH", help="Images: one folder per class. Without: latency only."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Images to draw from --data, class-balanced. [default: 1024]")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="--data has no classes: measure agreement with the unreduced model.")
    ] = False,
    max_drop: Annotated[
        float | None, typer.Option(help="Choose the fastest count that loses at most so many points. [default: 1.0]")
    ] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Choose the most accurate count within so many ms.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Choose by the paper's utility with this weight of latency.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(help="Keep at least this share of the tokens. [default without --data: 0.7]")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="safetensors or torch checkpoint. [default: pretrained, if --data is given]",
        ),
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes of the model. [default: timm's]")] = None,
    image_size: Annotated[int | None, typer.Option(help="Image height and width in pixels. [default: timm's]")] = None,
    normalize: Normalize = None,
    crop_pct: CropPct = None,
    interpolation: Interpolation = None,
    device: Annotated[
        str,
        typer.Option(
            help="cpu, cuda, cuda:N, sim:PROFILE, recorded:NAME, ssh://USER@HOST, or a name of a fleet file; "
            "auto: cuda where there is one."
        ),
    ] = AUTO,
    fleet: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="FILE",
            help="Devices by name, in TOML: runs and compares them all; with --device NAME, runs that one.",
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(metavar="PARTS", help="With sim: none, or parts as in white=0.01,drift,throttling,outliers."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="torch, onnxruntime, openvino, trt or trt-rtx; several, torch,openvino, or all: compare them. "
            "[default: torch; trt on a Jetson elsewhere]"
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16, or int8, which is calibrated on the images.")
    ] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="torch: through torch.compile, once per token count.")
    ] = False,
    provider: Annotated[
        str | None, typer.Option(help="onnxruntime: cpu, cuda or tensorrt. [default: the device's]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of any engine. [default: torch's]")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="How tokens are reduced, with options as in pomt:score=cls; several, pomt,tome, or all: compare them."
        ),
    ] = "pomt",
    block: Annotated[
        str,
        typer.Option(
            "--block",
            "--blocks",
            help="The block that reduces, from 0; or several, 3,6,9, or all: evenly in each; auto: searched.",
        ),
    ] = "3",
    probe: Annotated[
        str, typer.Option(help="block: the reduced model itself; input: the paper's random tokens at the input.")
    ] = "block",
    grid_start: Annotated[int | None, typer.Option(help="Most tokens kept in the grid. [default: all]")] = None,
    grid_stop: Annotated[
        int | None, typer.Option(help="Fewest tokens kept in the grid. [default: 10 % of them]")
    ] = None,
    grid_stride: Annotated[
        int | None,
        typer.Option(help="Tokens between the grid's points. [default: 1; 16 to compare methods or engines]"),
    ] = None,
    accuracy_grid: Annotated[
        str | None, typer.Option(help="efficient: accuracy where it can decide; full: everywhere. [default: efficient]")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="adaptive: few counts, those that decide; full: all of the grid. [default: adaptive; full with "
            "--accuracy-grid full, where methods or engines are compared, and for grids of up to 25 counts]"
        ),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(metavar="M", help="End an adaptive search after so long, with what it knows then."),
    ] = None,
    interval: Annotated[
        float, typer.Option(help="A point is measured until its 95 % interval is within so many percent …")
    ] = 1.0,
    point_seconds: Annotated[float, typer.Option(help="… or so many seconds of forwards went into it.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the order of points, the draw of images and the input probe.")] = 0,
    detrend: Annotated[
        bool, typer.Option("--detrend", help="Take a drift of the machine out: milliseconds as at the sweep's start.")
    ] = False,
    cuda_graphs: Annotated[
        bool | None,
        typer.Option("--cuda-graphs/--no-cuda-graphs", help="Time replays of CUDA graphs. [default: where it can]"),
    ] = None,
    no_lock: NoLock = False,
    require_locked: RequireLocked = False,
    power_mode: PowerMode = None,
    gpu_clock: GpuClock = None,
    sysroot: Sysroot = Path("/"),
    ssh_config: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FILE", help="With ssh://: as ssh -F. [default: the user's own]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="Folder of results; given again, it resumes. [default: runs/MODEL-bsN-DEVICE-TIME]",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the plan, and nothing else, on standard output.")
    ] = False,
    version: Version = False,
) -> int:
    """Measure latency against tokens kept, on this device, and choose how many to remove, or none.

    Without options it runs the embedded demo. A run that was interrupted goes on when it is started again with
    the same --out.
    """
    from pomt_edge import engines
    from pomt_edge.request import OF_A_RECORDING, Request, default_engine

    request = Request(
        model=model,
        batch_size=batch_size,
        data=data,
        images=images,
        unlabelled=unlabelled,
        weights=weights,
        num_classes=num_classes,
        image_px=image_size,
        normalize=normalize,
        crop_pct=crop_pct,
        interpolation=interpolation,
        device=device,
        engine=engines.as_typed(engine) if engine else default_engine(device),
        noise=noise,
        precision=precision,
        compile=compiled,
        provider=provider,
        threads=threads,
        method=method,
        block=block,
        probe=probe,
        grid_start=grid_start,
        grid_stop=grid_stop,
        grid_stride=grid_stride,
        max_drop=max_drop,
        budget_ms=budget_ms,
        alpha=alpha,
        keep=keep,
        accuracy_grid=accuracy_grid,
        search=search,
        max_minutes=max_minutes,
        interval_percent=interval,
        point_seconds=point_seconds,
        seed=seed,
        detrend=detrend,
        cuda_graphs=cuda_graphs,
        lock=not no_lock,
        require_locked=require_locked,
        power_mode=power_mode,
        gpu_clock_mhz=gpu_clock,
        sysroot=sysroot,
        ssh_config=ssh_config,
        out=out,
        typed=frozenset(name for name in OF_A_RECORDING if _is_typed(context, name)),
    )
    if fleet is not None and device == AUTO:
        return _run_fleet(fleet, request, context, as_json)
    from pomt_edge import fleet_file

    if one := fleet_file.named(device, fleet):
        print(f"{one.name} of {one.file}: {one}", file=sys.stderr)
        request = one.request(request, engine is not None)
    return _run(request, as_json)


def _run_fleet(file: Path, request: Request, context: typer.Context, as_json: bool) -> int:
    from pomt_edge import fleet_file

    typed = _typed(context)
    devices = fleet_file.load(file)
    for device in devices:
        device.request(request, "--engine" in typed)  # what one can't do is said before any is started
    from pomt_edge import fleet
    from pomt_edge.console import LiveProgress, print_fleet

    folder = request.out or Path("runs") / f"fleet-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    try:
        with LiveProgress() as progress:
            outcome = fleet.run(devices, typed, folder, progress)
    except KeyboardInterrupt as interrupt:
        return fail(str(interrupt) or "interrupted", INTERRUPTED)
    print_fleet(outcome, folder, to_stderr=as_json)
    if as_json:
        print(outcome.to_json())
    reached = any(result.plan.verdict != "unreachable" for _, result in outcome.results)
    return 0 if reached and not outcome.failed else NEGATIVE


def _typed(context: typer.Context) -> Options:
    """The options as given, but for those that a fleet gives each of its devices itself."""
    typed: Options = {}
    for option in context.command.params:
        if not _is_typed(context, option.name or "") or option.opts[0] in OF_THE_FLEET:
            continue
        value = context.params[option.name or ""]
        if isinstance(value, bool):
            typed[option.opts[0]] = [option.opts[0] if value else option.secondary_opts[0]]
        else:
            typed[option.opts[0]] = [f"{option.opts[0]}={value}"]
    return typed


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _compare(request: Request, as_json: bool, progress: LiveProgress) -> int:
    from pomt_edge import contest
    from pomt_edge.commands._contest_table import print_contest

    outcome, folder = contest.run(request, progress)
    print_contest(outcome, folder, to_stderr=as_json)
    if as_json:
        print(outcome.plan.to_json())
    return NEGATIVE if outcome.verdict == "unreachable" else 0


def _run(request: Request, as_json: bool) -> int:
    request.check()
    from pomt_edge.console import LiveProgress, print_summary

    end_as_interrupted()
    try:
        with LiveProgress() as progress:
            if request.is_contest:
                return _compare(request, as_json, progress)
            from pomt_edge import offline

            result, folder = offline.run(request, progress)
    except KeyboardInterrupt as interrupt:
        # Here and not around the command: typer would turn it into a bare exit code.
        return fail(str(interrupt) or "interrupted", INTERRUPTED)
    print_summary(result, folder, to_stderr=as_json)
    if as_json:
        print(result.plan.to_json())
    return NEGATIVE if result.plan.verdict == "unreachable" else 0
