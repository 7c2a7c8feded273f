"""`pomt-edge import` as a user types it, on what run_trtexec.sh left."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

import bundles

from pomt_edge.cli import run_any
from pomt_edge.deploy.promise import promise
from pomt_edge.records import Benchmark, LatencyCurve, LatencyPoint, Staircase, Steadiness


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured") / "board"
    bundles.write(folder, bundles.plan())
    assert bundles.run(folder, "--rounds", "3").returncode == 0
    return folder


def copied(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "board"))


def imported(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = run_any(["import", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_table_the_layers_and_the_verdict(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(measured, tmp_path)
    code, out, err = imported(capsys, folder)
    assert (code, err) == (0, "")
    assert "batch 1, TensorRT 10.3.0 fp16" in out
    assert all(len(line) <= 80 for line in out.splitlines()[1:6])
    (reduced,) = (line.split() for line in out.splitlines() if line.split()[:1] == ["107"])
    assert reduced[-1] == "1.72x" and float(reduced[1]) == pytest.approx(3.56, rel=0.01)
    assert "layers of reduced" in out and "blocks.0.mlp" in out
    assert "Predicted 1.70x for trt fp16 batch 1 on cuda:0; measured 1.72x (" in out
    assert "for trt fp16 batch 1 on a board: no promise to hold." in out
    assert "Note: reduced runs in fp16 (2 of 3 matrix layers)." in out
    assert out.count("Note: the board's outputs were not compared with torch's.") == 1
    assert "not proven" not in out and "did not end" not in out and "Error" not in out
    written = Benchmark.load(folder / "results/benchmark.json")
    assert written.reduced is not None and written.reduced.samples == 360 and written.timer == "trtexec computeMs"
    assert not (folder / "results/curve.csv").exists()


def test_json_is_one_object_and_out_is_where_it_goes(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = imported(capsys, measured, "--json", "--out", tmp_path / "a/b")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert Benchmark.from_dict(told.pop("benchmark")) == Benchmark.load(tmp_path / "a/b/benchmark.json")
    assert told.pop("because").startswith("predicted 1.70x for trt fp16")
    assert told == {
        "promise": "none",
        "notes": [
            "baseline runs in fp16 (2 of 3 matrix layers)",
            "reduced runs in fp16 (2 of 3 matrix layers)",
            "the board's outputs were not compared with torch's",
        ],
        "failures": [],
    }
    assert not (measured / "results/benchmark.json").exists()


def test_no_plan_is_judged_by_a_board_that_it_may_not_have_been_made_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "board"
    bundles.write(folder, bundles.plan(speedup=2.0, speedup_low=1.9, speedup_high=2.1))
    assert bundles.run(folder, "--rounds", "1").returncode == 0
    code, out, _ = imported(capsys, folder)
    assert code == 0 and "Predicted 2.00x for trt fp16 batch 1 on cuda:0; measured 1.72x (" in out
    assert "broken" not in out


def test_another_precision_than_was_asked_for_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "board"
    bundles.write(folder, bundles.plan())
    assert bundles.run(folder, "--rounds", "1", FAKE_TRT_RUNS_IN="fp32").returncode == 0
    code, out, _ = imported(capsys, folder)
    assert code == 1 and "Error: reduced runs in fp32 (3 of 3 matrix layers), and fp16 was asked for" in out
    assert "for trt fp32 batch 1 on a board" in out and "held" not in out
    code, out, _ = imported(capsys, folder, "--json")
    assert code == 1 and len(json.loads(out)["failures"]) == 2


def test_what_is_not_known_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "board"
    proven = {"baseline": "onnxruntime", "reduced": ""}
    plan = bundles.plan(batch_size=1)
    bundles.write(folder, plan, further=(164,), target="jetpack4", batch_size=4, proven=proven)
    cut = {"version": "8.2", "FAKE_TRT_POWER_CUT": "reduced.2.times.json"}
    assert bundles.run(folder, "--rounds", "3", **cut).returncode != 0
    code, out, _ = imported(capsys, folder)
    assert code == 0 and "batch 4, TensorRT 8.2.1 fp16" in out
    assert "Note: run_trtexec.sh did not end: 1 of 3 rounds." in out
    assert "Note: not proven before they were sent to the board: tokens_164, reduced." in out
    # A build tells nothing of the inside of most of a transformer in TensorRT 8.
    assert bundles.run(folder, "--rounds", "1", version="8.2").returncode == 0
    code, out, _ = imported(capsys, folder)
    assert code == 0 and "Note: whether it runs in fp16 is not told of: baseline, tokens_164, reduced." in out


def test_a_plan_for_another_engine_is_compared_and_promises_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "board"
    bundles.write(folder, bundles.plan(engine="torch", device="cpu", precision="fp32", speedup=9.0, speedup_low=8.0))
    assert bundles.run(folder, "--rounds", "1").returncode == 0
    code, out, _ = imported(capsys, folder)
    assert code == 0
    assert "Predicted 9.00x for torch fp32 batch 1 on cpu; measured 1.72x (" in out
    assert "for trt fp16 batch 1 on a board: no promise to hold." in out


def test_more_graphs_give_a_curve_and_what_failed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "board"
    bundles.write(folder, bundles.plan(), further=(180, 164))
    assert bundles.run(folder, "--rounds", "1", crash="tokens_180").returncode == 1
    code, out, _ = imported(capsys, folder)
    assert code == 0 and "Error: tokens_180: the build failed (Segmentation fault)." in out
    lines = (folder / "results/curve.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["tokens", "197", "164", "107"]
    curve = LatencyCurve.load(folder / "results/curve.json")
    assert Staircase.load(folder / "results/staircase.json").efficient[0] == curve.baseline.tokens


def test_what_is_wrong_is_one_line_and_nothing_is_written(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(measured, tmp_path)
    (folder / "reduced.onnx").write_bytes(b"another graph")
    unrun = tmp_path / "unrun"
    bundles.write(unrun, bundles.plan())
    other = tmp_path / "other"
    bundles.write(other, bundles.plan(), precision="fp32")
    shutil.copytree(measured / "results", other / "results")
    wrong = {
        (folder,): "reduced.onnx is not what was exported",
        (unrun,): "run.json is missing",
        (other,): "results of another bundle",
        (tmp_path,): "expected the folder of a bundle",
        (tmp_path / "gone",): "No such file",
        (measured, "--baseline", "x.json"): "leave --baseline out",
        (measured / "results/run.json",): "--exportTimes",
        (measured / "results/baseline.1.times.json", "--out", "x"): "leave --out out",
    }
    for words, said in wrong.items():
        code, out, err = imported(capsys, *words)
        assert (code, out, err.count("\n")) == (2, "", 1), words
        assert said in err
    assert not list(tmp_path.rglob("benchmark.json"))


def test_times_alone_and_against_a_baselines(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times, baseline = (measured / f"results/{name}.1.times.json" for name in ("reduced", "baseline"))
    code, out, _ = imported(capsys, times)
    assert code == 0 and "3.56" in out and "120" in out
    code, out, _ = imported(capsys, times, "--baseline", baseline)
    assert code == 0 and "reduced.1.times.json is 1.72x (" in out and "as fast as baseline.1.times.json" in out
    code, out, _ = imported(capsys, times, "--baseline", baseline, "--json")
    told = json.loads(out)
    assert told["speedup_low"] < bundles.SPEEDUP < told["speedup_high"]
    assert told["point"]["p99_ms"] is None and told["point"]["p95_ms"] > told["point"]["median_ms"]


POINT = LatencyPoint(197, 4.0, 3.9, 4.1, 100, 5, "rounds")


def benchmark(low: float, speedup: float, high: float, **changes: Any) -> Benchmark:
    measured = Benchmark(POINT, POINT, 250.0, 250.0, speedup, low, high, Steadiness(), "trtexec computeMs")
    return dataclasses.replace(measured, **changes)


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        ((1.68, 1.70, 1.72), "held"),
        ((1.60, 1.63, 1.66), "held"),  # the intervals meet at 1.65
        ((1.60, 1.62, 1.64), "broken"),
        ((0.90, 0.95, 1.00), "broken"),
        ((1.76, 1.80, 1.84), "exceeded"),
        ((1.20, 1.55, 1.95), "unclear"),  # wider than the 0.7 that were promised
        ((0.20, 0.80, 1.50), "broken"),  # as wide, and below all the same
    ],
)
def test_a_promise(interval: tuple[float, float, float], word: str) -> None:
    plan = bundles.plan()
    on = {"engine": "trt", "precision": "fp16", "batch_size": 1, "device": plan.device}
    found, sentence = promise(plan, benchmark(*interval), on)
    assert found == word and sentence.endswith(word)
    assert f"{interval[1]:.2f}x ({interval[0]:.2f} to {interval[2]:.2f})" in sentence


@pytest.mark.parametrize(
    ("measured_with", "said"),
    [
        ({"engine": "torch"}, "for torch fp16 batch 1 on cuda:0:"),
        ({"precision": "int8"}, "for trt int8 batch 1 on cuda:0:"),
        ({"batch_size": 8}, "for trt fp16 batch 8 on cuda:0:"),
        ({"device": "cpu"}, "for trt fp16 batch 1 on cpu:"),
    ],
)
def test_no_promise_for_what_was_not_predicted(measured_with: dict[str, object], said: str) -> None:
    on = {"engine": "trt", "precision": "fp16", "batch_size": 1, "device": "cuda:0"}
    word, sentence = promise(bundles.plan(), benchmark(1.5, 1.52, 1.54), on | measured_with)
    assert word == "none" and said in sentence
    assert sentence.startswith("predicted 1.70x for trt fp16 batch 1 on cuda:0; measured 1.52x (1.50 to 1.54)")


@pytest.mark.parametrize("origin", ["simulated", "recorded"])
def test_a_plan_that_was_not_measured_is_called_so_whatever_else_differs(origin: str) -> None:
    plan = bundles.plan(origin=origin, device="sim:jetson_tx2")
    on = {"engine": "trt", "precision": "fp16", "batch_size": 1, "device": "a board"}
    for measured_with in (on, on | {"device": plan.device}, on | {"precision": "int8"}):
        word, sentence = promise(plan, benchmark(1.5, 1.52, 1.54), measured_with)
        assert word == "none" and f"the 1.70x were {origin} (sim:jetson_tx2): no promise to hold" in sentence


def test_no_promise_where_the_tokens_were_given_by_hand() -> None:
    plan = bundles.plan(predicted_ms=0.0, speedup=1.0)
    word, sentence = promise(plan, benchmark(1.5, 1.52, 1.54), {})
    assert word == "none"
    assert sentence.startswith("nothing was promised: the tokens to remove were given by hand; measured 1.52x")


def test_no_promise_where_nothing_is_removed() -> None:
    plan = bundles.plan(removed=0, tokens_out=197)
    assert promise(plan, benchmark(1.0, 1.0, 1.0, reduced=None), {})[0] == "none"
