"""Containers: layers made of layers. They chain the backward passes by hand, in the open."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from refimpl.nn.layer import Layer, declare_all
from refimpl.nn.layers import Activation


class Sequential(Layer):
    """Layers one after the other; parameter names start with the position: "0.weight", or with given names.

    Sequential(Linear(4, 8), Activation("relu")) or Sequential(fc1=Linear(4, 8), act=Activation("relu")).

    A layer that takes the activation behind it (Linear: `ops.dense`, BatchNorm: `ops.batchnorm_relu`) runs with it as
    one operation; what is saved is the same.
    """

    def __init__(self, *layers: Layer, **named: Layer):
        if layers and named:
            raise ValueError("Sequential: give layers either all by position or all by name")
        self.layers = named or {str(i): layer for i, layer in enumerate(layers)}
        self._taken: dict[str, str] = {}  # layer -> the activation behind it that it takes
        self._behind: set[str] = set()  # the names of those activations
        for (name, layer), (after, next_layer) in itertools.pairwise(self.layers.items()):
            if isinstance(next_layer, Activation) and layer.takes(next_layer.name):
                self._taken[name] = next_layer.name
                self._behind.add(after)

    def __repr__(self) -> str:
        return "Sequential(" + ", ".join(f"{k}={v!r}" for k, v in self.layers.items()) + ")"

    def declare(self):
        return declare_all(**self.layers)

    def forward(self, params, x, train=False, rng=None):
        saved = []
        for name, layer in self.layers.items():
            if name in self._behind:
                continue
            own = params.scope(name)
            if name in self._taken:
                x, *kept = layer.forward_with(self._taken[name], own, x, train)
                saved += kept
            else:
                x, kept = layer.forward(own, x, train, rng)
                saved.append(kept)
        return x, saved

    def backward(self, params, grads, saved, dy, need_dx=True):
        """Without need_dx it ends at the first layer with parameters: what stands before it has nothing to learn."""
        last, above = None if need_dx else lowest(self.layers), None
        for (name, layer), kept in zip(reversed(self.layers.items()), reversed(saved)):
            own, into, need = params.scope(name), grads.scope(name), need_dx or name != last
            if name in self._behind:
                above = kept
            elif name in self._taken:
                dy = layer.backward_with(self._taken[name], own, into, kept, above, dy, need)
            else:
                dy = layer.backward(own, into, kept, dy, need)
            if name == last:
                break
        return dy if need_dx else None


def learns(layer: Layer) -> bool:
    """Whether the layer has a trained parameter."""
    return any(spec.trained for spec in layer.declare().values())


def lowest(layers: Mapping[str, Layer], needed: Callable[[Layer], bool] = learns) -> str | None:
    """Name of the first layer that is needed in a backward pass; of the last layer where none is."""
    return next((name for name, layer in layers.items() if needed(layer)), next(reversed(list(layers)), None))


@dataclass(frozen=True)
class Residual(Layer):
    """y = body(x) + shortcut(x); the shortcut is the identity unless a layer is given. He et al., 2016."""

    body: Layer
    shortcut: Layer | None = None

    def declare(self):
        return declare_all(body=self.body, **({"shortcut": self.shortcut} if self.shortcut else {}))

    def forward(self, params, x, train=False, rng=None):
        y, body = self.body.forward(params.scope("body"), x, train, rng)
        if self.shortcut is None:
            return y + x, (body, None)
        s, shortcut = self.shortcut.forward(params.scope("shortcut"), x, train, rng)
        return y + s, (body, shortcut)

    def backward(self, params, grads, saved, dy, need_dx=True):
        body, kept = saved
        dx = self.body.backward(params.scope("body"), grads.scope("body"), body, dy, need_dx)
        if self.shortcut is None:
            return dx + dy if need_dx else None
        ds = self.shortcut.backward(params.scope("shortcut"), grads.scope("shortcut"), kept, dy, need_dx)
        return dx + ds if need_dx else None


def repeat(layer: Layer, n: int) -> Sequential:
    """n copies of a layer in sequence, each with parameters of its own."""
    return Sequential(*[layer] * n)


class Concat(Layer):
    """Branches on the same input, outputs joined along axis 1; parameter names start with the branch's name."""

    def __init__(self, **branches: Layer):
        self.branches = branches

    def __repr__(self) -> str:
        return "Concat(" + ", ".join(f"{k}={v!r}" for k, v in self.branches.items()) + ")"

    def declare(self):
        return declare_all(**self.branches)

    def forward(self, params, x, train=False, rng=None):
        parts, saved = [], []
        for name, layer in self.branches.items():
            y, kept = layer.forward(params.scope(name), x, train, rng)
            parts.append(y)
            saved.append((kept, y.shape[1]))
        return np.concatenate(parts, axis=1), saved

    def backward(self, params, grads, saved, dy, need_dx=True):
        dx, start = None, 0
        for (name, layer), (kept, width) in zip(self.branches.items(), saved):
            part = np.ascontiguousarray(dy[:, start : start + width])
            start += width
            d = layer.backward(params.scope(name), grads.scope(name), kept, part, need_dx)
            if need_dx:
                dx = d if dx is None else dx + d
        return dx
