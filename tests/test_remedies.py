"""What may help where the answer is not to prune: tried where that is quick, named where it is not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from test_plan import curve as curve_of

from pomt_edge import cli, remedies
from pomt_edge.choose.refusal import none_faster
from pomt_edge.job import Job, prepare
from pomt_edge.measure.accuracy import Accuracy
from pomt_edge.measure.forwards import by_sessions
from pomt_edge.measure.journal import Journal
from pomt_edge.measure.progress import Silent
from pomt_edge.records import Remedy, Result
from pomt_edge.request import Request

ROOT = Path(__file__).parents[1]
H200 = ["--model", "deit_tiny", "--grid-stride", "40", "--device", "sim:h200", "--precision"]

pytestmark = pytest.mark.usefixtures("threads_as_before")


def refused(out: Path, *words: str) -> Result:
    """A run that ends with 'do not prune'."""
    assert cli.run([*words, "--out", str(out)]) == 0
    result = Result.load(out / "result.json")
    assert result.plan.verdict == "keep" and result.refusal and result.plan.because == result.refusal.because
    return result


def options(found: tuple[Remedy, ...]) -> list[str]:
    return [remedy.options for remedy in found]


def test_on_a_simulated_gpu_every_setting_is_simulated_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = refused(tmp_path, *H200, "fp32", "--no-cuda-graphs")
    names = ["--precision fp16", "--cuda-graphs", "--engine trt", "--bs 4", "--bs 16"]
    assert result.refusal and result.refusal.kind == "slower" and options(result.remedies) == names
    assert {remedy.origin for remedy in result.remedies} == {"simulated"}
    for remedy in result.remedies:
        assert remedy.tokens == 157, "as --keep allows"
        assert remedy.speedup_low and remedy.speedup_high and remedy.speedup
        assert remedy.speedup_low < remedy.speedup < remedy.speedup_high
    helpful = [remedy for remedy in result.remedies if (remedy.speedup_low or 0) > 1]
    assert "--engine trt" in options(tuple(helpful)), "launching was what took the time"
    said = capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert said.index("Do not prune: ") < said.index("What may help instead") < said.index("  --engine trt: 157 of 197")
    assert all(f"<code>{name}</code>" in page for name in names)


def test_what_is_in_use_or_not_to_be_had_is_not_offered(tmp_path: Path) -> None:
    half = refused(tmp_path / "half", *H200, "fp16")
    assert options(half.remedies) == ["--engine trt", "--bs 4", "--bs 16"]
    recorded = ["--model", "deit_small", "--device", "recorded:h200", "--precision", "fp16", "--grid-stop", "190"]
    result = refused(tmp_path / "recorded", *recorded, "--keep", "0.998")
    assert options(result.remedies) == ["--keep 0.99"]
    (looser,) = result.remedies
    assert (looser.tokens, looser.origin) == (196, "recorded") and result.refusal
    assert looser.speedup == result.refusal.speedup


def test_a_remedy_that_fails_is_one_that_was_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = (ROOT / "device_profiles" / "h200.toml").read_text().replace('fp16_dense_tflops = [989, "R"]\n', "")
    own = tmp_path / "pomt-edge" / "device_profiles"
    own.mkdir(parents=True)
    (own / "mine.toml").write_text(profile.replace('"NVIDIA H200"]', '"Mine"]'))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    words = [*H200, "fp32", "--no-cuda-graphs"]
    words[words.index("sim:h200")] = "sim:mine"
    result = refused(tmp_path / "out", *words)
    failed = result.remedies[0]
    assert (failed.options, failed.tokens, failed.origin) == ("--precision fp16", None, None)
    assert failed.because and "figures.fp16_dense_tflops is missing" in failed.because
    assert result.remedies[1].origin == "simulated"


@pytest.fixture(scope="module")
def here() -> Job:
    """The demo on this machine's processor, with a limit that nothing keeps."""
    request = Request(device="cpu", threads=1, images=16, max_drop=0.0, grid_stop=107, grid_stride=90, lock=False)
    return prepare(request, Silent())


def found_here(job: Job, folder: Path, ms: float, begun: list[str]) -> tuple[Remedy, ...]:
    """What is found after a sweep that had these latencies, both the same: as flat as a curve can be."""
    curve = curve_of({197: ms, 107: ms})
    with Journal(folder, {}) as journal:
        assert job.images is not None
        accuracy = Accuracy(job.images, job.preprocessing, by_sessions(job.sessions), 197, journal, Silent())
        asked = remedies.Asked(job, none_faster(curve), curve, accuracy)
        return remedies.find(asked, journal, Silent(), lambda: begun.append("begun"))


def test_this_machine_tries_larger_batches_once_and_names_the_rest(here: Job, tmp_path: Path) -> None:
    begun: list[str] = []
    found = found_here(here, tmp_path, 5.0, begun)
    tried = [remedy for remedy in found if remedy.options.startswith("--bs")]
    assert options(tuple(tried)) == ["--bs 4", "--bs 8"] and begun
    assert {(remedy.origin, remedy.tokens, remedy.allowed) for remedy in tried} == {("measured", 107, False)}
    assert all(one.speedup_low and one.speedup_high and one.speedup_low < one.speedup_high for one in tried)
    named = [remedy for remedy in found if remedy.tokens is None]
    assert "--compile" in options(tuple(named)) and all(one.because for one in named)
    assert not {"--cuda-graphs", "--precision fp16", "--engine torch", "--engine trt"} & set(options(found))

    journal, begun = (tmp_path / "measurements.jsonl").read_text(), []
    assert found_here(here, tmp_path, 5.0, begun) == found and not begun
    assert (tmp_path / "measurements.jsonl").read_text() == journal, "nothing is measured again"


def test_what_would_take_long_is_not_tried(here: Job, tmp_path: Path) -> None:
    begun: list[str] = []
    found = found_here(here, tmp_path, 1000.0, begun)
    by_options = {remedy.options: remedy for remedy in found}
    for batch in ("--bs 4", "--bs 8"):
        late = by_options[batch]
        assert (late.tokens, late.because) == (None, "it would take more than some seconds here")
    assert not begun


def test_a_budget_that_is_met_needs_no_remedy(tmp_path: Path) -> None:
    assert refused(tmp_path, *H200, "fp16", "--budget-ms", "1e6").remedies == ()


def test_in_turn_a_drift_is_no_gain_and_a_gain_has_an_interval() -> None:
    now = [1.0]

    def drifting(tokens: int, count: int) -> list[float]:
        now[0] *= 1.01
        return [(10.0 if tokens == 197 else 8.0) * now[0]] * count

    speedup, low, high = remedies.in_turn(drifting, 197, 100)
    assert speedup == pytest.approx(1.25, rel=1e-9) and low < 1.25 < high
    assert math.isclose(math.log(high / 1.25), math.log(1.25 / low)) and high < 1.3
