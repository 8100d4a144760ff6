"""Native mirrors of refimpl/ops/update.py."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, ffi, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import _check
from refimpl.ops import update as ops
from refimpl.ops.update import _adam_corrections, _combine_check, _needs_velocity, _row_check, _vectors

_sgd, _adam, _rmsprop = kernel("sgd_update"), kernel("adam_update"), kernel("rmsprop_update")
_ema, _scale, _axpy = kernel("ema_update"), kernel("scale_inplace"), kernel("axpy")
_dot, _squares = kernel("dot"), kernel("sum_of_squares")
_combine, _rows = kernel("fma_combine"), kernel("row_scaled_sum")


@ops.sgd_update.mirror("native")
def sgd_update(param, grad, velocity, lr, momentum=0.0, nesterov=False, weight_decay=0.0, decoupled=False):
    _vectors("sgd_update", grad, "param velocity", param, velocity)
    _needs_velocity("sgd_update", momentum, velocity)
    grad = contiguous(grad)
    v = NULL if velocity is None else p(velocity)
    hyper = (lr, momentum, nesterov, weight_decay, decoupled)
    check(_sgd[grad.dtype](p(param), p(grad), v, *hyper, grad.size, threads()), "sgd_update")


@ops.adam_update.mirror("native")
def adam_update(
    param, grad, m, v, step, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False
):  # fmt: skip
    _vectors("adam_update", grad, "param m v", param, m, v)
    c1, c2 = _adam_corrections(step, beta1, beta2)
    grad = contiguous(grad)
    hyper = (lr, beta1, beta2, eps, weight_decay, decoupled, c1, c2)
    check(_adam[grad.dtype](p(param), p(grad), p(m), p(v), *hyper, grad.size, threads()), "adam_update")


@ops.rmsprop_update.mirror("native")
def rmsprop_update(
    param, grad, v, velocity, lr, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0, decoupled=False
):  # fmt: skip
    _vectors("rmsprop_update", grad, "param v velocity", param, v, velocity)
    _needs_velocity("rmsprop_update", momentum, velocity)
    grad = contiguous(grad)
    b = NULL if velocity is None else p(velocity)
    hyper = (lr, alpha, eps, momentum, weight_decay, decoupled)
    check(_rmsprop[grad.dtype](p(param), p(grad), p(v), b, *hyper, grad.size, threads()), "rmsprop_update")


@ops.ema_update.mirror("native")
def ema_update(average, value, decay):
    _check.floats("ema_update", "value", value)
    _check.writable("ema_update", "average", average, value.shape, value.dtype)
    value = contiguous(value)
    check(_ema[value.dtype](p(average), p(value), decay, value.size, threads()), "ema_update")


@ops.scale_inplace.mirror("native")
def scale_inplace(x, factor):
    _check.floats("scale_inplace", "x", x)
    _check.writable("scale_inplace", "x", x, x.shape, x.dtype)
    check(_scale[x.dtype](p(x), factor, x.size, threads()), "scale_inplace")


@ops.axpy.mirror("native")
def axpy(y, x, alpha=1.0):
    _check.floats("axpy", "x", x)
    _check.writable("axpy", "y", y, x.shape, x.dtype)
    x = contiguous(x)
    check(_axpy[x.dtype](p(y), p(x), alpha, x.size, threads()), "axpy")


@ops.sum_of_squares.mirror("native")
def sum_of_squares(x):
    _check.floats("sum_of_squares", "x", x)
    x, result = contiguous(x), ffi.new("double *")
    check(_squares[x.dtype](p(x), x.size, result, threads()), "sum_of_squares")
    return result[0]


@ops.dot.mirror("native")
def dot(x, y):
    _check.floats("dot", "x y", x, y)
    _check.shape("dot", "y", y, x.shape)
    x, y, result = contiguous(x), contiguous(y), ffi.new("double *")
    check(_dot[x.dtype](p(x), p(y), x.size, result, threads()), "dot")
    return result[0]


@ops.fma_combine.mirror("native")
def fma_combine(a, x, b, y, c=0.0, z=None, out=None):
    _combine_check("fma_combine", x, y, z, out)
    x, y = contiguous(x), contiguous(y)
    z = None if z is None else contiguous(z)
    result = np.empty(x.shape, x.dtype) if out is None else out
    third = NULL if z is None else p(z)
    check(_combine[x.dtype](a, p(x), b, p(y), c, third, x.size, p(result), threads()), "fma_combine")
    return result


@ops.row_scaled_sum.mirror("native")
def row_scaled_sum(a, x, b, y):
    _row_check("row_scaled_sum", a, x, b, y)
    a, x, b, y = contiguous(a), contiguous(x), contiguous(b), contiguous(y)
    out = np.empty(x.shape, x.dtype)
    width = x.size // len(x) if len(x) else 0
    check(_rows[x.dtype](p(a), p(x), p(b), p(y), len(x), width, p(out), threads()), "row_scaled_sum")
    return out
