"""The auxiliary network g_l: a thinned copy of what lies above layer l, in its architecture and not in its weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refimpl.methods.local.auglocal.schedule import strides
from refimpl.models.column import Column
from refimpl.models.convnet import conv_bn
from refimpl.models.isolated import CrossEntropy, Isolated, Target
from refimpl.nn import Activation, Layer, Params, Sequential

__all__ = ["UNITS", "agreement", "auxiliary", "copied"]

UNITS = ("block", "conv")


def auxiliary(
    column: Column, l: int, picks: Sequence[int], unit: str = "block", norm: bool | None = None
) -> Sequential:
    """g_l: one block for each picked layer, of that layer's width, then pooling and a linear map to the classes.

    unit "conv" puts one convolution with batch norm and ReLU in the place of a residual block (ValueError for an MLP,
    which has none). A network of one block normalises what the classifier reads (`norm` None; True and False say so
    for any). Takes h_l, the output of layer l, (B, C_l, H_l, W_l) or (B, C_l), and gives logits (B, K).
    """
    if unit not in UNITS:
        raise ValueError(f"auxiliary: unit is {unit!r}, expected one of {', '.join(UNITS)}")
    if unit == "conv" and column.kind == "mlp":
        raise ValueError("auxiliary: unit is 'conv', expected 'block' for an MLP, which has no convolutions")
    blocks: dict[str, Layer] = {}
    c = column.widths[l]
    for i, (k, stride) in enumerate(zip(picks, strides(column.widths, l, picks)), 1):
        width = column.widths[k]
        if unit == "conv":
            blocks[f"block{i}"] = Sequential(*conv_bn(c, width, stride, fan="out"), Activation("relu"))
        else:
            blocks[f"block{i}"] = column.block(c, width, stride)
        c = width
    return Sequential(**blocks, classifier=column.classifier(c, len(picks) <= 1 if norm is None else norm))


def copied(net: Sequential, params: Params, picks: Sequence[int], whole: Params) -> None:
    """Give an auxiliary network (norm=False) the weights of the layers that it was made after, `whole` being those of
    the column as one module. Only where picks follow each other do all shapes fit; ValueError otherwise."""
    names = {f"block{i}": f"layer{k}" for i, k in enumerate(picks, 1)} | {"classifier": "objective"}
    for name, window in params.items():
        part, rest = name.split(".", 1)
        source = f"{names[part]}.{rest}"
        if source not in whole or whole[source].shape != window.shape:
            raise ValueError(f"copied: {name} has shape {window.shape} and no counterpart in {source}")
        window[...] = whole[source]


def agreement(
    column: Column, whole: Params, x: np.ndarray, y: np.ndarray, l: int, net: Sequential, params: Params
) -> tuple[float, float]:
    """How the local gradient of layer l, through the auxiliary network, agrees with back-propagation's: their cosine (0
    where one of them is zero), and the largest difference over the largest entry. `whole`: parameters of the column as
    one module."""
    layers = {f"layer{i}": layer for i, layer in enumerate(column.layers)}
    module, target = Isolated(layers, CrossEntropy(column.readout)), Target(y)
    whole = whole.copy()  # running statistics stay as they are
    true = whole.zeros_like()
    module.backward(whole, true, module.forward(whole, x, target)[2])
    for i in range(l):
        x = column.layers[i].forward(whole.scope(f"layer{i}"), x, True)[0]
    local = Isolated({f"layer{l}": column.layers[l]}, CrossEntropy(net))
    rng = np.random.default_rng(0)  # all is overwritten
    own = local.initialise({f"layer{l}": rng, "objective": rng}, x.dtype)
    for name, window in own.items():
        window[...] = params[name.split(".", 1)[1]] if name.startswith("objective.") else whole[name]
    grads = own.zeros_like()
    local.backward(own, grads, local.forward(own, x, target)[2])
    names = [name for name in grads if name.startswith("layer")]
    mine = np.concatenate([grads[name].ravel() for name in names])
    theirs = np.concatenate([true[name].ravel() for name in names])
    lengths = np.linalg.norm(mine) * np.linalg.norm(theirs)
    cosine = float(mine @ theirs / lengths) if lengths > 0 else 0.0
    return cosine, float(np.abs(mine - theirs).max() / (np.abs(theirs).max() or 1.0))
