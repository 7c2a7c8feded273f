"""The page that lays the devices of a fleet side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from pomt_edge.records import MEASURED, RECORDED, SIMULATED, Fleet, FleetRun, Plan, Result
from pomt_edge.records.fleet import in_words
from pomt_edge.report import fleet_chart, words
from pomt_edge.report.numerals import ABSENT, finite, interval, join, ms_decimals, number
from pomt_edge.report.templates import templates, text
from pomt_edge.report.words import Callout, Verdict

SHOWN = ("power_mode", "precision", "engine", "bs")
"""Options of a device that have a column."""


@dataclass(frozen=True)
class Row:
    """One device; the last cells are empty where its plan removes nothing."""

    name: str
    href: str
    device: str
    own: str
    """The options that are this device's own and in no column."""
    origin: str
    is_measured: bool
    power_mode: str
    precision: str
    engine: str
    baseline: str
    prunes: bool
    cells: tuple[tuple[str, str], ...]
    """Value and its 95 % interval."""
    plan: str
    because: str
    """Why nothing is removed, else nothing."""


def render(fleet: Fleet) -> str:
    """The whole page as text; save it as UTF-8."""
    runs = fleet.results
    measure = next(filter(None, (words.measure_of(result) for _, result in runs)), None)
    rows = [_row(run, result, measure is not None) for run, result in runs]
    return (
        templates()
        .get_template("fleet.html.j2")
        .render(
            style=text("page.css") + text("methods.css") + text("fleet.css"),
            title=title(fleet),
            verdict=verdict(fleet),
            callouts=callouts(fleet),
            columns=["Tokens kept", "R", "Speedup", *(["Points lost"] if measure else [])],
            rows=rows,
            of={row.name: row for row in rows},
            picture=fleet_chart.build(runs),
            failed=fleet.failed,
        )
    )


def title(fleet: Fleet) -> str:
    """What ran where: '…, batch 4, 3 devices'."""
    plans = [result.plan for _, result in fleet.results]
    models = list(dict.fromkeys(plan.model for plan in plans))
    batches = list(dict.fromkeys(f"batch {plan.batch_size}" for plan in plans))
    devices = f"{len(fleet.runs)} device{'' if len(fleet.runs) == 1 else 's'}"
    return ", ".join([join(models), join(batches), devices] if models else [devices])


def verdict(fleet: Fleet) -> Verdict:
    """How R differs from device to device, and what that gives."""
    pruning = [(run.name, result.plan) for run, result in fleet.results if _prunes(result.plan)]
    others = _others(fleet)
    if not pruning:
        return Verdict("No device has a plan that prunes:", f"{'; '.join(others)}.")
    pruning.sort(key=lambda named: named[1].removed)
    (first, least), (last, most) = pruning[0], pruning[-1]
    if least.removed == most.removed:
        lead = f"Remove R={least.removed} of {least.tokens_in} tokens on {_which(pruning, fleet)}:"
    else:
        lead = f"R differs by device, from {least.removed} ({first}) to {most.removed} ({last}) of {most.tokens_in}:"
    return Verdict(lead, f"{'; '.join([_gain([plan for _, plan in pruning]), *others])}.")


def _prunes(plan: Plan) -> bool:
    """Whether it is a plan to deploy: the paper's probe makes another model."""
    return plan.verdict == "prune" and plan.probe != "input"


def _which(pruning: Sequence[tuple[str, Plan]], fleet: Fleet) -> str:
    if len(pruning) == len(fleet.runs) > 1:
        return "every device"
    return join([name for name, _ in pruning])


def _gain(plans: Sequence[Plan]) -> str:
    speeds = sorted(plan.speedup for plan in plans)
    low, high = number(speeds[0], 2), number(speeds[-1], 2)
    return f"{low}x faster" if low == high else f"{low}x to {high}x faster"


def _others(fleet: Fleet) -> list[str]:
    kept = [run.name for run, result in fleet.results if result.plan.verdict == "keep"]
    none = [run.name for run, result in fleet.results if result.plan.verdict not in ("keep", "prune")]
    probes = [run.name for run, result in fleet.results if result.plan.verdict == "prune" and not _prunes(result.plan)]
    failed = [run.name for run in fleet.failed]
    said = [
        f"the paper's probe alone, no plan to deploy, on {join(probes)}" if probes else "",
        f"do not prune on {join(kept)}" if kept else "",
        f"no count meets the limits on {join(none)}" if none else "",
    ]
    said.append(f"{join(failed)} failed" if failed else "")
    return list(filter(None, said))


def callouts(fleet: Fleet) -> list[Callout]:
    """What a reader must see first: how latencies came about, what failed, and what the runs themselves warn of."""
    said: dict[Callout, list[str]] = {}
    for run, result in fleet.results:
        for callout in words.callouts(result):
            if callout.label != "Clocks" or callout.warns:
                said.setdefault(callout, []).append(run.name)
    whole = len(fleet.results)
    found = [_failed(fleet)] if fleet.failed else []
    of_origin = [callout for callout in said if callout.label.lower() in (SIMULATED, RECORDED)]
    found += [_of(said[callout], callout) if len(said[callout]) < whole else callout for callout in of_origin]
    found += [callout for callout in said if len(said[callout]) == whole and callout not in of_origin]
    some: dict[tuple[str, bool], list[str]] = {}
    for callout, names in said.items():
        if callout not in found and callout not in of_origin:
            some.setdefault((callout.label, callout.warns), []).extend(names)
    return found + [Callout(label, _on(list(dict.fromkeys(names))), warns) for (label, warns), names in some.items()]


def _on(names: list[str]) -> str:
    return f"On {join(names)}; {'its own report says' if len(names) == 1 else 'their own reports say'} more."


def _failed(fleet: Fleet) -> Callout:
    return Callout("Failed", f"{join([run.name for run in fleet.failed])}: see below.", warns=True)


def _of(names: list[str], callout: Callout) -> Callout:
    return Callout(callout.label, f"{join(names)}: {callout.text}", callout.warns)


def _row(run: FleetRun, result: Result, has_quality: bool) -> Row:
    plan, here = result.plan, result.environment
    prunes = plan.verdict == "prune"
    # Counts of the paper's probe are those of another model than pruning in a block makes.
    prune = "probe: dropped at the input" if plan.probe == "input" else f"remove {words.where(plan)}"
    named = {"prune": prune, "keep": "do not prune", "unreachable": "none"}
    return Row(
        name=run.name,
        href=quote(run.report or ""),
        device=run.device,
        own=in_words({name: value for name, value in run.own.items() if name not in SHOWN}),
        origin=here.origin,
        is_measured=here.origin == MEASURED,
        power_mode=here.power_mode or ABSENT,
        precision=here.precision,
        engine=f"{here.engine}, batch {here.batch_size}",
        baseline=number(plan.baseline_ms, ms_decimals(plan.baseline_ms)),
        prunes=prunes,
        cells=tuple(cells(plan, has_quality)) if prunes else (),
        plan=named.get(plan.verdict, plan.verdict),
        because="" if prunes else plan.because,
    )


def cells(plan: Plan, has_quality: bool) -> Iterable[tuple[str, str]]:
    """Tokens, R, speedup and, where any device has it, points lost; each with its interval."""
    yield f"{plan.tokens_in} → {plan.tokens_out}", ""
    yield str(plan.removed), ""
    yield f"{number(plan.speedup, 2)}x", interval(plan.speedup_low, plan.speedup_high, 2)
    if has_quality:
        lost = plan.drop if finite(plan.drop) else None
        yield number(lost, 1), interval(plan.drop_low, plan.drop_high, 1)
