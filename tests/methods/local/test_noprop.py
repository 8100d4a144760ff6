import json
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import NoProp, data, ops
from refimpl.backends import backend

VARIANTS = ("dt", "ct", "fm")
EMBEDDINGS = ("onehot", "learned", "prototype")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    return digits.x_train[:160], digits.y_train[:160]


def small(**changes):
    return NoProp(**{"T": 3, "width": 16, "epochs": 2, "batch_size": 64, "random_state": 0, **changes})


def same_parameters(a, b):
    return all(np.array_equal(a._params[name].flat, b._params[name].flat) for name in a._params)


# ---------------------------------------------------------------- learning


@pytest.mark.parametrize("variant", VARIANTS)
def test_learns_the_digits(digits, variant):
    """Writers of the test images are new; back-propagation gets 0.92."""
    learner = NoProp(variant, epochs={"dt": 15}.get(variant, 150), width=64, random_state=0)
    learner.fit(digits.x_train, digits.y_train)
    assert learner.score(digits.x_test, digits.y_test) > 0.85
    alone = learner.nearest(learner.denoise(digits.x_test, rng=np.random.default_rng(0)))
    assert np.mean(alone == digits.y_test) > 0.8  # a start of its own for every row, and no read-out


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("embedding", "readout"), [("learned", "linear"), ("learned", "distance"), ("prototype", "linear")]
)
def test_learns_the_digits_with_learned_embeddings(digits, variant, embedding, readout):
    learner = NoProp(variant, embedding, epochs={"dt": 12}.get(variant, 120), width=64, readout=readout, random_state=0)
    learner.set_params(readout_sigma=0.5).fit(digits.x_train, digits.y_train)
    assert learner.score(digits.x_test, digits.y_test) > 0.8
    assert learner._params["embedding"]["table"].shape == (10, 20 if embedding == "learned" else 64)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "learned"])
def test_every_schedule_learns(digits, schedule):
    learner = NoProp("ct", schedule=schedule, epochs=100, width=64, random_state=0).fit(digits.x_train, digits.y_train)
    assert learner.score(digits.x_test, digits.y_test) > 0.85


@pytest.mark.parametrize(
    ("variant", "embedding", "epochs"),
    [("dt", "onehot", 8), ("dt", "learned", 8), ("dt", "prototype", 8), ("ct", "onehot", 40), ("fm", "onehot", 40)],
)
def test_the_convolutional_block_learns(digits, variant, embedding, epochs):
    learner = NoProp(variant, embedding, block="conv", width=64, T=3, batch_size=32, epochs=epochs, random_state=0)
    learner.set_params(lr=3e-3).fit(digits.x_train[:600], digits.y_train[:600])
    assert learner.score(digits.x_train[600:900], digits.y_train[600:900]) > 0.75


def test_one_block_alone_denoises_before_any_other_is_trained(digits):
    """Block 7, trained first: from z_6 of the noise process (labels used, to make its input) it finds the clean label;
    an untrained block does not."""
    learner = NoProp(T=10, epochs=8, order=[7, 1, 2, 3, 4, 5, 6, 8, 9, 10], random_state=0)
    learner.begin(digits.x_train, digits.y_train)
    untrained = learner._params["block7"].copy()
    for unit in range(80):
        if unit % 10 == 0:
            learner._advance_chain(0)
    x, y = digits.x_test, digits.y_test
    pure = np.random.default_rng(0).standard_normal((len(y), 10), np.float32)  # not even a noisy label

    def accuracy(params):
        f, _ = learner._block().forward(params, (x, pure))
        return np.mean(ops.softmax_mixture(f)[0].argmax(axis=1) == y)

    assert accuracy(learner._params["block7"]) > 0.6 > accuracy(untrained)


# ---------------------------------------------------------------- independence of blocks


@pytest.mark.parametrize("body", ["numpy", "native"])
@given(order=st.permutations([1, 2, 3]))
@settings(max_examples=5)
def test_blocks_trained_in_any_order_have_the_same_bits(few, body, order):
    with backend(body):
        reference = small().fit(*few)
        assert same_parameters(small(order=tuple(order)).fit(*few), reference)
        assert same_parameters(small(order="reverse").fit(*few), reference)


def test_blocks_trained_side_by_side_have_the_same_bits(few):
    reference = small().fit(*few)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes, ThreadPoolExecutor(2) as threads:
        for executor in (processes, threads):
            learner = small().fit(*few, executor=executor)
            assert same_parameters(learner, reference)
            assert np.array_equal(learner.predict_proba(few[0]), reference.predict_proba(few[0]))
            assert learner.history_ == reference.history_ and learner.progress_ == learner.total_


def test_an_executor_needs_independent_blocks(few):
    with ThreadPoolExecutor(1) as executor:
        for changes in ({"variant": "ct"}, {"variant": "fm"}, {"embedding": "learned"}):
            with pytest.raises(ValueError, match="an executor needs independent blocks"):
                small(**changes).fit(*few, executor=executor)


def test_training_one_block_touches_no_array_of_another(few):
    learner = small()
    learner.begin(*few)
    before = {name: params.flat.copy() for name, params in learner._params.items()}
    learner.advance()  # block 1
    changed = {name for name, params in learner._params.items() if not np.array_equal(params.flat, before[name])}
    assert changed == {"block1", "readout"}
    flats = [params.flat for params in learner._params.values()]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(flats) for b in flats[:i])


# ---------------------------------------------------------------- inference


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_the_answer_for_a_row_depends_on_that_row_alone(few, variant, embedding):
    X, y = few
    learner = small(variant=variant, embedding=embedding, noise="sampled", steps=3).fit(X, y)
    p = learner.predict_proba(X)
    shuffled = np.random.default_rng(0).permutation(len(X))
    assert np.allclose(learner.predict_proba(X[shuffled]), p[shuffled], atol=1e-6)
    assert np.allclose(np.concatenate([learner.predict_proba(X[i : i + 1]) for i in range(5)]), p[:5], atol=1e-6)
    assert np.array_equal(learner.predict_proba(X), p)
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_label_leaks_into_inference(few, variant):
    """Trained on labels that say nothing, a test set cannot be told apart; the leak that scores 100 % would show."""
    X, _ = few
    y = np.arange(len(X)) % 10
    learner = small(variant=variant, epochs=3).fit(X, np.random.default_rng(0).permutation(y))
    fresh = np.random.default_rng(1).standard_normal((2000, *X.shape[1:])).astype(np.float32)
    labels = np.random.default_rng(2).integers(0, 10, 2000)
    assert abs(learner.score(fresh, labels) - 0.1) < 5 * np.sqrt(0.09 / 2000)


def test_path_of_the_chain_starts_from_noise_and_follows_the_equation(few):
    X, y = few
    learner = small().fit(X, y)
    path = learner.denoise(X, rng=np.random.default_rng(0), path=True)
    assert path.shape == (4, len(X), 10)
    assert np.array_equal(path[0], np.random.default_rng(0).standard_normal(path[0].shape, np.float32))
    f, _ = learner._block().forward(learner._params["block1"], (X, path[0]))
    uhat, _ = ops.softmax_mixture(f)
    assert np.allclose(learner._chain.step(1, uhat, path[0], None), path[1], atol=1e-5)
    assert np.array_equal(learner.nearest(path[-1]), path[-1].argmax(axis=1))


def test_sampled_noise_and_another_order_of_blocks_change_the_way(few):
    X, y = few
    learner = small().fit(X, y)
    ways = [
        learner.denoise(X, rng=np.random.default_rng(0), **how)
        for how in ({}, {"noise": "sampled"}, {"order": [3, 2, 1]}, {"order": [1, 2]})
    ]
    assert not any(np.allclose(a, b) for i, a in enumerate(ways) for b in ways[:i])


def test_more_steps_of_euler_approach_heun(digits):
    learner = NoProp("ct", epochs=40, width=32, random_state=0).fit(digits.x_train, digits.y_train)
    far = learner.denoise(digits.x_test, steps=400, integrator="heun")
    errors = [np.abs(learner.denoise(digits.x_test, steps=s, integrator="euler") - far).mean() for s in (20, 80, 320)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_resumed_training_gives_the_same_bits(few, variant, embedding, body):
    changes = {"variant": variant, "embedding": embedding}
    if variant == "ct":
        changes["schedule"] = "learned"
    with backend(body):
        whole = small(**changes).fit(*few)
        first = small(**changes)
        first.begin(*few)
        first.advance()
        arrays, meta = first.checkpoint()
        arrays, meta = {k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta))
        second = small(**{**changes, "random_state": 77})
        second.begin(*few)
        second.restore(arrays, meta)
        while second.progress_ < second.total_:
            second.advance()
    assert same_parameters(second, whole) and second.history_ == whole.history_
    with backend(body):
        assert np.array_equal(second.predict_proba(few[0]), whole.predict_proba(few[0]))


def test_convolutional_blocks_resume_with_their_dropout_and_running_statistics(few):
    settings = {"block": "conv", "T": 2, "width": 8, "epochs": 1}
    whole = small(**settings).fit(*few)
    first, second = small(**settings), small(**{**settings, "random_state": 5})
    first.begin(*few)
    first.advance()
    second.begin(*few)
    second.restore(*first.checkpoint())
    second.advance()
    assert np.array_equal(second.predict_proba(few[0]), whole.predict_proba(few[0]))
    assert same_parameters(pickle.loads(pickle.dumps(whole)), whole)


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_seed_same_model_other_seed_other_model(few, variant):
    a, b, c = (small(variant=variant, random_state=s).fit(*few) for s in (1, 1, 2))
    assert same_parameters(a, b) and not same_parameters(a, c)
    generators = [small(variant=variant, random_state=np.random.default_rng(1)).fit(*few) for _ in range(2)]
    assert same_parameters(*generators)


def test_native_and_numpy_learn_the_same(few):
    """Not to the same bits, but from the same random numbers: predictions agree after a short training."""
    p = []
    for body in ("numpy", "native"):
        with backend(body):
            p.append(small(dtype="float64").fit(*few).predict_proba(few[0]))
    assert np.allclose(*p, atol=1e-6)


def test_labels_of_any_kind_come_back():
    X = np.array([[0.0, 1.0], [1.0, 0.0]] * 20)
    y = np.array(["cat", "dog"] * 20)
    assert small(epochs=60, lr=1e-2).fit(X, y).predict(X[:2]).tolist() == ["cat", "dog"]


def test_rows_of_pixels_with_an_image_shape_are_images(few):
    X, y = few
    settings = {"block": "conv", "width": 8, "T": 1, "epochs": 1}
    a = small(**settings).fit(X, y)
    b = small(**settings, image_shape=(1, 8, 8)).fit(X.reshape(-1, 64), y)
    assert same_parameters(a, b) and np.array_equal(a.predict_proba(X), b.predict_proba(X.reshape(-1, 64)))


def test_prototypes_are_images_of_their_class(few):
    learner = small(embedding="prototype")
    learner.begin(*few)
    table, (X, y) = learner._params["embedding"]["table"], few
    for k in range(10):
        own = X[y == k].reshape(-1, 64)
        medians = [np.median(((own - image) ** 2).sum(axis=1)) for image in own]
        assert np.array_equal(table[k], own[int(np.argmin(medians))])


def test_the_papers_values(few):
    assert NoProp.paper("dt").get_params()["block"] == "conv"
    assert NoProp.paper("ct").steps == 1000 and NoProp.paper("ct").schedule == "learned"
    small_run = NoProp.paper("fm", epochs=1, width=8, steps=2, random_state=0).fit(*few)
    assert small_run.predict(few[0][:3]).shape == (3,)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "sde"}, "variant is 'sde', expected one of 'dt', 'ct', 'fm'"),
        ({"T": 0}, "T is 0, expected a whole number of at least 1"),
        ({"T": 2.5}, "T is 2.5"),
        ({"width": 0}, "width is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"draws": 0}, "draws is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"eta": 0.0}, "eta is 0.0, expected a positive number"),
        ({"eta": float("nan")}, "eta is nan"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"sigma": -0.1}, "sigma is -0.1"),
        ({"readout_sigma": 0.0}, "readout_sigma is 0.0"),
        ({"lowest": 0.5, "highest": 0.4}, "expected 0 < lowest < highest < 1"),
        ({"embedding": "random"}, "embedding is 'random'"),
        ({"embedding": "learned", "embedding_dim": 0}, "embedding_dim is 0"),
        ({"readout": "tree"}, "readout is 'tree'"),
        ({"noise": "loud"}, "noise is 'loud'"),
        ({"integrator": "rk4"}, "integrator is 'rk4'"),
        ({"block": "conv"}, "takes images"),
        ({"block": "attention"}, "block is 'attention'"),
        ({"schedule": "linear"}, "schedule is 'linear', expected one of 'cosine' for variant 'dt'"),
        ({"variant": "ct", "schedule": "steep"}, "schedule is 'steep'"),
        ({"variant": "fm", "schedule": "linear"}, "expected None: flow matching has none"),
        ({"variant": "fm", "eta": 0.1}, "expected None: flow matching has none"),
        ({"order": "random"}, "order is 'random'"),
        ({"order": [1, 1, 2]}, "a permutation of 1..3"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
        ({"optimizer": "magic"}, "optimizer is 'magic'"),
        ({"image_shape": (1, 3, 3)}, "but X has 4 features"),
    ],
)
def test_unusable_settings_are_clear_errors(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change).fit(np.eye(4).repeat(2, axis=0), np.arange(8) % 2)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.ones((4, 2)), np.zeros(4), "only one class"),
        (np.ones((4, 2)), np.arange(3), "inconsistent numbers of samples"),
        (np.full((4, 2), np.nan), np.arange(4), "contains NaN"),
        (np.ones((0, 2)), np.zeros(0), r"0 sample\(s\)"),
    ],
)
def test_unusable_data_are_clear_errors(X, y, message):
    with pytest.raises(ValueError, match=message):
        small().fit(X, y)


def test_prediction_with_other_features_before_fit_or_with_unusable_settings_is_a_clear_error(few):
    with pytest.raises(ValueError, match="not fitted yet"):
        small().denoise(few[0])
    learner = small(epochs=0).fit(*few)
    with pytest.raises(ValueError, match="X has 3 features, but NoProp is expecting 64"):
        learner.predict(np.ones((2, 3)))
    for how, message in (
        ({"order": [4]}, "order is"),
        ({"order": [1, 2, 3, 1]}, "at most 3"),
        ({"noise": "x"}, "noise is 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.denoise(few[0], **how)
    with pytest.raises(ValueError, match="one network, not a chain"):
        small(variant="fm", epochs=0).fit(*few).denoise(few[0], order=[1])
