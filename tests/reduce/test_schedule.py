from __future__ import annotations

import pytest

from pomt_edge.errors import UserError
from pomt_edge.reduce import schedule


@pytest.mark.parametrize(
    ("removed", "factor", "expected"),
    [
        (8, -1, (16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0)),
        (13, -1, (26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0)),
        (8, 0, (8,) * 12),
        (8, 1, (0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16)),
    ],
)
def test_tomes_linear_schedules(removed: int, factor: float, expected: tuple[int, ...]) -> None:
    assert schedule.linear(removed, factor, 12) == expected


def test_a_linear_schedule_of_one_block() -> None:
    assert schedule.linear(8, -1, 1) == (16,)


@pytest.mark.parametrize(
    ("ratio", "left"),
    [
        (0.95, (188, 179, 171, 163, 155, 148, 141, 134, 128, 122, 116, 111)),
        (0.925, (183, 170, 158, 147, 137, 127, 118, 110, 102, 95, 88, 82)),
        (0.9, (178, 161, 145, 131, 118, 107, 97, 88, 80, 73, 66, 60)),
        (1.0, (197,) * 12),
    ],
)
def test_pitomes_ratios(ratio: float, left: tuple[int, ...]) -> None:
    assert schedule.tokens_per_block(schedule.by_ratio(ratio, 197, 1, 12), 197) == left


def test_a_number_is_spread_evenly_and_in_full() -> None:
    assert schedule.spread(10, [3, 6, 9], 12) == (0, 0, 0, 4, 0, 0, 3, 0, 0, 3, 0, 0)
    assert schedule.spread(56, [3], 12) == schedule.in_one_block(56, 3, 12)
    assert sum(schedule.spread(97, range(12), 12)) == 97


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, float("nan")])
def test_a_ratio_out_of_range(ratio: float) -> None:
    with pytest.raises(UserError, match=r"above 0 and at most 1"):
        schedule.by_ratio(ratio, 197, 1, 12)


def test_a_factor_out_of_range_and_a_block_past_the_depth() -> None:
    with pytest.raises(UserError, match="-1 \\(falling\\) to 1 \\(rising\\), got 2"):
        schedule.linear(8, 2, 12)
    with pytest.raises(UserError, match="block 12 is past the depth"):
        schedule.spread(8, [3, 12], 12)
