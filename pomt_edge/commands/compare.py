"""`pomt-edge compare`: run B against run A, as a table, as Markdown or as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pomt_edge.commands.common import NEGATIVE, path
from pomt_edge.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from pomt_edge.choose.sides import Side
    from pomt_edge.records import ComparedPoint, Comparison, FieldPair

HEADINGS = {
    "tokens": "left",
    "A": "right",
    "B": "right",
    "difference (95 %)": "right",
    "verdict": "left",
}
SHORT = 16
"""Counts of a table that is shown whole."""
STYLES = {"SLOWER": "red", "FASTER": "green", "AMBIGUOUS": "yellow", "INCOMPARABLE": "red", "SAME": ""}


def compare(
    a: Annotated[Path, typer.Argument(parser=path, metavar="A", help="A run's folder or result.json; what was.")],
    b: Annotated[
        Path, typer.Argument(parser=path, metavar="B", help="The same, or a recorded curve (JSON, CSV); what is now.")
    ],
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            help="Differences up to so many percent do not matter. [default: 3 if both had locked clocks, else 5]",
        ),
    ] = None,
    relative: Annotated[
        bool, typer.Option("--relative", help="Compare counts relative to each run's own unreduced model.")
    ] = False,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Compare counts in ms. [default: if both had locked clocks]")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Compare even where the environments differ in what matters.")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every count, also those that are the same.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, for a pull request's comment.")
    ] = False,
) -> int:
    """Compare two runs of offline_compute, or a run and a recorded curve: is B slower than A?

    Exit code 1 if B is surely slower by more than the tolerance anywhere, or if the two can't be compared; else 0.
    """
    if a is None or b is None:  # older typers let a missing argument through
        raise UserError("compare needs two runs: pomt-edge compare A B")
    if relative and absolute:
        raise UserError("--relative and --absolute: give one of them")
    if as_json and as_markdown:
        raise UserError("--json and --markdown: give one of them")
    if tolerance is not None and not 0 < tolerance < 100:
        raise UserError(f"--tolerance {tolerance:g}: expected percent above 0 and below 100, such as 3")
    from pomt_edge.choose import comparison

    scale = "relative" if relative else "absolute" if absolute else None
    outcome = comparison.compare(*_sides(a, b), tolerance, scale, force)
    if as_json:
        print(outcome.to_json())
    elif as_markdown:
        print(_markdown(outcome, every))
    else:
        _print(outcome, every)
    return NEGATIVE if outcome.verdict in ("SLOWER", "INCOMPARABLE") else 0


def _sides(a: Path, b: Path) -> tuple[Side, Side]:
    from pomt_edge.choose.sides import closest
    from pomt_edge.report import recorded

    left, right = recorded.read(a), recorded.read(b)
    for several, typed, other in ((left, a, right), (right, b, left)):
        if len(several) > 1 and (len(other) > 1 or "model" not in other[0].facts):
            raise UserError(f"{typed} holds {len(several)} curves: compare it with a run, which tells which is meant")
    sides = closest(left, right[0]), closest(right, left[0])
    if sides[0].name == sides[1].name:
        return dataclasses.replace(sides[0], name=str(a)), dataclasses.replace(sides[1], name=str(b))
    return sides


def _print(outcome: Comparison, every: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    console.print(f"A: {outcome.a}\nB: {outcome.b}\n", markup=False, highlight=False)
    if outcome.level:
        console.print(_table(outcome, every))
    for line in _remarks(outcome, every):
        console.print(line, markup=False, highlight=False)
    verdict = Text(outcome.verdict, style=f"bold {STYLES[outcome.verdict]}".strip())
    console.print(Text.assemble(verdict, f": {outcome.because}."))


def _table(outcome: Comparison, every: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading, side in HEADINGS.items():
        table.add_column(heading, justify="left" if side == "left" else "right", no_wrap=True)
    for point in _rows(outcome, every):
        *cells, verdict = _cells(outcome, point)
        table.add_row(*cells, Text(verdict, style=STYLES[point.verdict]))
    return table


def _markdown(outcome: Comparison, every: bool) -> str:
    lines = [f"**{outcome.verdict}**: {_escaped(outcome.because)}.", ""]
    lines += [f"A: {_escaped(outcome.a)}, B: {_escaped(outcome.b)}", ""]
    if outcome.level:
        lines += [_row(list(HEADINGS)), _row(["---" if side == "left" else "---:" for side in HEADINGS.values()])]
        lines += [_row(_cells(outcome, point)) for point in _rows(outcome, every)]
        lines.append("")
    lines += [f"- {_escaped(line)}" for line in _remarks(outcome, every)]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """Text that neither ends a cell nor is taken for markup."""
    for character in "\\|*_<`[":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _rows(outcome: Comparison, every: bool) -> list[ComparedPoint]:
    """The unreduced model, what was chosen, and the counts that are faster or slower; all, where they are few."""
    assert outcome.level is not None
    whole = every or len(outcome.points) <= SHORT
    decided = ("FASTER", "SLOWER")
    shown = [point for point in outcome.points if whole or point.verdict in decided or point.tokens in outcome.chosen]
    return [outcome.level, *shown]


def _cells(outcome: Comparison, point: ComparedPoint) -> list[str]:
    from pomt_edge.choose.comparison import difference
    from pomt_edge.report.numerals import ms_decimals

    if outcome.scale == "absolute" or point is outcome.level:
        values = [f"{value:.{ms_decimals(point.a_ms)}f} ms" for value in (point.a_ms, point.b_ms)]
    else:
        values = [f"{value:.2f}x" for value in (point.a_speedup, point.b_speedup)]
    verdict = f"{point.verdict} >{outcome.tolerance_percent:g} %" if point.beyond else point.verdict
    return [f"{point.tokens} {_role(outcome, point)}".rstrip(), *values, difference(point), verdict]


def _role(outcome: Comparison, point: ComparedPoint) -> str:
    if point is outcome.level:
        return "(all)"
    if point.tokens not in outcome.chosen:
        return ""
    choosers = [name for name, tokens in zip("AB", outcome.chosen, strict=False) if tokens == point.tokens]
    return "chosen" if len(choosers) == 2 else f"chosen in {choosers[0]}"


def _remarks(outcome: Comparison, every: bool) -> list[str]:
    """What has to be read beside the table, a sentence each."""
    lines = []
    if outcome.level:
        lines.append(
            "Counts are compared in milliseconds; + is slower."
            if outcome.scale == "absolute"
            else "Counts are compared relative to each run's own unreduced model; + is slower."
        )
        hidden = len(outcome.points) + 1 - len(_rows(outcome, every))
        if hidden:
            lines.append(f"{hidden} more counts are the SAME or AMBIGUOUS (--all shows them).")
        limit = f"{outcome.tolerance_percent:g} %"
        lines.append(
            f"SAME: the whole interval is within {limit}; AMBIGUOUS: not measured finely enough to tell; with >{limit} "
            "the difference is surely larger than that, which fails."
        )
        chance = sum(_outside(point, outcome.tolerance_percent) and not point.beyond for point in outcome.points)
        if chance:
            lines.append(
                f"{chance} counts are beyond {outcome.tolerance_percent:g} % by their own intervals, but of so many "
                "some are by chance: that is no sure sign."
            )
    for name, only in (("A", outcome.only_in_a), ("B", outcome.only_in_b)):
        if only and outcome.level:
            lines.append(f"{len(only)} counts were measured in {name} only.")
    lines += outcome.notes
    if outcome.plans:
        lines.append(_plans(outcome))
    if outcome.incomparable and outcome.level:
        lines.append(f"Compared by force: {_pairs(outcome.incomparable)}.")
    if outcome.differs:
        lines.append(f"Differs: {_pairs(outcome.differs)}.")
    for name, unknown in (("A", outcome.unknown_in_a), ("B", outcome.unknown_in_b)):
        if unknown and outcome.level:
            lines.append(f"Unknown in {name}: {', '.join(unknown)}.")
    if outcome.verdict == "INCOMPARABLE":
        lines.append("Measure one of them again as the other was, or compare all the same with --force.")
    if outcome.verdict == "AMBIGUOUS":
        lines.append("Narrower intervals (offline_compute --interval, --point-seconds) or a larger --tolerance decide.")
    return lines


def _outside(point: ComparedPoint, tolerance: float) -> bool:
    return point.low is not None and point.high is not None and (point.low > tolerance or point.high < -tolerance)


def _pairs(pairs: Sequence[FieldPair]) -> str:
    from pomt_edge.choose.sides import shown

    return "; ".join(f"{pair.field} {shown(pair.a)} in A, {shown(pair.b)} in B" for pair in pairs)


def _plans(outcome: Comparison) -> str:
    plans = outcome.plans
    assert plans is not None
    reducing = [
        {block for block, removed in enumerate(schedule) if removed}
        for schedule in (plans.a_schedule, plans.b_schedule)
    ]
    # A number says it all where both remove in one and the same block, or one of them nowhere.
    named = plans.agreement != "same" and len(set.union(*reducing)) > 1
    a = _choice(plans.a_verdict, plans.a_removed, plans.a_schedule if named else ())
    b = _choice(plans.b_verdict, plans.b_removed, plans.b_schedule if named else ())
    if plans.agreement == "same":
        return f"Both chose {a}."
    ending = ", on the same tread of A's staircase" if plans.agreement == "same tread" else ""
    return f"A chose {a}, B {b}{ending}."


def _choice(verdict: str, removed: int, schedule: Sequence[int]) -> str:
    if verdict != "prune":
        return f"'{verdict}'"
    return f"R={removed} ({','.join(map(str, schedule))})" if schedule else f"R={removed}"
