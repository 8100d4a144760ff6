"""Native mirrors of refimpl/ops/upsample.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import upsample as ops
from refimpl.ops.upsample import _backward, _forward


def _enlarge(name, kernels, x, factor):
    F, G = _forward(name, x, factor)
    x = contiguous(x)
    B, C, H, W = x.shape
    y = np.empty((B, C, F * H, G * W), x.dtype)
    check(kernels[x.dtype](p(x), B * C, H, W, F, G, p(y), threads()), name)
    return y


def _reduce(name, kernels, dy, factor):
    H, W, F, G = _backward(name, dy, factor)
    dy = contiguous(dy)
    B, C = dy.shape[:2]
    dx = np.empty((B, C, H, W), dy.dtype)
    check(kernels[dy.dtype](p(dy), B * C, H, W, F, G, p(dx), threads()), name)
    return dx


_nearest, _nearest_backward = kernel("upsample_nearest2d"), kernel("upsample_nearest2d_backward")


@ops.upsample_nearest2d.mirror("native")
def upsample_nearest2d(x, factor):
    return _enlarge("upsample_nearest2d", _nearest, x, factor)


@ops.upsample_nearest2d_backward.mirror("native")
def upsample_nearest2d_backward(dy, factor):
    return _reduce("upsample_nearest2d_backward", _nearest_backward, dy, factor)


_bilinear, _bilinear_backward = kernel("upsample_bilinear2d"), kernel("upsample_bilinear2d_backward")


@ops.upsample_bilinear2d.mirror("native")
def upsample_bilinear2d(x, factor):
    return _enlarge("upsample_bilinear2d", _bilinear, x, factor)


@ops.upsample_bilinear2d_backward.mirror("native")
def upsample_bilinear2d_backward(dy, factor):
    return _reduce("upsample_bilinear2d_backward", _bilinear_backward, dy, factor)
