"""Pooling: maxima and means over windows of a plane, and their gradients. C mirror: native/src/pool.c.

Window (m, n) of x (B, C, H, W) covers rows stride m - padding to stride m - padding + size - 1, and columns alike; it
gives entry (m, n) of y (B, C, OH, OW), OH = floor((H + 2 padding - size) / stride) + 1. size, stride (None: as size)
and padding (at most half of size, so that no window lies outside) are integers or pairs for (H, W); the one-dimensional
forms pool along T of (B, C, T). Arrays are float32 or float64; batch and channels may be empty.

Errors: TypeError for another dtype, mixed dtypes or a number that is no integer; ValueError for shapes that do not fit,
numbers out of range and a window larger than the padded input.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from refimpl.backends import operation
from refimpl.ops import _check, _window

__all__ = [
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

Numbers = Any  # an integer, or one integer per axis
Pair = tuple[int, int]


# ---------------------------------------------------------------- checks


def _windows(
    op: str, plane: tuple[int, ...], size: Numbers, stride: Numbers, padding: Numbers, axes: int
) -> tuple[Pair, Pair, Pair, Pair]:
    """Size, stride, padding, and how many windows there are, each for (H, W)."""
    k = _window.numbers(op, "size", size, axes, 1)
    s = k if stride is None else _window.numbers(op, "stride", stride, axes, 1)
    p = _window.numbers(op, "padding", padding, axes, 0)
    for a, b in zip(k, p):
        if 2 * b > a:
            raise ValueError(f"{op}: padding is {b}, expected at most half of size {a}")
    H, W = (1,) * (2 - len(plane)) + tuple(plane)
    _window.affordable(op, "the padded plane", H + 2 * p[0], W + 2 * p[1])
    return k, s, p, _window.positions(op, "window", (H, W), k, s, p)


def _forward(op: str, x: np.ndarray, size: Numbers, stride: Numbers, padding: Numbers, axes: int):
    _check.floats(op, "x", x)
    _check.ndim(op, "x", x, axes + 2)
    _window.nonempty(op, "x", x.shape, 2)
    return _windows(op, x.shape[2:], size, stride, padding, axes)


def _plane(op: str, dy: np.ndarray, *extents: Any) -> tuple[int, ...]:
    names = ("height", "width") if len(extents) == 2 else ("length",)
    plane = tuple(_window.numbers(op, name, n, 1, 1)[1] for name, n in zip(names, extents))
    _window.affordable(op, "dx", *dy.shape[:2], *plane)
    return plane


def _avg_backward(op: str, dy: np.ndarray, extents: tuple, size: Numbers, stride: Numbers, padding: Numbers):
    axes = len(extents)
    _check.floats(op, "dy", dy)
    _check.ndim(op, "dy", dy, axes + 2)
    plane = _plane(op, dy, *extents)
    k, s, p, m = _windows(op, plane, size, stride, padding, axes)
    _check.shape(op, "dy", dy, (*dy.shape[:2], *m[2 - axes :]))
    return plane, k, s, p, m


def _max_backward(op: str, dy: np.ndarray, index: np.ndarray, *extents: Any) -> tuple[int, ...]:
    _check.floats(op, "dy", dy)
    _check.integers(op, "index", index)
    _check.ndim(op, "dy", dy, len(extents) + 2)
    _check.shape(op, "index", index, dy.shape)
    return _plane(op, dy, *extents)


# ---------------------------------------------------------------- on planes


def _seen(x: np.ndarray, fill: float, k: Pair, s: Pair, p: Pair) -> np.ndarray:
    """What each window sees, (B, C, OH, OW, KH, KW), with `fill` outside the plane."""
    padded = np.pad(x, ((0, 0), (0, 0), (p[0], p[0]), (p[1], p[1])), constant_values=fill)
    return sliding_window_view(padded, k, axis=(2, 3))[:, :, :: s[0], :: s[1]]


def _max(x: np.ndarray, k: Pair, s: Pair, p: Pair) -> tuple[np.ndarray, np.ndarray]:
    W = x.shape[3]
    seen = _seen(x, -np.inf, k, s, p)
    OH, OW = seen.shape[2:4]
    seen = seen.reshape(*seen.shape[:4], k[0] * k[1])
    at = seen.argmax(axis=4)  # the first maximum, or the first NaN
    # Where all entries are -inf, `at` is the window's corner, perhaps in the padding; its first entry inside is meant.
    row = np.maximum(s[0] * np.arange(OH)[:, None] - p[0] + at // k[1], 0)
    column = np.maximum(s[1] * np.arange(OW) - p[1] + at % k[1], 0)
    return np.take_along_axis(seen, at[..., None], axis=4)[..., 0], (row * W + column).astype(np.int64)


def _max_spread(dy: np.ndarray, index: np.ndarray, positions: int) -> np.ndarray:
    """dx[b, c, index[b, c, ...]] += dy[b, c, ...] on flattened planes."""
    B, C = dy.shape[:2]
    dx = np.zeros((B * C, positions), dy.dtype)
    plane = np.broadcast_to(np.arange(B * C).reshape(B, C, *(1,) * (dy.ndim - 2)), dy.shape)
    np.add.at(dx, (plane, index), dy)
    return dx


def _avg(x: np.ndarray, k: Pair, s: Pair, p: Pair) -> np.ndarray:
    return _seen(x, 0, k, s, p).sum(axis=(4, 5)) / x.dtype.type(k[0] * k[1])


def _avg_spread(dy: np.ndarray, H: int, W: int, k: Pair, s: Pair, p: Pair) -> np.ndarray:
    padded = np.zeros((*dy.shape[:2], H + 2 * p[0], W + 2 * p[1]), dy.dtype)
    share = dy / dy.dtype.type(k[0] * k[1])
    OH, OW = dy.shape[2:]
    for i in range(k[0]):
        for j in range(k[1]):
            padded[:, :, i :: s[0], j :: s[1]][:, :, :OH, :OW] += share
    return np.ascontiguousarray(padded[:, :, p[0] : p[0] + H, p[1] : p[1] + W])


# ---------------------------------------------------------------- operations


@operation
def max_pool2d(
    x: np.ndarray, size: Numbers, stride: Numbers = None, padding: Numbers = 0
) -> tuple[np.ndarray, np.ndarray]:
    """y[b, c, m, n] = max of window (m, n) of x[b, c]; index says where it is, for the backward pass.

    Returns y (B, C, OH, OW) and index (B, C, OH, OW) int64: the flat position h W + w of each maximum, the first in
    row-major order among equals. A NaN is larger than any number. Padding never wins.
    """
    k, s, p, _ = _forward("max_pool2d", x, size, stride, padding, 2)
    return _max(x, k, s, p)


@operation
def max_pool2d_backward(dy: np.ndarray, index: np.ndarray, height: int, width: int) -> np.ndarray:
    """dx[b, c].flat[index[b, c, m, n]] += dy[b, c, m, n]: each maximum receives the gradients of its windows.

    dy and index (B, C, OH, OW), index of any integer dtype; returns dx (B, C, height, width). ValueError for an index
    outside the plane.
    """
    H, W = _max_backward("max_pool2d_backward", dy, index, height, width)
    _check.index_range("max_pool2d_backward", "index", index, H * W)
    return _max_spread(dy, index, H * W).reshape(*dy.shape[:2], H, W)


@operation
def max_pool1d(x: np.ndarray, size: int, stride: int | None = None, padding: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """As max_pool2d, along T of x (B, C, T): returns y and index (B, C, OT), index being the t of each maximum."""
    k, s, p, _ = _forward("max_pool1d", x, size, stride, padding, 1)
    y, index = _max(x[:, :, None], k, s, p)
    return y[:, :, 0], index[:, :, 0]


@operation
def max_pool1d_backward(dy: np.ndarray, index: np.ndarray, length: int) -> np.ndarray:
    """dx[b, c, index[b, c, t]] += dy[b, c, t]; returns dx (B, C, length). ValueError as max_pool2d_backward."""
    (T,) = _max_backward("max_pool1d_backward", dy, index, length)
    _check.index_range("max_pool1d_backward", "index", index, T)
    return _max_spread(dy, index, T).reshape(*dy.shape[:2], T)


@operation
def avg_pool2d(x: np.ndarray, size: Numbers, stride: Numbers = None, padding: Numbers = 0) -> np.ndarray:
    """y[b, c, m, n] = sum of window (m, n) of x[b, c] / (KH KW).

    The padding counts as zeros: the divisor is the full window everywhere (PyTorch's count_include_pad=True).
    """
    k, s, p, _ = _forward("avg_pool2d", x, size, stride, padding, 2)
    return _avg(x, k, s, p)


@operation
def avg_pool2d_backward(
    dy: np.ndarray, height: int, width: int, size: Numbers, stride: Numbers = None, padding: Numbers = 0
) -> np.ndarray:
    """Each entry of window (m, n) receives dy[b, c, m, n] / (KH KW). Returns dx (B, C, height, width)."""
    (H, W), k, s, p, _ = _avg_backward("avg_pool2d_backward", dy, (height, width), size, stride, padding)
    return _avg_spread(dy, H, W, k, s, p)


@operation
def avg_pool1d(x: np.ndarray, size: int, stride: int | None = None, padding: int = 0) -> np.ndarray:
    """As avg_pool2d, along T of x (B, C, T)."""
    k, s, p, _ = _forward("avg_pool1d", x, size, stride, padding, 1)
    return _avg(x[:, :, None], k, s, p)[:, :, 0]


@operation
def avg_pool1d_backward(
    dy: np.ndarray, length: int, size: int, stride: int | None = None, padding: int = 0
) -> np.ndarray:
    """As avg_pool2d_backward, along T: returns dx (B, C, length)."""
    (T,), k, s, p, _ = _avg_backward("avg_pool1d_backward", dy, (length,), size, stride, padding)
    return _avg_spread(dy[:, :, None], 1, T, k, s, p)[:, :, 0]


def _global(op: str, x: np.ndarray) -> None:
    _check.floats(op, "x", x)
    _check.ndim(op, "x", x, 4)
    _window.nonempty(op, "x", x.shape, 2)


def _global_backward(op: str, dy: np.ndarray, height: Any, width: Any) -> tuple[int, ...]:
    _check.floats(op, "dy", dy)
    _check.ndim(op, "dy", dy, 2)
    return _plane(op, dy, height, width)


@operation
def global_avg_pool2d(x: np.ndarray) -> np.ndarray:
    """y[b, c] = mean of x[b, c] over its plane: (B, C, H, W) -> (B, C)."""
    _global("global_avg_pool2d", x)
    return x.sum(axis=(2, 3)) / x.dtype.type(x.shape[2] * x.shape[3])


@operation
def global_avg_pool2d_backward(dy: np.ndarray, height: int, width: int) -> np.ndarray:
    """dx[b, c, h, w] = dy[b, c] / (H W): dy (B, C), returns dx (B, C, height, width)."""
    H, W = _global_backward("global_avg_pool2d_backward", dy, height, width)
    share = dy / dy.dtype.type(H * W)
    return np.broadcast_to(share[:, :, None, None], (*dy.shape, H, W)).copy()
