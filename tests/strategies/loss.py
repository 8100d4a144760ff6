import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, generator, gradient, inputs, size
from tests.running import Running
from tests.strategies.softmax import distance, log_error, rows, sum_error, with_infinities

LOSSES = ("mse", "l1")


def _classes(draw, dtype):
    """The shape (B, K), and what cross_entropy and its backward pass share. At least one sample counts."""
    kind = draw(st.sampled_from(["small"] * 6 + ["long", "many"]))
    if kind == "long":
        B, K = draw(st.integers(1, 70)), draw(st.integers(500, 2100))
    elif kind == "many":
        B, K = draw(st.integers(300, 3000)), draw(st.integers(1, 12))
    else:
        B, K = size(draw, 1, 33), size(draw, 1, 100)
    rng = generator(draw)
    target = rng.integers(0, K, B).astype(draw(st.sampled_from([np.int64, np.int32, np.int16, np.uint64])))
    counts = np.ones(B, bool)
    ignore_index = draw(st.sampled_from([None, None, -100, 0] if K > 1 else [None, -100]))
    if ignore_index is not None and (ignore_index >= 0 or target.dtype.kind == "i"):
        counts = rng.random(B) < 0.7
        counts[rng.integers(B)] = True
        target[counts & (target == ignore_index)] = K - 1
        target[~counts] = ignore_index
    weight = None
    if draw(st.booleans()):
        weight = (3 * rng.random(B) * (rng.random(B) < 0.8)).astype(dtype)
        weight[np.flatnonzero(counts)[0]] = 0.5
    smoothing = draw(st.sampled_from([0.0, 0.0, 0.1, 0.75, 1.0]))
    return (B, K), {"target": target, "label_smoothing": smoothing, "ignore_index": ignore_index, "weight": weight}


def _dloss(draw):
    return draw(st.sampled_from([1.0, -0.3, 128.0]))


@inputs("cross_entropy")
def _(draw, dtype):
    shape, rest = _classes(draw, dtype)
    z = array(draw, shape, dtype, draw(st.sampled_from([1.0, 30.0])))
    return {"logits": with_infinities(draw, z, draw(st.sampled_from([(-np.inf,), (np.nan, np.inf)]))), **rest}


@inputs("cross_entropy_backward")
def _(draw, dtype):
    shape, rest = _classes(draw, dtype)
    return {"p": ops.softmax.numpy(array(draw, shape, dtype, 3.0)), **rest, "dloss": _dloss(draw)}


@gradient("cross_entropy", wrt=("logits",))
def _(args, dloss):
    loss, p = ops.cross_entropy(**args)
    rest = {k: v for k, v in args.items() if k != "logits"}
    return loss, {"logits": ops.cross_entropy_backward(p, **rest, dloss=float(dloss))}


def _class_of(args):
    """The target, any class for a sample that is ignored."""
    target, ignored = args["target"], args["ignore_index"]
    return target if ignored is None else np.where(target == ignored, 0, target)


def _shares(args):
    """w_b / Σ w, 0 for a sample that is ignored."""
    target = args["target"]
    w = np.ones(target.shape) if args["weight"] is None else args["weight"].astype(np.float64)
    if args["ignore_index"] is not None:
        w = np.where(target == args["ignore_index"], 0, w)
    return w / w.sum()


@bound("cross_entropy")
def _(args, outs, eps):
    """The loss is a weighted sum of B values CE = Σ_k q_k |log p_k|: each log p within log_error, a sum of K of them,
    the products with q and w, the sum over B and the division. p as in softmax."""
    z = args["logits"]
    (B, K), s, d = z.shape, args["label_smoothing"], distance(args["logits"])
    log_K = np.log(K)
    t = (
        np.where(args["target"] == args["ignore_index"], 0, args["target"])
        if args["ignore_index"] is not None
        else None
    )
    t = args["target"] if t is None else t
    d_t = d[np.arange(B), t]
    ce = (1 - s) * (d_t + log_K) + s * (d.mean(axis=1) + log_K)  # an upper bound of CE
    error = (1 - s) * log_error(d_t, K, eps) + s * log_error(d, K, eps).mean(axis=1) + gamma(K + 6, eps) * ce
    share = _shares(args)
    loss = (share * (error + gamma(2 * B + 6, eps) * ce)).sum()
    p = outs[1] * (sum_error(K, eps) + (6 + d) * eps) + np.finfo(z.dtype).tiny
    return loss, p


@bound("cross_entropy_backward")
def _(args, outs, eps):
    """dloss w / Σ w (p - q): the weights' sum and six roundings of terms below p + q."""
    p, s = args["p"], args["label_smoothing"]
    B, K = p.shape
    q = np.full(p.shape, s / K)
    q[np.arange(B), _class_of(args)] += 1 - s
    return gamma(B + 10, eps) * abs(args["dloss"]) * _shares(args)[:, None] * (p + q)


# ---------------------------------------------------------------- log-probability of a token


def _tokens(draw, dtype):
    N, V = size(draw, 0, 40), draw(st.one_of(st.integers(1, 80), st.integers(500, 2100)))
    z = array(draw, (N, V), dtype, draw(st.sampled_from([1.0, 30.0])))
    if V > 1 and draw(st.booleans()):
        z[:, 1:][generator(draw).random((N, V - 1)) < 0.2] = -np.inf
    return z, generator(draw).integers(0, V, N).astype(draw(st.sampled_from([np.int64, np.int32, np.uint16])))


@inputs("log_prob")
def _(draw, dtype):
    z, target = _tokens(draw, dtype)
    return {"logits": z, "target": target}


@inputs("log_prob_backward")
def _(draw, dtype):
    z, target = _tokens(draw, dtype)
    return {
        "dlp": array(draw, (len(z),), dtype),
        "logits": z,
        "target": target,
        "lse": ops.log_prob.numpy(z, target)[1],
        "out": None,
    }


@gradient("log_prob", wrt=("logits",), smooth=lambda args: bool(np.isfinite(args["logits"]).all()))
def _(args, dy):
    lp, lse = ops.log_prob(**args)
    dlp = dy[0] if isinstance(dy, tuple) else dy
    return lp, {"logits": ops.log_prob_backward(dlp, args["logits"], args["target"], lse)}


@bound("log_prob")
def _(args, outs, eps):
    """As log_softmax and logsumexp: the row's maximum is taken off and added again."""
    z = args["logits"]
    K, m = z.shape[1], np.abs(z.max(axis=1, initial=-np.inf))
    lse = log_error(0, K, eps) + eps * (m + np.abs(outs[1]))
    zt = z[np.arange(len(z)), args["target"]]
    return lse + eps * (np.where(np.isfinite(zt), np.abs(zt), 0) + np.abs(outs[1])), lse


@bound("log_prob_backward")
def _(args, outs, eps):
    """dlp (onehot - p): z - lse rounded once, exp within 4 ulp, two roundings of terms below onehot + p."""
    z, lse = args["logits"], args["lse"][:, None]
    d = np.where(np.isfinite(z), np.abs(z - lse), 0)
    p = np.exp(np.minimum(z - lse, 0).astype(np.float64))
    q = np.zeros(z.shape)
    q[np.arange(len(z)), args["target"]] = 1
    return np.abs(args["dlp"])[:, None] * eps * (p * (8 + d) + 2 * q) + np.finfo(z.dtype).tiny


# ---------------------------------------------------------------- means over all elements


def _shape(draw):
    if draw(st.integers(0, 5)) == 0:
        return (draw(st.integers(4000, 20000)),)
    return tuple(size(draw, 1, 40) for _ in range(draw(st.integers(0, 3))))


def _binary(draw, dtype):
    shape = _shape(draw)
    z = array(draw, shape, dtype, draw(st.sampled_from([1.0, 30.0])))
    rng = generator(draw)
    t = np.asarray(rng.random(shape) if draw(st.booleans()) else rng.integers(0, 2, shape)).astype(dtype)
    weight = np.asarray(rng.random(shape) * 2).astype(dtype) if draw(st.booleans()) else None
    return {"logits": with_infinities(draw, z, (np.inf, -np.inf, np.nan)), "target": t, "weight": weight}


@inputs("binary_cross_entropy_with_logits")
def _(draw, dtype):
    return _binary(draw, dtype)


@inputs("binary_cross_entropy_with_logits_backward")
def _(draw, dtype):
    return {**_binary(draw, dtype), "dloss": _dloss(draw)}


@gradient(
    "binary_cross_entropy_with_logits",
    wrt=("logits",),
)
def _(args, dloss):
    loss = ops.binary_cross_entropy_with_logits(**args)
    return loss, {"logits": ops.binary_cross_entropy_with_logits_backward(**args, dloss=float(dloss))}


def _given(weight):
    return 1 if weight is None else weight


@bound("binary_cross_entropy_with_logits")
def _(args, outs, eps):
    """Terms |z|, |z t| and log1p <= log 2 (exp and log1p within 4 ulp each), 4 roundings; then the mean of n."""
    z, t, w = np.abs(args["logits"]), args["target"], _given(args["weight"])
    return gamma(z.size + 20, eps) * np.mean(w * (z * (1 + t) + 1), dtype=np.float64)


@bound("binary_cross_entropy_with_logits_backward")
def _(args, outs, eps):
    """dloss/n w (σ - t): σ within 6 ulp, four roundings of terms below σ + t <= 2."""
    scale = abs(args["dloss"]) / args["logits"].size
    return 12 * eps * scale * np.abs(_given(args["weight"])) * (1 + args["target"])


def _distance(name):
    @inputs(name)
    def _(draw, dtype):
        shape = _shape(draw)
        special = draw(st.integers(0, 3)) == 0
        values = (np.inf, -np.inf, np.nan)
        prediction = array(draw, shape, dtype)
        return {
            "prediction": with_infinities(draw, prediction, values) if special else prediction,
            "target": array(draw, shape, dtype),
        }

    @inputs(f"{name}_backward")
    def _(draw, dtype):
        shape = _shape(draw)
        prediction, target = array(draw, shape, dtype), array(draw, shape, dtype)
        if draw(st.booleans()):
            target = np.where(generator(draw).random(shape) < 0.3, prediction, target)  # no distance, no direction
        return {"prediction": prediction, "target": np.asarray(target), "dloss": _dloss(draw)}

    def smooth(args):
        return name != "l1" or bool((np.abs(args["prediction"] - args["target"]) > 1e-3).all())

    @gradient(name, wrt=("prediction", "target"), smooth=smooth)
    def _(args, dloss):
        d = getattr(ops, f"{name}_backward")(**args, dloss=float(dloss))
        return getattr(ops, name)(**args), {"prediction": d, "target": -d}


for _name in LOSSES:
    _distance(_name)


@bound("mse")
def _(args, outs, eps):
    """n squares of a rounded difference, then their mean."""
    n = args["target"].size
    return gamma(n + 6, eps) * np.mean(np.square(args["prediction"] - args["target"]), dtype=np.float64)


@bound("l1")
def _(args, outs, eps):
    n = args["target"].size
    return gamma(n + 4, eps) * np.mean(np.abs(args["prediction"] - args["target"]), dtype=np.float64)


@bound("mse_backward", "l1_backward")
def _(args, outs, eps):
    """A rounded factor times a rounded difference (or a sign)."""
    return 2 * eps * np.abs(outs[0]) + np.finfo(outs[0].dtype).smallest_subnormal


def _log_probabilities(draw, shape, dtype):
    z = ops.log_softmax.numpy(array(draw, shape, dtype, 2.0)) if draw(st.booleans()) else array(draw, shape, dtype)
    return with_infinities(draw, z)


@inputs("kl_divergence")
def _(draw, dtype):
    shape = tuple(max(n, 1) for n in rows(draw))
    return {"log_p": _log_probabilities(draw, shape, dtype), "log_q": _log_probabilities(draw, shape, dtype)}


@inputs("kl_divergence_backward")
def _(draw, dtype):
    shape = tuple(max(n, 1) for n in rows(draw))
    log_p, log_q = _log_probabilities(draw, shape, dtype), _log_probabilities(draw, shape, dtype)
    return {"log_p": log_p, "log_q": log_q, "dloss": _dloss(draw)}


@gradient("kl_divergence", wrt=("log_p", "log_q"))
def _(args, dloss):
    dlog_p, dlog_q = ops.kl_divergence_backward(**args, dloss=float(dloss))
    return ops.kl_divergence(**args), {"log_p": dlog_p, "log_q": dlog_q}


@bound("kl_divergence")
def _(args, outs, eps):
    """Products of exp (4 ulp) and a rounded difference; n of them are added, then a division."""
    log_p, log_q = args["log_p"], args["log_q"]
    p = np.exp(log_p)
    terms = np.where(p == 0, 0, p * np.abs(log_p - log_q)).astype(np.float64)
    B = log_p.size // log_p.shape[-1]
    return gamma(log_p.size + 14, eps) * terms.sum() / B


@bound("kl_divergence_backward")
def _(args, outs, eps):
    """dloss/B p (log p - log q + 1): exp within 4 ulp and five roundings of terms below p (|log p - log q| + 1)."""
    log_p, log_q = args["log_p"], args["log_q"]
    p = np.exp(log_p) * abs(args["dloss"]) * log_p.shape[-1] / log_p.size
    difference = np.where(p == 0, 0, np.abs(log_p - log_q))
    return gamma(16, eps) * p * (difference + 1), gamma(16, eps) * p


# ---------------------------------------------------------------- cosine similarity


def _pair_of_vectors(draw, dtype):
    shape = rows(draw)
    a, b = array(draw, shape, dtype), array(draw, shape, dtype, draw(st.sampled_from([1.0, 1e-3])))
    if a.size and draw(st.integers(0, 3)) == 0:
        a[..., :] = np.where(generator(draw).random((*shape[:-1], 1)) < 0.5, 0, a)  # zero vectors
    return {"a": a, "b": b, "eps": draw(st.sampled_from([1e-8, 1e-8, 0.5]))}


@inputs("cosine_similarity")
def _(draw, dtype):
    return _pair_of_vectors(draw, dtype)


@inputs("cosine_similarity_backward")
def _(draw, dtype):
    args = _pair_of_vectors(draw, dtype)
    s, norm_a, norm_b = ops.cosine_similarity.numpy(**args)
    eps = args.pop("eps")
    return {"ds": array(draw, s.shape, dtype), **args, "s": s, "norm_a": norm_a, "norm_b": norm_b, "eps": eps}


def _away_from_the_clamp(args):
    """No kink: no norm near eps, none so small that a central difference crosses zero."""
    norms = np.concatenate([np.linalg.norm(args[k], axis=-1).ravel() for k in ("a", "b")])
    eps = args["eps"]
    return bool((((norms > 1.01 * eps) & (norms > 0.3)) | (norms < 0.99 * eps - 1e-3)).all())


@gradient("cosine_similarity", wrt=("a", "b"), smooth=_away_from_the_clamp)
def _(args, ds):
    s, norm_a, norm_b = ops.cosine_similarity(**args)
    da, db = ops.cosine_similarity_backward(ds, args["a"], args["b"], s, norm_a, norm_b, args["eps"])
    return (s, norm_a, norm_b), {"a": da, "b": db}


@bound("cosine_similarity")
def _(args, outs, eps):
    """A sum of D products and two norms, each with relative error below gamma(D/2 + 2); two quotients."""
    a, b = args["a"], args["b"]
    D = a.shape[-1]
    A, B = np.maximum(outs[1], args["eps"]), np.maximum(outs[2], args["eps"])
    s = gamma(2 * D + 10, eps) * np.abs(a * b).sum(axis=-1) / A / B
    tiny = np.finfo(a.dtype).tiny
    return s + tiny, gamma(D + 4, eps) * outs[1] + tiny, gamma(D + 4, eps) * outs[2] + tiny


@bound("cosine_similarity_backward")
def _(args, outs, eps):
    """ds (b / (A B) - s a / A²): eight roundings of each term."""
    ds, a, b, s = (np.abs(args[k]) for k in ("ds", "a", "b", "s"))
    A, B = np.maximum(args["norm_a"], args["eps"]), np.maximum(args["norm_b"], args["eps"])
    cross, own_a, own_b = ((v)[..., None] for v in (ds / A / B, ds * s / A / A, ds * s / B / B))
    tiny = np.finfo(a.dtype).tiny
    return gamma(10, eps) * (cross * b + own_a * a) + tiny, gamma(10, eps) * (cross * a + own_b * b) + tiny


# ---------------------------------------------------------------- agreement of two sets of maps


@inputs("map_agreement")
def _(draw, dtype):
    """Now and then many maps (more than a block of partial sums), long ones (more than a stretch), bright and flat
    ones, maps without contrast (whose mean is exact), equal ones."""
    shape = tuple(size(draw, 1, most) for most in (4, 5, 9, 33))
    if draw(st.integers(0, 5)) == 0:
        shape = draw(st.sampled_from([(40, 70, 2, 2), (1, 2, 40, 53), (8, 9, 32, 32), (1, 1, 1, 5000)]))
    a, c = array(draw, shape, dtype), array(draw, shape, dtype, draw(st.sampled_from([1.0, 1e-3])))
    rng, kind = generator(draw), draw(st.integers(0, 9))
    some = rng.random((*shape[:2], 1, 1)) < 0.4
    if kind == 0:
        a += dtype.type(100)
    elif kind == 1:  # as behind a ReLU: channels that are dead in one network, or in both
        a, c = np.where(some, 0, np.maximum(a, 0)), np.where(rng.random(some.shape) < 0.4, 0, np.maximum(c, 0))
    elif kind == 2:
        c = np.where(some, dtype.type(0.5), c)
    elif kind == 3:
        c = np.where(some, a, c)
    elif kind == 4:
        a = with_infinities(draw, a, (np.inf, np.nan))
    return {
        "a": a,
        "c": c,
        "sC": draw(st.sampled_from([1.0, 0.3, 0.0])),
        "sD": draw(st.sampled_from([None, 1.0, 0.7, 0.0])),
        "need_da": draw(st.integers(0, 4)) > 0,
        "need_dc": draw(st.integers(0, 4)) > 0,
        "eps": draw(st.sampled_from([1e-8, 1e-8, 0.1])),
    }


def _unit_maps(x, eps, e):
    """norm(a), u, n and n + e as running error numbers, x (maps, S). A map without contrast is exact: it was drawn so
    that its mean is."""
    number, column = Running.of(eps), (slice(None), None)
    u = number(x) - (number(x).sum(axis=1) / float(x.shape[1]))[column]
    flat = (x == x[:, :1]).all(axis=1)
    u = Running(np.where(flat[column], 0, u.v), np.where(flat[column], 0, u.e), eps)
    n = (u * u).sum(axis=1).sqrt()
    n = Running(np.where(flat, 0, n.v), np.where(flat, 0, n.e), eps)
    long = n + e
    return u / long[column], u, n, long, flat


def _unit_maps_backward(g, u, n, long, flat, eps):
    column = (slice(None), None)
    safe = Running(np.where(flat, 1, n.v), np.where(flat, 0, n.e), eps)
    du = g / long[column] - u * ((u * g).sum(axis=1) / (safe * long * long))[column]
    return du - (du.sum(axis=1) / float(u.v.shape[1]))[column]


@bound("map_agreement")
def _(args, outs, eps):
    """Running error analysis of the formula. (In the C core <u, g> comes from <u, u> and <u, v>: three sums of as many
    terms, of which each is at most as large as those that the formula adds, and n times the rounding of norm(a).)"""
    a, c, sC, sD = (args[k] for k in ("a", "c", "sC", "sD"))
    number, (B, C, H, W), N = Running.of(eps), a.shape, float(a.size)
    a, c = a.reshape(B * C, H * W), c.reshape(B * C, H * W)
    error = number(a) - number(c)
    loss = (H * sC / N) * (error * error).reshape(-1).sum(axis=0)
    da = error * (2 * H * sC / N)
    dc = number(0.0) - da
    if sD is not None:
        (ahat, *mine), (chat, *other) = _unit_maps(a, eps, args["eps"]), _unit_maps(c, eps, args["eps"])
        error = ahat - chat
        loss = loss + (H * sD / N) * (error * error).reshape(-1).sum(axis=0)
        g = error * (2 * H * sD / N)
        da, dc = da + _unit_maps_backward(g, *mine, eps), dc - _unit_maps_backward(g, *other, eps)
    given = [d.reshape(B, C, H, W) for name, d in (("need_da", da), ("need_dc", dc)) if args[name]]
    return tuple(np.where(np.isnan(x.e), np.inf, x.e) for x in (loss, *given))


def _with_contrast(args):
    """No map so flat that it turns within a step. Far from 0 and 1 the difference quotient has no digits left."""
    maps = [args[k].reshape(-1, args[k].shape[2] * args[k].shape[3]) for k in ("a", "c")]
    if not all(np.isfinite(x).all() and np.abs(x).max() < 50 for x in maps):
        return False
    spread = [np.linalg.norm(x - x.mean(axis=1, keepdims=True), axis=1) for x in maps]
    return args["sD"] is None or maps[0].shape[1] == 1 or all((s > 0.1).all() for s in spread)


@gradient("map_agreement", wrt=("a", "c"), smooth=_with_contrast)
def _(args, dloss):
    loss, da, dc = ops.map_agreement(**{**args, "need_da": True, "need_dc": True})
    return loss, {"a": dloss * da, "c": dloss * dc}
