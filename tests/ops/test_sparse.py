import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend
from tests.harness import team
from tests.strategies.sparse import _arguments

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])
INDPTR, INDICES, VALUES = np.array([0, 2, 2, 3]), np.array([1, 0, 1]), np.array([2.0, 3.0, 5.0])
A = np.array([[3.0, 2.0], [0.0, 0.0], [0.0, 5.0]])


@BODIES
def test_equals_the_dense_product(body):
    x, dy = np.arange(6.0).reshape(2, 3), np.arange(9.0).reshape(3, 3)
    with backend(body):
        np.testing.assert_array_equal(ops.csr_matmul(INDPTR, INDICES, VALUES, x), A @ x)
        np.testing.assert_array_equal(ops.csr_matmul(INDPTR, INDICES, None, x), (A > 0) @ x)
        dvalues, dx = ops.csr_matmul_backward(dy, INDPTR, INDICES, VALUES, x)
        np.testing.assert_array_equal(dx, A.T @ dy)
        np.testing.assert_array_equal(dvalues, (dy @ x.T)[[0, 0, 2], INDICES])
        dvalues, dx = ops.csr_matmul_backward(dy, INDPTR, INDICES, None, x)
        assert dvalues is None
        np.testing.assert_array_equal(dx, (A > 0).T @ dy)


@given(data=st.data())
def test_transposing_gives_the_dense_transpose_and_twice_the_sorted_matrix(data):
    args = data.draw(st.composite(lambda draw: _arguments(draw, np.dtype(np.float64)))())
    indptr, indices, values, x = args["indptr"], args["indices"], args["values"], args["x"]
    N, M = len(indptr) - 1, len(x)
    t = ops.csr_transpose(indptr, indices, values, M)
    dense, dense_t = ops.csr_matmul(indptr, indices, values, np.eye(M)), ops.csr_matmul(*t, np.eye(N))
    np.testing.assert_allclose(dense_t, dense.T, atol=1e-12)
    twice = ops.csr_transpose(*t, N)
    np.testing.assert_array_equal(twice[0], indptr)
    np.testing.assert_allclose(ops.csr_matmul(*twice, np.eye(M)), dense, atol=1e-12)


def test_gradient_of_x_is_the_product_with_the_transpose_to_the_bit():
    rng = np.random.default_rng(0)
    indptr = np.concatenate([[0], np.cumsum(rng.integers(0, 9, 100))])
    indices, values = rng.integers(0, 50, indptr[-1]), rng.standard_normal(indptr[-1])
    dy, x = rng.standard_normal((100, 37)), rng.standard_normal((50, 37))
    with backend("native"):
        expected = ops.csr_matmul(*ops.csr_transpose(indptr, indices, values, 50), dy)
        for n in (1, 2, 3):
            with team(n):
                np.testing.assert_array_equal(ops.csr_matmul_backward(dy, indptr, indices, values, x)[1], expected)


@BODIES
@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([1, 2, 2, 3], INDICES, "indptr runs from 1 to 3, expected 0 to 3"),
        ([0, 2, 2, 4], INDICES, "indptr runs from 0 to 4, expected 0 to 3"),
        ([0, 3, 2, 3], INDICES, "indptr falls from 3 to 2 at row 1"),
        ([0, 2**62, -(2**62), 3], INDICES, "indptr falls from 4611686018427387904 to -4611686018427387904 at row 1"),
        ([0, -5, 2, 3], INDICES, "indptr falls from 0 to -5 at row 0"),
        (INDPTR, [1, 2, 1], r"indices holds 2, expected values in \[0, 2\)"),
        (INDPTR, [1, -1, 1], r"indices holds -1, expected values in \[0, 2\)"),
        ([], INDICES, "indptr is empty"),
    ],
)
def test_a_corrupt_structure_is_named(body, indptr, indices, message):
    indptr, indices = np.asarray(indptr, np.int64), np.asarray(indices)
    x, dy = np.ones((2, 3)), np.ones((3, 3))
    with backend(body):
        with pytest.raises(ValueError, match=f"^csr_matmul: {message}"):
            ops.csr_matmul(indptr, indices, VALUES, x)
        if len(indptr):
            with pytest.raises(ValueError, match=f"^csr_matmul_backward: {message}"):
                ops.csr_matmul_backward(dy, indptr, indices, VALUES, x)
    with pytest.raises(ValueError, match=f"^csr_transpose: {message}"):
        ops.csr_transpose(indptr, indices, VALUES, 2)


@given(data=st.data())
def test_a_random_structure_is_accepted_or_refused_alike(data):
    integers = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5)
    indptr = np.array(data.draw(st.lists(integers, min_size=1, max_size=6)), np.int64)
    indices = np.array(data.draw(st.lists(integers, max_size=5)), np.int64)
    outcomes = []
    for body in ("numpy", "native"):
        with backend(body):
            try:
                outcomes.append(ops.csr_matmul(indptr, indices, None, np.ones((3, 2))).tolist())
            except ValueError as error:
                outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
