"""Ridge regression onto one-hot labels: on the inputs, or on what a fixed physical system makes of them.

    W = argmin ||A W - Y||² + alpha ||W||²,  A the standardised features with a constant 1, Y one-hot;  class = argmax.

On the output of a fixed system this is an extreme learning machine (Huang, Zhu and Siew, 2006), or reservoir computing
without time: nothing but the read-out is trained.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops
from refimpl.estimator import Classifier, generator
from refimpl.models.physics import SYSTEMS, Scaling, system
from refimpl.nn import Linear, initialise

__all__ = ["RidgeClassifier"]

GRID = tuple(10.0**k for k in range(-3, 5))


class RidgeClassifier(Classifier):
    """Linear least squares with a penalty, solved exactly.

    alpha: the penalty; None takes the one of 1e-3, 1e-2, ..., 1e4 with the least leave-one-out error. physics: None, or
    the kind of a physical system (refimpl.models.physics) that the inputs pass first, with `width` outputs and
    `padding` zeros in front of its inputs. scaling: of the inputs, see refimpl.models.physics.Scaling.
    """

    def __init__(
        self,
        alpha: float | None = None,
        physics: str | None = None,
        width: int = 20,
        padding: int = 0,
        scaling: str = "standard",
        dtype: str = "float64",
        random_state: Any = None,
    ):
        self.alpha = alpha
        self.physics = physics
        self.width = width
        self.padding = padding
        self.scaling = scaling
        self.dtype = dtype
        self.random_state = random_state

    def _begin(self, X, y):
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_labels(y, len(X))
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"RidgeClassifier: alpha is {self.alpha!r}, expected None or a positive number")
        if self.physics not in (None, *SYSTEMS):
            raise ValueError(
                f"RidgeClassifier: physics is {self.physics!r}, expected None or one of {', '.join(SYSTEMS)}"
            )
        rng = generator(self.random_state)
        self._X, self._y = X.reshape(len(X), -1), y
        self._scale = Scaling(self._X, self.scaling)
        self._system = None
        if self.physics is not None:
            d_in = self.n_features_in_ + self.padding
            self._system = system(self.physics, d_in, self.width, rng.integers(2**63))
        n = self.n_features_in_ if self._system is None else self.width
        self._params = {"readout": initialise(Linear(n, len(self.classes_)), rng, self.dtype)}
        self._params["readout"].flat[...] = 0
        self.total_ = 1

    def _features(self, X: np.ndarray) -> np.ndarray:
        """Inputs, or the system's outputs."""
        x = self._scale(X)
        if self._system is None:
            return x
        padded = np.zeros((len(x), self.padding + x.shape[1]), x.dtype)
        padded[:, self.padding :] = x
        return self._system(padded)

    def _advance(self, unit):
        A, K = self._features(self._X), len(self.classes_)
        mean, deviation = A.mean(axis=0), A.std(axis=0)
        deviation[deviation == 0] = 1
        A = np.concatenate([(A - mean) / deviation, np.ones((len(A), 1), A.dtype)], axis=1)
        Y = np.eye(K, dtype=A.dtype)[self._y]
        values, V = np.linalg.eigh(A.T @ A)
        AV, values = A @ V, np.maximum(values, 0)
        VAY = AV.T @ Y
        errors = {}
        for alpha in GRID if self.alpha is None else (self.alpha,):
            shrunk = 1 / (values + alpha)
            leverage = (AV * AV) @ shrunk
            residual = (Y - AV @ (shrunk[:, None] * VAY)) / (1 - leverage)[:, None]  # without the row itself
            errors[alpha] = float((residual * residual).mean())
        self.alpha_ = min(errors, key=lambda a: errors[a])
        W = V @ (VAY / (values + self.alpha_)[:, None])
        readout = self._params["readout"]  # of the features as they come: (a - mean) / deviation is folded in
        readout["weight"][...] = W[:-1] / deviation[:, None]
        readout["bias"][...] = W[-1] - mean @ readout["weight"]
        return {"loss": errors[self.alpha_]}

    def predict_proba(self, X):
        """Softmax of the read-out."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, self.n_features_in_)
        readout = self._params["readout"]
        return ops.softmax(self._features(X) @ readout["weight"] + readout["bias"])
