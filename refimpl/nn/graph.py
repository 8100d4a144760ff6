"""Graphs as sparse matrices, and the layers of graph neural networks: GCN, GraphSAGE, GAT.

A graph is a `Sparse` matrix A (N, N): row i holds an entry in column j for each edge j -> i, so that A x sums over the
in-neighbours of every node. What the layers read is made from it once, before training:

    gcn_operator(A)        S = D^-1/2 (A + I) D^-1/2, D the row sums of A + I         for GCN
    mean_operator(A)       M = D^-1 A, D the row sums of A, empty rows stay empty     for GraphSAGE
    with_self_loops(A)     A + I without values                                       for GAT

A layer's input is the pair (operator, x) with features x (N, d_in): an array, or, where nothing needs its gradient, a
`Sparse` matrix or a tuple of blocks [x_1 | x_2 | ...] side by side, each an array or sparse. `backward` returns dL/dx.
Index alphabet: N nodes, E edges, D width, K heads.

Sources: Kipf and Welling, "Semi-supervised classification with graph convolutional networks", 2017; Hamilton, Ying and
Leskovec, "Inductive representation learning on large graphs", 2017; Velickovic et al., "Graph attention networks",
2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.nn import init
from refimpl.nn.layer import Layer
from refimpl.nn.params import Parameter

__all__ = [
    "Features",
    "GATConv",
    "GCNConv",
    "SAGEConv",
    "Sparse",
    "gcn_operator",
    "mean_operator",
    "with_self_loops",
]


class Sparse:
    """A sparse matrix (N, M) by rows: row n has values[e] in column indices[e] for e = indptr[n] .. indptr[n + 1] - 1.

    `values` None stands for ones. `A @ x` is a product with a dense array, `A.T` the transpose, made once and kept (a
    symmetric matrix is its own). Raises ValueError at construction where the three arrays do not fit together.
    """

    __slots__ = ("_transpose", "indices", "indptr", "shape", "values")

    def __init__(self, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray | None, n_columns: int):
        self.indptr = np.ascontiguousarray(indptr, np.int64)
        self.indices = np.ascontiguousarray(indices, np.int64)
        self.values = None if values is None else np.ascontiguousarray(values)
        self.shape = (len(self.indptr) - 1, int(n_columns))
        self._transpose: Sparse | None = None
        if self.indptr.ndim != 1 or self.indices.ndim != 1 or len(self.indptr) == 0:
            raise ValueError(f"Sparse: indptr has shape {self.indptr.shape}, indices {self.indices.shape}")
        if self.indptr[0] != 0 or self.indptr[-1] != len(self.indices) or (np.diff(self.indptr) < 0).any():
            raise ValueError(f"Sparse: indptr does not climb from 0 to the {len(self.indices)} entries of indices")
        if len(self.indices) and not 0 <= self.indices.min() <= self.indices.max() < n_columns:
            raise ValueError(
                f"Sparse: indices run from {self.indices.min()} to {self.indices.max()}, "
                f"expected columns in [0, {n_columns})"
            )
        if self.values is not None and self.values.shape != self.indices.shape:
            raise ValueError(f"Sparse: values has shape {self.values.shape}, expected {self.indices.shape}")

    @classmethod
    def from_entries(cls, rows: Any, columns: Any, values: Any, shape: tuple[int, int]) -> Sparse:
        """From entries in any order; within a row they are sorted by column, equal ones keep their order."""
        rows, columns = np.asarray(rows, np.int64).ravel(), np.asarray(columns, np.int64).ravel()
        if rows.shape != columns.shape:
            raise ValueError(f"Sparse: {len(rows)} rows and {len(columns)} columns, expected as many of both")
        if len(rows) and not 0 <= rows.min() <= rows.max() < shape[0]:
            raise ValueError(f"Sparse: rows run from {rows.min()} to {rows.max()}, expected rows in [0, {shape[0]})")
        order = np.lexsort((columns, rows))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
        return cls(indptr, columns[order], None if values is None else np.asarray(values)[order], shape[1])

    @classmethod
    def from_edges(cls, n: int, edges: Any) -> Sparse:
        """The symmetric matrix without values of an undirected graph of n nodes; `edges` (E, 2) may name an edge in one
        direction or in both, or several times. Edges of a node with itself are dropped."""
        edges = np.asarray(edges, np.int64).reshape(-1, 2)
        if len(edges) and not 0 <= edges.min() <= edges.max() < n:
            raise ValueError(f"Sparse: edges name nodes {edges.min()} to {edges.max()}, expected nodes in [0, {n})")
        edges = edges[edges[:, 0] != edges[:, 1]]
        both = np.unique(np.concatenate([edges[:, 0] * n + edges[:, 1], edges[:, 1] * n + edges[:, 0]]))
        return cls.from_entries(both // max(n, 1), both % max(n, 1), None, (n, n))

    @classmethod
    def from_dense(cls, x: np.ndarray) -> Sparse:
        """The entries of x (N, M) that are not zero."""
        rows, columns = np.nonzero(x)
        return cls.from_entries(rows, columns, x[rows, columns], x.shape)

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return len(self.indices)

    @property
    def dtype(self) -> np.dtype | None:
        """Of the values; None where they are ones."""
        return None if self.values is None else self.values.dtype

    @property
    def rows(self) -> np.ndarray:
        """The row of each entry, (nnz,)."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))

    @property
    def T(self) -> Sparse:
        """The transpose; rows keep the order of this matrix's rows."""
        if self._transpose is None:
            t = Sparse(*ops.csr_transpose(self.indptr, self.indices, self.values, self.shape[1]), self.shape[0])
            if self.shape == t.shape and np.array_equal(self.indptr, t.indptr):
                same = self.values is None or t.values is None or np.array_equal(self.values, t.values)
                t = self if same and np.array_equal(self.indices, t.indices) else t
            self._transpose = t
            t._transpose = self
        return self._transpose

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        return ops.csr_matmul(self.indptr, self.indices, self.values, x)

    def take(self, rows: np.ndarray) -> Sparse:
        """The rows named by an integer array, in its order."""
        starts, counts = self.indptr[rows], np.diff(self.indptr)[rows]
        ends = np.cumsum(counts)
        entries = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
        values = None if self.values is None else self.values[entries]
        return Sparse(np.concatenate([[0], ends]), self.indices[entries], values, self.shape[1])

    def above(self, other: Sparse) -> Sparse:
        """This matrix and below it another one with as many columns; both with values or both without."""
        if self.shape[1] != other.shape[1] or (self.values is None) != (other.values is None):
            raise ValueError(f"Sparse.above: {self!r} does not fit on {other!r}")
        both = None if self.values is None else np.concatenate([self.values, other.values])
        indptr = np.concatenate([self.indptr, self.nnz + other.indptr[1:]])
        return Sparse(indptr, np.concatenate([self.indices, other.indices]), both, self.shape[1])

    def row_sums(self, dtype: Any = np.float64) -> np.ndarray:
        """Sum of the values of each row, (N,)."""
        weights = None if self.values is None else self.values
        return np.bincount(self.rows, weights, self.shape[0]).astype(dtype)

    def scaled(self, left: np.ndarray, right: np.ndarray | None = None) -> Sparse:
        """diag(left) A diag(right), in left's dtype."""
        values = left[self.rows] if self.values is None else left[self.rows] * self.values
        values = values if right is None else values * right[self.indices]
        return Sparse(self.indptr, self.indices, values.astype(left.dtype), self.shape[1])

    def dense(self, dtype: Any = None) -> np.ndarray:
        """The same as an array; entries in one place add up."""
        a = np.zeros(self.shape, dtype or self.dtype or np.float64)
        np.add.at(a, (self.rows, self.indices), 1 if self.values is None else self.values)
        return a

    def astype(self, dtype: Any) -> Sparse:
        """With values of another dtype (ones stay unsaid)."""
        if self.values is None or self.values.dtype == dtype:
            return self
        return Sparse(self.indptr, self.indices, self.values.astype(dtype), self.shape[1])

    def __repr__(self) -> str:
        return f"Sparse({self.shape[0]} x {self.shape[1]}, {self.nnz} entries, {self.dtype or 'ones'})"

    def __getstate__(self):
        return self.indptr, self.indices, self.values, self.shape[1]

    def __setstate__(self, state):
        self.__init__(*state)


# ---------------------------------------------------------------- operators


def _square(who: str, A: Sparse) -> None:
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"{who}: the graph has shape {A.shape}, expected as many rows as columns")


def with_self_loops(A: Sparse) -> Sparse:
    """A + I without values: entries of A count as edges, once; an edge of a node with itself is not doubled."""
    _square("with_self_loops", A)
    n = A.shape[0]
    cells = np.unique(np.concatenate([A.rows * n + A.indices, np.arange(n) * (n + 1)]))
    return Sparse.from_entries(cells // max(n, 1), cells % max(n, 1), None, A.shape)


def gcn_operator(A: Sparse, dtype: Any = np.float32) -> Sparse:
    """S = D^-1/2 (A + I) D^-1/2 with D_ii the row sums of A + I; symmetric where A is."""
    loops = with_self_loops(A)
    root = (1 / np.sqrt(np.diff(loops.indptr))).astype(np.float64)
    S = loops.scaled(root, root)
    return S.astype(dtype)


def mean_operator(A: Sparse, dtype: Any = np.float32) -> Sparse:
    """M = D^-1 A: the mean over the in-neighbours of each node, nothing for a node without any."""
    _square("mean_operator", A)
    degree = np.diff(A.indptr)
    plain = Sparse(A.indptr, A.indices, None, A.shape[1])
    return plain.scaled((1 / np.maximum(degree, 1)).astype(np.float64)).astype(dtype)


# ---------------------------------------------------------------- layers

Features = np.ndarray | Sparse | tuple[np.ndarray | Sparse, ...]


def _product(x: Features, weight: np.ndarray) -> np.ndarray:
    """x W for dense or sparse features, or for blocks of them side by side."""
    if isinstance(x, Sparse):
        return x @ weight
    if isinstance(x, tuple):
        ends = np.cumsum([block.shape[1] for block in x])
        parts = [_product(block, weight[end - block.shape[1] : end]) for block, end in zip(x, ends)]
        y = parts[0]
        for part in parts[1:]:
            y += part
        return y
    return ops.matmul(x, weight)


def _product_backward(dh: np.ndarray, x: Features, weight: np.ndarray, dweight: np.ndarray, need_dx: bool):
    """Adds x^T dh into dweight and returns dh W^T."""
    if isinstance(x, np.ndarray):
        return ops.linear_backward(dh, x, weight, need_dx, (dweight, None))[0]
    if need_dx:
        raise ValueError("graph layer: sparse features and blocks of them have no gradient, expected need_dx=False")
    start = 0
    for block in x if isinstance(x, tuple) else (x,):
        end = start + block.shape[1]
        if isinstance(block, Sparse):
            dweight[start:end] += block.T @ dh
        else:
            ops.linear_backward(dh, block, weight[start:end], False, (dweight[start:end], None))
        start = end
    return None


@dataclass(frozen=True)
class GCNConv(Layer):
    """y = S x W + b with S from `gcn_operator`. Kipf and Welling, 2017, equation (2).

    S x comes first where it is narrower than x W. With an operator of None, x is taken for S x: what a layer whose
    input does not change computes once (`aggregate`) and uses in every step.
    """

    d_in: int
    d_out: int
    bias: bool = True

    def declare(self):
        weight = Parameter((self.d_in, self.d_out), init.xavier_uniform(self.d_in, self.d_out))
        return {"weight": weight, **({"bias": Parameter((self.d_out,), init.zeros)} if self.bias else {})}

    @staticmethod
    def operator(A: Sparse, dtype: Any = np.float32) -> Sparse:
        """What this layer reads of the graph A."""
        return gcn_operator(A, dtype)

    def aggregate(self, S: Sparse, x: np.ndarray) -> tuple[None, np.ndarray]:
        """The input (None, S x), equal to (S, x) for this layer."""
        return None, S @ x

    def forward(self, params, x, train=False, rng=None):
        S, x = x
        weight, bias = params["weight"], params["bias"] if self.bias else None
        if S is None or (self.d_in < self.d_out and isinstance(x, np.ndarray)):
            u = x if S is None else S @ x
            return ops.linear(u, weight, bias), (S, u, True)
        y = S @ _product(x, weight)
        if bias is not None:
            y += bias
        return y, (S, x, False)

    def backward(self, params, grads, saved, dy, need_dx=True):
        S, x, aggregated = saved
        dbias = grads["bias"] if self.bias else None
        if aggregated:
            du = ops.linear_backward(dy, x, params["weight"], need_dx, (grads["weight"], dbias))[0]
            return S.T @ du if need_dx and S is not None else du
        if dbias is not None:
            dbias += ops.sum_rows(dy)
        return _product_backward(S.T @ dy, x, params["weight"], grads["weight"], need_dx)


@dataclass(frozen=True)
class SAGEConv(Layer):
    """y = M x W_neighbour + x W_self + b with M from `mean_operator`. Hamilton et al., 2017, mean aggregator.

    Parameters start as U(-1/sqrt(d_in), 1/sqrt(d_in)). With an operator of None, x is the pair (M x, x).
    """

    d_in: int
    d_out: int
    bias: bool = True

    def declare(self):
        first = init.uniform(1 / math.sqrt(max(1, self.d_in)))
        matrix = Parameter((self.d_in, self.d_out), first)
        bias = {"bias": Parameter((self.d_out,), first)} if self.bias else {}
        return {"neighbour": matrix, "own": matrix, **bias}

    @staticmethod
    def operator(A: Sparse, dtype: Any = np.float32) -> Sparse:
        """What this layer reads of the graph A."""
        return mean_operator(A, dtype)

    def aggregate(self, M: Sparse, x: np.ndarray) -> tuple[None, tuple[np.ndarray, np.ndarray]]:
        """The input (None, (M x, x)), equal to (M, x) for this layer."""
        return None, (M @ x, x)

    def forward(self, params, x, train=False, rng=None):
        M, x = x
        bias = params["bias"] if self.bias else None
        if M is None or (self.d_in < self.d_out and isinstance(x, np.ndarray)):
            u, x = x if M is None else (M @ x, x)
            y = ops.linear(u, params["neighbour"], bias)
            y += ops.matmul(x, params["own"])
            return y, (M, u, x)
        y = M @ _product(x, params["neighbour"])
        y += _product(x, params["own"])
        if bias is not None:
            y += bias
        return y, (M, None, x)

    def backward(self, params, grads, saved, dy, need_dx=True):
        M, u, x = saved
        neighbour, dneighbour = params["neighbour"], grads["neighbour"]
        if self.bias:
            grads["bias"][...] += ops.sum_rows(dy)
        dx = _product_backward(dy, x, params["own"], grads["own"], need_dx and M is not None)
        if u is None:
            through = _product_backward(M.T @ dy, x, neighbour, dneighbour, need_dx)
        else:
            du = ops.linear_backward(dy, u, neighbour, need_dx and M is not None, (dneighbour, None))[0]
            through = None if du is None else M.T @ du
        return None if dx is None else dx + through


@dataclass(frozen=True)
class GATConv(Layer):
    """Attention over the in-neighbours and the node itself, `heads` heads side by side. Velickovic et al., 2018.

    For each head, with h = x W (N, D) and every edge j -> i of `with_self_loops`:
        u_e = <a_source, h_j> + <a_target, h_i>,  alpha_e = softmax over i's edges of leaky_relu(u_e),
        y_i = sum over i's edges of alpha_e h_j,  bias added after the heads are joined.                (1), (3), (5)
    """

    d_in: int
    d_out: int
    heads: int = 4
    bias: bool = True
    slope: float = 0.2

    def __post_init__(self):
        if self.heads < 1 or self.d_out % self.heads:
            raise ValueError(f"GATConv: d_out is {self.d_out} with {self.heads} heads, expected a multiple of them")

    def declare(self):
        width = self.d_out // self.heads
        attention = Parameter((self.heads, width), init.xavier_uniform(self.heads, width))
        matrix = Parameter((self.d_in, self.d_out), init.xavier_uniform(self.d_in, self.d_out))
        bias = {"bias": Parameter((self.d_out,), init.zeros)} if self.bias else {}
        return {"weight": matrix, "source": attention, "target": attention, **bias}

    @staticmethod
    def operator(A: Sparse, dtype: Any = np.float32) -> Sparse:
        """What this layer reads of the graph A."""
        return with_self_loops(A)

    def aggregate(self, A: Sparse, x: np.ndarray) -> tuple[Sparse, np.ndarray]:
        """The input as it is: attention depends on the weights, so nothing can be computed before."""
        return A, x

    def forward(self, params, x, train=False, rng=None):
        A, x = x
        h = _product(x, params["weight"]).reshape(A.shape[0], self.heads, -1)
        y, alpha = ops.graph_attention(A.indptr, A.indices, h, params["source"], params["target"], self.slope)
        y = y.reshape(len(y), self.d_out)
        if self.bias:
            y += params["bias"]
        return y, (A, x, h, alpha)

    def backward(self, params, grads, saved, dy, need_dx=True):
        A, x, h, alpha = saved
        if self.bias:
            grads["bias"][...] += ops.sum_rows(dy)
        dh, dsource, dtarget = ops.graph_attention_backward(
            dy.reshape(h.shape), alpha, A.indptr, A.indices, h, params["source"], params["target"], self.slope
        )
        grads["source"][...] += dsource
        grads["target"][...] += dtarget
        return _product_backward(dh.reshape(len(h), -1), x, params["weight"], grads["weight"], need_dx)
