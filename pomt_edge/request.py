"""What a user asks of the main job, checked as far as that needs no model and no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pomt_edge import catalogue, checks, demo, engines, profiles
from pomt_edge.choose import adaptive
from pomt_edge.choose.plan import Limits
from pomt_edge.engines import PRECISIONS
from pomt_edge.errors import UserError
from pomt_edge.records import ADAPTIVE, FULL
from pomt_edge.reduce import METHODS
from pomt_edge.simulator import asked, noise
from pomt_edge.targets import recordings

DEFAULT_MAX_DROP = 1.0
DEFAULT_KEEP = 0.7
DEFAULT_IMAGES = 1024
COARSE_STRIDE = 16
ALL = "all"
"""Every method, or every engine, compared."""
VARIANTS = ("pomt:score=cls",)
"""Ways of a method that are worth a place of their own where all are compared."""
AUTO_BLOCKS = "auto"
"""A schedule of several blocks, searched."""
DEFAULT_BLOCK = "3"
ELSEWHERE = ("sim", "recorded", "ssh")
"""How the names of devices begin that are not this machine."""
OF_A_RECORDING = ("engine", "probe", "method", "block")
"""Fields that a recording has its own values of."""
PROBES = ("block", "input")
PROVIDERS = ("cpu", "cuda", "tensorrt")
ACCURACY_GRIDS = ("efficient", "full")
SEARCHES = (ADAPTIVE, FULL)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


def default_engine(device: str) -> str:
    """What runs the model where the user names nothing: on boards TensorRT, for they have no PyTorch of today.

    Raises:
        UserError: a simulated device that there is not.
    """
    kind, _, name = device.partition(":")
    if kind == "sim":
        return "trt" if profiles.load(name).board else "torch"
    return "trt" if device.startswith("ssh://") else "torch"


@dataclass(frozen=True)
class Request:
    """The options of `offline_compute`; None: the default, which may depend on the model or the data."""

    model: str = demo.NAME
    batch_size: int = 1
    data: Path | None = None
    images: int | None = None
    unlabelled: bool = False
    weights: Path | None = None
    num_classes: int | None = None
    image_px: int | None = None
    normalize: str | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    device: str = "auto"
    noise: str | None = None
    """Of a simulated device, as typed."""
    engine: str = "torch"
    """As typed: one, several with commas between them, or all."""
    precision: str = "fp32"
    compile: bool = False
    """torch alone: through torch.compile."""
    provider: str | None = None
    """ONNX Runtime alone: what it runs on; None: the device's own."""
    threads: int | None = None
    method: str = "pomt"
    """As typed: one, several with commas between them, or all."""
    block: str = DEFAULT_BLOCK
    """As typed: one block, some, all, or auto."""
    probe: str = "block"
    grid_start: int | None = None
    grid_stop: int | None = None
    grid_stride: int | None = None
    grid_as_far_as_possible: bool = False
    """A grid that goes beyond what the method can remove ends there instead of being refused."""
    max_drop: float | None = None
    budget_ms: float | None = None
    alpha: float | None = None
    keep: float | None = None
    accuracy_grid: str | None = None
    search: str | None = None
    """None: adaptive, but full where accuracy is wanted everywhere or methods are compared."""
    max_minutes: float | None = None
    """After which an adaptive search ends with what it knows."""
    interval_percent: float = 1.0
    point_seconds: float = 1.0
    seed: int = 0
    detrend: bool = False
    cuda_graphs: bool | None = None
    """None: where the device and the model can."""
    lock: bool = True
    require_locked: bool = False
    power_mode: str | None = None
    gpu_clock_mhz: int | None = None
    sysroot: Path = Path("/")
    """Where the machine's own files are mounted."""
    ssh_config: Path | None = None
    """For the board's ssh; None: the user's own."""
    out: Path | None = None
    typed: frozenset[str] = frozenset()
    """Fields that the user gave even where they have their default; of those that a recording would else decide."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the latencies are another device's than this machine's."""
        return self.device.partition(":")[0] in ELSEWHERE

    @property
    def is_simulated(self) -> bool:
        return self.device.startswith("sim:")

    @property
    def is_recorded(self) -> bool:
        return self.device.startswith("recorded:")

    @property
    def engine_names(self) -> tuple[str, ...]:
        """The engines that are asked for."""
        if self.engine == ALL:
            return ("torch", *(name for name in engines.names() if name != "torch"))
        return checks.several("--engine", self.engine)

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods that are asked for, with their options."""
        if self.method == ALL:
            return tuple(sorted([*catalogue.names(METHODS), *VARIANTS]))
        return checks.several("--method", self.method)

    @property
    def is_contest(self) -> bool:
        """Whether several methods or engines are compared."""
        return ALL in (self.method, self.engine) or len(self.method_names) * len(self.engine_names) > 1

    def contender(self, method: str, engine: str) -> Request:
        """The same with one method on one engine; what only one of the engines takes goes to that one."""
        own: dict[str, Any] = {}
        if "torch" in self.engine_names:
            own["compile"] = self.compile and engine == "torch"
        if "onnxruntime" in self.engine_names:
            own["provider"] = self.provider if engine == "onnxruntime" else None
        return dataclasses.replace(self, method=method, engine=engine, **own)

    @property
    def searches_blocks(self) -> bool:
        """Whether a schedule of several blocks is searched."""
        return self.block == AUTO_BLOCKS

    @property
    def swept_block(self) -> str:
        """Where the counts of the sweep are removed: the search of a schedule begins with the default's."""
        return DEFAULT_BLOCK if self.searches_blocks else self.block

    @property
    def has_data(self) -> bool:
        return self.data is not None or self.model == demo.NAME

    @property
    def calibrated(self) -> bool:
        """Whether images have to show the ranges of the activations: not where nothing is built."""
        return self.precision == "int8" and not (self.is_simulated or self.is_recorded)

    @property
    def simulated(self) -> dict[str, Any]:
        """What a simulated device is asked for, as `simulator.asked` takes it."""
        return {name: getattr(self, name) for name in ("engine", "precision", "batch_size", "cuda_graphs")}

    @property
    def stride(self) -> int:
        """Tokens between the grid's points; a comparison is coarse unless asked otherwise."""
        return self.grid_stride or (COARSE_STRIDE if self.is_contest and not self.is_searched else 1)

    @property
    def is_searched(self) -> bool:
        """Whether a search was asked for by name."""
        return self.search == ADAPTIVE

    def searches(self, counts: Sequence[int]) -> bool:
        """Whether the counts are searched, instead of all being measured; where they are few, all are fewer."""
        if self.search is not None:
            return self.is_searched
        return self.accuracy_grid != "full" and (len(counts) > adaptive.LATENCY_POINTS or self.max_minutes is not None)

    @property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """--normalize: one mean and std for all channels, or three means and three stds."""
        if self.normalize is None:
            return None
        try:
            values = tuple(float(part) for part in self.normalize.split(","))
        except ValueError:
            values = ()
        usable = all(map(math.isfinite, values)) and all(std > 0 for std in values[len(values) // 2 :])
        if len(values) not in (2, 6) or not usable:
            raise UserError(
                f"--normalize {self.normalize}: expected MEAN,STD such as 0.5,0.5 (or three of each: r,g,b,r,g,b)"
            )
        half = len(values) // 2
        return (values[:1] * 3, values[1:] * 3) if half == 1 else (values[:half], values[half:])

    @property
    def limits(self) -> Limits:
        """The limits with their defaults: a loss of one point where there is data, else seven tenths kept."""
        chosen = self.max_drop is not None or self.budget_ms is not None or self.alpha is not None
        max_drop = DEFAULT_MAX_DROP if self.has_data and not chosen else self.max_drop
        keep = DEFAULT_KEEP if not self.has_data and self.keep is None else self.keep
        return Limits(max_drop, self.budget_ms, self.alpha, keep)

    def check(self) -> None:
        """Raise a UserError for an option out of its range, or options that exclude each other."""
        if self.is_contest:
            self._check_contest()
            return
        self._check_ranges()
        self._check_words()
        self._check_data()
        self._check_engine()
        if len([value for value in (self.max_drop, self.budget_ms, self.alpha) if value is not None]) > 1:
            raise UserError("--max-drop, --budget-ms and --alpha exclude each other: each is a way to choose; give one")
        self._check_search()
        self._check_clocks()
        if self.searches_blocks:
            self._check_auto_blocks()
        own = {"--normalize": self.mean_and_std, "--crop-pct": self.crop_pct, "--interpolation": self.interpolation}
        given = [option for option, value in own.items() if value is not None]
        if given and self.model == demo.NAME and self.data is None:
            raise UserError(f"the embedded demo's images are ready as they are; leave out {given[0]}, or give --data")

    def _check_contest(self) -> None:
        kind = self.device.partition(":")[0]
        if len(self.engine_names) > 1 and self.is_elsewhere:
            raise UserError(
                f"--device {self.device} is measured on one engine; give one --engine, or --device cpu or cuda"
            )
        if kind == "recorded":
            raise UserError(f"--method {self.method} needs a curve of each, and a recording has one; give one --method")
        if self.max_minutes is not None and not self.is_searched:
            raise UserError(
                "--max-minutes bounds a search, and a comparison measures whole coarse grids; leave it out, or give "
                "--search adaptive as well"
            )
        if self.searches_blocks:
            raise UserError(
                f"--blocks {AUTO_BLOCKS} is for one method on one engine; name one of each, or give --block 3"
            )
        for engine in self.engine_names:
            for method in self.method_names:
                self.contender(method, engine).check()

    def _check_auto_blocks(self) -> None:
        """What a schedule can't be searched with."""
        for given, why, instead in (
            (not self.has_data, "weighs latency against accuracy", "give --data DIR as well, or --block 3"),
            (self.is_recorded, "has to measure schedules, and a recording has one block", "leave it out"),
            (self.probe == "input", "removes in blocks, and --probe input before them", "leave one out"),
            (self.alpha is not None, "needs a limit that holds or not", "give --max-drop or --budget-ms, not --alpha"),
            (self.detrend, "compares side by side, without --detrend", "leave one out"),
        ):
            if given:
                raise UserError(f"--blocks {AUTO_BLOCKS} {why}; {instead}")

    def _check_engine(self) -> None:
        if self.compile and self.engine != "torch":
            raise UserError(f"--compile is torch's, and --engine {self.engine} compiles by itself; leave it out")
        if self.provider is not None and self.engine != "onnxruntime":
            raise UserError("--provider is ONNX Runtime's; give --engine onnxruntime, or leave --provider out")
        if self.probe == "input" and self.engine != "torch":
            raise UserError("--probe input runs in torch alone; give --engine torch, or leave --probe out")
        if self.calibrated and not self.has_data:
            raise UserError("--precision int8 is calibrated on images: give --data DIR as well")

    def _check_search(self) -> None:
        if self.is_searched and self.accuracy_grid == "full":
            raise UserError(
                "--accuracy-grid full measures everywhere; give --search full, or leave --accuracy-grid out"
            )
        if self.max_minutes is not None and (self.search == FULL or self.accuracy_grid == "full"):
            raise UserError(
                "--max-minutes bounds an adaptive search; leave it out, or --search full and --accuracy-grid full, "
                "which measure a whole grid"
            )

    def _check_clocks(self) -> None:
        if not self.sysroot.is_dir():
            raise UserError(
                f"--sysroot {self.sysroot}: {checks.absent(self.sysroot)}; expected where the machine's / is mounted"
            )
        if not self.lock and self.require_locked:
            raise UserError("--no-lock and --require-locked exclude each other; leave one out")
        if not self.lock and (self.power_mode or self.gpu_clock_mhz):
            option = "--power-mode" if self.power_mode else "--gpu-clock"
            raise UserError(f"{option} sets clocks and --no-lock leaves them alone; leave one out")

    def _check_ranges(self) -> None:
        checks.in_range("--bs", self.batch_size, 1, 65536)
        checks.in_range("--images", self.images, 1, 10**9)
        checks.in_range("--num-classes", self.num_classes, 1, 10**7)
        checks.in_range("--image-size", self.image_px, 1, 16384)
        checks.in_range("--crop-pct", self.crop_pct, 0.05, 1.0)
        checks.in_range("--threads", self.threads, 1, 4096)
        checks.in_range("--grid-stride", self.grid_stride, 1, 10**6)
        checks.in_range("--max-drop", self.max_drop, 0.0, 100.0)
        checks.in_range("--budget-ms", self.budget_ms, 1e-6, 1e9)
        checks.in_range("--alpha", self.alpha, 0.0, 1.0)
        checks.in_range("--keep", self.keep, 0.0, 1.0)
        checks.in_range("--interval", self.interval_percent, 0.01, 100.0)
        checks.in_range("--point-seconds", self.point_seconds, 0.0, 1e5)
        checks.in_range("--max-minutes", self.max_minutes, 0.01, 1e5)
        checks.in_range("--gpu-clock", self.gpu_clock_mhz, 1, 10**5)
        checks.in_range("--seed", self.seed, 0, 2**63 - 1)

    def _check_words(self) -> None:
        catalogue.check(self.engine, engines.names(), "engine")
        catalogue.check(self.method.partition(":")[0], catalogue.names(METHODS), "method")
        checks.one_of("--precision", self.precision, PRECISIONS)
        checks.one_of("--provider", self.provider, PROVIDERS)
        checks.one_of("--probe", self.probe, PROBES)
        checks.one_of("--accuracy-grid", self.accuracy_grid, ACCURACY_GRIDS)
        checks.one_of("--search", self.search, SEARCHES)
        checks.one_of("--interpolation", self.interpolation, INTERPOLATIONS)
        self._check_device()

    def _check_device(self) -> None:
        kind, _, rest = self.device.partition(":")
        if kind == "sim":
            profiles.load(rest)
        elif kind == "recorded":
            recordings.load(rest)
        elif kind == "ssh" and rest.startswith("//"):
            pass  # what there is shows when it is opened
        elif not checks.is_here(self.device):
            raise UserError(
                f"--device {self.device}: expected cpu, cuda, cuda:N, sim:PROFILE, recorded:NAME or ssh://USER@HOST "
                "(pomt-edge devices lists the profiles)"
            )
        if self.noise is not None and kind != "sim":
            raise UserError("--noise is a simulated device's; give --device sim:PROFILE, or leave it out")
        if self.ssh_config is not None and kind != "ssh":
            raise UserError("--ssh-config is a board's; give --device ssh://USER@HOST, or leave it out")
        if self.ssh_config is not None and not self.ssh_config.is_file():
            raise UserError(
                f"--ssh-config {self.ssh_config}: {checks.absent(self.ssh_config)}; expected a file as ssh -F takes"
            )
        if self.is_elsewhere:
            self._check_elsewhere(kind)
        if self.noise is not None:
            noise.parse(self.noise)
        if self.is_simulated:
            asked.check(profiles.load(rest), **self.simulated, power_mode=self.power_mode)

    def _check_elsewhere(self, kind: str) -> None:
        """What only this machine, or only some of the others, can do is refused rather than ignored."""
        fixed = kind == "recorded"
        launched = self.cuda_graphs is not None
        for option, given, why in (
            ("--compile", self.compile, "is for this machine alone"),
            ("--gpu-clock", self.gpu_clock_mhz is not None, "is for this machine alone"),
            ("--cuda-graphs", launched and (kind != "sim" or self.engine != "torch"), "is torch's, here or simulated"),
            ("--power-mode", fixed and self.power_mode is not None, "can't be changed in a recording"),
        ):
            if given:
                raise UserError(f"{option} {why}; leave it out with --device {self.device}")

    def _check_data(self) -> None:
        if self.data is not None and not self.data.is_dir():
            raise UserError(f"--data {self.data}: {checks.absent(self.data)}; expected one folder of images per class")
        if self.weights is not None and not self.weights.is_file():
            raise UserError(
                f"--weights {self.weights}: {checks.absent(self.weights)}; expected .safetensors or a checkpoint"
            )
        if self.has_data:
            return
        for option, given in (
            ("--max-drop", self.max_drop is not None),
            ("--alpha", self.alpha is not None),
            ("--images", self.images is not None),
            ("--accuracy-grid", self.accuracy_grid is not None),
            ("--unlabelled", self.unlabelled),
            ("--normalize", self.normalize is not None),
            ("--crop-pct", self.crop_pct is not None),
            ("--interpolation", self.interpolation is not None),
        ):
            if given:
                raise UserError(f"{option} needs images to measure accuracy on: give --data DIR as well")
