"""Recordings: the packaged one, one made of a real run, and what they refuse."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pomt_edge import cli
from pomt_edge.commands.common import NEGATIVE
from pomt_edge.engines import Setting
from pomt_edge.errors import UserError
from pomt_edge.records import Result
from pomt_edge.targets import recorded, recordings
from pomt_edge.targets.recorded import RecordedTarget
from pomt_edge.targets.recordings import DRAWN, REPLAYED

DEIT_S = "deit_small_patch16_224"


def test_the_packaged_recording_keeps_its_medians_and_its_cliff() -> None:
    assert "h200" in recordings.recordings(Path("/nowhere"))
    recording = recordings.load("h200")
    assert recording.device.startswith("NVIDIA H200") and len(recording.curves) == 6
    curve = recording.curve(DEIT_S, 4, "fp32")
    target = RecordedTarget(curve)
    for tokens in (197, 193, 192, 8):
        least, median, most = curve.spread_ms[tokens]
        samples = np.array(target.time_ms(tokens, 2000))
        assert samples.min() >= least and samples.max() <= most
        assert np.mean(samples <= median) == pytest.approx(0.5, abs=0.05)
    assert np.median(target.time_ms(192, 200)) < 0.92 * np.median(target.time_ms(193, 200))
    assert curve.how == DRAWN and "drawn" in DRAWN
    # What is not this package's own fp32 is not called so.
    assert curve.title.endswith("fp32 (TF32)") and recording.curve(DEIT_S, 4, "fp16").title.endswith("fp16")
    details = target.environment(Setting("recorded:h200", "fp32", 4, 224), "torch").details
    assert details["tf32_matmul"] and "TF32" in details["products"]
    assert RecordedTarget(curve, seed=1).time_ms(197, 5) == RecordedTarget(curve, seed=1).time_ms(197, 5)
    assert RecordedTarget(curve, seed=1).time_ms(197, 5) != RecordedTarget(curve, seed=2).time_ms(197, 5)


def test_what_was_not_recorded_is_refused_with_what_there_is() -> None:
    recording = recordings.load("h200")
    with pytest.raises(
        UserError, match=rf"no {DEIT_S}, batch 2, fp32; it has {DEIT_S}, batch 4, fp16; .*batch 8, fp16"
    ):
        recording.curve(DEIT_S, 2, "fp32")
    with pytest.raises(UserError, match=r"1 tokens .* not recorded; there are 197 to 2"):
        RecordedTarget(recording.curve(DEIT_S, 4, "fp32")).time_ms(1, 1)
    with pytest.raises(UserError, match="unknown recording 'h2000'; known: h200"):
        recordings.load("h2000", Path("/nowhere"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "demo"
    words = (
        "--bs 1 --grid-start 100 --grid-stop 60 --grid-stride 40 --point-seconds 0.1 --images 20 --no-lock --threads 1"
    )
    assert cli.run([*words.split(), "--out", str(folder)]) in (0, NEGATIVE)
    return folder


def test_a_run_becomes_a_recording_of_its_real_samples(run: Path, tmp_path: Path) -> None:
    file = recorded.record(run, "here", tmp_path)
    assert file == tmp_path / "here.json" and recordings.recordings(tmp_path) == ["h200", "here"]
    result = Result.load(run / "result.json")
    recording = recordings.load("here", tmp_path)
    assert recording.device == result.environment.device_name
    assert recording.environment["started"] == result.environment.started
    (curve,) = recording.curves
    assert curve.how == REPLAYED and "block 3" in curve.reduction
    for point in result.curve.points:
        samples = curve.samples_ms[point.tokens]
        assert len(samples) == point.samples
        assert np.median(samples) == pytest.approx(point.median_ms, rel=1e-3)
    target = RecordedTarget(curve)
    own = curve.samples_ms[100]
    assert target.time_ms(100, len(own)) + target.time_ms(100, 2) == [*own, *own[:2]]
    with pytest.raises(UserError, match=r"99 tokens .* not recorded; there are 197, 100, 60"):
        target.time_ms(99, 1)


def test_a_second_setting_joins_and_the_same_one_is_replaced(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    lines = (run / "measurements.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["configuration"]["batch_size"] = 7
    (other / "measurements.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    (other / "result.json").write_text((run / "result.json").read_text())
    for folder in (run, other, other):
        recorded.record(folder, "both", tmp_path / "library")
    assert [curve.batch_size for curve in recordings.load("both", tmp_path / "library").curves] == [1, 7]
    result = json.loads((other / "result.json").read_text())
    result["environment"]["device_name"] = "Another"
    (other / "result.json").write_text(json.dumps(result))
    with pytest.raises(UserError, match="this run of Another; give another name"):
        recorded.record(other, "both", tmp_path / "library")


def test_what_can_not_be_recorded_or_read_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run there"):
        recorded.record(tmp_path, "name", tmp_path)
    with pytest.raises(UserError, match="lower-case letters"):
        recorded.record(run, "../up", tmp_path)
    with pytest.raises(UserError, match="the package's own"):
        recorded.record(run, "h200", tmp_path)
    simulated = copied(run, tmp_path / "simulated")
    changed_in(simulated / "result.json", '"origin": "measured"', '"origin": "simulated"')
    with pytest.raises(UserError, match="is simulated: a recording is made of a run that measured a device"):
        recorded.record(simulated, "name", tmp_path)
    assert not (tmp_path / "name.json").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"configuration"', '"settings"', "the field 'configuration' is missing"),
        ('"segment"', '"part"', "the field 'segment' is missing"),
        ('"ms": [', '"ms": ["x", ', ""),
        ("{", "[", ""),
    ],
)
def test_a_damaged_or_older_journal_is_one_line(run: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    folder = copied(run, tmp_path / "run")
    changed_in(folder / "measurements.jsonl", old, new)
    with pytest.raises(
        UserError, match=rf"measurements\.jsonl is damaged, or of another version.*{said}.*measure again"
    ):
        recorded.record(folder, "name", tmp_path)
    assert not (tmp_path / "name.json").exists()


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


def changed_in(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_damaged_recording_is_one_short_line(run: Path, tmp_path: Path) -> None:
    good = json.loads(recorded.record(run, "good", tmp_path).read_text())
    curve = good["curves"][0]
    bad = itertools.count()
    for damage, said in (
        ("no json", "can't be read"),
        ("[]", "expected an object with 'curves'"),
        (good | {"curves": [{}]}, "'tokens' is missing"),
        (good | {"curves": [curve | {"samples_ms": [[1.0] * 5000 + [0.0] for _ in curve["samples_ms"]]}]}, "got 0.0"),
        (good | {"curves": [curve | {"samples_ms": [["1"] for _ in curve["samples_ms"]]}]}, "got '1'"),
        (good | {"curves": [curve | {"tokens": [str(count) for count in curve["tokens"]]}]}, "'197' is no count"),
        (good | {"curves": [curve | {"batch_size": 1.5}]}, "1.5 is no count"),
        (good | {"device": 3}, "'device' is 3, expected a text"),
        (good | {"environment": []}, r"'environment' is \[\], expected an object"),
    ):
        name = f"bad{next(bad)}"
        (tmp_path / f"{name}.json").write_text(damage if isinstance(damage, str) else json.dumps(damage))
        with pytest.raises(UserError, match=f"recording '{name}'.*{said}.* record it again") as raised:
            recordings.load(name, tmp_path)
        assert len(str(raised.value)) < 400
