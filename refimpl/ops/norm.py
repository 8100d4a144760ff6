"""Normalisations and their gradients. C mirror: native/src/norm.c.

x^ = (x - mean) rstd with rstd = 1/sqrt(variance + eps), then y = x^ gain + bias. What differs is the set of elements
that share a mean and a variance (biased: divided by their number n):

    layernorm   the last axis
    rmsnorm     the last axis, with the mean taken as zero
    groupnorm   the channels of a group at all positions, for each sample
    batchnorm   the samples and positions of a channel (batchnorm_relu: and the rectifier behind it)

With g = dy gain, every gradient has the form dx = rstd (g - mean(g) - x^ mean(g x^)), the means over the same set.

Arrays are float32 or float64, all of one dtype, which results keep. gain and bias may be None (ones and zeros); a
backward function always returns dgain and dbias. eps >= 0. Errors: TypeError for another dtype or mixed dtypes;
ValueError for shapes that do not fit and for a mean over nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = [
    "batchnorm",
    "batchnorm_backward",
    "batchnorm_inference",
    "batchnorm_inference_backward",
    "batchnorm_relu",
    "batchnorm_relu_backward",
    "groupnorm",
    "groupnorm_backward",
    "layernorm",
    "layernorm_backward",
    "rmsnorm",
    "rmsnorm_backward",
]

# ---------------------------------------------------------------- checks


def _arrays(op: str, names: str, *arrays: Any) -> None:
    """Floats of one dtype; gain and bias may be None."""
    _check.optional_floats(op, names, "gain bias", *arrays)


def _shapes(op: str, expected: tuple[int, ...], names: str, *arrays: np.ndarray | None) -> None:
    for i, a in enumerate(arrays):
        if a is not None and a.shape != expected:
            _check.shape(op, names.split()[i], a, expected)


def _rows(op: str, x: np.ndarray) -> None:
    if x.ndim == 0:
        raise ValueError(f"{op}: x has shape (), expected at least 1 axis")
    if x.shape[-1] == 0:
        raise ValueError(f"{op}: x has shape {x.shape}, expected at least 1 element on the last axis")


def _channels(op: str, x: np.ndarray) -> None:
    if x.ndim < 2:
        raise ValueError(f"{op}: x has shape {x.shape}, expected at least 2 axes: samples, channels, positions")


def _layernorm(op, x, gain, bias, eps):
    _arrays(op, "x gain bias", x, gain, bias)
    _rows(op, x)
    _shapes(op, x.shape[-1:], "gain bias", gain, bias)
    _check.at_least(op, "eps", eps, 0)


def _layernorm_backward(op, dy, x, gain, mean, rstd):
    _arrays(op, "dy x gain mean rstd", dy, x, gain, mean, rstd)
    _rows(op, x)
    _shapes(op, x.shape, "dy", dy)
    _shapes(op, x.shape[-1:], "gain", gain)
    _shapes(op, x.shape[:-1], "mean rstd", mean, rstd)


def _rmsnorm_backward(op, dy, x, gain, rrms):
    _arrays(op, "dy x gain rrms", dy, x, gain, rrms)
    _rows(op, x)
    _shapes(op, x.shape, "dy", dy)
    _shapes(op, x.shape[-1:], "gain", gain)
    _shapes(op, x.shape[:-1], "rrms", rrms)


def _group_size(op: str, x: np.ndarray, groups: int) -> int:
    """The number M of elements that share a mean, and the check that it is one."""
    if not 1 <= groups <= max(x.shape[1], 1) or x.shape[1] % groups:
        raise ValueError(f"{op}: groups is {groups}, expected a divisor of the {x.shape[1]} channels of x")
    M = x.shape[1] // groups * math.prod(x.shape[2:])
    if M == 0:
        raise ValueError(f"{op}: x has shape {x.shape}, expected at least 1 element in a group")
    return M


def _groupnorm(op, x, gain, bias, groups, eps):
    _arrays(op, "x gain bias", x, gain, bias)
    _channels(op, x)
    _shapes(op, x.shape[1:2], "gain bias", gain, bias)
    _check.at_least(op, "eps", eps, 0)
    return _group_size(op, x, _check.whole(op, "groups", groups))


def _groupnorm_backward(op, dy, x, gain, mean, rstd):
    _arrays(op, "dy x gain mean rstd", dy, x, gain, mean, rstd)
    _channels(op, x)
    _shapes(op, x.shape, "dy", dy)
    _shapes(op, x.shape[1:2], "gain", gain)
    if mean.ndim != 2 or mean.shape[0] != x.shape[0]:
        raise ValueError(f"{op}: mean has shape {mean.shape}, expected ({x.shape[0]}, groups)")
    _shapes(op, mean.shape, "rstd", rstd)
    return _group_size(op, x, mean.shape[1])


def _batch(op: str, x: np.ndarray) -> int:
    """The number n of elements that share a mean."""
    n = x.shape[0] * math.prod(x.shape[2:])
    if n == 0:
        raise ValueError(f"{op}: x has shape {x.shape}, expected at least 1 element in a channel")
    return n


def _batchnorm(op, x, gain, bias, eps):
    _arrays(op, "x gain bias", x, gain, bias)
    _channels(op, x)
    _batch(op, x)
    _shapes(op, x.shape[1:2], "gain bias", gain, bias)
    _check.at_least(op, "eps", eps, 0)


def _batchnorm_backward(op, dy, x, gain, mean, rstd):
    _arrays(op, "dy x gain mean rstd", dy, x, gain, mean, rstd)
    _channels(op, x)
    _batch(op, x)
    _shapes(op, x.shape, "dy", dy)
    _shapes(op, x.shape[1:2], "gain mean rstd", gain, mean, rstd)


def _batchnorm_relu_backward(op, dy, y, x, gain, mean, rstd):
    _batchnorm_backward(op, dy, x, gain, mean, rstd)
    _arrays(op, "x y", x, y)
    _shapes(op, x.shape, "y", y)


def _inference(op, x, gain, bias, mean, variance, eps):
    _arrays(op, "x gain bias mean variance", x, gain, bias, mean, variance)
    _channels(op, x)
    _shapes(op, x.shape[1:2], "gain bias mean variance", gain, bias, mean, variance)
    _check.at_least(op, "eps", eps, 0)


def _inference_backward(op, dy, x, gain, mean, variance, eps):
    _arrays(op, "dy x gain mean variance", dy, x, gain, mean, variance)
    _channels(op, x)
    _shapes(op, x.shape, "dy", dy)
    _shapes(op, x.shape[1:2], "gain mean variance", gain, mean, variance)
    _check.at_least(op, "eps", eps, 0)


# ---------------------------------------------------------------- shared formulas


def _standardise(x: np.ndarray, axes, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x^, mean and rstd over the given axes, which mean and rstd keep with length 1."""
    mean = x.mean(axis=axes, keepdims=True)
    mean = mean + (x - mean).mean(axis=axes, keepdims=True)  # corrects the rounding of a sum of large numbers
    d = x - mean
    rstd = 1 / np.sqrt((d * d).mean(axis=axes, keepdims=True) + x.dtype.type(eps))
    return d * rstd, mean, rstd


def _affine(xhat: np.ndarray, gain: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray:
    y = xhat if gain is None else xhat * gain
    return y if bias is None else y + bias


def _standardise_backward(g: np.ndarray, xhat: np.ndarray, rstd: np.ndarray, axes) -> np.ndarray:
    """dx from g = dx^."""
    return rstd * (g - g.mean(axis=axes, keepdims=True) - xhat * (g * xhat).mean(axis=axes, keepdims=True))


def _per_channel(v: Any, x: np.ndarray) -> Any:
    """A vector (C,) as (C, 1, ..., 1), to meet x (B, C, ...)."""
    return v if v is None else v.reshape(-1, *(1,) * (x.ndim - 2))


def _all_but(axis: int, x: np.ndarray) -> tuple[int, ...]:
    return tuple(i for i in range(x.ndim) if i != axis % x.ndim)


# ---------------------------------------------------------------- layer normalisation


@operation
def layernorm(
    x: np.ndarray, gain: np.ndarray | None, bias: np.ndarray | None, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = (x - mean) rstd gain + bias, mean and rstd over the last axis.

    Shapes: x, y (..., D), gain, bias (D,), mean, rstd (...).

    Source: Ba, Kiros and Hinton, "Layer normalization", 2016.
    """
    _layernorm("layernorm", x, gain, bias, eps)
    xhat, mean, rstd = _standardise(x, -1, eps)
    return _affine(xhat, gain, bias), mean[..., 0], rstd[..., 0]


@operation
def layernorm_backward(
    dy: np.ndarray, x: np.ndarray, gain: np.ndarray | None, mean: np.ndarray, rstd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx = rstd (g - mean(g) - x^ mean(g x^)), g = dy gain; dgain = Σ dy x^, dbias = Σ dy over the rows."""
    _layernorm_backward("layernorm_backward", dy, x, gain, mean, rstd)
    rstd = rstd[..., None]
    xhat = (x - mean[..., None]) * rstd
    dx = _standardise_backward(_affine(dy, gain, None), xhat, rstd, -1)
    return dx, (dy * xhat).sum(axis=_all_but(-1, x)), dy.sum(axis=_all_but(-1, x))


# ---------------------------------------------------------------- RMS normalisation


@operation
def rmsnorm(x: np.ndarray, gain: np.ndarray | None, eps: float = 1e-5) -> tuple[np.ndarray, np.ndarray]:
    """y = x rrms gain, rrms = 1/sqrt(mean(x²) + eps) over the last axis.

    Shapes: x, y (..., D), gain (D,), rrms (...).

    Source: Zhang and Sennrich, "Root mean square layer normalization", 2019.
    """
    _layernorm("rmsnorm", x, gain, None, eps)
    rrms = 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + x.dtype.type(eps))
    return _affine(x * rrms, gain, None), rrms[..., 0]


@operation
def rmsnorm_backward(
    dy: np.ndarray, x: np.ndarray, gain: np.ndarray | None, rrms: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """dx = rrms (g - x^ mean(g x^)), g = dy gain, x^ = x rrms; dgain = Σ dy x^ over the rows."""
    _rmsnorm_backward("rmsnorm_backward", dy, x, gain, rrms)
    rrms = rrms[..., None]
    xhat, g = x * rrms, _affine(dy, gain, None)
    dx = rrms * (g - xhat * (g * xhat).mean(axis=-1, keepdims=True))
    return dx, (dy * xhat).sum(axis=_all_but(-1, x))


# ---------------------------------------------------------------- group normalisation


@operation
def groupnorm(
    x: np.ndarray, gain: np.ndarray | None, bias: np.ndarray | None, groups: int, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = (x - mean) rstd gain + bias, mean and rstd over the channels of a group and all positions.

    Shapes: x, y (B, C, ...), gain, bias (C,), mean, rstd (B, groups); `groups` divides C. groups = C is instance
    normalisation.

    Source: Wu and He, "Group normalization", 2018.
    """
    M = _groupnorm("groupnorm", x, gain, bias, groups, eps)
    xhat, mean, rstd = _standardise(x.reshape(len(x), groups, M), -1, eps)
    y = _affine(xhat.reshape(x.shape), _per_channel(gain, x), _per_channel(bias, x))
    return y, mean[..., 0], rstd[..., 0]


@operation
def groupnorm_backward(
    dy: np.ndarray, x: np.ndarray, gain: np.ndarray | None, mean: np.ndarray, rstd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx = rstd (g - mean(g) - x^ mean(g x^)), g = dy gain; dgain = Σ dy x^, dbias = Σ dy over samples, positions."""
    M = _groupnorm_backward("groupnorm_backward", dy, x, gain, mean, rstd)
    grouped, rstd = (*mean.shape, M), rstd[..., None]
    xhat = (x.reshape(grouped) - mean[..., None]) * rstd
    g = _affine(dy, _per_channel(gain, x), None).reshape(grouped)
    dx = _standardise_backward(g, xhat, rstd, -1).reshape(x.shape)
    return dx, (dy * xhat.reshape(x.shape)).sum(axis=_all_but(1, x)), dy.sum(axis=_all_but(1, x))


# ---------------------------------------------------------------- batch normalisation


@operation
def batchnorm(
    x: np.ndarray, gain: np.ndarray | None, bias: np.ndarray | None, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = (x - mean) rstd gain + bias, mean and rstd over samples and positions: the training form.

    Shapes: x, y (B, C, ...), gain, bias, mean, rstd (C,). The variance is 1/rstd² - eps. A channel of one element has
    variance 0. ValueError where a channel has no element.

    Source: Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
    shift", 2015, algorithm 1.
    """
    _batchnorm("batchnorm", x, gain, bias, eps)
    xhat, mean, rstd = _standardise(x, _all_but(1, x), eps)
    C = x.shape[1]
    return _affine(xhat, _per_channel(gain, x), _per_channel(bias, x)), mean.reshape(C), rstd.reshape(C)


@operation
def batchnorm_backward(
    dy: np.ndarray, x: np.ndarray, gain: np.ndarray | None, mean: np.ndarray, rstd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx = rstd (g - mean(g) - x^ mean(g x^)), g = dy gain; dgain = Σ dy x^, dbias = Σ dy over samples, positions."""
    _batchnorm_backward("batchnorm_backward", dy, x, gain, mean, rstd)
    axes, rstd = _all_but(1, x), _per_channel(rstd, x)
    xhat = (x - _per_channel(mean, x)) * rstd
    dx = _standardise_backward(_affine(dy, _per_channel(gain, x), None), xhat, rstd, axes)
    return dx, (dy * xhat).sum(axis=axes), dy.sum(axis=axes)


@operation
def batchnorm_relu(
    x: np.ndarray, gain: np.ndarray | None, bias: np.ndarray | None, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y = max((x - mean) rstd gain + bias, 0): `batchnorm` and `relu` in one pass over y.

    Shapes and errors as in batchnorm.

    Source: Ioffe and Szegedy, 2015, algorithm 1, with the rectifier that stands behind it in section 3.2.
    """
    _batchnorm("batchnorm_relu", x, gain, bias, eps)
    xhat, mean, rstd = _standardise(x, _all_but(1, x), eps)
    C = x.shape[1]
    z = _affine(xhat, _per_channel(gain, x), _per_channel(bias, x))
    return np.maximum(z, 0), mean.reshape(C), rstd.reshape(C)


@operation
def batchnorm_relu_backward(
    dy: np.ndarray, y: np.ndarray, x: np.ndarray, gain: np.ndarray | None, mean: np.ndarray, rstd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dz = dy [y > 0], then as `batchnorm_backward`: dx = rstd (g - mean(g) - x^ mean(g x^)), g = dz gain."""
    _batchnorm_relu_backward("batchnorm_relu_backward", dy, y, x, gain, mean, rstd)
    dz = np.where(y > 0, dy, 0)
    axes, rstd = _all_but(1, x), _per_channel(rstd, x)
    xhat = (x - _per_channel(mean, x)) * rstd
    dx = _standardise_backward(_affine(dz, _per_channel(gain, x), None), xhat, rstd, axes)
    return dx, (dz * xhat).sum(axis=axes), dz.sum(axis=axes)


@operation
def batchnorm_inference(
    x: np.ndarray,
    gain: np.ndarray | None,
    bias: np.ndarray | None,
    mean: np.ndarray,
    variance: np.ndarray,
    eps: float = 1e-5,
) -> np.ndarray:
    """y = (x - mean) / sqrt(variance + eps) gain + bias with given statistics (C,), constants of the network.

    Shapes: x, y (B, C, ...), which may be empty; gain, bias, mean, variance (C,).
    """
    _inference("batchnorm_inference", x, gain, bias, mean, variance, eps)
    rstd = 1 / np.sqrt(variance + x.dtype.type(eps))
    xhat = (x - _per_channel(mean, x)) * _per_channel(rstd, x)
    return _affine(xhat, _per_channel(gain, x), _per_channel(bias, x))


@operation
def batchnorm_inference_backward(
    dy: np.ndarray,
    x: np.ndarray,
    gain: np.ndarray | None,
    mean: np.ndarray,
    variance: np.ndarray,
    eps: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx = dy gain rstd; dgain = Σ dy x^, dbias = Σ dy over samples and positions."""
    _inference_backward("batchnorm_inference_backward", dy, x, gain, mean, variance, eps)
    rstd = _per_channel(1 / np.sqrt(variance + x.dtype.type(eps)), x)
    xhat = (x - _per_channel(mean, x)) * rstd
    axes = _all_but(1, x)
    return _affine(dy * rstd, _per_channel(gain, x), None), (dy * xhat).sum(axis=axes), dy.sum(axis=axes)
