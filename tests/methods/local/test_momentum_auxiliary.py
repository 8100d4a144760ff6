"""MAN: gradients of its modules, locality, what follows what, and the learner."""

import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import LocalBlocksClassifier, MomentumAuxiliary, data
from refimpl.backends import backend
from refimpl.methods.local.momentum_auxiliary.blocks import Following, trained_names
from refimpl.methods.local.momentum_auxiliary.objectives import HEADS, Momentum, dgl_head, head_objective
from refimpl.models.column import resnet_column
from refimpl.models.isolated import CrossEntropy, Isolated, Target
from tests.harness import assert_gradient

seeds = st.integers(0, 2**32 - 1)
few_examples = settings(max_examples=3)
VARIANTS = [
    ("released", "both"),
    ("released", "average"),
    ("released", "companion"),
    ("paper", "both"),
    ("scaled", "both"),
]
each_variant = pytest.mark.parametrize(("variant", "paths"), VARIANTS)
each_head = pytest.mark.parametrize("head", HEADS)
NARROW = {"dgl": {"width": 2}, "predsim": {"features": 12}, "infopro": {"hidden": 4}}


@pytest.fixture(scope="module")
def few():
    digits = data.load("digits").subset(120, 60)
    return digits.x_train, digits.y_train


def small(**changes):
    values = {"widths": (3, 4), "blocks": 1, "epochs": 2, "batch_size": 40, "random_state": 0}
    return MomentumAuxiliary(**{**values, **changes})


def begun(seed=0, B=6, **changes):
    """A learner that has begun on a few random images of 4 x 4 in double precision, its weights moved about."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((B, 2, 4, 4)), np.arange(B) % 3
    network = {"hidden": (5, 4, 6)} if changes.get("network") == "mlp" else {"widths": (2, 3), "blocks": 1}
    learner = MomentumAuxiliary(**{**network, "dtype": "float64", "epochs": 3, "random_state": seed, **changes})
    learner.begin(x, y)
    for params in learner._all:
        params.flat += 0.1 * rng.standard_normal(params.size)
    return learner


def forward(learner, j):
    """Loss of module j, what its backward pass needs, its input made by the modules below."""
    x, target = learner._prepared(learner._X), Target(learner._y, learner._X)
    for i in range(j):
        x = learner._modules[i].forward(learner._all[i], x, target)[0]
    _, loss, saved = learner._modules[j].forward(learner._all[j], x, target)
    return loss, saved


def gradient(learner, j):
    grads = learner._all[j].zeros_like()
    learner._modules[j].backward(learner._all[j], grads, forward(learner, j)[1])
    return grads


def both_losses(learner):
    return [forward(learner, j)[0] for j in range(len(learner._modules))]


# ---------------------------------------------------------------- gradients


@each_head
@each_variant
@pytest.mark.parametrize("network", ["resnet", "mlp"])
def test_gradients_of_a_module_equal_central_differences_of_its_own_loss(head, variant, paths, network):
    learner = begun(variant=variant, paths=paths, head=head, options=NARROW.get(head), network=network)
    for j in (0, 1):
        grads = gradient(learner, j)
        assert not any("average" in name for name in grads)
        for name, g in grads.items():
            assert_gradient(g, lambda: forward(learner, j)[0], learner._all[j][name], 2e-6, name)  # noqa: B023


@given(seed=seeds)
@few_examples
def test_gradient_of_the_layers_goes_through_the_average(seed):
    """Treating E(x) as a constant would leave the companion's part alone."""
    learner = begun(seed)
    whole = gradient(learner, 0)
    following = "objective.following.average."
    names = [n for n in learner._all[0] if n.startswith(following) and n.endswith("gain")]
    for name in names:
        learner._all[0][name][...] = 0  # E gives no gradient any more
    without = gradient(learner, 0)
    assert not np.allclose(whole["layer0.0.weight"], without["layer0.0.weight"])


@pytest.mark.parametrize("body", ["numpy", "native"])
@given(seed=seeds)
@few_examples
def test_with_the_true_rest_of_the_network_the_gradient_is_back_propagation_s(body, seed):
    """e_j = theta_{j+1}, the head a copy of the classifier, no companion: the last cut's gradient equals that of the
    whole network."""
    learner = begun(seed, paths="average", cuts=(1,))
    upper, objective = learner._all[1], learner._all[0].scope("objective")
    for name in trained_names(learner._column_.layers[2]):
        objective[f"following.average.{name}"][...] = upper[f"layer2.{name}"]
    for name in ("1.weight", "1.bias"):
        objective[f"head.{name}"][...] = upper[f"objective.{name}"]
    with backend(body):
        local = gradient(learner, 0)
        column = learner._column_
        whole = Isolated({f"layer{i}": column.layers[i] for i in range(3)}, CrossEntropy(column.readout))
        params = whole.initialise(
            {n: np.random.default_rng(0) for n in ("layer0", "layer1", "layer2", "objective")}, "float64"
        )
        for name in params:
            params[name][...] = learner._all[0 if name.startswith(("layer0", "layer1")) else 1][name]
        grads = params.zeros_like()
        x, target = learner._prepared(learner._X), Target(learner._y)
        whole.backward(params, grads, whole.forward(params, x, target)[2])
    for name in (n for n in local if n.startswith("layer")):
        assert np.allclose(local[name], grads[name], rtol=1e-10, atol=1e-12), name


# ---------------------------------------------------------------- locality


@each_head
@pytest.mark.parametrize(("variant", "network"), [("released", "resnet"), ("paper", "mlp"), ("scaled", "resnet")])
@pytest.mark.parametrize("body", ["numpy", "native"])
def test_an_update_sees_the_layers_below_and_its_own_blocks_and_nothing_else(head, variant, network, body):
    """All weights above, the layer that E follows too, and all auxiliary blocks of other modules set to NaN: the
    gradient of module j stays as it was, to the bit. At m = 0 E equals the layer that it follows, and still nothing of
    that layer's is seen."""
    learner = begun(2, variant=variant, head=head, options=NARROW.get(head), network=network, m=0.0)
    with backend(body), np.errstate(all="ignore"):
        for j in range(len(learner._modules)):
            before = gradient(learner, j)
            kept = [params.copy() for params in learner._all]
            for i, params in enumerate(learner._all):
                for name in params:
                    if i > j or (i < j and name.startswith("objective")):
                        params[name][...] = np.nan
            x, target = learner._prepared(learner._X), Target(learner._y, learner._X)
            for i in range(j):
                x = learner._modules[i].body.forward(learner._all[i], x, True)[0]
            grads = learner._all[j].zeros_like()
            learner._modules[j].backward(
                learner._all[j], grads, learner._modules[j].forward(learner._all[j], x, target)[2]
            )
            assert np.isfinite(before.flat).all() and np.array_equal(before.flat, grads.flat)
            for params, old in zip(learner._all, kept):
                params.assign(old)


def test_a_whole_update_is_local_but_for_the_weights_that_are_followed():
    """After a step with everything above module 1 set to NaN, module 1 has the weights that it has otherwise, and its
    average has met the NaN: information goes down through weights alone."""
    learners = [begun(3), begun(3)]
    for name in learners[1]._all[2]:
        learners[1]._all[2][name][...] = np.nan
    with np.errstate(all="ignore"):
        for learner in learners:
            learner._step(learner._X, learner._y)
    one, other = (learner._all[1] for learner in learners)
    assert np.array_equal(one.flat, other.flat)
    averages = [n for n in one.state_shapes if "average" in n and n.endswith("weight")]
    assert averages and all(np.isnan(other[n]).all() and np.isfinite(one[n]).all() for n in averages)


@each_variant
def test_no_gradient_crosses_to_the_layer_that_is_followed(variant, paths):
    """L_j does not change, to the bit, when theta_{j+1} does."""
    learner = begun(4, variant=variant, paths=paths, m=0.0)
    before = [forward(learner, j)[0] for j in range(2)]
    for j in range(2):
        upper = learner._all[j + 1]
        old = upper.copy()
        upper.flat += 1
        assert forward(learner, j)[0] == before[j]
        upper.assign(old)


# ---------------------------------------------------------------- following


@pytest.mark.parametrize("update", ["module", "end"])
@pytest.mark.parametrize("m", [0.0, 0.3, 0.995, 1.0])
@pytest.mark.parametrize("variant", ["released", "scaled"])
def test_the_average_follows_the_weights_before_the_update(update, m, variant):
    learner = begun(5, variant=variant, m=m, update=update, start="random")
    before = [(e.copy(), theta.copy()) for e, theta in learner._follow]
    learner._step(learner._X, learner._y)
    for (e0, theta0), (e, theta) in zip(before, learner._follow):
        assert not np.array_equal(theta, theta0)
        assert np.allclose(e, m * e0 + (1 - m) * theta0, rtol=1e-12, atol=1e-14)
        assert np.linalg.norm(e - e0) <= (1 - m) * np.linalg.norm(theta0 - e0) * (1 + 1e-9)
        if m in (0, 1):
            assert np.array_equal(e, e0 if m else theta0)


def test_the_paper_s_block_is_trained_and_then_pulled():
    """gamma <- m (gamma after its gradient step) + (1 - m) theta before its update; m = 1 is a block of its own."""
    free, pulled = begun(6, variant="paper", m=1.0), begun(6, variant="paper", m=0.9)
    for one, other in zip(free._all, pulled._all):
        assert np.array_equal(one.flat, other.flat)
    theta = [t.copy() for _, t in free._follow]
    for learner in (free, pulled):
        learner._step(learner._X, learner._y)
    for (gamma, _), (own, _), t in zip(pulled._follow, free._follow, theta):
        assert np.allclose(gamma, 0.9 * own + 0.1 * t, rtol=1e-12, atol=1e-14)
    assert all("objective.following.block.0.body.0.weight" in p.shapes for p in free._all[:-1])


@each_variant
def test_the_average_is_in_no_optimiser_and_in_every_checkpoint(variant, paths):
    learner = begun(7, variant=variant, paths=paths)
    arrays, _ = learner.checkpoint()
    averages = [n for n in arrays if n.startswith("params") and ".average." in n]
    assert bool(averages) is (variant != "paper" and paths != "companion")
    for j, params in enumerate(learner._all):
        velocity = learner._optimizers[f"module{j}"].vectors["velocity"]
        assert velocity.size == params.size == sum(params[n].size for n in params.shapes)
        assert not any("average" in n for n in params.shapes)


def test_weight_decay_does_not_act_on_the_average():
    learner = begun(8, m=1.0, weight_decay=0.5)
    before = [e.copy() for e, _ in learner._follow]
    learner._step(learner._X, learner._y)
    assert all(np.array_equal(a, e) for a, (e, _) in zip(before, learner._follow))


def test_running_statistics_are_not_averaged():
    learner = begun(9, m=0.0)
    learner._step(learner._X, learner._y)
    name = "0.body.1.mean"
    own, followed = (
        learner._all[0][f"objective.following.average.{name}"],
        learner._all[1][f"layer1.{name}"],
    )
    assert np.any(own != 0) and not np.array_equal(own, followed)


def test_the_average_begins_as_a_copy_or_at_random():
    def distances(**changes):
        learner = small(**changes)
        learner.begin(np.random.default_rng(0).random((40, 1, 8, 8)), np.arange(40) % 4)
        return learner.distances()

    assert distances() == [0.0, 0.0]
    assert min(distances(start="random")) > 0.5
    assert np.isnan(distances(paths="companion")).all() and np.isnan(distances(variant="none")).all()


@pytest.mark.parametrize("variant", ["released", "paper", "scaled"])
def test_updating_module_by_module_or_at_the_end_gives_the_same_numbers(variant, few):
    one, other = (small(variant=variant, update=u).fit(*few) for u in ("module", "end"))
    for a, b in zip(one._all, other._all):
        assert np.array_equal(a.flat, b.flat) and np.array_equal(a.state, b.state)


def test_the_scaled_sum_begins_as_the_released_variant_to_the_bit(few):
    one, other = small(), small(variant="scaled")
    for learner in (one, other):
        learner.begin(*few)
    for j, params in enumerate(other._all):
        params.load({**params.arrays(), **one._all[j].arrays()})
    a, b = (learner._step(learner._X[:40], learner._y[:40]) for learner in (one, other))
    assert a == b
    for j, params in enumerate(one._all):
        assert all(np.array_equal(w, other._all[j][name]) for name, w in params.items())
    assert any(other._all[0]["objective.following.scale"] != 1)


# ---------------------------------------------------------------- the network, its cuts and its heads


def test_the_papers_cuts():
    def cuts(blocks, name):
        return MomentumAuxiliary(cuts=name)._cuts(resnet_column((3, 32, 32), 10, blocks=blocks))

    assert len(cuts(5, "blocks")) + 1 == 15 and cuts(5, "blocks")[0] == 1  # K = 16 in the paper's count
    assert cuts(5, "pairs") == (1, 3, 5, 7, 9, 11, 13)  # blocks 1.0, 1.2, 1.4, 2.1, 2.3, 3.0, 3.2, end
    assert len(cuts(18, "blocks")) + 1 == 54  # K = 55
    assert cuts(2, "layers") == (0, 1, 2, 3, 4, 5)
    assert cuts(5, (0, 7)) == (0, 7)


@each_head
def test_heads_are_made_for_what_stands_behind_the_next_layer(head, few):
    """At the border of stages u has the next stage's channels and extent."""
    learner = small(head=head, options=NARROW.get(head), blocks=2)
    learner.begin(*few)
    column = learner._column_
    assert [column.shapes[c + 1] for c in learner._cuts_] == [(3, 8, 8), (3, 8, 8), (4, 4, 4), (4, 4, 4)]
    for cut, module in zip(learner._cuts_, learner._modules):
        assert module.objective.following == Following(column.layers[cut + 1], column.shapes[cut + 1][0])
        expected = head_objective(head, column, column.shapes[cut + 1], 0.0, NARROW.get(head)).declare()
        assert {n: s.shape for n, s in module.objective.inner.declare().items()} == {
            n: s.shape for n, s in expected.items()
        }
    learner.advance()
    assert all(np.isfinite(v) for v in learner.history_[0].values())


def test_the_head_of_dgl_is_128_and_512_wide():
    column = resnet_column((3, 32, 32), 10)
    shapes = [s.shape for n, s in dgl_head(column, (16, 32, 32)).declare().items() if n.endswith("weight")]
    assert shapes == [
        (128, 16, 1, 1),
        (128, 128, 1, 1),
        (128, 128, 1, 1),
        (128, 512),
        (512, 512),
        (512, 512),
        (512, 10),
    ]
    pooled = dgl_head(column, (16, 32, 32), 4)
    assert sum(n.endswith("weight") for n in pooled.declare()) == 7


def test_weights_of_infopro_fall_by_module_or_barely_as_released():
    """By the module's index (5, 0.5) falls to (0, 0); as released r goes from 1/14 to 3/14 in ResNet-32, K = 16."""
    column = resnet_column((3, 32, 32), 10)
    for r, first, last in (("module", 0.0, 1.0), ("stage", 1 / 14, 3 / 14)):
        learner = MomentumAuxiliary(head="infopro", options={"r": r}, cuts="blocks")
        cuts = learner._cuts(column)
        found = [learner._objective(column, cuts, j).inner for j in range(len(cuts))]
        assert np.allclose([found[0].l1, found[0].l2], [5 * (1 - first), 0.5 * (1 - first)])
        assert np.allclose([found[-1].l1, found[-1].l2], [5 * (1 - last), 0.5 * (1 - last)])
        assert all(a.l1 >= b.l1 for a, b in itertools.pairwise(found))
    fixed = MomentumAuxiliary(head="infopro", options={"first": (5, 0.75), "last": (5, 0.75)}, cuts=(5,))
    assert fixed._objective(column, (5,), 0).inner.l2 == 0.75


def test_without_blocks_it_is_the_base_method_and_without_cuts_back_propagation(few):
    same = {"widths": (3, 4), "blocks": 1, "epochs": 2, "batch_size": 40, "random_state": 0}
    for mine, theirs in (({"variant": "none"}, {}), ({"cuts": ()}, {"modules": 1})):
        one, other = MomentumAuxiliary(**same, **mine).fit(*few), LocalBlocksClassifier(**same, **theirs).fit(*few)
        assert np.array_equal(one.predict_proba(few[0]), other.predict_proba(few[0]))


def test_first_weights_are_the_same_whatever_the_variant_and_the_head(few):
    learners = [small(), small(variant="none"), small(variant="paper", head="dgl", options={"width": 4})]
    for learner in learners:
        learner.begin(*few)
    for other in learners[1:]:
        for a, b in zip(learners[0]._all, other._all):
            assert all(np.array_equal(a[n], b[n]) for n in a if n.startswith("layer"))


@given(seed=seeds)
@few_examples
def test_inference_does_not_depend_on_averages_companions_and_heads(seed):
    learner, rng = begun(seed), np.random.default_rng(seed)
    before = learner.predict_proba(learner._X)
    for params in learner._all[:-1]:
        for name, window in params.items():
            if name.startswith("objective"):
                window[...] = rng.standard_normal(window.shape)
    assert np.array_equal(learner.predict_proba(learner._X), before)


# ---------------------------------------------------------------- the learner


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"variant": "paper", "head": "predsim"},
        {"variant": "scaled", "head": "infopro", "augment": ("reflect", "flip")},
        {"network": "mlp", "hidden": (12, 10, 8), "head": "dgl", "options": {"width": 4}, "start": "random"},
    ],
)
def test_training_goes_on_from_a_checkpoint_to_the_same_bits(changes, few):
    whole, first, second = (small(epochs=3, **changes) for _ in range(3))
    whole.fit(*few)
    first.begin(*few)
    first.advance()
    arrays, meta = first.checkpoint()
    arrays, meta = {k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta))
    second.begin(*few)
    second.restore(arrays, meta)
    while second.progress_ < second.total_:
        second.advance()
    second.finish()
    assert np.array_equal(whole.predict_proba(few[0]), second.predict_proba(few[0]))
    assert whole.distances() == second.distances() and whole.history_ == second.history_
    copied = pickle.loads(pickle.dumps(whole))
    assert np.array_equal(whole.predict_proba(few[0]), copied.predict_proba(few[0]))


def test_both_bodies_take_the_same_step():
    learners = [begun(1), begun(1)]
    for body, learner in zip(("numpy", "native"), learners):
        with backend(body):
            learner._step(learner._X, learner._y)
    for a, b in zip(learners[0]._all, learners[1]._all):
        assert np.allclose(a.flat, b.flat, rtol=1e-9, atol=1e-11) and np.allclose(a.state, b.state, rtol=1e-9)


@pytest.mark.parametrize("network", ["resnet", "mlp"])
def test_it_learns_the_digits(network):
    digits = data.load("digits")
    sizes = {"widths": (8, 16), "blocks": 1} if network == "resnet" else {"hidden": (64, 64, 64)}
    learner = MomentumAuxiliary(network=network, **sizes, epochs=12, random_state=0).fit(*digits.train)
    assert learner.score(*digits.test) > 0.85
    assert 0 < max(learner.distances()) < 0.5
    assert {"loss", "loss0", "distance0"} <= set(learner.history_[-1])


def test_memory_is_that_of_one_module_and_the_blocks_cost_some():
    bytes_ = {}
    for name, changes in {"bp": {"cuts": ()}, "greedy": {"variant": "none"}, "both": {}}.items():
        learner = MomentumAuxiliary(**{"widths": (4, 8), "blocks": 3, "cuts": "blocks", "random_state": 0, **changes})
        learner.begin(np.random.default_rng(0).random((20, 1, 16, 16)), np.arange(20) % 4)
        bytes_[name] = max(learner.kept_bytes(16))
    assert bytes_["greedy"] < bytes_["both"] < bytes_["bp"] and bytes_["both"] < 3 * bytes_["greedy"]


def test_the_papers_values_can_be_had():
    learner = MomentumAuxiliary.paper("resnet-110", epochs=2)
    assert (learner.blocks, learner.cuts, learner.m, learner.lr, learner.epochs) == (18, "layers", 0.995, 0.8, 2)
    assert MomentumAuxiliary.paper(head="infopro").cuts == "blocks"
    assert (learner.start, learner.head, learner.schedule) == ("random", "dgl", "warm")
    with pytest.raises(ValueError, match="network is 'vgg', expected one of resnet-32, resnet-110"):
        MomentumAuxiliary.paper("vgg")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "sum"}, "variant is 'sum', expected one of 'released', 'paper', 'scaled', 'none'"),
        ({"paths": "none"}, "paths is 'none'"),
        ({"variant": "paper", "paths": "average"}, "paths is 'average', expected 'both' for variant 'paper'"),
        ({"m": 1.5}, "m is 1.5, expected 0 <= m <= 1"),
        ({"m": float("nan")}, "m is nan"),
        ({"start": "zero"}, "start is 'zero'"),
        ({"head": "cpc"}, "head is 'cpc', expected one of 'greedy', 'dgl', 'predsim', 'infopro'"),
        ({"options": {"width": 3}}, "head 'greedy' has no 'width', expected none"),
        ({"head": "infopro", "options": {"r": "layer"}}, "r is 'layer', expected 'module' or 'stage'"),
        ({"head": "dgl", "options": {"width": 0}}, "width is 0"),
        ({"cuts": "half"}, "cuts is 'half', expected one of 'layers', 'blocks', 'pairs'"),
        ({"cuts": (1, 0)}, "expected increasing layers"),
        ({"cuts": (9,)}, "expected increasing layers from 0 to 1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
    ],
)
def test_unusable_settings_are_clear_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes).fit(np.random.default_rng(0).random((8, 1, 4, 4)), np.arange(8) % 2)


def test_unusable_data_is_a_clear_error():
    x = np.random.default_rng(0).random((8, 1, 4, 4))
    for X, y, message in (
        (np.full((8, 1, 4, 4), np.nan), np.arange(8) % 2, "contains NaN"),
        (x, np.zeros(8), "only one class"),
        (x, np.arange(7) % 2, "inconsistent numbers of samples"),
        (x.reshape(8, 16), np.arange(8) % 2, "expected images, or image_shape"),
    ):
        with pytest.raises(ValueError, match=message):
            small().fit(X, y)
    with pytest.raises(ValueError, match="expected 0 to 1 to reconstruct"):
        small(head="infopro").fit(3 * x, np.arange(8) % 2)
    with pytest.raises(ValueError, match="not fitted yet"):
        small().distances()


def test_the_objective_wraps_another_one():
    column = resnet_column((1, 8, 8), 3, (2, 3), 1)
    inner = head_objective("greedy", column, column.shapes[1])
    names = list(Momentum(Following(column.layers[1], 2), inner).declare())
    assert {n.split(".")[0] for n in names} == {"following", "head"}
