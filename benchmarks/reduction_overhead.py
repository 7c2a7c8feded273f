"""What a reduction costs beyond the tokens it removes: every method against the unreduced model and against slicing.

Slicing drops the same number of tokens at the same place for nothing: no score, no order, no merge. It is the limit.
All variants of a setting are timed in turn, in one run, and compared by paired ratios, so that a machine that changes
speed changes them alike. `python benchmarks/reduction_overhead.py --help`
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from pomt_edge.engines import Built, Setting
from pomt_edge.engines import torch as engine
from pomt_edge.measure.environment import device_name
from pomt_edge.models.family import family_of
from pomt_edge.reduce.reduced_model import reduce_model

METHODS = ("pomt", "pomt:score=cls", "topk", "l2_norm", "random", "tome", "pitome")
MODELS = ("deit_tiny_patch16_224", "deit_small_patch16_224")
BLOCK = 3
WAYS = {"cpu": ("eager",), "cuda": ("eager", "graph", "compile")}
Timed = Callable[[int], list[float]]


class Sliced(nn.Module):
    """The model, with the last `removed` tokens dropped between attention and MLP of one block."""

    def __init__(self, model: nn.Module, removed: int) -> None:
        super().__init__()
        self.model, self.family, self.removed = model, family_of(model), removed

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.family.embed(self.model, images)
        for index, block in enumerate(self.family.blocks(self.model)):
            if index == BLOCK:
                tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
                tokens = tokens[:, : tokens.shape[1] - self.removed]
                tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
            else:
                tokens = block(tokens)
        return self.family.read(self.model, self.family.finish(self.model, tokens), None)


def variants(model: nn.Module, removed: int) -> dict[str, nn.Module]:
    depth = len(family_of(model).blocks(model))
    schedule = [removed if index == BLOCK else 0 for index in range(depth)]
    reduced = {name: reduce_model(model, method=name, schedule=schedule, copy=False) for name in METHODS}
    return {"baseline": model, "slice": Sliced(model, removed), **reduced}


def prepared(model: nn.Module, setting: Setting, way: str) -> Timed:
    if way == "compile":
        model = torch.compile(model, fullgraph=True)  # type: ignore[assignment]
    graphs = way == "graph"
    return engine.load(Built(model), Setting(**{**vars(setting), "cuda_graphs": graphs})).time_ms


def ratios(timers: dict[str, Timed], rounds: int, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Medians of short bursts, [rounds] per variant, the variants in a new order each round."""
    rng = np.random.default_rng(0)
    for timer in timers.values():
        timer(3)
    medians: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name in rng.permutation(list(timers)):
            timers[name](1)
            medians[name].append(float(np.median(timers[name](count))))
    return {name: np.array(values) for name, values in medians.items()}


def interval(values: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """The median of paired ratios with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    picks = np.median(values[rng.integers(len(values), size=(1000, len(values)))], axis=1)
    return float(np.median(values)), *(float(end) for end in np.quantile(picks, [0.025, 0.975]))


def main(
    model: Annotated[list[str], typer.Option(help="timm names.", default_factory=lambda: list(MODELS))],
    batch: Annotated[list[int], typer.Option(help="Images per forward.", default_factory=lambda: [1, 4])],
    removed: Annotated[list[int], typer.Option(help="Tokens removed in block 3.", default_factory=lambda: [56, 98])],
    threads: Annotated[list[int], typer.Option(help="CPU threads.", default_factory=lambda: [1, 2])],
    device: Annotated[str, typer.Option(help="cpu or cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or bf16.")] = "fp32",
    rounds: Annotated[int, typer.Option(help="Turns of all variants.")] = 30,
    count: Annotated[int, typer.Option(help="Forwards per turn.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write all figures as JSON.")] = None,
) -> None:
    """Time every method beside the unreduced model and slicing, and print ratios."""
    console = Console(soft_wrap=True)
    console.print(f"{device_name(device)}, {platform.system()}, torch {torch.__version__}, {precision}")
    found: list[dict[str, Any]] = []
    for name in model:
        for size in batch:
            for way in WAYS[device.partition(":")[0]]:
                for used in threads if device == "cpu" else [0]:
                    found += _setting(name, size, way, used, removed, device, precision, rounds, count, console)
    if out:
        out.write_text(
            json.dumps({"device": device_name(device), "torch": torch.__version__, "results": found}, indent=1)
        )


def _setting(
    name: str,
    batch: int,
    way: str,
    threads: int,
    removed: list[int],
    device: str,
    precision: str,
    rounds: int,
    count: int,
    console: Console,
) -> list[dict[str, Any]]:
    if threads:
        torch.set_num_threads(threads)
    found = []
    full = timm.create_model(name).eval()
    setting = Setting(device, precision, batch, 224)
    full = engine.prepare(full, setting)
    for number in removed:
        timers = {key: prepared(value, setting, way) for key, value in variants(full, number).items()}
        medians = ratios(timers, rounds, count)
        found.append(
            {"model": name, "batch": batch, "way": way, "threads": threads, "removed": number}
            | {
                key: {
                    "ms": float(np.median(values)),
                    "to_baseline": interval(values / medians["baseline"]),
                    "to_slice": interval(values / medians["slice"]),
                }
                for key, values in medians.items()
            }
        )
        console.print(_table(found[-1]))
    return found


def _table(row: dict[str, Any]) -> Table:
    title = f"{row['model']}, batch {row['batch']}, {row['way']}, {row['threads'] or 'no'} threads, R={row['removed']}"
    table = Table(title=title, title_justify="left")
    for heading in ("variant", "ms", "to baseline (95 %)", "to slice (95 %)"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for name in ("baseline", "slice", *METHODS):
        cell = row[name]
        ends = ["{:.3f} ({:.3f} to {:.3f})".format(*cell[key]) for key in ("to_baseline", "to_slice")]
        table.add_row(name, f"{cell['ms']:.2f}", *ends)
    return table


if __name__ == "__main__":
    typer.run(main)
