"""What a user asks of `deploy`, checked as far as that needs no model and no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pomt_edge import catalogue, checks, demo, engines
from pomt_edge.engines import PRECISIONS
from pomt_edge.errors import UserError
from pomt_edge.export.target import TARGETS
from pomt_edge.records import Plan, RecordError
from pomt_edge.reduce import METHODS
from pomt_edge.request import ELSEWHERE

ONNX = "onnx"
"""No engine: the graphs are the result."""
RUNS = Path("runs")
DEPLOYMENT = "deployment.json"
DEFAULT_IMAGES = 64


@dataclass(frozen=True)
class DeployRequest:
    """The options of `deploy`; None: the plan's, or the default, which may depend on the model."""

    plan: Path | None = None
    model: str | None = None
    batch_size: int | None = None
    removed: int | None = None
    block: str | None = None
    """As typed: one block, some, or all."""
    method: str | None = None
    num_classes: int | None = None
    image_px: int | None = None
    weights: Path | None = None
    random_weights: bool = False
    engine: str | None = None
    device: str = "auto"
    provider: str | None = None
    compile: bool = False
    cuda_graphs: bool | None = None
    precision: str | None = None
    target: str | None = None
    dynamic_batch: bool = False
    builds: int = 1
    workspace_mib: int | None = None
    threads: int | None = None
    data: Path | None = None
    images: int = DEFAULT_IMAGES
    normalize: str | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    bundle: Path | None = None
    counts: str | None = None
    """Further token counts for the bundle, as typed: '192,160,128'."""
    serve_check: Path | None = None
    interval_percent: float = 1.0
    point_seconds: float = 5.0
    lock: bool = True
    require_locked: bool = False
    power_mode: str | None = None
    gpu_clock_mhz: int | None = None
    sysroot: Path = Path("/")
    out: Path | None = None

    def check(self) -> None:
        """Raise a UserError for an option out of its range, or options that exclude each other."""
        self._check_source()
        self._check_device()
        checks.in_range("--bs", self.batch_size, 1, 65536)
        checks.in_range("--removed", self.removed, 0, 10**6)
        checks.in_range("--images", self.images, 1, 10**6)
        checks.in_range("--builds", self.builds, 1, 100)
        checks.in_range("--workspace", self.workspace_mib, 1, 10**7)
        checks.in_range("--point-seconds", self.point_seconds, 0.0, 1e5)
        checks.in_range("--interval", self.interval_percent, 0.01, 100.0)
        checks.one_of("--precision", self.precision, PRECISIONS)
        checks.one_of("--target", self.target, list(TARGETS))
        checks.one_of("--engine", self.engine, [*engines.names(), ONNX])
        checks.a_file("--weights", self.weights, "safetensors or a torch checkpoint")
        checks.a_folder("--data", self.data, "a folder of images")
        checks.a_folder("--serve-check", self.serve_check, "a folder of images")
        if self.weights is not None and self.random_weights:
            raise UserError("--weights and --random-weights exclude each other; leave one out")
        if self.serve_check is not None and self.engine == ONNX:
            raise UserError("--serve-check runs an engine, and --engine onnx stops at the graphs; leave one out")
        if self.counts is not None and self.bundle is None:
            raise UserError("--counts are further graphs of a bundle; give --bundle DIR as well, or leave it out")
        self.further_counts()

    def _check_device(self) -> None:
        if self.device.partition(":")[0] in ELSEWHERE:
            raise UserError(
                f"--device {self.device}: engines are built and measured on this machine; for a board give "
                "--engine onnx --target jetpack6 --bundle DIR and run the bundle there"
            )
        if not checks.is_here(self.device):
            raise UserError(f"--device {self.device}: expected cpu, cuda or cuda:N")

    def _check_source(self) -> None:
        if self.plan is not None and self.model is not None:
            raise UserError("--plan and --model exclude each other: a plan names its model; leave one out")
        for option, value in (("--removed", self.removed), ("--block", self.block), ("--method", self.method)):
            if self.model is None and value is not None and (option != "--removed" or self.plan is not None):
                raise UserError(f"{option} is for --model: a plan says what to remove, where and how; leave it out")
        if self.model is not None and self.removed is None:
            raise UserError("--model needs --removed N as well (and --block, 3 unless given), or give --plan FILE")
        if self.removed is not None and self.model is None:
            raise UserError("--removed needs --model as well; without it the newest plan is deployed")
        if self.method is not None:
            catalogue.check(self.method.partition(":")[0], catalogue.names(METHODS), "method")
        if self.workspace_mib is not None and self.engine not in (None, "trt", "trt-rtx", "onnxruntime"):
            raise UserError(f"--workspace is TensorRT's; leave it out with --engine {self.engine}")

    def further_counts(self) -> tuple[int, ...]:
        """--counts: token counts whose graphs go into the bundle beside the two, most first."""
        if self.counts is None:
            return ()
        try:
            return tuple(sorted({int(part) for part in self.counts.split(",")}, reverse=True))
        except ValueError:
            raise UserError(f"--counts {self.counts}: expected token counts such as 192,160,128") from None


def find_plan(request: DeployRequest) -> tuple[Plan, Path] | None:
    """The plan that was named, or the newest below runs/, and its file; None where the model was named instead.

    Raises:
        UserError: no such plan, no plan at all, or a file that is none.
    """
    if request.model is not None:
        return None
    file = _plan_file(request.plan) if request.plan is not None else _newest()
    try:
        return Plan.load(file), file
    except RecordError as error:
        raise UserError(f"--plan {error}; expected plan.json, or the folder of a finished run") from error


def _plan_file(path: Path) -> Path:
    return path / "plan.json" if path.is_dir() else path


def _newest() -> Path:
    plans = [file for file in RUNS.glob("*/plan.json") if not (file.parent / DEPLOYMENT).exists()]
    if not plans:
        raise UserError(
            f"there is no plan below {RUNS}/ here; make one by offline_compute, or give --plan FILE, or "
            "--model NAME --bs N --removed R --block 3"
        )
    return max(plans, key=lambda file: file.stat().st_mtime)


def with_plan(request: DeployRequest, plan: Plan) -> DeployRequest:
    """The request with what the plan says where nothing else was given."""
    return dataclasses.replace(
        request,
        model=plan.model,
        batch_size=request.batch_size or plan.batch_size,
        num_classes=request.num_classes if request.num_classes is not None else _classes(plan),
        image_px=request.image_px or (None if plan.model == demo.NAME else plan.image_px),
        engine=request.engine or engines.as_typed(plan.engine),
        precision=request.precision or plan.precision,
        device=plan.device if _keeps_device(request, plan) else request.device,
    )


def _keeps_device(request: DeployRequest, plan: Plan) -> bool:
    """Whether to stay on the device that the plan was measured on: where nothing else was asked for."""
    same_engine = request.engine in (None, engines.as_typed(plan.engine))
    return request.device == "auto" and same_engine and plan.device.startswith(("cpu", "cuda"))


def _classes(plan: Plan) -> int | None:
    return None if plan.model == demo.NAME else plan.num_classes or None
