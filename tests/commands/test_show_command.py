"""`pomt-edge show` as a user types it: the picture, the line, the JSON, the errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from pomt_edge import Plan, demo, reduce_model
from pomt_edge.cli import run_any
from pomt_edge.report.patches import MARGIN_PX, PALETTE

POMT = ("--method", "pomt", "--schedule", "0,0,0,90,0,0,0,0")
TOME = ("--method", "tome", "--schedule", "0,0,0,60,0,0,0,0")
TOPK = ("--method", "topk", "--schedule", "0,0,0,60,0,0,40,0")
CELL_PX = 24
"""Of the demo's 14 x 14 patches as they are drawn."""


def show(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    code = run_any(["show", *map(str, words)])
    return code, *capsys.readouterr()


def drawn(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code, out, err = show(capsys, *words, "--json")
    assert code == 0 and not err
    return json.loads(out)


def cells(picture: Path, cell_px: int = CELL_PX) -> tuple[np.ndarray, np.ndarray]:
    """The inside of each patch, without its borders, of the original and of the annotated image: [196, h, w, 3]."""
    pixels = np.asarray(Image.open(picture)).astype(int)
    side = 14 * cell_px
    panels = []
    for left in (MARGIN_PX, 2 * MARGIN_PX + side):
        panel = pixels[MARGIN_PX : MARGIN_PX + side, left : left + side]
        grid = panel.reshape(14, cell_px, 14, cell_px, 3).swapaxes(1, 2).reshape(196, cell_px, cell_px, 3)
        panels.append(grid[:, 4:-4, 4:-4])
    return panels[0], panels[1]


def corner_colours(picture: Path) -> list[tuple[int, ...]]:
    """The pixel at the upper left edge of each patch of the annotated image."""
    pixels = np.asarray(Image.open(picture))
    left = 2 * MARGIN_PX + 14 * CELL_PX
    places = [(MARGIN_PX + CELL_PX * row, left + CELL_PX * column) for row in range(14) for column in range(14)]
    return [tuple(map(int, pixels[place])) for place in places]


def plan_of_the_demo(path: Path, **changes: Any) -> Path:
    fields = {
        "model": "demo",
        "method": "pomt",
        "schedule": (0, 0, 0, 90, 0, 0, 0, 0),
        "tokens_in": 197,
        "tokens_out": 107,
        "removed": 90,
        "block": 3,
        "image_px": 28,
        "num_classes": 10,
    }
    dataclasses.replace(samples.few().plan, **(fields | changes)).save(path)
    return path


def test_a_plan_and_a_demo_image_make_a_picture_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan_of_the_demo(tmp_path / "plan.json")
    code, out, err = show(capsys, "--plan", tmp_path, "demo:7")
    assert code == 0 and not err
    expected = "demo-7-pomt.png: pomt, 105 of 196 patches kept, 91 averaged into 1; class 6 with and without reduction"
    assert out.splitlines() == [expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo-7-pomt.png", "plan.json"]
    with Image.open("demo-7-pomt.png") as picture:
        assert picture.format == "PNG" and picture.width == 2 * 14 * CELL_PX + 3 * MARGIN_PX
        assert picture.height > 14 * CELL_PX + 2 * MARGIN_PX
    assert "107 tokens" not in out and show(capsys, "--plan", "plan.json", "demo:7", "-o", "again.png")[0] == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "demo-7-pomt.png").read_bytes()


def test_the_json_is_what_the_model_itself_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = drawn(capsys, "demo:3", *TOPK, "-o", tmp_path / "x.png")
    model = demo.build_model()
    reduced = reduce_model(model, method="topk", schedule=[0, 0, 0, 60, 0, 0, 40, 0])
    pixels, _ = demo.read_images()
    batch = (torch.from_numpy(pixels[3]).float() / 255 - 0.5).div(0.5).expand(1, 3, -1, -1)
    with torch.inference_mode():
        assert found["source_map"] == reduced.source_map(batch)[0].tolist()
        assert (found["class_unreduced"], found["class_reduced"]) == (model(batch).argmax(), reduced(batch).argmax())
    assert found["picture"] == str(tmp_path / "x.png") and found["grid"] == [14, 14] and found["prefix_tokens"] == 1
    assert (found["tokens_in"], found["tokens_out"], found["kept"], found["dropped"]) == (197, 97, 96, 100)


def test_dropped_patches_are_dark_and_kept_ones_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slots = np.array(drawn(capsys, "demo:2", *TOPK, "-o", tmp_path / "x.png")["source_map"][1:])
    before, after = cells(tmp_path / "x.png")
    assert (before[slots >= 0] == after[slots >= 0]).all()
    bright = before.min(axis=(1, 2, 3)) > 100
    dropped = (slots < 0) & bright
    assert dropped.sum() > 10 and (after[dropped].max(axis=(1, 2, 3)) < before[dropped].min(axis=(1, 2, 3))).all()
    black = (slots < 0) & (before.max(axis=(1, 2, 3)) == 0)
    assert black.sum() > 10 and (after[black].max(axis=(1, 2, 3)) > 0).all()
    # The left panel is the demo's own image, enlarged.
    image = demo.read_images()[0][2].reshape(14, 2, 14, 2).swapaxes(1, 2).reshape(196, 2, 2)
    assert (before[:, 0, 0, 0] == image[:, 0, 0]).all()


def test_a_group_has_one_colour_and_its_neighbours_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = drawn(capsys, "demo:7", *TOME, "-o", tmp_path / "x.png")
    slots = np.array(found["source_map"][1:])
    before, after = cells(tmp_path / "x.png")
    names, sizes = np.unique(slots, return_counts=True)
    groups = {int(slot) for slot in names[sizes > 1]}
    assert found["merged_into"] == len(groups) > 7 and found["merged"] == sum(sizes[sizes > 1])
    alone = ~np.isin(slots, list(groups))
    assert alone.sum() == found["kept"] and (before[alone] == after[alone]).all()
    # What a tint adds to grey is the same wherever the colour is.
    grey = before.mean(axis=-1, keepdims=True)
    hue = (after - 0.62 * grey).mean(axis=(1, 2)).round()
    colours = {}
    for group in groups:
        of_group = hue[slots == group]
        assert np.ptp(of_group, axis=0).max() <= 1
        colours[group] = np.argmin([np.abs(of_group[0] - 0.38 * np.array(entry)).sum() for entry in PALETTE])
    assert len(set(colours.values())) == len(PALETTE)
    grid = slots.reshape(14, 14)
    pairs = [*zip(grid[:, :-1].flat, grid[:, 1:].flat, strict=True), *zip(grid[:-1].flat, grid[1:].flat, strict=True)]
    touching = [(a, b) for a, b in pairs if a != b and a in groups and b in groups]
    assert len(touching) > 20 and all(colours[a] != colours[b] for a, b in touching)


def test_what_pomt_averages_is_hatched_and_outlined_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = drawn(capsys, "demo:7", *POMT, "-o", tmp_path / "x.png")
    slots = np.array(found["source_map"][1:])
    averaged = slots == slots.max()
    assert (found["averaged"], found["averaged_into"], found["merged"]) == (averaged.sum(), 1, 0) == (91, 1, 0)
    before, after = cells(tmp_path / "x.png")
    assert (before[~averaged] == after[~averaged]).all()
    for patch in after[averaged]:  # stripes over something darker
        stripe = np.isclose(patch, np.array(PALETTE[0]) * 0.75, atol=1).all(axis=-1)
        assert 0.1 < stripe.mean() < 0.4
    border = [colour == PALETTE[0] for colour in corner_colours(tmp_path / "x.png")]
    alone = averaged.reshape(14, 14) & ~np.pad(averaged.reshape(14, 14), 1)[:-2, 1:-1]
    assert all(np.array(border)[alone.ravel()]) and not any(np.array(border)[~averaged])


def test_two_reductions_of_pomt_and_the_state_between_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twice = ("--method", "pomt", "--schedule", "0,40,0,0,0,40,0,0", "-o", tmp_path / "x.png")
    between = drawn(capsys, "demo:4", *twice, "--block", 4)
    assert (between["tokens_out"], between["averaged"], between["block"]) == (157, 41, 4)
    before = drawn(capsys, "demo:4", *twice, "--block", 0)
    assert before["kept"] == 196 and before["source_map"] == list(range(197))
    after = drawn(capsys, "demo:4", *twice)
    assert after["tokens_out"] == 117 and after["averaged"] >= 80 and after["block"] == 7


def test_a_file_is_prepared_as_the_model_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("deit_tiny_patch16_224", num_classes=3).state_dict(), weights)
    draw = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    Image.fromarray(draw).save(tmp_path / "photo.jpg")
    words = ["--model", "deit_tiny", "--weights", weights, "--num-classes", 3, "--method", "topk"]
    words += ["--schedule", "0,0,0,120,0,0,0,0,0,0,0,0", "-o", tmp_path / "x.png"]
    found = drawn(capsys, tmp_path / "photo.jpg", *words)
    assert found["model"] == "deit_tiny_patch16_224" and found["weights"].startswith("sha256:")
    assert found["class_unreduced"] in (0, 1, 2) and len(found["source_map"]) == 197
    before, _ = cells(tmp_path / "x.png", 32)
    crops = [before]
    drawn(capsys, tmp_path / "photo.jpg", *words, "--crop-pct", 0.5)
    crops.append(cells(tmp_path / "x.png", 32)[0])
    assert (crops[0] != crops[1]).any()
    # Smaller images make fewer tokens, which the schedule must fit.
    code, _, err = show(capsys, tmp_path / "photo.jpg", *words, "--image-size", 112)
    assert code == 2 and "block 3 can't remove 120 of 50 tokens" in err


def errors(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code, out, err = show(capsys, *words)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_errors_say_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of_the_demo(tmp_path / "plan.json")
    (tmp_path / "text.png").write_text("not an image")
    Image.new("RGB", (30, 30)).save(tmp_path / "own.png")
    kept = (tmp_path / "own.png").read_bytes()
    assert "none.jpg: no such file; expected an image, or demo:N" in errors(capsys, "none.jpg", *POMT)
    assert "is a folder; expected an image" in errors(capsys, tmp_path, *POMT)
    assert "text.png can't be read as an image; expected a PNG" in errors(capsys, "text.png", *POMT)
    assert "demo:2000: the embedded demo has images demo:0 to demo:1999" in errors(capsys, "demo:2000", *POMT)
    assert "demo:0 to demo:1999" in errors(capsys, "demo:x", *POMT)
    assert "give --plan PATH, or --method NAME and --schedule" in errors(capsys, "demo:1")
    assert "give --plan PATH, or --method NAME and --schedule" in errors(capsys, "demo:1", "--method", "pomt")
    assert "not both" in errors(capsys, "demo:1", "--plan", plan, *POMT)
    assert "--schedule 0;90: expected tokens removed" in errors(
        capsys, "demo:1", "--method", "pomt", "--schedule", "0;90"
    )
    assert "expected 8, got 2" in errors(capsys, "demo:1", "--method", "pomt", "--schedule", "0,90")
    assert "unknown method 'pompt'; known: pomt" in errors(capsys, "demo:1", "--method", "pompt", *POMT[2:])
    assert "--block 8: the model has 8 blocks, 0 to 7" in errors(capsys, "demo:1", *POMT, "--block", 8)
    assert "no folder" in errors(capsys, "demo:1", *POMT, "-o", "none/x.png")
    assert "ends in .png" in errors(capsys, "demo:1", *POMT, "-o", "x.jpg")
    assert "is the image itself" in errors(capsys, "own.png", *POMT, "-o", tmp_path / "own.png")
    assert "--crop-pct 7 is out of range" in errors(capsys, "own.png", *POMT, "--crop-pct", 7)
    assert "--interpolation soft" in errors(capsys, "own.png", *POMT, "--interpolation", "soft")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.png", "plan.json", "text.png"]
    assert (tmp_path / "own.png").read_bytes() == kept


def test_plans_that_do_not_fit_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of_the_demo(tmp_path / "plan.json")
    err = errors(capsys, "demo:1", "--plan", plan, "--model", "deit_tiny")
    assert "is for demo, not deit_tiny: leave out --model, or give --method and --schedule" in err
    assert "no such file" in errors(capsys, "demo:1", "--plan", tmp_path / "none.json").lower()
    (tmp_path / "list.json").write_text("[]")
    err = errors(capsys, "demo:1", "--plan", tmp_path / "list.json")
    assert "expected the folder of a run, or its plan.json" in err
    other = plan_of_the_demo(tmp_path / "other.json", tokens_in=150, tokens_out=60)
    assert "the plan is for 150 tokens, the model has 197" in errors(capsys, "demo:1", "--plan", other)


def test_without_weights_and_without_a_network_it_asks_for_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    err = errors(capsys, "demo:1", "--model", "deit_tiny", "--method", "topk", "--schedule", "0,0,0,9,0,0,0,0,0,0,0,0")
    assert "the pretrained weights of deit_tiny_patch16_224 can't be had" in err and "give --weights FILE" in err


def test_a_plan_that_keeps_all_shows_the_image_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of_the_demo(tmp_path / "plan.json", schedule=(0,) * 8, tokens_out=197, removed=0, verdict="keep")
    assert Plan.load(plan).verdict == "keep"
    found = drawn(capsys, "demo:1", "--plan", plan, "-o", tmp_path / "x.png")
    assert found["kept"] == 196 and found["source_map"] == list(range(197))
    before, after = cells(tmp_path / "x.png")
    assert (before == after).all()
