"""`offline_compute --device` for what is not this machine: simulated, recorded, or a board over SSH."""

from __future__ import annotations

import csv
import json
import math
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boards
import pytest
import ssh_boards
from ssh_boards import SshBoard, until

from pomt_edge import cli
from pomt_edge.agent import board as agent
from pomt_edge.commands.common import INTERRUPTED, USAGE_ERROR
from pomt_edge.records import Contest, Plan, Result

ROOT = Path(__file__).parents[1]
TAME = ["--threads", "1"]
COARSE = ["--grid-stride", "35", "--grid-stop", "22", "--images", "32", *TAME]
"""Six counts of the demo, and accuracy on few images."""
DEIT = ["--model", "deit_small", "--bs", "4", *TAME]

pytestmark = pytest.mark.usefixtures("threads_as_before")


def compute(*words: str | Path) -> int:
    return cli.run([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], out: Path, *words: str | Path) -> str:
    """The error of a command line that is refused before anything is written."""
    assert compute(*words, "--out", out) == USAGE_ERROR
    assert not out.exists()
    return error_in(capsys)


def error_in(capsys: pytest.CaptureFixture[str]) -> str:
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    return last


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "curve.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def result_in(folder: Path) -> Result:
    return Result.load(folder / "result.json")


def curve_of(folder: Path) -> dict[int, float]:
    return {int(row["tokens"]): float(row["median_ms"]) for row in rows(folder)}


def calls(folder: Path) -> list[dict[str, Any]]:
    """The blocks in the journal."""
    lines = (folder / "measurements.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if "ms" in entry]


# Simulated


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "run"
    assert compute("--device", "sim:jetson_orin_nano", *COARSE, "--max-drop", "60", "--out", out) == 0
    return out


def test_all_files_of_a_simulated_run_say_so(simulated: Path) -> None:
    plan, result = Plan.load(simulated / "plan.json"), result_in(simulated)
    assert (plan.origin, plan.engine, plan.device) == ("simulated", "trt", "sim:jetson_orin_nano")
    assert result.plan.origin == result.environment.origin == "simulated"
    environment = json.loads((simulated / "environment.json").read_text(encoding="utf-8"))
    assert environment["origin"] == "simulated" and environment["details"]["power_mode"] == "15W"
    assert environment["details"]["timer"] == "simulated"
    assert {row["origin"] for row in rows(simulated)} == {"simulated"}
    page = (simulated / "report.html").read_text(encoding="utf-8")
    head = page.partition("Key figures")[0]
    assert "(simulated)" in head and "No device was measured" in head
    assert '<th scope="col">Simulated</th>' in page and ">Measured<" not in page


def test_accuracy_is_that_of_the_model_on_this_machine(simulated: Path) -> None:
    result = result_in(simulated)
    assert result.accuracy is not None and result.accuracy.measure == "accuracy"
    whole = next(point for point in result.accuracy.points if point.tokens == 197)
    assert whole.images == 32 and whole.percent > 70  # the demo's images and weights; chance is 10 %
    assert any("Accuracy was measured on this machine" in note for note in result.notes)


def test_a_simulated_run_is_the_same_again_and_where_it_was_interrupted(simulated: Path, tmp_path: Path) -> None:
    same = ["--device", "sim:jetson_orin_nano", *COARSE, "--max-drop", "60"]
    assert compute(*same, "--out", tmp_path / "again") == 0
    again = result_in(tmp_path / "again")
    assert (again.plan, again.curve) == (result_in(simulated).plan, result_in(simulated).curve)

    lines = (simulated / "measurements.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    blocks = [place for place, line in enumerate(lines) if '"ms"' in line]
    (tmp_path / "cut").mkdir()
    kept = lines[: blocks[len(blocks) // 3]]
    (tmp_path / "cut" / "measurements.jsonl").write_text("".join(kept), encoding="utf-8")
    assert compute(*same, "--out", tmp_path / "cut") == 0
    assert calls(tmp_path / "cut")[: len(blocks) // 3] == calls(simulated)[: len(blocks) // 3]
    plan, whole = Plan.load(tmp_path / "cut" / "plan.json"), result_in(simulated).plan
    assert (plan.tokens_out, plan.origin) == (whole.tokens_out, "simulated")
    assert plan.speedup == pytest.approx(whole.speedup, rel=0.01)


def test_a_finished_run_is_not_measured_again(simulated: Path) -> None:
    before = calls(simulated)
    assert compute("--device", "sim:jetson_orin_nano", *COARSE, "--max-drop", "60", "--out", simulated) == 0
    assert calls(simulated) == before


def test_the_page_of_all_methods_says_simulated(tmp_path: Path) -> None:
    grid = ["--grid-stride", "64", "--images", "16", *TAME]
    assert compute("--device", "sim:jetson_tx2", "--method", "all", *grid, "--max-drop", "60", "--out", tmp_path) == 0
    head = (tmp_path / "methods.html").read_text(encoding="utf-8").partition('id="picture-title"')[0]
    assert "No device was measured" in head and "(simulated)" in head
    contest = Contest.load(tmp_path / "methods.json")
    assert {result.plan.origin for result in contest.results} == {"simulated"}
    assert Plan.load(tmp_path / "plan.json").origin == "simulated"


def steps(folder: Path) -> list[int]:
    return [step.tokens for step in result_in(folder).staircase.steps if step.height_percent > 4]


def test_a_power_mode_with_fewer_processors_moves_the_steps(tmp_path: Path) -> None:
    for mode in ("MAXN", "15W"):
        words = ["--device", "sim:jetson_agx_orin_64g", "--power-mode", mode, "--noise", "none", "--search", "full"]
        assert compute(*DEIT, *words, "--out", tmp_path / mode) == 0
        assert result_in(tmp_path / mode).environment.details["power_mode"] == mode
    assert steps(tmp_path / "MAXN") != steps(tmp_path / "15W") and steps(tmp_path / "15W")


def test_eager_launches_and_engines_differ_in_latency(tmp_path: Path) -> None:
    grid = ["--grid-stride", "60", "--noise", "none", "--device", "sim:a100", "--precision", "fp16"]
    ways = {"trt": ["--engine", "trt"], "graph": [], "eager": ["--no-cuda-graphs"]}
    for name, words in ways.items():
        assert compute(*DEIT, *grid, *words, "--out", tmp_path / name) == 0
        assert result_in(tmp_path / name).plan.engine == ("trt" if name == "trt" else "torch")
    whole = {name: curve_of(tmp_path / name)[197] for name in ways}
    assert whole["eager"] > 1.5 * whole["graph"] and whole["trt"] != whole["graph"]


def test_throttling_drops_blocks_without_waiting_for_the_simulated_device(tmp_path: Path) -> None:
    began = time.perf_counter()
    # Hot after a minute of forwards: a big batch gets there soon.
    words = ["--model", "deit_small", "--bs", "64", "--device", "sim:jetson_tx2", "--noise", "throttling", *TAME]
    assert compute(*words, "--grid-stride", "16", "--out", tmp_path) == 0
    took = time.perf_counter() - began
    steady = result_in(tmp_path).curve.steadiness
    assert steady.dropped_blocks > 0 and set(steady.throttled_by) == {"heat (simulated)"}
    simulated_s = sum(sum(entry["ms"]) for entry in calls(tmp_path)) / 1e3 + 10 * steady.dropped_blocks
    assert took < simulated_s / 2
    assert "heat (simulated)" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_noise_is_reported(tmp_path: Path) -> None:
    words = [*DEIT, "--grid-stride", "8", "--device", "sim:jetson_tx2"]
    assert compute(*words, "--noise", "drift=0.3", "--out", tmp_path / "drift") == 0
    drift = result_in(tmp_path / "drift").curve.steadiness
    assert drift.drift_low > 1 and "drifted by" in (tmp_path / "drift/report.html").read_text(encoding="utf-8")
    assert compute(*words, "--noise", "none", "--out", tmp_path / "none") == 0
    none = result_in(tmp_path / "none").curve
    assert all(point.high_ms - point.low_ms < 1e-9 * point.median_ms for point in none.points)
    assert abs(none.steadiness.drift_percent) < 1e-6


def test_clocks_that_can_not_be_locked_are_said_or_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*DEIT, "--grid-stride", "60", "--device", "sim:jetson_tx2", "--noise", "permission_denied"]
    assert compute(*words, "--out", tmp_path / "run") == 0
    assert result_in(tmp_path / "run").environment.details["clocks"]["state"] == "not locked"
    assert "no permission to lock" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    capsys.readouterr()
    assert compute(*words, "--require-locked", "--out", tmp_path / "refused") == USAGE_ERROR
    assert "--require-locked: the clocks are not locked" in error_in(capsys)
    assert not (tmp_path / "refused" / "plan.json").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "sim:jetson_tx3"], "unknown device profile 'jetson_tx3'; known: jetson_tx2"),
        (["--device", "sim:jetson_tx2", "--power-mode", "15W"], "--power-mode 15W: Jetson TX2 has MAXN, MAXQ"),
        (["--device", "sim:jetson_tx2", "--engine", "openvino"], "simulated with --engine torch or trt, not openvino"),
        (["--device", "sim:jetson_tx2", "--precision", "bf16"], "jetson_tx2 computes no bf16 natively"),
        (["--device", "sim:jetson_tx2", "--noise", "loud"], "--noise loud: unknown part 'loud'; known: white"),
        (["--device", "sim:jetson_tx2", "--gpu-clock", "900"], "--gpu-clock is for this machine alone"),
        (["--device", "sim:jetson_tx2", "--cuda-graphs"], "--cuda-graphs is torch's"),
        (["--device", "sim:jetson_tx2", "--ssh-config", "x"], "--ssh-config is a board's"),
        (["--device", "cpu", "--noise", "none"], "--noise is a simulated device's"),
        (["--device", "recorded:h100"], "unknown recording 'h100'; known: h200"),
        (["--device", "recorded:h200"], "recorded:h200 has no demo, batch 1, fp32; it has deit_small"),
        (
            ["--device", "recorded:h200", "--method", "all"],
            "--method all needs a curve of each, and a recording has one",
        ),
        (["--device", "sim:jetson_tx2", "--engine", "torch,trt"], "is measured on one engine; give one --engine"),
        (["--device", "ssh://nobody", "--engine", "trt,torch"], "is measured on one engine; give one --engine"),
        (["--device", "recorded:h200", "--engine", "all"], "is measured on one engine; give one --engine"),
        (["--engine", "torch,foo"], "unknown engine 'foo'; known: "),
        (["--engine", "torch,torch"], "--engine torch,torch: torch is given twice; leave one out"),
        (["--method", "pomt,tome,pomt"], "--method pomt,tome,pomt: pomt is given twice"),
        (["--method", "pomt,"], "--method pomt,: a name is missing"),
        (["--method", "tome,tomato"], "unknown method 'tomato'; known: "),
        (["--method", "tome,pomt:score=best"], "method pomt: score='best'; expected one of"),
        (["--engine", "torch,openvino", "--provider", "cpu"], "--provider is ONNX Runtime's"),
        (["--engine", "trt,trt-rtx", "--device", "cpu"], "--engine trt,trt-rtx: none of them can be used here: trt: "),
        (["--device", "recorded:h200", "--power-mode", "MAXN"], "--power-mode can't be changed in a recording"),
        (["--device", "ssh://a:secret@b"], "is no address of a board; expected ssh://USER@HOST"),
        (["--device", "ssh://nobody", "--engine", "torch"], "is measured with --engine trt, by its own trtexec"),
        (["--device", "ssh:nobody"], "--device ssh:nobody: expected cpu, cuda"),
    ],
)
def test_what_is_not_there_is_one_line(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, tmp_path / "out", *words)


# Recorded


def test_a_recording_replays_a_real_staircase(tmp_path: Path) -> None:
    assert compute(*DEIT, "--device", "recorded:h200", "--search", "full", "--out", tmp_path) == 0
    assert {192, 160, 128, 64} <= set(steps(tmp_path))
    result = result_in(tmp_path)
    assert result.plan.origin == result.environment.origin == "recorded"
    assert {row["origin"] for row in rows(tmp_path)} == {"recorded"}
    # There the tokens were dropped at the input, and no method of ours took part.
    assert result.plan.probe == "input" and "not what pruning in block 3 gives" in page_of(tmp_path)
    assert "recorded on NVIDIA H200" in page_of(tmp_path)


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_recording_of_another_precision_is_another_curve(tmp_path: Path) -> None:
    words = [*DEIT, "--device", "recorded:h200", "--grid-stride", "20"]
    for precision in ("fp32", "fp16"):
        assert compute(*words, "--precision", precision, "--out", tmp_path / precision) == 0
    assert curve_of(tmp_path / "fp16")[197] == pytest.approx(0.5635, rel=0.01)
    assert curve_of(tmp_path / "fp32")[197] == pytest.approx(1.0502, rel=0.01)


def test_what_a_recording_has_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--device", "recorded:h200", *DEIT]
    told = refused(capsys, tmp_path / "out", *there, "--bs", "3")
    known = "batch 4, fp16; deit_small_patch16_224, batch 4, fp32 (TF32);"
    assert f"batch 3, fp32; it has deit_small_patch16_224, {known}" in told
    assert "was recorded with --engine torch" in refused(capsys, tmp_path / "out", *there, "--engine", "trt")
    assert compute(*there, "--require-locked", "--out", tmp_path / "out") == USAGE_ERROR
    assert "not known to have been locked" in error_in(capsys)


@pytest.fixture
def own_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recording of few counts, of a run with a method and a block of its own, as if it had been measured."""
    from pomt_edge.targets import recorded

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    words = ["--method", "topk", "--block", "5", "--grid-stride", "16", "--device", "sim:a100"]
    assert compute(*DEIT, *words, "--out", tmp_path / "first") == 0
    result = tmp_path / "first" / "result.json"
    result.write_text(result.read_text().replace('"origin": "simulated"', '"origin": "measured"'))
    recorded.record(tmp_path / "first", "own")
    return "recorded:own"


def test_a_recording_of_few_counts_is_the_grid_and_tells_how_it_was_made(
    own_recording: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert compute(*DEIT, "--device", own_recording, "--out", tmp_path / "replayed") == 0
    assert "the grid is what was recorded: deit_small_patch16_224, batch 4, fp32" in capsys.readouterr().err
    first, replayed = curve_of(tmp_path / "first"), curve_of(tmp_path / "replayed")
    assert replayed == pytest.approx(first, rel=0.005)
    plan = Plan.load(tmp_path / "replayed" / "plan.json")
    assert (plan.method, plan.block, plan.probe, plan.origin) == ("topk", 5, "block", "recorded")
    for words, told in (
        (["--grid-stride", "5"], "has not all counts of the grid: deit_small_patch16_224, batch 4, fp32 was recorded"),
        (["--method", "tome"], "--method tome: --device recorded:own was recorded with --method topk"),
    ):
        assert told in refused(capsys, tmp_path / "out", *DEIT, "--device", own_recording, *words)


# Runs beside each other


def test_a_simulated_run_is_not_compared_with_a_measured_one(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [*COARSE, "--no-lock", "--point-seconds", "0.05", "--max-drop", "60"]
    assert compute("--device", "cpu", *quick, "--out", tmp_path / "measured") == 0
    capsys.readouterr()
    assert cli.run_any(["compare", str(tmp_path / "measured"), str(simulated)]) == 1
    told = capsys.readouterr().out
    assert "INCOMPARABLE" in told and "origin" in told


def test_a_simulated_plan_is_deployed_and_promises_nothing(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    words = ["--engine", "onnxruntime", "--device", "cpu", "--no-lock", "--point-seconds", "0.05", "--images", "8"]
    code = cli.run_deploy(["--plan", str(simulated), *words, *TAME, "--out", str(tmp_path / "deployed")])
    assert code == 0
    deployment = json.loads((tmp_path / "deployed" / "deployment.json").read_text(encoding="utf-8"))
    assert deployment["promise"] == "none" and "no promise to hold" in deployment["because"]
    assert "The plan's latencies are simulated (sim:jetson_orin_nano), not measured." in deployment["notes"]
    capsys.readouterr()
    assert cli.run_deploy(["--plan", str(simulated), "--device", "sim:jetson_tx2"]) == USAGE_ERROR
    assert "sim:jetson_tx2" in error_in(capsys)


# Boards over SSH

FEW = ["--grid-stride", "85", "--grid-stop", "27", "--images", "32", *TAME]
"""Three counts: each is exported and goes over the wire."""

over_ssh = pytest.mark.skipif(bool(ssh_boards.MISSING), reason=ssh_boards.MISSING)
Serve = Callable[..., SshBoard]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A fake board on which / is its own folder."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    served = []

    def begin(kind: str = "agx_orin_64g", **environment: str) -> SshBoard:
        served.append(ssh_boards.serve(kind, tmp_path / "there", **environment))
        (tmp_path / "there").mkdir()
        board = served[-1].__enter__()
        here = {"/": str(board.board.root), agent.FOLDER: str(board.folder)}
        start = tmp_path / "there" / "start"
        start.write_text(
            f"#!{boards.PYTHON} -S\nimport os, shlex\n"
            f"words = [{here!r}.get(word, word) for word in shlex.split(os.environ['SSH_ORIGINAL_COMMAND'])]\n"
            f"os.environ['PATH'] = {f'{board.board.bin}:/usr/bin:/bin'!r}\n"
            f"os.execv({str(boards.PYTHON)!r}, words)\n",
            encoding="utf-8",
        )
        start.chmod(0o755)
        key = board.config.parent / "user.pub"  # who comes with it gets this, whatever he asks for
        key.write_text(f'command="{start}" {key.read_text(encoding="utf-8")}', encoding="utf-8")
        return board

    yield begin
    for one in served:
        one.__exit__(None, None, None)


def to(board: SshBoard) -> list[str]:
    return ["--device", board.address, "--ssh-config", str(board.config)]


def of_fake(tokens: int) -> float:
    """The milliseconds of the fake trtexec's forward."""
    return 1 + 1.28 * math.ceil(tokens / 64)


@over_ssh
def test_a_board_is_measured_from_end_to_end(serve: Serve, tmp_path: Path) -> None:
    """An Orin; a TX2's older TensorRT is tried over the same connection without the whole job."""
    board = serve("agx_orin_64g")
    before = board.board.snapshot()
    out = tmp_path / "run"
    assert compute(*to(board), *FEW, "--max-drop", "60", "--out", out) == 0
    plan, result = Plan.load(out / "plan.json"), result_in(out)
    assert (plan.engine, plan.device, plan.origin) == ("trt", board.address, "measured")
    assert curve_of(out) == pytest.approx({tokens: of_fake(tokens) for tokens in curve_of(out)}, rel=0.02)
    assert set(curve_of(out)) == {197, 112, 27}
    environment = result.environment
    assert "Jetson AGX Orin" in environment.device_name and environment.versions["tensorrt"].startswith("10.3")
    board_python = subprocess.run([str(boards.PYTHON), "--version"], capture_output=True, text=True, check=True)
    assert board_python.stdout == f"Python {environment.python}\n" and environment.details["sm_count"] == 16
    assert environment.details["power_mode"] == "MAXN" and environment.details["timer"] == "trtexec computeMs"
    assert environment.details["clocks"]["state"] == "locked" and environment.origin == "measured"
    assert "over-current (oc1)" in result.curve.steadiness.counters
    assert result.accuracy is not None and result.accuracy.points[0].images == 32
    assert board.board.snapshot() == before and before["power mode"] != "MAXN"
    assert sorted(path.name for path in board.folder.iterdir()) == ["agent.lock", "board.py"]  # it is finished
    until(lambda: not board.agents())


@over_ssh
def test_a_count_that_does_not_build_is_a_failed_row_and_the_others_go_on(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = serve(FAKE_TRT_CRASH="tokens_112")
    out = tmp_path / "run"
    assert compute(*to(board), *FEW, "--max-drop", "60", "--out", out) == 0
    told = capsys.readouterr()
    assert "112 tokens: the build failed: trtexec crashed with signal 11" in told.err
    result = result_in(out)
    assert set(curve_of(out)) == {197, 27}
    assert any(note.startswith("112 tokens could not be measured") and "signal 11" in note for note in result.notes)
    assert "112 tokens could not be measured" in told.out and "112 tokens could not be measured" in page_of(out)
    blocks = calls(out)
    assert compute(*to(board), *FEW, "--max-drop", "60", "--out", out) == 0
    assert calls(out) == blocks and result_in(out).notes == result.notes


@over_ssh
def test_a_board_that_can_not_run_the_unreduced_model_is_refused(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = serve(FAKE_TRT_OUT_OF_MEMORY="tokens_197")
    before = board.board.snapshot()
    assert compute(*to(board), *FEW, "--out", tmp_path / "run") == USAGE_ERROR
    assert "197 tokens: the build failed: out of memory" in error_in(capsys)
    assert board.board.snapshot() == before
    (board.board.bin / "trtexec").unlink()
    assert compute(*to(board), *FEW, "--out", tmp_path / "other") == USAGE_ERROR
    assert "trtexec" in error_in(capsys)
    until(lambda: not board.agents())


@over_ssh
def test_a_host_key_that_is_not_known_is_refused(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = serve()
    board.known_host("")
    told = refused(capsys, tmp_path / "run", *to(board), *FEW)
    assert "its host key is not known here; type once: ssh -p" in told
    assert not board.folder.exists()


@over_ssh
def test_an_interrupted_sweep_puts_the_clocks_back_and_goes_on(serve: Serve, tmp_path: Path) -> None:
    """What a lost connection does is tried on the target itself."""
    board = serve()
    before = board.board.snapshot()
    out = tmp_path / "run"
    words = [*to(board), *FEW, "--max-drop", "60", "--out", str(out)]
    code = f"import sys; from pomt_edge.cli import run; sys.exit(run({words!r}))"
    with open(tmp_path / "said", "wb") as said:
        running = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=said, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (out / "measurements.jsonl").exists() or len(calls(out)) < 5:
            assert running.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text()
            time.sleep(0.02)
        measured = calls(out)
        assert board.board.pinned
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == INTERRUPTED
        assert f"--out {shlex.quote(str(out))} to go on" in (tmp_path / "said").read_text(encoding="utf-8")
        assert board.board.snapshot() == before and not (out / "plan.json").exists()
        measured = calls(out)
        assert list((board.folder / "engines").glob("*.engine"))  # they need not be built again
        assert compute(*words) == 0
    assert calls(out)[: len(measured)] == measured
    assert curve_of(out) == pytest.approx({tokens: of_fake(tokens) for tokens in curve_of(out)}, rel=0.02)
    assert board.board.snapshot() == before
