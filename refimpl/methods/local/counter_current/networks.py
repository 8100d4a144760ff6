"""The two networks: one carries the image up, one the label down, and at every level they meet in the same shape.

    forward    a_0 = x,          a_l = phi(a_{l-1} F_l),  l = 1..L-1,   a_L = a_{L-1} F_L   (logits)               (1)
    feedback   c_L = one-hot,    c_{l-1} = phi(c_l W_l),  l = L..2,     c_0 = c_1 W_1                              (2)
phi is ELU. Here weights are (in, out): F_l (n_{l-1}, n_l), W_l (n_l, n_{l-1}), so W_l has the shape of F_l^T, but it is
a parameter of its own. In the convolutional networks a convolution stands for F_l, and enlarging the map by 2 with a
convolution after it for W_l.

Parameters are named by level: "level2.weights.weight" in either network.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.nn import Activation, Conv2d, Flatten, Layer, Linear, MaxPool2d, Reshape, Scope, Sequential, Upsample2d
from refimpl.nn.init import uniform

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Standardise(Layer):
    """(x - mean) / scale with fixed numbers, one a channel: (B, C, ...)."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def _numbers(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = (-1,) + (1,) * (x.ndim - 2)
        return np.array(self.mean, x.dtype).reshape(shape), np.array(self.scale, x.dtype).reshape(shape)

    def forward(self, params, x, train=False, rng=None):
        mean, scale = self._numbers(x)
        return (x - mean) / scale, None

    def backward(self, params, grads, saved, dy, need_dx=True):
        return dy / self._numbers(dy)[1] if need_dx else None


@dataclass(frozen=True)
class Pair:
    """Layers of both networks, level by level: up[l-1] makes a_l, down[l-1] makes c_{l-1}; shapes of levels 0..L."""

    up: tuple[dict[str, Layer], ...]
    down: tuple[dict[str, Layer], ...]
    shapes: tuple[Shape, ...]

    @property
    def L(self) -> int:
        return len(self.up)

    @property
    def forward_network(self) -> Sequential:
        """All layers of (1) in a row, as back-propagation and other rules take them."""
        return _network(dict(enumerate(self.up, 1)))

    @property
    def feedback_network(self) -> Sequential:
        """All layers of (2) in a row, from the label down."""
        return _network({level: self.down[level - 1] for level in range(self.L, 0, -1)})

    def ascend(self, params: Scope, x: np.ndarray, train: bool = False) -> tuple[list[np.ndarray], list[Any]]:
        """(1): activities a_0..a_L and what level l's backward pass needs (index l)."""
        a, saved = [x], [None]
        for level in range(1, self.L + 1):
            y, kept = self.layer(self.up, level).forward(params.scope(f"level{level}"), a[-1], train)
            a.append(y)
            saved.append(kept)
        return a, saved

    def descend(self, params: Scope, c: np.ndarray, train: bool = False) -> tuple[list[np.ndarray], list[Any]]:
        """(2) from c_L: activities c_0..c_L; index l of the second list is what the backward pass of W_l needs."""
        found, saved = [c], [None] * (self.L + 1)
        for level in range(self.L, 0, -1):
            y, saved[level] = self.layer(self.down, level).forward(params.scope(f"level{level}"), found[0], train)
            found.insert(0, y)
        return found, saved

    def layer(self, side: tuple[dict[str, Layer], ...], level: int) -> Sequential:
        return Sequential(**side[level - 1])


def _network(levels: dict[int, dict[str, Layer]]) -> Sequential:
    return Sequential(**{f"level{i}.{name}": layer for i, layers in levels.items() for name, layer in layers.items()})


def _linear(d_in: int, d_out: int) -> Linear:
    return Linear(d_in, d_out, bias=False, weight_init=uniform(1 / math.sqrt(max(1, d_in))))


def _conv(c_in: int, c_out: int, stride: int, bias: bool) -> Conv2d:
    limit = 1 / math.sqrt(9 * c_in)
    return Conv2d(c_in, c_out, 3, stride, 1, bias=bias, weight_init=uniform(limit))


def mlp_pair(d_in: int, K: int, hidden: tuple[int, ...] = (256,) * 5) -> Pair:
    """Matrices without biases (variant A), first weights uniform within 1 / sqrt(inputs)."""
    widths = (d_in, *hidden, K)
    up: list[dict[str, Layer]] = []
    down: list[dict[str, Layer]] = []
    L = len(widths) - 1
    for level in range(1, L + 1):
        below, above = widths[level - 1], widths[level]
        up.append({"weights": _linear(below, above)})
        down.append({"weights": _linear(above, below)})
        if level < L:
            up[-1]["phi"] = Activation("elu")
        if level > 1:
            down[-1]["phi"] = Activation("elu")
    return Pair(tuple(up), tuple(down), tuple((n,) for n in widths))


def conv_pair(shape: Shape, K: int, channels: tuple[int, ...], pool: bool = False) -> Pair:
    """Convolutions 3 x 3 (variant B): of stride 2 with bias, or with `pool` of stride 1 without bias and a max pooling
    of 2 x 2 after phi; then a matrix. Raises ValueError for extents that cannot be halved so often."""
    if len(shape) != 3 or shape[1] % 2 ** len(channels) or shape[2] % 2 ** len(channels):
        raise ValueError(
            f"conv_pair: images of shape {shape}, expected (C, H, W) with H and W multiples of {2 ** len(channels)}"
        )
    shapes = [shape]
    up: list[dict[str, Layer]] = []
    down: list[dict[str, Layer]] = []
    for c in channels:
        below, h, w = shapes[-1]
        up.append({"weights": _conv(below, c, 1 if pool else 2, not pool)})
        if pool:  # phi rises, so it may follow the pooling as well, where a quarter of the values is left
            up[-1]["pool"] = MaxPool2d(2)
        up[-1]["phi"] = Activation("elu")
        down.append({"enlarge": Upsample2d(2), "weights": _conv(c, below, 1, not pool)})
        if len(up) > 1:
            down[-1]["phi"] = Activation("elu")
        shapes.append((c, h // 2, w // 2))
    n = math.prod(shapes[-1])
    up.append({"flatten": Flatten(), "weights": _linear(n, K)})
    down.append({"weights": _linear(K, n), "phi": Activation("elu"), "map": Reshape(shapes[-1])})
    return Pair(tuple(up), tuple(down), (*shapes, (K,)))


def step_flops(pair: Pair, B: int, K: int) -> float:
    """Floating-point operations of the products of one step of matrices: B rows up and their weight gradients, K rows
    down and theirs, S_l, da_l (but for level 0) and dc_l. No gradient goes from layer to layer."""
    P = sum(a[0] * b[0] for a, b in itertools.pairwise(pair.shapes))
    n = sum(shape[0] for shape in pair.shapes[:-1])
    return 4.0 * (B + K) * P + 2.0 * B * K * (3 * n - pair.shapes[0][0])


def backprop_flops(pair: Pair, B: int) -> float:
    """The same for back-propagation: rows up, weight gradients, and the gradient of every layer's input but the
    first's."""
    products = [a[0] * b[0] for a, b in itertools.pairwise(pair.shapes)]
    return 2.0 * B * (3 * sum(products) - products[0])
