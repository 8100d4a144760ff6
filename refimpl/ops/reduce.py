"""Reductions that layers need: sums, means and maxima along one axis, and the sum over everything. C mirror:
native/src/reduce.c.

Arrays are float32 or float64; a reduction along `axis` (negative counts from the end) removes that axis. Sums
are accumulated in double precision (the mirror adds up to 128 numbers in the precision of x between).
Errors: TypeError for another dtype, ValueError for an axis that does not exist or, for means and maxima, is empty.
"""

from __future__ import annotations

import operator

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = [
    "reduce_max",
    "reduce_max_backward",
    "reduce_mean",
    "reduce_mean_backward",
    "reduce_sum",
    "reduce_sum_backward",
    "sum_rows",
    "total",
]


def _axis(op: str, axis: int, ndim: int, array: str) -> int:
    """The axis counted from the front."""
    try:
        a = operator.index(axis)
    except TypeError:
        raise TypeError(f"{op}: axis is a {type(axis).__name__}, expected a whole number") from None
    if not -ndim <= a < ndim:
        raise ValueError(f"{op}: axis is {axis}, but {array} has {ndim} axes")
    return a % ndim


def _check_forward(op: str, x: np.ndarray, axis: int, empty_allowed: bool = False) -> int:
    _check.floats(op, "x", x)
    axis = _axis(op, axis, x.ndim, "x")
    if x.shape[axis] == 0 and not empty_allowed:
        raise ValueError(f"{op}: x has shape {x.shape}, expected at least 1 entry along axis {axis}")
    return axis


def _check_backward(op: str, dy: np.ndarray, axis: int, n: int, least: int = 1) -> int:
    _check.floats(op, "dy", dy)
    if _check.whole(op, "n", n) < least:
        raise ValueError(f"{op}: n is {n}, expected at least {least}")
    return _axis(op, axis, dy.ndim + 1, "x")


def _check_max_backward(dy, index, axis, n):
    op = "reduce_max_backward"
    axis = _check_backward(op, dy, axis, n)
    _check.integers(op, "index", index)
    _check.shape(op, "index", index, dy.shape)
    _check.index_range(op, "index", index, n)
    return axis


def _check_rows(x):
    _check.floats("sum_rows", "x", x)
    _check.ndim("sum_rows", "x", x, 2)


def _widened(shape: tuple[int, ...], axis: int, n: int) -> tuple[int, ...]:
    """The shape before the axis of n entries was removed."""
    return (*shape[:axis], n, *shape[axis:])


@operation
def total(x: np.ndarray) -> float:
    """Σ x over all elements, accumulated in double precision, as a Python float; 0.0 for an empty array."""
    _check.floats("total", "x", x)
    return float(x.sum(dtype=np.float64))


@operation
def sum_rows(x: np.ndarray) -> np.ndarray:
    """y_d = Σ_n x_nd: (N, D) to (D,), such as the gradient of a bias."""
    _check_rows(x)
    return x.sum(axis=0, dtype=np.float64).astype(x.dtype)


@operation
def reduce_sum(x: np.ndarray, axis: int) -> np.ndarray:
    """y = Σ x along one axis; 0 along an empty one."""
    axis = _check_forward("reduce_sum", x, axis, empty_allowed=True)
    return np.asarray(x.sum(axis=axis, dtype=np.float64)).astype(x.dtype)


@operation
def reduce_sum_backward(dy: np.ndarray, axis: int, n: int) -> np.ndarray:
    """dx = dy, repeated for each of the n entries that were summed along `axis` of x."""
    axis = _check_backward("reduce_sum_backward", dy, axis, n, least=0)
    return np.broadcast_to(np.expand_dims(dy, axis), _widened(dy.shape, axis, n)).copy()


@operation
def reduce_mean(x: np.ndarray, axis: int) -> np.ndarray:
    """y = 1/n Σ x along one axis of n entries."""
    axis = _check_forward("reduce_mean", x, axis)
    return np.asarray(x.sum(axis=axis, dtype=np.float64) / x.shape[axis]).astype(x.dtype)


@operation
def reduce_mean_backward(dy: np.ndarray, axis: int, n: int) -> np.ndarray:
    """dx = dy / n, repeated for each of the n entries along `axis` of x."""
    axis = _check_backward("reduce_mean_backward", dy, axis, n)
    return np.broadcast_to(np.expand_dims(dy / dy.dtype.type(n), axis), _widened(dy.shape, axis, n)).copy()


@operation
def reduce_max(x: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """y = max x along one axis, and where: index (int64) of the first maximum, all that the backward pass needs.

    A NaN counts as the maximum.
    """
    axis = _check_forward("reduce_max", x, axis)
    index = np.expand_dims(np.argmax(x, axis=axis), axis)
    y = np.take_along_axis(x, index, axis=axis)
    return y.squeeze(axis), index.squeeze(axis).astype(np.int64)


@operation
def reduce_max_backward(dy: np.ndarray, index: np.ndarray, axis: int, n: int) -> np.ndarray:
    """dx = dy at the maximum, 0 elsewhere, along `axis` of x with its n entries."""
    axis = _check_max_backward(dy, index, axis, n)
    dx = np.zeros(_widened(dy.shape, axis, n), dy.dtype)
    np.put_along_axis(dx, np.expand_dims(index, axis), np.expand_dims(dy, axis), axis)
    return dx
