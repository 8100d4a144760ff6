"""What the layers read: class nodes, appended labels, rows of unit length."""

from __future__ import annotations

import numpy as np

from refimpl.nn.graph import Features, Sparse

__all__ = ["label_matrix", "normalised", "with_class_nodes", "with_virtual_rows", "wrong_classes"]


def normalised(x: Features) -> Features:
    """nrm(x): each row divided by its Euclidean norm plus 1e-8; blocks side by side count as one row."""
    blocks = x if isinstance(x, tuple) else (x,)
    squared = np.zeros(blocks[0].shape[0], blocks[0].dtype)
    for block in blocks:
        if isinstance(block, Sparse):
            assert block.values is not None
            squared += np.bincount(block.rows, block.values * block.values, len(squared)).astype(squared.dtype)
        else:
            squared += np.einsum("nd,nd->n", block, block)
    factor = 1 / (np.sqrt(squared) + squared.dtype.type(1e-8))
    scaled = tuple(b.scaled(factor) if isinstance(b, Sparse) else b * factor[:, None] for b in blocks)
    return scaled if isinstance(x, tuple) else scaled[0]


def with_class_nodes(A: Sparse, nodes: np.ndarray, classes: np.ndarray, K: int, both: bool = True) -> Sparse:
    """A' (N + K)^2: A, and an edge from each of `nodes` to the class node N + its class; with `both` one back, too.

    Class nodes have no edges among each other. Degrees: one more for each of `nodes`, |class| for a class node.
    """
    N = A.shape[0]
    to = N + classes
    rows, columns = [A.rows, to, *([nodes] if both else [])], [A.indices, nodes, *([to] if both else [])]
    return Sparse.from_entries(np.concatenate(rows), np.concatenate(columns), None, (N + K, N + K))


def with_virtual_rows(x: Sparse, virtual: np.ndarray) -> Sparse:
    """X' (N + K, F): the features of the nodes, below them those of the class nodes, which are never trained."""
    K, F = virtual.shape
    return x.above(Sparse(np.arange(K + 1) * F, np.tile(np.arange(F), K), virtual.ravel(), F))


def label_matrix(n: int, nodes: np.ndarray, classes: np.ndarray, K: int, dtype: np.dtype | type | str) -> np.ndarray:
    """(n, K): one-hot classes of `nodes`, 1/K everywhere for all others."""
    labels = np.full((n, K), 1 / K, dtype)
    labels[nodes] = np.eye(K, dtype=dtype)[classes]
    return labels


def wrong_classes(classes: np.ndarray, K: int, rng: np.random.Generator) -> np.ndarray:
    """For each node its K - 1 wrong classes in a random order, (|T|, K - 1)."""
    others = (classes[:, None] + np.arange(1, K)) % K
    return rng.permuted(others, axis=1)
