"""A picture of what a token reduction did to one image: which patches were kept, merged, averaged or dropped."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Okabe and Ito's, told apart by colour-blind readers as well."""

LEAST_CELL_PX = 24
LEAST_PANEL_PX = 336
DROPPED_LIGHT = 0.22
"""Share of a dropped patch's light that is left."""
AVERAGED_LIGHT = 0.45
TINT = 0.38
"""Share of a group's colour in its patches; the rest is grey, so that no kept patch looks like them."""
DROPPED_STRIPE = 64
"""Level of grey."""
STRIPE_EVERY = 10
"""Pixels from one stripe to the next."""

INK, PAPER = (32, 32, 32), (255, 255, 255)
FONT_PX, LINE_PX, MARGIN_PX, SAMPLE_PX = 14, 24, 16, 16


@dataclass(frozen=True)
class Patches:
    """What became of the patches of one image; the arrays are [rows, columns]."""

    slots: npt.NDArray[np.int64]
    """The output slot that holds each patch; below 0: dropped."""
    averaged: Mask
    """Whether it went into one mean of all that was discarded."""

    @functools.cached_property
    def dropped(self) -> Mask:
        return self.slots < 0

    @functools.cached_property
    def grouped(self) -> Mask:
        """Patches that share their token with others like them."""
        _, place, sizes = np.unique(self.slots, return_inverse=True, return_counts=True)
        shared = (sizes > 1)[place].reshape(self.slots.shape)
        return shared & ~self.averaged & ~self.dropped

    @functools.cached_property
    def kept(self) -> Mask:
        """Patches with a token of their own."""
        return ~(self.dropped | self.averaged | self.grouped)

    def counts(self) -> dict[str, int]:
        """Patches of each kind, and how many tokens the merged and the averaged ones are now."""
        return {
            "kept": int(self.kept.sum()),
            "merged": int(self.grouped.sum()),
            "merged_into": len(np.unique(self.slots[self.grouped])),
            "averaged": int(self.averaged.sum()),
            "averaged_into": len(np.unique(self.slots[self.averaged])),
            "dropped": int(self.dropped.sum()),
        }

    def sentence(self) -> str:
        """The counts in words."""
        counts = self.counts()
        parts = [f"{counts['kept']} of {self.slots.size} patches kept"]
        if counts["merged"]:
            parts.append(f"{counts['merged']} merged into {counts['merged_into']}")
        if counts["averaged"]:
            parts.append(f"{counts['averaged']} averaged into {counts['averaged_into']}")
        if counts["dropped"]:
            parts.append(f"{counts['dropped']} dropped")
        return ", ".join(parts)


def picture(pixels: Pixels, patches: Patches, facts: Sequence[str]) -> Image:
    """The image as it is, the same with its patches marked, and a legend below.

    Args:
        pixels: [height, width, 3], a whole number of pixels per patch.
        facts: what the legend says behind the counts, such as the method.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = _scale(pixels.shape[:2], patches.slots.shape)
    original = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = original.shape[:2]
    page_width, below = 2 * width + 3 * MARGIN_PX, height + 2 * MARGIN_PX
    font = ImageFont.load_default(FONT_PX)
    entries = _laid_out([*_entries(patches), *((None, fact) for fact in facts)], page_width, font)
    page = Image.new("RGB", (page_width, below + (entries[-1].line + 1) * LINE_PX + MARGIN_PX), PAPER)
    page.paste(Image.fromarray(original), (MARGIN_PX, MARGIN_PX))
    page.paste(Image.fromarray(annotated(original, patches)), (2 * MARGIN_PX + width, MARGIN_PX))
    draw = ImageDraw.Draw(page)
    for entry in entries:
        middle = below + entry.line * LINE_PX + LINE_PX // 2
        if entry.sample is not None:
            page.paste(Image.fromarray(entry.sample), (entry.left, middle - SAMPLE_PX // 2))
        draw.text((entry.text_left, middle), entry.text, INK, font, anchor="lm")
    return page


def _scale(pixels: tuple[int, ...], grid: tuple[int, ...]) -> int:
    """How many times larger the image is drawn, so that patches can be told apart."""
    patch_px = min(pixels[0] // grid[0], pixels[1] // grid[1])
    return max(math.ceil(LEAST_CELL_PX / patch_px), math.ceil(LEAST_PANEL_PX / max(pixels)))


def annotated(original: Pixels, patches: Patches) -> Pixels:
    """The image with its patches marked; inside of its borders a kept patch is as it was."""
    rows, columns = patches.slots.shape
    height, width = original.shape[0] // rows, original.shape[1] // columns
    # One axis for the patches' rows and one for the pixels in them, and the same for the columns.
    image = original.astype(np.float64).reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    grey = image.mean(axis=-1, keepdims=True)
    tint = _colours(patches)[:, :, None, None, :]
    stripes = _stripes(rows, columns, height, width)
    # A patch that was black has to be seen to be dropped, too.
    image = _where(patches.dropped, np.where(stripes[:, ::-1, :, ::-1], DROPPED_STRIPE, grey * DROPPED_LIGHT), image)
    image = _where(patches.grouped, grey * (1 - TINT) + tint * TINT, image)
    image = _where(patches.averaged, np.where(stripes, tint * 0.75, grey * AVERAGED_LIGHT), image)
    _grid_lines(image)
    _outline(image, patches, tint)
    return image.swapaxes(1, 2).reshape(original.shape).round().astype(np.uint8)


def _where(which: Mask, these: Numbers, others: Numbers) -> Numbers:
    return np.where(which[:, :, None, None, None], these, others)


def _stripes(rows: int, columns: int, height: int, width: int) -> Mask:
    """Rising diagonal stripes that run on from patch to patch, [rows, columns, height, width, 1]."""
    down, across = np.ogrid[: rows * height, : columns * width]
    stripes = (down + across) % STRIPE_EVERY < 2
    return stripes.reshape(rows, height, columns, width).swapaxes(1, 2)[..., None]


def _grid_lines(image: Numbers) -> None:
    """Lines at two edges of each patch, seen on dark and on light ones."""
    for edge in (image[:, :, 0], image[:, :, :, 0]):
        edge[...] = 0.6 * edge + 0.4 * 128


def _outline(image: Numbers, patches: Patches, tint: Numbers) -> None:
    """A border in the group's colour wherever a neighbour is not of the group, [rows, columns, height, width, 3]."""
    rows, columns, height, width, _ = image.shape
    border = max(2, round(min(height, width) / 10))
    bands = {-1: slice(0, border), 0: slice(None), 1: slice(-border, None)}
    around = np.pad(patches.slots, 1, constant_values=-1)
    marked = patches.grouped | patches.averaged
    for down in (-1, 0, 1):
        # The diagonal ones close the corners that the group bends around.
        for across in (-1, 0, 1):
            neighbour = around[1 + down : 1 + down + rows, 1 + across : 1 + across + columns]
            edge = image[:, :, bands[down], bands[across]]
            differs = (marked & (neighbour != patches.slots))[:, :, None, None, None]
            np.copyto(edge, np.broadcast_to(tint, edge.shape), where=differs)


def _colours(patches: Patches) -> Numbers:
    """A colour for each patch, one per group, [rows, columns, 3]: the same one is given again as far away as can be."""
    rows, columns = patches.slots.shape
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    slots = np.where(patches.grouped | patches.averaged, patches.slots, -1).ravel()
    groups, sizes = np.unique(slots[slots >= 0], return_counts=True)
    chosen = np.full(slots.shape, -1)
    for group in groups[np.argsort(-sizes, kind="stable")]:
        own = slots == group
        crowding = [_crowding(places[own], places[chosen == colour]) for colour in range(len(PALETTE))]
        chosen[own] = int(np.argmin(crowding))
    return np.asarray([*PALETTE, (0, 0, 0)], dtype=np.float64)[chosen].reshape(rows, columns, 3)


def _crowding(own: npt.NDArray[Any], others: npt.NDArray[Any]) -> float:
    """How near two sets of patches are; neighbours outweigh any number of far ones."""
    squares = ((own[:, None] - others[None]) ** 2).sum(axis=-1)
    return float((1.0 / squares**3).sum())


@dataclass(frozen=True)
class _Entry:
    """A text of the legend, and the sample before it, if there is one."""

    sample: Pixels | None
    text: str
    left: int
    line: int

    @property
    def text_left(self) -> int:
        return self.left + (0 if self.sample is None else SAMPLE_PX + 6)


def _entries(patches: Patches) -> list[tuple[Pixels | None, str]]:
    """Samples of the kinds of patches that the picture has, and what they mean."""
    counts = patches.counts()
    tokens = "one token" if counts["averaged_into"] == 1 else f"{counts['averaged_into']} tokens"
    again = " (colours repeat)" if counts["merged_into"] > len(PALETTE) else ", one colour each"
    texts = {
        "kept": f"{counts['kept']} of {patches.slots.size} patches kept",
        "merged": f"{counts['merged']} merged into {counts['merged_into']}{again}",
        "averaged": f"{counts['averaged']} averaged into {tokens}",
        "dropped": f"{counts['dropped']} dropped",
    }
    return [(_sample(kind), text) for kind, text in texts.items() if counts[kind] or kind == "kept"]


def _sample(kind: str) -> Pixels:
    """A light patch of this kind, drawn as all others are."""
    ends = {"kept": (0, 1), "dropped": (-1, -1)}.get(kind, (0, 0))
    slots = np.array([[ends[0], 2, ends[1]]])
    patches = Patches(slots, (slots == 0) & (kind == "averaged"))
    return annotated(np.full((SAMPLE_PX, 3 * SAMPLE_PX, 3), 200, dtype=np.uint8), patches)[:, :SAMPLE_PX]


def _laid_out(entries: Sequence[tuple[Pixels | None, str]], width: int, font: Any) -> list[_Entry]:
    """One entry behind the other, in lines of the page's width; what has no sample begins a line."""
    placed: list[_Entry] = []
    left, line = MARGIN_PX, 0
    for sample, text in entries:
        entry = _Entry(sample, text, left, line)
        end = entry.text_left + math.ceil(font.getlength(text))
        facts_begin = sample is None and placed and placed[-1].sample is not None
        if facts_begin or (left > MARGIN_PX and end > width - MARGIN_PX):
            end -= left - MARGIN_PX
            line += 1
            entry = _Entry(sample, text, MARGIN_PX, line)
        placed.append(entry)
        left = end + 22
    return placed
