"""What a run shows while it measures, and the table and sentence it ends with."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pomt_edge.records import Fleet, LatencyPoint, Result
from pomt_edge.report import fleet as fleet_page
from pomt_edge.report import refused, searched, words

PLAIN_EVERY_SECONDS = 5.0
SHORT = 16
"""Rows of a table that is shown whole."""


class LiveProgress:
    """A live bar on a terminal, plain lines elsewhere; always on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn())
        # Drawn between measurements alone: a thread that draws while a forward is timed would be timed with it.
        self._bars = Progress(
            *columns,
            TextColumn("{task.fields[detail]}"),
            console=self._console,
            transient=True,
            auto_refresh=False,
        )
        self._waiting = self._console.status("")
        self._live = self._console.is_terminal
        self._title, self._total, self._done, self._resumed = "", 0, 0, 0
        self._began = self._spoke = 0.0

    def __enter__(self) -> LiveProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._waiting.stop()
            self._bars.stop()

    def busy(self, text: str) -> None:
        if self._live and self._bars.task_ids:
            self._bars.update(self._bars.task_ids[0], detail=text, refresh=True)
        elif self._live:
            self._waiting.update(text)
            self._waiting.start()

    def stage(self, title: str, total: int, done: int = 0) -> None:
        again = title == self._title
        self._title, self._total, self._done, self._resumed = title, total, done, done
        self._began = self._spoke = time.monotonic()
        if self._live:
            self._waiting.stop()
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._bars.start()
            self._bars.add_task(title, total=total, completed=done, detail="")
            self._bars.refresh()
        elif not again:
            self._say(f"{title}: {total} to do" + (f", {done} of them done before" if done else ""))

    def advance(self, detail: str = "") -> None:
        self._done += 1
        if self._live:
            self._bars.update(self._bars.task_ids[0], advance=1, detail=detail, refresh=True)
        elif time.monotonic() - self._spoke > PLAIN_EVERY_SECONDS:
            self._spoke = time.monotonic()
            pace = (self._spoke - self._began) / (self._done - self._resumed)
            left = pace * (self._total - self._done)
            self._say(f"{self._title}: {self._done} of {self._total}, about {left:.0f} s left; {detail}".rstrip("; "))

    def note(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


def print_summary(result: Result, folder: Path, to_stderr: bool) -> None:
    """The table of what was weighed, the notes, and one plain sentence."""
    console = Console(stderr=to_stderr, soft_wrap=True)
    plan = result.plan
    mode = f" in {plan.power_mode}" if plan.power_mode else ""
    title = f"{plan.model}, batch {plan.batch_size}, {plan.engine} {plan.precision} on {plan.device}{mode}"
    console.print(_table(result, title))
    hidden = len(result.curve.points) - len(_rows(result))
    if hidden:
        console.print(f"{hidden} more counts were measured: see curve.csv or the report.", highlight=False)
    if how := searched.sentence(result):
        console.print(f"Searched: {how}", markup=False, highlight=False)
    for callout in words.callouts(result):
        console.print(f"{callout.label}: {callout.text}", markup=False, highlight=False)
    if plan.verdict == "prune" and not result.searched:
        console.print(f"Why: {plan.because}.", markup=False, highlight=False)
    if result.schedules:
        console.print(f"Several blocks: {words.schedule_search(result)}", markup=False, highlight=False)
    report = folder / "report.html"
    console.print(f"{words.verdict(result).sentence} Report: {report}", markup=False, highlight=False)
    if remedies := refused.lines(result):
        console.print(f"{refused.LEAD}:", markup=False, highlight=False)
    for remedy in remedies:
        console.print(f"  {remedy.options}: {remedy.text}", markup=False, highlight=False)


def print_fleet(fleet: Fleet, folder: Path, to_stderr: bool) -> None:
    """One row per device, what failed, and one plain sentence."""
    console = Console(stderr=to_stderr, soft_wrap=True)
    has_quality = any(words.measure_of(result) for _, result in fleet.results)
    headings = ["baseline ms", "tokens", "R", "speedup (95 %)", *(["points lost (95 %)"] if has_quality else [])]
    title = fleet_page.title(fleet)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("device", "latencies", "precision"):
        table.add_column(heading, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap="95" not in heading)
    for run, result in fleet.results:
        plan = result.plan
        row = [run.name, plan.origin, plan.precision, f"{plan.baseline_ms:.{_decimals(plan.baseline_ms)}f}"]
        if plan.verdict == "prune":
            _, *cells = fleet_page.cells(plan, has_quality)
            row += [str(plan.tokens_out)]
            row += [f"{value} ({within})" if within else value for value, within in cells]
        else:
            row += [str(plan.tokens_out), "", "no plan" if plan.verdict == "unreachable" else "do not prune"]
        table.add_row(*map(Text, row))
    if fleet.results:
        console.print(table)
    for failed in fleet.failed:
        console.print(f"Failed: {failed.name}: {failed.error}", markup=False, highlight=False)
    report = folder / "fleet.html"
    console.print(f"{fleet_page.verdict(fleet).sentence} Report: {report}", markup=False, highlight=False)


def _table(result: Result, title: str) -> Table:
    measure = result.accuracy.measure if result.accuracy else None
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("tokens", no_wrap=True)
    headings = ["latency ms (95 %)", "speedup"]
    headings += [f"{measure} %", "points lost (95 %)"] if measure else []
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    accuracies = {point.tokens: point for point in result.accuracy.points} if result.accuracy else {}
    for point in _rows(result):
        latency = _with_interval(point.median_ms, point.low_ms, point.high_ms, _decimals(point.median_ms))
        row = [
            f"{point.tokens:4d} {_remark(result, point.tokens)}",
            latency,
            f"{result.curve.baseline.median_ms / point.median_ms:.2f}x",
        ]
        if measure:
            known = accuracies.get(point.tokens)
            row += [f"{known.percent:.1f}" if known else ""]
            row += [_with_interval(known.drop, known.drop_low, known.drop_high, 1) if known else ""]
        table.add_row(*row, style="bold" if _is_chosen(result, point.tokens) else None)
    return table


def _with_interval(value: float, low: float, high: float, decimals: int) -> str:
    return f"{value:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"


def _decimals(milliseconds: float) -> int:
    """So many that four digits count."""
    return min(max(3 - math.floor(math.log10(milliseconds)), 0), 6) if milliseconds > 0 else 3


def _rows(result: Result) -> list[LatencyPoint]:
    """The baseline, the choice, where accuracy was measured, and else an even selection of the efficient set."""
    wanted = {result.curve.baseline.tokens, result.on_curve.tokens_out}
    if len(result.curve.points) <= SHORT:
        return list(result.curve.points)
    if result.accuracy and len(result.accuracy.points) <= SHORT:
        wanted |= {point.tokens for point in result.accuracy.points}
    else:
        efficient = result.staircase.efficient
        wanted |= set(efficient[:: max(len(efficient) // 10, 1)])
    return [point for point in result.curve.points if point.tokens in wanted]


def _remark(result: Result, tokens: int) -> str:
    if tokens == result.curve.baseline.tokens:
        return "(all)"
    return "chosen" if _is_chosen(result, tokens) else ""


def _is_chosen(result: Result, tokens: int) -> bool:
    return tokens == result.plan.tokens_out and not result.searched
