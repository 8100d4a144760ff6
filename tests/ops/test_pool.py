import numpy as np
import pytest

from refimpl import backend, ops


@pytest.fixture(params=["numpy", "native"])
def body(request):
    with backend(request.param):
        yield request.param


def test_max_pool_by_hand(body):
    x = np.array([[[[1.0, 3.0, 2.0, 2.0], [0.0, 3.0, 2.0, 1.0]]]])
    y, index = ops.max_pool2d(x, 2)
    assert y.tolist() == [[[[3, 2]]]]
    assert index.tolist() == [[[[1, 2]]]]  # the first of equals
    assert index.dtype == np.int64
    dx = ops.max_pool2d_backward(np.array([[[[5.0, 7.0]]]]), index, 2, 4)
    assert dx.tolist() == [[[[0, 5, 7, 0], [0, 0, 0, 0]]]]


def test_avg_pool_divides_by_the_full_window(body):
    x = np.full((1, 1, 2, 2), 8.0)
    assert ops.avg_pool2d(x, 2, 1, 1).tolist() == [[[[2, 4, 2], [4, 8, 4], [2, 4, 2]]]]
    assert ops.avg_pool1d(x[0], 2, 2, 1).tolist() == [[[4, 4], [4, 4]]]


@pytest.mark.parametrize("width", [2, 3, 40, 200])
@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (2, 1, 1)])
def test_the_first_nan_wins_and_padding_never_does(size, stride, padding, width, body):
    x = np.full((1, 1, 4, width), -np.inf, np.float32)
    y, index = ops.max_pool2d(x, size, stride, padding)
    assert (y == -np.inf).all()
    expected = np.maximum(stride * np.arange(y.shape[3]) - padding, 0)
    assert np.array_equal(index[0, 0, 0], expected)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = np.nan
    x[0, 0, 0, 1] = np.inf
    y, index = ops.max_pool2d(x, size, stride, padding)
    assert np.isnan(y[0, 0, 0, 0]) and index[0, 0, 0, 0] == 0


def test_overlapping_windows_add_their_gradients(body):
    x = np.array([[[0.0, 9.0, 0.0, 0.0]]])
    y, index = ops.max_pool1d(x, 3, 1)
    assert y.tolist() == [[[9, 9]]]
    assert ops.max_pool1d_backward(np.array([[[1.0, 2.0]]]), index, 4).tolist() == [[[0, 3, 0, 0]]]


def test_gradients_of_means_keep_their_sum(body):
    dy = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    assert np.isclose(ops.avg_pool2d_backward(dy, 8, 15, (2, 3)).sum(), dy.sum())
    mean = ops.global_avg_pool2d_backward(dy[:, :, 0, 0].copy(), 7, 9)
    assert mean.shape == (2, 3, 7, 9)
    assert np.allclose(ops.global_avg_pool2d(63 * mean), dy[:, :, 0, 0])


def test_one_dimension_is_a_plane_of_height_one(body):
    x = np.random.default_rng(1).standard_normal((2, 3, 17))
    y, index = ops.max_pool1d(x, 3, 2, 1)
    y2, index2 = ops.max_pool2d(x[:, :, None], (1, 3), (1, 2), (0, 1))
    assert np.array_equal(y, y2[:, :, 0]) and np.array_equal(index, index2[:, :, 0])


@pytest.mark.parametrize("outside", [-1, 12])
def test_index_outside_the_plane_is_an_error(outside, body):
    index = np.array([[[[0, outside]]]])
    with pytest.raises(ValueError, match="max_pool2d_backward: "):
        ops.max_pool2d_backward(np.ones((1, 1, 1, 2)), index, 3, 4)


X = np.zeros((1, 2, 5, 6))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X, 6), ValueError, "max_pool2d: window spans 6, but the padded input has only 5"),
        ((X, 3, 1, 2), ValueError, "max_pool2d: padding is 2, expected at most half of size 3"),
        ((X, 0), ValueError, "max_pool2d: size is 0, expected at least 1"),
        ((X, 2, 0), ValueError, "max_pool2d: stride is 0, expected at least 1"),
        ((X, 2.0), TypeError, "max_pool2d: size is 2.0, expected an integer or a pair of integers"),
        ((X[0], 2), ValueError, "max_pool2d: x has shape"),
        ((X[:, :, :0], 2), ValueError, "max_pool2d: x has shape"),
    ],
)
def test_unfitting_arguments_say_what_was_expected(arguments, error, message, body):
    with pytest.raises(error, match=message):
        ops.max_pool2d(*arguments)


def test_unfitting_gradients_say_what_was_expected(body):
    dy = np.zeros((1, 2, 2, 3))
    with pytest.raises(ValueError, match=r"avg_pool2d_backward: dy has shape .* expected \(1, 2, 4, 3\)"):
        ops.avg_pool2d_backward(dy, 8, 6, 2)
    with pytest.raises(ValueError, match="max_pool2d_backward: index has shape"):
        ops.max_pool2d_backward(dy, np.zeros((1, 2, 2, 2), np.int64), 4, 6)
    with pytest.raises(ValueError, match="max_pool2d_backward: height is 0"):
        ops.max_pool2d_backward(dy, np.zeros(dy.shape, np.int64), 0, 6)
    with pytest.raises(ValueError, match="global_avg_pool2d_backward: dx would have shape"):
        ops.global_avg_pool2d_backward(dy[0, :, :1, 0], 2**31 - 1, 2**31 - 1)
