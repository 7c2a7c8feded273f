"""Images for accuracy: class folders, or a folder without classes, or the embedded demo's."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from pomt_edge import demo
from pomt_edge.errors import UserError
from pomt_edge.records import Preprocessing

Item = tuple[Path, int | None]
Transform = Callable[[Image.Image], Any]


@dataclass(frozen=True)
class Images:
    """Images ready but for the normalisation, which is cheap and belongs where the model runs."""

    pixels: Tensor
    """uint8 [images, 3, height, width]"""
    labels: Tensor | None
    """int64 [images]; None where there are no classes."""
    skipped: tuple[str, ...]
    """Files that could not be read."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells whether two draws are the same images with the same labels in the same order."""
        digest = hashlib.sha256(b"" if self.labels is None else self.labels.numpy().tobytes())
        for image in self.pixels:
            digest.update(image.numpy().tobytes())
        return f"{len(self.pixels)} images, sha256:{digest.hexdigest()[:16]}"

    def batches(self, preprocessing: Preprocessing, size: int) -> Iterator[Tensor]:
        """Normalised float32 batches [B, 3, height, width], made one at a time: a board has little memory."""
        mean = torch.tensor(preprocessing.mean).view(1, -1, 1, 1)
        std = torch.tensor(preprocessing.std).view(1, -1, 1, 1)
        return ((part.float() / 255 - mean) / std for part in self.pixels.split(size))


def read_folder(
    folder: Path, preprocessing: Preprocessing, count: int, seed: int, classes: int, labelled: bool
) -> Images:
    """A seeded draw of `count` images of a folder, balanced over its classes where it has them.

    Raises:
        UserError: no such folder, no images, or class folders that do not match the model's classes.
    """
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such folder; expected {_layout(labelled)}")
    items = _labelled_items(folder, classes) if labelled else _unlabelled_items(folder)
    chosen = draw(items, count, seed)
    pixels = torch.empty(len(chosen), 3, preprocessing.image_px, preprocessing.image_px, dtype=torch.uint8)
    transform = transform_of(preprocessing)

    def read(row: int) -> bool:
        image = _read(chosen[row][0], transform)
        if image is not None:
            pixels[row] = image
        return image is not None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        readable = torch.tensor(list(pool.map(read, range(len(chosen)))))
    if not readable.any():
        raise UserError(f"--data {folder}: none of its {len(chosen)} images can be read")
    skipped = tuple(str(path) for (path, _), good in zip(chosen, readable, strict=True) if not good)
    labels = torch.tensor([label for _, label in chosen])[readable] if labelled else None
    return Images(pixels if readable.all() else pixels[readable], labels, skipped)


def read_demo(count: int, seed: int, labelled: bool) -> Images:
    """A class-balanced draw of the embedded demo's images, grey repeated to three channels."""
    pixels, labels = demo.read_images()
    items = [(Path(str(index)), int(label)) for index, label in enumerate(labels)]
    index = np.array([int(path.name) for path, _ in draw(items, count, seed)])
    chosen = torch.from_numpy(pixels[index]).unsqueeze(1).repeat(1, 3, 1, 1)
    return Images(chosen, torch.from_numpy(labels[index]).long() if labelled else None, ())


def pixels_of(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """One image as a model sees it, but for the normalisation: uint8 [3, height, width]."""
    return torch.as_tensor(transform_of(preprocessing)(image.convert("RGB")))


def draw(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """At most `count` items: as many of each class as there are, in turn; the same for the same seed."""
    generator = np.random.default_rng(seed)
    by_class: dict[int | None, list[Item]] = {}
    for position in generator.permutation(len(items)):
        by_class.setdefault(items[position][1], []).append(items[position])
    queues = [by_class[label] for label in sorted(by_class, key=lambda label: -1 if label is None else label)]
    in_turn = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return in_turn[:count]


def _layout(labelled: bool) -> str:
    return "one folder of images per class" if labelled else "a folder of images"


def _labelled_items(folder: Path, classes: int) -> list[Item]:
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    items: list[Item] = [(path, label) for label, sub in _class_indices(folders, classes) for path in images_under(sub)]
    if not items:
        raise UserError(f"--data {folder}: no images in class folders; expected {_layout(True)}, or give --unlabelled")
    if len(folders) != classes:
        raise UserError(
            f"--data {folder} has {len(folders)} class folders, the model {classes} classes; they have to match "
            "(--num-classes), or give --unlabelled to measure agreement"
        )
    return items


def _class_indices(folders: Sequence[Path], classes: int) -> list[tuple[int, Path]]:
    """Folders named by the class's number go by it, others by the order of their names, as torchvision has it."""
    names = [path.name for path in folders]
    if all(name.isdecimal() for name in names) and sorted(map(int, names)) == list(range(classes)):
        return [(int(path.name), path) for path in folders]
    return list(enumerate(folders))


def _unlabelled_items(folder: Path) -> list[Item]:
    items: list[Item] = [(path, None) for path in images_under(folder)]
    if not items:
        raise UserError(f"--data {folder}: no images; expected {_layout(False)}")
    return items


def images_under(folder: Path) -> list[Path]:
    """All image files below a folder, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())


def transform_of(preprocessing: Preprocessing) -> Transform:
    """timm's own preparation for evaluation, up to the pixels: to uint8 [3, height, width]."""
    size = preprocessing.image_px
    transform: Transform = timm.data.create_transform(
        input_size=(3, size, size),
        use_prefetcher=True,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
    )
    return transform


def _read(path: Path, transform: Transform) -> Tensor | None:
    try:
        with Image.open(path) as image:
            return torch.as_tensor(transform(image.convert("RGB")))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
