"""Native mirrors of refimpl/ops/graph.py: check, make contiguous, call the kernel of the same name.

The kernels check the structure before they read by it; only when it is corrupt does Python look for what is wrong.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import graph as ops
from refimpl.ops.graph import _checked, _checked_backward
from refimpl.ops.native.embedding import int64
from refimpl.ops.sparse import _structure

_attention, _attention_backward = kernel("graph_attention"), kernel("graph_attention_backward")


@ops.graph_attention.mirror("native")
def graph_attention(indptr, indices, h, source, target, slope=0.2):
    _checked("graph_attention", indptr, indices, h, source, target, slope)
    starts, columns = int64(indptr), int64(indices)
    h, source, target = contiguous(h), contiguous(source), contiguous(target)
    (N, K, D), E = h.shape, len(columns)
    y, alpha = np.empty(h.shape, h.dtype), np.empty((E, K), h.dtype)
    status = _attention[h.dtype](
        *(p(starts), p(columns), p(h), p(source), p(target), slope, N, E, K, D, p(y), p(alpha), threads())
    )
    if status:
        _structure("graph_attention", indptr, indices, N)
        check(status, "graph_attention")
    return y, alpha


@ops.graph_attention_backward.mirror("native")
def graph_attention_backward(dy, alpha, indptr, indices, h, source, target, slope=0.2):
    op = "graph_attention_backward"
    _checked_backward(op, dy, alpha, indptr, indices, h, source, target, slope)
    starts, columns = int64(indptr), int64(indices)
    dy, alpha = contiguous(dy), contiguous(alpha)
    h, source, target = contiguous(h), contiguous(source), contiguous(target)
    (N, K, D), E = h.shape, len(columns)
    dh, dsource, dtarget = np.empty(h.shape, h.dtype), np.empty((K, D), h.dtype), np.empty((K, D), h.dtype)
    status = _attention_backward[h.dtype](
        *(p(dy), p(alpha), p(starts), p(columns), p(h), p(source), p(target), slope, N, E, K, D),
        *(p(dh), p(dsource), p(dtarget), threads()),
    )
    if status:
        _structure(op, indptr, indices, N)
        check(status, op)
    return dh, dsource, dtarget
