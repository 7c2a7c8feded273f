"""What may help where pruning does not pay: other settings, tried where that is quick, else only named."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from pomt_edge import profiles
from pomt_edge.choose import refusal as kinds
from pomt_edge.choose.refusal import images_needed
from pomt_edge.job import Job
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress, Silent
from pomt_edge.places import Wanted, open_place
from pomt_edge.records import MEASURED, RECORDED, SIMULATED, LatencyCurve, Refusal, Remedy
from pomt_edge.reduce import method
from pomt_edge.request import DEFAULT_IMAGES, DEFAULT_KEEP, Request
from pomt_edge.targets.simulated import SimulatedTarget

NEEDS_NONE = (kinds.BUDGET, kinds.UTILITY)
"""Refusals where nothing is amiss."""
QUICK_SECONDS = 20.0
"""What all that is tried on a real device may take."""
PAIRS, FORWARDS = 6, 3
"""Blocks of each of the two models, in turn, and forwards in a block."""
PROBES, PROBE_SECONDS = 3, 10.0
"""Accuracies measured to find a count that the limit allows, and the time after which none is begun."""
SIMULATED_BATCHES, MEASURED_BATCHES = (4, 16), (4, 8)
"""Times the batch that was refused."""
TAKES_LONG = "it would take more than some seconds here"

LIBRARIES = {
    "cpu": {"onnxruntime": "onnxruntime", "openvino": "openvino"},
    "cuda": {"trt": "tensorrt", "onnxruntime": "onnxruntime"},
}
"""The engines worth trying on a kind of device, each with the library that it needs."""

TimeMs = Callable[[int, int], list[float]]
"""From tokens and a number of forwards to the latency of each."""


@dataclass(frozen=True)
class Asked:
    """What is asked about: the run whose answer was not to prune."""

    job: Job
    refusal: Refusal
    curve: LatencyCurve
    accuracy: Accuracy | None


@dataclass(frozen=True)
class _Idea:
    """A setting that can be tried."""

    what: str
    options: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the request, by its fields."""
    times: float = 1.0
    """Of the latency as it is now, at most."""


def find(asked: Asked, journal: Journal, progress: Progress, begin: Callable[[], object]) -> tuple[Remedy, ...]:
    """What may help, most telling first; what was tried before comes from the journal.

    Args:
        begin: makes the device ready, if that has not happened in this process; called before anything is timed.
    """
    if asked.refusal.kind in NEEDS_NONE:
        return ()
    return (*_surer(asked), *_looser(asked), *_tried(asked, journal, progress, begin), *_named(asked))


def _tried(asked: Asked, journal: Journal, progress: Progress, begin: Callable[[], object]) -> Iterator[Remedy]:
    ideas = _ideas(asked.job)
    if not ideas:
        return
    allowed, fits = _allowed(asked)
    progress.stage("what may help instead", len(ideas))
    kept = [Remedy.from_dict(entry["remedy"]) for entry in journal.entries if "remedy" in entry]
    left_s = QUICK_SECONDS
    for idea in ideas:
        remedy = next((one for one in kept if (one.options, one.tokens) == (idea.options, allowed[-1])), None)
        if remedy is None:
            seconds = _seconds(asked, idea, allowed[-1])
            remedy = _try(asked.job, idea, allowed, begin) if seconds <= left_s else _not_tried(idea, TAKES_LONG)
            if remedy.origin == MEASURED:
                left_s -= seconds
                journal.add({"remedy": remedy.to_dict()})
        progress.advance(remedy.options)
        yield dataclasses.replace(remedy, allowed=fits)


def _try(job: Job, idea: _Idea, allowed: Sequence[int], begin: Callable[[], object]) -> Remedy:
    """A setting that can't be had here, or fails, is one that was not tried: the run's answer stands without it."""
    try:
        if job.request.is_simulated:
            place = _simulated(job, idea.changes)
            tokens = min(allowed, key=lambda tokens: (place.latency_ms(tokens), -tokens))
            return _remedy(idea, tokens, SIMULATED, in_turn(place.time_ms, job.tokens[0], tokens))
        begin()
        with job.sessions.changed(**idea.changes) as sessions:
            speedup = in_turn(lambda tokens, count: sessions(tokens).time_ms(count), job.tokens[0], allowed[-1])
        return _remedy(idea, allowed[-1], MEASURED, speedup)
    except Exception as error:
        return _not_tried(idea, " ".join(str(error).split())[:200] or type(error).__name__)


def _remedy(idea: _Idea, tokens: int, origin: str, speedup: tuple[float, float, float]) -> Remedy:
    return Remedy(idea.what, idea.options, tokens, *speedup, origin=origin)


def _not_tried(idea: _Idea, because: str) -> Remedy:
    return Remedy(idea.what, idea.options, because=because)


def in_turn(time_ms: TimeMs, full: int, tokens: int) -> tuple[float, float, float]:
    """The speedup of a count over all tokens with its 95 % interval, from blocks of both in turn (t-interval)."""
    ratios = []
    for count in (full, tokens):
        time_ms(count, FORWARDS)
    for pair in range(PAIRS):
        order = (full, tokens) if pair % 2 else (tokens, full)
        ms = {count: float(np.median(time_ms(count, FORWARDS))) for count in order}
        ratios.append(math.log(ms[full] / ms[tokens]))
    middle = float(np.mean(ratios))
    half = float(stats.t.ppf(0.975, PAIRS - 1) * np.std(ratios, ddof=1) / math.sqrt(PAIRS))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def _seconds(asked: Asked, idea: _Idea, tokens: int) -> float:
    """What trying an idea takes on a real device, by the latencies that are known."""
    if asked.job.request.is_simulated:
        return 0.0
    pair_ms = asked.curve.baseline.median_ms + asked.curve.at(tokens).median_ms
    return idea.times * pair_ms * FORWARDS * (PAIRS + 1) / 1e3


def _simulated(job: Job, changes: dict[str, Any]) -> SimulatedTarget:
    request = dataclasses.replace(job.request, **changes)
    by = method.load(request.method)
    wanted = Wanted(request, job.created.name, job.created.model, by, job.blocks, job.variant, job.tokens)
    place = open_place(wanted, Silent())
    assert isinstance(place, SimulatedTarget)
    return place


def _ideas(job: Job) -> list[_Idea]:
    """Settings that can be tried at once: simulated ones, and those that this machine needs no build for."""
    request = job.request
    if request.is_simulated:
        return [*_other_kernels(request), *_batches(request, SIMULATED_BATCHES)]
    eager = job.sessions.engine.TAKES == "module" and not request.compile
    if request.is_elsewhere or not eager:
        return []
    graphs = []
    if request.cuda_graphs is False and job.setting.device.startswith("cuda"):
        graphs = [_Idea("CUDA graphs", "--cuda-graphs", {"cuda_graphs": True})]
    return graphs + _batches(request, MEASURED_BATCHES)


def _batches(request: Request, times: Sequence[int]) -> list[_Idea]:
    sizes = {factor: factor * request.batch_size for factor in times}
    return [_Idea(f"batch {size}", f"--bs {size}", {"batch_size": size}, factor) for factor, size in sizes.items()]


def _other_kernels(request: Request) -> list[_Idea]:
    """Of a simulated GPU: another precision, launch or engine."""
    profile = profiles.load(request.device.partition(":")[2])
    if profile.kind != "cuda":
        return []
    found = []
    half = next((name for name in ("fp16", "bf16") if name in profile.precisions), None)
    if request.precision == "fp32" and half:
        found.append(_Idea(half, f"--precision {half}", {"precision": half}))
    if request.engine == "torch":
        if request.cuda_graphs is False:
            found.append(_Idea("CUDA graphs", "--cuda-graphs", {"cuda_graphs": True}))
        if request.probe == "block":
            found.append(_Idea("TensorRT", "--engine trt", {"engine": "trt", "cuda_graphs": None}))
    return found


def _named(asked: Asked) -> Iterator[Remedy]:
    """What has to be built, or loses other images, and is not tried."""
    job, request = asked.job, asked.job.request
    if asked.refusal.kind in (kinds.COSTLY, kinds.UNPROVEN) and request.probe == "block" and not request.is_recorded:
        yield Remedy("another method", "--method all", because="each method takes a run of its own")
    if job.target.origin != MEASURED:
        return
    if request.is_elsewhere:
        for idea in (*_half(request), *_batches(request, MEASURED_BATCHES)):
            yield _not_tried(idea, "the board would have to build it")
        return
    if job.setting.device.startswith("cuda"):
        for idea in _half(request):
            yield _not_tried(idea, "the model would have to be made again")
    if request.engine == "torch" and not request.compile:
        yield Remedy("torch.compile", "--compile", because="each count takes a compilation")
    for name in _other_engines(job) if request.probe == "block" else ():
        yield Remedy(f"engine {name}", f"--engine {name}", because="each count takes a build")


def _half(request: Request) -> list[_Idea]:
    return [_Idea("fp16", "--precision fp16")] if request.precision == "fp32" else []


def _other_engines(job: Job) -> list[str]:
    """Those that run on the device and are installed; they are not loaded, for a library may fork as it is imported."""
    kind = "cuda" if job.setting.device.startswith("cuda") else "cpu"
    if kind == "cpu" and job.request.precision != "fp32":
        return []
    others = {name: library for name, library in LIBRARIES[kind].items() if name != job.request.engine}
    return [name for name, library in others.items() if importlib.util.find_spec(library)]


def _surer(asked: Asked) -> Iterator[Remedy]:
    """Where the intervals are too wide, what narrows them."""
    request, images = asked.job.request, asked.job.images
    if asked.refusal.kind == kinds.UNPROVEN and asked.accuracy and request.limits.max_drop is not None and images:
        needed = images_needed(asked.accuracy.at(asked.refusal.tokens or 0), request.limits.max_drop)
        # Where fewer were found than were asked for there are no more.
        if needed and len(images.pixels) >= (request.images or DEFAULT_IMAGES):
            because = "about so many would prove it, were the estimate to stay, and if there are so many"
            yield Remedy("more images", f"--images {needed}", because=because)
    if asked.refusal.kind in (kinds.NOISY, kinds.NOT_CONFIRMED) and asked.job.target.origin != RECORDED:
        options = f"--interval {request.interval_percent / 2:g} --point-seconds {4 * request.point_seconds:g}"
        yield Remedy("narrower intervals", options, because="it takes up to four times as long as this run")


def _looser(asked: Asked) -> Iterator[Remedy]:
    """The limit that the first surely faster count would be within; no other measurement is needed."""
    found, full = asked.refusal, asked.job.tokens[0]
    speedup = (found.speedup, found.speedup_low, found.speedup_high)
    origin = asked.job.target.origin
    if found.kind in (kinds.COSTLY, kinds.UNPROVEN) and found.drop_high is not None:
        options = f"--max-drop {math.ceil(10 * found.drop_high) / 10:g}"
        yield Remedy("a looser limit", options, found.tokens, *speedup, origin=origin)
    if found.kind == kinds.FLOOR and found.tokens:
        options = f"--keep {math.floor(100 * found.tokens / full) / 100:g}"
        yield Remedy("a looser limit", options, found.tokens, *speedup, origin=origin)


def _allowed(asked: Asked) -> tuple[list[int], bool]:
    """Measured counts that the limits allow, most tokens first, and True; else the one that is nearest to that."""
    job, limits = asked.job, asked.job.request.limits
    by_loss = limits.max_drop is not None and asked.accuracy is not None
    keep = limits.keep if limits.keep is not None else 0.0 if by_loss else DEFAULT_KEEP
    reduced = [point.tokens for point in asked.curve.points[1:]]
    counts = [tokens for tokens in reduced if tokens >= keep * job.tokens[0] - 1e-9]
    if not counts:
        return reduced[:1], False
    if asked.accuracy is None or limits.max_drop is None:
        return counts, True
    fitting = _fitting(counts, limits.max_drop, asked.accuracy)
    if fitting is not None:
        return [tokens for tokens in counts if tokens >= fitting], True
    known = [point for point in asked.accuracy.known() if point.tokens in counts]
    return [min(known, key=lambda point: point.drop_high).tokens], False


def _fitting(counts: Sequence[int], max_drop: float, accuracy: Accuracy) -> int | None:
    """The fewest tokens known to lose no more; where none is known, halfway towards all tokens a few are measured."""
    known = [point for point in accuracy.known() if point.tokens in counts]
    fitting = [point.tokens for point in known if point.drop_high <= max_drop]
    left = [tokens for tokens in counts if tokens > max((point.tokens for point in known), default=0)]
    until = time.monotonic() + PROBE_SECONDS
    for _ in range(PROBES):
        if fitting or not left or time.monotonic() > until:
            break
        middle = left[len(left) // 2]
        left = [tokens for tokens in left if tokens > middle]
        if accuracy.within(middle, max_drop).drop_high <= max_drop:
            fitting.append(middle)
    return min(fitting, default=None)
