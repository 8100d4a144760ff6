"""Initialisers: functions of (rng, shape) that return the first values of a parameter.

Fans are given by the layer, which knows which axes are inputs; `gain` is sqrt(2) for ReLU networks and 1 for linear
ones.
"""

from __future__ import annotations

import math

import numpy as np

from refimpl.nn.params import Init

__all__ = [
    "constant",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


def constant(value: float) -> Init:
    """Every entry is `value`."""
    return lambda rng, shape: np.full(shape, value)


zeros, ones = constant(0.0), constant(1.0)


def normal(std: float, mean: float = 0.0) -> Init:
    """N(mean, std^2)."""
    return lambda rng, shape: mean + std * rng.standard_normal(shape)


def truncated_normal(std: float, mean: float = 0.0, cut: float = 2.0) -> Init:
    """N(mean, std^2), redrawn outside `cut` standard deviations."""

    def draw(rng, shape):
        z = rng.standard_normal(shape)
        while (out := np.abs(z) > cut).any():
            z[out] = rng.standard_normal(int(out.sum()))
        return mean + std * z

    return draw


def uniform(limit: float) -> Init:
    """U(-limit, limit)."""
    return lambda rng, shape: rng.uniform(-limit, limit, shape)


def xavier_uniform(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """U(-a, a), a = gain sqrt(6 / (fan_in + fan_out)). Glorot and Bengio, 2010, equation (16)."""
    return uniform(gain * math.sqrt(6.0 / max(1, fan_in + fan_out)))


def xavier_normal(fan_in: int, fan_out: int, gain: float = 1.0) -> Init:
    """N(0, gain^2 2 / (fan_in + fan_out)). Glorot and Bengio, 2010."""
    return normal(gain * math.sqrt(2.0 / max(1, fan_in + fan_out)))


def kaiming_uniform(fan_in: int, gain: float = math.sqrt(2.0)) -> Init:
    """U(-a, a), a = gain sqrt(3 / fan_in). He et al., 2015, equation (10)."""
    return uniform(gain * math.sqrt(3.0 / max(1, fan_in)))


def kaiming_normal(fan_in: int, gain: float = math.sqrt(2.0)) -> Init:
    """N(0, gain^2 / fan_in). He et al., 2015, equation (10)."""
    return normal(gain / math.sqrt(max(1, fan_in)))


def orthogonal(gain: float = 1.0) -> Init:
    """`gain` times a matrix with orthonormal rows or columns (whichever are fewer), uniformly drawn.

    Axes behind the first are taken together. Saxe, McClelland and Ganguli, 2014.
    """

    def draw(rng, shape):
        rows = shape[0] if shape else 1
        columns = math.prod(shape[1:])
        a = rng.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(a)
        q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform
        return gain * (q if rows >= columns else q.T).reshape(shape)

    return draw
