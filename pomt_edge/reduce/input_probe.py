"""The paper's probe, for comparison: random tokens dropped before block 0, every block fused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pomt_edge.errors import UserError
from pomt_edge.models.family import Family, family_of


class InputProbe(nn.Module):
    """A model whose blocks all see `kept` tokens: the prefix and one seeded draw, the same for every image."""

    kept: Tensor

    def __init__(self, model: nn.Module, family: Family, kept: Tensor) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.register_buffer("kept", kept, persistent=False)
        self.training = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, height, width] to logits [B, classes]."""
        tokens = self.family.embed(self.model, images).index_select(1, self.kept)
        for block in self.family.blocks(self.model):
            tokens = block(tokens)
        return self.family.read(self.model, self.family.finish(self.model, tokens), None)


def probe_at_input(model: nn.Module, removed: int, seed: int) -> nn.Module:
    """The model with `removed` random tokens dropped at the input; it shares the weights.

    Raises:
        UserError: fewer than the prefix and one more token would be left.
    """
    family = family_of(model)
    prefix = family.prefix_tokens(model)
    patches = family.token_count(model) - prefix
    if not 0 <= removed < patches:
        raise UserError(f"the input probe can't remove {removed} of {patches} patch tokens: 0 to {patches - 1} can go")
    draw = torch.randperm(patches, generator=torch.Generator().manual_seed(seed))
    chosen = draw[: patches - removed].sort().values + prefix
    device = next(model.parameters()).device
    return InputProbe(model, family, torch.cat([torch.arange(prefix), chosen]).to(device))
