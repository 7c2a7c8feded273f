"""The page of a fleet as a reader meets it: in a browser, and as text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from pages import DESKTOP, PAPER, PHONE, Open, assert_quiet, opener
from test_page import luminance

from pomt_edge.records import RECORDED, SIMULATED, Fleet, FleetRun, Result
from pomt_edge.report import fleet, fleet_chart


def of(result: Result, origin: str = "measured", mode: str | None = None, **plan: Any) -> Result:
    details = {**result.environment.details, **({"power_mode": mode} if mode else {})}
    here = dataclasses.replace(result.environment, origin=origin, details=details)
    if "removed" in plan:
        schedule = tuple(plan["removed"] if block == 3 else 0 for block in range(12))
        plan = {"schedule": schedule, "tokens_out": result.plan.tokens_in - plan["removed"]} | plan
    return dataclasses.replace(result, plan=dataclasses.replace(result.plan, origin=origin, **plan), environment=here)


def ran(name: str, device: str, result: Result, **own: Any) -> FleetRun:
    return FleetRun(name, device, own, f"{name}/report.html", result)


def mixed() -> Fleet:
    """Every origin, every verdict, and one that failed."""
    unreachable = of(samples.smooth(), verdict="unreachable", because="no count is within 0.1 ms")
    return Fleet(
        (
            ran("tx2", "sim:jetson_tx2", of(samples.staircase(), SIMULATED, "MAXN", removed=69), keep=0.5),
            ran("server", "recorded:h200", of(samples.staircase(), RECORDED, removed=40)),
            ran("nano", "ssh://nvidia@nano", of(samples.few(), mode="15W")),
            ran("here", "cpu", unreachable),
            FleetRun("orin", "ssh://nvidia@orin", {}, error="ssh://nvidia@orin: no connection (timed out)"),
        )
    )


def hostile() -> Fleet:
    run = FleetRun("a", samples.HOSTILE, {"method": samples.HOSTILE}, "a/report.html", samples.hostile())
    return Fleet((run, FleetRun("b", samples.HOSTILE, {}, error=samples.HOSTILE)))


def nothing() -> Fleet:
    return Fleet((FleetRun("orin", "ssh://nvidia@orin", {}, error="no connection"),))


def broken() -> Fleet:
    return Fleet((ran("a", "cpu", samples.broken()), ran("b", "cpu", samples.few())))


def many() -> Fleet:
    return Fleet(tuple(ran(f"a_board_with_a_long_name_{i}", "cpu", of(samples.staircase())) for i in range(9)))


@pytest.fixture
def open_fleet(browser: Any, tmp_path: Path) -> Iterator[Open]:
    yield from opener(browser, tmp_path, fleet.render)


# In the browser.


@pytest.mark.parametrize("sample", [mixed, hostile, nothing, broken], ids=lambda sample: sample.__name__)
def test_page_opens_without_console_message_request_or_script(sample: Callable[[], Fleet], open_fleet: Open) -> None:
    browser = open_fleet(sample())
    assert_quiet(browser)
    assert browser.execute_script("return document.scripts.length") == 0


@pytest.mark.parametrize("size", [PHONE, (820, 1000), DESKTOP, PAPER], ids=["phone", "tablet", "desktop", "paper"])
@pytest.mark.parametrize("sample", [mixed, many], ids=lambda sample: sample.__name__)
def test_nothing_is_wider_than_the_page_nor_tiny(
    sample: Callable[[], Fleet], size: tuple[int, int], open_fleet: Open
) -> None:
    browser = open_fleet(sample(), size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('main *')].filter(e => e.textContent.trim())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12 or size == PAPER


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_the_paper(scheme: str, open_fleet: Open) -> None:
    browser = open_fleet(mixed(), scheme=scheme)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    texts = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !(e instanceof SVGElement) &&"
        " [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => getComputedStyle(e).color)"
    )
    assert len(texts) > 50
    for colour in texts:
        dark, bright = sorted((luminance(colour), luminance(background)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, f"{colour} on {background}"


def test_each_panel_marks_its_choice_inside_the_drawing(open_fleet: Open) -> None:
    browser = open_fleet(mixed(), PHONE)
    boxes = browser.execute_script(
        "const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };"
        "return [...document.querySelectorAll('.panel')].map(panel => [panel.id, box(panel.querySelector('.canvas')),"
        " ...[...panel.querySelectorAll('.chosen-dot')].map(box)])"
    )
    assert [panel[0] for panel in boxes] == ["panel-tx2", "panel-server", "panel-nano", "panel-here"]
    for name, area, *chosen in boxes:
        assert len(chosen) == (name != "panel-here")
        for left, top, right, bottom in chosen:
            assert area[0] <= (left + right) / 2 <= area[2] and area[1] <= (top + bottom) / 2 <= area[3]


# As text.


def text_of(page: str, part: str) -> list[str]:
    """The text of every element of this class or tag."""
    body = page.partition("<body>")[2]
    found = re.findall(r"<(?:tr|li|p|figcaption)\b[^>]*>.*?</(?:tr|li|p|figcaption)>", body, re.DOTALL)
    chosen = [element for element in found if element.startswith(f"<{part}")]
    return [" ".join(re.sub(r"<[^>]+>", " ", element).split()) for element in chosen]


def test_the_table_tells_measured_from_simulated_and_recorded_and_what_is_chosen() -> None:
    rows = text_of(fleet.render(mixed()), "tr")
    tx2, server, nano, here = rows[1:5]
    assert re.match(r"tx2 sim:jetson_tx2, keep 0.5 simulated MAXN float32 \S+, batch 4 \S+ 197 → 128 69 \d\.\d\dx", tx2)
    assert "recorded" in server and " 40 " in server
    assert "measured 15W" in nano and "do not prune" in nano and "the largest gain is 3.6 %" in nano
    assert "no count is within 0.1 ms" in here and here.endswith("none")


def test_what_failed_is_listed_with_its_reason_and_said_at_the_top() -> None:
    page = fleet.render(mixed())
    assert "orin ssh://nvidia@orin ssh://nvidia@orin: no connection (timed out)" in text_of(page, "tr")
    assert text_of(page, "li")[0] == "Failed orin: see below."


def test_what_is_not_measured_is_said_at_the_top_and_of_whom() -> None:
    said = text_of(fleet.render(mixed()), "li")
    (simulated,) = [line for line in said if line.startswith("Simulated")]
    (recorded,) = [line for line in said if line.startswith("Recorded")]
    assert simulated.startswith("Simulated tx2: No device was measured")
    assert recorded.startswith("Recorded server: The latencies were recorded on")
    assert [line.split()[1] for line in text_of(fleet.render(mixed()), "figcaption")] == [
        "simulated",
        "recorded",
        "measured",
        "measured",
    ]


def test_the_verdict_says_how_r_differs() -> None:
    said = fleet.verdict(mixed()).sentence
    assert said.startswith("R differs by device, from 40 (server) to 69 (tx2) of 197:")
    assert said.endswith("do not prune on nano; no count meets the limits on here; orin failed.")
    same = Fleet((ran("a", "cpu", samples.staircase()), ran("b", "cpu", samples.staircase())))
    assert fleet.verdict(same).sentence.startswith("Remove R=69 of 197 tokens on every device:")
    assert fleet.verdict(nothing()).sentence == "No device has a plan that prunes: orin failed."


def test_points_lost_have_a_column_where_any_device_has_them() -> None:
    without = Fleet((ran("nano", "cpu", samples.few()),))
    assert "Points lost" in text_of(fleet.render(mixed()), "tr")[0]
    assert "Points lost" not in text_of(fleet.render(without), "tr")[0]


def test_panels_are_relative_to_their_own_unreduced_model() -> None:
    fast = samples.staircase()
    points = tuple(
        dataclasses.replace(p, median_ms=9 * p.median_ms, low_ms=9 * p.low_ms, high_ms=9 * p.high_ms)
        for p in fast.curve.points
    )
    treads = tuple(dataclasses.replace(s, median_ms=9 * s.median_ms) for s in fast.staircase.segments)
    slope = 9 * fast.staircase.slope_ms_per_token
    slow = dataclasses.replace(
        fast,
        curve=dataclasses.replace(fast.curve, points=points),
        staircase=dataclasses.replace(fast.staircase, segments=treads, slope_ms_per_token=slope),
    )
    picture = fleet_chart.build([(ran("a", "cpu", fast), fast), (ran("b", "cpu", slow), slow)])
    assert picture is not None
    first, second = (dataclasses.replace(panel, name="") for panel in picture.panels)
    assert first == second and first.points and first.treads and first.chosen


def test_a_records_file_holds_the_whole_fleet(tmp_path: Path) -> None:
    mixed().save(tmp_path / "fleet.json")
    assert Fleet.load(tmp_path / "fleet.json").to_json() == mixed().to_json()


def test_a_count_of_the_papers_probe_is_not_said_to_be_removed_in_a_block() -> None:
    probe = of(samples.staircase(), RECORDED, probe="input")
    page = fleet.render(
        Fleet((ran("server", "recorded:h200", probe), ran("tx2", "sim:jetson_tx2", samples.staircase())))
    )
    assert "probe: dropped at the input" in page and page.count("remove in block") == 1


def test_the_verdict_leaves_the_papers_probe_out() -> None:
    probe = ran("server", "recorded:h200", of(samples.staircase(), RECORDED, removed=5, probe="input"))
    said = fleet.verdict(Fleet((probe, ran("tx2", "sim:jetson_tx2", samples.staircase())))).sentence
    assert said.startswith("Remove R=69 of 197 tokens on tx2:")
    assert said.endswith("the paper's probe alone, no plan to deploy, on server.")
    assert fleet.verdict(Fleet((probe,))).sentence.startswith("No device has a plan that prunes: the paper's probe")
