import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, gradient, inputs, size


def _draw(draw):
    """Shape of the small picture, and the factors."""
    factors = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    shape = (size(draw, 0, 2), size(draw, 0, 3), size(draw, 1, 9), size(draw, 1, 33 if draw(st.booleans()) else 5))
    return shape, factors


def _factor(draw, factors):
    return factors[0] if factors[0] == factors[1] and draw(st.booleans()) else factors


def _pair(name):
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")

    @inputs(name)
    def _(draw, dtype):
        shape, factors = _draw(draw)
        return {"x": array(draw, shape, dtype, special=name == "upsample_nearest2d"), "factor": _factor(draw, factors)}

    @inputs(f"{name}_backward")
    def _(draw, dtype):
        (B, C, H, W), (F, G) = _draw(draw)
        return {"dy": array(draw, (B, C, F * H, G * W), dtype), "factor": _factor(draw, (F, G))}

    @gradient(name, wrt=("x",))
    def _(args, dy):
        return forward(**args), {"x": backward(dy, args["factor"])}


_pair("upsample_nearest2d")
_pair("upsample_bilinear2d")


@bound("upsample_nearest2d")
def _(args, outs, eps):
    """A copy."""
    return 0.0


@bound("upsample_nearest2d_backward")
def _(args, outs, eps):
    """A sum of F G terms."""
    taps = int(np.prod(np.broadcast_to(args["factor"], 2)))
    return gamma(taps, eps) * ops.upsample_nearest2d_backward.numpy(np.abs(args["dy"]), args["factor"])


@bound("upsample_bilinear2d")
def _(args, outs, eps):
    """Along each axis two rounded shares, a product and a sum: 3 roundings a term, twice."""
    return gamma(7, eps) * ops.upsample_bilinear2d.numpy(np.abs(args["x"]), args["factor"])


@bound("upsample_bilinear2d_backward")
def _(args, outs, eps):
    """Along each axis a sum of at most 2 F + 1 products with a rounded share (3 F + 1 at a border)."""
    F, G = np.broadcast_to(args["factor"], 2)
    absolute = ops.upsample_bilinear2d_backward.numpy(np.abs(args["dy"]), args["factor"])
    return gamma(int(3 * F + 3 * G) + 8, eps) * absolute
