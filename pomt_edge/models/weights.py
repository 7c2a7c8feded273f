"""Read a file of weights, trusting nothing in it, and put them into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from pomt_edge.errors import UserError

NAMED = 3
"""Keys that do not fit and are named; the rest are counted."""

WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which training scripts put the weights proper."""


def load_into(model: nn.Module, path: Path) -> None:
    """Load a safetensors file, or a checkpoint read with `weights_only=True`, into a model.

    Raises:
        UserError: no such file, not weights, or keys that do not fit; the message names them.
    """
    state = {key.removeprefix("module."): value for key, value in _read(path).items()}
    misfits = _misfits(model, state)
    if misfits and isinstance(model, VisionTransformer):
        # Published checkpoints of other libraries, and other image sizes: timm knows how to convert them.
        state = _converted(state, model)
        misfits = _misfits(model, state)
    if misfits:
        shown = "; ".join(misfits[:NAMED]) + (f"; and {len(misfits) - NAMED} more" if len(misfits) > NAMED else "")
        raise UserError(f"--weights {path} does not fit the model: {shown}")
    model.load_state_dict(state)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise UserError(f"--weights {path}: no such file; expected a .safetensors file or a torch checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader stumbles over a foreign file with any error there is
        raise UserError(
            f"--weights {path} can't be read as weights ({type(error).__name__}): expected a .safetensors file or a "
            "torch checkpoint that holds tensors alone"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise UserError(f"--weights {path} holds no weights: expected names and tensors")
    return content


def _converted(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    try:
        return checkpoint_filter_fn(dict(state), model)
    except Exception:  # a foreign layout can fail anywhere in there; the misfits of the original are the message
        return state


def _misfits(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    expected = model.state_dict()
    problems = []
    for key in expected.keys() | state.keys():
        if key not in state:
            problems.append(f"{key} is missing")
        elif key not in expected:
            problems.append(f"{key} is unexpected")
        elif state[key].shape != expected[key].shape:
            hint = " (give --num-classes)" if key.startswith("head") else ""
            problems.append(f"{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}{hint}")
    return sorted(problems, key=lambda text: (" is [" not in text, text))
