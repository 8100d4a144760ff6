"""ForwardGNN: the properties of the paper's card, the contract of a learner, bad input."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import BackpropGNN, BackpropLinks, ForwardGNN, ForwardGNNLinks, data
from refimpl.backends import backend
from refimpl.data.graphs import Graph, Pairs
from refimpl.methods.graph.forward_gnn import goodness, goodness_loss, single_forward_loss
from refimpl.methods.graph.forward_gnn.inputs import (
    label_matrix,
    normalised,
    with_class_nodes,
    with_virtual_rows,
    wrong_classes,
)
from refimpl.methods.graph.forward_gnn.scheme import ready
from refimpl.methods.graph.forward_gnn.top_down import schedule
from refimpl.models.graph_learner import roc_auc
from refimpl.nn.graph import Sparse

VARIANTS = ("sf", "sf-top-to-input", "sf-top-to-loss", "ff-la", "ff-vn")
KINDS = ("gcn", "sage", "gat")


def random_graph(rng, n=14, edges=24, features=6):
    A = Sparse.from_edges(n, rng.integers(0, n, (edges, 2)))
    x = rng.random((n, features)) * (rng.random((n, features)) < 0.6)
    return Graph(A, Sparse.from_dense(x))


def problem(seed=0, n=14, K=3, **sizes):
    """A random graph, labels of most nodes (each class has training nodes), validation nodes."""
    rng = np.random.default_rng(seed)
    graph, y = random_graph(rng, n, **sizes), rng.integers(0, K, n)
    y[: 2 * K] = np.repeat(np.arange(K), 2)
    validation = np.zeros(n, bool)
    validation[2 * K : 2 * K + 2] = True
    y[-3:] = -1
    return graph, y, validation


def small(variant="sf", **changes):
    settings = {"layers": 2, "width": 8, "epochs": 6, "dtype": "float64", "random_state": 0, "lr": 1e-2, **changes}
    return ForwardGNN(variant, **settings)


@pytest.fixture(scope="module")
def karate():
    return data.load("karate").split(1, 0.24, 0.12)


# ---------------------------------------------------------------- learning


def communities(seed, n=90, K=3):
    """A planted partition: 25 % of the pairs within a class are joined, 2 % of the others; noisy features."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % K
    chance = np.where(labels[:, None] == labels, 0.25, 0.02)
    i, j = np.nonzero(np.triu(rng.random((n, n)) < chance, 1))
    x = rng.random((n, 12)) * (rng.random((n, 12)) < 0.3)
    x[np.arange(n), labels] += rng.random(n)
    known = rng.permutation(n)[: n // 2]
    y, validation = np.full(n, -1), np.zeros(n, bool)
    y[known], validation[known[::4]] = labels[known], True
    graph = Graph(Sparse.from_edges(n, np.stack([i, j], axis=1)), Sparse.from_dense(x))
    return (graph, y, validation), (graph, np.where(y < 0, labels, -1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_learns_communities(variant, kind):
    """Mean over three seeds; guessing gets 0.33."""
    train, test = communities(0)
    learner = ForwardGNN(variant, kind, width=32, epochs=150, lr=1e-2, weight_decay=0.0)
    assert np.mean([learner.set_params(random_state=s).fit(*train).score(*test) for s in range(3)]) > 0.7


@pytest.mark.parametrize("variant", ["sf", "sf-top-to-input", "sf-top-to-loss", "ff-la"])
def test_learns_the_karate_club_from_eight_members(variant):
    """Mean over four splits; guessing the larger club gets 0.5."""
    splits = [data.load("karate").split(seed, 0.24, 0.12) for seed in range(4)]
    learner = ForwardGNN(variant, width=32, epochs=200, lr=1e-2, random_state=0)
    assert np.mean([learner.fit(*split.train).score(*split.test) for split in splits]) > 0.66


def test_labels_of_any_integers_come_back(karate):
    graph, y, validation = karate.train
    strange = np.where(y < 0, -1, 10 + 7 * y)
    learner = small(epochs=60).fit(graph, strange, validation)
    assert set(np.unique(learner.predict(graph))) == {10, 17}
    assert learner.classes_.tolist() == [10, 17]
    plain = small(epochs=60).fit(graph, y, validation)
    assert np.array_equal(learner.predict(graph), 10 + 7 * plain.predict(graph))


@pytest.mark.parametrize("variant", VARIANTS)
def test_probabilities_sum_to_one_and_decide(karate, variant):
    learner = small(variant, epochs=20).fit(*karate.train)
    p = learner.predict_proba(karate.graph)
    assert p.shape == (34, 2) and np.allclose(p.sum(axis=1), 1) and (p >= 0).all()
    assert np.array_equal(learner.predict(karate.graph), p.argmax(axis=1))


def test_links_of_the_karate_club_are_better_than_chance():
    links = data.load("karate").links(0)
    for variant in ("ce", "ff", "ce-top-to-input"):
        learner = ForwardGNNLinks(variant, width=16, epochs=100, lr=1e-2, random_state=0).fit(*links.train)
        assert learner.score(*links.test) > 0.5
        p = learner.predict_proba(links.test_graph, links.pairs[2].nodes)
        assert ((p >= 0) & (p <= 1)).all() and p.shape == (len(links.pairs[2]),)


# ---------------------------------------------------------------- properties of the card


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), both=st.booleans())
def test_class_nodes_touch_training_nodes_alone(seed, both):
    rng = np.random.default_rng(seed)
    graph, K = random_graph(rng), 3
    nodes = rng.permutation(14)[:6]
    classes = rng.integers(0, K, 6)
    A = with_class_nodes(graph.A, nodes, classes, K, both)
    dense, n = A.dense(), 14
    assert np.array_equal(dense[:n, :n], graph.A.dense())
    assert A.nnz - graph.A.nnz == (2 if both else 1) * len(nodes)
    assert np.array_equal(dense[n:, :n].sum(axis=1), np.bincount(classes, minlength=K))  # degree of a class node
    expected = np.zeros((K, n))
    expected[classes, nodes] = 1
    assert np.array_equal(dense[n:, :n], expected) and np.array_equal(dense[:n, n:], both * expected.T)
    assert not dense[n:, n:].any()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_inputs_are_what_the_paper_says(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((9, 5)) * (rng.random((9, 5)) < 0.5)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    expected = x / (lengths + 1e-8)
    assert np.allclose(normalised(x), expected) and np.allclose(normalised(Sparse.from_dense(x)).dense(), expected)
    a, b = normalised((Sparse.from_dense(x[:, :2]), x[:, 2:]))
    assert np.allclose(np.concatenate([a.dense(), b], axis=1), expected)
    virtual = rng.standard_normal((3, 5))
    assert np.array_equal(with_virtual_rows(Sparse.from_dense(x), virtual).dense(), np.concatenate([x, virtual]))
    labels = label_matrix(4, np.array([1, 3]), np.array([2, 0]), 3, np.float64)
    assert np.allclose(labels, [[1 / 3] * 3, [0, 0, 1], [1 / 3] * 3, [1, 0, 0]])
    classes = rng.integers(0, 4, 7)
    wrong = wrong_classes(classes, 4, rng)
    assert np.array_equal(np.sort(np.concatenate([wrong, classes[:, None]], axis=1)), np.tile(np.arange(4), (7, 1)))


def test_the_loss_of_equal_class_nodes_is_log_of_their_number():
    rng = np.random.default_rng(0)
    z, virtual = rng.standard_normal((5, 4)), np.tile(rng.standard_normal(4), (7, 1))
    loss, dz, _ = single_forward_loss(z, virtual, np.array([0, 6, 3, 3, 2]), 0.7)
    assert np.isclose(loss, np.log(7)) and np.allclose(dz, 0)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.1, 10))
def test_a_higher_temperature_is_a_scaling_of_the_logits(seed, factor):
    rng = np.random.default_rng(seed)
    z, virtual, y = rng.standard_normal((5, 4)), rng.standard_normal((3, 4)), rng.integers(0, 3, 5)
    a, b = single_forward_loss(z, virtual, y, factor), single_forward_loss(z, virtual / factor, y, 1.0)
    assert np.isclose(a[0], b[0]) and np.allclose(a[1], b[1]) and np.allclose(a[2], b[2] / factor)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_equal_positive_and_negative_passes_pull_towards_the_threshold(seed):
    """The sum of both gradients is (2/|T|) (2 sigma(g - theta) - 1) Z."""
    z = np.abs(np.random.default_rng(seed).standard_normal((6, 4)))
    total = goodness_loss(z, True, 2.0, 1.0)[1] + goodness_loss(z, False, 2.0, 1.0)[1]
    s = 1 / (1 + np.exp(2.0 - goodness(z)))
    assert np.allclose(total, 2 / 6 * (2 * s - 1)[:, None] * z)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), variant=st.sampled_from(VARIANTS))
def test_renumbering_the_nodes_renumbers_the_predictions(seed, kind, variant):
    """Trained on both numberings; negatives and class nodes are the same because training nodes keep their order."""
    graph, y, validation = problem(seed)
    n, rng = graph.n, np.random.default_rng(seed)
    free = np.flatnonzero(y < 0)
    order = np.arange(n)
    order[free] = rng.permutation(free)  # nodes without labels change places
    place = np.argsort(order)
    A = Sparse.from_entries(place[graph.A.rows], place[graph.A.indices], None, graph.A.shape)
    moved = Graph(A, graph.x.take(order))
    a = small(variant, kind=kind, epochs=3).fit(graph, y, validation)
    b = small(variant, kind=kind, epochs=3).fit(moved, y[order], validation[order])
    assert np.allclose(b.predict_proba(moved), a.predict_proba(graph)[order], atol=1e-9)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS))
def test_renaming_the_classes_renames_the_logits(seed, kind):
    graph, y, validation = problem(seed)
    a = small(kind=kind)
    a.begin(graph, y, validation)
    order = np.random.default_rng(seed).permutation(3)  # class k becomes order[k]
    b = small(kind=kind)
    b.begin(graph, np.where(y < 0, -1, order[y]), validation)
    b._params["fixed"]["virtual"][order] = a._params["fixed"]["virtual"]
    b._scheme.derive()
    for name in ("layer1", "layer2"):
        b._params[name].assign(a._params[name])
    assert np.allclose(b.predict_proba(graph)[:, order], a.predict_proba(graph), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_top_to_loss_with_one_layer_and_without_clipping_is_single_forward(kind):
    graph, y, validation = problem(3)
    gradients = []
    for variant in ("sf", "sf-top-to-loss"):
        learner = small(variant, kind=kind, layers=1, clip=None)
        learner.begin(graph, y, validation)
        learner._step = lambda name: None
        learner._scheme.epoch(0)
        gradients.append(learner._grads["layer1"].flat)
    assert np.abs(gradients[0]).max() > 1e-4 and np.allclose(*gradients, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_summed_once_give_the_outputs_of_summing_in_each_step(kind):
    graph, y, validation = problem(5)
    learner = small(kind=kind)
    learner.begin(graph, y, validation)
    learner._enter(1)
    scheme, layer = learner._scheme, learner._layers[1]
    x, _ = scheme.chain(scheme.S, scheme.x, 1)
    rows = np.array([4, 0, 15])
    prepared, limited = ready(layer, scheme.S, normalised(x), rows)
    full = scheme.output(1, (scheme.S, normalised(x)))
    assert limited == (kind != "gat")
    assert np.allclose(scheme.output(1, prepared)[slice(None) if limited else rows], full[rows], atol=1e-12)


def test_one_time_step_takes_even_layers_first():
    assert schedule(5) == [0, 2, 4, 1, 3] and schedule(1) == [0]


def test_clipping_limits_the_gradient_of_a_layer():
    graph, y, validation = problem(6)
    norms = []
    for clip in (None, 1e-3):
        learner = small("sf-top-to-loss", clip=clip)
        learner.begin(graph, y, validation)
        found = []
        learner._step = lambda name, learner=learner, found=found: found.append(
            np.linalg.norm(learner._grads[name].flat)
        )
        learner._scheme.epoch(0)
        norms.append(found)
    assert min(norms[0]) > 1e-3 and np.allclose(norms[1], [1e-3 * n / (n + 1e-6) for n in norms[0]])


def test_the_strict_reference_differs_in_its_bottom_up_pass_alone():
    graph, y, validation = problem(7)
    learners = [small("sf-top-to-loss", layers=3, strict_reference=strict) for strict in (False, True)]
    for learner in learners:
        learner.begin(graph, y, validation)
        for i in (1, 2, 3):
            learner._params[f"layer{i}"]["bias"][...] = 0.3
    a, b = ([*m._scheme.bottom_up(m._scheme.S, m._scheme.x)] for m in learners)
    assert np.allclose(a[0], b[0]) and not np.allclose(a[1], b[1])


def test_prediction_goodness_is_a_mean_and_training_goodness_a_sum():
    learner = small("ff-la", threshold=2.0)
    learner.begin(*problem())
    z = np.ones((2, 8))
    assert np.allclose(learner._scheme.layer_score(z), 1 - 2) and np.allclose(goodness(z), 8)


def test_ff_reveals_validation_labels_in_the_test_and_sf_does_not():
    graph, y, validation = problem(8)
    p = small("ff-la").fit(graph, y, validation).predict_proba(graph)
    known = y >= 0
    assert np.array_equal(p[known], np.eye(3)[y[known]])
    for other in range(3):
        changed = np.where(validation, other, y)
        a = small("sf", epochs=4, patience=99).fit(graph, y, validation)
        b = small("sf", epochs=4, patience=99).fit(graph, changed, validation)
        a._params["layer1"].assign(b._params["layer1"])  # early stopping may have chosen others
        a._params["layer2"].assign(b._params["layer2"])
        assert np.array_equal(a.predict_proba(graph), b.predict_proba(graph))


# ---------------------------------------------------------------- what an update may depend on


def begun(variant, seed=0, kind="gcn", layers=4, phase=0, **changes):
    learner = small(variant, kind=kind, layers=layers, **changes)
    learner.begin(*problem(seed))
    for name, params in learner._params.items():
        if name.startswith("layer"):
            params.flat[...] += 0.1 * np.random.default_rng(len(name) + seed).standard_normal(params.size)
    if phase:
        learner._phase = phase
    learner._enter(phase)
    return learner


def bits(learner):
    return {name: params.flat.copy() for name, params in learner._params.items() if name.startswith("layer")}


def spoil(learner, spared, rng):
    """Other numbers in every parameter, gradient and optimiser but those of the layers `spared`, in the best
    parameters so far, and in the labels that are not for training."""
    for name, params in learner._params.items():
        if name not in spared and name not in ("fixed", "states"):
            params.flat[...] = rng.standard_normal(params.size)
    for name, state in learner._optimizers.items():
        if name not in spared:
            state.step = 17
            for vector in state.vectors.values():
                vector[...] = rng.random(vector.shape)
            learner._grads[name].flat[...] = 9.0
    learner._labels[learner._validation] = (learner._labels[learner._validation] + 1) % 3
    learner._best = {"score": 0.123, "epoch": 5}


@settings(max_examples=12)
@given(
    seed=st.integers(0, 1000),
    variant=st.sampled_from(["sf", "ff-la", "ff-vn"]),
    kind=st.sampled_from(KINDS),
    phase=st.integers(0, 3),
)
def test_a_layer_trained_alone_depends_on_its_input_graph_and_training_labels_only(seed, variant, kind, phase):
    plain, spoilt = (begun(variant, seed, kind, phase=phase) for _ in range(2))
    name = f"layer{phase + 1}"
    spoil(spoilt, {name}, np.random.default_rng(seed))
    before = bits(spoilt)
    for learner in (plain, spoilt):
        inputs = pickle.dumps(learner._scheme.given)
        for _ in range(2):
            learner._scheme.epoch(phase)
        assert pickle.dumps(learner._scheme.given) == inputs  # the update leaves its input alone
    assert np.array_equal(plain._params[name].flat, spoilt._params[name].flat)
    assert not np.array_equal(spoilt._params[name].flat, before[name])
    for other, flat in bits(spoilt).items():
        assert other == name or np.array_equal(flat, before[other])


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS), j=st.integers(0, 3))
def test_a_layer_of_top_to_input_depends_on_the_states_beside_it_only(seed, kind, j):
    plain, spoilt = (begun("sf-top-to-input", seed, kind) for _ in range(2))
    rng, name = np.random.default_rng(seed), f"layer{j + 1}"
    spoil(spoilt, {name}, rng)
    for i, s in enumerate(spoilt._scheme.states):
        if i not in (j - 1, j + 1):
            s[...] = rng.random(s.shape)
    for learner in (plain, spoilt):
        scheme = learner._scheme
        scheme.learn(j, (scheme.S, scheme.input_of(j, scheme.x, scheme.states)), [])
        learner._step(name)
    assert np.array_equal(plain._params[name].flat, spoilt._params[name].flat)
    for beside in {j - 1, j + 1} & set(range(4)):  # and on both of them
        other = begun("sf-top-to-input", seed, kind)
        other._scheme.states[beside][...] += rng.random(other._scheme.states[beside].shape)
        scheme = other._scheme
        scheme.learn(j, (scheme.S, scheme.input_of(j, scheme.x, scheme.states)), [])
        other._step(name)
        assert not np.array_equal(plain._params[name].flat, other._params[name].flat)


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS), j=st.integers(0, 3))
def test_a_layer_of_top_to_loss_depends_on_the_state_below_and_those_above_only(seed, kind, j):
    def updated(spoilt_states, spoil_rest):
        learner, rng = begun("sf-top-to-loss", seed, kind), np.random.default_rng(seed)
        if spoil_rest:
            spoil(learner, {f"layer{j + 1}"}, rng)
        for i in spoilt_states:
            learner._scheme.states[i][...] += rng.random(learner._scheme.states[i].shape)
        scheme = learner._scheme
        old = scheme.states
        scheme.learn(j, (scheme.S, scheme.x if j == 0 else old[j - 1]), old[j + 1 :])
        scheme.clip(f"layer{j + 1}")
        learner._step(f"layer{j + 1}")
        return learner._params[f"layer{j + 1}"].flat

    allowed = {j - 1, *range(j + 1, 4)} & set(range(4))
    plain = updated([], False)
    assert np.array_equal(plain, updated(set(range(4)) - allowed, True))
    for i in allowed:
        assert not np.array_equal(plain, updated([i], False))


@pytest.mark.parametrize("variant", ["sf-top-to-input", "sf-top-to-loss"])
def test_a_whole_step_of_all_layers_is_the_steps_of_each_by_itself(variant):
    """Top-To-Loss: all read the states of the previous step. Top-To-Input: odd layers read what the even ones wrote."""
    whole, parts = begun(variant, 2), begun(variant, 2)
    whole._scheme.epoch(0)
    scheme = parts._scheme
    old = [s.copy() for s in scheme.states]
    for j in schedule(4) if variant == "sf-top-to-input" else [2, 0, 3, 1]:
        if variant == "sf-top-to-input":
            _, z = scheme.learn(j, (scheme.S, scheme.input_of(j, scheme.x, scheme.states)), [])
            parts._step(f"layer{j + 1}")
            scheme.states[j][...] = z
        else:
            scheme.learn(j, (scheme.S, scheme.x if j == 0 else old[j - 1]), old[j + 1 :])
            scheme.clip(f"layer{j + 1}")
            parts._step(f"layer{j + 1}")
    for name, flat in bits(whole).items():
        assert np.array_equal(flat, parts._params[name].flat)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_layer_does_not_hear_of_nodes_two_steps_from_the_training_nodes(kind):
    """Features of nodes that are neither training nodes nor their neighbours do not change its update."""
    n = 12
    A = Sparse.from_edges(n, [(i, i + 1) for i in range(n - 1)])  # a path; training nodes 0..3
    y = np.full(n, -1)
    y[:4] = [0, 1, 2, 0]
    x = np.random.default_rng(0).random((n, 5)) + 0.1
    updates = []
    for change in (0.0, 1.0):
        features = x.copy()
        features[6:] += change * np.random.default_rng(1).random((n - 6, 5))
        learner = small(kind=kind, layers=1)
        learner.begin(Graph(A, Sparse.from_dense(features)), y, np.zeros(n, bool))
        learner._scheme.epoch(0)
        updates.append(learner._params["layer1"].flat)
    assert np.array_equal(*updates)


# ---------------------------------------------------------------- the contract of a learner

LEARNERS = {
    **{v: lambda v=v, **k: small(v, **k) for v in VARIANTS},
    "sf gat": lambda **k: small("sf", kind="gat", **k),
    "ff-vn all labels": lambda **k: small("ff-vn", append_label="all", **k),
    "sf input labels": lambda **k: small("sf", append_label="input", **k),
    "bp": lambda **k: BackpropGNN(
        **{"layers": 2, "width": 8, "epochs": 6, "dtype": "float64", "random_state": 0, "lr": 1e-2, **k}
    ),
}
LINKERS = {
    **{
        v: lambda v=v, **k: ForwardGNNLinks(
            v, **{"layers": 2, "width": 8, "epochs": 6, "random_state": 0, "lr": 1e-2, **k}
        )
        for v in ("ce", "ff", "ce-top-to-input")
    },
    "bp links": lambda **k: BackpropLinks(**{"layers": 2, "width": 8, "epochs": 6, "random_state": 0, "lr": 1e-2, **k}),
}


def train_of(name, karate):
    return data.load("karate").links(0).train if name in LINKERS else karate.train


def same_parameters(a, b):
    return all(
        np.array_equal(a._params[name].flat, b._params[name].flat) and np.array_equal(a._params[name].state, p.state)
        for name, p in b._params.items()
    )


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("name", [*LEARNERS, *LINKERS])
def test_resumed_training_gives_the_same_bits(karate, name, body):
    make, train = {**LEARNERS, **LINKERS}[name], train_of(name, karate)
    with backend(body):
        whole = make().fit(*train)
        for stop in (1, 2, whole.total_ - 1):
            first = make()
            first.begin(*train)
            for _ in range(stop):
                first.advance()
            arrays, meta = first.checkpoint()
            arrays, meta = {k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta))
            second = make(random_state=77)
            second.begin(*train)
            second.restore(arrays, meta)
            while second.progress_ < second.total_:
                second.advance()
            second.finish()
            assert same_parameters(second, whole) and second.history_ == whole.history_
    assert same_parameters(pickle.loads(pickle.dumps(whole)), whole)


def test_training_stops_early_layer_by_layer_and_takes_the_best(karate):
    learner = small("sf", epochs=400, patience=3, lr=0.05)
    learner.begin(*karate.train)
    planned = learner.total_
    while learner.progress_ < learner.total_:
        learner.advance()
    assert planned == 2 * 200 and learner.total_ < planned and learner.progress_ == learner.total_
    for phase in (1, 2):
        scores = [m["validation"] for m in learner.history_ if m["phase"] == phase]
        assert len(scores) - 1 - int(np.argmax(scores)) == 3
        assert np.array_equal(learner._params[f"layer{phase}"].flat, learner._params[f"best layer{phase}"].flat)


@pytest.mark.parametrize("name", [*LEARNERS, *LINKERS])
def test_same_seed_same_model_other_seed_other_model(karate, name):
    make, train = {**LEARNERS, **LINKERS}[name], train_of(name, karate)
    a, b, c = (make(random_state=s).fit(*train) for s in (1, 1, 2))
    assert same_parameters(a, b) and not same_parameters(a, c)


@pytest.mark.parametrize("name", [*LEARNERS, *LINKERS])
def test_native_and_numpy_learn_the_same(karate, name):
    make, train = {**LEARNERS, **LINKERS}[name], train_of(name, karate)
    params = []
    for body in ("numpy", "native"):
        with backend(body):
            params.append(make(dtype="float64", epochs=3).fit(*train)._params["layer1" if "bp" not in name else "net"])
    assert np.allclose(params[0].flat, params[1].flat, atol=1e-7)


def test_without_validation_nodes_all_epochs_are_trained(karate):
    graph, y, _ = karate.train
    learner = small(epochs=20, patience=1).fit(graph, y, np.zeros(34, bool))
    assert learner.progress_ == learner.total_ == 20 and "validation" not in learner.history_[0]


def test_without_a_validation_mask_a_fifth_of_the_labels_is_taken(karate):
    graph, y, _ = karate.train
    learner = small()
    learner.begin(graph, y)
    assert len(learner._validation) == (y >= 0).sum() // 5
    assert len(learner._train) == (y >= 0).sum() - len(learner._validation)


def test_auc_by_hand():
    assert roc_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75
    assert roc_auc(np.array([1.0, 1.0, 1.0]), np.array([0, 1, 1])) == 0.5
    with pytest.raises(ValueError, match="expected some of both"):
        roc_auc(np.ones(2), np.ones(2))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "pepita"}, "variant is 'pepita', expected one of sf, sf-top-to-input"),
        ({"kind": "gin"}, "kind is 'gin', expected one of gcn, sage, gat"),
        ({"layers": 0}, "layers is 0, expected a whole number of at least 1"),
        ({"width": 0}, "width is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"validate_every": 0}, "validate_every is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"temperature": 0.0}, "temperature is 0.0, expected a positive number"),
        ({"threshold": float("inf")}, "threshold is inf"),
        ({"negatives": 2, "variant": "ff-la"}, "negatives is 2, expected None or a whole number from 1 to 1"),
        ({"append_label": "some"}, "append_label is 'some'"),
        ({"append_label": "all", "variant": "ff-la"}, "append_label is 'all', expected none for ff-la"),
        ({"clip": 0.0, "variant": "sf-top-to-loss"}, "clip is 0.0"),
        ({"strict_reference": True}, "strict_reference is True, expected False for sf"),
        ({"dtype": "float16"}, "dtype is 'float16'"),
    ],
)
def test_unusable_settings_are_clear_errors(karate, change, message):
    with pytest.raises(ValueError, match=f"^ForwardGNN: {message}"):
        small(**change).fit(*karate.train)


def test_unusable_data_are_clear_errors(karate):
    graph, y, validation = karate.train
    cases = [
        ((np.eye(3), y, validation), TypeError, "X is a ndarray, expected a graph"),
        ((graph, y[:5], validation), ValueError, "expected 34 integers, -1 where unknown"),
        ((graph, y.astype(float), validation), ValueError, "expected 34 integers"),
        ((graph, y - 5, validation), ValueError, "expected classes of at least 0"),
        ((graph, np.where(y < 0, -1, 0), validation), ValueError, "have 1 class"),
        ((graph, np.full(34, -1), validation), ValueError, "have 0 class"),
        ((graph, y, validation[:3]), ValueError, r"validation is bool\[3\], expected bool\[34\]"),
        ((graph, y, ~validation), ValueError, "is for validation, but has no label"),
        ((graph, y, validation | (y == 1)), ValueError, "class 1 has no training node"),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            small().fit(*arguments)
    learner = small(epochs=2).fit(graph, y, validation)
    with pytest.raises(ValueError, match="14 nodes with 6 features, but this model was fitted with 34 and 34"):
        learner.predict(problem()[0])
    with pytest.raises(ValueError, match="no node has a label"):
        learner.score(graph, np.full(34, -1))
    with pytest.raises(ValueError, match="not fitted yet"):
        small().predict(graph)
    with pytest.raises(ValueError, match="embed is for variant 'sf'"):
        small("ff-la", epochs=1).fit(graph, y, validation).embed(graph)


def test_unusable_links_are_clear_errors():
    links = data.load("karate").links(0)
    graph, pairs, validation = links.train
    cases = [
        ((graph, pairs.nodes), TypeError, "y is a ndarray, expected refimpl.data.graphs.Pairs"),
        ((graph, Pairs(pairs.nodes + 30, pairs.joined)), ValueError, "names nodes"),
        ((graph, Pairs(pairs.nodes[:, :1], pairs.joined)), ValueError, r"expected \(P, 2\), \(P,\)"),
        ((graph, Pairs(pairs.nodes, np.ones(len(pairs), int))), ValueError, "needs joined pairs"),
        ((graph, pairs, validation.nodes), TypeError, "validation is a ndarray"),
    ]
    for arguments, kind, message in cases:
        with pytest.raises(kind, match=message):
            ForwardGNNLinks().fit(*arguments)
    with pytest.raises(ValueError, match="variant is 'sf'"):
        ForwardGNNLinks("sf").fit(graph, pairs)
    with pytest.raises(ValueError, match="width is 30, expected a multiple of heads, 4"):
        ForwardGNNLinks(kind="gat", width=30).fit(graph, pairs)
