import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gradient, inputs, size
from tests.running import Running


def _half(draw):
    """B; sometimes enough rows for a second thread."""
    return draw(st.sampled_from([300, 513])) if draw(st.integers(0, 9)) == 0 else size(draw, 0, 20)


@inputs("goodness_contrast")
def _(draw, dtype):
    B, N = _half(draw), size(draw, 0, 40)
    z = array(draw, (2 * B, N), dtype, draw(st.sampled_from([1.0, 1e-3, 100.0])))
    if z.size:
        kind = draw(st.integers(0, 7))
        if kind == 0:
            z[draw(st.integers(0, 2 * B - 1))] = 0
        elif kind < 3:
            z.flat[draw(st.integers(0, z.size - 1))] = np.nan if kind == 1 else 0
    p = array(draw, (N,), dtype)
    if draw(st.integers(0, 9)) == 0:
        p[...] = 0
    theta = draw(st.sampled_from([4.0, 5.0, 0.1, 50.0]))
    return {"z": z, "p": p, "theta": theta, "magnitude": draw(st.booleans())}


@inputs("goodness_steps")
def _(draw, dtype):
    """Adam's memory is warm (its squares are not small), as a step along a gradient of almost 0 would turn a last bit
    into a whole step."""
    B, D, N = _half(draw), size(draw, 0, 33), size(draw, 1, 33)
    n = (D + 1) * N
    return {
        "param": array(draw, (n,), dtype),
        "m": array(draw, (n,), dtype, 0.1),
        "v": np.square(array(draw, (n,), dtype)) + dtype.type(0.1),
        "u": array(draw, (2 * B, D), dtype),
        "p": array(draw, (N,), dtype),
        "theta": draw(st.sampled_from([4.0, 0.5])),
        "step": draw(st.sampled_from([1, 2, 100, 10**6])),
        "lr": draw(st.sampled_from([1e-3, 0.0, 1e-2])),
        "steps": draw(st.sampled_from([0, 1, 2, 3])),
        "beta1": draw(st.sampled_from([0.9, 0.0])),
        "beta2": draw(st.sampled_from([0.999, 0.9])),
        "eps": draw(st.sampled_from([1e-8, 1e-3])),
    }


def _contrast(z, p, theta, magnitude, eps):
    """Running error analysis of the formula: loss, g, dz as running error numbers. A row or p of length 0 is exact.

    |z| has the error of z; so has sign(z), but where z is within its error of 0 it may be off by 2.
    """
    B = len(z.v) // 2
    number = Running.of(eps)
    sign = Running(np.sign(z.v), np.where(np.abs(z.v) <= z.e, 2.0 * (z.e > 0), 0), eps) if magnitude else number(1.0)
    v = Running(np.abs(z.v), z.e, eps) if magnitude else z

    def inverse(squared):
        zero = squared.v == 0
        safe = Running(np.where(zero, 1, squared.v), np.where(zero, 0, squared.e), eps)
        r = number(np.ones_like(safe.v)) / safe.sqrt()
        return Running(np.where(zero, 0, r.v), np.where(zero, 0, r.e), eps)

    r = inverse((v * v).sum(axis=1))
    p = number(p)
    a = inverse((p * p).sum(axis=0)) * p
    g = (v * a).sum(axis=1) * r
    t = -theta * (g[:B] - g[B:])
    value = np.maximum(t.v, 0) + np.log1p(np.exp(-np.abs(t.v)))
    loss = Running(value, t.e + 6 * eps * value, eps)  # softplus: slope below 1; exp, log1p of 4 ulp each, a sum
    w = theta / max(B, 1) * t.sigmoid()
    w = Running(np.concatenate([-w.v, w.v]), np.concatenate([w.e, w.e]), eps)
    column = (slice(None), None)
    return loss, g, (w * r)[column] * (sign * a - (g * r)[column] * z)


def _finite(e):
    """Where a bound is infinite or NaN, the results must be equal (both NaN)."""
    return np.where(np.isfinite(e), e, 0)


@bound("goodness_contrast")
def _(args, outs, eps):
    """Running error analysis of the formula; z and p are given exactly. exp in the sigmoid: 4 ulp."""
    z = Running.of(eps)(args["z"])
    return tuple(_finite(2 * x.e) for x in _contrast(z, args["p"], args["theta"], args["magnitude"], eps))


@bound("goodness_steps")
def _(args, outs, eps):
    """Running error analysis of all steps."""
    number = Running.of(eps)
    param, m, v, u = (number(args[name]) for name in ("param", "m", "v", "u"))
    D, N, B = u.v.shape[1], len(args["p"]), len(u.v) // 2
    beta1, beta2, losses = args["beta1"], args["beta2"], []
    for step in range(args["step"], args["step"] + args["steps"]):
        W, b = param[: D * N], param[D * N :]
        W = Running(W.v.reshape(D, N), W.e.reshape(D, N), eps)
        loss, _, dz = _contrast(u @ W + b, args["p"], args["theta"], True, eps)
        mean = loss.sum(axis=0) * (1 / max(B, 1))
        losses.append(mean.e)
        dW, db = u.T @ dz, dz.sum(axis=0)
        g = Running(np.concatenate([dW.v.ravel(), db.v]), np.concatenate([dW.e.ravel(), db.e]), eps)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * (g * g)
        denominator = v.sqrt() * (1 / np.sqrt(1 - beta2**step)) + args["eps"]
        param = param - args["lr"] / (1 - beta1**step) * (m / denominator)
    return np.array(losses), _finite(param.e), _finite(m.e), _finite(v.e)


def _smooth(args):
    """No activity next to the kink at 0, no row so short that its direction turns within a step."""
    z = args["z"]
    return bool((np.abs(z) > 1e-4).all() and (z.size == 0 or (np.linalg.norm(z, axis=1) > 0.1).all()))


@gradient("goodness_contrast", wrt=("z",), smooth=_smooth)
def _(args, dy):
    """Σ_b dy_b loss_b: the gradient of each pair alone is B dz, as L is their mean."""
    loss, _, dz = ops.goodness_contrast(**args)
    return loss, {"z": len(loss) * np.concatenate([dy, dy])[:, None] * dz}
