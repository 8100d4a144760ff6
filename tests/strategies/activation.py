import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gradient, inputs, size, ulps

PLAIN = ("relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid", "softplus")
FROM_Y = ("relu", "tanh", "sigmoid")
NUMBERS = {"leaky_relu": "slope", "elu": "alpha"}
KINKED = ("relu", "leaky_relu", "elu")


def _shape(draw):
    return tuple(size(draw, 0, 40) for _ in range(draw(st.integers(0, 2))))


def _number(draw):
    return draw(st.floats(0.01, 2.0))


@inputs(*PLAIN)
def _(draw, dtype):
    return {"x": array(draw, _shape(draw), dtype, draw(st.sampled_from([1.0, 30.0])), special=True)}


@inputs("leaky_relu")
def _(draw, dtype):
    return {"x": array(draw, _shape(draw), dtype, special=True), "slope": _number(draw)}


@inputs("elu")
def _(draw, dtype):
    return {"x": array(draw, _shape(draw), dtype, special=True), "alpha": _number(draw)}


def _backward_inputs(name):
    saved = "y" if name in FROM_Y else "x"

    @inputs(f"{name}_backward")
    def _(draw, dtype):
        shape = _shape(draw)
        args = {"dy": array(draw, shape, dtype), saved: array(draw, shape, dtype, 3.0)}
        if name in NUMBERS:
            args[NUMBERS[name]] = _number(draw)
        return args

    @gradient(name, wrt=("x",), smooth=lambda args: name not in KINKED or bool((np.abs(args["x"]) > 1e-3).all()))
    def _(args, dy):
        y = getattr(ops, name)(**args)
        kept = {"y": y} if saved == "y" else {"x": args["x"]}
        rest = {k: v for k, v in args.items() if k != "x"}
        return y, {"x": getattr(ops, f"{name}_backward")(dy, **kept, **rest)}


for _name in (*PLAIN, *NUMBERS):
    _backward_inputs(_name)

# Comparisons and one product: each correctly rounded.
bound("relu", "relu_backward", "leaky_relu", "leaky_relu_backward")(ulps(2))
# One exp, log1p or quotient of a few ulp, at most four further roundings.
bound("elu", "elu_backward", "tanh", "sigmoid", "softplus", "softplus_backward")(ulps(12))


@bound("silu")
def _(args, outs, eps):
    """As sigmoid, which may fall below the normal range before x enlarges it."""
    x = np.where(np.isfinite(args["x"]), np.abs(args["x"]), 0)
    return 12 * eps * np.abs(outs[0]) + np.finfo(outs[0].dtype).smallest_subnormal * x


@bound("tanh_backward", "sigmoid_backward")
def _(args, outs, eps):
    """dy (1 - y^2): the difference loses relative, never absolute accuracy: 4 roundings of terms below dy (1 + y^2)."""
    dy, y = args["dy"], args["y"]
    return 4 * eps * np.abs(dy) * (1 + np.abs(y)) ** 2


@bound("silu_backward")
def _(args, outs, eps):
    """dy s (1 + x (1 - s)): terms of size dy (1 + |x|), sigmoid within 4 ulp, 5 further roundings."""
    return 12 * eps * np.abs(args["dy"]) * (1 + np.abs(args["x"]))


@bound("gelu", "gelu_tanh")
def _(args, outs, eps):
    """x Phi(x): Phi within 8 ulp of 1 (its lower tail is a difference in the tanh form), times |x|."""
    x = args["x"]
    return 8 * eps * np.where(np.isfinite(x), np.abs(x), 0)


@bound("gelu_backward", "gelu_tanh_backward")
def _(args, outs, eps):
    """Phi + x phi: both within 8 ulp of 1. The tanh form adds x (1 - t^2) u', where u' <= 1 + x^2."""
    x = np.abs(args["x"])
    return 8 * eps * np.abs(args["dy"]) * (1 + x) * (1 + x * x)


# ---------------------------------------------------------------- gated


@inputs("swiglu")
def _(draw, dtype):
    *rows, D = (*_shape(draw), size(draw, 0, 40))
    return {"x": array(draw, (*rows, 2 * D), dtype, draw(st.sampled_from([1.0, 30.0])), special=True)}


@inputs("swiglu_backward")
def _(draw, dtype):
    *rows, D = (*_shape(draw), size(draw, 0, 40))
    return {"dy": array(draw, (*rows, D), dtype), "x": array(draw, (*rows, 2 * D), dtype, 3.0)}


@gradient("swiglu", wrt=("x",))
def _(args, dy):
    return ops.swiglu(**args), {"x": ops.swiglu_backward(dy, args["x"])}


@bound("swiglu")
def _(args, outs, eps):
    """silu (see above), which u enlarges; one product."""
    g, u = np.split(np.where(np.isfinite(args["x"]), np.abs(args["x"]), 0), 2, axis=-1)
    return 14 * eps * np.abs(outs[0]) + np.finfo(outs[0].dtype).smallest_subnormal * (1 + g) * (1 + u)


@bound("swiglu_backward")
def _(args, outs, eps):
    """As silu_backward, times u; dy silu(g)."""
    g, u = np.split(np.abs(args["x"]), 2, axis=-1)
    dy = np.abs(args["dy"])
    return 14 * eps * np.concatenate([dy * u * (1 + g), dy * g], axis=-1)
