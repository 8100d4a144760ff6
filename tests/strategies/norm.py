import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import BOUNDS, INPUTS, array, bound, gamma, gradient, inputs, size
from tests.strategies.softmax import with_infinities

EPS = (1e-5, 1e-5, 1e-3, 1e-7)


def _rows(draw):
    """(..., D), D >= 1; now and then long rows, or enough of them for several blocks."""
    kind = draw(st.sampled_from(["small"] * 6 + ["long", "many"]))
    if kind == "long":
        return draw(st.integers(1, 3)), draw(st.integers(3000, 9000))
    if kind == "many":
        return draw(st.integers(20, 1200)), draw(st.integers(1, 40))
    return (*(size(draw, 0, 17) for _ in range(draw(st.integers(0, 2)))), size(draw, 1, 130))


def _images(draw, least=1):
    """(B, C, ...) on both sides of the length from which positions are taken as segments; B >= least."""
    kind = draw(st.sampled_from(["columns", "columns", "few", "segments", "segments", "many", "wide"]))
    if kind == "columns":
        return size(draw, least, 40), size(draw, 0, 40)
    if kind == "few":
        return size(draw, least, 20), size(draw, 0, 9), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    if kind == "many":
        return draw(st.integers(100, 1500)), draw(st.integers(1, 20))
    if kind == "wide":
        return draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(60, 80)), draw(st.integers(60, 80))
    return size(draw, least, 5), size(draw, 0, 9), draw(st.integers(5, 9)), draw(st.integers(7, 12))


def _data(draw, shape, dtype):
    """Around zero, around a distant mean, or with entries that are no numbers."""
    x = array(draw, shape, dtype, draw(st.sampled_from([1.0, 1.0, 30.0])))
    kind = draw(st.sampled_from(["plain", "plain", "distant", "special"]))
    if kind == "distant":
        x += x.dtype.type(draw(st.sampled_from([50.0, -1e4])))
    return with_infinities(draw, x, (np.inf, np.nan)) if kind == "special" else x


def _vector(draw, C, dtype):
    return array(draw, (C,), dtype) if draw(st.integers(0, 3)) else None


def _eps(draw):
    return draw(st.sampled_from(EPS))


def _groups(draw, C):
    return draw(st.sampled_from([g for g in range(1, C + 1) if C % g == 0]))


def _saved(op, *args):
    """What a forward pass saves: its results but the first."""
    with np.errstate(all="ignore"):  # infinities and NaNs are drawn on purpose
        return op.numpy(*args)[1:]


def _with_channels(draw):
    shape = _images(draw, 0)
    return (shape[0], max(shape[1], 1), *shape[2:])


# ---------------------------------------------------------------- inputs


@inputs("layernorm")
def _(draw, dtype):
    x = _data(draw, _rows(draw), dtype)
    D = x.shape[-1]
    return {"x": x, "gain": _vector(draw, D, dtype), "bias": _vector(draw, D, dtype), "eps": _eps(draw)}


@inputs("layernorm_backward")
def _(draw, dtype):
    x = _data(draw, _rows(draw), dtype)
    mean, rstd = _saved(ops.layernorm, x, None, None)
    dy = array(draw, x.shape, dtype)
    return {"dy": dy, "x": x, "gain": _vector(draw, x.shape[-1], dtype), "mean": mean, "rstd": rstd}


@inputs("rmsnorm")
def _(draw, dtype):
    x = _data(draw, _rows(draw), dtype)
    return {"x": x, "gain": _vector(draw, x.shape[-1], dtype), "eps": _eps(draw)}


@inputs("rmsnorm_backward")
def _(draw, dtype):
    x = _data(draw, _rows(draw), dtype)
    (rrms,) = _saved(ops.rmsnorm, x, None)
    return {"dy": array(draw, x.shape, dtype), "x": x, "gain": _vector(draw, x.shape[-1], dtype), "rrms": rrms}


@inputs("groupnorm")
def _(draw, dtype):
    x = _data(draw, _with_channels(draw), dtype)
    C = x.shape[1]
    vectors = {"gain": _vector(draw, C, dtype), "bias": _vector(draw, C, dtype)}
    return {"x": x, **vectors, "groups": _groups(draw, C), "eps": _eps(draw)}


@inputs("groupnorm_backward")
def _(draw, dtype):
    x = _data(draw, _with_channels(draw), dtype)
    C = x.shape[1]
    mean, rstd = _saved(ops.groupnorm, x, None, None, _groups(draw, C))
    dy = array(draw, x.shape, dtype)
    return {"dy": dy, "x": x, "gain": _vector(draw, C, dtype), "mean": mean, "rstd": rstd}


@inputs("batchnorm")
def _(draw, dtype):
    x = _data(draw, _images(draw), dtype)
    C = x.shape[1]
    return {"x": x, "gain": _vector(draw, C, dtype), "bias": _vector(draw, C, dtype), "eps": _eps(draw)}


@inputs("batchnorm_relu")
def _(draw, dtype):
    return INPUTS["batchnorm"](draw, dtype)


@inputs("batchnorm_relu_backward")
def _(draw, dtype):
    args = INPUTS["batchnorm_backward"](draw, dtype)
    return {"dy": args.pop("dy"), "y": array(draw, args["x"].shape, dtype, special=True), **args}


@inputs("batchnorm_backward")
def _(draw, dtype):
    x = _data(draw, _images(draw), dtype)
    mean, rstd = _saved(ops.batchnorm, x, None, None)
    dy = array(draw, x.shape, dtype)
    return {"dy": dy, "x": x, "gain": _vector(draw, x.shape[1], dtype), "mean": mean, "rstd": rstd}


def _running(draw, C, dtype):
    variance = np.abs(array(draw, (C,), dtype, draw(st.sampled_from([1.0, 1e-3]))))
    return {"mean": array(draw, (C,), dtype), "variance": variance, "eps": _eps(draw)}


@inputs("batchnorm_inference")
def _(draw, dtype):
    x = _data(draw, _images(draw, 0), dtype)
    C = x.shape[1]
    return {"x": x, "gain": _vector(draw, C, dtype), "bias": _vector(draw, C, dtype), **_running(draw, C, dtype)}


@inputs("batchnorm_inference_backward")
def _(draw, dtype):
    x = _data(draw, _images(draw, 0), dtype)
    C = x.shape[1]
    dy = array(draw, x.shape, dtype)
    return {"dy": dy, "x": x, "gain": _vector(draw, C, dtype), **_running(draw, C, dtype)}


# ---------------------------------------------------------------- gradients


def _only_given(args, grads):
    return {k: v for k, v in grads.items() if args[k] is not None}


def _varied(axes_of):
    """Central differences need a variance that a step of 1e-5 hardly changes."""

    def smooth(args):
        x = axes_of(args)
        return x.size == 0 or (bool((x.var(axis=-1) > 0.05).all()) and bool((np.abs(x) < 1000).all()))

    return smooth


def _channel_rows(args):
    x = args["x"]
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], x.shape[0] * int(np.prod(x.shape[2:])))


def _group_rows(args):
    x = args["x"]
    return x.reshape(x.shape[0], args["groups"], x[:1].size // max(len(x[:1]), 1) // args["groups"])


@gradient("layernorm", wrt=("x", "gain", "bias"), smooth=_varied(lambda args: args["x"]))
def _(args, dy):
    y, mean, rstd = ops.layernorm(**args)
    dx, dgain, dbias = ops.layernorm_backward(dy, args["x"], args["gain"], mean, rstd)
    return y, _only_given(args, {"x": dx, "gain": dgain, "bias": dbias})


@gradient("rmsnorm", wrt=("x", "gain"), smooth=lambda args: bool(((args["x"] ** 2).mean(axis=-1) > 0.05).all()))
def _(args, dy):
    y, rrms = ops.rmsnorm(**args)
    dx, dgain = ops.rmsnorm_backward(dy, args["x"], args["gain"], rrms)
    return y, _only_given(args, {"x": dx, "gain": dgain})


@gradient("groupnorm", wrt=("x", "gain", "bias"), smooth=_varied(_group_rows))
def _(args, dy):
    y, mean, rstd = ops.groupnorm(**args)
    dx, dgain, dbias = ops.groupnorm_backward(dy, args["x"], args["gain"], mean, rstd)
    return y, _only_given(args, {"x": dx, "gain": dgain, "bias": dbias})


@gradient("batchnorm", wrt=("x", "gain", "bias"), smooth=_varied(_channel_rows))
def _(args, dy):
    y, mean, rstd = ops.batchnorm(**args)
    dx, dgain, dbias = ops.batchnorm_backward(dy, args["x"], args["gain"], mean, rstd)
    return y, _only_given(args, {"x": dx, "gain": dgain, "bias": dbias})


def _away_from_the_kink(args):
    """No sum within reach of 0 when an entry of x, gain or bias moves by 1e-5 of the larger of 1 and itself."""
    if not _varied(_channel_rows)(args):
        return False
    x, gain, bias = args["x"], _column(args["gain"], args["x"]), _column(args["bias"], args["x"])
    z, _, rstd = ops.batchnorm(**args)
    g, xhat = _one(gain), np.abs(ops.batchnorm(x, None, None, args["eps"])[0])
    moved = 3 * np.abs(x).max(initial=1) * _column(rstd, x) * g + xhat * np.maximum(g, 1) + np.maximum(_zero(bias), 1)
    return bool((np.abs(z) > 2e-5 * moved).all())


@gradient("batchnorm_relu", wrt=("x", "gain", "bias"), smooth=_away_from_the_kink)
def _(args, dy):
    y, mean, rstd = ops.batchnorm_relu(**args)
    dx, dgain, dbias = ops.batchnorm_relu_backward(dy, y, args["x"], args["gain"], mean, rstd)
    return y, _only_given(args, {"x": dx, "gain": dgain, "bias": dbias})


@gradient("batchnorm_inference", wrt=("x", "gain", "bias"))
def _(args, dy):
    y = ops.batchnorm_inference(**args)
    rest = {k: args[k] for k in ("x", "gain", "mean", "variance", "eps")}
    dx, dgain, dbias = ops.batchnorm_inference_backward(dy, **rest)
    return y, _only_given(args, {"x": dx, "gain": dgain, "bias": dbias})


# ---------------------------------------------------------------- error bounds


def _one(v):
    return 1 if v is None else np.abs(v)


def _zero(v):
    return 0 if v is None else np.abs(v)


def _column(v, x):
    return v if v is None else v.reshape(-1, *(1,) * (x.ndim - 2))


def _statistics(x, axes, n, eps, e):
    """Errors of mean (absolute) and rstd (relative) over n elements, e the operation's eps.

    The mean as first summed is wrong by delta <= gamma(n+1) mean|x|. Its correction is a mean of n rounded differences
    d, |d| <= |x - mean| + delta, and one last rounding of the mean itself. The variance comes from the same d: n
    squares of size variance + delta^2, and the mean's error squared where they are taken about the rounded mean. rstd
    has half the relative error of variance + e (doubled here for the higher orders), and three roundings.
    """
    x = x.astype(np.float64)
    mean = x.mean(axis=axes, keepdims=True)
    d = np.abs(x - mean)
    variance = (d * d).mean(axis=axes, keepdims=True)
    delta = gamma(n + 1, eps) * np.abs(x).mean(axis=axes, keepdims=True)
    mean_error = eps * np.abs(mean) + gamma(n + 3, eps) * (d.mean(axis=axes, keepdims=True) + delta)
    variance_error = gamma(2 * n + 10, eps) * (variance + delta**2) + mean_error**2
    return mean_error, variance_error / (variance + e) + 3 * eps, d, 1 / np.sqrt(variance + e)


def _forward_bound(x, axes, n, eps, e, gain, bias):
    """y = (x - mean) rstd gain + bias: the mean's error times rstd, the relative error of rstd, five roundings."""
    mean_error, rstd_error, d, rstd = _statistics(x, axes, n, eps, e)
    y = rstd * (mean_error + d * (rstd_error + 4 * eps)) * (1 + rstd_error) * _one(gain) + eps * _zero(bias)
    return y, mean_error, rstd_error * rstd


@bound("layernorm")
def _(args, outs, eps):
    x = args["x"]
    y, m, r = _forward_bound(x, -1, x.shape[-1], eps, args["eps"], args["gain"], args["bias"])
    return y, m[..., 0], r[..., 0]


@bound("groupnorm")
def _(args, outs, eps):
    x, groups = args["x"], args["groups"]
    n = x.shape[1] // groups * int(np.prod(x.shape[2:]))
    y, m, r = _forward_bound(x.reshape(len(x), groups, n), -1, n, eps, args["eps"], None, None)
    y = y.reshape(x.shape) * _one(_column(args["gain"], x)) + 2 * eps * _zero(_column(args["bias"], x))
    return y, m[..., 0], r[..., 0]


def _channel_axes(x):
    return tuple(i for i in range(x.ndim) if i != 1)


@bound("batchnorm", "batchnorm_relu")
def _(args, outs, eps):
    x, axes, C = args["x"], _channel_axes(args["x"]), args["x"].shape[1]
    n = x.shape[0] * int(np.prod(x.shape[2:]))
    gain, bias = _column(args["gain"], x), _column(args["bias"], x)
    y, m, r = _forward_bound(x, axes, n, eps, args["eps"], gain, bias)
    return y, m.reshape(C), r.reshape(C)


@bound("rmsnorm")
def _(args, outs, eps):
    """A mean of D squares and a root: relative error gamma(D + 3) at most; two products."""
    D, (y, rrms) = args["x"].shape[-1], outs
    return gamma(D + 8, eps) * np.abs(y), gamma(D + 6, eps) * rrms


@bound("batchnorm_inference")
def _(args, outs, eps):
    """Seven roundings of (x - mean) rstd gain (rstd takes three), one of the sum with bias."""
    x = args["x"]
    rstd = _column(1 / np.sqrt(args["variance"] + x.dtype.type(args["eps"])), x)
    term = np.abs(x - _column(args["mean"], x)) * rstd * _one(_column(args["gain"], x))
    return gamma(9, eps) * (term + _zero(_column(args["bias"], x)))


def _backward_bound(dy, d, rstd, gain, axes, n, eps):
    """rstd (g - mean(g) - x^ mean(g x^)) from given mean and rstd: sums of n products of at most five rounded factors,
    and six further roundings."""
    g, xhat = np.abs(dy).astype(np.float64) * _one(gain), np.abs(d) * rstd
    terms = g + g.mean(axis=axes, keepdims=True) + xhat * (g * xhat).mean(axis=axes, keepdims=True)
    return gamma(n + 14, eps) * rstd * terms


def _vector_bounds(dy, xhat, axes, n, eps):
    """Sums of n terms, for dgain of three rounded factors."""
    dy = np.abs(dy).astype(np.float64)
    return gamma(n + 6, eps) * (dy * np.abs(xhat)).sum(axis=axes), gamma(n + 1, eps) * dy.sum(axis=axes)


@bound("layernorm_backward")
def _(args, outs, eps):
    dy, x, rstd = args["dy"], args["x"], args["rstd"][..., None]
    d, axes = x - args["mean"][..., None], tuple(range(x.ndim - 1))
    dx = _backward_bound(dy, d, rstd, args["gain"], -1, x.shape[-1], eps)
    return dx, *_vector_bounds(dy, d * rstd, axes, x.size // x.shape[-1], eps)


@bound("rmsnorm_backward")
def _(args, outs, eps):
    dy, x, rrms = args["dy"], args["x"], args["rrms"][..., None]
    dx = _backward_bound(dy, x, rrms, args["gain"], -1, x.shape[-1], eps)
    return dx, _vector_bounds(dy, x * rrms, tuple(range(x.ndim - 1)), x.size // x.shape[-1], eps)[0]


@bound("groupnorm_backward")
def _(args, outs, eps):
    dy, x, (B, groups), C = args["dy"], args["x"], args["mean"].shape, args["x"].shape[1]
    n = C // groups * int(np.prod(x.shape[2:]))
    grouped, rstd = (B, groups, n), args["rstd"][..., None]
    d = x.reshape(grouped) - args["mean"][..., None]
    g = np.abs(dy) * _one(_column(args["gain"], x))
    dx = _backward_bound(g.reshape(grouped), d, rstd, None, -1, n, eps).reshape(x.shape)
    return dx, *_vector_bounds(dy, (d * rstd).reshape(x.shape), _channel_axes(x), x.size // C, eps)


@bound("batchnorm_backward")
def _(args, outs, eps):
    dy, x, rstd = args["dy"], args["x"], _column(args["rstd"], args["x"])
    d, axes = x - _column(args["mean"], x), _channel_axes(x)
    n = x.shape[0] * int(np.prod(x.shape[2:]))
    dx = _backward_bound(dy, d, rstd, _column(args["gain"], x), axes, n, eps)
    return dx, *_vector_bounds(dy, d * rstd, axes, n, eps)


@bound("batchnorm_relu_backward")
def _(args, outs, eps):
    dz = np.where(args["y"] > 0, args["dy"], 0)
    return BOUNDS["batchnorm_backward"]({**args, "dy": dz}, outs, eps)


@bound("batchnorm_inference_backward")
def _(args, outs, eps):
    """dx: five roundings. dgain, dbias: sums of n terms, rstd with three roundings more."""
    dy, x = args["dy"], args["x"]
    rstd = _column(1 / np.sqrt(args["variance"] + x.dtype.type(args["eps"])), x)
    d, axes = x - _column(args["mean"], x), _channel_axes(x)
    n = x.shape[0] * int(np.prod(x.shape[2:]))
    dx = gamma(8, eps) * np.abs(dy) * rstd * _one(_column(args["gain"], x))
    return dx, *_vector_bounds(dy, d * rstd, axes, n + 6, eps)
