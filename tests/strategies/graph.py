import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, generator, gradient, inputs, size


def _arguments(draw, dtype, grid):
    """A graph with nodes that no edge reaches, with many edges, with edges twice; sometimes more nodes than threads
    take at a time. With `grid`, numbers are multiples of 1/8 and their products sum without rounding, so that both
    bodies agree on the sign of every score."""
    N = draw(st.sampled_from([40, 70])) if draw(st.integers(0, 5)) == 0 else size(draw, 0, 17)
    K, D = draw(st.integers(0, 5)), size(draw, 0, 33)
    rng = generator(draw)
    degree = rng.integers(0, draw(st.integers(1, 6)), N)
    if N and draw(st.booleans()):
        degree[rng.integers(N)] = 40
    integer = draw(st.sampled_from([np.int64, np.int64, np.int32, np.uint64]))
    indptr = np.concatenate([[0], np.cumsum(degree)]).astype(integer)
    indices = rng.integers(0, max(N, 1), int(indptr[-1])).astype(integer)
    scale = draw(st.sampled_from([0.3, 1.0]))
    found = {"h": array(draw, (N, K, D), dtype), "source": array(draw, (K, D), dtype, scale)}
    found["target"] = array(draw, (K, D), dtype, scale)
    if grid:
        found = {name: np.round(a * 8) / 8 for name, a in found.items()}
    return {"indptr": indptr, "indices": indices, **found, "slope": draw(st.sampled_from([0.2, 0.0, 0.5, 1.0]))}


@inputs("graph_attention")
def _(draw, dtype):
    return _arguments(draw, dtype, grid=False)


@inputs("graph_attention_backward")
def _(draw, dtype):
    args = _arguments(draw, dtype, grid=True)
    alpha = ops.graph_attention.numpy(**args)[1]
    return {"dy": array(draw, args["h"].shape, dtype), "alpha": alpha, **args}


def _edges(args):
    """Target and source of each edge."""
    starts = args["indptr"].astype(np.int64)
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts)), args["indices"].astype(np.int64)


def _away_from_the_kink(args):
    row, j = _edges(args)
    u = (args["h"] * args["source"]).sum(axis=2)[j] + (args["h"] * args["target"]).sum(axis=2)[row]
    return bool((np.abs(u) > 1e-3).all())


@gradient("graph_attention", wrt=("h", "source", "target"), smooth=_away_from_the_kink)
def _(args, dy):
    y, alpha = ops.graph_attention(**args)
    dh, dsource, dtarget = ops.graph_attention_backward(dy, alpha, **args)
    return (y, alpha), {"h": dh, "source": dsource, "target": dtarget}


def _sums(to, terms, n):
    total = np.zeros((n, *terms.shape[1:]))
    np.add.at(total, to, terms)
    return total


@bound("graph_attention")
def _(args, outs, eps):
    """A score is a sum of 2 D products: within gamma(2 D + 2) of the sum of their absolute values. A weight is
    exp(e - m): the errors of e and m, half an eps of |e - m|, and 4 ulp of exp are its relative error; the sum over
    the n edges of a node has the weights' mean relative error and gamma(n); the division one rounding. y adds
    gamma(n + 1)."""
    row, j = _edges(args)
    h = np.abs(args["h"].astype(np.float64))
    alpha = outs[1].astype(np.float64)
    n, D = len(h), h.shape[2]
    count = int(np.bincount(row, minlength=1).max(initial=0)) if len(row) else 0
    s, t = (h * np.abs(args["source"])).sum(axis=2), (h * np.abs(args["target"])).sum(axis=2)
    score = gamma(2 * D + 4, eps) * (s[j] + t[row])
    worst = np.zeros(h.shape[:2])
    np.maximum.at(worst, row, score)
    distance = 2 * (s[j] + t[row]) + 2 * worst[row] / max(gamma(2 * D + 4, eps), 1e-300)
    relative = score + worst[row] + eps * distance / 2 + gamma(10, eps)
    relative = relative + _sums(row, alpha * relative, n)[row] + gamma(count + 4, eps)
    relative = np.expm1(np.minimum(relative, 50))
    tiny = 4 * np.finfo(outs[1].dtype).smallest_normal
    y = _sums(row, (alpha * (relative + gamma(count + 2, eps)))[:, :, None] * h[j], n)
    return y + tiny * (1 + count) * (1 + h.max(initial=0)), alpha * relative + tiny


@bound("graph_attention_backward")
def _(args, outs, eps):
    """Sums of products of sums of products: the number of roundings on the longest way, gamma, times the same formula
    in absolute values. The signs of the scores are exact (see the inputs)."""
    row, j = _edges(args)
    h, dy, alpha = (np.abs(args[name].astype(np.float64)) for name in ("h", "dy", "alpha"))
    n, D = len(h), h.shape[2]
    dalpha = (dy[row] * h[j]).sum(axis=2)
    du = max(1.0, args["slope"]) * alpha * (dalpha + _sums(row, alpha * dalpha, n)[row])
    ds, dt = _sums(j, du, n), _sums(row, du, n)
    dh = _sums(j, alpha[:, :, None] * dy[row], n)
    dh += ds[:, :, None] * np.abs(args["source"]) + dt[:, :, None] * np.abs(args["target"])
    g = gamma(D + 3 * len(row) + n + 20, eps)
    return g * dh, g * (ds[:, :, None] * h).sum(axis=0), g * (dt[:, :, None] * h).sum(axis=0)
