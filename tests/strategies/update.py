import numpy as np
from hypothesis import strategies as st

from tests.harness import array, bound, gamma, inputs, size
from tests.running import Running

MOST = 0.999


def _shape(draw):
    """Vectors mostly; sometimes past the block of the C sums (8192)."""
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return (draw(st.integers(8190, 20000)),)
    if kind == 1:
        return draw(st.sampled_from([(), (3, 5), (2, 0), (1, 17)]))
    return (size(draw, 0, 200),)


def _one_of(draw, *numbers):
    return draw(st.one_of(st.sampled_from(numbers), st.floats(1e-3, 0.5)))


def _spoiled(draw, a):
    """Sometimes a NaN or an infinity (huge numbers overflow depending on the order of operations)."""
    if a.size and draw(st.integers(0, 5)) == 0:
        a.flat[draw(st.integers(0, a.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))
    return a


def _array(draw, shape, dtype):
    return _spoiled(draw, array(draw, shape, dtype, draw(st.sampled_from([1.0, 1e-3]))))


def _square(draw, shape, dtype):
    """A moving average of squares: not negative; zero at the start."""
    return np.zeros(shape, dtype) if draw(st.booleans()) else np.asarray(np.square(array(draw, shape, dtype)))


def _decay(draw):
    return {"weight_decay": _one_of(draw, 0.0, 0.0, 1e-2), "decoupled": draw(st.booleans())}


@inputs("sgd_update")
def _(draw, dtype):
    shape = _shape(draw)
    with_velocity = draw(st.booleans())
    return {
        "param": array(draw, shape, dtype),
        "grad": _array(draw, shape, dtype),
        "velocity": array(draw, shape, dtype) if with_velocity else None,
        "lr": _one_of(draw, 0.1, 0.0),
        "momentum": _one_of(draw, 0.9, 0.0) if with_velocity else 0.0,
        "nesterov": draw(st.booleans()),
        **_decay(draw),
    }


@inputs("adam_update")
def _(draw, dtype):
    shape = _shape(draw)
    return {
        "param": array(draw, shape, dtype),
        "grad": _array(draw, shape, dtype),
        "m": array(draw, shape, dtype),
        "v": _square(draw, shape, dtype),
        "step": draw(st.sampled_from([1, 2, 10, 1000, 10**7])),
        "lr": _one_of(draw, 1e-3, 0.0),
        "beta1": draw(st.sampled_from([0.9, 0.0, MOST])),
        "beta2": draw(st.sampled_from([0.999, 0.0, 0.9])),
        "eps": draw(st.sampled_from([1e-8, 1e-3])),
        **_decay(draw),
    }


@inputs("rmsprop_update")
def _(draw, dtype):
    shape = _shape(draw)
    with_velocity = draw(st.booleans())
    return {
        "param": array(draw, shape, dtype),
        "grad": _array(draw, shape, dtype),
        "v": _square(draw, shape, dtype),
        "velocity": array(draw, shape, dtype) if with_velocity else None,
        "lr": _one_of(draw, 1e-3, 0.0),
        "alpha": draw(st.sampled_from([0.99, 0.0, 0.5])),
        "eps": draw(st.sampled_from([1e-8, 1e-3])),
        "momentum": _one_of(draw, 0.9, 0.0) if with_velocity else 0.0,
        **_decay(draw),
    }


@inputs("ema_update")
def _(draw, dtype):
    shape = _shape(draw)
    decay = _one_of(draw, 0.0, 0.999, 1.0)
    return {"average": array(draw, shape, dtype), "value": _array(draw, shape, dtype), "decay": decay}


@inputs("scale_inplace")
def _(draw, dtype):
    return {"x": array(draw, _shape(draw), dtype, special=True), "factor": draw(st.floats(-3, 3))}


@inputs("axpy")
def _(draw, dtype):
    shape = _shape(draw)
    return {"y": _array(draw, shape, dtype), "x": _array(draw, shape, dtype), "alpha": draw(st.floats(-3, 3))}


@inputs("sum_of_squares")
def _(draw, dtype):
    return {"x": _array(draw, _shape(draw), dtype)}


@inputs("dot")
def _(draw, dtype):
    shape = _shape(draw)
    return {"x": _array(draw, shape, dtype), "y": _array(draw, shape, dtype)}


@inputs("fma_combine")
def _(draw, dtype):
    shape = _shape(draw)
    args = {"a": draw(st.floats(-3, 3)), "x": _array(draw, shape, dtype)}
    args |= {"b": draw(st.floats(-3, 3)), "y": _array(draw, shape, dtype)}
    if draw(st.booleans()):
        args |= {"c": draw(st.floats(-3, 3)), "z": _array(draw, shape, dtype)}
    return args


@inputs("row_scaled_sum")
def _(draw, dtype):
    B = size(draw, 0, 40)
    shape = (B, *draw(st.sampled_from([(), (1,), (size(draw, 0, 70),), (3, 5), (2, 0)])))
    x, y = _array(draw, shape, dtype), _array(draw, shape, dtype)
    return {"a": array(draw, (B,), dtype), "x": x, "b": _array(draw, (B,), dtype), "y": y}


def _finite(e):
    """Where a bound is infinite or NaN, the results must be equal (the same infinity, or both NaN)."""
    return np.where(np.isfinite(e), e, 0)


def _shrunk(args, eps):
    """(gradient with coupled weight decay, parameter with decoupled), as running error numbers."""
    number = Running.of(eps)
    p, g = number(args["param"]), number(args["grad"])
    if args["weight_decay"] and args["decoupled"]:
        return g, p * (1 - args["lr"] * args["weight_decay"])
    return (g + args["weight_decay"] * p if args["weight_decay"] else g), p


@bound("sgd_update")
def _(args, outs, eps):
    """Running error analysis of the formula."""
    g, p = _shrunk(args, eps)
    if args["velocity"] is None:
        return (_finite((p - args["lr"] * g).e),)
    v = args["momentum"] * Running.of(eps)(args["velocity"]) + g
    step = g + args["momentum"] * v if args["nesterov"] else v
    return _finite((p - args["lr"] * step).e), _finite(v.e)


@bound("adam_update")
def _(args, outs, eps):
    """Running error analysis of the formula."""
    g, p = _shrunk(args, eps)
    number = Running.of(eps)
    beta1, beta2, step = args["beta1"], args["beta2"], args["step"]
    m = beta1 * number(args["m"]) + (1 - beta1) * g
    v = beta2 * number(args["v"]) + (1 - beta2) * (g * g)
    denominator = v.sqrt() * (1 / np.sqrt(1 - beta2**step)) + args["eps"]
    p = p - args["lr"] / (1 - beta1**step) * (m / denominator)
    return _finite(p.e), _finite(m.e), _finite(v.e)


@bound("rmsprop_update")
def _(args, outs, eps):
    """Running error analysis of the formula."""
    g, p = _shrunk(args, eps)
    number = Running.of(eps)
    v = args["alpha"] * number(args["v"]) + (1 - args["alpha"]) * (g * g)
    step = g / (v.sqrt() + args["eps"])
    if args["velocity"] is None:
        return _finite((p - args["lr"] * step).e), _finite(v.e)
    w = args["momentum"] * number(args["velocity"]) + step
    return _finite((p - args["lr"] * w).e), _finite(v.e), _finite(w.e)


@bound("ema_update")
def _(args, outs, eps):
    """Two products and a sum."""
    number = Running.of(eps)
    return _finite((args["decay"] * number(args["average"]) + (1 - args["decay"]) * number(args["value"])).e)


@bound("scale_inplace")
def _(args, outs, eps):
    """One product by a rounded number."""
    return _finite((args["factor"] * Running.of(eps)(args["x"])).e)


@bound("axpy")
def _(args, outs, eps):
    """A product and a sum."""
    number = Running.of(eps)
    return _finite((number(args["y"]) + args["alpha"] * number(args["x"])).e)


@bound("fma_combine")
def _(args, outs, eps):
    """Up to three products and two sums."""
    number = Running.of(eps)
    result = args["a"] * number(args["x"]) + args["b"] * number(args["y"])
    if args.get("z") is not None:
        result = result + args["c"] * number(args["z"])
    return _finite(result.e)


@bound("row_scaled_sum")
def _(args, outs, eps):
    """Two products and a sum."""
    number = Running.of(eps)
    x = args["x"]
    per_row = (-1,) + (1,) * (x.ndim - 1)
    a, b = number(args["a"].reshape(per_row)), number(args["b"].reshape(per_row))
    return _finite((a * number(x) + b * number(args["y"])).e)


def _sum(terms):
    """gamma_{n+1} in double precision times the sum of the magnitudes: products and sums are rounded to double."""
    return _finite(gamma(terms.size + 1, float(np.finfo(np.float64).eps)) * np.abs(terms).sum())


@bound("sum_of_squares")
def _(args, outs, eps):
    return _sum(np.square(args["x"], dtype=np.float64))


@bound("dot")
def _(args, outs, eps):
    return _sum(np.multiply(args["x"], args["y"], dtype=np.float64))
