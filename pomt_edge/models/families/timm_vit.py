"""timm's VisionTransformer: ViT, DeiT, distilled DeiT, DINOv2, and others with class and register tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn


class TimmVit:
    title = "timm's VisionTransformer (ViT, DeiT, distilled DeiT, DINOv2, with or without register tokens)"

    def claims(self, model: nn.Module) -> bool:
        return isinstance(model, VisionTransformer)

    def objection(self, model: nn.Module) -> str | None:
        vit = cast(VisionTransformer, model)
        for index, block in enumerate(vit.blocks):
            # A subclass may change its forward, and the reduced forward would then compute something else.
            if type(block) is not Block:
                return f"block {index} is a {type(block).__name__}; only timm's Block is supported"
            if type(block.attn) is not Attention:
                return f"block {index} attends by {type(block.attn).__name__}; only timm's Attention is supported"
        if vit.global_pool == "avgmax":
            return "its pooling 'avgmax' is not defined for merged tokens; supported: token, avg, max, map"
        return None

    def prefix_tokens(self, model: nn.Module) -> int:
        return int(cast(VisionTransformer, model).num_prefix_tokens)

    def has_class_token(self, model: nn.Module) -> bool:
        return bool(cast(VisionTransformer, model).has_class_token)

    def token_count(self, model: nn.Module) -> int:
        return int(cast(VisionTransformer, model).patch_embed.num_patches) + self.prefix_tokens(model)

    def image_px(self, model: nn.Module) -> int:
        return int(cast(VisionTransformer, model).patch_embed.img_size[0])

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        return cast(Sequence[nn.Module], cast(VisionTransformer, model).blocks)

    def embed(self, model: nn.Module, images: Tensor) -> Tensor:
        vit = cast(VisionTransformer, model)
        tokens = vit._pos_embed(vit.patch_embed(images))
        return cast(Tensor, vit.norm_pre(vit.patch_drop(tokens)))

    def normalise(self, block: nn.Module, tokens: Tensor) -> Tensor:
        return cast(Tensor, cast(Block, block).norm1(tokens))

    def project(self, block: nn.Module, normed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        attention = cast(Block, block).attn
        batch, count, _ = normed.shape
        qkv = attention.qkv(normed).reshape(batch, count, 3, attention.num_heads, attention.head_dim)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return attention.q_norm(queries), attention.k_norm(keys), values, keys

    def drop_attention(self, block: nn.Module, attention: Tensor) -> Tensor:
        return cast(Tensor, cast(Block, block).attn.attn_drop(attention))

    def join(self, block: nn.Module, heads: Tensor, normed: Tensor) -> Tensor:
        vit_block = cast(Block, block)
        attention = vit_block.attn
        joined = attention.norm(heads.transpose(1, 2).flatten(2))
        gate = getattr(attention, "gate", None)
        if gate is not None:
            joined = joined * gate(normed).sigmoid()
        joined = attention.proj_drop(attention.proj(joined))
        return cast(Tensor, vit_block.drop_path1(vit_block.ls1(joined)))

    def mlp(self, block: nn.Module, tokens: Tensor) -> Tensor:
        vit_block = cast(Block, block)
        return cast(Tensor, vit_block.drop_path2(vit_block.ls2(vit_block.mlp(vit_block.norm2(tokens)))))

    def reads_sizes(self, model: nn.Module) -> bool:
        vit = cast(VisionTransformer, model)
        return vit.attn_pool is None and vit.global_pool == "avg"

    def finish(self, model: nn.Module, tokens: Tensor) -> Tensor:
        return cast(Tensor, cast(VisionTransformer, model).norm(tokens))

    def read(self, model: nn.Module, tokens: Tensor, sizes: Tensor | None, pre_logits: bool = False) -> Tensor:
        vit = cast(VisionTransformer, model)
        if sizes is not None and self.reads_sizes(model):
            first = 0 if getattr(vit, "pool_include_prefix", False) else vit.num_prefix_tokens
            # Scaled by its share of the mean size, the plain mean that follows becomes the size-weighted one.
            shares = sizes / sizes[:, first:].mean(dim=1, keepdim=True)
            tokens = tokens * shares.to(tokens.dtype).unsqueeze(-1)
        return cast(Tensor, vit.forward_head(tokens, pre_logits=pre_logits))


FAMILY = TimmVit()
