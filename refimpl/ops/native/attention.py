"""Native mirrors of refimpl/ops/attention.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, ffi, kernel, p
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


def _rows(a):
    """(keys that lie in memory for a head, of which `a` is the first S), or 0 where `a` does not lie so."""
    _, G, S, E = a.shape
    if a.flags.c_contiguous:
        return S if a.flags.aligned else 0
    by_batch, by_head, by_row, by_column = a.strides
    if by_column != a.itemsize or by_row != E * a.itemsize or not a.flags.aligned:
        return 0
    step = by_head if G > 1 else by_batch
    rows, rest = divmod(step, by_row)
    fits = rest == 0 and rows >= S and (len(a) == 1 or by_batch == G * step)
    return rows if fits else 0


def _keys(k, v):
    """k and v as the kernel can read them, and the keys that lie in memory for a head."""
    rows = _rows(k)
    if not rows or rows != _rows(v):
        return contiguous(k), contiguous(v), k.shape[2]
    return k, v, rows


def _at(a):
    """The pointer of an array that need not be contiguous."""
    return p(a) if a.flags.c_contiguous else ffi.cast("void *", a.__array_interface__["data"][0])


_attention, _attention_backward = kernel("attention"), kernel("attention_backward")


@ops.attention.mirror("native")
def attention(q, k, v, mask=None, padding=None, causal=False, scale=None):
    B, H, G, T, S, D, E, scale = _checked("attention", q, k, v, mask, padding, causal, scale)
    q, (k, v, rows) = contiguous(q), _keys(k, v)
    y, lse = np.empty((B, H, T, E), q.dtype), np.empty((B, H, T), q.dtype)
    status = _attention[q.dtype](
        *(p(q), _at(k), _at(v), *_mask(mask), _padding(padding), bool(causal), scale),
        *(B, H, G, T, S, D, E, rows, p(y), p(lse), threads()),
    )
    check(status, "attention")
    return y, lse


@ops.attention_backward.mirror("native")
def attention_backward(dy, q, k, v, y, lse, mask=None, padding=None, causal=False, scale=None, add_to=None):
    B, H, G, T, S, D, E, scale = _checked_backward(
        "attention_backward", dy, q, k, v, y, lse, mask, padding, causal, scale, add_to
    )
    dy, q, y, lse = (contiguous(a) for a in (dy, q, y, lse))
    k, v, rows = _keys(k, v)
    dq, drows, adding = np.empty(q.shape, q.dtype), 0, False
    if add_to is not None:
        dk, dv = add_to
        drows = _rows(dk)
        adding = drows > 0 and drows == _rows(dv)
    if not adding:
        dk, dv, drows = np.empty(k.shape, q.dtype), np.empty(v.shape, q.dtype), S
    status = _attention_backward[q.dtype](
        *(p(dy), p(q), _at(k), _at(v), p(y), p(lse), *_mask(mask), _padding(padding), bool(causal), scale),
        *(B, H, G, T, S, D, E, rows, drows, adding, p(dq), _at(dk), _at(dv), threads()),
    )
    check(status, "attention_backward")
    if add_to is None or adding:
        return dq, dk, dv
    into_k, into_v = add_to
    into_k += dk
    into_v += dv
    return dq, into_k, into_v
