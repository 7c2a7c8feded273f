from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pomt_edge.errors import UserError
from pomt_edge.measure import datasets
from pomt_edge.records import Preprocessing

PLAIN = Preprocessing(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "bilinear")


def folder_of(path: Path, classes: dict[str, int], size: int = 20) -> Path:
    """Class folders of grey PNGs, all of one brightness per class."""
    for brightness, (name, count) in enumerate(classes.items()):
        (path / name).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (size, size + 4), 10 * brightness).save(path / name / f"{index}.png")
    return path


def test_a_seeded_draw_is_balanced_over_the_classes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"a": 20, "b": 3, "c": 20})
    images = datasets.read_folder(folder, PLAIN, 15, 0, 3, True)
    assert images.pixels.shape == (15, 3, 16, 16) and images.labels is not None
    assert Counter(images.labels.tolist()) == {0: 6, 1: 3, 2: 6}
    same = datasets.read_folder(folder, PLAIN, 15, 0, 3, True)
    assert same.labels is not None and same.labels.tolist() == images.labels.tolist()


def test_labels_go_with_their_images(tmp_path: Path) -> None:
    images = datasets.read_folder(folder_of(tmp_path / "d", {"x": 4, "y": 4}), PLAIN, 8, 1, 2, True)
    assert images.labels is not None
    assert (images.pixels[:, 0, 8, 8] // 10).tolist() == images.labels.tolist()


def test_folders_named_by_number_are_the_classes_of_those_numbers(tmp_path: Path) -> None:
    """By name, 10 would come before 2, and every label from 2 on would be wrong."""
    folder = folder_of(tmp_path / "d", {str(index): 1 for index in range(12)})
    images = datasets.read_folder(folder, PLAIN, 12, 0, 12, True)
    assert images.labels is not None
    assert (images.pixels[:, 0, 8, 8] // 10).tolist() == images.labels.tolist()


def test_unreadable_images_are_skipped_and_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "d", {"a": 3, "b": 3})
    (folder / "a" / "broken.png").write_bytes(b"no image")
    (folder / "a" / "notes.txt").write_text("no image either, and not counted as one")
    images = datasets.read_folder(folder, PLAIN, 100, 0, 2, True)
    assert len(images.pixels) == 6
    assert [Path(path).name for path in images.skipped] == ["broken.png"]


def test_crop_and_normalisation_are_as_asked(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pixels = np.zeros((32, 32), dtype=np.uint8)
    pixels[8:24, 8:24] = 255
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    half = Preprocessing(16, (0.5,) * 3, (0.25,) * 3, 0.5, "bilinear")
    images = datasets.read_folder(tmp_path, half, 1, 0, 1, True)
    (batch,) = images.batches(half, 4)
    assert batch.unique().tolist() == [2.0], "a crop of half the side is the white square alone: (1 - 0.5) / 0.25"


@pytest.mark.parametrize(
    ("classes", "labelled", "message"),
    [
        ({}, True, "no images in class folders"),
        ({"a": 0, "b": 0}, True, "no images in class folders"),
        ({"a": 1, "b": 1}, True, "2 class folders, the model 3 classes"),
        ({}, False, "no images"),
    ],
)
def test_data_that_does_not_fit_is_said_to(
    tmp_path: Path, classes: dict[str, int], labelled: bool, message: str
) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match=message):
        datasets.read_folder(folder_of(tmp_path / "d", classes), PLAIN, 4, 0, 3, labelled)


def test_a_folder_of_broken_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of its 1 images can be read"):
        datasets.read_folder(tmp_path, PLAIN, 4, 0, 1, True)
    with pytest.raises(UserError, match="no such folder"):
        datasets.read_folder(tmp_path / "absent", PLAIN, 4, 0, 1, True)


def test_without_classes_every_image_below_the_folder_counts(tmp_path: Path) -> None:
    images = datasets.read_folder(folder_of(tmp_path / "d", {"a": 2, "b": 2}), PLAIN, 9, 0, 1000, False)
    assert len(images.pixels) == 4 and images.labels is None
