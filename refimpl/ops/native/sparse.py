"""Native mirrors of refimpl/ops/sparse.py: check, make contiguous, call the kernel of the same name.

The kernels check the structure before they read by it; only when it is corrupt does Python look for what is wrong.
"""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import sparse as ops
from refimpl.ops.native.embedding import int64
from refimpl.ops.sparse import _checked, _checked_backward, _structure

_csr_matmul, _csr_matmul_backward = kernel("csr_matmul"), kernel("csr_matmul_backward")


def _values(values):
    return NULL if values is None else p(contiguous(values))


@ops.csr_matmul.mirror("native")
def csr_matmul(indptr, indices, values, x):
    _checked("csr_matmul", indptr, indices, values, x)
    starts, columns, x = int64(indptr), int64(indices), contiguous(x)
    N, nnz, (M, D) = len(starts) - 1, len(columns), x.shape
    y = np.empty((N, D), x.dtype)
    status = _csr_matmul[x.dtype](p(starts), p(columns), _values(values), p(x), N, nnz, M, D, p(y), threads())
    if status:
        _structure("csr_matmul", indptr, indices, M)
        check(status, "csr_matmul")
    return y


@ops.csr_matmul_backward.mirror("native")
def csr_matmul_backward(dy, indptr, indices, values, x):
    _checked_backward("csr_matmul_backward", dy, indptr, indices, values, x)
    dy, starts, columns, x = contiguous(dy), int64(indptr), int64(indices), contiguous(x)
    N, nnz, (M, D) = len(starts) - 1, len(columns), x.shape
    dvalues, dx = None if values is None else np.empty(nnz, x.dtype), np.empty((M, D), x.dtype)
    status = _csr_matmul_backward[x.dtype](
        *(p(dy), p(starts), p(columns), _values(values), p(x), N, nnz, M, D),
        *(NULL if dvalues is None else p(dvalues), p(dx), threads()),
    )
    if status:
        _structure("csr_matmul_backward", indptr, indices, M)
        check(status, "csr_matmul_backward")
    return dvalues, dx
