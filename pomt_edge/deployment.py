"""`deploy`, end to end: plan, reduced model, graphs, proof, engine, benchmark, promise, bundle."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

import torch

from pomt_edge import engines
from pomt_edge.deploy import bundle, serve
from pomt_edge.deploy.promise import promise
from pomt_edge.deploy_request import DEPLOYMENT, ONNX, DeployRequest, find_plan, with_plan
from pomt_edge.deploy_steps import Steps, Work
from pomt_edge.deploy_subject import check_weights, subject_of
from pomt_edge.engines import Engine, Setting
from pomt_edge.errors import Interrupted, Unavailable, UserError
from pomt_edge.export import target as targets
from pomt_edge.export.target import Target
from pomt_edge.job import check_writable
from pomt_edge.machine.controls import controls_of
from pomt_edge.machine.system import System
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.records import MEASURED, Deployment, Parity, Plan

DEPLOYED, EXPORTED, NOT_RUN, DIVERGES = "deployed", "exported", "not run", "diverges"
UNPROVEN = "Graphs were not proven, because ONNX Runtime is not installed or can't run their precision"
RESULTS = "results"
DEFAULT_BOARD = "jetpack6"
BUILDS_APART = 1.02
"""Ratio of the slowest to the fastest build from which on a user should know."""


def run(request: DeployRequest, progress: Progress) -> tuple[Deployment, Path]:
    """Deploy what the request asks, and give the result and the folder that holds it.

    Raises:
        UserError: anything the user can mend.
    """
    request.check()
    named = find_plan(request)
    if named:
        progress.note(f"plan: {named[1]}")
        request = with_plan(request, named[0])
    plan, file = named or (None, None)
    work = _settle(request, plan, file, progress)
    with Journal(work.folder, work.configuration) as journal, tempfile.TemporaryDirectory() as scratch:
        # What it says of the files is over with the first that is written.
        (work.folder / DEPLOYMENT).unlink(missing_ok=True)
        progress.note(f"results: {work.folder}")
        steps = Steps(work, journal, Path(scratch), progress)
        try:
            steps.run()
        except KeyboardInterrupt as error:
            kept = f"interrupted; what was measured is kept: give the same options and --out {work.folder} to go on"
            raise Interrupted(kept) from error
    result = _summary(steps)
    # Before the plan: a folder with a plan alone would be taken for a run of the main job.
    result.save(work.folder / DEPLOYMENT)
    result.plan.save(work.folder / "plan.json")
    return result, work.folder


def _settle(request: DeployRequest, plan: Plan | None, file: Path | None, progress: Progress) -> Work:
    """From the cheapest check to the dearest; nothing is written yet."""
    name = request.engine or "torch"
    engine = None if name == ONNX else engines.load(name)
    check_writable(request.out)
    if request.bundle is not None:
        bundle.check_folder(request.bundle)
        if (request.bundle / RESULTS).exists():
            raise UserError(
                f"--bundle {request.bundle} holds what a board measured of the bundle that is there: give another "
                f"folder, or import it and remove {request.bundle / RESULTS}"
            )
    device, missing = _device(request, engine)
    if request.threads:
        torch.set_num_threads(request.threads)
    subject = subject_of(request, plan, device, progress)
    if file is not None:
        check_weights(request, subject, file.parent / "environment.json")
    setting = Setting(
        device,
        request.precision or "fp32",
        request.batch_size or subject.plan.batch_size,
        subject.preprocessing.image_px,
        compile=request.compile,
        provider=request.provider,
    )
    if engine and not missing:
        engine.check_setting(setting)
        if request.dynamic_batch and engine.TAKES == "module":
            raise UserError(f"--dynamic-batch is for graphs, and --engine {name} takes none; leave it out")
        if request.lock:  # a power mode that this board does not have is said now
            clocks = (request.power_mode, request.gpu_clock_mhz, engine.gpu_uuid(device))
            controls_of(device, System(request.sysroot), *clocks)
    if request.serve_check is not None:
        serve.files_in(request.serve_check, setting.batch_size)
    subject.check_counts(request.further_counts())
    target = _target(request, engine, missing)
    stamp = f"{datetime.datetime.now():%Y%m%d-%H%M%S}"
    folder = request.out or Path("runs") / f"deploy-{subject.created.name}-bs{setting.batch_size}-{name}-{stamp}"
    return Work(request, subject, setting, name, engine, missing, target, folder)


def _target(request: DeployRequest, engine: Engine | None, missing: str | None) -> Target:
    if request.target or engine is None:
        asked = targets.named(request.target or "generic")
        _check_fits(asked, engine, missing)
        return asked
    # Without the engine nobody knows which version the bundle will meet.
    return targets.named(DEFAULT_BOARD) if missing else engine.target()


def _check_fits(asked: Target, engine: Engine | None, missing: str | None) -> None:
    """Raise a UserError for another board's graphs on an engine that is here and would not read them as meant."""
    if engine is None or missing or asked.name == "generic":
        return
    own = engine.target()
    if asked.typed != own.typed or asked.opset > own.opset:
        raise UserError(
            f"--target {asked.name}: the engine here takes graphs for {own.name}; leave --target out, or for another "
            f"board give --engine onnx --target {asked.name} --bundle DIR"
        )


def _device(request: DeployRequest, engine: Engine | None) -> tuple[str, str | None]:
    """The device to use, and why the engine can't be used on it."""
    if engine is None:
        return "cpu", None
    device = engine.default_device() if request.device == "auto" else request.device
    try:
        engine.check_device(device)
    except Unavailable as reason:
        return device, str(reason)
    return "cuda:0" if device == "cuda" else device, None


def _summary(steps: Steps) -> Deployment:
    work, found = steps.work, steps.found
    plan = work.subject.plan
    verdict, because = _verdict(steps)
    word = "none"
    if found.benchmark is not None:
        word, because = promise(plan, found.benchmark, _measured_with(work))
    return Deployment(
        plan=plan,
        engine=work.engine_name,
        engine_version=work.engine.version() if work.engine else None,
        target=work.target.name,
        opset=found.opset,
        precision=work.setting.precision,
        weights=work.subject.created.weights,
        files=found.files,
        parities=found.parities,
        builds=found.builds,
        benchmark=found.benchmark,
        serve=found.serve,
        promise=word,
        verdict=verdict,
        because=because,
        environment=found.environment,
        notes=tuple(_notes(steps)),
    )


def _measured_with(work: Work) -> dict[str, object]:
    setting = work.setting
    facts = {"precision": setting.precision, "batch_size": setting.batch_size, "device": setting.device}
    return {"engine": work.engine_name, **facts}


def _verdict(steps: Steps) -> tuple[str, str]:
    work, found = steps.work, steps.found
    failed = [parity for parity in found.parities if not parity.passed]
    if failed:
        return DIVERGES, "; ".join(map(_failure, failed))
    if work.engine is None:
        proven = f"not proven: {', '.join(found.unproven)}" if found.unproven else "proven by ONNX Runtime"
        return EXPORTED, f"the graphs are written, {proven}; no engine was asked for"
    if steps.missing:
        return NOT_RUN, steps.missing
    return DEPLOYED, ""


def _failure(parity: Parity) -> str:
    where = f"; first at {parity.diverges_at}" if parity.diverges_at else ""
    return f"{parity.variant} model in {parity.engine} {parity.precision}: {parity.because}{where}"


def _notes(steps: Steps) -> list[str]:
    work, found = steps.work, steps.found
    notes = []
    if found.unproven:
        notes.append(f"{UNPROVEN} ({', '.join(found.unproven)}).")
    if work.subject.created.weights == "random":
        notes.append("Random weights: what is built here has the right latency and computes nothing of use.")
    if not work.subject.real_images:
        notes.append("The proof ran on seeded noise; give --data DIR to prove it on real images.")
    if steps.missing and work.target.tensorrt and not work.request.target:
        notes.append(f"The graphs are for {work.target.title} and newer; for another board give --target.")
    if steps.bundle is not None:
        notes.append(f"On the board: bash {steps.bundle.name}/run_trtexec.sh; then here: pomt-edge import DIR.")
    if work.setting.batch_size != work.subject.plan.batch_size:
        notes.append(
            f"The plan was made for batch {work.subject.plan.batch_size}, this is batch {work.setting.batch_size}, "
            f"whose steps may be elsewhere; for a plan of its own: offline_compute --bs {work.setting.batch_size}"
        )
    if work.subject.calibration:
        count = sum(len(batch) for batch in work.subject.calibration)
        notes.append(f"int8 was calibrated on {count} images of {work.request.data or 'the embedded demo'}.")
    notes += _swaps(found.parities)
    plan = work.subject.plan
    if plan.origin != MEASURED:
        notes.append(f"The plan's latencies are {plan.origin} ({plan.device}), not measured.")
    if plan.verdict == "unreachable":
        notes.append("No token count met the plan's limits: the unreduced model is deployed.")
    elif not plan.removed:
        notes.append("The plan says not to prune: the unreduced model is deployed.")
    for variant in dict.fromkeys(build.variant for build in found.builds):
        own = [build.median_ms for build in found.builds if build.variant == variant and build.median_ms]
        if own and max(own) > BUILDS_APART * min(own):
            apart = 100 * (max(own) / min(own) - 1)
            notes.append(f"{len(own)} builds of the {variant} model differ by {apart:.1f} %: {_listed(own)} ms.")
    return notes


def _swaps(parities: tuple[Parity, ...]) -> list[str]:
    """What low precision keeps otherwise."""
    return [
        f"In {one.engine} {one.precision} {100 - one.same_tokens_percent:.1f} % of the images keep partly other tokens "
        f"than in torch fp32, {one.swapped_per_image:.2g} each on average over all images."
        for one in parities
        if one.same_tokens_percent is not None and one.same_tokens_percent < 100 and one.swapped_per_image is not None
    ]


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
