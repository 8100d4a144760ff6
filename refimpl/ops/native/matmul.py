"""Native mirrors of refimpl/ops/matmul.py. Views that are transposed, or that skip columns, are read where they lie."""

from __future__ import annotations

import math

import numpy as np
from numpy import may_share_memory as _overlap

from refimpl.backends.native import NULL, check, contiguous, ffi, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import matmul as ops
from refimpl.ops.matmul import _check_linear_backward, _check_linear_forward, _check_matmul, _check_matmul_backward

_matmul, _linear, _linear_backward = kernel("matmul"), kernel("linear"), kernel("linear_backward")


def _matrices(a, transpose):
    """How the kernel reads `a`: (array that must stay alive, pointer, transpose, leading dimension, step in the batch).

    Rows or columns of consecutive elements are enough; any other layout is copied.
    """
    rows, columns = a.shape[-2:]
    if a.flags.c_contiguous:
        return a, p(a), transpose, columns, rows * columns if a.ndim > 2 else 0
    if a.ndim == 2 and a.flags.f_contiguous:
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
    if len(A) == 2 and len(B) == 2 and a.flags.c_contiguous and b.flags.c_contiguous:  # the common case, lean
        M, N = y.shape
        f = _matmul[y.dtype]
        check(f(p(a), p(b), transpose_a, transpose_b, 1, M, N, K, A[1], 0, B[1], 0, p(y), 0, threads()), name)
        return y
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
    shape = _check_matmul(a, b, transpose_a, transpose_b, out)
    if out is None:
        return _product("matmul", a, b, transpose_a, transpose_b, np.empty(shape, a.dtype))
    if _overlap(out, a) or _overlap(out, b):  # the kernel writes while it reads
        out[...] = _product("matmul", a, b, transpose_a, transpose_b, np.empty(shape, a.dtype))
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
    if weight.flags.f_contiguous and not weight.flags.c_contiguous:
        return weight.T, True
    return contiguous(weight), False


@ops.linear.mirror("native")
def linear(x, weight, bias=None, out=None):
    shape = _check_linear_forward(x, weight, bias, out)
    if out is None:
        y = np.empty(shape, x.dtype)
    elif _overlap(out, x) or _overlap(out, weight):
        out[...] = linear(x, weight, bias)
        return out
    else:
        y = out
    x, (w, transposed) = contiguous(x), _weight(weight)
    D_in, D_out = weight.shape
    b = NULL if bias is None else p(contiguous(bias))
    check(_linear[x.dtype](p(x), p(w), transposed, b, math.prod(shape[:-1]), D_in, D_out, p(y), threads()), "linear")
    return y


@ops.linear_backward.mirror("native")
def linear_backward(dy, x, weight, need_dx=True, add_to=None):
    _check_linear_backward(dy, x, weight, add_to)
    dy, x, (w, transposed) = contiguous(dy), contiguous(x), _weight(weight)
    D_in, D_out = weight.shape
    B, dtype = math.prod(x.shape[:-1]), x.dtype
    dx = np.empty(x.shape, dtype) if need_dx else None
    dweight, dbias = add_to or (np.empty(weight.shape, dtype), np.empty(D_out, dtype))
    check(
        _linear_backward[dtype](
            p(dy),
            p(x),
            p(w),
            transposed,
            B,
            D_in,
            D_out,
            add_to is not None,
            NULL if dx is None else p(dx),
            p(dweight),
            NULL if dbias is None else p(dbias),
            threads(),
        ),
        "linear_backward",
    )
    return dx, dweight, dbias
