"""From a sweep to a decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from pomt_edge.choose.plan import Limits
from pomt_edge.decision import decide
from pomt_edge.errors import PointFailed
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.measure.sweep import Grid, Sweep
from pomt_edge.targets.recorded import RecordedCurve, RecordedTarget


class Crashing(RecordedTarget):
    """Measures the unreduced model alone."""

    def time_ms(self, tokens: int, count: int) -> list[float]:
        if tokens != self.curve.tokens[0]:
            raise PointFailed(f"{tokens} tokens: trtexec was ended by signal 11")
        return super().time_ms(tokens, count)


def test_where_no_reduced_count_can_be_measured_nothing_is_said_about_pruning(tmp_path: Path) -> None:
    samples: dict[int, tuple[float, ...]] = {197: (10.0, 10.1), 100: (6.0, 6.1), 50: (3.0, 3.1)}
    curve = RecordedCurve("deit_tiny", 1, "fp32", samples, {})
    with Journal(tmp_path, {}) as journal:
        sweep = Sweep(Grid((197, 100, 50)), Crashing(curve), journal, Silent())
        with pytest.raises(PointFailed, match=r"none of 2 reduced counts could be measured; the first: .* signal 11"):
            decide(sweep, Limits(keep=0.5))
    with Journal(tmp_path / "whole", {}) as journal:
        sweep = Sweep(Grid((197, 100, 50)), RecordedTarget(curve), journal, Silent())
        assert decide(sweep, Limits(keep=0.5)).decision.tokens == 100
