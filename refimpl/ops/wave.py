"""Waves in a simulated physical system, complex numbers as pairs of real ones. C mirror: native/src/wave.c.

A row [Re, Im] of 2N numbers stands for N complex ones, and a complex matrix C, applied to it from the right, is the
real one [[Re C, Im C], [-Im C, Re C]]. All arrays float32 or float64, one dtype in a call. Errors: TypeError for other
dtypes, ValueError for shapes that do not fit.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = ["cubic_wave"]

LEAST = 1e-6  # added to the length of a row


def _check_wave(x, mixing, coupling, strength) -> int:
    """N."""
    op = "cubic_wave"
    _check.number(op, "strength", strength)
    _check.floats(op, "x mixing coupling", x, mixing, coupling)
    _check.ndim(op, "x", x, 2)
    _check.ndim(op, "coupling", coupling, 2)
    if len(coupling) % 2:
        raise ValueError(f"{op}: coupling has shape {coupling.shape}, expected an even number of rows")
    _check.shape(op, "coupling", coupling, (len(coupling), len(coupling)))
    _check.shape(op, "mixing", mixing, (x.shape[1], len(coupling)))
    return len(coupling) // 2


def _squares(a: np.ndarray) -> np.ndarray:
    """|a|² of [Re, Im] rows."""
    N = a.shape[1] // 2
    return a[:, :N] * a[:, :N] + a[:, N:] * a[:, N:]


@operation
def cubic_wave(x: np.ndarray, mixing: np.ndarray, coupling: np.ndarray, strength: float) -> np.ndarray:
    """What microphones hear of sound in a cavity that mixes all frequencies and is weakly cubic.

    xn = |x| / (||x|| + 1e-6);  a = xn H;  y = |a + strength (|a|² a) G|

    Shapes: x (B, D), mixing (D, 2N): [Re H, Im H], coupling (2N, 2N): G as a real matrix. Returns y (B, N).
    """
    _check_wave(x, mixing, coupling, strength)
    xn = np.abs(x) / (np.sqrt((x * x).sum(axis=1, keepdims=True)) + x.dtype.type(LEAST))
    a = xn @ mixing
    cubic = np.tile(x.dtype.type(strength) * _squares(a), 2) * a
    return np.sqrt(_squares(a + cubic @ coupling))
