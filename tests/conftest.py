"""Shared by all tests: helper modules beside the tests can be imported by their name."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in ("reduce", "measure", "report", "choose", "fakes", "scripts"):
    sys.path.insert(0, str(HERE / folder))
