"""A machine that misbehaves in mid-sweep: the choice stays where it belongs, and the user is told."""

from __future__ import annotations

from pathlib import Path

import events
import pytest

SEEDS = 8
SAID = {
    "level shift of 20 %": "changed suddenly",
    "drift of 5 %": "--detrend gives those of its start",
    "2 % outliers of +50 %": "times their block's median",
    "warm-up ramp of 2x": "Warm-up",
}


@pytest.mark.parametrize("event", events.EVENTS)
def test_the_choice_stays_on_the_right_tread_and_the_event_is_reported(event: str, tmp_path: Path) -> None:
    for seed in range(SEEDS):
        tokens, noticed, said = events.outcome(event, seed, tmp_path / str(seed))
        assert tokens in events.RIGHT, f"seed {seed}"
        assert noticed, f"seed {seed}"
        assert any(SAID[event] in sentence for sentence in said), f"seed {seed}"
