"""What is minimised: supervised fine-tuning, GRPO and DPO, as functions of the log-probability of each token.

The model gives lp_t, the log-probability of the token that follows position t, for each position of each text:
lp (B, T). An objective turns lp into the loss and dL/dlp; the head does the rest, because for all of them

    dlogits_t = dL/dlp_t (onehot(y_t) - softmax(logits_t)).

SFT and GRPO are sums over tokens, so a stretch of positions can be worked through without knowing the others
(`separable`). DPO is a function of the sum over a whole text; its gradient is again one over tokens, but for one factor
a pair, which needs all of lp first.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from refimpl import ops

__all__ = ["DPO", "GRPO", "SFT", "Objective", "shifted"]

REDUCTIONS = ("grpo", "bnpo", "dr_grpo")


def shifted(tokens: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Target and mask (B, T) of texts `tokens` (B, T): position t predicts token t + 1 where `mask` says that t + 1 is
    to be learned (a completion, say). The last position has nothing to predict: target 0, mask 0."""
    target, weight = np.zeros(tokens.shape, np.int64), np.zeros(tokens.shape)
    target[:, :-1] = tokens[:, 1:]
    weight[:, :-1] = 1 if mask is None else mask[:, 1:]
    return target, weight


def _same(name: str, a: np.ndarray, shape: tuple[int, ...]) -> None:
    if a.shape != shape:
        raise ValueError(f"{name} has shape {a.shape}, expected {shape}")


@dataclass(frozen=True, eq=False)
class Objective:
    """target (B, T): the token that each position predicts; mask (B, T) >= 0: 0 where it predicts nothing.

    `temperature` divides the logits before anything else. All objectives raise ValueError for shapes and settings that
    do not fit, when they are made.
    """

    target: np.ndarray
    mask: np.ndarray

    separable = True
    temperature = 1.0

    def __post_init__(self):
        _same(f"{type(self).__name__}: mask", self.mask, self.target.shape)
        if not (self.mask >= 0).all():
            raise ValueError(f"{type(self).__name__}: mask holds {self.mask.min()}, expected values of at least 0")
        self._check()

    def _check(self) -> None:
        pass

    def part(self, lp: np.ndarray, s: int, e: int) -> tuple[float, np.ndarray]:
        """The share of positions s to e in the loss, and dL/dlp there, from lp (B, e - s)."""
        raise NotImplementedError

    def whole(self, lp: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and dL/dlp (B, T)."""
        return self.part(lp, 0, lp.shape[1])


@dataclass(frozen=True, eq=False)
class SFT(Objective):
    """L = -1/N Σ m_t lp_t, N = Σ m_t unless a normaliser is given (1, to accumulate sums over several batches)."""

    normaliser: float | None = None

    def _check(self):
        if not self.total > 0:
            raise ValueError("SFT: no token counts: the mask is 0 everywhere")

    @functools.cached_property
    def total(self) -> float:
        return float(self.mask.sum()) if self.normaliser is None else float(self.normaliser)

    @functools.cached_property
    def _shares(self) -> dict[np.dtype, np.ndarray]:
        return {}

    def part(self, lp, s, e):
        share = self._shares.get(lp.dtype)
        if share is None:
            share = self._shares[lp.dtype] = (self.mask / -self.total).astype(lp.dtype)
        dlp = share[:, s:e]  # dL/dlp_t = -m_t / N
        return float((dlp * lp).sum()), dlp


@dataclass(frozen=True, eq=False)
class GRPO(Objective):
    """Group relative policy optimisation (Shao et al., 2024) of G texts with advantages A (G,).

    ℓ = -min(r A, clip(r, 1 - ε_lo, 1 + ε_hi) A) + β k3,   r = exp(lp - old),   k3 = exp(ref - lp) - (ref - lp) - 1

    Without `old` the texts were drawn from the policy as it is: r = 1 with the gradient of lp. Without `reference`
    there is no k3. Reductions, w the weight of a token: "grpo" m / (G Σ_t m of its text), "bnpo" m / Σ m, "dr_grpo"
    m / (G longest).
    """

    advantages: np.ndarray = None  # type: ignore[assignment]
    old: np.ndarray | None = None
    reference: np.ndarray | None = None
    beta: float = 0.0
    clip: tuple[float, float] = (0.2, 0.2)
    reduction: str = "grpo"
    longest: int | None = None
    temperature: float = 1.0

    def _check(self):
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"GRPO: reduction is {self.reduction!r}, expected one of {', '.join(REDUCTIONS)}")
        if self.advantages is None:
            raise ValueError("GRPO: advantages are missing")
        _same("GRPO: advantages", self.advantages, self.target.shape[:1])
        for name in ("old", "reference"):
            if getattr(self, name) is not None:
                _same(f"GRPO: {name}", getattr(self, name), self.target.shape)
        if self.beta and self.reference is None:
            raise ValueError(f"GRPO: beta is {self.beta}, but there is no reference to stay close to")
        if not self.temperature > 0:
            raise ValueError(f"GRPO: temperature is {self.temperature}, expected a positive number")

    @functools.cached_property
    def weights(self) -> np.ndarray:
        G, m = len(self.target), self.mask
        if self.reduction == "grpo":
            return m / (G * np.maximum(1, m.sum(axis=1, keepdims=True)))
        if self.reduction == "bnpo":
            return m / max(1.0, m.sum())
        return m / (G * (self.longest or m.shape[1]))

    def part(self, lp, s, e):
        w, A = self.weights[:, s:e].astype(lp.dtype), self.advantages[:, None].astype(lp.dtype)
        r = np.ones_like(lp) if self.old is None else np.exp(lp - self.old[:, s:e].astype(lp.dtype))
        low, high = 1 - self.clip[0], 1 + self.clip[1]
        active = ~((A > 0) & (r > high) | (A < 0) & (r < low) | (A == 0))
        loss = -np.minimum(r * A, np.clip(r, low, high) * A)
        dlp = np.where(active, -r * A, 0)
        if self.reference is not None:
            d = self.reference[:, s:e].astype(lp.dtype) - lp
            k3 = np.exp(d)
            loss = loss + lp.dtype.type(self.beta) * (k3 - d - 1)
            dlp = dlp + lp.dtype.type(self.beta) * (1 - k3)
        used = w > 0  # elsewhere lp means nothing and may be anything
        return float((w * loss)[used].sum()), np.where(used, w * dlp, 0).astype(lp.dtype)


@dataclass(frozen=True, eq=False)
class DPO(Objective):
    """Direct preference optimisation (Rafailov et al., 2023): texts 1..P are preferred to texts P+1..2P.

    c_b = Σ (lp - ref) over the preferred text - the same over the other,   L = -1/P Σ_b log σ(β c_b)
    κ_b = dL/dc_b = -β/P (1 - σ(β c_b)),   dL/dlp = κ_b m on the preferred text and -κ_b m on the other.
    """

    reference: np.ndarray = None  # type: ignore[assignment]
    beta: float = 0.1

    separable = False

    def _check(self):
        if len(self.target) % 2 or not len(self.target):
            raise ValueError(f"DPO: {len(self.target)} texts, expected pairs: the preferred ones, then the others")
        if self.reference is None:
            raise ValueError("DPO: the reference's log-probabilities are missing")
        _same("DPO: reference", self.reference, self.target.shape)
        if not self.beta > 0:
            raise ValueError(f"DPO: beta is {self.beta}, expected a positive number")

    @property
    def pairs(self) -> int:
        return len(self.target) // 2

    def signs(self) -> np.ndarray:
        """m on the preferred texts, -m on the others: dc/dlp."""
        return np.concatenate([self.mask[: self.pairs], -self.mask[self.pairs :]])

    def margins(self, lp: np.ndarray) -> np.ndarray:
        """c (P,)."""
        signs = self.signs()
        each = np.where(signs != 0, signs * (lp - self.reference), 0).sum(axis=1)
        return each[: self.pairs] + each[self.pairs :]

    def kappa(self, c: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss and κ (P,)."""
        z = np.asarray(self.beta * c, np.float64)
        loss = ops.softplus.numpy(-z).mean()
        return float(loss), -self.beta / self.pairs * ops.sigmoid.numpy(-z)

    def whole(self, lp):
        loss, kappa = self.kappa(self.margins(lp))
        return loss, (self.signs() * np.tile(kappa, 2)[:, None]).astype(lp.dtype)
