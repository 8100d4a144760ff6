"""Native mirrors of refimpl/ops/events.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import events as ops
from refimpl.ops.events import _check_backward, _check_forward

_forward, _backward = kernel("event_linear"), kernel("event_linear_backward")


@ops.event_linear.mirror("native")
def event_linear(x, weight, bias=None):
    _check_forward(x, weight, bias)
    x, weight = contiguous(x), contiguous(weight)
    y = np.empty((len(x), weight.shape[1]), x.dtype)
    b = NULL if bias is None else p(contiguous(bias))
    check(_forward[x.dtype](p(x), p(weight), b, len(x), *weight.shape, p(y), threads()), "event_linear")
    return y


@ops.event_linear_backward.mirror("native")
def event_linear_backward(dy, x, weight, need_dx=True, add_to=None):
    _check_backward(dy, x, weight, add_to)
    dy, x, weight = contiguous(dy), contiguous(x), contiguous(weight)
    dx = np.empty(x.shape, x.dtype) if need_dx else None
    dweight, dbias = add_to or (np.empty(weight.shape, x.dtype), np.empty(weight.shape[1], x.dtype))
    own = dweight, dbias
    if not dweight.flags.aligned:
        dweight = dweight.copy()
    if dbias is not None and not dbias.flags.aligned:
        dbias = dbias.copy()
    outs = NULL if dx is None else p(dx), p(dweight), NULL if dbias is None else p(dbias)
    arrays = p(dy), p(x), p(weight), len(x), *weight.shape, add_to is not None
    check(_backward[x.dtype](*arrays, *outs, threads()), "event_linear_backward")
    for mine, made in zip(own, (dweight, dbias)):
        if mine is not made:
            mine[...] = made
    return dx, *own
