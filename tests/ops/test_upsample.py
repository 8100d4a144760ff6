import numpy as np
import pytest

from refimpl import backend, ops


@pytest.fixture(params=["numpy", "native"])
def body(request):
    with backend(request.param):
        yield request.param


def test_nearest_by_hand(body):
    x = np.array([[[[1.0, 2.0]]]])
    y = ops.upsample_nearest2d(x, (2, 3))
    assert y.tolist() == [[[[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2]]]]
    assert ops.upsample_nearest2d_backward(y, (2, 3)).tolist() == [[[[6, 12]]]]


def test_bilinear_by_hand(body):
    x = np.array([[[[0.0, 4.0]]]])
    assert ops.upsample_bilinear2d(x, (1, 2)).tolist() == [[[[0, 1, 3, 4]]]]
    dy = np.array([[[[1.0, 4.0, 8.0, 1.0]]]])
    assert ops.upsample_bilinear2d_backward(dy, (1, 2)).tolist() == [[[[6, 8]]]]


def test_factor_one_changes_nothing(body):
    x = np.random.default_rng(0).standard_normal((2, 1, 3, 5))
    assert np.array_equal(ops.upsample_nearest2d(x, 1), x)
    assert np.array_equal(ops.upsample_bilinear2d(x, 1), x)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bilinear_keeps_constants_and_slopes(factor, body):
    x = np.arange(6.0)[None, None, None].repeat(4, axis=2)
    y = ops.upsample_bilinear2d(x, factor)
    inner = y[..., factor:-factor]
    assert np.allclose(np.diff(inner, axis=3), 1 / factor) and np.allclose(np.diff(y, axis=2), 0)


@pytest.mark.parametrize("name", ["upsample_nearest2d", "upsample_bilinear2d"])
def test_unfitting_arguments_say_what_was_expected(name, body):
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    x = np.zeros((1, 1, 4, 6))
    with pytest.raises(ValueError, match=f"{name}: factor is 0, expected at least 1"):
        forward(x, 0)
    with pytest.raises(TypeError, match=f"{name}: factor is 1.5"):
        forward(x, 1.5)
    with pytest.raises(ValueError, match=f"{name}_backward: dy has shape .* multiples of the factors"):
        backward(x, (2, 4))
    with pytest.raises(ValueError, match=f"{name}: the result would have shape"):
        forward(x, 2**31 - 1)
