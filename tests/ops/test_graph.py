import numpy as np
import pytest

from refimpl import ops
from refimpl.backends import backend


@pytest.mark.parametrize("body", ["numpy", "native"])
def test_attention_by_hand(body):
    """Two nodes, edges 0 -> 1 and 1 -> 1, h = (2, -2), source 1, target 0, slope 0.5: node 1 hears 0 with score 2 and
    itself with 0.5 * -2 = -1; no edge reaches node 0."""
    indptr, indices = np.array([0, 0, 2]), np.array([0, 1])
    h = np.array([2.0, -2.0]).reshape(2, 1, 1)
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    with backend(body):
        y, alpha = ops.graph_attention(indptr, indices, h, one, zero, 0.5)
    p = np.exp(2) / (np.exp(2) + np.exp(-1))
    assert np.allclose(alpha[:, 0], [p, 1 - p]) and np.allclose(y[:, 0, 0], [0, 2 * p - 2 * (1 - p)])


@pytest.mark.parametrize("body", ["numpy", "native"])
def test_weights_of_a_node_sum_to_one_however_large_the_scores(body):
    rng = np.random.default_rng(0)
    indptr, indices = np.arange(0, 61, 6), rng.integers(0, 10, 60)
    h = (1e3 * rng.standard_normal((10, 3, 4))).astype(np.float32)
    with backend(body):
        _, alpha = ops.graph_attention(indptr, indices, h, *(np.ones((2, 3, 4), np.float32)))
    assert np.allclose(alpha.reshape(10, 6, 3).sum(axis=1), 1, atol=1e-5)


def test_equal_attention_is_the_mean_of_the_neighbours():
    indptr, indices = np.array([0, 2, 3, 3]), np.array([1, 2, 0])
    h, zero = np.random.default_rng(0).standard_normal((3, 2, 5)), np.zeros((2, 5))
    y, _ = ops.graph_attention(indptr, indices, h, zero, zero)
    assert np.allclose(y, ops.csr_matmul(indptr, indices, np.array([0.5, 0.5, 1]), h.reshape(3, 10)).reshape(3, 2, 5))


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": np.array([0, 5])}, r"indices holds 5, expected values in \[0, 3\)"),
        ({"indptr": np.array([0, 2, 1, 2])}, "indptr falls from 2 to 1 at row 1"),
        ({"indptr": np.array([0, 1, 2])}, r"indptr has shape \(3,\), expected \(4,\)"),
        ({"source": np.ones((2, 3))}, r"source has shape \(2, 3\), expected \(2, 4\)"),
        ({"slope": -0.1}, "slope is -0.1, expected at least 0"),
    ],
)
def test_unusable_graphs_are_clear_errors(body, change, message):
    args = {"indptr": np.array([0, 1, 1, 2]), "indices": np.array([0, 1]), "h": np.ones((3, 2, 4))}
    args |= {"source": np.ones((2, 4)), "target": np.ones((2, 4)), "slope": 0.2, **change}
    with backend(body), pytest.raises(ValueError, match=f"^graph_attention: {message}"):
        ops.graph_attention(**args)
