"""Reductions: what the equivalence tests do not state."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend
from tests.harness import team

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])


@BODIES
def test_reductions_by_hand(body):
    x = np.array([[1.0, 5.0, 5.0], [4.0, -2.0, 0.0]])
    with backend(body):
        assert ops.sum_rows(x).tolist() == [5, 3, 5]
        assert ops.reduce_sum(x, 0).tolist() == [5, 3, 5]
        assert ops.reduce_sum(x, -1).tolist() == [11, 2]
        assert ops.reduce_mean(x, 0).tolist() == [2.5, 1.5, 2.5]
        y, index = ops.reduce_max(x, 1)
        assert y.tolist() == [5, 4] and index.tolist() == [1, 0] and index.dtype == np.int64
        assert ops.reduce_max_backward(np.array([2.0, 3.0]), index, 1, 3).tolist() == [[0, 2, 0], [3, 0, 0]]
        assert ops.reduce_mean_backward(np.array([2.0, 4.0]), 1, 2).tolist() == [[1, 1], [2, 2]]
        assert ops.reduce_sum_backward(np.array([2.0, 4.0]), 0, 2).tolist() == [[2, 4], [2, 4]]
        assert ops.total(x) == 13.0 and type(ops.total(x)) is float


@BODIES
def test_first_nan_is_the_maximum(body):
    x = np.array([[1.0, np.nan, 3.0, np.nan], [np.inf, 2.0, np.nan, 0.0], [-np.inf, -np.inf, -np.inf, -np.inf]])
    with backend(body):
        y, index = ops.reduce_max(x, 1)
        assert index.tolist() == [1, 2, 0] and np.isnan(y[:2]).all() and y[2] == -np.inf
        y, index = ops.reduce_max(np.ascontiguousarray(x.T), 0)
        assert index.tolist() == [1, 2, 0] and np.isnan(y[:2]).all() and y[2] == -np.inf


@BODIES
def test_long_sums_of_float32_are_accurate(body):
    x = np.full((100_000, 3), 0.1, np.float32)
    exact = 100_000 * float(np.float32(0.1))
    with backend(body):
        for y in (ops.sum_rows(x), ops.reduce_sum(np.ascontiguousarray(x.T), 1)):
            assert np.allclose(y, exact, rtol=1e-5)
        assert np.allclose(ops.reduce_mean(x, 0), 0.1, rtol=1e-5)
        assert ops.total(np.full(2**24 + 8, 1, np.float32)) == 2**24 + 8  # more than a float32 can count
        assert math.isclose(ops.total(x), 3 * exact, rel_tol=1e-12)


@BODIES
def test_empty_axis_sums_to_zero_and_has_no_mean_or_maximum(body):
    x = np.zeros((3, 0, 2))
    with backend(body):
        assert ops.reduce_sum(x, 1).tolist() == [[0, 0]] * 3
        assert ops.reduce_sum(x, 0).shape == (0, 2)
        assert ops.sum_rows(np.zeros((0, 2))).tolist() == [0, 0]
        assert ops.total(x) == 0.0
        for op in (ops.reduce_mean, ops.reduce_max):
            with pytest.raises(ValueError, match="expected at least 1 entry along axis 1"):
                op(x, 1)


@given(st.sampled_from([(1, 20_000, 1), (3, 5000, 2), (1, 9000, 65), (40, 33, 7), (300, 90, 1)]))
def test_bits_do_not_depend_on_threads(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = []
    for n in (1, 2, 3, 5):
        with team(n), backend("native"):
            found.append((ops.reduce_sum(x, 1), ops.reduce_mean(x, 1), *ops.reduce_max(x, 1), ops.total(x)))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other))


x23 = np.zeros((2, 3))


@BODIES
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.reduce_sum(x23, 2), ValueError, "reduce_sum: axis is 2, but x has 2 axes"),
        (lambda: ops.reduce_sum(x23, None), TypeError, "reduce_sum: axis is a NoneType"),
        (lambda: ops.reduce_max(np.zeros(()), 0), ValueError, "but x has 0 axes"),
        (lambda: ops.sum_rows(np.zeros(3)), ValueError, "sum_rows: x has shape"),
        (lambda: ops.reduce_mean(np.arange(3), 0), TypeError, "x has dtype int64"),
        (lambda: ops.reduce_mean_backward(x23, 0, 0), ValueError, "n is 0, expected at least 1"),
        (
            lambda: ops.reduce_max_backward(x23, np.full((2, 3), 4), 0, 4),
            ValueError,
            r"index holds 4, expected .*\[0, 4",
        ),
        (lambda: ops.reduce_max_backward(x23, np.zeros(3, int), 0, 4), ValueError, r"index has shape \(3,\)"),
        (lambda: ops.total([1.0]), TypeError, "total: x is a list"),
    ],
)
def test_bad_input_is_named(body, call, error, message):
    with backend(body), pytest.raises(error, match=message):
        call()
