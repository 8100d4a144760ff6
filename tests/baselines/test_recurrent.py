"""Back-propagation through time for sequence classifiers: gradients, windows, reservoirs, errors."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import RecurrentClassifier, ops
from refimpl.backends import backend
from refimpl.data.evidence import draw_evidence
from tests.harness import central_differences, relative_error

few_examples = settings(max_examples=4)
seeds = st.integers(0, 2**32 - 1)
cells = pytest.mark.parametrize("cell", ["rnn", "lstm"])


def begun(seed, every_step=False, B=4, T=5, D=3, K=3, **options):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((B, T, D)), np.arange(B) % K
    if every_step:
        y = rng.integers(0, K, (B, T))
        y[0, :K] = np.arange(K)
    learner = RecurrentClassifier(**{"hidden": (4, 5), "dtype": "float64", "random_state": seed, **options})
    learner.begin(x, y)
    for own in learner._params.values():
        own.flat += 0.1 * rng.standard_normal(own.size)
    return learner, x, learner._y


def loss_of(learner, x, y):
    """The mean cross-entropy, by the forward operations alone."""
    for k, layer in enumerate(learner._layers):
        x = layer.apply(learner._params[f"layer{k}"], x)
    h = x.reshape(-1, x.shape[-1]) if y.ndim == 2 else np.ascontiguousarray(x[:, -1])
    return float(ops.cross_entropy(learner._readout.apply(learner._params["readout"], h), y.ravel())[0])


@cells
@pytest.mark.parametrize("every_step", [False, True])
@given(seed=seeds)
@few_examples
def test_the_gradient_equals_central_differences(cell, every_step, seed):
    learner, x, y = begun(seed, every_step, cell=cell)
    learner._gradients(x, y)
    for name, own in learner._params.items():
        numeric = central_differences(lambda: loss_of(learner, x, y), own.flat)
        assert relative_error(learner._grads[name].flat, numeric) < 1e-6, name


@cells
@given(seed=seeds)
@few_examples
def test_a_window_is_the_gradient_with_the_state_before_it_held_fixed(cell, seed):
    """One layer: the loss of the last w steps as a function of the weights, from the state that stands before them."""
    learner, x, y = begun(seed, cell=cell, window=2, hidden=(4,))
    own, layer = learner._params["layer0"], learner._layers[0]
    h = layer.forward(own, x)[1][1][:, -3].copy()
    c = layer.forward(own, x)[1][2][:, -3].copy() if cell == "lstm" else None
    learner._gradients(x, y)

    def loss():
        weights = own["w_x"], own["w_h"], own["bias"]
        last = np.ascontiguousarray(x[:, -2:])
        states = ops.rnn_sequence(last, h, *weights) if c is None else ops.lstm_sequence(last, h, c, *weights)[0]
        logits = learner._readout.apply(learner._params["readout"], np.ascontiguousarray(states[:, -1]))
        return float(ops.cross_entropy(logits, y)[0])

    assert relative_error(learner._grads["layer0"].flat, central_differences(loss, own.flat)) < 1e-6


@cells
def test_a_window_of_all_steps_is_back_propagation_through_time(cell):
    gradients = []
    for window in (None, 5, 50):
        learner, x, y = begun(3, cell=cell, window=window)
        learner._gradients(x, y)
        gradients.append(np.concatenate([g.flat for g in learner._grads.values()]))
    assert np.array_equal(gradients[0], gradients[1]) and np.array_equal(gradients[0], gradients[2])
    learner, x, y = begun(3, cell=cell, window=1)
    learner._gradients(x, y)
    assert not np.allclose(gradients[0][: learner._grads["layer0"].size], learner._grads["layer0"].flat)


def test_a_reservoir_trains_its_read_out_alone():
    learner, _, _ = begun(0, window=0)
    before = {name: own.flat.copy() for name, own in learner._params.items()}
    learner.advance()
    same = {name: np.array_equal(before[name], own.flat) for name, own in learner._params.items()}
    assert same == {"layer0": True, "layer1": True, "readout": False}


def test_clipping_bounds_the_step_of_every_layer():
    learner, x, y = begun(0, clip=1e-3, momentum=0.0, lr=1.0)
    before = {name: own.flat.copy() for name, own in learner._params.items()}
    learner._step(x, y)
    for name, own in learner._params.items():
        assert np.linalg.norm(own.flat - before[name]) <= 1.0001e-3


def test_recurrent_weights_begin_orthogonal_times_the_radius():
    learner = RecurrentClassifier("lstm", hidden=(6,), radius=0.5, dtype="float64", random_state=0)
    learner.begin(np.ones((2, 3, 2)), np.arange(2))
    for gate in np.split(learner._params["layer0"]["w_h"], 4, axis=1):
        assert np.allclose(gate.T @ gate, 0.25 * np.eye(6))


@pytest.mark.parametrize("options", [{}, {"cell": "lstm"}, {"window": 3}])
def test_evidence_is_accumulated(options):
    data = draw_evidence(0, 2.0, 1000, 500)
    assert RecurrentClassifier(hidden=(32,), random_state=0, **options).fit(*data.train).score(*data.test) > 0.95


@pytest.mark.parametrize("body", ["numpy", "native"])
def test_resumed_training_gives_the_same_bits(body):
    data = draw_evidence(0, 2.0, 200, 50)
    with backend(body):
        whole = RecurrentClassifier(epochs=3, random_state=0).fit(*data.train)
        first, second = (RecurrentClassifier(epochs=3, random_state=seed) for seed in (0, 5))
        first.begin(*data.train)
        first.advance()
        arrays, meta = first.checkpoint()
        second.begin(*data.train)
        second.restore({k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta)))
        while second.progress_ < second.total_:
            second.advance()
        assert np.array_equal(second.predict_proba(data.x_test), whole.predict_proba(data.x_test))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "gru"}, "cell is 'gru', expected one of rnn, lstm"),
        ({"hidden": ()}, r"hidden is \(\)"),
        ({"window": -1}, "window is -1"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"clip": 0.0}, "clip is 0.0, expected None or a positive number"),
        ({"lr": np.inf}, "lr is inf"),
        ({"radius": -1.0}, "radius is -1.0"),
    ],
)
def test_unusable_settings_are_clear_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        RecurrentClassifier(**changes).fit(np.ones((4, 3, 2)), np.arange(4))


def test_unusable_data_are_clear_errors():
    learner = RecurrentClassifier(epochs=1, random_state=0)
    with pytest.raises(ValueError, match=r"X has shape \(4, 3\), expected \(sequences, steps, features...\)"):
        learner.fit(np.ones((4, 3)), np.arange(4))
    with pytest.raises(ValueError, match="X has 4 sequences, but y has 3"):
        learner.fit(np.ones((4, 3, 2)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="window is 2, expected None or 0 where every step has a label"):
        RecurrentClassifier(window=2).fit(np.ones((4, 3, 2)), np.arange(12).reshape(4, 3))
    learner.fit(np.ones((4, 3, 2)), np.arange(4))
    with pytest.raises(ValueError, match=r"y has shape \(3,\), expected \(4,\)"):
        learner.score(np.ones((4, 3, 2)), np.arange(3))
    assert learner.predict(np.ones((2, 7, 2))).shape == (2,)  # another length is fine
    with pytest.raises(ValueError, match=r"X has shape \(2, 3, 5\), expected \(sequences, steps, 2\)"):
        learner.predict(np.ones((2, 3, 5)))
