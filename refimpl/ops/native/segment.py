"""Native mirrors of refimpl/ops/segment.py: check, make contiguous, call the kernel of the same name.

The kernels look at each segment index themselves; only when one is out of range does Python look for its value.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import _check
from refimpl.ops import segment as ops
from refimpl.ops.native.embedding import int64
from refimpl.ops.segment import (
    _argmax_range,
    _checked,
    _checked_max_backward,
    _checked_softmax,
    _checked_softmax_backward,
    _checked_spread,
)


def _done(status, name, segment, n_segments):
    if status:
        _check.index_range(name, "segment", segment, n_segments)
        check(status, name)


_segment_sum, _segment_sum_backward = kernel("segment_sum"), kernel("segment_sum_backward")
_segment_mean, _segment_mean_backward = kernel("segment_mean"), kernel("segment_mean_backward")


def _reduce(name, kernels, x, segment, n_segments):
    n_segments = _checked(name, x, segment, n_segments)
    x, rows = contiguous(x), int64(segment)
    E, D = x.shape
    y = np.empty((n_segments, D), x.dtype)
    _done(kernels[x.dtype](p(x), p(rows), n_segments, E, D, p(y), threads()), name, segment, n_segments)
    return y


def _spread(name, kernels, dy, segment):
    _checked_spread(name, dy, segment)
    dy, rows = contiguous(dy), int64(segment)
    (n_segments, D), E = dy.shape, len(rows)
    dx = np.empty((E, D), dy.dtype)
    _done(kernels[dy.dtype](p(dy), p(rows), n_segments, E, D, p(dx), threads()), name, segment, n_segments)
    return dx


@ops.segment_sum.mirror("native")
def segment_sum(x, segment, n_segments):
    return _reduce("segment_sum", _segment_sum, x, segment, n_segments)


@ops.segment_sum_backward.mirror("native")
def segment_sum_backward(dy, segment):
    return _spread("segment_sum_backward", _segment_sum_backward, dy, segment)


@ops.segment_mean.mirror("native")
def segment_mean(x, segment, n_segments):
    return _reduce("segment_mean", _segment_mean, x, segment, n_segments)


@ops.segment_mean_backward.mirror("native")
def segment_mean_backward(dy, segment):
    return _spread("segment_mean_backward", _segment_mean_backward, dy, segment)


_segment_max, _segment_max_backward = kernel("segment_max"), kernel("segment_max_backward")


@ops.segment_max.mirror("native")
def segment_max(x, segment, n_segments):
    n_segments = _checked("segment_max", x, segment, n_segments)
    x, rows = contiguous(x), int64(segment)
    E, D = x.shape
    y, argmax = np.empty((n_segments, D), x.dtype), np.empty((n_segments, D), np.int64)
    status = _segment_max[x.dtype](p(x), p(rows), n_segments, E, D, p(y), p(argmax), threads())
    _done(status, "segment_max", segment, n_segments)
    return y, argmax


@ops.segment_max_backward.mirror("native")
def segment_max_backward(dy, argmax, E):
    E = _checked_max_backward("segment_max_backward", dy, argmax, E)
    dy, rows = contiguous(dy), int64(argmax)
    n_segments, D = dy.shape
    dx = np.empty((E, D), dy.dtype)
    status = _segment_max_backward[dy.dtype](p(dy), p(rows), E, n_segments, D, p(dx), threads())
    if status:
        _argmax_range("segment_max_backward", argmax, E)
        check(status, "segment_max_backward")
    return dx


_segment_softmax, _segment_softmax_backward = kernel("segment_softmax"), kernel("segment_softmax_backward")


@ops.segment_softmax.mirror("native")
def segment_softmax(scores, segment, n_segments):
    n_segments = _checked_softmax("segment_softmax", scores, segment, n_segments)
    scores, rows = contiguous(scores), int64(segment)
    E, H = len(scores), scores.shape[1] if scores.ndim == 2 else 1
    y = np.empty(scores.shape, scores.dtype)
    status = _segment_softmax[y.dtype](p(scores), p(rows), n_segments, E, H, p(y), threads())
    _done(status, "segment_softmax", segment, n_segments)
    return y


@ops.segment_softmax_backward.mirror("native")
def segment_softmax_backward(dy, y, segment, n_segments):
    n_segments = _checked_softmax_backward("segment_softmax_backward", dy, y, segment, n_segments)
    dy, y, rows = contiguous(dy), contiguous(y), int64(segment)
    E, H = len(y), y.shape[1] if y.ndim == 2 else 1
    dscores = np.empty(y.shape, y.dtype)
    status = _segment_softmax_backward[y.dtype](p(dy), p(y), p(rows), n_segments, E, H, p(dscores), threads())
    _done(status, "segment_softmax_backward", segment, n_segments)
    return dscores
