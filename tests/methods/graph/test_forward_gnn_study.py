"""Experiment, figure, race and claims of ForwardGNN: that they run, and that verdicts turn at the thresholds."""

import numpy as np
import pytest

from refimpl import data, methods, record
from refimpl.data.graphs import Graph, GraphData
from refimpl.methods.graph.forward_gnn import PAPER, experiment, race
from refimpl.methods.graph.forward_gnn.claims import bp_kept, kept_arrays, sf_kept
from refimpl.methods.graph.forward_gnn.study import goodness_of_passes, layout
from refimpl.nn.graph import Sparse
from refimpl.record import Setting

pytest.importorskip("matplotlib")
from refimpl.viz import style


@pytest.fixture(scope="module")
def karate():
    return data.load("karate")


@pytest.fixture(scope="module")
def larger():
    """A made-up graph of 240 nodes in 3 classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    same = labels[:, None] == labels
    i, j = np.nonzero(np.triu(rng.random((240, 240)) < np.where(same, 0.06, 0.005), 1))
    x = (rng.random((240, 20)) < 0.2) + np.eye(20)[labels]
    graph = Graph(Sparse.from_edges(240, np.stack([i, j], axis=1)), Sparse.from_dense(x.astype(np.float32)))
    none = np.zeros(240, bool)
    return GraphData("cora", "made up", graph, labels, 3, (none, none, none), "", "").split(0)


def results_of(made):
    found = []
    for c in made.contenders:
        c.learner.fit(*made.data.train)
        entry = {"name": c.name, "role": c.role, "learner": c.learner, "score": c.learner.score(*made.data.test)}
        found.append({**entry, "history": c.learner.history_})
    return found


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_the_experiment_trains_and_draws(karate, larger, kind):
    for graph in (karate, larger):
        made = experiment(graph, 0, {"kind": kind, "width": 8, "epochs": 4, "layers": 3})
        assert [c.role for c in made.contenders].count("baseline") == 1 and len(made.contenders) == 6
        with style.use():
            figure = style.figure()
            made.draw(figure, results_of(made))
            figure.canvas.draw()
        assert len(figure.axes) == 4 and all(ax.get_title(loc="left") for ax in figure.axes)


def test_an_unknown_setting_is_a_clear_error(karate):
    with pytest.raises(ValueError, match="forward_gnn: no setting 'depth', expected one of kind, layers"):
        experiment(karate, 0, {"depth": 3})


def test_a_quick_experiment_is_short(karate):
    assert experiment(karate, 0, {"quick": True}).contenders[0].learner.epochs == 40
    assert experiment(karate, 0, {"quick": True, "epochs": 7}).contenders[0].learner.epochs == 7


def test_another_seed_is_another_split(karate):
    a, b, c = (experiment(karate, seed, {}).data.masks[0] for seed in (0, 0, 1))
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_the_layout_puts_joined_nodes_together():
    A = Sparse.from_edges(20, [(i + s, j + s) for s in (0, 10) for i in range(10) for j in range(i)] + [(0, 10)])
    at = layout(A, np.random.default_rng(0))
    distance = np.linalg.norm(at[:, None] - at, axis=2)
    assert np.isfinite(at).all() and distance[:10, :10].mean() < 0.5 * distance[:10, 10:].mean()


def test_goodness_of_passes_is_that_of_training_nodes(karate):
    made = experiment(karate, 0, {"epochs": 60})
    learner = next(c.learner for c in made.contenders if c.name == "FF-LA").fit(*made.data.train)
    right, wrong = goodness_of_passes(learner)
    assert right.shape == wrong.shape == (8,) and right.mean() > learner.threshold > wrong.mean()


@pytest.mark.parametrize("entry", race(), ids=lambda entry: entry.name)
def test_the_race_takes_steps_that_lower_the_loss(entry):
    step = entry.make()
    losses = [step() for _ in range(12)]
    assert losses[-1] < losses[0] and entry.flops > 1e7


def test_the_method_can_be_found_by_its_slug():
    assert methods.module("forward_gnn").PAPER is PAPER and PAPER.slug == "forward_gnn"
    assert methods.data("forward_gnn") == ("karate", "cora", "citeseer")


# ---------------------------------------------------------------- claims

CLAIMS = {c.id: c for c in record.claims("forward_gnn")}


def test_all_claims_of_the_card_are_there():
    assert list(CLAIMS) == ["on-par", "depth", "memory", "speed", "negative-free", "links"]
    assert all(c.data == ("cora",) for c in CLAIMS.values())


@pytest.mark.parametrize("name", CLAIMS)
def test_a_quick_measurement_can_be_judged_and_drawn(name, larger):
    claim, told = CLAIMS[name], []
    values = [claim.measure(Setting(larger, "cora", seed, quick=True, tell=told.append)) for seed in (0, 1)]
    holds, note = claim.judge(values)
    assert isinstance(holds, bool) and note and told
    with style.use():
        figure = style.figure()
        claim.draw(figure, values)
        figure.canvas.draw()
    assert figure.axes[0].get_xlabel()


DEEP = {"sf": [0.8, 0.85, 0.85, 0.84], "bp": [0.5, 0.8, 0.8, 0.8], "same_split_std": [0.1, 0.1], "sampling_std": 0.01}
FF = {"ff_1e-3": 0.5, "ff_1e-2": 0.845, "sf_100": 0, "ff_1e-3_100": 0, "ff_1e-2_100": 0}
LINKS = {"ce4": 0.9, "bp4": 0.88, "ff4": 0, "top4": 0, "ce2": 0, "bp2": 0}
TIMES = {"sf_layer1": 0.1, "sf_layer2": 0.1, "sf_all4": 0.4}
TURNING = [
    # claim, values for which it holds, a change for which it does not
    ("on-par", {"sf2": 0.84, "bp2": 0.8499, "sf4": 0, "bp4": 0.9}, {"bp2": 0.8501}),
    ("depth", DEEP, {"sf": [0.8, 0.85, 0.85, 0.8399]}),
    ("memory", {"sf": [50, 100, 105, 100], "bp": [10, 20, 25, 30]}, {"sf": [50, 100, 106, 100]}),
    ("memory", {"sf": [50, 100, 105, 100], "bp": [10, 20, 25, 30]}, {"bp": [10, 20, 25, 29.9]}),
    ("speed", {**TIMES, "bp4": 0.1501}, {"bp4": 0.149}),
    ("negative-free", {**FF, "sf": 0.8501}, {"sf": 0.8499}),
    ("negative-free", {**FF, "sf": 0.8501}, {"ff_1e-3": 0.846}),
    ("links", LINKS, {"bp4": 0.8801}),
]


@pytest.mark.parametrize(("name", "values", "change"), TURNING)
def test_a_verdict_turns_at_the_threshold_of_the_card(name, values, change):
    assert CLAIMS[name].judge([values])[0]
    assert not CLAIMS[name].judge([{**values, **change}])[0]


def test_the_verdict_on_depth_turns_with_the_spread_over_the_seeds():
    def seeds(spread):
        return [{**DEEP, "sf": [0.8, 0.85 + d, 0.85, 0.85 + d]} for d in (-spread, 0, spread)]  # deviation: spread

    assert CLAIMS["depth"].judge(seeds(0.0149))[0] and not CLAIMS["depth"].judge(seeds(0.0151))[0]


def test_kept_arrays_count_each_array_once_and_no_data():
    a, b, given = np.zeros(10), np.zeros((3, 4)), np.zeros(100)
    matrix = Sparse(np.array([0, 1]), np.array([0]), None, 1)
    assert kept_arrays([a, (b, [b.T, a[2:]]), given[:5], None, matrix, 3], [given, matrix]) == a.nbytes + b.nbytes


def test_what_a_step_keeps_is_counted_from_the_step_itself(larger):
    """SF, later layers: summed neighbours and output of training and class nodes, and the probabilities. Back-
    propagation: the output of each layer, and the probabilities."""
    from refimpl import BackpropGNN, ForwardGNN

    learner = ForwardGNN(layers=3, width=16, epochs=1, random_state=0)
    learner.begin(*larger.train)
    T, rows = len(learner._train), len(learner._train) + 3
    expected = [4 * (rows * 16 + 3 * T), 4 * (2 * rows * 16 + 3 * T), 4 * (2 * rows * 16 + 3 * T)]
    for bytes_kept in expected:
        assert sf_kept(learner) == bytes_kept
        learner.advance()
    baseline = BackpropGNN(layers=3, width=16, epochs=1, random_state=0)
    baseline.begin(*larger.train)
    assert bp_kept(baseline) == 4 * (240 * (16 + 16 + 3) + 3 * T)
