"""Native mirrors of refimpl/ops/attention.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import attention as ops
from refimpl.ops.attention import _checked, _checked_backward

_NO_MASK = (NULL, 1, 1, 1, 1)


def _mask(mask):
    if mask is None:
        return _NO_MASK
    return (p(contiguous(mask)), *mask.shape)


def _padding(padding):
    return NULL if padding is None else p(contiguous(padding))


_attention, _attention_backward = kernel("attention"), kernel("attention_backward")


@ops.attention.mirror("native")
def attention(q, k, v, mask=None, padding=None, causal=False, scale=None):
    B, H, G, T, S, D, E, scale = _checked("attention", q, k, v, mask, padding, causal, scale)
    q, k, v = contiguous(q), contiguous(k), contiguous(v)
    y, lse = np.empty((B, H, T, E), q.dtype), np.empty((B, H, T), q.dtype)
    status = _attention[q.dtype](
        *(p(q), p(k), p(v), *_mask(mask), _padding(padding), bool(causal), scale),
        *(B, H, G, T, S, D, E, p(y), p(lse), threads()),
    )
    check(status, "attention")
    return y, lse


@ops.attention_backward.mirror("native")
def attention_backward(dy, q, k, v, y, lse, mask=None, padding=None, causal=False, scale=None):
    B, H, G, T, S, D, E, scale = _checked_backward(
        "attention_backward", dy, q, k, v, y, lse, mask, padding, causal, scale
    )
    dy, q, k, v, y, lse = (contiguous(a) for a in (dy, q, k, v, y, lse))
    dq, dk, dv = np.empty(q.shape, q.dtype), np.empty(k.shape, q.dtype), np.empty(v.shape, q.dtype)
    status = _attention_backward[q.dtype](
        *(p(dy), p(q), p(k), p(v), p(y), p(lse), *_mask(mask), _padding(padding), bool(causal), scale),
        *(B, H, G, T, S, D, E, p(dq), p(dk), p(dv), threads()),
    )
    check(status, "attention_backward")
    return dq, dk, dv
