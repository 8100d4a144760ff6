"""Native mirrors of refimpl/ops/denoise.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import denoise as ops
from refimpl.ops.denoise import _check_loss, _check_mixture, _check_mixture_backward

_mixture, _mixture_backward = kernel("softmax_mixture"), kernel("softmax_mixture_backward")
_loss = kernel("denoise_loss")
_I64 = np.dtype(np.int64)


@ops.softmax_mixture.mirror("native")
def softmax_mixture(f, embedding=None):
    D = _check_mixture(f, embedding)
    f, (B, K) = contiguous(f), f.shape
    y = np.empty((B, K), f.dtype)
    if embedding is None:
        check(_mixture[f.dtype](p(f), NULL, B, K, K, NULL, p(y), threads()), "softmax_mixture")
        return y, y
    uhat = np.empty((B, D), f.dtype)
    check(
        _mixture[f.dtype](p(f), p(contiguous(embedding)), B, K, D, p(uhat), p(y), threads()),
        "softmax_mixture",
    )
    return uhat, y


# `p` is an argument's name here, so the pointer function goes by another.
_pointer = p


@ops.softmax_mixture_backward.mirror("native")
def softmax_mixture_backward(duhat, p, embedding=None):
    D = _check_mixture_backward(duhat, p, embedding)
    duhat, p, (B, K) = contiguous(duhat), contiguous(p), p.shape
    df = np.empty((B, K), p.dtype)
    dembedding, w, at_dembedding = None, NULL, NULL
    if embedding is not None:
        dembedding, w = np.empty((K, D), p.dtype), _pointer(contiguous(embedding))
        at_dembedding = _pointer(dembedding)
    check(
        _mixture_backward[p.dtype](_pointer(duhat), _pointer(p), w, B, K, D, _pointer(df), at_dembedding, threads()),
        "softmax_mixture_backward",
    )
    return df, dembedding


@ops.denoise_loss.mirror("native")
def denoise_loss(f, target, weight, embedding=None):
    D = _check_loss(f, target, weight, embedding)
    f, weight, (B, K), dtype = contiguous(f), contiguous(weight), f.shape, f.dtype
    target = contiguous(target if target.dtype == _I64 else target.astype(_I64))
    w = NULL if embedding is None else p(contiguous(embedding))
    squared, y = np.empty(B, dtype), np.empty((B, K), dtype)
    duhat, df = np.empty((B, D), dtype), np.empty((B, K), dtype)
    check(
        _loss[dtype](p(f), p(target), p(weight), w, B, K, D, p(squared), p(y), p(duhat), p(df), threads()),
        "denoise_loss",
    )
    return squared, y, duhat, df
