"""`pomt-edge compare` as a user, or a user's CI, types it."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import samples
import simulated_runs
from simulated_runs import LOCKED, made, of_curve, two_cliffs

from pomt_edge.cli import run_any
from pomt_edge.records import LatencyCurve, Result
from pomt_edge.report import files

GOLDEN = Path(__file__).parents[1] / "golden" / "h200_curves.json"


def folder(path: Path, result: Result) -> Path:
    """A finished run's folder."""
    path.mkdir(parents=True)
    files.write(result, path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    folder(root / "before", simulated_runs.run(1))
    folder(root / "again", simulated_runs.run(2))
    folder(root / "slow", simulated_runs.run(3, lambda n: two_cliffs(n) * (1.1 if n in (150, 128) else 1.0)))
    folder(root / "restless", simulated_runs.run(4, noise=0.05))
    fp16 = simulated_runs.run(5)
    plan = dataclasses.replace(fp16.plan, precision="fp16")
    environment = dataclasses.replace(fp16.environment, precision="fp16")
    folder(root / "fp16", dataclasses.replace(fp16, plan=plan, environment=environment))
    return root


def compare(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = run_any(["compare", *map(str, words)])
    return code, *capsys.readouterr()


def test_two_runs_of_one_machine_pass(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = compare(capsys, runs / "before", runs / "again" / "result.json")
    assert code == 0 and not err
    assert "A: before" in out and "B: again" in out
    assert re.search(r"197 \(all\) +[\d.]+ ms +[\d.]+ ms +[+-][\d.]+ % \([+-][\d.]+ to [+-][\d.]+\) +SAME", out)
    assert re.search(r"128 chosen +1\.\d\dx +1\.\d\dx ", out)
    assert "relative to each run's own unreduced model" in out and "Both chose R=69." in out
    assert out.rstrip().splitlines()[-1].startswith("SAME: ")
    assert "\x1b" not in out and max(map(len, re.findall(r"^ \d+ .*", out, re.MULTILINE))) <= 80


def test_a_regression_fails_and_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = compare(capsys, runs / "before", runs / "slow")
    assert code == 1
    assert out.rstrip().splitlines()[-1].startswith("SLOWER: 2 of 89 counts surely more than 5 % slower: 150, 128")
    assert re.search(r"^ 150 .*SLOWER >5 %", out, re.MULTILINE)
    assert not re.search(r"^ 100 ", out, re.MULTILINE) and "--all shows them" in out
    assert re.search(r"^ 100 ", compare(capsys, runs / "before", runs / "slow", "--all")[1], re.MULTILINE)
    assert compare(capsys, runs / "before", runs / "slow", "--tolerance", "15")[0] == 0
    assert compare(capsys, runs / "slow", runs / "before")[0] == 0


def test_what_cannot_be_told_does_not_fail_and_says_what_would_help(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = compare(capsys, runs / "before", runs / "restless")
    assert code == 0 and "\nAMBIGUOUS: " in out and "--point-seconds" in out


def test_plans_of_several_blocks_are_named_and_their_speedups_said_though_counts_alone_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = samples.several_blocks()
    single = dataclasses.replace(samples.staircase(), plan=searched.on_curve)
    slower = dataclasses.replace(searched, plan=dataclasses.replace(searched.plan, speedup=1.2, speedup_low=1.19))
    folder(tmp_path / "single", single)
    folder(tmp_path / "searched", searched)
    folder(tmp_path / "slower", slower)
    _, out, _ = compare(capsys, tmp_path / "single", tmp_path / "searched")
    assert "A chose R=69 (0,0,0,69,0,0,0,0,0,0,0,0), B R=100 (0,0,0,40,0,0,40,0,0,20,0,0)." in out
    assert "are those of block 3 alone, but searched's plan is a schedule of several blocks" in out
    assert "searched's plan 2.00x (1.95 to 2.05)" in out and "single's plan 1." in out
    _, out, _ = compare(capsys, tmp_path / "searched", tmp_path / "slower", "--markdown")
    assert "Both chose R=100." in out and "both plans are schedules of several blocks" in out
    assert "searched's plan 2.00x (1.95 to 2.05), slower's plan 1.20x (1.19 to 2.05)" in out


def test_what_was_not_measured_is_said_of_each_side(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, origin in (("before", "simulated"), ("again", "recorded"), ("fp16", "simulated")):
        result = Result.load(runs / name / "result.json")
        here = dataclasses.replace(result.environment, origin=origin)
        folder(tmp_path / name, dataclasses.replace(result, environment=here))
    _, out, _ = compare(capsys, tmp_path / "before", tmp_path / "again", "--force")
    assert "before is simulated: no device was measured." in out and "again was replayed from a recording." in out
    code, out, _ = compare(capsys, tmp_path / "before", tmp_path / "fp16", "--json")
    found = json.loads(out)
    assert code == 1 and (found["a_origin"], found["b_origin"]) == ("simulated", "simulated")
    assert found["verdict"] == "INCOMPARABLE" and "before is simulated: no device was measured." in found["notes"]
    assert "imulated" not in compare(capsys, runs / "before", runs / "again")[1]


def test_incomparable_runs_fail_with_the_field_unless_forced(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = compare(capsys, runs / "before", runs / "fp16")
    assert code == 1 and "INCOMPARABLE: precision is fp32 in A, fp16 in B." in out and "--force" in out
    assert "speedup" not in out and " ms " not in out
    code, out, _ = compare(capsys, runs / "before", runs / "fp16", "--force")
    assert code == 0 and "Compared by force: precision fp32 in A, fp16 in B." in out and "\nSAME: " in out


def test_json_is_one_object_with_everything(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = compare(capsys, runs / "before", runs / "slow", "--json")
    found = json.loads(out)
    assert code == 1 and not err and (found["a"], found["b"], found["verdict"]) == ("before", "slow", "SLOWER")
    assert found["tolerance_percent"] == 5 and found["scale"] == "relative" and found["schema"] == 1
    assert sum(found["counts"].values()) == len(found["points"]) == 89
    assert [point["tokens"] for point in found["points"] if point["beyond"]] == [150, 128]
    assert found["level"]["tokens"] == 197 and found["level"]["low"] < found["level"]["high"]
    assert found["plans"] == {
        "a_verdict": "prune",
        "b_verdict": "prune",
        "a_removed": 69,
        "b_removed": 69,
        "agreement": "same",
        "a_schedule": [0, 0, 0, 69, 0, 0, 0, 0, 0, 0, 0, 0],
        "b_schedule": [0, 0, 0, 69, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    code, out, _ = compare(capsys, runs / "before", runs / "fp16", "--json")
    found = json.loads(out)
    assert code == 1 and found["verdict"] == "INCOMPARABLE" and found["points"] == []
    assert found["incomparable"] == [{"field": "precision", "a": "fp32", "b": "fp16"}]


def test_markdown_is_a_table_that_names_cannot_break(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = folder(tmp_path / "a|b", Result.load(runs / "slow" / "result.json"))
    code, out, _ = compare(capsys, runs / "before", hostile, "--markdown")
    assert code == 1 and out.startswith("**SLOWER**: 2 of 89 counts")
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert table[:2] == ["| tokens | A | B | difference (95 %) | verdict |", "| --- | ---: | ---: | ---: | --- |"]
    assert len(table) > 4 and all(line.count("|") == 6 and line.endswith("|") for line in table)
    assert any(line.startswith("| 150 |") and line.endswith(r"SLOWER >5 % |") for line in table)
    assert "\x1b" not in out


def test_milliseconds_where_both_had_locked_clocks_or_by_wish(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = [folder(tmp_path / name, simulated_runs.run(seed, details=LOCKED)) for seed, name in enumerate("xy")]
    assert "compared in milliseconds" in compare(capsys, *locked)[1]
    assert "relative to" in compare(capsys, *locked, "--relative")[1]
    out = compare(capsys, runs / "before", runs / "again", "--absolute")[1]
    assert "compared in milliseconds" in out and re.search(r"128 chosen +\d\.\d+ ms ", out)


def h200(factor: float = 1.0) -> Result:
    """The recorded curve of DeiT-S, batch 4, float32, as a run measured it again."""
    curve = json.loads(GOLDEN.read_text())["curves"][1]
    rows = [
        (tokens, ms * factor, ms * factor * 0.995, ms * factor * 1.005)
        for tokens, ms in zip(curve["tokens"], curve["median_ms"], strict=True)
    ]
    return of_curve(made(rows, anchor=(rows[0][1],) * 40))


def test_a_run_is_compared_with_a_recorded_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = compare(capsys, GOLDEN, folder(tmp_path / "as_then", h200()))
    assert code == 0 and "\nSAME: 195 of 195" in out
    assert "h200_curves has no intervals of its own" in out and "CUDA graph of the whole forward" in out
    assert "Unknown in A: probe, method, block" in out
    slower = folder(tmp_path / "slower", h200(1.2))
    assert compare(capsys, GOLDEN, slower)[0] == 0, (
        "the same staircase, and nobody knows of the clocks: AMBIGUOUS is no regression"
    )
    code, out, _ = compare(capsys, GOLDEN, slower, "--absolute")
    assert code == 1 and "the unreduced model is surely more than 5 % slower, +20.0 %" in out


def test_of_a_profile_of_another_batch_the_batch_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = h200()
    other = dataclasses.replace(result, environment=dataclasses.replace(result.environment, batch_size=2))
    code, out, _ = compare(capsys, GOLDEN, folder(tmp_path / "two", other))
    assert code == 1 and "INCOMPARABLE: batch size is 4 in A, 2 in B." in out


def test_a_csv_with_and_without_intervals(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = compare(capsys, runs / "again", runs / "before" / "curve.csv")
    assert code == 0 and "B: before" in out and "\nSAME: " in out and "no intervals" not in out
    bare = tmp_path / "bare.csv"
    rows = [line.split(",")[:2] for line in (runs / "before" / "curve.csv").read_text().splitlines()]
    bare.write_text("\n".join(map(",".join, rows)))
    code, out, _ = compare(capsys, runs / "again", bare)
    assert code == 0 and "bare has no intervals of its own" in out


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [folder(tmp_path / day / "out", simulated_runs.run(1)) for day in ("monday", "tuesday")]
    out = compare(capsys, *paths)[1]
    assert f"A: {paths[0]}" in out and f"B: {paths[1]}" in out


def unfinished(path: Path) -> Path:
    (path / "cut").mkdir()
    (path / "cut" / "measurements.jsonl").write_text("{}\n")
    return path / "cut"


def written(path: Path, name: str, text: str) -> Path:
    (path / name).write_text(text)
    return path / name


BAD_CURVES: list[tuple[str, str, str]] = [
    ("x.json", "{", "not JSON"),
    ("x.json", "[]", "expected an object"),
    ("x.json", '{"plan": 1}', "expected"),
    ("x.json", '{"curves": []}', "'curves' is not a list of curves"),
    ("x.json", '{"curves": [{"tokens": [1]}]}', "the field 'median_ms' is missing"),
    ("x.json", '{"curves": [{"tokens": [2, 1], "median_ms": [1]}]}', "2 tokens and 1 median_ms"),
    ("x.json", '{"curves": [{"tokens": [2, 1], "median_ms": [1, NaN]}]}', "1 tokens"),
    ("x.json", '{"curves": [{"tokens": [2, 2], "median_ms": [1, 1]}]}', "listed twice"),
    ("x.csv", "a,b\n1,2\n", "the columns tokens and median_ms are missing"),
    ("x.csv", "tokens,median_ms\n", "no points"),
    ("x.csv", "tokens,median_ms\n197,fast\n", "fast"),
    ("x.csv", "tokens,median_ms\n197\n", "row 2 is cut short"),
    ("x.csv", "tokens,median_ms,low_ms,high_ms\n197,10,11,12\n", "197 tokens"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD_CURVES)
def test_a_file_that_is_no_curve_is_one_clear_line(
    name: str, text: str, message: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, name, text)
    code, out, err = compare(capsys, runs / "before", file)
    assert code == 2 and not out and err.count("\n") == 1
    assert err.startswith(f"error: {file}: ") and message in err and "expected the folder of a finished run" in err


def test_other_bad_input_is_one_clear_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, cut = runs / "before", unfinished(tmp_path)
    elsewhere = folder(tmp_path / "odd", simulated_runs.run(1, counts=(197, 129)))
    cases: list[tuple[list[Any], str]] = [
        ([before, tmp_path / "absent"], "No such file"),
        ([before, cut], f"the run is not finished: give the same options and --out {cut} to finish it"),
        ([tmp_path, before], "no result.json in this folder"),
        ([before, before / "plan.json"], "the field 'plan' is missing"),
        ([before, elsewhere], "no reduced count in common"),
        ([GOLDEN, GOLDEN], "holds 6 curves: compare it with a run"),
        ([before / "curve.csv", GOLDEN], "holds 6 curves: compare it with a run"),
        ([before, before, "--tolerance", "0"], "--tolerance 0: expected percent above 0"),
        ([before, before, "--tolerance", "nan"], "--tolerance nan: expected percent above 0"),
        ([before, before, "--relative", "--absolute"], "give one of them"),
        ([before, before, "--json", "--markdown"], "give one of them"),
        ([before, ""], "the path is empty"),
        ([before], "B"),
    ]
    for words, message in cases:
        code, out, err = compare(capsys, *words)
        assert code == 2 and not out and err.count("\n") == 1, (words, err)
        assert message in err


def test_anchors_that_are_no_latencies_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = simulated_runs.run(1, counts=(197, 128))
    curve = LatencyCurve(result.curve.points, "block", (1.0, 0.0))
    path = folder(tmp_path / "run", dataclasses.replace(result, curve=curve))
    code, _, err = compare(capsys, path, path)
    assert code == 2 and "anchor_ms" in err


def test_colour_on_a_terminal_alone(runs: Path) -> None:
    main, other = pty.openpty()
    words = ["compare", str(runs / "before"), str(runs / "slow")]
    code = f"import sys; from pomt_edge.cli import run_any; sys.exit(run_any({words!r}))"
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=other, stderr=other, env=environment | {"TERM": "xterm-256color"}
    )
    os.close(other)
    shown = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # what Linux says when the other end has closed
            break
        if not part:
            break
        shown += part
    os.close(main)
    assert process.wait() == 1
    assert b"\x1b[31mSLOWER" in shown and b"\x1b[1;31mSLOWER" in shown
