"""The contract of a layer: a description without arrays.

    layer.declare()                                   names, shapes and initialisers of its parameters
    y, saved = layer.forward(params, x)               `saved` holds exactly what backward needs
    dx = layer.backward(params, grads, saved, dy)     ADDS parameter gradients into `grads`, returns dL/dx

`saved` is explicit, so sharing weights (call forward twice), unrolling in time (keep a list of saved), detaching (do
not call backward), recomputation (drop saved, call forward again) and local losses are visible in the code.

`train=True` selects training behaviour (batch statistics, dropout); `rng` is the source of dropout masks.
`need_dx=False` lets the first layer of a network skip the gradient of its input.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.nn.params import Parameter, Params, Scope

Saved = Any


class Layer:
    """Base of all layers. A layer without parameters need not override `declare`."""

    def declare(self) -> dict[str, Parameter]:
        """Name (within the layer) to description of each parameter, in a fixed order."""
        return {}

    def forward(
        self, params: Scope, x: np.ndarray, train: bool = False, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, Saved]:
        raise NotImplementedError

    def backward(
        self, params: Scope, grads: Scope, saved: Saved, dy: np.ndarray, need_dx: bool = True
    ) -> np.ndarray | None:
        raise NotImplementedError

    def takes(self, activation: str) -> bool:
        """Whether the layer can run the activation that stands behind it in one operation with its own: `forward_with`
        returns y, its own `saved` and that of the activation, which `backward_with` takes (as `above`)."""
        return False

    def forward_with(
        self, activation: str, params: Scope, x: np.ndarray, train: bool = False
    ) -> tuple[np.ndarray, Saved, Saved]:
        raise NotImplementedError

    def backward_with(
        self,
        activation: str,
        params: Scope,
        grads: Scope,
        saved: Saved,
        above: Saved,
        dy: np.ndarray,
        need_dx: bool = True,
    ) -> np.ndarray | None:
        raise NotImplementedError

    def apply(self, params: Scope, x: np.ndarray) -> np.ndarray:
        """The output alone, as at inference."""
        return self.forward(params, x)[0]


def declare_all(**layers: Layer) -> dict[str, Parameter]:
    """The parameters of several named layers under dotted names: what a container's `declare` returns."""
    return {f"{part}.{name}": spec for part, layer in layers.items() for name, spec in layer.declare().items()}


def initialise(layer: Layer, rng: np.random.Generator, dtype: np.dtype | type | str = np.float32) -> Params:
    """Parameters of `layer` with first values drawn from `rng` in the order of declaration."""
    specs = layer.declare()
    params = Params(
        {k: s.shape for k, s in specs.items() if s.trained},
        {k: s.shape for k, s in specs.items() if not s.trained},
        dtype,
    )
    for name, spec in specs.items():
        params[name][...] = spec.init(rng, spec.shape)
    return params
