"""Several methods on several engines, compared: real engines on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from quick import TAME

from pomt_edge import cli, fleet
from pomt_edge.records import Contest, Plan
from pomt_edge.request import Request
from pomt_edge.targets.local import LocalTarget

pytestmark = pytest.mark.usefixtures("threads_as_before")

SMALL = [*TAME, "--device", "cpu", "--images", "16", "--grid-stride", "100", "--grid-stop", "97", "--max-drop", "90"]
SMALL += ["--point-seconds", "0.01", "--engine", "torch,onnxruntime,trt", "--method", "l2_norm"]
NAMES = {"torch-l2_norm", "onnxruntime-l2_norm"}


def measured(folder: Path) -> dict[str, int]:
    """Blocks in each journal below a folder."""
    return {file.parent.name: file.read_text().count('"ms"') for file in folder.glob("*/measurements.jsonl")}


def test_each_engine_has_its_runs_and_the_best_are_measured_in_turn_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    timed = LocalTarget.time_ms

    def interrupting(self: LocalTarget, tokens: int, count: int) -> list[float]:
        if sum(blocks for name, blocks in measured(out).items() if name.startswith("finals")) == 9:
            raise KeyboardInterrupt  # as Ctrl-C would, in the midst of the finals
        return timed(self, tokens, count)

    with monkeypatch.context() as patch:
        patch.setattr(LocalTarget, "time_ms", interrupting)
        assert cli.run([*SMALL, "--out", str(out)]) == 130
    assert f"give the same options and --out {out} to go on" in capsys.readouterr().err
    (finals,) = {name for name in measured(out) if name not in NAMES}
    before = (out / finals / "measurements.jsonl").read_text()
    runs = {name: blocks for name, blocks in measured(out).items() if name in NAMES}

    assert cli.run([*SMALL, "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    contest = Contest.load(out / "methods.json")
    assert {f"{result.plan.engine}-{result.plan.method}" for result in contest.results} == NAMES == set(runs)
    assert all((out / name / "report.html").exists() for name in NAMES)
    (left_out,) = contest.unfit
    assert left_out.startswith("trt: ") and f"Left out: {left_out}" in printed.err
    whole = {(final.engine, final.latency.tokens) for final in contest.finals if final.method is None}
    assert whole == {("torch", 197), ("onnxruntime", 197)}
    fastest = min(contest.finals, key=lambda final: final.latency.median_ms)
    plan = Plan.load(out)
    assert (plan.engine, contest.best, contest.engine) == (fastest.engine, fastest.method, fastest.engine)
    assert Plan.from_dict(json.loads(printed.out)) == plan
    assert fleet._read(out)[0].plan == plan

    # What was measured is not measured again.
    after = (out / finals / "measurements.jsonl").read_text()
    assert after.startswith(before) and after.count('"ms"') > before.count('"ms"')
    assert {name: blocks for name, blocks in measured(out).items() if name in NAMES} == runs


def test_an_option_of_one_engine_goes_to_that_one_and_a_methods_own_stay_with_it() -> None:
    request = Request(
        engine="torch,onnxruntime", method="tome,pitome:margin=0.9,mode=deit,pomt", compile=True, provider="cpu"
    )
    request.check()
    assert request.method_names == ("tome", "pitome:margin=0.9,mode=deit", "pomt")
    compiled = [request.contender("pomt", engine).compile for engine in request.engine_names]
    providers = [request.contender("pomt", engine).provider for engine in request.engine_names]
    assert compiled == [True, False] and providers == [None, "cpu"]
    assert request.stride == 16 and Request(method="tome").stride == 1
    assert Request(engine="all").engine_names[0] == "torch" and Request(engine="all").is_contest


def test_the_folder_of_one_run_is_not_taken_for_a_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "measurements.jsonl").write_text("")
    assert cli.run([*SMALL, "--out", str(tmp_path)]) == 2
    assert "holds a run of one method" in capsys.readouterr().err
