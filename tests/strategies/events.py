"""Inputs that are mostly zeros, from none active to all: on both sides of where the C body turns to a dense product."""

import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import BOUNDS, array, bound, generator, gradient, inputs, size
from tests.strategies import matmul  # noqa: F401  (the bounds of the dense layer)


def _layer(draw, dtype):
    """x (B, D_in), weight (D_in, D_out), which is now and then a whole number of vectors of every instruction set."""
    B, D_in = size(draw, 0, 20), size(draw, 0, 150)
    D_out = draw(st.sampled_from([16, 32, 48, 128, 144, 240])) if draw(st.booleans()) else size(draw, 0, 40)
    x = array(draw, (B, D_in), dtype, 1.0)
    rng = generator(draw)
    if draw(st.booleans()):
        x = np.asarray(np.ceil(np.abs(x)), dtype)  # counts
    x[rng.random(x.shape) >= draw(st.sampled_from([0.0, 0.05, 0.1, 0.3, 1.0]))] = 0
    if x.size and draw(st.integers(0, 5)) == 0:
        x[rng.integers(B), rng.integers(D_in)] = draw(st.sampled_from([np.nan, -0.0]))
    return x, array(draw, (D_in, D_out), dtype)


@inputs("event_linear")
def _(draw, dtype):
    x, weight = _layer(draw, dtype)
    bias = array(draw, (weight.shape[1],), dtype) if draw(st.booleans()) else None
    return {"x": x, "weight": weight, "bias": bias}


@inputs("event_linear_backward")
def _(draw, dtype):
    x, weight = _layer(draw, dtype)
    D_in, D_out = weight.shape
    add_to = None
    if draw(st.booleans()):
        dbias = array(draw, (D_out,), dtype) if draw(st.booleans()) else None
        add_to = (array(draw, (D_in, D_out), dtype), dbias)
    dy = array(draw, (len(x), D_out), dtype)
    return {"dy": dy, "x": x, "weight": weight, "need_dx": draw(st.booleans()), "add_to": add_to}


@bound("event_linear")
def _(args, outs, eps):
    """The sums of the dense layer with fewer terms."""
    return BOUNDS["linear"](args, outs, eps)


@bound("event_linear_backward")
def _(args, outs, eps):
    """The sums of the dense layer with fewer terms."""
    return BOUNDS["linear_backward"](args, outs, eps)


@gradient("event_linear", wrt=("x", "weight", "bias"))
def _(args, dy):
    dx, dweight, dbias = ops.event_linear_backward(dy, args["x"], args["weight"])
    grads = {"x": dx, "weight": dweight}
    return ops.event_linear(**args), grads if args["bias"] is None else {**grads, "bias": dbias}
