"""The analytic model: what moves its steps, what makes it slower, and that its published error is its own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pomt_edge import profiles
from pomt_edge.errors import UserError
from pomt_edge.simulator import Geometry, Reduction, Simulator, Way, published_error, work
from pomt_edge.simulator.model import STANDARD

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
        return np.array(dict(simulator.kernels_us(np.array(ALL)))[name])

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
    assert np.ptp(eager) == 0 and eager[0] > graph[0]  # the host sets the pace, whatever the tokens
    assert (engine < graph).all()
    assert curve("a100", BASE, Way("fp32", 16, tf32=False))[0] > 1.5 * curve("a100", BASE, Way("fp32", 16))[0]


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


def test_memory_is_at_least_the_weights() -> None:
    simulator = Simulator(profiles.load("h200"), BASE, Way("fp16", 8))
    assert 86e6 < BASE.parameters < 87e6
    assert simulator.memory_mib(197) > simulator.memory_mib(50) > BASE.parameters * 2 / 2**20


def test_the_published_error_is_that_of_the_constants_as_they_are() -> None:
    published = {row["curve"]: row for part in published_error()["curves"].values() for row in part}
    names = {"float32": "fp32", "float16": "fp16"}
    geometries = {"deit_small_patch16_224": SMALL, "deit_base_patch16_224": BASE}
    geometries["vit_large_patch16_224"] = Geometry(24, 1024, 16, 4096, 16, 224)
    curves = json.loads(RECORDED.read_text())["curves"]
    assert len(curves) == len(published)
    for real in curves:
        precision = names[real["precision"]]
        latency = curve("h200", geometries[real["model"]], Way(precision, real["batch_size"]))
        off = 100 * np.abs(latency / real["median_ms"] - 1)
        row = published[f"{real['model']}, batch {real['batch_size']}, {precision}"]
        assert np.median(off) == pytest.approx(row["median_percent"], abs=0.06)
        assert np.percentile(off, 90) == pytest.approx(row["p90_percent"], abs=0.06)
        assert cliffs(latency) == set(row["predicted_at_tokens"])
        assert cliffs(np.array(real["median_ms"])) == set(row["cliffs_at_tokens"])
