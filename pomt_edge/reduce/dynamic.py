"""Pruning by a threshold on saliency: how many tokens stay depends on the image.

A token's saliency is the L2 norm of its vector. The static form, which keeps a fixed number of the most salient tokens
and so exports, is the method `l2_norm`. Shapes are written with the legend of `pomt_edge.reduce.token_map`.
"""

from __future__ import annotations

import copy as copying
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pomt_edge.errors import UserError
from pomt_edge.models.family import Family, family_of
from pomt_edge.reduce import blocks as block_forward
from pomt_edge.reduce import token_map


def saliency(tokens: Tensor) -> Tensor:
    """The L2 norm of each token, [B, N, C] to [B, N], at least in float32."""
    wide = torch.promote_types(tokens.dtype, torch.float32)
    return torch.linalg.vector_norm(tokens, dim=-1, dtype=wide)


@dataclass(frozen=True)
class RaggedTokens:
    """Images of unequal token counts, padded to the longest: an image's own tokens come first, in their order."""

    tokens: Tensor
    """[B, N, C]; what stands behind an image's count means nothing."""
    counts: Tensor
    """An image's own tokens, prefix included, [B]."""
    present: Tensor | None = None
    """Which tokens are an image's own, [B, N]; None: all are."""

    @staticmethod
    def full(tokens: Tensor) -> RaggedTokens:
        """Images of equal counts."""
        batch, count, _ = tokens.shape
        return RaggedTokens(tokens, torch.full((batch,), count, device=tokens.device))

    def salient(self, threshold: float, prefix: int) -> Tensor:
        """Which tokens stay, [B, N]: the prefix, patches not below the threshold, and at least the best patch."""
        scores = saliency(self.tokens)
        scores[:, :prefix] = -1
        if self.present is not None:
            scores = scores.masked_fill(~self.present, -1)
        kept = scores >= threshold
        kept.scatter_(1, scores.argmax(dim=1, keepdim=True), True)
        kept[:, :prefix] = True
        return kept

    def keep(self, kept: Tensor) -> RaggedTokens:
        """The tokens that `kept` [B, N] marks, padded to the image that keeps most."""
        counts = kept.sum(dim=1)
        longest = int(counts.max())
        kept_first = kept.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
        present = torch.arange(longest, device=counts.device) < counts.unsqueeze(1)
        return RaggedTokens(
            token_map.take(self.tokens, kept_first[:, :longest]), counts, None if bool(present.all()) else present
        )


ThresholdOf = Callable[[int, RaggedTokens], float]
"""From a block's index and the tokens between its attention and its MLP to the threshold there."""


class DynamicModel(nn.Module):
    """A model that drops the tokens below a threshold; called as the original is.

    Eager PyTorch only: its shapes depend on the data, so that it can't be exported, traced or captured in a CUDA graph.
    Use the method `l2_norm` of `reduce_model` for that. A single image is computed with the tokens it keeps. The images
    of a batch are padded to the one that keeps most; padding is hidden from attention and from pooling, so that an
    image's result does not depend on its batch.
    """

    def __init__(self, model: nn.Module, family: Family, thresholds: Mapping[int, float]) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.thresholds = dict(thresholds)
        self.prefix = family.prefix_tokens(model)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, height, width] to logits [B, classes]."""
        ragged, _ = self._run(images, self._fixed)
        tokens = self.family.finish(self.model, ragged.tokens)
        if ragged.present is None:
            return self.family.read(self.model, tokens, None)
        # No kind of pooling, of average, maximum or attention, can then meet a padded token.
        own = (tokens[image : image + 1, :count] for image, count in enumerate(ragged.counts.tolist()))
        return torch.cat([self.family.read(self.model, one, None) for one in own])

    def counts(self, images: Tensor) -> dict[int, Tensor]:
        """How many tokens of each image leave each block that has a threshold, prefix included; each [B]."""
        return self._run(images, self._fixed)[1]

    def _fixed(self, block: int, _: RaggedTokens) -> float:
        return self.thresholds[block]

    def _run(self, images: Tensor, threshold_of: ThresholdOf) -> tuple[RaggedTokens, dict[int, Tensor]]:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise UserError(
                "a model with thresholds keeps other counts for other images, and a trace would fix those of one; "
                "to export, use reduce_model with method='l2_norm' and a schedule"
            )
        ragged = RaggedTokens.full(self.family.embed(self.model, images))
        counts = {}
        for index, block in enumerate(self.family.blocks(self.model)):
            if index not in self.thresholds and ragged.present is None:
                ragged = RaggedTokens(block(ragged.tokens), ragged.counts)
                continue
            # A key that counts for nothing: its logit becomes minus infinity.
            weights = None if ragged.present is None else ragged.present.float()
            tokens, _, _ = block_forward.attend(self.family, block, ragged.tokens, weights, explicit=False)
            ragged = RaggedTokens(tokens, ragged.counts, ragged.present)
            if index in self.thresholds:
                ragged = ragged.keep(ragged.salient(threshold_of(index, ragged), self.prefix))
                counts[index] = ragged.counts
            tokens = ragged.tokens + self.family.mlp(block, ragged.tokens)
            ragged = RaggedTokens(tokens, ragged.counts, ragged.present)
        return ragged, counts


def reduce_dynamically(model: nn.Module, thresholds: Mapping[int, float], copy: bool = True) -> DynamicModel:
    """The model with tokens dropped by a threshold; the model passed in is unchanged.

    Args:
        model: a model of a supported family.
        thresholds: for each block that drops, the smallest L2 norm of a patch token that stays, taken between the
            block's attention and its MLP. `calibrate` finds them for a share of tokens to drop.
        copy: False shares the weights with the model instead of copying them.

    Raises:
        UserError: a family that is not supported, a block that the model has not, or a threshold that is no norm.
    """
    family = family_of(model)
    _check_blocks(thresholds, len(family.blocks(model)))
    for block, threshold in thresholds.items():
        if not (math.isfinite(threshold) and threshold >= 0):
            raise UserError(f"a threshold is an L2 norm, a finite number from 0, got {threshold} for block {block}")
    return DynamicModel(copying.deepcopy(model) if copy else model, family, thresholds)


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor, quantile: float, blocks: Iterable[int]) -> dict[int, float]:
    """Thresholds with which each of the blocks drops a share of the patch tokens that reach it, over all images.

    Args:
        model: a model of a supported family, in evaluation mode.
        images: [B, 3, height, width], such as the model will meet; not those it is judged on.
        quantile: the share to drop in each block, from 0 to below 1.
        blocks: which blocks drop.

    Raises:
        UserError: a family that is not supported, a block that the model has not, a share outside the range, no images.
    """
    blocks = list(blocks)
    family = family_of(model)
    _check_blocks(blocks, len(family.blocks(model)))
    if not 0 <= quantile < 1:
        raise UserError(f"quantile is the share of tokens to drop, from 0 to below 1, got {quantile}")
    if not len(images):
        raise UserError("to calibrate thresholds takes images, got none")
    found: dict[int, float] = {}
    dynamic = DynamicModel(model, family, dict.fromkeys(blocks, 0.0))

    def choose(block: int, ragged: RaggedTokens) -> float:
        scores = saliency(ragged.tokens)[:, dynamic.prefix :]
        if ragged.present is not None:
            scores = scores[ragged.present[:, dynamic.prefix :]]
        scores = scores.flatten().sort().values
        dropped = int(quantile * len(scores))
        # Halfway between two tokens, so that rounding decides of none. torch.quantile would take 16 million at most.
        found[block] = float(scores[dropped - 1 : dropped + 1].mean()) if dropped else 0.0
        return found[block]

    dynamic._run(images, choose)
    return found


def _check_blocks(blocks: Iterable[int], depth: int) -> None:
    for block in blocks:
        if block not in range(depth):
            raise UserError(f"block {block!r} does not exist: the model has {depth} blocks, 0 to {depth - 1}")
