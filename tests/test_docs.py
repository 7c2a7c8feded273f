"""What CONTRIBUTING.md shows works as shown: a new method is one file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from reduce_models import images, small

from pomt_edge import reduce_model
from pomt_edge.reduce import tokens

ROOT = Path(__file__).parents[1]


def test_the_method_shown_is_found_by_its_file_and_removes_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = re.search(r"`l2_norm\.py`:\n\n```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert shown is not None
    (tmp_path / "l2_norm.py").write_text(shown[1])
    monkeypatch.setattr(tokens, "__path__", [*tokens.__path__, str(tmp_path)])
    reduced = reduce_model(small(), method="l2_norm", schedule=[0, 10, 5, 0])
    with torch.inference_mode():
        assert reduced.forward_features(images(2)).shape == (2, 50, 64)
        maps = reduced.token_maps(images(2))
    assert maps[1].kept.shape == (2, 55) and maps[2].kept.shape == (2, 50)
