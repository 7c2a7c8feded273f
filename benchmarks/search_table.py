"""The adaptive search against the whole grid, each a whole run of the main job: points, time and plan, as Markdown.

    python benchmarks/search_table.py devices                  simulated Jetsons and recorded H200 curves: minutes
    python benchmarks/search_table.py here --bs 4 --images 1000 --max-drop 5 [--engine onnxruntime …]    this machine

`here` takes the options of `offline_compute`. The whole grid measures accuracy everywhere. Time is the run's, on this
machine; of other devices that of the forwards there, simulated or recorded, without building engines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer

from pomt_edge import profiles
from pomt_edge.measure.journal import NAME as JOURNAL
from pomt_edge.records import Result
from pomt_edge.targets import recordings

COMMAND = [sys.executable, str(Path(__file__).parents[1] / "offline_compute.py")]
HEADS = "| run | search | latency points | accuracy points | time | plan |\n|---|---|---|---|---|---|"
WITHOUT_IMAGES = ["--keep", "0.5", "--no-lock"]

app = typer.Typer(add_completion=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})


@app.command()
def devices() -> None:
    """Each simulated Jetson and each recorded curve, without images: at least half of the tokens stay."""
    print(HEADS)
    for profile in profiles.read_all()[0]:
        if profile.board and not profile.own:
            precision = "fp16" if "fp16" in profile.precisions else "fp32"
            options = ["--model", "deit_small", "--bs", "4", "--precision", precision]
            _both(
                f"{profile.id}, {precision}",
                [*options, "--device", f"sim:{profile.id}", *WITHOUT_IMAGES],
                on_device=True,
            )
    recording = recordings.load("h200")
    for curve in recording.curves:
        options = ["--model", curve.model, "--bs", str(curve.batch_size), "--precision", curve.precision]
        _both(f"H200, {curve.title}", [*options, "--device", "recorded:h200", *WITHOUT_IMAGES], on_device=True)


@app.command()
def here(context: typer.Context) -> None:
    """This machine; give the options of offline_compute."""
    print(HEADS)
    _both(" ".join(context.args), context.args, on_device=False)


def _both(name: str, options: list[str], on_device: bool) -> None:
    for search in ("adaptive", "full"):
        grid = ["--accuracy-grid", "full"] if search == "full" and not on_device else []
        with tempfile.TemporaryDirectory() as scratch:
            out, began = Path(scratch) / "run", time.perf_counter()
            run = [*COMMAND, *options, "--search", search, *grid, "--out", str(out)]
            done = subprocess.run(run, capture_output=True, text=True)
            if done.returncode not in (0, 1):
                sys.exit(f"{name}: {done.stderr.splitlines()[-1]}")
            seconds = _forwards_s(out) if on_device else time.perf_counter() - began
            print(_row(name, search, Result.load(out / "result.json"), seconds), flush=True)


def _forwards_s(out: Path) -> float:
    entries = map(json.loads, (out / JOURNAL).read_text().splitlines())
    return sum(sum(entry["ms"]) for entry in entries if "ms" in entry) / 1e3


def _row(name: str, search: str, result: Result, seconds: float) -> str:
    plan = result.plan
    judged = len(result.accuracy.points) - 1 if result.accuracy else 0
    took = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
    found = "do not prune"
    if plan.verdict == "prune":
        found = f"R={plan.removed}, {plan.speedup:.2f}x ({plan.speedup_low:.2f} to {plan.speedup_high:.2f})"
    return f"| {name} | {search} | {len(result.curve.points)} | {judged or '–'} | {took} | {found} |"


if __name__ == "__main__":
    app()
