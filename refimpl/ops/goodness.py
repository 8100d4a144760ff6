"""Goodness as a cosine, and the contrast of right and wrong labels that trains a layer by it. C mirror:
native/src/goodness.c.

A layer's activity z is good where its magnitudes point along a fixed vector p: g = cos(|z|, p). Rows come in pairs: row
b of the first half saw the right label, row b of the second half the same sample with a wrong one.

Shapes: z (2B, N) activities, p (N,). All arrays float32 or float64, one dtype in a call. A vector of length 0 has the
cosine 0 with everything, and no gradient. Errors: TypeError for other dtypes, ValueError for shapes that do not fit, an
odd number of rows, a theta that is not positive and finite.

Source: Momeni et al., "Backpropagation-free training of deep physical neural networks", 2023.
"""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check
from refimpl.ops.update import _fraction, _written

__all__ = ["goodness_contrast", "goodness_steps"]


def _check_pairs(op: str, name: str, a: np.ndarray) -> None:
    _check.ndim(op, name, a, 2)
    if len(a) % 2:
        raise ValueError(f"{op}: {name} has shape {a.shape}, expected an even number of rows: right halves, then wrong")


def _check_theta(op: str, theta: float) -> None:
    _check.number(op, "theta", theta)
    if not 0 < theta < math.inf:
        raise ValueError(f"{op}: theta is {theta}, expected a positive finite number")


def _check_contrast(z, p, theta):
    op = "goodness_contrast"
    _check.floats(op, "z p", z, p)
    _check_pairs(op, "z", z)
    _check.shape(op, "p", p, z.shape[1:])
    _check_theta(op, theta)


def _check_steps(param, m, v, u, p, theta, step, lr, steps, beta1, beta2, eps):
    """The number of inner steps."""
    op = "goodness_steps"
    _written(op, "param m v", param, m, v)
    _check.floats(op, "param u p", param, u, p)
    _check_pairs(op, "u", u)
    _check.ndim(op, "p", p, 1)
    _check.shape(op, "param", param, ((u.shape[1] + 1) * len(p),))
    _check_theta(op, theta)
    if not isinstance(step, (int, np.integer)):
        raise TypeError(f"{op}: step is a {type(step).__name__}, expected a whole number")
    _check.at_least(op, "step", step, 1)
    _check.at_least(op, "lr", lr, 0.0)
    _fraction(op, "beta1", beta1)
    _fraction(op, "beta2", beta2)
    _check.at_least(op, "eps", eps, 0.0)
    for name, a in (("u", u), ("p", p)):
        if any(np.may_share_memory(a, w) for w in (param, m, v)):
            raise ValueError(f"{op}: {name} shares memory with param, m or v, which are written")
    return _check.count(op, "steps", steps)


def _inverse(length: np.ndarray) -> np.ndarray:
    """1 / length, and 0 for a vector of length 0."""
    return np.divide(1, length, out=np.zeros_like(length), where=length != 0)


def _contrast(z, p, theta, magnitude):
    real, B = z.dtype.type, len(z) // 2
    v = np.abs(z) if magnitude else z
    r = _inverse(np.sqrt((v * v).sum(axis=1)))  # 1 / |z|
    a = _inverse(np.sqrt((p * p).sum())[None])[0] * p  # p / |p|
    g = (v @ a) * r
    t = real(-theta) * (g[:B] - g[B:])
    e = np.exp(-np.abs(t))
    loss = np.maximum(t, 0) + np.log1p(e)
    w = real(theta / max(B, 1)) * np.where(t < 0, e, 1) / (1 + e)  # theta sigmoid(t) / B
    w = np.concatenate([-w, w])
    towards = np.sign(z) * a if magnitude else a
    return loss, g, (w * r)[:, None] * (towards - (g * r)[:, None] * z)


@operation
def goodness_contrast(
    z: np.ndarray, p: np.ndarray, theta: float = 4.0, magnitude: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The contrastive loss of a layer, with its gradient in one pass.

    g = <v, p> / (|v| |p|),  v = |z| element by element (with magnitude False: v = z)
    L = 1/B Σ_b log(1 + exp(-theta d_b)),  d_b = g_b - g_{B+b}
    dg/dz = sign(z) (p / (|v| |p|) - g v / |v|²)        (with magnitude False without the sign)
    dz_b = -w_b dg/dz,  dz_{B+b} = w_b dg/dz,  w_b = theta / B  σ(-theta d_b)

    Rows 1 to B of z (2B, N) saw right labels, the others, in the same order, wrong ones. Returns loss (B,): the terms
    of L's sum; g (2B,); dz (2B, N).
    """
    _check_contrast(z, p, theta)
    return _contrast(z, p, theta, magnitude)


@operation(inplace=("param", "m", "v"))
def goodness_steps(
    param: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    u: np.ndarray,
    p: np.ndarray,
    theta: float,
    step: int,
    lr: float,
    steps: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
) -> np.ndarray:
    """The inner loop of one layer: `steps` times z = u W + b, the loss of `goodness_contrast`, a step of Adam.

    z = u W + b;  dW = u^T dz,  db = Σ_b dz;  then `adam_update` number step, step + 1, ...

    u (2B, D) is what the layer sees, a constant. param holds W (D, N) and b (N,) behind it as one vector, m and v are
    Adam's moments of the same length; all three are written. Returns the loss before each step, (steps,).
    """
    steps = _check_steps(param, m, v, u, p, theta, step, lr, steps, beta1, beta2, eps)
    D, N, real = u.shape[1], len(p), param.dtype.type
    W, b = param[: D * N].reshape(D, N), param[D * N :]
    losses, grad = np.empty(steps, param.dtype), np.empty_like(param)
    for k in range(steps):
        loss, _, dz = _contrast(u @ W + b, p, theta, True)
        losses[k] = loss.sum() / max(len(loss), 1)
        grad[: D * N] = (u.T @ dz).ravel()
        grad[D * N :] = dz.sum(axis=0)
        m *= real(beta1)
        m += real(1 - beta1) * grad
        v *= real(beta2)
        v += real(1 - beta2) * (grad * grad)
        rate, root = lr / (1 - beta1 ** (step + k)), math.sqrt(1 - beta2 ** (step + k))
        param -= real(rate) * (m / (np.sqrt(v) * real(1 / root) + real(eps)))
    return losses
