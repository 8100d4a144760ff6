"""Classifiers of sequences by stacked recurrent layers and a softmax read-out: what all ways to train them share.

h_t^k = cell(h_t^{k-1}, h_{t-1}^k) with h^0 = x, and p = softmax(h_T V + c) for a label of the whole sequence, or
p_t = softmax(h_t V + c) for a label of every step. How the recurrent layers are trained is the subclass's business.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.nn import LSTM, RNN, Linear, Params, init, initialise

__all__ = ["SequenceClassifier", "recurrent_layers"]

CELLS: dict[str, type] = {"rnn": RNN, "lstm": LSTM}


def recurrent_layers(
    cell: str, widths: tuple[int, ...], rng: np.random.Generator, radius: float, dtype: str
) -> tuple[list[Any], list[Params]]:
    """Layers (the first width is that of the input) and their parameters: inputs N(0, 1 / fan_in), recurrent weights
    `radius` times an orthogonal matrix (one for each gate), biases 0 but for an LSTM's forget gate, which has 1."""
    layers, params = [], []
    for d_in, d_out in itertools.pairwise(widths):
        layer = CELLS[cell](d_in, d_out)
        own = initialise(layer, rng, dtype)
        own["w_x"][...] = rng.standard_normal(own["w_x"].shape) / math.sqrt(d_in)
        for gate in np.split(own["w_h"], layer.gates, axis=1):  # views
            gate[...] = init.orthogonal(radius)(rng, gate.shape)
        own["bias"][...] = 0
        if cell == "lstm":
            own["bias"][d_out : 2 * d_out] = 1
        layers.append(layer)
        params.append(own)
    return layers, params


class SequenceClassifier(Classifier):
    """Base of learners on sequences X (n, T, ...) with labels y (n,), or (n, T) for one a step.

    Subclasses have the hyper-parameters cell ("rnn" or "lstm"), hidden (widths of the stacked layers), radius,
    hidden_lr (None: lr), lr, momentum, epochs, batch_size, dtype, random_state, and implement `_step`.
    """

    cell: str
    hidden: tuple[int, ...]
    radius: float
    lr: float
    hidden_lr: float | None
    momentum: float
    epochs: int
    batch_size: int
    dtype: str
    random_state: Any
    _frame: tuple[int, ...]

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _check_settings(self) -> None:
        if self.cell not in CELLS:
            raise self._bad("cell", f"one of {', '.join(CELLS)}")
        if not self.hidden or any(not isinstance(n, int | np.integer) or n < 1 for n in self.hidden):
            raise self._bad("hidden", "at least one layer, whole numbers of at least 1")
        for name, least in (("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise self._bad(name, f"a whole number of at least {least}")
        for name in ("lr", "hidden_lr"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise self._bad(name, "a finite number of at least 0")
        if not 0 <= self.momentum < 1:
            raise self._bad("momentum", "a number in [0, 1)")
        if not 0 <= self.radius < math.inf:
            raise self._bad("radius", "a finite number of at least 0")

    def _begin(self, X, y):
        self._check_settings()
        X = self._sequences(X, reset=True)
        n, T, D = X.shape
        y = np.asarray(y) if y is not None else y
        self.every_step_ = y is not None and y.ndim == 2 and y.shape[1] == T and T > 1
        if self.every_step_:
            if len(y) != n:
                raise ValueError(f"{type(self).__name__}: X has {n} sequences, but y has {len(y)}")
            self._y = self._check_labels(y.ravel(), n * T).reshape(n, T)
        else:
            self._y = self._check_labels(y, n)
        self._X, K = X, len(self.classes_)
        rng = generator(self.random_state)
        self._layers, params = recurrent_layers(self.cell, (D, *self.hidden), rng, self.radius, self.dtype)
        self._readout = Linear(self.hidden[-1], K, weight_init=init.kaiming_normal(self.hidden[-1], 1.0))
        self._params = {f"layer{k}": own for k, own in enumerate(params)}
        self._params["readout"] = initialise(self._readout, rng, self.dtype)
        rates = [self.lr if self.hidden_lr is None else self.hidden_lr] * len(params) + [self.lr]
        self._steppers = {name: optim.SGD(rate, self.momentum) for name, rate in zip(self._params, rates)}
        self._optimizers = {name: self._steppers[name].init(own) for name, own in self._params.items()}
        self._grads = {name: own.zeros_like() for name, own in self._params.items()}
        self._rngs = {"train": rng}
        self.total_ = int(self.epochs)

    def _sequences(self, X: Any, reset: bool) -> np.ndarray:
        """X as (n, T, D): of any length T, with frames as in `fit`."""
        X = np.asarray(X)
        if X.ndim < 3 or X.shape[1] < 1 or (not reset and X.shape[2:] != self._frame):
            frame = "features..." if reset else ", ".join(map(str, self._frame))
            raise ValueError(f"{type(self).__name__}: X has shape {X.shape}, expected (sequences, steps, {frame})")
        if reset:
            self._frame = X.shape[2:]
        n, T = X.shape[:2]
        return self._check_X(X.reshape(n * T, *self._frame), self.dtype, reset).reshape(n, T, -1)

    # ------------------------------------------------------------ training

    def _apply(self, name: str) -> None:
        """One step of the optimiser along the gradient of a layer, which is 0 afterwards."""
        grads = self._grads[name]
        self._steppers[name].step(self._params[name], grads, self._optimizers[name])
        grads.flat[...] = 0

    def _step(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        """Train on a batch x (B, T, D) with class numbers y (B,) or (B, T); returns losses by name."""
        raise NotImplementedError

    def _read(self, h: np.ndarray, y: np.ndarray, weight: float = 1.0) -> tuple[float, np.ndarray]:
        """Mean cross-entropy of the read-out of h (B, N), times weight, and its gradient by the logits; adds the
        gradient of the read-out."""
        logits, saved = self._readout.forward(self._params["readout"], h)
        loss, p = ops.cross_entropy(logits, y)
        dlogits = ops.cross_entropy_backward(p, y, dloss=weight)
        self._readout.backward(self._params["readout"], self._grads["readout"], saved, dlogits, need_dx=False)
        return weight * float(loss), dlogits

    def _advance(self, unit):
        total: dict[str, float] = {}
        for rows in batches(len(self._X), self.batch_size, self._rngs["train"]):
            for name, value in self._step(self._X[rows], self._y[rows]).items():
                total[name] = total.get(name, 0.0) + value * len(rows) / len(self._X)
        return total

    # ------------------------------------------------------------ prediction

    def states(self, X: Any) -> list[np.ndarray]:
        """States of every layer at every step, (n, T, width) each."""
        self._check_fitted()
        X = self._sequences(X, reset=False)
        found = []
        for k, layer in enumerate(self._layers):
            X = layer.apply(self._params[f"layer{k}"], X)
            found.append(X)
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, K), or (n, T, K) where every step has a label."""
        self._check_fitted()
        X = self._sequences(X, reset=False)
        chunks = []
        for i in range(0, len(X), 256):
            h = X[i : i + 256]
            for k, layer in enumerate(self._layers):
                h = layer.apply(self._params[f"layer{k}"], h)
            h = h if self.every_step_ else np.ascontiguousarray(h[:, -1])
            chunks.append(self._readout.apply(self._params["readout"], h))
        logits = np.concatenate(chunks)
        return ops.softmax(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sequence (n,), or of each step (n, T)."""
        return self.classes_[self.predict_proba(X).argmax(axis=-1)]

    def score(self, X: Any, y: Any) -> float:
        """Accuracy: the fraction of labels that are predicted."""
        predicted = self.predict(X)
        y = np.asarray(y)
        if y.shape != predicted.shape:
            raise ValueError(f"{type(self).__name__}: y has shape {y.shape}, expected {predicted.shape}")
        return float(np.mean(predicted == y))
