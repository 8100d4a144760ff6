"""Native mirrors of refimpl/ops/embedding.py: check, make contiguous, call the kernel of the same name.

The kernels look at each index themselves; only when one is out of range does Python look for its value.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import _check
from refimpl.ops import embedding as ops
from refimpl.ops.embedding import _checked, _checked_backward, _checked_dropout

_INT64 = np.dtype(np.int64)


def int64(index):
    """The index as C-contiguous int64 (an unsigned value beyond that becomes negative, which no index may be)."""
    return contiguous(index if index.dtype is _INT64 else index.astype(np.int64))


_embedding, _embedding_backward = kernel("embedding"), kernel("embedding_backward")


@ops.embedding.mirror("native")
def embedding(index, table):
    _checked("embedding", index, table)
    rows, table = int64(index), contiguous(table)
    V, D = table.shape
    y = np.empty((*index.shape, D), table.dtype)
    status = _embedding[table.dtype](p(rows), p(table), rows.size, V, D, p(y), threads())
    if status:
        _check.index_range("embedding", "index", index, V)
        check(status, "embedding")
    return y


@ops.embedding_backward.mirror("native")
def embedding_backward(dy, index, V):
    V = _checked_backward("embedding_backward", dy, index, V)
    dy, rows = contiguous(dy), int64(index)
    D = dy.shape[-1]
    dtable = np.empty((V, D), dy.dtype)
    status = _embedding_backward[dy.dtype](p(dy), p(rows), V, rows.size, D, p(dtable), threads())
    if status:
        _check.index_range("embedding_backward", "index", index, V)
        check(status, "embedding_backward")
    return dtable


_dropout, _dropout_backward = kernel("dropout"), kernel("dropout_backward")


def _drop(name, kernels, x, mask, rate):
    x, mask = contiguous(x), contiguous(mask)
    y = np.empty(x.shape, x.dtype)
    check(kernels[x.dtype](p(x), p(mask), rate, x.size, p(y), threads()), name)
    return y


@ops.dropout.mirror("native")
def dropout(x, mask, rate):
    _checked_dropout("dropout", "x", x, mask, rate)
    return _drop("dropout", _dropout, x, mask, rate)


@ops.dropout_backward.mirror("native")
def dropout_backward(dy, mask, rate):
    _checked_dropout("dropout_backward", "dy", dy, mask, rate)
    return _drop("dropout_backward", _dropout_backward, dy, mask, rate)
