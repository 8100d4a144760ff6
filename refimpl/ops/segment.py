"""Sums, means, maxima and softmax over segments of rows, with their gradients. C mirror: native/src/segment.c.

x (E, D) holds a row for each element (an edge of a graph, say) and segment (E,) says to which of n_segments groups it
belongs: integers in [0, n_segments), in any order. All float arrays are float32 or float64. Sums run in the order of
the rows. Errors: TypeError for dtypes, ValueError for shapes that do not fit or a segment out of range.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = [
    "segment_max",
    "segment_max_backward",
    "segment_mean",
    "segment_mean_backward",
    "segment_softmax",
    "segment_softmax_backward",
    "segment_sum",
    "segment_sum_backward",
]


def _checked(op: str, x: np.ndarray, segment: np.ndarray, n_segments: int) -> int:
    """All but the range of `segment`."""
    _check.floats(op, "x", x)
    _check.ndim(op, "x", x, 2)
    _check.integers(op, "segment", segment)
    _check.shape(op, "segment", segment, x.shape[:1])
    return _check.count(op, "n_segments", n_segments, x.shape[1])


def _checked_spread(op: str, dy: np.ndarray, segment: np.ndarray) -> None:
    _check.floats(op, "dy", dy)
    _check.ndim(op, "dy", dy, 2)
    _check.integers(op, "segment", segment)
    _check.ndim(op, "segment", segment, 1)


def _checked_max_backward(op: str, dy: np.ndarray, argmax: np.ndarray, E: int) -> int:
    _check.floats(op, "dy", dy)
    _check.ndim(op, "dy", dy, 2)
    _check.integers(op, "argmax", argmax)
    _check.shape(op, "argmax", argmax, dy.shape)
    return _check.count(op, "E", E, dy.shape[1])


def _argmax_range(op: str, argmax: np.ndarray, E: int) -> None:
    outside = (argmax < -1) | (argmax >= E)
    if outside.any():
        raise ValueError(f"{op}: argmax holds {argmax[outside][0]}, expected -1 or values in [0, {E})")


def _checked_softmax(op: str, scores: np.ndarray, segment: np.ndarray, n_segments: int) -> int:
    _check.floats(op, "scores", scores)
    _check.ndim(op, "scores", scores, 1, 2)
    _check.integers(op, "segment", segment)
    _check.shape(op, "segment", segment, scores.shape[:1])
    return _check.count(op, "n_segments", n_segments, scores.shape[1] if scores.ndim == 2 else 1)


def _checked_softmax_backward(op: str, dy: np.ndarray, y: np.ndarray, segment: np.ndarray, n_segments: int) -> int:
    _check.floats(op, "dy y", dy, y)
    _check.ndim(op, "y", y, 1, 2)
    _check.shape(op, "dy", dy, y.shape)
    _check.integers(op, "segment", segment)
    _check.shape(op, "segment", segment, y.shape[:1])
    return _check.count(op, "n_segments", n_segments, y.shape[1] if y.ndim == 2 else 1)


def _counts(segment: np.ndarray, n_segments: int, dtype: np.dtype) -> np.ndarray:
    """Rows of each segment, at least 1: (n_segments, 1)."""
    count = np.bincount(segment.astype(np.int64), minlength=n_segments)
    return np.maximum(count, 1).astype(dtype)[:, None]


@operation
def segment_sum(x: np.ndarray, segment: np.ndarray, n_segments: int) -> np.ndarray:
    """y_s = sum of the x_e with segment_e = s: (n_segments, D), 0 for an empty segment."""
    n_segments = _checked("segment_sum", x, segment, n_segments)
    _check.index_range("segment_sum", "segment", segment, n_segments)
    y = np.zeros((n_segments, x.shape[1]), x.dtype)
    np.add.at(y, segment, x)
    return y


@operation
def segment_sum_backward(dy: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """dx_e = dy of e's segment: (E, D)."""
    _checked_spread("segment_sum_backward", dy, segment)
    _check.index_range("segment_sum_backward", "segment", segment, len(dy))
    return dy[segment]


@operation
def segment_mean(x: np.ndarray, segment: np.ndarray, n_segments: int) -> np.ndarray:
    """y_s = mean of the x_e with segment_e = s: (n_segments, D), 0 for an empty segment."""
    n_segments = _checked("segment_mean", x, segment, n_segments)
    _check.index_range("segment_mean", "segment", segment, n_segments)
    y = np.zeros((n_segments, x.shape[1]), x.dtype)
    np.add.at(y, segment, x)
    return y / _counts(segment, n_segments, x.dtype)


@operation
def segment_mean_backward(dy: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """dx_e = dy of e's segment / number of its rows: (E, D)."""
    _checked_spread("segment_mean_backward", dy, segment)
    _check.index_range("segment_mean_backward", "segment", segment, len(dy))
    return (dy / _counts(segment, len(dy), dy.dtype))[segment]


@operation
def segment_max(x: np.ndarray, segment: np.ndarray, n_segments: int) -> tuple[np.ndarray, np.ndarray]:
    """y_sd = max of the x_ed with segment_e = s, and the row e where it stands (the first of equal ones).

    Returns y (n_segments, D) and argmax (n_segments, D) int64. An empty segment gives y = 0 and argmax = -1. A NaN is
    the maximum of its segment.
    """
    n_segments = _checked("segment_max", x, segment, n_segments)
    _check.index_range("segment_max", "segment", segment, n_segments)
    E, D = x.shape
    y = np.full((n_segments, D), -np.inf, x.dtype)
    np.maximum.at(y, segment, x)
    argmax = np.full((n_segments, D), E)
    wins = (x == y[segment]) | np.isnan(x)
    np.minimum.at(argmax, segment, np.where(wins, np.arange(E)[:, None], E))
    empty = argmax == E
    y[empty], argmax[empty] = 0, -1
    return y, argmax


@operation
def segment_max_backward(dy: np.ndarray, argmax: np.ndarray, E: int) -> np.ndarray:
    """dx (E, D): dy_sd goes to the row argmax_sd that gave the maximum, all else is 0."""
    E = _checked_max_backward("segment_max_backward", dy, argmax, E)
    _argmax_range("segment_max_backward", argmax, E)
    dx = np.zeros((E, dy.shape[1]), dy.dtype)
    s, d = np.nonzero(argmax >= 0)
    dx[argmax[s, d], d] = dy[s, d]
    return dx


@operation
def segment_softmax(scores: np.ndarray, segment: np.ndarray, n_segments: int) -> np.ndarray:
    """y_e = exp(scores_e) / sum of exp(scores) over e's segment, for scores (E,) or, each column by itself, (E, H).

    A score of -inf gets weight 0; a segment in which all scores are -inf gets zeros. Returns y of the scores' shape.
    Source: Velickovic et al., "Graph attention networks", 2018, equation (2).
    """
    n_segments = _checked_softmax("segment_softmax", scores, segment, n_segments)
    _check.index_range("segment_softmax", "segment", segment, n_segments)
    m = np.full((n_segments, *scores.shape[1:]), -np.inf, scores.dtype)
    np.maximum.at(m, segment, scores)
    m[np.isneginf(m)] = 0
    e = np.exp(scores - m[segment])  # cannot overflow
    total = np.zeros_like(m)
    np.add.at(total, segment, e)
    total[total == 0] = 1
    return e / total[segment]


@operation
def segment_softmax_backward(dy: np.ndarray, y: np.ndarray, segment: np.ndarray, n_segments: int) -> np.ndarray:
    """dscores_e = y_e (dy_e - sum of dy y over e's segment)."""
    n_segments = _checked_softmax_backward("segment_softmax_backward", dy, y, segment, n_segments)
    _check.index_range("segment_softmax_backward", "segment", segment, n_segments)
    total = np.zeros((n_segments, *y.shape[1:]), y.dtype)
    np.add.at(total, segment, dy * y)
    return y * (dy - total[segment])
