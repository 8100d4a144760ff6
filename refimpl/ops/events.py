"""The linear layer for inputs that are mostly zeros: spikes, frames of events, dark images. C mirror:
native/src/events.c.

The same sums as `linear` and `linear_backward`, without the terms of inputs that are 0: only the rows of the weight
matrix that meet an active input are read. So a weight that is infinite or NaN and meets only zeros leaves no trace in
the C body; weights are expected to be finite. Errors as `linear`.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check
from refimpl.ops.matmul import linear, linear_backward

__all__ = ["event_linear", "event_linear_backward"]


def _check_events(op, x, weight):
    _check.ndim(op, "x", x, 2)
    _check.ndim(op, "weight", weight, 2)
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{op}: x has shape {x.shape}, expected (B, {weight.shape[0]}) for weight {weight.shape}")


def _check_forward(x, weight, bias):
    op = "event_linear"
    if bias is None:
        _check.floats(op, "x weight", x, weight)
    else:
        _check.floats(op, "x weight bias", x, weight, bias)
    _check_events(op, x, weight)
    if bias is not None:
        _check.shape(op, "bias", bias, weight.shape[1:])


def _check_backward(dy, x, weight, add_to):
    op = "event_linear_backward"
    _check.floats(op, "dy x weight", dy, x, weight)
    _check_events(op, x, weight)
    _check.shape(op, "dy", dy, (len(x), weight.shape[1]))
    if add_to is None:
        return
    if not isinstance(add_to, tuple) or len(add_to) != 2:
        raise TypeError(f"{op}: add_to is {type(add_to).__name__}, expected the pair (dweight, dbias)")
    _check.writable(op, "add_to[0]", add_to[0], weight.shape, weight.dtype)
    if add_to[1] is not None:
        _check.writable(op, "add_to[1]", add_to[1], weight.shape[1:], weight.dtype)


@operation
def event_linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """y_b = bias + sum of x_bi weight_i over the active inputs, x_bi != 0.

    Shapes: x (B, D_in), weight (D_in, D_out), bias (D_out,) or None, y (B, D_out).
    """
    _check_forward(x, weight, bias)
    return linear.numpy(x, weight, bias)


@operation(inplace=("add_to",))
def event_linear_backward(
    dy: np.ndarray,
    x: np.ndarray,
    weight: np.ndarray,
    need_dx: bool = True,
    add_to: tuple[np.ndarray, np.ndarray | None] | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """dweight_i = sum of x_bi dy_b over the samples in which input i is active; dx = dy W^T, dbias = Σ dy.

    Arguments and results as in `linear_backward`, with two axes.
    """
    _check_backward(dy, x, weight, add_to)
    dx, dweight, dbias = linear_backward.numpy(dy, x, weight, need_dx, add_to)
    return dx, dweight, dbias
