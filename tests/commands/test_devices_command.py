"""`pomt-edge devices` as a user types it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boards
import platformdirs
import pytest
from clock_boards import use

from pomt_edge import profiles
from pomt_edge.cli import run_any
from pomt_edge.machine import system as machine

OWN = """\
name = "My [bold] board"
kind = "cuda"
recognised_by = []
precisions = ["fp32"]
[figures]
sm_count = [3, "V"]
gpu_clock_ghz = [0.7, "V"]
memory_gb_per_s = [50, "R"]
[clock_lock]
lock = "lock.sh"
restore = "restore.sh"
by_hand = []
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "80")
    folder = platformdirs.user_config_path("pomt-edge") / "device_profiles"
    folder.mkdir(parents=True)
    yield folder
    machine.nvml.cache_clear()
    sys.modules.pop("pynvml", None)


def devices(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = run_any(["devices", *map(str, words)])
    return code, *capsys.readouterr()


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    code, out, err = devices(capsys, *words)
    assert code == 0 and not err
    return json.loads(out)


def test_all_are_listed_in_80_columns_and_this_machine_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = boards.make("agx_orin_32g", tmp_path / "board")
    use(board, monkeypatch)
    code, out, err = devices(capsys, "--sysroot", board.root)
    assert code == 0 and not err
    rows = {name: next(line for line in out.splitlines() if f" {name} " in line) for name in profiles.names()}
    marked = [name for name, row in rows.items() if "*" in row]
    assert marked == ["jetson_agx_orin_32g"] and "* this machine: jetson_agx_orin_32g" in out
    assert rows["jetson_tx2"].split() == ["jetson_tx2", "Jetson", "TX2", "1.3", "2", "59.7", "1.33", "4"]
    assert all(len(line) <= 80 for line in out.splitlines() if "your own go into" not in line)
    assert str(profiles.own_folder()) in out and "Nothing here was measured" in out


def test_a_machine_that_no_profile_knows_is_not_called_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = boards.make("desktop", tmp_path / "board")
    use(board, monkeypatch)
    board.change_nvidia(name="NVIDIA Something Else")
    _, out, _ = devices(capsys, "--sysroot", board.root)
    assert "No profile knows this machine" in out and "*" not in out


def test_the_list_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    board = boards.make("desktop", tmp_path / "board")
    use(board, monkeypatch)
    found = answer(capsys, "--json", "--sysroot", board.root)
    assert [each["id"] for each in found] == profiles.names()
    assert [each["id"] for each in found if each["this_machine"]] == ["rtx_3090"]
    assert found[0]["figures"]["sm_count"] == {"value": 108, "evidence": "R"}


def test_ones_own_are_listed_with_their_place_and_may_be_shown(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "mine.toml").write_text(OWN)
    given = tmp_path / "given"
    given.mkdir()
    (given / "h200.toml").write_text(OWN.replace("My [bold]", "Given"))
    code, out, _ = devices(capsys, "--profiles", given)
    assert code == 0 and f"your own: mine ({own / 'mine.toml'})" in out
    assert f"your own: h200 ({given / 'h200.toml'})" in out and "[bold]" in out
    code, out, _ = devices(capsys, "show", "mine")
    assert code == 0 and out.startswith("mine: My [bold] board\n") and str(own / "mine.toml") in out
    for words in (("show", "h200", "--profiles", given, "--json"), ("--profiles", given, "--json", "show", "h200")):
        found = answer(capsys, *words)
        assert found["name"] == "Given board" and found["own"] and found["file"] == str(given / "h200.toml")
    assert answer(capsys, "show", "h200", "--json")["name"] == "NVIDIA H200 SXM"


def test_a_wrong_file_is_told_and_the_others_are_listed(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "mine.toml").write_text(OWN.replace('sm_count = [3, "V"]', "sm_count = 3"))
    (own / "yours.toml").write_text(OWN.replace("kind", "kinds"))
    code, out, err = devices(capsys)
    assert code == 2 and "jetson_tx2" in out and "mine" not in out
    first, second = err.splitlines()
    assert first.startswith(f"error: {own / 'mine.toml'}, line 6: figures.sm_count is 3; expected [whole number")
    assert second.startswith(f"error: {own / 'yours.toml'}, line 2: unknown field kinds; known: kind")
    code, out, err = devices(capsys, "show", "mine")
    assert code == 2 and not out and err == f"{first}\n"


def test_everything_of_one_is_shown_with_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = devices(capsys, "show", "jetson_agx_orin_64g")
    assert code == 0 and not err and all(len(line) <= 80 for line in out.splitlines())
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "figures in MAXN value evidence" in lines
    assert "GPU clock, highest 1.3 GHz read from the device or its vendor's files" in lines
    assert "memory bandwidth 204.8 GB/s widely quoted, not verified" in lines
    assert "fp16, dense 42.6 TFLOPS derived from other figures" in lines
    assert "30W 8 V 612 V not known elsewhere: 8 of 16 SMs on" in lines
    assert "50W 16 V 816 V not known at the same token counts" in lines
    assert "By power mode: SMs are off in 15W (6 SMs), 30W (8 SMs), which moves" in " ".join(lines)
    assert "6.1, 6.2 10.3 12.6 3.10 up to 20 fp32 fp16 bf16 int8 R" in lines
    assert "To lock the clocks: sudo scripts/jetson_lock_clocks.sh --mode MAXN" in lines
    assert "4. sudo jetson_clocks --store FILE" in lines and "nothing in it was measured here" in out


@pytest.mark.parametrize("name", profiles.names())
def test_each_can_be_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = devices(capsys, "show", name)
    assert code == 0 and not err and out.startswith(f"{name}: {profiles.load(name).name}\n")
    found = answer(capsys, "show", name, "--json")
    assert found["id"] == name and len(found["modes"]) == len(profiles.load(name).modes)
    for note in found["notes"]:
        assert note in " ".join(out.split())


def test_the_json_of_one_says_which_modes_move_the_steps(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "show", "jetson_orin_nano", "--json")
    assert {mode["name"]: mode["moves_steps"] for mode in found["modes"]} == {"15W": False, "7W": True}
    assert "7W (4 SMs)" in found["differs_by_mode"]


def test_a_device_is_shown_as_it_is_typed_elsewhere_and_so_is_a_recording(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_any(["devices", "show", "sim:jetson_tx2"]) == 0
    assert capsys.readouterr().out.startswith("jetson_tx2: ")
    assert run_any(["devices"]) == 0 and "recorded:h200" in capsys.readouterr().out
    assert run_any(["devices", "show", "recorded:h200"]) == 0
    shown = capsys.readouterr().out
    assert "  deit_small_patch16_224, batch 4, fp32 (TF32): torch, 197 to 2 tokens" in shown
    assert run_any(["devices", "show", "recorded:h200", "--json"]) == 0
    (first, *_) = json.loads(capsys.readouterr().out)["curves"]
    assert (first["model"], first["batch_size"], first["tokens"][0]) == ("deit_small_patch16_224", 4, 197)


def test_errors_say_what_to_type_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = tmp_path / "none"
    for words, message in [
        (("show", "jetson_orin_nana"), "unknown device profile 'jetson_orin_nana'; known: jetson_orin_nano, jetson"),
        (("--profiles", none), f"--profiles {none}: no such folder; expected one with device profiles"),
        (("show", "h200", "--profiles", none), f"--profiles {none}: no such folder"),
        (("--sysroot", none), f"--sysroot {none}: no such folder; give the one that holds the machine's /sys"),
        (("show",), "NAME"),
    ]:
        code, out, err = devices(capsys, *words)
        assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and message in err
