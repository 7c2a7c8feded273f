"""Source maps against the tokens that the reduction itself makes, and tokens laid out as they were."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reduce_models import VARIANTS, images, small
from torch import Tensor

from pomt_edge import reduce_model
from pomt_edge.errors import UserError
from pomt_edge.reduce import source
from pomt_edge.reduce.reduced_model import ReducedModel
from pomt_edge.reduce.token_map import TokenMap, ones

METHODS = ("pomt", "pomt:score=cls", "topk", "tome", "pitome", "pitome:mode=plain", "l2_norm", "random")
SCHEDULES = ([0, 20, 0, 0], [0, 20, 9, 6], [5, 0, 0, 11])


def applied(maps: dict[int, TokenMap], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and sizes as the reducing blocks themselves make them."""
    sizes: Tensor | None = ones(tokens)
    for block in sorted(maps):
        tokens, sizes = maps[block].apply(tokens, sizes)
    assert sizes is not None
    return tokens, sizes


def shares(maps: dict[int, TokenMap], batch: int, count: int) -> tuple[Tensor, Tensor]:
    """How much of each original token is in each slot [B, M, N], by one-hot features; and the slots' sizes."""
    return applied(maps, torch.eye(count, dtype=torch.float64).expand(batch, -1, -1))


def assert_agrees(found: Tensor, content: Tensor, sizes: Tensor) -> None:
    """Each token is in its slot, in no other, and in equal parts with all that share it."""
    slots = torch.arange(content.shape[1]).view(1, -1, 1)
    inside = found.unsqueeze(1) == slots
    torch.testing.assert_close(content, inside / sizes.unsqueeze(-1).double(), rtol=1e-6, atol=1e-7)
    assert torch.equal(inside.sum(dim=2), sizes.long())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("variant", ["class token", "distillation token", "four registers"])
def test_each_token_is_in_the_slot_that_the_map_says(name: str, schedule: list[int], variant: str) -> None:
    reduced = reduce_model(VARIANTS[variant](), method=name, schedule=schedule)
    batch = images(3)
    with torch.inference_mode():
        maps, found = reduced.token_maps(batch), reduced.source_map(batch)
        leaving = reduced.forward_features(batch).shape[1]
    assert found.shape == (3, reduced.tokens_in) and leaving == reduced.tokens_in - sum(schedule)
    assert torch.equal(found[:, : reduced.prefix], torch.arange(reduced.prefix).expand(3, -1))
    assert set(found.unique().tolist()) - {-1} == set(range(leaving))
    assert ((found == -1).sum(dim=1) == sum(schedule) * name.startswith(("topk", "l2", "random"))).all()
    assert_agrees(found, *shares(maps, 3, reduced.tokens_in))


def test_it_works_without_a_class_token() -> None:
    reduced = reduce_model(VARIANTS["no class token"](), method="tome", schedule=[0, 20, 9, 0])
    with torch.inference_mode():
        assert_agrees(reduced.source_map(images(2)), *shares(reduced.token_maps(images(2)), 2, reduced.tokens_in))


@st.composite
def chains(draw: st.DrawFn) -> tuple[dict[int, TokenMap], int, int]:
    """Maps of several blocks, each of any kind: some kept, some merged into slots or into a mean, some dropped."""
    batch, count = draw(st.integers(1, 3)), draw(st.integers(4, 14))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    maps, entering = {}, count
    for block in draw(st.lists(st.integers(0, 11), unique=True, max_size=3).map(sorted)):
        order = torch.stack([torch.randperm(entering, generator=generator) for _ in range(batch)])
        keep = draw(st.integers(1, entering))
        merge = draw(st.integers(0, entering - keep))
        kind = draw(st.sampled_from(["mean", "slots"])) if merge else "none"
        merged = order[:, keep : keep + merge] if merge else None
        into = torch.randint(keep, (batch, merge), generator=generator) if kind == "slots" else None
        maps[block] = TokenMap(order[:, :keep], merged, into)
        entering = keep + (kind == "mean")
    return maps, batch, count


@settings(deadline=None, max_examples=80)
@given(chains())
def test_any_maps_of_any_blocks_compose(case: tuple[dict[int, TokenMap], int, int]) -> None:
    maps, batch, count = case
    found = source.source_map(maps, count).expand(batch, -1)
    assert_agrees(found, *shares(maps, batch, count))
    # The order in which the blocks are given does not matter.
    assert torch.equal(found, source.source_map(dict(reversed(maps.items())), count).expand(batch, -1))


@settings(deadline=None, max_examples=80)
@given(chains())
def test_unmerging_gives_kept_tokens_back_and_means_to_all_that_made_them(
    case: tuple[dict[int, TokenMap], int, int],
) -> None:
    maps, batch, count = case
    original = torch.randn(batch, count, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = source.source_map(maps, count)
    back = source.unmerge(applied(maps, original)[0], found)
    assert back.shape == original.shape
    found = found.expand(batch, -1)
    for image in range(batch):
        for token in range(count):
            fellows = found[image] == found[image, token]
            if found[image, token] == -1:
                assert (back[image, token] == 0).all()
            elif fellows.sum() == 1:
                torch.testing.assert_close(back[image, token], original[image, token], rtol=0, atol=1e-15)
            else:
                torch.testing.assert_close(back[image, token], original[image, fellows].mean(dim=0))


@pytest.mark.parametrize("name", METHODS)
def test_unmerging_a_models_own_tokens_restores_the_kept_ones_exactly(name: str) -> None:
    reduced = reduce_model(small(), method=name, schedule=[0, 20, 9, 0])
    with torch.inference_mode():
        tokens, found = reduced.forward_features(images(2)), reduced.source_map(images(2))
    back = source.unmerge(tokens, found)
    assert back.shape == (2, reduced.tokens_in, tokens.shape[2])
    for image in range(2):
        for token, slot in enumerate(found[image].tolist()):
            expected = tokens[image, slot] if slot >= 0 else torch.zeros_like(tokens[image, 0])
            assert torch.equal(back[image, token], expected)


def test_the_nearest_patch_left_stands_in_for_a_dropped_one() -> None:
    # A grid of 3 x 3 behind two prefix tokens; the patches at the upper left and the lower right are left.
    found = torch.tensor([[0, 1, 2, -1, -1, -1, -1, -1, -1, -1, 3]])
    tokens = torch.tensor([[[10.0], [11.0], [1.0], [2.0]]])
    back = source.unmerge(tokens, found, fill="nearest", prefix=2)
    # Of equally near ones the first: the whole other diagonal goes to the upper left.
    assert back.flatten().tolist() == [10, 11, 1, 1, 1, 1, 1, 2, 1, 2, 2]
    wide = source.unmerge(tokens[:, 1:], torch.tensor([[0, 1, -1, -1, 2]]), fill="nearest", grid=(1, 4))
    assert wide.flatten().tolist() == [11, 1, 1, 2, 2]


def test_every_position_is_filled_by_the_nearest_and_survivors_keep_theirs() -> None:
    reduced = reduce_model(VARIANTS["four registers"](), method="topk", schedule=[0, 40, 0, 10])
    with torch.inference_mode():
        tokens, found = reduced.forward_features(images(2)), reduced.source_map(images(2))
    plain = source.unmerge(tokens, found)
    filled = source.unmerge(tokens, found, fill="nearest", prefix=reduced.prefix)
    left = found >= 0
    assert torch.equal(filled[left], plain[left])
    assert (plain[~left] == 0).all() and (filled[~left] != 0).any(dim=-1).all()


def test_an_image_without_any_patch_left_is_zeros_and_others_are_not() -> None:
    found = torch.tensor([[0, -1, -1, -1, -1], [0, -1, 1, -1, -1]])
    back = source.unmerge(torch.ones(2, 2, 3), found, fill="nearest")
    assert (back[0, 1:] == 0).all() and (back[1] == 1).all()


def test_without_a_reduction_all_is_where_it_was() -> None:
    reduced = reduce_model(small(), method="pomt", schedule=[0, 0, 0, 0])
    with torch.inference_mode():
        tokens, found = reduced.forward_features(images(3)), reduced.source_map(images(3))
    assert torch.equal(found, torch.arange(reduced.tokens_in).expand(3, -1))
    assert torch.equal(source.unmerge(tokens, found), tokens)
    assert torch.equal(source.unmerge(tokens, source.source_map({}, reduced.tokens_in)), tokens)
    assert not source.averaged({}, reduced.tokens_in).any()


def test_gradients_reach_the_tokens() -> None:
    tokens = torch.ones(1, 2, 3, requires_grad=True)
    source.unmerge(tokens, torch.tensor([[0, 1, 1, -1, 1]])).sum().backward()
    assert tokens.grad is not None and tokens.grad[0, :, 0].tolist() == [1, 3]


def averaged_by_hand(reduced: ReducedModel, batch: Tensor, blocks: Sequence[int]) -> Tensor:
    """Tokens with any part in a mean, by marking what enters each one."""
    maps = reduced.token_maps(batch)
    content = torch.eye(reduced.tokens_in).expand(batch.shape[0], -1, -1)
    flags = torch.zeros(batch.shape[0], reduced.tokens_in, dtype=torch.bool)
    for block in blocks:
        content, _ = maps[block].apply(content, None)
        flags |= content[:, -1] > 0
    return flags


def test_what_pomt_averages_is_told_from_what_it_keeps_over_several_blocks() -> None:
    reduced = reduce_model(small(), method="pomt", schedule=[0, 20, 0, 9])
    with torch.inference_mode():
        found = source.averaged(reduced.token_maps(images(3)), reduced.tokens_in)
        expected = averaged_by_hand(reduced, images(3), [1, 3])
        first = source.averaged({1: reduced.token_maps(images(3))[1]}, reduced.tokens_in)
        merging = reduce_model(small(), method="tome", schedule=[0, 20, 0, 9]).token_maps(images(3))
    assert torch.equal(found, expected) and (first.sum(dim=1) == 21).all()
    assert not source.averaged(merging, reduced.tokens_in).any()


def test_what_cannot_be_laid_out_says_so() -> None:
    tokens, found = torch.ones(1, 2, 3), torch.tensor([[0, 1, -1, -1]])
    with pytest.raises(UserError, match=r"fill='mean': expected one of zero, nearest"):
        source.unmerge(tokens, found, fill="mean")
    with pytest.raises(UserError, match=r"3 patches make no square: give prefix="):
        source.unmerge(tokens, found, fill="nearest")
    with pytest.raises(UserError, match=r"grid=\(2, 2\): 4 patches, but there are 3 behind the prefix"):
        source.unmerge(tokens, found, fill="nearest", grid=(2, 2))
