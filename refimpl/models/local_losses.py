"""The local losses that greedy learning is known with: what a module's output is asked for, and gradients by hand.

Each builder takes the column (for its kind and its classes) and the shape of one sample of what the objective will see:
a module's output, or whatever a method makes of it. In rows with the module's index come the rules

    greedy     CE(Linear(pool(h)))                                            Belilovsky et al., 2019 ("0c1f")
    dgl        CE of a head of pooling, three 1x1 convolutions and an MLP      Belilovsky et al., 2020
    predsim    (1 - beta) CE + beta |R(h) - R(y)|^2, R similarities of samples   Nøkland and Eidnes, 2019        (1)
    infopro    l1 BCE(decoder(h), image) + l2 CE                              Wang et al., 2021                 (2)

Where a column is an MLP, convolutions become matrices and there is nothing to pool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.models.column import Column, linear
from refimpl.models.convnet import conv_bn
from refimpl.models.isolated import CrossEntropy, Objective
from refimpl.nn import (
    Activation,
    AdaptiveAvgPool2d,
    BatchNorm,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Resize2d,
    Sequential,
    init,
)
from refimpl.nn.layer import declare_all

__all__ = ["RULES", "InfoPro", "PredSim", "dgl_head", "infopro_head", "objective", "similarities"]

RULES = ("greedy", "dgl", "predsim", "infopro")
Shape = tuple[int, ...]


def objective(
    rule: str, column: Column, shape: Shape, r: float = 0.0, options: Mapping[str, Any] | None = None
) -> Objective:
    """The objective of one of RULES for what has `shape` a sample; r in [0, 1] is where the module stands, from the
    first local one to the last. Options: of dgl `width` (None: as many channels as come), of predsim `beta` and
    `features`, of infopro `first` and `last`, the pairs (l1, l2), `convs` of its head, and `hidden` units.

    Raises ValueError for another rule or an option that the rule does not have.
    """
    known: dict[str, dict[str, Any]] = {
        "greedy": {},
        "dgl": {"width": None},
        "predsim": {"beta": 0.99, "features": 256},
        "infopro": {"first": (5.0, 0.05), "last": (0.2, 0.5), "convs": 1, "hidden": 128},
    }
    if rule not in known:
        raise ValueError(f"rule is {rule!r}, expected one of {', '.join(known)}")
    unknown = sorted(set(options or {}) - set(known[rule]))
    if unknown:
        raise ValueError(f"rule {rule!r} has no option {unknown[0]!r}, expected {', '.join(known[rule]) or 'none'}")
    s = {**known[rule], **(options or {})}
    if rule == "greedy":
        return CrossEntropy(column.classifier(shape[0]))
    if rule == "dgl":
        return CrossEntropy(dgl_head(column, shape, s["width"]))
    if rule == "predsim":
        return predsim(column, shape, s["beta"], s["features"])
    l1, l2 = ((1 - r) * a + r * b for a, b in zip(s["first"], s["last"]))
    return infopro(column, shape, l1, l2, s["convs"], s["hidden"])


# ---------------------------------------------------------------- DGL


def dgl_head(column: Column, shape: Shape, width: int | None = None) -> Sequential:
    """Pooling to a quarter of the extent, three 1x1 convolutions with batch norm and ReLU, pooling to 2x2, two linear
    layers with batch norm and ReLU, a linear one. `width`: channels of the head."""
    c = width or shape[0]
    if column.kind == "mlp":
        parts: list[Layer] = []
        for i in range(3):
            parts += [linear(shape[0] if i == 0 else c, c, bias=False), BatchNorm(c), Activation("relu")]
        return Sequential(*parts, linear(c, column.K))
    parts = [AdaptiveAvgPool2d((-(-shape[1] // 4), -(-shape[2] // 4)))]
    for i in range(3):
        parts += [*conv_bn(shape[0] if i == 0 else c, c, size=1, fan="out"), Activation("relu")]
    parts += [AdaptiveAvgPool2d(2), Flatten()]
    for _ in range(2):
        parts += [linear(4 * c, 4 * c, bias=False), BatchNorm(4 * c), Activation("relu")]
    return Sequential(*parts, linear(4 * c, column.K))


# ---------------------------------------------------------------- PredSim


def similarities(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R = clip(zn zn^T, -1, 1) of rows z (B, C): zn is z centred over its channels and divided by its norm (+ 1e-8).
    Returns R (B, B), zn, and the norms (B, 1)."""
    centred = z - z.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred * centred).sum(axis=1, keepdims=True))
    zn = centred / (norm + z.dtype.type(1e-8))
    return np.clip(ops.matmul(zn, zn, transpose_b=True), -1, 1), zn, norm


def similarities_backward(dR: np.ndarray, zn: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """dz from a symmetric dR: dzn = 2 dR zn; dc = dzn/(n + e) - zn (zn dzn)/n, centred again."""
    dzn = 2 * ops.matmul(dR, zn)
    inner = (zn * dzn).sum(axis=1, keepdims=True)
    safe = np.where(norm > 0, norm, 1)
    dc = dzn / (norm + zn.dtype.type(1e-8)) - zn * (inner / safe)
    return dc - dc.mean(axis=1, keepdims=True)


@dataclass(frozen=True)
class PredSim(Objective):
    """(1): L = (1 - beta) CE(head(h)) + beta mean (R(z) - R(y))^2.

    z (B, C) is the spatial deviation of each channel of net(h), unbiased (net(h) itself, where nothing is spatial);
    R(y), the same from one-hot labels, is 1 for two samples of a class and -1/(K - 1) for others.
    """

    head: Layer
    net: Layer
    beta: float
    K: int

    def declare(self):
        return declare_all(head=self.head, net=self.net)

    def forward(self, params, h, target, rng=None):
        y = target.labels
        logits, head = self.head.forward(params.scope("head"), h, True, rng)
        ce, p = ops.cross_entropy(logits, y)
        u, net = self.net.forward(params.scope("net"), h, True, rng)
        planes = u.reshape(*u.shape[:2], -1)
        M = planes.shape[2]
        z = planes.std(axis=2, ddof=1) if M > 1 else planes[..., 0]
        R, zn, norm = similarities(z)
        Ry = np.where(y[:, None] == y, 1, -1 / (self.K - 1)).astype(R.dtype)
        difference = R - Ry
        loss = (1 - self.beta) * float(ce) + self.beta * float((difference * difference).mean())
        return loss, (head, p, y, net, u, z, difference, zn, norm)

    def backward(self, params, grads, saved):
        head, p, y, net, u, z, difference, zn, norm = saved
        dR = u.dtype.type(2 * self.beta / difference.size) * difference
        dz = similarities_backward(dR, zn, norm)
        planes = u.reshape(*u.shape[:2], -1)
        M = planes.shape[2]
        if M > 1:  # d std / dx = (x - mean) / ((M - 1) std), and 0 where nothing varies
            scale = np.where(z > 0, dz / ((M - 1) * np.where(z > 0, z, 1)), 0)
            du = (planes - planes.mean(axis=2, keepdims=True)) * scale[..., None]
        else:
            du = dz[..., None]
        dh = self.net.backward(params.scope("net"), grads.scope("net"), net, du.reshape(u.shape))
        dlogits = ops.cross_entropy_backward(p, y, dloss=1 - self.beta)
        return dh + self.head.backward(params.scope("head"), grads.scope("head"), head, dlogits)


def predsim(column: Column, shape: Shape, beta: float = 0.99, features: int = 256) -> PredSim:
    """The head of (1) pools to at most `features` numbers; z comes from one 3x3 convolution without bias.
    Raises ValueError for beta outside [0, 1]."""
    if not 0 <= beta <= 1:
        raise ValueError(f"predsim: beta is {beta}, expected a number in [0, 1]")
    c = shape[0]
    if column.kind == "mlp":
        return PredSim(linear(c, column.K), linear(c, c, bias=False), beta, column.K)
    side = max(1, min(*shape[1:], math.isqrt(features // c)))
    head = Sequential(AdaptiveAvgPool2d(side), Flatten(), linear(c * side * side, column.K))
    first = init.kaiming_normal(9 * c)
    return PredSim(head, Conv2d(c, c, 3, 1, 1, bias=False, weight_init=first), beta, column.K)


# ---------------------------------------------------------------- InfoPro


@dataclass(frozen=True)
class InfoPro(Objective):
    """(2): L = l1 BCE(decoder(h), image) + l2 CE(head(h)); the decoder ends in logits of the image's entries."""

    head: Layer
    decoder: Layer
    l1: float
    l2: float

    def declare(self):
        return declare_all(head=self.head, decoder=self.decoder)

    def forward(self, params, h, target, rng=None):
        y, image = target.labels, target.image
        if image is None:
            raise ValueError("InfoPro: the target has no image to reconstruct")
        logits, head = self.head.forward(params.scope("head"), h, True, rng)
        ce, p = ops.cross_entropy(logits, y)
        drawn, decoder = self.decoder.forward(params.scope("decoder"), h, True, rng)
        image = image.reshape(drawn.shape)
        bce = ops.binary_cross_entropy_with_logits(drawn, image)
        return self.l1 * float(bce) + self.l2 * float(ce), (head, p, y, decoder, drawn, image)

    def backward(self, params, grads, saved):
        head, p, y, decoder, drawn, image = saved
        ddrawn = ops.binary_cross_entropy_with_logits_backward(drawn, image, dloss=self.l1)
        dh = self.decoder.backward(params.scope("decoder"), grads.scope("decoder"), decoder, ddrawn)
        dlogits = ops.cross_entropy_backward(p, y, dloss=self.l2)
        return dh + self.head.backward(params.scope("head"), grads.scope("head"), head, dlogits)


def infopro_head(column: Column, shape: Shape, convs: int = 1, hidden: int = 128) -> Sequential:
    """`convs` 3x3 convolutions with batch norm and ReLU, pooling, two linear layers. The first convolution halves the
    extent and doubles the channels, unless these are as many as the column ends with."""
    c = shape[0]
    parts: list[Layer] = []
    if column.kind == "resnet":
        stride, c = (2, 2 * c) if c < column.widths[-1] else (1, c)
        for i in range(convs):
            parts += [*conv_bn(shape[0] if i == 0 else c, c, stride if i == 0 else 1, fan="out"), Activation("relu")]
        parts.append(GlobalAvgPool2d())
    return Sequential(*parts, linear(c, hidden), Activation("relu"), linear(hidden, column.K))


def infopro(
    column: Column, shape: Shape, l1: float, l2: float, convs: int = 1, hidden: int = 128, channels: int = 12
) -> InfoPro:
    """Its decoder: enlarging to the image's size, 3x3 convolutions to `channels` and to the image's channels."""
    head = infopro_head(column, shape, convs, hidden)
    if column.kind == "mlp":
        return InfoPro(head, linear(shape[0], math.prod(column.shape)), l1, l2)
    first, second = Conv2d(shape[0], channels, 3, 1, 1), Conv2d(channels, column.shape[0], 3, 1, 1)
    parts = (Resize2d(column.shape[1:]), first, BatchNorm(channels), Activation("relu"), second)  # type: ignore[arg-type]
    return InfoPro(head, Sequential(*parts), l1, l2)
