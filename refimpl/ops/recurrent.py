"""Recurrent cells and whole sequences (plain, GRU, LSTM) with back-propagation through time. C mirror:
native/src/recurrent.c.

Batch-first: x (B, T, D) or, for one step, (B, D); a state (B, N). With G gates (1 plain, 3 GRU, 4 LSTM) the weights are
w_x (D, G N) and w_h (N, G N) and a bias is (G N,): the columns of gate 0, then of gate 1, ... Rows of x and h are
multiplied from the left. All arrays are float32 or float64, one dtype in a call. A backward function takes what its
formula needs of the forward pass's arguments and results. Errors: TypeError for another dtype or mixed dtypes,
ValueError for shapes that do not fit.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check
from refimpl.ops.activation import _sigmoid

__all__ = [
    "gru_cell",
    "gru_cell_backward",
    "gru_sequence",
    "gru_sequence_backward",
    "lstm_cell",
    "lstm_cell_backward",
    "lstm_sequence",
    "lstm_sequence_backward",
    "rnn_cell",
    "rnn_cell_backward",
    "rnn_sequence",
    "rnn_sequence_backward",
]


def _check_shapes(op, gates, axes, x, state, states, w_x, w_h, *more):
    """x (B, [T,] D) fits the states (B, N), each (name, array), and the weights; `more` are (name, array, factor of the
    last axis, whether it is a vector): of x's leading axes, or biases."""
    names = ["x", *(n for n, _ in states), "w_x", "w_h", *(m[0] for m in more)]
    _check.floats(op, " ".join(names), x, *(a for _, a in states), w_x, w_h, *(m[1] for m in more))
    _check.ndim(op, "x", x, axes)
    _check.ndim(op, state, states[0][1], 2)
    N = states[0][1].shape[1]
    for name, a in states:
        _check.shape(op, name, a, (len(x), N))
    _check.shape(op, "w_x", w_x, (x.shape[-1], gates * N))
    _check.shape(op, "w_h", w_h, (N, gates * N))
    for name, a, factor, vector in more:
        _check.shape(op, name, a, (factor * N,) if vector else (*x.shape[:-1], factor * N))


def _check_add_to(op, w_x, w_h, biases, add_to):
    """add_to is None, or a tuple of arrays like w_x and w_h, and for each bias."""
    if add_to is None:
        return
    names = ("dw_x", "dw_h", *biases)
    if not isinstance(add_to, tuple) or len(add_to) != len(names):
        given = f"a tuple of {len(add_to)}" if isinstance(add_to, tuple) else type(add_to).__name__
        raise TypeError(f"{op}: add_to is {given}, expected the tuple ({', '.join(names)})")
    for i, (a, shape) in enumerate(zip(add_to, (w_x.shape, w_h.shape, *[w_x.shape[1:]] * len(biases)))):
        _check.writable(op, f"add_to[{i}]", a, shape, w_x.dtype)


def _check_rnn(op, axes, x, state, h, w_x, w_h, bias):
    _check_shapes(op, 1, axes, x, state, [(state, h)], w_x, w_h, ("bias", bias, 1, True))


def _check_rnn_backward(op, axes, x, state, h, w_x, w_h, dy_name, dy, y_name, y):
    more = ((dy_name, dy, 1, False), (y_name, y, 1, False))
    _check_shapes(op, 1, axes, x, state, [(state, h)], w_x, w_h, *more)


def _check_gru(op, axes, x, state, h, w_x, w_h, bias_x, bias_h):
    more = (("bias_x", bias_x, 3, True), ("bias_h", bias_h, 3, True))
    _check_shapes(op, 3, axes, x, state, [(state, h)], w_x, w_h, *more)


def _check_gru_cell_backward(dh_next, x, h, w_x, w_h, gates):
    more = (("dh_next", dh_next, 1, False), ("gates", gates, 4, False))
    _check_shapes("gru_cell_backward", 3, 2, x, "h", [("h", h)], w_x, w_h, *more)


def _check_gru_sequence_backward(dy, x, h0, w_x, w_h, y, gates):
    more = (("dy", dy, 1, False), ("y", y, 1, False), ("gates", gates, 4, False))
    _check_shapes("gru_sequence_backward", 3, 3, x, "h0", [("h0", h0)], w_x, w_h, *more)


def _check_lstm(op, axes, x, h_name, h, c_name, c, w_x, w_h, bias):
    states = [(h_name, h), (c_name, c)]
    _check_shapes(op, 4, axes, x, h_name, states, w_x, w_h, ("bias", bias, 4, True))


def _check_lstm_cell_backward(dh_next, dc_next, x, h, c, w_x, w_h, c_next, gates):
    more = [("dh_next", dh_next, 1, False), ("c_next", c_next, 1, False), ("gates", gates, 4, False)]
    if dc_next is not None:
        more.append(("dc_next", dc_next, 1, False))
    _check_shapes("lstm_cell_backward", 4, 2, x, "h", [("h", h), ("c", c)], w_x, w_h, *more)


def _check_lstm_sequence_backward(dy, dc, x, h0, c0, w_x, w_h, y, c, gates):
    more = [("dy", dy, 1, False), ("y", y, 1, False), ("c", c, 1, False), ("gates", gates, 4, False)]
    if dc is not None:
        more.append(("dc", dc, 1, False))
    _check_shapes("lstm_sequence_backward", 4, 3, x, "h0", [("h0", h0), ("c0", c0)], w_x, w_h, *more)


def _rows(a: np.ndarray) -> np.ndarray:
    """(..., n) as a matrix with one row for each sample and step."""
    return a.reshape(int(np.prod(a.shape[:-1])), a.shape[-1])


def _before(first: np.ndarray, states: np.ndarray) -> np.ndarray:
    """The state that each step started from: `first`, then all but the last."""
    return np.concatenate([first[:, None], states[:, :-1]], axis=1) if states.shape[1] else states


def _input_backward(da, x, w_x, need_dx=True):
    """Gradients of a = x W + b: dx (None where not needed), dW, db."""
    return da @ w_x.T if need_dx else None, _rows(x).T @ _rows(da), _rows(da).sum(axis=0)


def _added(add_to, *gradients):
    """The gradients of the weights, or the arrays to which they are added."""
    if add_to is None:
        return gradients
    for into, d in zip(add_to, gradients):
        into += d
    return add_to


# ---------------------------------------------------------------- plain


@operation
def rnn_cell(x: np.ndarray, h: np.ndarray, w_x: np.ndarray, w_h: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """h' = tanh(x W + h U + b).

    Shapes: x (B, D), h (B, N), w_x = W (D, N), w_h = U (N, N), bias (N,). Returns h' (B, N), all that the backward pass
    needs beside the arguments.

    Source: Elman, "Finding structure in time", 1990.
    """
    _check_rnn("rnn_cell", 2, x, "h", h, w_x, w_h, bias)
    return np.tanh(x @ w_x + bias + h @ w_h)


@operation
def rnn_cell_backward(
    dh_next: np.ndarray, x: np.ndarray, h: np.ndarray, w_x: np.ndarray, w_h: np.ndarray, h_next: np.ndarray
) -> tuple[np.ndarray, ...]:
    """da = dh' (1 - h'^2); dx = da W^T, dh = da U^T, dW = x^T da, dU = h^T da, db = Σ_b da.

    Returns dx, dh, dw_x, dw_h, dbias.
    """
    _check_rnn_backward("rnn_cell_backward", 2, x, "h", h, w_x, w_h, "dh_next", dh_next, "h_next", h_next)
    da = dh_next * (1 - h_next * h_next)
    dx, dw_x, dbias = _input_backward(da, x, w_x)
    return dx, da @ w_h.T, dw_x, h.T @ da, dbias


@operation
def rnn_sequence(x: np.ndarray, h0: np.ndarray, w_x: np.ndarray, w_h: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """h_t = tanh(x_t W + h_{t-1} U + b) for t = 1 .. T, from h_0.

    Shapes: x (B, T, D), h0 (B, N), w_x = W (D, N), w_h = U (N, N), bias (N,). Returns y = (h_1 .. h_T), (B, T, N), all
    that the backward pass needs beside the arguments; the last state is y[:, -1].
    """
    _check_rnn("rnn_sequence", 3, x, "h0", h0, w_x, w_h, bias)
    a = x @ w_x + bias
    y = np.empty_like(a)
    h = h0
    for t in range(x.shape[1]):
        y[:, t] = h = np.tanh(a[:, t] + h @ w_h)
    return y


@operation(inplace=("add_to",))
def rnn_sequence_backward(
    dy: np.ndarray,
    x: np.ndarray,
    h0: np.ndarray,
    w_x: np.ndarray,
    w_h: np.ndarray,
    y: np.ndarray,
    need_dx: bool = True,
    add_to: tuple[np.ndarray, ...] | None = None,
) -> tuple[np.ndarray | None, ...]:
    """Back-propagation through time: da_t = (dy_t + da_{t+1} U^T) (1 - h_t^2), from the last step to the first;
    dx_t = da_t W^T, dh0 = da_1 U^T, dW = Σ x_t^T da_t, dU = Σ h_{t-1}^T da_t, db = Σ da_t.

    dy (B, T, N) is the gradient of all states, the last one included. Returns dx, dh0, dw_x, dw_h, dbias.

    dx is None where `need_dx` is False. With `add_to` = (dw_x, dw_h, dbias) the gradients of the weights are added
    in place to these C-contiguous arrays, which are returned.

    Source: Werbos, "Backpropagation through time: what it does and how to do it", 1990.
    """
    _check_rnn_backward("rnn_sequence_backward", 3, x, "h0", h0, w_x, w_h, "dy", dy, "y", y)
    _check_add_to("rnn_sequence_backward", w_x, w_h, ("dbias",), add_to)
    da = np.empty_like(y)
    dh = np.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        da[:, t] = (dy[:, t] + dh) * (1 - y[:, t] * y[:, t])
        dh = da[:, t] @ w_h.T
    dx, dw_x, dbias = _input_backward(da, x, w_x, need_dx)
    return dx, dh, *_added(add_to, dw_x, _rows(_before(h0, y)).T @ _rows(da), dbias)


# ---------------------------------------------------------------- GRU


def _gru_gates(a: np.ndarray, u: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From a = x W + b and u = h U + c, both (B, 3N): the next state and the gates r, z, n, q side by side."""
    a_r, a_z, a_n = np.split(a, 3, axis=-1)
    u_r, u_z, q = np.split(u, 3, axis=-1)
    r, z = _sigmoid(a_r + u_r), _sigmoid(a_z + u_z)
    n = np.tanh(a_n + r * q)
    return (1 - z) * n + z * h, np.concatenate([r, z, n, q], axis=-1)


def _gru_gates_backward(dh, h, gates):
    """The gradients of a and u, and the part of dh that does not go through u."""
    r, z, n, q = np.split(gates, 4, axis=-1)
    da_z = dh * (h - n) * z * (1 - z)
    da_n = dh * (1 - z) * (1 - n * n)
    da_r = da_n * q * r * (1 - r)
    return np.concatenate([da_r, da_z, da_n], axis=-1), np.concatenate([da_r, da_z, da_n * r], axis=-1), dh * z


@operation
def gru_cell(
    x: np.ndarray, h: np.ndarray, w_x: np.ndarray, w_h: np.ndarray, bias_x: np.ndarray, bias_h: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One step of a gated recurrent unit.

    r = σ(x W_r + b_r + h U_r + c_r)         reset
    z = σ(x W_z + b_z + h U_z + c_z)         update
    n = tanh(x W_n + b_n + r q),  q = h U_n + c_n
    h' = (1 - z) n + z h

    Shapes: x (B, D), h (B, N), w_x = W (D, 3N), w_h = U (N, 3N), bias_x = b and bias_h = c (3N,); gate order r, z, n.
    Returns h' (B, N) and gates = (r, z, n, q) side by side (B, 4N), which the backward pass needs.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, with the reset gate behind
    the recurrent product.
    """
    _check_gru("gru_cell", 2, x, "h", h, w_x, w_h, bias_x, bias_h)
    return _gru_gates(x @ w_x + bias_x, h @ w_h + bias_h, h)


@operation
def gru_cell_backward(
    dh_next: np.ndarray, x: np.ndarray, h: np.ndarray, w_x: np.ndarray, w_h: np.ndarray, gates: np.ndarray
) -> tuple[np.ndarray, ...]:
    """With dn = dh' (1 - z), dz = dh' (h - n): da_n = dn (1 - n^2), da_z = dz z (1 - z), da_r = da_n q r (1 - r).

    The input product receives da = (da_r, da_z, da_n), the recurrent one du = (da_r, da_z, r da_n);
    dh = dh' z + du U^T. Returns dx, dh, dw_x, dw_h, dbias_x, dbias_h.
    """
    _check_gru_cell_backward(dh_next, x, h, w_x, w_h, gates)
    da, du, dh = _gru_gates_backward(dh_next, h, gates)
    dx, dw_x, dbias_x = _input_backward(da, x, w_x)
    return dx, dh + du @ w_h.T, dw_x, h.T @ du, dbias_x, du.sum(axis=0)


@operation
def gru_sequence(
    x: np.ndarray, h0: np.ndarray, w_x: np.ndarray, w_h: np.ndarray, bias_x: np.ndarray, bias_h: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """T steps of `gru_cell` from h0.

    Shapes: x (B, T, D), h0 (B, N), weights and biases as in `gru_cell`. Returns y = (h_1 .. h_T), (B, T, N), and gates
    (B, T, 4N), which the backward pass needs.
    """
    _check_gru("gru_sequence", 3, x, "h0", h0, w_x, w_h, bias_x, bias_h)
    a = x @ w_x + bias_x
    B, T, N = *x.shape[:2], h0.shape[1]
    y, gates = np.empty((B, T, N), x.dtype), np.empty((B, T, 4 * N), x.dtype)
    h = h0
    for t in range(T):
        h, gates[:, t] = _gru_gates(a[:, t], h @ w_h + bias_h, h)
        y[:, t] = h
    return y, gates


@operation(inplace=("add_to",))
def gru_sequence_backward(
    dy: np.ndarray,
    x: np.ndarray,
    h0: np.ndarray,
    w_x: np.ndarray,
    w_h: np.ndarray,
    y: np.ndarray,
    gates: np.ndarray,
    need_dx: bool = True,
    add_to: tuple[np.ndarray, ...] | None = None,
) -> tuple[np.ndarray | None, ...]:
    """Back-propagation through time: the step of `gru_cell_backward` with dh' = dy_t + dh, from the last step to the
    first. dy (B, T, N) is the gradient of all states. Returns dx, dh0, dw_x, dw_h, dbias_x, dbias_h.

    dx is None where `need_dx` is False. With `add_to` = (dw_x, dw_h, dbias_x, dbias_h) the gradients of the weights
    are added in place to these C-contiguous arrays, which are returned.
    """
    _check_gru_sequence_backward(dy, x, h0, w_x, w_h, y, gates)
    _check_add_to("gru_sequence_backward", w_x, w_h, ("dbias_x", "dbias_h"), add_to)
    before = _before(h0, y)
    da = np.empty((*x.shape[:2], w_x.shape[1]), x.dtype)
    du = np.empty_like(da)
    dh = np.zeros_like(h0)
    for t in reversed(range(x.shape[1])):
        da[:, t], du[:, t], dh = _gru_gates_backward(dy[:, t] + dh, before[:, t], gates[:, t])
        dh = dh + du[:, t] @ w_h.T
    dx, dw_x, dbias_x = _input_backward(da, x, w_x, need_dx)
    return dx, dh, *_added(add_to, dw_x, _rows(before).T @ _rows(du), dbias_x, _rows(du).sum(axis=0))


# ---------------------------------------------------------------- LSTM


def _lstm_gates(a: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From a = x W + b + h U, (B, 4N): the next state, the next cell and the gates i, f, g, o side by side."""
    i, f, g, o = np.split(a, 4, axis=-1)
    i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
    c_next = f * c + i * g
    return o * np.tanh(c_next), c_next, np.concatenate([i, f, g, o], axis=-1)


def _lstm_gates_backward(dh, dc, c, c_next, gates):
    """The gradients of a and of the cell before the step; dc is what later steps say of c_next."""
    i, f, g, o = np.split(gates, 4, axis=-1)
    tanh_c = np.tanh(c_next)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    da_i, da_f = dc * g * i * (1 - i), dc * c * f * (1 - f)
    da_g, da_o = dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)
    return np.concatenate([da_i, da_f, da_g, da_o], axis=-1), dc * f


@operation
def lstm_cell(
    x: np.ndarray, h: np.ndarray, c: np.ndarray, w_x: np.ndarray, w_h: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of long short-term memory.

    a = x W + b + h U, four blocks:  i = σ(a_i) input, f = σ(a_f) forget, g = tanh(a_g) candidate, o = σ(a_o) output
    c' = f c + i g
    h' = o tanh(c')

    Shapes: x (B, D), h and c (B, N), w_x = W (D, 4N), w_h = U (N, 4N), bias (4N,); gate order i, f, g, o. Returns h',
    c' (B, N) and gates = (i, f, g, o) side by side (B, 4N), which the backward pass needs.

    Sources: Hochreiter and Schmidhuber, "Long short-term memory", 1997; Gers, Schmidhuber and Cummins, "Learning to
    forget", 2000.
    """
    _check_lstm("lstm_cell", 2, x, "h", h, "c", c, w_x, w_h, bias)
    return _lstm_gates(x @ w_x + bias + h @ w_h, c)


@operation
def lstm_cell_backward(
    dh_next: np.ndarray,
    dc_next: np.ndarray | None,
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    w_x: np.ndarray,
    w_h: np.ndarray,
    c_next: np.ndarray,
    gates: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """With dĉ = dc' + dh' o (1 - tanh(c')^2):

    da_i = dĉ g i (1 - i), da_f = dĉ c f (1 - f), da_g = dĉ i (1 - g^2), da_o = dh' tanh(c') o (1 - o)
    dc = dĉ f, dh = da U^T, dx = da W^T, dW = x^T da, dU = h^T da, db = Σ_b da

    dc_next may be None (no gradient reaches the cell). Returns dx, dh, dc, dw_x, dw_h, dbias.
    """
    _check_lstm_cell_backward(dh_next, dc_next, x, h, c, w_x, w_h, c_next, gates)
    da, dc = _lstm_gates_backward(dh_next, np.zeros_like(c) if dc_next is None else dc_next, c, c_next, gates)
    dx, dw_x, dbias = _input_backward(da, x, w_x)
    return dx, da @ w_h.T, dc, dw_x, h.T @ da, dbias


@operation
def lstm_sequence(
    x: np.ndarray, h0: np.ndarray, c0: np.ndarray, w_x: np.ndarray, w_h: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T steps of `lstm_cell` from h0 and c0.

    Shapes: x (B, T, D), h0 and c0 (B, N), weights and bias as in `lstm_cell`. Returns y = (h_1 .. h_T) and
    c = (c_1 .. c_T), (B, T, N), and gates (B, T, 4N): the backward pass needs all three.
    """
    _check_lstm("lstm_sequence", 3, x, "h0", h0, "c0", c0, w_x, w_h, bias)
    a = x @ w_x + bias
    B, T, N = *x.shape[:2], h0.shape[1]
    y, c, gates = (np.empty((B, T, n), x.dtype) for n in (N, N, 4 * N))
    h_t, c_t = h0, c0
    for t in range(T):
        h_t, c_t, gates[:, t] = _lstm_gates(a[:, t] + h_t @ w_h, c_t)
        y[:, t], c[:, t] = h_t, c_t
    return y, c, gates


@operation(inplace=("add_to",))
def lstm_sequence_backward(
    dy: np.ndarray,
    dc: np.ndarray | None,
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    w_x: np.ndarray,
    w_h: np.ndarray,
    y: np.ndarray,
    c: np.ndarray,
    gates: np.ndarray,
    need_dx: bool = True,
    add_to: tuple[np.ndarray, ...] | None = None,
) -> tuple[np.ndarray | None, ...]:
    """Back-propagation through time: the step of `lstm_cell_backward` with dh' = dy_t + dh, from the last step to the
    first. dy and dc (B, T, N) are the gradients of all states and of all cells; dc may be None (only states are used).

    Returns dx, dh0, dc0, dw_x, dw_h, dbias.

    dx is None where `need_dx` is False. With `add_to` = (dw_x, dw_h, dbias) the gradients of the weights are added
    in place to these C-contiguous arrays, which are returned.
    """
    _check_lstm_sequence_backward(dy, dc, x, h0, c0, w_x, w_h, y, c, gates)
    _check_add_to("lstm_sequence_backward", w_x, w_h, ("dbias",), add_to)
    cell_before = _before(c0, c)
    da = np.empty_like(gates)
    dh_t, dc_t = np.zeros_like(h0), np.zeros_like(c0)
    for t in reversed(range(x.shape[1])):
        if dc is not None:
            dc_t = dc_t + dc[:, t]
        da[:, t], dc_t = _lstm_gates_backward(dy[:, t] + dh_t, dc_t, cell_before[:, t], c[:, t], gates[:, t])
        dh_t = da[:, t] @ w_h.T
    dx, dw_x, dbias = _input_backward(da, x, w_x, need_dx)
    return dx, dh_t, dc_t, *_added(add_to, dw_x, _rows(_before(h0, y)).T @ _rows(da), dbias)
