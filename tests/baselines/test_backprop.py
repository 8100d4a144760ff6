import numpy as np
import pytest

from refimpl import BackpropClassifier, BackpropRegressor, data
from refimpl.backends import backend


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_backprop_learns_the_digits(digits):
    learner = BackpropClassifier(epochs=15, lr=3e-3, random_state=0).fit(digits.x_train, digits.y_train)
    assert learner.score(digits.x_test, digits.y_test) > 0.85  # chance is 0.1; the test writers are new
    assert [m["loss"] for m in learner.history_][-1] < 0.1
    p = learner.predict_proba(digits.x_test[:5])
    assert p.shape == (5, 10) and np.allclose(p.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("model", ["lenet", "resnet", "vgg"])
def test_convolutional_models_learn_rows_of_pixels(digits, model):
    X = digits.x_train[:600].reshape(600, 64)
    learner = BackpropClassifier(model=model, image_shape=(1, 8, 8), epochs=4, lr=5e-3, random_state=0, batch_size=32)
    learner.fit(X, digits.y_train[:600])
    assert learner.score(digits.x_train[600:900].reshape(-1, 64), digits.y_train[600:900]) > 0.75


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop"])
def test_every_optimiser_lowers_the_loss(digits, optimizer):
    lr = {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02}.get(optimizer, 1e-3)
    learner = BackpropClassifier(
        optimizer=optimizer, lr=lr, epochs=5, batch_size=32, schedule="cosine", clip=5.0, random_state=0
    )
    learner.fit(digits.x_train[:400], digits.y_train[:400])
    losses = [m["loss"] for m in learner.history_]
    assert losses[-1] < 0.8 * losses[0]


def test_regression_recovers_a_plane():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 3))
    y = 100 + X @ [3.0, -20.0, 0.5]
    learner = BackpropRegressor(hidden=(32,), epochs=60, lr=5e-3, random_state=0).fit(X[:400], y[:400])
    assert learner.score(X[400:], y[400:]) > 0.98


@pytest.mark.parametrize("body", ["numpy", "native"])
def test_resumed_training_gives_the_same_bits(digits, body):
    X, y = digits.x_train[:300], digits.y_train[:300]
    with backend(body):
        whole = BackpropClassifier(epochs=4, random_state=5).fit(X, y)
        first = BackpropClassifier(epochs=4, random_state=5)
        first.begin(X, y)
        first.advance()
        first.advance()
        arrays, meta = first.checkpoint()
        arrays = {k: v.copy() for k, v in arrays.items()}
        second = BackpropClassifier(epochs=4, random_state=99)
        second.begin(X, y)
        second.restore(arrays, meta)
        while second.progress_ < second.total_:
            second.advance()
    assert np.array_equal(second._params["net"].flat, whole._params["net"].flat)
    assert second.history_ == whole.history_


def test_restore_refuses_a_foreign_checkpoint_and_changes_nothing(digits):
    X, y = digits.x_train[:100], digits.y_train[:100]
    small, large = BackpropClassifier(hidden=(4,), epochs=1), BackpropClassifier(hidden=(8,), epochs=1)
    small.begin(X, y)
    large.begin(X, y)
    before = large._params["net"].flat.copy()
    with pytest.raises(ValueError, match=r"in the checkpoint, expected"):
        large.restore(*small.checkpoint())
    assert np.array_equal(large._params["net"].flat, before)
    longer = BackpropClassifier(hidden=(4,), epochs=2)
    longer.begin(X, y)
    with pytest.raises(ValueError, match="total 1, expected 2"):
        longer.restore(*small.checkpoint())


def test_same_seed_same_model_other_seed_other_model(digits):
    X, y = digits.x_train[:200], digits.y_train[:200]
    a, b, c = (BackpropClassifier(epochs=1, random_state=s).fit(X, y)._params["net"].flat for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_labels_of_any_kind_come_back():
    X = np.array([[0.0, 1.0], [1.0, 0.0]] * 20)
    y = np.array(["cat", "dog"] * 20)
    learner = BackpropClassifier(epochs=60, lr=1e-2, random_state=0).fit(X, y)
    assert learner.predict(X[:2]).tolist() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("change", "X", "y", "message"),
    [
        ({}, np.ones((4, 2)), np.zeros(4), "only one class"),
        ({}, np.ones((4, 2)), np.arange(3), "inconsistent numbers of samples"),
        ({}, np.full((4, 2), np.nan), np.arange(4), "contains NaN"),
        ({}, np.ones((0, 2)), np.zeros(0), r"0 sample\(s\)"),
        ({}, np.ones(4), np.arange(4), "Reshape your data"),
        ({}, np.full((4, 2), 1e300), np.arange(4) % 2, "too large for float32"),
        ({"epochs": -1}, np.ones((4, 2)), np.arange(4) % 2, "epochs is -1"),
        ({"batch_size": 0}, np.ones((4, 2)), np.arange(4) % 2, "batch_size is 0"),
        ({"schedule": "zigzag"}, np.ones((4, 2)), np.arange(4) % 2, "schedule is 'zigzag'"),
        ({"model": "lenet"}, np.ones((4, 2)), np.arange(4) % 2, "takes images"),
        ({"image_shape": (1, 3, 3)}, np.ones((4, 2)), np.arange(4) % 2, "but X has 2 features"),
    ],
)
def test_unusable_input_is_a_clear_error(change, X, y, message):
    with pytest.raises(ValueError, match=message):
        BackpropClassifier(**change).fit(X, y)


def test_prediction_before_fit_and_with_other_features_is_a_clear_error():
    with pytest.raises(ValueError, match="not fitted yet"):
        BackpropClassifier().predict(np.ones((1, 2)))
    learner = BackpropClassifier(epochs=1).fit(np.ones((6, 2)), np.arange(6) % 2)
    with pytest.raises(ValueError, match="X has 3 features, but BackpropClassifier is expecting 2"):
        learner.predict(np.ones((1, 3)))


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(BackpropClassifier(epochs=3)) == "BackpropClassifier(epochs=3)"
