"""`deploy`: from a plan to a proven and measured engine, or to a bundle for a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pomt_edge.commands.common import INTERRUPTED, NEGATIVE, NO_ENGINE, end_as_interrupted, fail, path
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
    from pomt_edge.deploy_request import DeployRequest
    from pomt_edge.records import Deployment


def deploy(
    plan: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="PATH", help="A run's folder or its plan.json. [default: the newest in runs/]"
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Instead of a plan: timm's name, or demo, and …")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--bs", "--batch-size", help="Images per forward. [default: the plan's, else 1]")
    ] = None,
    removed: Annotated[int | None, typer.Option(help="… so many tokens to remove in …")] = None,
    block: Annotated[
        str | None,
        typer.Option(help="… this block, from 0; or several, 3,6,9, or all: evenly in each. [default: 3]"),
    ] = None,
    method: Annotated[str | None, typer.Option(help="With --model: how tokens are reduced. [default: pomt]")] = None,
    num_classes: Annotated[int | None, typer.Option(help="Classes of the model. [default: the plan's]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Image height and width in pixels. [default: the plan's]")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FILE", help="safetensors or torch checkpoint. [default: pretrained]"),
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="None at all: for latency, not for use.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            help="torch, onnxruntime, openvino, trt or trt-rtx; onnx: stop at the graphs. [default: the plan's]"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto: the plan's, else the engine's.")] = "auto",
    provider: Annotated[str | None, typer.Option(help="ONNX Runtime's: cpu, cuda or tensorrt.")] = None,
    compile_it: Annotated[bool, typer.Option("--compile", help="torch: through torch.compile.")] = False,
    cuda_graphs: Annotated[
        bool | None,
        typer.Option("--cuda-graphs/--no-cuda-graphs", help="Replay CUDA graphs. [default: where it can]"),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16, bf16 or int8. [default: the plan's]")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Write graphs for jetpack4, jetpack5, jetpack6 or jetpack7. [default: the engine's here]"),
    ] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Graphs that take any batch.")] = False,
    builds: Annotated[int, typer.Option(help="Build so many times and show how much the builds differ.")] = 1,
    workspace: Annotated[int | None, typer.Option(metavar="MIB", help="TensorRT's workspace limit.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: torch's]")] = None,
    data: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="DIR", help="Images to prove the engine on. [default: seeded noise]"),
    ] = None,
    images: Annotated[int, typer.Option(help="How many of them.")] = 64,
    normalize: Normalize = None,
    crop_pct: CropPct = None,
    interpolation: Interpolation = None,
    bundle: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="DIR", help="Write a folder that runs on a board without this package."),
    ] = None,
    counts: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Further token counts for the bundle: a curve on the board.")
    ] = None,
    serve_check: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="DIR", help="Time the whole way from (up to 256 of) these image files to labels."
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(help="Each model is measured until its 95 % interval is within so many percent …")
    ] = 1.0,
    point_seconds: Annotated[float, typer.Option(help="… or so many seconds of forwards went into it.")] = 5.0,
    no_lock: NoLock = False,
    require_locked: RequireLocked = False,
    power_mode: PowerMode = None,
    gpu_clock: GpuClock = None,
    sysroot: Sysroot = Path("/"),
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="PATH",
            help="Folder of results; given again, it resumes. [default: runs/deploy-MODEL-bsN-ENGINE-TIME]",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the deployment, and nothing else, on standard output.")
    ] = False,
    version: Version = False,
) -> int:
    """Reduce the model as the plan says, export it, prove that it computes the same, build it, and measure it.

    Without options it deploys the newest plan in runs/. Exit codes: 0 deployed, 1 the proof failed or the plan's
    promise did not hold, 2 something to mend in the command, 3 the engine is not here (a bundle is written).
    """
    from pomt_edge import engines
    from pomt_edge.deploy_request import DeployRequest

    request = DeployRequest(
        plan=plan,
        model=model,
        batch_size=batch_size,
        removed=removed,
        block=block,
        method=method,
        num_classes=num_classes,
        image_px=image_size,
        weights=weights,
        random_weights=random_weights,
        engine=engines.as_typed(engine) if engine else None,
        device=device,
        provider=provider,
        compile=compile_it,
        cuda_graphs=cuda_graphs,
        precision=precision,
        target=target,
        dynamic_batch=dynamic_batch,
        builds=builds,
        workspace_mib=workspace,
        threads=threads,
        data=data,
        images=images,
        normalize=normalize,
        crop_pct=crop_pct,
        interpolation=interpolation,
        bundle=bundle,
        counts=counts,
        serve_check=serve_check,
        interval_percent=interval,
        point_seconds=point_seconds,
        lock=not no_lock,
        require_locked=require_locked,
        power_mode=power_mode,
        gpu_clock_mhz=gpu_clock,
        sysroot=sysroot,
        out=out,
    )
    return _run(request, as_json)


def _run(request: DeployRequest, as_json: bool) -> int:
    request.check()
    from pomt_edge.console import LiveProgress

    end_as_interrupted()
    try:
        with LiveProgress() as progress:
            from pomt_edge import deployment

            result, folder = deployment.run(request, progress)
    except KeyboardInterrupt as interrupt:
        return fail(str(interrupt) or "interrupted", INTERRUPTED)
    from pomt_edge.commands._deploy_summary import print_deployment

    print_deployment(result, folder, to_stderr=as_json)
    if as_json:
        print(result.to_json())
    return _exit_code(result)


def _exit_code(result: Deployment) -> int:
    if result.verdict == "not run":
        return NO_ENGINE
    return NEGATIVE if result.verdict == "diverges" or result.promise == "broken" else 0
