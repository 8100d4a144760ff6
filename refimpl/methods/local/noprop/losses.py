"""The three losses of NoProp with all their gradients, one mini-batch each, in the paper's order.

Everything random is an argument, so that a loss can be differentiated numerically. A gradient is added into the
windows that it belongs to: `grads` for networks, `dW` for the class embedding (None: fixed). W None is the one-hot
embedding. B rows, K classes, D numbers an embedding; x (B, ...), y (B,) class numbers, noise (B, D).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.models.diffusion import Chain, LearnedGamma, Schedule, diffuse, prior_divergence, signal
from refimpl.models.label_denoiser import Denoiser, ReadOut, add_rows, embed
from refimpl.nn import Scope

Groups = Mapping[str, Scope]


@dataclass(frozen=True)
class Terms:
    """The terms of a loss, each a mean over the batch."""

    denoising: float  # squared distance to the clean embedding, or to the velocity, with its weight
    cross_entropy: float  # of the read-out
    prior: float = 0.0  # KL(q(z_0|y) || N(0, I))

    @property
    def total(self) -> float:
        return self.denoising + self.cross_entropy + self.prior


# ---------------------------------------------------------------- discrete time


def dt_denoising(
    block: Denoiser,
    params: Scope,
    grads: Scope,
    W: np.ndarray | None,
    dW: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
    t: int,
    chain: Chain,
    eta: float,
    eps: np.ndarray,
    rng: np.random.Generator | None = None,
) -> float:
    """Block t's own term of L_t: (T/2) eta (SNR_t - SNR_{t-1}) mean_b ||uhat_b - u_b||^2.

    z_{t-1} is sampled from (1) with the label in hand; no other block is run, and no gradient leaves this one. `rng` is
    the source of dropout masks.
    """
    B, abar = len(y), chain.abar[t - 1]
    u = embed(W, y, eps)
    z = diffuse(u, abar, eps)  # (1) at t - 1
    f, saved = block.forward(params, (x, z), train=True, rng=rng)
    weight = np.full(B, chain.T / 2 * eta * chain.dsnr[t] / B, f.dtype)
    squared, p, duhat, df = ops.denoise_loss(f, y, weight, W)
    dz = block.backward(params, grads, saved, df, need_dx=dW is not None)
    if dW is not None:  # through uhat = p W, the target u, and the u in z_{t-1}
        dW += ops.matmul(p, duhat, transpose_a=True)
        add_rows(dW, y, _scaled(math.sqrt(abar), dz) - duhat)
    return float(weight @ squared)


def end_losses(
    readout: ReadOut,
    params: Scope,
    grads: Scope,
    W: np.ndarray | None,
    dW: np.ndarray | None,
    y: np.ndarray,
    abar_first: float,
    abar_last: float,
    eps: np.ndarray,
) -> tuple[float, float]:
    """The terms of the two ends of the chain, which touch no block: the read-out's cross-entropy on z_T ~ q(z_T|y) and
    KL(q(z_0|y) || N(0, I)). Returns both."""
    u = embed(W, y, eps)
    cross_entropy, dz = _read(readout, params, grads, W, dW, y, diffuse(u, abar_last, eps))
    prior, _ = prior_divergence(u, abar_first)
    if dW is not None:
        add_rows(dW, y, _scaled(math.sqrt(abar_last), dz) + _scaled(abar_first / len(y), u))
    return cross_entropy, prior


def dt_loss(
    block: Denoiser,
    readout: ReadOut,
    params: Groups,
    grads: Groups,
    W: np.ndarray | None,
    dW: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
    t: int,
    chain: Chain,
    eta: float,
    eps: np.ndarray,
    eps_last: np.ndarray,
    rng: np.random.Generator | None = None,
) -> Terms:
    """L_t = CE + KL_0 + (T/2) eta (SNR_t - SNR_{t-1}) ||uhat_t - u||^2, means over the batch.

    `params` and `grads` hold "block" (that of t) and "readout"; eps is the noise of z_{t-1}, eps_last that of z_T.
    """
    denoising = dt_denoising(block, params["block"], grads["block"], W, dW, x, y, t, chain, eta, eps, rng)
    ends = end_losses(readout, params["readout"], grads["readout"], W, dW, y, chain.abar[0], chain.abar[-1], eps_last)
    return Terms(denoising, *ends)


# ---------------------------------------------------------------- continuous time


def ct_loss(
    net: Denoiser,
    readout: ReadOut,
    schedule: Schedule,
    params: Groups,
    grads: Groups,
    W: np.ndarray | None,
    dW: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
    t: np.ndarray,
    eta: float,
    eps: np.ndarray,
    eps_last: np.ndarray,
    rng: np.random.Generator | None = None,
) -> Terms:
    """Equation (5): CE(z_1) + KL_0 + (eta/2) SNR'(t) ||uhat(z_t, x, t) - u||^2, one time t (B,) in [0, 1] a row.

    `params` and `grads` hold "net", "readout" and "schedule", which gives gamma and gamma' at any time;
    SNR'(t) = -gamma'(t) exp(-gamma(t)).
    """
    B, learned = len(y), isinstance(schedule, LearnedGamma)
    u = embed(W, y, eps)
    times = np.concatenate([t, [0.0, 1.0]])  # the ends of the schedule belong to the loss too
    (gamma, dgamma), kept = schedule.forward(params["schedule"], times)
    abar = signal(gamma)
    now, first, last = abar[:B], abar[B], abar[B + 1]

    z = diffuse(u, now, eps)
    f, saved = net.forward(params["net"], (x, z, t), train=True, rng=rng)
    snr_now = np.exp(-gamma[:B])
    weight = eta / 2 * -dgamma[:B] * snr_now / B
    squared, p, duhat, df = ops.denoise_loss(f, y, weight.astype(f.dtype), W)
    dz = net.backward(params["net"], grads["net"], saved, df, need_dx=learned or dW is not None)
    cross_entropy, dz_last = _read(
        readout, params["readout"], grads["readout"], W, dW, y, diffuse(u, last, eps_last), need_dz=learned
    )
    prior, dprior = prior_divergence(u, first)

    if learned:  # the weight depends on gamma and gamma', z on gamma; the prior on gamma(0), the read-out on gamma(1)
        by_gamma, by_slope = np.zeros(B + 2), np.zeros(B + 2)
        by_gamma[:B] = (dz * _dz_dgamma(u, now, eps)).sum(axis=1) - weight * squared
        by_slope[:B] = -eta / 2 * snr_now * squared / B
        by_gamma[B] = -dprior * first * (1 - first)
        by_gamma[B + 1] = (dz_last * _dz_dgamma(u, np.full(B, last), eps_last)).sum()
        schedule.backward(params["schedule"], grads["schedule"], kept, (by_gamma, by_slope))
    if dW is not None:
        dW += ops.matmul(p, duhat, transpose_a=True)
        rows = np.sqrt(now)[:, None].astype(f.dtype) * dz - duhat
        add_rows(dW, y, rows + _scaled(math.sqrt(last), dz_last) + _scaled(first / B, u))
    return Terms(float(weight @ squared), cross_entropy, prior)


def _dz_dgamma(u: np.ndarray, abar: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """dz/dgamma of (1): (sqrt(1 - abar) abar eps - sqrt(abar) (1 - abar) u) / 2."""
    abar = abar[:, None]
    return (np.sqrt(1 - abar) * abar * eps - np.sqrt(abar) * (1 - abar) * u) / 2


# ---------------------------------------------------------------- flow matching


def fm_loss(
    net: Denoiser,
    readout: ReadOut,
    params: Groups,
    grads: Groups,
    W: np.ndarray | None,
    dW: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
    t: np.ndarray,
    z_first: np.ndarray,
    anchor: bool = False,
    sigma: float = 0.0,
    eps: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> Terms:
    """L_FM = ||v(z_t, x, t) - (z_1 - z_0)||^2 [+ CE of the read-out at z_t + (1 - t) v], means over the batch.

    z_1 = u, z_t = t z_1 + (1 - t) z_0 + sigma eps; z_first is z_0 ~ N(0, I), eps may be None where sigma is 0. The
    bracket is the anchor: it feeds the network's own guess of z_1 to the read-out and keeps learned embeddings from
    collapsing into one point, where the velocity would be easy. Without it the read-out learns from z_1 itself and
    sends nothing back.
    """
    B = len(y)
    u = embed(W, y, z_first)
    s = t[:, None].astype(u.dtype)
    z = s * u + (1 - s) * z_first
    if sigma:
        z += _scaled(sigma, eps)
    v, saved = net.forward(params["net"], (x, z, t), train=True, rng=rng)
    error = v - (u - z_first)
    dv = _scaled(2 / B, error)
    du = -dv
    if anchor:
        guess = z + (1 - s) * v
        cross_entropy, h = _read(readout, params["readout"], grads["readout"], W, dW, y, guess, need_dz=True)
        dv = dv + (1 - s) * h
    else:
        cross_entropy, _ = _read(readout, params["readout"], grads["readout"], W, None, y, u)
        h = None
    dz = net.backward(params["net"], grads["net"], saved, dv, need_dx=dW is not None)
    if dW is not None:
        add_rows(dW, y, du + s * (dz if h is None else dz + h))
    return Terms(float(np.vdot(error, error)) / B, cross_entropy)


# ---------------------------------------------------------------- shared


def _read(readout, params, grads, W, dW, y, z, need_dz=False) -> tuple[float, np.ndarray | None]:
    """Cross-entropy of the read-out at z, and its gradient in z (None where neither the caller nor dW needs it)."""
    o, saved = readout.forward(params, (z, W))
    loss, p = ops.cross_entropy(o, y)
    do = ops.cross_entropy_backward(p, y)
    return float(loss), readout.backward(params, grads, saved, do, need_dz or dW is not None, dW)


def _scaled(factor: float, a: Any) -> np.ndarray:
    """factor * a in the dtype of a."""
    return a.dtype.type(factor) * a
