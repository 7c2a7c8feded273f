"""What of a Vision Transformer its latency depends on: its sizes, and where which tokens leave."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """The sizes of a plain ViT: every block has the same width, heads and hidden size."""

    depth: int
    embed_dim: int
    """C"""
    heads: int
    mlp_dim: int
    """Hidden channels of a block's MLP."""
    patch_px: int
    image_px: int
    prefix: int = 1
    """Class, distillation and register tokens."""
    image_channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        if self.embed_dim % self.heads:
            raise ValueError(f"{self.embed_dim} channels do not divide by {self.heads} heads")

    @property
    def patches(self) -> int:
        return (self.image_px // self.patch_px) ** 2

    @property
    def tokens(self) -> int:
        """N of the unreduced model."""
        return self.patches + self.prefix

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.heads

    @property
    def parameters(self) -> int:
        """Weights and biases, position embedding included."""
        wide, hidden = self.embed_dim, self.mlp_dim
        block = 4 * wide * wide + 2 * wide * hidden + 9 * wide + hidden
        ends = self.image_channels * self.patch_px**2 * wide + wide * (self.tokens + 4) + self.classes * (wide + 1)
        return self.depth * block + ends


@dataclass(frozen=True)
class Reduction:
    """Where tokens leave, and what that costs; the same number of tokens in all, whatever the place."""

    blocks: tuple[int, ...] = ()
    """Blocks that reduce, between their attention and their MLP; none: tokens are sliced off before block 0."""
    explicit_attention: bool = False
    """Whether a reducing block computes its attention matrix instead of the fused kernel."""
    matches: bool = False
    """Whether the method compares tokens with one another, as ToMe and PiToMe do."""
    proportional: bool = False
    """Whether every block behind the first merge adds the tokens' sizes to its attention."""
    removals: tuple[int, ...] = ()
    """Tokens removed in each block, where a schedule says it; else `blocks` remove evenly."""
