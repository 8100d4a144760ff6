"""Back-propagation through physical layers: what model-free learning is compared with.

A network of physical systems, each followed by a trained linear map, on cross-entropy. Three ways to the gradient:

    "ideal"   forward through the system, backward through its exact derivative, which no experimenter has
    "twin"    forward and backward through a model of the system, in silico; used on the system itself
    "aware"   forward through the system, backward through the model (physics-aware training)

Source of the last: Wright et al., "Deep physical neural networks trained with backpropagation", Nature 601, 2022.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.models.physics import SYSTEMS, Scaling, system
from refimpl.nn import Linear, Params, initialise

__all__ = ["PhysicalBackpropClassifier"]


class PhysicalBackpropClassifier(Classifier):
    """Classification by physical layers, trained by back-propagation.

    physics: "acoustic" or "optical"; widths: of the physical layers; gradient: "ideal", "twin" or "aware" (above);
    twin_error: how far the model is off, T' = T + twin_error T_random; scaling, epochs, batch_size (None: all rows),
    lr (Adam).
    """

    def __init__(
        self,
        physics: str = "optical",
        widths: tuple[int, ...] = (12, 12),
        gradient: str = "ideal",
        twin_error: float = 0.0,
        scaling: str = "standard",
        epochs: int = 200,
        batch_size: int | None = None,
        lr: float = 1e-2,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.physics = physics
        self.widths = widths
        self.gradient = gradient
        self.twin_error = twin_error
        self.scaling = scaling
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.dtype = dtype
        self.random_state = random_state

    def _begin(self, X, y):
        who = type(self).__name__
        differentiable = tuple(k for k in SYSTEMS if k != "microwave")
        for name, allowed in (("physics", differentiable), ("gradient", ("ideal", "twin", "aware"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{who}: {name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if not self.widths:
            raise ValueError(f"{who}: widths is {self.widths!r}, expected at least one layer")
        if not self.twin_error >= 0:
            raise ValueError(f"{who}: twin_error is {self.twin_error!r}, expected a number of at least 0")
        for name, least in (("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if (not isinstance(value, int | np.integer) and not (name == "batch_size" and value is None)) or (
                value is not None and value < least
            ):
                raise ValueError(f"{who}: {name} is {value!r}, expected a whole number of at least {least}")
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_labels(y, len(X))
        rng = generator(self.random_state)
        X = X.reshape(len(X), -1)
        self._scale = Scaling(X, self.scaling)
        self._X, self._y = self._scale(X), y
        sizes = [self.n_features_in_, *self.widths]
        out = [*self.widths[:-1], len(self.classes_)]
        self._systems = [system(self.physics, a, b, rng.integers(2**63)) for a, b in itertools.pairwise(sizes)]
        self._twins = [s.twin(self.twin_error, rng.integers(2**63)) for s in self._systems]
        self._layers = [Linear(a, b) for a, b in zip(self.widths, out)]
        self._rngs = {"train": rng}
        self._params = {f"layer{k}": initialise(layer, rng, self.dtype) for k, layer in enumerate(self._layers, 1)}
        self._optimizer = optim.Adam(self.lr)
        self._optimizers = {name: self._optimizer.init(params) for name, params in self._params.items()}
        self._grads = {name: params.zeros_like() for name, params in self._params.items()}
        self.total_ = int(self.epochs)

    def _forward(self, h: np.ndarray, systems: list) -> tuple[np.ndarray, list]:
        """Logits, and what enters each physical and each linear layer."""
        saved = []
        for one, layer, params in zip(systems, self._layers, self._params.values()):
            y = one(h)
            z, _ = layer.forward(params, y)
            saved.append((h, y))
            h = z
        return h, saved

    def loss_and_gradient(self, X: np.ndarray, y: np.ndarray, grads: dict[str, Params]) -> float:
        """Mean cross-entropy of prepared rows X; its gradient is added into `grads`."""
        logits, saved = self._forward(X, self._twins if self.gradient == "twin" else self._systems)
        loss, p = ops.cross_entropy(logits, y)
        dz = ops.cross_entropy_backward(p, y)
        behind = self._systems if self.gradient == "ideal" else self._twins
        stages = list(zip(behind, self._layers, self._params.items(), saved))
        for k, (one, layer, (name, params), (h, u)) in reversed(list(enumerate(stages))):
            dy = layer.backward(params, grads[name], u, dz)
            if k:
                dz = one.backward(h, dy)
        return float(loss)

    def _advance(self, unit):
        n, total = len(self._y), 0.0
        for rows in batches(n, self.batch_size or n, self._rngs["train"]):
            total += self.loss_and_gradient(self._X[rows], self._y[rows], self._grads) * len(rows) / n
            for name, params in self._params.items():
                self._optimizer.step(params, self._grads[name], self._optimizers[name])
                self._grads[name].flat[...] = 0
        return {"loss": total}

    def predict_proba(self, X):
        """Probabilities (n, K), measured on the systems themselves."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, self.n_features_in_)
        return ops.softmax(self._forward(self._scale(X), self._systems)[0])
