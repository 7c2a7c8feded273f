"""The embedded demo: a small trained ViT with DeiT's token geometry, and 2,000 labelled images."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from pomt_edge.records import Preprocessing

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

NAME = "demo"
PREPROCESSING = Preprocessing(
    image_px=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=1.0, interpolation="bilinear"
)
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def build_model() -> nn.Module:
    """The model with its weights, in float32 and evaluation; images [B, 3, 28, 28] to logits [B, 10]."""
    from safetensors.torch import load
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(
        img_size=28, patch_size=2, in_chans=3, num_classes=10, embed_dim=96, depth=8, num_heads=3, mlp_ratio=4
    )
    stored = load(_file("demo_fashion_28p2.safetensors").read_bytes())
    model.load_state_dict({key: value.float() for key, value in stored.items()})
    return model.eval()


def read_images() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Grey images uint8 [2000, 28, 28] and their labels uint8 [2000]."""
    import numpy as np

    with _file("fashion_test_2000.npz").open("rb") as file, np.load(file) as arrays:
        return arrays["images"], arrays["labels"]


def _file(name: str) -> Any:
    return resources.files(__package__) / name
