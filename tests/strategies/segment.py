import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, generator, gradient, inputs, size, ulps

REDUCTIONS = ("segment_sum", "segment_mean", "segment_max")


def _segment(draw, E):
    """Segments of E rows, unsorted or sorted, some of them empty; and their number."""
    n = size(draw, 1 if E else 0, 20)
    segment = generator(draw).integers(0, max(1, draw(st.sampled_from([n, n, min(n, 2)]))), E)
    if draw(st.booleans()):
        segment = np.sort(segment)
    return segment.astype(draw(st.sampled_from([np.int64, np.int64, np.int32, np.uint64]))), n


@inputs(*REDUCTIONS)
def _(draw, dtype):
    E = size(draw)
    x = array(draw, (E, size(draw)), dtype, special=True)
    if draw(st.booleans()):
        x = np.round(x)  # equal maxima
    segment, n = _segment(draw, E)
    return {"x": x, "segment": segment, "n_segments": n}


@inputs("segment_sum_backward", "segment_mean_backward")
def _(draw, dtype):
    segment, n = _segment(draw, size(draw))
    return {"dy": array(draw, (n, size(draw)), dtype, special=True), "segment": segment}


@inputs("segment_max_backward")
def _(draw, dtype):
    E = size(draw)
    segment, n = _segment(draw, E)
    _, argmax = ops.segment_max.numpy(array(draw, (E, size(draw)), dtype), segment, n)
    return {"dy": array(draw, argmax.shape, dtype, special=True), "argmax": argmax, "E": E}


def _scores_shape(draw):
    E = size(draw)
    return (E,) if draw(st.booleans()) else (E, size(draw, 0, 34))


@inputs("segment_softmax")
def _(draw, dtype):
    scores = array(draw, _scores_shape(draw), dtype, draw(st.sampled_from([1.0, 30.0])), special=True)
    if draw(st.booleans()):
        scores[generator(draw).random(len(scores)) < 0.5] = -np.inf
    segment, n = _segment(draw, len(scores))
    return {"scores": scores, "segment": segment, "n_segments": n}


@inputs("segment_softmax_backward")
def _(draw, dtype):
    scores = array(draw, _scores_shape(draw), dtype)
    segment, n = _segment(draw, len(scores))
    y = ops.segment_softmax.numpy(scores, segment, n)
    return {"dy": array(draw, y.shape, dtype), "y": y, "segment": segment, "n_segments": n}


def _linear_gradient(name):
    @gradient(name, wrt=("x",))
    def _(args, dy):
        return getattr(ops, name)(**args), {"x": getattr(ops, f"{name}_backward")(dy, args["segment"])}


_linear_gradient("segment_sum")
_linear_gradient("segment_mean")


def _no_near_ties(args):
    x, segment = args["x"], args["segment"]
    gaps = [np.diff(np.sort(x[segment == s], axis=0), axis=0) for s in range(args["n_segments"])]
    return all((g > 1e-3).all() for g in gaps)


@gradient("segment_max", wrt=("x",), smooth=_no_near_ties)
def _(args, dy):
    y, argmax = ops.segment_max(**args)
    return (y, argmax), {"x": ops.segment_max_backward(dy, argmax, len(args["x"]))}


@gradient("segment_softmax", wrt=("scores",))
def _(args, dy):
    y = ops.segment_softmax(**args)
    return y, {"scores": ops.segment_softmax_backward(dy, y, args["segment"], args["n_segments"])}


# Copies, and sums in the same order without a product: equal to the last bit.
bound("segment_sum", "segment_sum_backward", "segment_max_backward")(ulps(0))
# A maximum is one of its terms; the row where it stands must be the same too.
bound("segment_max")(lambda args, outs, eps: 0)
# One division more.
bound("segment_mean", "segment_mean_backward")(ulps(1))


@bound("segment_softmax")
def _(args, outs, eps):
    """exp(s - m): the difference is rounded once (eps/2 |s - m|), exp is within 4 ulp; the sum of n such terms adds
    gamma(n), the division one rounding. The error of s - m matters only where exp(s - m) is no zero."""
    scores, segment, y = args["scores"], args["segment"].astype(np.int64), outs[0]
    m = np.full((args["n_segments"], *scores.shape[1:]), -np.inf)
    np.maximum.at(m, segment, scores)
    distance = np.minimum(np.abs(scores - m[segment]), 800)
    # Σ p |s - m| <= the sum over the segment of |s - m| exp(s - m), at most n / e
    relative = eps * (distance + len(scores)) / 2 + gamma(len(scores) + 12, eps)
    return relative * y + 4 * np.finfo(y.dtype).smallest_normal


@bound("segment_softmax_backward")
def _(args, outs, eps):
    """dy y summed over n rows: gamma(n + 1) times the sum of |dy y|; one difference and one product more."""
    dy, y, segment = np.abs(args["dy"]), args["y"], args["segment"].astype(np.int64)
    total = np.zeros((args["n_segments"], *y.shape[1:]))
    np.add.at(total, segment, dy * y)
    return gamma(len(y) + 4, eps) * y * (dy + total[segment])
