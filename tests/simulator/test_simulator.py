"""The analytic model: what moves its steps, what makes it slower, and that its published error is its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pomt_edge import profiles
from pomt_edge.errors import UserError
from pomt_edge.simulator import Geometry, Reduction, Simulator, Way, published_error, work
from pomt_edge.simulator.asked import mode_of, way_of
from pomt_edge.simulator.error import in_words, totals
from pomt_edge.simulator.model import AT_INPUT, STANDARD

ROOT = Path(__file__).parents[2]
SMALL = Geometry(12, 384, 6, 1536, 16, 224)
BASE = Geometry(12, 768, 12, 3072, 16, 224)
ALL = list(range(197, 1, -1))
RECORDED = Path(work.__file__).parent / "recorded" / "h200.json"


def curve(device: str, geometry: Geometry = SMALL, way: Way = STANDARD, **options: object) -> np.ndarray:
    return Simulator(profiles.load(device), geometry, way, **options).latency_ms(ALL)  # type: ignore[arg-type]


def cliffs(latency: np.ndarray, percent: float = 4) -> set[int]:
    drops = latency[1:] / latency[:-1] - 1 < -percent / 100
    return {ALL[place + 1] for place in np.flatnonzero(drops)}


@pytest.mark.parametrize("device", [name for name in profiles.names() if name != "cpu"])
def test_every_gpu_gives_a_curve_that_fewer_tokens_make_no_slower_on_the_whole(device: str) -> None:
    latency = curve(device, way=Way("fp16", 4))
    assert np.isfinite(latency).all() and (latency > 0).all()
    assert latency[-1] <= latency[0] and np.median(latency[:20]) > np.median(latency[-20:])


def test_steps_of_products_follow_rows_of_the_batch_and_attention_the_tokens_of_an_image() -> None:
    def parts(batch: int, name: str) -> np.ndarray:
        simulator = Simulator(profiles.load("a100"), SMALL, Way("fp16", batch))
        return np.array(dict(simulator.kernels_us(np.array(ALL), AT_INPUT))[name])

    product = parts(16, "mlp up")
    changes = [ALL[place] for place in np.flatnonzero(np.abs(np.diff(product)) > 1e-9) + 1]
    assert changes and all(tokens * 16 % 32 == 0 for tokens in changes)
    assert any(tokens % 32 for tokens in changes)  # not multiples of a tile, but of a tile over the batch
    for attention in (parts(16, "attention"), parts(64, "attention")):
        assert cliffs(attention, 10) == {128}


def test_a_mode_with_fewer_sms_moves_the_steps_and_a_lower_clock_alone_does_not() -> None:
    profile = profiles.load("jetson_agx_orin_64g")
    few, slow = profile.mode("30W"), profile.mode("50W")
    assert few is not None and slow is not None
    way = Way("fp16", 16, "tensorrt")
    full = curve(profile.id, BASE, way)
    same_clock = dataclasses.replace(few, sm_count=profile.figures["sm_count"].value)
    assert cliffs(curve(profile.id, BASE, way, mode=few), 2) != cliffs(curve(profile.id, BASE, way, mode=same_clock), 2)
    slower = curve(profile.id, BASE, way, mode=slow)
    assert (slower > full).all()
    assert len(cliffs(slower, 3) & cliffs(full, 3)) >= 0.6 * len(cliffs(full, 3)) > 0


def test_wider_batches_precisions_and_launching() -> None:
    full = [curve("jetson_orin_nano_super", BASE, Way(precision))[0] for precision in ("fp32", "fp16", "int8")]
    assert full == sorted(full, reverse=True) and full[0] > 1.3 * full[1]
    assert curve("h200", BASE, Way("fp16", 64))[0] > 2 * curve("h200", BASE, Way("fp16", 16))[0]
    eager, graph, engine = (curve("h200", SMALL, Way("fp16", 4, launch)) for launch in ("eager", "graph", "tensorrt"))
    assert np.ptp(eager[1:]) == 0 and eager[0] > graph[0]  # the host sets the pace, whatever the tokens
    assert (engine < graph).all()
    assert curve("a100", BASE, Way("fp32", 16))[0] > 1.5 * curve("a100", BASE, Way("fp32", 16, tf32=True))[0]


def test_a_reduction_costs_and_saves_only_behind_its_block() -> None:
    way = Way("fp16", 64)
    at_input, early, late = (curve("h200", BASE, way, reduction=Reduction(blocks)) for blocks in ((), (3,), (9,)))
    at = ALL.index(98)
    assert at_input[at] < early[at] < late[at]
    explicit = curve("h200", BASE, way, reduction=Reduction((3,), explicit_attention=True))
    matching = curve("h200", BASE, way, reduction=Reduction((3,), matches=True))
    assert explicit[at] > early[at] and matching[at] > early[at]
    spread = Reduction((0, 5))
    left = [int(k.rows[0]) for k in work.forward(SMALL, spread, 1, np.array([100])) if k.name == "mlp up"]  # type: ignore[union-attr]
    assert left == [148] * 5 + [100] * 7  # 97 removed: the odd one in the first block


@pytest.mark.parametrize("launch", ["eager", "graph", "tensorrt"])
def test_a_block_that_removes_nothing_is_left_as_it_is(launch: str) -> None:
    def ms(tokens: int, *blocks: int) -> float:
        reduction = Reduction(blocks, explicit_attention=True, matches=True)
        simulator = Simulator(profiles.load("h200"), SMALL, Way("fp16", 4, launch), reduction)
        # Alone and among others: what one count costs has nothing to do with the next.
        assert simulator.latency_ms([tokens, 90])[0] == pytest.approx(simulator.latency_ms([tokens])[0])
        return float(simulator.latency_ms([tokens])[0])

    plain = ms(197)
    assert ms(197, 3) == ms(197, 2, 5, 9) == plain
    assert plain < ms(196, 2) == ms(196, 2, 5, 9) == ms(196, 9, 5, 2)
    assert ms(196, 2, 5, 9) < ms(195, 2, 5, 9) == ms(195, 2, 5) < ms(194, 2, 5, 9)


def test_rows_off_sixteen_bytes_make_an_explicit_attention_dearer() -> None:
    def products(tokens: int) -> float:
        geometry, reduction = dataclasses.replace(BASE, prefix=tokens - 196), Reduction((0,), explicit_attention=True)
        simulator = Simulator(profiles.load("h200"), geometry, Way("fp16", 64), reduction)
        times = dict(simulator.kernels_us(np.array([100]), reduction))
        return float(times["scores"][0] + times["values"][0])

    assert products(197) > products(198) > products(200)  # pieces of 2, 4 and 16 bytes


def test_the_generic_cpu_has_its_steps_just_above_multiples_of_its_group() -> None:
    latency = curve("cpu")[::-1]  # 2 to 197
    rises = np.diff(latency)
    crossing = np.array([tokens % 12 == 1 for tokens in range(3, 198)])
    assert 2 < np.median(rises[crossing]) / np.median(rises[~crossing]) < 4


def test_what_a_device_does_not_have_is_said() -> None:
    with pytest.raises(UserError, match=r"jetson_tx2 computes no int8 natively: give --precision fp32 or fp16"):
        Simulator(profiles.load("jetson_tx2"), SMALL, Way("int8"))
    with pytest.raises(UserError, match="1 to 197"):
        Simulator(profiles.load("h200"), SMALL).latency_ms([198])
    with pytest.raises(UserError, match="eager, graph, tensorrt"):
        Way(launch="fast")
    with pytest.raises(UserError, match="cpu is simulated in fp32"):
        Simulator(profiles.load("cpu"), SMALL, Way("fp16"))


def test_what_a_users_own_profile_lacks_is_named_with_its_file() -> None:
    whole = profiles.load("h200")
    for missing, way in (
        ("l2_kib", STANDARD),
        ("fp32_tflops", STANDARD),
        ("fp16_dense_tflops", Way("bf16")),
        ("int8_dense_tops", Way("int8", launch="tensorrt")),
    ):
        figures = {name: figure for name, figure in whole.figures.items() if name != missing}
        with pytest.raises(UserError, match=rf"h200\.toml: figures\.{missing} is missing.* add it, such as"):
            Simulator(dataclasses.replace(whole, figures=figures), SMALL, way)


def test_what_is_asked_of_a_device_becomes_a_way_and_a_mode() -> None:
    a100, thor = profiles.load("a100"), profiles.load("jetson_thor")
    for engine, graphs, launch in (("torch", None, "graph"), ("torch", False, "eager"), ("trt", None, "tensorrt")):
        way = way_of(a100, engine=engine, precision="fp32", batch_size=2, cuda_graphs=graphs)
        assert way == Way("fp32", 2, launch) and not way.tf32  # as the engines themselves never let products be
    with pytest.raises(UserError, match="sim:cpu is simulated with --engine torch, not trt"):
        way_of(profiles.load("cpu"), engine="trt", precision="fp32", batch_size=1)
    assert mode_of(thor, None) is None and mode_of(thor, "maxn") == thor.mode("MAXN")
    with pytest.raises(UserError, match=r"what it caps on Jetson Thor T5000 is not known.* give MAXN$"):
        mode_of(thor, "90W")
    with pytest.raises(UserError, match="40W: Jetson Thor T5000 has MAXN, 120W, 90W, 70W"):
        mode_of(thor, "40W")
    with pytest.raises(UserError, match="NVIDIA A100 SXM 40GB has none; leave it out"):
        mode_of(a100, "MAXN")


def test_memory_is_at_least_the_weights() -> None:
    simulator = Simulator(profiles.load("h200"), BASE, Way("fp16", 8))
    assert 86e6 < BASE.parameters < 87e6
    assert simulator.memory_mib(197) > simulator.memory_mib(50) > BASE.parameters * 2 / 2**20


def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("simulator_error", ROOT / "benchmarks" / "simulator_error.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_error_is_that_of_the_constants_as_they_are() -> None:
    published = published_error()
    data = benchmark().computed()
    assert {**data, "each_by_the_others": published["each_by_the_others"]} == published
    # And by a way of counting that is not the benchmark's own.
    rows = {row["curve"]: row for part in published["curves"].values() for row in part}
    names = {"float32": "fp32", "float16": "fp16"}
    geometries = {"deit_small_patch16_224": SMALL, "deit_base_patch16_224": BASE}
    geometries["vit_large_patch16_224"] = Geometry(24, 1024, 16, 4096, 16, 224)
    curves = json.loads(RECORDED.read_text())["curves"]
    assert len(curves) == len(rows)
    for real in curves:
        precision = names[real["precision"]]
        way = Way(precision, real["batch_size"], tf32=True)
        latency = curve("h200", geometries[real["model"]], way)
        off = 100 * np.abs(latency / real["median_ms"] - 1)
        row = rows[f"{real['model']}, batch {real['batch_size']}, {precision}"]
        assert np.median(off) == pytest.approx(row["median_percent"], abs=0.06)
        assert np.percentile(off, 90) == pytest.approx(row["p90_percent"], abs=0.06)
        assert cliffs(latency) == set(row["predicted_at_tokens"])
        assert cliffs(np.array(real["median_ms"])) == set(row["cliffs_at_tokens"])


def page(name: str) -> str:
    return " ".join((ROOT / name).read_text(encoding="utf-8").replace("*", "").split())


def test_the_docs_publish_these_figures() -> None:
    data, docs, readme = published_error(), page("docs/simulator.md"), page("README.md")
    check, reduced = data["check"], data["reduced_in_a_block"]
    for name, part in (("fit", data["fit"]), ("check", check), ("each by the others", data["each_by_the_others"])):
        cells = f"{part['median_percent']} % | {part['p90_percent']} % | {part['cliffs_predicted']} of {part['cliffs']}"
        assert re.search(
            rf"\| {name} \| \d \| {cells}( \(\d+ %\))? \| {part['cliffs_by_chance']:.1f} "
            rf"\| {part['predicted_that_are_real']} of {part['predicted']} \|",
            docs,
        ), name
    assert f"{check['median_percent']} % off in latency (median; {check['p90_percent']} %" in readme
    assert f"{check['cliffs_predicted']} of {check['cliffs']} steps over 4 %" in readme
    assert f"of {check['predicted']} steps that it shows {check['predicted_that_are_real']} are real" in readme
    in_a_block = f"{reduced['median_percent']} % off"
    for text in (docs, readme):
        assert in_a_block in text and f"{reduced['most_percent']} % at most" in text
        assert f"too fast in {reduced['too_fast']} of {reduced['ratios']}" in text
    for row in reduced["rows"]:
        assert f" {row['ratio']:.3f} | {row['simulated']:.3f} |" in docs, row
    for row in data["fixed_sizes"]:
        simulated = f"{row['published_ms']} | {row['simulated_ms']:.2f} | {row['off_percent']:+.0f} % |"
        assert simulated in docs and f"{row['off_percent']:+.0f}" in readme, row
    assert in_words(totals()) in page("docs/simulated_r.md")
