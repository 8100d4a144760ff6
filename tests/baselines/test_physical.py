"""Back-propagation through physical systems, and ridge regression."""

import numpy as np
import pytest

from refimpl import data
from refimpl.baselines import PhysicalBackpropClassifier, RidgeClassifier
from tests.harness import central_differences, relative_error


@pytest.fixture(scope="module")
def vowels():
    return data.load("surrogate-vowels").split(0)


@pytest.mark.parametrize("physics", ["acoustic", "optical"])
@pytest.mark.parametrize("gradient", ["ideal", "twin"])
def test_the_gradient_equals_central_differences(vowels, physics, gradient):
    """Of what is trained: the loss on the system itself (ideal) or on its model (twin)."""
    learner = PhysicalBackpropClassifier(physics, (4, 3), gradient, 0.3, dtype="float64", random_state=0)
    learner.begin(*vowels.train)
    X, y = learner._X[::20], learner._y[::20]
    grads = {name: params.zeros_like() for name, params in learner._params.items()}
    learner.loss_and_gradient(X, y, grads)
    nothing = {name: params.zeros_like() for name, params in learner._params.items()}
    for name, params in learner._params.items():
        numeric = central_differences(lambda: learner.loss_and_gradient(X, y, nothing), params.flat, 1e-6)
        assert relative_error(grads[name].flat, numeric) < 1e-6


def test_with_an_exact_twin_all_three_gradients_are_one(vowels):
    found = []
    for gradient in ("ideal", "twin", "aware"):
        learner = PhysicalBackpropClassifier(gradient=gradient, twin_error=0.0, epochs=5, random_state=0)
        found.append(learner.fit(*vowels.train)._params["layer1"].flat)
    assert np.allclose(found[0], found[1], atol=1e-5) and np.allclose(found[0], found[2], atol=1e-5)


def test_a_wrong_twin_spoils_training_in_silico_but_not_in_place(vowels):
    ideal, twin, aware = (
        PhysicalBackpropClassifier(gradient=g, twin_error=e, lr=3e-2, random_state=0)
        .fit(*vowels.train)
        .score(*vowels.test)
        for g, e in (("ideal", 0.0), ("twin", 0.5), ("aware", 0.5))
    )
    assert ideal > 0.85 and aware > 0.75 and twin < ideal - 0.2


def test_a_resumed_training_gives_the_same_bits(vowels):
    def make(seed):
        return PhysicalBackpropClassifier("acoustic", (5, 4), "aware", 0.2, epochs=4, random_state=seed)

    whole, first, second = make(0).fit(*vowels.train), make(0), make(0)
    first.begin(*vowels.train)
    first.advance()
    second.begin(*vowels.train)
    second.restore(*first.checkpoint())
    while second.progress_ < second.total_:
        second.advance()
    assert all(np.array_equal(p.flat, whole._params[n].flat) for n, p in second._params.items())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"physics": "microwave"}, "physics is 'microwave', expected one of acoustic, optical"),
        ({"gradient": "none"}, "gradient is 'none'"),
        ({"widths": ()}, "widths is"),
        ({"twin_error": -1}, "twin_error is -1"),
        ({"epochs": None}, "epochs is None"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_settings_are_a_clear_error(vowels, changes, match):
    with pytest.raises(ValueError, match=match):
        PhysicalBackpropClassifier(**changes).begin(*vowels.train)


def test_ridge_solves_the_normal_equations(vowels):
    X, y = vowels.train
    learner = RidgeClassifier(alpha=2.0).fit(X, y)
    A = np.concatenate([(X - X.mean(axis=0)) / X.std(axis=0), np.ones((len(X), 1))], axis=1)
    W = np.linalg.solve(A.T @ A + 2 * np.eye(13), A.T @ np.eye(7)[y])
    Xt = vowels.test[0]
    At = np.concatenate([(Xt - X.mean(axis=0)) / X.std(axis=0), np.ones((len(Xt), 1))], axis=1)
    assert np.array_equal(learner.predict(Xt), (At @ W).argmax(axis=1))


def test_leave_one_out_error_is_that_of_leaving_one_out(vowels):
    X, y = vowels.train[0][::4], vowels.train[1][::4]
    learner = RidgeClassifier(alpha=1.0)
    loss = learner.fit(X, y).history_[0]["loss"]
    A = np.concatenate([(X - X.mean(axis=0)) / X.std(axis=0), np.ones((len(X), 1))], axis=1)
    Y, errors = np.eye(7)[y], []
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        W = np.linalg.solve(A[kept].T @ A[kept] + np.eye(13), A[kept].T @ Y[kept])
        errors.append(((Y[i] - A[i] @ W) ** 2).mean())
    assert loss == pytest.approx(np.mean(errors))


@pytest.mark.parametrize("physics", ["acoustic", "optical", "microwave"])
def test_a_physical_layer_can_come_first(vowels, physics):
    learner = RidgeClassifier(physics=physics, padding=8, random_state=0).fit(*vowels.train)
    assert learner.score(*vowels.test) > 0.5 and learner.alpha_ > 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"physics": "gravity"}, "physics is 'gravity'"),
        ({"scaling": "no"}, "scaling is"),
    ],
)
def test_bad_ridge_settings_are_a_clear_error(vowels, changes, match):
    with pytest.raises(ValueError, match=match):
        RidgeClassifier(**changes).begin(*vowels.train)
