"""R of DeiT-S on every simulated device: the table of docs/simulated_r.md, each cell one whole run of the main job.

    python benchmarks/simulated_r.py                       some five minutes on one core
    python benchmarks/simulated_r.py --keep-plans FOLDER   and the plans, FOLDER/PROFILE-PRECISION-bsN/plan.json

The same as `offline_compute --model deit_small --bs N --device sim:PROFILE --precision P` in a shell, one by one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from pomt_edge import offline, profiles, records
from pomt_edge.measure.progress import Silent
from pomt_edge.profiles import Profile
from pomt_edge.records import Plan
from pomt_edge.request import Request, default_engine
from pomt_edge.simulator import error

PAGE = Path(__file__).parents[1] / "docs" / "simulated_r.md"
BEGIN, END = "<!-- written by benchmarks/simulated_r.py -->", "<!-- to here -->"
BATCH_SIZES = (1, 4, 16)
PRECISIONS = ("fp32", "fp16")


def main(keep_plans: Annotated[Path | None, typer.Option()] = None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            _row(profile, precision, keep_plans or Path(scratch))
            for profile in profiles.read_all()[0]
            if not profile.own
            for precision in PRECISIONS
            if precision in profile.precisions
        ]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        sys.exit(f"{PAGE} has no place for the table: expected '{BEGIN}' and '{END}'")
    records.write_text(PAGE, f"{before}{BEGIN}\n{_error()}\n\n{_table(rows)}\n{END}{after}")


def _row(profile: Profile, precision: str, folder: Path) -> list[str]:
    engine = default_engine(f"sim:{profile.id}")
    plans = [_plan(profile, precision, batch_size, folder) for batch_size in BATCH_SIZES]
    return [profile.id, engine, precision, *map(_cell, plans), "simulated"]


def _plan(profile: Profile, precision: str, batch_size: int, folder: Path) -> Plan:
    device, began = f"sim:{profile.id}", time.perf_counter()
    request = Request(
        model="deit_small",
        batch_size=batch_size,
        device=device,
        engine=default_engine(device),
        precision=precision,
        out=folder / f"{profile.id}-{precision}-bs{batch_size}",
    )
    plan = offline.run(request, Silent())[0].plan
    seconds = time.perf_counter() - began
    print(f"{device} {precision} batch {batch_size}: {_cell(plan)}, {seconds:.1f} s", file=sys.stderr, flush=True)
    return plan


def _cell(plan: Plan) -> str:
    return f"{plan.removed} ({plan.speedup:.2f}x)" if plan.removed else "0: do not prune"


def _error() -> str:
    return f"**Simulated, all of it; nothing here was measured.** {error.in_words(error.totals())}"


def _table(rows: list[list[str]]) -> str:
    batches = [f"R at batch {size}" for size in BATCH_SIZES]
    heading = ["device", "engine", "precision", *batches, "origin"]
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    typer.run(main)
