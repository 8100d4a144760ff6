"""Initialisers: callables of (rng, shape) that return the first values of a parameter. They compare and pickle.

Fans are given by the layer, which knows which axes are inputs; `gain` is sqrt(2) for ReLU networks and 1 for linear
ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class constant:
    """Every entry is `value`."""

    value: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value)


zeros, ones = constant(0.0), constant(1.0)


@dataclass(frozen=True)
class normal:
    """N(mean, std^2)."""

    std: float
    mean: float = 0.0

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.mean + self.std * rng.standard_normal(shape)


@dataclass(frozen=True)
class truncated_normal:
    """N(mean, std^2), redrawn outside `cut` standard deviations."""

    std: float
    mean: float = 0.0
    cut: float = 2.0

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        z = rng.standard_normal(shape)
        while (out := np.abs(z) > self.cut).any():
            z[out] = rng.standard_normal(int(out.sum()))
        return self.mean + self.std * z


@dataclass(frozen=True)
class uniform:
    """U(-limit, limit)."""

    limit: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.uniform(-self.limit, self.limit, shape)


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


@dataclass(frozen=True)
class orthogonal:
    """`gain` times a matrix with orthonormal rows or columns (whichever are fewer), uniformly drawn.

    Axes behind the first are taken together. Saxe, McClelland and Ganguli, 2014.
    """

    gain: float = 1.0

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        rows = shape[0] if shape else 1
        columns = math.prod(shape[1:])
        a = rng.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(a)
        q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the distribution uniform
        return self.gain * (q if rows >= columns else q.T).reshape(shape)
