"""Native mirrors of refimpl/ops/heads.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import heads as ops
from refimpl.ops.heads import _checked_merge, _checked_split, _checked_split_backward, _checked_unmerge


def _table(a):
    return NULL if a is None else p(contiguous(a))


_split_heads, _split_heads_backward = kernel("split_heads"), kernel("split_heads_backward")


@ops.split_heads.mirror("native")
def split_heads(x, heads, kv_heads, cos=None, sin=None):
    B, T, E = _checked_split("split_heads", x, heads, kv_heads, cos, sin)
    x = contiguous(x)
    q = np.empty((B, heads, T, E), x.dtype)
    k, v = np.empty((B, kv_heads, T, E), x.dtype), np.empty((B, kv_heads, T, E), x.dtype)
    status = _split_heads[x.dtype](
        p(x), heads, kv_heads, _table(cos), _table(sin), B, T, E, p(q), p(k), p(v), threads()
    )
    check(status, "split_heads")
    return q, k, v


@ops.split_heads_backward.mirror("native")
def split_heads_backward(dq, dk, dv, cos=None, sin=None):
    B, T, H, G, E = _checked_split_backward("split_heads_backward", dq, dk, dv, cos, sin)
    dq, dk, dv = contiguous(dq), contiguous(dk), contiguous(dv)
    dx = np.empty((B, T, (H + 2 * G) * E), dq.dtype)
    status = _split_heads_backward[dq.dtype](
        p(dq), p(dk), p(dv), _table(cos), _table(sin), B, T, H, G, E, p(dx), threads()
    )
    check(status, "split_heads_backward")
    return dx


_merge_heads, _merge_heads_backward = kernel("merge_heads"), kernel("merge_heads_backward")


@ops.merge_heads.mirror("native")
def merge_heads(y):
    B, H, T, E = _checked_merge("merge_heads", "y", y)
    y = contiguous(y)
    x = np.empty((B, T, H * E), y.dtype)
    check(_merge_heads[y.dtype](p(y), B, H, T, E, p(x), threads()), "merge_heads")
    return x


@ops.merge_heads_backward.mirror("native")
def merge_heads_backward(dy, heads):
    B, T, E = _checked_unmerge("merge_heads_backward", dy, heads)
    dy = contiguous(dy)
    dx = np.empty((B, heads, T, E), dy.dtype)
    check(_merge_heads_backward[dy.dtype](p(dy), heads, B, T, E, p(dx), threads()), "merge_heads_backward")
    return dx
