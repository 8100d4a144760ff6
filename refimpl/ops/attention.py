"""Scaled dot-product attention and its gradient. C mirror: native/src/attention.c.

Axes: B batch, H query heads, G key heads (H a multiple of G: query head h looks at key head h // (H/G)), T queries,
S keys, D width of q and k, E width of v. All arrays float32 or all float64.
"""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = ["attention", "attention_backward"]


def _checked(op, q, k, v, mask, padding, causal, scale):
    """The checks of both bodies. Returns B, H, G, T, S, D, E and the scale."""
    _check.floats(op, "q k v", q, k, v)
    for name, a in (("q", q), ("k", k), ("v", v)):
        _check.ndim(op, name, a, 4)
    B, H, T, D = q.shape
    G, S, E = k.shape[1], k.shape[2], v.shape[3]
    _check.shape(op, "k", k, (B, G, S, D))
    _check.shape(op, "v", v, (B, G, S, E))
    if G == 0 or H % G:
        raise ValueError(f"{op}: q has {H} heads and k has {G}, expected a multiple")
    if D == 0:
        raise ValueError(f"{op}: q has shape {q.shape}, expected a width of at least 1")
    if mask is not None:
        _check.floats(op, "q mask", q, mask)
        _check.ndim(op, "mask", mask, 4)
        if any(m not in (1, n) for m, n in zip(mask.shape, (B, H, T, S))):
            raise ValueError(f"{op}: mask has shape {mask.shape}, expected {(B, H, T, S)} or 1 along some axes")
    if padding is not None:
        _check.flags(op, "padding", padding, np.bool_)
        _check.shape(op, "padding", padding, (B, S))
    if scale is not None:
        _check.number(op, "scale", scale)
    return B, H, G, T, S, D, E, 1 / math.sqrt(D) if scale is None else float(scale)


def _checked_backward(op, dy, q, k, v, y, lse, mask, padding, causal, scale, add_to):
    sizes = _checked(op, q, k, v, mask, padding, causal, scale)
    B, H, _, T, _, _, E, _ = sizes
    _check.floats(op, "q dy y lse", q, dy, y, lse)
    _check.shape(op, "dy", dy, (B, H, T, E))
    _check.shape(op, "y", y, (B, H, T, E))
    _check.shape(op, "lse", lse, (B, H, T))
    if add_to is not None:
        if not isinstance(add_to, tuple) or len(add_to) != 2:
            raise TypeError(f"{op}: add_to is {type(add_to).__name__}, expected the pair (dk, dv)")
        _check.floats(op, "q add_to[0] add_to[1]", q, *add_to)
        for i, like in enumerate((k, v)):
            _check.shape(op, f"add_to[{i}]", add_to[i], like.shape)
            if not add_to[i].flags.writeable:
                raise ValueError(f"{op}: add_to[{i}] cannot be written to")
    return sizes


def _grouped(a: np.ndarray, G: int) -> np.ndarray:
    """(B, H, ...) -> (B, G, H/G, ...): query heads by the key head that they share."""
    return a.reshape(a.shape[0], G, a.shape[1] // G, *a.shape[2:])


def _scores(q, k, mask, padding, causal, scale):
    """scale q k^T + mask, -inf where a query does not see a key: (B, G, H/G, T, S)."""
    (B, H, T, _), (_, G, S, _) = q.shape, k.shape
    s = _grouped(q, G) @ k[:, :, None].swapaxes(-1, -2) * q.dtype.type(scale)
    if mask is not None:
        s = s + _grouped(np.broadcast_to(mask, (B, H, T, S)), G)
    if padding is not None:
        s = np.where(padding[:, None, None, None, :], -np.inf, s).astype(q.dtype, copy=False)
    if causal:
        sees = np.arange(S) <= np.arange(T)[:, None] + (S - T)
        s = np.where(sees, s, -np.inf).astype(q.dtype, copy=False)
    return s


@operation
def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    padding: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """y = softmax(s) v over the keys, s = scale q k^T + mask; lse = log sum exp s.

    Shapes: q (B, H, T, D), k (B, G, S, D), v (B, G, S, E). Returns y (B, H, T, E) and lse (B, H, T), which is all that
    the backward pass needs to make the probabilities again: p = exp(s - lse).

    mask is added to the scores: (B, H, T, S) or 1 along some axes; -inf hides a key. padding (B, S) bool: True hides a
    key from all queries. causal: query t sees the keys up to t + (S - T), so that the last query sees the last key
    (with S > T the first S - T keys are a past that every query sees; with S < T the first T - S queries see nothing).
    k and v may be the first S of more keys a head, views k[:, :, :S] of a cache: they are read where they lie.
    A query that sees no key gives y = 0 and lse = -inf. scale is 1/sqrt(D) where not given. Hidden keys have weight 0;
    their q, k and v must still be finite, as 0 times infinity is NaN.

    Errors: TypeError for dtypes, ValueError for shapes that do not fit, H no multiple of G, or D = 0.
    Source: Vaswani et al., "Attention is all you need", 2017, equation (1); key heads shared by a group of query
    heads: Ainslie et al., "GQA", 2023.
    """
    B, H, _, T, _, _, E, scale = _checked("attention", q, k, v, mask, padding, causal, scale)
    s = _scores(q, k, mask, padding, causal, scale)
    m = s.max(axis=-1, keepdims=True, initial=-np.inf)
    m = np.where(np.isneginf(m), 0, m).astype(q.dtype, copy=False)  # a query that sees no key
    p = np.exp(s - m)  # cannot overflow
    total = p.sum(axis=-1, keepdims=True)
    y = p / np.where(total == 0, 1, total) @ v[:, :, None]
    with np.errstate(divide="ignore"):
        lse = m + np.log(total)
    return y.reshape(B, H, T, E), lse.reshape(B, H, T)


@operation(inplace=("add_to",))
def attention_backward(
    dy: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    y: np.ndarray,
    lse: np.ndarray,
    mask: np.ndarray | None = None,
    padding: np.ndarray | None = None,
    causal: bool = False,
    scale: float | None = None,
    add_to: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients of y = p v, p = exp(s - lse), s = scale q k^T + mask (none for the mask, none through lse).

    dv = p^T dy,   dp = dy v^T,   ds = p (dp - delta),   dq = scale ds k,   dk = scale ds^T q,
    where delta_t = sum_s p_ts dp_ts = sum_e dy_te y_te needs no probabilities. dk and dv of a key head are summed over
    the H/G query heads that share it. Shapes as in `attention`; y and lse are its results. Returns dq, dk, dv. With
    `add_to` = (dk, dv) those are added in place to these arrays, which are returned; they may be views such as
    dk[:, :, :S], so that the queries of a text can be worked through in pieces.
    """
    op = "attention_backward"
    *_, scale = _checked_backward(op, dy, q, k, v, y, lse, mask, padding, causal, scale, add_to)
    G = k.shape[1]
    lse = np.where(np.isneginf(lse), 0, lse).astype(q.dtype, copy=False)  # a query that sees no key: p = 0
    p = np.exp(_scores(q, k, mask, padding, causal, scale) - _grouped(lse, G)[..., None])
    delta = _grouped((dy * y).sum(axis=-1), G)[..., None]
    q_, dy_ = _grouped(q, G), _grouped(dy, G)
    dv = (p.swapaxes(-1, -2) @ dy_).sum(axis=2)
    dp = dy_ @ v[:, :, None].swapaxes(-1, -2)
    ds = p * (dp - delta) * q.dtype.type(scale)
    dq = (ds @ k[:, :, None]).reshape(q.shape)
    dk = (ds.swapaxes(-1, -2) @ q_).sum(axis=2)
    if add_to is None:
        return dq, dk, dv
    into_k, into_v = add_to
    into_k += dk
    into_v += dv
    return dq, into_k, into_v
