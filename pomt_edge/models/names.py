"""From what a user types to timm's name of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pomt_edge import catalogue
from pomt_edge.errors import UserError

USUAL_IMAGE_PX = 224


def resolve(typed: str, known: Sequence[str]) -> str:
    """The full name that `typed` stands for, such as `deit_small_patch16_224` for `deit_small`.

    A full name stands for itself, with or without a pretrained tag (`name.tag`). A short name stands for its
    plain variant `<name>_patch<p>_<px>`: at 224 pixels where only the image size is open, never guessing a
    patch size, which decides the token count. Failing that, any prefix of just one name will do.

    Raises:
        UserError: an unknown or ambiguous name; the message lists the nearest.
    """
    if typed.split(".")[0] in known:
        return typed
    plain = [name for name in known if re.fullmatch(re.escape(typed) + r"_patch\d+_\d+", name)]
    if len({name.rsplit("_", 1)[0] for name in plain}) == 1:
        usual = [name for name in plain if name.endswith(f"_{USUAL_IMAGE_PX}")]
        if len(plain) == 1 or usual:
            return (usual or plain)[0]
    begins = [name for name in known if name.startswith(typed)] if typed else []
    if len(begins) == 1:
        return begins[0]
    if begins:
        choices = plain or begins
        shown = ", ".join(choices[:8]) + (", …" if len(choices) > 8 else "")
        raise UserError(f"--model {typed} is ambiguous: {len(begins)} models begin so; give one of them: {shown}")
    raise UserError(f"--model {typed} is unknown; the nearest: {', '.join(_nearest(typed, known))} (or 'demo')")


def _nearest(typed: str, known: Sequence[str]) -> list[str]:
    """Full names whose part before the patch size is like what was typed."""
    by_stem: dict[str, str] = {}
    for name in known:
        stem, patched, _ = name.partition("_patch")
        if patched and (stem not in by_stem or name.endswith(f"16_{USUAL_IMAGE_PX}")):
            by_stem[stem] = name
    return [by_stem[stem] for stem in catalogue.nearest(typed.partition("_patch")[0], by_stem)]
