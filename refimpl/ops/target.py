"""Layers with targets of their own: outputs, local losses and errors, and whole local steps. C mirror:
native/src/target.c.

A layer has a table of codes (K, N), one a class; the code of a sample's class is what its output y = s(z) should be.
The local loss J compares the two, and the error d = dJ/dz is all that the layer learns from. No other layer takes part.
With t the code, r = y - t and s' = s'(z), which y alone gives (1 - y^2, y (1 - y), [y > 0], 1):

    l2        J = 1/2 Σ r^2                                d = r s'
    l1        J = Σ |r|                                    d = sign(r) s'
    logistic  J = Σ log(1 + exp(-c z)) + c (1 - q) z       d = r
    huber     J = Σ r^2 / 2, or a (|r| - a / 2)            d = clip(r, -a, a) s'
    cosine    J = 1 - g,  g = t·y / (|t| |y|)              d = -(t / (|t| |y|) - g y / |y|^2) s'
    linear    J = -Σ t y                                   d = -t s'

logistic is the cross-entropy of a unit that fires with probability σ(c z): c = 2 and q = (1 + t) / 2 for tanh, c = 1
and q = t for the sigmoid; for t = +-1 and tanh it is log(1 + exp(-2 t z)). a is `delta`. linear with t = -B is direct
random target projection. cosine couples the units of a row, all others are sums over units; a vector of length 0 has
g = 0 and no gradient.

All float arrays are float32 or float64, one dtype in a call. Errors: TypeError for other dtypes, ValueError for shapes
that do not fit, a label outside [0, K), a loss or an activation that does not exist.

Sources: Lomnitz et al., "Learning with local gradients at the edge", 2022 (l2, l1); Frenkel, Lefebvre and Bol,
"Learning without feedback", 2021 (linear).
"""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check
from refimpl.ops.activation import _sigmoid
from refimpl.ops.goodness import _inverse
from refimpl.ops.recurrent import _before, _rows

__all__ = ["rnn_target_sequence", "target_loss", "target_step"]

LOSSES = ("l2", "l1", "logistic", "huber", "cosine", "linear")  # numbered as in target.c
ACTIVATIONS = ("tanh", "sigmoid", "relu", "identity")


def _kinds(op: str, loss: str, activation: str, delta: float) -> tuple[int, int]:
    """The numbers of a loss and an activation."""
    for name, value, allowed in (("loss", loss, LOSSES), ("activation", activation, ACTIVATIONS)):
        if value not in allowed:
            raise ValueError(f"{op}: {name} is {value!r}, expected one of {', '.join(allowed)}")
    if loss == "logistic" and activation not in ("tanh", "sigmoid"):
        raise ValueError(f"{op}: activation is {activation!r}, expected tanh or sigmoid with the logistic loss")
    _check.number(op, "delta", delta)
    if not 0 < delta < math.inf:
        raise ValueError(f"{op}: delta is {delta}, expected a positive finite number")
    return LOSSES.index(loss), ACTIVATIONS.index(activation)


def _check_codes(op: str, labels: np.ndarray, codes: np.ndarray, shape: tuple[int, ...], N: int) -> None:
    _check.integers(op, "labels", labels)
    _check.shape(op, "labels", labels, shape)
    _check.ndim(op, "codes", codes, 2)
    _check.shape(op, "codes", codes, (len(codes), N))
    _check.index_range(op, "labels", labels, len(codes))


def _check_target_loss(z, labels, codes, loss, activation, delta, scale):
    op = "target_loss"
    _check.floats(op, "z codes", z, codes)
    _check.ndim(op, "z", z, 2)
    _check_codes(op, labels, codes, z.shape[:1], z.shape[1])
    _check.number(op, "scale", scale)
    if not math.isfinite(scale):
        raise ValueError(f"{op}: scale is {scale}, expected a finite number")
    return _kinds(op, loss, activation, delta)


def _apart(op: str, written: tuple, read: tuple) -> None:
    """No written array shares memory with another one."""
    for i, (name, a) in enumerate(written):
        for other, b in (*written[:i], *read):
            if np.may_share_memory(a, b):
                raise ValueError(f"{op}: {name} and {other} share memory, but {name} is written")


def _check_target_step(x, labels, weight, bias, codes, v_weight, v_bias, lr, momentum, loss, activation, delta):
    op = "target_step"
    _check.floats(op, "x weight bias codes", x, weight, bias, codes)
    _check.ndim(op, "x", x, 2)
    _check.ndim(op, "weight", weight, 2)
    _check.writable(op, "weight", weight, (len(weight), x.shape[1]), x.dtype)
    _check.writable(op, "bias", bias, weight.shape[:1], x.dtype)
    _check_codes(op, labels, codes, x.shape[:1], len(weight))
    if len(x) == 0:
        raise ValueError(f"{op}: x has shape {x.shape}, expected at least one row")
    _check.at_least(op, "lr", lr, 0.0)
    _check.at_least(op, "momentum", momentum, 0.0)
    written = [("weight", weight), ("bias", bias)]
    if (v_weight is None) != (v_bias is None):
        raise ValueError(f"{op}: v_weight and v_bias are given together or not at all")
    if v_weight is not None:
        _check.writable(op, "v_weight", v_weight, weight.shape, weight.dtype)
        _check.writable(op, "v_bias", v_bias, bias.shape, bias.dtype)
        written += [("v_weight", v_weight), ("v_bias", v_bias)]
    elif momentum:
        raise ValueError(f"{op}: momentum is {momentum}, but v_weight is None, expected an array of weight's shape")
    _apart(op, tuple(written), (("x", x), ("codes", codes)))
    return _kinds(op, loss, activation, delta)


def _check_rnn_target_sequence(x, h0, labels, codes, w_x, w_h, bias, dw_x, dw_h, dbias, weights, loss, delta):
    op = "rnn_target_sequence"
    _check.floats(op, "x h0 codes w_x w_h bias weights", x, h0, codes, w_x, w_h, bias, weights)
    _check.ndim(op, "x", x, 3)
    _check.ndim(op, "h0", h0, 2)
    B, N = h0.shape
    _, T, D = x.shape
    _check.shape(op, "x", x, (B, T, D))
    _check.shape(op, "w_x", w_x, (D, N))
    _check.shape(op, "w_h", w_h, (N, N))
    _check.shape(op, "bias", bias, (N,))
    _check.shape(op, "weights", weights, (T,))
    _check_codes(op, labels, codes, (B, T), N)
    _check.writable(op, "dw_x", dw_x, w_x.shape, w_x.dtype)
    _check.writable(op, "dw_h", dw_h, w_h.shape, w_h.dtype)
    _check.writable(op, "dbias", dbias, bias.shape, bias.dtype)
    return _kinds(op, loss, "tanh", delta)


def _activated(z: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray | None]:
    """y = s(z) and s'(z), which is None for 1."""
    if activation == "tanh":
        y = np.tanh(z)
        return y, 1 - y * y
    if activation == "sigmoid":
        y = _sigmoid(z)
        return y, y * (1 - y)
    if activation == "relu":
        y = np.maximum(z, 0)
        return y, (y > 0).astype(z.dtype)
    return z.copy(), None


def _target(z, t, loss, activation, delta):
    """y, J and d for activities z (B, N) and targets t (B, N)."""
    y, slope = _activated(z, activation)
    r = y - t
    if loss == "logistic":
        c = 2 if activation == "tanh" else 1
        positive = np.abs(z) if activation == "tanh" else np.maximum(z, 0)
        return y, (positive - t * z + np.log1p(np.exp(-c * np.abs(z)))).sum(axis=1), r
    if loss == "l2":
        J, d = (r * r).sum(axis=1) * z.dtype.type(0.5), r
    elif loss == "l1":
        J, d = np.abs(r).sum(axis=1), np.sign(r)
    elif loss == "huber":
        a, size = z.dtype.type(delta), np.abs(r)
        J = np.where(size <= a, r * r * z.dtype.type(0.5), a * (size - z.dtype.type(0.5 * delta))).sum(axis=1)
        d = np.clip(r, -a, a)
    elif loss == "cosine":
        u = _inverse(np.sqrt((t * t).sum(axis=1)))  # 1 / |t|
        v = _inverse(np.sqrt((y * y).sum(axis=1)))  # 1 / |y|
        g = (t * y).sum(axis=1) * u * v
        J, d = 1 - g, (g * v * v)[:, None] * y - (u * v)[:, None] * t
    else:
        J, d = -(t * y).sum(axis=1), -t
    return y, J, d if slope is None else d * slope


@operation
def target_loss(
    z: np.ndarray,
    labels: np.ndarray,
    codes: np.ndarray,
    loss: str = "l2",
    activation: str = "tanh",
    delta: float = 1.0,
    scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output, local loss and local error of a layer: y = s(z), J(y, t) and d = scale dJ/dz, with t = codes[label].

    z (B, N), labels (B,) integers in [0, K), codes (K, N); loss, activation: see the head of this module; delta: where
    the Huber loss becomes linear; scale: a factor of d alone, such as 1 / B. Returns y (B, N), J (B,), d (B, N). A
    feature map (B, C, H, W) comes as rows (B, C H W). At the kinks of l1 and relu, d is 0.
    """
    _check_target_loss(z, labels, codes, loss, activation, delta, scale)
    y, J, d = _target(z, codes[labels], loss, activation, delta)
    return y, J, d * z.dtype.type(scale)


@operation(inplace=("weight", "bias", "v_weight", "v_bias"))
def target_step(
    x: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    codes: np.ndarray,
    v_weight: np.ndarray | None = None,
    v_bias: np.ndarray | None = None,
    lr: float = 0.05,
    momentum: float = 0.0,
    loss: str = "l2",
    activation: str = "tanh",
    delta: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """One local step of a fully connected layer: forward, error, gradient and descent, in place.

    z = x W^T + b,  y = s(z),  d = dJ/dz
    dW = 1/B d^T x,  db = 1/B Σ_b d
    W = W - lr dW,  b = b - lr db             (v_weight = V given: V = mu V + dW, W = W - lr V; v_bias for b)

    Shapes: x (B, D), labels (B,), weight = W (N, D), one row a unit, bias = b (N,), codes (K, N); mu is momentum.
    Returns y (B, N), made with the old weights, and J (B,). Writes weight, bias and their velocities (C-contiguous).

    A unit's error needs its own activity alone (but for the cosine), so its row of W is read, used and changed in one
    visit: for B = 1 the step costs one read and one write of each weight.
    """
    _check_target_step(x, labels, weight, bias, codes, v_weight, v_bias, lr, momentum, loss, activation, delta)
    z = x @ weight.T + bias
    y, J, d = _target(z, codes[labels], loss, activation, delta)
    d = d * z.dtype.type(1 / len(x))
    rate, mu = z.dtype.type(lr), z.dtype.type(momentum)
    for param, v, gradient in ((weight, v_weight, d.T @ x), (bias, v_bias, d.sum(axis=0))):
        if v is not None:
            v[...] = mu * v + gradient
        param -= rate * (gradient if v is None else v)
    return y, J


@operation(inplace=("dw_x", "dw_h", "dbias"))
def rnn_target_sequence(
    x: np.ndarray,
    h0: np.ndarray,
    labels: np.ndarray,
    codes: np.ndarray,
    w_x: np.ndarray,
    w_h: np.ndarray,
    bias: np.ndarray,
    dw_x: np.ndarray,
    dw_h: np.ndarray,
    dbias: np.ndarray,
    weights: np.ndarray,
    loss: str = "l2",
    delta: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """A recurrent layer with a target at every step, the state before each taken for a constant.

    z_t = x_t W + h_{t-1} U + b,  h_t = tanh(z_t),  d_t = c_t dJ_t/dz_t              t = 1 .. T
    dW += Σ_t x_t^T d_t,  dU += Σ_t h_{t-1}^T d_t,  db += Σ_t Σ_b d_t

    Shapes: x (B, T, D), h0 (B, N), labels (B, T), codes (K, N), w_x = W (D, N), w_h = U (N, N), bias (N,), weights = c
    (T,), in which a factor such as 1 / B belongs. dw_x, dw_h and dbias, C-contiguous, are added to. Returns the states
    y (B, T, N) and J (B, T). Nothing passes back in time: what follows needs the last state alone, so a long sequence
    may come in parts.
    """
    _check_rnn_target_sequence(x, h0, labels, codes, w_x, w_h, bias, dw_x, dw_h, dbias, weights, loss, delta)
    z = x @ w_x + bias
    y, h = np.empty_like(z), h0
    for t in range(x.shape[1]):
        z[:, t] += h @ w_h
        y[:, t] = h = np.tanh(z[:, t])
    _, J, d = _target(_rows(z), codes[labels.ravel()], loss, "tanh", delta)
    d = _rows(d.reshape(z.shape) * weights[:, None])
    dw_x += _rows(x).T @ d
    dw_h += _rows(_before(h0, y)).T @ d
    dbias += d.sum(axis=0)
    return y, J.reshape(labels.shape)
