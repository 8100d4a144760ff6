import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import SLTT, BPTTClassifier, OTTTClassifier, data
from refimpl.backends import backend
from refimpl.methods.spiking.sltt.learner import PAPER_SETTINGS
from refimpl.models.snn import spiking_mlp

LEARNERS = (SLTT, BPTTClassifier, OTTTClassifier)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    return digits.x_train[:160], digits.y_train[:160]


def small(kind=SLTT, **changes):
    return kind(**{"T": 3, "hidden": (16, 12), "epochs": 3, "batch_size": 64, "random_state": 0, **changes})


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("kind", LEARNERS)
def test_learns_the_digits(digits, kind):
    """Writers of the test images are new; a ReLU network gets 0.91."""
    learner = kind(hidden=(64, 64), epochs=15, random_state=0).fit(*digits.train)
    assert learner.score(*digits.test) > 0.83
    losses = [m["loss"] for m in learner.history_]
    assert losses[-1] < losses[0] / 2 and learner.history_[-1]["accuracy"] > 0.97


@pytest.mark.parametrize(
    ("model", "options", "epochs"),
    [
        ("vgg", {"plan": (8, "pool", 16, "pool")}, 5),
        ("resnet", {"widths": (8, 16)}, 8),
        ("nfnet", {"widths": (8, 16)}, 16),
    ],
)
def test_every_convolutional_model_learns(digits, model, options, epochs):
    learner = SLTT(model, options=options, T=3, lr=0.3, epochs=epochs, batch_size=32, normalise=True, random_state=0)
    learner.fit(digits.x_train[:600], digits.y_train[:600])
    assert learner.score(digits.x_train[600:900], digits.y_train[600:900]) > 0.7


@pytest.mark.parametrize("how", [{"K": 1}, {"reset": "zero"}, {"surrogate": "sigmoid", "surrogate_width": 0.25}])
@pytest.mark.parametrize("more", [{"loss_target": "onehot"}, {"dropout": 0.2}, {"norm": False, "tau": 2.0}])
def test_every_variant_learns(digits, how, more):
    learner = SLTT(hidden=(64,), epochs=12, random_state=0, **how, **more).fit(*digits.train)
    assert learner.score(*digits.test) > 0.6


def test_streams_of_events_are_learnt(digits):
    """Each row of the image is a frame: no frame alone says what digit it is."""
    streams = digits.x_train[:, 0], digits.x_test[:, 0]
    learner = SLTT(T=8, coding="events", tau=3.0, hidden=(64,), epochs=20, random_state=0)
    learner.fit(streams[0], digits.y_train)
    assert learner.score(streams[1], digits.y_test) > 0.55
    assert learner.step_logits(streams[1][:5]).shape == (8, 5, 10)


def test_images_may_come_as_rows_and_be_augmented_and_normalised(digits):
    rows = digits.x_train[:400].reshape(400, 64)
    learner = small(model="vgg", options={"plan": (6, "pool")}, image_shape=(1, 8, 8), normalise=True)
    learner.set_params(augment=("crop", "flip", "cutout"), epochs=4).fit(rows, digits.y_train[:400])
    assert learner.predict(rows[:7]).shape == (7,)
    assert learner.history_[-1]["loss"] < learner.history_[0]["loss"]


# ---------------------------------------------------------------- the contract of a learner


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("kind", LEARNERS)
@settings(max_examples=4, deadline=None)
@given(after=st.integers(0, 2), dropout=st.sampled_from([0.0, 0.3]))
def test_training_can_be_resumed_to_the_same_bits(few, body, kind, after, dropout):
    more = {"K": 2} if kind is SLTT else {}
    more |= {"dropout": dropout, "augment": ("flip",)}
    with backend(body):
        whole = small(kind, **more).fit(*few)
        first = small(kind, **more)
        first.begin(*few)
        for _ in range(after):
            first.advance()
        arrays, meta = first.checkpoint()
        arrays, meta = {k: a.copy() for k, a in arrays.items()}, json.loads(json.dumps(meta))
        second = small(kind, **more)
        second.begin(*few)
        second.restore(arrays, meta)
        while second.progress_ < second.total_:
            second.advance()
        second.finish()
    assert np.array_equal(second._params["net"].flat, whole._params["net"].flat)
    assert np.array_equal(second._params["net"].state, whole._params["net"].state)
    assert second.history_ == whole.history_


@pytest.mark.parametrize("body", ["numpy", "native"])
def test_the_learner_with_k_equal_to_T_is_sltt_bit_for_bit(few, body):
    with backend(body):
        a, b = small(dropout=0.2).fit(*few), small(K=3, dropout=0.2).fit(*few)
    assert np.array_equal(a._params["net"].flat, b._params["net"].flat) and a.history_ == b.history_


def test_without_a_leak_sltt_and_bptt_learn_the_same(few):
    learners = [small(kind, tau=1.0, dtype="float64").fit(*few) for kind in (SLTT, BPTTClassifier)]
    assert np.allclose(*(learner._params["net"].flat for learner in learners), atol=1e-9)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(few):
    a, b, c = (small(random_state=seed).fit(*few) for seed in (0, 0, 1))
    assert np.array_equal(a.predict_proba(few[0]), b.predict_proba(few[0]))
    assert not np.array_equal(a.predict_proba(few[0]), c.predict_proba(few[0]))


def test_the_decision_is_that_of_the_summed_logits(few):
    learner = small().fit(*few)
    logits = learner.step_logits(few[0])
    assert logits.shape == (3, 160, 10)
    assert np.array_equal(learner.predict(few[0]), learner.classes_[logits.sum(axis=0).argmax(axis=1)])
    last = small(loss_steps="last").fit(*few)
    assert np.array_equal(last.predict(few[0]), last.classes_[last.step_logits(few[0])[-1].argmax(axis=1)])


def test_labels_may_be_words(few):
    words = np.array(["zero one two three four five six seven eight nine".split()[i] for i in few[1]])
    assert set(small().fit(few[0], words).predict(few[0])) <= set(words)


def test_the_learning_rate_falls_by_epochs_to_zero(few):
    learner = small(epochs=4, lr=0.2)
    learner.begin(*few)
    rates = [learner._optimizer.rate(step) for step in range(4 * 3)]
    assert rates[:3] == [0.2] * 3 and rates[3] == rates[5] < 0.2
    assert abs(rates[6] - 0.1) < 1e-12 and learner._optimizer.rate(12) == 0


def test_a_network_of_ones_own_is_taken(few):
    net = spiking_mlp((1, 8, 8), 10, hidden=(9,))
    assert small(model=net).fit(*few).predict(few[0]).shape == (160,)


@pytest.mark.parametrize("name", PAPER_SETTINGS)
def test_the_settings_of_the_paper_are_there(name):
    learner = SLTT.paper(name, epochs=1)
    assert learner.epochs == 1 and learner.tau == 1.1 and learner.lr == PAPER_SETTINGS[name]["lr"]
    with pytest.raises(ValueError, match="SLTT: no settings for 'svhn', expected one of cifar-10"):
        SLTT.paper("svhn")
    assert SLTT.paper("imagenet").options["blocks"] == (3, 4, 6, 3)  # NF-ResNet-34


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"T": 0}, "T is 0, expected a whole number of at least 1"),
        ({"T": 2.5}, "T is 2.5, expected a whole number"),
        ({"K": 4}, "K is 4, expected None or a whole number from 1 to T = 3"),
        ({"K": 0}, "K is 0, expected None"),
        ({"tau": 0.5}, "tau is 0.5, expected a number of at least 1"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"threshold": 0.0}, "threshold is 0.0, expected a positive finite number"),
        ({"surrogate": "ramp"}, "surrogate is 'ramp', expected one of 'rectangle'"),
        ({"surrogate_width": -1.0}, "surrogate_width is -1.0"),
        ({"reset": "hard"}, "reset is 'hard'"),
        ({"coding": "poisson"}, "coding is 'poisson', expected one of 'direct', 'pulse', 'events'"),
        ({"loss_weight": 1.5}, "loss_weight is 1.5"),
        ({"loss_target": "two"}, "loss_target is 'two'"),
        ({"loss_steps": "first"}, "loss_steps is 'first'"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"augment": ("rotate",)}, "augment is .'rotate',., expected a tuple of crop, flip, cutout"),
        ({"augment": "flip"}, "augment is 'flip', expected a tuple"),
        ({"model": "rnn"}, "model is 'rnn', expected one of mlp, vgg, resnet, nfnet"),
        ({"hidden": ()}, "hidden is .., expected at least one width"),
        ({"model": "nfnet", "dropout": 0.1}, "dropout is 0.1, expected 0: model 'nfnet' has none"),
        ({"model": "vgg", "options": {"plan": ("pool",)}}, "expected channels first"),
        ({"model": "vgg", "options": {"plan": (4, "pool", "pool", "pool", "pool")}}, "too small for plan"),
        ({"coding": "events"}, r"samples of shape \(1, 8, 8\), expected \(3, ...\): a frame for each step"),
        ({"image_shape": (1, 7, 7)}, r"image_shape is \(1, 7, 7\), but X has 64 features"),
        ({"optimizer": "lion"}, "optimizer is 'lion'"),
    ],
)
def test_bad_hyper_parameters_are_refused_before_training(few, changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes).begin(*few)


def test_bad_data_is_refused_before_training(few):
    X, y = few
    spoilt = X.copy()
    spoilt[3, 0, 2, 2] = np.nan
    for bad, message in (
        ((spoilt, y), "Input X contains NaN"),
        ((X, y[:-1]), "inconsistent numbers of samples"),
        ((X, np.zeros(160, int)), "only one class"),
        ((X[:0], y[:0]), "0 sample"),
    ):
        with pytest.raises(ValueError, match=message):
            small().begin(*bad)
    learner = small().fit(X, y)
    with pytest.raises(ValueError, match="X has 49 features, but SLTT is expecting 64"):
        learner.predict(X[:, :, 1:, 1:])
    with pytest.raises(ValueError, match="not fitted yet"):
        small().predict(X)
    with pytest.raises(ValueError, match="model is 'resnet', expected 'mlp' or 'vgg'"):
        small(OTTTClassifier, model="resnet").begin(X, y)
