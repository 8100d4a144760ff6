import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, generator, gradient, inputs, size

SCALES = (1.0, 30.0)


def rows(draw, least=0):
    """(..., K) with one to three axes; K >= least; now and then long rows, or many short ones."""
    kind = draw(st.sampled_from(["small"] * 6 + ["long", "many"]))
    if kind == "long":
        return draw(st.integers(1, 3)), draw(st.integers(500, 9000))
    if kind == "many":
        return draw(st.integers(100, 1200)), draw(st.integers(1, 12))
    leading = tuple(size(draw, 0, 17) for _ in range(draw(st.integers(0, 2))))
    return (*leading, size(draw, least if 0 in leading else 1, 130))


def with_infinities(draw, a, values=(-np.inf,)):
    """Some entries replaced, sometimes."""
    if a.size and draw(st.integers(0, 3)) == 0:
        rng = generator(draw)
        a[rng.random(a.shape) < draw(st.sampled_from([0.02, 0.3]))] = rng.choice(values)
    return a


def logits(draw, shape, dtype):
    a = array(draw, shape, dtype, draw(st.sampled_from(SCALES)))
    return with_infinities(draw, a, draw(st.sampled_from([(-np.inf,), (-np.inf, np.inf, np.nan)])))


@inputs("softmax", "log_softmax", "logsumexp")
def _(draw, dtype):
    return {"z": logits(draw, rows(draw), dtype)}


@inputs("softmax_backward")
def _(draw, dtype):
    shape = rows(draw)
    return {"dy": array(draw, shape, dtype), "y": ops.softmax.numpy(array(draw, shape, dtype, 3.0))}


@inputs("log_softmax_backward")
def _(draw, dtype):
    shape = rows(draw)
    return {"dy": array(draw, shape, dtype), "y": ops.log_softmax.numpy(array(draw, shape, dtype, 3.0))}


@inputs("logsumexp_backward")
def _(draw, dtype):
    z = array(draw, rows(draw), dtype, 3.0)
    return {"dy": array(draw, z.shape[:-1], dtype), "z": z, "y": ops.logsumexp.numpy(z)}


@gradient("softmax", wrt=("z",))
def _(args, dy):
    y = ops.softmax(**args)
    return y, {"z": ops.softmax_backward(dy, y)}


@gradient("log_softmax", wrt=("z",))
def _(args, dy):
    y = ops.log_softmax(**args)
    return y, {"z": ops.log_softmax_backward(dy, y)}


@gradient("logsumexp", wrt=("z",))
def _(args, dy):
    y = ops.logsumexp(**args)
    return y, {"z": ops.logsumexp_backward(dy, args["z"], y)}


def distance(z):
    """|z - max z|, a row's maximum taken over its finite part."""
    if z.size == 0:
        return np.zeros(z.shape)
    finite = np.where(np.isfinite(z), z, -np.inf).astype(np.float64)
    d = np.abs(z - finite.max(axis=-1, keepdims=True, initial=-np.inf))
    return np.where(np.isfinite(d), d, 0)


def sum_error(K, eps):
    """Relative error of Σ exp(z_k - m): K terms >= 0 with the largest equal to 1. A term at distance d is wrong by 4
    ulp of exp and by d u from the rounding of z - m, and exp(-d) d < 1/2: in all K eps/4 + 4 eps; then the sum."""
    return K * eps / 4 + 4 * eps + gamma(K, eps)


@bound("softmax")
def _(args, outs, eps):
    """e / s: e within 4 ulp and d u (see sum_error), s, and two roundings. Below the smallest normal number a body may
    give 0."""
    (y,) = outs
    K = y.shape[-1]
    return y * (sum_error(K, eps) + (6 + distance(args["z"])) * eps) + np.finfo(y.dtype).tiny


def log_error(d, K, eps):
    """Absolute error of (z - m) - log s: the rounding of d = z - m; log s with the relative error of s and 4 ulp of
    log s <= log K; the last subtraction."""
    log_K = np.log(max(K, 1))
    return sum_error(K, eps) + 4 * eps * log_K + eps * (d + log_K)


@bound("log_softmax")
def _(args, outs, eps):
    return log_error(distance(args["z"]), outs[0].shape[-1], eps)


@bound("logsumexp")
def _(args, outs, eps):
    """m + log s: as log_softmax with d = 0, plus the rounding of the sum."""
    K = args["z"].shape[-1]
    return log_error(0, K, eps) + eps * np.where(np.isfinite(outs[0]), np.abs(outs[0]), 0)


@bound("softmax_backward")
def _(args, outs, eps):
    """y (dy - Σ dy y): a sum of K products, then two roundings."""
    dy, y = np.abs(args["dy"]), args["y"]
    K = y.shape[-1]
    return y * gamma(K + 4, eps) * (dy + (dy * y).sum(axis=-1, keepdims=True)) + np.finfo(y.dtype).tiny


@bound("log_softmax_backward")
def _(args, outs, eps):
    """dy - exp(y) Σ dy: exp within 4 ulp, a sum of K terms, two roundings."""
    dy, y = np.abs(args["dy"]), args["y"]
    K = y.shape[-1]
    return gamma(K + 14, eps) * (dy + np.exp(y) * dy.sum(axis=-1, keepdims=True)) + np.finfo(y.dtype).tiny


@bound("logsumexp_backward")
def _(args, outs, eps):
    """dy exp(z - y): z - y rounded once, exp within 4 ulp, one product."""
    d = np.abs(args["z"] - args["y"][..., None])
    return np.abs(outs[0]) * (6 + d) * eps + np.finfo(outs[0].dtype).tiny
