"""Target codes: what each layer's output should be for each class.

    P_i ~ N(0, p^2), one row a class,   t = reach(y* P_i)                                                         (1)

A random code is as good a target as any: in N dimensions ten random directions are nearly orthogonal, so classes that
are pulled towards their codes come apart. P_i is never trained. Nothing of it is stored but a key: row k of layer i is
drawn from a counter-based generator (Philox) whose counter begins at (i, k), so any row can be drawn again, alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl import ops

__all__ = ["Projections", "class_means", "reach"]


def reach(P: np.ndarray, loss: str, activation: str) -> np.ndarray:
    """Codes that a layer's output can reach: the signs for "logistic" (0 and 1 for a sigmoid), P itself for "linear",
    else s(P): tanh(P), sigma(P), max(0, P)."""
    if loss == "linear":
        return P
    if loss == "logistic":
        return np.where(P < 0, -1.0 if activation == "tanh" else 0.0, 1.0).astype(P.dtype)
    if activation == "identity":
        return P
    return getattr(ops, activation)(P)


class Projections:
    """The rows of all P_i, from a key.

    scale: p; loss, activation: see `reach`; squash False: t = y* P as it is. Memory: 32 bytes.
    """

    def __init__(self, key: int, K: int, scale: float, loss: str, squash: bool, dtype: Any):
        self.key, self.K, self.scale, self.loss, self.squash = key, K, scale, loss, squash
        self.dtype = np.dtype(dtype)
        self._bits = np.random.Philox(key=key)
        self._state = self._bits.state
        self._rng = np.random.Generator(self._bits)

    def row(self, layer: int, k: int, N: int) -> np.ndarray:
        """Row k of P_layer, (N,)."""
        self._state["state"]["counter"][...] = (0, 0, layer, k)
        self._state["buffer_pos"], self._state["has_uint32"] = 4, 0  # nothing is left over of an earlier row
        self._bits.state = self._state
        return (self.scale * self._rng.standard_normal(N)).astype(self.dtype)

    def table(self, layer: int, N: int, activation: str, classes: Sequence[int] | np.ndarray | None = None):
        """Codes (K, N) of all classes, or of the given ones, in their order."""
        chosen = range(self.K) if classes is None else classes
        P = np.empty((len(chosen), N), self.dtype)
        for i, k in enumerate(chosen):
            P[i] = self.row(layer, int(k), N)
        return reach(P, self.loss, activation) if self.squash else P


def class_means(learner: Any, X: Any, y: Any) -> list[np.ndarray]:
    """Codes of another kind, for adaptors: the mean output of each hidden layer for each class of the old domain,
    (K, n_i) a layer. `learner` is a fitted TPSGD; y holds all of its classes. Raises ValueError otherwise."""
    activations, y = learner.activations(X), np.asarray(y)
    if len(y) != len(activations[0]):
        raise ValueError(f"class_means: X has {len(activations[0])} samples, but y has {len(y)}")
    missing = [k for k in learner.classes_ if not (y == k).any()]
    if missing:
        raise ValueError(f"class_means: y has no sample of class {missing[0].item()!r}")
    return [np.stack([a[y == k].mean(axis=0).ravel() for k in learner.classes_]) for a in activations]
