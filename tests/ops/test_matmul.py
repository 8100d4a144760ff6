"""Matrix products and the linear layer: what the equivalence tests do not state."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend
from tests.harness import gamma, team

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def within(a, b, limit):
    return bool((np.abs(a - b) <= limit).all())


@BODIES
def test_hand_computed_products(body):
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])
    with backend(body):
        assert ops.matmul(a, b).tolist() == [[19, 22], [43, 50]]
        assert ops.matmul(a, b, transpose_a=True).tolist() == [[26, 30], [38, 44]]
        assert ops.matmul(a, b, transpose_b=True).tolist() == [[17, 23], [39, 53]]
        assert ops.matmul(a, b, True, True).tolist() == [[23, 31], [34, 46]]


@BODIES
def test_hand_computed_linear_layer(body):
    x, weight, bias = (
        np.array([[1.0, 2.0], [0.0, 1.0]]),
        np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]]),
        np.array([1.0, 2, 3]),
    )
    dy = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    with backend(body):
        assert ops.linear(x, weight, bias).tolist() == [[2, 4, 11], [1, 3, 6]]
        dx, dweight, dbias = ops.linear_backward(dy, x, weight)
    assert dx.tolist() == [[1, 0], [4, 7]]
    assert dweight.tolist() == [[1, 0, 0], [2, 1, 2]]
    assert dbias.tolist() == [1, 1, 2]


@BODIES
def test_empty_sum_is_zero(body):
    with backend(body):
        assert not ops.matmul(np.ones((3, 0)), np.ones((0, 4))).any()
        assert not ops.matmul(np.ones((2, 3, 0)), np.ones((0, 4))).any()
        da, db = ops.matmul_backward(np.ones((0, 3, 5)), np.ones((0, 3, 4)), np.ones((4, 5)))
        assert da.shape == (0, 3, 4) and not db.any() and db.shape == (4, 5)
        assert ops.linear(np.ones((3, 0)), np.ones((0, 2)), np.array([1.0, 2.0])).tolist() == [[1, 2]] * 3
        _, dweight, dbias = ops.linear_backward(np.ones((0, 3)), np.ones((0, 2)), np.ones((2, 3)))
        assert not dweight.any() and not dbias.any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(
    sizes=st.sampled_from(
        [
            (1, 1, 300),
            (1, 70, 600),
            (600, 1, 70),
            (3, 40, 300),
            (200, 33, 270),
            (29, 2100, 5),
            (400, 400, 1),
            (4, 300, 30),
            (32, 300, 100),
        ]
    ),
    ta=st.booleans(),
    tb=st.booleans(),
)
def test_bits_do_not_depend_on_the_number_of_threads(dtype, sizes, ta, tb):
    M, N, K = sizes
    a, b = normal(*((K, M) if ta else (M, K)), dtype=dtype), normal(*((N, K) if tb else (K, N)), seed=1, dtype=dtype)
    dy = normal(M, N, seed=2, dtype=dtype)
    results = []
    for n in (1, 2, 3, 4, 7):
        with backend("native"), team(n):
            results.append((ops.matmul(a, b, ta, tb), *ops.matmul_backward(dy, a, b, ta, tb)))
    for other in results[1:]:
        assert all(np.array_equal(x, y) for x, y in zip(results[0], other))


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_large_products_cross_all_blocks(ta, tb):
    M, N, K = 400, 2100, 600
    a, b = normal(*((K, M) if ta else (M, K)), dtype=np.float32), normal(*((N, K) if tb else (K, N)), dtype=np.float32)
    a64, b64 = (a.T if ta else a).astype(np.float64), (b.T if tb else b).astype(np.float64)
    with backend("native"):
        y = ops.matmul(a, b, ta, tb)
    assert within(y, a64 @ b64, gamma(K + 2, float(np.finfo(np.float32).eps)) * (np.abs(a64) @ np.abs(b64)))


@BODIES
def test_views_give_what_their_copies_give(body):
    wide = normal(40, 90)
    a, b = wide[3:30, 5:25], wide[:20, 10:50]
    cube = normal(5, 30, 40)
    with backend(body):
        assert np.allclose(ops.matmul(a, b), a.copy() @ b.copy(), rtol=1e-13)
        assert np.allclose(ops.matmul(a.T, b, transpose_a=True), a.copy() @ b.copy(), rtol=1e-13)
        assert np.allclose(
            ops.matmul(cube[::2, :, 3:], cube[::2, :, 3:], transpose_b=True)[1], cube[2, :, 3:] @ cube[2, :, 3:].T
        )
        assert np.allclose(ops.matmul(cube.swapaxes(1, 2), cube), cube.swapaxes(1, 2) @ cube)
        assert np.allclose(ops.matmul(a[::-1], b[:, ::3]), a[::-1] @ b[:, ::3])
        one_row = np.broadcast_to(wide[0], (6, 90))
        assert np.allclose(ops.matmul(one_row, wide, transpose_b=True), one_row @ wide.T)


@BODIES
def test_out_is_written_and_returned_even_where_it_overlaps_an_input(body):
    a, b = normal(8, 8), normal(8, 8, seed=1)
    expected = a @ b
    with backend(body):
        out = np.full((8, 8), np.nan)
        assert ops.matmul(a, b, out=out) is out
        assert np.allclose(out, expected)
        weight, bias = b.copy(), np.arange(8.0)
        assert ops.linear(a, weight, bias, out=out) is out
        assert np.allclose(out, expected + bias)
        assert ops.matmul(a, b, out=a) is a
        assert np.allclose(a, expected)


@pytest.mark.parametrize("sizes", [(1, 9, 37), (9, 2, 67), (3, 100, 20), (100, 1, 9), (20, 100, 39), (5, 33, 17)])
def test_an_infinite_element_reaches_its_own_row_and_column_only(sizes):
    M, N, K = sizes
    for k in range(K):
        a, b = np.ones((M, K)), np.ones((N, K))
        a[M // 2, k], b[N // 2, k] = np.inf, -np.inf
        with backend("native"):
            y = ops.matmul(a, b, transpose_b=True)
        assert y[M // 2, N // 2] == -np.inf
        expected = np.full((M, N), float(K))
        expected[M // 2], expected[:, N // 2] = np.inf, -np.inf
        assert np.array_equal(y, expected)


@BODIES
def test_bias_may_lie_in_out(body):
    x, weight, out = normal(8, 5), normal(5, 8, seed=1), normal(8, 8, seed=2)
    expected = x @ weight + out[3]
    with backend(body):
        assert ops.linear(x, weight, out[3], out=out) is out
    assert np.allclose(out, expected)


def misaligned(x):
    """A C-contiguous copy whose address is no multiple of the element size."""
    y = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


@BODIES
@pytest.mark.parametrize("which", range(4))
def test_misaligned_arrays_give_what_aligned_ones_give(body, which):
    arrays = [normal(9, 7), normal(7, 6, seed=1), normal(6, seed=2), np.empty((9, 6))]
    expected = arrays[0] @ arrays[1]
    arrays[which] = misaligned(arrays[which])
    a, b, bias, out = arrays
    with backend(body):
        assert ops.matmul(a, b, out=out) is out and np.allclose(out, expected)
        assert np.allclose(ops.matmul(b, a, True, True, out=misaligned(out.T)), expected.T)
        assert ops.linear(a, b, bias, out=out) is out and np.allclose(out, expected + bias)
        dx, dweight, dbias = ops.linear_backward(misaligned(expected), a, b)
    assert np.allclose(dx, expected @ b.T) and np.allclose(dweight, a.T @ expected)
    assert np.allclose(dbias, expected.sum(axis=0))


@BODIES
def test_empty_operand_inside_out(body):
    out = np.full((4, 4), np.nan)
    with backend(body):
        assert not ops.matmul(out.reshape(-1)[5:5].reshape(4, 0), np.ones((0, 4)), out=out).any()


@BODIES
def test_tied_weights_are_read_transposed(body):
    x, table, dy = normal(7, 20), normal(30, 20, seed=1), normal(7, 30, seed=2)
    with backend(body):
        assert np.allclose(ops.linear(x, table.T), x @ table.T)
        dx, dweight, _ = ops.linear_backward(dy, x, table.T)
    assert np.allclose(dx, dy @ table)
    assert np.allclose(dweight, x.T @ dy)


@BODIES
def test_add_to_adds_in_place_and_returns_the_same_arrays(body):
    dy, x, weight = normal(9, 5), normal(9, 4, seed=1), normal(4, 5, seed=2)
    with backend(body):
        dx, dweight, dbias = ops.linear_backward(dy, x, weight)
        into = (np.ones((4, 5)), np.ones(5))
        got = ops.linear_backward(dy, x, weight, add_to=into)
        assert got[1] is into[0] and got[2] is into[1] and np.array_equal(got[0], dx)
        assert np.allclose(into[0], 1 + dweight) and np.allclose(into[1], 1 + dbias)
        nothing, same, none = ops.linear_backward(dy, x, weight, need_dx=False, add_to=(into[0], None))
    assert nothing is None and none is None and same is into[0]
    assert np.allclose(same, 1 + 2 * dweight)


@BODIES
def test_linear_layer_works_on_the_last_axis(body):
    x, weight, bias = normal(2, 3, 4), normal(4, 5), normal(5)
    with backend(body):
        y = ops.linear(x, weight, bias)
        assert y.shape == (2, 3, 5)
        assert np.allclose(y[1, 2], ops.linear(x[1, 2], weight, bias))


@BODIES
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: ops.matmul(np.ones(3), np.ones((3, 2))),
            ValueError,
            r"matmul: a has shape \(3,\), expected at least 2",
        ),
        (lambda: ops.matmul(np.ones((2, 3)), np.ones((2, 3))), ValueError, "summed axes have 3 and 2"),
        (lambda: ops.matmul(np.ones((2, 3)), np.ones((2, 3)), True, True), ValueError, "summed axes have 2 and 3"),
        (lambda: ops.matmul(np.ones((4, 2, 3)), np.ones((5, 3, 2))), ValueError, "equal leading axes"),
        (lambda: ops.matmul(np.ones((2, 3)), np.ones((3, 2), np.float32)), TypeError, "b has dtype float32"),
        (lambda: ops.matmul(np.ones((2, 3)), np.ones((3, 2)), out=np.ones((3, 2))), ValueError, r"expected \(2, 2\)"),
        (lambda: ops.matmul(np.ones((2, 3)), np.ones((3, 2)), out=np.ones((2, 4))[:, :2]), ValueError, "C-contiguous"),
        (lambda: ops.matmul_backward(np.ones((3, 2)), np.ones((2, 3)), np.ones((3, 2))), ValueError, "dy has shape"),
        (
            lambda: ops.linear(np.ones((2, 3)), np.ones((4, 5))),
            ValueError,
            r"linear: x has shape \(2, 3\), expected",
        ),
        (lambda: ops.linear(np.ones((2, 4)), np.ones((4, 5)), np.ones(4)), ValueError, r"bias has shape \(4,\)"),
        (lambda: ops.linear(np.ones((2, 4)), np.ones(4)), ValueError, "weight has shape"),
        (
            lambda: ops.linear_backward(
                np.ones((2, 5)), np.ones((2, 4)), np.ones((4, 5)), True, (np.ones((4, 4)), None)
            ),
            ValueError,
            r"add_to\[0\] has shape",
        ),
        (
            lambda: ops.linear_backward(np.ones((2, 5)), np.ones((2, 4)), np.ones((4, 5)), add_to=np.ones((4, 5))),
            TypeError,
            "add_to is ndarray",
        ),
    ],
)
def test_bad_input_is_named(body, call, error, message):
    with backend(body), pytest.raises(error, match=message):
        call()
