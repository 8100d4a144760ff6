"""Enlarging pictures by a whole factor, and the gradients. C mirror: native/src/upsample.c.

x (B, C, H, W) becomes y (B, C, F H, G W); factor is an integer, or the pair (F, G). Arrays are float32 or float64;
batch and channels may be empty. A backward function takes dy (B, C, F H, G W) and returns dx (B, C, H, W).

Errors: TypeError for another dtype or a factor that is no integer; ValueError for a factor below 1, an empty plane, and
a dy whose extents are no multiples of the factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check, _window

__all__ = [
    "upsample_bilinear2d",
    "upsample_bilinear2d_backward",
    "upsample_nearest2d",
    "upsample_nearest2d_backward",
]

Numbers = Any  # an integer, or one integer per axis


def _forward(op: str, x: np.ndarray, factor: Numbers) -> tuple[int, int]:
    _check.floats(op, "x", x)
    _check.ndim(op, "x", x, 4)
    _window.nonempty(op, "x", x.shape, 2)
    F, G = _window.numbers(op, "factor", factor, 2, 1)
    B, C, H, W = x.shape
    _window.affordable(op, "the result", B, C, F * H, G * W)
    return F, G


def _backward(op: str, dy: np.ndarray, factor: Numbers) -> tuple[int, int, int, int]:
    """H, W, F, G."""
    _check.floats(op, "dy", dy)
    _check.ndim(op, "dy", dy, 4)
    _window.nonempty(op, "dy", dy.shape, 2)
    F, G = _window.numbers(op, "factor", factor, 2, 1)
    (H, h), (W, w) = divmod(dy.shape[2], F), divmod(dy.shape[3], G)
    if h or w:
        raise ValueError(f"{op}: dy has shape {dy.shape}, expected extents that are multiples of the factors {(F, G)}")
    return H, W, F, G


def _between(n: int, factor: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each entry i of an axis enlarged from n to factor n: it is u x[a] + v x[b], arrays a, b, u, v.

    Entry i has its centre at s = (i + 1/2) / factor - 1/2 of the small axis, a = floor(s), v = s - a; before the first
    centre and after the last one that centre's value holds. In units of 1 / (2 factor) all of that is integers.
    """
    unit = 2 * factor
    s = np.maximum(2 * np.arange(n * factor) + 1 - factor, 0)
    a, rest = s // unit, s % unit
    return a, np.minimum(a + 1, n - 1), ((unit - rest) / unit).astype(dtype), (rest / unit).astype(dtype)


@operation
def upsample_nearest2d(x: np.ndarray, factor: Numbers) -> np.ndarray:
    """y[b, c, i, j] = x[b, c, floor(i / F), floor(j / G)]: every entry becomes a block of F x G."""
    F, G = _forward("upsample_nearest2d", x, factor)
    return x.repeat(F, axis=2).repeat(G, axis=3)


@operation
def upsample_nearest2d_backward(dy: np.ndarray, factor: Numbers) -> np.ndarray:
    """dx[b, c, h, w] = the sum of dy over the block of (h, w)."""
    H, W, F, G = _backward("upsample_nearest2d_backward", dy, factor)
    return dy.reshape(*dy.shape[:2], H, F, W, G).sum(axis=(3, 5))


@operation
def upsample_bilinear2d(x: np.ndarray, factor: Numbers) -> np.ndarray:
    """Linear interpolation along H, then along W, between the centres of the entries.

    y[i, j] lies at ((i + 1/2) / F - 1/2, (j + 1/2) / G - 1/2) of x, clamped to the centres of the first and last
    entries (PyTorch's align_corners=False).
    """
    F, G = _forward("upsample_bilinear2d", x, factor)
    a, b, u, v = _between(x.shape[2], F, x.dtype)
    x = u[:, None] * x[:, :, a] + v[:, None] * x[:, :, b]
    a, b, u, v = _between(x.shape[3], G, x.dtype)
    return u * x[..., a] + v * x[..., b]


@operation
def upsample_bilinear2d_backward(dy: np.ndarray, factor: Numbers) -> np.ndarray:
    """The transpose: along W, then along H, each dy gives its shares u and v to the entries a and b it came from."""
    H, W, F, G = _backward("upsample_bilinear2d_backward", dy, factor)
    a, b, u, v = _between(W, G, dy.dtype)
    rows = np.zeros((*dy.shape[:3], W), dy.dtype)
    np.add.at(rows, (..., a), u * dy)  # type: ignore[arg-type]
    np.add.at(rows, (..., b), v * dy)  # type: ignore[arg-type]
    a, b, u, v = _between(H, F, dy.dtype)
    dx = np.zeros((*dy.shape[:2], H, W), dy.dtype)
    np.add.at(dx, (slice(None), slice(None), a), u[:, None] * rows)  # type: ignore[arg-type]
    np.add.at(dx, (slice(None), slice(None), b), v[:, None] * rows)  # type: ignore[arg-type]
    return dx
