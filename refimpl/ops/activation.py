"""Element-wise activations and their gradients. C mirror: native/src/activation.c.

Every function takes arrays of any shape, float32 or float64, and returns an array of the same shape and dtype;
`out=` may name the array to write (C-contiguous; it may be the input itself). A backward function takes what its
formula needs: the input x, or the output y where the derivative is simplest in y. Errors: TypeError for another dtype
or mixed dtypes, ValueError where shapes differ. A NaN stays a NaN.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = [
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "gelu_tanh",
    "gelu_tanh_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softplus",
    "softplus_backward",
    "swiglu",
    "swiglu_backward",
    "tanh",
    "tanh_backward",
]

_SQRT_2_OVER_PI = 0.79788456080286535588
_CUBIC = 0.044715


def _one(op: str, x: np.ndarray, out: np.ndarray | None, **numbers: float) -> None:
    _check.floats(op, "x", x)
    _check.output(op, out, x)
    for name, value in numbers.items():
        _check.number(op, name, value)


def _pair(op: str, dy: np.ndarray, name: str, a: np.ndarray, out: np.ndarray | None, **numbers: float) -> None:
    _check.floats(op, f"dy {name}", dy, a)
    _check.shape(op, "dy", dy, a.shape)
    _check.output(op, out, a)
    for number, value in numbers.items():
        _check.number(op, number, value)


def _deliver(value: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return np.asarray(value)
    out[...] = value
    return out


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))  # in (0, 1]: cannot overflow
    return np.where(x < 0, e, np.ones_like(e)) / (1 + e)


@operation
def relu(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y = max(x, 0).

    Source: Nair and Hinton, "Rectified linear units improve restricted Boltzmann machines", 2010.
    """
    _one("relu", x, out)
    return _deliver(np.maximum(x, 0), out)


@operation
def relu_backward(dy: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dx = dy [y > 0] (the subgradient at 0 is 0)."""
    _pair("relu_backward", dy, "y", y, out)
    return _deliver(np.where(y > 0, dy, 0), out)


@operation
def leaky_relu(x: np.ndarray, slope: float = 0.01, out: np.ndarray | None = None) -> np.ndarray:
    """y = x where x >= 0, else slope * x.

    Source: Maas, Hannun and Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.
    """
    _one("leaky_relu", x, out, slope=slope)
    return _deliver(np.where(x >= 0, x, x.dtype.type(slope) * x), out)


@operation
def leaky_relu_backward(
    dy: np.ndarray, x: np.ndarray, slope: float = 0.01, out: np.ndarray | None = None
) -> np.ndarray:
    """dx = dy where x >= 0, else slope * dy."""
    _pair("leaky_relu_backward", dy, "x", x, out, slope=slope)
    return _deliver(np.where(x >= 0, dy, x.dtype.type(slope) * dy), out)


@operation
def elu(x: np.ndarray, alpha: float = 1.0, out: np.ndarray | None = None) -> np.ndarray:
    """y = x where x > 0, else alpha (exp(x) - 1).

    Source: Clevert, Unterthiner and Hochreiter, "Fast and accurate deep network learning by exponential linear
    units", 2016, equation (15).
    """
    _one("elu", x, out, alpha=alpha)
    return _deliver(np.where(x > 0, x, x.dtype.type(alpha) * np.expm1(np.minimum(x, 0))), out)


@operation
def elu_backward(dy: np.ndarray, x: np.ndarray, alpha: float = 1.0, out: np.ndarray | None = None) -> np.ndarray:
    """dx = dy where x > 0, else dy alpha exp(x)."""
    _pair("elu_backward", dy, "x", x, out, alpha=alpha)
    return _deliver(np.where(x > 0, dy, dy * (x.dtype.type(alpha) * np.exp(np.minimum(x, 0)))), out)


@operation
def gelu(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y = x Phi(x), Phi the distribution function of the standard normal.

    Source: Hendrycks and Gimpel, "Gaussian error linear units", 2016.
    """
    from scipy.special import ndtr  # NumPy has no error function

    _one("gelu", x, out)
    return _deliver(x * ndtr(x), out)


@operation
def gelu_backward(dy: np.ndarray, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dx = dy (Phi(x) + x phi(x)), phi(x) = exp(-x^2 / 2) / sqrt(2 pi)."""
    from scipy.special import ndtr

    _pair("gelu_backward", dy, "x", x, out)
    phi = np.exp(-x * x / 2) / x.dtype.type(np.sqrt(2 * np.pi))
    return _deliver(dy * (ndtr(x) + x * phi), out)


@operation
def gelu_tanh(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y = x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3): the tanh form of GELU.

    Source: Hendrycks and Gimpel, "Gaussian error linear units", 2016, section 2.
    """
    _one("gelu_tanh", x, out)
    u = _SQRT_2_OVER_PI * (x + _CUBIC * x * x * x)
    return _deliver(0.5 * x * (1 + np.tanh(u)), out)


@operation
def gelu_tanh_backward(dy: np.ndarray, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dx = dy ((1 + t)/2 + x/2 (1 - t^2) u'), t = tanh(u), u' = sqrt(2/pi) (1 + 3 * 0.044715 x^2)."""
    _pair("gelu_tanh_backward", dy, "x", x, out)
    t = np.tanh(_SQRT_2_OVER_PI * (x + _CUBIC * x * x * x))
    du = _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * x * x)
    return _deliver(dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du), out)


@operation
def silu(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y = x sigmoid(x).

    Source: Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units", 2017.
    """
    _one("silu", x, out)
    return _deliver(x * _sigmoid(x), out)


@operation
def silu_backward(dy: np.ndarray, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dx = dy s (1 + x (1 - s)), s = sigmoid(x)."""
    _pair("silu_backward", dy, "x", x, out)
    s = _sigmoid(x)
    return _deliver(dy * (s * (1 + x * (1 - s))), out)


@operation
def tanh(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y = tanh(x)."""
    _one("tanh", x, out)
    return _deliver(np.tanh(x), out)


@operation
def tanh_backward(dy: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dx = dy (1 - y^2)."""
    _pair("tanh_backward", dy, "y", y, out)
    return _deliver(dy * (1 - y * y), out)


@operation
def sigmoid(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y = 1 / (1 + exp(-x)), computed without overflow."""
    _one("sigmoid", x, out)
    return _deliver(_sigmoid(x), out)


@operation
def sigmoid_backward(dy: np.ndarray, y: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dx = dy y (1 - y)."""
    _pair("sigmoid_backward", dy, "y", y, out)
    return _deliver(dy * (y * (1 - y)), out)


@operation
def softplus(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """y = log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)).

    Source: Dugas et al., "Incorporating second-order functional knowledge for better option pricing", 2001.
    """
    _one("softplus", x, out)
    return _deliver(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), out)


@operation
def softplus_backward(dy: np.ndarray, x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dx = dy sigmoid(x)."""
    _pair("softplus_backward", dy, "x", x, out)
    return _deliver(dy * _sigmoid(x), out)


# ---------------------------------------------------------------- gated: two halves of a row


def _gated(op: str, x: np.ndarray) -> tuple[int, ...]:
    """The shape of the result, half as wide as x."""
    _check.floats(op, "x", x)
    if x.ndim == 0 or x.shape[-1] % 2:
        raise ValueError(f"{op}: x has shape {x.shape}, expected a last axis of even length")
    return (*x.shape[:-1], x.shape[-1] // 2)


def _gated_backward(op: str, dy: np.ndarray, x: np.ndarray) -> None:
    _check.floats(op, "dy x", dy, x)
    _check.shape(op, "dy", dy, _gated(op, x))


@operation
def swiglu(x: np.ndarray) -> np.ndarray:
    """y = silu(g) u, x = (g | u): x (..., 2 D) -> y (..., D).

    Source: Shazeer, "GLU variants improve transformer", 2020, equation (6).
    """
    _gated("swiglu", x)
    g, u = np.split(x, 2, axis=-1)
    return g * _sigmoid(g) * u


@operation
def swiglu_backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """dg = dy u s (1 + g (1 - s)) and du = dy silu(g), s = sigmoid(g): dy (..., D), x, dx (..., 2 D)."""
    _gated_backward("swiglu_backward", dy, x)
    g, u = np.split(x, 2, axis=-1)
    s = _sigmoid(g)
    return np.concatenate([dy * u * (s * (1 + g * (1 - s))), dy * (g * s)], axis=-1)
