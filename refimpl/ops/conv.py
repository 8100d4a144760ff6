"""Convolutions in one and two dimensions, transposed too, and their gradients. C mirror: native/src/conv*.c.

All of them are three sums over the taps (i, j) of a kernel. A *picture* x (B, C, H, W) and a *map* y (B, O, OH, OW) are
tied together by a weight (O, C/groups, KH, KW): position (m, n) of the map and tap (i, j) meet at

    (h, w) = (stride m + dilation i - padding, stride n + dilation j - padding)

of the picture, and what lies outside the picture counts as 0. With W_ij = weight[:, :, i, j] and x_ij the picture seen
by tap (i, j) at all positions of the map (a strided view of the padded picture):

    collect    y       = Σ_ij W_ij x_ij          picture -> map       convolution; dx of a transposed convolution
    spread     dx_ij  += W_ijᵀ dy                map -> picture       dx of a convolution; transposed convolution
    correlate  dW_ij   = Σ_b dy_b x_ijᵀ          both -> weight       dweight of either

A transposed convolution is thus the spread of its input over a larger picture. Convolution in one dimension is that of
a picture of height 1. In groups, the channels of picture and map fall into `groups` equal parts, and part g of the map
sees part g of the picture only; groups = C is depthwise convolution.

Arrays are float32 or float64, all of one dtype. Only the batch may be empty. Errors: TypeError for another dtype, mixed
dtypes or a number that is no integer; ValueError for shapes that do not fit, numbers out of range and a kernel that
spans more than the padded input. Convolutions of finite arrays are meant: where a weight or picture holds infinities, a
padding zero times infinity may or may not appear as NaN in a gradient.

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check, _window

__all__ = [
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
]

Numbers = Any  # an integer, or one integer per axis
Optional = np.ndarray | None


class Geometry(NamedTuple):
    """How picture and map lie on each other; pairs are for (H, W)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    picture: tuple[int, int]  # (H, W)
    map: tuple[int, int]  # (OH, OW)


# ---------------------------------------------------------------- checks


def _groups(op: str, groups: Any, weight: np.ndarray) -> int:
    g = _window.numbers(op, "groups", groups, 1, 1)[1]
    if weight.shape[0] % g:
        raise ValueError(f"{op}: weight has shape {weight.shape}, expected its first axis to fall into {g} groups")
    return g


def _bias(op: str, bias: Optional, channels: int) -> None:
    if bias is not None:
        _check.shape(op, "bias", bias, (channels,))


def _add_to(op: str, add_to: Any, weight: np.ndarray, channels: int) -> None:
    """add_to, where given, is (dweight, dbias or None), to be written in place."""
    if add_to is None:
        return
    if not isinstance(add_to, (tuple, list)) or len(add_to) != 2:
        raise TypeError(f"{op}: add_to is a {type(add_to).__name__}, expected a pair (dweight, dbias or None)")
    dweight, dbias = add_to
    for name, a, shape in (("dweight", dweight, weight.shape), ("dbias", dbias, (channels,))):
        if a is None and name == "dbias":
            continue
        _check.floats(op, f"weight add_to:{name}", weight, a)
        _check.shape(op, f"add_to: {name}", a, shape)
        if not (a.flags.writeable and a.flags.c_contiguous):
            raise ValueError(f"{op}: add_to: {name} must be writable and C-contiguous")


def _conv(
    op: str, axes: int, x: np.ndarray, weight: np.ndarray, bias: Optional, stride: Numbers, padding: Numbers,
    dilation: Numbers, groups: Any,
) -> Geometry:  # fmt: skip
    """Check what a convolution along `axes` axes is given."""
    if bias is None:
        _check.floats(op, "x weight", x, weight)
    else:
        _check.floats(op, "x weight bias", x, weight, bias)
    _check.ndim(op, "x", x, axes + 2)
    _check.ndim(op, "weight", weight, axes + 2)
    _window.nonempty(op, "x", x.shape, 1)
    _window.nonempty(op, "weight", weight.shape, 0)
    s = _window.numbers(op, "stride", stride, axes, 1)
    p = _window.numbers(op, "padding", padding, axes, 0)
    d = _window.numbers(op, "dilation", dilation, axes, 1)
    g = _groups(op, groups, weight)
    C, O = x.shape[1], weight.shape[0]
    if C != weight.shape[1] * g:
        raise ValueError(
            f"{op}: x has {C} channels, but weight {weight.shape} with groups={g} expects {weight.shape[1] * g}"
        )
    _bias(op, bias, O)
    plane, kernel = ((1, *x.shape[2:]), (1, *weight.shape[2:])) if axes == 1 else (x.shape[2:], weight.shape[2:])
    m = _window.positions(op, "kernel", plane, kernel, s, p, d)
    _window.affordable(op, "the padded input", len(x), C, plane[0] + 2 * p[0], plane[1] + 2 * p[1])
    _window.affordable(op, "the result", len(x), O, *m)
    return Geometry(s, p, d, g, plane, m)


def _conv_backward(
    op: str, axes: int, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, stride: Numbers, padding: Numbers,
    dilation: Numbers, groups: Any, add_to: Any,
) -> Geometry:  # fmt: skip
    _check.floats(op, "dy x weight", dy, x, weight)
    g = _conv(op, axes, x, weight, None, stride, padding, dilation, groups)
    _check.shape(op, "dy", dy, (len(x), len(weight), *g.map[2 - axes :]))
    _add_to(op, add_to, weight, len(weight))
    return g


def _transpose(
    op: str, x: np.ndarray, weight: np.ndarray, bias: Optional, stride: Numbers, padding: Numbers,
    output_padding: Numbers, dilation: Numbers, groups: Any,
) -> Geometry:  # fmt: skip
    """Check what a transposed convolution is given: x is the map, the result is the picture."""
    if bias is None:
        _check.floats(op, "x weight", x, weight)
    else:
        _check.floats(op, "x weight bias", x, weight, bias)
    _check.ndim(op, "x", x, 4)
    _check.ndim(op, "weight", weight, 4)
    _window.nonempty(op, "x", x.shape, 1)
    _window.nonempty(op, "weight", weight.shape, 0)
    s = _window.numbers(op, "stride", stride, 2, 1)
    p = _window.numbers(op, "padding", padding, 2, 0)
    e = _window.numbers(op, "output_padding", output_padding, 2, 0)
    d = _window.numbers(op, "dilation", dilation, 2, 1)
    g = _groups(op, groups, weight)
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{op}: x has {x.shape[1]} channels, but weight {weight.shape} expects {weight.shape[0]}")
    _bias(op, bias, weight.shape[1] * g)
    picture = []
    for a in (0, 1):
        if e[a] >= max(s[a], d[a]):
            raise ValueError(f"{op}: output_padding is {e[a]}, expected less than stride {s[a]} or dilation {d[a]}")
        n = (x.shape[2 + a] - 1) * s[a] - 2 * p[a] + d[a] * (weight.shape[2 + a] - 1) + e[a] + 1
        if n < 1:
            raise ValueError(f"{op}: padding {p[a]} leaves nothing of the result: its extent would be {n}")
        picture.append(n)
    padded = picture[0] + 2 * p[0], picture[1] + 2 * p[1]
    _window.affordable(op, "the padded result", len(x), weight.shape[1] * g, *padded)
    return Geometry(s, p, d, g, (picture[0], picture[1]), x.shape[2:])


def _transpose_backward(
    op: str, dy: np.ndarray, x: np.ndarray, weight: np.ndarray, stride: Numbers, padding: Numbers,
    output_padding: Numbers, dilation: Numbers, groups: Any, add_to: Any,
) -> Geometry:  # fmt: skip
    _check.floats(op, "dy x weight", dy, x, weight)
    g = _transpose(op, x, weight, None, stride, padding, output_padding, dilation, groups)
    O = weight.shape[1] * g.groups
    _check.shape(op, "dy", dy, (len(x), O, *g.picture))
    _add_to(op, add_to, weight, O)
    return g


# ---------------------------------------------------------------- the three sums


def _padded(x: np.ndarray, g: Geometry) -> np.ndarray:
    (p, q), (H, W) = g.padding, g.picture
    padded = np.zeros((*x.shape[:2], H + 2 * p, W + 2 * q), x.dtype)
    padded[:, :, p : p + H, q : q + W] = x
    return padded


def _taps(padded: np.ndarray, weight: np.ndarray, g: Geometry) -> Iterator[tuple[int, int, np.ndarray]]:
    """(i, j, view): what tap (i, j) sees of the padded picture at all positions of the map, (B, C, OH, OW)."""
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            h, w = i * g.dilation[0], j * g.dilation[1]
            yield i, j, padded[:, :, h :: g.stride[0], w :: g.stride[1]][:, :, : g.map[0], : g.map[1]]


def _mix(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """out[:, part] = matrix[part] x[:, part]: matrix (groups, N, M) maps M channels to N, at each pixel."""
    G, N, M = matrix.shape
    B, _, H, W = x.shape
    return (matrix @ x.reshape(B, G, M, H * W)).reshape(B, G * N, H, W)


def _collect(x: np.ndarray, weight: np.ndarray, g: Geometry) -> np.ndarray:
    """y = Σ_ij W_ij x_ij."""
    parts = weight.reshape(g.groups, -1, *weight.shape[1:])  # (groups, O/groups, C/groups, KH, KW)
    y = np.zeros((len(x), len(weight), *g.map), x.dtype)
    for i, j, x_ij in _taps(_padded(x, g), weight, g):
        y += _mix(parts[..., i, j], x_ij)
    return y


def _spread(dy: np.ndarray, weight: np.ndarray, g: Geometry) -> np.ndarray:
    """dx_ij += W_ijᵀ dy, where the dx_ij are overlapping views of one padded picture."""
    parts = weight.reshape(g.groups, -1, *weight.shape[1:])
    (p, q), (H, W) = g.padding, g.picture
    padded = np.zeros((len(dy), g.groups * weight.shape[1], H + 2 * p, W + 2 * q), dy.dtype)
    for i, j, dx_ij in _taps(padded, weight, g):
        dx_ij += _mix(parts[..., i, j].swapaxes(1, 2), dy)
    return np.ascontiguousarray(padded[:, :, p : p + H, q : q + W])


def _correlate(dy: np.ndarray, x: np.ndarray, weight: np.ndarray, g: Geometry) -> np.ndarray:
    """dW_ij = Σ_b dy_b x_ijᵀ, summed over the positions of the map."""
    B, n = len(dy), g.map[0] * g.map[1]
    dy = dy.reshape(B, g.groups, len(weight) // g.groups, n)
    dweight = np.empty_like(weight, order="C")
    for i, j, x_ij in _taps(_padded(x, g), weight, g):
        x_ij = x_ij.reshape(B, g.groups, weight.shape[1], n)
        dweight[:, :, i, j] = (dy @ x_ij.swapaxes(2, 3)).sum(axis=0).reshape(weight.shape[:2])
    return dweight


def _deliver(dweight: np.ndarray, dbias: np.ndarray, add_to: Any) -> tuple[np.ndarray, Optional]:
    if add_to is None:
        return dweight, dbias
    add_to[0][...] += dweight
    if add_to[1] is not None:
        add_to[1][...] += dbias
    return add_to[0], add_to[1]


# ---------------------------------------------------------------- operations


@operation
def conv2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> np.ndarray:
    """y[b, o, m, n] = bias[o] + Σ_{c, i, j} weight[o, c, i, j] x[b, c, h, w], (h, w) where (m, n) and (i, j) meet.

    Shapes: x (B, C, H, W), weight (O, C/groups, KH, KW), bias (O,) or None; returns y (B, O, OH, OW) with
    OH = floor((H + 2 padding - dilation (KH - 1) - 1) / stride) + 1 and h = stride m + dilation i - padding, w alike.
    stride, padding and dilation: an integer, or a pair for (H, W). The kernel is not flipped (a cross-correlation, as
    everywhere in deep learning).
    """
    g = _conv("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)
    y = _collect(x, weight, g)
    return y if bias is None else y + bias[:, None, None]


@operation
def conv2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Numbers = 1,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    need_dx: bool = True,
    add_to: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """dx = spread(dy), dweight = correlate(dy, x), dbias[o] = Σ_{b, m, n} dy[b, o, m, n] (see the top of this module).

    Returns dx (None unless need_dx), dweight, dbias. With add_to = (dweight, dbias) the gradients are added to these
    arrays in place and they are returned; a dbias of None is not computed.
    """
    g = _conv_backward("conv2d_backward", 2, dy, x, weight, stride, padding, dilation, groups, add_to)
    dx = _spread(dy, weight, g) if need_dx else None
    return dx, *_deliver(_correlate(dy, x, weight, g), dy.sum(axis=(0, 2, 3)), add_to)


@operation
def conv1d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> np.ndarray:
    """y[b, o, t] = bias[o] + Σ_{c, k} weight[o, c, k] x[b, c, stride t + dilation k - padding].

    Shapes: x (B, C, T), weight (O, C/groups, K), bias (O,) or None; returns y (B, O, OT) with
    OT = floor((T + 2 padding - dilation (K - 1) - 1) / stride) + 1.
    """
    g = _conv("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)
    y = _collect(x[:, :, None], weight[:, :, None], g)[:, :, 0]
    return y if bias is None else y + bias[:, None]


@operation
def conv1d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    need_dx: bool = True,
    add_to: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """As conv2d_backward, along T: returns dx (None unless need_dx), dweight, dbias; add_to as there."""
    g = _conv_backward("conv1d_backward", 1, dy, x, weight, stride, padding, dilation, groups, add_to)
    dy4, x4, weight4 = dy[:, :, None], x[:, :, None], weight[:, :, None]
    dx = _spread(dy4, weight4, g)[:, :, 0] if need_dx else None
    return dx, *_deliver(_correlate(dy4, x4, weight4, g)[:, :, 0], dy.sum(axis=(0, 2)), add_to)


@operation
def conv_transpose2d(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> np.ndarray:
    """y = bias + spread(x): the dx of a convolution with this weight whose dy is x (see the top of this module).

    Shapes: x (B, C, H, W), weight (C, O/groups, KH, KW), bias (O,) or None; returns y (B, O, OH, OW) with
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1. output_padding, less than stride or
    dilation, chooses among the OH that a convolution of this stride reduces to the same H.
    """
    g = _transpose("conv_transpose2d", x, weight, bias, stride, padding, output_padding, dilation, groups)
    y = _spread(x, weight, g)
    return y if bias is None else y + bias[:, None, None]


@operation
def conv_transpose2d_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    need_dx: bool = True,
    add_to: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """dx = collect(dy), dweight = correlate(x, dy), dbias[o] = Σ dy[:, o]; here x is the map and dy the picture.

    Returns dx (None unless need_dx), dweight, dbias; add_to as in conv2d_backward.
    """
    op = "conv_transpose2d_backward"
    g = _transpose_backward(op, dy, x, weight, stride, padding, output_padding, dilation, groups, add_to)
    dx = _collect(dy, weight, g) if need_dx else None
    return dx, *_deliver(_correlate(x, dy, weight, g), dy.sum(axis=(0, 2, 3)), add_to)
