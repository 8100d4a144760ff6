import numpy as np
import pytest

from refimpl import ops
from refimpl.backends import backend
from tests.harness import team

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])


@BODIES
def test_first_adam_step_has_the_size_of_the_learning_rate(body):
    p, g = np.zeros(3), np.array([5.0, -0.01, 100.0])
    with backend(body):
        ops.adam_update(p, g, np.zeros(3), np.zeros(3), 1, 0.1, eps=0.0)
    assert np.allclose(p, -0.1 * np.sign(g))


@BODIES
def test_a_view_sees_the_step(body):
    flat = np.ones(10, np.float32)
    window = flat[3:7]
    with backend(body):
        ops.sgd_update(flat, np.ones(10, np.float32), None, 0.5)
    assert (window == 0.5).all()


def test_sums_do_not_depend_on_the_number_of_threads():
    x = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)
    results = set()
    for n in (1, 2, 3):
        with team(n):
            results.add((ops.sum_of_squares(x), ops.dot(x, x[::-1])))
    assert len(results) == 1


def test_sum_of_squares_of_many_small_float32_numbers_is_accurate():
    x = np.full(3_000_000, 1e-3, np.float32)
    exact = 3_000_000 * float(np.float32(1e-3)) ** 2
    assert abs(ops.sum_of_squares(x) / exact - 1) < 1e-12


@BODIES
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: ops.adam_update(a, a, a.copy(), a.copy(), 0, 0.1), "step is 0, expected at least 1"),
        (lambda a: ops.adam_update(a, a, a.copy(), a.copy(), 1, 0.1, beta1=1.0), "beta1 is 1.0"),
        (lambda a: ops.sgd_update(a, a, None, 0.1, 0.9), "momentum is 0.9, but velocity is None"),
        (lambda a: ops.sgd_update(a[::2], a[::2], None, 0.1), "param must be writable and C-contiguous"),
        (lambda a: ops.axpy(a, a[:3]), r"y has shape \(4,\), expected \(3,\)"),
    ],
)
def test_unusable_arguments_are_clear_errors(call, message, body):
    with backend(body), pytest.raises(ValueError, match=message):
        call(np.ones(4))


@BODIES
def test_read_only_parameters_are_refused_and_unchanged(body):
    p = np.ones(4)
    p.flags.writeable = False
    with backend(body), pytest.raises(ValueError, match="param must be writable"):
        ops.sgd_update(p, np.ones(4), None, 0.1)
    assert (p == 1).all()
