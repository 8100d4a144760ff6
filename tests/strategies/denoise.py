import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, generator, gradient, inputs, size


def _sizes(draw):
    """B, K, D; sometimes enough rows for a second thread."""
    B = draw(st.sampled_from([300, 513])) if draw(st.integers(0, 9)) == 0 else size(draw, 0, 40)
    return B, size(draw, 1, 40), size(draw, 0, 40)


def _embedding(draw, K, D, dtype):
    return array(draw, (K, D), dtype) if draw(st.booleans()) else None


def _logits(draw, B, K, dtype):
    f = array(draw, (B, K), dtype, draw(st.sampled_from([1.0, 20.0])))
    if f.size and draw(st.integers(0, 5)) == 0:
        f.flat[draw(st.integers(0, f.size - 1))] = draw(st.sampled_from([np.nan, -np.inf, np.inf]))
    return f


@inputs("softmax_mixture")
def _(draw, dtype):
    B, K, D = _sizes(draw)
    return {"f": _logits(draw, B, K, dtype), "embedding": _embedding(draw, K, D, dtype)}


@inputs("softmax_mixture_backward")
def _(draw, dtype):
    B, K, D = _sizes(draw)
    embedding = _embedding(draw, K, D, dtype)
    p = ops.softmax_mixture.numpy(array(draw, (B, K), dtype))[1]
    return {"duhat": array(draw, (B, K if embedding is None else D), dtype), "p": p, "embedding": embedding}


@inputs("denoise_loss")
def _(draw, dtype):
    B, K, D = _sizes(draw)
    target = generator(draw).integers(0, K, B).astype(draw(st.sampled_from([np.int64, np.int32, np.uint8])))
    return {
        "f": _logits(draw, B, K, dtype),
        "target": target,
        "weight": array(draw, (B,), dtype),
        "embedding": _embedding(draw, K, D, dtype),
    }


def _finite(tolerance):
    """Where a bound is infinite or NaN, the results must be equal (the same infinity, or both NaN)."""
    return np.where(np.isfinite(tolerance), tolerance, 0)


def _p_error(f, p, eps):
    """Absolute error of p = softmax(f).

    e_k = exp(f_k - max): the difference is rounded once, which moves e_k by a factor 1 + u |f_k - max|; exp is good to
    4 ulp. The sum of K positive terms adds gamma_K and the mean of its terms' errors; the quotient one rounding more
    (two where it is a product with 1 / sum). Results below the smallest normal number are off by one subnormal.
    """
    if not f.size:
        return np.zeros(f.shape)
    z = np.abs(f - f.max(axis=1, keepdims=True))
    pz = np.where(p > 0, p * z, 0)  # -inf gives p = 0, exactly
    own = pz * eps / 2
    mean = p * pz.sum(axis=1, keepdims=True) * eps / 2
    rest = p * (10 * eps + gamma(f.shape[1], eps))
    return own + mean + rest + 4 * np.finfo(p.dtype).smallest_normal


def _product(error_a, a, b, error_b=0.0):
    """Error of a @ b where a and b are known to within error_a, error_b."""
    n = a.shape[1]
    return (
        error_a @ np.abs(b)
        + (np.abs(a) + error_a) @ (np.zeros_like(b) + error_b)
        + _sum(n, b) * (np.abs(a) @ np.abs(b))
    )


def _sum(n, like):
    return gamma(n + 2, float(np.finfo(like.dtype).eps))


def _softmax_backward_error(error_dp, dp, error_p, p, eps):
    """df = p (dp - m), m = <p, dp>, every quantity to first order in its error, K + 3 roundings."""
    K = p.shape[1]
    error_m = (error_p * np.abs(dp) + p * error_dp).sum(axis=1, keepdims=True)
    size_m = (p * np.abs(dp)).sum(axis=1, keepdims=True)
    error_m = error_m + gamma(K + 1, eps) * size_m
    span = np.abs(dp) + size_m
    return error_p * span + p * (error_dp + error_m) + 3 * eps * p * span


@bound("softmax_mixture")
def _(args, outs, eps):
    """p as a softmax; uhat = p W a sum of K products with inexact p."""
    f, W = args["f"], args["embedding"]
    error = _p_error(f, outs[1], eps)
    return (_finite(error if W is None else _product(error, outs[1], W)), _finite(error))


@bound("softmax_mixture_backward")
def _(args, outs, eps):
    """p is given exactly: sums of D (dp), K (the mean) and B (dW) products."""
    duhat, p, W = args["duhat"], args["p"], args["embedding"]
    if W is None:
        return (_softmax_backward_error(0.0, duhat, 0.0, p, eps),)  # dembedding is None
    dp = duhat @ W.T
    error_dp = _sum(W.shape[1], W) * (np.abs(duhat) @ np.abs(W.T))
    return (
        _softmax_backward_error(error_dp, dp, 0.0, p, eps),
        _sum(len(p), p) * (p.T @ np.abs(duhat)),
    )


@bound("denoise_loss")
def _(args, outs, eps):
    """The errors of p, then of uhat = p W, of r = uhat - u (one rounding), of r^2 summed over D, of 2 w r, of dp =
    duhat W^T and of the softmax's gradient, each carried on to first order (doubled for the second)."""
    f, target, weight, W = args["f"], args["target"], args["weight"], args["embedding"]
    squared, p, duhat, _ = outs
    error_p = _p_error(f, p, eps)
    if W is None:
        u = np.eye(p.shape[1], dtype=p.dtype)[target]
        r, error_r = p - u, error_p + eps * np.abs(p - u)
    else:
        r = p @ W - W[target]
        error_r = _product(error_p, p, W) + eps * (np.abs(p @ W) + np.abs(W[target]))
    D = r.shape[1]
    error_squared = (2 * np.abs(r) * error_r + error_r**2).sum(axis=1) + gamma(D + 2, eps) * squared
    w = 2 * np.abs(weight)[:, None]
    error_duhat = w * error_r + 2 * eps * np.abs(duhat)
    if W is None:
        dp, error_dp = duhat, error_duhat
    else:
        dp = duhat @ W.T
        error_dp = _product(error_duhat, duhat, W.T)
    error_df = _softmax_backward_error(error_dp, dp, error_p, p, eps)
    return tuple(_finite(2 * e) for e in (error_squared, error_p, error_duhat, error_df))


@gradient("softmax_mixture", wrt=("f", "embedding"))
def _(args, dy):
    uhat, p = ops.softmax_mixture(**args)
    df, dembedding = ops.softmax_mixture_backward(dy, p, args["embedding"])
    return uhat, {"f": df} | ({} if dembedding is None else {"embedding": dembedding})


@gradient("denoise_loss", wrt=("f", "embedding"))
def _(args, dy):
    """Σ_b dy_b squared_b is the loss with weight dy."""
    squared, p, duhat, df = ops.denoise_loss(args["f"], args["target"], dy, args["embedding"])
    if args["embedding"] is None:
        return squared, {"f": df}
    dembedding = p.T @ duhat
    np.subtract.at(dembedding, args["target"], duhat)
    return squared, {"f": df, "embedding": dembedding}
