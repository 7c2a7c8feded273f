"""`pomt-edge check` as a user's CI types it, on simulated and recorded devices."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pomt_edge import cli
from pomt_edge.choose import standing
from pomt_edge.records import LatencyCurve, LatencyPoint, Plan
from pomt_edge.targets import recordings

ROOT = Path(__file__).parents[2]
TX2 = "sim:jetson_tx2"


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, as the main job leaves it."""
    out = tmp_path_factory.mktemp("run") / "out"
    words = ["--model", "deit_tiny", "--bs", "4", "--device", TX2, "--grid-start", "150", "--grid-stop", "136"]
    assert cli.run([*words, "--out", str(out)]) == 0
    return out


def check(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    capsys.readouterr()
    code = cli.run_any(["check", *map(str, words)])
    return code, *capsys.readouterr()


def changed(plan: Path, to: Path, **changes: Any) -> Path:
    dataclasses.replace(Plan.load(plan), **changes).save(to)
    return to


def moved_to(plan: Path, to: Path, tokens: int) -> Path:
    removed = 197 - tokens
    removals = tuple(removed if removing else 0 for removing in Plan.load(plan).schedule)
    return changed(plan, to, tokens_out=tokens, removed=removed, schedule=removals)


def test_an_unchanged_model_holds_and_is_marked_simulated(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = check(capsys, "--plan", plan / "plan.json", "--profile", TX2, "--tolerance", 1)
    own = Plan.load(plan)
    assert code == 0 and not err
    first, second = out.splitlines()
    assert first.startswith(
        f"HOLDS on {TX2} (simulated; deit_tiny_patch16_224, batch 4, trt fp32, MAXN): {own.tokens_out} "
    )
    assert re.search(rf"on the tread {own.tokens_out} to \d+; .* ms, .*x the speed of all 197 \(promised: ", first)
    assert second.startswith("Simulated: no device was measured") and "steps" in second
    assert check(capsys, "--plan", plan, "--device", TX2)[:2] == (code, out)


def test_a_wider_model_with_the_same_steps_holds(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(capsys, "--plan", plan, "--profile", TX2, "--model", "deit_small", "--json")
    found = json.loads(out)
    assert code == 0 and found["holds"] and found["instead"] is None and "new_plan" not in found
    assert (found["model"], found["plan_model"]) == ("deit_small_patch16_224", "deit_tiny_patch16_224")
    assert found["origin"] == "simulated" and found["tread"][0] == found["tokens"] == found["tread_before"][0]
    assert found["speedup"] == pytest.approx(found["baseline_ms"] / found["ms"])


def test_a_plan_is_checked_in_its_own_power_mode_and_promises_nothing_for_another(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Plan.load(plan).power_mode == "MAXN" and "in MAXN" in (plan / "report.html").read_text()
    found = json.loads(check(capsys, "--plan", plan, "--profile", TX2, "--json")[1])
    assert (found["power_mode"], found["plan_power_mode"]) == ("MAXN", "MAXN") and found["promised_speedup"]
    slow = changed(plan, tmp_path / "slow.json", power_mode="maxq")
    found = json.loads(check(capsys, "--plan", slow, "--profile", TX2, "--json")[1])
    assert found["power_mode"] == "MAXQ" and found["promised_speedup"] and found["ms"] > Plan.load(plan).predicted_ms
    for own, words, said in (
        (slow, ["--power-mode", "MAXN"], "The plan was made in maxq, and this is MAXN: its speedup is not compared."),
        (changed(plan, tmp_path / "old.json", power_mode=None), [], "The plan does not say in which power mode it was"),
        (changed(plan, tmp_path / "board.json", power_mode="30W"), [], "was made in 30W, and this is MAXN"),
    ):
        found = json.loads(check(capsys, "--plan", own, "--profile", TX2, *words, "--json")[1])
        assert found["power_mode"] == "MAXN" and found["promised_speedup"] is None
        assert any(said in note for note in found["notes"]), found["notes"]
    impossible = changed(slow, tmp_path / "impossible.json", speedup=50.0)
    assert "--power-mode MAXQ" in check(capsys, "--plan", impossible, "--profile", TX2)[1].splitlines()[-1]


def test_a_lost_speedup_fails_with_the_count_and_the_command_to_type(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Plan.load(plan)
    greedy = changed(plan, tmp_path / "greedy.json", speedup=1.06 * own.speedup)
    code, out, _ = check(capsys, "--plan", greedy, "--profile", TX2, "--json")
    found = json.loads(out)
    assert code == 1 and not found["holds"] and found["instead"] < own.tokens_out
    assert "% lower than promised" in found["because"]
    assert check(capsys, "--plan", greedy, "--profile", TX2, "--tolerance", 8)[0] == 0
    # On another device it is not compared, and that is said.
    code, out, _ = check(capsys, "--plan", greedy, "--profile", "sim:jetson_xavier_nx")
    assert "its speedup there is not compared" in out and "promised" not in out
    impossible = changed(plan, tmp_path / "impossible.json", speedup=50.0)
    code, out, _ = check(capsys, "--plan", impossible, "--profile", TX2)
    assert code == 1 and "no count reaches it" in out and "Instead" not in out
    command = out.splitlines()[-1].removeprefix("For a new plan: offline_compute ").split()
    assert cli.run([*command, "--grid-start", "150", "--grid-stop", "140", "--out", str(tmp_path / "new")]) == 0
    assert Plan.load(tmp_path / "new").schedule[3] > 0 and Plan.load(tmp_path / "new").limits == own.limits


def test_a_count_in_the_middle_of_a_tread_fails_on_another_device(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = changed(moved_to(plan, tmp_path / "inside.json", 130), tmp_path / "inside.json", device="cuda:0")
    code, out, _ = check(capsys, "--plan", inside, "--profile", "sim:jetson_orin_nano", "--tolerance", 2, "--json")
    found = json.loads(out)
    assert code == 1 and found["instead"] == found["tread"][0] > 130, found["because"]
    assert found["tread_before"] is None and "are as fast" in found["because"]
    head = moved_to(inside, tmp_path / "head.json", found["instead"])
    assert check(capsys, "--plan", head, "--profile", "sim:jetson_orin_nano", "--tolerance", 2)[0] == 0


def test_a_plan_of_another_number_of_tokens_or_blocks_fails(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(capsys, "--plan", plan, "--profile", TX2, "--image-size", 192)
    assert code == 1 and "the model has 145 tokens, the plan is for 197" in out
    assert "--image-size 192" in out.splitlines()[-1]
    code, out, _ = check(capsys, "--plan", plan, "--profile", TX2, "--model", "demo", "--json")
    assert code == 1 and "the model has 8 blocks, the plan is for 12" in json.loads(out)["because"]


def test_a_recorded_device_is_judged_by_its_real_steps(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"model": "deit_small_patch16_224", "engine": "trt", "device": "cuda:0"}
    head = changed(moved_to(plan, tmp_path / "head.json", 192), tmp_path / "head.json", **model)
    code, out, _ = check(capsys, "--plan", head, "--profile", "recorded:h200")
    assert code == 0 and "HOLDS on recorded:h200 (recorded;" in out and "192 tokens lie on the tread 192 to" in out
    assert "Recorded: the latencies were measured before" in out and "imulated" not in out
    assert "batch 4, torch fp32)" in out and "Recorded with torch, the plan is for trt" in out and "in TF32" in out
    found = json.loads(check(capsys, "--plan", head, "--profile", "recorded:h200", "--json")[1])
    kept = recordings.load("h200").curve("deit_small_patch16_224", 4, "fp32")
    assert (found["ms"], found["baseline_ms"]) == (kept.spread_ms[192][1], kept.spread_ms[197][1])
    before = moved_to(head, tmp_path / "before.json", 170)
    code, out, _ = check(capsys, "--plan", before, "--profile", "recorded:h200")
    assert (code, "Instead: 192 tokens, R=5." in out) == (1, True), out
    code, _, err = check(capsys, "--plan", head, "--profile", "recorded:h200", "--model", "deit_tiny")
    assert code == 2 and "has no deit_tiny_patch16_224, batch 4, fp32; it has" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--profile", TX2], "check needs a plan and a device"),
        (["--plan", "PLAN"], "check needs a plan and a device"),
        (["--plan", "none.json", "--profile", TX2], "expected the folder of a run, or its plan.json"),
        (["--plan", "PLAN", "--profile", "sim:jetson_tx3"], "unknown device profile 'jetson_tx3'"),
        (["--plan", "PLAN", "--profile", "cuda"], "check takes sim:PROFILE or recorded:NAME"),
        (["--plan", "PLAN", "--profile", TX2, "--tolerance", "0"], "--tolerance 0: expected percent above 0"),
        (["--plan", "PLAN", "--profile", TX2, "--model", "deit_tini"], "deit_tiny"),
        (["--plan", "PLAN", "--profile", TX2, "--weights", "none"], "--weights none: no such file"),
        (["--plan", "PLAN", "--profile", TX2, "--power-mode", "90W"], "--power-mode 90W: Jetson TX2 has MAXN, MAXQ"),
        (["--plan", "PLAN", "--profile", "recorded:h200", "--power-mode", "MAXN"], "can't be changed in a recording"),
    ],
)
def test_what_is_wrong_is_one_line(plan: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = check(capsys, *(str(plan) if word == "PLAN" else word for word in words))
    assert code == 2 and not out and said in err and err.count("\n") == 1


def curve(levels: dict[int, float], slope: float = 0.0) -> LatencyCurve:
    """Treads from each count down, 100 to 20 tokens."""
    points = []
    for tokens in range(100, 19, -1):
        ms = levels[min(head for head in levels if head >= tokens)] + slope * tokens
        points.append(LatencyPoint(tokens, ms, ms, ms, 1, 1, ""))
    return LatencyCurve(tuple(points))


def test_a_step_that_moves_is_told_from_a_slope_and_from_what_was_so_before() -> None:
    stairs = curve({100: 10.0, 80: 8.0, 60: 6.0, 40: 4.0})
    down, up = curve({100: 10.0, 80: 8.0, 52: 6.0, 40: 4.0}), curve({100: 10.0, 80: 8.0, 72: 6.0, 40: 4.0})
    assert standing.judge(stairs, None, 60, 5, None).holds
    for moved, instead in ((down, 80), (up, 72)):
        found = standing.judge(moved, stairs, 60, 5, None)
        assert (found.holds, found.instead) == (False, instead)
        assert found.tread_before == (60, 41) and found.tread is not None and found.tread[0] == instead
        assert standing.judge(moved, moved, 60, 5, None).holds  # it was so when it was chosen
    assert standing.judge(up, stairs, 60, 30, None).holds  # by the tolerance
    straight = curve({100: 0.0}, slope=0.1)
    assert all(standing.judge(straight, None, tokens, 1, None).holds for tokens in (99, 77, 50, 21))


def test_the_workflow_in_the_docs_is_one_and_its_command_runs(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml = pytest.importorskip("yaml")
    page = (ROOT / "docs" / "ci.md").read_text()
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    job = yaml.safe_load(shown)["jobs"]["check"]
    *_, install, last = job["steps"]
    assert install["run"].startswith("pip install pomt-edge") and job["runs-on"]
    words = last["run"].replace('"$MODEL"', job["env"]["MODEL"]).split()
    assert words[:2] == ["pomt-edge", "check"] and "plan.json" in words
    words = [str(plan / "plan.json") if word == "plan.json" else word for word in words[1:]]
    assert cli.run_any(words) in (0, 1)
    capsys.readouterr()
    commands = re.findall(r"^pomt-edge (\w+)(.*?)(?:#.*)?$", page, re.MULTILINE)
    assert {command for command, _ in commands} == {"check", "record"}
    for command, options in commands:
        assert cli.run_any([command, "--help"]) == 0
        said = capsys.readouterr().out
        assert all(option in said for option in re.findall(r"--[a-z-]+", options))
