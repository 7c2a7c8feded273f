from __future__ import annotations

from pathlib import Path

import pytest

from pomt_edge.errors import UserError
from pomt_edge.measure.journal import NAME, Journal


def test_entries_survive_and_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    with Journal(tmp_path, {"model": "a"}) as journal:
        journal.add({"tokens": 1})
        journal.add({"tokens": 2})
    path = tmp_path / NAME
    path.write_text(path.read_text()[:-4])
    with Journal(tmp_path, {"model": "a"}) as journal:
        assert journal.entries == [{"tokens": 1}]
        journal.add({"tokens": 3})
    with Journal(tmp_path, {"model": "a"}) as journal:
        assert journal.entries == [{"tokens": 1}, {"tokens": 3}]


def test_a_header_cut_short_starts_afresh(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text('{"configur')
    with Journal(tmp_path, {"model": "a"}) as journal:
        assert journal.entries == []


def test_another_configuration_is_refused_by_the_field_that_differs(tmp_path: Path) -> None:
    Journal(tmp_path, {"model": "a", "batch_size": 1, "std": (0.5, 0.5)}).__exit__(None, None, None)
    with pytest.raises(UserError, match="batch_size is 1 there, 4 now"):
        Journal(tmp_path, {"model": "a", "batch_size": 4, "std": (0.5, 0.5)})
    with Journal(tmp_path, {"model": "a", "batch_size": 1, "std": (0.5, 0.5)}):
        pass


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with Journal(tmp_path, {}), pytest.raises(UserError, match="another run is writing there"):
        Journal(tmp_path, {})


def test_a_damaged_or_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("not json\n")
    with pytest.raises(UserError, match=r"measurements\.jsonl is damaged"):
        Journal(tmp_path, {})
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="can't be written"):
        Journal(file / "below", {})
