from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from staircases import KnownTarget, two_cliffs

from pomt_edge.choose import staircase
from pomt_edge.errors import PointFailed, Reconnected, UserError
from pomt_edge.machine.counters import Reading
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.measure.steadiness import detrended
from pomt_edge.measure.sweep import (
    ANCHOR_EVERY,
    BLOCK_SAMPLES,
    Cooling,
    Grid,
    Sweep,
)
from pomt_edge.measure.timing import StopRule
from pomt_edge.measure.visits import Visit, scaled, suspicious
from pomt_edge.records import Kept, LatencyCurve

TOKENS = tuple(range(197, 97, -1))


def sweep(folder: Path, target: KnownTarget, tokens: tuple[int, ...] = TOKENS, **rule: float) -> LatencyCurve:
    with Journal(folder, {}) as journal:
        return Sweep(Grid(tokens, rule=StopRule(**rule)), target, journal, Silent()).run()


def test_the_curve_is_that_of_the_target_most_tokens_first(tmp_path: Path) -> None:
    curve = sweep(tmp_path, KnownTarget(two_cliffs))
    assert [point.tokens for point in curve.points] == list(TOKENS)
    for point in curve.points:
        assert point.median_ms == pytest.approx(two_cliffs(point.tokens), rel=0.01)
        assert point.low_ms <= point.median_ms <= point.high_ms
        assert point.blocks >= 3 and point.samples >= 9
    assert [step.tokens for step in staircase.fit(curve).steps] == [160, 128]


def test_points_are_interleaved_in_random_order_with_the_anchor_throughout(tmp_path: Path) -> None:
    target = KnownTarget(two_cliffs)
    sweep(tmp_path, target)
    order = target.blocks()
    first_round = [tokens for tokens in order[: len(TOKENS) * 5 // 4] if tokens != 197]
    assert first_round != sorted(first_round) and first_round != sorted(first_round, reverse=True)
    assert max(Counter(first_round).values()) <= 2, "a point was measured in one burst"
    gaps = np.diff([place for place, tokens in enumerate(order) if tokens == 197])
    assert gaps.max() <= ANCHOR_EVERY + 1


def test_a_machine_that_changes_speed_does_not_move_the_steps(tmp_path: Path) -> None:
    """Every few seconds the whole machine becomes a fifth slower, or faster again."""
    moody = KnownTarget(two_cliffs, speed=lambda call: 1.2 if (call // 150) % 2 else 1.0)
    curve = sweep(tmp_path, moody)
    fitted = staircase.fit(curve)
    assert [step.tokens for step in fitted.steps if abs(step.height_percent) > 5] == [160, 128]
    ratios = [curve.at(tokens).median_ms / curve.baseline.median_ms for tokens in (150, 110)]
    assert ratios == pytest.approx([0.8, 0.64], rel=0.01)
    assert np.ptp(curve.anchor_ms) > 1.0, "the anchor as it was has to show the unrest"


def test_an_interrupted_sweep_goes_on_and_measures_nothing_twice(tmp_path: Path) -> None:
    class Interrupted(KnownTarget):
        last_call = 0

        def time_ms(self, tokens: int, count: int) -> list[float]:
            if len(self.calls) == self.last_call:
                raise KeyboardInterrupt
            return super().time_ms(tokens, count)

    for limit in (40, 333, 90):
        target = Interrupted(two_cliffs, noise=0)
        target.last_call = limit
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path / "cut", target)
    resumed = sweep(tmp_path / "cut", KnownTarget(two_cliffs, noise=0))
    whole = sweep(tmp_path / "whole", KnownTarget(two_cliffs, noise=0))
    assert resumed.points[1:] == whole.points[1:]
    assert resumed.baseline.median_ms == whole.baseline.median_ms, "each start adds an anchor, of the same latency"
    again = KnownTarget(two_cliffs)
    assert sweep(tmp_path / "cut", again) == resumed
    assert again.calls == []


def test_a_machine_that_is_another_after_the_interruption_moves_no_point(tmp_path: Path) -> None:
    class Slower(KnownTarget):
        def time_ms(self, tokens: int, count: int) -> list[float]:
            if len(self.calls) == 101:
                raise KeyboardInterrupt
            return super().time_ms(tokens, count)

    for factor in (1.0, 1.5, 0.7):
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path, Slower(two_cliffs, 0, speed=lambda call, factor=factor: factor))
    curve = sweep(tmp_path, KnownTarget(two_cliffs, 0, speed=lambda call: 1.1))
    ratios = [point.median_ms / curve.baseline.median_ms for point in curve.points]
    assert ratios == pytest.approx([two_cliffs(tokens) / 10 for tokens in TOKENS], rel=1e-9)
    assert all(point.high_ms - point.low_ms < 1e-6 for point in curve.points)


def test_noisy_points_are_measured_longer_and_say_why_they_stopped(tmp_path: Path) -> None:
    class Noisy(KnownTarget):
        def time_ms(self, tokens: int, count: int) -> list[float]:
            self._noise = 0.2 if tokens == 150 else 0.001
            return super().time_ms(tokens, count)

    curve = sweep(tmp_path, Noisy(two_cliffs), point_seconds=0.4)
    assert curve.at(150).stop_reason == "time limit"
    assert curve.at(150).blocks > curve.at(170).blocks
    assert curve.at(170).stop_reason == "interval"


def test_a_point_that_stands_out_is_measured_again_and_kept(tmp_path: Path) -> None:
    def with_fast_point(tokens: int) -> float:
        return 9.0 if tokens == 144 else 10.0

    target = KnownTarget(with_fast_point)
    curve = sweep(tmp_path, target)
    assert curve.at(144).median_ms == pytest.approx(9.0, rel=0.01)
    assert curve.at(144).blocks > curve.at(150).blocks
    assert 144 in suspicious(curve)


def test_confirming_measures_the_choice_and_the_baseline_in_turn(tmp_path: Path) -> None:
    target = KnownTarget(two_cliffs)
    with Journal(tmp_path, {}) as journal:
        run = Sweep(Grid(TOKENS), target, journal, Silent())
        before = run.run().at(128).blocks
        start = len(target.blocks())
        after = run.confirm(128).at(128).blocks
        assert target.blocks()[start:] == [197] + [197, 128] * (after - before) + [197]
        assert run.confirm(128).at(128).blocks == after, "confirmed once is confirmed"


def test_what_accuracy_holds_in_between_is_not_the_counts_memory(tmp_path: Path) -> None:
    class Grown(KnownTarget):
        held_mib = 0.0

        def memory_mib(self, tokens: int) -> float | None:
            return 100.0 + tokens + self.held_mib

    target = Grown(two_cliffs)
    with Journal(tmp_path, {}) as journal:
        run = Sweep(Grid(TOKENS), target, journal, Silent())
        run.run()
        target.held_mib = 500.0
        assert run.confirm(128).at(128).memory_mib == 228


def test_scaling_leaves_a_steady_machines_samples_alone() -> None:
    visits = [Visit(0, tokens, (10.0, 10.0)) for tokens in (197, 150, 140, 197, 130, 197)]
    assert scaled(visits, 197) == [(10.0, 10.0)] * 6


def test_a_sawtooth_at_multiples_of_eight_survives(tmp_path: Path) -> None:
    """Real fast points at every eighth count are no outliers: they are measured again, and stay."""

    def sawtooth(tokens: int) -> float:
        return 9.0 if tokens % 8 == 0 else 10.0

    target = KnownTarget(sawtooth)
    curve = sweep(tmp_path, target)
    teeth = [tokens for tokens in TOKENS if tokens % 8 == 0]
    assert [point.tokens for point in curve.points if point.median_ms < 9.5] == teeth
    assert staircase.fit(curve).efficient[:2] == (197, 192)


def throttled(folder: Path, until: int, **cooling: float) -> LatencyCurve:
    target = KnownTarget(two_cliffs, speed=lambda call: 1.3 if call < until else 1.0)
    target.throttled_until = until
    grid = Grid(TOKENS, cooling=Cooling(pause_s=0, **cooling))  # type: ignore[arg-type]
    with Journal(folder, {}) as journal:
        return Sweep(grid, target, journal, Silent()).run()


def test_throttled_blocks_are_dropped_measured_again_and_counted(tmp_path: Path) -> None:
    curve = throttled(tmp_path, 60, attempts=40)
    steady = curve.steadiness
    assert steady.dropped_blocks > 5 and steady.throttled_by == {
        "heat": steady.dropped_blocks + steady.throttled_blocks
    }
    assert steady.counters == ("heat",)
    assert curve.baseline.median_ms == pytest.approx(10, rel=0.01)
    assert [step.tokens for step in staircase.fit(curve).steps] == [160, 128]


def test_a_device_that_is_always_throttled_is_measured_all_the_same_and_that_is_said(tmp_path: Path) -> None:
    curve = throttled(tmp_path, 10**9)
    steady = curve.steadiness
    assert steady.dropped_blocks <= 8, "it went on cooling a device that is always held back"
    assert steady.throttled_blocks >= 3 * len(TOKENS)
    assert [step.tokens for step in staircase.fit(curve).steps] == [160, 128]


def test_an_interrupted_sweep_remembers_its_throttled_blocks(tmp_path: Path) -> None:
    curve = throttled(tmp_path, 60, attempts=40)
    with Journal(tmp_path, {}) as journal:
        assert Sweep(Grid(TOKENS), KnownTarget(two_cliffs), journal, Silent()).run() == curve


def test_energy_is_counted_over_a_long_stretch_of_the_choice_and_the_baseline(tmp_path: Path) -> None:
    """The target uses 5 mJ a forward, whatever the count."""
    target = KnownTarget(two_cliffs)
    with Journal(tmp_path, {}) as journal:
        run = Sweep(Grid(TOKENS, batch_size=4), target, journal, Silent())
        run.run()
        curve = run.confirm(150)
        assert curve.at(150).energy_mj == curve.baseline.energy_mj == pytest.approx(5 / 4)
        assert curve.at(140).energy_mj is None, "a block is too short for a counter that advances in steps"
        longest = {tokens: count * two_cliffs(tokens) for tokens, count in target.calls if count > 100}
        assert set(longest) == {197, 150} and min(longest.values()) >= 2900, "ms"
        assert curve.at(150).memory_mib == 250
        calls = len(target.calls)
        run.confirm(150)
        assert len(target.calls) == calls


def test_a_short_episode_of_throttling_does_not_end_measuring_again(tmp_path: Path) -> None:
    """The device is held back for a while again and again; each time its blocks are dropped."""

    class Episodes(KnownTarget):
        def reading(self) -> Reading:
            return Reading({"heat": sum(1 for call in range(len(self.calls)) if call % 400 < 14)}, watched=("heat",))

    with Journal(tmp_path, {}) as journal:
        curve = Sweep(Grid(TOKENS, cooling=Cooling(pause_s=0)), Episodes(two_cliffs), journal, Silent()).run()
    assert curve.steadiness.dropped_blocks >= 4
    assert curve.steadiness.dropped_blocks > curve.steadiness.throttled_blocks


def test_another_state_of_the_device_is_not_mixed_into_a_run(tmp_path: Path) -> None:
    def run(state: str, tokens: tuple[int, ...] = TOKENS) -> LatencyCurve:
        with Journal(tmp_path, {}) as journal:
            return Sweep(Grid(tokens), KnownTarget(two_cliffs), journal, Silent(), lambda: {"clocks": state}).run()

    run("locked", TOKENS[:10])
    with pytest.raises(UserError, match="clocks was 'locked', is 'not locked' now"):
        run("not locked")
    measured = run("locked")
    assert run("not locked") == measured, "nothing is left to measure, so the state of the device does not matter"


def test_detrended_latencies_are_those_of_the_start(tmp_path: Path) -> None:
    curve = sweep(tmp_path, KnownTarget(two_cliffs, speed=lambda call: 1 + 0.05 * call / 1000))
    assert curve.steadiness.drift_percent > 3
    assert curve.baseline.median_ms > 10.1
    start = detrended(curve)
    assert start.baseline.median_ms == pytest.approx(10, rel=0.006)
    sudden = sweep(tmp_path / "sudden", KnownTarget(two_cliffs, speed=lambda call: 1.3 if call > 300 else 1))
    assert sudden.steadiness.shifts and sudden.baseline.median_ms == pytest.approx(13, rel=0.01)
    assert detrended(sudden).baseline.median_ms == pytest.approx(10, rel=0.006)
    assert start.at(140).low_ms / start.baseline.low_ms == pytest.approx(curve.at(140).low_ms / curve.baseline.low_ms)
    assert start.detrended and not curve.detrended


def test_two_points_and_one_are_a_curve_too(tmp_path: Path) -> None:
    assert len(sweep(tmp_path / "two", KnownTarget(two_cliffs), (197, 150)).points) == 2
    single = sweep(tmp_path / "one", KnownTarget(two_cliffs), (197,))
    assert staircase.fit(single).efficient == (197,)


class Failing(KnownTarget):
    """One count can't be measured, from its so-many-th call on; `stop_at`: the process ends at that call of all."""

    fails = 150
    after = 0
    failed_at = 0
    stop_at: int | None = None

    def time_ms(self, tokens: int, count: int) -> list[float]:
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        if tokens == self.fails and sum(1 for each, _ in self.calls if each == tokens) >= self.after:
            self.failed_at = len(self.calls)
            raise PointFailed(f"{tokens} tokens: out of memory")
        return super().time_ms(tokens, count)


@pytest.mark.parametrize("after", [0, 5])
def test_a_count_that_fails_is_no_row_and_the_others_are_as_without_it(tmp_path: Path, after: int) -> None:
    target = Failing(two_cliffs, noise=0)
    target.after = after
    with Journal(tmp_path, {}) as journal:
        run = Sweep(Grid(TOKENS), target, journal, Silent())
        run.run()
        assert run.failed == {150: "150 tokens: out of memory"}
        curve = run.confirm(150)  # the choice itself may fail when it is measured again
    assert [point.tokens for point in curve.points] == [tokens for tokens in TOKENS if tokens != 150]
    assert [point.median_ms for point in curve.points] == pytest.approx([two_cliffs(p.tokens) for p in curve.points])


def test_a_count_that_failed_is_tried_again_by_the_next_start_and_nothing_else_is(tmp_path: Path) -> None:
    def run(target: KnownTarget) -> tuple[LatencyCurve, dict[Kept, str]]:
        with Journal(tmp_path, {}) as journal:
            sweeping = Sweep(Grid(TOKENS[:60]), target, journal, Silent())
            return sweeping.run(), sweeping.failed

    first = Failing(two_cliffs, noise=0)
    first.after = 5
    curve, failed = run(first)
    assert failed == {150: "150 tokens: out of memory"}
    # It can't even be built now: there is nothing to measure, the anchor neither.
    unbuilt = KnownTarget(two_cliffs)
    unbuilt.unbuilt = {150: "does not build"}
    same, failed = run(unbuilt)
    assert (same.points, failed) == (curve.points, {150: "does not build"})
    assert 197 not in unbuilt.blocks()
    mended = KnownTarget(two_cliffs, noise=0)
    whole, failed = run(mended)
    assert failed == {} and {tokens for tokens, _ in mended.calls} == {197, 150}
    assert whole.at(150).median_ms == pytest.approx(two_cliffs(150)) and whole.at(150).blocks >= 3
    assert whole.points[1:47] == curve.points[1:47]  # down to 151
    again = KnownTarget(two_cliffs)
    assert run(again)[0] == whole and again.calls == []


class Cut(KnownTarget):
    """Loses its connection at some calls; after each its speed is another."""

    cuts: tuple[int, ...] = ()

    def time_ms(self, tokens: int, count: int) -> list[float]:
        samples = super().time_ms(tokens, count)
        if len(self.calls) - 1 in self.cuts:
            raise Reconnected("connection lost; the same command goes on")
        return samples


def test_a_device_that_was_lost_and_is_back_is_another_segment_and_moves_no_point(tmp_path: Path) -> None:
    cuts = (159, 405)
    target = Cut(two_cliffs, noise=0, speed=lambda call: (1.0, 1.5, 0.7)[sum(call > cut for cut in cuts)])
    target.cuts = cuts
    with Journal(tmp_path, {}) as journal:
        run = Sweep(Grid(TOKENS), target, journal, Silent())
        baseline_ms = run.run().baseline.median_ms
    for tokens, blocks in run._blocks().items():
        assert np.concatenate(blocks) / baseline_ms == pytest.approx(two_cliffs(tokens) / 10, rel=1e-9)
    target = Cut(two_cliffs)
    target.cuts = tuple(range(150, 10**4))
    with pytest.raises(UserError, match="connection lost"):  # at each block: it would never end
        sweep(tmp_path / "ever", target)
    assert len(target.calls) < 200


def test_an_interrupted_sweep_with_a_failed_count_measures_nothing_twice(tmp_path: Path) -> None:
    """The count fails in a round whose points depend on the rounds before, and the process ends in that round."""

    class Noisy(Failing):
        def time_ms(self, tokens: int, count: int) -> list[float]:
            self._noise = 0.1 if tokens > 180 or tokens == 150 else 0
            return super().time_ms(tokens, count)

    def run(folder: Path, after: int, stop_at: int | None = None) -> tuple[Noisy, Sweep]:
        target = Noisy(two_cliffs)
        target.after, target.stop_at = after, stop_at
        with Journal(folder, {}) as journal:
            sweeping = Sweep(Grid(TOKENS, rule=StopRule(point_seconds=0.4)), target, journal, Silent())
            with contextlib.suppress(KeyboardInterrupt):
                sweeping.run()
        return target, sweeping

    whole, _ = run(tmp_path / "whole", after=14)
    assert whole.failed_at
    _, cut = run(tmp_path / "cut", 14, stop_at=whole.failed_at + 15)
    last = max(visit.round for visit in cut._visits)
    assert last >= StopRule().least_blocks and cut.failed
    _, resumed = run(tmp_path / "cut", 0)
    assert resumed.failed == cut.failed
    visits = [visit for visit in resumed._visits if visit.round == last and not visit.frames and visit.tokens != 197]
    assert len(visits) == len({visit.tokens for visit in visits}) > 10


def test_an_anchor_that_fails_ends_the_run_and_may_be_mended(tmp_path: Path) -> None:
    target = Failing(two_cliffs)
    target.fails = 197
    unbuilt = KnownTarget(two_cliffs)
    unbuilt.unbuilt = {197: "out of memory"}
    for failing in (target, unbuilt):
        with Journal(tmp_path, {}) as journal, pytest.raises(PointFailed, match="out of memory"):
            Sweep(Grid(TOKENS[:10]), failing, journal, Silent()).run()
    curve = sweep(tmp_path, KnownTarget(two_cliffs), TOKENS[:10])
    assert [point.tokens for point in curve.points] == list(TOKENS[:10])


def test_counts_that_failed_before_the_sweep_are_never_asked_for(tmp_path: Path) -> None:
    target = KnownTarget(two_cliffs)
    target.unbuilt = {190: "does not build"}
    with Journal(tmp_path, {}) as journal:
        run = Sweep(Grid(TOKENS[:10]), target, journal, Silent())
        assert 190 not in [point.tokens for point in run.run().points]
        assert run.failed == {190: "does not build"}
    assert 190 not in {tokens for tokens, _ in target.calls}


def test_a_target_that_is_warm_from_its_start_is_not_warmed_up(tmp_path: Path) -> None:
    class Warm(KnownTarget):
        warms_up = False

    target = Warm(two_cliffs)
    curve = sweep(tmp_path, target, TOKENS[:10])
    assert curve.steadiness.warm_up_forwards == 0
    assert set(target.calls) == {(tokens, BLOCK_SAMPLES[1]) for tokens in TOKENS[:10]}
