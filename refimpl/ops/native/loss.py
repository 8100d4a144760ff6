"""Native mirrors of refimpl/ops/loss.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import _check
from refimpl.ops import loss as ops
from refimpl.ops.loss import (
    _classes,
    _counting,
    _distributions,
    _maps,
    _same,
    _similarities,
    _tokens,
    _tokens_backward,
    _vectors,
)


def _optional(a):
    return NULL if a is None else p(contiguous(a))


def _indices(target):
    return contiguous(target if target.dtype == np.int64 else target.astype(np.int64))


def _cross_entropy(name, kernels, z, target, label_smoothing, ignore_index, weight, *rest):
    """The values of target and weight are looked at by the kernel; only when it refuses are they checked again here,
    for the message."""
    if weight is not None or target.dtype == np.uint64:
        _counting(name, z.shape[1], target, ignore_index, weight)
    ignoring, ignored = (0, 0) if ignore_index is None else (1, int(ignore_index))
    status = kernels[z.dtype](
        p(contiguous(z)), p(_indices(target)), label_smoothing, ignoring, ignored, _optional(weight), *rest, threads()
    )
    if status:
        _counting(name, z.shape[1], target, ignore_index, weight)
        check(status, name)


_ce, _ce_backward = kernel("cross_entropy"), kernel("cross_entropy_backward")


@ops.cross_entropy.mirror("native")
def cross_entropy(logits, target, label_smoothing=0.0, ignore_index=None, weight=None):
    _classes("cross_entropy", "logits", logits, target, label_smoothing, ignore_index, weight)
    loss, probabilities = np.empty(1, logits.dtype), np.empty(logits.shape, logits.dtype)
    rest = (*logits.shape, p(loss), p(probabilities))
    _cross_entropy("cross_entropy", _ce, logits, target, label_smoothing, ignore_index, weight, *rest)
    return loss[0], probabilities


@ops.cross_entropy_backward.mirror("native")
def cross_entropy_backward(p, target, label_smoothing=0.0, ignore_index=None, weight=None, dloss=1.0):
    _classes("cross_entropy_backward", "p", p, target, label_smoothing, ignore_index, weight, dloss)
    dlogits = np.empty(p.shape, p.dtype)
    rest = (dloss, *p.shape, _pointer(dlogits))
    _cross_entropy("cross_entropy_backward", _ce_backward, p, target, label_smoothing, ignore_index, weight, *rest)
    return dlogits


_pointer = p  # where `p` is an argument

_log_prob, _log_prob_backward = kernel("log_prob"), kernel("log_prob_backward")


def _in_range(status, name, target, V):
    if status:
        _check.index_range(name, "target", target, V)
        check(status, name)


@ops.log_prob.mirror("native")
def log_prob(logits, target):
    _tokens("log_prob", logits, target)
    logits, rows = contiguous(logits), _indices(target)
    N, V = logits.shape
    lp, lse = np.empty(N, logits.dtype), np.empty(N, logits.dtype)
    _in_range(_log_prob[logits.dtype](p(logits), p(rows), N, V, p(lp), p(lse), threads()), "log_prob", target, V)
    return lp, lse


@ops.log_prob_backward.mirror("native")
def log_prob_backward(dlp, logits, target, lse, out=None):
    name = "log_prob_backward"
    _tokens_backward(name, dlp, logits, target, lse, out)
    dlp, logits, rows, lse = contiguous(dlp), contiguous(logits), _indices(target), contiguous(lse)
    N, V = logits.shape
    dlogits = np.empty(logits.shape, logits.dtype) if out is None else out
    status = _log_prob_backward[logits.dtype](p(dlp), p(logits), p(rows), p(lse), N, V, p(dlogits), threads())
    _in_range(status, name, target, V)
    return dlogits


_bce = kernel("binary_cross_entropy_with_logits")
_bce_backward = kernel("binary_cross_entropy_with_logits_backward")


@ops.binary_cross_entropy_with_logits.mirror("native")
def binary_cross_entropy_with_logits(logits, target, weight=None):
    _same("binary_cross_entropy_with_logits", "logits target weight", logits, target, weight)
    loss = np.empty(1, logits.dtype)
    status = _bce[logits.dtype](
        p(contiguous(logits)), p(contiguous(target)), _optional(weight), logits.size, p(loss), threads()
    )
    check(status, "binary_cross_entropy_with_logits")
    return loss[0]


@ops.binary_cross_entropy_with_logits_backward.mirror("native")
def binary_cross_entropy_with_logits_backward(logits, target, weight=None, dloss=1.0):
    _same("binary_cross_entropy_with_logits_backward", "logits target weight", logits, target, weight, dloss=dloss)
    dlogits = np.empty(logits.shape, logits.dtype)
    status = _bce_backward[logits.dtype](
        p(contiguous(logits)), p(contiguous(target)), _optional(weight), dloss, logits.size, p(dlogits), threads()
    )
    check(status, "binary_cross_entropy_with_logits_backward")
    return dlogits


def _distance(name, kernels, prediction, target):
    _same(name, "prediction target", prediction, target)
    loss = np.empty(1, prediction.dtype)
    prediction, target = contiguous(prediction), contiguous(target)
    check(kernels[prediction.dtype](p(prediction), p(target), prediction.size, p(loss), threads()), name)
    return loss[0]


def _distance_backward(name, kernels, prediction, target, dloss):
    _same(name, "prediction target", prediction, target, dloss=dloss)
    d = np.empty(prediction.shape, prediction.dtype)
    prediction, target = contiguous(prediction), contiguous(target)
    check(kernels[d.dtype](p(prediction), p(target), dloss, d.size, p(d), threads()), name)
    return d


_mse, _mse_backward = kernel("mse"), kernel("mse_backward")
_l1, _l1_backward = kernel("l1"), kernel("l1_backward")


@ops.mse.mirror("native")
def mse(prediction, target):
    return _distance("mse", _mse, prediction, target)


@ops.mse_backward.mirror("native")
def mse_backward(prediction, target, dloss=1.0):
    return _distance_backward("mse_backward", _mse_backward, prediction, target, dloss)


@ops.l1.mirror("native")
def l1(prediction, target):
    return _distance("l1", _l1, prediction, target)


@ops.l1_backward.mirror("native")
def l1_backward(prediction, target, dloss=1.0):
    return _distance_backward("l1_backward", _l1_backward, prediction, target, dloss)


_kl, _kl_backward = kernel("kl_divergence"), kernel("kl_divergence_backward")


@ops.kl_divergence.mirror("native")
def kl_divergence(log_p, log_q):
    B = _distributions("kl_divergence", log_p, log_q)
    loss = np.empty(1, log_p.dtype)
    log_p, log_q = contiguous(log_p), contiguous(log_q)
    check(_kl[log_p.dtype](p(log_p), p(log_q), B, log_p.size, p(loss), threads()), "kl_divergence")
    return loss[0]


@ops.kl_divergence_backward.mirror("native")
def kl_divergence_backward(log_p, log_q, dloss=1.0):
    B = _distributions("kl_divergence_backward", log_p, log_q, dloss)
    dlog_p, dlog_q = np.empty(log_p.shape, log_p.dtype), np.empty(log_p.shape, log_p.dtype)
    log_p, log_q = contiguous(log_p), contiguous(log_q)
    status = _kl_backward[log_p.dtype](p(log_p), p(log_q), dloss, B, log_p.size, p(dlog_p), p(dlog_q), threads())
    check(status, "kl_divergence_backward")
    return dlog_p, dlog_q


_cosine, _cosine_backward = kernel("cosine_similarity"), kernel("cosine_similarity_backward")


@ops.cosine_similarity.mirror("native")
def cosine_similarity(a, b, eps=1e-8):
    _vectors("cosine_similarity", a, b, eps)
    a, b = contiguous(a), contiguous(b)
    s, norm_a, norm_b = (np.empty(a.shape[:-1], a.dtype) for _ in range(3))
    status = _cosine[a.dtype](p(a), p(b), eps, s.size, a.shape[-1], p(s), p(norm_a), p(norm_b), threads())
    check(status, "cosine_similarity")
    return s, norm_a, norm_b


@ops.cosine_similarity_backward.mirror("native")
def cosine_similarity_backward(ds, a, b, s, norm_a, norm_b, eps=1e-8):
    _similarities("cosine_similarity_backward", ds, a, b, s, norm_a, norm_b, eps)
    da, db = np.empty(a.shape, a.dtype), np.empty(a.shape, a.dtype)
    arrays = (p(contiguous(v)) for v in (ds, a, b, s, norm_a, norm_b))
    status = _cosine_backward[a.dtype](*arrays, eps, s.size, a.shape[-1], p(da), p(db), threads())
    check(status, "cosine_similarity_backward")
    return da, db


# ---------------------------------------------------------------- agreement of two sets of maps

_map_agreement = kernel("map_agreement")


@ops.map_agreement.mirror("native")
def map_agreement(a, c, sC=1.0, sD=None, need_da=True, need_dc=True, eps=1e-8):
    _maps("map_agreement", a, c, sC, sD, eps)
    a, c, (B, C, H, W) = contiguous(a), contiguous(c), a.shape
    loss = np.empty(1, a.dtype)
    da = np.empty(a.shape, a.dtype) if need_da else None
    dc = np.empty(a.shape, a.dtype) if need_dc else None
    numbers = (sC, -1.0 if sD is None else sD, eps, B * C, H, W)
    written = (NULL if d is None else p(d) for d in (da, dc))
    check(_map_agreement[a.dtype](p(a), p(c), *numbers, p(loss), *written, threads()), "map_agreement")
    return loss[0], da, dc
