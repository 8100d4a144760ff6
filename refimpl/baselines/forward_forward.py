"""The forward-forward algorithm: two forward passes, one with the right label and one with a wrong one.

Each layer wants its activity to be high where the label is right (positive data) and low where it is wrong (negative
data). With h = ReLU(W^T n(h_below) + b) and the goodness G = sum_j h_j^2,
    p(positive) = sigmoid(G - threshold),   L = mean softplus(threshold - G+) + mean softplus(G- - threshold),
    dL/dG+ = -sigmoid(threshold - G+) / B,  dL/dG- = sigmoid(G- - threshold) / B,  dL/dh = 2 h dL/dG;
nothing goes below. n(h) = h sqrt(D) / ||h|| hides the goodness of one layer from the next, which has to find its own.

The label takes the first K inputs (here in front of the image; Hinton overwrites black border pixels). Classes are
compared by the goodness they get, summed over the layers; where there are several, the first does not count.

Source: Hinton, "The forward-forward algorithm: some preliminary investigations", 2022, arXiv 2212.13345.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.nn import Linear, Params, initialise

__all__ = ["ForwardForwardClassifier", "goodness_loss", "normalised"]


def normalised(h: np.ndarray) -> np.ndarray:
    """h sqrt(D) / ||h||, row by row: the direction of the activity without its length. h (B, D)."""
    squared = (h * h).sum(axis=1, keepdims=True)
    return h / np.sqrt(squared / h.shape[1] + h.dtype.type(1e-8))


def goodness_loss(h: np.ndarray, positive: np.ndarray, threshold: float) -> tuple[float, np.ndarray]:
    """The layer's loss and dL/dh for activities h (2B, D); `positive` (2B,) says which rows have the right label."""
    distance = (h * h).sum(axis=1) - h.dtype.type(threshold)
    sign = np.where(positive, -1, 1).astype(h.dtype)
    half = len(h) / 2
    loss = float(ops.softplus(sign * distance).sum()) / half
    dgoodness = sign * ops.sigmoid(sign * distance) / h.dtype.type(half)
    return loss, 2 * dgoodness[:, None] * h


class ForwardForwardClassifier(Classifier):
    """Classification by forward-forward layers, each trained on its own goodness.

    hidden: widths of the layers; threshold: of the goodness, in units of the layer's width; epochs, batch_size,
    optimizer, lr, weight_decay as in BackpropClassifier. Negative data are the same images with another label, drawn
    anew for each batch.
    """

    def __init__(
        self,
        hidden: tuple[int, ...] = (256, 256),
        threshold: float = 1.0,
        epochs: int = 60,
        batch_size: int = 128,
        optimizer: str = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.threshold = threshold
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
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
        if not self.hidden:
            raise ValueError(f"{who}: hidden is {self.hidden!r}, expected at least one layer")
        rng = generator(self.random_state)
        self._rngs = {"train": rng}
        widths = [self.n_features_in_ + len(self.classes_), *self.hidden]
        layers = {f"layer{i}": Linear(widths[i - 1], widths[i]) for i in range(1, len(widths))}
        self._params = {name: initialise(layer, rng, self.dtype) for name, layer in layers.items()}
        self._optimizer = optim.by_name(self.optimizer, self.lr, self.weight_decay)
        self._optimizers = {name: self._optimizer.init(params) for name, params in self._params.items()}
        self._grads = {name: params.zeros_like() for name, params in self._params.items()}
        self._X, self._y = X.reshape(len(X), -1), y
        self.total_ = int(self.epochs)

    def _with_label(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """[one-hot label, image], (B, K + features)."""
        return np.concatenate([np.eye(len(self.classes_), dtype=X.dtype)[y], X], axis=1)

    @staticmethod
    def _layer(params: Params, h: np.ndarray) -> np.ndarray:
        return ops.relu(ops.linear(h, params["weight"], params["bias"]))

    def _advance(self, unit):
        rng, K, n, total = self._rngs["train"], len(self.classes_), len(self._y), 0.0
        for rows in batches(n, self.batch_size, rng):
            X, right = self._X[rows], self._y[rows]
            wrong = (right + rng.integers(1, K, len(rows))) % K
            below = np.concatenate([self._with_label(X, right), self._with_label(X, wrong)])
            positive = np.repeat([True, False], len(rows))
            for name, params in self._params.items():
                h = self._layer(params, below)
                loss, dh = goodness_loss(h, positive, self.threshold * h.shape[1])
                grads = self._grads[name]
                grads.flat[...] = 0
                da = ops.relu_backward(dh, h)
                ops.linear_backward(da, below, params["weight"], False, (grads["weight"], grads["bias"]))
                below = normalised(h)
                self._optimizer.step(params, grads, self._optimizers[name])
                total += loss * len(rows) / n
        return {"loss": total / len(self._params)}

    def goodness(self, X: Any) -> np.ndarray:
        """Goodness of each class a unit of the layers that count, (n, K)."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, self.n_features_in_)
        counted = list(self._params)[1:] or list(self._params)
        scores = np.zeros((len(X), len(self.classes_)), self.dtype)
        for start in range(0, len(X), 1024):
            part = slice(start, start + 1024)
            for k in range(len(self.classes_)):
                h = self._with_label(X[part], np.full(len(X[part]), k))
                for name, params in self._params.items():
                    h = self._layer(params, h)
                    if name in counted:
                        scores[part, k] += (h * h).mean(axis=1)
                    h = normalised(h)
        return scores / len(counted)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the classes' goodness, (n, K)."""
        return ops.softmax(self.goodness(X))
