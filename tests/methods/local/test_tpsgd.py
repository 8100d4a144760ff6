"""TPSGD: codes, locality, special cases that hold exactly, schedules, adaptors, checkpoints, errors, memory."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import TPSGD, BackpropClassifier, RandomTargetProjectionClassifier, TPSGDRecurrent, data, ops
from refimpl.backends import backend
from refimpl.baselines.feedback import direct_backward
from refimpl.data.evidence import draw_evidence
from refimpl.methods.local.tpsgd import (
    Projections,
    class_means,
    convnet,
    local_layers,
    peak_bytes,
    reach,
    rows_mlp,
    step_weights,
    timeline,
)
from refimpl.nn import Activation, Conv2d, Flatten, Linear, Residual, RowLinear, Sequential

few_examples = settings(max_examples=5)
seeds = st.integers(0, 2**32 - 1)
both = pytest.mark.parametrize("body", ["numpy", "native"])


@pytest.fixture(scope="module")
def few():
    return data.load("digits").subset(200, 60).train


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def begun(x, y, **options):
    learner = TPSGD(**{"hidden": (12, 9), "epochs": 2, "dtype": "float64", "random_state": 0, **options})
    learner.begin(x, y)
    return learner


def small(seed, K=3, **options):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((8, 5)), np.arange(8) % K
    return begun(x, y, random_state=seed, **options), x, y


def flat(learner):
    return {name: own.flat.copy() for name, own in learner._params.items()}


# ---------------------------------------------------------------- codes


def test_a_row_of_a_projection_can_be_drawn_again_alone_and_differs_from_all_others():
    projections = Projections(7, 5, 1.0, "linear", True, np.float64)
    table = projections.table(2, 30, "tanh")
    assert np.array_equal(table[3], projections.row(2, 3, 30))
    assert np.array_equal(table[[4, 0]], projections.table(2, 30, "tanh", [4, 0]))
    other = Projections(8, 5, 1.0, "linear", True, np.float64)
    rows = np.concatenate([table, projections.table(1, 30, "tanh"), other.table(2, 30, "tanh")])
    assert len(np.unique(rows[:, 0])) == len(rows)


def test_projections_are_normal_with_the_deviation_asked_for():
    table = Projections(0, 10, 0.3, "linear", True, np.float64).table(0, 5000, "tanh")
    assert abs(table.mean()) < 0.01 and table.std() == pytest.approx(0.3, rel=0.02)


def test_codes_can_be_reached():
    P = np.random.default_rng(0).standard_normal((4, 50))
    assert np.array_equal(reach(P, "linear", "tanh"), P)
    assert np.array_equal(reach(P, "logistic", "tanh"), np.where(P < 0, -1, 1))
    assert np.array_equal(reach(P, "logistic", "sigmoid"), 1.0 * (P >= 0))
    assert np.allclose(reach(P, "l2", "tanh"), np.tanh(P)) and np.allclose(
        reach(P, "l1", "sigmoid"), 1 / (1 + np.exp(-P))
    )
    assert np.array_equal(reach(P, "huber", "relu"), np.maximum(P, 0))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_codes_that_are_kept_and_codes_that_are_drawn_anew_train_the_same(batch):
    results = []
    for keep in (False, True):
        learner, _, _ = small(1, keep_codes=keep, batch_size=batch)
        learner.advance()
        results.append(flat(learner))
    assert all(np.array_equal(a, b) for a, b in zip(results[0].values(), results[1].values()))
    assert not small(1)[0]._kept


def test_random_codes_are_nearly_orthogonal():
    from refimpl.methods.local.tpsgd.study import gram

    cosines = gram(10, 300)
    assert np.allclose(np.diag(cosines), 1) and np.abs(cosines - np.eye(10)).max() < 0.25


# ---------------------------------------------------------------- locality


@both
@pytest.mark.parametrize("kind", ["mlp", "conv"])
@given(seed=seeds)
@few_examples
def test_a_layers_update_sees_no_later_layer(body, kind, seed):
    """Weights of all later layers NaN: no bit of the update changes."""
    shape, options = ((5,), {}) if kind == "mlp" else ((1, 8, 8), {"model": "conv", "channels": (3, 4), "size": 3})
    shape = shape if kind == "mlp" else (1, 10, 10)
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((8, *shape)), np.arange(8) % 3
    for first in (1, 2):
        with backend(body):
            clean, spoiled = (begun(x, y, random_state=seed, momentum=0.9, **options) for _ in range(2))
            for i in range(first, 3):
                spoiled._params[f"layer{i}"].flat[...] = np.nan
            clean._step(clean._X, clean._y, clean._trained)
            spoiled._step(spoiled._X, spoiled._y, spoiled._trained)
        for i in range(first):
            assert np.array_equal(clean._params[f"layer{i}"].flat, spoiled._params[f"layer{i}"].flat), i
        assert np.isnan(spoiled._params["layer2"].flat).any()


@both
@given(seed=seeds)
@few_examples
def test_a_layers_update_is_made_of_its_input_its_target_and_itself(body, seed):
    """Everything else is NaN: all other layers, the codes of classes that are not in the batch, the optimisers' memory
    of the others, the rest of the data."""
    x, labels = np.random.default_rng(seed).standard_normal((4, 12)), np.array([0, 2, 2, 0])
    with backend(body):
        clean, spoiled = (small(seed, momentum=0.9, keep_codes=True)[0] for _ in range(2))
        codes = spoiled.codes(1)
        codes[1] = np.nan
        for name in ("layer0", "layer2"):
            spoiled._params[name].flat[...] = np.nan
            spoiled._optimizers[name].vectors["velocity"][...] = np.nan
        spoiled._kept[0] = np.full((3, 12), np.nan)
        spoiled._X[...] = np.nan
        clean_y, _ = clean._local_step(1, x, labels)
        y, _ = spoiled._local_step(1, x, labels)
    assert np.array_equal(clean._params["layer1"].flat, spoiled._params["layer1"].flat)
    assert np.array_equal(clean_y, y)


@both
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_recurrent_layers_update_sees_no_layer_above_and_no_later_frame(body, cell):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 5, 3)), np.arange(6) % 3
    options = {"hidden": (4, 4), "dtype": "float64", "random_state": 0, "epochs": 1, "steps": 2, "update": "online"}
    with backend(body):
        clean, spoiled = TPSGDRecurrent(cell, **options), TPSGDRecurrent(cell, **options)
        for learner in (clean, spoiled):
            learner.begin(x, y)
        for name in ("layer1", "readout"):
            spoiled._params[name].flat[...] = np.nan
        clean._step(x, y)
        spoiled._step(x, y)
        assert np.array_equal(clean._params["layer0"].flat, spoiled._params["layer0"].flat)
        # After three of five steps the layer has learned what it has: the frames that follow cannot have mattered.
        half = x.copy()
        half[:, 3:] = np.nan
        states = []
        for frames in (x, half):
            learner = TPSGDRecurrent(cell, **options)
            learner.begin(x, y)
            learner._weights = np.array([0, 1, 1, 0, 0]) / 2  # the last two steps have no target
            learner._step(frames, y)
            states.append(learner._params["layer0"].flat)
        assert np.array_equal(*states)


# ---------------------------------------------------------------- special cases that hold exactly


@both
@given(seed=seeds)
@few_examples
def test_the_linear_loss_with_p_equal_minus_b_is_drtp_bit_for_bit(body, seed):
    """Updates of both hidden layers against those of the DRTP baseline's rule, with its own feedback matrices."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((8, 5)), np.arange(8) % 4
    net = rows_mlp(5, 4, (6, 7))
    with backend(body):
        drtp = RandomTargetProjectionClassifier(model=net, dtype="float64", random_state=seed)
        drtp.begin(x, y)
        params = drtp._params["net"]
        out, saved = net.forward(params, x)
        dout = ops.cross_entropy_backward(ops.cross_entropy(out, y)[1], y)
        grads = params.zeros_like()
        signals = [B[y] / 8 for B in drtp._feedback]  # d_i = (y* B_i) s'
        direct_backward(net, params, grads, saved, [*signals, dout])
        codes = [-B for B in drtp._feedback]
        mine = TPSGD(model=net, loss="linear", targets=codes, lr=1.0, dtype="float64", random_state=seed)
        mine.begin(x, y)
        for i, name in enumerate(("1", "3")):
            own = mine._params[f"layer{i}"]
            own.load({f"{name}.{part}": params[f"{name}.{part}"] for part in ("weight", "bias")})
            h = x if i == 0 else np.tanh(net.layers["1"].apply(params.scope("1"), x))
            h = h if i == 0 else saved[3]
            z, kept = mine._parts[i].below.forward(own, h)
            d = ops.target_loss(z, y, mine.codes(i), "linear", "tanh", 1.0, 1 / 8)[2]
            local = own.zeros_like()
            mine._parts[i].below.backward(own, local, kept, d, need_dx=False)
            for part in ("weight", "bias"):
                assert np.array_equal(local[f"{name}.{part}"], grads[f"{name}.{part}"])


@both
@given(seed=seeds)
@few_examples
def test_permuting_classes_with_their_codes_leaves_the_hidden_weights(body, seed):
    rng = np.random.default_rng(seed)
    x, y, order = rng.standard_normal((9, 5)), np.arange(9) % 3, rng.permutation(3)
    codes = [np.tanh(rng.standard_normal((3, n))) for n in (12, 9)]
    place = np.argsort(order)
    with backend(body):
        one = begun(x, y, targets=codes)
        two = begun(x, place[y], targets=[c[order] for c in codes])
        for learner in (one, two):
            learner.advance()
    for i in range(2):
        assert np.array_equal(one._params[f"layer{i}"].flat, two._params[f"layer{i}"].flat)


@both
def test_a_1x1_convolution_on_a_1x1_map_is_a_fully_connected_layer(body):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 5)), np.arange(6) % 3
    conv = Sequential(Conv2d(5, 7, 1), Activation("tanh"), Flatten(), Linear(7, 3))
    flat_net = Sequential(RowLinear(5, 7), Activation("tanh"), Linear(7, 3))
    with backend(body):
        a = begun(x[:, :, None, None], y, model=conv, lr=0.5, loss="l2")
        b = begun(x, y, model=flat_net, lr=0.5, loss="l2")
        for mine, theirs in zip(a._params.values(), b._params.values()):
            mine.flat[...] = theirs.flat
        a._step(a._X, a._y, a._trained)
        b._step(b._X, b._y, b._trained)
    for mine, theirs in zip(a._params.values(), b._params.values()):
        assert np.allclose(mine.flat, theirs.flat, rtol=1e-13, atol=1e-15)


@both
def test_a_recurrent_layer_with_one_step_is_a_fully_connected_layer(body):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 5)), np.arange(6) % 3
    options = {"lr": 0.5, "momentum": 0.9, "dtype": "float64", "random_state": 0}
    with backend(body):
        a = TPSGDRecurrent(hidden=(7,), hidden_lr=0.5, **options)
        a.begin(x[:, None], y)
        b = TPSGD(hidden=(7,), targets=[a.codes(0)], **options)
        b.begin(x, y)
        b._params["layer0"]["1.weight"][...] = a._params["layer0"]["w_x"].T
        for _ in range(3):
            a._step(x[:, None], y)
            b._local_step(0, x, y)
    assert np.allclose(a._params["layer0"]["w_x"].T, b._params["layer0"]["1.weight"], rtol=1e-12)
    assert np.allclose(a._params["layer0"]["bias"], b._params["layer0"]["1.bias"], rtol=1e-12)


def test_the_pooled_target_sends_the_error_to_the_maxima():
    net = convnet((1, 6, 6), 3, (2,), 3)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 1, 6, 6)), np.arange(6) % 3
    learner = begun(x, y, model=net, target="pooled")
    (part, _) = learner._parts
    assert list(part.below.layers) == ["0", "2"] and learner.codes(0).shape == (3, 2 * 2 * 2)
    plain = begun(x, y, model=net)
    assert np.allclose(learner.predict_proba(x), plain.predict_proba(x))  # pooling and tanh change places


def test_one_code_a_channel_is_the_same_all_over_the_map():
    learner = begun(np.zeros((3, 1, 6, 6)), np.arange(3), model="conv", size=3, target="channel")
    codes = learner.codes(0).reshape(3, 8, 16)
    assert (codes == codes[:, :, :1]).all() and len(np.unique(codes)) == 24


# ---------------------------------------------------------------- schedules, settings


def test_the_greedy_schedule_trains_one_layer_after_the_other(few):
    learner = begun(*few, schedule="greedy", epochs=2)
    assert learner.total_ == 6
    moved = []
    while learner.progress_ < learner.total_:
        before = flat(learner)
        learner.advance()
        moved.append([not np.array_equal(before[name], own) for name, own in flat(learner).items()])
    assert moved == [[True, False, False]] * 2 + [[False, True, False]] * 2 + [[False, False, True]] * 2


@both
def test_refresh_passes_on_what_the_layer_says_after_its_update(few, body):
    x, y = few
    with backend(body):
        for refresh in (False, True):
            learner = begun(x, y, lr=0.5, refresh=refresh, activation="sigmoid")
            before = learner._parts[0].apply(learner._params["layer0"], learner._X)
            out, _ = learner._local_step(0, learner._X, learner._y)
            after = learner._parts[0].apply(learner._params["layer0"], learner._X)
            assert np.allclose(out, after if refresh else before) and not np.allclose(before, after)


def test_step_weights_sum_to_one():
    assert np.allclose(step_weights("all", 4), 0.25) and step_weights("last", 4).tolist() == [0, 0, 0, 1]
    assert np.allclose(step_weights("ramp", 4), np.array([1, 2, 3, 4]) / 10)
    assert np.allclose(step_weights(3, 4), [0, 0, 0.5, 0.5])
    for bad in ("first", 0, 5, True):
        with pytest.raises(ValueError, match="steps is"):
            step_weights(bad, 4)


@both
@pytest.mark.parametrize("every_step", [False, True])
def test_frames_that_go_together_change_no_result(body, every_step):
    rng = np.random.default_rng(0)
    x, y, found = rng.standard_normal((6, 7, 3)), np.arange(6) % 3, []
    y = rng.integers(0, 3, (6, 7)) if every_step else y
    for chunk in (1, 3, 7, 100):
        with backend(body):
            learner = TPSGDRecurrent(hidden=(4, 5), chunk=chunk, epochs=2, dtype="float64", random_state=0).fit(x, y)
        found.append(np.concatenate([own.flat for own in learner._params.values()]))
    assert all(np.allclose(found[0], other, rtol=1e-12, atol=1e-14) for other in found[1:])


def test_online_and_accumulated_updates_agree_to_first_order():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 5, 3)), np.arange(6) % 3
    moves = {}
    for rate in (1e-3, 1e-5):
        for update in ("online", "accumulate"):
            learner = TPSGDRecurrent(
                hidden=(4,), update=update, hidden_lr=rate, momentum=0.0, dtype="float64", random_state=0
            )
            learner.begin(x, y)
            before = learner._params["layer0"].flat.copy()
            learner._step(x, y)
            moves[update, rate] = (learner._params["layer0"].flat - before) / rate
    far, near = (np.abs(moves["online", r] - moves["accumulate", r]).max() for r in (1e-3, 1e-5))
    assert 0 < near < far / 50


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "logistic"},
        {"loss": "cosine", "hidden_lr": 0.5},
        {"loss": "l1", "hidden_lr": 0.02},
        {"loss": "huber"},
        {"loss": "linear"},
        {"activation": "relu"},
        {"schedule": "greedy"},
        {"hidden": (60, 60), "momentum": 0.5},
        {"model": "conv", "size": 3, "momentum": 0.9, "hidden_lr": 5e-4},
    ],
    ids=str,
)
def test_digits_are_learned(digits, options):
    learner = TPSGD(**{"hidden": (100,), "epochs": 40, "batch_size": 32, "random_state": 0, **options})
    assert learner.fit(*digits.train).score(*digits.test) > 0.85


def test_local_losses_fall(digits):
    learner = TPSGD(hidden=(60, 60), epochs=20, random_state=0).fit(*digits.train)
    for name in ("local1", "local2", "loss"):
        assert learner.history_[-1][name] < 0.8 * learner.history_[0][name]


def test_a_deep_network_with_batch_norm_learns_layer_by_layer(digits):
    """VGG: four convolutions with batch norm and ReLU, two linear layers."""
    learner = TPSGD(model="vgg", epochs=4, momentum=0.9, lr=0.02, hidden_lr=2e-3, random_state=0).fit(*digits.train)
    assert len(learner._parts) == 6 and learner.score(*digits.test) > 0.5
    first, last = learner.history_[0], learner.history_[-1]
    assert all(last[f"local{i}"] < first[f"local{i}"] for i in range(1, 6))


@pytest.mark.parametrize(
    "options", [{}, {"cell": "lstm"}, {"hidden": (32, 32)}, {"update": "online"}, {"steps": "ramp"}]
)
def test_evidence_is_accumulated(options):
    evidence = draw_evidence(0, 2.0, 1000, 500)
    learner = TPSGDRecurrent(**{"hidden": (32,), "hidden_lr": 0.01, "random_state": 0, **options})
    assert learner.fit(*evidence.train).score(*evidence.test) > 0.95


def test_steps_with_labels_of_their_own_are_learned():
    rng = np.random.default_rng(0)
    templates, y = rng.standard_normal((3, 8)), rng.integers(0, 3, (300, 6))
    x = templates[y] + 0.3 * rng.standard_normal((300, 6, 8))
    learner = TPSGDRecurrent(hidden=(24,), epochs=20, random_state=0).fit(x, y)
    assert learner.predict(x).shape == (300, 6) and learner.score(x, y) > 0.95
    assert learner.predict_proba(x).sum(axis=2) == pytest.approx(1.0)


# ---------------------------------------------------------------- adaptors


def test_an_adaptor_trains_the_chosen_layer_alone_and_takes_over_the_others(digits):
    source = BackpropClassifier(hidden=(40, 30), activation="tanh", epochs=8, random_state=0).fit(*digits.train)
    adaptor = TPSGD(source=source, layers=(1,), train_output=False, epochs=1, random_state=0)
    adaptor.begin(*digits.train)
    assert np.allclose(adaptor.predict_proba(digits.x_test), source.predict_proba(digits.x_test), atol=1e-6)
    before = flat(adaptor)
    adaptor.advance()
    assert [not np.array_equal(before[n], own) for n, own in flat(adaptor).items()] == [False, True, False]
    assert np.array_equal(source._params["net"]["1.weight"], adaptor._params["layer0"]["1.weight"])


def test_adaptors_with_class_means_of_the_old_domain_recover_from_a_shift(digits):
    """Inverted images: the frozen network fails; its first layer is pulled back to what it said before, class by
    class, and the layers above understand it again."""
    (x, y), (x_test, y_test) = digits.train, digits.test
    source = TPSGD(hidden=(100, 50), epochs=30, batch_size=32, random_state=0).fit(x, y)
    means = class_means(source, x, y)
    assert [m.shape for m in means] == [(10, 100), (10, 50)]
    options = {"targets": means, "layers": (0,), "train_output": False, "epochs": 40, "batch_size": 32, "lr": 0.02}
    adaptor = TPSGD(source=source, random_state=0, **options).fit(1 - x, y)
    lost, regained = source.score(1 - x_test, y_test), adaptor.score(1 - x_test, y_test)
    assert lost < 0.5 and regained > 0.8
    assert np.array_equal(adaptor._params["layer2"].flat, source._params["layer2"].flat)


def test_unusable_adaptors_are_clear_errors(digits, few):
    source = TPSGD(hidden=(12, 9), epochs=1, random_state=0).fit(*few)
    with pytest.raises(ValueError, match="layers is"):
        TPSGD(source=source, layers=(2,)).fit(*few)
    with pytest.raises(ValueError, match="y holds the class 10, which `source` does not know"):
        TPSGD(source=source).fit(few[0], few[1] + 1)
    with pytest.raises(ValueError, match=r"targets have shapes \[\(10, 12\)\], expected \[\(10, 12\), \(10, 9\)\]"):
        TPSGD(source=source, targets=[np.zeros((10, 12))]).fit(*few)
    with pytest.raises(ValueError, match="y has no sample of class 1"):
        class_means(source, few[0], np.zeros(len(few[0])))
    with pytest.raises(ValueError, match="X has 5 samples, but y has 200"):
        class_means(source, few[0][:5], few[1])


# ---------------------------------------------------------------- memory


def test_memory_does_not_grow_with_depth_or_time_and_falls_back_layer_by_layer():
    rng = np.random.default_rng(0)
    x, y, peaks = rng.standard_normal((32, 64)).astype(np.float32), np.arange(32) % 5, []
    with backend("numpy"):
        for depth in (2, 8):
            learner = TPSGD(hidden=(64,) * depth, random_state=0)
            learner.begin(x, y)
            peaks.append(peak_bytes(lambda: learner._step(x, y, learner._trained)))  # noqa: B023
        assert peaks[1] <= 1.05 * peaks[0]
        alive = timeline(lambda: learner._step(x, y, learner._trained))
        assert len(alive) >= 8 and max(alive) < 4 * x.nbytes  # a layer's input and output, and next to nothing else
        bp = BackpropClassifier(model=rows_mlp(64, 5, (64,) * 8), random_state=0)
        bp.begin(x, y)
        alive = timeline(lambda: bp._gradients(x, y, rng))
        assert max(alive) > 8 * x.nbytes  # one array a layer, at least
        for T in (10, 100):
            x = rng.standard_normal((32, T, 6)).astype(np.float32)
            recurrent = TPSGDRecurrent(hidden=(32,), random_state=0)
            recurrent.begin(x, y)
            peaks.append(peak_bytes(lambda: recurrent._step(x, y)))  # noqa: B023
    assert peaks[3] <= 1.05 * peaks[2]


# ---------------------------------------------------------------- the estimator's contract

OPTIONS = [
    {},
    {"momentum": 0.9, "loss": "logistic", "refresh": True, "batch_size": 7},
    {"schedule": "greedy", "loss": "l1", "keep_codes": True},
    {"model": "conv", "size": 3, "loss": "cosine", "target": "pooled", "hidden_lr": (1e-3,)},
    {"model": "vgg", "hidden_lr": 1e-3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@both
def test_resumed_training_gives_the_same_bits(few, options, body):
    own = {"hidden": (16, 12), "epochs": 3, **options}
    with backend(body):
        whole = TPSGD(**own, random_state=0).fit(*few)
        first, second = TPSGD(**own, random_state=0), TPSGD(**own, random_state=9)
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


@pytest.mark.parametrize("options", [{}, {"cell": "lstm", "update": "online", "loss": "huber"}], ids=str)
@both
def test_resumed_training_of_recurrent_layers_gives_the_same_bits(options, body):
    x, y = draw_evidence(0, 2.0, 200, 50).train
    own = {"hidden": (16,), "epochs": 3, **options}
    with backend(body):
        whole = TPSGDRecurrent(**own, random_state=0).fit(x, y)
        first, second = TPSGDRecurrent(**own, random_state=0), TPSGDRecurrent(**own, random_state=9)
        first.begin(x, y)
        first.advance()
        arrays, meta = first.checkpoint()
        second.begin(x, y)
        second.restore({k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta)))
        while second.progress_ < second.total_:
            second.advance()
        assert np.array_equal(second.predict_proba(x), whole.predict_proba(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "loss is 'mse', expected one of l2, l1"),
        ({"activation": "gelu"}, "activation is 'gelu', expected one of tanh, sigmoid, relu"),
        ({"target": "mean"}, "target is 'mean'"),
        ({"schedule": "random"}, "schedule is 'random'"),
        ({"targets": "labels"}, "targets is 'labels'"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"p": 0.0}, "p is 0.0"),
        ({"delta": -1.0}, "delta is -1.0"),
        ({"lr": np.nan}, "lr is nan"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"hidden_lr": -1.0}, "hidden_lr is -1.0"),
        ({"hidden_lr": (0.1, 0.1)}, "expected one rate, or one for each of the 1 hidden layers"),
        ({"loss": "logistic", "activation": "relu"}, "loss is 'logistic', expected one without the logistic"),
        ({"layers": (1,)}, "layers is"),
        ({"hidden": ()}, "no hidden layer"),
        ({"model": "conv"}, "'conv' takes images"),
        ({"model": "conv", "image_shape": (1, 3, 3)}, "but X has 4 features"),
        ({"model": "conv", "image_shape": (1, 2, 2)}, "too small for 5 x 5 filters"),
        ({"model": Sequential(Linear(4, 3), Activation("gelu"), Linear(3, 2))}, "has the activation gelu"),
        ({"model": Sequential(Linear(4, 3), Linear(3, 2))}, "has the activation none"),
        ({"model": Sequential(Linear(4, 3), Activation("tanh"), Linear(3, 2), Activation("tanh"))}, "expected logits"),
        ({"model": Sequential(Residual(Linear(4, 4)), Linear(4, 2))}, "layers in a row"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_unusable_settings_are_clear_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TPSGD(**{"hidden": (5,), **changes}).fit(np.eye(4), np.arange(4) % 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "loss is 'mse'"),
        ({"cell": "lstm", "loss": "logistic"}, "no logistic for an LSTM"),
        ({"update": "later"}, "update is 'later'"),
        ({"steps": 9}, "steps is 9, expected 'all', 'last', 'ramp', or a step from 1 to 3"),
        ({"p": -1.0}, "p is -1.0"),
        ({"chunk": 0}, "chunk is 0"),
    ],
)
def test_unusable_settings_of_recurrent_layers_are_clear_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TPSGDRecurrent(**changes).fit(np.ones((4, 3, 2)), np.arange(4) % 2)


def test_unusable_data_are_clear_errors():
    for X, y, message in (
        (np.full((4, 2), np.nan), np.arange(4) % 2, "contains NaN"),
        (np.ones((4, 2)), np.zeros(4), "only one class"),
        (np.ones((4, 2)), np.arange(3), "inconsistent numbers of samples"),
        (np.ones((0, 2)), np.zeros(0), "0 sample"),
    ):
        with pytest.raises(ValueError, match=message):
            TPSGD().fit(X, y)
    with pytest.raises(ValueError, match="not fitted yet"):
        TPSGD().activations(np.ones((1, 2)))


def test_layers_between_weights_and_targets_are_found():
    net = convnet((1, 12, 12), 3, (4, 5), 3)
    parts = local_layers(net)
    assert [p.activation for p in parts] == ["tanh", "tanh", None]
    assert [list(p.above.layers) for p in parts] == [["2"], ["5", "6"], []]
    assert [p.fused for p in parts] == [False, False, True]
    assert list(local_layers(net, "pooled")[1].below.layers) == ["3", "5"]
