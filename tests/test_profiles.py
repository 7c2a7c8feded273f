"""The profiles of devices: what the files say, how a wrong one is told, and how a machine is recognised."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import boards
import platformdirs
import pytest
from clock_boards import use

from pomt_edge import profiles
from pomt_edge.errors import UserError
from pomt_edge.machine import system as machine
from pomt_edge.machine.system import System
from pomt_edge.profiles import Profile

ROOT = Path(__file__).parents[1]
MINIMAL = """\
name = "Board"
kind = "cuda"
recognised_by = ["Some GPU"]
precisions = ["fp32", "fp16"]
figures_in = "MAXN"
[figures]
sm_count = [8, "V"]
gpu_clock_ghz = [1.5, "R"]
memory_gb_per_s = [100, "D"]

[[modes]]
name = "MAXN"
sm_count = [8, "V"]

[[modes]]
name = "15W"
sm_count = [4, "V"]
gpu_clock_mhz = [600, "V"]

[clock_lock]
lock = "lock"
restore = "restore"
by_hand = []
"""
FLOPS_PER_CLOCK = {  # of one SM: fp32, fp16 dense, int8 dense
    "6.2": (256, 512, None),
    "7.2": (128, 1024, 2048),
    "8.7": (256, 2048, 4096),
    "11.0": (256, 8192, 16384),
}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's own folder: an empty one, which is made when a file goes into it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield platformdirs.user_config_path("pomt-edge") / "device_profiles"
    machine.nvml.cache_clear()
    sys.modules.pop("pynvml", None)


def put(folder: Path, name: str, text: str = MINIMAL) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_there_is_one_of_each_device() -> None:
    boards_ = {"tx2", "xavier_nx", "agx_xavier", "orin_nano", "orin_nano_super", "orin_nx_8g", "orin_nx_16g"}
    boards_ |= {"agx_orin_32g", "agx_orin_64g", "thor"}
    expected = {f"jetson_{name}" for name in boards_} | {"a100", "rtx_3090", "rtx_4090", "h200", "cpu"}
    assert set(profiles.names()) == expected


@pytest.mark.parametrize("name", profiles.names())
def test_a_profile_agrees_with_itself(name: str) -> None:
    profile = profiles.load(name)
    assert profile.precisions and not profile.own and Path(profile.file).name == f"{name}.toml"
    for script in (profile.clock_lock.lock, profile.clock_lock.restore):
        assert (ROOT / script.split()[1]).is_file(), script
    if "int8_dense_tops" not in profile.figures:
        assert "int8" not in profile.precisions
    if profile.figures:  # one rule: both come from one query, or from one quotation
        assert profile.figures["sm_count"].evidence == profile.figures["gpu_clock_ghz"].evidence
    if profile.figures_in is not None:
        of_figures = profile.mode(profile.figures_in)
        assert of_figures is not None and of_figures.sm_count == profile.figures["sm_count"].value
        assert of_figures.gpu_clock_mhz == pytest.approx(profile.figures["gpu_clock_ghz"].value * 1000)
        assert of_figures.memory_gb_per_s == profile.figures["memory_gb_per_s"].value
        assert not profile.moves_steps(of_figures)
    for software in profile.software:
        assert set(software.precisions) <= set(profile.precisions)
        assert software.onnx_opset == 13 if software.tensorrt.startswith("8.") else software.onnx_opset >= 18
    for mode in profile.modes:
        known = {key for key in ("sm_count", "gpu_clock_mhz", "memory_gb_per_s") if getattr(mode, key) is not None}
        assert known == set(mode.evidence) and set(mode.evidence.values()) <= set(profiles.EVIDENCE)


@pytest.mark.parametrize("name", [name for name in profiles.names() if name.startswith("jetson")])
def test_derived_figures_are_those_of_the_sms_and_their_clock(name: str) -> None:
    profile = profiles.load(name)
    per_second = profile.figures["sm_count"].value * profile.figures["gpu_clock_ghz"].value / 1000
    keys = ("fp32_tflops", "fp16_dense_tflops", "int8_dense_tops")
    for key, flops in zip(keys, FLOPS_PER_CLOCK[str(profile.compute_capability)], strict=True):
        assert (key in profile.figures) == (flops is not None)
        if flops is not None:
            assert profile.figures[key].evidence == "D"
            assert profile.figures[key].value == pytest.approx(per_second * flops, rel=0.01)


@pytest.mark.parametrize(
    ("name", "moving"),
    [
        ("jetson_tx2", set()),
        ("jetson_xavier_nx", set()),
        ("jetson_agx_xavier", {"10W"}),
        ("jetson_orin_nano", {"7W"}),
        ("jetson_orin_nano_super", set()),
        ("jetson_orin_nx_8g", {"10W", "15W"}),
        ("jetson_orin_nx_16g", {"10W", "15W"}),
        ("jetson_agx_orin_32g", {"15W", "30W"}),
        ("jetson_agx_orin_64g", {"15W", "30W"}),
    ],
)
def test_the_modes_that_move_the_steps_are_named(name: str, moving: set[str]) -> None:
    profile = profiles.load(name)
    assert {mode.name for mode in profile.modes if profile.moves_steps(mode)} == moving
    for mode in profile.modes:
        assert (f"{mode.name} ({mode.sm_count} SMs)" in profile.differs_by_mode) == (mode.name in moving)
    assert ("do not move" in profile.differs_by_mode) == (not moving)


def test_what_a_mode_does_is_not_guessed() -> None:
    thor = profiles.load("jetson_thor")
    mode = thor.mode("90W")
    assert mode is not None and mode.sm_count is None and thor.moves_steps(mode) is None
    assert thor.differs_by_mode == "how many SMs are on in 120W, 90W, 70W is not known"


def test_a_mode_is_found_as_any_release_calls_it() -> None:
    profile = profiles.load("jetson_xavier_nx")
    assert profile.mode("MODE_15W_6CORE") == profile.mode("15w_6core") != profile.mode("MODE_10W_4CORE")
    assert profile.mode("MAXN") is None


def test_a_device_is_recognised_by_its_drivers_name() -> None:
    profile = profiles.recognise("NVIDIA H200")
    assert profile is not None and profile.id == "h200" and profile.figures["sm_count"].value == 132
    assert profiles.recognise("NVIDIA Something Else") is None


@pytest.mark.parametrize("kind", boards.JETSONS)
def test_a_board_is_recognised_by_the_part_in_its_device_tree(kind: str, tmp_path: Path) -> None:
    system = System(boards.make(kind, tmp_path / "board").root)
    for found in (profiles.recognise_board(system), profiles.recognise_here(system)):
        assert found is not None and found.id == f"jetson_{kind}"


@pytest.mark.parametrize(
    ("kind", "others", "expected"),
    [
        ("agx_orin_64g", "", "jetson_agx_orin_64g"),
        ("agx_orin_32g", "", "jetson_agx_orin_32g"),
        ("orin_nano", "", "jetson_orin_nano"),
        ("orin_nano_super", "", "jetson_orin_nano_super"),
        ("tx2", "", "jetson_tx2"),
        ("agx_orin_64g", "nvidia,p3701-0099", None),
        ("orin_nano", "nvidia,p3768-0000+p3767-0004", None),
    ],
)
def test_boards_that_share_a_name_are_told_apart_by_their_modes(
    kind: str, others: str, expected: str | None, tmp_path: Path
) -> None:
    board = boards.make(kind, tmp_path / "board")
    board.path("/proc/device-tree/compatible").write_bytes(f"{others}\0nvidia,tegra234\0".encode())
    profile = profiles.recognise_board(System(board.root))
    assert (profile.id if profile else None) == expected


def test_without_parts_and_modes_nothing_is_guessed(tmp_path: Path) -> None:
    board = boards.make("agx_orin_64g", tmp_path / "board")
    board.path("/proc/device-tree/compatible").write_bytes(b"nvidia,tegra234\0")
    board.path("/etc/nvpmodel.conf").unlink()
    assert profiles.recognise_board(System(board.root)) is None


def test_a_pc_is_its_gpu_or_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desktop = use(boards.make("desktop", tmp_path / "desktop"), monkeypatch)
    found = profiles.recognise_here(desktop)
    assert found is not None and found.id == "rtx_3090" and profiles.recognise_board(desktop) is None
    vm = use(boards.make("vm", tmp_path / "vm"), monkeypatch)
    found = profiles.recognise_here(vm)
    assert found is not None and found.id == "cpu"
    told = vm.path("/proc/driver/nvidia/gpus/0000:01:00.0/information")
    told.parent.mkdir(parents=True)
    told.write_text("Model: \t\t NVIDIA H200\nIRQ: 16\n")
    found = profiles.recognise_here(vm)
    assert found is not None and found.id == "h200"
    told.write_text("Model: NVIDIA Something Else\n")
    assert profiles.recognise_here(vm) is None


def test_a_users_own_profile_is_found_and_comes_before_the_packages(own: Path, tmp_path: Path) -> None:
    put(own, "my_board")
    put(own, "h200", MINIMAL.replace("Some GPU", "NVIDIA H200"))
    assert "my_board" in profiles.names() and profiles.load("my_board").own
    mine = profiles.load("h200")
    assert mine.name == "Board" and mine.own and mine.file == str(own / "h200.toml")
    assert profiles.recognise("NVIDIA H200") == mine
    found = profiles.recognise("Some GPU")
    assert found is not None and found.id == "my_board"
    given = put(tmp_path / "given", "my_board", MINIMAL.replace('"Board"', '"Another"'))
    assert profiles.load("my_board", tmp_path / "given").name == "Another"
    assert profiles.load("my_board", tmp_path / "given").file == str(given)
    assert profiles.load("my_board").name == "Board"


def test_of_two_that_fit_the_users_own_is_taken(own: Path, tmp_path: Path) -> None:
    marks = '[board]\nparts = ["p3701-0005"]\nmodels = []\ntold_by_modes = []\n'
    put(own, "z_board", MINIMAL.replace("Some GPU", "NVIDIA H200") + marks)
    system = System(boards.make("agx_orin_64g", tmp_path / "board").root)
    for found in (profiles.recognise("NVIDIA H200"), profiles.recognise_board(system)):
        assert found is not None and found.id == "z_board"


def test_a_wrong_file_of_the_users_hinders_no_recognition(own: Path) -> None:
    put(own, "a_broken", "name = @")
    put(own, "my_board")
    found = profiles.recognise("Some GPU")
    assert found is not None and found.id == "my_board"
    read, errors = profiles.read_all()
    assert len(read) == len(profiles.names()) - 1 and len(errors) == 1 and "a_broken.toml, line 1" in str(errors[0])


@pytest.mark.parametrize("mark", ["-", "MY BOARD", ".hidden"])
def test_a_profile_is_called_as_its_file(mark: str, own: Path) -> None:
    put(own, mark)
    _, errors = profiles.read_all()
    assert len(errors) == (0 if mark == ".hidden" else 1)
    assert all("rename it" in str(error) for error in errors)


def test_a_file_that_is_no_text_is_named(own: Path) -> None:
    put(own, "x").write_bytes(b"name = '\xff'")
    with pytest.raises(UserError, match=r"x\.toml is not UTF-8; expected a device profile in TOML"):
        profiles.load("x")


def changed(old: str, new: str) -> str:
    assert MINIMAL.count(old) == 1
    return MINIMAL.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'", "x.toml: the field kind is missing"),
        ("name = 1\nkind = @", "x.toml, line 2: no TOML: Invalid value, column 8"),
        ("x = [", "x.toml: no TOML: "),
        (changed("kind =", "kinds ="), "x.toml, line 2: unknown field kinds; known: kind"),
        (changed('"cuda"', '"tpu"'), """x.toml, line 2: kind is 'tpu'; expected "cpu" or "cuda\""""),
        (changed('["Some GPU"]', '"Some GPU"'), "line 3: recognised_by is 'Some GPU'; expected a list of texts"),
        (changed('"fp16"', '"fp17"'), "line 4: precisions is ['fp32', 'fp17']; expected a list of some of fp32, fp16"),
        (changed('[8, "V"]\ngpu', '[8, "Z"]\ngpu'), "line 7: figures.sm_count is [8, 'Z']; expected [whole number"),
        (changed('[8, "V"]\ngpu', '[8.5, "V"]\ngpu'), "line 7: figures.sm_count is [8.5, 'V']; expected [whole number"),
        (changed('[1.5, "R"]', "1.5"), "line 8: figures.gpu_clock_ghz is 1.5; expected [number above 0, mark]"),
        (changed('[1.5, "R"]', '[true, "R"]'), "line 8: figures.gpu_clock_ghz is [True, 'R']; expected"),
        (changed('[1.5, "R"]', '[inf, "R"]'), "line 8: figures.gpu_clock_ghz is [inf, 'R']; expected"),
        (changed('[1.5, "R"]', '[1.5, ["R"]]'), "line 8: figures.gpu_clock_ghz is [1.5, ['R']]; expected"),
        (
            changed("gpu_clock_ghz", "gpu_clock_mhz"[:-3] + "khz"),
            "line 8: unknown field figures.gpu_clock_khz; known: g",
        ),
        (changed('memory_gb_per_s = [100, "D"]', ""), "x.toml, line 6: the field figures.memory_gb_per_s is missing"),
        (changed('"15W"', '"MODE_MAXN"'), "line 16: modes[2].name is 'MODE_MAXN'; expected a name that no other"),
        (changed('[4, "V"]', '[9, "V"]'), "line 17: modes[2].sm_count is [9, 'V']; expected at most the 8"),
        (changed("gpu_clock_mhz", "gpu_clock"), "line 18: unknown field modes[2].gpu_clock; known: gpu_clock_mhz"),
        (changed('name = "15W"\n', ""), "x.toml, line 15: the field modes[2].name is missing"),
        (changed('restore = "restore"', "restore = ''"), "line 22: clock_lock.restore is ''; expected a text"),
        (
            changed('figures_in = "MAXN"', "figures_in = '40W'"),
            "line 5: figures_in is '40W'; expected the name of one of the modes (MAXN, 15W)",
        ),
        (changed('figures_in = "MAXN"', ""), "x.toml: the field figures_in is missing"),
        (
            changed('"MAXN"\nsm_count = [8', '"MAXN"\nsm_count = [6'),
            "modes[1].sm_count is [6, 'V']; expected 8 as in",
        ),
        (
            changed('"MAXN"\nsm_count = [8, "V"]', '"MAXN"\ngpu_clock_mhz = [900, "V"]'),
            "line 13: modes[1].gpu_clock_mhz is [900, 'V']; expected 1500 as in figures.gpu_clock_ghz",
        ),
        (changed('[1.5, "R"]', '[1500, "R"]'), "line 8: figures.gpu_clock_ghz is [1500, 'R']; expected 0.05 to 20"),
        (changed('[600, "V"]', '[0.6, "V"]'), "line 18: modes[2].gpu_clock_mhz is [0.6, 'V']; expected 50 to 20000"),
        (changed('[1.5, "R"]', f'[1{"0" * 400}, "R"]'), "line 8: figures.gpu_clock_ghz is [1000"),
        ("compute_capability = 8.7\n" + MINIMAL, "line 1: compute_capability is 8.7; expected a text"),
        ("compute_capability = '87'\n" + MINIMAL, "line 1: compute_capability is '87'; expected two numbers"),
        ("figures.l2 = [1, 'V']\n", "x.toml: the field name is missing"),
        ("name = 'x'\nclocks.lock = 'x'\n", "x.toml, line 2: unknown field clocks; known: clock_lock"),
        (MINIMAL + "[software]\ncuda = '1'", "line 24: software is {'cuda': '1'}; expected [[software]]"),
        (MINIMAL + "[board]\nparts = ['p1']", "line 24: the field board.models is missing"),
        (MINIMAL + "[board]\nparts = []\nmodels = []", "line 25: board.parts is []; expected a part number"),
    ],
)
def test_a_wrong_file_is_named_with_its_line_and_field(text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        profiles.parse("x", text)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_read_is_what_the_file_says() -> None:
    profile = profiles.parse("x", MINIMAL, "/some/x.toml", own=True)
    assert profile.figures["gpu_clock_ghz"] == profiles.Figure(1.5, "R")
    assert [dataclasses.astuple(mode) for mode in profile.modes] == [
        ("MAXN", 8, None, None, {"sm_count": "V"}),
        ("15W", 4, 600, None, {"sm_count": "V", "gpu_clock_mhz": "V"}),
    ]
    expected: dict[str, object] = {"board": None, "software": (), "memory_mib": None, "notes": ()}
    assert {key: getattr(profile, key) for key in expected} == expected and isinstance(profile, Profile)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown device profile 'h20'; known: h200"):
        profiles.load("h20")
    with pytest.raises(UserError, match=r"known: a100, cpu, .*, …$"):  # there are more than fit in a line
        profiles.load("?")


def test_the_table_of_devices_in_the_docs_is_that_of_the_files() -> None:
    lines = (ROOT / "docs/devices.md").read_text(encoding="utf-8").splitlines()
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in lines) if len(cells) == 11}
    for name in profiles.names():
        profile = profiles.load(name)
        keys = ("sm_count", "gpu_clock_ghz", "memory_gb_per_s", "fp16_dense_tflops")
        figures = [profile.figures[key] for key in keys if key in profile.figures]
        cells = [cell.strip() for cell in rows[name]]
        assert cells[2] == profile.name
        assert [cell for cell in cells[3:7] if cell] == [f"{each.value:g} {each.evidence}" for each in figures]
        for mode in profile.modes:
            assert (f"{mode.name} ({mode.sm_count})" in cells[9]) == bool(profile.moves_steps(mode))
