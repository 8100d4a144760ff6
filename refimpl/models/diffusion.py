"""Noise on label embeddings: the noise process, the reverse chain (discrete time) and the flow (continuous time).

A label embedding u (D numbers) is mixed with noise. At time t
    z_t = sqrt(abar_t) u + sqrt(1 - abar_t) eps,   eps ~ N(0, I)                                               (1)
where abar_t, the signal's share of the power, grows from nearly 0 at the beginning to nearly 1 at the end (diffusion
papers count the other way round). What it is worth is the signal-to-noise ratio SNR_t = abar_t / (1 - abar_t).

Discrete time: `Chain` holds abar_0 .. abar_T and the coefficients (2) of the step from z_{t-1} to z_t.
Continuous time: a schedule gives gamma(t) = -log SNR(t) and its slope for t in [0, 1]; abar = sigmoid(-gamma).

Source: Li, Teh and Pascanu, "NoProp", 2025; equations are numbered as in noprop's module. Schedules after Nichol and
Dhariwal, 2021 (cosine) and Kingma et al., "Variational diffusion models", 2021 (learned).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refimpl import ops
from refimpl.nn import Layer, Parameter, init

__all__ = [
    "Chain",
    "CosineGamma",
    "LearnedGamma",
    "LinearGamma",
    "Schedule",
    "chain",
    "cosine_signal",
    "diffuse",
    "flow_slope",
    "gamma_schedule",
    "integrate",
    "prior_divergence",
    "signal",
    "snr",
]


def snr(abar):
    """Signal-to-noise ratio abar / (1 - abar)."""
    return abar / (1 - abar)


def signal(gamma):
    """abar = sigmoid(-gamma), without overflow."""
    return 0.5 * (1 - np.tanh(np.asarray(gamma, np.float64) / 2))


def diffuse(u: np.ndarray, abar: float | np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Equation (1): z = sqrt(abar) u + sqrt(1 - abar) eps; u, eps and z (B, D), abar one number or (B,)."""
    a, s = np.sqrt(abar), np.sqrt(1 - np.asarray(abar))
    if np.ndim(abar):
        return ops.row_scaled_sum(a.astype(u.dtype), u, s.astype(u.dtype), eps)
    return ops.fma_combine(float(a), u, float(s), eps)


def prior_divergence(u: np.ndarray, abar: float) -> tuple[float, float]:
    """KL(q(z_0|y) || N(0, I)) of the start of (1), mean over the rows of u (B, D), and its derivative in abar_0.

    KL_0 = 1/2 (abar_0 ||u||^2 - D abar_0 - D log(1 - abar_0)),   dKL_0/dabar_0 = 1/2 (||u||^2 - D + D / (1 - abar_0));
    the derivative in u_b is abar_0 u_b / B.
    """
    B, D = u.shape
    power = float(np.vdot(u, u)) / B
    return (abar * (power - D) - D * math.log1p(-abar)) / 2, (power - D + D / (1 - abar)) / 2


# ---------------------------------------------------------------- discrete time


@dataclass(frozen=True, eq=False)
class Chain:
    """Coefficients of a chain of T steps, float64 arrays of T + 1 numbers indexed by t.

    abar[t]: the signal of z_t.  The exact reverse step q(z_t | z_{t-1}, u) is N(a_t u + b_t z_{t-1}, c_t I), (2).
    dsnr[t] = SNR_t - SNR_{t-1} = a_t^2 / c_t, (4): what getting u right is worth in step t.
    Entry 0 of a, b, c and dsnr does not exist and is NaN.
    """

    abar: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    dsnr: np.ndarray

    @property
    def T(self) -> int:
        return len(self.abar) - 1

    def step(self, t: int, uhat: np.ndarray, z: np.ndarray, eps: np.ndarray | None) -> np.ndarray:
        """Equation (3): z_t = a_t uhat + b_t z_{t-1} + sqrt(c_t) eps; without the noise where eps is None."""
        return ops.fma_combine(float(self.a[t]), uhat, float(self.b[t]), z, math.sqrt(self.c[t]), eps)


def chain(abar: np.ndarray) -> Chain:
    """The chain of a schedule abar_0 <= ... <= abar_T, all inside (0, 1). Raises ValueError for any other.

    With alpha_{t-1} = abar_{t-1} / abar_t:                                                                      (2)
        a_t = sqrt(abar_t) (1 - alpha_{t-1}) / (1 - abar_{t-1})
        b_t = sqrt(alpha_{t-1}) (1 - abar_t) / (1 - abar_{t-1})
        c_t = (1 - abar_t) (1 - alpha_{t-1}) / (1 - abar_{t-1})
    """
    abar = np.asarray(abar, np.float64)
    if abar.ndim != 1 or len(abar) < 2 or not (abar > 0).all() or not (abar < 1).all() or (np.diff(abar) < 0).any():
        raise ValueError(f"chain: abar is {abar}, expected at least 2 rising numbers inside (0, 1)")
    before, now = abar[:-1], abar[1:]
    alpha = before / now
    noise = 1 - before
    a = np.sqrt(now) * (1 - alpha) / noise
    b = np.sqrt(alpha) * (1 - now) / noise
    c = (1 - now) * (1 - alpha) / noise
    dsnr = snr(now) - snr(before)
    return Chain(abar, *(np.concatenate([[np.nan], v]) for v in (a, b, c, dsnr)))


def cosine_signal(T: int, lowest: float = 1e-3, highest: float = 0.999, offset: float = 0.008) -> np.ndarray:
    """abar_t = g(1 - t/T) / g(0), g(s) = cos^2((s + offset) / (1 + offset) pi/2), clipped to [lowest, highest].

    With offset 0 this is sin^2(pi t / 2T). The clip keeps SNR_T finite. Raises ValueError for T < 1.
    """
    if T < 1:
        raise ValueError(f"cosine_signal: T is {T}, expected at least 1 step")

    def g(s):
        return np.cos((s + offset) / (1 + offset) * np.pi / 2) ** 2

    return np.clip(g(1 - np.arange(T + 1) / T) / g(0.0), lowest, highest)


# ---------------------------------------------------------------- continuous time


def _logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


@dataclass(frozen=True)
class LinearGamma(Layer):
    """gamma(t) = g1 + (g0 - g1) t: from g1 at t = 0 (noise) down to g0 at t = 1 (signal)."""

    g0: float
    g1: float

    def forward(self, params, t, train=False, rng=None):
        """gamma(t) and gamma'(t) for times t (N,), float64; and what `backward` needs."""
        return (self.g1 + (self.g0 - self.g1) * t, np.full(len(t), self.g0 - self.g1)), None

    def backward(self, params, grads, saved, dy, need_dx=True):
        """Adds the gradients of the schedule's parameters; dy = (dL/dgamma, dL/dgamma'), each (N,)."""


@dataclass(frozen=True)
class CosineGamma(Layer):
    """abar = sin^2(theta(t)), theta linear in t between the angles of the two limits, so that nothing is clipped:
    gamma = -2 log tan(theta), gamma' = -4 theta' / sin(2 theta)."""

    lowest: float
    highest: float

    def forward(self, params, t, train=False, rng=None):
        first, last = math.asin(math.sqrt(self.lowest)), math.asin(math.sqrt(self.highest))
        theta = first + (last - first) * t
        return (-2 * np.log(np.tan(theta)), -4 * (last - first) / np.sin(2 * theta)), None

    def backward(self, params, grads, saved, dy, need_dx=True):
        """Nothing to learn."""


@dataclass(frozen=True)
class LearnedGamma(Layer):
    """A monotone network of one hidden layer with trainable ends, as in variational diffusion models.

        gamma(t) = g0 + (g1 - g0) (1 - gbar(t)),   gbar(t) = (h(t) - h(0)) / (h(1) - h(0))
        h(t) = l + sum_k v_k sigmoid(c_k l + e_k),   l = w t + b
    w, v_k and c_k are softplus of free parameters, so h rises, and gamma falls from g1 at t = 0 to g0 at t = 1.
        h'(t) = w (1 + sum_k v_k c_k s_k (1 - s_k)),   gamma'(t) = -(g1 - g0) h'(t) / (h(1) - h(0))
    """

    g0: float
    g1: float
    width: int = 64

    def declare(self):
        K = self.width
        one = math.log(math.expm1(1.0))  # softplus of it is 1
        small = math.log(math.expm1(1.0 / K))
        return {
            "ends": Parameter((2,), lambda rng, shape: np.array([self.g0, self.g1])),
            "w": Parameter((1,), init.constant(one)),
            "b": Parameter((1,), init.constant(0.0)),
            "v": Parameter((K,), init.constant(small)),
            "c": Parameter((K,), init.normal(1.0, one)),
            "e": Parameter((K,), init.normal(2.0)),
        }

    def forward(self, params, t, train=False, rng=None):
        raw = {name: params[name].astype(np.float64) for name in ("ends", "w", "b", "v", "c", "e")}
        g0, g1 = raw["ends"]
        w, v, c = (np.logaddexp(0, raw[name]) for name in ("w", "v", "c"))
        times = np.concatenate([t, [0.0, 1.0]])[:, None]  # h is needed at both ends too
        line = w * times + raw["b"]
        s = signal(-(c * line + raw["e"]))  # (N + 2, K)
        h = line[:, 0] + s @ v
        curve = s * (1 - s)
        slope = w * (1 + curve @ (v * c))
        span = h[-1] - h[-2]
        gbar = (h[:-2] - h[-2]) / span
        gamma = g0 + (g1 - g0) * (1 - gbar)
        dgamma_dt = -(g1 - g0) * slope[:-2] / span
        return (gamma, dgamma_dt), (raw, g1 - g0, w, v, c, times, line, s, curve, slope, span, gbar)

    def backward(self, params, grads, saved, dy, need_dx=True):
        dgamma, dslope = dy
        raw, width, w, v, c, times, line, s, curve, slope, span, gbar = saved
        ratio = slope[:-2] / span
        # the two ends: gamma = g0 gbar + g1 (1 - gbar), gamma' = (g0 - g1) h' / span
        dg0 = dgamma @ gbar + dslope @ ratio
        dg1 = dgamma @ (1 - gbar) - dslope @ ratio
        # h at the times, at 0 and at 1; h' at the times
        dh = np.empty(len(times))
        dh[:-2] = -width / span * dgamma
        dh[-2] = width / span * (dgamma @ (1 - gbar)) - width / span * (dslope @ ratio)
        dh[-1] = width / span * (dgamma @ gbar) + width / span * (dslope @ ratio)
        ds = np.zeros(len(times))
        ds[:-2] = -width / span * dslope
        # h = line + s v and h' = w (1 + sum v c curve), s = sigmoid(c line + e), curve = s (1 - s)
        bend = curve * (1 - 2 * s)  # d curve / d(c line + e)
        dw_direct = ds @ (slope / w)
        dh, ds = dh[:, None], ds[:, None] * w
        dinside = dh * v * curve + ds * v * c * bend
        dline = dh + (dinside * c).sum(axis=1, keepdims=True)
        dv = (dh * s + ds * c * curve).sum(axis=0)
        dc = (dinside * line + ds * v * curve).sum(axis=0)
        dw = (dline * times).sum(axis=0) + dw_direct
        for name, d in (("w", dw), ("v", dv), ("c", dc)):
            grads[name][...] += d * signal(-raw[name])  # softplus' = sigmoid
        grads["b"][...] += dline.sum()
        grads["e"][...] += dinside.sum(axis=0)
        grads["ends"][...] += np.array([dg0, dg1])


Schedule = LinearGamma | CosineGamma | LearnedGamma


def gamma_schedule(name: str, lowest: float, highest: float) -> Schedule:
    """ "linear", "cosine" or "learned", from abar = `lowest` at t = 0 to `highest` at t = 1 (the learned one at first).
    Raises ValueError for another name."""
    if name == "cosine":
        return CosineGamma(lowest, highest)
    if name not in ("linear", "learned"):
        raise ValueError(f"gamma_schedule: schedule is {name!r}, expected 'linear', 'cosine' or 'learned'")
    kind = LinearGamma if name == "linear" else LearnedGamma
    return kind(-_logit(highest), -_logit(lowest))


def flow_slope(gamma: float, dgamma: float, uhat: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Equation (6): dz/dt = -gamma'/2 (sqrt(abar) uhat - abar z).

    The probability-flow ODE of (1): solutions have the marginals of the noise process when uhat is the mean of u given
    z. It follows from dz/dt = abar' / (2 sqrt(abar) (1 - abar)) uhat - abar' / (2 (1 - abar)) z and
    abar' = -gamma' abar (1 - abar); in this form nothing is divided.
    """
    abar = float(signal(gamma))
    return ops.fma_combine(-dgamma / 2 * math.sqrt(abar), uhat, dgamma / 2 * abar, z)


def integrate(slope, z: np.ndarray, steps: int, method: str = "euler", path: list | None = None) -> np.ndarray:
    """z(1) of dz/dt = slope(z, t) from z(0) = z in `steps` equal steps.

    "euler": z += h slope(z, t).  "heun": the mean of the slopes at both ends of the Euler step. `path`, where given,
    receives z after each step. Raises ValueError for another method or steps < 1.
    """
    if method not in ("euler", "heun"):
        raise ValueError(f"integrate: method is {method!r}, expected 'euler' or 'heun'")
    if steps < 1:
        raise ValueError(f"integrate: steps is {steps}, expected at least 1")
    h = z.dtype.type(1 / steps)
    for i in range(steps):
        dz = slope(z, i / steps)
        if method == "heun":
            dz = (dz + slope(z + h * dz, (i + 1) / steps)) / 2
        z = z + h * dz
        if path is not None:
            path.append(z)
    return z
