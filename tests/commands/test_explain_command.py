"""`pomt-edge explain` as a user types it: folders, files, what is beside a plan and what is none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import samples

from pomt_edge import cli
from pomt_edge.records import Contest, Fleet, Result


def explain(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    capsys.readouterr()
    code = cli.run_any(["explain", *map(str, words)])
    return code, *capsys.readouterr()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The records of a run's folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    save(samples.staircase(), folder)
    return folder


def save(result: Result, folder: Path) -> None:
    result.save(folder / "result.json")
    result.plan.save(folder / "plan.json")


def test_a_folder_its_plan_and_its_result_are_explained_alike(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = explain(capsys, run)
    assert code == 0 and not err and len(out.splitlines()) == 10
    assert out.startswith("Of: deit_small_patch16_224, batch 4, NVIDIA H200")
    for file in ("plan.json", "result.json"):
        assert explain(capsys, run / file) == (0, out, "")


def test_json_has_the_same_facts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = explain(capsys, run)[1]
    found = json.loads(explain(capsys, run, "--json")[1])
    assert "".join(f"{line['label']}: {line['text']}\n" for line in found["lines"]) == text
    assert found["plan"] == json.loads((run / "plan.json").read_text())
    assert found["why"]["tokens"] == 128 and found["why"]["step_above"]["after"] == 128
    assert (found["clocks"], found["missing"]) == ("not locked", None)


def test_a_plan_alone_or_beside_another_plans_result_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(samples.few(), run)
    samples.staircase().plan.save(run / "plan.json")
    code, out, _ = explain(capsys, run)
    assert code == 0 and "Not more" not in out
    assert out.splitlines()[-1].endswith(f"{run / 'result.json'} is of another plan.")
    (run / "result.json").write_text("{")
    assert "the file beside the plan is damaged" in explain(capsys, run)[1]
    (run / "result.json").unlink()
    assert "there is none beside" in explain(capsys, run / "plan.json")[1]
    found = json.loads(explain(capsys, run, "--json")[1])
    assert found["why"] is None and "there is none beside" in found["missing"]


def test_of_a_comparison_of_methods_the_best_ones_plan_is_explained(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = samples.staircase()
    best = dataclasses.replace(best, plan=dataclasses.replace(best.plan, method="tome"))
    contest = Contest((samples.staircase(), best), "tome", "it is the fastest")
    (run / "result.json").unlink()
    contest.save(run / "methods.json")
    contest.plan.save(run / "plan.json")
    code, out, _ = explain(capsys, run)
    assert code == 0 and "tome in block 3" in out and "Not more: " in out
    assert explain(capsys, run / "methods.json")[1] == out


def test_of_a_comparison_that_takes_nothing_the_reason_is_the_comparisons(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though a method's own run would prune."""
    contest = Contest((samples.staircase(),), None, "the unreduced model on torch is as fast", engine="torch")
    (run / "result.json").unlink()
    contest.save(run / "methods.json")
    contest.plan.save(run / "plan.json")
    code, out, _ = explain(capsys, run)
    assert code == 0 and "Decision: Do not prune: the unreduced model on torch is as fast." in out
    assert "nothing removed; the figures are of pomt in block 3" in out
    assert "Missing" not in out and "Not more" not in out and "Fewer: " in out and "Measured: " in out
    assert explain(capsys, run / "methods.json")[1] == out


def test_what_is_no_run_and_no_plan_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {
        "damaged.json": "{",
        "list.json": "[]",
        "other.json": '{"a": 1}',
        "deployment.json": '{"plan": {}, "parities": []}',
        "half.json": '{"schedule": [1], "model": "m"}',
        "nan.json": '{"curve": NaN}',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    Fleet(()).save(tmp_path / "fleet.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "measurements.jsonl").write_text("{}\n")
    for name, said in {
        "absent": "No such file",
        ".": "no plan.json in this folder",
        "begun": "the run is not finished: give the same options and --out",
        "damaged.json": "not JSON",
        "binary.json": "not JSON",
        "list.json": "no JSON object",
        "other.json": "no plan in it",
        "deployment.json": "is of a deployment",
        "fleet.json": "is of a fleet",
        "half.json": "the field 'method' is missing",
        "nan.json": "NaN is no number",
    }.items():
        code, out, err = explain(capsys, tmp_path / name)
        assert code == 2 and not out and len(err.splitlines()) == 1, name
        assert err.startswith(f"error: {tmp_path / name}") and said in err, err
        assert name == "begun" or "expected a plan.json" in err
