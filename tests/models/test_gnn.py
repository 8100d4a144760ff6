import numpy as np
import pytest

from refimpl import optim
from refimpl.backends import backend
from refimpl.models.gnn import GNN, gnn, graph_layer, node_step
from refimpl.nn import initialise
from refimpl.nn.graph import GCNConv, SAGEConv, Sparse
from tests.harness import central_differences, relative_error


def setup(kind, widths=(5, 8, 8, 3), n=9, seed=0):
    rng = np.random.default_rng(seed)
    A = Sparse.from_edges(n, rng.integers(0, n, (14, 2)))
    net = gnn(kind, widths)
    params = initialise(net, rng, np.float64)
    params.flat[...] += 0.1 * rng.standard_normal(params.size)
    x, y = rng.standard_normal((n, widths[0])), rng.integers(0, widths[-1], n)
    return net, params, net.operator(A, np.float64), x, y, np.array([0, 2, 3, 7])


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("features", ["dense", "sparse"])
@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_gradients_of_a_training_step_equal_central_differences(kind, features, body):
    net, params, operator, x, y, rows = setup(kind)
    given = Sparse.from_dense(x) if features == "sparse" else x
    with backend(body):
        grads = params.zeros_like()
        loss = node_step(net, params, grads, operator, given, y, rows)

        def again():
            return node_step(net, params, params.zeros_like(), operator, given, y, rows)

        assert again() == loss
        assert relative_error(grads.flat, central_differences(again, params.flat)) < 1e-6


def test_a_step_leaves_its_inputs_alone_and_adds_to_the_gradients():
    net, params, operator, x, y, rows = setup("gcn")
    before = [a.copy() for a in (params.flat, x, y, rows, operator.values)]
    once, twice = params.zeros_like(), params.zeros_like()
    node_step(net, params, once, operator, x, y, rows)
    for _ in range(2):
        node_step(net, params, twice, operator, x, y, rows)
    assert np.allclose(twice.flat, 2 * once.flat, atol=1e-14)
    for a, b in zip(before, (params.flat, x, y, rows, operator.values)):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_two_communities_are_told_apart_from_few_labels(kind):
    """Two cliques of 8 nodes joined by one edge, noisy features, three labelled nodes in each. The two nodes that the
    edge joins hear of both sides and are not judged."""
    rng = np.random.default_rng(0)
    edges = [(i + s, j + s) for s in (0, 8) for i in range(8) for j in range(i)] + [(0, 8)]
    A, y = Sparse.from_edges(16, edges), np.repeat([0, 1], 8)
    x = (rng.standard_normal((16, 4)) + (2 * y - 1)[:, None]).astype(np.float32)
    net = gnn(kind, (4, 8, 2))
    params, adam = initialise(net, rng), optim.Adam(1e-2)
    grads, state, operator = params.zeros_like(), adam.init(params), net.operator(A)
    for _ in range(80):
        grads.flat[...] = 0
        node_step(net, params, grads, operator, x, y, np.array([1, 2, 3, 12, 13, 14]))
        adam.step(params, grads, state)
    wrong = net.apply(params, (operator, x)).argmax(axis=1) != y
    assert set(np.flatnonzero(wrong)) <= {0, 8}


def test_models_that_cannot_be_are_clear_errors():
    with pytest.raises(ValueError, match="graph layer is 'gin', expected one of gcn, sage, gat"):
        graph_layer("gin", 3, 4)
    with pytest.raises(ValueError, match="no layers given"):
        GNN()
    with pytest.raises(ValueError, match="several kinds"):
        GNN(GCNConv(3, 4), SAGEConv(4, 4))
    with pytest.raises(ValueError, match=r"widths is \(3,\)"):
        gnn("gcn", (3,))
