"""The report as a reader meets it: in a browser, and as text."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from pages import PHONE, Open, assert_quiet, opener

from pomt_edge.records import AccuracyCurve, LatencyCurve, Result, Segment, Staircase
from pomt_edge.report import chart, tables, words
from pomt_edge.report.page import render


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    yield from opener(browser, tmp_path, render)


def hover(browser: Any, tokens: int) -> None:
    """Move the mouse over a count's place in the chart, as the browser itself computes it from the table."""
    from selenium.webdriver import ActionChains

    x = browser.execute_script(
        "document.getElementById('chart').scrollIntoView();"
        "const area = document.getElementById('probe').getBoundingClientRect();"
        "const rows = [...document.querySelectorAll('#points tbody tr')];"
        "const row = rows.find(r => r.cells[0].textContent == arguments[0]);"
        "return area.width * (parseFloat(row.dataset.x) / 100 - 0.5)",
        tokens,
    )
    probe = browser.find_element("id", "probe")
    ActionChains(browser, duration=0).move_to_element_with_offset(probe, round(x), 0).perform()


def tip(browser: Any) -> str:
    return str(browser.find_element("id", "tip").text)


def sentence(result: Result) -> str:
    return words.verdict(result).sentence


def changed(result: Result, **plan: Any) -> Result:
    return dataclasses.replace(result, plan=dataclasses.replace(result.plan, **plan))


# In the browser.

SAMPLES = [samples.staircase, samples.smooth, samples.few, samples.hostile, samples.broken, samples.agreement]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.__name__)
def test_page_opens_without_console_message_or_request(sample: Callable[[], Result], open_page: Open) -> None:
    browser = open_page(sample())
    assert_quiet(browser)


def test_the_policy_stops_what_the_page_did_not_bring(open_page: Open) -> None:
    browser = open_page(samples.few())
    browser.execute_script("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    browser.execute_async_script("setTimeout(arguments[0], 150)")
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_hover_shows_the_values_of_the_point_under_the_mouse(open_page: Open) -> None:
    result = samples.staircase()
    browser = open_page(result)
    assert not browser.find_element("id", "tip").is_displayed()
    for tokens in (176, 48):
        hover(browser, tokens)
        point, text = result.curve.at(tokens), tip(browser)
        assert f"{tokens} tokens" in text
        assert f"{point.median_ms:.3f} ms ({point.low_ms:.3f} to {point.high_ms:.3f})" in text
        assert "210 in 7 blocks" in text and point.stop_reason in text
        assert result.accuracy is not None
        quality = next(p for p in result.accuracy.points if p.tokens == tokens)
        assert f"{quality.percent:.2f} % (" in text and f"{quality.drop:.2f} points (" in text
    hover(browser, 177)
    assert "no, a larger count is as fast" in tip(browser) and "accuracy" not in tip(browser)


def test_the_spot_lies_on_the_drawn_point(open_page: Open) -> None:
    result = samples.few()
    browser = open_page(result)
    hover(browser, 96)
    drawing = chart.build(result)
    assert drawing is not None
    style = browser.find_element("id", "spot").get_attribute("style")
    left, top = (float(value) for value in re.findall(r"([\d.]+)%", style))
    assert (left, top) == pytest.approx((drawing.x.at(96), drawing.latency.at(42.9)), abs=0.01)


def test_arrow_keys_walk_along_the_curve_and_are_announced(open_page: Open) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = open_page(samples.staircase())
    probe = browser.find_element("id", "probe")
    browser.execute_script("arguments[0].focus()", probe)
    assert tip(browser).startswith("128 tokens chosen")
    probe.send_keys(Keys.ARROW_RIGHT)
    assert tip(browser).startswith("129 tokens")
    probe.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert probe.get_attribute("aria-valuenow") == "127"
    assert "127 tokens, latency 0.810 ms" in probe.get_attribute("aria-valuetext")
    probe.send_keys(Keys.END)
    assert tip(browser).startswith("197 tokens baseline")
    probe.send_keys(Keys.ESCAPE)
    assert not browser.find_element("id", "tip").is_displayed()


def test_a_touch_shows_the_values_on_a_phone(open_page: Open) -> None:
    browser = open_page(samples.staircase(), PHONE)
    assert tip(browser).startswith("128 tokens")
    where = browser.execute_script(
        "document.getElementById('chart').scrollIntoView();"
        "const a = document.getElementById('probe').getBoundingClientRect(); return [a.right - 2, a.top + 60]"
    )
    point = {"x": where[0], "y": where[1]}
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    finally:
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert tip(browser).startswith("197 tokens")


@pytest.mark.parametrize("sample", [samples.staircase, samples.few, samples.long_names], ids=lambda s: s.__name__)
def test_a_phone_never_scrolls_sideways_nor_has_tiny_text(sample: Callable[[], Result], open_page: Open) -> None:
    browser = open_page(sample(), PHONE)
    browser.execute_script("document.getElementById('data').open = true")
    assert browser.execute_script("return innerWidth") == 390
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('main *')].filter(e => e.textContent.trim())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12


def luminance(colour: str) -> float:
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_scheme_has_its_background_and_enough_contrast(scheme: str, open_page: Open) -> None:
    browser = open_page(samples.hostile(), scheme=scheme)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert luminance(background) > 0.9 if scheme == "light" else luminance(background) < 0.05
    pairs = browser.execute_script(
        "const behind = e => { for (; e; e = e.parentElement) {"
        " const c = getComputedStyle(e).backgroundColor; if (c !== 'rgba(0, 0, 0, 0)') return c; } };"
        "return [...document.querySelectorAll('main *')].filter(e => !(e instanceof SVGElement) &&"
        " [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))"
        ".map(e => [getComputedStyle(e).color, behind(e), e.className || e.tagName])"
    )
    assert len(pairs) > 100
    for text, behind, name in pairs:
        dark, bright = sorted((luminance(text), luminance(behind)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, f"{name}: {text} on {behind}"


def test_hostile_text_is_shown_as_text(open_page: Open) -> None:
    browser = open_page(samples.hostile())
    assert samples.HOSTILE in browser.find_element("tag name", "h1").text
    assert samples.HOSTILE in browser.find_element("class name", "callouts").text
    hover(browser, 100)
    assert samples.HOSTILE in tip(browser)
    assert browser.execute_script("return document.scripts.length") == 1
    assert samples.HOSTILE in browser.title


def test_each_toggle_hides_its_series_and_no_other(open_page: Open) -> None:
    browser = open_page(samples.staircase())
    keys = ("points", "interval", "fit", "efficient", "baseline", "chosen", "quality")
    hidden = (
        "return [...arguments[0]].filter(key => [...document.querySelectorAll('.s-' + key)]"
        ".every(e => getComputedStyle(e).display === 'none'))"
    )
    assert browser.execute_script(hidden, keys) == []
    for key in keys:
        assert browser.execute_script("return document.querySelectorAll(arguments[0]).length", f".s-{key}") > 0
        label = browser.find_element("css selector", f"label:has(#show-{key})")
        label.click()
        assert browser.execute_script(hidden, keys) == [key]
        label.click()
    assert browser.execute_script(hidden, keys) == []


def test_the_chart_is_there_without_scripts(open_page: Open, browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_page(samples.staircase())
        assert browser.find_element("css selector", "#canvas > svg").size["width"] > 800
        assert browser.find_element("css selector", ".tread").get_attribute("d").startswith("M")
        assert not browser.find_element("id", "hint").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# As text.


def test_prune_sentence_has_the_removal_the_gain_and_the_loss() -> None:
    plan = {
        "removed": 60,
        "tokens_in": 197,
        "schedule": (0, 0, 0, 60),
        "speedup": 1.31,
        "speedup_low": 1.28,
        "speedup_high": 1.34,
        "drop": 0.7,
        "drop_low": 0.3,
        "drop_high": 1.1,
    }
    assert sentence(changed(samples.staircase(), **plan)) == (
        "Remove R=60 of 197 tokens in block 3: 1.31x faster (1.28 to 1.34), 0.7 points lost (0.3 to 1.1)."
    )


def test_a_negative_drop_is_a_gain_with_its_interval_turned() -> None:
    result = changed(samples.staircase(), drop=-0.2, drop_low=-0.5, drop_high=0.1)
    assert sentence(result).endswith("0.2 points gained (−0.1 to 0.5).")


def test_a_plan_slower_than_the_baseline_is_not_called_faster() -> None:
    text = sentence(changed(samples.staircase(), speedup=0.93, speedup_low=0.9, speedup_high=0.95))
    assert "0.93x the speed, which is slower (0.90 to 0.95)" in text and "faster" not in text


def test_several_reducing_blocks_are_all_named() -> None:
    assert "tokens in blocks 3, 6 and 9:" in sentence(
        changed(samples.staircase(), schedule=(0, 0, 0, 8, 0, 0, 8, 0, 0, 8))
    )


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [("keep", "Do not prune: too noisy."), ("unreachable", "No token count meets the limits: too noisy.")],
)
def test_other_verdicts_give_the_reason_and_promise_nothing(verdict: str, expected: str) -> None:
    result = changed(samples.staircase(), verdict=verdict, because="too noisy")
    assert sentence(result) == expected
    assert expected.split(": ")[1] in render(result)


def test_nothing_is_marked_as_chosen_where_no_count_meets_the_limits() -> None:
    assert 'id="show-chosen"' not in render(changed(samples.staircase(), verdict="unreachable"))
    assert 'id="show-chosen"' in render(samples.staircase())


def test_agreement_is_never_called_accuracy() -> None:
    page = render(changed(samples.agreement(), limits={"min_accuracy": 80.0}))
    assert "accuracy" not in page.lower()
    assert "points of agreement lost" in page and "agreement, %" in page
    assert "accuracy" in render(samples.smooth()).lower()


def test_accuracy_that_was_not_measured_is_said_and_not_shown() -> None:
    page = render(samples.few())
    assert "Accuracy was not measured" in page and 'id="show-quality"' not in page and 'data-key="drop"' not in page
    pruned = changed(dataclasses.replace(samples.staircase(), accuracy=None))
    assert sentence(pruned).endswith("; accuracy was not measured.")
    assert "Accuracy was not measured" not in render(samples.staircase())


@pytest.mark.parametrize(
    ("origin", "label"), [("simulated", "Simulated"), ("recorded", "Recorded"), ("measured", None)]
)
def test_the_origin_of_the_latencies_is_labelled(origin: str, label: str | None) -> None:
    result = samples.staircase()
    result = dataclasses.replace(result, environment=dataclasses.replace(result.environment, origin=origin))
    labels = {callout.label for callout in words.callouts(result)}
    assert labels - {"Clocks"} == ({label} if label else set())
    assert f'<th scope="col">{origin.capitalize()}</th>' in render(result)


def test_the_papers_probe_promises_nothing_of_the_reduced_model() -> None:
    text = sentence(changed(samples.staircase(), probe="input"))
    assert "tokens dropped at the input: " in text
    assert "not what pruning in block 3 gives" in text and "Remove R" not in text


def test_the_papers_probe_is_labelled() -> None:
    label = html.escape(words.PROBE_LABEL, quote=False).replace("'", "&#39;")
    assert label in render(changed(samples.staircase(), probe="input"))
    assert label not in render(samples.staircase())


def test_notes_and_skipped_images_are_visible() -> None:
    result = dataclasses.replace(samples.staircase(), notes=("An imbalance was seen.",))
    assert isinstance(result.accuracy, AccuracyCurve)
    result = dataclasses.replace(result, accuracy=dataclasses.replace(result.accuracy, skipped=("a.png", "b.png")))
    texts = [callout.text for callout in words.callouts(result) if callout.label != "Clocks"]
    assert texts == ["2 images could not be read: a.png, b.png.", "An imbalance was seen."]
    assert all(text in render(result) for text in texts)


def test_steps_name_the_measured_counts_on_both_sides() -> None:
    assert tables.step_rows(samples.staircase())[0].edge == "193 → 192"
    sparse = Staircase(0.0, (Segment(197, 168, 2.0), Segment(160, 64, 1.0)), samples.staircase().staircase.steps, ())
    sparse = dataclasses.replace(sparse, steps=(dataclasses.replace(sparse.steps[0], tokens=160),))
    row = tables.step_rows(dataclasses.replace(samples.staircase(), staircase=sparse))[0]
    assert row.edge == "168 → 160"


def test_a_step_down_to_slower_is_marked() -> None:
    slower = [row.edge for row in tables.step_rows(samples.staircase()) if row.slower]
    assert slower == ["32 → 31"] and "<em>slower</em>" in render(samples.staircase())


def test_the_table_holds_every_point_and_says_what_is_withheld() -> None:
    result = samples.staircase()
    keys = ["tokens", *(column.key for column in tables.columns(result))]
    rows = tables.data_rows(result, chart.build(result))
    assert [row.tokens for row in rows] == [p.tokens for p in result.curve.points]
    first = dict(zip(keys[1:], rows[0].cells, strict=True))
    assert first["median"] == f"{result.curve.baseline.median_ms:.3f}" and first["p99"] == "–"
    assert first["p95"] != "–" and first["stop"] == result.curve.baseline.stop_reason


def test_the_fitted_line_runs_along_the_common_slope() -> None:
    stairs = Staircase(0.5, (Segment(30, 10, 20.0),), (), ())
    result = dataclasses.replace(samples.staircase(), staircase=stairs)
    x, y = chart.Axis(0, 100, 0, 100, (), 0), chart.Axis(0, 100, 100, 0, (), 0)
    assert chart.staircase_paths(result, x, y) == ("M30 75L10 85", "")


def test_an_axis_off_zero_is_declared_and_one_at_zero_is_not() -> None:
    assert "The latency axis starts at 0.5 ms, not at zero." in render(samples.staircase())
    assert "The latency axis" not in render(samples.smooth())


def test_ticks_are_round_and_inside_the_axis() -> None:
    drawing = chart.build(samples.staircase())
    assert drawing is not None and drawing.quality is not None
    assert drawing.x.ticks == (32, 64, 96, 128, 160, 192)
    assert [label for _, label in drawing.latency.marks()] == ["0.5", "0.6", "0.7", "0.8", "0.9", "1.0"]
    for axis in (drawing.latency, drawing.quality):
        assert all(axis.low - 1e-9 <= tick <= axis.high for tick in axis.ticks)
    assert len({label for _, label in chart.latency_axis(list(samples.few().curve.points), [], False).marks()}) >= 3


def test_one_wild_interval_does_not_flatten_the_curve() -> None:
    result = samples.staircase()
    wild = dataclasses.replace(result.curve.points[50], high_ms=500.0)
    points = (*result.curve.points[:50], wild, *result.curve.points[51:])
    result = dataclasses.replace(result, curve=dataclasses.replace(result.curve, points=points))
    drawing = chart.build(result)
    assert drawing is not None and drawing.latency.high < 1.5
    assert "1 interval runs beyond the latency axis." in render(result)


def test_numbers_that_are_missing_never_reach_the_page() -> None:
    page = render(samples.broken())
    visible = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", page, flags=re.S)
    assert not re.search(r"\b(nan|inf|None)\b", visible)
    assert "not measured at this count" in visible


def test_an_empty_curve_still_makes_a_page() -> None:
    empty = dataclasses.replace(samples.few(), curve=LatencyCurve(()), staircase=Staircase(0.0, (), (), ()))
    page = render(empty)
    assert "No latency was measured" in page and "drift is not known" in page


def test_the_file_needs_nothing_else_and_stays_small() -> None:
    page = render(samples.large())
    assert len(page.encode()) < 300_000 and len(render(samples.staircase()).encode()) < 100_000
    assert page.count("<tr") > 1200
    assert not re.search(r"""(?:src|href)=["'](?!data:)|@import|url\((?!#)""", page)
