import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend

BODIES = ["numpy", "native"]


def drawn(seed, B=7, K=5, D=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((B, K)), rng.integers(0, K, B), rng.random(B), rng.standard_normal((K, D))


@pytest.mark.parametrize("body", BODIES)
@given(seed=st.integers(0, 2**32 - 1))
def test_one_hot_mixture_is_on_the_simplex_and_its_residual_and_gradient_sum_to_zero(body, seed):
    f, target, weight, _ = drawn(seed)
    with backend(body):
        uhat, p = ops.softmax_mixture(f)
        _, _, duhat, df = ops.denoise_loss(f, target, weight)
    assert uhat is p and (uhat >= 0).all()
    assert np.allclose(uhat.sum(axis=1), 1, atol=1e-14)
    assert np.abs(duhat.sum(axis=1)).max() < 1e-14
    assert np.abs(df.sum(axis=1)).max() < 1e-14


@pytest.mark.parametrize("body", BODIES)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_embedding_means_the_identity(body, seed):
    f, target, weight, _ = drawn(seed)
    with backend(body):
        for a, b in zip(ops.denoise_loss(f, target, weight), ops.denoise_loss(f, target, weight, np.eye(5))):
            assert np.allclose(a, b, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("body", BODIES)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_fused_loss_equals_its_parts(body, seed):
    f, target, weight, W = drawn(seed)
    with backend(body):
        squared, p, duhat, df = ops.denoise_loss(f, target, weight, W)
        uhat, p_alone = ops.softmax_mixture(f, W)
        df_alone, _ = ops.softmax_mixture_backward(duhat, p, W)
    assert np.array_equal(p, p_alone)
    assert np.allclose(squared, ((uhat - W[target]) ** 2).sum(axis=1), rtol=1e-12)
    assert np.allclose(duhat, 2 * weight[:, None] * (uhat - W[target]), rtol=1e-12, atol=1e-13)
    assert np.allclose(df, df_alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("body", BODIES)
def test_an_example_computed_by_hand(body):
    """Logits 0 and log 3: p = (1/4, 3/4). Target 0: r = (-3/4, 3/4), |r|^2 = 9/8; weight 1: duhat = (-3/2, 3/2),
    <p, duhat> = 3/4, df = (1/4 (-9/4), 3/4 (3/4)) = (-9/16, 9/16)."""
    with backend(body):
        squared, p, duhat, df = ops.denoise_loss(np.array([[0.0, np.log(3.0)]]), np.array([0]), np.array([1.0]))
    assert np.allclose(p, [[0.25, 0.75]]) and np.allclose(squared, [9 / 8])
    assert np.allclose(duhat, [[-1.5, 1.5]]) and np.allclose(df, [[-9 / 16, 9 / 16]])


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.array([0, 5])}, r"denoise_loss: target holds 5, expected values in \[0, 5\)"),
        ({"target": np.array([0, -1])}, "denoise_loss: target holds -1"),
        ({"target": np.array([0])}, r"target has shape \(1,\), expected \(2,\)"),
        ({"weight": np.ones(3)}, r"weight has shape \(3,\), expected \(2,\)"),
        ({"embedding": np.ones((4, 2))}, r"embedding has shape \(4, 2\), expected \(5, D\): one row a class"),
        ({"f": np.ones((2, 0))}, "expected at least 1 class"),
    ],
)
def test_unusable_input_is_a_clear_error(body, change, message):
    args = {"f": np.ones((2, 5)), "target": np.array([0, 1]), "weight": np.ones(2), "embedding": None, **change}
    with backend(body), pytest.raises(ValueError, match=message):
        ops.denoise_loss(**args)
