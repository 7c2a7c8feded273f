from __future__ import annotations

import pytest
import timm

from pomt_edge.errors import UserError
from pomt_edge.models.names import resolve

KNOWN = timm.list_models()


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("deit_small", "deit_small_patch16_224"),
        ("deit_tiny", "deit_tiny_patch16_224"),
        ("deit_base", "deit_base_patch16_224"),
        ("deit_base_patch16_384", "deit_base_patch16_384"),
        ("deit_small_distilled", "deit_small_distilled_patch16_224"),
        ("vit_tiny", "vit_tiny_patch16_224"),
        ("vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.augreg_in21k"),
        ("vit_small_patch14_reg4", "vit_small_patch14_reg4_dinov2"),
    ],
)
def test_short_and_full_names(typed: str, name: str) -> None:
    assert resolve(typed, KNOWN) == name


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("deit_smal1", r"unknown; the nearest: .*deit_small_patch16_224"),
        ("diet_small", r"unknown; the nearest: .*deit_small"),
        ("vit_base", r"ambiguous: .*vit_base_patch16_224"),
        ("deit", r"ambiguous: .*deit"),
        ("", r"unknown"),
        ("qqqqqq", r"unknown"),
    ],
)
def test_unknown_and_ambiguous_names_list_the_nearest(typed: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(typed, KNOWN)
