import numpy as np
import pytest

from refimpl import ops
from refimpl.backends import backend

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])


@BODIES
def test_columns_become_heads_by_hand(body):
    x = np.arange(12.0).reshape(1, 2, 6)  # per position: q0 q1 k v, width 1 ... heads 2, kv_heads 2
    with backend(body):
        q, k, v = ops.split_heads(x, 2, 2)
        np.testing.assert_array_equal(q[0, :, :, 0], [[0, 6], [1, 7]])
        np.testing.assert_array_equal(k[0, :, :, 0], [[2, 8], [3, 9]])
        np.testing.assert_array_equal(v[0, :, :, 0], [[4, 10], [5, 11]])
        np.testing.assert_array_equal(ops.merge_heads(q)[0], [[0, 1], [6, 7]])


@BODIES
def test_queries_and_keys_turn_as_by_rotary_and_turn_back(body):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, (4 + 2 * 2) * 6))
    cos, sin = ops.rotary_angles(5, 6, dtype=np.float64)
    with backend(body):
        q, k, v = ops.split_heads(x, 4, 2, cos, sin)
        plain_q, plain_k, plain_v = ops.split_heads(x, 4, 2)
        np.testing.assert_allclose(q, ops.rotary(plain_q, cos, sin), atol=1e-15)
        np.testing.assert_allclose(k, ops.rotary(plain_k, cos, sin), atol=1e-15)
        np.testing.assert_array_equal(v, plain_v)
        np.testing.assert_allclose(ops.split_heads_backward(q, k, v, cos, sin), x, atol=1e-14)
        np.testing.assert_array_equal(ops.merge_heads_backward(ops.merge_heads(q), 4), q)


@BODIES
def test_bad_shapes_are_named(body):
    x = np.zeros((1, 3, 8), np.float32)
    cos, sin = ops.rotary_angles(3, 2)
    with backend(body):
        with pytest.raises(ValueError, match=r"split_heads: x has shape \(1, 3, 8\), expected a multiple of 1 \+ 2"):
            ops.split_heads(x, 1, 1)
        with pytest.raises(ValueError, match="cos and sin are given both or not at all"):
            ops.split_heads(x, 2, 1, cos, None)
        with pytest.raises(ValueError, match="heads have width 1, expected an even one"):
            ops.split_heads(x, 4, 2, cos, sin)
        with pytest.raises(ValueError, match=r"dv has shape \(1, 1, 3, 4\)"):
            ops.split_heads_backward(np.zeros((1, 2, 3, 2)), np.zeros((1, 1, 3, 2)), np.zeros((1, 1, 3, 4)))
        with pytest.raises(ValueError, match="merge_heads_backward: dy has shape"):
            ops.merge_heads_backward(x, 3)
