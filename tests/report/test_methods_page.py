"""The page of all methods as a reader meets it: in a browser, and as text."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import samples
from pages import DESKTOP, PAPER, PHONE, Open, assert_quiet, opener
from test_page import luminance

from pomt_edge.commands._contest_table import print_contest
from pomt_edge.records import AccuracyCurve, AccuracyPoint, Contest, Cost, LatencyCurve, Result
from pomt_edge.report import methods, methods_chart, page, pareto
from pomt_edge.simulator.error import totals

NAMES = ("l2_norm", "pitome", "pomt", "pomt:score=cls", "random", "tome", "topk")
COSTS = (Cost(4.6, 22_000_000, 12.3, (197,) * 12), Cost(3.2, 22_000_000, 11.3, (128,) * 12))
Curve = dict[int, tuple[float, float]]
"""Tokens to speedup and accuracy, the unreduced model aside."""


def named(result: Result, name: str, **plan: Any) -> Result:
    return dataclasses.replace(result, plan=dataclasses.replace(result.plan, method=name, **plan), costs=COSTS)


def on(engine: str, result: Result) -> Result:
    return dataclasses.replace(result, plan=dataclasses.replace(result.plan, engine=engine))


def drawn(name: str, curve: Curve, *, reach: float = 0.01, images: float = 2.0, chosen: int | None = None) -> Result:
    """A method with these counts, latencies good to the share `reach` and accuracies to `images` points."""
    whole = {197: (1.0, 90.0), **curve}
    point = samples.staircase().curve.baseline
    latencies = [
        dataclasses.replace(
            point,
            tokens=tokens,
            median_ms=10 / speedup,
            low_ms=10 / speedup * (1 - reach),
            high_ms=10 / speedup * (1 + reach),
        )
        for tokens, (speedup, _) in whole.items()
    ]
    qualities = [
        AccuracyPoint(tokens, percent, percent - images, percent + images, 500, 90 - percent, -1.0, 99.0)
        for tokens, (_, percent) in whole.items()
    ]
    end = chosen or min(whole)
    plan = {"tokens_out": end, "removed": 197 - end, "speedup": whole[end][0], "predicted_percent": whole[end][1]}
    result = named(samples.staircase(), name, **plan)
    accuracy = AccuracyCurve("accuracy", tuple(qualities))
    return dataclasses.replace(result, curve=LatencyCurve(tuple(latencies)), accuracy=accuracy)


def test_the_terminal_says_of_a_simulated_contest_that_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = drawn("tome", {128: (1.4, 89.0)})
    contest = Contest((measured,), "tome", "tome is the fastest within the limits")
    print_contest(contest, tmp_path, to_stderr=False)
    assert "imulated" not in capsys.readouterr().out
    details = {"simulator_error": totals(), "assumed": ["The clock is a guess."]}
    here = dataclasses.replace(measured.environment, origin="simulated", details=details)
    simulated = dataclasses.replace(measured, environment=here)
    print_contest(dataclasses.replace(contest, results=(simulated,)), tmp_path, to_stderr=False)
    out = capsys.readouterr().out
    assert "Simulated: No device was measured: an analytic model made these latencies. The clock is a guess." in out
    assert "too fast in" in out and "Measure before you deploy." in out


def without_accuracy(contest: Contest) -> Contest:
    results = tuple(
        named(dataclasses.replace(r, accuracy=None), r.plan.method, drop=None, measure=None) for r in contest.results
    )
    return dataclasses.replace(contest, results=results)


def alike() -> Contest:
    """Seven methods whose curves hardly differ, so that all their names want the same place."""
    curves = [
        {tokens: (197 / tokens + 0.002 * i, 90 - 8 * (1 - tokens / 197) - 0.05 * i) for tokens in range(181, 90, -16)}
        for i in range(7)
    ]
    results = tuple(drawn(name, curve, chosen=133) for name, curve in zip(NAMES, curves, strict=True))
    return Contest(results, "tome", "tome is the fastest within the limits; pomt may be as good")


def apart() -> Contest:
    """One that is best, one that falls out of the picture, one that is not measured well enough."""
    results = (
        drawn("tome", {157: (1.2, 90.0), 117: (1.6, 88.0)}),
        drawn("pomt:score=cls", {157: (1.3, 80.0), 117: (1.7, 55.0), 60: (2.6, 12.0)}),
        drawn("pitome", {157: (1.9, 89.9), 117: (2.2, 89.5)}, reach=0.7),
    )
    return Contest(results, "tome", "tome is the fastest within the limits", ("dynamic: needs one image a forward",))


def single() -> Contest:
    return Contest((named(samples.staircase(), "tome"),), "tome", "tome is the fastest within the limits")


def hostile() -> Contest:
    return Contest(
        (samples.hostile(), on("torch", samples.smooth())), samples.HOSTILE, samples.HOSTILE, (samples.HOSTILE,)
    )


def long_names() -> Contest:
    name = samples.long_names().plan.method
    return Contest((samples.long_names(), *alike().results), name, name, (name,))


def broken() -> Contest:
    return Contest((on("torch", samples.broken()), samples.few()), "pomt", "pomt is the fastest within the limits")


def latency_alone() -> Contest:
    return without_accuracy(
        Contest(tuple(named(samples.staircase(), name) for name in NAMES), "tome", "tome is the fastest")
    )


SAMPLES = [apart, alike, single, hostile, long_names, broken, latency_alone]


class Page(HTMLParser):
    """What stands where in the page; an element that is never closed is an error."""

    VOID = ("meta", "link", "br")

    def __init__(self, contest: Contest) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.tables: dict[str, list[list[str]]] = {}
        self.titles: list[str] = []
        self._open: list[str] = []
        self._table = ""
        source = methods.render(contest)
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "a":
            self.links.append(given["href"] or "")
        if tag == "table":
            self._table = given["class"] or ""
            self.tables[self._table] = []
        if tag == "tr":
            self.tables[self._table].append([])
        if tag in ("th", "td"):
            self.tables[self._table][-1].append("")
        if tag == "title":
            self.titles.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._open and self._open[-1] == "title":
            self.titles[-1] += data
        if {"th", "td"} & set(self._open):
            self.tables[self._table][-1][-1] += data

    def rows(self, table: str) -> list[list[str]]:
        return [[" ".join(cell.split()) for cell in row] for row in self.tables[table][1:]]


@pytest.fixture
def open_contest(browser: Any, tmp_path: Path) -> Iterator[Open]:
    yield from opener(browser, tmp_path, methods.render)


# In the browser.


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.__name__)
def test_page_opens_without_console_message_request_or_script(
    sample: Callable[[], Contest], open_contest: Open
) -> None:
    browser = open_contest(sample())
    assert_quiet(browser)
    assert browser.execute_script("return document.scripts.length") == 0


@pytest.mark.parametrize("size", [PHONE, (820, 1000), DESKTOP, PAPER], ids=["phone", "tablet", "desktop", "paper"])
@pytest.mark.parametrize("sample", [apart, alike, long_names, latency_alone], ids=lambda sample: sample.__name__)
def test_nothing_is_wider_than_the_page_nor_tiny(
    sample: Callable[[], Contest], size: tuple[int, int], open_contest: Open
) -> None:
    browser = open_contest(sample(), size)
    browser.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('main *')].filter(e => e.textContent.trim())"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 12 or size == PAPER


BOXES = (
    "const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };"
    "return [...document.querySelectorAll(arguments[0])].map(box)"
)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("sample", [apart, alike, long_names, latency_alone], ids=lambda sample: sample.__name__)
def test_the_names_stand_inside_the_drawing_and_apart(
    sample: Callable[[], Contest], size: tuple[int, int], open_contest: Open
) -> None:
    browser = open_contest(sample(), size)
    (figure,) = browser.execute_script(BOXES, "figure")
    names = browser.execute_script(BOXES, ".name")
    assert len(names) == len(sample().results)
    for left, top, right, bottom in names:
        assert figure[0] <= left < right <= figure[2] and figure[1] <= top < bottom <= figure[3]
    ordered = sorted(names, key=lambda box: box[1])
    assert all(above[3] <= below[1] for above, below in itertools.pairwise(ordered))


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_names_of_the_methods_there_are_can_be_read_in_full(size: tuple[int, int], open_contest: Open) -> None:
    browser = open_contest(alike(), size)
    cut = "return [...document.querySelectorAll('.name > span')].filter(e => e.scrollWidth > e.clientWidth).length"
    assert browser.execute_script(cut) == 0
    assert {e.text for e in browser.find_elements("css selector", ".name")} == set(NAMES)


@pytest.mark.parametrize("sample", [apart, alike, latency_alone], ids=lambda sample: sample.__name__)
def test_every_marker_lies_in_the_drawing_area(sample: Callable[[], Contest], open_contest: Open) -> None:
    browser = open_contest(sample(), PHONE)
    (area,) = browser.execute_script(BOXES, "#canvas")
    markers = browser.execute_script(BOXES, "#canvas .series .marker")
    assert len(markers) >= 5
    for left, top, right, bottom in markers:
        assert area[0] <= (left + right) / 2 <= area[2] and area[1] <= (top + bottom) / 2 <= area[3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_line_and_text_stands_out_from_the_paper(scheme: str, open_contest: Open) -> None:
    browser = open_contest(alike(), scheme=scheme)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert luminance(background) > 0.9 if scheme == "light" else luminance(background) < 0.05
    strokes = browser.execute_script(
        "return [...document.querySelectorAll('#canvas .line')].map(e => getComputedStyle(e).stroke)"
    )
    texts = browser.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !(e instanceof SVGElement) &&"
        " [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => getComputedStyle(e).color)"
    )
    assert len(set(strokes)) == 7 and len(texts) > 50
    for colours, least in ((strokes, 3.0), (texts, 4.5)):
        for colour in colours:
            dark, bright = sorted((luminance(colour), luminance(background)))
            assert (bright + 0.05) / (dark + 0.05) >= least, f"{colour} on {background}"


def test_a_link_leads_to_the_methods_own_report(open_contest: Open, tmp_path: Path) -> None:
    for result in apart().results:
        folder = tmp_path / methods.folder_name(result.plan.engine, result.plan.method)
        folder.mkdir()
        (folder / "report.html").write_text(page.render(result), encoding="utf-8")
    browser = open_contest(apart())
    browser.find_element("link text", "pomt:score=cls").click()
    assert browser.current_url == (tmp_path / "torch-pomt-score-cls" / "report.html").as_uri()
    assert "Remove R=137" in browser.find_element("id", "verdict").text


# As text.


def test_the_verdict_names_the_method_and_what_it_gives() -> None:
    plan = {"speedup": 1.43, "speedup_low": 1.32, "speedup_high": 1.67, "drop": 0.0, "drop_low": -1.7, "drop_high": 1.7}
    contest = Contest((samples.few(), named(samples.staircase(), "tome", **plan)), "tome", "tome is the fastest")
    assert methods.verdict(contest).sentence == "Take tome: 1.43x faster (1.32 to 1.67), 0.0 points lost (−1.7 to 1.7)."
    assert "tome is the fastest" in Page(contest).text


@pytest.mark.parametrize(
    ("verdict", "lead"), [("keep", "Do not prune"), ("unreachable", "No token count meets the limits")]
)
def test_without_a_winner_the_reason_is_the_verdict_and_stands_there_once(verdict: str, lead: str) -> None:
    contest = Contest((named(samples.few(), "tome", verdict=verdict, because="too noisy"),), None, "none is faster")
    text = Page(contest).text
    assert f"{lead}: none is faster." in " ".join(text.split())
    assert text.count("none is faster") == 1 and "too noisy" in text and "Take" not in text


def test_the_front_holds_what_no_other_surely_faster_count_beats() -> None:
    points = [point for result in apart().results for point in pareto.measured(result)]
    best = [(point.method, point.tokens) for point in pareto.front(points)]
    assert best == [("tome", 157), ("tome", 117), ("pomt:score=cls", 117), ("pomt:score=cls", 60)]


def test_a_count_that_is_not_surely_faster_is_marked_and_wins_nowhere() -> None:
    page = Page(apart())
    unsure = [title for title in page.titles if "not surely faster" in title]
    assert [title.split(":")[0] for title in unsure] == ["pitome, 157 tokens", "pitome, 117 tokens"]
    assert "pitome" not in {row[1] for row in page.rows("wins")}


def test_which_wins_where_says_who_may_be_as_good_who_is_behind_and_who_is_not_there() -> None:
    contest = Contest(
        (
            drawn("tome", {157: (1.2, 90.0), 117: (1.6, 88.0)}),
            drawn("topk", {157: (1.3, 88.5), 117: (1.7, 70.0)}),
            drawn("random", {157: (1.15, 60.0)}),
        ),
        "tome",
        "because",
    )
    rows = Page(contest).rows("wins")
    assert [row[:4] for row in rows] == [
        ["1.1x", "tome", "90.0 %", "157"],
        ["1.25x", "topk", "88.5 %", "157"],
        ["1.5x", "tome", "88.0 %", "117"],
    ]
    assert rows[0][5] == "topk (88.5 %) may be as good: above 88.0 %. random is below 88.0 %."
    assert rows[1][5] == "tome (88.0 %) may be as good: above 86.5 %. random has no such count."
    assert rows[2][5] == "topk is below 86.0 %. random has no such count."


def test_the_picture_goes_as_deep_as_anyone_deploys_and_the_table_has_the_rest() -> None:
    page, picture = Page(apart()), methods_chart.build(apart())
    assert picture is not None and 55 < picture.y.low < 60
    assert "2 counts below the drawing" in page.text
    assert not any("60 tokens" in title for title in page.titles)
    assert ["pomt:score=cls", "60"] in [row[:2] for row in page.rows("counts-table")]
    # The line goes on to the first count below, where the drawing cuts it, and is named at that place.
    line = next(line for line in picture.lines if line.name == "pomt:score=cls")
    x, y = map(float, re.findall(r"[\d.]+", line.leader)[:2])
    assert y == 100 and picture.x.at(1.3) < x < picture.x.at(1.7)


def test_every_count_in_the_drawing_tells_its_figures() -> None:
    titles = Page(apart()).titles
    assert "tome, 117 tokens: 1.60x (1.58 to 1.62), accuracy 88.0 % (86.0 to 90.0)" in titles
    assert "unreduced model: accuracy 90.0 %" in titles


def test_only_plans_are_ringed_and_the_one_taken_lies_on_top() -> None:
    kept = drawn("topk", {157: (1.3, 88.5)})
    kept = named(kept, "topk", verdict="keep", tokens_out=197, removed=0)
    taken = drawn("a", {157: (1.4, 89.0)})
    picture = methods_chart.build(Contest((taken, kept, drawn("b", {157: (1.2, 89.0)})), "a", "because"))
    assert picture is not None
    assert [(line.name, line.taken, line.ring is not None) for line in picture.lines] == [
        ("topk", False, False),
        ("b", False, True),
        ("a", True, True),
    ]
    assert picture.lines[-1].ring and float(picture.lines[-1].ring.x) == pytest.approx(picture.x.at(1.4), abs=0.01)


def test_a_wild_interval_of_speed_does_not_flatten_the_lines() -> None:
    calm = methods_chart.build(Contest((drawn("tome", {157: (1.2, 90.0), 117: (1.6, 88.0)}),), "tome", ""))
    wild = methods_chart.build(Contest((drawn("tome", {157: (1.2, 90.0), 117: (1.6, 88.0)}, reach=0.9),), "tome", ""))
    assert calm is not None and wild is not None
    assert calm.x.high - calm.x.low < wild.x.high - wild.x.low < 2 * (calm.x.high - calm.x.low)


def test_no_two_methods_share_colour_and_shape() -> None:
    assert len({methods_chart.style(place) for place in range(64)}) == 64


@pytest.mark.parametrize("wanted", [[50.0] * 7, [0.0, 1.0, 2.0], [100.0] * 12, [90.0, 10.0, 10.5], [40.0], []])
def test_names_keep_their_order_and_their_distance_inside_the_area(wanted: list[float]) -> None:
    heights = methods_chart.apart(wanted, wanted)
    assert all(2 <= height <= 98 for height in heights)
    ordered = [heights[i] for i in sorted(range(len(wanted)), key=lambda i: wanted[i])]
    gaps = [below - above for above, below in itertools.pairwise(ordered)]
    assert all(gap >= methods_chart.LABEL_GAP - 1e-9 for gap in gaps)


def test_names_with_room_stand_at_their_lines_ends() -> None:
    assert methods_chart.apart([80.0, 20.0, 50.0], [0, 0, 0]) == [80.0, 20.0, 50.0]


def test_the_table_has_each_plan_with_its_costs_and_each_reason_against_one() -> None:
    contest = apart()
    refused = named(contest.results[2], "pitome", verdict="keep", because="the intervals are too wide")
    page = Page(dataclasses.replace(contest, results=(*contest.results[:2], refused)))
    tome, _, pitome = page.rows("results")
    assert tome[0] == "tome" and "block 3" in tome[1] and tome[2] == "197 → 117" and tome[3].startswith("1.60x")
    assert tome[6] == "−30.4 % 4.60 → 3.20" and tome[7] == "12.3 → 11.3"
    assert pitome == ["pitome", "do not prune", "the intervals are too wide"]
    assert "Left out: dynamic: needs one image a forward" in page.text


def test_the_file_needs_nothing_else_and_links_to_reports_alone() -> None:
    source = methods.render(apart())
    assert not re.search(r"""\bsrc=|@import|url\(""", source)
    targets = set(re.findall(r"""href=["']([^"']*)""", source))
    reports = {target for target in targets if not target.startswith(("data:", "#"))}
    assert {target.split("#")[0] for target in reports} == {
        "torch-tome/report.html",
        "torch-pomt-score-cls/report.html",
        "torch-pitome/report.html",
    }
    assert "script-src 'none'" in source and "script" not in Page(apart()).tags
    assert len(methods.render(latency_alone()).encode()) < 150_000


def test_hostile_text_is_text_and_its_link_stays_in_the_folder() -> None:
    page = Page(hostile())
    assert "script" not in page.tags and page.text.count(samples.HOSTILE) >= 5
    assert samples.HOSTILE in page.titles[0]
    for name in (samples.HOSTILE, "../../etc/passwd", "javascript:alert(1)", "//example.org"):
        (link,) = {link.split("#")[0] for link in Page(Contest((named(samples.few(), name),), None, "")).links}
        assert re.fullmatch(r"[\w.~%-]+/report\.html", link) and not link.startswith("../")


def test_without_accuracy_the_picture_is_of_latency() -> None:
    page = Page(latency_alone())
    assert "Latency against tokens kept" in page.text and "Which wins where" not in page.text
    assert "Accuracy, %" not in page.text and "accuracy was not measured" in page.text
    picture = methods_chart.build(latency_alone())
    assert picture is not None and not picture.front
    assert picture.x.at(197) < picture.x.at(100) and picture.y.at(1.0) < picture.y.at(0.5)
    # A dense curve keeps its line whole, and has markers only as far as they can be told apart.
    points = len(samples.staircase().curve.points)
    for line in picture.lines:
        assert line.path.count("L") == points - 1 and 5 < len(line.markers) < points / 4


def test_agreement_is_never_called_accuracy() -> None:
    contest = Contest((named(samples.agreement(), "tome"),), "tome", "tome is the fastest")
    source = methods.render(contest)
    assert "accuracy" not in source.lower() and "Agreement against speedup" in source


def test_what_all_runs_say_stands_once_and_what_some_say_names_them() -> None:
    first, second, third = alike().results[:3]
    noted = dataclasses.replace(third, notes=("Something odd.",))
    found = methods.callouts((first, second, noted))
    assert [callout.label for callout in found] == ["Clocks", "Note"]
    assert found[1].text == "In the run of pomt; the methods' own reports say more."
    both = [dataclasses.replace(first, notes=("One.",)), dataclasses.replace(second, notes=("Two.",))]
    assert methods.callouts(both)[-1].text.startswith("In every run;")


def test_the_environment_is_one_line_unless_the_runs_differ() -> None:
    first, second = alike().results[:2]
    line = methods.environment_line((first, second))
    assert line.startswith("NVIDIA H200 (cuda:0), torch, float32, batch 4 × 224 px, clocks: not locked")
    assert line.count("NVIDIA") == 1 and line.endswith("The unreduced model took 10 ms.")
    other = dataclasses.replace(second, environment=dataclasses.replace(second.environment, device_name="NVIDIA L4"))
    assert "; in other runs: NVIDIA L4" in methods.environment_line((first, other))


def test_numbers_that_are_missing_never_reach_the_page() -> None:
    visible = re.sub(r"<style>.*?</style>", "", methods.render(broken()), flags=re.S)
    assert not re.search(r"\b(nan|NaN|inf|None)\b", visible)


def test_a_method_without_accuracy_is_named_beside_the_others() -> None:
    contest = dataclasses.replace(apart(), results=(*apart().results, named(samples.few(), "late")))
    assert "Without accuracy at a reduced count: late." in Page(contest).text


def test_nothing_measured_still_makes_a_page() -> None:
    empty = dataclasses.replace(samples.few(), curve=LatencyCurve(()))
    assert "nothing to draw" in Page(Contest((empty,), None, "no method is faster")).text
