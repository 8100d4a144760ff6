import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, generator, gradient, inputs, size


def _arguments(draw, dtype):
    """A sparse matrix with empty rows, long rows, repeated columns; sometimes more rows than threads take at a time."""
    N = draw(st.sampled_from([40, 70])) if draw(st.integers(0, 5)) == 0 else size(draw, 0, 17)
    M, D = size(draw, 0, 17), draw(st.sampled_from([100, 129])) if draw(st.integers(0, 5)) == 0 else size(draw)
    rng = generator(draw)
    degree = rng.integers(0, draw(st.integers(1, 6)), N) if M else np.zeros(N, int)
    if M and N and draw(st.booleans()):
        degree[rng.integers(N)] = 40
    integer = draw(st.sampled_from([np.int64, np.int64, np.int32, np.uint64]))
    indptr = np.concatenate([[0], np.cumsum(degree)]).astype(integer)
    indices = rng.integers(0, max(M, 1), int(indptr[-1])).astype(integer)
    values = array(draw, indices.shape, dtype) if draw(st.booleans()) else None
    return {"indptr": indptr, "indices": indices, "values": values, "x": array(draw, (M, D), dtype)}


@inputs("csr_matmul")
def _(draw, dtype):
    return _arguments(draw, dtype)


@inputs("csr_matmul_backward")
def _(draw, dtype):
    args = _arguments(draw, dtype)
    return {"dy": array(draw, (len(args["indptr"]) - 1, args["x"].shape[1]), dtype), **args}


@gradient("csr_matmul", wrt=("values", "x"))
def _(args, dy):
    dvalues, dx = ops.csr_matmul_backward(dy, **args)
    return ops.csr_matmul(**args), {"x": dx} if dvalues is None else {"values": dvalues, "x": dx}


def _dense(args):
    """|A| (N, M) in float64 with repeated entries added, the row of each entry, and the terms of the longest row and
    column sum."""
    starts, columns = args["indptr"].astype(np.int64), args["indices"].astype(np.int64)
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    A, count = np.zeros((2, len(starts) - 1, len(args["x"])))
    np.add.at(A, (row, columns), 1 if args["values"] is None else np.abs(args["values"].astype(np.float64)))
    np.add.at(count, (row, columns), 1)
    return A, row, int(count.sum(axis=1).max(initial=0)), int(count.sum(axis=0).max(initial=0))


@bound("csr_matmul")
def _(args, outs, eps):
    """Sums of n products: gamma(n + 1) times the sum of their absolute values."""
    A, _, n, _ = _dense(args)
    return gamma(n + 1, eps) * (A @ np.abs(args["x"]))


@bound("csr_matmul_backward")
def _(args, outs, eps):
    """dvalues sums D products, dx one for each entry of a column."""
    A, row, _, n = _dense(args)
    dy, x = np.abs(args["dy"]), np.abs(args["x"])
    dx = gamma(n + 1, eps) * (A.T @ dy)
    if args["values"] is None:
        return (dx,)
    return gamma(x.shape[1] + 1, eps) * (dy[row] * x[args["indices"]]).sum(axis=1), dx
