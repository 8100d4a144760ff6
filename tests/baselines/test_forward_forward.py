import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import ForwardForwardClassifier, data
from refimpl.baselines.forward_forward import goodness_loss, normalised
from tests.harness import central_differences, relative_error


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@given(seed=st.integers(0, 2**32 - 1), threshold=st.floats(0, 5))
def test_gradient_of_the_goodness_equals_central_differences(seed, threshold):
    h, positive = np.random.default_rng(seed).standard_normal((6, 4)), np.repeat([True, False], 3)
    _, dh = goodness_loss(h, positive, threshold)
    numeric = central_differences(lambda: goodness_loss(h, positive, threshold)[0], h)
    assert relative_error(dh, numeric) < 1e-6


def test_goodness_loss_computed_by_hand():
    """G+ = 4 and G- = 1 with threshold 2: softplus(-2) + softplus(-1); dh = 2 h (-+ sigmoid)."""
    h = np.array([[2.0, 0.0], [0.0, 1.0]])
    loss, dh = goodness_loss(h, np.array([True, False]), 2.0)
    assert np.isclose(loss, np.log1p(np.exp(-2)) + np.log1p(np.exp(-1)))
    assert np.allclose(dh, [[-4 / (1 + np.exp(2)), 0], [0, 2 / (1 + np.exp(1))]])


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 100))
def test_normalising_hides_the_length_and_keeps_the_direction(seed, scale):
    h = 1 + np.random.default_rng(seed).random((3, 5))
    n = normalised(h)
    assert np.allclose((n * n).mean(axis=1), 1, rtol=1e-6)
    assert np.allclose(normalised(scale * h), n, rtol=1e-5)
    assert np.allclose(n / n[:, :1], h / h[:, :1])


def test_learns_the_digits(digits):
    learner = ForwardForwardClassifier(random_state=0).fit(digits.x_train, digits.y_train)
    assert learner.score(digits.x_test, digits.y_test) > 0.85
    assert (
        ForwardForwardClassifier(hidden=(64,), random_state=0)
        .fit(digits.x_train, digits.y_train)
        .score(digits.x_test, digits.y_test)
        > 0.75
    )


def test_no_layer_sends_anything_to_the_one_below(digits):
    """The first layer trains to the same bits whatever stands on it."""
    X, y = digits.x_train[:200], digits.y_train[:200]
    a, b = (ForwardForwardClassifier(hidden=(16, w), epochs=2, random_state=np.random.default_rng(0)) for w in (8, 8))
    b.set_params(threshold=1.0)
    a.begin(X, y)
    b.begin(X, y)
    b._params["layer2"].flat[...] = 5.0
    a.advance()
    b.advance()
    assert np.array_equal(a._params["layer1"].flat, b._params["layer1"].flat)
    assert not np.array_equal(a._params["layer2"].flat, b._params["layer2"].flat)


def test_resumed_training_gives_the_same_bits(digits):
    X, y = digits.x_train[:150], digits.y_train[:150]
    whole = ForwardForwardClassifier(hidden=(16, 16), epochs=3, random_state=1).fit(X, y)
    first = ForwardForwardClassifier(hidden=(16, 16), epochs=3, random_state=1)
    second = ForwardForwardClassifier(hidden=(16, 16), epochs=3, random_state=2)
    first.begin(X, y)
    first.advance()
    second.begin(X, y)
    second.restore(*first.checkpoint())
    while second.progress_ < second.total_:
        second.advance()
    assert np.array_equal(second.predict_proba(X), whole.predict_proba(X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "epochs is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"hidden": ()}, "expected at least one layer"),
    ],
)
def test_unusable_settings_are_clear_errors(change, message):
    with pytest.raises(ValueError, match=message):
        ForwardForwardClassifier(**change).fit(np.eye(4), np.arange(4) % 2)
