"""Native mirrors of refimpl/ops/matmul.py. Views that are transposed, or that skip columns, are read where they lie.

Each mirror first tries the common case, C-contiguous arrays with two axes, with as few steps as a small product can
bear. Whatever is unusual or wrong there falls through to the general way, which makes all checks.
"""

from __future__ import annotations

import math

import numpy as np
from numpy import empty, ndarray
from numpy import may_share_memory as _overlap

from refimpl.backends.native import NULL, check, contiguous, fail, ffi, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import matmul as ops
from refimpl.ops.matmul import (
    ACTIVATIONS,
    FROM_OUTPUT,
    _check_dense,
    _check_dense_backward,
    _check_linear_backward,
    _check_linear_forward,
    _check_matmul,
    _check_matmul_backward,
)

_matmul, _matmul_plain = kernel("matmul"), kernel("matmul_plain")
_linear, _linear_backward = kernel("linear"), kernel("linear_backward")
_dense, _dense_backward = kernel("dense"), kernel("dense_backward")
_NUMBER = {name: i for i, name in enumerate(ACTIVATIONS, 1)}  # native/include/activate.h

# What the steps of the common case raise for anything else: other types, axes, layouts (`p` takes only C-contiguous).
UNUSUAL = (AttributeError, KeyError, TypeError, ValueError)
NOT_PLAIN = 16  # native/include/matmul.h: the kernel found an overlap or a misaligned array, and did nothing


def _fits(out, shape, dtype):
    """Whether the kernel can write to `out`."""
    if type(out) is not ndarray or out.dtype is not dtype or out.shape != shape:
        return False
    flags = out.flags
    return flags.c_contiguous and flags.writeable


def _matrices(a, transpose):
    """How the kernel reads `a`: (array that must stay alive, pointer, transpose, leading dimension, step in the batch).

    Rows or columns of consecutive elements are enough; any other layout is copied.
    """
    rows, columns = a.shape[-2:]
    transpose = bool(transpose)
    if a.flags.c_contiguous and a.flags.aligned:
        return a, p(a), transpose, columns, rows * columns if a.ndim > 2 else 0
    if a.ndim == 2 and a.flags.f_contiguous and a.flags.aligned:
        return a, p(a.T), not transpose, rows, 0
    if a.ndim <= 3 and a.flags.aligned and min(a.strides) >= 0:
        by_row, by_column = a.strides[-2] // a.itemsize, a.strides[-1] // a.itemsize
        step = a.strides[0] // a.itemsize if a.ndim == 3 else 0
        if by_column == 1 and by_row >= columns:
            return a, ffi.cast("void *", a.__array_interface__["data"][0]), transpose, by_row, step
        if by_row == 1 and by_column >= rows:
            return a, ffi.cast("void *", a.__array_interface__["data"][0]), not transpose, by_column, step
    a = a.copy(order="C")
    return a, p(a), transpose, columns, rows * columns if a.ndim > 2 else 0


def _product(name, a, b, transpose_a, transpose_b, y):
    """y = op(a) op(b), summed over the batch where y is 2-D and an operand is not."""
    A, B = a.shape, b.shape
    K = A[-2] if transpose_a else A[-1]
    M, N = y.shape[-2:]
    batch = math.prod(A[:-2] if len(A) > 2 else B[:-2])
    _a, at_a, transpose_a, lda, a_step = _matrices(a, transpose_a)
    _b, at_b, transpose_b, ldb, b_step = _matrices(b, transpose_b)
    y_step = M * N if y.ndim > 2 else 0
    check(
        _matmul[y.dtype](
            at_a, at_b, transpose_a, transpose_b, batch, M, N, K, lda, a_step, ldb, b_step, p(y), y_step, threads()
        ),
        name,
    )
    return y


@ops.matmul.mirror("native")
def matmul(a, b, transpose_a=False, transpose_b=False, out=None):
    status = NOT_PLAIN
    try:
        dtype = a.dtype
        M, K = a.shape
        K_b, N = b.shape
        if transpose_a:
            M, K = K, M
        if transpose_b:
            K_b, N = N, K_b
        same = type(a) is type(b) is ndarray and b.dtype is dtype
        if K == K_b and same and (out is None or _fits(out, (M, N), dtype)):
            y = empty((M, N), dtype) if out is None else out
            status = _matmul_plain[dtype](p(a), p(b), bool(transpose_a), bool(transpose_b), M, N, K, p(y), threads())
    except UNUSUAL:
        pass
    if status == 0:
        return y
    if status != NOT_PLAIN:
        fail(status, "matmul")
    shape = _check_matmul(a, b, transpose_a, transpose_b, out)
    if out is None:
        return _product("matmul", a, b, transpose_a, transpose_b, empty(shape, a.dtype))
    if _overlap(out, a) or _overlap(out, b) or not out.flags.aligned:  # the kernel writes while it reads
        out[...] = _product("matmul", a, b, transpose_a, transpose_b, empty(shape, a.dtype))
        return out
    return _product("matmul", a, b, transpose_a, transpose_b, out)


@ops.matmul_backward.mirror("native")
def matmul_backward(dy, a, b, transpose_a=False, transpose_b=False):
    _check_matmul_backward(dy, a, b, transpose_a, transpose_b)
    da, db = np.empty(a.shape, a.dtype), np.empty(b.shape, b.dtype)
    if transpose_a:
        _product("matmul_backward", b, dy, transpose_b, True, da)
    else:
        _product("matmul_backward", dy, b, False, not transpose_b, da)
    if transpose_b:
        _product("matmul_backward", dy, a, True, transpose_a, db)
    else:
        _product("matmul_backward", a, dy, not transpose_a, False, db)
    return da, db


def _weight(weight):
    """(weight to read, whether it lies transposed): a transposed view, as of tied embeddings, is read as it lies."""
    if weight.flags.f_contiguous and weight.flags.aligned and not weight.flags.c_contiguous:
        return weight.T, True
    return contiguous(weight), False


@ops.linear.mirror("native")
def linear(x, weight, bias=None, out=None):
    status = NOT_PLAIN
    try:
        dtype = x.dtype
        B, D_in = x.shape
        D, D_out = weight.shape
        if (
            D == D_in
            and type(x) is type(weight) is ndarray
            and weight.dtype is dtype
            and (bias is None or (type(bias) is ndarray and bias.dtype is dtype and bias.shape == (D_out,)))
            and (out is None or _fits(out, (B, D_out), dtype))
        ):
            y = empty((B, D_out), dtype) if out is None else out
            b = NULL if bias is None else p(bias)
            status = _linear[dtype](p(x), p(weight), False, b, B, D_in, D_out, p(y), threads())
    except UNUSUAL:
        pass
    if status == 0:
        return y
    if status != NOT_PLAIN:
        fail(status, "linear")
    shape = _check_linear_forward("linear", x, weight, bias, out)
    if out is not None:
        inputs = (x, weight) if bias is None else (x, weight, bias)
        if any(_overlap(out, a) for a in inputs) or not out.flags.aligned:
            out[...] = linear(x, weight, bias)
            return out
    y = empty(shape, x.dtype) if out is None else out
    x, (w, transposed) = contiguous(x), _weight(weight)
    D_in, D_out = weight.shape
    b = NULL if bias is None else p(contiguous(bias))
    check(_linear[x.dtype](p(x), p(w), transposed, b, math.prod(shape[:-1]), D_in, D_out, p(y), threads()), "linear")
    return y


def _plain_backward(dy, x, weight, add_to):
    """Whether these are sound and need no copy: aligned C-contiguous arrays with two axes. False only means: look
    closer."""
    if type(dy) is not ndarray or type(x) is not ndarray or type(weight) is not ndarray:
        return False
    dtype, D_out = dy.dtype, weight.shape[-1:]
    if dtype not in _linear_backward or x.dtype is not dtype or weight.dtype is not dtype:
        return False
    if not dy.ndim == x.ndim == weight.ndim == 2 or dy.shape != x.shape[:1] + D_out or x.shape[1] != weight.shape[0]:
        return False
    for a in (dy, x, weight):
        flags = a.flags
        if not (flags.c_contiguous and flags.aligned):
            return False
    if add_to is None:
        return True
    if type(add_to) is not tuple or len(add_to) != 2 or not _fits(add_to[0], weight.shape, dtype):
        return False
    return add_to[1] is None or _fits(add_to[1], D_out, dtype)


@ops.linear_backward.mirror("native")
def linear_backward(dy, x, weight, need_dx=True, add_to=None):
    w, transposed = weight, False
    if not _plain_backward(dy, x, weight, add_to):
        _check_linear_backward(dy, x, weight, add_to)
        dy, x, (w, transposed) = contiguous(dy), contiguous(x), _weight(weight)
    D_in, D_out = weight.shape
    B, dtype = x.size // D_in if D_in else math.prod(x.shape[:-1]), x.dtype
    dx = empty(x.shape, dtype) if need_dx else None
    dweight, dbias = add_to or (empty((D_in, D_out), dtype), empty(D_out, dtype))
    status = _linear_backward[dtype](
        p(dy),
        p(x),
        p(w),
        transposed,
        B,
        D_in,
        D_out,
        add_to is not None,
        p(dx) if need_dx else NULL,
        p(dweight),
        NULL if dbias is None else p(dbias),
        threads(),
    )
    if status:
        fail(status, "linear_backward")
    return dx, dweight, dbias


@ops.dense.mirror("native")
def dense(x, weight, bias=None, activation="relu", keep=True):
    shape = _check_dense(x, weight, bias, activation)
    x, (w, transposed) = contiguous(x), _weight(weight)
    D_in, D_out = weight.shape
    bias = None if bias is None else contiguous(bias)
    y = empty(shape, x.dtype)
    z = empty(shape, x.dtype) if keep and activation not in FROM_OUTPUT else None
    status = _dense[x.dtype](
        p(x),
        p(w),
        transposed,
        NULL if bias is None else p(bias),
        _NUMBER[activation],
        math.prod(shape[:-1]),
        D_in,
        D_out,
        p(y),
        NULL if z is None else p(z),
        threads(),
    )
    if status:
        fail(status, "dense")
    if not keep:
        return y, None
    return y, y if z is None else z


@ops.dense_backward.mirror("native")
def dense_backward(dy, x, weight, kept, activation="relu", need_dx=True, add_to=None):
    _check_dense_backward(dy, x, weight, kept, activation, add_to)
    dy, x, kept, (w, transposed) = contiguous(dy), contiguous(x), contiguous(kept), _weight(weight)
    D_in, D_out = weight.shape
    dtype = x.dtype
    dz = empty(dy.shape, dtype)
    dx = empty(x.shape, dtype) if need_dx else None
    dweight, dbias = add_to or (empty((D_in, D_out), dtype), empty(D_out, dtype))
    status = _dense_backward[dtype](
        p(dy),
        p(x),
        p(w),
        transposed,
        p(kept),
        _NUMBER[activation],
        math.prod(x.shape[:-1]),
        D_in,
        D_out,
        add_to is not None,
        p(dz),
        NULL if dx is None else p(dx),
        p(dweight),
        NULL if dbias is None else p(dbias),
        threads(),
    )
    if status:
        fail(status, "dense_backward")
    return dx, dweight, dbias
