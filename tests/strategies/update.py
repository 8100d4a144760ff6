import numpy as np
from hypothesis import strategies as st

from tests.harness import array, bound, gamma, generator, inputs, size

NUMBER = st.floats(-2.0, 2.0)
RATE = st.sampled_from([0.0, 1e-3, 0.1, 1.5])


def _shape(draw):
    return draw(st.sampled_from([(size(draw, 0, 65),), (size(draw, 0, 9), size(draw, 0, 33)), (8192,), (20_001,), ()]))


def _positive(draw, shape, dtype):
    return np.asarray(generator(draw).gamma(1.0, 1.0, shape)).astype(dtype)


def _decay(draw):
    return {"weight_decay": draw(st.sampled_from([0.0, 0.01, 0.5])), "decoupled": draw(st.booleans())}


@inputs("sgd_update")
def _(draw, dtype):
    shape, momentum = _shape(draw), draw(st.sampled_from([0.0, 0.5, 0.9]))
    velocity = array(draw, shape, dtype) if momentum or draw(st.booleans()) else None
    return {
        "param": array(draw, shape, dtype), "grad": array(draw, shape, dtype), "velocity": velocity, "lr": draw(RATE),
        "momentum": momentum, "nesterov": draw(st.booleans()), **_decay(draw),
    }  # fmt: skip


@inputs("adam_update")
def _(draw, dtype):
    shape = _shape(draw)
    return {
        "param": array(draw, shape, dtype), "grad": array(draw, shape, dtype), "m": array(draw, shape, dtype),
        "v": _positive(draw, shape, dtype), "step": draw(st.integers(1, 10**6)), "lr": draw(RATE),
        "beta1": draw(st.sampled_from([0.0, 0.9])), "beta2": draw(st.sampled_from([0.0, 0.999])),
        "eps": draw(st.sampled_from([1e-8, 1e-3])), **_decay(draw),
    }  # fmt: skip


@inputs("rmsprop_update")
def _(draw, dtype):
    shape, momentum = _shape(draw), draw(st.sampled_from([0.0, 0.9]))
    velocity = array(draw, shape, dtype) if momentum or draw(st.booleans()) else None
    return {
        "param": array(draw, shape, dtype), "grad": array(draw, shape, dtype), "v": _positive(draw, shape, dtype),
        "velocity": velocity, "lr": draw(RATE), "alpha": draw(st.sampled_from([0.5, 0.99])),
        "eps": draw(st.sampled_from([1e-8, 1e-3])), "momentum": momentum, **_decay(draw),
    }  # fmt: skip


@inputs("ema_update")
def _(draw, dtype):
    shape = _shape(draw)
    return {"average": array(draw, shape, dtype), "value": array(draw, shape, dtype), "decay": draw(st.floats(0, 1))}


@inputs("scale_inplace")
def _(draw, dtype):
    return {"x": array(draw, _shape(draw), dtype, special=True), "factor": draw(NUMBER)}


@inputs("axpy")
def _(draw, dtype):
    shape = _shape(draw)
    return {"y": array(draw, shape, dtype), "x": array(draw, shape, dtype), "alpha": draw(NUMBER)}


@inputs("sum_of_squares")
def _(draw, dtype):
    return {"x": array(draw, _shape(draw), dtype)}


@inputs("dot")
def _(draw, dtype):
    shape = _shape(draw)
    return {"x": array(draw, shape, dtype), "y": array(draw, shape, dtype)}


@inputs("fma_combine")
def _(draw, dtype):
    shape = _shape(draw)
    third = {"c": draw(NUMBER), "z": array(draw, shape, dtype)} if draw(st.booleans()) else {}
    return {
        "a": draw(NUMBER),
        "x": array(draw, shape, dtype),
        "b": draw(NUMBER),
        "y": array(draw, shape, dtype),
        **third,
    }


@inputs("row_scaled_sum")
def _(draw, dtype):
    b = size(draw, 0, 20)
    shape = (b, *(size(draw, 0, 20) for _ in range(draw(st.integers(0, 2)))))
    return {
        "a": array(draw, (b,), dtype), "x": array(draw, shape, dtype),
        "b": array(draw, (b,), dtype), "y": array(draw, shape, dtype),
    }  # fmt: skip


def _magnitudes(args):
    g = np.abs(args["grad"]) + args["weight_decay"] * np.abs(args["param"])
    return np.abs(args["param"]), g


@bound("sgd_update")
def _(args, outs, eps):
    """At most 10 roundings of the terms p, lr g and lr mu v (twice with Nesterov)."""
    p, g = _magnitudes(args)
    mu, v = args["momentum"], args["velocity"]
    written = g + mu * np.abs(v if v is not None else 0.0)
    tolerances = [10 * eps * (p * (1 + args["lr"] * args["weight_decay"]) + args["lr"] * (g + written))]
    return tuple(tolerances if v is None else [*tolerances, 10 * eps * written])


@bound("adam_update")
def _(args, outs, eps):
    """m and v: 8 roundings of their terms. p: the step's numerator loses m's absolute error, its denominator only
    relative accuracy (v is a sum of positive terms), so 20 roundings of p and of lr |m| terms over the denominator."""
    p, g = _magnitudes(args)
    b1, b2, step, lr = args["beta1"], args["beta2"], args["step"], args["lr"]
    m = b1 * np.abs(args["m"]) + (1 - b1) * g
    v = b2 * np.abs(args["v"]) + (1 - b2) * g * g
    g_error = 4 * eps * g
    v_error = 8 * eps * v + 2 * (1 - b2) * g * g_error
    exact_v = np.maximum(outs[2], 0).astype(np.float64)
    denominator = np.sqrt(exact_v / (1 - b2**step)) + args["eps"]
    # d sqrt(v) = dv / (2 sqrt(v)), bounded for tiny v by sqrt(dv)
    root_error = np.minimum(np.sqrt(v_error), v_error / np.maximum(2 * np.sqrt(exact_v), 1e-300))
    root_error = root_error / np.sqrt(1 - b2**step)
    rate = lr / (1 - b1**step)
    ratio = rate * m / denominator
    step_error = ratio * (20 * eps + root_error / denominator) + rate * g_error / denominator
    return 10 * eps * p * (1 + lr * args["weight_decay"]) + step_error, 8 * eps * m, v_error


@bound("rmsprop_update")
def _(args, outs, eps):
    """As Adam without the first moment: v keeps relative accuracy, g its absolute accuracy."""
    p, g = _magnitudes(args)
    alpha, lr = args["alpha"], args["lr"]
    v = alpha * np.abs(args["v"]) + (1 - alpha) * g * g
    g_error = 4 * eps * g
    v_error = 8 * eps * v + 2 * (1 - alpha) * g * g_error
    exact_v = outs[1].astype(np.float64)
    denominator = np.sqrt(exact_v) + args["eps"]
    root_error = np.minimum(np.sqrt(v_error), v_error / np.maximum(2 * np.sqrt(exact_v), 1e-300))
    d = g / denominator
    d_error = d * (12 * eps + root_error / denominator) + g_error / denominator
    b = args["momentum"] * np.abs(args["velocity"] if args["velocity"] is not None else 0.0)
    b_error = d_error + 4 * eps * (b + d)
    tolerances = [10 * eps * p * (1 + lr * args["weight_decay"]) + lr * (b_error + 4 * eps * (b + d)), v_error]
    return tuple(tolerances if args["velocity"] is None else [*tolerances, b_error])


@bound("ema_update")
def _(args, outs, eps):
    """Two products and a sum: 4 roundings (the factors are rounded too)."""
    return 4 * eps * (np.abs(args["average"]) + np.abs(args["value"]))


@bound("scale_inplace")
def _(args, outs, eps):
    """The factor and one product, rounded."""
    return 2 * eps * np.abs(outs[0]) + 2 * np.finfo(outs[0].dtype).smallest_subnormal


@bound("axpy")
def _(args, outs, eps):
    """Factor, product, sum: 3 roundings."""
    return 3 * eps * (np.abs(args["y"]) + np.abs(args["alpha"] * args["x"]))


@bound("sum_of_squares")
def _(args, outs, eps):
    """n + 1 roundings in double precision."""
    x = args["x"].astype(np.float64)
    return gamma(x.size + 1, 2.0**-52) * np.sum(x * x)


@bound("dot")
def _(args, outs, eps):
    """n + 1 roundings in double precision."""
    x, y = args["x"].astype(np.float64), args["y"].astype(np.float64)
    return gamma(x.size + 1, 2.0**-52) * np.sum(np.abs(x * y))


@bound("fma_combine")
def _(args, outs, eps):
    """Factors, products and sums: 5 roundings."""
    third = np.abs(args["c"] * args["z"]) if args.get("z") is not None else 0.0
    return 5 * eps * (np.abs(args["a"] * args["x"]) + np.abs(args["b"] * args["y"]) + third)


@bound("row_scaled_sum")
def _(args, outs, eps):
    """Two products and a sum: 3 roundings."""
    column = (-1,) + (1,) * (args["x"].ndim - 1)
    a, b = np.abs(args["a"]).reshape(column), np.abs(args["b"]).reshape(column)
    return 3 * eps * (a * np.abs(args["x"]) + b * np.abs(args["y"]))
