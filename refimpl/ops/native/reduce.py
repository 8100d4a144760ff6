"""Native mirrors of refimpl/ops/reduce.py: an array seen as (outer, n, inner), reduced along n."""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import _check
from refimpl.ops import reduce as ops
from refimpl.ops.reduce import _check_backward, _check_forward, _check_max_backward, _check_rows, _widened

_total, _sum_rows = kernel("total"), kernel("sum_rows")
_sum, _sum_backward = kernel("reduce_sum"), kernel("reduce_sum_backward")
_mean, _mean_backward = kernel("reduce_mean"), kernel("reduce_mean_backward")
_max, _max_backward = kernel("reduce_max"), kernel("reduce_max_backward")


@ops.total.mirror("native")
def total(x):
    _check.floats("total", "x", x)
    x, result = contiguous(x), np.empty(1)
    check(_total[x.dtype](p(x), x.size, p(result), threads()), "total")
    return result.item()


@ops.sum_rows.mirror("native")
def sum_rows(x):
    _check_rows(x)
    x, y = contiguous(x), np.empty(x.shape[1], x.dtype)
    check(_sum_rows[x.dtype](p(x), *x.shape, p(y), threads()), "sum_rows")
    return y


def _sizes(shape, axis):
    """outer, n, inner"""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _forward(name, kernels, x, axis):
    x = contiguous(x)
    y = np.empty(x.shape[:axis] + x.shape[axis + 1 :], x.dtype)
    check(kernels[x.dtype](p(x), *_sizes(x.shape, axis), p(y), threads()), name)
    return y


def _backward(name, kernels, dy, axis, n):
    dy, dx = contiguous(dy), np.empty(_widened(dy.shape, axis, n), dy.dtype)
    check(kernels[dy.dtype](p(dy), *_sizes(dx.shape, axis), p(dx), threads()), name)
    return dx


@ops.reduce_sum.mirror("native")
def reduce_sum(x, axis):
    return _forward("reduce_sum", _sum, x, _check_forward("reduce_sum", x, axis, empty_allowed=True))


@ops.reduce_sum_backward.mirror("native")
def reduce_sum_backward(dy, axis, n):
    name = "reduce_sum_backward"
    return _backward(name, _sum_backward, dy, _check_backward(name, dy, axis, n, least=0), n)


@ops.reduce_mean.mirror("native")
def reduce_mean(x, axis):
    return _forward("reduce_mean", _mean, x, _check_forward("reduce_mean", x, axis))


@ops.reduce_mean_backward.mirror("native")
def reduce_mean_backward(dy, axis, n):
    name = "reduce_mean_backward"
    return _backward(name, _mean_backward, dy, _check_backward(name, dy, axis, n), n)


@ops.reduce_max.mirror("native")
def reduce_max(x, axis):
    axis = _check_forward("reduce_max", x, axis)
    x = contiguous(x)
    y = np.empty(x.shape[:axis] + x.shape[axis + 1 :], x.dtype)
    index = np.empty(y.shape, np.int64)
    check(_max[x.dtype](p(x), *_sizes(x.shape, axis), p(y), p(index), threads()), "reduce_max")
    return y, index


@ops.reduce_max_backward.mirror("native")
def reduce_max_backward(dy, index, axis, n):
    axis = _check_max_backward(dy, index, axis, n)
    dy, index = contiguous(dy), contiguous(index.astype(np.int64, copy=False))
    dx = np.empty(_widened(dy.shape, axis, n), dy.dtype)
    outer, n, inner = _sizes(dx.shape, axis)
    check(_max_backward[dy.dtype](p(dy), p(index), outer, n, inner, p(dx), threads()), "reduce_max_backward")
    return dx
