"""Greedy local learning as a learner."""

import json
import pickle

import numpy as np
import pytest

from refimpl import BackpropClassifier, LocalBlocksClassifier, data
from refimpl.backends import backend
from refimpl.baselines.local_blocks import WarmCosine
from refimpl.models.local_losses import RULES
from refimpl.nn import Layer


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    return digits.x_train[:150], digits.y_train[:150]


def small(**changes):
    shape = {"widths": (4, 8), "blocks": 1, "hidden": (16, 12, 8)}
    return LocalBlocksClassifier(**{**shape, "epochs": 2, "batch_size": 64, "random_state": 0, **changes})


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_the_digits(digits, rule):
    learner = LocalBlocksClassifier(rule, "mlp", hidden=(64, 64), epochs=12, random_state=0).fit(*digits.train)
    assert learner.score(*digits.test) > 0.75  # chance is 0.1
    assert learner.history_[-1]["loss0"] < learner.history_[0]["loss0"]


def test_residual_modules_learn_the_digits(digits):
    learner = small(widths=(16, 32), lr=0.2, epochs=15, batch_size=32).fit(*digits.train)
    assert learner.score(*digits.test) > 0.75


def test_one_module_is_the_same_as_back_propagation_of_the_network(few):
    """The same first weights and order of batches in the ordinary learner: the same predictions."""
    learner = small(network="mlp", modules=1, dtype="float64", weight_decay=0.01)
    learner.begin(*few)
    column, mine = learner._column_, learner._all[0]
    X = learner._prepared(few[0].astype(np.float64))
    twin = BackpropClassifier(
        model=column.network(), optimizer="nesterov", lr=0.1, weight_decay=0.01, schedule="cosine", epochs=2,
        batch_size=64, dtype="float64",
    )  # fmt: skip
    twin.begin(X, few[1])
    for name, window in twin._params["net"].items():
        window[...] = mine[name.replace("readout", "objective")]
    twin._rngs["train"].bit_generator.state = learner._rngs["order"].bit_generator.state
    for _ in range(2):
        learner.advance(), twin.advance()
    assert np.allclose(twin.predict_proba(X), learner.predict_proba(few[0]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("rule", RULES)
def test_both_orders_of_updates_give_the_same_bits(few, rule, body):
    with backend(body):
        found = [small(rule=rule, update=update).fit(*few) for update in ("module", "end")]
    assert all(np.array_equal(a.flat, b.flat) for a, b in zip(*(f._all for f in found)))
    assert np.array_equal(*(f.predict_proba(few[0]) for f in found))


def test_layers_start_alike_whatever_the_rule_and_the_cuts(few):
    def first(**changes):
        learner = small(**changes)
        learner.begin(*few)
        windows = {k: v for p in learner._all[:-1] for k, v in p.items() if k.startswith("layer")}
        return windows | dict(learner._all[-1].items())

    reference = first(modules=1)
    for changes in ({}, {"rule": "infopro"}, {"modules": 2}, {"cuts": (0,), "rule": "dgl"}):
        other = first(**changes)
        assert set(other) == set(reference)
        assert all(np.array_equal(other[name], reference[name]) for name in reference)


@pytest.mark.parametrize(
    "options",
    [
        {"rule": "predsim", "augment": ("reflect", "flip")},
        {"rule": "infopro", "schedule": "warm", "warmup": 2},
        {"rule": "dgl", "network": "mlp", "update": "end", "modules": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("body", ["numpy", "native"])
def test_resumed_training_gives_the_same_bits(few, options, body):
    with backend(body):
        whole = small(epochs=3, **options).fit(*few)
        first, second = small(epochs=3, **options), small(epochs=3, **{**options, "random_state": 9})
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


def test_inference_does_not_depend_on_objectives(few):
    learner = small(rule="dgl").fit(*few)
    before = learner.predict_proba(few[0])
    for params in learner._all[:-1]:
        for name, window in params.items():
            if name.startswith("objective"):
                window[...] = np.nan
    assert np.array_equal(learner.predict_proba(few[0]), before)


def test_measuring_leaves_the_learner_as_it_is(few):
    learner = small(rule="predsim")
    learner.begin(*few)
    before = [p.copy() for p in learner._all]
    one = small(modules=1)
    one.begin(*few)
    assert max(learner.kept_bytes(32)) < one.kept_bytes(32)[0]
    assert learner.step_flops(32) > one.step_flops(32) > 0
    assert learner.step_flops(64) > 1.9 * learner.step_flops(32)
    for a, b in zip(before, learner._all):
        assert np.array_equal(a.flat, b.flat) and np.array_equal(a.state, b.state)
    assert not any(g.flat.any() for g in learner._grads)


def test_activations_end_in_what_the_classifier_reads(few):
    learner = small().fit(*few)
    found = learner.activations(few[0])
    assert [a.shape[1:] for a in found] == list(learner._column_.shapes)
    logits = learner._column_.readout.apply(learner._all[-1].scope("objective"), found[-1])
    assert np.allclose(logits, learner.logits(few[0]), atol=1e-5)
    assert len(learner.activations(few[0], upto=1)) == 2


def test_the_rate_warms_up_and_falls_as_a_cosine():
    rate = WarmCosine(0.8, epochs=400, steps=5)
    half = 0.5 * 0.8
    assert rate(0) == pytest.approx(0.01)
    assert rate(4 * 5) == pytest.approx(half * (1 + np.cos(np.pi * 5 / 400)) * 0.4 + 0.006)
    assert rate(9 * 5) == pytest.approx(half * (1 + np.cos(np.pi * 10 / 400)) * 0.9 + 0.001)
    assert rate(10 * 5 - 1) == rate(9 * 5) and rate(200 * 5 - 1) == pytest.approx(half)
    assert rate(399 * 5) == pytest.approx(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "gready"}, "rule is 'gready', expected one of greedy"),
        ({"network": "vgg"}, "network is 'vgg', expected one of 'resnet', 'mlp'"),
        ({"cuts": (1, 1)}, r"cuts are \(1, 1\), expected increasing layers from 0 to 1"),
        ({"cuts": (0, 2)}, "expected increasing layers from 0 to 1"),
        ({"cuts": (0,), "modules": 2}, "modules is 2, expected None where cuts are given"),
        ({"modules": 4}, r"modules is 4, expected 1..3"),
        ({"epochs": -1}, "epochs is -1"),
        ({"lr": 0}, "lr is 0"),
        ({"momentum": 1}, "momentum is 1"),
        ({"schedule": "step"}, "schedule is 'step'"),
        ({"augment": ("blur",)}, "augment is"),
        ({"image_shape": (1, 4, 4)}, "image_shape is"),
        ({"options": {"width": 3}}, "has no option 'width'"),
    ],
)
def test_bad_settings_are_refused_before_training(few, changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes).begin(*few)


def test_bad_data_are_refused_before_training(few):
    X, y = few
    with pytest.raises(ValueError, match="expected images, or image_shape"):
        small().begin(X.reshape(len(X), -1), y)
    with pytest.raises(ValueError, match=r"only images \(C, H, W\) are augmented"):
        small(network="mlp", augment=("flip",)).begin(X.reshape(len(X), -1), y)
    with pytest.raises(ValueError, match="expected 0 to 1 to reconstruct"):
        small(rule="infopro").begin(X - 0.5, y)
    small(image_shape=(1, 8, 8)).begin(X.reshape(len(X), -1), y)


def test_a_subclass_gives_its_own_objectives_and_work_between_modules(few):
    """As momentum auxiliaries need it: hooks see complete gradients, before the module's own update and those above."""
    seen = []

    class Watching(LocalBlocksClassifier):
        def _objective(self, column, cuts, j):
            assert isinstance(column.layers[cuts[j] + 1], Layer)
            return super()._objective(column, cuts, j)

        def _after_backward(self, j):
            steps = [self._optimizers[f"module{i}"].step for i in range(len(self._modules))]
            seen.append((j, steps, bool(self._grads[j].flat.any())))

    learner = Watching(widths=(4, 8), blocks=1, epochs=1, batch_size=150, random_state=0)
    learner.begin(*few)
    learner.advance()
    assert seen == [(0, [0, 0, 0], True), (1, [1, 0, 0], True), (2, [1, 1, 0], True)]
