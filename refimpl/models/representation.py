"""How alike two representations of the same samples are."""

from __future__ import annotations

import numpy as np

__all__ = ["linear_cka"]


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Centred kernel alignment of a (n, ...) and b (n, ...) with linear kernels: <K, L> / (|K| |L|), K = A A^T and
    L = B B^T of the centred rows. 1 for representations that are equal up to rotation and scale; 0 where one of
    them is constant. Raises ValueError for another number of rows.

    Source: Kornblith, Norouzi, Lee and Hinton, "Similarity of neural network representations revisited", 2019, (4).
    """
    if len(a) != len(b) or len(a) < 1:
        raise ValueError(f"linear_cka: {len(a)} and {len(b)} rows, expected the same number, at least 1")

    def kernel(x: np.ndarray) -> np.ndarray:
        rows = x.reshape(len(x), -1).astype(np.float64)
        rows = rows - rows.mean(axis=0)
        return rows @ rows.T

    K, L = kernel(a), kernel(b)
    norms = float(np.linalg.norm(K) * np.linalg.norm(L))
    return float((K * L).sum()) / norms if norms > 0 else 0.0
