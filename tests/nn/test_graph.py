import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.backends import backend
from refimpl.nn import initialise
from refimpl.nn.graph import (
    GATConv,
    GCNConv,
    SAGEConv,
    Sparse,
    gcn_operator,
    mean_operator,
    with_self_loops,
)
from tests.harness import central_differences, relative_error

LAYERS = {"gcn": GCNConv, "sage": SAGEConv, "gat": GATConv}


def random_graph(rng, n=9, edges=14, symmetric=True):
    pairs = rng.integers(0, n, (edges, 2)) if n else np.zeros((0, 2), int)
    if symmetric:
        return Sparse.from_edges(n, pairs)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    return Sparse.from_entries(pairs[:, 0], pairs[:, 1], None, (n, n))


def setup(kind, seed=0, d_in=5, d_out=8, symmetric=True, **options):
    rng = np.random.default_rng(seed)
    A = random_graph(rng, symmetric=symmetric)
    layer = LAYERS[kind](d_in, d_out, **options)
    params = initialise(layer, rng, np.float64)
    params.flat[...] = rng.standard_normal(params.size)
    return layer, params, layer.operator(A, np.float64), rng.standard_normal((A.shape[0], d_in)), A, rng


# ---------------------------------------------------------------- matrices


@given(st.integers(0, 2**32 - 1), st.integers(0, 8), st.integers(0, 20))
def test_an_undirected_graph_is_symmetric_without_loops_or_double_edges(seed, n, edges):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, n, (edges, 2)) if n else np.zeros((0, 2), int)
    A = Sparse.from_edges(n, pairs).dense()
    expected = np.zeros((n, n))
    for i, j in pairs:
        if i != j:
            expected[i, j] = expected[j, i] = 1
    assert np.array_equal(A, expected)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_operators_are_their_formulas(seed, symmetric):
    A = random_graph(np.random.default_rng(seed), symmetric=symmetric)
    dense, n = A.dense(), A.shape[0]
    loops = dense + np.eye(n)
    D = np.diag(1 / np.sqrt(loops.sum(axis=1)))
    assert np.allclose(gcn_operator(A, np.float64).dense(), D @ loops @ D)
    degree = dense.sum(axis=1)
    M = mean_operator(A, np.float64).dense()
    assert np.allclose(M.sum(axis=1), degree > 0)
    assert np.allclose(M * np.maximum(degree, 1)[:, None], dense)
    assert np.array_equal(with_self_loops(A).dense(), loops)


@given(st.integers(0, 2**32 - 1))
def test_the_gcn_operator_of_an_undirected_graph_is_its_own_transpose(seed):
    A = random_graph(np.random.default_rng(seed))
    for dtype in (np.float32, np.float64):
        S = gcn_operator(A, dtype)
        assert S.T is S
    directed = random_graph(np.random.default_rng(seed), symmetric=False)
    S = gcn_operator(directed)
    assert np.array_equal(S.T.dense(), S.dense().T) and S.T.T is S


def test_a_path_of_three_nodes_by_hand():
    """Degrees with loops 2, 3, 2: S_01 = 1 / sqrt(6), S_00 = 1/2, S_11 = 1/3."""
    S = gcn_operator(Sparse.from_edges(3, [(0, 1), (1, 2)]), np.float64).dense()
    r = 1 / np.sqrt(6)
    assert np.allclose(S, [[1 / 2, r, 0], [r, 1 / 3, r], [0, r, 1 / 2]])


def test_self_loops_are_not_doubled():
    A = Sparse.from_entries([0, 0], [0, 1], None, (2, 2))
    assert with_self_loops(A).dense().tolist() == [[1, 1], [0, 1]]


def test_a_sparse_matrix_survives_pickling_and_knows_its_numbers():
    A = Sparse.from_dense(np.array([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]]))
    B = pickle.loads(pickle.dumps(A))
    assert np.array_equal(B.dense(), A.dense()) and B.shape == (3, 2) and B.nnz == 2
    assert repr(A) == "Sparse(3 x 2, 2 entries, float64)"
    assert A.row_sums().tolist() == [2, 3, 0] and A.astype(np.float32).dtype == np.float32
    assert np.array_equal(A @ np.eye(2), A.dense())


@given(st.integers(0, 2**32 - 1))
def test_rows_can_be_taken_and_stacked(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((6, 4)) * (rng.random((6, 4)) < 0.4)
    rows = rng.integers(0, 6, rng.integers(0, 9))
    assert np.array_equal(Sparse.from_dense(x).take(rows).dense(), x[rows])
    assert np.array_equal(Sparse.from_dense(x[:2]).above(Sparse.from_dense(x[2:])).dense(), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sparse([0], [], None, 2).above(Sparse([0], [], None, 3)), "does not fit on"),
        (lambda: Sparse([0, 2], [0], None, 1), "does not climb from 0 to the 1 entries"),
        (lambda: Sparse([0, 2, 1, 2], [0, 0], None, 1), "does not climb"),
        (lambda: Sparse([0, 1], [3], None, 2), r"expected columns in \[0, 2\)"),
        (lambda: Sparse([0, 1], [0], np.ones(2), 2), "values has shape"),
        (lambda: Sparse([], [], None, 2), "indptr has shape"),
        (lambda: Sparse.from_edges(3, [(0, 3)]), r"expected nodes in \[0, 3\)"),
        (lambda: Sparse.from_entries([2], [0], None, (2, 2)), r"expected rows in \[0, 2\)"),
        (lambda: Sparse.from_entries([1], [0, 1], None, (2, 2)), "as many of both"),
        (lambda: gcn_operator(Sparse([0, 0], [], None, 3)), "as many rows as columns"),
        (lambda: GATConv(4, 6, heads=4), "expected a multiple"),
    ],
)
def test_matrices_and_layers_that_cannot_be_are_clear_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- layers


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("sizes", [(5, 8), (8, 4)])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_equal_central_differences(kind, sizes, symmetric, body):
    layer, params, operator, x, A, rng = setup(kind, 1, *sizes, symmetric=symmetric)
    dy = rng.standard_normal((A.shape[0], sizes[1]))
    with backend(body):
        grads = params.zeros_like()
        saved = layer.forward(params, (operator, x))[1]
        dx = layer.backward(params, grads, saved, dy.copy())

        def loss():
            return float((layer.apply(params, (operator, x)) * dy).sum())

        assert relative_error(grads.flat, central_differences(loss, params.flat)) < 1e-6
        assert relative_error(dx, central_differences(loss, x)) < 1e-6


@pytest.mark.parametrize("kind", LAYERS)
def test_sparse_features_give_the_results_of_dense_ones(kind):
    layer, params, operator, x, A, rng = setup(kind, 2)
    x[rng.random(x.shape) < 0.6] = 0
    dy = rng.standard_normal((A.shape[0], 8))
    results = []
    blocks = (Sparse.from_dense(x[:, :2]), np.ascontiguousarray(x[:, 2:]))
    for features in (x, Sparse.from_dense(x), blocks):
        grads = params.zeros_like()
        y, saved = layer.forward(params, (operator, features))
        assert layer.backward(params, grads, saved, dy.copy(), need_dx=False) is None or features is x
        results.append((y, grads.flat))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert np.allclose(a, b, atol=1e-12)
    with pytest.raises(ValueError, match="have no gradient"):
        layer.backward(params, params.zeros_like(), saved, dy)


@pytest.mark.parametrize("kind", LAYERS)
def test_an_input_aggregated_once_gives_the_same_outputs_and_gradients(kind):
    layer, params, operator, x, A, rng = setup(kind, 3)
    dy = rng.standard_normal((A.shape[0], 8))
    results = []
    for given_input in ((operator, x), layer.aggregate(operator, x)):
        grads = params.zeros_like()
        y, saved = layer.forward(params, given_input)
        layer.backward(params, grads, saved, dy.copy(), need_dx=False)
        results.append((y, grads.flat))
    for a, b in zip(*results):
        assert np.allclose(a, b, atol=1e-12)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(sorted(LAYERS)))
def test_renumbering_the_nodes_renumbers_the_outputs(seed, kind):
    layer, params, operator, x, A, rng = setup(kind, seed)
    order = rng.permutation(A.shape[0])
    place = np.argsort(order)
    moved = Sparse.from_entries(place[A.rows], place[A.indices], None, A.shape)
    y = layer.apply(params, (operator, x))
    assert np.allclose(layer.apply(params, (layer.operator(moved, np.float64), x[order])), y[order], atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_node_hears_of_its_in_neighbours_and_itself_alone(kind):
    layer, params, operator, x, A, _ = setup(kind, 4, symmetric=False)
    y = layer.apply(params, (operator, x))
    dense = A.dense()
    for j in range(A.shape[0]):
        other = x.copy()
        other[j] += 1
        changed = np.abs(layer.apply(params, (operator, other)) - y).max(axis=1) > 1e-12
        reached = dense[:, j] > 0
        reached[j] = True
        assert np.array_equal(changed, reached)


def test_attention_by_hand():
    """Two nodes 0 -> 1, one head of width 1, W = 1, a_source = 1, a_target = 0, slope 0.5: node 1 hears x_0 = 2 with
    score 2 and itself, x_1 = -2, with score 0.5 * -2 = -1."""
    layer = GATConv(1, 1, heads=1, slope=0.5, bias=False)
    params = initialise(layer, np.random.default_rng(0), np.float64)
    params["weight"][...], params["source"][...], params["target"][...] = 1, 1, 0
    A = layer.operator(Sparse.from_entries([1], [0], None, (2, 2)))
    y = layer.apply(params, (A, np.array([[2.0], [-2.0]])))
    p = np.exp(2) / (np.exp(2) + np.exp(-1))
    assert np.allclose(y, [[2], [2 * p - 2 * (1 - p)]])
