from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pomt_edge.reduce import token_map
from pomt_edge.reduce.token_map import TokenMap


@st.composite
def maps(draw: st.DrawFn) -> tuple[torch.Tensor, TokenMap]:
    """Tokens [B, N, C] and a map that keeps some and merges the others into those."""
    batch, count = draw(st.integers(1, 3)), draw(st.integers(3, 12))
    keep = draw(st.integers(1, count - 1))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    order = torch.stack([torch.randperm(count, generator=generator) for _ in range(batch)])
    into = torch.randint(keep, (batch, count - keep), generator=generator)
    tokens = torch.randn(batch, count, 4, generator=generator, dtype=torch.float64)
    return tokens, TokenMap(order[:, :keep], order[:, keep:], into)


@settings(deadline=None, max_examples=60)
@given(maps())
def test_merging_conserves_size_and_the_weighted_sum(case: tuple[torch.Tensor, TokenMap]) -> None:
    tokens, merge = case
    sizes = torch.arange(1, tokens.shape[1] + 1, dtype=torch.float64).expand(tokens.shape[:2])
    reduced, left = merge.apply(tokens, sizes)
    assert left is not None
    torch.testing.assert_close(left.sum(1), sizes.sum(1))
    torch.testing.assert_close((reduced * left[..., None]).sum(1), (tokens * sizes[..., None]).sum(1))


def test_each_slot_is_the_mean_of_what_goes_there() -> None:
    tokens = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [10.0]]])
    merge = TokenMap(torch.tensor([[0, 2]]), torch.tensor([[4, 1, 3]]), torch.tensor([[1, 0, 1]]))
    reduced, sizes = merge.apply(tokens, None)
    assert reduced.flatten().tolist() == [0.5, 5.0]
    assert sizes is not None and sizes.tolist() == [[2.0, 3.0]]


def test_without_slots_the_merged_become_one_mean_behind_the_kept() -> None:
    tokens = torch.tensor([[[0.0], [1.0], [2.0], [6.0]]])
    mean = TokenMap(torch.tensor([[0, 2]]), torch.tensor([[1, 3]]))
    assert mean.apply(tokens, None)[0].flatten().tolist() == [0.0, 2.0, 3.5]
    weighted, sizes = mean.apply(tokens, torch.tensor([[1.0, 3.0, 1.0, 1.0]]))
    assert weighted.flatten().tolist() == [0.0, 2.0, 2.25]
    assert sizes is not None and sizes.tolist() == [[1.0, 1.0, 4.0]]


def test_a_map_that_only_keeps_drops_the_rest() -> None:
    tokens = torch.arange(4.0).view(1, 4, 1)
    reduced, sizes = TokenMap(torch.tensor([[0, 3]])).apply(tokens, token_map.ones(tokens))
    assert reduced.flatten().tolist() == [0.0, 3.0]
    assert sizes is not None and sizes.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sizes_count_exactly_in_low_precision(dtype: torch.dtype) -> None:
    tokens = torch.ones(1, 1000, 2, dtype=dtype)
    merge = TokenMap(torch.tensor([[0]]), torch.arange(1, 1000)[None], torch.zeros(1, 999, dtype=torch.long))
    reduced, sizes = merge.apply(tokens, token_map.ones(tokens))
    assert reduced.dtype is dtype and sizes is not None and sizes.item() == 1000
