"""`deploy` as a user types it, on the embedded demo: from a plan to a proven and measured engine, or to a bundle."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pomt_edge import cli, demo
from pomt_edge.commands.common import INTERRUPTED, NEGATIVE, NO_ENGINE, USAGE_ERROR
from pomt_edge.deploy import building, serve
from pomt_edge.engines import Session
from pomt_edge.engines import onnxruntime as ort_engine
from pomt_edge.engines import torch as torch_engine
from pomt_edge.records import Deployment, Plan

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[1]
QUICK = ["--threads", "1", "--no-lock", "--point-seconds", "0.05", "--images", "8"]
BY_HAND = ["--model", "demo", "--bs", "2", "--removed", "80"]

pytestmark = pytest.mark.usefixtures("threads_as_before")


def plan(**changes: Any) -> Plan:
    """As the main job writes it for the demo."""
    facts: dict[str, Any] = {
        "model": "demo",
        "method": "pomt",
        "schedule": (0, 0, 0, 80, 0, 0, 0, 0),
        "tokens_in": 197,
        "tokens_out": 117,
        "removed": 80,
        "block": 3,
        "batch_size": 2,
        "image_px": 28,
        "precision": "fp32",
        "engine": "onnxruntime",
        "device": "cpu",
        "baseline_ms": 10.0,
        "predicted_ms": 8.0,
        "speedup": 1.25,
        "speedup_low": 0.5,
        "speedup_high": 5.0,
        "verdict": "prune",
        "because": "",
        "limits": {"max_drop": 5.0},
        "num_classes": 10,
    }
    return Plan(**facts | changes)


def deploy(*words: str | Path) -> int:
    return cli.run_deploy([str(word) for word in words])


def result_in(folder: Path) -> Deployment:
    return Deployment.load(folder / "deployment.json")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The newest plan, by the script of the checkout: the folder, standard output and standard error."""
    here = tmp_path_factory.mktemp("here")
    old, new = here / "runs/old", here / "runs/new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    plan(removed=60, tokens_out=137, schedule=(0, 0, 0, 60, 0, 0, 0, 0)).save(old / "plan.json")
    plan().save(new / "plan.json")
    command = [sys.executable, str(ROOT / "deploy.py"), *QUICK, "--out", "out", "--builds", "2", "--json"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return here / "out", done.stdout, done.stderr


def test_the_newest_plan_is_reduced_proven_built_and_measured(deployed: tuple[Path, str, str]) -> None:
    folder, printed, said = deployed
    result = Deployment.from_dict(json.loads(printed))
    assert result == result_in(folder)
    assert "plan: runs/new/plan.json" in said
    assert (result.verdict, result.engine, result.precision) == ("deployed", "onnxruntime", "fp32")
    assert result.engine_version == onnxruntime.__version__
    assert result.benchmark is not None and result.benchmark.reduced is not None
    assert (result.benchmark.baseline.tokens, result.benchmark.reduced.tokens) == (197, 117)
    rate = 2e3 / result.benchmark.baseline.median_ms
    assert result.benchmark.baseline_images_per_s == pytest.approx(rate)
    assert result.environment is not None and result.environment.engine == "onnxruntime"
    assert result.benchmark.timer == result.environment.details["timer"] == "host clock"
    assert Plan.load(folder) == plan()


def test_the_promise_is_judged_in_a_sentence(deployed: tuple[Path, str, str]) -> None:
    folder, _, said = deployed
    result = result_in(folder)
    assert result.promise in ("held", "unclear")
    assert result.because.startswith("predicted 1.25x, measured ") and result.because.endswith(result.promise)
    assert f"Deployed: {result.because}." in said


def test_the_proof_covers_both_models_and_the_kept_tokens(deployed: tuple[Path, str, str]) -> None:
    baseline, reduced = result_in(deployed[0]).parities
    assert (baseline.variant, reduced.variant) == ("baseline", "reduced")
    for proof in (baseline, reduced):
        assert proof.passed and proof.real_images and proof.images == 8 and proof.engine == "onnxruntime"
        assert proof.max_abs_diff < 1e-4 and proof.top1_percent == 100
    assert baseline.same_tokens_percent is None and reduced.same_tokens_percent == 100


def test_several_builds_are_timed_against_each_other(deployed: tuple[Path, str, str]) -> None:
    builds = result_in(deployed[0]).builds
    assert [(build.variant, build.number) for build in builds] == [
        ("baseline", 1),
        ("baseline", 2),
        ("reduced", 1),
        ("reduced", 2),
    ]
    assert all(build.precision == "fp32" and build.median_ms and build.first_inference_ms for build in builds)


def test_the_onnx_file_says_what_it_is_and_computes_the_demo(deployed: tuple[Path, str, str]) -> None:
    path = deployed[0] / "reduced.onnx"
    model = onnx.load(str(path))
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert Plan.from_dict(facts["plan"]) == plan()
    assert facts["labels"] == list(demo.CLASSES) and facts["mean"] == [0.5] * 3
    assert [output.name for output in model.graph.output] == ["logits"]
    named = {file.name: file for file in result_in(deployed[0]).files}
    assert named["reduced.onnx"].bytes == path.stat().st_size
    pixels, labels = demo.read_images()
    batch = np.repeat((pixels[:200, None].astype("f4") / 255 - 0.5) / 0.5, 3, axis=1)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [session.run(None, {"images": batch[at : at + 2]})[0].argmax(axis=1) for at in range(0, 200, 2)]
    assert (np.concatenate(found) == labels[:200]).mean() > 0.75


def test_the_same_command_again_measures_nothing_twice(
    deployed: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = deployed[0]
    monkeypatch.chdir(folder.parent)
    before = (folder / "measurements.jsonl").read_bytes()
    words = [*QUICK, "--out", "out", "--builds", "2"]
    assert deploy(*words, "--bs", "3") == USAGE_ERROR
    assert "batch_size" in capsys.readouterr().err
    assert deploy(*words) == 0
    assert (folder / "measurements.jsonl").read_bytes() == before


def test_openvino_is_deployed_too_and_onnx_runtime_proves_its_graph(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    assert deploy(*BY_HAND, "--method", "tome", "--engine", "openvino", *QUICK, "--out", tmp_path / "out") == 0
    result = result_in(tmp_path / "out")
    assert [proof.engine for proof in result.parities] == ["onnxruntime", "onnxruntime", "openvino", "openvino"]
    assert all(proof.passed for proof in result.parities)
    assert {build.precision for build in result.builds} == {"fp32"}
    assert result.promise == "none" and "given by hand" in result.because


def test_torch_needs_no_graph_unless_a_bundle_is_wanted(tmp_path: Path) -> None:
    words = [*BY_HAND, "--engine", "torch", "--precision", "bf16", *QUICK]
    assert deploy(*words, "--out", tmp_path / "out") == 0
    result = result_in(tmp_path / "out")
    assert result.files == () and [proof.engine for proof in result.parities] == ["torch", "torch"]
    assert all(proof.precision == "bf16" and proof.max_abs_diff > 0 for proof in result.parities)


def test_int8_for_an_older_tensorrt_has_its_scales_in_the_graph(tmp_path: Path) -> None:
    """The one precision that a flag alone can't ask for."""
    words = [*BY_HAND, "--engine", "onnx", "--target", "jetpack5", "--precision", "int8"]
    assert deploy(*words, *QUICK, "--images", "32", "--out", tmp_path / "out") == 0
    nodes = {node.op_type for node in onnx.load(str(tmp_path / "out/reduced.onnx")).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= nodes
    assert all(proof.precision == "int8" for proof in result_in(tmp_path / "out").parities)


def test_stopping_at_the_graphs_with_a_bundle_and_further_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    words = [*BY_HAND, "--engine", "onnx", "--target", "jetpack4", "--bundle", bundle, "--counts", "160,117,96"]
    assert deploy(*words, *QUICK, "--out", out) == 0
    result = result_in(out)
    assert (result.verdict, result.opset, result.target, result.builds) == ("exported", 13, "jetpack4", ())
    names = {path.name for path in bundle.glob("*.onnx")}
    assert names == {"baseline.onnx", "reduced.onnx", "tokens_160.onnx", "tokens_96.onnx"}
    assert {onnx.load(str(bundle / name)).opset_import[0].version for name in names} == {13}
    assert {proof.variant for proof in result.parities} == {path.removesuffix(".onnx") for path in names}
    assert (bundle / "reduced.onnx").read_bytes() == (out / "reduced.onnx").read_bytes()
    (bundle / "results").mkdir()
    assert deploy(*words, *QUICK, "--out", tmp_path / "again") == USAGE_ERROR
    assert "holds what a board measured" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_without_tensorrt_the_bundle_is_written_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy(*BY_HAND, "--engine", "trt", *QUICK, "--out", tmp_path / "out") == NO_ENGINE
    result = result_in(tmp_path / "out")
    assert result.verdict == "not run" and result.benchmark is None
    assert (tmp_path / "out/bundle/run_trtexec.sh").exists()
    printed = capsys.readouterr().out
    assert "Not deployed" in printed and "pip install tensorrt" in printed and "--target" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_tensorrt_for_rtx_builds_in_half_precision_and_says_that_it_can_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    words = [*BY_HAND, "--engine", "trt-rtx", "--precision", "fp16"]
    assert deploy(*words, *QUICK, "--out", tmp_path / "out") == NO_ENGINE
    result = result_in(tmp_path / "out")
    assert [(build.variant, build.precision) for build in result.builds] == [("baseline", "fp16"), ("reduced", "fp16")]
    assert all(proof.passed and proof.precision == "fp16" for proof in result.parities)
    assert (tmp_path / "out/reduced.engine").stat().st_size > 1e5
    assert "Not deployed" in capsys.readouterr().out


class Wrong:
    """A session of an engine that computes something else."""

    def __init__(self, right: Session) -> None:
        self._right = right

    def __getattr__(self, name: str) -> Any:
        return getattr(self._right, name)

    def run(self, images: torch.Tensor) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        found = dict(self._right.run(images))
        for name in found:
            if name == "logits" or name in ("block5", "block6", "block7"):
                found[name] = found[name][..., ::-1] + 1
        return found


def test_an_engine_that_diverges_is_not_deployed_and_the_tensor_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = ort_engine.load
    monkeypatch.setattr(
        ort_engine,
        "load",
        lambda built, setting: Wrong(real(built, setting)) if "reduced" in str(built) else real(built, setting),
    )
    words = [*BY_HAND, "--engine", "onnxruntime", "--bundle", tmp_path / "bundle"]
    assert deploy(*words, *QUICK, "--out", tmp_path / "out") == NEGATIVE
    result = result_in(tmp_path / "out")
    assert result.verdict == "diverges" and result.benchmark is None
    baseline, reduced = result.parities
    assert baseline.passed and not reduced.passed
    assert reduced.diverges_at == "block 5"
    assert not (tmp_path / "bundle").exists(), "what failed its proof is not shipped"
    assert "Not deployed, the proof failed" in capsys.readouterr().out


def test_a_precision_that_the_engine_does_not_keep_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = ort_engine.load

    class Lying(Wrong):
        def precision(self) -> str:
            return "fp32"

    monkeypatch.setattr(ort_engine, "load", lambda built, setting: Lying(real(built, setting)))
    words = [*BY_HAND, "--engine", "onnxruntime", "--precision", "int8"]
    assert deploy(*words, *QUICK, "--out", tmp_path / "out") == USAGE_ERROR
    assert "the engine says that it runs in fp32" in capsys.readouterr().err
    assert not (tmp_path / "out/deployment.json").exists()


def test_int8_is_calibrated_proven_and_runs_in_int8(tmp_path: Path) -> None:
    words = [*BY_HAND, "--engine", "onnxruntime", "--precision", "int8", *QUICK, "--images", "32"]
    assert deploy(*words, "--out", tmp_path / "out") == 0
    result = result_in(tmp_path / "out")
    assert {build.precision for build in result.builds} == {"int8"}
    reduced = result.parities[-1]
    assert reduced.precision == "int8" and reduced.passed and reduced.max_abs_diff > 1e-3


def test_a_plan_that_says_not_to_prune_deploys_the_unreduced_model(tmp_path: Path) -> None:
    plan(removed=0, tokens_out=197, schedule=(0,) * 8, verdict="keep").save(tmp_path / "plan.json")
    assert deploy("--plan", tmp_path, *QUICK, "--out", tmp_path / "out") == 0
    result = result_in(tmp_path / "out")
    assert result.benchmark is not None and result.benchmark.reduced is None
    assert [proof.variant for proof in result.parities] == ["baseline"]
    assert any("not to prune" in note for note in result.notes)
    assert not (tmp_path / "out/reduced.onnx").exists()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(demo.read_images()[0][:9]):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def test_the_whole_way_from_files_to_labels_is_timed_stage_by_stage(tmp_path: Path, pictures: Path) -> None:
    words = [*BY_HAND, "--engine", "onnxruntime", "--serve-check", pictures]
    assert deploy(*words, *QUICK, "--out", tmp_path / "out") == 0
    check = result_in(tmp_path / "out").serve
    assert check is not None and check.images == 8, "whole batches of two"
    assert tuple(stage.name for stage in check.stages) == serve.STAGES
    assert all(stage.baseline_ms > 0 and stage.reduced_ms > 0 for stage in check.stages[:3])
    assert check.speedup_low <= check.speedup <= check.speedup_high
    assert check.same_labels_percent >= 75


ERRORS = {
    "no plan": ([], "there is no plan below runs/ here"),
    "no such plan": (["--plan", "nowhere"], "nowhere: No such file"),
    "plan and model": (["--plan", "x", "--model", "demo"], "--plan and --model exclude each other"),
    "model alone": (["--model", "demo"], "--model needs --removed N"),
    "removed alone": (["--removed", "9"], "--removed needs --model"),
    "too many": (["--model", "demo", "--removed", "400"], "400"),
    "engine": (
        [*BY_HAND, "--engine", "onnxruntme"],
        "--engine onnxruntme: expected one of onnxruntime, openvino, torch",
    ),
    "target": ([*BY_HAND, "--target", "jetpack3"], "--target jetpack3: expected one of generic, jetpack4"),
    "precision": ([*BY_HAND, "--precision", "fp8"], "--precision fp8: expected one of fp32, fp16, bf16, int8"),
    "two weights": ([*BY_HAND, "--weights", __file__, "--random-weights"], "exclude each other"),
    "counts": ([*BY_HAND, "--counts", "160"], "give --bundle DIR as well"),
    "no numbers": ([*BY_HAND, "--counts", "a", "--bundle", "b"], "expected token counts such as 192,160,128"),
    "serve": ([*BY_HAND, "--serve-check", "nowhere"], "--serve-check nowhere: no such file or folder"),
    "data": ([*BY_HAND, "--data", "nowhere"], "--data nowhere: no such file or folder"),
    "compile": ([*BY_HAND, "--engine", "onnxruntime", "--compile"], "--compile"),
    "method": (["--model", "demo", "--removed", "9", "--method", "tomm"], "unknown method 'tomm'"),
    "method of a plan": (["--method", "tome"], "--method is for --model"),
    "block of a plan": (["--block", "4"], "--block is for --model"),
    "dynamic batch": ([*BY_HAND, "--engine", "torch", "--dynamic-batch"], "--dynamic-batch is for graphs"),
    "power mode": ([*BY_HAND, "--engine", "torch", "--power-mode", "MAXN"], "only a Jetson has power modes"),
    "bundle": ([*BY_HAND, "--engine", "onnx", "--bundle", "/proc/b"], "/proc/b: can't be written"),
    "workspace": ([*BY_HAND, "--engine", "openvino", "--workspace", "9"], "--workspace is TensorRT's"),
    "simulated": (
        [*BY_HAND, "--device", "sim:jetson_tx2"],
        "for a board give --engine onnx --target jetpack6 --bundle",
    ),
    "device": ([*BY_HAND, "--device", "tpu"], "--device tpu: expected cpu, cuda or cuda:N"),
    "nothing to serve": ([*BY_HAND, "--engine", "onnx", "--serve-check", str(ROOT)], "stops at the graphs"),
    "half on a processor": (
        [*BY_HAND, "--engine", "onnxruntime", "--device", "cpu", "--precision", "fp16"],
        "CPU provider runs fp16 in fp32; give --precision fp32",
    ),
    "no such count": ([*BY_HAND, "--counts", "197,210", "--bundle", "b"], "--counts 210: expected 1 to 197 tokens"),
    "count too small": ([*BY_HAND, "--counts", "1", "--bundle", "b"], "1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_line_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = ERRORS[case]
    monkeypatch.chdir(tmp_path)
    assert deploy(*words) == USAGE_ERROR
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("error: ")]) == 1
    assert expected in said[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_weights_at_hand_says_that_random_ones_will_do_for_latency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert deploy("--model", "vit_tiny_patch16_224", "--removed", "9", "--out", tmp_path / "out") == USAGE_ERROR
    assert "--random-weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_interrupted_benchmark_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BY_HAND, "--engine", "torch", *QUICK, "--out", tmp_path / "out"]
    real, journal = torch_engine._HostSession.time_ms, tmp_path / "out/measurements.jsonl"

    def cut_off(session: Any, count: int) -> list[float]:
        if journal.read_text().count('"ms"') > 4:
            raise KeyboardInterrupt
        return real(session, count)

    with monkeypatch.context() as patch:
        patch.setattr(torch_engine._HostSession, "time_ms", cut_off)
        assert deploy(*words) == INTERRUPTED
    assert f"--out {tmp_path / 'out'}" in capsys.readouterr().err
    before = journal.read_text()
    assert before.count('"ms"') > 4 and not (tmp_path / "out/deployment.json").exists()
    assert deploy(*words) == 0
    assert journal.read_text().startswith(before)


def test_a_result_that_no_longer_holds_is_gone_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*BY_HAND, "--engine", "torch", *QUICK, "--out", tmp_path / "out"]
    assert deploy(*words) == 0

    def broken(*arguments: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(building, "make", broken)
    assert deploy(*words) not in (0, NEGATIVE)
    assert not (tmp_path / "out/deployment.json").exists()


def test_a_plan_of_other_weights_is_not_deployed_with_these(
    tmp_path: Path, deployed: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    plan().save(tmp_path / "plan.json")
    environment = result_in(deployed[0]).environment
    assert environment is not None
    for made_with, expected in (("sha256:0123", USAGE_ERROR), ("embedded demo", 0), ("random", 0)):
        kept = dataclasses.replace(environment, details={"weights": made_with})
        kept.save(tmp_path / "environment.json")
        words = ["--plan", tmp_path, "--engine", "torch", *QUICK]
        assert deploy(*words, "--out", tmp_path / made_with.partition(":")[0]) == expected
    assert "the plan was made with weights sha256:0123" in capsys.readouterr().err
