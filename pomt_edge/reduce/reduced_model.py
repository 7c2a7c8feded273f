"""The reduced model, and the calls that make one."""

from __future__ import annotations

import copy as copying
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pomt_edge.errors import UserError
from pomt_edge.models.family import Family, family_of
from pomt_edge.records import Plan
from pomt_edge.reduce import blocks, method, schedule, source, token_map
from pomt_edge.reduce.blocks import Attended
from pomt_edge.reduce.token_map import TokenMap


class ReducedModel(nn.Module):
    """A model that removes tokens by a schedule; called as the original is.

    Token counts are fixed by the schedule: nothing in the forward depends on data, so that it compiles and
    exports. Blocks that remove nothing run as they are, with their own fused attention.
    """

    def __init__(self, model: nn.Module, family: Family, by: method.Method, removed: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.method = by
        self.schedule = tuple(removed)
        self.prefix = family.prefix_tokens(model)
        self.tokens_in = family.token_count(model)
        self.track_sizes = any(self.schedule) and (by.merges or family.reads_sizes(model))
        self.training = model.training

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images [B, 3, height, width] to logits [B, classes]."""
        _refuse_mask(attn_mask, is_causal)
        tokens, sizes, _ = self._run(x)
        return self.family.read(self.model, tokens, sizes)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Images [B, 3, height, width] to normed tokens [B, M, C]."""
        _refuse_mask(attn_mask, is_causal)
        return self._run(x)[0]

    def token_maps(self, x: Tensor) -> dict[int, TokenMap]:
        """Images [B, 3, height, width] to the map of each block that reduces, by the block's index."""
        return self._run(x)[2]

    def source_map(self, x: Tensor) -> Tensor:
        """Images [B, 3, height, width] to the output slot of each original token, [B, N]; -1: dropped."""
        return source.source_map(self.token_maps(x), self.tokens_in).expand(x.shape[0], -1)

    def traced(self, x: Tensor) -> tuple[Tensor, list[Tensor], dict[int, TokenMap]]:
        """Images [B, 3, height, width] to logits, the tokens behind each block [B, M, C], and the token maps."""
        behind: list[Tensor] = []
        tokens, sizes, maps = self._run(x, behind.append)
        return self.family.read(self.model, tokens, sizes), behind, maps

    @property
    def first_block(self) -> int | None:
        """The first block that reduces: all before it is the same for every schedule that reduces there first."""
        return next((index for index, removed in enumerate(self.schedule) if removed), None)

    def entering(self, x: Tensor, block: int) -> Tensor:
        """Images [B, 3, height, width] to the tokens [B, N, C] that enter a block, at most the first that reduces."""
        tokens = self.family.embed(self.model, x)
        if any(self.schedule) and tokens.shape[1] != self.tokens_in:
            raise UserError(f"the schedule is for {self.tokens_in} tokens, these images make {tokens.shape[1]}")
        for index in range(block):
            tokens = self.family.blocks(self.model)[index](tokens)
        return tokens

    def attended(self, tokens: Tensor, block: int) -> Attended:
        """What enters the first block that reduces, [B, N, C], to that block's state behind its attention."""
        explicit = self.method.needs_attention
        return blocks.attend(self.family, self.family.blocks(self.model)[block], tokens, None, explicit)

    def resume(self, state: Tensor | Attended, block: int) -> Tensor:
        """The logits [B, classes] from what enters a block, or from `attended` of the first that reduces.

        The logits are those of the whole forward, bit for bit.
        """
        tokens, sizes, _ = self._run_from(state, block)
        return self.family.read(self.model, tokens, sizes)

    def _run(
        self, images: Tensor, see: Callable[[Tensor], None] = lambda tokens: None
    ) -> tuple[Tensor, Tensor | None, dict[int, TokenMap]]:
        return self._run_from(self.entering(images, 0), 0, see)

    def _run_from(
        self, state: Tensor | Attended, first: int, see: Callable[[Tensor], None] = lambda tokens: None
    ) -> tuple[Tensor, Tensor | None, dict[int, TokenMap]]:
        tokens = state.tokens if isinstance(state, Attended) else state
        sizes = token_map.ones(tokens) if self.track_sizes else None
        maps: dict[int, TokenMap] = {}
        depth = len(self.schedule)
        for index in range(first, depth):
            block, removed = self.family.blocks(self.model)[index], self.schedule[index]
            weights = sizes if maps and self.method.proportional_attention else None
            if removed:
                attended = (
                    state
                    if isinstance(state, Attended) and index == first
                    else blocks.attend(self.family, block, tokens, weights, self.method.needs_attention)
                )
                place = blocks.Place(self.prefix, index, depth)
                tokens, sizes, maps[index] = blocks.reduce_in_block(
                    self.family, block, self.method, removed, attended, sizes, place
                )
            elif weights is not None:
                tokens = blocks.run_block(self.family, block, tokens, weights)
            else:
                tokens = block(tokens)
            see(tokens)
        return self.family.finish(self.model, tokens), sizes, maps


def _refuse_mask(attn_mask: Tensor | None, is_causal: bool) -> None:
    if attn_mask is not None or is_causal:
        raise UserError("a reduced model takes no attention mask: after the reduction it would fit no block")


def reduce_model(
    model: nn.Module,
    plan: Plan | str | os.PathLike[str] | None = None,
    *,
    method: str | None = None,
    schedule: Sequence[int] | None = None,
    copy: bool = True,
    **options: Any,
) -> nn.Module:
    """The model that a plan, or a method and a schedule, describes; the model passed in is unchanged.

    Args:
        model: a model of a supported family.
        plan: what to do, or its file or the folder of its run; or else
        method: a file of `pomt_edge.reduce.tokens`, and
        schedule: one integer per block, tokens removed there.
        copy: False shares the weights with the model instead of copying them.
        options: the method's own, by its own names.

    Raises:
        UserError: a family, a method, an option or a schedule that does not fit; the message says what does.
    """
    if plan is not None and (method is not None or schedule is not None):
        raise UserError("give a plan, or a method and a schedule, not both")
    if isinstance(plan, str | os.PathLike):
        plan = Plan.load(plan)
    if plan is not None:
        method, schedule = plan.method, plan.schedule
        _check_same_model(model, plan)
    if method is None or schedule is None:
        raise UserError("give a plan, or a method and a schedule (one integer per block)")
    family, by, removed = _checked(model, method, schedule, options)
    count = family.token_count(model)
    if plan is not None and plan.tokens_in != count:
        raise UserError(f"the plan is for {plan.tokens_in} tokens, the model has {count}")
    _check_weights(model)
    return ReducedModel(copying.deepcopy(model) if copy else model, family, by, removed)


def unreduced(model: nn.Module) -> ReducedModel:
    """A model as a reduced one that removes nothing; it shares the weights.

    Raises:
        UserError: the model is of a family that is not supported.
    """
    family = family_of(model)
    return ReducedModel(model, family, method.load("random"), (0,) * len(family.blocks(model)))


def _check_same_model(model: nn.Module, plan: Plan) -> None:
    """A plan holds for the model it was measured with; timm's models know their names, others are taken on trust."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if name and name != plan.model.split(".")[0]:
        raise UserError(
            f"the plan is for {plan.model}, the model is {name}; to use its schedule all the same give "
            "method=plan.method and schedule=plan.schedule"
        )


def _check_weights(model: nn.Module) -> None:
    """Every method ranks: NaN has a rank too, and the model would run and answer NaN."""
    for name, weight in model.named_parameters():
        # Only what lies in memory as it is: meta and quantised tensors can't be asked.
        if type(weight.data) is not Tensor or weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        if not torch.stack(torch.aminmax(weight.detach())).isfinite().all():
            raise UserError(f"the model's weights hold NaN or infinity, first in {name}; load finite weights")


def _checked(
    model: nn.Module, name: str, removed: Sequence[int], options: dict[str, Any]
) -> tuple[Family, method.Method, tuple[int, ...]]:
    if isinstance(model, ReducedModel):
        raise UserError("the model is a reduced one already; reduce the original, with all its blocks in the schedule")
    family = family_of(model)
    by = method.load(name, **options)
    prefix = family.prefix_tokens(model)
    if by.needs_class_token and not family.has_class_token(model):
        raise UserError(f"method {name} scores tokens by the class token, and this model has none")
    depth = len(family.blocks(model))
    return family, by, schedule.check(removed, depth, family.token_count(model), prefix, by.most)
