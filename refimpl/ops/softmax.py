"""Softmax, its logarithm, and the logarithm of its denominator. C mirror: native/src/softmax.c.

All work over the last axis: z is (..., K), float32 or float64, and each of its rows of K is a case of its own. Results
keep the dtype. `out=` may name the array to write (C-contiguous; it may be an input).

A row may hold -inf (probability 0). A row of nothing but -inf has no softmax: it gives NaN, as does a row with +inf or
NaN. Errors: TypeError for another dtype or mixed dtypes; ValueError for shapes that do not fit, for an array without
axes, and for K = 0 (unless there are no rows either).
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = [
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "logsumexp_backward",
    "softmax",
    "softmax_backward",
]


def _rows(op: str, name: str, a: np.ndarray) -> None:
    if a.ndim == 0:
        raise ValueError(f"{op}: {name} has shape (), expected at least 1 axis")
    if a.size == 0 and a.shape[-1] == 0 and all(a.shape[:-1]):
        raise ValueError(f"{op}: {name} has shape {a.shape}, expected at least 1 element on the last axis")


def _one(op: str, z: np.ndarray, out: np.ndarray | None) -> None:
    _check.floats(op, "z", z)
    _rows(op, "z", z)
    _check.output(op, out, z)


def _pair(op: str, dy: np.ndarray, y: np.ndarray, out: np.ndarray | None) -> None:
    _check.floats(op, "dy y", dy, y)
    _rows(op, "y", y)
    _check.shape(op, "dy", dy, y.shape)
    _check.output(op, out, y)


def _triple(op: str, dy: np.ndarray, z: np.ndarray, y: np.ndarray) -> None:
    _check.floats(op, "dy z y", dy, z, y)
    _rows(op, "z", z)
    _check.shape(op, "dy", dy, z.shape[:-1])
    _check.shape(op, "y", y, z.shape[:-1])


def _deliver(value: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return value
    out[...] = value
    return out


def _max(z: np.ndarray) -> np.ndarray:
    return z.max(axis=-1, keepdims=True, initial=-np.inf)


@operation
def softmax(z: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y_k = exp(z_k) / Σ_j exp(z_j).

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """
    _one("softmax", z, out)
    e = np.exp(z - _max(z))  # in [0, 1]: cannot overflow
    return _deliver(e / e.sum(axis=-1, keepdims=True), out)


@operation
def softmax_backward(dy: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dz = y (dy - Σ_j dy_j y_j): the Jacobian is diag(y) - y yᵀ."""
    _pair("softmax_backward", dy, y, out)
    return _deliver(y * (dy - (dy * y).sum(axis=-1, keepdims=True)), out)


@operation
def log_softmax(z: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y_k = z_k - log Σ_j exp(z_j), exact also where softmax rounds to 0."""
    _one("log_softmax", z, out)
    z = z - _max(z)
    return _deliver(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)), out)


@operation
def log_softmax_backward(dy: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dz = dy - exp(y) Σ_j dy_j, y the log-probabilities."""
    _pair("log_softmax_backward", dy, y, out)
    return _deliver(dy - np.exp(y) * dy.sum(axis=-1, keepdims=True), out)


@operation
def logsumexp(z: np.ndarray) -> np.ndarray:
    """y = log Σ_k exp(z_k): z (..., K) -> y (...). A row of -inf gives -inf, a row with +inf gives +inf."""
    _check.floats("logsumexp", "z", z)
    _rows("logsumexp", "z", z)
    m = _max(z)
    m = np.where(np.isinf(m), z.dtype.type(0), m)  # inf - inf has no value
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray((m + np.log(np.exp(z - m).sum(axis=-1, keepdims=True)))[..., 0])


@operation
def logsumexp_backward(dy: np.ndarray, z: np.ndarray, y: np.ndarray) -> np.ndarray:
    """dz = dy exp(z - y), y the result of logsumexp: dy, y (...), z, dz (..., K)."""
    _triple("logsumexp_backward", dy, z, y)
    return dy[..., None] * np.exp(z - y[..., None])
