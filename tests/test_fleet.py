"""Several devices by one command: the file that names them, who runs when, what comes of one that fails."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import boards
import pytest

from pomt_edge import cli, fleet_file
from pomt_edge.commands.common import INTERRUPTED, NEGATIVE, USAGE_ERROR
from pomt_edge.errors import UserError
from pomt_edge.records import Fleet, Plan
from pomt_edge.request import Request

ROOT = Path(__file__).parents[1]
QUICK = ["--grid-stride", "60", "--grid-stop", "77", "--point-seconds", "0.02", "--images", "32", "--max-drop", "90"]

pytestmark = pytest.mark.usefixtures("threads_as_before")


def written(folder: Path, text: str) -> Path:
    file = folder / "fleet.toml"
    file.write_text(text, encoding="utf-8")
    return file


def started(*options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "offline_compute.py"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def events(stderr: str) -> list[str]:
    """'NAME: started' and 'NAME: ended', in their order."""
    found = re.findall(r"^([a-z]\w*): (started|\S+)", stderr, re.MULTILINE)
    return [f"{name} {'started' if word == 'started' else 'ended'}" for name, word in found]


# The file.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[devices.a]\ndevice =\n", "no TOML"),
        ("", "no devices"),
        ("[device.a]\ndevice = 'cpu'\n", "unknown field device"),
        ("[devices.a]\nprecision = 'fp16'\n", "devices.a: the field device is missing"),
        ("[devices.a]\ndevice = 'cpu'\nprecison = 'fp16'\n", "devices.a: unknown field precison; known: precision"),
        ("[devices.a]\ndevice = 'cpu'\nbs = 'four'\n", "devices.a.bs is 'four'; expected a whole number"),
        ("[devices.a]\ndevice = 'cpu'\nbs = true\n", "devices.a.bs is True; expected a whole number"),
        ("[devices.a]\ndevice = 'cpu'\ncompile = 1\n", "devices.a.compile is 1; expected true or false"),
        ("[devices.'a.b']\ndevice = 'cpu'\n", "devices.a.b: a name has letters"),
        (
            "[devices.a]\ndevice = 'sim:jetson_tx3'\n",
            "devices.a: unknown device profile 'jetson_tx3'; known: jetson_tx2",
        ),
        ("[devices.a]\ndevice = 'ssh://'\n", "devices.a: 'ssh://' is no address of a board"),
        ("[devices.a]\ndevice = 'cpu'\nprecision = 'fp61'\n", "devices.a: --precision fp61: expected one of fp32"),
        ("[devices.a]\ndevice = 'cpu'\nnoise = 'none'\n", "devices.a: --noise is a simulated device's"),
        ("[devices.a]\ndevice = 'recorded:nope'\n", "devices.a: unknown recording 'nope'; known: h200"),
        ("[devices.a]\ndevice = 'sim:a100'\nnoise = 'wite'\n", "devices.a: --noise wite: unknown part 'wite'"),
        ("[devices.a]\ndevice = 'sim:jetson_tx2'\npower_mode = 'nope'\n", "--power-mode nope: Jetson TX2 has MAXN"),
        ("[devices.a]\ndevice = 'sim:jetson_tx2'\nprecision = 'int8'\n", "jetson_tx2 computes no int8 natively"),
        ("[devices.a]\ndevice = 'sim:cpu'\nengine = 'trt'\n", "simulated with --engine torch, not trt"),
    ],
)
def test_what_is_wrong_with_the_file_is_one_line_and_nothing_starts(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, f"[devices.good]\ndevice = 'sim:a100'\n{text}" if text else text)
    assert cli.run(["--fleet", str(file), "--out", str(tmp_path / "out")]) == USAGE_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file}") and said in line
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--fleet", str(tmp_path / "none.toml")]) == USAGE_ERROR
    assert "can't be read (No such file" in capsys.readouterr().err


def test_what_is_a_devices_own_comes_before_what_is_typed_for_all(tmp_path: Path) -> None:
    lines = "bs = 8\nno_lock = true\ncompile = false\n"
    text = f"[devices.a]\ndevice = 'sim:jetson_tx2'\n{lines}"
    first, second = fleet_file.load(written(tmp_path, f"{text}[devices.b]\ndevice = 'cpu'\ncuda_graphs = false\n"))
    typed = Request(batch_size=2, keep=0.5, noise="none")
    own = dataclasses.replace(typed, device="sim:jetson_tx2", batch_size=8, lock=False, compile=False, engine="trt")
    assert first.request(typed, engine_typed=False) == own
    plain = dataclasses.replace(typed, device="cpu", noise=None, cuda_graphs=False)
    assert second.request(typed, engine_typed=False) == plain
    assert first.request(typed, engine_typed=True).engine == "torch"
    words = {"--bs": ["--bs=2"], "--noise": ["--noise=none"], "--compile": ["--compile"]}
    expected = {"--noise=none", "--bs=8", "--no-lock", "--device=sim:jetson_tx2"}
    assert {word for typed in first.options(words).values() for word in typed} == expected
    assert {word for typed in second.options(words).values() for word in typed} == {
        "--bs=2",
        "--compile",
        "--no-cuda-graphs",
        "--device=cpu",
    }


def test_boards_are_told_apart_by_their_address(tmp_path: Path) -> None:
    devices = ["ssh://one@orin", "ssh://two@ORIN:22", "ssh://orin:23", "cpu", "cuda:0", "sim:a100", "sim:a100"]
    text = "".join(f"[devices.d{number}]\ndevice = '{device}'\n" for number, device in enumerate(devices))
    found = [device.board for device in fleet_file.load(written(tmp_path, text))]
    assert found[0] == found[1] != found[2] and found[3] == found[4] and found[5] is found[6] is None


def test_the_docs_example_is_a_fleet_file(tmp_path: Path) -> None:
    docs = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    example = docs.partition("```toml\n")[2].partition("```")[0]
    devices = fleet_file.load(written(tmp_path, example))
    assert len([device.request(Request(), engine_typed=False) for device in devices]) >= 4
    named = set(re.findall(r"`(\w+)`", docs.partition("with `_` for `-`:")[2].partition("\n\n")[0]))
    assert named == set(fleet_file.OPTIONS)


# One of them.


def test_a_name_of_the_file_is_that_device_with_its_own_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "[devices.bench]\ndevice = 'sim:jetson_tx2'\nbs = 2\n[devices.x]\ndevice = 'cpu'\n")
    out = tmp_path / "out"
    assert cli.run(["--device", "bench", "--fleet", str(file), "--bs", "4", *QUICK, "--out", str(out)]) == 0
    plan = Plan.load(out)
    assert (plan.device, plan.batch_size, plan.engine, plan.origin) == ("sim:jetson_tx2", 2, "trt", "simulated")
    assert f"bench of {file}: sim:jetson_tx2, bs 2" in capsys.readouterr().err
    assert cli.run(["--device", "bnech", "--fleet", str(file)]) == USAGE_ERROR
    assert f"--device bnech: {file} has no device of that name; known: bench" in capsys.readouterr().err


def test_names_of_the_users_own_file_need_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert fleet_file.named("bench", None) is None
    (tmp_path / "pomt-edge").mkdir()
    written(tmp_path / "pomt-edge", "[devices.bench]\ndevice = 'sim:a100'\n[devices.cpu]\ndevice = 'sim:h200'\n")
    found = fleet_file.named("bench", None)
    assert found is not None and found.device == "sim:a100"
    assert fleet_file.named("cpu", None) is None and fleet_file.named("sim:a100", None) is None
    with pytest.raises(UserError, match="known: bench"):
        fleet_file.named("bnech", None)


# All of them.

FLEET = """
[devices.here]
device = "cpu"
no_lock = true
[devices.lost]
device = "recorded:h200"
[devices.orin_15w]
device = "sim:jetson_agx_orin_64g"
power_mode = "15W"
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """Folder, exit code, standard output and standard error."""
    folder = tmp_path_factory.mktemp("fleet")
    out = folder / "out"
    run = started("--fleet", str(written(folder, FLEET)), *QUICK, "--threads", "1", "--out", str(out), "--json")
    stdout, stderr = run.communicate()
    return out, run.returncode, stdout, stderr


def test_one_that_fails_is_listed_and_the_others_have_plans(finished: tuple[Path, int, str, str]) -> None:
    out, code, stdout, stderr = finished
    assert code == NEGATIVE, stderr
    fleet = Fleet.load(out / "fleet.json")
    assert json.loads(stdout) == json.loads((out / "fleet.json").read_text())
    assert [run.name for run in fleet.runs] == ["here", "lost", "orin_15w"]
    (failed,) = fleet.failed
    assert failed.name == "lost" and "h200 has no demo" in str(failed.error) and "\n" not in str(failed.error)
    assert f"Failed: lost: {failed.error}" in stderr
    results = {run.name: result for run, result in fleet.results}
    assert {name: result.plan.origin for name, result in results.items()} == {
        "here": "measured",
        "orin_15w": "simulated",
    }
    for run, result in fleet.results:
        assert Plan.load(out / run.name) == result.plan and (out / str(run.report)).is_file()
    assert results["orin_15w"].environment.details["power_mode"] == "15W"
    assert "lost" in (out / "fleet.html").read_text()


def test_this_machine_is_measured_alone_after_all_others(finished: tuple[Path, int, str, str]) -> None:
    happened = events(finished[3])
    assert sorted(happened) == sorted(f"{n} {w}" for n in ("here", "lost", "orin_15w") for w in ("started", "ended"))
    assert happened[-2:] == ["here started", "here ended"]


def test_a_finished_fleet_is_not_measured_again(finished: tuple[Path, int, str, str], tmp_path: Path) -> None:
    out = finished[0]
    file = written(tmp_path, FLEET[FLEET.index("[devices.orin_15w]") :])
    before = (out / "orin_15w" / "measurements.jsonl").read_text().count('"ms"')
    run = started("--fleet", str(file), *QUICK, "--threads", "1", "--out", str(out))
    stdout, stderr = run.communicate()
    assert run.returncode == 0, stderr
    assert (out / "orin_15w" / "measurements.jsonl").read_text().count('"ms"') == before > 0
    assert Fleet.load(out / "fleet.json").failed == [] and "Report:" in stdout


def test_a_board_serves_one_run_at_a_time_and_boards_run_together(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\necho 'ssh: Connection refused' >&2\nexit 255\n")
    ssh.chmod(0o755)
    text = "".join(
        f"[devices.{name}]\ndevice = 'ssh://{address}'\n"
        for name, address in (("a", "me@board"), ("b", "you@board"), ("c", "me@other"))
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    run = started("--fleet", str(written(tmp_path, text)), "--out", str(tmp_path / "out"), PATH=path)
    _, stderr = run.communicate()
    assert run.returncode == NEGATIVE and "Connection refused" in stderr
    happened = events(stderr)
    assert happened[:2] == ["a started", "c started"]
    assert happened.index("a ended") < happened.index("b started")


def test_an_interrupted_fleet_waits_until_the_clocks_are_back(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    before = board.snapshot()
    file = written(tmp_path, "[devices.one]\ndevice = 'cpu'\n[devices.two]\ndevice = 'cpu'\n")
    out = tmp_path / "out"
    options = [
        "--fleet",
        str(file),
        "--out",
        str(out),
        "--threads",
        "1",
        "--images",
        "32",
        "--sysroot",
        str(board.root),
    ]
    run = started(*options, PATH=board.env["PATH"], FAKE_BOARD=str(board.root))
    journal = out / "one" / "measurements.jsonl"
    while not (journal.exists() and '"ms"' in journal.read_text()):
        assert run.poll() is None, run.communicate()[1]
        time.sleep(0.02)
    assert board.snapshot() != before
    run.send_signal(signal.SIGINT)
    _, stderr = run.communicate()
    assert run.returncode == INTERRUPTED and stderr.splitlines()[-1].endswith(f"--out {out} to go on")
    assert board.snapshot() == before
    assert "interrupted" in (out / "one.log").read_text() and not (out / "two.log").exists()


def test_a_folder_of_one_run_is_not_taken_for_a_fleets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "measurements.jsonl").write_text("{}\n")
    file = written(tmp_path, "[devices.a]\ndevice = 'sim:a100'\n")
    assert cli.run(["--fleet", str(file), "--out", str(tmp_path)]) == USAGE_ERROR
    assert "holds a run of one device" in capsys.readouterr().err
