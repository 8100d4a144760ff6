"""What stands between module j and its head: a block that follows the next module's first one, and a companion.

    E_j  (e_j)   architecture of first(j+1), the first layer of module j+1; its weights follow that layer's
                 e_j <- m e_j + (1 - m) theta^1_{j+1},  theta before this step's update of the network          (1)
                 and never receive a gradient: of its backward pass only dx is computed (`input_gradient`)
    A_j  (b_j)   the trained companion of the same architecture

    variant 1, "released"    u = A(x) + E(x)                dA = du,     dE = du                                  (2)
    variant 2, "paper"       u = G(x) + b                   dG = du,     db = sum of du over all but channels     (3)
                             one block G, trained and then pulled: gamma <- m gamma + (1 - m) theta^1_{j+1}
    variant 3, "scaled"      u = s A(x) + (2 - s) E(x)      dA = s du,   dE = (2 - s) du,   ds = <du, A(x) - E(x)>  (4)
    all of them              dx = dA(x)/dx^T dA + dE(x)/dx^T dE                                                   (5)

The weights of E_j are state, as running statistics are: no optimiser sees them, every checkpoint and copy does. Batch
norm in E_j normalises by the batch; its running statistics are its own and are not averaged.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.nn import BatchNorm, Conv2d, Layer, Linear, Parameter, Params, Residual, Scope, Sequential, init

VARIANTS = ("released", "paper", "scaled")
PATHS = ("both", "average", "companion")


# ---------------------------------------------------------------- backward without weight gradients


@functools.singledispatch
def input_gradient(layer: Layer, params: Scope, saved: Any, dy: np.ndarray) -> np.ndarray:
    """dL/dx alone: what `layer.backward` returns, without the products that weight gradients cost.

    For layers without parameters that is their backward pass. Raises TypeError for another layer than those below.
    """
    if layer.declare():
        raise TypeError(f"input_gradient: no rule for {type(layer).__name__}, expected Linear, Conv2d, BatchNorm")
    dx = layer.backward(params, params, saved, dy)
    assert dx is not None
    return dx


@input_gradient.register
def _(layer: Sequential, params, saved, dy):
    for (name, inner), kept in zip(reversed(layer.layers.items()), reversed(saved)):
        dy = input_gradient(inner, params.scope(name), kept, dy)
    return dy


@input_gradient.register
def _(layer: Residual, params, saved, dy):
    body, kept = saved
    dx = input_gradient(layer.body, params.scope("body"), body, dy)
    if layer.shortcut is None:
        return dx + dy
    return dx + input_gradient(layer.shortcut, params.scope("shortcut"), kept, dy)


@input_gradient.register
def _(layer: Linear, params, saved, dy):
    return ops.matmul(dy, params["weight"], transpose_b=True)


@input_gradient.register
def _(layer: Conv2d, params, saved, dy):
    """The spread of dy over the picture, which is a transposed convolution of the same weights."""
    weight, (stride, padding, dilation, groups) = params["weight"], layer.geometry()
    s, p, d = ((v, v) if isinstance(v, int) else v for v in (stride, padding, dilation))
    rest = tuple(  # rows and columns at the far edges that a stride leaves out
        saved.shape[2 + a] - ((dy.shape[2 + a] - 1) * s[a] - 2 * p[a] + d[a] * (weight.shape[2 + a] - 1) + 1)
        for a in (0, 1)
    )
    return ops.conv_transpose2d(dy, weight, None, stride, padding, rest, dilation, groups)


@input_gradient.register
def _(layer: BatchNorm, params, saved, dy):
    x, mean, rstd = saved
    if mean is None:
        statistics = params["mean"], params["variance"]
        return ops.batchnorm_inference_backward(dy, x, params["gain"], *statistics, layer.eps)[0]
    return ops.batchnorm_backward(dy, x, params["gain"], mean, rstd)[0]


# ---------------------------------------------------------------- the auxiliary blocks


@dataclass(frozen=True)
class Following(Layer):
    """u of (2), (3) or (4) from the output x of a module; `first` is the first layer of the next one.

    channels: of u, axis 1. paths: "both", or for the ablations E_j ("average") or A_j ("companion") alone, as u itself.
    Parameters: "average.*" is E_j and "companion.*" is A_j, or "block.*" and "bias" in (3); "scale" is s of (4). Raises
    ValueError for an unknown variant or paths, and for a part of (3) or (4).
    """

    first: Layer
    channels: int
    variant: str = "released"
    paths: str = "both"

    def __post_init__(self):
        for name, allowed in (("variant", VARIANTS), ("paths", PATHS)):
            if getattr(self, name) not in allowed:
                given = getattr(self, name)
                raise ValueError(f"Following: {name} is {given!r}, expected one of {', '.join(map(repr, allowed))}")
        if self.variant != "released" and self.paths != "both":
            raise ValueError(f"Following: paths is {self.paths!r}, expected 'both' for variant {self.variant!r}")

    @property
    def follower(self) -> str | None:
        """Name of the block that follows the next module: "average", "block" in (3), None where there is none."""
        return "block" if self.variant == "paper" else None if self.paths == "companion" else "average"

    def declare(self):
        block = self.first.declare()
        if self.variant == "paper":
            bias = {"bias": Parameter((self.channels,), init.zeros)}
            return {**{f"block.{name}": spec for name, spec in block.items()}, **bias}
        parts: dict[str, Parameter] = {}
        if self.paths != "average":
            parts |= {f"companion.{name}": spec for name, spec in block.items()}
        if self.variant == "scaled":
            parts["scale"] = Parameter((1,), init.ones)
        if self.paths != "companion":
            weights = {name: spec for name, spec in block.items() if spec.trained}
            for name, spec in (weights | block).items():  # weights first: one stretch of the state, as they are of flat
                parts[f"average.{name}"] = replace(spec, trained=False)
        return parts

    def forward(self, params, x, train=False, rng=None):
        if self.variant == "paper":
            g, saved = self.first.forward(params.scope("block"), x, train, rng)
            return g + params["bias"].reshape(_along_channels(g)), saved
        a = e = kept_a = kept_e = None
        if self.paths != "average":
            a, kept_a = self.first.forward(params.scope("companion"), x, train, rng)
        if self.paths != "companion":
            e, kept_e = self.first.forward(params.scope("average"), x, train, rng)
        if self.variant == "scaled":
            s = params["scale"][0]
            return s * a + (2 - s) * e, (kept_a, kept_e, a, e)
        return (a + e if self.paths == "both" else e if a is None else a), (kept_a, kept_e)

    def backward(self, params, grads, saved, dy, need_dx=True):
        if self.variant == "paper":
            grads["bias"][...] += dy.sum(axis=tuple(i for i in range(dy.ndim) if i != 1))
            return self.first.backward(params.scope("block"), grads.scope("block"), saved, dy, need_dx)
        da = de = dy
        if self.variant == "scaled":
            s, (*_, a, e) = params["scale"][0], saved
            grads["scale"][...] += ops.dot(dy.ravel(), a.ravel()) - ops.dot(dy.ravel(), e.ravel())
            da, de = s * dy, (2 - s) * dy
        through_a = through_e = None
        if self.paths != "average":
            own, into = params.scope("companion"), grads.scope("companion")
            through_a = self.first.backward(own, into, saved[0], da, need_dx)
        if self.paths != "companion" and need_dx:
            through_e = input_gradient(self.first, params.scope("average"), saved[1], de)
        if through_a is None or through_e is None:
            return through_e if through_a is None else through_a
        return through_a + through_e


def _along_channels(x: np.ndarray) -> tuple[int, ...]:
    return (1, -1) + (1,) * (x.ndim - 2)


# ---------------------------------------------------------------- following


def stretch(params: Params, prefix: str, names: list[str]) -> np.ndarray:
    """The windows `prefix.name` of `params` as one vector; they lie side by side in this order, on flat or on state.

    Raises ValueError where they do not.
    """
    windows = [params[f"{prefix}.{name}"] for name in names]
    vector = params.flat if f"{prefix}.{names[0]}" in params.shapes else params.state
    origin, size = vector.__array_interface__["data"][0], vector.itemsize
    start = stop = (windows[0].__array_interface__["data"][0] - origin) // size
    for name, window in zip(names, windows):
        if window.__array_interface__["data"][0] != origin + stop * size:
            raise ValueError(f"stretch: {prefix}.{name} does not lie behind the window before it")
        stop += window.size
    return vector[start:stop]


def trained_names(layer: Layer) -> list[str]:
    """Names of the parameters of a layer that training changes, in order."""
    return [name for name, spec in layer.declare().items() if spec.trained]
