"""Small real timm models of every shape that a reduction has to respect."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

SHAPE = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 2, "num_classes": 10}


def small(**options: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(**(SHAPE | options)).eval()


def distilled() -> VisionTransformerDistilled:
    torch.manual_seed(0)
    return VisionTransformerDistilled(**SHAPE).eval()


VARIANTS: dict[str, Callable[[], nn.Module]] = {
    "class token": small,
    "distillation token": distilled,
    "four registers": lambda: small(reg_tokens=4, no_embed_class=True),
    "no class token": lambda: small(class_token=False, global_pool="avg"),
    "class token, average pool": lambda: small(global_pool="avg"),
    "layer scale": lambda: small(init_values=0.5),
    "q/k norm": lambda: small(qk_norm=True),
    "attention scale norm": lambda: small(scale_attn_norm=True),
    "pre-norm": lambda: small(pre_norm=True),
    "attention pooling": lambda: small(class_token=False, global_pool="map"),
}


def images(batch: int, px: int = 32, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(batch, 3, px, px, generator=torch.Generator().manual_seed(7), dtype=dtype)


def fill_by_name(model: nn.Module) -> nn.Module:
    """Weights that follow from their names alone, as the recorded reference outputs had them; in float64."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = 0.05 * torch.randn(parameter.shape, generator=generator)
        *path, last = name.split(".")
        if last == "weight" and any(part.startswith("norm") or part in NORMS for part in path):
            values = 1 + values
        parameter.data = values
    return model.double().eval()


NORMS = ("fc_norm", "q_norm", "k_norm")


def reference_image(px: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(b"input"))
    return torch.randn(1, 3, px, px, generator=generator).double()
