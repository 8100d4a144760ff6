"""AugLocal: depths, selection, strides, auxiliary networks, gradients and the learner."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refimpl
from refimpl import AugLocal, LocalBlocksClassifier, data, models
from refimpl.backends import backend
from refimpl.methods.local.auglocal import agreement, auxiliary, copied, depths, selected, strides
from refimpl.methods.local.auglocal.schedule import SELECTIONS
from refimpl.models.isolated import CrossEntropy, Isolated, Target, local_step
from refimpl.models.representation import linear_cka
from refimpl.nn import initialise
from tests.harness import assert_gradient

nets = st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))


# ---------------------------------------------------------------- (1) to (3)


@pytest.mark.parametrize(
    ("n", "d", "expected"),
    [
        (16, 3, (3,) * 6 + (2,) * 6),
        (16, 5, (5,) * 3 + (4,) * 4 + (3,) * 3),
        (55, 6, (6,) * 10 + (5,) * 19 + (4,) * 19),
        (16, 1, (1,) * 14),
        (7, 2, (2,) * 4),
        (7, 5, (5,)),  # N = 2: one local layer
        (7, 6, ()),  # N = 1: none
    ],
)
def test_depths_of_the_card(n, d, expected):
    assert depths(n, d) == expected


@given(net=nets, tau=st.floats(0, 1))
def test_depths_start_at_d_and_fall_to_the_pyramid_s_top(net, tau):
    n, d = net
    found = depths(n, d, tau)
    assert len(found) == n - d - 1 and all(a >= b for a, b in itertools.pairwise(found))
    if found:
        assert found[0] == d and min(found) >= 1
        if len(found) > 1:
            assert found[-1] == max(1, int(np.rint(d * (1 - tau) + tau)))
    assert depths(n, d, 0.0) == (d,) * (n - d - 1)


@pytest.mark.parametrize(
    ("n", "l", "depth", "expected"),
    [
        (16, 0, 2, (8, 15)),
        (16, 3, 3, (7, 11, 15)),
        (16, 5, 4, (8, 10, 12, 15)),
        (16, 8, 3, (10, 13, 15)),
        (55, 0, 6, (9, 18, 27, 36, 45, 54)),
        (55, 30, 4, (36, 42, 48, 54)),
        (16, 12, 5, (13, 14, 15)),
    ],
)
def test_selections_of_the_card(n, l, depth, expected):
    assert selected(n, l, depth) == expected


@given(net=nets, l=st.integers(0, 60), how=st.sampled_from(SELECTIONS))
def test_selections_are_above_the_layer_and_end_at_the_top(net, l, how):
    n, depth = net
    l = l % (n - 1)
    picks = selected(n, l, depth, how)
    assert len(picks) == min(depth, n - 1 - l)
    if how == "repeated":
        assert set(picks) == {l}
        return
    assert all(a < b for a, b in zip((l, *picks), (*picks, n)))
    if how == "uniform":
        assert picks[-1] == n - 1
    if depth >= n - 1 - l:
        assert picks == tuple(range(l + 1, n))


@given(
    blocks=st.integers(1, 6), stages=st.integers(1, 4), l=st.integers(0, 30), d=st.integers(1, 12),
    how=st.sampled_from(SELECTIONS),
)  # fmt: skip
def test_an_auxiliary_network_halves_no_more_than_the_rest_of_the_network(blocks, stages, l, d, how):
    column = models.resnet_column((1, 32, 32), 2, tuple(4 * 2**i for i in range(stages)), blocks)
    l = l % (column.n - 1)
    picks = selected(column.n, l, d, how)
    found = int(np.prod(strides(column.widths, l, picks)))
    owed = column.shapes[l][1] // column.shapes[-1][1]
    assert owed % found == 0
    widths = [column.widths[k] for k in (l, *picks)]
    if all(b / a <= 2 for a, b in itertools.pairwise(widths)) and widths[-1] == column.widths[-1]:
        assert found == owed  # enough blocks: each doubling has one to pay for it
    if how == "repeated":
        assert found == 1


def test_a_jump_of_four_in_width_loses_a_halving():
    column = models.resnet_column((3, 32, 32), 10)
    assert strides(column.widths, 0, (15,)) == (2,)  # 16 to 64 in one block
    assert strides(column.widths, 0, (10, 15)) == (2, 2)
    assert strides(column.widths, 0, (15, 15)) == (2, 2)  # a further block pays


# ---------------------------------------------------------------- the auxiliary network


@pytest.mark.parametrize("unit", ["block", "conv"])
@pytest.mark.parametrize("how", SELECTIONS)
def test_auxiliary_networks_have_the_picked_widths_and_give_logits(unit, how):
    column = models.resnet_column((3, 16, 16), 5, (4, 8, 16), 2)
    for l in range(column.n - 1):
        picks = selected(column.n, l, 3, how)
        net = auxiliary(column, l, picks, unit)
        params = initialise(net, np.random.default_rng(0))
        assert net.apply(params, np.zeros((2, *column.shapes[l]), np.float32)).shape == (2, 5)
        first = "0.body.0.weight" if unit == "block" else "0.weight"
        widths = [len(params[f"block{i}.{first}"]) for i in range(1, len(picks) + 1)]
        assert widths == [column.widths[k] for k in picks]
        assert any(name.startswith("classifier.1.gain") for name in params) == (len(picks) == 1)


def test_the_weights_of_an_auxiliary_network_are_its_own(few):
    learner = small()
    learner.begin(*few)
    local, above = learner._all[0], [p for p in learner._all[1:]]
    assert not any(np.shares_memory(local.flat, p.flat) for p in above)
    weights = [w for n, w in local.items() if n.startswith("objective") and w.ndim == 4]
    others = [w for p in above for w in p.arrays().values()]
    assert weights and not any(w.shape == v.shape and np.array_equal(w, v) for w in weights for v in others)


COLUMNS = {
    "resnet": models.resnet_column((2, 6, 6), 3, (2, 4), 2),
    "mlp": models.mlp_column((5,), 3, (7, 6, 5, 4)),
}
each_column = pytest.mark.parametrize("kind", COLUMNS)


def modules_of(column, d, tau=0.5):
    deep = depths(column.n, d, tau)
    modules = []
    for l, depth in enumerate(deep):
        own = CrossEntropy(auxiliary(column, l, selected(column.n, l, depth)))
        modules.append(Isolated({f"layer{l}": column.layers[l]}, own))
    last = {f"layer{l}": column.layers[l] for l in range(len(deep), column.n)}
    return [*modules, Isolated(last, CrossEntropy(column.readout))]


def drawn(modules, n, seed):
    rng = np.random.default_rng(seed)
    rngs = {name: np.random.default_rng(rng.integers(2**32)) for name in [f"layer{l}" for l in range(n)]}
    rngs["objective"] = rng
    params = [m.initialise(rngs, np.float64) for m in modules]
    for p in params:
        p.flat += 0.1 * rng.standard_normal(p.size)
    return params


@each_column
@pytest.mark.parametrize("d", [1, 2])
def test_gradients_equal_central_differences(kind, d):
    column, rng = COLUMNS[kind], np.random.default_rng(1)
    modules = modules_of(column, d)
    params = drawn(modules, column.n, 0)
    x, target = rng.standard_normal((4, *column.shape)), Target(np.array([0, 1, 2, 1]))
    grads = [p.zeros_like() for p in params]
    local_step(modules, params, grads, x, target)

    def loss(j):
        return local_step(modules, params, [p.zeros_like() for p in params], x, target)[j]

    for j, p in enumerate(params):
        assert_gradient(grads[j].flat, lambda j=j: loss(j), p.flat)


@each_column
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8)
def test_with_a_copy_of_all_above_the_local_gradient_is_that_of_back_propagation(kind, seed):
    column, rng = COLUMNS[kind], np.random.default_rng(seed)
    whole = drawn(modules_of(column, column.n - 1), column.n, seed)[0]
    x, y = rng.standard_normal((6, *column.shape)), rng.integers(0, 3, 6)
    for l in range(column.n - 1):
        everything = tuple(range(l + 1, column.n))
        net = auxiliary(column, l, everything, norm=False)
        params = initialise(net, rng, np.float64)
        other = agreement(column, whole, x, y, l, net, params)
        copied(net, params, everything, whole)
        cosine, difference = agreement(column, whole, x, y, l, net, params)
        assert difference < 1e-10
        if cosine != 0:  # not a layer behind units that are all dead
            assert cosine > 1 - 1e-10 and other[0] <= cosine


def test_only_layers_in_a_row_can_be_copied():
    column = COLUMNS["resnet"]
    whole = drawn(modules_of(column, column.n - 1), column.n, 0)[0]
    net = auxiliary(column, 0, (2, 4), norm=False)
    with pytest.raises(ValueError, match="copied: block2"):
        copied(net, initialise(net, np.random.default_rng(0), np.float64), (2, 4), whole)


@each_column
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5)
def test_a_layer_s_update_sees_neither_other_layers_nor_their_auxiliary_networks(kind, seed):
    """All of that set to NaN (below: the auxiliary networks alone, since h comes through the layers), other labels in
    other modules: the same bits."""
    column, rng = COLUMNS[kind], np.random.default_rng(seed)
    modules = modules_of(column, 1)
    params = drawn(modules, column.n, seed)
    x, labels = rng.standard_normal((5, *column.shape)), rng.integers(0, 3, 5)
    before = [p.zeros_like() for p in params]
    local_step(modules, [p.copy() for p in params], before, x, Target(labels))
    for j in range(len(modules)):
        spoiled = [p.copy() for p in params]
        for i, p in enumerate(spoiled):
            for name, window in p.items():
                if i > j or (i < j and name.startswith("objective")):
                    window[...] = np.nan
        after, h = [p.zeros_like() for p in params], x
        with np.errstate(all="ignore"):
            for i, (module, p, g) in enumerate(zip(modules, spoiled, after)):
                h, _, saved = module.forward(p, h, Target(labels if i == j else (labels + 1) % 3))
                module.backward(p, g, saved)
        assert np.array_equal(after[j].flat, before[j].flat)


# ---------------------------------------------------------------- the learner


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    return digits.x_train[:150], digits.y_train[:150]


def small(**changes):
    shape = {"widths": (4, 8), "blocks": 2, "hidden": (16, 12, 8)}
    return AugLocal(**{"d": 1, **shape, "epochs": 2, "batch_size": 64, "random_state": 0, **changes})


def test_learns_the_digits_better_than_greedy_blocks(digits):
    shape = {"widths": (8, 16, 32), "blocks": 1, "epochs": 12, "batch_size": 64, "random_state": 0}
    mine = AugLocal(2, **shape).fit(*digits.train)
    greedy = LocalBlocksClassifier("greedy", **shape).fit(*digits.train)
    assert mine.score(*digits.test) > 0.8
    assert mine.score(*digits.test) > greedy.score(*digits.test)
    mlp = AugLocal(1, network="mlp", hidden=(64, 64, 64), epochs=12, random_state=0).fit(*digits.train)
    assert mlp.score(*digits.test) > 0.8


def test_modules_are_the_local_layers_and_the_rest(few):
    learner = small(d=2)
    learner.begin(*few)
    assert [list(m.layers) for m in learner._modules] == [["layer0"], ["layer1"], ["layer2", "layer3", "layer4"]]
    assert learner.picks(learner._column_, 0) == (2, 4)


@pytest.mark.parametrize("network", ["resnet", "mlp"])
def test_without_a_local_layer_it_is_back_propagation(few, network):
    """d = n - 1: the same bits as the learner of one module."""
    n = {"resnet": 5, "mlp": 3}[network]
    mine = small(d=n - 1, network=network).fit(*few)
    own = ("d", "tau", "selection", "unit", "workers")
    options = {k: v for k, v in mine.get_params().items() if k not in own}
    twin = LocalBlocksClassifier(modules=1, **options).fit(*few)
    assert np.array_equal(mine._all[0].flat, twin._all[0].flat)
    assert np.array_equal(mine.predict_proba(few[0]), twin.predict_proba(few[0]))
    one_local = small(d=n - 2, network=network)
    one_local.begin(*few)
    assert len(one_local._modules) == 2


@pytest.mark.parametrize("body", ["numpy", "native"])
def test_both_orders_of_updates_give_the_same_bits(few, body):
    with backend(body):
        a, b = (small(update=update).fit(*few) for update in ("module", "end"))
    assert all(np.array_equal(p.flat, q.flat) and np.array_equal(p.state, q.state) for p, q in zip(a._all, b._all))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": ("reflect", "flip"), "schedule": "warm", "warmup": 2},
        {"network": "mlp", "selection": "repeated"},
    ],
    ids=str,
)
def test_resumed_training_gives_the_same_bits(few, options):
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


@pytest.mark.parametrize("options", [{}, {"augment": ("flip",), "d": 2}, {"network": "mlp"}], ids=str)
@pytest.mark.parametrize("body", ["numpy", "native"])
def test_modules_that_run_at_the_same_time_give_the_same_bits(few, options, body):
    threads = refimpl.get_num_threads()
    refimpl.set_num_threads(1)  # all work of a module on one thread, with and without
    try:
        with backend(body):
            alone, together = (small(workers=w, **options).fit(*few) for w in (1, 3))
    finally:
        refimpl.set_num_threads(threads)
    assert alone.history_ == together.history_
    for a, b in zip(alone._all, together._all):
        assert np.array_equal(a.flat, b.flat) and np.array_equal(a.state, b.state)


def test_auxiliary_networks_have_no_part_in_inference(few):
    learner = small().fit(*few)
    before = learner.predict_proba(few[0])
    rng = np.random.default_rng(0)
    for params in learner._all[:-1]:
        for name, window in params.items():
            if name.startswith("objective"):
                window[...] = rng.permutation(window.ravel()).reshape(window.shape)
    assert np.array_equal(learner.predict_proba(few[0]), before)


def test_the_largest_module_keeps_less_with_a_smaller_d(few):
    def kept(learner):
        learner.begin(*few)
        return learner.kept_bytes(64)

    largest = [max(kept(small(d=d, blocks=3))) for d in (1, 2, 3, 6)]
    assert largest == sorted(largest) and largest[-1] == kept(LocalBlocksClassifier(
        modules=1, widths=(4, 8), blocks=3, batch_size=64, random_state=0))[0]  # fmt: skip
    assert largest[0] < 0.6 * largest[-1]


def test_the_paper_s_values():
    learner = AugLocal.paper()
    assert (learner.batch_size, learner.lr, learner.epochs, learner.blocks) == (1024, 0.8, 400, 5)
    assert AugLocal.paper("stl-10", d=5).lr == 0.1 and AugLocal.paper(blocks=18).blocks == 18
    with pytest.raises(ValueError, match="data is 'mnist'"):
        AugLocal.paper("mnist")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": 0}, "d is 0, expected a whole number of at least 1"),
        ({"d": 5}, "d is 5, expected at most 4: the network has 5 layers"),
        ({"d": 1.5}, "d is 1.5"),
        ({"tau": 2}, "tau is 2"),
        ({"selection": "random"}, "selection is 'random', expected one of 'uniform'"),
        ({"workers": 0}, "workers is 0"),
        ({"workers": 2, "update": "end"}, "update is 'end', expected 'module' where several workers run"),
        ({"unit": "layer"}, "unit is 'layer'"),
        ({"unit": "conv", "network": "mlp"}, "expected 'block' for network 'mlp'"),
        ({"network": "vgg"}, "network is 'vgg'"),
    ],
)
def test_bad_settings_are_refused_before_training(few, changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes).begin(*few)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: depths(5, 5), "d is 5, expected 1..4"),
        (lambda: depths(5, 2, -0.1), "tau is -0.1"),
        (lambda: selected(5, 4, 1), "layer 4 of 5"),
        (lambda: selected(5, 0, 1, "near"), "how is 'near'"),
        (lambda: auxiliary(COLUMNS["resnet"], 0, (1,), "dense"), "unit is 'dense'"),
        (lambda: auxiliary(COLUMNS["mlp"], 0, (1,), "conv"), "expected 'block' for an MLP"),
        (lambda: linear_cka(np.ones((2, 1)), np.ones((3, 1))), "2 and 3 rows"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.1, 10))
def test_cka_knows_no_rotation_and_no_scale(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((12, 4)), rng.standard_normal((12, 5, 2))
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    assert linear_cka(a, scale * a @ rotation + 3) == pytest.approx(1)
    assert 0 <= linear_cka(a, b) < 1 and linear_cka(a, b) == pytest.approx(linear_cka(b, scale * a @ rotation))
    assert linear_cka(a, np.ones((12, 2))) == 0
