"""Rotary position embedding and its gradient. C mirror: native/src/rotary.c."""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = ["rotary", "rotary_angles", "rotary_backward"]


def rotary_angles(
    T: int, D: int, base: float = 10000.0, dtype: np.dtype | type = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of the angles t base^(-2i/D) for positions t < T and pairs i < D/2: two arrays (T, D/2).

    A plain function. For a text that goes on at position t0, take rows t0 and after of a longer table. Raises
    ValueError for an odd D.
    """
    if D % 2:
        raise ValueError(f"rotary_angles: D is {D}, expected an even number")
    angle = np.arange(T)[:, None] * float(base) ** (-2 * np.arange(D // 2) / max(D, 1))
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def _checked(op: str, name: str, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> None:
    _check.floats(op, f"{name} cos sin", x, cos, sin)
    _check.ndim(op, name, x, 4)
    T, D = x.shape[2:]
    if D % 2:
        raise ValueError(f"{op}: {name} has shape {x.shape}, expected an even width")
    _check.shape(op, "cos", cos, (T, D // 2))
    _check.shape(op, "sin", sin, (T, D // 2))


@operation
def rotary(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """y = (x1 cos - x2 sin, x2 cos + x1 sin): the pair (x1_i, x2_i) turned by the angle of its position.

    x (B, H, T, D) with D even; cos, sin (T, D/2), from `rotary_angles` say. Pairs follow the "half" convention: x1 is
    the first half of the width, x[..., :D/2], and x2 the second (the paper pairs neighbours 2i, 2i + 1 instead: the
    same up to a permutation of the width). Returns y (B, H, T, D). Errors: TypeError for dtypes, ValueError for shapes.
    Source: Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021, equation (34).
    """
    _checked("rotary", "x", x, cos, sin)
    x1, x2 = np.split(x, 2, axis=-1)
    return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1)


@operation
def rotary_backward(dy: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """dx = dy turned by the negative angle: the transpose of a rotation is its inverse."""
    _checked("rotary_backward", "dy", dy, cos, sin)
    dy1, dy2 = np.split(dy, 2, axis=-1)
    return np.concatenate([dy1 * cos + dy2 * sin, dy2 * cos - dy1 * sin], axis=-1)
