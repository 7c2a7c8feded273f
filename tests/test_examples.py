"""The examples run as a user runs them; what they say without a clock is held to the digit."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "l2_norm_dynamic.py"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    command = [sys.executable, str(EXAMPLE), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def rows(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"].split(" (")[0]: row for row in result["rows"]}


def test_the_published_flops_come_out_to_the_digit(rows: dict[str, dict[str, Any]]) -> None:
    published = {name: f"{row['published_gflops']:.3f}" for name, row in rows.items()}
    assert (
        published["baseline"] == published["baseline, one by one"] == published["fixed 13.0, masked only"] == "12.908"
    )
    assert published["fixed 13.0, packed"] == published["static top 88"] == "8.874"
    before, after = (rows[name]["published_gflops"] for name in ("baseline", "static top 88"))
    assert f"{100 * (after / before - 1):.1f}" == "-31.2"


def test_the_script_counts_on_the_model_what_it_explains_on_paper(
    result: dict[str, Any], rows: dict[str, dict[str, Any]]
) -> None:
    baseline, before_layer_1, before_layer_2, within_layer_1 = (setup["gflops"] for setup in result["explained"])
    assert rows["baseline"]["published_gflops"] == pytest.approx(baseline, rel=1e-12)
    assert rows["static top 88"]["published_gflops"] == pytest.approx(before_layer_1, rel=1e-12)
    assert (f"{before_layer_2:.3f}", f"{within_layer_1:.3f}") == ("8.874", "8.875")


def test_all_products_are_two_operations_each_with_attention(rows: dict[str, dict[str, Any]]) -> None:
    layers = 2 * 2 * 2048 * (4 * 512**2 + 2 * 512 * 2048)
    attention = 2 * 2 * 2 * 16 * 128 * 128 * 512
    head = 2 * 2048 * 512 * 2
    assert rows["baseline"]["gflops"] == pytest.approx((layers + attention + head) / 1e9, rel=1e-12)


def test_what_saves_and_what_does_not(rows: dict[str, dict[str, Any]]) -> None:
    baseline, packed, masked = rows["baseline"], rows["fixed 13.0, packed"], rows["fixed 13.0, masked only"]
    assert masked["gflops"] == baseline["gflops"] > packed["gflops"] > rows["fixed 13.0, one by one"]["gflops"]
    assert packed["fewest"] < packed["most"] == 88
    assert packed["peak_mib"] < baseline["peak_mib"]
    # About the same share as the static form on average, and dearer, for the batch is as long as its longest image.
    quantile, static = rows["quantile"], rows["static top 88"]
    assert quantile["fewest"] < static["most"] < quantile["most"]
    assert quantile["gflops"] > static["gflops"]


def test_a_quantile_fits_the_threshold_to_the_data_and_a_fixed_one_does_not(result: dict[str, Any]) -> None:
    assert result["quantile"]["kept"][1] == pytest.approx(88, abs=0.1)
    assert result["fixed_keeps"]["smaller"] < result["fixed_keeps"]["fixed"] / 2
    assert result["same_answers_within"] < 1e-4


def test_the_table_has_a_row_for_each_way_and_the_plain_sentences(
    result: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_path(str(EXAMPLE))["show"](result)
    shown = capsys.readouterr().out
    for row in result["rows"]:
        assert row["name"] in shown
    for words in ("12.908", "8.874", "-31.2%", "varies from image to image", "Masked, nothing is saved", "CUDA graph"):
        assert words in shown


def test_a_wrong_option_is_refused_with_the_usage() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE), "--slow"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage:" in done.stderr
