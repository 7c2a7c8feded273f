"""run_trtexec.sh on boards of TensorRT 8.2 to 11, and trtexec's files as each of them writes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import bundles

from pomt_edge.choose import staircase
from pomt_edge.deploy import bundle, trtexec
from pomt_edge.errors import UserError

SCRIPT = Path(bundle.__file__).with_name("run_trtexec.sh")
BOARDS = {"8.2": "jetpack4", "10.3": "jetpack6", "11.0": "jetpack7"}


def made(tmp_path: Path, **options: Any) -> Path:
    bundles.write(tmp_path / "board", bundles.plan(), **options)
    return tmp_path / "board"


def run_json(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results/run.json").read_text(encoding="utf-8"))


def benchmark(folder: Path) -> Any:
    return trtexec.benchmark(bundle.open_checked(folder), folder / "results")


def test_the_script_is_sound() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert os.access(SCRIPT, os.X_OK)
    if shutil.which("shellcheck") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("shellcheck is missing; on Debian: apt-get install shellcheck")
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("version", BOARDS)
def test_every_tensorrt_measures_the_same(tmp_path: Path, version: str) -> None:
    folder = made(tmp_path, target=BOARDS[version])
    done = bundles.run(folder, "--rounds", "3", version=version)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pomt-edge import board" in done.stdout.splitlines()[-1]
    assert run_json(folder)["tensorrt"] == {"8.2": "8.2.1", "10.3": "10.3.0", "11.0": "11.0.0"}[version]
    measured = benchmark(folder)
    assert measured.speedup == pytest.approx(bundles.SPEEDUP, rel=0.01)
    assert measured.speedup_low < bundles.SPEEDUP < measured.speedup_high
    # The baseline opens every round and closes the last.
    assert (measured.baseline.blocks, measured.reduced.blocks) == (4, 3)
    # No forward of the warm-up, which are three times as slow, is among the samples.
    assert measured.baseline.p99_ms < 1.1 * measured.baseline.median_ms
    order = [run["graph"] for run in run_json(folder)["runs"] if run["what"] == "times"]
    assert order == ["baseline", "reduced"] * 3 + ["baseline"]
    layers = trtexec.profile(folder / "results/reduced.profile.json")
    assert [layer.name for layer in layers] == ["blocks.0.mlp", "blocks.0.attn", "head"]
    assert all((layer.median_ms is None) == (version == "8.2") for layer in layers)


@pytest.mark.parametrize(
    ("version", "precision", "expected", "note"),
    [
        ("8.2", "fp16", "--workspace=512 --buildOnly --noTF32 --fp16", "cannot keep single layers"),
        ("8.2", "int8", "--workspace=512 --buildOnly --noTF32 --int8", "cannot keep single layers"),
        (
            "10.3",
            "fp16",
            "--memPoolSize=workspace:512 --skipInference --noTF32 --fp16 "
            "--precisionConstraints=obey --layerPrecisions=score:fp32,rank:fp32",
            "",
        ),
        ("10.3", "fp32", "--memPoolSize=workspace:512 --skipInference --noTF32", ""),
        ("11.0", "fp16", "--memPoolSize=workspace:512 --skipInference --noTF32", ""),
        ("11.0", "int8", "--memPoolSize=workspace:512 --skipInference --noTF32", ""),
    ],
)
def test_each_build_gets_the_flags_of_its_version(
    tmp_path: Path, version: str, precision: str, expected: str, note: str
) -> None:
    options = {"float32_layers": ["score", "rank"], "workspace_mib": 512}
    folder = made(tmp_path, target=BOARDS[version], precision=precision, **options)
    assert bundles.run(folder, ROUNDS="1", version=version).returncode == 0
    told = run_json(folder)
    assert told["build_flags"] == f"{expected} --profilingVerbosity=detailed"
    assert note in " ".join(told["notes"]) and bool(told["notes"]) == bool(note)
    (engine,) = (folder / "engines").glob("reduced-*.engine")
    assert json.loads(engine.read_text(encoding="utf-8"))["flags"]["--onnx"] == "reduced.onnx"


@pytest.mark.parametrize(("version", "limit"), [("8.2", ["--workspace=1024"]), ("10.3", [])])
def test_memory_is_limited_where_it_was_asked_for_or_the_boards_own_limit_is_tiny(
    tmp_path: Path, version: str, limit: list[str]
) -> None:
    folder = made(tmp_path, target=BOARDS[version])
    assert bundles.run(folder, ROUNDS="1", version=version).returncode == 0
    assert [flag for flag in run_json(folder)["build_flags"].split() if "workspace" in flag] == limit


@pytest.mark.parametrize("version", ["10.3", "11.0"])
def test_graphs_for_int8_carry_their_scales_to_every_board(tmp_path: Path, version: str) -> None:
    folder = made(tmp_path, target="jetpack6", precision="int8")
    done = bundles.run(folder, "--rounds", "1", version=version)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("--int8" in run_json(folder)["build_flags"].split()) == (version == "10.3")
    found = trtexec.runs_in(folder / "results/reduced.layers.json")
    assert found == trtexec.RunsIn("int8", 2, 3)


def test_a_board_without_a_flag_does_without(tmp_path: Path) -> None:
    folder = made(tmp_path, precision="fp32")
    lacking = tmp_path / "trtexec"
    optional = ("noTF32", "exportLayerInfo", "profilingVerbosity")
    text = (bundles.FAKES / "trtexec").read_text(encoding="utf-8")
    begin, known, end = text.partition('known = {f"--{name}" for name in f"{ALWAYS} {FLAGS[version]}".split()}')
    lacking.write_text(begin + known + "".join(f' - {{"--{name}"}}' for name in optional) + end, encoding="utf-8")
    lacking.chmod(0o755)
    done = bundles.run(folder, "--rounds", "1", TRTEXEC=str(lacking))
    assert done.returncode == 0, done.stdout + done.stderr
    assert run_json(folder)["build_flags"] == "--skipInference"
    assert trtexec.runs_in(folder / "results/baseline.layers.json") is None


def test_a_typed_graph_is_built_as_typed_and_an_open_batch_is_given(tmp_path: Path) -> None:
    folder = made(tmp_path, target="generic", dynamic_batch=True, batch_size=4)
    assert bundles.run(folder, ROUNDS="1", version="10.3").returncode == 0
    told = run_json(folder)
    assert "--stronglyTyped" in told["build_flags"].split() and "--fp16" not in told["build_flags"].split()
    assert "--shapes=images:4x3x224x224" in told["build_flags"].split()
    assert "--shapes=images:4x3x224x224" in told["time_flags"].split()


@pytest.mark.parametrize(
    ("target", "precision", "version", "said"),
    [
        ("jetpack6", "fp16", "8.2", "TensorRT 10.3 or newer, and this board has 8.2.1"),
        ("generic", "fp16", "8.2", "TensorRT 10.0 or newer, and this board has 8.2.1"),
        ("jetpack6", "fp16", "11.0", "takes fp16 from the graph alone, and this folder, made for jetpack6, leaves it"),
        ("jetpack4", "bf16", "8.2", "has no --bf16"),
    ],
)
def test_a_graph_that_a_board_would_misread_is_not_run(
    tmp_path: Path, target: str, precision: str, version: str, said: str
) -> None:
    folder = made(tmp_path, target=target, precision=precision)
    done = bundles.run(folder, version=version)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and said in done.stderr
    assert not (folder / "results").exists()


def test_a_changed_file_stops_the_board(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with (folder / "reduced.onnx").open("ab") as file:
        file.write(b"\0")
    done = bundles.run(folder)
    assert done.returncode == 1 and "reduced.onnx: FAILED" in done.stderr and "copy it here again" in done.stderr
    assert not (folder / "engines").exists() and not (folder / "results").exists()


def test_a_graph_that_crashes_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    folder = made(tmp_path, further=(164,))
    done = bundles.run(folder, "--rounds", "1", crash="reduced")
    assert done.returncode == 1 and "reduced: the build failed: Segmentation fault" in done.stdout
    read = bundle.open_checked(folder)
    assert trtexec.failures(trtexec.board_run(read, folder / "results")) == [
        "reduced: the build failed (Segmentation fault)"
    ]
    with pytest.raises(UserError, match="nothing of the reduced model was timed: reduced: the build failed"):
        benchmark(folder)
    # Mended, the engines that were built are kept, and so are the results.
    done = bundles.run(folder, "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {one["graph"]: one["status"] for one in run_json(folder)["builds"]} == {
        "baseline": "kept",
        "tokens_164": "kept",
        "reduced": "ok",
    }
    assert (folder / "results-1/run.json").exists()


def test_a_run_that_is_cut_off_is_kept_up_to_its_last_whole_round(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert bundles.run(folder, "--rounds", "4", FAKE_TRT_POWER_CUT="reduced.3.times.json").returncode != 0
    run = trtexec.board_run(bundle.open_checked(folder), folder / "results")
    assert trtexec.cut_off(run) == "run_trtexec.sh did not end: 2 of 4 rounds"
    measured = benchmark(folder)
    assert (measured.baseline.blocks, measured.reduced.blocks) == (2, 2)
    assert measured.speedup == pytest.approx(bundles.SPEEDUP, rel=0.01)
    assert bundles.run(folder, "--rounds", "1").returncode == 0
    assert trtexec.cut_off(trtexec.board_run(bundle.open_checked(folder), folder / "results")) is None


def test_an_engine_serves_the_flags_that_it_was_built_with_alone(tmp_path: Path) -> None:
    folder = made(tmp_path, precision="fp32")
    assert bundles.run(folder, "--rounds", "1").returncode == 0
    bundles.write(folder, bundles.plan(), precision="fp16")
    assert bundles.run(folder, "--rounds", "1").returncode == 0
    assert {one["status"] for one in run_json(folder)["builds"]} == {"ok"}
    assert len(list((folder / "engines").glob("baseline-*.engine"))) == 2


def test_wrong_use_and_help(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert "--rounds N" in bundles.run(folder, "--help").stdout
    for wrong in (["--nonsense"], ["word"], ["--rounds"], ["--rounds", "0"], ["--duration", "1.5"]):
        refused = bundles.run(folder, *wrong)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    missing = bundles.run(folder, TRTEXEC="/no/such/trtexec")
    assert missing.returncode == 1 and "TRTEXEC=/path/to/trtexec" in missing.stderr


def test_a_board_without_trtexec_on_its_path_is_given_it(tmp_path: Path) -> None:
    folder = made(tmp_path)
    elsewhere = tmp_path / "opt dir"
    elsewhere.mkdir()
    shutil.copy(bundles.FAKES / "trtexec", elsewhere / "my_trtexec")
    done = bundles.run(folder, "--rounds", "1", TRTEXEC=str(elsewhere / "my_trtexec"), PATH=os.environ["PATH"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_machine_that_slows_down_in_mid_run_does_not_blur_the_speedup(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert bundles.run(folder, "--rounds", "5").returncode == 0
    calm = benchmark(folder).speedup
    runs = [run["file"] for run in run_json(folder)["runs"] if run["what"] == "times"]
    for name, factor in zip(runs, np.geomspace(1, 1.4, len(runs)), strict=True):
        path = folder / "results" / name
        rows = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps([row | {"computeMs": row["computeMs"] * factor} for row in rows]), encoding="utf-8")
    measured = benchmark(folder)
    assert measured.speedup == pytest.approx(calm, rel=0.01)
    assert measured.speedup_high / measured.speedup_low < 1.15
    assert measured.steadiness.drift_low > 10


def test_further_graphs_make_a_curve_with_its_staircase(tmp_path: Path) -> None:
    counts = (192, 160, 130, 128)
    folder = made(tmp_path, further=counts)
    assert bundles.run(folder, "--rounds", "2").returncode == 0
    curve = trtexec.curve(bundle.open_checked(folder), folder / "results")
    assert [point.tokens for point in curve.points] == [197, *counts, 107]
    # The fake has a step at every multiple of 64.
    assert [step.tokens for step in staircase.fit(curve).steps] == [192, 128]


def test_the_pieces_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = made(tmp_path)
    with pytest.raises(UserError, match=r"run\.json is missing: type bash run_trtexec\.sh"):
        benchmark(folder)
    assert bundles.run(folder, "--rounds", "1").returncode == 0
    (folder / "results/reduced.1.times.json").unlink()
    with pytest.raises(UserError, match=r"reduced\.1\.times\.json: No such file"):
        benchmark(folder)


def test_results_of_another_bundle_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert bundles.run(folder, "--rounds", "1").returncode == 0
    bundles.write(folder, bundles.plan(), precision="fp32")
    with pytest.raises(UserError, match="results of another bundle"):
        benchmark(folder)


def test_a_run_that_names_other_files_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert bundles.run(folder, "--rounds", "1").returncode == 0
    run = run_json(folder)
    run["runs"][0]["file"] = "../../secret.json"
    (folder / "results/run.json").write_text(json.dumps(run), encoding="utf-8")
    with pytest.raises(UserError, match="not this bundle's"):
        benchmark(folder)


def record(start_ms: float, ms: object) -> dict[str, object]:
    return {"startComputeMs": start_ms, "endComputeMs": start_ms, "computeMs": ms, "latencyMs": ms}


def test_the_warm_up_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps([record(0, 9.0), record(199.9, 8.0), record(200.0, 2.0), record(202.5, 3.0)]))
    assert trtexec.times(path) == (2.0, 3.0)
    assert trtexec.times(path, warm_up_ms=0) == (9.0, 8.0, 2.0, 3.0)
    with pytest.raises(UserError, match="behind the warm-up of 500 ms"):
        trtexec.times(path, warm_up_ms=500)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "no list of records"),
        ("{}", "no list of records"),
        ("[1, 2]", "no list of records"),
        ("[{", "not JSON"),
        (json.dumps([record(300, float("nan"))]), "record 1 has the computeMs nan"),
        (json.dumps([record(300, -1.0)]), "record 1 has the computeMs -1.0"),
        (json.dumps([record(300, 1.0), record(300, 0)]), "record 2 took 0 ms"),
        (json.dumps([record(300, "1.0")]), "record 1 has the computeMs '1.0'"),
        (json.dumps([{"count": 5}, {"name": "head", "averageMs": 1.0}]), "record 1 has the computeMs None"),
        ("\xff", "not JSON"),
    ],
)
def test_files_that_are_no_times_are_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "times.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        trtexec.times(path)
    message = str(error.value)
    assert message.startswith(str(path)) and said in message and "--exportTimes" in message and "\n" not in message


@pytest.mark.parametrize("text", ["[]", '[{"count": 3}]', '[{"count": 3}, {"name": "head", "averageMs": 1}]'])
def test_files_that_are_no_profile_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(UserError, match="--exportProfile"):
        trtexec.profile(path)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Layers": ["head"]}', '{"Layers": 1}', '{"Layers": [{"Name": "a", "Inputs": 1}]}', "\xff"]
)
def test_an_engine_that_does_not_tell_what_it_runs_in(tmp_path: Path, text: str) -> None:
    path = tmp_path / "layers.json"
    path.write_bytes(text.encode("latin-1"))
    assert trtexec.runs_in(path) is None
