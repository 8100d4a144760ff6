"""Variant C of counter-current learning: losses, gradients, locality, the mirror, the learner and its twin."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import AutoencoderBackprop, CounterCurrentAutoencoder, data
from refimpl.backends import backend
from refimpl.methods.local.counter_current.autoencoder import (
    autoencoder_gradients,
    autoencoder_pair,
)
from refimpl.models.autoencoder import task_pair
from refimpl.nn import initialise
from tests.harness import assert_gradient, central_differences, relative_error

seeds = st.integers(0, 2**32 - 1)
few_examples = settings(max_examples=4)
PAIR = autoencoder_pair((2, 8, 4), (3, 4))


class Case:
    """Both networks in float64, an image and a target."""

    def __init__(self, seed, B=3):
        rng = np.random.default_rng(seed)
        self.up = initialise(PAIR.forward_network, rng, np.float64)
        self.down = initialise(PAIR.feedback_network, rng, np.float64)
        for params in (self.up, self.down):
            params.flat += 0.3 * rng.standard_normal(params.size)
        self.x, self.target = rng.standard_normal((2, B, *PAIR.shapes[0]))

    def run(self, sC=0.6, sD=0.8):
        """Losses and both gradients."""
        up, down = self.up.zeros_like(), self.down.zeros_like()
        return autoencoder_gradients(PAIR, self.up, self.down, up, down, self.x, self.target, sC, sD), up, down


def level_of(name):
    return int(name[5 : name.index(".")])


def of_level(grads, level):
    return {name: g.copy() for name, g in grads.items() if level_of(name) == level}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- gradients


@given(seed=seeds)
@few_examples
def test_gradients_of_each_level_equal_central_differences_of_its_own_loss(seed):
    case = Case(seed)
    _, up, down = case.run()
    for level in range(PAIR.L + 1):
        trained = [(case.up, up, level)] if level else []
        trained += [(case.down, down, level + 1)] if level < PAIR.L else []
        for params, grads, owner in trained:
            for name, g in of_level(grads, owner).items():
                assert_gradient(g, lambda: case.run()[0][level], params[name], of=f"{level} {name}")  # noqa: B023


def test_the_true_derivative_reaches_lower_layers_and_is_cut():
    case, name = Case(3), "level1.weights.weight"
    _, up, _ = case.run()
    through = central_differences(lambda: case.run()[0][2], case.up[name])
    assert np.abs(through).max() > 1e-4
    own = central_differences(lambda: case.run()[0][1], case.up[name])
    assert relative_error(up[name], own) < 1e-6 < relative_error(up[name], own + through)


# ---------------------------------------------------------------- locality


@pytest.mark.parametrize("body", ["numpy", "native"])
@given(seed=seeds)
@few_examples
def test_an_update_sees_its_own_level_and_nothing_else(body, seed):
    """Level l sees F_1..F_l through a_l and W_{l+1}..W_L through c_l. All other weights set to NaN leave the updates
    of F_l and W_{l+1} as they were, to the bit."""
    case = Case(seed)
    with backend(body):
        _, up, down = case.run()
        kept = case.up.copy(), case.down.copy()
        for level in range(PAIR.L + 1):
            for params, unseen in ((case.up, lambda i: i > level), (case.down, lambda i: i <= level)):  # noqa: B023
                for name, window in params.items():
                    if unseen(level_of(name)):
                        window[...] = np.nan
            with np.errstate(invalid="ignore"):
                _, after_up, after_down = case.run()
            if level > 0:
                assert same(of_level(up, level), of_level(after_up, level))
            if level < PAIR.L:
                assert same(of_level(down, level + 1), of_level(after_down, level + 1))
            assert np.isnan(after_up.flat).any() or level == PAIR.L
            case.up.assign(kept[0]), case.down.assign(kept[1])


@given(seed=seeds)
@few_examples
def test_exchanging_image_and_target_and_both_networks_mirrors_losses_and_gradients(seed):
    case, mirror = Case(seed), Case(seed + 1)
    mirror.x, mirror.target = case.target, case.x
    for mine, other in ((case.up, mirror.down), (case.down, mirror.up)):
        for name, window in mine.items():
            other[f"level{PAIR.L + 1 - level_of(name)}{name[name.index('.') :]}"][...] = window
    losses, up, down = case.run()
    losses_mirrored, up_mirrored, down_mirrored = mirror.run()
    assert np.allclose(losses_mirrored, losses[::-1], rtol=1e-12)
    for mine, other in ((up, down_mirrored), (down, up_mirrored)):
        for name, g in mine.items():
            mirrored = other[f"level{PAIR.L + 1 - level_of(name)}{name[name.index('.') :]}"]
            assert np.allclose(mirrored, g, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------- the learners


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def images(digits):
    return digits.x_train[:100]


LEARNERS = (CounterCurrentAutoencoder, AutoencoderBackprop)
both = pytest.mark.parametrize("learner", LEARNERS)


def small(learner=CounterCurrentAutoencoder, **changes):
    return learner(**{"channels": (4, 6), "epochs": 2, "warmup": 3, "random_state": 0, **changes})


def test_first_weights_are_the_card_s():
    up = initialise(PAIR.forward_network, np.random.default_rng(0), np.float64)
    down = initialise(PAIR.feedback_network, np.random.default_rng(0), np.float64)
    for params, order in ((up, (1, 2, 3, 4)), (down, (4, 3, 2, 1))):
        for position, level in enumerate(order):
            w = params[f"level{level}.weights.weight"]
            w = w.reshape(len(w), -1)
            gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
            assert np.allclose(gram, (1.0, 1.0, 1e-6, 0.0)[position] * np.eye(len(gram)), atol=1e-12)


@both
def test_learns_to_reconstruct(digits, learner):
    before = small(learner, channels=(16, 32), epochs=0).fit(digits.x_train)
    after = small(learner, channels=(16, 32), epochs=12, random_state=0).fit(digits.x_train)
    assert after.score(digits.x_test) > before.score(digits.x_test) / 3
    assert np.isclose(before.score(digits.x_test), -np.mean(np.square(digits.x_test, dtype=float)))  # output 0
    assert after.predict(digits.x_test).shape == digits.x_test.shape


def test_the_feedback_network_is_an_autoencoder_from_the_other_end(digits):
    learner = small(channels=(16, 32), epochs=12).fit(digits.x_train)
    error = np.mean((learner.look_back(digits.x_test) - digits.x_test) ** 2)
    assert error < np.mean(digits.x_test**2) / 3


@both
def test_scale_and_shift_of_the_batch_norm_stay(images, learner):
    fitted = small(learner).fit(images)
    for params in fitted._params.values():
        gains = {name: w for name, w in params.items() if name.endswith((".gain", ".norm.bias"))}
        assert gains and not set(gains) & set(params.shapes)
        assert all((w == float(name.endswith("gain"))).all() for name, w in gains.items())
        assert any((w != 0).any() for name, w in params.items() if name.endswith(".norm.mean"))


def test_a_whole_step_is_local_where_gradients_are_clipped_by_level(images):
    for scope, local in (("level", True), ("network", False)):
        steps = []
        for factor in (1, -30):
            learner = small(clip_scope=scope, clip=0.01)
            learner.begin(images)
            learner._params["forward"]["level3.weights.weight"][...] *= factor
            before = learner._params["forward"]["level1.weights.weight"].copy()
            learner._step(images[:32], images[:32])
            steps.append(learner._params["forward"]["level1.weights.weight"] - before)
        assert np.array_equal(*steps) is local


def test_clipping_warming_up_and_centralising_shape_the_step(images):
    moves = {}
    for name, changes in {
        "plain": {},
        "warm": {"warmup": 10},
        "clipped": {"clip": 0.01},
        "centralised": {"centralise": True},
    }.items():
        learner = small(
            **{"clip": math.inf, "warmup": 0, "lr": 1e-3, "centralise": False, "weight_decay": 0.0, **changes},
            dtype="float64",
        )
        learner.begin(images)
        before = {k: p.flat.copy() for k, p in learner._params.items()}
        learner._step(images[:32].astype(float), images[:32].astype(float))
        moves[name] = {k: p.flat - before[k] for k, p in learner._params.items()}
        kernel = learner._params["forward"]["level1.weights.weight"] - before["forward"][:36].reshape(4, 1, 3, 3)
        assert np.allclose(kernel.mean(axis=(1, 2, 3)), 0, atol=1e-12) is (name == "centralised")
    for net, move in moves["plain"].items():
        assert np.allclose(moves["warm"][net], move / 10, atol=1e-12)
        assert np.isclose(np.linalg.norm(moves["clipped"][net]), 1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"task": "erase", "batches_per_epoch": 2}, {"task": "shift", "momentum": 0.0, "epochs": 3}], ids=str
)
@pytest.mark.parametrize("body", ["numpy", "native"])
@both
def test_resumed_training_gives_the_same_bits(images, learner, options, body):
    with backend(body):
        whole = small(learner, **options).fit(images)
        first, second = small(learner, **options), small(learner, **{**options, "random_state": 9})
        first.begin(images)
        first.advance()
        arrays, meta = first.checkpoint()
        second.begin(images)
        second.restore({k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta)))
        while second.progress_ < second.total_:
            second.advance()
        assert np.array_equal(second.reconstruct(images), whole.reconstruct(images))
        assert second.history_ == whole.history_
        copy = pickle.loads(pickle.dumps(whole))
        assert copy.score(images) == whole.score(images)


@both
def test_rows_of_pixels_and_odd_extents(learner):
    X = np.random.default_rng(0).random((40, 3 * 7 * 9), np.float32)
    rows = small(learner, image_shape=(3, 7, 9)).fit(X)
    images = small(learner).fit(X.reshape(40, 3, 7, 9))
    assert rows.reconstruct(X).shape == X.shape
    assert np.array_equal(rows.reconstruct(X), images.reconstruct(X.reshape(40, 3, 7, 9)).reshape(X.shape))


def test_tasks():
    images = np.random.default_rng(0).uniform(0.1, 1, (5, 3, 8, 8)).astype(np.float32)
    made = {task: task_pair(images, task, np.random.default_rng(0)) for task in ("colour", "erase", "rotate", "shift")}
    for task in ("colour", "erase"):
        x, target = made[task]
        assert target is images and ((x == images) | (x == 0)).all()
    assert ((made["colour"][0] == 0).all(axis=(2, 3)).sum(axis=1) == 1).all()
    assert ((made["erase"][0] == 0).sum(axis=(1, 2, 3)) == 3 * 2 * 2).all()
    assert np.array_equal(made["rotate"][1][:, :, 0], images[:, :, :, -1])  # the right edge comes to the top
    assert np.array_equal(made["shift"][1][:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert np.allclose(task_pair(images, "invert", np.random.default_rng(0))[1] + images, 1)


@pytest.mark.parametrize("task", ["rotate", "shift", "invert", "erase"])
def test_a_task_is_learned_and_is_what_the_score_is_about(digits, task):
    learner = small(channels=(16, 32), epochs=8, task=task).fit(digits.x_train)
    x, target = task_pair(digits.x_test, task, np.random.default_rng(0))
    untrained = np.mean(np.square(target, dtype=float))
    assert np.isclose(-learner.score(digits.x_test), np.mean((learner.reconstruct(x) - target) ** 2))
    assert -learner.score(digits.x_test) < 0.7 * untrained
    given = small(channels=(16, 32), epochs=8).fit(*task_pair(digits.x_train, task, np.random.default_rng(1)))
    assert -given.score(x, target) < 0.7 * untrained


@both
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr is 0.0"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"warmup": -1}, "warmup is -1"),
        ({"batches_per_epoch": 0}, "batches_per_epoch is 0"),
        ({"task": "blur"}, "task is 'blur', expected one of 'identity'"),
        ({"task": "colour"}, "task is 'colour', expected another one"),
        ({"channels": ()}, "H and W multiples of"),
        ({"image_shape": (1, 3, 3)}, "but X has 64 features"),
    ],
)
def test_unusable_settings_are_clear_errors(images, learner, changes, message):
    with pytest.raises(ValueError, match=message):
        small(learner, **changes).fit(images)


def test_unusable_data_are_clear_errors(images):
    for changes, message in (({"clip_scope": "layer"}, "clip_scope is 'layer'"), ({"sD": -1.0}, "sD is -1.0")):
        with pytest.raises(ValueError, match=message):
            small(**changes).fit(images)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(images, images[:3])
    with pytest.raises(ValueError, match="expected 'identity' where a target is given"):
        small(task="shift").fit(images, images)
    with pytest.raises(ValueError, match="expected images, or image_shape"):
        small().fit(images.reshape(100, -1))
    with pytest.raises(ValueError, match="not fitted yet"):
        small().reconstruct(images)
    assert CounterCurrentAutoencoder.paper(epochs=2).channels == (128, 256, 1024, 2048)
