"""The loss of each level, by hand: similarity of a_l (B, n_l) and c_l (K, n_l) against the labels.

Networks of matrices (variant A), with the target Y (B, K), one-hot rows:
    S_l = a_l c_l^T,   ell_l = kappa_l mean (S_l - Y)^2,   kappa_l = 256 sC / n_l,   l = 0..L-1                    (3)
    G = 2 kappa_l / (B K) (S_l - Y),   da_l = G c_l,   dc_l = G^T a_l                                              (4)
Convolutional networks (variant B), with rows divided by their lengths, Ahat = A / (||A|| + e), Chat alike:
    ell_l = sC mean (Ahat Chat^T - Y)^2 + sS mean (Ahat Ahat^T - I)^2 + sS mean (Chat Chat^T - I)^2                (5)
    dAhat = 2 sC / (B K) (Ahat Chat^T - Y) Chat   + 4 sS / B^2 (Ahat Ahat^T - I) Ahat                              (6)
    dChat = 2 sC / (B K) (Ahat Chat^T - Y)^T Ahat + 4 sS / K^2 (Chat Chat^T - I) Chat                              (7)
    da = dahat / (n + e) - a <a, dahat> / (n (n + e)^2),   n = ||a||, a row                                        (8)
No row need be divided by its length for that. P = A C^T, Q = A A^T and R = C C^T hold all that is asked of rows (n^2
is the diagonal of Q), and (6) and (8) are products of small matrices with rows as they are. With r = 1 / (n + e), and t
the same of C, as diagonal matrices:
    dA = M C + (U - k) A,  M = 2 sC / (B K) r (r P t - Y) t,  U = 4 sS / B^2 r (r Q r - I) r,
                           k = r / n diag (M P^T + U Q),      and dC with A and C exchanged                        (9)
The top level L is the cross-entropy of a_L.

Gradients end at the input of a layer, so ell_l trains F_l and W_{l+1} and nothing else (`gradients`). Both networks get
their gradient from the same loss: neither partner is held fixed in it.

Instead of the K classes the feedback network may be run on the labels of the batch; then the target is Y Y^T (B, B).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refimpl import ops
from refimpl.methods.local.counter_current.networks import Pair
from refimpl.nn import Params, Scope

TINY = 1e-8  # e in (5) to (8)
SURE = 0.9  # probability of the true class from which the target filter drops a sample
_CLIP = 1e-6


@dataclass(frozen=True)
class Terms:
    """ell_0..ell_{L-1}, the cross-entropy, and how many samples of the batch the filter kept."""

    levels: tuple[float, ...]
    cross_entropy: float
    kept: int

    @property
    def total(self) -> float:
        return sum(self.levels) + self.cross_entropy


def matching(a: np.ndarray, c: np.ndarray, target: np.ndarray, sC: float, need_da: bool = True):
    """(3) and (4): the loss, da (None where not needed) and dc. a (B, n), c (K, n), target (B, K)."""
    kappa = 256 * sC / a.shape[1]
    error = ops.matmul(a, c, transpose_b=True)
    error -= target
    loss = kappa / error.size * ops.sum_of_squares(error)
    error *= error.dtype.type(2 * kappa / error.size)  # G
    return loss, ops.matmul(error, c) if need_da else None, ops.matmul(error, a, transpose_a=True)


def normalised(a: np.ndarray) -> np.ndarray:
    """Ahat: rows divided by their lengths (+ e)."""
    return a / (np.sqrt(np.einsum("bn,bn->b", a, a))[:, None] + a.dtype.type(TINY))


def _lengths(Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """n and 1 / (n + e), as columns, from inner products of rows."""
    n = np.sqrt(Q.diagonal())[:, None]
    return n, 1 / (n + Q.dtype.type(TINY))


def decorrelation(Q: np.ndarray, r: np.ndarray, sS: float) -> tuple[float, np.ndarray]:
    """sS mean (r Q r - I)^2, a term of (5), and its 4 sS / B^2 r (r Q r - I) r, a term of (9)."""
    outer = r * r.T
    gram = outer * Q
    gram[np.diag_indices(len(gram))] -= 1
    loss = sS / gram.size * ops.sum_of_squares(gram)
    gram *= outer
    gram *= gram.dtype.type(4 * sS / gram.size)
    return loss, gram


def normalised_matching(
    a: np.ndarray,
    c: np.ndarray,
    target: np.ndarray,
    sC: float,
    sS: float,
    keep: np.ndarray | None = None,
    need_da: bool = True,
):
    """(5) to (9): the loss, da (None where not needed) and dc. keep (B, 1): rows of a are multiplied by it first, 0
    for samples that the filter drops, 1 for others."""
    P, Q, R = (ops.matmul(x, y, transpose_b=True) for x, y in ((a, c), (a, a), (c, c)))
    (n, r), (m, t) = _lengths(Q), _lengths(R)
    if keep is not None:
        r = r * keep
    outer = r * t.T
    error = outer * P - target
    loss = sC / error.size * ops.sum_of_squares(error)
    M = error * outer
    M *= M.dtype.type(2 * sC / error.size)
    among_a, U = decorrelation(Q, r, sS)
    among_c, V = decorrelation(R, t, sS)
    da = _along_rows(M, c, P, U, a, Q, n, r) if need_da else None
    M = np.ascontiguousarray(M.T)
    return loss + among_a + among_c, da, _along_rows(M, a, P.T, V, c, R, m, t)


def _along_rows(M, other, P, U, own, Q, n, r) -> np.ndarray:
    """(9) of one side; a row of zeros has no second term in (8)."""
    U[np.diag_indices(len(U))] -= ((M * P).sum(axis=1) + (U * Q).sum(axis=1)) * (r / np.where(n > 0, n, 1))[:, 0]
    d = ops.matmul(M, other)
    d += ops.matmul(U, own)
    return d


def gradients(
    pair: Pair,
    params: Scope,
    feedback: Scope,
    grads: Scope,
    feedback_grads: Scope,
    x: np.ndarray,
    y: np.ndarray,
    K: int,
    sC: float = 0.5,
    sS: float | None = None,
    drop: bool = False,
    on_batch: bool = False,
) -> Terms:
    """All level losses of a batch, and the gradient of each for its own level's weights, added into both `grads`.

    x (B, ...) standardised, y (B,) classes. sS None stands for (3), a number for (5); drop: the target filter of (5);
    on_batch: run the feedback network on the labels of the batch. The loop has no order: each level needs a_l and c_l
    alone.
    """
    onehot = np.zeros((len(y), K), x.dtype)
    onehot[np.arange(len(y)), y] = 1
    a, up = pair.ascend(params, x)
    c, down = pair.descend(feedback, onehot if on_batch else np.eye(K, dtype=x.dtype))
    target = onehot @ onehot.T if on_batch else onehot
    cross_entropy, p = ops.cross_entropy(a[-1], y)
    keep = (p[np.arange(len(y)), y] <= SURE).astype(x.dtype)[:, None] if drop else None

    levels = []
    for level in range(pair.L):
        a_l, c_l = a[level].reshape(len(x), -1), c[level].reshape(len(c[level]), -1)
        if sS is None:
            loss, da, dc = matching(a_l, c_l, target, sC, need_da=level > 0)
        else:
            loss, da, dc = normalised_matching(a_l, c_l, target, sC, sS, keep, need_da=level > 0)
        if level > 0:
            _backward(pair, pair.up, level, params, grads, up, da.reshape(a[level].shape))
        _backward(pair, pair.down, level + 1, feedback, feedback_grads, down, dc.reshape(c[level].shape))
        levels.append(float(loss))
    _backward(pair, pair.up, pair.L, params, grads, up, ops.cross_entropy_backward(p, y))
    return Terms(tuple(levels), float(cross_entropy), len(y) if keep is None else int(keep.sum()))


def _backward(pair, side, level, params, grads, saved, dy) -> None:
    """Through one layer, as far as its weights and no further."""
    name = f"level{level}"
    pair.layer(side, level).backward(params.scope(name), grads.scope(name), saved[level], dy, need_dx=False)


# ---------------------------------------------------------------- on the way to the weights


def centralise(grads: Params) -> None:
    """Gradient centralisation: from each weight gradient its mean over the inputs of each unit (a column of a matrix,
    input channels and kernel of a convolution); biases stay as they are."""
    for g in grads.arrays().values():
        if g.ndim == 2:
            g -= g.mean(axis=0, keepdims=True)
        elif g.ndim > 2:
            rows = g.reshape(len(g), -1)  # a window: one axis is quicker to sum over than three
            rows -= rows.mean(axis=1, keepdims=True)


def clip(grads: Params, most: float, by_level: bool = False) -> None:
    """g *= min(1, most / (||g|| + 1e-6)), the norm over the whole network, or of each level alone (which is local)."""
    if not by_level:
        _shorten([grads.flat], most)
        return
    levels: dict[str, list[np.ndarray]] = {}
    for name, g in grads.items():
        levels.setdefault(name.split(".")[0], []).append(g)
    for windows in levels.values():
        _shorten(windows, most)


def _shorten(windows: list[np.ndarray], most: float) -> None:
    norm = math.sqrt(sum(ops.sum_of_squares(g) for g in windows))
    factor = most / (norm + _CLIP)
    if math.isfinite(norm) and factor < 1:
        for g in windows:
            ops.scale_inplace(g, factor)
