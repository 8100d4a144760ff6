"""Every local update of TPSGD against central differences of its own loss, in double precision."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import TPSGD, TPSGDRecurrent, ops
from refimpl.backends import backend
from refimpl.methods.local.tpsgd import step_weights
from refimpl.methods.local.tpsgd.layers import pass_on
from refimpl.nn import Activation, BatchNorm, Conv2d, Flatten, Linear, MaxPool2d, Sequential
from tests.harness import assert_gradient, central_differences, relative_error

few_examples = settings(max_examples=3)
seeds = st.integers(0, 2**32 - 1)
LOSSES = ("l2", "l1", "logistic", "huber", "cosine", "linear")
each_loss = pytest.mark.parametrize("loss", LOSSES)
K = 3


def update(learner, x, y, train):
    """What one batch takes off the parameters of each group, divided by the rate 1: the gradient."""
    before = {name: own.flat.copy() for name, own in learner._params.items()}
    learner._step(x, y) if train is None else learner._step(x, y, train)
    return {name: before[name] - own.flat for name, own in learner._params.items()}, before


def begun(seed, shape, loss, **options):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((6, *shape)), np.arange(6) % K
    settings = {"loss": loss, "delta": 0.7, "lr": 1.0, "dtype": "float64", "random_state": seed, **options}
    learner = TPSGD(**settings)
    learner.begin(x, y)
    for own in learner._params.values():
        own.flat += 0.1 * rng.standard_normal(own.size)
    return learner, x, y


def local_loss(learner, i, x, y):
    """Mean J of layer i for its input x, from the forward pass alone; x reaches it through layers that stand still."""
    part = learner._parts[i]
    for j, below in enumerate(learner._parts[:i]):
        x = below.apply(learner._params[f"layer{j}"], x)
    params = learner._params[f"layer{i}"].copy()  # running statistics of a norm stay as they are
    z, _ = part.below.forward(params, pass_on(part.before, x), train=True)
    positions, z = math.prod(z.shape[2:]), z.reshape(len(z), -1)
    _, J, _ = ops.target_loss(z, y, learner.codes(i), learner.loss, part.activation, learner.delta)
    return J.mean() / positions


def assert_local_gradients(learner, x, y):
    """Layer by layer: only one is trained at a time, so that those below stand still."""
    hidden = len(learner._parts) - 1
    for i in range(hidden):
        gradients, before = update(learner, x, y, {i})
        for name, own in learner._params.items():
            own.flat[...] = before[name]
        own = learner._params[f"layer{i}"]
        assert_gradient(gradients[f"layer{i}"], lambda: local_loss(learner, i, x, y), own.flat, 1e-6)  # noqa: B023
        assert all(not g.any() for name, g in gradients.items() if name != f"layer{i}")


@each_loss
@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("body", ["numpy", "native"])
@given(seed=seeds)
@few_examples
def test_fully_connected_layers(loss, activation, body, seed):
    with backend(body):
        learner, x, y = begun(seed, (5,), loss, hidden=(4, 6), activation=activation)
        assert_local_gradients(learner, x, y)


@each_loss
@pytest.mark.parametrize("target", ["map", "pooled", "channel"])
@given(seed=seeds)
@few_examples
def test_convolutional_layers(loss, target, seed):
    learner, x, y = begun(seed, (2, 8, 8), loss, model="conv", channels=(3,), size=3, target=target)
    assert_local_gradients(learner, x, y)


@pytest.mark.parametrize("loss", ["l2", "huber", "linear"])
@given(seed=seeds)
@few_examples
def test_layers_with_batch_norm(loss, seed):
    net = Sequential(
        Conv2d(2, 3, 3, padding=1), BatchNorm(3), Activation("tanh"), MaxPool2d(2), Flatten(), Linear(12, 4),
        Activation("tanh"), Linear(4, K),
    )  # fmt: skip
    learner, x, y = begun(seed, (2, 4, 4), loss, model=net)
    assert_local_gradients(learner, x, y)


@given(seed=seeds)
@few_examples
def test_the_output_layer_has_the_gradient_of_the_cross_entropy(seed):
    learner, x, y = begun(seed, (5,), "l2", hidden=(4,))
    gradients, before = update(learner, x, y, {1})
    for name, own in learner._params.items():
        own.flat[...] = before[name]

    def loss():
        logits = x
        for i, part in enumerate(learner._parts):
            logits = part.apply(learner._params[f"layer{i}"], logits)
        return float(ops.cross_entropy(logits, y)[0])

    numeric = central_differences(loss, learner._params["layer1"].flat)
    assert relative_error(gradients["layer1"], numeric) < 1e-6


# ---------------------------------------------------------------- recurrent layers


def recurrent(seed, cell, loss, steps, every_step=False, T=4):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((5, T, 3)), np.arange(5) % K
    if every_step:
        y = rng.integers(0, K, (5, T))
        y[0, :K] = np.arange(K)
    options = {"loss": loss, "delta": 0.4, "steps": steps, "lr": 1.0, "hidden_lr": 1.0, "momentum": 0.0}
    learner = TPSGDRecurrent(cell, hidden=(4, 3), dtype="float64", random_state=seed, **options)
    learner.begin(x, y)
    return learner, x, learner._y


def states(learner, x, k):
    """Inputs of layer k and its states before each step, which count as constants."""
    for j in range(k):
        x = learner._layers[j].apply(learner._params[f"layer{j}"], x)
    y, saved = learner._layers[k].forward(learner._params[f"layer{k}"], x)

    def before(a):
        return np.concatenate([np.zeros_like(a[:, :1]), a[:, :-1]], axis=1)

    return x.copy(), before(y), before(saved[2]) if learner.cell == "lstm" else None


def step_losses(learner, k, labels, u, h, c):
    """Σ_t c_t mean J(h_t) with every step from its own constant state."""
    own, weights = learner._params[f"layer{k}"], step_weights(learner.steps, u.shape[1])
    w, total = (own["w_x"], own["w_h"], own["bias"]), 0.0
    for t, weight in enumerate(weights):
        frame = (np.ascontiguousarray(a[:, t]) for a in ((u, h) if c is None else (u, h, c)))
        now = labels[:, t] if labels.ndim == 2 else labels
        if c is None:
            xs, hs = frame
            z, activation = xs @ w[0] + hs @ w[1] + w[2], "tanh"
        else:
            z, activation = ops.lstm_cell(*frame, *w)[0], "identity"
        J = ops.target_loss(z, np.ascontiguousarray(now), learner.codes(k), learner.loss, activation, learner.delta)[1]
        total += weight * J.mean()
    return total


@pytest.mark.parametrize(
    ("cell", "loss"), [(c, k) for c in ("rnn", "lstm") for k in LOSSES if not (c == "lstm" and k == "logistic")]
)
@pytest.mark.parametrize("steps", ["all", "last", "ramp", 3])
@given(seed=seeds)
@few_examples
def test_recurrent_layers_with_the_state_before_a_step_held_fixed(cell, loss, steps, seed):
    learner, x, y = recurrent(seed, cell, loss, steps)
    constants = [states(learner, x, k) for k in range(2)]
    gradients, before = update(learner, x, y, None)
    for name, own in learner._params.items():
        own.flat[...] = before[name]
    for k, fixed in enumerate(constants):
        own = learner._params[f"layer{k}"].flat
        assert_gradient(gradients[f"layer{k}"], lambda: step_losses(learner, k, y, *fixed), own, 1e-6)  # noqa: B023


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@given(seed=seeds)
@few_examples
def test_a_label_for_every_step(cell, seed):
    learner, x, y = recurrent(seed, cell, "l2", "all", every_step=True)
    fixed = states(learner, x, 0)
    top = learner.states(x)[-1]
    gradients, before = update(learner, x, y, None)
    for name, own in learner._params.items():
        own.flat[...] = before[name]
    numeric = central_differences(lambda: step_losses(learner, 0, y, *fixed), learner._params["layer0"].flat)
    assert relative_error(gradients["layer0"], numeric) < 1e-6

    def loss():
        logits = learner._readout.apply(learner._params["readout"], top.reshape(-1, 3))
        return float(ops.cross_entropy(logits, y.ravel())[0])

    assert relative_error(gradients["readout"], central_differences(loss, learner._params["readout"].flat)) < 1e-6


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_nothing_passes_back_in_time(cell):
    """The update is not the derivative of the summed losses as a function of the weights at all steps."""
    learner, x, y = recurrent(0, cell, "l2", "all")
    gradients, before = update(learner, x, y, None)
    for name, own in learner._params.items():
        own.flat[...] = before[name]

    def through_time():
        h, total = learner.states(x)[0], 0.0
        for t in range(x.shape[1]):
            J = ops.target_loss(np.ascontiguousarray(h[:, t]), y, learner.codes(0), "l2", "identity")[1]
            total += J.mean() / x.shape[1]
        return total

    numeric = central_differences(through_time, learner._params["layer0"].flat)
    assert relative_error(gradients["layer0"], numeric) > 1e-3
