import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import DifferenceTargetPropagationClassifier, data, ops
from refimpl.backends import backend
from refimpl.baselines.target_propagation import difference_targets, layer_loss
from tests.harness import central_differences, relative_error

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def begun(seed=0, hidden=(6, 5, 4), **changes):
    """A learner in float64 on made-up data, all biases moved away from 0."""
    rng = np.random.default_rng(seed)
    learner = DifferenceTargetPropagationClassifier(
        hidden, dtype="float64", random_state=rng, **{"target_rate": 0.3, "noise": 0.2, **changes}
    )
    X, y = rng.standard_normal((7, 3)), np.arange(7) % 3
    learner.begin(X, y)
    for params in learner._params.values():
        params.flat += 0.2 * rng.standard_normal(params.size)
    noise = [0.2 * rng.standard_normal((7, width)) for width in hidden[:-1]]
    return learner, X, y, noise


# ---------------------------------------------------------------- targets


@given(seed=seeds)
def test_with_exact_inverses_every_target_is_reached_by_the_one_below(seed):
    """f_i(t_{i-1}) = t_i: a layer that finds its target makes all layers above find theirs."""
    rng = np.random.default_rng(seed)
    A = [np.linalg.qr(rng.standard_normal((4, 4)))[0] * rng.uniform(0.5, 2) for _ in range(3)]
    f = [lambda h, a=a: np.sinh(h @ a) for a in A]
    g = [lambda h, a=a: np.arcsinh(h) @ np.linalg.inv(a) for a in A]
    h = [0.3 * rng.standard_normal((5, 4))]
    for layer in f:
        h.append(layer(h[-1]))
    targets = difference_targets(h, h[-1] + 0.1 * rng.standard_normal((5, 4)), g)
    for i, layer in enumerate(f):
        assert np.allclose(layer(targets[i]), targets[i + 1], rtol=1e-6, atol=1e-8)


@given(seed=seeds)
def test_a_target_that_is_already_met_asks_for_nothing_below_whatever_the_inverses_are(seed):
    rng = np.random.default_rng(seed)
    h = [rng.standard_normal((5, width)) for width in (3, 4, 2)]
    V = [rng.standard_normal((4, 3)), rng.standard_normal((2, 4))]
    targets = difference_targets(h, h[-1], [lambda a, v=v: np.tanh(a @ v) for v in V])
    assert all(np.allclose(t, a, atol=1e-12) for t, a in zip(targets, h))


def test_targets_computed_by_hand():
    """h_1 = 1, h_2 = 2, t_2 = 3, g(h) = h^2: t_1 = 1 + 9 - 4 = 6."""
    (t1, t2) = difference_targets([np.array([[1.0]]), np.array([[2.0]])], np.array([[3.0]]), [np.square])
    assert t1 == 6 and t2 == 3


@given(seed=seeds)
@settings(max_examples=10)
def test_the_top_target_goes_along_the_gradient_through_the_output_layer(seed):
    """With one hidden layer, gradients are those of back-propagation times twice the target rate."""
    learner, X, y, noise = begun(seed, hidden=(5,))
    learner._step(X, y, noise)

    def loss():
        o = learner._out.apply(learner._params["out"], learner.activities(X)[-1])
        return float(ops.cross_entropy(o, y)[0])

    numeric = central_differences(loss, learner._params["layer1"].flat)
    assert relative_error(learner._grads["layer1"].flat, 2 * 0.3 * numeric) < 1e-6
    assert relative_error(learner._grads["out"].flat, central_differences(loss, learner._params["out"].flat)) < 1e-6


# ---------------------------------------------------------------- gradients and locality


@given(seed=seeds)
@settings(max_examples=10)
def test_gradients_of_both_losses_equal_central_differences(seed):
    learner, X, y, noise = begun(seed)
    learner._step(X, y, noise)
    h = [a.copy() for a in learner.activities(X)]
    o, out = learner._out.apply(learner._params["out"], h[-1]), learner._params["out"]
    dh = (ops.softmax(o) - np.eye(3)[y]) @ out["weight"].T
    inverses = [learner._apply(name) for name in learner._inverses]
    targets = [t.copy() for t in difference_targets(h[1:], h[-1] - 0.3 * dh, inverses)]
    for i, (name, layer) in enumerate(learner._layers.items()):
        params = learner._params[name]

        def forward_loss():
            error = layer.apply(params, h[i]) - targets[i]  # noqa: B023  (called inside the loop)
            return float((error * error).sum() / len(X))

        assert relative_error(learner._grads[name].flat, central_differences(forward_loss, params.flat)) < 1e-6
    for i, (name, g) in enumerate(learner._inverses.items()):
        params, noisy = learner._params[name], h[i + 1] + noise[i]
        above = learner._layers[f"layer{i + 2}"].apply(learner._params[f"layer{i + 2}"], noisy)

        def inverse_loss():
            error = g.apply(params, above) - noisy  # noqa: B023
            return float((error * error).sum() / len(X))

        assert relative_error(learner._grads[name].flat, central_differences(inverse_loss, params.flat)) < 1e-6


def test_a_layer_learns_from_its_input_its_output_and_its_target_alone():
    learner, X, _, _ = begun()
    layer, params = learner._layers["layer1"], learner._params["layer1"]
    target = np.random.default_rng(1).standard_normal((7, 6))

    def update():
        grads = params.zeros_like()
        layer_loss(layer, params, grads, X, target)
        return grads.flat

    before = update()
    for name, other in learner._params.items():
        if name != "layer1":
            other.flat[...] = 1e3
    assert np.array_equal(update(), before)


@given(seed=seeds)
@settings(max_examples=5)
def test_an_inverse_learns_without_label_and_without_the_layers_above(seed):
    learner, X, y, noise = begun(seed)
    learner._step(X, y, noise)
    before = learner._grads["inverse2"].flat.copy()
    for params in (learner._grads[name] for name in learner._grads):
        params.flat[...] = 0
    for name in ("layer3", "out", "inverse3"):
        learner._params[name].flat[...] *= -2
    learner._step(X, (y + 1) % 3, noise)
    assert np.array_equal(learner._grads["inverse2"].flat, before)


# ---------------------------------------------------------------- the learner


@pytest.mark.parametrize("activation", ["tanh", "elu"])
def test_learns_the_digits(digits, activation):
    learner = DifferenceTargetPropagationClassifier((128, 128, 128), activation, random_state=0)
    learner.fit(digits.x_train, digits.y_train)
    assert learner.score(digits.x_test, digits.y_test) > 0.85
    first, last = learner.history_[0], learner.history_[-1]
    assert last["loss"] < 0.2 * first["loss"] and last["reconstruction"] < 0.5 * first["reconstruction"]


@pytest.mark.parametrize("body", ["numpy", "native"])
def test_resumed_training_gives_the_same_bits(digits, body):
    X, y = digits.x_train[:150], digits.y_train[:150]
    with backend(body):
        settings = {"hidden": (16, 12), "epochs": 3, "inverse_lr": 3e-3}
        whole = DifferenceTargetPropagationClassifier(random_state=1, **settings).fit(X, y)
        first = DifferenceTargetPropagationClassifier(random_state=1, **settings)
        second = DifferenceTargetPropagationClassifier(random_state=2, **settings)
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
        ({"target_rate": 0.0}, "target_rate is 0.0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"activation": "step"}, "name is 'step'"),
    ],
)
def test_unusable_settings_are_clear_errors(change, message):
    with pytest.raises(ValueError, match=message):
        DifferenceTargetPropagationClassifier(**change).fit(np.eye(4), np.arange(4) % 2)
