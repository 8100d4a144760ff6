"""Denoising a label: from logits to a mixture of class embeddings, and the loss that trains it. C mirror:
native/src/denoise.c.

Shapes: f (B, K) logits; embedding (K, D), one row a class, or None for the one-hot embedding (the K x K identity, which
is then never multiplied with); target (B,) integer classes in [0, K). All arrays float32 or float64, one dtype in a
call. Errors: TypeError for other dtypes, ValueError for shapes that do not fit or a class out of range.

Source: Li, Teh and Pascanu, "NoProp: training neural networks without full back-propagation or full
forward-propagation", 2025.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = ["denoise_loss", "softmax_mixture", "softmax_mixture_backward"]


def _check_embedding(op: str, K: int, embedding: np.ndarray | None) -> int:
    """D, the width of an embedding."""
    if embedding is None:
        return K
    _check.ndim(op, "embedding", embedding, 2)
    if len(embedding) != K:
        raise ValueError(f"{op}: embedding has shape {embedding.shape}, expected ({K}, D): one row a class")
    return embedding.shape[1]


def _floats(op: str, names: str, *arrays: np.ndarray | None) -> None:
    _check.optional_floats(op, names, "embedding", *arrays)


def _check_logits(op: str, f: np.ndarray) -> None:
    _check.ndim(op, "f", f, 2)
    if f.shape[1] < 1:
        raise ValueError(f"{op}: f has shape {f.shape}, expected at least 1 class")


def _check_mixture(f, embedding) -> int:
    _floats("softmax_mixture", "f embedding", f, embedding)
    _check_logits("softmax_mixture", f)
    return _check_embedding("softmax_mixture", f.shape[1], embedding)


def _check_mixture_backward(duhat, p, embedding) -> int:
    op = "softmax_mixture_backward"
    _floats(op, "duhat p embedding", duhat, p, embedding)
    _check.ndim(op, "p", p, 2)
    D = _check_embedding(op, p.shape[1], embedding)
    _check.shape(op, "duhat", duhat, (len(p), D))
    return D


def _check_loss(f, target, weight, embedding) -> int:
    op = "denoise_loss"
    _floats(op, "f weight embedding", f, weight, embedding)
    _check.integers(op, "target", target)
    _check_logits(op, f)
    _check.shape(op, "target", target, f.shape[:1])
    _check.shape(op, "weight", weight, f.shape[:1])
    D = _check_embedding(op, f.shape[1], embedding)
    _check.index_range(op, "target", target, f.shape[1])
    return D


def _softmax(f: np.ndarray) -> np.ndarray:
    e = np.exp(f - f.max(axis=1, keepdims=True))  # exp cannot overflow
    return e / e.sum(axis=1, keepdims=True)


def _softmax_backward(dp: np.ndarray, p: np.ndarray) -> np.ndarray:
    return p * (dp - (p * dp).sum(axis=1, keepdims=True))


@operation
def softmax_mixture(f: np.ndarray, embedding: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """uhat = p W, p = softmax(f) row by row: the embedding that the logits believe in.

    Returns uhat (B, D) and p (B, K); with embedding None uhat is p itself.
    """
    _check_mixture(f, embedding)
    p = _softmax(f)
    return p if embedding is None else p @ embedding, p


@operation
def softmax_mixture_backward(
    duhat: np.ndarray, p: np.ndarray, embedding: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """dp = duhat W^T,  df = p (dp - Σ_k p_k dp_k),  dW = p^T duhat.

    Returns df (B, K) and dembedding (K, D), None with embedding None.
    """
    _check_mixture_backward(duhat, p, embedding)
    if embedding is None:
        return _softmax_backward(duhat, p), None
    return _softmax_backward(duhat @ embedding.T, p), p.T @ duhat


@operation
def denoise_loss(
    f: np.ndarray, target: np.ndarray, weight: np.ndarray, embedding: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The weighted squared distance of the mixture to its target, with all its gradients in one pass.

    L = Σ_b weight_b ||uhat_b - u_b||²,  uhat = softmax(f) W,  u_b = W[target_b]
    dL/duhat = 2 weight (uhat - u),  dL/df = p (dp - Σ_k p_k dp_k) with dp = dL/duhat W^T

    Shapes: weight (B,). Returns squared (B,): the distances ||uhat_b - u_b||², so that L = weight · squared;
    p (B, K) = softmax(f); duhat (B, D); df (B, K). The gradient of W is p^T duhat - S(duhat), S the sum over the rows
    of each class, plus what reaches W on other ways.
    """
    _check_loss(f, target, weight, embedding)
    p = _softmax(f)
    if embedding is None:
        residual = p.copy()
        residual[np.arange(len(f)), target] -= 1
    else:
        residual = p @ embedding - embedding[target]
    squared = (residual * residual).sum(axis=1)
    duhat = (2 * weight)[:, None] * residual
    df = _softmax_backward(duhat if embedding is None else duhat @ embedding.T, p)
    return squared, p, duhat, df
