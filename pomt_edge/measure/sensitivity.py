"""What removing tokens in one block alone does to a model's answers, on a few images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pomt_edge.errors import UserError
from pomt_edge.measure.datasets import Images
from pomt_edge.measure.progress import Progress
from pomt_edge.records import Preprocessing
from pomt_edge.reduce.reduced_model import ReducedModel, unreduced
from pomt_edge.reduce.schedule import in_one_block

BATCH = 32


@torch.inference_mode()
def divergences(
    model: nn.Module,
    variant: Callable[[tuple[int, ...]], ReducedModel],
    counts: Sequence[int],
    images: Images,
    preprocessing: Preprocessing,
    progress: Progress,
) -> list[list[float]]:
    """How far the classes' probabilities move where one block leaves so many tokens, by block and count.

    The mean Kullback-Leibler divergence from the unreduced model's, in nats. It needs no labels, and it tells before
    any answer changes. The blocks before the reducing one run once for all counts.

    Args:
        model: the unreduced one.
        variant: from a schedule to the reduced one.
        counts: most first; the first is the unreduced model's, at which nothing is lost.

    Raises:
        UserError: logits that are not finite.
    """
    whole = unreduced(model)
    depth, full = len(whole.schedule), counts[0]
    sums = [[0.0] * len(counts) for _ in range(depth)]
    batches = list(images.pixels.split(BATCH))
    progress.stage("what each block bears, blocks", depth * len(batches))
    weight = next(model.parameters())
    for batch in images.batches(preprocessing, BATCH):
        entering = whole.entering(batch.to(weight.device, weight.dtype), 0)
        before = _log_probabilities(whole.resume(entering, 0))
        for block in range(depth):
            attended = None
            for place, count in enumerate(counts[1:], 1):
                reduced = variant(in_one_block(full - count, block, depth))
                attended = reduced.attended(entering, block) if attended is None else attended
                after = _log_probabilities(reduced.resume(attended, block))
                sums[block][place] += float((before.exp() * (before - after)).sum())
            entering = whole.family.blocks(whole.model)[block](entering)
            progress.advance()
    return [[total / len(images.pixels) for total in row] for row in sums]


def _log_probabilities(logits: Tensor) -> Tensor:
    if not logits.isfinite().all():
        raise UserError("the logits are not finite; try --precision fp32 (or bf16)")
    return logits.double().log_softmax(dim=-1)
