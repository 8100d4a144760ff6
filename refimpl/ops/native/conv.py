"""Native mirrors of refimpl/ops/conv.py: check, make contiguous, call the kernel of the same name.

The kernels for one dimension are those for two, on a picture of height 1.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import conv as ops
from refimpl.ops.conv import _conv, _conv_backward, _transpose, _transpose_backward


def _sizes(batch, picture_channels, map_channels, weight, g):
    """B, C, H, W, O, KH, KW, OH, OW, strides, paddings, dilations, groups: the order of all kernels."""
    kernel_size = weight.shape[-2:] if weight.ndim == 4 else (1, weight.shape[-1])
    return (
        batch, picture_channels, *g.picture, map_channels, *kernel_size, *g.map,
        *g.stride, *g.padding, *g.dilation, g.groups,
    )  # fmt: skip


def _optional(a):
    return NULL if a is None else p(a)


def _forward(name, kernels, x, weight, bias, sizes, y):
    x, weight = contiguous(x), contiguous(weight)
    bias = None if bias is None else contiguous(bias)
    check(kernels[x.dtype](p(x), p(weight), _optional(bias), *sizes, p(y), threads()), name)
    return y


def _backward(name, kernels, dy, x, weight, sizes, need_dx, add_to, channels):
    dy, x, weight = contiguous(dy), contiguous(x), contiguous(weight)
    dx = np.empty(x.shape, x.dtype) if need_dx else None
    dweight, dbias = (np.empty(weight.shape, x.dtype), np.empty(channels, x.dtype)) if add_to is None else add_to
    status = kernels[x.dtype](
        p(dy), p(x), p(weight), *sizes, _optional(dx), p(dweight), _optional(dbias), add_to is not None, threads()
    )
    check(status, name)
    return dx, dweight, dbias


_conv2d, _conv2d_backward = kernel("conv2d"), kernel("conv2d_backward")


@ops.conv2d.mirror("native")
def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    g = _conv("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)
    B, O = len(x), len(weight)
    y = np.empty((B, O, *g.map), x.dtype)
    return _forward("conv2d", _conv2d, x, weight, bias, _sizes(B, x.shape[1], O, weight, g), y)


@ops.conv2d_backward.mirror("native")
def conv2d_backward(dy, x, weight, stride=1, padding=0, dilation=1, groups=1, need_dx=True, add_to=None):
    g = _conv_backward("conv2d_backward", 2, dy, x, weight, stride, padding, dilation, groups, add_to)
    O = len(weight)
    sizes = _sizes(len(x), x.shape[1], O, weight, g)
    return _backward("conv2d_backward", _conv2d_backward, dy, x, weight, sizes, need_dx, add_to, O)


@ops.conv1d.mirror("native")
def conv1d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    g = _conv("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)
    B, O = len(x), len(weight)
    y = np.empty((B, O, g.map[1]), x.dtype)
    return _forward("conv1d", _conv2d, x, weight, bias, _sizes(B, x.shape[1], O, weight, g), y)


@ops.conv1d_backward.mirror("native")
def conv1d_backward(dy, x, weight, stride=1, padding=0, dilation=1, groups=1, need_dx=True, add_to=None):
    g = _conv_backward("conv1d_backward", 1, dy, x, weight, stride, padding, dilation, groups, add_to)
    O = len(weight)
    sizes = _sizes(len(x), x.shape[1], O, weight, g)
    return _backward("conv1d_backward", _conv2d_backward, dy, x, weight, sizes, need_dx, add_to, O)


_conv_transpose2d, _conv_transpose2d_backward = kernel("conv_transpose2d"), kernel("conv_transpose2d_backward")


@ops.conv_transpose2d.mirror("native")
def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    g = _transpose("conv_transpose2d", x, weight, bias, stride, padding, output_padding, dilation, groups)
    B, O = len(x), weight.shape[1] * g.groups
    y = np.empty((B, O, *g.picture), x.dtype)
    sizes = _sizes(B, O, x.shape[1], weight, g)
    return _forward("conv_transpose2d", _conv_transpose2d, x, weight, bias, sizes, y)


@ops.conv_transpose2d_backward.mirror("native")
def conv_transpose2d_backward(
    dy, x, weight, stride=1, padding=0, output_padding=0, dilation=1, groups=1, need_dx=True, add_to=None
):
    op = "conv_transpose2d_backward"
    g = _transpose_backward(op, dy, x, weight, stride, padding, output_padding, dilation, groups, add_to)
    O = weight.shape[1] * g.groups
    sizes = _sizes(len(x), O, x.shape[1], weight, g)
    return _backward(op, _conv_transpose2d_backward, dy, x, weight, sizes, need_dx, add_to, O)
