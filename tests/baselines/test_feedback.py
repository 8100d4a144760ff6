import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import (
    BackpropClassifier,
    DirectFeedbackAlignmentClassifier,
    FeedbackAlignmentClassifier,
    RandomTargetProjectionClassifier,
    ShallowClassifier,
    data,
    models,
    ops,
)
from refimpl.backends import backend
from refimpl.baselines.feedback import direct_backward, stage_shapes, stages
from refimpl.nn import Activation, Dropout, Linear, Sequential, initialise

DIRECT = [
    DirectFeedbackAlignmentClassifier(),
    DirectFeedbackAlignmentClassifier(sign=True),
    RandomTargetProjectionClassifier(),
]
ALL = [*DIRECT, FeedbackAlignmentClassifier(), ShallowClassifier()]
NETS = {"mlp": {"hidden": (16, 12, 8)}, "lenet": {}, "vgg": {}}
each = pytest.mark.parametrize("learner", ALL, ids=repr)
each_direct = pytest.mark.parametrize("learner", DIRECT, ids=repr)
each_net = pytest.mark.parametrize("model", NETS)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def begun(learner, digits, n=40, **settings):
    """A fresh copy of the learner, begun on the first n digits."""
    fresh = type(learner)(**{**learner.get_params(), "epochs": 2, "random_state": 0, **settings})
    fresh.begin(digits.x_train[:n], digits.y_train[:n])
    return fresh


def gradients(learner, n=40):
    """The update that the rule asks for on the first n digits, by name."""
    learner._grads.flat[...] = 0
    learner._gradients(learner._X[:n], learner._y[:n], np.random.default_rng(0))
    return {name: g.copy() for name, g in learner._grads.items()}


# ---------------------------------------------------------------- what the rules are


@pytest.mark.parametrize("model", [*NETS, "resnet"])
def test_feedback_alignment_with_the_transposed_weights_is_back_propagation(digits, model):
    learner = begun(FeedbackAlignmentClassifier(), digits, model=model, **NETS.get(model, {}))
    assert not np.array_equal(learner._feedback.flat, learner._params["net"].flat)
    other = gradients(learner)
    learner._feedback = learner._params["net"]
    mine = gradients(learner)
    true = gradients(begun(BackpropClassifier(), digits, model=model, **NETS.get(model, {})))
    assert all(np.array_equal(mine[name], true[name]) for name in true)
    first = next(iter(true))
    assert not np.allclose(other[first], true[first], atol=1e-6)


@each_net
def test_direct_signals_equal_to_the_gradient_give_back_propagation(digits, model):
    """direct_backward with dL/dh_l, taken from back-propagation, adds up to the whole gradient."""
    shape, rng = (1, 8, 8), np.random.default_rng(0)
    net = models.build(model, shape, 10, **NETS[model])
    params = initialise(net, rng, np.float64)
    x, y = rng.standard_normal((5, *shape)), rng.integers(0, 10, 5)
    out, saved = net.forward(params, x, train=True)
    dout = ops.cross_entropy_backward(ops.cross_entropy(out, y)[1], y)
    true, direct = params.zeros_like(), params.zeros_like()
    signals, kept, dy = [dout], dict(zip(net.layers, saved)), dout
    for stage in reversed(stages(net)):
        for name in reversed(stage.layers):
            dy = net.layers[name].backward(params.scope(name), true.scope(name), kept[name], dy)
        signals.insert(0, dy)
    direct_backward(net, params, direct, saved, signals[1:])
    assert np.array_equal(direct.flat, true.flat)


def test_a_step_of_each_direct_rule_computed_by_hand():
    """x = 1, h = tanh(1 * 0.5) = 0.4621, o = h (1, -1); B_1 = (2, -3); the true class is 0."""
    X, y = np.array([[1.0], [1.0]]), np.array([0, 1])
    h = np.tanh(0.5)
    p = 1 / (1 + np.exp(-2 * h))
    e = np.array([p - 1, 1 - p]) / 1
    for learner, signal in zip(DIRECT, (e, np.sign(e), np.array([-1.0, 0.0]))):
        learner = type(learner)(**{**learner.get_params(), "hidden": (1,), "dtype": "float64"})
        learner.begin(X, y)
        learner._params["net"].flat[...] = [0.5, 0, 1, -1, 0, 0]
        learner._feedback = [np.array([[2.0], [-3.0]])]
        learner._gradients(X[:1], y[:1], None)
        da = (signal @ [2, -3]) * (1 - h * h)
        assert np.isclose(learner._grads["1.weight"], da) and np.isclose(learner._grads["1.bias"], da)
        assert np.allclose(learner._grads["3.weight"], h * e)


# ---------------------------------------------------------------- what each layer may see


@each_direct
@each_net
@pytest.mark.parametrize("seed", [0, 1])
def test_given_the_error_an_update_does_not_depend_on_the_weights_above(digits, learner, model, seed):
    """Later weights changed at random, the output error as it was: the same bits below."""
    learner = begun(learner, digits, model=model, **NETS[model])
    net, params, rng = learner._net, learner._params["net"], np.random.default_rng(seed)
    out, saved = net.forward(params, learner._X, train=True)
    dout = learner._loss(out, learner._y)[1]
    before = params.zeros_like()
    learner._backward(before, saved, dout, learner._y)
    found = stages(net)
    for i in reversed(range(len(found) - 1)):  # from the top, so that only what is above has changed
        stage = found[i]
        for later in found[i + 1 :]:
            window = params[f"{later.weighted}.weight"]
            window[...] = rng.standard_normal(window.shape)
        changed, saved = net.forward(params, learner._X, train=True)
        assert not np.allclose(changed, out)
        after = params.zeros_like()
        learner._backward(after, saved, dout, learner._y)
        for name in params.shapes:
            if name.split(".")[0] in stage.layers:
                assert np.array_equal(before[name], after[name]), name


def test_random_target_projection_needs_no_forward_pass_above(digits):
    """Not even the error counts: any change above leaves the updates below as they were. That of (2) changes."""
    for learner, same in ((RandomTargetProjectionClassifier(), True), (DirectFeedbackAlignmentClassifier(), False)):
        learner = begun(learner, digits, hidden=(16, 12, 8))
        before = gradients(learner)
        learner._params["net"]["7.weight"][...] *= -3
        after = gradients(learner)
        assert np.array_equal(before["1.weight"], after["1.weight"]) is same


@given(seed=st.integers(0, 2**32 - 1))
def test_direct_signals_see_nothing_but_error_and_label(seed):
    rng = np.random.default_rng(seed)
    dout, y = rng.standard_normal((6, 3)), rng.integers(0, 3, 6)
    dfa, signs, drtp = (learner._signal(dout, y) for learner in DIRECT)
    assert dfa is dout
    assert np.array_equal(DIRECT[1]._signal(dout * rng.uniform(0.1, 10, dout.shape), y), signs)
    assert np.array_equal(DIRECT[2]._signal(rng.standard_normal((6, 3)), y), drtp)
    assert np.allclose(drtp.sum(axis=1), -1 / 6) and (np.count_nonzero(drtp, axis=1) == 1).all()


def test_the_last_layer_learns_from_the_error_in_all_rules(digits):
    true = gradients(begun(BackpropClassifier(activation="tanh"), digits, hidden=(16,)))
    for learner in (*DIRECT, FeedbackAlignmentClassifier()):
        mine = gradients(begun(learner, digits, hidden=(16,), activation="tanh"))
        assert np.array_equal(mine["3.weight"], true["3.weight"])


# ---------------------------------------------------------------- fixed


@each
def test_hidden_weights_of_the_shallow_learner_and_all_feedback_stay_as_they_were(digits, learner):
    learner = begun(learner, digits, weight_decay=0.1, hidden=(16, 8))
    shallow = isinstance(learner, ShallowClassifier)

    def fixed():
        if shallow:
            return [learner._params["hidden"].flat.copy()]
        return [
            b.copy() for b in (learner._feedback if isinstance(learner._feedback, list) else [learner._feedback.flat])
        ]

    before, net = fixed(), learner._params["net"].flat.copy()
    learner.advance()
    assert all(map(np.array_equal, before, fixed())) and not np.array_equal(net, learner._params["net"].flat)
    if not shallow:
        learner._regenerate()
        assert all(map(np.array_equal, before, fixed()))
        assert not any("feedback" in name for name in learner.checkpoint()[0])  # only the generator's state


def test_the_shallow_learner_is_softmax_regression_on_the_first_features_of_back_propagation(digits):
    X, y = digits.x_train[:200], digits.y_train[:200]
    settings = {"hidden": (32, 16), "epochs": 3, "random_state": 4, "lr": 1e-2}
    shallow = ShallowClassifier(**settings)
    shallow.begin(X, y)
    deep = BackpropClassifier(**settings)
    deep.begin(X, y)
    h = X.reshape(200, 64)
    for i in (1, 3):
        h = ops.relu(h @ deep._params["net"][f"{i}.weight"])
    assert np.allclose(shallow._features(shallow._X), h, atol=1e-6)
    head = Sequential(**{"5": Linear(16, 10)})
    regression = BackpropClassifier(model=head, epochs=3, random_state=4, lr=1e-2)
    regression.begin(h, y)
    regression._params["net"].flat[...] = shallow._params["net"].flat
    regression._rngs["train"].bit_generator.state = shallow._rngs["train"].bit_generator.state
    for _ in range(3):
        shallow.advance()
        regression.advance()
    assert np.allclose(regression._params["net"].flat, shallow._params["net"].flat, atol=1e-4)


@each
@pytest.mark.parametrize("body", ["numpy", "native"])
def test_resumed_training_gives_the_same_bits(digits, learner, body):
    X, y = digits.x_train[:150], digits.y_train[:150]
    settings = {**learner.get_params(), "epochs": 3, "hidden": (16, 12), "random_state": 5}
    with backend(body):
        whole = type(learner)(**settings).fit(X, y)
        first, second = type(learner)(**settings), type(learner)(**{**settings, "random_state": 99})
        first.begin(X, y)
        first.advance()
        arrays, meta = first.checkpoint()
        second.begin(X, y)
        second.advance()  # away from the first parameters
        second.restore({k: v.copy() for k, v in arrays.items()}, meta)
        while second.progress_ < second.total_:
            second.advance()
        assert np.array_equal(second.predict_proba(X), whole.predict_proba(X))


# ---------------------------------------------------------------- learning


@each
def test_learns_the_digits(digits, learner):
    learner = type(learner)(**{**learner.get_params(), "hidden": (128,), "epochs": 20, "lr": 3e-3, "random_state": 0})
    learner.fit(digits.x_train, digits.y_train)
    assert learner.score(digits.x_test, digits.y_test) > 0.75  # chance is 0.1; the test writers are new
    assert learner.history_[-1]["loss"] < 0.5 * learner.history_[0]["loss"]


@pytest.mark.parametrize(
    ("learner", "model", "least"),
    [
        (FeedbackAlignmentClassifier(), "lenet", 0.75),
        (FeedbackAlignmentClassifier(), "resnet", 0.6),
        (DirectFeedbackAlignmentClassifier(), "lenet", 0.75),
        (DirectFeedbackAlignmentClassifier(), "vgg", 0.75),
        (RandomTargetProjectionClassifier(), "vgg", 0.6),
        (ShallowClassifier(), "lenet", 0.6),
    ],
)
def test_convolutional_networks_learn(digits, learner, model, least):
    settings = {"model": model, "epochs": 10, "batch_size": 32, "lr": 1e-3, "random_state": 0}
    learner = type(learner)(**{**learner.get_params(), **settings}).fit(digits.x_train[:1000], digits.y_train[:1000])
    assert learner.score(digits.x_train[1000:], digits.y_train[1000:]) > least


def test_forward_weights_come_to_agree_with_the_feedback(digits):
    """The observation of Lillicrap et al.: updates that have nothing to do with the gradient at first come within 90
    degrees of it, because the forward weights learn to be seen through the feedback."""
    for learner in (FeedbackAlignmentClassifier(), DirectFeedbackAlignmentClassifier()):
        learner = begun(learner, digits, n=1000, hidden=(128, 128), epochs=20, activation="tanh")
        held_out = digits.x_train[1000:], digits.y_train[1000:]
        before = learner.alignment(*held_out)
        while learner.progress_ < learner.total_:
            learner.advance()
        after = learner.alignment(*held_out)
        assert list(after) == ["1.weight", "3.weight", "5.weight"] and np.isclose(after["5.weight"], 1)
        assert abs(before["3.weight"]) < 0.1 and after["3.weight"] > 0.2
        assert abs(before["1.weight"]) < 0.1 and after["1.weight"] > before["1.weight"]


# ---------------------------------------------------------------- the network's stages, and bad input


def test_stages_start_at_layers_with_weights():
    net = models.build("lenet", (1, 8, 8), 10)
    assert [s.weighted for s in stages(net)] == ["0", "3", "7", "9"]
    assert [s.layers for s in stages(net)][1] == ("3", "4", "5", "6")
    params = initialise(net, np.random.default_rng(0))
    assert stage_shapes(net, params, np.zeros((1, 1, 8, 8), np.float32)) == [(16, 4, 4), (128,), (128,), (10,)]
    dropout = Sequential(drop=Dropout(0.5), a=Linear(3, 3), act=Activation("tanh"), b=Linear(3, 2))
    assert [s.layers for s in stages(dropout)] == [("drop", "a", "act"), ("b",)]


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (DirectFeedbackAlignmentClassifier(model="resnet"), "expected layers in a row"),
        (RandomTargetProjectionClassifier(model="resnet"), "expected layers in a row"),
        (ShallowClassifier(model=Linear(64, 10)), "the network is Linear, expected layers in a row"),
        (DirectFeedbackAlignmentClassifier(model=Sequential(Activation("tanh"))), "no linear or convolutional layer"),
        (FeedbackAlignmentClassifier(epochs=-1), "FeedbackAlignmentClassifier: epochs is -1"),
        (RandomTargetProjectionClassifier(activation="step"), "name is 'step'"),
    ],
)
def test_unusable_settings_are_clear_errors(digits, learner, message):
    with pytest.raises(ValueError, match=message):
        learner.fit(digits.x_train[:20], digits.y_train[:20])


def test_alignment_refuses_classes_that_were_not_there(digits):
    learner = FeedbackAlignmentClassifier(hidden=(4,), epochs=1).fit(digits.x_train[:20], digits.y_train[:20])
    with pytest.raises(ValueError, match="y holds classes that were not there in fit"):
        learner.alignment(digits.x_train[:3], np.array([1, 2, 77]))
    with pytest.raises(ValueError, match="not fitted yet"):
        FeedbackAlignmentClassifier().alignment(digits.x_train[:3], digits.y_train[:3])
