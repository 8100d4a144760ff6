import numpy as np
import pytest

from refimpl import ops
from refimpl.backends import backend
from tests.harness import team

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])
X = np.array([[1.0, 9.0], [2.0, 3.0], [5.0, 3.0], [4.0, 0.0]])
SEGMENT = np.array([2, 0, 2, 2])


@BODIES
def test_sum_mean_and_max_by_hand(body):
    with backend(body):
        np.testing.assert_array_equal(ops.segment_sum(X, SEGMENT, 4), [[2, 3], [0, 0], [10, 12], [0, 0]])
        np.testing.assert_array_equal(ops.segment_mean(X, SEGMENT, 4), [[2, 3], [0, 0], [10 / 3, 4], [0, 0]])
        y, argmax = ops.segment_max(X, SEGMENT, 4)
    np.testing.assert_array_equal(y, [[2, 3], [0, 0], [5, 9], [0, 0]])
    np.testing.assert_array_equal(argmax, [[1, 1], [-1, -1], [2, 0], [-1, -1]])
    assert argmax.dtype == np.int64


@BODIES
def test_max_takes_the_first_of_equals_and_any_nan(body):
    x = np.array([[2.0, 1.0], [2.0, np.nan], [1.0, np.nan], [-np.inf, np.inf]])
    with backend(body):
        y, argmax = ops.segment_max(x, np.zeros(4, int), 1)
        np.testing.assert_array_equal(y, [[2, np.nan]])
        np.testing.assert_array_equal(argmax, [[0, 1]])
        y, argmax = ops.segment_max(x[3:], np.zeros(1, int), 1)
    np.testing.assert_array_equal(y, [[-np.inf, np.inf]])
    np.testing.assert_array_equal(argmax, [[0, 0]])


@BODIES
@pytest.mark.parametrize("columns", [None, 3])
def test_softmax_of_each_segment_sums_to_one(body, columns):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(200 if columns is None else (200, columns)) * 50
    segment = rng.integers(0, 9, 200)
    with backend(body):
        y = ops.segment_softmax(scores, segment, 10)
    for s in range(9):
        np.testing.assert_allclose(y[segment == s].sum(axis=0), 1)
        e = np.exp(scores[segment == s] - scores[segment == s].max(axis=0))
        np.testing.assert_allclose(y[segment == s], e / e.sum(axis=0), atol=1e-15)


@BODIES
def test_softmax_of_minus_infinities_is_zero(body):
    scores, segment = np.array([-np.inf, 1.0, -np.inf, -np.inf]), np.array([0, 0, 1, 1])
    with backend(body):
        y = ops.segment_softmax(scores, segment, 2)
        np.testing.assert_array_equal(y, [0, 1, 0, 0])
        np.testing.assert_array_equal(ops.segment_softmax_backward(np.ones(4), y, segment, 2), np.zeros(4))


@pytest.mark.parametrize("width", [1, 5, 100])
def test_the_bits_do_not_depend_on_the_number_of_threads(width):
    rng = np.random.default_rng(0)
    x, segment = rng.standard_normal((500, width)).astype(np.float32), rng.integers(0, 40, 500)

    def everything():
        y, argmax = ops.segment_max(x, segment, 41)
        p = ops.segment_softmax(x, segment, 41)
        yield from (y, argmax, p, ops.segment_sum(x, segment, 41), ops.segment_mean(x, segment, 41))
        yield from (ops.segment_max_backward(y, argmax, 500), ops.segment_mean_backward(y, segment))
        yield ops.segment_softmax_backward(x, p, segment, 41)

    with backend("native"):
        expected = list(everything())
        for n in (2, 3, 5):
            with team(n):
                assert all(np.array_equal(a, b) for a, b in zip(everything(), expected))


@BODIES
@pytest.mark.parametrize("value", [-1, 4, 2**62])
def test_a_segment_out_of_range_is_named(body, value):
    segment = np.array([2, 0, value, 2])
    with backend(body):
        for name in ("segment_sum", "segment_mean", "segment_max", "segment_softmax"):
            with pytest.raises(ValueError, match=rf"^{name}: segment holds {value}, expected values in \[0, 4\)"):
                getattr(ops, name)(X, segment, 4)
        for name in ("segment_sum_backward", "segment_mean_backward"):
            with pytest.raises(ValueError, match=rf"^{name}: segment holds {value}, expected values in \[0, 4\)"):
                getattr(ops, name)(X, segment)
        with pytest.raises(ValueError, match=f"^segment_softmax_backward: segment holds {value}"):
            ops.segment_softmax_backward(X, X, segment, 4)


@BODIES
@pytest.mark.parametrize("value", [-2, 4, 2**62])
def test_an_argmax_out_of_range_is_named(body, value):
    with backend(body), pytest.raises(ValueError, match=f"^segment_max_backward: argmax holds {value}, expected -1 or"):
        ops.segment_max_backward(np.ones((2, 1)), np.array([[0], [value]]), 4)


@BODIES
@pytest.mark.parametrize(("n", "error"), [(-1, ValueError), (2.5, TypeError), (2**61, ValueError)])
def test_a_bad_number_of_segments_is_named(body, n, error):
    with backend(body):
        for name in ("segment_sum", "segment_mean", "segment_max", "segment_softmax"):
            with pytest.raises(error, match=f"^{name}: n_segments is "):
                getattr(ops, name)(X, SEGMENT, n)
