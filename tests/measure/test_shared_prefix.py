"""Counts that share their first blocks: the same logits bit for bit, in less work, in the memory that there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from reduce_models import distilled, small
from torch import nn

from pomt_edge import demo, reduce_model
from pomt_edge.engines import BuildOptions, Session, Setting
from pomt_edge.engines import torch as engine
from pomt_edge.machine.system import System
from pomt_edge.measure import datasets
from pomt_edge.measure.answers import Batch, Visits
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.forwards import SHARE, Activations, SharedPrefix, available_bytes, by_sessions, size_bytes
from pomt_edge.models.family import family_of
from pomt_edge.records import Kept, Preprocessing
from pomt_edge.reduce.reduced_model import unreduced

PLENTY = 2**40
METHODS = ("pomt", "pomt:score=cls", "topk", "tome", "pitome", "l2_norm", "random")
MODELS = {
    "four registers": lambda: small(reg_tokens=4, no_embed_class=True),
    "class token, average pool": lambda: small(global_pool="avg"),
    "distillation token": distilled,
    "q/k norm": lambda: small(qk_norm=True),
}
PREPROCESSING = Preprocessing(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "bilinear")


class Variants:
    """From a count or a schedule to its model, all of one model's weights, as a run has them."""

    def __init__(self, model: nn.Module, method: str = "pomt", block: int = 1) -> None:
        self.setting = Setting("cpu", "fp32", 1, family_of(model).image_px(model))
        self.model = engine.prepare(model, self.setting)
        self.method, self.block = method, block
        self.full = family_of(model).token_count(model)

    def __call__(self, kept: Kept) -> nn.Module:
        if kept == self.full:
            return self.model
        if isinstance(kept, int):
            depth = len(family_of(self.model).blocks(self.model))
            kept = tuple(self.full - kept if block == self.block else 0 for block in range(depth))
        return reduce_model(self.model, method=self.method, schedule=kept, copy=False)

    def session(self, kept: Kept) -> Session:
        return engine.load(engine.build(self(kept), self.setting, BuildOptions(Path(), "")), self.setting)

    def shared(self, images: int, available: int | None = PLENTY) -> SharedPrefix:
        return SharedPrefix(self, self.block, images, lambda: available)


def small_visits() -> Visits:
    """Two batches, the second of 2 images."""
    pixels = torch.randint(0, 256, (34, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    return Visits(Images(pixels, None, ()), PREPROCESSING)


def check_same(variants: Variants, batches: list[Batch], counts: list[Kept], shared: SharedPrefix) -> None:
    whole = by_sessions(variants.session)
    for kept in counts:
        for batch in batches:
            np.testing.assert_array_equal(shared(kept)(batch), whole(kept)(batch))


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_those_of_whole_models_bit_for_bit(method: str) -> None:
    visits = small_visits()
    whole, few = (visits.batch(number) for number in range(2))
    for model in MODELS.values():
        variants = Variants(model(), method)
        check_same(variants, [few], [variants.full, 50, (0, 7, 5, 3)], variants.shared(visits.count))
    variants = Variants(small(), method)
    counts: list[Kept] = [(11, 0, 2, 0), 60, (0, 0, 9, 0), variants.full, 40]
    check_same(variants, [whole, few], counts, variants.shared(visits.count))


@pytest.mark.parametrize("method", METHODS)
def test_the_demos_logits_are_those_of_whole_models_bit_for_bit(method: str) -> None:
    visits = Visits(datasets.read_demo(33, 0, True), demo.PREPROCESSING)
    variants = Variants(demo.build_model(), method, 3)
    check_same(variants, [visits.batch(0), visits.batch(1)], [197, 120], variants.shared(33))


class Passes:
    """How many batches each block of a model has seen."""

    def __init__(self, model: nn.Module) -> None:
        self.seen = [0] * len(model.blocks)
        for index, block in enumerate(model.blocks):
            # Its MLP runs once per pass, whole or reduced.
            block.mlp.register_forward_hook(lambda *_, index=index: self._count(index))

    def _count(self, index: int) -> None:
        self.seen[index] += 1

    def take(self) -> list[int]:
        seen, self.seen = self.seen, [0] * len(self.seen)
        return seen


def test_blocks_before_the_reduction_run_once_per_batch_for_all_counts() -> None:
    visits, variants = small_visits(), Variants(small(), block=2)
    shared, passes = variants.shared(visits.count), Passes(variants.model)
    batch = visits.batch(0)
    shared(65)(batch)
    assert passes.take() == [1, 1, 1, 1]
    for kept in (60, 50, (0, 0, 9, 3)):
        shared(kept)(batch)
        assert passes.take() == [0, 0, 1, 1]
    shared((0, 5, 0, 0))(batch)
    assert passes.take() == [1, 1, 1, 1]
    shared((0, 7, 0, 0))(batch)
    assert passes.take() == [0, 1, 1, 1]


@pytest.mark.parametrize("available", [0, None])
def test_without_memory_each_count_runs_whole_and_right(available: int | None) -> None:
    visits, variants = small_visits(), Variants(small(), block=2)
    shared = variants.shared(visits.count, available)
    check_same(variants, [visits.batch(1)], [65, 50, (0, 4, 4, 0)], shared)
    passes = Passes(variants.model)
    shared(50)(visits.batch(0))
    assert passes.take() == [1, 1, 1, 1]


def test_what_enters_is_held_for_all_batches_before_any_attention_is() -> None:
    model = unreduced(small())
    with torch.inference_mode():
        entering = model.entering(torch.zeros(2, 3, 32, 32), 1)
        attended = model.attended(entering, 1)
    assert size_bytes(attended) >= 4 * size_bytes(entering)
    free = 4 * size_bytes(attended)  # a quarter of it may be held: one attended state's worth
    held = Activations(4, lambda: free - held.held_bytes)
    for batch in range(4):
        held.put(1, batch, entering)
        held.put(1, batch, attended)
    assert [type(held.get(1, batch)) for batch in range(4)] == [torch.Tensor] * 4
    alone = Activations(1, lambda: free - alone.held_bytes)
    alone.put(1, 0, entering)
    alone.put(1, 0, attended)
    assert alone.get(1, 0) is attended
    assert alone.held_bytes == size_bytes(attended) <= SHARE * free


def test_the_block_used_longest_ago_makes_room() -> None:
    tokens = [torch.zeros(1000, 64) for _ in range(4)]
    size = size_bytes(tokens[0])
    held = Activations(1, lambda: int(2 * size / SHARE) - held.held_bytes)
    held.put(1, 0, tokens[1])
    held.put(2, 0, tokens[2])
    assert held.get(1, 0) is tokens[1]
    held.put(3, 0, tokens[3])
    assert held.get(2, 0) is None
    assert held.get(1, 0) is tokens[1] and held.get(3, 0) is tokens[3]
    assert held.held_bytes == 2 * size


def test_the_memory_to_be_shared_is_what_the_host_has_left(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 4000000 kB\nMemAvailable: 1024000 kB\n")
    assert available_bytes("cpu", System(tmp_path)) == 1000 * 2**20
    assert available_bytes("cpu", System(tmp_path / "nothing")) is None
