"""Floor 3: parameters, layers, containers and initialisers."""

from refimpl.nn import init
from refimpl.nn.containers import Concat, Residual, Sequential, repeat
from refimpl.nn.layer import Layer, declare_all, initialise
from refimpl.nn.layers import (
    Activation,
    AdaptiveAvgPool2d,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool2d,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool2d,
    Reshape,
    Resize2d,
    RMSNorm,
    RowLinear,
    Upsample2d,
)
from refimpl.nn.params import Init, Parameter, Params, Scope
from refimpl.nn.sequence import GRU, LSTM, RNN, SelfAttention

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm",
    "Concat",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAvgPool2d",
    "GroupNorm",
    "Init",
    "Layer",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Parameter",
    "Params",
    "RMSNorm",
    "Reshape",
    "Residual",
<<<<<<< HEAD
    "RowLinear",
=======
    "Resize2d",
>>>>>>> main
    "Scope",
    "SelfAttention",
    "Sequential",
    "Upsample2d",
    "declare_all",
    "init",
    "initialise",
    "repeat",
]
