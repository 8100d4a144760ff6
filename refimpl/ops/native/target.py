"""Native mirrors of refimpl/ops/target.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import target as ops
from refimpl.ops.native.loss import _indices
from refimpl.ops.target import _check_rnn_target_sequence, _check_target_loss, _check_target_step

_loss, _step, _sequence = kernel("target_loss"), kernel("target_step"), kernel("rnn_target_sequence")


@ops.target_loss.mirror("native")
def target_loss(z, labels, codes, loss="l2", activation="tanh", delta=1.0, scale=1.0):
    kinds = _check_target_loss(z, labels, codes, loss, activation, delta, scale)
    (B, N), dtype = z.shape, z.dtype
    y, J, d = np.empty((B, N), dtype), np.empty(B, dtype), np.empty((B, N), dtype)
    arrays = p(contiguous(z)), p(_indices(labels)), p(contiguous(codes))
    sizes = (B, N, len(codes))
    check(_loss[dtype](*arrays, *kinds, delta, scale, *sizes, p(y), p(J), p(d), threads()), "target_loss")
    return y, J, d


@ops.target_step.mirror("native")
def target_step(
    x,
    labels,
    weight,
    bias,
    codes,
    v_weight=None,
    v_bias=None,
    lr=0.05,
    momentum=0.0,
    loss="l2",
    activation="tanh",
    delta=1.0,
):
    kinds = _check_target_step(x, labels, weight, bias, codes, v_weight, v_bias, lr, momentum, loss, activation, delta)
    (B, D), N, dtype = x.shape, len(weight), x.dtype
    y, J = np.empty((B, N), dtype), np.empty(B, dtype)
    arrays = p(contiguous(x)), p(_indices(labels)), p(weight), p(bias), p(contiguous(codes))
    velocities = (NULL, NULL) if v_weight is None else (p(v_weight), p(v_bias))
    sizes = (B, D, N, len(codes))
    status = _step[dtype](*arrays, *velocities, lr, momentum, *kinds, delta, *sizes, p(y), p(J), threads())
    check(status, "target_step")
    return y, J


@ops.rnn_target_sequence.mirror("native")
def rnn_target_sequence(x, h0, labels, codes, w_x, w_h, bias, dw_x, dw_h, dbias, weights, loss="l2", delta=1.0):
    rest = dw_x, dw_h, dbias, weights, loss, delta
    number, _ = _check_rnn_target_sequence(x, h0, labels, codes, w_x, w_h, bias, *rest)
    (B, T, D), N, dtype = x.shape, h0.shape[1], x.dtype
    y, J = np.empty((B, T, N), dtype), np.empty((B, T), dtype)
    arrays = p(contiguous(x)), p(contiguous(h0)), p(_indices(labels)), p(contiguous(codes))
    own = p(contiguous(w_x)), p(contiguous(w_h)), p(contiguous(bias)), p(dw_x), p(dw_h), p(dbias)
    sizes = (B, T, D, N, len(codes))
    status = _sequence[dtype](*arrays, *own, p(contiguous(weights)), number, delta, *sizes, p(y), p(J), threads())
    check(status, "rnn_target_sequence")
    return y, J
