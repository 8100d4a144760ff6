"""The local objective of MAN: the auxiliary blocks of blocks.py in front of one of the known heads.

    L_j = loss(head_j(u_j), y),   u_j from (2), (3) or (4)                                                         (6)

The head sees u_j, so it is made for the channels and the extent behind the *next* module's first layer, also where a
cut lies at the border of two stages. Heads are those of refimpl/models/local_losses.py, but two are MAN's own:

    dgl        pooling to at most 8 x 8, three times (1x1 convolution, batch norm, ReLU) of `width` channels, global
               pooling, three times (Linear, batch norm, ReLU) of 4 `width`, Linear; width = 128                    (7)
    infopro    two convolutions in the head, and weights that fall to nothing: (l1, l2) = (1 - r) (5, 0.5), with r the
               module's place from 0 to 1, or as released (stage of the next layer, 1..3) / (local modules)          (8)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from refimpl.methods.local.momentum_auxiliary.blocks import Following
from refimpl.models import local_losses
from refimpl.models.column import Column, linear
from refimpl.models.convnet import conv_bn
from refimpl.models.isolated import CrossEntropy, Objective
from refimpl.nn import Activation, AdaptiveAvgPool2d, BatchNorm, GlobalAvgPool2d, Layer, Sequential
from refimpl.nn.layer import declare_all

HEADS = local_losses.RULES
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "dgl": {"width": 128},
    "predsim": {"beta": 0.99, "features": 256},
    "infopro": {"r": "module", "first": (5.0, 0.5), "last": (0.0, 0.0), "hidden": 128},
}


@dataclass(frozen=True)
class Momentum(Objective):
    """(6): `inner` is the head's own objective, of u. Parameters: following.* and head.*"""

    following: Following
    inner: Objective

    def declare(self):
        return declare_all(following=self.following) | {f"head.{k}": v for k, v in self.inner.declare().items()}

    def forward(self, params, h, target, rng=None):
        u, blocks = self.following.forward(params.scope("following"), h, True, rng)
        loss, head = self.inner.forward(params.scope("head"), u, target, rng)
        return loss, (blocks, head)

    def backward(self, params, grads, saved):
        blocks, head = saved
        du = self.inner.backward(params.scope("head"), grads.scope("head"), head)
        return self.following.backward(params.scope("following"), grads.scope("following"), blocks, du)


def dgl_head(column: Column, shape: tuple[int, ...], width: int = 128) -> Sequential:
    """(7); in an MLP its linear layers alone."""
    layers: list[Layer] = []
    c = shape[0]
    if column.kind == "resnet":
        if max(shape[1:]) > 8:
            layers.append(AdaptiveAvgPool2d((min(8, shape[1]), min(8, shape[2]))))
        for c_in in (c, width, width):
            layers += [*conv_bn(c_in, width, size=1, fan="out"), Activation("relu")]
        layers.append(GlobalAvgPool2d())
        c = width
    for d in (c, 4 * width, 4 * width):
        layers += [linear(d, 4 * width), BatchNorm(4 * width), Activation("relu")]
    return Sequential(*layers, linear(4 * width, column.K))


def checked_options(head: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """All options of a head. Raises ValueError for an unknown head, option or r."""
    if head not in HEADS:
        raise ValueError(f"head is {head!r}, expected one of {', '.join(map(repr, HEADS))}")
    known = OPTIONS[head]
    for name in options or {}:
        if name not in known:
            raise ValueError(f"options: head {head!r} has no {name!r}, expected {', '.join(known) or 'none'}")
    found = {**known, **(options or {})}
    if found.get("r", "module") not in ("module", "stage"):
        raise ValueError(f"options: r is {found['r']!r}, expected 'module' or 'stage'")
    if not found.get("width", 1) >= 1:
        raise ValueError(f"options: width is {found['width']!r}, expected a number of at least 1")
    return found


def head_objective(
    head: str, column: Column, shape: tuple[int, ...], r: float = 0.0, options: Mapping[str, Any] | None = None
) -> Objective:
    """The objective of what has `shape` a sample; r: (8)."""
    s = checked_options(head, options)
    if head == "dgl":
        return CrossEntropy(dgl_head(column, shape, s["width"]))
    if head == "infopro":
        l1, l2 = ((1 - r) * a + r * b for a, b in zip(s["first"], s["last"]))
        return local_losses.infopro(column, shape, l1, l2, convs=2, hidden=s["hidden"])
    return local_losses.objective(head, column, shape, r, s)
