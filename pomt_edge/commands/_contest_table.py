"""The table and the sentence that a comparison of methods and engines ends with."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pomt_edge.records import Contest
from pomt_edge.report import across, methods, words

WIDTH = 200
"""Of a file, which has no width to fit into."""


def print_contest(contest: Contest, folder: Path, to_stderr: bool) -> None:
    """One row per plan and unreduced model, what is taken in bold, and one plain sentence."""
    console = Console(stderr=to_stderr, soft_wrap=True)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(_table(contest))
    for callout in words.origin(contest.results[0]):
        console.print(f"{callout.label}: {callout.text}", markup=False, highlight=False)
    for reason in contest.unfit:
        console.print(f"Left out: {reason}.", markup=False, highlight=False)
    sentence = methods.verdict(contest).sentence
    if contest.because not in sentence:
        console.print(f"Why: {contest.because}.", markup=False, highlight=False)
    console.print(f"{sentence} Report: {folder / 'methods.html'}", markup=False, highlight=False)


def _table(contest: Contest) -> Table:
    measure = next(filter(None, map(words.measure_of, contest.results)), None)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("engine", "method"):
        table.add_column(heading, no_wrap=True)
    columns = across.columns(measure)
    for heading in ("baseline ms", *columns):
        interval = " (95 %)" if heading in ("latency ms", "speedup", "points lost") else ""
        table.add_column(f"{heading}{interval}", justify="right", no_wrap=not interval)
    table.add_column("", no_wrap=True)
    for row in across.rows(contest):
        cells = [f"{value} ({within})" if within else value for value, within in row.cells] or [""] * len(columns)
        shown = (row.engine, row.method or across.UNREDUCED, row.baseline, *cells, row.verdict)
        table.add_row(*map(Text, shown), style="bold" if row.taken else None)
    return table
