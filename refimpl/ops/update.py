"""Steps over flat vectors: optimisers, moving averages, fused vector sums. C mirror: native/src/update.c.

The optimiser steps write in place and return None: `param` and the optimiser's memory must be C-contiguous and writable
(the vector `params.flat` is). All arrays of a call have one shape and one dtype, float32 or float64; hyper-parameters
are Python numbers. Errors: TypeError for dtypes, ValueError for shapes, read-only or strided arrays and numbers out of
range.
"""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = [
    "adam_update",
    "axpy",
    "dot",
    "ema_update",
    "fma_combine",
    "rmsprop_update",
    "row_scaled_sum",
    "scale_inplace",
    "sgd_update",
    "sum_of_squares",
]


def _vectors(op: str, grad: np.ndarray, names: str, *written: np.ndarray | None) -> None:
    """`grad` is a float array, and every written one (None is skipped) is a writable array like it."""
    _check.floats(op, "grad", grad)
    for name, a in zip(names.split(), written):
        if a is not None:
            _check.writable(op, name, a, grad.shape, grad.dtype)


def _needs_velocity(op: str, momentum: float, velocity: np.ndarray | None) -> None:
    _check.at_least(op, "momentum", momentum, 0)
    if momentum and velocity is None:
        raise ValueError(f"{op}: momentum is {momentum}, but velocity is None, expected an array")


def _decay(param, grad, lr, weight_decay, decoupled):
    """The gradient with weight decay: coupled, g + wd p; decoupled, p -= lr wd p in place and g unchanged."""
    if not weight_decay:
        return grad
    if decoupled:
        param *= 1 - lr * weight_decay
        return grad
    return grad + weight_decay * param


@operation(inplace=("param", "velocity"))
def sgd_update(
    param: np.ndarray,
    grad: np.ndarray,
    velocity: np.ndarray | None,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """g = grad + wd p (or p -= lr wd p when decoupled); v = momentum v + g;
    p -= lr v, or with Nesterov's momentum p -= lr (g + momentum v).

    `velocity` may be None when momentum is 0. Source: Sutskever et al., "On the importance of initialization and
    momentum in deep learning", 2013, in the form that takes the learning rate out of the velocity.
    """
    _vectors("sgd_update", grad, "param velocity", param, velocity)
    _needs_velocity("sgd_update", momentum, velocity)
    g = _decay(param, grad, lr, weight_decay, decoupled)
    if velocity is None or not momentum:
        param -= lr * g
        return
    velocity *= momentum
    velocity += g
    param -= lr * (g + momentum * velocity) if nesterov else lr * velocity


@operation(inplace=("param", "m", "v"))
def adam_update(
    param: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    p -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps), t = `step` counted from 1.

    Weight decay is added to g, or with decoupled=True (AdamW) p -= lr wd p comes first. Sources: Kingma and Ba, "Adam",
    2015, algorithm 1; Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    """
    _vectors("adam_update", grad, "param m v", param, m, v)
    c1, c2 = _adam_corrections(step, beta1, beta2)
    g = _decay(param, grad, lr, weight_decay, decoupled)
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * (g * g)
    param -= (lr / c1) * m / (np.sqrt(v) * (1 / math.sqrt(c2)) + eps)


def _adam_corrections(step: int, beta1: float, beta2: float) -> tuple[float, float]:
    """1 - b1^t and 1 - b2^t in double precision."""
    _check.at_least("adam_update", "step", step, 1)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= beta < 1:
            raise ValueError(f"adam_update: {name} is {beta}, expected 0 <= {name} < 1")
    return -math.expm1(step * math.log(beta1)) if beta1 else 1.0, -math.expm1(step * math.log(beta2)) if beta2 else 1.0


@operation(inplace=("param", "v", "velocity"))
def rmsprop_update(
    param: np.ndarray,
    grad: np.ndarray,
    v: np.ndarray,
    velocity: np.ndarray | None,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """v = alpha v + (1 - alpha) g^2; d = g / (sqrt(v) + eps); b = momentum b + d; p -= lr b.

    `velocity` (b) may be None when momentum is 0. Source: Tieleman and Hinton, lecture 6e of "Neural networks for
    machine learning", 2012.
    """
    _vectors("rmsprop_update", grad, "param v velocity", param, v, velocity)
    _needs_velocity("rmsprop_update", momentum, velocity)
    g = _decay(param, grad, lr, weight_decay, decoupled)
    v *= alpha
    v += (1 - alpha) * (g * g)
    d = g / (np.sqrt(v) + eps)
    if velocity is not None and momentum:
        velocity *= momentum
        velocity += d
        d = velocity
    param -= lr * d


@operation(inplace=("average",))
def ema_update(average: np.ndarray, value: np.ndarray, decay: float) -> None:
    """average = decay average + (1 - decay) value, in place."""
    _check.floats("ema_update", "value", value)
    _check.writable("ema_update", "average", average, value.shape, value.dtype)
    average *= decay
    average += (1 - decay) * value


@operation(inplace=("x",))
def scale_inplace(x: np.ndarray, factor: float) -> None:
    """x = factor x, in place."""
    _check.floats("scale_inplace", "x", x)
    _check.writable("scale_inplace", "x", x, x.shape, x.dtype)
    x *= factor


@operation(inplace=("y",))
def axpy(y: np.ndarray, x: np.ndarray, alpha: float = 1.0) -> None:
    """y = y + alpha x, in place."""
    _check.floats("axpy", "x", x)
    _check.writable("axpy", "y", y, x.shape, x.dtype)
    y += alpha * x


@operation
def sum_of_squares(x: np.ndarray) -> float:
    """sum_i x_i^2, accumulated in double precision, as a Python float."""
    _check.floats("sum_of_squares", "x", x)
    return float(np.sum(np.square(x, dtype=np.float64)))


@operation
def dot(x: np.ndarray, y: np.ndarray) -> float:
    """sum_i x_i y_i over arrays of one shape, accumulated in double precision, as a Python float."""
    _check.floats("dot", "x y", x, y)
    _check.shape("dot", "y", y, x.shape)
    return float(np.sum(np.multiply(x, y, dtype=np.float64)))


@operation
def fma_combine(
    a: float,
    x: np.ndarray,
    b: float,
    y: np.ndarray,
    c: float = 0.0,
    z: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """a x + b y (+ c z), element by element: one step of a diffusion chain, or noise mixed into a signal.

    x, y and z have one shape; a, b, c are numbers. z = None leaves its term out.
    """
    _combine_check("fma_combine", x, y, z, out)
    result = np.asarray(a * x + b * y)
    if z is not None:
        result = np.asarray(result + c * z)
    if out is None:
        return result
    out[...] = result
    return out


def _combine_check(op, x, y, z, out):
    arrays = (x, y) if z is None else (x, y, z)
    _check.floats(op, "x y z", *arrays)
    for name, a in zip("yz", arrays[1:]):
        _check.shape(op, name, a, x.shape)
    _check.output(op, out, x)


@operation
def row_scaled_sum(a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
    """out[i, ...] = a[i] x[i, ...] + b[i] y[i, ...]: mixing with a time of its own for each sample.

    x, y (B, ...) of one shape, a, b (B,).
    """
    _row_check("row_scaled_sum", a, x, b, y)
    column = (-1,) + (1,) * (x.ndim - 1)
    return a.reshape(column) * x + b.reshape(column) * y


def _row_check(op, a, x, b, y):
    _check.floats(op, "x y a b", x, y, a, b)
    if x.ndim < 1:
        raise ValueError(f"{op}: x has shape {x.shape}, expected at least 1 axis")
    _check.shape(op, "y", y, x.shape)
    _check.shape(op, "a", a, x.shape[:1])
    _check.shape(op, "b", b, x.shape[:1])
