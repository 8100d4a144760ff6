import numpy as np
import pytest

from refimpl import ops
from refimpl.backends import backend
from tests.harness import team

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])


@BODIES
def test_rows_by_hand(body):
    table = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    index = np.array([[2, 0], [2, 2]])
    with backend(body):
        np.testing.assert_array_equal(ops.embedding(index, table), [[[5, 6], [1, 2]], [[5, 6], [5, 6]]])
        d = ops.embedding_backward(np.arange(8.0).reshape(2, 2, 2), index, 3)
    np.testing.assert_array_equal(d, [[2, 3], [0, 0], [0 + 4 + 6, 1 + 5 + 7]])


@BODIES
def test_a_single_index_gives_a_row_that_is_no_view(body):
    table = np.ones((3, 2))
    with backend(body):
        y = ops.embedding(np.array(1), table)
    assert y.shape == (2,) and not np.shares_memory(y, table)


@pytest.mark.parametrize("width", [1, 3, 100])
def test_table_gradient_is_summed_in_index_order_on_any_number_of_threads(width):
    rng = np.random.default_rng(0)
    index, dy = rng.integers(0, 5, 400), rng.standard_normal((400, width)).astype(np.float32)
    expected = np.zeros((7, width), np.float32)
    for i, row in zip(index, dy):
        expected[i] += row
    for n in (1, 2, 3, 5):
        with team(n), backend("native"):
            np.testing.assert_array_equal(ops.embedding_backward(dy, index, 7), expected)


@BODIES
@pytest.mark.parametrize("value", [-1, 3, 2**62, -(2**62)])
def test_an_index_out_of_range_is_named(body, value):
    index = np.array([0, 1, value, 2])
    with backend(body):
        with pytest.raises(ValueError, match=rf"^embedding: index holds {value}, expected values in \[0, 3\)"):
            ops.embedding(index, np.zeros((3, 2)))
        with pytest.raises(ValueError, match=rf"^embedding_backward: index holds {value}, expected"):
            ops.embedding_backward(np.zeros((4, 2)), index, 3)


@BODIES
def test_an_unsigned_index_beyond_int64_is_named(body):
    index = np.array([2**64 - 1], np.uint64)
    with backend(body), pytest.raises(ValueError, match="index holds 18446744073709551615"):
        ops.embedding(index, np.zeros((3, 2)))


@BODIES
@pytest.mark.parametrize(("V", "error"), [(-1, ValueError), (2.5, TypeError), (2**60, ValueError)])
def test_a_bad_number_of_rows_is_named(body, V, error):
    with backend(body), pytest.raises(error, match=r"^embedding_backward: V is "):
        ops.embedding_backward(np.zeros((1, 2)), np.zeros(1, int), V)


@BODIES
def test_dropout_by_hand(body):
    x = np.array([1.0, np.inf, np.nan, 4.0])
    mask = np.array([True, False, False, True])
    with backend(body):
        np.testing.assert_array_equal(ops.dropout(x, mask, 0.5), [2, 0, 0, 8])
        np.testing.assert_array_equal(ops.dropout(x, 5 * mask.astype(np.uint8), 0.75), [4, 0, 0, 16])
        np.testing.assert_array_equal(ops.dropout(x, np.ones(4, bool), 0), x)


@BODIES
@pytest.mark.parametrize("rate", [1.0, -0.1, np.nan])
def test_a_bad_rate_is_named(body, rate):
    with backend(body), pytest.raises(ValueError, match=r"^dropout: rate is .* expected a number in \[0, 1\)"):
        ops.dropout(np.ones(2), np.ones(2, bool), rate)
