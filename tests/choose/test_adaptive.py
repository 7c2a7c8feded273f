"""Few measurements lead to the plan that the whole grid would have led to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from searches import FULL, GRID, Images, KnownBench, curve_of, trials

from pomt_edge.choose import adaptive
from pomt_edge.choose.plan import Limits


def bench(kind: str, seed: int = 0, noise: float = 0.003) -> KnownBench:
    rng = np.random.default_rng(seed)
    return KnownBench(curve_of(kind, rng), noise, rng, Images(rng, 0.0))


def stairs(edges: dict[int, float], slope: float = 0.0) -> KnownBench:
    """10 ms; from each edge on so many times that, and `slope` ms less with each token."""
    tokens = np.arange(FULL + 1)
    latency = np.prod([np.where(tokens <= edge, factor, 1.0) for edge, factor in edges.items()], axis=0) * 10.0
    rng = np.random.default_rng(1)
    return KnownBench(latency - slope * (FULL - tokens), 0.003, rng, Images(rng, 0.0))


@pytest.mark.parametrize("group", ["random staircases", "simulated Jetsons"])
def test_the_choice_is_as_fast_as_the_grids_within_the_limit_and_the_points(group: str) -> None:
    """More runs are in `searches.py`; its table is in the docs."""
    found = trials(group, 0.003, 14, unrest=0.0)
    assert np.quantile([one.regret for one in found], 0.95) <= 0.01
    assert max(one.regret for one in found) <= 0.03
    assert all(one.within for one in found)
    assert max(one.timed for one in found) <= 25 and max(one.judged for one in found) <= 10
    assert sum(one.chosen < FULL for one in found) > len(found) / 2, "hardly anything was to be found"


def test_of_counts_that_cost_the_same_the_largest_is_taken() -> None:
    found = stairs({181: 0.9, 133: 0.9, 90: 0.8})
    assert adaptive.Explorer(GRID, Limits(keep=0.5), found).choice() == 133
    assert adaptive.Explorer(GRID, Limits(keep=0.7), stairs({181: 0.9, 133: 0.9})).choice() == 181


def test_where_fewer_tokens_are_slower_the_end_of_the_slope_in_front_is_found() -> None:
    found = stairs({150: 1.2}, slope=0.02)
    assert adaptive.Explorer(GRID, Limits(keep=0.6), found).choice() in range(
        151, 156
    )  # behind which there is less than half a percent to be had


def test_a_budget_is_met_by_the_most_tokens() -> None:
    edges = {181: 0.9, 133: 0.9, 90: 0.8}
    assert adaptive.Explorer(GRID, Limits(budget_ms=8.3), stairs(edges)).choice() == 133
    assert adaptive.Explorer(GRID, Limits(budget_ms=10.5), stairs(edges)).choice() == FULL
    assert adaptive.Explorer(GRID, Limits(budget_ms=1.0), stairs(edges)).choice() is None
    far = stairs(edges)
    assert adaptive.Explorer(GRID, Limits(budget_ms=6.6), far).choice() == 90 and len(far.timed) <= 25


def test_the_largest_utility_is_found_beside_the_skeleton() -> None:
    found = stairs({180: 0.5, 90: 0.98})
    assert 165 <= (adaptive.Explorer(GRID, Limits(alpha=0.3), found).choice() or 0) <= 180
    assert len(found.judged) <= 10
    assert adaptive.Explorer(GRID, Limits(alpha=0.0), stairs({90: 0.98})).choice() is None


def test_where_nothing_is_allowed_nothing_is_chosen() -> None:
    assert adaptive.Explorer(GRID, Limits(keep=1.0), stairs({100: 0.5})).choice() is None


def test_asked_again_with_what_is_known_nothing_new_is_measured() -> None:
    found = bench("h200 deit_small b4 float32", seed=3)
    first = adaptive.Explorer(GRID, Limits(max_drop=3.0), found).choice()
    known, judged = set(found.timed), set(found.judged)
    assert adaptive.Explorer(GRID, Limits(max_drop=3.0), found).choice() == first
    assert (set(found.timed), set(found.judged)) == (known, judged)


def test_stopped_anywhere_the_best_that_is_known_is_within_the_limit() -> None:
    class StopError(Exception):
        pass

    class Stopping(KnownBench):
        left = 0

        def latency(self, counts: object, why: str) -> None:
            self.left -= 1
            if self.left < 0:
                raise StopError
            super().latency(counts, why)  # type: ignore[arg-type]

    limits, choices = Limits(max_drop=5.0), []
    for left in itertools.count(1):
        rng = np.random.default_rng(4)
        found = Stopping(curve_of("h200 deit_small b4 float32", rng), 0.003, rng, Images(rng, 0.0))
        found.left = left
        try:
            whole = adaptive.Explorer(GRID, limits, found).choice()
            break
        except StopError:
            best = adaptive.best_known(GRID, limits, found.points(), found.judged)
            assert best is None or found.judged[best].drop_high <= 5.0
            choices.append(best)
    assert len(choices) > 2 and whole is not None
    assert adaptive.best_known(GRID, limits, found.points(), found.judged) == whole


def test_a_coarse_grid_is_searched_where_it_has_counts() -> None:
    coarse = (FULL, *range(196, 19, -3))
    found = stairs({181: 0.9, 133: 0.9})
    assert adaptive.Explorer(coarse, Limits(keep=0.5), found).choice() == max(n for n in coarse if n <= 133)
    assert set(found.timed) <= set(coarse)
