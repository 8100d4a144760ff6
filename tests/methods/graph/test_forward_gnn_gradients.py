"""The gradient of each layer's own loss against central differences in float64: GCN, GraphSAGE, GAT; all losses."""

import numpy as np
import pytest
from test_forward_gnn import KINDS, VARIANTS, problem, random_graph, small

from refimpl import BackpropGNN, BackpropLinks, ForwardGNNLinks
from refimpl.backends import backend
from refimpl.baselines.graph import pair_loss
from refimpl.data.graphs import Pairs
from refimpl.methods.graph.forward_gnn import goodness_loss, link_goodness_loss, single_forward_loss
from tests.harness import assert_gradient


def away_from_kinks(learner, seed):
    """Parameters of ordinary size and positive biases: few outputs of a ReLU are near zero, and not all are zero."""
    rng = np.random.default_rng(seed)
    for group, params in learner._params.items():
        if group.startswith("layer") or group == "net":
            for name, a in params.items():
                a[...] = 0.7 * rng.standard_normal(a.shape) if "bias" not in name else 0.3 + 0.4 * rng.random(a.shape)


def checked(learner, name, loss_of):
    """Compare the gradients that `loss_of` adds with differences of what it returns."""
    grads = learner._grads[name]
    grads.flat[...] = 0
    loss_of()
    analytic = grads.flat.copy()
    assert np.abs(analytic).max() > 1e-3
    assert_gradient(analytic, loss_of, learner._params[name].flat)


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", [0, 1])
@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("sf", {}),
        ("sf", {"temperature": 0.5, "append_label": "all"}),
        ("sf", {"bidirectional": False}),
        ("ff-la", {}),
        ("ff-la", {"negatives": 1, "threshold": 1.0}),
        ("ff-vn", {}),
        ("ff-vn", {"append_label": "all"}),
    ],
)
def test_gradients_of_layers_trained_one_by_one(variant, changes, phase, kind, body):
    with backend(body):
        learner = small(variant, kind=kind, width=4, **changes)
        learner.begin(*problem(1, n=12, edges=18, features=4))
        away_from_kinks(learner, 5)
        learner._step = lambda name: None
        learner._enter(phase)
        checked(learner, f"layer{phase + 1}", lambda: learner._scheme.epoch(phase))


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["sf-top-to-input", "sf-top-to-loss"])
@pytest.mark.parametrize("j", [0, 1, 2])
def test_gradients_of_layers_with_signals_from_above(variant, j, kind, body):
    with backend(body):
        learner = small(variant, kind=kind, layers=3, width=4)
        learner.begin(*problem(2, n=12, edges=18, features=4))
        away_from_kinks(learner, 6)
        learner._enter(0)
        scheme, s = learner._scheme, learner._scheme.states
        if variant == "sf-top-to-input":
            given, upper = (scheme.S, scheme.input_of(j, scheme.x, s)), []
        else:
            given, upper = (scheme.S, scheme.x if j == 0 else s[j - 1]), s[j + 1 :]
        checked(learner, f"layer{j + 1}", lambda: scheme.learn(j, given, upper)[0])


def link_problem(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 10, 16, 4)
    return graph, Pairs(rng.integers(0, 10, (14, 2)), rng.permutation(np.repeat([0, 1], 7)))


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", ["ce", "ff", "ce-top-to-input"])
@pytest.mark.parametrize("j", [0, 1])
def test_gradients_of_link_prediction(variant, j, kind, body):
    with backend(body):
        learner = ForwardGNNLinks(variant, kind, layers=2, width=4, threshold=0.5, dtype="float64", random_state=0)
        learner.begin(*link_problem(3))
        away_from_kinks(learner, 7)
        learner._step = lambda name: None
        learner._enter(0 if learner._top_down else j)
        s = learner._states if learner._top_down else None
        given = (learner._operator, learner._input_of(j, learner._x, s)) if s else learner._given
        checked(learner, f"layer{j + 1}", lambda: learner._learn(j, given)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_back_propagation_run_through_all_layers(kind):
    nodes = BackpropGNN(kind, layers=3, width=4, dtype="float64", random_state=0)
    nodes.begin(*problem(4, n=12, edges=18, features=4))
    links = BackpropLinks(kind, layers=2, width=4, dtype="float64", random_state=0)
    links.begin(*link_problem(5))
    for learner in (nodes, links):
        away_from_kinks(learner, 8)
        learner._step = lambda name: None
        checked(learner, "net", lambda learner=learner: learner._epoch(0))


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_the_losses_with_respect_to_the_outputs(seed):
    rng = np.random.default_rng(seed)
    z, virtual, y = rng.standard_normal((6, 4)), rng.standard_normal((3, 4)), rng.integers(0, 3, 6)
    _, dz, dvirtual = single_forward_loss(z, virtual, y, 0.8)
    for d, a in ((dz, z), (dvirtual, virtual)):
        assert_gradient(d, lambda: single_forward_loss(z, virtual, y, 0.8)[0], a)
    for positive in (True, False):
        d = goodness_loss(z, positive, 2.0, 0.3)[1]
        assert_gradient(d, lambda positive=positive: goodness_loss(z, positive, 2.0, 0.3)[0], z)
    nodes, joined = rng.integers(0, 6, (9, 2)), rng.permutation(np.repeat([0, 1], [4, 5]))
    assert_gradient(pair_loss(z, nodes, joined)[1], lambda: pair_loss(z, nodes, joined)[0], z)
    u, v = rng.standard_normal((2, 9, 4))
    _, du, dv = link_goodness_loss(u, v, joined, 2.0)
    for d, a in ((du, u), (dv, v)):
        assert_gradient(d, lambda: link_goodness_loss(u, v, joined, 2.0)[0], a)


def test_no_variant_is_left_out():
    assert set(VARIANTS) == {"sf", "ff-la", "ff-vn", "sf-top-to-input", "sf-top-to-loss"}
