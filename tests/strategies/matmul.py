import math

import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from refimpl.ops.matmul import ACTIVATIONS, FROM_OUTPUT
from tests.harness import array, bound, gamma, gradient, inputs, size


def _sizes(draw):
    """M, N, K: small and odd; sometimes past the blocks of the C kernel (see gemm.c)."""
    if draw(st.integers(0, 7)) == 0:
        big = (345, 300, 530)
        return tuple(draw(st.integers(most - 8, most)) if draw(st.booleans()) else size(draw, 0, 40) for most in big)
    return tuple(size(draw, 0, 65) for _ in range(3))


def _operand(draw, leading, rows, columns, transpose, dtype):
    a = array(draw, (*leading, *((columns, rows) if transpose else (rows, columns))), dtype)
    if a.size and draw(st.integers(0, 5)) == 0:  # NaN and infinity (huge numbers overflow depending on the order)
        a.flat[draw(st.integers(0, a.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.0]))
    return a


def _operands(draw, dtype):
    M, N, K = _sizes(draw)
    ta, tb = draw(st.booleans()), draw(st.booleans())
    leading = draw(st.sampled_from([(), (), (), (1,), (3,), (2, 3), (0,)]))
    if max(M, N, K) > 65:
        leading = leading[:1]
    shared = draw(st.sampled_from(["", "a", "b"]))
    return {
        "a": _operand(draw, () if shared == "a" else leading, M, K, ta, dtype),
        "b": _operand(draw, () if shared == "b" else leading, K, N, tb, dtype),
        "transpose_a": ta,
        "transpose_b": tb,
    }


@inputs("matmul")
def _(draw, dtype):
    return _operands(draw, dtype)


@inputs("matmul_backward")
def _(draw, dtype):
    args = _operands(draw, dtype)
    with np.errstate(all="ignore"):
        shape = ops.matmul.numpy(**args).shape
    return {"dy": array(draw, shape, dtype), **args}


def _finite(tolerance):
    """Where a bound is infinite or NaN, the results must be equal (the same infinity, or both NaN)."""
    return np.where(np.isfinite(tolerance), tolerance, 0)


def _t(x, transpose=True):
    return x.swapaxes(-1, -2) if transpose else x


@bound("matmul")
def _(args, outs, eps):
    """|fl(y) - y| <= gamma_K (|A| |B|): K products and K - 1 sums in any order (Higham, 2002, section 3.5)."""
    a, b = _t(np.abs(args["a"]), args["transpose_a"]), _t(np.abs(args["b"]), args["transpose_b"])
    return _finite(gamma(a.shape[-1] + 2, eps) * (a @ b))


@bound("matmul_backward")
def _(args, outs, eps):
    """As matmul: sums of N (for da) and M (for db) products, for a shared operand over the whole batch."""
    ta, tb = args["transpose_a"], args["transpose_b"]
    dy, a, b = np.abs(args["dy"]), _t(np.abs(args["a"]), ta), _t(np.abs(args["b"]), tb)
    limits = []
    for d, own, transpose, n in (
        (dy @ _t(b), args["a"], ta, dy.shape[-1]),
        (_t(a) @ dy, args["b"], tb, dy.shape[-2]),
    ):
        n *= math.prod(dy.shape[: dy.ndim - own.ndim])  # more axes than the operand: it was shared
        d = _t(d, transpose)
        d = d if d.ndim == own.ndim else d.sum(axis=tuple(range(d.ndim - own.ndim)))
        limits.append(_finite(gamma(n + 2, eps) * d))
    return tuple(limits)


@gradient("matmul", wrt=("a", "b"))
def _(args, dy):
    da, db = ops.matmul_backward(dy, **args)
    return ops.matmul(**args), {"a": da, "b": db}


def _linear(draw, dtype):
    B, D_out, D_in = _sizes(draw)
    leading = draw(st.sampled_from([(B,), (B,), (), (2, B), (0, 3)]))
    return leading, D_in, D_out, array(draw, (*leading, D_in), dtype), array(draw, (D_in, D_out), dtype)


@inputs("linear")
def _(draw, dtype):
    _, _, D_out, x, weight = _linear(draw, dtype)
    bias = array(draw, (D_out,), dtype) if draw(st.booleans()) else None
    return {"x": x, "weight": weight, "bias": bias}


@bound("linear")
def _(args, outs, eps):
    """gamma_{D_in + 1} (|x| |W| + |b|): the bias is one more term of the sum."""
    bias = 0 if args["bias"] is None else np.abs(args["bias"])
    return gamma(args["weight"].shape[0] + 3, eps) * (np.abs(args["x"]) @ np.abs(args["weight"]) + bias)


@inputs("linear_backward")
def _(draw, dtype):
    leading, D_in, D_out, x, weight = _linear(draw, dtype)
    add_to = None
    if draw(st.booleans()):
        add_to = (
            array(draw, (D_in, D_out), dtype),
            array(draw, (D_out,), dtype) if draw(st.booleans()) else None,
        )
    dy = array(draw, (*leading, D_out), dtype)
    return {"dy": dy, "x": x, "weight": weight, "need_dx": draw(st.booleans()), "add_to": add_to}


@bound("linear_backward")
def _(args, outs, eps):
    """Sums of D_out products (dx), of B products (dweight) and of B terms (dbias), the old gradient one term more."""
    D_in, D_out = args["weight"].shape
    B = int(np.prod(args["dy"].shape[:-1]))
    dy, x = np.abs(args["dy"]).reshape(B, D_out), np.abs(args["x"]).reshape(B, D_in)
    dx = gamma(D_out + 2, eps) * (dy @ np.abs(args["weight"]).T).reshape(args["x"].shape)
    old = (0, 0) if args["add_to"] is None else tuple(0 if o is None else np.abs(o) for o in args["add_to"])
    sums = [gamma(B + 3, eps) * (x.T @ dy + old[0]), gamma(B + 3, eps) * (dy.sum(axis=0) + old[1])]
    if args["add_to"] is not None:
        sums = (sums[:1] if args["add_to"][1] is None else sums) * 2  # returned, and written in place
    return (*((dx,) if args["need_dx"] else ()), *sums)


@gradient("linear", wrt=("x", "weight", "bias"))
def _(args, dy):
    dx, dweight, dbias = ops.linear_backward(dy, args["x"], args["weight"])
    grads = {"x": dx, "weight": dweight}
    return ops.linear(**args), grads if args["bias"] is None else {**grads, "bias": dbias}


# ---------------------------------------------------------------- dense

KINKED = ("relu", "leaky_relu", "elu")


@inputs("dense")
def _(draw, dtype):
    _, _, D_out, x, weight = _linear(draw, dtype)
    bias = array(draw, (D_out,), dtype) if draw(st.booleans()) else None
    activation = draw(st.sampled_from(ACTIVATIONS))
    return {"x": x, "weight": weight, "bias": bias, "activation": activation, "keep": draw(st.booleans())}


@bound("dense")
def _(args, outs, eps):
    """z as in linear; no f is steeper than 1.2 and each is within 12 eps of its value or of 8 eps of its argument."""
    bias = 0 if args["bias"] is None else np.abs(args["bias"])
    size = np.abs(args["x"]) @ np.abs(args["weight"]) + bias  # |z| and every partial sum are at most this
    dz = gamma(args["weight"].shape[0] + 3, eps) * size
    y = 1.2 * dz + 12 * eps * (np.abs(outs[0]) + size) + np.finfo(outs[0].dtype).smallest_subnormal
    return (y, *(() if not args["keep"] else (y,) if args["activation"] in FROM_OUTPUT else (dz,)))


@inputs("dense_backward")
def _(draw, dtype):
    _, D_in, D_out, x, weight = _linear(draw, dtype)
    add_to = None
    if draw(st.booleans()):
        dbias = array(draw, (D_out,), dtype) if draw(st.booleans()) else None
        add_to = (array(draw, (D_in, D_out), dtype), dbias)
    shape = (*x.shape[:-1], D_out)
    args = {"dy": array(draw, shape, dtype), "x": x, "weight": weight, "kept": array(draw, shape, dtype, 3.0)}
    activation = draw(st.sampled_from(ACTIVATIONS))
    return {**args, "activation": activation, "need_dx": draw(st.booleans()), "add_to": add_to}


@bound("dense_backward")
def _(args, outs, eps):
    """dz within 12 eps |dy| (1 + k)(1 + k^2), k = |kept|, the largest bound of the activations' gradients; then the
    sums of linear_backward, over |dz| and that error."""
    D_in, D_out = args["weight"].shape
    B = int(np.prod(args["dy"].shape[:-1]))
    k = np.abs(args["kept"])
    off = (12 * eps * np.abs(args["dy"]) * (1 + k) * (1 + k * k)).reshape(B, D_out)
    with np.errstate(all="ignore"):
        dz = np.abs(getattr(ops, f"{args['activation']}_backward").numpy(args["dy"], args["kept"])).reshape(B, D_out)
    x, weight = np.abs(args["x"]).reshape(B, D_in), np.abs(args["weight"])
    dx = (gamma(D_out + 2, eps) * (dz @ weight.T) + 2 * off @ weight.T).reshape(args["x"].shape)
    old = (0, 0) if args["add_to"] is None else tuple(0 if o is None else np.abs(o) for o in args["add_to"])
    n = gamma(B + 3, eps)
    sums = [n * (x.T @ dz + old[0]) + 2 * x.T @ off, n * (dz.sum(axis=0) + old[1]) + 2 * off.sum(axis=0)]
    if args["add_to"] is not None:
        sums = (sums[:1] if args["add_to"][1] is None else sums) * 2
    return (*((dx,) if args["need_dx"] else ()), *sums)


def _smooth(args):
    z = args["x"] @ args["weight"] + (0 if args["bias"] is None else args["bias"])
    return args["activation"] not in KINKED or bool((np.abs(z) > 1e-3).all())


@gradient("dense", wrt=("x", "weight", "bias"), smooth=_smooth)
def _(args, dy):
    y, kept = ops.dense(**{**args, "keep": True})
    dx, dweight, dbias = ops.dense_backward(dy, args["x"], args["weight"], kept, args["activation"])
    grads = {"x": dx, "weight": dweight}
    return y, grads if args["bias"] is None else {**grads, "bias": dbias}
