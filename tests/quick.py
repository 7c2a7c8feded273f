"""Options of runs of the demo that take seconds, and what is read from their folders."""

from __future__ import annotations

import csv
from pathlib import Path

TAME = ["--threads", "1", "--no-lock"]
"""Two threads that wait for each other stall for seconds when another process wants a core as well; and the tests
leave the clocks of the machine that runs them alone."""
QUICK = ["--grid-stride", "35", "--grid-stop", "22", "--point-seconds", "0.05", "--images", "96", *TAME]
SIMULATED = [*QUICK, "--device", "sim:cpu", "--images", "48"]
"""Where what is asserted follows from which counts are faster: a busy machine may not know, a simulated one does."""


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
