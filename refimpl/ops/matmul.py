"""Matrix products and the linear layer, with their gradients. C mirror: native/src/matmul.c, on native/src/gemm.c.

All arrays are float32 or float64, one dtype in a call. Errors: TypeError for another dtype or mixed dtypes, ValueError
for shapes that do not fit.
"""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check
from refimpl.ops import activation as activations

__all__ = ["dense", "dense_backward", "linear", "linear_backward", "matmul", "matmul_backward"]

# Activations of `dense`, in the order of native/include/activate.h, by what their gradient is simplest in.
FROM_OUTPUT = ("relu", "tanh", "sigmoid")
FROM_INPUT = ("leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "softplus")
ACTIVATIONS = (*FROM_OUTPUT, *FROM_INPUT)


def _product_shape(op: str, a: np.ndarray, b: np.ndarray, transpose_a: bool, transpose_b: bool) -> tuple[int, ...]:
    """The shape of op(a) op(b): the leading axes of the batched operand, then M and N."""
    A, B = a.shape, b.shape
    if len(A) < 2 or len(B) < 2:
        name, given = ("a", A) if len(A) < 2 else ("b", B)
        raise ValueError(f"{op}: {name} has shape {given}, expected at least 2 axes")
    if len(A) > 2 and len(B) > 2 and A[:-2] != B[:-2]:
        raise ValueError(
            f"{op}: a has shape {a.shape} and b has shape {b.shape}, expected equal leading axes, or one of them 2-D"
        )
    M, K = A[-2:] if not transpose_a else A[:-3:-1]
    K_b, N = B[-2:] if not transpose_b else B[:-3:-1]
    if K != K_b:
        flags = f"transpose_a={bool(transpose_a)}, transpose_b={bool(transpose_b)}"
        raise ValueError(
            f"{op}: a has shape {a.shape} and b has shape {b.shape}: with {flags} "
            f"the summed axes have {K} and {K_b} entries"
        )
    return (*(A[:-2] if len(A) > 2 else B[:-2]), M, N)


def _check_matmul(a, b, transpose_a, transpose_b, out) -> tuple[int, ...]:
    _check.floats("matmul", "a b", a, b)
    shape = _product_shape("matmul", a, b, transpose_a, transpose_b)
    if out is not None:
        _check.writable("matmul", "out", out, shape, a.dtype)
    return shape


def _check_matmul_backward(dy, a, b, transpose_a, transpose_b) -> None:
    _check.floats("matmul_backward", "dy a b", dy, a, b)
    _check.shape("matmul_backward", "dy", dy, _product_shape("matmul_backward", a, b, transpose_a, transpose_b))


def _check_linear(op, x, weight) -> None:
    """x (..., D_in) and weight (D_in, D_out) fit."""
    if weight.ndim != 2:
        raise ValueError(f"{op}: weight has shape {weight.shape}, expected 2 axes")
    if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(f"{op}: x has shape {x.shape}, expected (..., {weight.shape[0]}) for weight {weight.shape}")


def _check_linear_forward(op, x, weight, bias, out=None) -> tuple[int, ...]:
    if bias is None:
        _check.floats(op, "x weight", x, weight)
    else:
        _check.floats(op, "x weight bias", x, weight, bias)
    _check_linear(op, x, weight)
    if bias is not None:
        _check.shape(op, "bias", bias, weight.shape[1:])
    shape = (*x.shape[:-1], weight.shape[1])
    if out is not None:
        _check.writable(op, "out", out, shape, x.dtype)
    return shape


def _check_linear_backward(dy, x, weight, add_to) -> None:
    op = "linear_backward"
    _check.floats(op, "dy x weight", dy, x, weight)
    _check_linear(op, x, weight)
    _check.shape(op, "dy", dy, (*x.shape[:-1], weight.shape[1]))
    _check_add_to(op, weight, add_to)


def _check_add_to(op, weight, add_to) -> None:
    if add_to is None:
        return
    if not isinstance(add_to, tuple) or len(add_to) != 2:
        raise TypeError(f"{op}: add_to is {type(add_to).__name__}, expected the pair (dweight, dbias)")
    _check.writable(op, "add_to[0]", add_to[0], weight.shape, weight.dtype)
    if add_to[1] is not None:
        _check.writable(op, "add_to[1]", add_to[1], weight.shape[1:], weight.dtype)


def _check_activation(op, activation) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"{op}: activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")


def _check_dense(x, weight, bias, activation) -> tuple[int, ...]:
    _check_activation("dense", activation)
    return _check_linear_forward("dense", x, weight, bias)


def _check_dense_backward(dy, x, weight, kept, activation, add_to) -> None:
    op = "dense_backward"
    _check_activation(op, activation)
    _check.floats(op, "dy x weight kept", dy, x, weight, kept)
    _check_linear(op, x, weight)
    _check.shape(op, "dy", dy, (*x.shape[:-1], weight.shape[1]))
    _check.shape(op, "kept", kept, dy.shape)
    _check_add_to(op, weight, add_to)


def _t(x: np.ndarray, transpose: bool) -> np.ndarray:
    return x.swapaxes(-1, -2) if transpose else x


def _sum_batch(d: np.ndarray, ndim: int) -> np.ndarray:
    """The gradient of an operand that the whole batch shares is the sum over the batch."""
    return d.sum(axis=tuple(range(d.ndim - ndim))) if d.ndim > ndim else d


@operation
def matmul(
    a: np.ndarray, b: np.ndarray, transpose_a: bool = False, transpose_b: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """y = op(a) op(b), where op transposes the last two axes if its flag is set.

    y_mn = Σ_k A_mk B_kn,  A = op(a), B = op(b)

    Shapes: op(a) (..., M, K), op(b) (..., K, N), y (..., M, N). Both have the same leading axes, or one of them is 2-D
    and shared by all matrices of the other. `out` (C-contiguous) may name the array to write. Raises ValueError for
    an operand with fewer than two axes or sizes that do not fit.
    """
    shape = _check_matmul(a, b, transpose_a, transpose_b, out)
    if out is None:
        out = np.empty(shape, a.dtype)
    return np.matmul(_t(a, transpose_a), _t(b, transpose_b), out=out)


@operation
def matmul_backward(
    dy: np.ndarray, a: np.ndarray, b: np.ndarray, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """d op(a) = dy op(b)^T and d op(b) = op(a)^T dy, each transposed back where its flag is set.

    Takes the operands of `matmul` and dy of its result's shape; returns da, db of the operands' shapes. An operand that
    was shared by a batch receives the sum over the batch.
    """
    _check_matmul_backward(dy, a, b, transpose_a, transpose_b)
    A, B = _t(a, transpose_a), _t(b, transpose_b)
    da = _t(np.matmul(dy, _t(B, True)), transpose_a)
    db = _t(np.matmul(_t(A, True), dy), transpose_b)
    return np.ascontiguousarray(_sum_batch(da, a.ndim)), np.ascontiguousarray(_sum_batch(db, b.ndim))


@operation
def linear(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """y = x W + b: every row of x times the same matrix, plus the same vector.

    Shapes: x (..., D_in), weight (D_in, D_out), bias (D_out,) or None, y (..., D_out). `out` (C-contiguous) may name
    the array to write.
    """
    shape = _check_linear_forward("linear", x, weight, bias, out)
    y = np.empty(shape, x.dtype) if out is None else out
    if bias is not None and np.may_share_memory(y, bias):
        bias = bias.copy()
    np.matmul(x, weight, out=y)
    if bias is not None:
        y += bias
    return y


@operation(inplace=("add_to",))
def linear_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    need_dx: bool = True,
    add_to: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """dx = dy W^T, dW = x^T dy and db = Σ dy, both sums over all rows (every axis but the last).

    Takes dy (..., D_out) and the x and weight of `linear`; returns dx (None where `need_dx` is False: the first layer
    of a network needs none), dweight, dbias. With `add_to` = (dweight, dbias) the gradients are added in place to these
    C-contiguous arrays, which are returned; dbias is None there for a layer without bias.
    """
    _check_linear_backward(dy, x, weight, add_to)
    D_in, D_out = weight.shape
    rows = math.prod(x.shape[:-1])
    dy_rows, x_rows = dy.reshape(rows, D_out), x.reshape(rows, D_in)
    dx = np.matmul(dy_rows, weight.T).reshape(x.shape) if need_dx else None
    dweight, dbias = np.matmul(x_rows.T, dy_rows), dy_rows.sum(axis=0)
    if add_to is None:
        return dx, dweight, dbias
    into_weight, into_bias = add_to
    into_weight += dweight
    if into_bias is not None:
        into_bias += dbias
    return dx, into_weight, into_bias


@operation
def dense(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, activation: str = "relu", keep: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """y = f(z), z = x W + b: a linear layer and its activation in one pass over the result.

    Shapes: x (..., D_in), weight (D_in, D_out), bias (D_out,) or None, y (..., D_out). f is the operation named by
    `activation`, with its default settings: "relu", "tanh", "sigmoid", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu"
    or "softplus". Returns y and kept, what the gradient needs: y itself for the first three, z for the others; None
    without `keep`. Raises ValueError for another activation.
    """
    shape = _check_dense(x, weight, bias, activation)
    z = np.matmul(x, weight, out=np.empty(shape, x.dtype))
    if bias is not None:
        z += bias
    y = getattr(activations, activation).numpy(z)
    kept = None if not keep else y if activation in FROM_OUTPUT else z
    return y, kept


@operation(inplace=("add_to",))
def dense_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    kept: np.ndarray,
    activation: str = "relu",
    need_dx: bool = True,
    add_to: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """dz = dy f'(z), then dx = dz W^T, dW = x^T dz and db = Σ dz, sums over all rows.

    Takes dy (..., D_out), the x and weight of `dense` and what it kept, (..., D_out). Returns dx, dweight, dbias and
    treats `need_dx` and `add_to` as `linear_backward` does.
    """
    _check_dense_backward(dy, x, weight, kept, activation, add_to)
    dz = getattr(activations, f"{activation}_backward").numpy(dy, kept)
    dx, dweight, dbias = linear_backward.numpy(dz, x, weight, need_dx, add_to)
    return dx, dweight, dbias
