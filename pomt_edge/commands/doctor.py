"""`pomt-edge doctor`: whether this machine can measure, what would disturb it, and how to mend either."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pomt_edge.commands import _doctor_machine, _doctor_software
from pomt_edge.commands._doctor_finding import FAIL, OK, WARN, Check, Finding, Subject, made
from pomt_edge.commands.common import NEGATIVE, path
from pomt_edge.errors import UserError
from pomt_edge.machine.system import System

CHECKS = (*_doctor_software.CHECKS, *_doctor_machine.CHECKS)
MARKS = {OK: ("✓", "green"), WARN: ("!", "yellow"), FAIL: ("✗", "red")}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    sysroot: Annotated[
        Path,
        typer.Option(parser=path, metavar="DIR", help="Where the machine's own files are, if not below /."),
    ] = Path("/"),
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto: cuda where there is one.")] = "auto",
) -> int:
    """Check whether this machine can measure, and name the command that mends what is wrong.

    Exit codes: 0 nothing needed is missing, 1 something is.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"--device {device}: expected auto, cpu, cuda or cuda:N")
    if not sysroot.is_dir():
        raise UserError(f"--sysroot {sysroot}: no such folder; give the one that holds the machine's /sys and /proc")
    subject = Subject(System(sysroot), device, Path())
    console = Console(file=sys.stderr if as_json else sys.stdout, soft_wrap=True, highlight=False)
    findings = examine(subject, console, silent=as_json)
    if as_json:
        print(json.dumps([_plain(check, finding) for check, finding in findings], indent=2))
    return NEGATIVE if any(check.needed and finding.status == FAIL for check, finding in findings) else 0


def examine(subject: Subject, console: Console, silent: bool = False) -> list[tuple[Check, Finding]]:
    """Make all checks, and show each as soon as it is made: to import torch alone can take ten seconds."""
    findings: list[tuple[Check, Finding]] = []
    for check in CHECKS:
        # A library that greets on standard output would be taken for a finding.
        with console.status(check.name), contextlib.redirect_stdout(sys.stderr):
            finding = made(check, subject)
        if finding is None:
            continue
        findings.append((check, finding))
        if not silent:
            _show(console, check, finding)
    if not silent:
        console.print(_summary(findings))
    return findings


def _show(console: Console, check: Check, finding: Finding) -> None:
    mark, colour = MARKS[finding.status]
    name = check.name.ljust(max(len(each.name) for each in CHECKS))
    console.print(Text.assemble((f"{mark} {finding.status:<4}", colour), f"  {name}  {finding.found}"))
    if finding.remedy:
        console.print(Text.assemble(("        try: ", "dim"), (finding.remedy, "bold")))


def _summary(findings: list[tuple[Check, Finding]]) -> str:
    missing = [check.name for check, finding in findings if check.needed and finding.status == FAIL]
    doubts = sum(finding.status != OK for _, finding in findings) - len(missing)
    rest = f"{doubts} warning{'s' if doubts != 1 else ''}" if doubts else "no warnings"
    if missing:
        return f"Nothing can be measured here before these are mended: {', '.join(missing)} ({rest})."
    return f"This machine can measure ({rest})."


def _plain(check: Check, finding: Finding) -> dict[str, Any]:
    return {
        "check": check.name,
        "status": finding.status,
        "found": finding.found,
        "remedy": finding.remedy,
        "needed": check.needed,
    }
