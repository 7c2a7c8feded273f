"""The page and the table of several engines: in a browser, and as text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import samples
from pages import DESKTOP, PAPER, PHONE, Open, assert_quiet, opener
from test_methods_page import BOXES, Curve, Page, drawn, on

from pomt_edge.commands._contest_table import print_contest
from pomt_edge.records import Contest, Final, LatencyPoint, Result
from pomt_edge.report import across, engines_chart, methods, page


def run(engine: str, name: str, slower: float, curve: Curve, **kind: Any) -> Result:
    """A method whose unreduced model takes `slower` times 10 ms on this engine."""
    result = on(engine, drawn(name, curve, **kind))
    points = tuple(
        dataclasses.replace(p, median_ms=slower * p.median_ms, low_ms=slower * p.low_ms, high_ms=slower * p.high_ms)
        for p in result.curve.points
    )
    return dataclasses.replace(result, curve=dataclasses.replace(result.curve, points=points))


def final(engine: str, method: str | None, tokens: int, ms: float) -> Final:
    return Final(engine, method, LatencyPoint(tokens, ms, ms * 0.99, ms * 1.01, 100, 8, "interval"))


def two() -> Contest:
    """On the slower engine all is beaten; on the faster one's front are the unreduced model and two counts of tome."""
    results = (
        run("torch", "tome", 2.0, {157: (1.2, 90.0), 117: (1.6, 88.0)}),
        run("torch", "pomt:score=cls", 2.0, {157: (1.3, 80.0), 117: (1.7, 55.0)}),
        run("openvino", "tome", 1.0, {157: (1.2, 89.0), 117: (1.6, 88.0)}),
        run("openvino", "pomt:score=cls", 1.0, {157: (1.1, 80.0), 117: (1.9, 82.0)}, reach=0.9),
    )
    keep = dataclasses.replace(results[3].plan, verdict="keep", removed=0, tokens_out=197, because="too noisy")
    results = (*results[:3], dataclasses.replace(results[3], plan=keep))
    finals = (
        final("torch", None, 197, 20.0),
        final("torch", "tome", 117, 12.4),
        final("openvino", None, 197, 10.0),
        final("openvino", "tome", 117, 6.3),
    )
    because = "tome on openvino is the fastest within the limits: 6.3 ms (6.237 to 6.363)"
    return Contest(results, "tome", because, ("trt: TensorRT runs on CUDA devices alone",), "openvino", finals)


def without_accuracy() -> Contest:
    contest = two()
    return dataclasses.replace(contest, results=tuple(dataclasses.replace(r, accuracy=None) for r in contest.results))


def unreduced_wins() -> Contest:
    because = "the unreduced model on openvino is faster than every plan: 10 ms (9.9 to 10.1)"
    contest = two()
    return dataclasses.replace(contest, results=contest.results[:2] + contest.results[3:], best=None, because=because)


def hostile() -> Contest:
    text = samples.HOSTILE
    return Contest(
        (samples.hostile(), samples.smooth()), text, text, (text,), "torch", (final("torch", None, 197, 9.0),)
    )


def broken() -> Contest:
    return Contest((samples.broken(), samples.few()), "pomt", "pomt is the fastest", (), "openvino")


@pytest.fixture
def open_contest(browser: Any, tmp_path: Path) -> Iterator[Open]:
    yield from opener(browser, tmp_path, methods.render)


@pytest.mark.parametrize("sample", [two, without_accuracy, unreduced_wins, hostile], ids=lambda one: one.__name__)
def test_page_opens_quietly_and_fits_a_phone_a_desktop_and_paper(
    sample: Callable[[], Contest], open_contest: Open
) -> None:
    for size in (PHONE, DESKTOP, PAPER):
        browser = open_contest(sample(), size)
        assert_quiet(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
        (area,) = browser.execute_script(BOXES, "#canvas")
        for left, top, right, bottom in browser.execute_script(BOXES, "#canvas .marker, #canvas .unreduced"):
            assert area[0] - 1 <= (left + right) / 2 <= area[2] + 1 and area[1] - 1 <= (top + bottom) / 2 <= area[3] + 1


def test_beaten_counts_are_faint_and_the_front_is_not(open_contest: Open) -> None:
    browser = open_contest(two())
    opacity = "return [...document.querySelectorAll(arguments[0])].map(e => parseFloat(getComputedStyle(e).opacity))"
    assert set(browser.execute_script(opacity, "#canvas .marker.front")) == {1.0}
    faint = browser.execute_script(opacity, "#canvas .marker.beaten")
    assert faint and max(faint) < 0.5
    assert browser.find_element("id", "front").is_displayed() and browser.find_element("id", "taken").is_displayed()


def test_a_link_leads_to_the_methods_own_report_on_its_engine(open_contest: Open, tmp_path: Path) -> None:
    result = two().results[0]
    folder = tmp_path / methods.folder_name("torch", "tome")
    folder.mkdir()
    (folder / "report.html").write_text(page.render(result), encoding="utf-8")
    browser = open_contest(two())
    links = [link.get_attribute("href") for link in browser.find_elements("css selector", ".results a")]
    assert (folder / "report.html").as_uri() in links and len(set(links)) == 4


# As text.


def test_the_front_is_of_milliseconds_and_accuracy_over_all_engines() -> None:
    front = [
        (one.engine, one.method, one.tokens, round(one.latency.ms, 2)) for one in across.front(across.points(two()))
    ]
    assert front == [
        ("openvino", None, 197, 10.0),
        ("openvino", "tome", 157, 8.33),
        ("openvino", "tome", 117, 6.3),  # as measured in turn, and not 10 / 1.6
    ]


def test_without_accuracy_the_front_is_of_milliseconds_and_tokens() -> None:
    found = across.front(across.points(without_accuracy()))
    assert [(one.engine, one.tokens) for one in found] == [("openvino", 197), ("openvino", 157), ("openvino", 117)]
    assert "Tokens kept against latency" in Page(without_accuracy()).text


def test_a_count_is_a_share_of_what_its_engines_unreduced_model_took_in_the_finals() -> None:
    contest = dataclasses.replace(two(), finals=(final("torch", None, 197, 30.0), *two().finals[1:]))
    (count,) = (one for one in across.points(contest) if (one.engine, one.tokens) == ("torch", 157) and one.worth == 90)
    assert count.latency.ms == pytest.approx(30 / 1.2)
    assert count.latency.low_ms < 30 / 1.2 * 0.99 and count.latency.high_ms > 30 / 1.2 * 1.01


def test_the_table_has_each_plan_and_each_unreduced_model_the_fastest_first() -> None:
    rows = Page(two()).rows("results on-engines")
    assert [row[:2] for row in rows] == [
        ["tome", "openvino"],
        ["unreduced", "openvino"],
        ["pomt:score=cls", "torch"],
        ["tome", "torch"],
        ["unreduced", "torch"],
        ["pomt:score=cls", "openvino"],
    ]
    best, whole, *_, refused = rows
    assert best[2:6] == ["10.00", "117", "80", "6.300 6.237 to 6.363"] and best[-1] == "taken"
    assert whole[3:7] == ["197", "0", "10.00 9.90 to 10.10", "1.00x"] and whole[-1] == "on the front"
    assert rows[3][-1] == "beaten" and refused[-2:] == ["too noisy", "do not prune"]
    assert "Left out: trt: TensorRT runs on CUDA devices alone" in Page(two()).text


def test_the_winner_is_marked_and_the_others_best_is_ringed() -> None:
    picture = engines_chart.build(two())
    assert picture is not None and picture.taken is not None
    assert picture.taken.text.startswith("tome on openvino, 117 tokens: 6.300 ms (6.237 to 6.363), accuracy 88.0 %")
    assert [marker.text.partition(",")[0] for marker in picture.finalists] == ["tome on torch"]
    assert picture.x.at(6.3) > picture.x.at(20.0)  # faster to the right
    unsure = [marker.text for marker in picture.markers if "unsure" in marker.kind]
    assert unsure and all("not surely faster" in text and "pomt:score=cls on openvino" in text for text in unsure)


def test_the_verdict_has_engine_milliseconds_and_what_the_plan_gives() -> None:
    sentence = methods.verdict(two()).sentence
    assert sentence.startswith("Take tome on openvino, R=80 in block 3: 6.300 ms (6.237 to 6.363), 1.60x faster than")
    assert "unreduced on openvino" in sentence
    assert methods.verdict(unreduced_wins()).sentence == (
        "Do not prune: the unreduced model on openvino is faster than every plan: 10 ms (9.9 to 10.1)."
    )
    picture = engines_chart.build(unreduced_wins())
    assert picture is not None and picture.taken is not None
    assert picture.taken.text.startswith("unreduced on openvino, 197 tokens: 10.00 ms")


def test_hostile_text_is_text_and_numbers_that_are_missing_never_reach_the_page() -> None:
    found = Page(hostile())
    assert "script" not in found.tags and found.text.count(samples.HOSTILE) >= 5
    assert all(re.match(r"[\w.~%-]+/report\.html", link) for link in found.links if not link.startswith("data:"))
    visible = re.sub(r"<style>.*?</style>", "", methods.render(broken()), flags=re.DOTALL)
    assert not re.search(r"\b(nan|NaN|inf|None)\b", visible)


def test_the_terminal_has_the_same_rows_and_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_contest(two(), tmp_path, to_stderr=False)
    lines = capsys.readouterr().out.splitlines()
    (best,) = (line for line in lines if "taken" in line)
    assert best.split()[:8] == ["openvino", "tome", "10.00", "117", "80", "6.300", "(6.237", "to"]
    assert any(line.startswith("Left out: trt: ") for line in lines)
    assert "Why: tome on openvino is the fastest within the limits: 6.3 ms (6.237 to 6.363)." in lines
    assert lines[-1].startswith("Take tome on openvino, R=80 in block 3: 6.300 ms")
