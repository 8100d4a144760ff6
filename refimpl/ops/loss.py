"""Losses and their gradients. C mirror: native/src/loss.c.

Every loss is a mean, returned as a NumPy scalar of the input's dtype (float32 or float64); its backward function takes
`dloss`, the gradient of what is minimised with respect to the loss. (`map_agreement` is for local learning, where that
gradient is 1: it returns the loss with its gradients.) Errors: TypeError for another dtype or mixed
dtypes; ValueError for shapes that differ and for a mean over nothing.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_backward",
    "cosine_similarity",
    "cosine_similarity_backward",
    "cross_entropy",
    "cross_entropy_backward",
    "kl_divergence",
    "kl_divergence_backward",
    "l1",
    "l1_backward",
    "log_prob",
    "log_prob_backward",
    "map_agreement",
    "mse",
    "mse_backward",
]


def _same(op: str, names: str, *arrays: np.ndarray | None, dloss: float = 1.0) -> None:
    """Floats of one shape with at least one element; weight may be None. dloss is a number."""
    _check.number(op, "dloss", dloss)
    _check.optional_floats(op, names, "weight", *arrays)
    given = [(n, a) for n, a in zip(names.split(), arrays) if a is not None]
    first, shape = given[0][0], given[0][1].shape
    for name, a in given[1:]:
        _check.shape(op, name, a, shape)
    if given[0][1].size == 0:
        raise ValueError(f"{op}: {first} has shape {shape}, expected at least 1 element")


# ---------------------------------------------------------------- cross-entropy


def _classes(op, name, z, target, label_smoothing, ignore_index, weight, dloss=1.0):
    """The checks of shapes and types; `_counting` looks at the values of target and weight."""
    _check.number(op, "label_smoothing dloss", label_smoothing, dloss)
    if weight is None:
        _check.floats(op, name, z)
    else:
        _check.floats(op, f"{name} weight", z, weight)
    _check.integers(op, "target", target)
    _check.ndim(op, name, z, 2)
    _check.shape(op, "target", target, z.shape[:1])
    if weight is not None:
        _check.shape(op, "weight", weight, z.shape[:1])
    if z.size == 0:
        raise ValueError(f"{op}: {name} has shape {z.shape}, expected at least 1 sample and 1 class")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing is {label_smoothing}, expected 0 to 1")
    if ignore_index is not None and not -(2**63) <= _check.whole(op, "ignore_index", ignore_index) < 2**63:
        raise ValueError(f"{op}: ignore_index is {ignore_index}, expected a 64-bit integer")


def _counting(op, K, target, ignore_index, weight):
    """Check the values of target and weight, and return which samples count."""
    _check.index_range(op, "target", target, K, ignore_index)
    counts = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
    if weight is not None and not (weight >= 0).all():
        raise ValueError(f"{op}: weight holds {weight[~(weight >= 0)][0]}, expected values of at least 0")
    if not (counts if weight is None else counts & (weight > 0)).any():
        raise ValueError(f"{op}: no sample counts: every target is ignored or has weight 0")
    return counts


@operation
def cross_entropy(
    logits: np.ndarray,
    target: np.ndarray,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    weight: np.ndarray | None = None,
) -> tuple[np.floating, np.ndarray]:
    """Mean cross-entropy of p = softmax(logits) with the target classes t.

    L = Σ_b w_b CE_b / Σ_b w_b,  CE_b = -Σ_k q_bk log p_bk,  q_b = (1 - s) onehot(t_b) + s/K

    Shapes: logits (B, K) float, target (B,) integer in [0, K) or `ignore_index` (such a sample has w_b = 0), weight
    (B,) >= 0, one number a sample (without it w_b = 1). s is `label_smoothing`, in [0, 1]. Returns the loss and p
    (B, K), which is all that the backward pass needs. ValueError for a target outside its range, a negative or NaN
    weight, an empty batch, or when no sample counts.

    Source of the smoothing: Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016,
    section 7.
    """
    _classes("cross_entropy", "logits", logits, target, label_smoothing, ignore_index, weight)
    B, K = logits.shape
    counts = _counting("cross_entropy", K, target, ignore_index, weight)
    z = logits - logits.max(axis=1, keepdims=True)  # exp cannot overflow
    e = np.exp(z)
    s = e.sum(axis=1, keepdims=True)  # >= 1: log cannot meet a zero
    log_p = z - np.log(s)
    ce = -logits.dtype.type(1 - label_smoothing) * log_p[np.arange(B), np.where(counts, target, 0)]
    if label_smoothing > 0:
        ce = ce - logits.dtype.type(label_smoothing / K) * log_p.sum(axis=1)
    w = np.ones_like(ce) if weight is None else weight
    return (w * ce)[counts].sum() / w[counts].sum(), e / s


@operation
def cross_entropy_backward(
    p: np.ndarray,
    target: np.ndarray,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    weight: np.ndarray | None = None,
    dloss: float = 1.0,
) -> np.ndarray:
    """dlogits_b = dloss w_b / Σ w (p_b - q_b), q the smoothed target; 0 for a sample that is ignored."""
    _classes("cross_entropy_backward", "p", p, target, label_smoothing, ignore_index, weight, dloss)
    B, K = p.shape
    counts = _counting("cross_entropy_backward", K, target, ignore_index, weight)
    w = np.ones(B, p.dtype) if weight is None else weight
    w = p.dtype.type(dloss) * w / w[counts].sum()
    dz = p - p.dtype.type(label_smoothing / K)
    dz[np.arange(B), np.where(counts, target, 0)] -= p.dtype.type(1 - label_smoothing)
    return np.where(counts[:, None], w[:, None] * dz, 0)


# ---------------------------------------------------------------- log-probability of a token


def _tokens(op: str, logits: np.ndarray, target: np.ndarray) -> None:
    """The checks of shapes and types; the values of target are looked at by each body."""
    _check.floats(op, "logits", logits)
    _check.integers(op, "target", target)
    _check.ndim(op, "logits", logits, 2)
    _check.shape(op, "target", target, logits.shape[:1])


def _tokens_backward(op: str, dlp, logits, target, lse, out) -> None:
    _check.floats(op, "dlp logits lse", dlp, logits, lse)
    _tokens(op, logits, target)
    _check.shape(op, "dlp", dlp, logits.shape[:1])
    _check.shape(op, "lse", lse, logits.shape[:1])
    _check.output(op, out, logits)


@operation
def log_prob(logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """lp_t = z_t[y_t] - lse_t, lse_t = log Σ_v exp(z_tv): how probable softmax(z_t) finds token y_t.

    logits (N, V), target (N,) integers in [0, V) -> lp, lse (N,). No probabilities are stored: what the backward pass
    needs beyond the logits is one number a row. Every loss over tokens is a function of lp: cross-entropy is its
    negative mean. ValueError for a target out of range.
    """
    _tokens("log_prob", logits, target)
    _check.index_range("log_prob", "target", target, logits.shape[1])
    m = logits.max(axis=1, initial=-np.inf)
    lse = m + np.log(np.exp(logits - m[:, None]).sum(axis=1))
    return logits[np.arange(len(logits)), target] - lse, lse


@operation
def log_prob_backward(
    dlp: np.ndarray, logits: np.ndarray, target: np.ndarray, lse: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """dz_t = dlp_t (onehot(y_t) - softmax(z_t)), softmax(z_t) = exp(z_t - lse_t). `out` may be the logits."""
    _tokens_backward("log_prob_backward", dlp, logits, target, lse, out)
    _check.index_range("log_prob_backward", "target", target, logits.shape[1])
    p = np.exp(logits - lse[:, None])
    p[np.arange(len(p)), target] -= 1
    return np.multiply(-dlp[:, None], p, out=out)


# ---------------------------------------------------------------- means over all elements


@operation
def binary_cross_entropy_with_logits(
    logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None
) -> np.floating:
    """Mean binary cross-entropy of sigmoid(z) with the target probability t.

    L = 1/n Σ w (max(z, 0) - z t + log1p(exp(-|z|))) = -1/n Σ w (t log σ(z) + (1 - t) log(1 - σ(z)))

    Any shape, n elements; target and weight have the shape of logits. The weighted loss is divided by n (not by Σ w),
    as PyTorch does. That target lies in [0, 1] is not checked.
    """
    _same("binary_cross_entropy_with_logits", "logits target weight", logits, target, weight)
    loss = np.maximum(logits, 0) - logits * target + np.log1p(np.exp(-np.abs(logits)))
    return (loss if weight is None else weight * loss).mean()


@operation
def binary_cross_entropy_with_logits_backward(
    logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None, dloss: float = 1.0
) -> np.ndarray:
    """dlogits = dloss/n w (σ(z) - t)."""
    _same("binary_cross_entropy_with_logits_backward", "logits target weight", logits, target, weight, dloss=dloss)
    e = np.exp(-np.abs(logits))  # in (0, 1]: cannot overflow
    sigmoid = np.where(logits < 0, e, np.ones_like(e)) / (1 + e)
    scale = logits.dtype.type(dloss / logits.size)
    return np.asarray((scale if weight is None else scale * weight) * (sigmoid - target))


@operation
def mse(prediction: np.ndarray, target: np.ndarray) -> np.floating:
    """L = 1/n Σ (y - t)², the mean over all n elements of two arrays of one shape."""
    _same("mse", "prediction target", prediction, target)
    return np.square(prediction - target).mean()


@operation
def mse_backward(prediction: np.ndarray, target: np.ndarray, dloss: float = 1.0) -> np.ndarray:
    """dprediction = 2 dloss/n (y - t); the target's gradient is its negative."""
    _same("mse_backward", "prediction target", prediction, target, dloss=dloss)
    return np.asarray(prediction.dtype.type(2 * dloss / prediction.size) * (prediction - target))


@operation
def l1(prediction: np.ndarray, target: np.ndarray) -> np.floating:
    """L = 1/n Σ |y - t|, the mean over all n elements of two arrays of one shape."""
    _same("l1", "prediction target", prediction, target)
    return np.abs(prediction - target).mean()


@operation
def l1_backward(prediction: np.ndarray, target: np.ndarray, dloss: float = 1.0) -> np.ndarray:
    """dprediction = dloss/n sign(y - t), 0 where they are equal; the target's gradient is its negative."""
    _same("l1_backward", "prediction target", prediction, target, dloss=dloss)
    return np.asarray(prediction.dtype.type(dloss / prediction.size) * np.sign(prediction - target))


def _distributions(op: str, log_p: np.ndarray, log_q: np.ndarray, dloss: float = 1.0) -> int:
    _check.number(op, "dloss", dloss)
    _check.floats(op, "log_p log_q", log_p, log_q)
    if log_p.ndim == 0:
        raise ValueError(f"{op}: log_p has shape (), expected at least 1 axis")
    _check.shape(op, "log_q", log_q, log_p.shape)
    if log_p.size == 0:
        raise ValueError(f"{op}: log_p has shape {log_p.shape}, expected at least 1 element")
    return log_p.size // log_p.shape[-1]


@operation
def kl_divergence(log_p: np.ndarray, log_q: np.ndarray) -> np.floating:
    """Mean Kullback-Leibler divergence of rows of log-probabilities.

    L = 1/B Σ_b Σ_k p_bk (log p_bk - log q_bk), p = exp(log_p)

    Shapes: log_p, log_q (..., K) with B rows in all. Where p = 0 the term is 0, whatever q. That the rows sum to one
    is not checked.

    Source: Kullback and Leibler, "On information and sufficiency", 1951.
    """
    B = _distributions("kl_divergence", log_p, log_q)
    p = np.exp(log_p)
    with np.errstate(invalid="ignore"):  # 0 * inf, replaced in the same line
        terms = np.where(p == 0, 0, p * (log_p - log_q))
    return terms.sum() / log_p.dtype.type(B)


@operation
def kl_divergence_backward(log_p: np.ndarray, log_q: np.ndarray, dloss: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """dlog_p = dloss/B p (log p - log q + 1), dlog_q = -dloss/B p: both arguments are free, not tied to sum to one."""
    B = _distributions("kl_divergence_backward", log_p, log_q, dloss)
    p = np.exp(log_p)
    g = log_p.dtype.type(dloss / B) * p
    with np.errstate(invalid="ignore"):
        return np.where(p == 0, 0, g * (log_p - log_q + 1)), -g


# ---------------------------------------------------------------- cosine similarity


def _vectors(op: str, a: np.ndarray, b: np.ndarray, eps: float) -> None:
    _check.floats(op, "a b", a, b)
    if a.ndim == 0:
        raise ValueError(f"{op}: a has shape (), expected at least 1 axis")
    _check.shape(op, "b", b, a.shape)
    _check.at_least(op, "eps", eps, 0)


def _similarities(op: str, ds, a, b, s, norm_a, norm_b, eps: float) -> None:
    _check.floats(op, "ds a b s norm_a norm_b", ds, a, b, s, norm_a, norm_b)
    _vectors(op, a, b, eps)
    for name, v in (("ds", ds), ("s", s), ("norm_a", norm_a), ("norm_b", norm_b)):
        _check.shape(op, name, v, a.shape[:-1])


@operation
def cosine_similarity(a: np.ndarray, b: np.ndarray, eps: float = 1e-8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """s = a·b / (max(|a|, eps) max(|b|, eps)) over the last axis.

    Shapes: a, b (..., D) -> s, |a|, |b| (...). The norms returned are the true ones; eps is PyTorch's convention and
    makes the similarity with a zero vector 0.
    """
    _vectors("cosine_similarity", a, b, eps)
    norm_a = np.asarray(np.sqrt((a * a).sum(axis=-1)))
    norm_b = np.asarray(np.sqrt((b * b).sum(axis=-1)))
    least = a.dtype.type(eps)
    return np.asarray((a * b).sum(axis=-1) / np.maximum(norm_a, least) / np.maximum(norm_b, least)), norm_a, norm_b


@operation
def cosine_similarity_backward(
    ds: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    s: np.ndarray,
    norm_a: np.ndarray,
    norm_b: np.ndarray,
    eps: float = 1e-8,
) -> tuple[np.ndarray, np.ndarray]:
    """da = ds (b / (A B) - s a / A²), A = max(|a|, eps), B = max(|b|, eps); db alike.

    Where |a| < eps, A is a constant and the second term vanishes.
    """
    _similarities("cosine_similarity_backward", ds, a, b, s, norm_a, norm_b, eps)
    least = a.dtype.type(eps)
    A, B = np.maximum(norm_a, least), np.maximum(norm_b, least)
    cross = (ds / A / B)[..., None]
    own_a = np.where(norm_a < least, least.dtype.type(0), ds * s / A / A)[..., None]
    own_b = np.where(norm_b < least, least.dtype.type(0), ds * s / B / B)[..., None]
    return cross * b - own_a * a, cross * a - own_b * b


# ---------------------------------------------------------------- agreement of two sets of maps


def _maps(op: str, a: np.ndarray, c: np.ndarray, sC: float, sD: float | None, eps: float) -> None:
    _same(op, "a c", a, c)
    _check.ndim(op, "a", a, 4)
    _check.at_least(op, "sC", sC, 0)
    if sD is not None:
        _check.at_least(op, "sD", sD, 0)
    _check.number(op, "eps", eps)
    if not eps > 0:
        raise ValueError(f"{op}: eps is {eps}, expected a positive number")


def _unit_maps(a: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """norm(a), u = a - its mean over a map, and n = |u| (B, C, 1, 1)."""
    u = a - a.mean(axis=(2, 3), keepdims=True)
    n = np.sqrt((u * u).sum(axis=(2, 3), keepdims=True))
    return u / (n + a.dtype.type(eps)), u, n


def _unit_maps_backward(g: np.ndarray, u: np.ndarray, n: np.ndarray, eps: float) -> np.ndarray:
    """norm'(g); a map without contrast, n = 0, gets g / eps without its mean."""
    long = n + u.dtype.type(eps)
    inner = (u * g).sum(axis=(2, 3), keepdims=True)
    du = g / long - u * (inner / (np.where(n > 0, n, 1) * long * long))
    return du - du.mean(axis=(2, 3), keepdims=True)


@operation
def map_agreement(
    a: np.ndarray,
    c: np.ndarray,
    sC: float = 1.0,
    sD: float | None = None,
    need_da: bool = True,
    need_dc: bool = True,
    eps: float = 1e-8,
) -> tuple[np.floating, np.ndarray | None, np.ndarray | None]:
    """How far two sets of maps differ, as they are and each map centred and brought to length 1; with both gradients.

    L  = H sC mean (a - c)^2 + H sD mean (norm(a) - norm(c))^2
    da = 2 H / N (sC (a - c) + sD norm'(norm(a) - norm(c))),  dc: a and c exchanged

    norm(a) = u / (n + e),  u = a - its mean over a map,  n = |u|
    norm'(g) = du - its mean over a map,  du = g / (n + e) - u <u, g> / (n (n + e)^2)

    Shapes: a, c, da, dc (B, C, H, W), N elements in all; a map is the (H, W) of one sample and channel; e is `eps`.
    Without sD the second terms are absent. A gradient that is not needed is None.

    Source: Kao and Hariharan, "Counter-current learning: a biologically plausible dual network approach for deep
    learning", 2024 (loss of the autoencoder, as in the authors' code).
    """
    _maps("map_agreement", a, c, sC, sD, eps)
    H, N, real = a.shape[2], a.size, a.dtype.type
    error = a - c
    loss = H * sC / N * (error * error).sum()
    half = error * real(2 * H * sC / N)
    da, dc = half, -half
    if sD is not None:
        (ahat, u, n), (chat, v, m) = _unit_maps(a, eps), _unit_maps(c, eps)
        error = ahat - chat
        loss = loss + H * sD / N * (error * error).sum()
        g = error * real(2 * H * sD / N)
        da = da + _unit_maps_backward(g, u, n, eps) if need_da else None
        dc = dc - _unit_maps_backward(g, v, m, eps) if need_dc else None
    return real(loss), da if need_da else None, dc if need_dc else None
