"""Softmax and its logarithms: properties, worked examples, errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import backend, ops

BODIES = ["numpy", "native"]
FORWARD = [ops.softmax, ops.log_softmax, ops.logsumexp]


@pytest.fixture(params=BODIES, autouse=True)
def body(request):
    with backend(request.param):
        yield request.param


def test_softmax_worked_by_hand():
    z = np.log(np.array([[1.0, 2.0, 5.0]]))
    assert np.allclose(ops.softmax(z), [[0.125, 0.25, 0.625]], rtol=1e-15)
    assert np.allclose(ops.logsumexp(z), [np.log(8.0)], rtol=1e-15)
    assert np.allclose(ops.log_softmax(z), np.log([[0.125, 0.25, 0.625]]), rtol=1e-14)


def test_softmax_backward_worked_by_hand():
    dz = ops.softmax_backward(np.array([1.0, 0.0]), np.array([0.25, 0.75]))
    assert np.array_equal(dz, [0.1875, -0.1875])


@given(seed=st.integers(0, 1000), K=st.integers(1, 200), shift=st.sampled_from([0.0, 1e4, -1e4]))
def test_softmax_rows_sum_to_one_and_ignore_a_common_shift(seed, K, shift):
    z = np.random.default_rng(seed).standard_normal((3, K)) * 10
    for name in BODIES:
        with backend(name):
            y = ops.softmax(z + shift)
            assert np.allclose(y.sum(axis=-1), 1, rtol=1e-13)
            assert np.allclose(y, ops.softmax(z), rtol=1e-10)


def test_softmax_gradient_of_a_row_sums_to_zero():
    rng = np.random.default_rng(0)
    y = ops.softmax(rng.standard_normal((5, 70)))
    assert np.allclose(ops.softmax_backward(rng.standard_normal((5, 70)), y).sum(axis=-1), 0, atol=1e-15)


@pytest.mark.parametrize("K", [3, 20, 100, 5000])
def test_huge_logits_do_not_overflow(K):
    z = np.full((2, K), np.float32(3e38))
    assert np.allclose(ops.softmax(z), 1 / K, rtol=1e-5)
    assert np.allclose(ops.log_softmax(z), -np.log(K), rtol=1e-5)


@pytest.mark.parametrize("K", [4, 60])
def test_minus_infinity_is_probability_zero(K):
    z = np.zeros((2, K))
    z[:, 1:] = -np.inf
    assert np.array_equal(ops.softmax(z)[:, 0], [1, 1])
    assert not ops.softmax(z)[:, 1:].any()
    assert np.array_equal(ops.log_softmax(z), z)
    assert np.array_equal(ops.logsumexp(z), [0, 0])


@pytest.mark.parametrize("K", [4, 60])
def test_a_row_of_minus_infinity_has_no_softmax_but_a_logsumexp(K):
    z = np.zeros((3, K))
    z[1] = -np.inf
    with np.errstate(invalid="ignore"):
        y = ops.softmax(z)
    assert np.isnan(y[1]).all()
    assert not np.isnan(y[[0, 2]]).any()
    assert ops.logsumexp(z)[1] == -np.inf
    z[1, 2] = np.inf
    assert ops.logsumexp(z)[1] == np.inf
    z[1, 3] = np.nan
    assert np.isnan(ops.logsumexp(z)[1])


@pytest.mark.parametrize("op", [ops.softmax, ops.log_softmax])
@pytest.mark.parametrize("shape", [(9, 7), (3, 200)])
def test_out_may_be_the_input(op, shape):
    z = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = op(z)
    assert op(z, out=z) is z
    assert np.array_equal(z, expected)


@pytest.mark.parametrize("op", [ops.softmax_backward, ops.log_softmax_backward])
@pytest.mark.parametrize("shape", [(9, 7), (3, 200)])
@pytest.mark.parametrize("which", [0, 1])
def test_out_of_a_backward_pass_may_be_an_input(op, shape, which):
    rng = np.random.default_rng(0)
    args = [rng.standard_normal(shape), -rng.random(shape)]
    expected = op(*args)
    assert op(*args, out=args[which]) is args[which]
    assert np.array_equal(args[which], expected)


@pytest.mark.parametrize("op", FORWARD)
def test_no_rows_give_no_results_and_rows_of_nothing_are_refused(op):
    assert op(np.zeros((0, 5))).size == 0
    assert op(np.zeros((0, 0))).size == 0
    with pytest.raises(ValueError, match=rf"^{op.name}: z has shape \(3, 0\), expected at least 1 element"):
        op(np.zeros((3, 0)))
    with pytest.raises(ValueError, match=rf"^{op.name}: z has shape \(\), expected at least 1 axis"):
        op(np.zeros(()))


def test_results_do_not_depend_on_the_number_of_threads(body):
    from tests.harness import team

    z = np.random.default_rng(0).standard_normal((301, 77)).astype(np.float32)
    expected = [op(z) for op in FORWARD]
    for n in (2, 3):
        with team(n):
            assert all(np.array_equal(op(z), e) for op, e in zip(FORWARD, expected))
