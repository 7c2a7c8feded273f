from __future__ import annotations

import pytest

from pomt_edge import profiles
from pomt_edge.errors import UserError


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_marks_the_evidence_of_each_figure(name: str) -> None:
    profile = profiles.load(name)
    assert profile.name and profile.kind in ("cpu", "cuda")
    assert profile.kind == "cpu" or {"sm_count", "gpu_clock_ghz"} <= profile.figures.keys()


def test_a_device_is_recognised_by_its_drivers_name() -> None:
    profile = profiles.recognise("NVIDIA H200")
    assert profile is not None and profile.id == "h200" and profile.figures["sm_count"].value == 132
    assert profiles.recognise("NVIDIA Something Else") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'", "x.toml: the field 'figures' is missing"),
        ("name = ", "x.toml: "),
        ("name='x'\nkind='cpu'\nrecognised_by=[]\n[figures]\nsm_count=[1,'Z']", r"sm_count is \[1, 'Z'\]; expected"),
        ("name='x'\nkind='cpu'\nrecognised_by=[]\n[figures]\nsm_count=1", "x.toml: "),
    ],
)
def test_a_wrong_file_is_named_with_its_field(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        profiles.parse("x", text)
    with pytest.raises(UserError, match="unknown device profile 'h20'; known: h200"):
        profiles.load("h20")
