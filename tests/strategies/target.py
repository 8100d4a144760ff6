import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from refimpl.ops.target import ACTIVATIONS, LOSSES
from tests.harness import array, bound, generator, gradient, inputs, size
from tests.running import Running, stack


def _kind(draw, activations=ACTIVATIONS):
    loss = draw(st.sampled_from(LOSSES))
    fitting = [a for a in activations if loss != "logistic" or a in ("tanh", "sigmoid")]
    return {"loss": loss, "activation": draw(st.sampled_from(fitting)), "delta": draw(st.sampled_from([1.0, 0.3]))}


def _codes(draw, dtype, B, N):
    """Labels (B,) and codes (K, N): normal, between -1 and 1, or signs; now and then one of zeros."""
    K = draw(st.integers(1, 5))
    codes = array(draw, (K, N), dtype)
    how = draw(st.integers(0, 3))
    codes = np.tanh(codes) if how == 1 else np.sign(codes) if how == 2 else codes
    if draw(st.integers(0, 7)) == 0:
        codes[0] = 0
    whole = draw(st.sampled_from([np.int64, np.int32, np.uint8]))
    return {"labels": generator(draw).integers(0, K, B).astype(whole), "codes": codes}


@inputs("target_loss")
def _(draw, dtype):
    B, N = size(draw, 0, 40), size(draw, 0, 65)
    if draw(st.integers(0, 9)) == 0:
        B, N = 70, 300  # enough for a second thread
    z = array(draw, (B, N), dtype, draw(st.sampled_from([1.0, 1e-3, 30.0])))
    if z.size and draw(st.integers(0, 5)) == 0:
        z[draw(st.integers(0, B - 1))] = 0
    scale = draw(st.sampled_from([1.0, 1 / 64, -0.3]))
    return {"z": z, **_codes(draw, dtype, B, N), **_kind(draw), "scale": scale}


def _wide(draw):
    """B, D, N of a step; now and then beyond a block of units and the tiles of the C product."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([1, 1, 2, 19])), draw(st.integers(17, 200)), draw(st.sampled_from([31, 70, 130]))
    return draw(st.sampled_from([1, 1, 2, 3, 8])), size(draw, 0, 40), size(draw, 0, 40)


@inputs("target_step")
def _(draw, dtype):
    B, D, N = _wide(draw)
    weight, bias = array(draw, (N, D), dtype, 1 / max(D, 1) ** 0.5), array(draw, (N,), dtype)
    v_weight, v_bias, momentum = None, None, 0.0
    if draw(st.booleans()):
        v_weight, v_bias = array(draw, (N, D), dtype, 0.1), array(draw, (N,), dtype, 0.1)
        momentum = draw(st.sampled_from([0.9, 0.0]))
    args = {"x": array(draw, (B, D), dtype), **_codes(draw, dtype, B, N), "weight": weight, "bias": bias}
    args |= {
        "v_weight": v_weight,
        "v_bias": v_bias,
        "lr": draw(st.sampled_from([0.05, 1.0, 0.0])),
        "momentum": momentum,
    }
    return args | _kind(draw)


@inputs("rnn_target_sequence")
def _(draw, dtype):
    B, D, N = _wide(draw)
    T = draw(st.integers(0, 4)) if B < 19 else 2
    if draw(st.integers(0, 9)) == 0:
        B = 0
    shapes = {"w_x": (D, N), "w_h": (N, N), "bias": (N,)}
    own = {k: array(draw, s, dtype, 0.7 / max(s[0], 1) ** 0.5) for k, s in shapes.items()}
    kind = {k: v for k, v in _kind(draw, ("tanh",)).items() if k != "activation"}
    targets = _codes(draw, dtype, B * T, N)
    targets["labels"] = targets["labels"].reshape(B, T)
    args = {"x": array(draw, (B, T, D), dtype), "h0": np.tanh(array(draw, (B, N), dtype)), **targets, **own}
    args |= {f"d{k}": array(draw, s, dtype) for k, s in shapes.items()}
    weights = np.full(T, 1 / 64, dtype) if draw(st.booleans()) else np.arange(T).astype(dtype)
    return {**args, "weights": weights, **kind}


# ---------------------------------------------------------------- bounds: the formulas on running error numbers


def _inverse_root(x, eps):
    """1 / sqrt(x), and exactly 0 where x is."""
    r = Running.of(eps)(1.0) / x.sqrt()
    zero = x.v == 0
    return Running(np.where(zero, 0, r.v), np.where(zero, 0, r.e), eps)


def _jumps(x, jump):
    """The error of a function that jumps at x = 0: where x is within its error of 0, the jump."""
    return np.where((np.abs(x.v) <= x.e) & (x.e > 0), jump, 0.0)


def _target(z, t, loss, activation, delta, eps):
    """y, J and d as running error numbers."""
    number, slope = Running.of(eps), None
    if activation == "tanh":
        y = z.tanh()
        slope = 1 - y * y
    elif activation == "sigmoid":
        y = z.sigmoid()
        slope = y * (1 - y)
    elif activation == "relu":
        y = Running(np.maximum(z.v, 0), z.e, eps)
        slope = Running(1.0 * (z.v > 0), _jumps(z, 1), eps)
    else:
        y = z
    t = number(t)
    r = y - t
    if loss == "logistic":
        c, size = (2.0 if activation == "tanh" else 1.0), np.abs(z.v)
        tail = np.log1p(np.exp(-c * size))
        # exp and log1p of 4 ulp each; the slope of the tail is at most c / 2, and so is that of exp's error in it
        tail = Running(tail, z.e * c / 2 + 8 * eps * tail + eps * np.exp(-c * size) * c * size, eps)
        positive = Running(size if activation == "tanh" else np.maximum(z.v, 0), z.e, eps)
        return y, (positive - t * z + tail).sum(axis=1), r
    if loss == "l2":
        J, d = 0.5 * (r * r).sum(axis=1), r
    elif loss == "l1":
        J, d = Running(np.abs(r.v), r.e, eps).sum(axis=1), Running(np.sign(r.v), _jumps(r, 2), eps)
    elif loss == "huber":
        a, size = delta, Running(np.abs(r.v), r.e, eps)
        inner, outer = 0.5 * (r * r), a * (size - 0.5 * delta)
        near = np.abs(np.abs(r.v) - a) <= 4 * (r.e + eps * a)  # either branch; they touch there, to second order
        small = size.v <= a
        e = np.where(near, np.maximum(inner.e, outer.e) + (r.e + eps * a) ** 2 * 16, np.where(small, inner.e, outer.e))
        J = Running(np.where(small, inner.v, outer.v), e, eps).sum(axis=1)
        d = Running(np.clip(r.v, -a, a), r.e + eps * a, eps)
    elif loss == "cosine":
        u, v = _inverse_root((t * t).sum(axis=1), eps), _inverse_root((y * y).sum(axis=1), eps)
        g, column = (t * y).sum(axis=1) * u * v, (slice(None), None)
        J, d = 1 - g, (g * v * v)[column] * y - (u * v)[column] * t
    else:
        minus = number(-1.0)
        J, d = (t * y).sum(axis=1) * minus, t * minus
    return y, J, d if slope is None else d * slope


def _finite(e):
    return np.where(np.isfinite(e), e, np.inf)


@bound("target_loss")
def _(args, outs, eps):
    """Running error analysis; z and the codes are given exactly."""
    z = Running.of(eps)(args["z"])
    t = args["codes"][args["labels"]]
    y, J, d = _target(z, t, args["loss"], args["activation"], args["delta"], eps)
    return _finite(y.e), _finite(J.e), _finite((d * args["scale"]).e)


@bound("target_step")
def _(args, outs, eps):
    """Running error analysis of the whole step; the C core scales d by lr / B before the product."""
    number = Running.of(eps)
    x, weight, bias = (number(args[k]) for k in ("x", "weight", "bias"))
    y, J, d = _target(
        x @ weight.T + bias,
        args["codes"][args["labels"]],
        args["loss"],
        args["activation"],
        args["delta"],
        eps,
    )
    d = d * (1 / len(x.v))
    d = Running(d.v, d.e + 2 * eps * np.abs(d.v), eps)
    params, velocities = [], []
    for param, name, g in ((weight, "v_weight", d.T @ x), (bias, "v_bias", d.sum(axis=0))):
        if args[name] is not None:
            g = args["momentum"] * number(args[name]) + g
            velocities.append(_finite(g.e))
        params.append(_finite((param - args["lr"] * g).e))
    return _finite(y.e), _finite(J.e), *params, *velocities


@bound("rnn_target_sequence")
def _(args, outs, eps):
    """Running error analysis of the formulas, carried through all steps."""
    number = Running.of(eps)
    x, h, w_x, w_h, bias = (number(args[k]) for k in ("x", "h0", "w_x", "w_h", "bias"))
    (B, T, D), N = x.v.shape, h.v.shape[1]
    before, ys, Js, ds = [], [], [], []
    for t in range(T):
        before.append(h)
        z = x[:, t] @ w_x + bias + h @ w_h
        h, J, d = _target(z, args["codes"][args["labels"][:, t]], args["loss"], "tanh", args["delta"], eps)
        ys.append(h)
        Js.append(J)
        ds.append(d * number(args["weights"][t]))
    if T == 0:  # no step: nothing is written
        return tuple(np.zeros(o.shape) for o in outs)
    d, h = stack(ds, 1).reshape(B * T, N), stack(before, 1).reshape(B * T, N)
    gradients = x.reshape(B * T, D).T @ d, h.T @ d, d.sum(axis=0)
    sums = [_finite((number(args[k]) + g).e) for k, g in zip(("dw_x", "dw_h", "dbias"), gradients)]
    return _finite(stack(ys, 1).e), _finite(stack(Js, 1).e), *sums


# ---------------------------------------------------------------- gradients


def _smooth(args):
    """No unit next to a kink; no row so short that its direction turns within a step."""
    z, loss, activation = args["z"], args["loss"], args["activation"]
    y, t = ops.target_loss.numpy(**args)[0], args["codes"][args["labels"]]
    r = y - t
    away = {
        "l1": np.abs(r) > 1e-3,
        "huber": np.abs(np.abs(r) - args["delta"]) > 1e-3,
        "cosine": (np.linalg.norm(y, axis=1) > 0.1) | (len(y) == 0),
    }
    smooth = bool(np.all(away.get(loss, True))) and bool(np.abs(z).max(initial=0) < 10)
    return smooth and (activation != "relu" or bool((np.abs(z) > 1e-3).all()))


@gradient("target_loss", wrt=("z",), outputs=2, smooth=_smooth)
def _(args, dy):
    """Σ dy y + Σ_b dJ_b J_b: through the activation, whose slope y gives, and the local error."""
    y, J, d = ops.target_loss(**args)
    slope = {"tanh": 1 - y * y, "sigmoid": y * (1 - y), "relu": 1.0 * (y > 0), "identity": np.ones_like(y)}
    return (y, J), {"z": dy[0] * slope[args["activation"]] + dy[1][:, None] * d / args["scale"]}
