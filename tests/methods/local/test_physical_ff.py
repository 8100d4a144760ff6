"""Properties of physical forward-forward: locality, opaque physics, labels, gradients, state, bad input."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refimpl import backend, data, ops, optim
from refimpl.methods.local.physical_ff import GoodnessLayer, LabelledInput, PhysicalForwardForward, study, train_layer
from refimpl.methods.local.physical_ff.learner import digital_gradient
from refimpl.models.physics import Optical
from refimpl.nn import initialise
from tests.harness import assert_gradient

seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def vowels():
    return data.load("surrogate-vowels").split(0)


@pytest.fixture(scope="module")
def few(vowels):
    X, y = vowels.train
    return X[:40], y[:40]


def small(physics="acoustic", **changes):
    settings = {"widths": (6, 5), "epochs": 3, "inner_steps": 4, "label_slots": 8, "lr": 1e-3, "random_state": 0}
    return PhysicalForwardForward(physics, **{**settings, **changes})


def same(a, b):
    return all(np.array_equal(p.flat, b._params[name].flat) for name, p in a._params.items())


# ---------------------------------------------------------------- the loss


def drawn(seed, B, D, N):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2 * B, D)), initialise(GoodnessLayer(D, N), rng, "float64")


def loss_and_gradient(params, u, theta=4.0):
    """(2) and its gradient in W and b, from what Adam's first moment receives in one inner step with lr 0."""
    m, v = np.zeros_like(params.flat), np.zeros_like(params.flat)
    losses = ops.goodness_steps(params.flat, m, v, u, params["direction"], theta, 1, 0.0, 1, 0.0, 0.999, 1e-8)
    return losses[0], m


@pytest.mark.parametrize("body", ["numpy", "native"])
@settings(max_examples=20, deadline=None)
@given(seed=seeds, B=st.integers(1, 5), D=st.integers(1, 6), N=st.integers(2, 6))
def test_the_gradient_of_weights_and_bias_equals_central_differences(body, seed, B, D, N):
    u, params = drawn(seed, B, D, N)
    assume(np.linalg.norm(np.maximum(u @ params["weight"] + params["bias"], 0), axis=1).min() > 0.1)  # a direction
    with backend(body):
        _, gradient = loss_and_gradient(params, u)
        assert_gradient(gradient, lambda: float(loss_and_gradient(params, u)[0]), params.flat, 1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_the_digital_gradient_equals_central_differences(seed):
    u, params = drawn(seed, 3, 5, 4)
    grads = params.zeros_like()
    digital_gradient(params, grads, u, 4.0)
    assert_gradient(grads.flat, lambda: digital_gradient(params, params.zeros_like(), u, 4.0), params.flat)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, factor=st.floats(0.01, 100))
def test_goodness_is_a_cosine_without_scale(seed, factor):
    u, params = drawn(seed, 3, 5, 4)
    z = u @ params["weight"] + params["bias"]
    loss, g, _ = ops.goodness_contrast(z, params["direction"])
    scaled = ops.goodness_contrast(factor * z, params["direction"])
    assert (np.abs(g) <= 1 + 1e-12).all() and np.allclose(scaled[1], g) and np.allclose(scaled[0], loss)
    _, gradient = loss_and_gradient(params, u)
    assert abs(params.flat @ gradient) < 1e-10  # <W, dW> + <b, db> = 0


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_equal_halves_give_log_2_and_no_gradient(seed):
    u, params = drawn(seed, 3, 5, 4)
    u[3:] = u[:3]
    loss, gradient = loss_and_gradient(params, u)
    assert loss == pytest.approx(np.log(2)) and np.abs(gradient).max() < 1e-12


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_swapping_right_and_wrong_turns_the_difference_round(seed):
    u, params = drawn(seed, 3, 5, 4)
    z = u @ params["weight"]
    _, g, _ = ops.goodness_contrast(z, params["direction"])
    _, swapped, _ = ops.goodness_contrast(np.concatenate([z[3:], z[:3]]), params["direction"])
    assert np.allclose(g[:3] - g[3:], -(swapped[:3] - swapped[3:]))


def test_the_best_goodness_is_the_positive_part_of_p():
    p = np.random.default_rng(0).standard_normal(50)
    best = np.maximum(p, 0)
    _, g, _ = ops.goodness_contrast(np.stack([best, -best]), p)
    assert np.allclose(g, np.linalg.norm(best) / np.linalg.norm(p))


# ---------------------------------------------------------------- labels


@settings(max_examples=30, deadline=None)
@given(seed=seeds, place=st.sampled_from(["front", "pixels"]), width=st.integers(1, 3))
def test_a_label_sets_its_own_places_and_no_others(seed, place, width):
    rng = np.random.default_rng(seed)
    K = 3
    form = LabelledInput(K, 12, K * width + 2, width, place, 7.0)
    x, c = rng.standard_normal((5, 12)), rng.integers(0, K, 5)
    blank = form.blank(x)
    h = form.overlay(blank, c)
    assert h.shape == (5, form.D) and (h[:, : K * width] != 0).sum() == 5 * width
    for row, label in zip(h, c):
        assert (row[label * width : (label + 1) * width] == 7.0).all()
    assert np.array_equal(h[:, K * width :], blank[:, K * width :])
    assert np.array_equal(h[:, form.D - 12 + K * width :], x[:, K * width :])


def test_wrong_labels_are_wrong_and_drawn_anew(few, monkeypatch):
    seen, overlay = [], LabelledInput.overlay
    monkeypatch.setattr(LabelledInput, "overlay", lambda self, b, c: (seen.append(c.copy()), overlay(self, b, c))[1])
    learner = small(epochs=3)
    learner.fit(*few)
    right, wrong = seen[0::2], seen[1::2]
    assert all((r != w).all() for r, w in zip(right, wrong))
    order = [np.argsort(r, kind="stable") for r in right]
    assert not np.array_equal(wrong[0][order[0]], wrong[1][order[1]])


# ---------------------------------------------------------------- locality and opaque physics


class Opaque:
    """Answers from the outside: whatever stands behind it is out of reach, and only real rows may be shown to it."""

    def __init__(self, one):
        self.__call = one.__call__
        self.asked = []

    def __call__(self, x):
        assert type(x) is np.ndarray and x.dtype.kind == "f" and x.ndim == 2
        self.asked.append(len(x))
        return self.__call(x)


def test_physics_may_be_an_opaque_callable(few):
    """The learner trains to the same bits on callables without any attribute as on the simulators behind them."""
    reference = small("optical")
    reference.begin(*few)
    hidden = [Opaque(one) for one in reference._systems]
    learner = small(hidden)
    learner.begin(*few)
    for name, params in reference._params.items():  # the simulators were drawn from the same stream: start alike
        learner._params[name].assign(params)
    learner._rngs["train"].bit_generator.state = reference._rngs["train"].bit_generator.state
    for one in hidden:
        one.asked.clear()
    while reference.progress_ < reference.total_:
        reference.advance()
        learner.advance()
    assert same(learner, reference)
    assert [one.asked for one in hidden] == [[80] * 3, [80] * 3]  # once a layer and epoch: 2 B rows of its one batch


def test_the_update_of_a_layer_sees_nothing_but_what_the_layer_sees(few):
    """Every quantity that the update of layer 1 may not see is disturbed: parameters, moments, direction and system of
    layer 2, the derivative and the matrices of its own system (behind the same answers), the label of no pair, the
    random numbers drawn later. Its update has the same bits."""

    def after(disturb):
        learner = small("optical", widths=(6, 5, 4))
        learner.begin(*few)
        disturb(learner)
        learner.advance()
        return learner._params["layer1"].flat.copy(), learner._optimizers["layer1"].vectors["m"].copy()

    expected = after(lambda learner: None)
    rng = np.random.default_rng(5)

    def parameters(learner):
        for name in ("layer2", "layer3"):
            learner._params[name].flat[...] = rng.standard_normal(learner._params[name].size)
            learner._params[name]["direction"][...] = rng.standard_normal(len(learner._params[name]["direction"]))

    def moments(learner):
        for name in ("layer2", "layer3"):
            learner._optimizers[name].vectors["m"][...] = 3
            learner._optimizers[name].vectors["v"][...] = 2
            learner._optimizers[name].step = 17

    def systems(learner):
        learner._systems[1].replace()
        learner._systems[2] = lambda h: np.sign(h[:, :4])

    def derivative(learner):
        one = learner._systems[0]
        one.backward = one.twin = lambda *args: pytest.fail("a derivative was asked for")

    def inside(learner):
        one = learner._systems[0]
        answers = {}
        measure = type(one).__call__

        def remembered(x):
            answers.setdefault(x.tobytes(), measure(one, x))
            one.state()["T"][...] = np.nan  # nothing reads the matrices but the measurement
            return answers[x.tobytes()]

        learner._systems[0] = remembered

    def explode(learner):
        learner._systems[1] = lambda h: np.full((len(h), 5), 1e6)

    for disturb in (parameters, moments, systems, derivative, inside, explode):
        for a, b in zip(after(disturb), expected):
            assert np.array_equal(a, b), disturb.__name__


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_training_the_second_layer_never_changes_the_first(seed):
    u, first = drawn(seed, 3, 5, 4)
    v, second = drawn(seed + 1, 3, 4, 4)
    before, shown = first.flat.copy(), v.copy()
    train_layer(second, optim.Adam(1e-2).init(second), v, 4.0, 1e-2, 5)
    assert np.array_equal(first.flat, before) and np.array_equal(v, shown)
    assert not any(np.shares_memory(first.flat, a) for a in (second.flat, u, v))


def test_what_a_sample_sees_depends_on_its_own_labels_alone(few):
    """dz of a pair: another pair's activities do not reach it, but through nothing at all (the mean's 1/B is fixed)."""
    rng = np.random.default_rng(0)
    z, p = rng.standard_normal((8, 5)), rng.standard_normal(5)
    _, _, dz = ops.goodness_contrast(z, p)
    z[[0, 4]] = rng.standard_normal((2, 5))
    _, _, other = ops.goodness_contrast(z, p)
    kept = [1, 2, 3, 5, 6, 7]
    assert np.array_equal(dz[kept], other[kept]) and not np.allclose(dz[0], other[0])


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize(
    ("physics", "changes", "least"),
    [
        ("acoustic", {}, 0.9),
        ("optical", {"skip": False, "lr": 2e-3, "epochs": 100}, 0.85),
        ("microwave", {"epochs": 20, "lr": 2e-3}, 0.75),
        (None, {}, 0.85),
        ([np.sin, np.sign], {}, 0.8),
    ],
)
def test_it_learns_the_vowels(vowels, physics, changes, least):
    learner = PhysicalForwardForward(physics, label_slots=8, random_state=0, **changes).fit(*vowels.train)
    assert learner.score(*vowels.test) > least


def test_the_digital_variant_learns_the_digits():
    digits = data.load("digits")
    learner = PhysicalForwardForward(
        None, (64, 64), variant="digital", scaling="none", batch_size=256, epochs=15, lr=2e-3, random_state=0
    )
    assert learner.fit(*digits.train).score(*digits.test) > 0.85


def test_systems_that_drift_make_noise_and_are_replaced_are_learned_all_the_same(vowels):
    how = {"noise": 0.05, "bits": 8, "drift": 0.02, "replace_at": 100}
    learner = PhysicalForwardForward(label_slots=8, random_state=0, **how).fit(*vowels.train)
    assert learner.score(*vowels.test) > 0.85


def test_native_and_numpy_learn_the_same(few):
    p = []
    for body in ("numpy", "native"):
        with backend(body):
            p.append(small(dtype="float64").fit(*few).predict_proba(few[0]))
    assert np.allclose(*p, atol=1e-6)


def test_the_answer_for_a_row_depends_on_that_row_alone(few):
    learner = small().fit(*few)
    p = learner.predict_proba(few[0])
    assert np.allclose(np.concatenate([learner.predict_proba(few[0][i : i + 1]) for i in range(5)]), p[:5], atol=1e-5)
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)


def test_the_goodness_of_the_layers_adds_up(few):
    learner = small().fit(*few)
    layers = learner.goodness(few[0], layers=True)
    assert layers.shape == (2, 40, len(learner.classes_)) and np.allclose(layers.sum(axis=0), learner.goodness(few[0]))


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("physics", ["acoustic", "optical", "microwave", None])
@pytest.mark.parametrize("body", ["numpy", "native"])
def test_resumed_training_gives_the_same_bits(few, physics, body):
    changes = {"epochs": 4, "batch_size": 16}
    if physics:
        changes |= {"noise": 0.1, "drift": 0.1, "replace_at": 2, "bits": 6}
    with backend(body):
        whole = small(physics, **changes).fit(*few)
        first = small(physics, **changes)
        first.begin(*few)
        for _ in range(3):
            first.advance()
        arrays, meta = first.checkpoint()
        arrays, meta = {k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta))
        second = small(physics, **{**changes, "random_state": 77})
        second.begin(*few)
        second.restore(arrays, meta)
        second.advance()
        assert same(second, whole) and second.history_ == whole.history_
        assert np.array_equal(second.predict_proba(few[0]), whole.predict_proba(few[0]))


def test_same_seed_same_model_other_seed_other_model(few):
    a, b, c = (small(random_state=s).fit(*few) for s in (1, 1, 2))
    assert same(a, b) and not same(a, c)


def test_the_paper_has_its_settings(few):
    assert PhysicalForwardForward.paper("microwave").widths == (20, 20, 20)
    assert PhysicalForwardForward.paper("acoustic", epochs=1).fit(*few).total_ == 1
    digital = PhysicalForwardForward.paper("digital", widths=(8,), epochs=1).fit(*few)
    assert digital.predict_proba(few[0]).shape[0] == 40
    assert PhysicalForwardForward.paper("optical").dtype == "float64"


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"physics": "gravity"}, "physics is 'gravity', expected one of acoustic"),
        ({"physics": [np.sin]}, "or 2 callables"),
        ({"physics": [np.sin, np.sin], "noise": 0.1}, "noise is 0.1, expected nothing: only simulated systems"),
        ({"widths": ()}, "widths is"),
        ({"theta": 0.0}, "theta is 0.0, expected a positive finite number"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"inner_steps": 0}, "inner_steps is 0, expected a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": 0}, "batch_size is 0, expected None or"),
        ({"label_slots": 3}, "label_slots is 3, expected at least"),
        ({"label": "back"}, "label is 'back', expected one of 'front', 'pixels'"),
        ({"label": "pixels", "label_width": 9}, "classes need"),
        ({"variant": "digital"}, "physics is 'acoustic', expected None: the digital variant has none"),
        ({"drift": 2.0}, "drift is 2.0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"scaling": "log"}, "scaling is 'log'"),
        ({"physical_widths": (3,)}, "physical_widths is"),
        ({"physics": [lambda h: h[:1], np.sin]}, None),
    ],
)
def test_bad_settings_are_a_clear_error_before_training(few, changes, match):
    learner = small(**changes)
    if match is None:  # a system that answers with too few rows is found when it is asked
        with pytest.raises(ValueError, match="a system answered"):
            learner.fit(*few)
        return
    with pytest.raises(ValueError, match=match):
        learner.begin(*few)


@pytest.mark.parametrize(
    ("X", "y", "match"),
    [
        (np.full((4, 3), np.nan), [0, 1, 0, 1], "Input X contains NaN"),
        (np.ones((4, 3)), [1, 1, 1, 1], "only one class"),
        (np.ones((0, 3)), [], "0 sample"),
        (np.ones((4, 3)), [0, 1], "inconsistent numbers of samples"),
    ],
)
def test_bad_data_are_a_clear_error(X, y, match):
    with pytest.raises(ValueError, match=match):
        small().fit(X, y)


def test_another_number_of_features_is_a_clear_error(few):
    with pytest.raises(ValueError, match="X has 5 features, but PhysicalForwardForward is expecting 12"):
        small().fit(*few).predict(np.ones((2, 5)))


def test_an_optical_system_can_be_the_users_own(few):
    own = [Optical(20, 6, 0), Optical(6, 5, 1)]
    assert small(own, skip=False).fit(*few).evaluations_ == 2 * 3 * 80 + 2


def test_the_pass_to_read_is_one_pass_of_the_fused_inner_loop():
    """The same loss, and the same weights after it, as `goodness_steps` from the same state."""
    learner = study._small_learner()
    name = next(iter(learner._params))
    params, state, y = learner._params[name], learner._optimizers[name], learner._y
    right, wrong = (learner._input.overlay(learner._X, labels) for labels in (y, (y + 1) % learner._input.K))
    u = learner.see(0, np.concatenate([right, wrong]))
    (loss,) = train_layer(params, state, u, learner.theta, learner.lr, 1)
    taken_apart = study._small_pass()
    assert taken_apart() == pytest.approx(loss, rel=1e-12)
    mine = taken_apart.__closure__[taken_apart.__code__.co_freevars.index("params")].cell_contents
    np.testing.assert_allclose(mine.flat, params.flat, rtol=1e-9, atol=1e-12)
