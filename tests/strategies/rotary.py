import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gradient, inputs, size


def _arguments(draw, dtype, name):
    T, D = size(draw, 0, 20), 2 * size(draw, 0, 40)
    x = array(draw, (draw(st.integers(0, 2)), draw(st.integers(0, 3)), T, D), dtype, special=True)
    if draw(st.booleans()):
        cos, sin = ops.rotary_angles(T, D, dtype=dtype)
    else:
        cos, sin = array(draw, (T, D // 2), dtype), array(draw, (T, D // 2), dtype)
    return {name: x, "cos": cos, "sin": sin}


@inputs("rotary")
def _(draw, dtype):
    return _arguments(draw, dtype, "x")


@inputs("rotary_backward")
def _(draw, dtype):
    return _arguments(draw, dtype, "dy")


@gradient("rotary", wrt=("x",))
def _(args, dy):
    return ops.rotary(**args), {"x": ops.rotary_backward(dy, args["cos"], args["sin"])}


@bound("rotary", "rotary_backward")
def _(args, outs, eps):
    """Two products and a sum: 2 roundings of eps/2 on each product; products may underflow."""
    x = np.abs(args["x"] if "x" in args else args["dy"])
    x1, x2 = np.split(x, 2, axis=-1)
    c, s = np.abs(args["cos"]), np.abs(args["sin"])
    size_y = np.concatenate([x1 * c + x2 * s, x2 * c + x1 * s], axis=-1)
    return eps * size_y + 2 * np.finfo(x.dtype).smallest_subnormal
