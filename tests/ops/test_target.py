"""Layers with targets: properties that hold exactly, an example by hand, clear errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend
from refimpl.ops.target import ACTIVATIONS, LOSSES
from tests.harness import team

seeds = st.integers(0, 2**32 - 1)
both = pytest.mark.parametrize("body", ["numpy", "native"])


def kinds(*losses):
    """Each loss with each activation that it can have."""
    return [(k, a) for k in losses or LOSSES for a in ACTIVATIONS if k != "logistic" or a in ("tanh", "sigmoid")]


def layer(seed, B=3, D=7, N=10, K=4, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x, labels = rng.standard_normal((B, D)), rng.integers(0, K, B)
    weight, bias, codes = rng.standard_normal((N, D)) / D**0.5, rng.standard_normal(N), rng.standard_normal((K, N))
    return (x.astype(dtype), labels, weight.astype(dtype), bias.astype(dtype), np.tanh(codes).astype(dtype))


@both
def test_an_example_by_hand(body):
    """One unit, z = 2 * 0.5 - 1 = 0, so y = 0 and s' = 1; the code is 0.5: r = -0.5, J = 0.125, d = -0.5."""
    weight, bias = np.array([[0.5]]), np.array([-1.0])
    with backend(body):
        y, J, d = ops.target_loss(np.zeros((1, 1)), np.array([0]), np.array([[0.5]]))
        assert (y.item(), J.item(), d.item()) == (0, 0.125, -0.5)
        ops.target_step(np.array([[2.0]]), np.array([0]), weight, bias, np.array([[0.5]]), lr=0.1)
    assert np.allclose(weight, 0.5 + 0.1 * 0.5 * 2) and np.allclose(bias, -1 + 0.1 * 0.5)


@both
@pytest.mark.parametrize(("loss", "activation"), kinds("l2", "l1", "huber"))
@given(seed=seeds)
def test_an_output_that_is_its_target_gives_no_update(body, loss, activation, seed):
    x, labels, weight, bias, _ = layer(seed)
    with backend(body):
        y, _ = ops.target_step(
            x, labels, weight.copy(), bias.copy(), np.zeros((4, 10)), None, None, 0.0, 0.0, "l2", activation
        )
        before = weight.copy()
        own, J = ops.target_step(x, np.arange(3), weight, bias, y, loss=loss, activation=activation)
    assert np.array_equal(own, y) and np.array_equal(weight, before) and not J.any()


@both
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_the_logistic_error_dies_out_on_the_right_side_and_not_on_the_wrong_one(body, activation):
    codes = np.array([[1.0], [-1.0 if activation == "tanh" else 0.0]])
    z = np.array([[5.0], [10.0], [40.0]])
    with backend(body):
        right = ops.target_loss(z, np.zeros(3, int), codes, "logistic", activation)[2].ravel()
        wrong = ops.target_loss(z, np.ones(3, int), codes, "logistic", activation)[2].ravel()
        stuck = ops.target_loss(z, np.ones(3, int), codes, "l2", activation)[2].ravel()
    assert (np.diff(np.abs(right)) <= 0).all() and abs(right[-1]) < 1e-15
    assert (wrong > 0.9).all() and stuck[-1] < 1e-15  # l2 is stalled by s' there


@both
@given(seed=seeds)
def test_the_linear_loss_is_random_target_projection_bit_for_bit(body, seed):
    """With P = -B: d = (y* B) s'(z)."""
    rng = np.random.default_rng(seed)
    z, labels, B = rng.standard_normal((5, 9)), rng.integers(0, 3, 5), rng.standard_normal((3, 9))
    with backend(body):
        y, _, d = ops.target_loss(z, labels, -B, "linear")
        expected = ops.tanh_backward(B[labels], y)
    assert np.array_equal(d, expected)


@both
@given(seed=seeds, factor=st.floats(0.1, 10))
def test_the_l1_error_is_minus_the_slope_zero_or_the_slope_whatever_the_residual(body, seed, factor):
    rng = np.random.default_rng(seed)
    z, r = rng.standard_normal((4, 6)), rng.standard_normal((4, 6))
    y = np.tanh(z)
    with backend(body):
        d = ops.target_loss(z, np.arange(4), y - r, "l1")[2]
        scaled = ops.target_loss(z, np.arange(4), y - factor * r, "l1")[2]
    assert np.array_equal(d, scaled) and np.allclose(np.abs(d), 1 - y * y, atol=1e-15)


@both
@given(seed=seeds)
def test_permuting_classes_with_the_rows_of_the_codes_changes_nothing(body, seed):
    x, labels, weight, bias, codes = layer(seed)
    order = np.random.default_rng(seed).permutation(len(codes))
    place = np.argsort(order)
    other, other_bias = weight.copy(), bias.copy()
    with backend(body):
        ops.target_step(x, labels, weight, bias, codes)
        ops.target_step(x, place[labels], other, other_bias, codes[order])
    assert np.array_equal(weight, other) and np.array_equal(bias, other_bias)


@pytest.mark.parametrize(("loss", "activation"), kinds())
@given(seed=seeds, D=st.integers(1, 40), N=st.integers(1, 20))
def test_one_visit_to_each_row_equals_two_passes(loss, activation, seed, D, N):
    """z = W x + b, then d, then the rank-one update, each an operation of its own: a few ulps."""
    x, labels, weight, bias, codes = layer(seed, 1, D, N, dtype=np.float32)
    fused, fused_bias = weight.copy(), bias.copy()
    with backend("native"):
        y, J = ops.target_step(x, labels, fused, fused_bias, codes, lr=0.1, loss=loss, activation=activation)
        z = ops.linear(x, weight.T, bias)
        two_y, two_J, d = ops.target_loss(z, labels, codes, loss, activation, scale=0.1)
        if loss == "l1" and (np.abs(two_y - codes[labels]) < 1e-6).any():
            return  # a sign hangs on the last bit
        if activation == "relu" and (np.abs(z) < 1e-6).any():
            return
        weight -= ops.matmul(d, x, transpose_a=True)
        bias -= d[0]
    size = 1 + np.abs(x).max() * (1 + np.abs(weight).sum(axis=1, keepdims=True))
    assert (np.abs(fused - weight) <= 1e-6 * size).all() and (np.abs(fused_bias - bias) <= 1e-6 * size[:, 0]).all()
    assert np.allclose(y, two_y, atol=1e-5) and np.allclose(J, two_J, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("B", [1, 2, 19])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_number_of_threads_does_not_change_a_bit(B, momentum):
    results = []
    for threads in (1, 2, 3):
        x, labels, weight, bias, codes = layer(5, B, 61, 133, dtype=np.float32)
        v = (np.ones_like(weight), np.ones_like(bias)) if momentum else (None, None)
        with team(threads), backend("native"):
            y, J = ops.target_step(x, labels, weight, bias, codes, *v, 0.1, momentum)
        results.append((y, J, weight, bias))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other))


@both
@given(seed=seeds)
def test_a_units_update_sees_no_other_unit(body, seed):
    """But for the cosine: the rows of all other units may be NaN."""
    x, labels, weight, bias, codes = layer(seed)
    spoiled, spoiled_bias, spoiled_codes = weight.copy(), bias.copy(), codes.copy()
    others = np.arange(10) != 4
    spoiled[others], spoiled_bias[others], spoiled_codes[:, others] = np.nan, np.nan, np.nan
    with backend(body):
        ops.target_step(x, labels, weight, bias, codes)
        ops.target_step(x, labels, spoiled, spoiled_bias, spoiled_codes)
    assert np.allclose(weight[4], spoiled[4], rtol=1e-14, atol=1e-15)
    assert np.isnan(spoiled[others]).all()


@both
@given(seed=seeds)
def test_a_recurrent_step_from_rest_is_the_step_of_a_layer(body, seed):
    x, labels, weight, bias, codes = layer(seed)
    w_x, grads = np.ascontiguousarray(weight.T), [np.zeros((7, 10)), np.zeros((10, 10)), np.zeros(10)]
    with backend(body):
        frames, rest, third = x[:, None], np.zeros((3, 10)), np.array([1 / 3])
        h, J = ops.rnn_target_sequence(frames, rest, labels[:, None], codes, w_x, np.eye(10), bias, *grads, third)
        before = weight.copy()
        y, J_layer = ops.target_step(x, labels, weight, bias, codes, lr=1.0)
    assert np.allclose(h[:, 0], y, atol=1e-14) and np.allclose(J[:, 0], J_layer, atol=1e-13) and not grads[1].any()
    assert np.allclose(before - weight, grads[0].T, atol=1e-14)


@both
@given(seed=seeds)
def test_a_sequence_may_come_in_parts(body, seed):
    rng = np.random.default_rng(seed)
    x, labels, weights = rng.standard_normal((3, 7, 4)), rng.integers(0, 2, (3, 7)), rng.random(7)
    own = rng.standard_normal((4, 5)), rng.standard_normal((5, 5)), rng.standard_normal(5)
    codes, h = rng.standard_normal((2, 5)), rng.standard_normal((3, 5))
    whole, parts = ([np.zeros_like(a) for a in own] for _ in range(2))
    with backend(body):
        y, J = ops.rnn_target_sequence(x, h, labels, codes, *own, *whole, weights)
        for part in (slice(0, 3), slice(3, 4), slice(4, 7)):
            some, losses = ops.rnn_target_sequence(x[:, part], h, labels[:, part], codes, *own, *parts, weights[part])
            h = some[:, -1].copy()
            assert np.allclose(some, y[:, part]) and np.allclose(losses, J[:, part])
    assert all(np.allclose(a, b) for a, b in zip(whole, parts))


@both
@pytest.mark.parametrize("loss", LOSSES)
def test_nan_stays_nan(body, loss):
    z = np.array([[np.nan, 0.5]])
    for activation in ACTIVATIONS if loss != "logistic" else ("tanh", "sigmoid"):
        with backend(body):
            y, J, d = ops.target_loss(z, np.array([0]), np.ones((1, 2)), loss, activation)
        assert np.isnan(y[0, 0]) and np.isnan(J[0])
        if not (
            loss == "linear" and activation in ("relu", "identity")
        ):  # there d sees the side of z, or nothing of it
            assert activation == "relu" or np.isnan(d[0, 0])


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "l3"}, "loss is 'l3', expected one of l2, l1"),
        ({"activation": "elu"}, "activation is 'elu', expected one of tanh"),
        ({"loss": "logistic", "activation": "relu"}, "expected tanh or sigmoid with the logistic loss"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"labels": np.array([0, 4, 1])}, r"labels holds 4, expected values in \[0, 4\)"),
        ({"labels": np.array([0, -1, 1])}, "labels holds -1"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"momentum": 0.9}, "momentum is 0.9, but v_weight is None"),
        ({"v_weight": np.zeros((10, 7))}, "v_weight and v_bias are given together"),
        ({"codes": np.zeros((4, 9))}, r"codes has shape \(4, 9\), expected \(4, 10\)"),
    ],
)
def test_unusable_arguments_are_clear_errors(body, changes, message):
    args = dict(zip(("x", "labels", "weight", "bias", "codes"), layer(0)))
    before = args["weight"].copy()
    with backend(body), pytest.raises(ValueError, match=f"target_step: .*{message}"):
        ops.target_step(**{**args, **changes})
    assert np.array_equal(before, args["weight"])


@both
def test_arrays_that_share_memory_are_refused(body):
    _, labels, weight, bias, codes = layer(0)
    with backend(body), pytest.raises(ValueError, match="weight and x share memory"):
        ops.target_step(weight[:3], labels, weight, bias, codes)
    with backend(body), pytest.raises(ValueError, match="scale is inf"):
        ops.target_loss(np.zeros((3, 10)), labels, codes, scale=np.inf)
