"""Shared by all tests: helper modules beside the tests can be imported by their name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
for folder in ("reduce", "measure", "report", "choose", "fakes", "scripts"):
    sys.path.insert(0, str(HERE / folder))


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    """A command that was given --threads sets them for the whole process."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
