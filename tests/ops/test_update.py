"""Steps over flat vectors: what the equivalence tests do not state."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend
from tests.harness import team

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@BODIES
def test_hand_computed_sgd_steps(body):
    p, v = np.array([1.0, -2.0]), np.array([0.5, 0.0])
    g = np.array([2.0, 4.0])
    with backend(body):
        assert ops.sgd_update(p, g, None, 0.25) is None
        assert p.tolist() == [0.5, -3.0]
        ops.sgd_update(p, g, v, 0.25, momentum=0.5)
        assert v.tolist() == [2.25, 4.0] and p.tolist() == [0.5 - 0.5625, -4.0]
        p[:], v[:] = 1.0, 0.0
        ops.sgd_update(p, g, v, 0.25, momentum=0.5, nesterov=True)  # steps by g + v / 2
        assert v.tolist() == [2.0, 4.0] and p.tolist() == [0.25, -0.5]
        p[:] = 2.0
        ops.sgd_update(p, g, None, 0.25, weight_decay=0.5)
        assert p.tolist() == [2 - 0.25 * 3, 2 - 0.25 * 5]
        p[:] = 2.0
        ops.sgd_update(p, g, None, 0.25, weight_decay=0.5, decoupled=True)
        assert p.tolist() == [2 * 0.875 - 0.5, 2 * 0.875 - 1.0]


@BODIES
def test_first_adam_step_is_lr_in_the_direction_of_the_sign(body):
    g = np.array([3.0, -1e-3, 1e5])
    p, m, v = np.zeros(3), np.zeros(3), np.zeros(3)
    with backend(body):
        assert ops.adam_update(p, g, m, v, 1, 0.1, eps=0.0) is None
    assert np.allclose(p, -0.1 * np.sign(g), rtol=1e-12)
    assert np.allclose(m, 0.1 * g) and np.allclose(v, 0.001 * g * g)


@BODIES
def test_coupled_decay_is_a_gradient_and_decoupled_decay_is_not(body):
    p0, g = normal(50), normal(50, seed=1)
    with backend(body):
        coupled, explicit, decoupled, shrunk = (p0.copy() for _ in range(4))
        ops.adam_update(coupled, g, np.zeros(50), np.zeros(50), 1, 0.1, weight_decay=0.3)
        ops.adam_update(explicit, g + 0.3 * p0, np.zeros(50), np.zeros(50), 1, 0.1)
        ops.adam_update(decoupled, g, np.zeros(50), np.zeros(50), 1, 0.1, weight_decay=0.3, decoupled=True)
        ops.adam_update(shrunk, g, np.zeros(50), np.zeros(50), 1, 0.1)
    assert np.allclose(coupled, explicit, rtol=1e-12)
    assert np.allclose(decoupled, shrunk - 0.03 * p0, rtol=1e-12)


@BODIES
def test_rmsprop_divides_by_the_root_mean_square(body):
    p, g, v = np.zeros(2), np.array([3.0, -4.0]), np.array([16.0, 9.0])
    with backend(body):
        assert ops.rmsprop_update(p, g, v, None, 1.0, alpha=0.0, eps=0.0) is None
        assert v.tolist() == [9, 16] and p.tolist() == [-1, 1]
        w = np.array([1.0, 1.0])
        ops.rmsprop_update(p, g, v, w, 1.0, alpha=0.0, eps=0.0, momentum=0.5)
        assert w.tolist() == [1.5, -0.5] and p.tolist() == [-2.5, 1.5]


@BODIES
@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_moving_average_at_the_ends(body, decay):
    average, value = normal(20), normal(20, seed=1)
    before = average.copy()
    with backend(body):
        ops.ema_update(average, value, decay)
    assert np.array_equal(average, before if decay else value)


@BODIES
def test_written_through_windows_of_one_vector(body):
    flat = np.zeros(10)
    window = flat[2:8].reshape(2, 3)
    with backend(body):
        ops.axpy(window, np.arange(6.0).reshape(2, 3), 2.0)
        ops.scale_inplace(window, 0.5)
        assert flat.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0, 0]
        ops.axpy(flat[1:], flat[:-1], 1.0)  # the input overlaps the output: it is read as it was before the call
        assert flat.tolist() == [0, 0, 0, 1, 3, 5, 7, 9, 5, 0]
        ops.axpy(flat, flat, 1.0)
        assert flat.tolist() == [0, 0, 0, 2, 6, 10, 14, 18, 10, 0]
        vectors = np.zeros((3, 5))
        param, m, v = vectors
        ops.adam_update(param, np.ones(5), m, v, 1, 0.1)
        assert (vectors[0] < 0).all() and (vectors[1:] > 0).all()


@BODIES
def test_gradient_may_be_a_strided_view(body):
    grads = normal(6, 2)
    p, q = np.zeros(6), np.zeros(6)
    with backend(body):
        ops.sgd_update(p, grads[:, 1], None, 1.0)
        ops.sgd_update(q, grads[:, 1].copy(), None, 1.0)
    assert np.array_equal(p, q) and np.array_equal(p, -grads[:, 1])


@BODIES
def test_out_may_be_an_input_or_overlap_one(body):
    x, y = normal(40), normal(40, seed=1)
    expected = 2 * x - 3 * y
    with backend(body):
        assert np.allclose(ops.fma_combine(2.0, x, -3.0, y, 0.5, np.ones(40)), expected + 0.5)
        a, b = x.copy(), np.concatenate([[0], y])
        assert ops.fma_combine(2.0, a, -3.0, y, out=a) is a
        assert np.allclose(a, expected)
        assert np.allclose(ops.fma_combine(2.0, x, -3.0, b[1:], out=b[:-1]), expected)
        a, b = x.copy().reshape(8, 5), y.reshape(8, 5)
        two, three = np.full(8, 2.0), np.full(8, -3.0)
        assert ops.row_scaled_sum(two, a, three, b, out=a) is a
        assert np.allclose(a.ravel(), expected)


@BODIES
def test_rows_are_mixed_by_their_own_numbers(body):
    x, y = np.ones((2, 3, 2)), np.full((2, 3, 2), 10.0)
    with backend(body):
        mixed = ops.row_scaled_sum(np.array([1.0, 2.0]), x, np.array([0.0, 1.0]), y)
    assert (mixed[0] == 1).all() and (mixed[1] == 12).all()


@BODIES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_are_accurate_and_python_floats(body, dtype):
    x, y = normal(100_003, dtype=dtype), normal(100_003, seed=1, dtype=dtype)
    with backend(body):
        sums = ops.total(x), ops.sum_of_squares(x), ops.dot(x, y)
        assert ops.total(x[:0]) == ops.sum_of_squares(x[:0]) == ops.dot(x[:0], y[:0]) == 0.0
        assert ops.total(np.full(2**24 + 8, 1, np.float32)) == 2**24 + 8  # more than a float32 can count
    assert all(type(s) is float for s in sums)
    exact = math.fsum(x), math.fsum(np.square(x.astype(float))), math.fsum(x.astype(float) * y)
    assert np.allclose(sums, exact, rtol=1e-12, atol=1e-9)


@given(st.integers(0, 40_000), st.sampled_from([np.float32, np.float64]))
def test_bits_do_not_depend_on_threads(n, dtype):
    x, y = normal(n, dtype=dtype), normal(n, seed=1, dtype=dtype)
    results = []
    for threads in (1, 2, 3, 5):
        with team(threads), backend("native"):
            p, m, v = x.copy(), y.copy(), np.square(x)
            ops.adam_update(p, y, m, v, 3, 0.01)
            ops.sgd_update(p, y, m, 0.1, 0.9, True, 0.01)
            ops.rmsprop_update(p, y, v, m, 0.1, momentum=0.5, weight_decay=0.1)
            sums = ops.total(x), ops.sum_of_squares(x), ops.dot(x, y)
            combined = ops.fma_combine(0.3, x, 0.7, y, 0.1, p)
        results.append([p, m, v, np.array(sums), combined])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other))


x3, f3 = np.zeros(3), np.zeros(3, np.float32)
frozen = np.zeros(3)
frozen.flags.writeable = False


@BODIES
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.sgd_update(np.zeros(6)[::2], x3, None, 0.1), ValueError, "param must be writable and C-contig"),
        (lambda: ops.sgd_update(frozen, x3, None, 0.1), ValueError, "param must be writable and C-contig"),
        (lambda: ops.sgd_update(x3, np.zeros(4), None, 0.1), ValueError, r"grad has shape \(4,\), expected \(3,\)"),
        (lambda: ops.sgd_update(x3, f3, None, 0.1), TypeError, "grad has dtype float32, but param has float64"),
        (lambda: ops.sgd_update(x3, x3, None, 0.1, 0.9), ValueError, "momentum is 0.9, but velocity is None"),
        (lambda: ops.sgd_update(x3, x3.copy(), x3, 0.1, 0.9), ValueError, "velocity and param share memory"),
        (
            lambda: ops.adam_update(x3, x3, x3.copy(), x3.copy(), 0, 0.1),
            ValueError,
            "step is 0, expected at least 1",
        ),
        (lambda: ops.adam_update(x3, x3, x3.copy(), x3.copy(), 1.5, 0.1), TypeError, "step is a float"),
        (lambda: ops.adam_update(x3, x3, x3.copy(), x3.copy(), 1, 0.1, 1.0), ValueError, "beta1 is 1.0"),
        (lambda: ops.adam_update(x3, x3, x3.copy(), x3.copy(), 1, 0.1, 0.9, -1), ValueError, "beta2 is -1"),
        (
            lambda: ops.adam_update(x3, x3, x3.copy(), np.zeros(4), 1, 0.1),
            ValueError,
            r"v has shape \(4,\), expected \(3,\)",
        ),
        (lambda: ops.rmsprop_update(x3, x3, x3.copy(), None, 0.1, momentum=0.5), ValueError, "velocity is None"),
        (lambda: ops.rmsprop_update(x3, x3, x3.copy(), None, 0.1, eps=math.nan), ValueError, "eps is nan"),
        (lambda: ops.ema_update(x3, x3, 1.5), ValueError, "decay is 1.5"),
        (lambda: ops.scale_inplace(np.zeros((2, 3)).T, 1.0), ValueError, "x must be writable"),
        (lambda: ops.axpy(x3, [0.0, 0.0, 0.0], 1.0), TypeError, "x is a list"),
        (lambda: ops.fma_combine(1.0, x3, 1.0, x3, out=np.zeros(4)), ValueError, r"out has shape \(4,\)"),
        (lambda: ops.row_scaled_sum(x3, np.zeros((2, 3)), x3, np.zeros((2, 3))), ValueError, r"a has shape \(3,\)"),
        (lambda: ops.total(np.arange(3)), TypeError, "x has dtype int64"),
        (lambda: ops.dot(x3, np.zeros(4)), ValueError, r"y has shape \(4,\), expected \(3,\)"),
    ],
)
def test_bad_input_is_named(body, call, error, message):
    with backend(body), pytest.raises(error, match=message):
        call()
