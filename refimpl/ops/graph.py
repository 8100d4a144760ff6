"""Attention along the edges of a graph, and its gradients. C mirror: native/src/graph.c.

The graph is a square CSR matrix (refimpl/ops/sparse.py): the entries e of row i are the edges from the nodes indices[e]
to node i. Index alphabet: N nodes, E edges, K heads, D width of a head.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check
from refimpl.ops.sparse import _rows, _shapes, _structure

__all__ = ["graph_attention", "graph_attention_backward"]


def _checked(op: str, indptr, indices, h, source, target, slope: float) -> None:
    _check.floats(op, "h source target", h, source, target)
    _check.ndim(op, "h", h, 3)
    _check.shape(op, "source", source, h.shape[1:])
    _check.shape(op, "target", target, h.shape[1:])
    _shapes(op, indptr, indices, None)
    _check.shape(op, "indptr", indptr, (len(h) + 1,))
    _check.at_least(op, "slope", slope, 0.0)


def _checked_backward(op: str, dy, alpha, indptr, indices, h, source, target, slope: float) -> None:
    _checked(op, indptr, indices, h, source, target, slope)
    _check.floats(op, "h dy alpha", h, dy, alpha)
    _check.shape(op, "dy", dy, h.shape)
    _check.shape(op, "alpha", alpha, (len(indices), h.shape[1]))


def _scores(row, indices, h, source, target):
    """u_ek = <source_k, h_jk> + <target_k, h_ik> for the edge e from j to i: (E, K)."""
    return (h * source).sum(axis=2)[indices] + (h * target).sum(axis=2)[row]


@operation
def graph_attention(
    indptr: np.ndarray,
    indices: np.ndarray,
    h: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    slope: float = 0.2,
) -> tuple[np.ndarray, np.ndarray]:
    """Each node's weighted sum of its in-neighbours, the weights by attention: for every head k

    u_e = <source, h_j> + <target, h_i>            the edge e from j to i
    alpha_e = softmax of leaky_relu(u_e) over the edges to i
    y_i = sum of alpha_e h_j over the edges to i

    h (N, K, D), source and target (K, D), indptr (N + 1,) and indices (E,) integers, slope >= 0 of the leaky ReLU.
    Returns y (N, K, D), 0 for a node without edges to it, and alpha (E, K). Errors: TypeError for dtypes, ValueError
    for shapes that do not fit or edges that do not exist.

    Source: Velickovic et al., "Graph attention networks", 2018, equations (3) and (5).
    """
    _checked("graph_attention", indptr, indices, h, source, target, slope)
    _structure("graph_attention", indptr, indices, len(h))
    row = _rows(indptr)
    u = _scores(row, indices, h, source, target)
    e = np.where(u > 0, u, h.dtype.type(slope) * u)
    m = np.full(h.shape[:2], -np.inf, h.dtype)
    np.maximum.at(m, row, e)
    w = np.exp(e - m[row])  # cannot overflow
    total = np.zeros_like(m)
    np.add.at(total, row, w)
    alpha = w / total[row]
    y = np.zeros(h.shape, h.dtype)
    np.add.at(y, row, alpha[:, :, None] * h[indices])
    return y, alpha


@operation
def graph_attention_backward(
    dy: np.ndarray,
    alpha: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    h: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    slope: float = 0.2,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of `graph_attention`; for every head, with the edges e from j to i:

    dalpha_e = <dy_i, h_j>,  de_e = alpha_e (dalpha_e - sum of alpha dalpha over the edges to i)
    du_e = de_e (slope de_e where u_e <= 0),  ds_j = sum of du over the edges from j,  dt_i = over the edges to i
    dh_j = sum of alpha_e dy_i over the edges from j + ds_j source + dt_j target
    dsource = sum of ds_j h_j,  dtarget = sum of dt_i h_i

    Takes dy (N, K, D), alpha (E, K) and the arguments of the forward pass. Returns dh (N, K, D), dsource and dtarget
    (K, D). Errors as `graph_attention`.
    """
    op = "graph_attention_backward"
    _checked_backward(op, dy, alpha, indptr, indices, h, source, target, slope)
    _structure(op, indptr, indices, len(h))
    row = _rows(indptr)
    u = _scores(row, indices, h, source, target)
    dalpha = (dy[row] * h[indices]).sum(axis=2)
    inner = np.zeros(h.shape[:2], h.dtype)
    np.add.at(inner, row, alpha * dalpha)
    de = alpha * (dalpha - inner[row])
    du = np.where(u > 0, de, h.dtype.type(slope) * de)
    ds, dt = np.zeros_like(inner), np.zeros_like(inner)
    np.add.at(ds, indices, du)
    np.add.at(dt, row, du)
    dh = np.zeros(h.shape, h.dtype)
    np.add.at(dh, indices, alpha[:, :, None] * dy[row])
    dh += ds[:, :, None] * source + dt[:, :, None] * target
    return dh, (ds[:, :, None] * h).sum(axis=0), (dt[:, :, None] * h).sum(axis=0)
