"""A sparse matrix times a dense one, and its gradients. C mirror: native/src/sparse.c.

A sparse matrix A (N, M) is in compressed-row form (CSR): row n has its entries at e = indptr[n], ...,
indptr[n + 1] - 1, in column indices[e], with value values[e]; `values` None stands for ones. A column may occur twice
in a row (the entries add up) and columns need no order. indptr (N + 1,) and indices (nnz,) are integers, int64 without
a copy.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = ["csr_matmul", "csr_matmul_backward", "csr_transpose"]


def _shapes(op: str, indptr, indices, values) -> None:
    _check.integers(op, "indptr", indptr)
    _check.integers(op, "indices", indices)
    _check.ndim(op, "indptr", indptr, 1)
    _check.ndim(op, "indices", indices, 1)
    if len(indptr) == 0:
        raise ValueError(f"{op}: indptr is empty, expected one entry more than rows")
    if values is not None:
        _check.floats(op, "values", values)
        _check.shape(op, "values", values, indices.shape)


def _structure(op: str, indptr, indices, n_columns: int) -> None:
    """Raises ValueError unless indptr climbs from 0 to nnz and all columns exist."""
    if indptr[0] != 0 or indptr[-1] != len(indices):
        raise ValueError(f"{op}: indptr runs from {indptr[0]} to {indptr[-1]}, expected 0 to {len(indices)}")
    falls = indptr[1:] < indptr[:-1]
    if falls.any():
        n = int(falls.argmax())
        raise ValueError(f"{op}: indptr falls from {indptr[n]} to {indptr[n + 1]} at row {n}, expected no fall")
    _check.index_range(op, "indices", indices, n_columns)


def _checked(op: str, indptr, indices, values, x) -> None:
    _check.floats(op, "x", x)
    _check.ndim(op, "x", x, 2)
    _shapes(op, indptr, indices, values)
    if values is not None:
        _check.floats(op, "x values", x, values)


def _checked_backward(op: str, dy, indptr, indices, values, x) -> None:
    _checked(op, indptr, indices, values, x)
    _check.floats(op, "x dy", x, dy)
    _check.shape(op, "dy", dy, (len(indptr) - 1, x.shape[1]))


def _rows(indptr: np.ndarray) -> np.ndarray:
    """The row of each entry."""
    starts = indptr.astype(np.int64)
    return np.repeat(np.arange(len(starts) - 1), starts[1:] - starts[:-1])


@operation
def csr_matmul(indptr: np.ndarray, indices: np.ndarray, values: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """y = A x: y_n = sum of values_e x[indices_e] over the entries e of row n, in their order.

    x (M, D); returns y (N, D), 0 where a row has no entries. Errors: TypeError for dtypes, ValueError for shapes that
    do not fit, an indptr that does not climb from 0 to nnz, or a column that x does not have.
    """
    _checked("csr_matmul", indptr, indices, values, x)
    _structure("csr_matmul", indptr, indices, len(x))
    terms = x[indices] if values is None else values[:, None] * x[indices]
    y = np.zeros((len(indptr) - 1, x.shape[1]), x.dtype)
    np.add.at(y, _rows(indptr), terms)
    return y


@operation
def csr_matmul_backward(
    dy: np.ndarray, indptr: np.ndarray, indices: np.ndarray, values: np.ndarray | None, x: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray]:
    """dvalues_e = dy_n . x[indices_e] for the entry e of row n (None for `values` None), and dx = A^T dy, each row of
    which is summed in the order of the entries. Returns dvalues (nnz,), dx (M, D). Errors as `csr_matmul`."""
    op = "csr_matmul_backward"
    _checked_backward(op, dy, indptr, indices, values, x)
    _structure(op, indptr, indices, len(x))
    row = _rows(indptr)
    dvalues = None if values is None else (dy[row] * x[indices]).sum(axis=1)
    dx = np.zeros_like(x, order="C")
    np.add.at(dx, indices, dy[row] if values is None else values[:, None] * dy[row])
    return dvalues, dx


def csr_transpose(
    indptr: np.ndarray, indices: np.ndarray, values: np.ndarray | None, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """A^T (M, N) of A (N, M), M = n_columns: its indptr (M + 1,), indices and values (None for None).

    A plain function. Entries of a row of A^T keep the order of A's rows. Errors as `csr_matmul`.
    """
    _shapes("csr_transpose", indptr, indices, values)
    _check.at_least("csr_transpose", "n_columns", n_columns, 0)
    _structure("csr_transpose", indptr, indices, n_columns)
    order = np.argsort(indices, kind="stable")
    count = np.bincount(indices.astype(np.int64), minlength=n_columns)
    t_indptr = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    return t_indptr, _rows(indptr)[order], None if values is None else values[order]
