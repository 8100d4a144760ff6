"""Between a projection (B, T, columns) and the heads (B, H, T, E) that attention reads. C mirror: native/src/heads.c.

Axes: B batch, T time, H query heads, G key heads, E width of a head. All arrays float32 or all float64. Rotary
positions (see rotary.py) are turned in the same pass, so that each number is read and written once.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = ["merge_heads", "merge_heads_backward", "split_heads", "split_heads_backward"]


def _checked_angles(op: str, cos: np.ndarray | None, sin: np.ndarray | None, name: str, x, T: int, E: int) -> None:
    if (cos is None) != (sin is None):
        raise ValueError(f"{op}: cos and sin are given both or not at all")
    if cos is None or sin is None:
        return
    _check.floats(op, f"{name} cos sin", x, cos, sin)
    if E % 2:
        raise ValueError(f"{op}: heads have width {E}, expected an even one to turn")
    _check.shape(op, "cos", cos, (T, E // 2))
    _check.shape(op, "sin", sin, (T, E // 2))


def _checked_split(op, x, heads, kv_heads, cos, sin) -> tuple[int, int, int]:
    """The checks of both bodies. Returns B, T, E."""
    _check.floats(op, "x", x)
    _check.ndim(op, "x", x, 3)
    heads, kv_heads = _check.count(op, "heads", heads), _check.count(op, "kv_heads", kv_heads)
    B, T, columns = x.shape
    n = heads + 2 * kv_heads
    if n == 0 or columns % n:
        raise ValueError(f"{op}: x has shape {x.shape}, expected a multiple of {heads} + 2 * {kv_heads} columns")
    _checked_angles(op, cos, sin, "x", x, T, columns // n)
    return B, T, columns // n


def _checked_split_backward(op, dq, dk, dv, cos, sin) -> tuple[int, int, int, int, int]:
    """B, T, H, G, E."""
    _check.floats(op, "dq dk dv", dq, dk, dv)
    _check.ndim(op, "dq", dq, 4)
    _check.ndim(op, "dk", dk, 4)
    B, H, T, E = dq.shape
    G = dk.shape[1]
    _check.shape(op, "dk", dk, (B, G, T, E))
    _check.shape(op, "dv", dv, (B, G, T, E))
    _checked_angles(op, cos, sin, "dq", dq, T, E)
    return B, T, H, G, E


def _checked_merge(op: str, name: str, y: np.ndarray) -> tuple[int, ...]:
    _check.floats(op, name, y)
    _check.ndim(op, name, y, 4)
    return y.shape


def _checked_unmerge(op: str, dy: np.ndarray, heads: int) -> tuple[int, int, int]:
    _check.floats(op, "dy", dy)
    _check.ndim(op, "dy", dy, 3)
    heads = _check.count(op, "heads", heads)
    _check.at_least(op, "heads", heads, 1)
    B, T, columns = dy.shape
    if columns % heads:
        raise ValueError(f"{op}: dy has shape {dy.shape}, expected a multiple of {heads} columns")
    return B, T, columns // heads


def _turn(x: np.ndarray, cos: np.ndarray | None, sin: np.ndarray | None) -> np.ndarray:
    if cos is None:
        return np.ascontiguousarray(x)
    x1, x2 = np.split(x, 2, axis=-1)
    return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


@operation
def split_heads(
    x: np.ndarray, heads: int, kv_heads: int, cos: np.ndarray | None = None, sin: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k, v of a joint projection x = (q | k | v), q and k turned by the angles of their positions.

    x (B, T, (heads + 2 kv_heads) E) -> q (B, heads, T, E), k and v (B, kv_heads, T, E); one of the two numbers may be
    0, where x holds only queries, or only keys and values. cos, sin (T, E/2): see `rotary`; without them nothing turns.
    Errors: TypeError for dtypes, ValueError for shapes that do not fit.
    """
    B, T, E = _checked_split("split_heads", x, heads, kv_heads, cos, sin)
    parts = x.reshape(B, T, heads + 2 * kv_heads, E).transpose(0, 2, 1, 3)
    q, k, v = np.split(parts, (heads, heads + kv_heads), axis=1)
    return _turn(q, cos, sin), _turn(k, cos, sin), np.ascontiguousarray(v)


@operation
def split_heads_backward(
    dq: np.ndarray, dk: np.ndarray, dv: np.ndarray, cos: np.ndarray | None = None, sin: np.ndarray | None = None
) -> np.ndarray:
    """dx = (dq | dk | dv), dq and dk turned back: the transpose of `split_heads`, and its inverse."""
    B, T, H, G, E = _checked_split_backward("split_heads_backward", dq, dk, dv, cos, sin)
    back = None if sin is None else -sin
    parts = np.concatenate([_turn(dq, cos, back), _turn(dk, cos, back), dv], axis=1)
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3)).reshape(B, T, (H + 2 * G) * E)


@operation
def merge_heads(y: np.ndarray) -> np.ndarray:
    """(B, H, T, E) to (B, T, H E): the heads of a position side by side."""
    B, H, T, E = _checked_merge("merge_heads", "y", y)
    return np.ascontiguousarray(y.transpose(0, 2, 1, 3)).reshape(B, T, H * E)


@operation
def merge_heads_backward(dy: np.ndarray, heads: int) -> np.ndarray:
    """(B, T, H E) to (B, H, T, E)."""
    B, T, E = _checked_unmerge("merge_heads_backward", dy, heads)
    return np.ascontiguousarray(dy.reshape(B, T, heads, E).transpose(0, 2, 1, 3))
