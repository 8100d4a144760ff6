"""Difference target propagation: every layer gets a target that the layers above would like better, and moves there.

Layers h_i = f_i(h_{i-1}), i = 1..M, logits o = h_M W + b, loss L = CE(o, y). Approximate inverses g_i(h_i) ~ h_{i-1},
i = 2..M. The last hidden layer's target is a step along the gradient through the output layer alone (per sample),
    t_M = h_M - rate dL/dh_M,                                                                                    (1)
the others come down by the inverses, with their error subtracted,
    t_{i-1} = h_{i-1} + g_i(t_i) - g_i(h_i).                                                                     (2)
So t_{i-1} = h_{i-1} where t_i = h_i, whatever g_i is; and with an exact inverse f_i(t_{i-1}) = t_i. Losses, each for
its own layer's parameters alone, means over the batch:
    forward   ||f_i(h_{i-1}) - t_i||^2                                h_{i-1} and t_i fixed                      (3)
    inverse   ||g_i(f_i(h_{i-1} + eps)) - (h_{i-1} + eps)||^2         eps ~ N(0, noise^2), f_i fixed             (4)
The noise makes g_i an inverse around the activities, where the targets are. The output layer learns from the
cross-entropy. Derivatives are taken only inside a layer; no gradient passes from layer to layer.

Source: Lee, Zhang, Fischer and Bengio, "Difference target propagation", 2015, arXiv 1412.7525, algorithm 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.nn import Activation, Layer, Linear, Scope, Sequential, init, initialise

__all__ = ["DifferenceTargetPropagationClassifier", "difference_targets", "layer_loss"]


def difference_targets(
    h: Sequence[np.ndarray], top: np.ndarray, inverses: Sequence[Callable[[np.ndarray], np.ndarray]]
) -> list[np.ndarray]:
    """Targets t_1..t_M by (2) for the activities h_1..h_M, t_M = top; inverses are g_2..g_M."""
    targets = [top]
    for below, above, g in zip(reversed(h[:-1]), reversed(h[1:]), reversed(inverses), strict=True):
        targets.append(below + g(targets[-1]) - g(above))
    return targets[::-1]


def layer_loss(layer: Layer, params: Scope, grads: Scope, x: np.ndarray, target: np.ndarray) -> float:
    """||layer(x) - target||^2, mean over the batch; adds the gradient of the layer's parameters into `grads`."""
    y, saved = layer.forward(params, x, train=True)
    error = y - target
    layer.backward(params, grads, saved, error * y.dtype.type(2 / len(y)), need_dx=False)
    return float(np.vdot(error, error)) / len(y)


class DifferenceTargetPropagationClassifier(Classifier):
    """Classification by difference target propagation in a multilayer perceptron.

    hidden, activation: of the network (the inverses have the same activation); target_rate: length of the step (1);
    noise: of (4); lr, inverse_lr: of the forward and of the inverse layers (None: the same); epochs, batch_size,
    optimizer, weight_decay as in BackpropClassifier. Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "tanh",
        target_rate: float = 0.1,
        noise: float = 0.1,
        epochs: int = 20,
        batch_size: int = 128,
        optimizer: str = "adam",
        lr: float = 1e-3,
        inverse_lr: float | None = None,
        weight_decay: float = 0.0,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.activation = activation
        self.target_rate = target_rate
        self.noise = noise
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.inverse_lr = inverse_lr
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.random_state = random_state

    def _begin(self, X, y):
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_labels(y, len(X))
        who = type(self).__name__
        for name, value, least in (("epochs", self.epochs, 0), ("batch_size", self.batch_size, 1)):
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{who}: {name} is {value!r}, expected a whole number of at least {least}")
        if not self.target_rate > 0:
            raise ValueError(f"{who}: target_rate is {self.target_rate!r}, expected a positive number")
        if not self.noise >= 0:
            raise ValueError(f"{who}: noise is {self.noise!r}, expected a number of at least 0")
        if not self.hidden:
            raise ValueError(f"{who}: hidden is {self.hidden!r}, expected at least one layer")
        rng = generator(self.random_state)
        self._rngs = {"train": rng}
        widths = [self.n_features_in_, *self.hidden]
        pairs = list(itertools.pairwise(widths))
        self._layers = {f"layer{i}": self._layer(a, b) for i, (a, b) in enumerate(pairs, 1)}
        self._inverses = {f"inverse{i}": self._layer(b, a) for i, (a, b) in enumerate(pairs, 1) if i > 1}
        last = widths[-1]
        self._out = Linear(last, len(self.classes_), weight_init=init.kaiming_uniform(last, 1.0))
        every = {**self._layers, "out": self._out, **self._inverses}
        self._params = {name: initialise(layer, rng, self.dtype) for name, layer in every.items()}
        self._grads = {name: params.zeros_like() for name, params in self._params.items()}
        inverse_lr = self.lr if self.inverse_lr is None else self.inverse_lr
        self._optimizer = {
            name: optim.by_name(self.optimizer, inverse_lr if name in self._inverses else self.lr, self.weight_decay)
            for name in every
        }
        self._optimizers = {name: self._optimizer[name].init(params) for name, params in self._params.items()}
        self._X, self._y = X.reshape(len(X), -1), y
        self.total_ = int(self.epochs)

    def _layer(self, d_in: int, d_out: int) -> Sequential:
        gain = 1.0 if self.activation == "tanh" else np.sqrt(2.0)
        weight = init.kaiming_uniform(d_in, float(gain))
        return Sequential(linear=Linear(d_in, d_out, weight_init=weight), activation=Activation(self.activation))

    def activities(self, x: np.ndarray) -> list[np.ndarray]:
        """h_0 = x (B, D), h_1, ..., h_M."""
        h = [x]
        for name, layer in self._layers.items():
            h.append(layer.apply(self._params[name], h[-1]))
        return h

    def _step(self, x: np.ndarray, y: np.ndarray, noise: Sequence[np.ndarray]) -> tuple[float, float, float]:
        """Gradients of all losses, at the parameters as they stand. `noise`: eps for the input of layers 2..M.
        Returns the cross-entropy, the sum of (3) and the sum of (4)."""
        h = self.activities(x)
        loss, p = ops.cross_entropy(self._out.apply(self._params["out"], h[-1]), y)
        do = ops.cross_entropy_backward(p, y)
        dh = self._out.backward(self._params["out"], self._grads["out"], h[-1], do)
        rate = dh.dtype.type(self.target_rate * len(x))  # dh is that of the mean over the batch
        inverses = [self._apply(name) for name in self._inverses]
        targets = difference_targets(h[1:], h[-1] - rate * dh, inverses)
        reconstruction = forward = 0.0
        for (name, g), (layer, f), below, eps in zip(
            self._inverses.items(), list(self._layers.items())[1:], h[1:-1], noise, strict=True
        ):
            noisy = below + eps
            above = f.apply(self._params[layer], noisy)
            reconstruction += layer_loss(g, self._params[name], self._grads[name], above, noisy)
        for (name, f), below, target in zip(self._layers.items(), h, targets):
            forward += layer_loss(f, self._params[name], self._grads[name], below, target)
        return float(loss), forward, reconstruction

    def _apply(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        layer, params = self._inverses[name], self._params[name]
        return lambda h: layer.apply(params, h)

    def _advance(self, unit):
        rng, n, total = self._rngs["train"], len(self._y), np.zeros(3)
        for rows in batches(n, self.batch_size, rng):
            shapes = [(len(rows), width) for width in self.hidden[:-1]]
            noise = [(self.noise * rng.standard_normal(shape)).astype(self.dtype) for shape in shapes]
            total += np.array(self._step(self._X[rows], self._y[rows], noise)) * (len(rows) / n)
            for name, params in self._params.items():
                self._optimizer[name].step(params, self._grads[name], self._optimizers[name])
                self._grads[name].flat[...] = 0
        return dict(zip(("loss", "targets", "reconstruction"), total.tolist()))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the network's outputs, (n, K)."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, self.n_features_in_)
        chunks = [self.activities(X[i : i + 1024])[-1] for i in range(0, len(X), 1024)]
        return ops.softmax(self._out.apply(self._params["out"], np.concatenate(chunks)))
