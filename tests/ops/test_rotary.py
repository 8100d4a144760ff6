import numpy as np
import pytest

from refimpl import ops
from refimpl.backends import backend

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])


@BODIES
def test_a_quarter_turn_by_hand(body):
    x = np.array([[[[3.0, 5.0, 2.0, 7.0]]]])  # pairs (3, 2) and (5, 7)
    cos, sin = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    with backend(body):
        np.testing.assert_array_equal(ops.rotary(x, cos, sin), [[[[-2.0, 5.0, 3.0, 7.0]]]])


@BODIES
def test_inner_products_depend_on_the_distance_of_positions_only(body):
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 8))
    cos, sin = ops.rotary_angles(20, 8, dtype=np.float64)
    with backend(body):
        qs, ks = (ops.rotary(np.broadcast_to(a, (1, 1, 20, 8)), cos, sin)[0, 0] for a in (q, k))
    products = qs @ ks.T
    for distance in range(-19, 20):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-12)


@BODIES
def test_backward_turns_back(body):
    x = np.random.default_rng(0).standard_normal((2, 3, 10, 6))
    cos, sin = ops.rotary_angles(10, 6, dtype=np.float64)
    with backend(body):
        np.testing.assert_allclose(ops.rotary_backward(ops.rotary(x, cos, sin), cos, sin), x, atol=1e-14)


def test_angles_by_hand():
    cos, sin = ops.rotary_angles(3, 4, base=100.0, dtype=np.float64)  # frequencies 1 and 1/10
    np.testing.assert_allclose(cos, np.cos([[0, 0], [1, 0.1], [2, 0.2]]))
    np.testing.assert_allclose(sin, np.sin([[0, 0], [1, 0.1], [2, 0.2]]))
    assert ops.rotary_angles(0, 0)[0].shape == (0, 0) and ops.rotary_angles(2, 6)[0].dtype == np.float32
    with pytest.raises(ValueError, match="rotary_angles: D is 3"):
        ops.rotary_angles(2, 3)


@BODIES
def test_bad_shapes_are_named(body):
    cos, sin = ops.rotary_angles(4, 6)
    with backend(body):
        with pytest.raises(ValueError, match=r"rotary: x has shape .*even width"):
            ops.rotary(np.zeros((1, 1, 4, 5), np.float32), cos, sin)
        with pytest.raises(ValueError, match=r"rotary: cos has shape \(4, 3\), expected \(5, 3\)"):
            ops.rotary(np.zeros((1, 1, 5, 6), np.float32), cos, sin)
