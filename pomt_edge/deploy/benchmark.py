"""The unreduced and the reduced model on the engine, in turn: the sweep of a grid of two."""

from __future__ import annotations

from pomt_edge.choose.ratio import speedup_of
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Progress
from pomt_edge.measure.sweep import Begin, Grid, Sweep
from pomt_edge.measure.timing import StopRule
from pomt_edge.records import Benchmark, LatencyPoint
from pomt_edge.targets import Target


def measure(
    target: Target,
    timer: str,
    counts: tuple[int, ...],
    rule: StopRule,
    batch_size: int,
    journal: Journal,
    progress: Progress,
    begin: Begin,
) -> Benchmark:
    """Measure the unreduced count, and the reduced one if there is one, and go on from what the journal holds.

    Args:
        counts: tokens of the unreduced and of the reduced model, or of the unreduced one alone.
    """
    sweep = Sweep(Grid(counts, rule=rule, batch_size=batch_size), target, journal, progress, begin)
    curve = sweep.run()
    if len(counts) > 1:
        curve = sweep.confirm(counts[1])
    reduced = curve.at(counts[1]) if len(counts) > 1 else None
    speedup, low, high = speedup_of(curve, counts[-1])
    return Benchmark(
        baseline=curve.baseline,
        reduced=reduced,
        baseline_images_per_s=throughput(curve.baseline, batch_size),
        reduced_images_per_s=throughput(reduced, batch_size) if reduced else None,
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        steadiness=curve.steadiness,
        timer=timer,
    )


def throughput(point: LatencyPoint, batch_size: int) -> float:
    """Images per second of one forward after the other."""
    return 1e3 * batch_size / point.median_ms
