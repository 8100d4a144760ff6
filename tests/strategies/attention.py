import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, generator, gradient, inputs, size


def _extent(draw, most):
    """Mostly small; sometimes beyond one tile of queries or keys, with a remainder."""
    return draw(st.sampled_from([70, 129, 150])) if draw(st.integers(0, 5)) == 0 else size(draw, 0, most)


def _arguments(draw, dtype):
    B, G, group = draw(st.integers(0, 2)), draw(st.integers(1, 2)), draw(st.integers(0, 3))
    T, S, D, E = _extent(draw, 33), _extent(draw, 33), size(draw, 1, 33), size(draw, 0, 33)
    if draw(st.integers(0, 4)) == 0:  # few queries of many keys take a path of their own
        group, T, S = 1, draw(st.integers(1, 3)), draw(st.sampled_from([65, 130, 200]))
    H = G * group
    spread = draw(st.sampled_from([1.0, 1.0, 5.0]))
    args = {
        "q": array(draw, (B, H, T, D), dtype, spread),
        "k": array(draw, (B, G, S, D), dtype),
        "v": array(draw, (B, G, S, E), dtype),
    }
    if draw(st.booleans()):
        shape = tuple(n if draw(st.booleans()) else 1 for n in (B, H, T, S))
        args["mask"] = array(draw, shape, dtype)
        if draw(st.booleans()):
            args["mask"][generator(draw).random(shape) < 0.4] = -np.inf
    if draw(st.booleans()):
        args["padding"] = generator(draw).random((B, S)) < draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
        if draw(st.booleans()):
            args["padding"][:, : S // 2] = True  # whole tiles hidden
    args["causal"] = draw(st.booleans())
    args["scale"] = draw(st.one_of(st.none(), st.floats(-1, 1)))
    return args


@inputs("attention")
def _(draw, dtype):
    return _arguments(draw, dtype)


@inputs("attention_backward")
def _(draw, dtype):
    args = _arguments(draw, dtype)
    y, lse = ops.attention.numpy(**args)
    add_to = None
    if draw(st.booleans()):
        add_to = (array(draw, args["k"].shape, dtype), array(draw, args["v"].shape, dtype))
    return {"dy": array(draw, y.shape, dtype), **args, "y": y, "lse": lse, "add_to": add_to}


@gradient("attention", wrt=("q", "k", "v"))
def _(args, dy):
    y, lse = ops.attention(**args)
    return (y, lse), dict(zip("qkv", ops.attention_backward(dy, **args, y=y, lse=lse)))


def _double(args):
    """q, k, v (and more) in float64 with the key heads repeated for their query heads, the mask, and the scale."""
    a = {n: v.astype(np.float64) for n, v in args.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
    group = a["q"].shape[1] // a["k"].shape[1]
    k, v = (np.repeat(a[n], group, axis=1) for n in "kv")
    scale = 1 / np.sqrt(k.shape[-1]) if args.get("scale") is None else args["scale"]
    return a, k, v, scale


def _probabilities(args, eps):
    """The true p and s, and the relative error of a computed p.

    A score is a sum of D products, one product with the scale and one sum with the mask: its error is below
    delta = gamma(D + 3) (|scale| |q| |k| + |mask|). The exponent s - m adds eps/2 (|s| + |m|), and exp a few ulp. The
    maximum of the tiled sum rises at most |s| in all, so its exp(m_old - m_new) cost as much once more, and 6 ulp for
    each of the S/32 + 1 tiles.
    """
    a, k, v, scale = _double(args)
    kT = k.swapaxes(-1, -2)
    s, size_s = a["q"] @ kT * scale, np.abs(a["q"]) @ np.abs(kT) * abs(scale)
    (T, S), D = s.shape[-2:], k.shape[-1]
    if "mask" in a:
        s, size_s = s + a["mask"], size_s + np.where(np.isinf(a["mask"]), 0, np.abs(a["mask"]))
    if args.get("padding") is not None:
        s = np.where(args["padding"][:, None, None], -np.inf, s)
    if args.get("causal"):
        s = np.where(np.arange(S) <= np.arange(T)[:, None] + (S - T), s, -np.inf)
    widest = size_s.max(axis=-1, keepdims=True, initial=0)
    error = gamma(D + 3, eps) * widest + eps * widest * 3 + gamma(12 + 6 * (S // 32 + 1), eps)
    return a, k, v, scale, s, error


@bound("attention")
def _(args, outs, eps):
    """y = sum p v / sum p: numerator and denominator each off by `error` relative to sum p |v| and sum p, and by the
    gamma(S) of their sums. lse = m + log(sum): the error of the sum, absolute, and two roundings of size |m| + |lse|
    (the score's own size) plus log's."""
    _, _, v, _, s, error = _probabilities(args, eps)
    S = s.shape[-1]
    lse = outs[1]
    m = s.max(axis=-1, keepdims=True, initial=-np.inf)
    p = np.exp(s - np.where(np.isneginf(m), 0, m))
    total = p.sum(axis=-1, keepdims=True)
    p = p / np.where(total == 0, 1, total)
    relative = 2 * error + gamma(2 * S + 6, eps)
    size_lse = np.where(np.isfinite(lse), np.abs(lse), 0) + np.where(np.isneginf(m), 0, np.abs(m))[..., 0]
    return relative * (p @ np.abs(v)), relative[..., 0] + 6 * eps * (size_lse + 1)


@bound("attention_backward")
def _(args, outs, eps):
    """p is off by `error` and the rounding of s - lse relatively; dp by gamma(E) |dy| |v|; delta by gamma(E) |dy| |y|;
    ds = p (dp - delta) by the sum of these; each gradient by gamma(terms) and its factor's error, applied to the
    absolute values of all that is summed; one more rounding where dk and dv are added to."""
    a, k, v, scale, s, error = _probabilities(args, eps)
    T, S, E, G = *s.shape[-2:], v.shape[-1], a["k"].shape[1]
    lse = np.where(np.isneginf(a["lse"]), 0, a["lse"])[..., None]
    p = np.exp(s - lse)
    error = error + eps * (np.abs(lse) + 2)
    dy = np.abs(a["dy"])
    size_dp = dy @ np.abs(v).swapaxes(-1, -2) + (dy * np.abs(a["y"])).sum(axis=-1, keepdims=True)
    size_ds = p * size_dp * abs(scale)
    terms = max(S, T * a["q"].shape[1] // G)
    relative = error + gamma(E + 6, eps) + gamma(terms + 3, eps)

    def heads(d):
        return d.reshape(d.shape[0], G, d.shape[1] // G, *d.shape[2:]).sum(axis=2)

    dq = (relative * size_ds) @ np.abs(k)
    dk = heads((relative * size_ds).swapaxes(-1, -2) @ np.abs(a["q"]))
    dv = heads((relative * p).swapaxes(-1, -2) @ dy)
    tiny = np.finfo(outs[0].dtype).smallest_normal  # p and what it multiplies may underflow
    dq, dk, dv = dq + tiny * S, dk + tiny * terms, dv + tiny * terms
    if args.get("add_to") is None:
        return dq, dk, dv
    dk, dv = (d + 2 * eps * (np.abs(old) + np.abs(o)) for d, old, o in zip((dk, dv), args["add_to"], outs[1:]))
    return dq, dk, dv, dk, dv  # returned, and written in place
