"""The command as a user types it, on the embedded demo: files, figures, errors, interruption."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from quick import QUICK, SIMULATED, TAME, rows
from safetensors.torch import save_file

from pomt_edge import Plan, cli, demo, reduce_model
from pomt_edge.commands.common import NEGATIVE

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("threads_as_before")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """One run by the script of the checkout: its folder, standard output and standard error."""
    out = tmp_path_factory.mktemp("run") / "out"
    command = [
        sys.executable,
        "offline_compute.py",
        "--bs",
        "4",
        *QUICK,
        "--max-drop",
        "60",
        "--out",
        str(out),
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done.stdout, done.stderr


def test_json_is_the_plan_alone_on_standard_output(finished: tuple[Path, str, str]) -> None:
    out, stdout, stderr = finished
    assert json.loads(stdout) == json.loads((out / "plan.json").read_text())
    assert "Report:" in stderr and "report.html" in stderr


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of the same on a simulated processor, which surely is faster with fewer tokens."""
    out = tmp_path_factory.mktemp("simulated") / "out"
    assert cli.run(["--bs", "4", *SIMULATED, "--max-drop", "60", "--out", str(out)]) == 0
    return out


def test_the_plan_has_what_a_deployment_needs(simulated: Path) -> None:
    plan = Plan.load(simulated / "plan.json")
    assert (plan.model, plan.method, plan.engine, plan.precision, plan.batch_size) == (
        "demo",
        "pomt",
        "torch",
        "fp32",
        4,
    )
    assert plan.verdict == "prune" and plan.image_px == 28 and plan.limits == {"max_drop": 60}
    assert plan.tokens_in - plan.removed == plan.tokens_out and sum(plan.schedule) == plan.removed == plan.schedule[3]
    assert plan.speedup_low < plan.speedup < plan.speedup_high and plan.speedup_low > 1
    assert plan.speedup == pytest.approx(plan.baseline_ms / plan.predicted_ms)
    assert plan.drop_high is not None and plan.drop_high <= 60
    required = "schema because baseline_percent predicted_percent drop drop_low drop_high device"
    assert set(required.split()) <= json.loads((simulated / "plan.json").read_text()).keys()


def test_the_tables_hold_what_the_plan_says(finished: tuple[Path, str, str]) -> None:
    out = finished[0]
    plan = Plan.load(out)
    curve = {int(row["tokens"]): row for row in rows(out / "curve.csv")}
    assert list(next(iter(curve.values()))) == [
        *("tokens", "median_ms", "low_ms", "high_ms", "samples", "stop_reason", "origin")
    ]
    assert {row["origin"] for row in curve.values()} == {"measured"}
    assert list(curve) == [197, 162, 127, 92, 57, 22]
    assert float(curve[197]["median_ms"]) == pytest.approx(plan.baseline_ms, rel=1e-4)
    assert float(curve[plan.tokens_out]["median_ms"]) == pytest.approx(plan.predicted_ms, rel=1e-4)
    accuracy = {int(row["tokens"]): row for row in rows(out / "accuracy.csv")}
    assert list(next(iter(accuracy.values()))) == ["tokens", "percent", "low", "high", "images"]
    assert plan.predicted_percent == pytest.approx(float(accuracy[plan.tokens_out]["percent"]), rel=1e-4)
    assert {row["images"] for row in accuracy.values()} == {"96"}
    environment = json.loads((out / "environment.json").read_text())
    assert environment["device"] == "cpu" and environment["versions"]["torch"] == torch.__version__
    assert "<svg" in (out / "report.html").read_text()


def test_the_plan_reduces_the_model_as_the_readme_shows(simulated: Path) -> None:
    plan = Plan.load(simulated / "plan.json")
    assert plan.removed
    reduced = reduce_model(demo.build_model(), plan)
    with torch.inference_mode():
        tokens = reduced.forward_features(torch.zeros(2, 3, 28, 28))
    assert tokens.shape == (2, plan.tokens_out, 96)


TWO_COUNTS = ["--bs", "4", *QUICK, "--grid-stop", "107", "--grid-stride", "90", "--device", "cpu"]
TWO_COUNTS += ["--images", "200", "--accuracy-grid", "full", "--max-drop", "60"]


@pytest.fixture(scope="module")
def by_torch(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The accuracy in torch; the latencies don't matter."""
    out = tmp_path_factory.mktemp("torch") / "out"
    assert cli.run([*TWO_COUNTS, "--device", "sim:cpu", "--out", str(out)]) == 0
    return rows(out / "accuracy.csv")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_another_engine_measures_its_own_curve_of_the_same_model(
    engine: str, by_torch: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in ("onnx", "onnxscript", engine):
        pytest.importorskip(library)
    options = [*TWO_COUNTS, "--engine", engine, "--out", str(tmp_path)]
    assert cli.run(options) == 0
    plan = Plan.load(tmp_path)
    assert plan.engine == engine and plan.verdict in ("prune", "keep")
    for expected, found in zip(by_torch, rows(tmp_path / "accuracy.csv"), strict=True):
        assert expected["tokens"] == found["tokens"]
        assert float(found["percent"]) == pytest.approx(float(expected["percent"]), abs=1.01), "one or two near ties"
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["engine"] == engine and environment["versions"][engine] and environment["threads"] == 1

    journal = tmp_path / "measurements.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert json.loads(lines[0])["configuration"]["engine_version"]
    if engine == "openvino":
        return  # going on is the same for both, and its exports take seconds
    blocks = [number for number, line in enumerate(lines) if '"ms"' in line]
    kept = "".join(lines[: blocks[2]])  # before the counts are known; confirmed ones need not be
    journal.write_text(kept)
    capsys.readouterr()
    assert cli.run(options) == 0
    assert "exporting to ONNX and building, token counts: 1 to do" in capsys.readouterr().err
    assert journal.read_text().startswith(kept) and len(journal.read_text()) > len(kept)


def test_a_finished_run_is_not_measured_again_and_its_limits_may_change(
    finished: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished[0]
    before = (out / "measurements.jsonl").read_text().count('"ms"')
    assert cli.run(["--bs", "4", *QUICK, "--budget-ms", "1e6", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "keep"
    assert cli.run(["--bs", "4", *QUICK, "--budget-ms", "1e-3", "--out", str(out), "--json"]) == NEGATIVE
    assert json.loads(capsys.readouterr().out)["verdict"] == "unreachable"
    assert (out / "measurements.jsonl").read_text().count('"ms"') == before


def test_the_run_says_how_the_clocks_were_and_how_steady_the_machine(finished: tuple[Path, str, str]) -> None:
    out, _, stderr = finished
    result = json.loads((out / "result.json").read_text())
    details, steadiness = result["environment"]["details"], result["curve"]["steadiness"]
    assert details["clocks"]["state"] == "left alone" and details["timer"] == "host clock"
    assert f"clocks: {details['clocks']['state']}" in stderr
    assert steadiness["samples"] > 50 and steadiness["warm_up_forwards"] > 0
    assert all(point["memory_mib"] > 50 for point in result["curve"]["points"])
    page = (out / "report.html").read_text()
    assert details["clocks"]["state"] in page and "drifted by" in page


def test_a_drift_is_taken_out_without_measuring_again(
    finished: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished[0]
    options = ["--bs", "4", *QUICK, "--budget-ms", "1e6", "--out", str(out)]
    before = (out / "measurements.jsonl").read_text().count('"ms"')
    curves = []
    for detrend in ([], ["--detrend"]):
        assert cli.run([*options, *detrend]) == 0
        curves.append(json.loads((out / "result.json").read_text())["curve"])
    as_measured, asked_for = curves
    steadiness, anchor = as_measured["steadiness"], as_measured["anchor_ms"]
    moved = steadiness["drift_low"] > 0 or steadiness["drift_high"] < 0 or bool(steadiness["shifts"])
    assert not as_measured["detrended"] and asked_for["detrended"] == moved
    first = anchor[: max(len(anchor) // 10, 3)]
    factor = statistics.median(first) / statistics.median(anchor) if moved else 1
    for first_point, second in zip(as_measured["points"], asked_for["points"], strict=True):
        assert second["median_ms"] == pytest.approx(factor * first_point["median_ms"])
    assert (out / "measurements.jsonl").read_text().count('"ms"') == before
    capsys.readouterr()


def test_another_configuration_is_refused_and_nothing_is_lost(
    finished: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = finished[0]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert cli.run(["--bs", "2", *QUICK, "--out", str(out)]) == 2
    assert "batch_size is 4 there, 2 now" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_latency_alone_claims_no_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--model",
        "deit_tiny",
        "--image-size",
        "64",
        "--grid-stride",
        "4",
        "--point-seconds",
        "0.02",
        *TAME,
    ]
    assert cli.run([*options, "--out", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    plan = json.loads(printed.out)
    assert plan["predicted_percent"] is None and plan["limits"] == {"keep": 0.7}
    assert plan["tokens_in"] == 17 and plan["tokens_out"] >= 12
    assert "Random weights" in printed.err and "Accuracy was not measured" in printed.err
    assert rows(tmp_path / "accuracy.csv") == []


def test_agreement_is_never_called_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):
        Image.new("RGB", (40, 40), (60 * index, 90, 200)).save(folder / f"{index}.jpg")
    (folder / "broken.jpg").write_bytes(b"")
    save_file(demo_state(), tmp_path / "w.safetensors")
    options = [
        "--unlabelled",
        "--data",
        str(folder),
        "--weights",
        str(tmp_path / "w.safetensors"),
        "--num-classes",
        "10",
    ]
    options += ["--normalize", "0.5,0.5", "--crop-pct", "1.0", "--interpolation", "bilinear", "--image-size", "64"]
    small = [
        "--model",
        "deit_tiny",
        "--grid-stride",
        "5",
        "--point-seconds",
        "0.02",
        "--accuracy-grid",
        "full",
        *TAME,
    ]
    assert cli.run([*small, *options, "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    plan = json.loads(printed.out)
    assert plan["measure"] == "agreement" and plan["baseline_percent"] == 100
    assert "broken.jpg" in printed.err and "agreement" in printed.err and "accuracy" not in printed.err.lower()
    assert "accuracy" not in (tmp_path / "out" / "report.html").read_text().lower().replace("accuracy_grid", "")

    Image.new("RGB", (40, 40), (1, 2, 3)).save(folder / "0.jpg")
    assert cli.run([*small, *options, "--out", str(tmp_path / "out")]) == 2
    assert "images is '4 images, sha256:" in capsys.readouterr().err, "other images are another measurement"


def demo_state() -> dict[str, torch.Tensor]:
    import timm

    torch.manual_seed(1)
    return timm.create_model("deit_tiny_patch16_224", num_classes=10, img_size=64).state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "deit_smal1"], "unknown; the nearest: "),
        (["--model", "vit_base"], "ambiguous"),
        (["--model", "resnet18"], "supported: timm's VisionTransformer"),
        (["--bs", "0"], "--bs 0 is out of range: expected 1 to"),
        (["--bs", "four"], "--bs"),
        (["--max-drop", "-1"], "--max-drop -1 is out of range"),
        (["--grid-stop", "300"], "--grid-stop 300 is out of range: demo can keep 3 to 197 tokens"),
        (["--grid-start", "50", "--grid-stop", "90"], "--grid-start 50 is below --grid-stop 90"),
        (["--block", "8"], "block 8 is past the depth: the model has 8 blocks, 0 to 7"),
        (["--max-drop", "1", "--budget-ms", "3"], "exclude each other"),
        (["--model", "deit_tiny", "--max-drop", "1"], "--max-drop needs images"),
        (["--model", "deit_tiny", "--unlabelled"], "--unlabelled needs images"),
        (["--data", "absent"], "--data absent: no such file or folder"),
        (["--data", "README.md"], "--data README.md: is a file"),
        (["--data", ""], "the path is empty"),
        (["--out", ""], "the path is empty"),
        (["--grid-start", "197", "--grid-stop", "197"], "the grid has no count below the 197"),
        (["--model", "deit_tiny", "--image-size", "16"], "has 2 tokens at this --image-size"),
        (["--model", "deit_tiny", "--normalize", "0.5,0.5"], "--normalize needs images"),
        (["--model", "deit_tiny", "--weights", "absent.pth"], "no such file"),
        (["--weights", "README.md"], "the embedded demo has its own weights"),
        (["--normalize", "0.5"], "expected MEAN,STD"),
        (["--normalize", "nan,1"], "expected MEAN,STD"),
        (["--crop-pct", "0.9"], "leave out --crop-pct"),
        (["--bs", "100000000"], "--bs 100000000 is out of range"),
        (["--weights", "tests"], "--weights tests: is a folder"),
        (["--device", "tpu"], "expected cpu, cuda, cuda:N, sim:PROFILE"),
        (["--engine", "tensorflow"], "unknown engine 'tensorflow'; known: "),
        (["--method", "pmot"], "unknown method 'pmot'; known: pomt"),
        (["--precision", "fp8"], "expected one of fp32, fp16, bf16, int8"),
        (["--precision", "int8"], "--precision int8: torch does not run int8 here; give --engine onnxruntime"),
        (["--precision", "int8", "--engine", "openvino", "--model", "deit_tiny"], "calibrated on images: give --data"),
        (["--engine", "openvino", "--compile"], "--compile is torch's, and --engine openvino compiles by itself"),
        (["--provider", "cuda"], "--provider is ONNX Runtime's; give --engine onnxruntime"),
        (["--engine", "onnxruntime", "--provider", "rocm"], "--provider rocm: expected one of cpu, cuda, tensorrt"),
        (["--engine", "onnxruntime", "--probe", "input"], "--probe input runs in torch alone; give --engine torch"),
        (["--method", "pomt:score=best"], "score='best'; expected one of attention, cls"),
        (["--method", "tome:speed=1"], "unknown option 'speed' of method tome; known: proportional_attention"),
        (["--block", "three"], "--block three: expected a block's number, some such as 3,6,9, or all"),
        (["--block", "3,3"], "--block 3,3: names a block twice"),
        (["--model", "deit_tiny", "--image-size", "225"], "expected a multiple of the patch's 16 pixels, such as 224"),
        (["--block", "3,8"], "block 8 is past the depth: the model has 8 blocks, 0 to 7"),
        (["--no-such-option"], "no-such-option"),
        (["--out", "README.md/x"], "can't be written"),
        (["--out", "tests"], "--out tests: holds other files and no run of ours"),
        (["--no-lock", "--require-locked"], "exclude each other"),
        (["--no-lock", "--gpu-clock", "1410"], "--gpu-clock sets clocks and --no-lock leaves them alone"),
        (["--gpu-clock", "0"], "--gpu-clock 0 is out of range"),
        (["--power-mode", "MAXN", "--device", "cpu"], "only a Jetson has power modes; leave it out"),
        (["--cuda-graphs", "--device", "cpu"], "--cuda-graphs: not to be had here (cpu has no CUDA graphs)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_gives_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with CUDA can't show its absence")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_asked_for_and_absent(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--device", device]) == 2
    assert f"--device {device}: no CUDA device is usable here" in capsys.readouterr().err


def test_empty_data_is_an_error_and_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert cli.run(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "no images in class folders" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_and_version_wait_for_neither_torch_nor_timm() -> None:
    heavy = "('torch', 'torchvision', 'timm', 'numpy', 'scipy', 'PIL', 'jinja2')"
    for option, shown in (("--help", "--max-drop"), ("--version", "pomt-edge ")):
        code = f"import sys; from pomt_edge import cli; cli.run([{option!r}]); "
        code += f"print([module for module in {heavy} if module in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert shown in done.stdout and done.stdout.strip().endswith("[]")


def test_the_input_probe_is_labelled_and_has_its_own_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {}
    for probe in ("block", "input"):
        out = tmp_path / probe
        options = [*SIMULATED, "--grid-stride", "100", "--accuracy-grid", "full", "--probe", probe, "--max-drop", "90"]
        assert cli.run([*options, "--out", str(out), "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["probe"] == probe
        assert ("The paper's probe" in printed.err) == (probe == "input")
        figures[probe] = rows(out / "accuracy.csv")[-1]["percent"]
    assert figures["block"] != figures["input"]


def test_the_last_count_named_is_measured_whatever_the_stride(tmp_path: Path) -> None:
    options = ["--grid-stride", "1000", "--grid-stop", "50", "--point-seconds", "0.02", "--images", "32", *TAME]
    assert cli.run([*options, "--out", str(tmp_path)]) == 0
    assert [row["tokens"] for row in rows(tmp_path / "curve.csv")] == ["197", "50"]


def test_the_report_says_which_weights_and_images_it_is_about(finished: tuple[Path, str, str]) -> None:
    details = json.loads((finished[0] / "environment.json").read_text())["details"]
    assert details["weights"] == details["data"] == "embedded demo"
    assert details["images"].startswith("96 images, sha256:") and "bilinear" in details["preprocessing"]
    assert details["images"] in (finished[0] / "report.html").read_text()


def test_a_python_without_the_package_is_told_what_to_type() -> None:
    command = [sys.executable, "-I", "-S", "offline_compute.py", "--version"]
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path('offline_compute.py')"
    done = subprocess.run([*command[:3], "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "typer is missing" in done.stderr and "make setup" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_any([]) == 0
    assert "clocks" in capsys.readouterr().out


def test_all_methods_are_compared_and_the_best_ones_plan_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*SIMULATED, "--grid-stride", "70", "--max-drop", "60", "--bs", "4", "--method", "all"]
    assert cli.run([*options, "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads((tmp_path / "out" / "methods.json").read_text())
    methods = [result["plan"]["method"] for result in found["results"]]
    assert {"pomt", "pomt:score=cls", "topk", "tome", "pitome", "l2_norm", "random"} == set(methods)
    plan = Plan.load(tmp_path / "out")
    assert json.loads(printed.out)["method"] == plan.method == found["best"]
    speedups = {result["plan"]["method"]: result["plan"]["speedup"] for result in found["results"]}
    assert speedups[plan.method] == max(speedups.values())
    page = (tmp_path / "out" / "methods.html").read_text()
    assert all(f'href="torch-{method.replace(":", "-").replace("=", "-")}/report.html"' in page for method in methods)
    assert (tmp_path / "out" / "torch-tome" / "report.html").exists()
    with torch.inference_mode():
        assert reduce_model(demo.build_model(), plan)(torch.zeros(1, 3, 28, 28)).shape == (1, 10)


def test_the_removal_is_spread_over_several_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SIMULATED, "--grid-stride", "50", "--grid-stop", "80", "--max-drop", "90", "--bs", "4"]
    options += ["--method", "tome", "--block", "1,3,5"]
    assert cli.run([*options, "--out", str(tmp_path), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["verdict"] == "prune" and plan["block"] == 1
    assert [block for block, removed in enumerate(plan["schedule"]) if removed] == [1, 3, 5]
    result = json.loads((tmp_path / "result.json").read_text())
    before, after = result["costs"]
    assert after["gflops"] < before["gflops"] and after["parameters"] == before["parameters"]
    assert after["tokens_per_block"][-1] == plan["tokens_out"] and before["tokens_per_block"] == [197] * 8
    assert "in blocks 1, 3 and 5" in (tmp_path / "report.html").read_text()
