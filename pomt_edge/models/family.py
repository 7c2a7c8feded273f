"""What a family of Vision Transformers tells the reduction, and which family a model belongs to.

Shapes are written with the legend of `pomt_edge.reduce.token_map`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from pomt_edge import catalogue
from pomt_edge.errors import UserError

FAMILIES = "pomt_edge.models.families"


class Family(Protocol):
    """How to take a model apart; stateless, so that a reduced model can be copied and pickled."""

    title: str
    """What the family is called in messages."""

    def claims(self, model: nn.Module) -> bool:
        """Whether the model is one of this family's."""

    def objection(self, model: nn.Module) -> str | None:
        """Why a model that the family claims can't be reduced all the same, or None."""

    def prefix_tokens(self, model: nn.Module) -> int:
        """P: class, distillation and register tokens, which every method protects."""

    def has_class_token(self, model: nn.Module) -> bool:
        """Whether the first token is a class token."""

    def token_count(self, model: nn.Module) -> int:
        """N, the tokens that enter block 0 at the model's own image size, prefix included."""

    def image_px(self, model: nn.Module) -> int:
        """Height and width of the images that the model was built for, in pixels."""

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """The transformer blocks, first to last."""

    def embed(self, model: nn.Module, images: Tensor) -> Tensor:
        """Images [B, 3, height, width] to the tokens that enter block 0, [B, N, C]."""

    def normalise(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """The norm before attention, [B, N, C] to [B, N, C]."""

    def project(self, block: nn.Module, normed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values as attention uses them, and keys before their norm; each [B, H, N, d]."""

    def drop_attention(self, block: nn.Module, attention: Tensor) -> Tensor:
        """Attention dropout, [B, H, N, N]; the identity in evaluation."""

    def join(self, block: nn.Module, heads: Tensor, normed: Tensor) -> Tensor:
        """What the attention branch adds to the residual stream, from its heads [B, H, N, d]: [B, N, C]."""

    def mlp(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """What the MLP branch adds to the residual stream, its norm included: [B, N, C]."""

    def reads_sizes(self, model: nn.Module) -> bool:
        """Whether the classifier averages tokens, so that a merged token has to count for all it stands for."""

    def finish(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """The final norm over the tokens that leave the last block, [B, N, C] to [B, N, C]."""

    def read(self, model: nn.Module, tokens: Tensor, sizes: Tensor | None, pre_logits: bool = False) -> Tensor:
        """Pooling and classifier: normed tokens [B, N, C] and their sizes [B, N] to logits [B, classes]."""


def family_of(model: nn.Module) -> Family:
    """The family that claims a model.

    Raises:
        UserError: none does, or the one that does objects; the message says which are supported.
    """
    families: list[Family] = [catalogue.load(FAMILIES, name, "family").FAMILY for name in catalogue.names(FAMILIES)]
    for family in families:
        if family.claims(model):
            objection = family.objection(model)
            if objection:
                raise UserError(f"{type(model).__name__} can't be reduced: {objection}")
            return family
    supported = "; ".join(family.title for family in families)
    raise UserError(f"{type(model).__name__} is of a family that is not supported; supported: {supported}")
