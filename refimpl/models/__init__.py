"""Floor 4: architectures that several papers use. Functions that return layers."""

from __future__ import annotations

import math

from refimpl.models.column import Column, mlp_column, resnet_column
from refimpl.models.convnet import basic_block, lenet, resnet, vgg
from refimpl.models.gpt import GPT
from refimpl.models.mlp import mlp
from refimpl.nn import Layer

__all__ = [
    "GPT",
    "Column",
    "basic_block",
    "build",
    "lenet",
    "mlp",
    "mlp_column",
    "names",
    "resnet",
    "resnet_column",
    "vgg",
]

_IMAGE_MODELS = {"lenet": lenet, "vgg": vgg, "resnet": resnet}


def names() -> tuple[str, ...]:
    """Names that `build` takes."""
    return ("mlp", *_IMAGE_MODELS)


def build(name: str, shape: tuple[int, ...], d_out: int, **options) -> Layer:
    """A model by name for inputs of `shape` (without the batch axis). Raises ValueError for an unknown name or a shape
    that the model cannot take."""
    if name == "mlp":
        return mlp(math.prod(shape), d_out, **options)
    if name not in _IMAGE_MODELS:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(names())}")
    if len(shape) != 3:
        raise ValueError(f"model {name!r} takes images (C, H, W), but the input has shape {tuple(shape)}")
    return _IMAGE_MODELS[name](shape, d_out, **options)
