"""Losses, gradients and locality of counter-current learning, and the learner."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import BackpropClassifier, CounterCurrent, ShallowClassifier, data, ops
from refimpl.backends import backend
from refimpl.methods.local.counter_current.learner import _moved
from refimpl.methods.local.counter_current.losses import (
    centralise,
    clip,
    gradients,
    matching,
    normalised_matching,
)
from refimpl.methods.local.counter_current.networks import (
    Standardise,
    backprop_flops,
    conv_pair,
    mlp_pair,
    step_flops,
)
from refimpl.nn import Params, initialise
from tests.harness import assert_gradient, central_differences, relative_error

K = 3
seeds = st.integers(0, 2**32 - 1)
few_examples = settings(max_examples=4)
PAIRS = {
    "mlp": mlp_pair(5, K, (4, 6)),
    "deep": mlp_pair(5, K, (4, 6, 3, 4)),
    "cnn": conv_pair((2, 4, 4), K, (3, 4)),
    "cnn_pool": conv_pair((1, 4, 4), K, (3, 4), pool=True),
}
each_pair = pytest.mark.parametrize("kind", PAIRS)


class Case:
    """Both networks in float64 and a batch."""

    def __init__(self, kind, seed, B=5):
        self.pair, rng = PAIRS[kind], np.random.default_rng(seed)
        self.up = initialise(self.pair.forward_network, rng, np.float64)
        self.down = initialise(self.pair.feedback_network, rng, np.float64)
        for params in (self.up, self.down):
            params.flat += 0.3 * rng.standard_normal(params.size)
        self.x, self.y = rng.standard_normal((B, *self.pair.shapes[0])), rng.integers(0, K, B)
        self.sS = None if kind in ("mlp", "deep") else 0.7

    def run(self, **options):
        """Terms and both gradients."""
        up, down = self.up.zeros_like(), self.down.zeros_like()
        terms = gradients(
            self.pair, self.up, self.down, up, down, self.x, self.y, K, **{"sC": 0.4, "sS": self.sS, **options}
        )
        return terms, up, down


def of_level(grads, level):
    """Gradient windows of one level."""
    return {name: g.copy() for name, g in grads.items() if name.startswith(f"level{level}.")}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- gradients


@each_pair
@pytest.mark.parametrize("options", [{}, {"on_batch": True}], ids=["classes", "batch"])
@given(seed=seeds)
@few_examples
def test_gradients_of_each_level_equal_central_differences_of_its_own_loss(kind, options, seed):
    case = Case(kind, seed)
    _, up, down = case.run(**options)
    for level in range(case.pair.L):

        def loss():
            return case.run(**options)[0].levels[level]  # noqa: B023  (called inside the loop)

        trained = [(case.down, down, level + 1), *([(case.up, up, level)] if level else [])]
        for params, grads, owner in trained:
            for name, g in of_level(grads, owner).items():
                assert_gradient(g, loss, params[name], of=name)
    for name, g in of_level(up, case.pair.L).items():
        assert_gradient(g, lambda: case.run(**options)[0].cross_entropy, case.up[name])


@given(seed=seeds)
@few_examples
def test_gradients_with_the_target_filter_equal_central_differences(seed):
    case = Case("cnn", seed, B=6)
    case.up["level3.weights.weight"][...] *= 8  # some samples become sure
    terms, up, _ = case.run(drop=True)
    name = "level1.weights.weight"
    assert_gradient(up[name], lambda: case.run(drop=True)[0].levels[1], case.up[name])
    assert 0 <= terms.kept <= 6


@each_pair
def test_the_true_derivative_reaches_lower_layers_and_is_cut(kind):
    """ell_2 depends on F_1, but dF_1 is the derivative of ell_1 alone."""
    case = Case(kind, 3)
    _, up, _ = case.run()
    name = "level1.weights.weight"
    through = central_differences(lambda: case.run()[0].levels[2], case.up[name])
    assert np.abs(through).max() > 1e-4
    own = central_differences(lambda: case.run()[0].levels[1], case.up[name])
    assert relative_error(up[name], own) < 1e-6 < relative_error(up[name], own + through)


@given(seed=seeds, scale=st.floats(0.5, 50))
def test_normalised_losses_do_not_see_the_length_of_a_row_and_gradients_are_orthogonal_to_it(seed, scale):
    rng = np.random.default_rng(seed)
    a, c = rng.standard_normal((5, 7)), rng.standard_normal((K, 7))
    target = np.eye(K)[rng.integers(0, K, 5)]
    loss, da, dc = normalised_matching(a, c, target, 0.4, 0.7)
    assert np.isclose(normalised_matching(scale * a, c, target, 0.4, 0.7)[0], loss, atol=1e-6)
    assert np.allclose((a * da).sum(axis=1), 0, atol=1e-7) and np.allclose((c * dc).sum(axis=1), 0, atol=1e-7)


@pytest.mark.parametrize("filtered", [False, True])
@given(seed=seeds)
@few_examples
def test_normalised_losses_and_gradients_are_those_of_the_formula_in_order(filtered, seed):
    """(5) to (8) as they are written: rows divided by their lengths, one after the other."""
    rng = np.random.default_rng(seed)
    a, c = rng.standard_normal((5, 7)), 3 * rng.standard_normal((K, 7))
    target = np.eye(K)[rng.integers(0, K, 5)]
    keep = np.array([1.0, 0, 1, 1, 0])[:, None] if filtered else np.ones((5, 1))

    def rows(x):
        return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-8)

    def loss(a, c):
        ahat, chat = rows(a * keep), rows(c)
        terms = ahat @ chat.T - target, ahat @ ahat.T - np.eye(5), chat @ chat.T - np.eye(K)
        return sum(s * np.mean(t**2) for s, t in zip((0.4, 0.7, 0.7), terms))

    found, da, dc = normalised_matching(a, c, target, 0.4, 0.7, keep if filtered else None)
    assert np.isclose(found, loss(a, c), rtol=1e-12)
    assert relative_error(da, central_differences(lambda: loss(a, c), a)) < 1e-6
    assert relative_error(dc, central_differences(lambda: loss(a, c), c)) < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_of_zeros_gets_a_finite_gradient_towards_its_class(dtype):
    """n = 0: ahat = 0, and dahat / e is all there is: 2 sC / (B K) (0 - Y) chat / e."""
    rng = np.random.default_rng(0)
    a, c = rng.standard_normal((2, 3)).astype(dtype), np.eye(3, dtype=dtype)[:2]
    a[1] = 0
    loss, da, dc = normalised_matching(a, c, np.eye(2, dtype=dtype), 0.4, 0.0)
    assert np.isfinite(loss) and np.isfinite(dc).all()
    assert np.allclose(da[1], np.array([0, -0.2, 0]) / 1e-8, rtol=1e-6)
    zeros = np.zeros_like(a)
    assert np.isfinite(normalised_matching(zeros, np.zeros_like(c), np.eye(2, dtype=dtype), 0.4, 0.7)[1]).all()


def test_a_level_computed_by_hand():
    """One sample a = (1, 2) of class 0, prototypes (1, 0) and (0, 1), n = 2, sC = 1/64: kappa = 2, S = (1, 2),
    S - Y = (0, 2), ell = 2 (0 + 4) / 2 = 4, G = 2 (0, 2) = (0, 4), da = (0, 4), dc = ((0, 0), (4, 8))."""
    loss, da, dc = matching(np.array([[1.0, 2.0]]), np.eye(2), np.array([[1.0, 0.0]]), 1 / 64)
    assert np.isclose(loss, 4)
    assert np.allclose(da, [[0, 4]]) and np.allclose(dc, [[0, 0], [4, 8]])


# ---------------------------------------------------------------- locality


@each_pair
@pytest.mark.parametrize("body", ["numpy", "native"])
@given(seed=seeds)
@few_examples
def test_an_update_sees_its_own_level_and_nothing_else(kind, body, seed):
    """F_l sees what comes up (F_1..F_l) and the prototypes of its level (W_{l+1}..W_L); W_{l+1} sees the same. All
    other weights, set to anything, leave both updates as they were, to the bit."""
    case, rng = Case(kind, seed), np.random.default_rng(seed)
    L = case.pair.L
    with backend(body):
        _, up, down = case.run()
        kept = case.up.flat.copy(), case.down.flat.copy()
        for level in range(L):
            for name, window in case.up.items():
                if int(name[5 : name.index(".")]) > level:
                    window[...] = rng.standard_normal(window.shape)
            for name, window in case.down.items():
                if int(name[5 : name.index(".")]) <= level:
                    window[...] = rng.standard_normal(window.shape)
            _, after_up, after_down = case.run()
            if level:
                assert same(of_level(up, level), of_level(after_up, level))
            assert same(of_level(down, level + 1), of_level(after_down, level + 1))
            assert not np.array_equal(up.flat, after_up.flat) and (
                not level or not np.array_equal(down.flat, after_down.flat)
            )
            case.up.flat[...], case.down.flat[...] = kept
        case.down.flat[...] = rng.standard_normal(case.down.size)
        assert same(of_level(up, L), of_level(case.run()[1], L))  # the output sees no feedback at all


def test_a_whole_step_is_local_where_gradients_are_clipped_by_level(few):
    """With clip_scope "level", the step of W_1 (and of F_1) is the same whatever stands above in the forward network;
    with "network" the norm of other levels is seen."""
    for scope, local in (("level", True), ("network", False)):
        steps = []
        for factor in (1, -30):
            learner = small(clip_scope=scope, clip=0.01)
            learner.begin(*few)
            learner._params["forward"]["level3.weights.weight"][...] *= factor
            before = learner._params["forward"]["level1.weights.weight"].copy()
            learner._step(learner._X[:64], learner._y[:64])
            steps.append(learner._params["forward"]["level1.weights.weight"] - before)
        assert np.array_equal(*steps) is local


def test_the_filter_is_the_one_part_that_looks_at_the_output(few):
    """It is computed from a_L: a change above is felt below through it, and only through it."""
    case = Case("cnn", 0)
    top = case.up["level3.weights.weight"]
    before = {drop: of_level(case.run(drop=drop)[1], 1) for drop in (False, True)}
    top[...] = (
        np.where(np.arange(K) == case.y[0], 50.0, -50.0)
        * np.sign(case.pair.ascend(case.up, case.x)[0][-2][0].ravel())[:, None]
    )
    assert same(before[False], of_level(case.run(drop=False)[1], 1))
    assert not same(before[True], of_level(case.run(drop=True)[1], 1))


@pytest.mark.parametrize("seed", range(3))
def test_dropped_samples_give_exactly_no_gradient(seed):
    rng = np.random.default_rng(seed)
    a, c, target = rng.standard_normal((5, 4)), rng.standard_normal((K, 4)), np.eye(K)[rng.integers(0, K, 5)]
    keep = np.array([1.0, 0, 1, 0, 1])[:, None]
    _, da, dc = normalised_matching(a, c, target, 0.4, 0.7, keep)
    assert (da[[1, 3]] == 0).all() and (da[[0, 2, 4]] != 0).all()
    a[[1, 3]] = 1e3 * rng.standard_normal((2, 4))
    target[[1, 3]] = np.eye(K)[[0, 0]]
    _, again, dc_again = normalised_matching(a, c, target, 0.4, 0.7, keep)
    assert np.array_equal(da, again) and np.array_equal(dc, dc_again)


# ---------------------------------------------------------------- what else must hold


@given(seed=seeds)
def test_with_perfect_similarities_hidden_gradients_vanish(seed):
    rng = np.random.default_rng(seed)
    c = np.linalg.qr(rng.standard_normal((6, K)))[0].T
    y = rng.integers(0, K, 5)
    loss, da, dc = matching(c[y], c, np.eye(K)[y], 0.5)
    assert loss < 1e-25 and np.abs(da).max() < 1e-12 and np.abs(dc).max() < 1e-12


@each_pair
@given(seed=seeds)
@few_examples
def test_one_sample_of_each_class_in_order_makes_both_inputs_of_the_feedback_network_equal(kind, seed):
    case = Case(kind, seed, B=K)
    case.y = np.arange(K)
    one, other = case.run(), case.run(on_batch=True)
    assert np.allclose(one[0].levels, other[0].levels) and np.allclose(one[1].flat, other[1].flat)
    assert np.allclose(one[2].flat, other[2].flat)


@each_pair
@given(seed=seeds)
@few_examples
def test_the_order_of_the_batch_and_the_names_of_the_classes_change_nothing(kind, seed):
    case, rng = Case(kind, seed), np.random.default_rng(seed)
    terms, up, down = case.run()
    rows, names = rng.permutation(5), rng.permutation(K)
    case.x, case.y = case.x[rows], names[case.y[rows]]
    top, first = f"level{case.pair.L}.weights.weight", f"level{case.pair.L}.weights.weight"
    case.up[top][...] = case.up[top][:, np.argsort(names)]
    case.down[first][...] = case.down[first][np.argsort(names)]
    again, up_again, down_again = case.run()
    assert np.allclose(again.levels, terms.levels) and np.isclose(again.cross_entropy, terms.cross_entropy)
    for name in up:
        expected = up[name][:, np.argsort(names)] if name == top else up[name]
        assert np.allclose(up_again[name], expected, atol=1e-12)
    for name in down:
        expected = down[name][np.argsort(names)] if name == first else down[name]
        assert np.allclose(down_again[name], expected, atol=1e-12)


def test_without_hidden_layers_it_is_softmax_regression_and_templates(few):
    """L = 1: F_1 learns from the cross-entropy alone, as in back-propagation; W_1 becomes K linear templates."""
    learner = CounterCurrent(hidden=(), epochs=3, random_state=0).fit(*few)
    probe = CounterCurrent(hidden=(), epochs=0, random_state=0).fit(*few)
    twin = BackpropClassifier(
        model=probe.network(), optimizer="sgd", lr=1.0, weight_decay=0.0, clip=1.0, epochs=3, batch_size=256
    )
    twin.begin(*few)
    twin._params["net"].flat[...] = probe._params["forward"].flat
    twin._rngs["train"].bit_generator.state = probe._rngs["train"].bit_generator.state
    for _ in range(3):
        twin.advance()
    assert np.allclose(twin.predict_proba(few[0]), learner.predict_proba(few[0]), atol=1e-4)
    assert np.allclose(learner.prototypes()[0], learner._params["feedback"]["level1.weights.weight"])


@given(seed=seeds, most=st.floats(1e-3, 100), by_level=st.booleans())
def test_clipping_bounds_the_norm_and_keeps_the_direction(seed, most, by_level):
    rng = np.random.default_rng(seed)
    grads = Params({"level1.w": (3, 4), "level2.w": (2,), "level2.b": (3,)}, dtype=np.float64)
    grads.flat[...] = 10.0 ** rng.integers(-2, 3) * rng.standard_normal(grads.size)
    before = grads.copy()
    clip(grads, most, by_level)
    parts = [slice(0, 12), slice(12, 17)] if by_level else [slice(0, 17)]
    for part in parts:
        g, b = grads.flat[part], before.flat[part]
        assert np.linalg.norm(g) <= most
        assert np.allclose(g * np.linalg.norm(b), b * np.linalg.norm(g), rtol=1e-9)
        if np.linalg.norm(b) < 0.99 * most:
            assert np.array_equal(g, b)


def test_centralised_gradients_have_no_mean_over_a_unit_s_inputs():
    grads = initialise(PAIRS["cnn"].forward_network, np.random.default_rng(0), np.float64)
    grads["level1.weights.bias"][...] = 3
    centralise(grads)
    assert np.allclose(grads["level1.weights.weight"].mean(axis=(1, 2, 3)), 0)
    assert np.allclose(grads["level3.weights.weight"].mean(axis=0), 0)  # (in, out)
    assert (grads["level1.weights.bias"] == 3).all()


def test_counted_operations_of_a_step_by_hand():
    """784-256x5-10 with 256 rows. P = 465,408 weights; levels 0..5 have 2,064 entries together. The card counts 526
    million with the gradient of the image (2 B K 784), which nothing needs."""
    pair, P = mlp_pair(784, 10), 465_408
    levels = 2 * 256 * 10 * (3 * 2064 - 784)
    assert step_flops(pair, 256, 10) == 4 * 256 * P + 4 * 10 * P + levels
    assert round((step_flops(pair, 256, 10) + 2 * 256 * 10 * 784) / 1e6) == 527
    assert backprop_flops(pair, 256) == 6 * 256 * P - 2 * 256 * 784 * 256


def test_standardising_is_undone_by_its_numbers():
    layer = Standardise((1.0, 2.0), (2.0, 4.0))
    x = np.random.default_rng(0).standard_normal((3, 2, 2, 2))
    y, saved = layer.forward({}, x)
    assert np.allclose(y[:, 1] * 4 + 2, x[:, 1])
    assert np.allclose(layer.backward({}, {}, saved, np.ones_like(x))[:, 0], 0.5)


def test_moved_images_are_shifts_and_mirrors():
    rng = np.random.default_rng(0)
    x = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8).repeat(40, axis=0)
    moved = _moved(x, rng)
    assert set(np.unique(moved)) <= set(range(64)) and len({m.tobytes() for m in moved}) > 20
    centre = moved[:, 0, 4, 4:6]
    assert {float(np.sign(b - a)) for a, b in centre} >= {1.0, -1.0}  # left to right, and mirrored


# ---------------------------------------------------------------- the learner


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    return digits.x_train[:200], digits.y_train[:200]


def small(**changes):
    return CounterCurrent(
        **{"hidden": (24, 16), "channels": (8, 12), "epochs": 3, "batch_size": 64, "random_state": 0, **changes}
    )


def test_learns_the_digits_and_every_level_knows_the_class(digits):
    learner = CounterCurrent(epochs=100, random_state=0).fit(*digits.train)
    assert learner.score(*digits.test) > 0.85  # chance is 0.1; the test writers are new
    for level in range(1, 6):
        assert np.mean(learner.predict_at(digits.x_test, level) == digits.y_test) > 0.8
    assert learner.cosines()[6] > 0.3 > abs(CounterCurrent(epochs=0).fit(*digits.train).cosines()[6])
    shallow = ShallowClassifier(model=learner.network(), optimizer="sgd", lr=1.0, weight_decay=0.0, clip=1.0)
    shallow.set_params(epochs=100, batch_size=256, random_state=0).fit(*digits.train)
    assert shallow.score(*digits.test) < learner.score(*digits.test)


@pytest.mark.parametrize("variant", ["cnn", "cnn_pool"])
def test_convolutional_networks_learn(digits, variant):
    pool = variant == "cnn_pool"
    learner = CounterCurrent(
        variant, channels=(16, 32, 64), warmup=20, target_filter=pool, centralise=pool, epochs=25, batch_size=64
    )
    learner.set_params(random_state=0).fit(*digits.train)
    assert learner.score(*digits.test) > 0.8
    assert np.mean(learner.predict_at(digits.x_test, 2) == digits.y_test) > 0.6
    if pool:
        assert learner.history_[-1]["kept"] < learner.history_[0]["kept"]


OPTIONS = [
    {},
    {"feedback_input": "batch", "clip_scope": "level", "momentum": 0.5, "weight_decay": 1e-4},
    {"feedback_lr": 0.1, "feedback_clip": np.inf, "schedule": "cosine", "warmup": 4, "lr": 0.5},
    {"variant": "cnn", "centralise": True},
    {"variant": "cnn_pool", "target_filter": True, "augment": True, "image_shape": (1, 8, 8), "channels": (4, 6, 8)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("body", ["numpy", "native"])
def test_resumed_training_gives_the_same_bits(few, options, body):
    with backend(body):
        whole = small(**options).fit(*few)
        first, second = small(**options), small(**{**options, "random_state": 9})
        first.begin(*few)
        first.advance()
        arrays, meta = first.checkpoint()
        second.begin(*few)
        second.restore({k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta)))
        while second.progress_ < second.total_:
            second.advance()
        assert np.array_equal(second.predict_proba(few[0]), whole.predict_proba(few[0]))
        assert second.history_ == whole.history_
        copy = pickle.loads(pickle.dumps(whole))
        assert np.array_equal(copy.predict_proba(few[0]), whole.predict_proba(few[0]))


def test_an_untrained_feedback_network_stays_as_it_was(few):
    learner = small(train_feedback=False)
    learner.begin(*few)
    before = {name: p.flat.copy() for name, p in learner._params.items()}
    learner.advance()
    assert np.array_equal(before["feedback"], learner._params["feedback"].flat)
    assert not np.array_equal(before["forward"], learner._params["forward"].flat)


def test_warming_up_shortens_the_first_steps(few):
    moves = []
    for warmup in (0, 10):
        learner = small(warmup=warmup, clip=np.inf, lr=1e-3)
        learner.begin(*few)
        before = learner._params["forward"].flat.copy()
        learner._step(learner._X[:64], learner._y[:64])
        moves.append(learner._params["forward"].flat - before)
    assert np.allclose(moves[1], moves[0] / 10, atol=1e-7)


def test_images_are_padded_with_black(few):
    learner = small(variant="cnn", channels=(4, 4, 4, 4), epochs=0).fit(*few)
    x = next(iter(learner._chunks(few[0][:3])))
    assert x.shape == (3, 1, 16, 16)
    black = learner._standardise.apply({}, np.zeros((1, 1, 1, 1), np.float32))
    assert np.allclose(x[:, :, :4], black) and np.allclose(
        x[:, :, 4:12, 4:12], learner._standardise.apply({}, few[0][:3])
    )
    with pytest.raises(ValueError, match="are padded, expected none to be"):
        learner.network()


def test_the_papers_values_can_be_had():
    learner = CounterCurrent.paper("cifar-10", "cnn_pool", epochs=2)
    assert (learner.momentum, learner.clip, learner.sC, learner.target_filter) == (0.8, 0.3, 1.0, True)
    assert learner.epochs == 2 and CounterCurrent.paper("cifar-10").hidden == (1024,) * 3
    learner = CounterCurrent.paper("cifar-100", "cnn_pool")
    assert (learner.momentum, learner.clip, learner.target_filter, learner.sC) == (0.5, math.inf, False, 1.0)
    with pytest.raises(ValueError, match=r"no settings for 'stl', expected one of mnist, .*, cifar-100"):
        CounterCurrent.paper("stl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "rnn"}, "variant is 'rnn', expected one of 'mlp', 'cnn', 'cnn_pool'"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"hidden": (4, 0)}, r"hidden is \(4, 0\), expected whole numbers of at least 1"),
        ({"hidden": 4}, "hidden is 4, expected whole numbers"),
        ({"channels": (4, 2.5)}, r"channels is \(4, 2.5\), expected whole numbers"),
        ({"feedback_clip": -1.0}, "feedback_clip is -1.0"),
        ({"sC": -1.0}, "sC is -1.0"),
        ({"sS": -1.0}, "sS is -1.0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"warmup": -1}, "warmup is -1"),
        ({"clip_scope": "layer"}, "clip_scope is 'layer'"),
        ({"feedback_input": "noise"}, "feedback_input is 'noise'"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"target_filter": True}, "target_filter is True, expected False for variant 'mlp'"),
        ({"augment": True}, "augment is True, expected False for variant 'mlp'"),
        ({"variant": "cnn"}, r"X has shape \(n, 4\), expected images, or image_shape"),
        ({"variant": "cnn", "image_shape": (1, 3, 3)}, "but X has 4 features"),
    ],
)
def test_unusable_settings_are_clear_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes).fit(np.eye(4), np.arange(4) % 2)


def test_unusable_data_and_levels_are_clear_errors(few):
    for X, y, message in (
        (np.full((4, 2), np.nan), np.arange(4) % 2, "contains NaN"),
        (np.ones((4, 2)), np.zeros(4), "only one class"),
        (np.ones((4, 2)), np.arange(3), "inconsistent numbers of samples"),
    ):
        with pytest.raises(ValueError, match=message):
            small().fit(X, y)
    with pytest.raises(ValueError, match="not fitted yet"):
        small().prototypes()
    with pytest.raises(ValueError, match=r"level is 7, expected 0\.\.3"):
        small(epochs=1).fit(*few).predict_at(few[0], 7)
    with pytest.raises(ValueError, match="H and W multiples of 4"):
        conv_pair((1, 6, 6), 3, (2, 2))


def test_cross_entropy_alone_reaches_the_output(few):
    """dF_L = ((softmax(a_L) - Y) / B)^T a_{L-1}."""
    case = Case("mlp", 1)
    _, up, _ = case.run()
    a, _ = case.pair.ascend(case.up, case.x)
    expected = a[-2].T @ (ops.softmax(a[-1]) - np.eye(K)[case.y]) / 5
    assert np.allclose(up["level3.weights.weight"], expected)
