"""Networks cut into layers that learn alone.

A hidden layer is what lies between two targets: weights, perhaps a norm, an activation, and what only passes its output
on (pooling, flattening). Its target is compared with the output of the activation, before the pooling. With the target
on the pooled map the pooling moves in front of the activation: a rising activation and a maximum may change places, and
the backward pass of the pooling routes the error to the positions of the maxima.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.baselines.feedback import stages
from refimpl.nn import (
    Activation,
    BatchNorm,
    Conv2d,
    Flatten,
    Layer,
    MaxPool2d,
    Params,
    RowLinear,
    Sequential,
    init,
)
from refimpl.nn.params import Scope

__all__ = ["LocalLayer", "convnet", "local_layers", "rows_mlp"]

ACTIVATIONS = ("tanh", "sigmoid", "relu")
Shape = tuple[int, ...]


def rows_mlp(d_in: int, d_out: int, hidden: tuple[int, ...], activation: str = "tanh") -> Sequential:
    """A multilayer perceptron whose weights lie one row a unit; W ~ N(0, 1 / fan_in)."""
    layers: list[Layer] = [Flatten()]
    for width in hidden:
        layers += [RowLinear(d_in, width, weight_init=init.kaiming_normal(d_in, 1.0)), Activation(activation)]
        d_in = width
    return Sequential(*layers, RowLinear(d_in, d_out, weight_init=init.kaiming_normal(d_in, 1.0)))


def convnet(
    shape: tuple[int, int, int], d_out: int, channels: tuple[int, ...] = (8,), size: int = 5, activation: str = "tanh"
) -> Sequential:
    """Convolutions without padding, each with an activation and 2x2 max pooling, and a linear read-out. Raises
    ValueError for images that are too small for that."""
    c, h, w = shape
    layers: list[Layer] = []
    for width in channels:
        if min(h, w) < size + 1:
            raise ValueError(f"convnet: maps of {h} x {w} are too small for {size} x {size} filters and 2x2 pooling")
        layers.append(Conv2d(c, width, size, weight_init=init.kaiming_normal(c * size * size, 1.0)))
        layers += [Activation(activation), MaxPool2d(2)]
        c, h, w = width, (h - size + 1) // 2, (w - size + 1) // 2
    features = c * h * w
    return Sequential(*layers, Flatten(), RowLinear(features, d_out, weight_init=init.kaiming_normal(features, 1.0)))


@dataclass(frozen=True)
class LocalLayer:
    """before: reshaping at the bottom of a network; below: from the weights to what the activation sees; activation:
    None for the output layer; above: what passes the output on; fused: weights that ops.target_step trains."""

    before: Sequential
    below: Sequential
    activation: str | None
    above: Sequential

    @property
    def net(self) -> Sequential:
        """All that has parameters: the names are those of the whole network."""
        return self.below

    @property
    def weights(self) -> tuple[str, Layer]:
        """Name and description of the layer with weights."""
        return next(iter(self.below.layers.items()))

    @property
    def fused(self) -> bool:
        return len(self.below.layers) == 1 and isinstance(self.weights[1], RowLinear)

    def output(self, params: Scope, x: np.ndarray) -> np.ndarray:
        """What is compared with the target (the logits of the output layer), as at inference."""
        z = self.below.apply(params, pass_on(self.before, x))
        return z if self.activation is None else Activation(self.activation).apply(params, z)

    def apply(self, params: Scope, x: np.ndarray) -> np.ndarray:
        """The input of the next layer."""
        return pass_on(self.above, self.output(params, x))


def pass_on(net: Sequential, x: np.ndarray) -> np.ndarray:
    """Through layers without parameters."""
    return net.apply(_NOTHING, x) if net.layers else x


_NOTHING = Params({})


def local_layers(net: Layer, target: str = "map") -> list[LocalLayer]:
    """The network's layers from the input to the output, each with its own target. `target`: "map", "pooled" (behind
    max pooling) or "channel".

    Raises ValueError for a network without hidden layers, one whose layers stand in no row, or a hidden layer without
    tanh, sigmoid or relu.
    """
    cut = stages(net)
    assert isinstance(net, Sequential)
    if len(cut) < 2:
        raise ValueError("tpsgd: the network has no hidden layer, so nothing to give a target to")
    found = []
    for stage in cut:
        names = list(stage.layers)
        at = names.index(stage.weighted)
        layers = {name: net.layers[name] for name in names}
        before, rest = names[:at], names[at:]
        if stage is cut[-1]:
            if len(rest) > 1:
                raise ValueError("tpsgd: layers stand behind the last weights, expected logits there")
            found.append(_local(layers, before, rest, None, []))
            continue
        acts = [i for i, name in enumerate(rest) if isinstance(layers[name], Activation)]
        kind = getattr(layers[rest[acts[0]]], "name", "") if acts else "none"
        if kind not in ACTIVATIONS:
            raise ValueError(
                f"tpsgd: hidden layer {stage.weighted!r} has the activation {kind}, expected one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        below, above = rest[: acts[0]], rest[acts[0] + 1 :]
        if not all(isinstance(layers[name], BatchNorm) for name in below[1:]):
            raise ValueError(f"tpsgd: expected only batch norm between {stage.weighted!r} and its activation")
        if any(layers[name].declare() for name in above):
            raise ValueError(
                f"tpsgd: expected only layers without parameters behind the activation of {stage.weighted!r}"
            )
        if target == "pooled":
            while above and isinstance(layers[above[0]], MaxPool2d):
                below.append(above.pop(0))
        found.append(_local(layers, before, below, kind, above))
    return found


def _local(layers: dict[str, Layer], before: Any, below: Any, activation: str | None, above: Any) -> LocalLayer:
    def part(names: Any) -> Sequential:
        return Sequential(**{name: layers[name] for name in names})

    return LocalLayer(part(before), part(below), activation, part(above))
