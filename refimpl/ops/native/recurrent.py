"""Native mirrors of refimpl/ops/recurrent.py. A cell is a sequence of one step: (B, D) lies in memory as (B, 1, D)."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import recurrent as ops
from refimpl.ops.recurrent import (
    _check_add_to,
    _check_gru,
    _check_gru_cell_backward,
    _check_gru_sequence_backward,
    _check_lstm,
    _check_lstm_cell_backward,
    _check_lstm_sequence_backward,
    _check_rnn,
    _check_rnn_backward,
)

_rnn, _rnn_backward = kernel("rnn_sequence"), kernel("rnn_sequence_backward")
_gru, _gru_backward = kernel("gru_sequence"), kernel("gru_sequence_backward")
_lstm, _lstm_backward = kernel("lstm_sequence"), kernel("lstm_sequence_backward")


def _sizes(x, h):
    """B, T, D, N"""
    return len(x), x.shape[1] if x.ndim == 3 else 1, x.shape[-1], h.shape[1]


def _run(name, kernels, inputs, x, h, outputs):
    """Call a kernel: its inputs (None: absent), the sizes, its outputs."""
    inputs = [None if a is None else contiguous(a) for a in inputs]
    pointers = [NULL if a is None else p(a) for a in inputs]
    check(kernels[x.dtype](*pointers, *_sizes(x, h), *map(p, outputs), threads()), name)
    return outputs


def _new(x, h, *factors):
    """Results for each step: (B, [T,] factor N)."""
    return tuple(np.empty((*x.shape[:-1], f * h.shape[1]), x.dtype) for f in factors)


def _gradients(x, states, w_x, w_h, biases, need_dx=True, add_to=None):
    """Arrays for dx (None: not needed), the gradients of the states, dw_x, dw_h and the gradients of the biases."""
    dtype = x.dtype
    dx = np.empty(x.shape, dtype) if need_dx else None
    dstates = [np.empty(a.shape, dtype) for a in states]
    if add_to is None:
        n = w_x.shape[1]
        add_to = (np.empty(w_x.shape, dtype), np.empty(w_h.shape, dtype), *(np.empty(n, dtype) for _ in range(biases)))
    return (dx, *dstates, *add_to)


def _run_backward(name, kernels, inputs, x, h, gradients, add_to=None):
    inputs = [None if a is None else contiguous(a) for a in inputs]
    pointers = [NULL if a is None else p(a) for a in inputs]
    results = [NULL if a is None else p(a) for a in gradients]
    check(kernels[x.dtype](*pointers, *_sizes(x, h), add_to is not None, *results, threads()), name)
    return gradients


@ops.rnn_cell.mirror("native")
def rnn_cell(x, h, w_x, w_h, bias):
    _check_rnn("rnn_cell", 2, x, "h", h, w_x, w_h, bias)
    return _run("rnn_cell", _rnn, (x, h, w_x, w_h, bias), x, h, _new(x, h, 1))[0]


@ops.rnn_cell_backward.mirror("native")
def rnn_cell_backward(dh_next, x, h, w_x, w_h, h_next):
    name = "rnn_cell_backward"
    _check_rnn_backward(name, 2, x, "h", h, w_x, w_h, "dh_next", dh_next, "h_next", h_next)
    gradients = _gradients(x, (h,), w_x, w_h, 1)
    return _run_backward(name, _rnn_backward, (dh_next, x, h, w_x, w_h, h_next), x, h, gradients)


@ops.rnn_sequence.mirror("native")
def rnn_sequence(x, h0, w_x, w_h, bias):
    _check_rnn("rnn_sequence", 3, x, "h0", h0, w_x, w_h, bias)
    return _run("rnn_sequence", _rnn, (x, h0, w_x, w_h, bias), x, h0, _new(x, h0, 1))[0]


@ops.rnn_sequence_backward.mirror("native")
def rnn_sequence_backward(dy, x, h0, w_x, w_h, y, need_dx=True, add_to=None):
    name = "rnn_sequence_backward"
    _check_rnn_backward(name, 3, x, "h0", h0, w_x, w_h, "dy", dy, "y", y)
    _check_add_to("rnn_sequence_backward", w_x, w_h, ("dbias",), add_to)
    gradients = _gradients(x, (h0,), w_x, w_h, 1, need_dx, add_to)
    return _run_backward(name, _rnn_backward, (dy, x, h0, w_x, w_h, y), x, h0, gradients, add_to)


@ops.gru_cell.mirror("native")
def gru_cell(x, h, w_x, w_h, bias_x, bias_h):
    _check_gru("gru_cell", 2, x, "h", h, w_x, w_h, bias_x, bias_h)
    return _run("gru_cell", _gru, (x, h, w_x, w_h, bias_x, bias_h), x, h, _new(x, h, 1, 4))


@ops.gru_cell_backward.mirror("native")
def gru_cell_backward(dh_next, x, h, w_x, w_h, gates):
    _check_gru_cell_backward(dh_next, x, h, w_x, w_h, gates)
    inputs = (dh_next, x, h, w_x, w_h, dh_next, gates)  # of y the kernel reads all but the last step: here nothing
    return _run_backward("gru_cell_backward", _gru_backward, inputs, x, h, _gradients(x, (h,), w_x, w_h, 2))


@ops.gru_sequence.mirror("native")
def gru_sequence(x, h0, w_x, w_h, bias_x, bias_h):
    _check_gru("gru_sequence", 3, x, "h0", h0, w_x, w_h, bias_x, bias_h)
    return _run("gru_sequence", _gru, (x, h0, w_x, w_h, bias_x, bias_h), x, h0, _new(x, h0, 1, 4))


@ops.gru_sequence_backward.mirror("native")
def gru_sequence_backward(dy, x, h0, w_x, w_h, y, gates, need_dx=True, add_to=None):
    _check_gru_sequence_backward(dy, x, h0, w_x, w_h, y, gates)
    _check_add_to("gru_sequence_backward", w_x, w_h, ("dbias_x", "dbias_h"), add_to)
    gradients = _gradients(x, (h0,), w_x, w_h, 2, need_dx, add_to)
    inputs = (dy, x, h0, w_x, w_h, y, gates)
    return _run_backward("gru_sequence_backward", _gru_backward, inputs, x, h0, gradients, add_to)


@ops.lstm_cell.mirror("native")
def lstm_cell(x, h, c, w_x, w_h, bias):
    _check_lstm("lstm_cell", 2, x, "h", h, "c", c, w_x, w_h, bias)
    return _run("lstm_cell", _lstm, (x, h, c, w_x, w_h, bias), x, h, _new(x, h, 1, 1, 4))


@ops.lstm_cell_backward.mirror("native")
def lstm_cell_backward(dh_next, dc_next, x, h, c, w_x, w_h, c_next, gates):
    _check_lstm_cell_backward(dh_next, dc_next, x, h, c, w_x, w_h, c_next, gates)
    inputs = (dh_next, dc_next, x, h, c, w_x, w_h, dh_next, c_next, gates)  # y: as in gru_cell_backward
    return _run_backward("lstm_cell_backward", _lstm_backward, inputs, x, h, _gradients(x, (h, c), w_x, w_h, 1))


@ops.lstm_sequence.mirror("native")
def lstm_sequence(x, h0, c0, w_x, w_h, bias):
    _check_lstm("lstm_sequence", 3, x, "h0", h0, "c0", c0, w_x, w_h, bias)
    return _run("lstm_sequence", _lstm, (x, h0, c0, w_x, w_h, bias), x, h0, _new(x, h0, 1, 1, 4))


@ops.lstm_sequence_backward.mirror("native")
def lstm_sequence_backward(dy, dc, x, h0, c0, w_x, w_h, y, c, gates, need_dx=True, add_to=None):
    _check_lstm_sequence_backward(dy, dc, x, h0, c0, w_x, w_h, y, c, gates)
    _check_add_to("lstm_sequence_backward", w_x, w_h, ("dbias",), add_to)
    gradients = _gradients(x, (h0, c0), w_x, w_h, 1, need_dx, add_to)
    inputs = (dy, dc, x, h0, c0, w_x, w_h, y, c, gates)
    return _run_backward("lstm_sequence_backward", _lstm_backward, inputs, x, h0, gradients, add_to)
