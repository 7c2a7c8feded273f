"""What holds for every token-reduction method, on small models of every kind."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from reduce_models import VARIANTS, images, small
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from pomt_edge import catalogue, reduce_model
from pomt_edge.errors import UserError
from pomt_edge.models.family import family_of
from pomt_edge.reduce import METHODS, blocks, method, token_map
from pomt_edge.reduce.token_map import Evidence, TokenMap
from pomt_edge.reduce.tokens import pitome, pomt, tome

SPELLINGS = [
    "pomt",
    "pomt:score=cls",
    "topk",
    "tome",
    "tome:proportional_attention=false",
    "pitome",
    "pitome:mode=bsm",
    "pitome:margin=0.9,mode=plain",
    "pitome:proportional_attention=true",
    "l2_norm",
    "random",
    "random:seed=3",
]
OF_CLASS_TOKEN = ["pomt:score=cls", "topk"]
WITHOUT_CLASS_TOKEN = ["no class token", "attention pooling", "no prefix", "four, no class token"]
KINDS: dict[str, dict[str, Any]] = {
    "no prefix": {"class_token": False, "global_pool": "avg"},
    "one": {},
    "two, distilled": {"distilled": True},
    "two": {"reg_tokens": 1},
    "three": {"reg_tokens": 2, "qk_norm": True},
    "four": {"reg_tokens": 3, "init_values": 0.5},
    "five, averaged": {"reg_tokens": 4, "global_pool": "avg"},
    "four, no class token": {"class_token": False, "reg_tokens": 4, "global_pool": "avg"},
}
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 5}
thorough = settings(deadline=None, max_examples=80)


@functools.cache
def tiny(kind: str, seed: int = 0) -> nn.Module:
    """A float64 model of 16 patches, of weights large enough that tokens differ; not to be changed by a test."""
    torch.manual_seed(seed)
    options = dict(KINDS[kind])
    build = VisionTransformerDistilled if options.pop("distilled", False) else small
    model = build(**(TINY | options)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def fits(name: str, kind: str) -> bool:
    return name not in OF_CLASS_TOKEN or kind not in WITHOUT_CLASS_TOKEN


def pairs(kinds: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, kind) for kind in kinds for name in SPELLINGS if fits(name, kind)]


def shared(model: nn.Module, name: str, schedule: list[int]) -> nn.Module:
    return reduce_model(model, method=name, schedule=schedule, copy=False)


@st.composite
def cases(draw: st.DrawFn) -> tuple[nn.Module, str, list[int]]:
    """A model, a method and a schedule that it can follow."""
    name, kind = draw(st.sampled_from(pairs(KINDS)))
    model = tiny(kind, draw(st.integers(0, 2)))
    patches, schedule = 16, []
    for _ in range(3):
        schedule.append(draw(st.integers(0, max(method.load(name).most(patches), 0))))
        patches -= schedule[-1]
    return model, name, schedule


def test_every_method_is_tested_here() -> None:
    assert {name.partition(":")[0] for name in SPELLINGS} == set(catalogue.names(METHODS))


@pytest.mark.parametrize(("name", "variant"), pairs(VARIANTS))
def test_a_schedule_of_zeros_is_the_original_bit_for_bit(name: str, variant: str) -> None:
    model = VARIANTS[variant]()
    with torch.inference_mode():
        assert torch.equal(shared(model, name, [0, 0, 0, 0])(images(2)), model(images(2)))


@thorough
@given(cases())
def test_tokens_out_are_tokens_in_less_removed_and_each_token_goes_to_one_place(
    case: tuple[nn.Module, str, list[int]],
) -> None:
    model, name, schedule = case
    prefix = model.num_prefix_tokens
    count = 16 + prefix
    reduced = shared(model, name, schedule)
    batch = images(2, 16, torch.float64)
    with torch.inference_mode():
        assert reduced.forward_features(batch).shape == (2, count - sum(schedule), 16)
        assert reduced(batch).isfinite().all()
        maps = reduced.token_maps(batch)
    assert sorted(maps) == [block for block, removed in enumerate(schedule) if removed]
    sizes = torch.ones(2, count, dtype=torch.float64)
    for block, found in maps.items():
        check_map(found, count, prefix, lossless=method.load(name).merges)
        left = count - schedule[block]
        tokens, sizes = found.apply(torch.zeros(2, count, 1, dtype=torch.float64), sizes)
        assert tokens.shape[1] == sizes.shape[1] == left
        count = left
    if method.load(name).merges:
        assert (sizes.sum(1) == 16 + prefix).all() and (sizes[:, :prefix] == 1).all()


def check_map(found: TokenMap, count: int, prefix: int, lossless: bool) -> None:
    """Prefix tokens stay in place; no token goes to two places, and to none only where the method drops tokens."""
    for image in range(2):
        kept = found.kept[image].tolist()
        merged = [] if found.merged is None else found.merged[image].tolist()
        assert kept[:prefix] == list(range(prefix))
        assert len(set(kept + merged)) == len(kept + merged) and set(kept + merged) <= set(range(count))
        if lossless:
            assert set(kept + merged) == set(range(count))
            assert all(prefix <= slot < len(kept) for slot in found.into[image].tolist())


@thorough
@given(cases(), st.permutations(range(4)), st.sampled_from([1e-3, 1.0, 30.0]))
def test_an_image_does_not_depend_on_its_batch_nor_its_place(
    case: tuple[nn.Module, str, list[int]], order: list[int], scale: float
) -> None:
    _, name, schedule = case
    entering = [16 - sum(schedule[:block]) for block in range(3)]
    # Two tokens are equally redundant: rounding decides which of them goes into the other, and the mean is the same.
    assume(not name.startswith("pitome") or (2, 1) not in zip(entering, schedule, strict=True))
    reduced = shared(*case)
    batch = images(4, 16, torch.float64)
    batch[0] *= scale
    with torch.inference_mode():
        together, maps = reduced(batch), reduced.token_maps(batch)
        alone, alone_maps = reduced(batch[1:2]), reduced.token_maps(batch[1:2])
        turned, turned_maps = reduced(batch[order]), reduced.token_maps(batch[order])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-9)
    torch.testing.assert_close(together[order], turned, rtol=0, atol=1e-9)
    for block, found in maps.items():
        for part in ("kept", "merged", "into"):
            whole = getattr(found, part)
            if whole is not None:
                assert torch.equal(whole[1:2], getattr(alone_maps[block], part))
                assert torch.equal(whole[order], getattr(turned_maps[block], part))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "kind"), pairs(["no prefix", "one", "five, averaged"]))
def test_every_precision_runs_and_keeps_its_type(name: str, kind: str, dtype: torch.dtype) -> None:
    model = copy.deepcopy(tiny(kind)).to(dtype)
    reduced = shared(model, name, [5, 3, 2])
    with torch.inference_mode():
        logits = reduced(images(2, 16, dtype))
        assert reduced.forward_features(images(2, 16, dtype)).dtype is dtype
    assert logits.dtype is dtype and logits.isfinite().all()


def watched(reduced: nn.Module, batch: Tensor) -> dict[str, list[Tensor]]:
    """What enters the two norms of each block, and what leaves its product with the qkv matrix."""
    seen: dict[str, list[Tensor]] = {"norm1": [], "norm2": [], "qkv": []}
    hooks = []
    for block in reduced.model.blocks:
        for name in ("norm1", "norm2"):
            note = functools.partial(lambda name, _, inputs, __: seen[name].append(inputs[0]), name)
            hooks.append(getattr(block, name).register_forward_hook(note))
        hooks.append(block.attn.qkv.register_forward_hook(lambda _, __, output: seen["qkv"].append(output)))
    with torch.inference_mode():
        reduced(batch)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("name", "variant"), pairs(VARIANTS))
def test_a_reducing_block_is_the_models_own_attention_then_the_map_then_its_own_mlp(name: str, variant: str) -> None:
    model = VARIANTS[variant]().double()
    reduced, batch = shared(model, name, [0, 9, 0, 0]), images(2, dtype=torch.float64)
    seen, block = watched(reduced, batch), model.blocks[1]
    with torch.inference_mode():
        tokens = seen["norm1"][1]
        attended = tokens + block.ls1(block.attn(block.norm1(tokens)))
        expected, _ = reduced.token_maps(batch)[1].apply(attended, token_map.ones(attended))
        left = expected + block.ls2(block.mlp(block.norm2(expected)))
    torch.testing.assert_close(seen["norm2"][1], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen["norm1"][2], left, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["tome", "pitome:proportional_attention=true"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_behind_a_merge_attention_counts_each_key_as_often_as_it_stands_for(name: str, variant: str) -> None:
    """A key's weight in the softmax is that of so many equal keys: repeat them, and the model's own block agrees."""
    model = VARIANTS[variant]().double()
    reduced, batch = shared(model, name, [20, 9, 0, 0]), images(1, dtype=torch.float64)
    seen, maps = watched(reduced, batch), reduced.token_maps(batch)
    sizes = torch.ones(1, reduced.tokens_in, dtype=torch.float64)
    for index in (1, 2):
        _, sizes = maps[index - 1].apply(torch.zeros(*sizes.shape, 1), sizes)
        repeats = sizes[0].long()
        assert repeats.max() > 1
        first = repeats.cumsum(0) - repeats
        block, tokens = model.blocks[index], seen["norm1"][index].repeat_interleave(repeats, dim=1)
        with torch.inference_mode():
            attended = (tokens + block.ls1(block.attn(block.norm1(tokens))))[:, first]
        if index in maps:
            attended, _ = maps[index].apply(attended, sizes)
        torch.testing.assert_close(seen["norm2"][index], attended, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["tome:proportional_attention=false", "pitome"])
def test_attention_that_is_not_proportional_is_the_models_own(name: str) -> None:
    model, batch = small().double(), images(2, dtype=torch.float64)
    seen = watched(shared(model, name, [20, 0, 0, 0]), batch)
    with torch.inference_mode():
        assert torch.equal(seen["norm1"][2], model.blocks[1](seen["norm1"][1]))


@pytest.mark.parametrize("explicit", [False, True])
def test_weighted_attention_is_the_softmax_of_logits_and_log_sizes(explicit: bool) -> None:
    model = tiny("three")
    block, family = model.blocks[0], family_of(model)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, 7, 16, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 9, (2, 7), generator=generator).double()
    with torch.inference_mode():
        qkv = block.attn.qkv(block.norm1(tokens)).view(2, 7, 3, 2, 8).permute(2, 0, 3, 1, 4)
        logits = torch.einsum("bhid,bhjd->bhij", block.attn.q_norm(qkv[0]), block.attn.k_norm(qkv[1])) / math.sqrt(8)
        matrix = torch.softmax(logits + sizes.log()[:, None, None, :], dim=-1)
        expected = tokens + block.attn.proj((matrix @ qkv[2]).transpose(1, 2).reshape(2, 7, 16))
        found, _, attention = blocks.attend(family, block, tokens, sizes, explicit)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (attention is None) is not explicit
    if explicit:
        torch.testing.assert_close(attention, matrix, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["pomt", "tome", "pitome"])
@pytest.mark.parametrize("variant", ["no class token", "class token, average pool"])
def test_average_pooling_counts_each_token_for_all_it_stands_for(name: str, variant: str) -> None:
    model, batch = VARIANTS[variant]().double(), images(2, dtype=torch.float64)
    reduced = shared(model, name, [0, 20, 10, 3])
    sizes = torch.ones(2, reduced.tokens_in, dtype=torch.float64)
    with torch.inference_mode():
        for found in reduced.token_maps(batch).values():
            _, sizes = found.apply(torch.zeros(*sizes.shape, 1), sizes)
        tokens, prefix = reduced.forward_features(batch), reduced.prefix
        weights = (sizes[:, prefix:] / sizes[:, prefix:].sum(1, keepdim=True)).unsqueeze(-1)
        expected = model.head(model.fc_norm((tokens[:, prefix:] * weights).sum(1)))
        torch.testing.assert_close(reduced(batch), expected, rtol=0, atol=1e-12)


def evidence(raw_keys: Tensor, prefix: int, block: int = 0, depth: int = 4, **fields: Tensor) -> Evidence:
    """A block's state of which only what a test is about is given."""
    batch, heads, count, channels = raw_keys.shape
    given = {"queries": raw_keys, "keys": raw_keys, "values": raw_keys, "attention": None, "sizes": None} | fields
    tokens = given.pop("tokens", torch.zeros(batch, count, heads * channels, dtype=raw_keys.dtype))
    return Evidence(tokens=tokens, raw_keys=raw_keys, prefix=prefix, block=block, depth=depth, **given)


@pytest.mark.parametrize("score", pomt.SCORES)
def test_pomts_score_is_normalised_within_the_image(score: str) -> None:
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(2, 2, 9, 4, generator=generator, dtype=torch.float64)
    keys[0] *= 10  # attention of one image is sharp, of the other flat
    attention = (keys @ keys.transpose(2, 3)).softmax(dim=-1)
    together = pomt.importance(evidence(keys, 1, attention=attention), score)
    alone = pomt.importance(evidence(keys[1:], 1, attention=attention[1:]), score)
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-12)
    assert (together > 0).all() and (together <= 2).all()


def test_class_attention_is_the_class_tokens_row_of_the_attention_matrix() -> None:
    model, generator = tiny("three"), torch.Generator().manual_seed(4)  # with q/k norm
    tokens = torch.randn(2, 12, 16, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        _, projected, attention = blocks.attend(family_of(model), model.blocks[0], tokens, None, explicit=True)
        found = Evidence(tokens, *projected, None, None, prefix=3, block=0, depth=3).class_attention()
    torch.testing.assert_close(found, attention.mean(dim=1)[:, 0, 3:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_l2_norm_keeps_the_longest_tokens(prefix: int) -> None:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(1, prefix + 20, 3, generator=generator)
    found = method.load("l2_norm").reduce(evidence(torch.zeros(1, 1, prefix + 20, 3), prefix, tokens=tokens), 12)
    lengths = [math.hypot(*token) for token in tokens[0].tolist()]
    longest = sorted(range(prefix, prefix + 20), key=lambda index: -lengths[index])[:8]
    assert found.kept[0].tolist() == [*range(prefix), *sorted(longest)]


@pytest.mark.parametrize("prefix", range(6))
@pytest.mark.parametrize("name", [name for name in SPELLINGS if not name.startswith("random")])
def test_of_equal_tokens_the_lower_index_comes_first(name: str, prefix: int) -> None:
    """One unit vector everywhere, so that all scores are equal to the last bit."""
    count, removed = prefix + 11, 3
    keys = torch.zeros(2, 2, count, 4)
    keys[..., 0] = 1
    uniform = torch.full((2, 2, count, count), 0.125)
    found = method.load(name).reduce(evidence(keys, prefix, attention=uniform), removed)
    behind = found.kept[:, prefix:] - prefix
    first = name.partition(":")[0]
    if first in ("pomt", "topk", "l2_norm"):
        assert behind.tolist() == [list(range(8 - (first == "pomt")))] * 2
    elif first == "tome":
        even = prefix % 2
        rest = [*range(even + 6, 11, 2), *range(1 - even, 11, 2)]
        assert behind.tolist() == [rest] * 2
        assert (found.into == prefix + len(range(even + 6, 11, 2))).all()
    elif "plain" in name:
        assert behind.tolist() == [[6, 7, 8, 9, 10, 1, 3, 5]] * 2 and (found.into == prefix + 5).all()
    else:
        assert behind.tolist() == [[6, 8, 10, 1, 3, 5, 7, 9]] * 2 and (found.into == prefix + 3).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=400))
@example([0, 1] * 1000)
def test_ranks_are_by_score_and_then_by_index(scores: list[int]) -> None:
    expected = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    assert token_map.ranked_by(torch.tensor([scores]).float()).tolist() == [expected]


def mean_keys(keys: Tensor) -> list[list[float]]:
    """One image's keys [H, N, d], the mean of the heads, scaled to unit length."""
    rows = [[sum(head) / len(head) for head in zip(*token, strict=True)] for token in keys.transpose(0, 1).tolist()]
    return [[value / math.sqrt(sum(part * part for part in row)) for value in row] for row in rows]


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


Groups = list[list[int]]
"""For each token that leaves, in their order, the tokens that it is made of, its representative first."""


def slow_tome(keys: Tensor, removed: int, distilled: bool = False) -> Groups:
    """ToMe's matching as its paper says it, one token after the other; a class token is at 0."""
    metric = mean_keys(keys)
    destinations = [index for index in range(1, len(metric), 2) if not (distilled and index == 1)]
    edges = []
    for source in range(2, len(metric), 2):
        scores = [dot(metric[source], metric[to]) for to in destinations]
        edges.append((max(scores), source, destinations[scores.index(max(scores))]))
    merged = {source: to for _, source, to in sorted(edges, key=lambda edge: -edge[0])[:removed]}
    evens = [index for index in range(0, len(metric), 2) if index not in merged]
    odds = list(range(1, len(metric), 2))
    order = [evens[0], odds[0], *evens[1:], *odds[1:]] if distilled else evens + odds
    return [[to, *(source for source in merged if merged[source] == to)] for to in order]


def slow_pitome(keys: Tensor, removed: int, margin: float, plain: bool, prefix: int) -> Groups:
    """PiToMe's energies and its two ways to merge, one token after the other."""
    metric = mean_keys(keys[:, prefix:])
    every = range(len(metric))
    above = [[dot(metric[i], metric[j]) - margin for j in every] for i in every]
    energies = [sum(z if z > 0 else math.exp(z) - 1 for z in row) / len(row) for row in above]
    order = sorted(every, key=lambda index: -energies[index])
    protected = order[2 * removed :] if plain else []
    mergeable = order[: 2 * removed] if plain else order
    sources, destinations = mergeable[0::2], mergeable[1::2]
    edges = []
    for source in sources:
        scores = [dot(metric[source], metric[to]) for to in destinations]
        edges.append((max(scores), source, destinations[scores.index(max(scores))]))
    if not plain:
        edges.sort(key=lambda edge: -edge[0])
    merged = {source: to for _, source, to in edges[:removed]}
    out = protected + [source for _, source, _ in edges[removed:]] + destinations
    groups = [[to, *(source for source in merged if merged[source] == to)] for to in out]
    return [[index] for index in range(prefix)] + [[index + prefix for index in group] for group in groups]


def groups_of(found: TokenMap) -> Groups:
    """A map's first image in the form of the slow matchings."""
    groups = [[index] for index in found.kept[0].tolist()]
    for index, slot in zip(found.merged[0].tolist(), found.into[0].tolist(), strict=True):
        groups[slot].append(index)
    return groups


def same(left: Groups, right: Groups) -> bool:
    return [(group[0], set(group)) for group in left] == [(group[0], set(group)) for group in right]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 24), st.integers(0, 10**6), st.booleans(), st.data())
def test_tome_is_the_papers_matching(patches: int, seed: int, distilled: bool, data: st.DataObject) -> None:
    prefix, removed = 1 + distilled, data.draw(st.integers(1, patches // 2))
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(1, 2, prefix + patches, 3, generator=generator, dtype=torch.float64)
    found = tome.reduce(evidence(keys, prefix), removed)
    expected = slow_tome(keys[0], removed, distilled)
    assert same(groups_of(found), expected)
    tokens = torch.randn(1, prefix + patches, 5, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 6, tokens.shape[:2], generator=generator).double()
    merged, left = found.apply(tokens, sizes)
    for slot, group in enumerate(expected):
        total = sum(sizes[0, index] for index in group)
        mean = sum(tokens[0, index] * sizes[0, index] for index in group) / total
        torch.testing.assert_close(merged[0, slot], mean)
        assert left[0, slot] == total


@settings(deadline=None, max_examples=60)
@given(
    st.integers(3, 24),  # two tokens are equally redundant: rounding would decide
    st.integers(0, 10**6),
    st.integers(0, 5),
    st.integers(0, 4),
    st.sampled_from(["deit", "bsm", "plain"]),
    st.sampled_from([0.75, 0.9, 0.0]),
    st.data(),
)
def test_pitome_is_the_papers_matching(
    patches: int, seed: int, prefix: int, block: int, mode: str, margin: float, data: st.DataObject
) -> None:
    removed, depth = data.draw(st.integers(1, patches // 2)), 5
    keys = torch.randn(1, 2, prefix + patches, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = pitome.reduce(evidence(keys, prefix, block, depth), removed, margin, mode)
    plain = mode == "plain" or (mode == "deit" and block >= 3)
    assert same(groups_of(found), slow_pitome(keys[0], removed, margin - margin * block / depth, plain, prefix))


@pytest.mark.parametrize("variant", ["class token", "q/k norm", "distillation token"])
def test_tome_matches_the_keys_before_their_norm(variant: str) -> None:
    model, batch = VARIANTS[variant]().double(), images(1, dtype=torch.float64)
    reduced = shared(model, "tome", [0, 20, 0, 0])
    qkv = watched(reduced, batch)["qkv"][1]
    keys = qkv[0].reshape(-1, 3, 2, 32)[:, 1].transpose(0, 1)
    expected = slow_tome(keys, 20, distilled=variant == "distillation token")
    assert same(groups_of(reduced.token_maps(batch)[1]), expected)


@pytest.mark.parametrize(
    ("name", "short", "options"),
    [
        ("pomt:score=cls", "pomt", {"score": "cls"}),
        ("pitome:margin=0.9,mode=plain", "pitome", {"margin": 0.9, "mode": "plain"}),
        ("pitome:mode=plain", "pitome:mode=plain", {"margin": 0.75}),
        ("tome:proportional_attention=false", "tome", {"proportional_attention": False}),
        ("random:seed=5", "random", {"seed": 5}),
        ("pitome:margin=1", "pitome", {"margin": 1.0}),
    ],
)
def test_options_in_the_name_are_those_by_keyword(name: str, short: str, options: dict[str, Any]) -> None:
    model, batch = tiny("one"), images(2, 16, torch.float64)
    typed = shared(model, name, [3, 4, 2])
    spoken = reduce_model(model, method=short, schedule=[3, 4, 2], copy=False, **options)
    assert typed.method.name == spoken.method.name
    assert method.load(typed.method.name).name == typed.method.name
    with torch.inference_mode():
        assert torch.equal(typed(batch), spoken(batch))
        if options != {"margin": 0.75}:
            assert not torch.equal(typed(batch), shared(model, short, [3, 4, 2])(batch))


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_reduced_model_can_be_copied_and_pickled(name: str) -> None:
    reduced, batch = reduce_model(tiny("one"), method=name, schedule=[3, 4, 2]), images(2, 16, torch.float64)
    with torch.inference_mode():
        expected = reduced(batch)
        assert torch.equal(copy.deepcopy(reduced)(batch), expected)
        assert torch.equal(pickle.loads(pickle.dumps(reduced))(batch), expected)


def test_random_draws_follow_from_seed_and_block_and_are_spread_evenly() -> None:
    drawn = torch.zeros(64)
    for seed in range(400):
        state = evidence(torch.zeros(2, 1, 65, 1), prefix=1, block=seed % 12)
        kept = method.load("random", seed=seed).reduce(state, 32).kept
        assert torch.equal(kept[0], kept[1])
        drawn[kept[0, 1:] - 1] += 1
    # Binomial, 400 draws of one half: five standard deviations are 50.
    assert drawn.min() > 150 and drawn.max() < 250
    first = evidence(torch.zeros(1, 1, 65, 1), prefix=1, block=0)
    other = evidence(torch.zeros(1, 1, 65, 1), prefix=1, block=1)
    draw = method.load("random").reduce
    assert torch.equal(draw(first, 32).kept, draw(first, 32).kept)
    assert not torch.equal(draw(first, 32).kept, draw(other, 32).kept)
    assert draw(first, 32, seed=10**30).kept.unique().numel() == 33


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_schedule_that_does_not_fit_says_what_would(name: str) -> None:
    model = tiny("two, distilled")
    most = method.load(name).most(16)
    shared(model, name, [0, most, 0])
    for schedule, message in [
        ([0, 1], "expected 3, got 2"),
        ([0, 1, 0, 0], "expected 3, got 4"),
        ([0, -1, 0], f"block 1 can't remove -1 of 18 tokens: 0 to {most} are allowed"),
        ([0, most + 1, 0], f"block 1 can't remove {most + 1} of 18 tokens: 0 to {most} are allowed"),
        ([0, 0.5, 0], r"a schedule is integers, one per block, got [0, 0.5, 0]"),
        (5, "a schedule is integers, one per block, got 5"),
        ("111", "a schedule is integers, one per block, got '111'"),
    ]:
        assert message in refusal(functools.partial(shared, model, name, schedule))


@pytest.mark.parametrize("kind", ["no prefix", "four, no class token"])
@pytest.mark.parametrize("name", OF_CLASS_TOKEN)
def test_a_method_of_the_class_token_refuses_a_model_without_one(name: str, kind: str) -> None:
    message = refusal(lambda: shared(tiny(kind), name, [0, 3, 0]))
    assert name in message and "class token" in message and "has none" in message


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tomme", {}, "unknown method 'tomme'; known: tome"),
        ("tomme:mode=plain", {}, "unknown method 'tomme'; known: tome"),
        ("topk", {"alpha": 1}, "unknown option 'alpha' of method topk; known: none"),
        ("pomt:alpha=1", {}, "unknown option 'alpha' of method pomt; known: score"),
        ("tome", {"margin": 1}, "unknown option 'margin' of method tome; known: proportional_attention"),
        ("pomt:score=best", {}, "score='best'; expected one of attention, cls"),
        ("pomt", {"score": None}, "score=None; expected one of attention, cls"),
        ("pomt:score", {}, "'score' is no option; expected NAME=VALUE, of score"),
        ("pitome:margin=wide", {}, "margin=wide; expected a value such as 0.75"),
        ("pitome:margin=nan", {}, "margin=nan; expected a value such as 0.75"),
        ("pitome", {"margin": float("inf")}, "margin=inf; expected a value such as 0.75"),
        ("pitome", {"margin": True}, "margin=True; expected a value such as 0.75"),
        ("pitome", {"mode": "fast"}, "mode='fast'; expected one of deit, bsm, plain"),
        ("tome:proportional_attention=maybe", {}, "proportional_attention=maybe; expected a value such as True"),
        ("tome", {"proportional_attention": "no"}, "proportional_attention='no'; expected a value such as True"),
        ("random:seed=1.5", {}, "seed=1.5; expected a value such as 0"),
        ("random", {"seed": "one"}, "seed='one'; expected a value such as 0"),
    ],
)
def test_a_wrong_method_option_or_value_says_what_is_right(name: str, options: dict[str, Any], message: str) -> None:
    call = functools.partial(reduce_model, tiny("one"), method=name, schedule=[0, 3, 0], copy=False, **options)
    assert message in refusal(call)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", SPELLINGS)
def test_weights_that_are_not_finite_are_refused_and_named(name: str, value: float) -> None:
    model = copy.deepcopy(tiny("one"))
    with torch.no_grad():
        model.blocks[1].attn.qkv.weight[20, 3] = value
    message = refusal(lambda: shared(model, name, [0, 3, 0]))
    assert message == "the model's weights hold NaN or infinity, first in blocks.1.attn.qkv.weight; load finite weights"


def test_a_model_without_memory_for_its_weights_can_be_reduced() -> None:
    with torch.device("meta"):
        images_nowhere = torch.empty(1, 3, 16, 16, dtype=torch.float64)
    reduced = shared(copy.deepcopy(tiny("one")).to("meta"), "pomt", [0, 3, 0])
    assert reduced(images_nowhere).shape == (1, 5)
