"""How much faster one count is than another."""

from __future__ import annotations

import math

import pytest

from pomt_edge.choose.ratio import ratio, speedup_of
from pomt_edge.records import LatencyCurve, LatencyPoint


def test_each_end_comes_from_the_ends_that_make_it_so() -> None:
    before = LatencyPoint(197, 10.0, 9.0, 10.0, 30, 3, "interval")
    after = LatencyPoint(100, 5.0, 5.0, 5.5, 30, 3, "interval")
    value, low, high = ratio(before, after)
    assert value == 2.0 and high == 2.0, "neither can be faster than it was seen"
    assert low == pytest.approx(2 * math.exp(-math.hypot(math.log(10 / 9), math.log(1.1))))
    curve = LatencyCurve((before, after))
    assert speedup_of(curve, 100) == (value, low, high) and speedup_of(curve, 197) == (1.0, 1.0, 1.0)
