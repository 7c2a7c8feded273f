from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import samples

from pomt_edge.records import Plan, RecordError, Result


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = samples.staircase()
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "none"}, r"Plan.schedule: expected a list"),
        ({"schedule": [1.5]}, r"Plan.schedule: expected int, got 1.5"),
        ({"removed": None}, r"Plan.removed: expected int, got None"),
        ({"removed": 1}, r"Plan.schedule \[.*\] does not remove the 1 of Plan.removed"),
        ({"tokens_out": 3}, r"Plan.tokens_out is 3, but \d+ tokens less \d+ removed are \d+"),
        ({"batch_size": -4}, r"Plan.batch_size -4 and image_px \d+: expected 1 or more"),
        ({"schema": 99}, r"Plan.schema is 99, this version reads up to 1"),
    ],
)
def test_a_file_that_is_no_plan_says_which_field(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(samples.few().plan.to_dict() | change))
    with pytest.raises(RecordError, match=message):
        Plan.load(path)


def test_a_missing_field_and_a_missing_file_are_named(tmp_path: Path) -> None:
    data = samples.few().plan.to_dict()
    del data["block"]
    with pytest.raises(RecordError, match="the field 'block' is missing"):
        Plan.from_dict(data)
    with pytest.raises(RecordError, match=r"absent\.json: No such file"):
        Plan.load(tmp_path / "absent.json")


def test_a_plan_is_loaded_from_the_folder_of_a_run_and_newer_fields_are_ignored(tmp_path: Path) -> None:
    plan = samples.few().plan
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict() | {"invented_later": 1}))
    assert Plan.load(tmp_path) == plan
    assert dataclasses.replace(plan, block=9) != plan
