"""Native mirrors of refimpl/ops/update.py: check, make contiguous what is read, call the kernel of the same name."""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import _check
from refimpl.ops import update as ops
from refimpl.ops.update import (
    _check_adam,
    _check_axpy,
    _check_combine,
    _check_dot,
    _check_ema,
    _check_rmsprop,
    _check_rows,
    _check_scale,
    _check_sgd,
)

_sgd_update, _adam_update, _rmsprop_update = kernel("sgd_update"), kernel("adam_update"), kernel("rmsprop_update")
_ema_update, _scale_inplace, _axpy = kernel("ema_update"), kernel("scale_inplace"), kernel("axpy")
_sum_of_squares, _dot = kernel("sum_of_squares"), kernel("dot")
_fma_combine, _row_scaled_sum = kernel("fma_combine"), kernel("row_scaled_sum")


@ops.sgd_update.mirror("native")
def sgd_update(param, grad, velocity, lr, momentum=0.0, nesterov=False, weight_decay=0.0, decoupled=False):
    grad = contiguous(_check_sgd(param, grad, velocity, lr, momentum, weight_decay))
    v = NULL if velocity is None else p(velocity)
    numbers = (lr, momentum, bool(nesterov), weight_decay, bool(decoupled))
    check(_sgd_update[param.dtype](p(param), p(grad), v, *numbers, param.size, threads()), "sgd_update")


@ops.adam_update.mirror("native")
def adam_update(param, grad, m, v, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False):
    grad = contiguous(_check_adam(param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay))
    numbers = (step, lr, beta1, beta2, eps, weight_decay, bool(decoupled))
    check(_adam_update[param.dtype](p(param), p(grad), p(m), p(v), *numbers, param.size, threads()), "adam_update")


@ops.rmsprop_update.mirror("native")
def rmsprop_update(param, grad, v, velocity, lr, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0, decoupled=False):
    grad = contiguous(_check_rmsprop(param, grad, v, velocity, lr, alpha, eps, momentum, weight_decay))
    w = NULL if velocity is None else p(velocity)
    numbers = (lr, alpha, eps, momentum, weight_decay, bool(decoupled))
    check(_rmsprop_update[param.dtype](p(param), p(grad), p(v), w, *numbers, param.size, threads()), "rmsprop_update")


@ops.ema_update.mirror("native")
def ema_update(average, value, decay):
    value = contiguous(_check_ema(average, value, decay))
    check(_ema_update[average.dtype](p(average), p(value), decay, average.size, threads()), "ema_update")


@ops.scale_inplace.mirror("native")
def scale_inplace(x, factor):
    _check_scale(x, factor)
    check(_scale_inplace[x.dtype](p(x), factor, x.size, threads()), "scale_inplace")


@ops.axpy.mirror("native")
def axpy(y, x, alpha):
    x = contiguous(_check_axpy(y, x, alpha))
    check(_axpy[y.dtype](p(y), p(x), alpha, y.size, threads()), "axpy")


@ops.sum_of_squares.mirror("native")
def sum_of_squares(x):
    _check.floats("sum_of_squares", "x", x)
    x, result = contiguous(x), np.empty(1)
    check(_sum_of_squares[x.dtype](p(x), x.size, p(result), threads()), "sum_of_squares")
    return result.item()


@ops.dot.mirror("native")
def dot(x, y):
    _check_dot(x, y)
    x, y, result = contiguous(x), contiguous(y), np.empty(1)
    check(_dot[x.dtype](p(x), p(y), x.size, p(result), threads()), "dot")
    return result.item()


def _apart(a, out):
    """`a` contiguous, and a copy where the kernel would write parts of it before it reads them."""
    if out is not None and a is not out and np.may_share_memory(a, out):
        return a.copy(order="C")
    return contiguous(a)


@ops.fma_combine.mirror("native")
def fma_combine(a, x, b, y, c=0.0, z=None, out=None):
    _check_combine(a, x, b, y, c, z, out)
    x, y = _apart(x, out), _apart(y, out)
    if z is not None:
        z = _apart(z, out)
    if out is None:
        out = np.empty(x.shape, x.dtype)
    at_z = NULL if z is None else p(z)
    check(_fma_combine[x.dtype](a, p(x), b, p(y), c, at_z, x.size, p(out), threads()), "fma_combine")
    return out


@ops.row_scaled_sum.mirror("native")
def row_scaled_sum(a, x, b, y, out=None):
    _check_rows(a, x, b, y, out)
    a, x, b, y = _apart(a, out), _apart(x, out), _apart(b, out), _apart(y, out)
    if out is None:
        out = np.empty(x.shape, x.dtype)
    B, D = len(x), math.prod(x.shape[1:])
    check(_row_scaled_sum[x.dtype](p(a), p(x), p(b), p(y), B, D, p(out), threads()), "row_scaled_sum")
    return out
