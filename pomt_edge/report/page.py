"""One run as one HTML file: everything inlined, nothing fetched."""

from __future__ import annotations

import base64
import hashlib

from pomt_edge.records import Result
from pomt_edge.report import chart, refused, schedule_table, searched, tables, words
from pomt_edge.report.numerals import number
from pomt_edge.report.templates import templates, text


def render(result: Result) -> str:
    """The whole page as text; save it as UTF-8."""
    script = text("page.js")
    picture = chart.build(result)
    template = templates().get_template("page.html.j2")
    return template.render(
        style=text("page.css"),
        script=script,
        script_hash=_hash(script),
        plan=result.plan,
        origin=result.environment.origin,
        curve=result.curve,
        verdict=words.verdict(result),
        title=words.title(result.plan, result.environment.device_name),
        remedies=refused.lines(result),
        remedies_lead=refused.LEAD,
        callouts=words.callouts(result),
        measure=words.measure_of(result),
        chart=picture,
        series=_series(picture, words.measure_of(result)),
        caption=words.caption(result, picture),
        **_labels(result),
        figures=tables.key_figures(result),
        choice=tables.choice(result),
        columns=tables.columns(result),
        rows=tables.data_rows(result, picture),
        schedules=schedule_table.schedule_rows(result),
        schedule_search=words.schedule_search(result),
        steps=tables.step_rows(result),
        treads=tables.tread_rows(result),
        efficient=result.staircase.efficient,
        searched=searched.sentence(result),
        asked=searched.rows(result.search),
        slope=number(result.staircase.slope_ms_per_token * 1000, 2),
        steadiness=tables.steadiness_lines(result),
        spark=chart.sparkline(result.curve.anchor_ms),
        environment=tables.environment_rows(result),
    )


def _labels(result: Result) -> dict[str, str]:
    """The latencies written into the chart."""
    digits, place = tables.decimals_of(result), chart.chosen_place(result)
    return {
        "baseline_ms": number(result.curve.baseline.median_ms if result.curve.points else None, digits),
        "chosen_ms": number(place[1] if place else None, digits),
    }


def _series(picture: chart.Chart | None, measure: str | None) -> list[tuple[str, str]]:
    """What the legend can switch, as key and name; the keys are those of the style sheet."""
    found = [("points", "Median"), ("interval", "95 % interval"), ("fit", "Fitted staircase")]
    found += [("efficient", "Efficient set"), ("baseline", "Baseline")]
    if picture and picture.chosen:
        found.append(("chosen", "Chosen"))
    if picture and picture.quality and measure:
        found.append(("quality", measure.capitalize()))
    return found


def _hash(script: str) -> str:
    """For the page's Content-Security-Policy: this script may run and no other, whatever a name holds."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
