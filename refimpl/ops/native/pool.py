"""Native mirrors of refimpl/ops/pool.py: check, make contiguous, call the kernel of the same name.

The kernels for one dimension are those for two, on planes of height 1.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import pool as ops
from refimpl.ops.pool import _avg_backward, _forward, _global, _global_backward, _max_backward

_max_pool2d, _max_pool2d_backward = kernel("max_pool2d"), kernel("max_pool2d_backward")
_avg_pool2d, _avg_pool2d_backward = kernel("avg_pool2d"), kernel("avg_pool2d_backward")


def _max(name, axes, x, size, stride, padding):
    k, s, pad, m = _forward(name, x, size, stride, padding, axes)
    x = contiguous(x)
    shape = (*x.shape[:2], *m[2 - axes :])
    y, index = np.empty(shape, x.dtype), np.empty(shape, np.int64)
    H = x.shape[2] if axes == 2 else 1
    planes = x.shape[0] * x.shape[1]
    check(_max_pool2d[x.dtype](p(x), planes, H, x.shape[-1], *m, *k, *s, *pad, p(y), p(index), threads()), name)
    return y, index


def _max_spread(name, dy, index, *extents):
    plane = _max_backward(name, dy, index, *extents)
    dy, index = contiguous(dy), contiguous(index.astype(np.int64, copy=False))
    B, C = dy.shape[:2]
    dx = np.empty((B, C, *plane), dy.dtype)
    M, N = dy.size // max(B * C, 1), dx.size // max(B * C, 1)
    check(_max_pool2d_backward[dy.dtype](p(dy), p(index), B * C, M, N, p(dx), threads()), name)
    return dx


def _avg(name, axes, x, size, stride, padding):
    k, s, pad, m = _forward(name, x, size, stride, padding, axes)
    x = contiguous(x)
    y = np.empty((*x.shape[:2], *m[2 - axes :]), x.dtype)
    H = x.shape[2] if axes == 2 else 1
    planes = x.shape[0] * x.shape[1]
    check(_avg_pool2d[x.dtype](p(x), planes, H, x.shape[-1], *m, *k, *s, *pad, p(y), threads()), name)
    return y


def _avg_spread(name, dy, extents, size, stride, padding):
    plane, k, s, pad, m = _avg_backward(name, dy, extents, size, stride, padding)
    dy = contiguous(dy)
    dx = np.empty((*dy.shape[:2], *plane), dy.dtype)
    H = plane[0] if len(plane) == 2 else 1
    planes = dy.shape[0] * dy.shape[1]
    check(_avg_pool2d_backward[dy.dtype](p(dy), planes, H, plane[-1], *m, *k, *s, *pad, p(dx), threads()), name)
    return dx


@ops.max_pool2d.mirror("native")
def max_pool2d(x, size, stride=None, padding=0):
    return _max("max_pool2d", 2, x, size, stride, padding)


@ops.max_pool2d_backward.mirror("native")
def max_pool2d_backward(dy, index, height, width):
    return _max_spread("max_pool2d_backward", dy, index, height, width)


@ops.max_pool1d.mirror("native")
def max_pool1d(x, size, stride=None, padding=0):
    return _max("max_pool1d", 1, x, size, stride, padding)


@ops.max_pool1d_backward.mirror("native")
def max_pool1d_backward(dy, index, length):
    return _max_spread("max_pool1d_backward", dy, index, length)


@ops.avg_pool2d.mirror("native")
def avg_pool2d(x, size, stride=None, padding=0):
    return _avg("avg_pool2d", 2, x, size, stride, padding)


@ops.avg_pool2d_backward.mirror("native")
def avg_pool2d_backward(dy, height, width, size, stride=None, padding=0):
    return _avg_spread("avg_pool2d_backward", dy, (height, width), size, stride, padding)


@ops.avg_pool1d.mirror("native")
def avg_pool1d(x, size, stride=None, padding=0):
    return _avg("avg_pool1d", 1, x, size, stride, padding)


@ops.avg_pool1d_backward.mirror("native")
def avg_pool1d_backward(dy, length, size, stride=None, padding=0):
    return _avg_spread("avg_pool1d_backward", dy, (length,), size, stride, padding)


_global_avg_pool2d, _global_avg_pool2d_backward = kernel("global_avg_pool2d"), kernel("global_avg_pool2d_backward")


@ops.global_avg_pool2d.mirror("native")
def global_avg_pool2d(x):
    _global("global_avg_pool2d", x)
    x = contiguous(x)
    B, C, H, W = x.shape
    y = np.empty((B, C), x.dtype)
    check(_global_avg_pool2d[x.dtype](p(x), B * C, H, W, p(y), threads()), "global_avg_pool2d")
    return y


@ops.global_avg_pool2d_backward.mirror("native")
def global_avg_pool2d_backward(dy, height, width):
    H, W = _global_backward("global_avg_pool2d_backward", dy, height, width)
    dy = contiguous(dy)
    dx = np.empty((*dy.shape, H, W), dy.dtype)
    kernels = _global_avg_pool2d_backward
    check(kernels[dy.dtype](p(dy), dy.size, H, W, p(dx), threads()), "global_avg_pool2d_backward")
    return dx
