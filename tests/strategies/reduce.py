import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, gradient, inputs, size

DOUBLE = float(np.finfo(np.float64).eps)


def _shape(draw, least=0):
    """Mostly three small axes; sometimes one beyond the chunk (4096) or tile (64 columns) of the C sums."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.sampled_from([(5000,), (4096, 3), (4097, 70), (2, 9000), (3, 5000, 2)]))
    if kind == 1:
        return (size(draw, least, 200),)
    return (*(size(draw, least, 20) for _ in range(draw(st.integers(1, 2)))), size(draw, least, 70))


def _spoiled(draw, a):
    """Sometimes NaN or infinities (huge numbers overflow depending on the order of operations)."""
    for _ in range(draw(st.integers(0, 2)) if a.size else 0):
        a.flat[draw(st.integers(0, a.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))
    return a


def _along(draw, dtype, least=0):
    x = _spoiled(draw, array(draw, _shape(draw, least), dtype))
    return {"x": x, "axis": draw(st.integers(-x.ndim, x.ndim - 1))}


@inputs("total")
def _(draw, dtype):
    return {"x": _spoiled(draw, array(draw, draw(st.sampled_from([(), _shape(draw)])), dtype))}


@inputs("sum_rows")
def _(draw, dtype):
    shape = draw(st.sampled_from([(size(draw), size(draw)), (5000, 3), (4096, 65)]))
    return {"x": _spoiled(draw, array(draw, shape, dtype))}


@inputs("reduce_sum")
def _(draw, dtype):
    return _along(draw, dtype)


@inputs("reduce_mean")
def _(draw, dtype):
    return _along(draw, dtype, 1)


@inputs("reduce_max")
def _(draw, dtype):
    args = _along(draw, dtype, 1)
    if draw(st.booleans()):  # ties: the first counts
        args["x"] = np.round(args["x"])
    return args


def _gradient_args(draw, dtype, least):
    dy = array(draw, tuple(size(draw, 0, 20) for _ in range(draw(st.integers(0, 3)))), dtype)
    return {"dy": dy, "axis": draw(st.integers(-dy.ndim - 1, dy.ndim)), "n": size(draw, least, 20)}


@inputs("reduce_sum_backward")
def _(draw, dtype):
    return _gradient_args(draw, dtype, 0)


@inputs("reduce_mean_backward")
def _(draw, dtype):
    return _gradient_args(draw, dtype, 1)


@inputs("reduce_max_backward")
def _(draw, dtype):
    args = _gradient_args(draw, dtype, 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    index = np.asarray(rng.integers(0, args["n"], args["dy"].shape), draw(st.sampled_from([np.int64, np.int32])))
    return {"dy": args["dy"], "index": index, "axis": args["axis"], "n": args["n"]}


def _finite(e):
    """Where a bound is infinite or NaN, the results must be equal (the same infinity, or both NaN)."""
    return np.where(np.isfinite(e), e, 0)


@bound("total")
def _(args, outs, eps):
    """gamma_n in double precision times the sum of the magnitudes."""
    x = args["x"]
    return _finite(gamma(x.size + 1, DOUBLE) * np.abs(x.astype(np.float64)).sum())


def _sum_bound(x, axis, eps):
    """At most 128 additions in the precision of x, the rest in double, and one rounding to the result."""
    n = x.shape[axis]
    relative = gamma(min(n, 128) + 2, eps) + gamma(n + 2, DOUBLE)
    return _finite(relative * np.abs(x.astype(np.float64)).sum(axis=axis))


@bound("sum_rows")
def _(args, outs, eps):
    """As reduce_sum."""
    return _sum_bound(args["x"], 0, eps)


@bound("reduce_sum")
def _(args, outs, eps):
    """See _sum_bound."""
    return _sum_bound(args["x"], args["axis"], eps)


@bound("reduce_mean")
def _(args, outs, eps):
    """The sum's bound divided by n; the quotient is rounded with the result."""
    return _sum_bound(args["x"], args["axis"], eps) / args["x"].shape[args["axis"]]


@bound("reduce_max", "reduce_max_backward", "reduce_sum_backward")
def _(args, outs, eps):
    """Copies: exact."""
    return 0.0


@bound("reduce_mean_backward")
def _(args, outs, eps):
    """A quotient, or a product with the rounded 1/n."""
    return gamma(2, eps) * np.abs(outs[0])


@gradient("reduce_sum", wrt=("x",))
def _(args, dy):
    x, axis = args["x"], args["axis"]
    return ops.reduce_sum(x, axis), {"x": ops.reduce_sum_backward(dy, axis, x.shape[axis])}


@gradient("reduce_mean", wrt=("x",))
def _(args, dy):
    x, axis = args["x"], args["axis"]
    return ops.reduce_mean(x, axis), {"x": ops.reduce_mean_backward(dy, axis, x.shape[axis])}


def _clear_maximum(args):
    """The largest entry leads by more than the step of the central difference."""
    x = np.sort(args["x"], axis=args["axis"])
    if x.shape[args["axis"]] < 2:
        return True
    top, second = np.take(x, -1, args["axis"]), np.take(x, -2, args["axis"])
    return bool((top - second > 1e-3).all())


@gradient("reduce_max", wrt=("x",), smooth=_clear_maximum)
def _(args, dy):
    x, axis = args["x"], args["axis"]
    y, index = ops.reduce_max(x, axis)
    return y, {"x": ops.reduce_max_backward(dy, index, axis, x.shape[axis])}
