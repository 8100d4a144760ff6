import numpy as np
import pytest

import tests.strategies  # noqa: F401
from refimpl import backend, ops
from refimpl.backends import native
from tests.harness import assert_close, call, team, tolerances

BODIES = ["numpy", "native"]


@pytest.fixture(params=BODIES)
def body(request):
    with backend(request.param):
        yield request.param


def test_hand_computed_example(body):
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    weight = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    y = ops.conv2d(x, weight, np.array([10.0]))
    assert y.tolist() == [[[[6.0, 6.0], [6.0, 6.0]]]]  # x[h, w] - x[h + 1, w + 1] + 10
    dx, dweight, dbias = ops.conv2d_backward(np.ones_like(y), x, weight)
    assert dx.tolist() == [[[[1, 1, 0], [1, 0, -1], [0, -1, -1]]]]
    assert dweight.tolist() == [[[[8, 12], [20, 24]]]]
    assert dbias.tolist() == [4]


def test_one_dimension_by_hand(body):
    x = np.array([[[1.0, 2.0, 4.0, 8.0]]])
    assert ops.conv1d(x, np.array([[[1.0, 10.0]]]), stride=2, padding=1).tolist() == [[[10, 42, 8]]]


def test_transposed_convolution_by_hand(body):
    x = np.array([[[[1.0, 2.0]]]])
    weight = np.array([[[[1.0, 10.0, 100.0]]]])
    assert ops.conv_transpose2d(x, weight, stride=(1, 2)).tolist() == [[[[1, 10, 102, 20, 200]]]]


def test_conv_transpose_is_the_adjoint_of_conv(body):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((2, 4, 9, 11)), rng.standard_normal((6, 2, 3, 4))
    numbers = {"stride": (2, 3), "padding": (1, 2), "dilation": (2, 1), "groups": 2}
    y = ops.conv2d(x, weight, **numbers)
    dy = rng.standard_normal(y.shape)
    back = ops.conv_transpose2d(dy, weight, output_padding=(0, 2), **numbers)
    assert back.shape == x.shape
    assert np.isclose((y * dy).sum(), (x * back).sum(), rtol=1e-12)


def test_kernel_of_one_is_a_matrix_product_over_channels(body):
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((2, 5, 4, 6)), rng.standard_normal((7, 5, 1, 1))
    assert np.allclose(ops.conv2d(x, weight), np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x), rtol=0, atol=1e-13)


def test_groups_are_convolutions_of_their_own(body):
    rng = np.random.default_rng(2)
    x, weight = rng.standard_normal((2, 6, 5, 7)), rng.standard_normal((9, 2, 3, 3))
    y = ops.conv2d(x, weight, groups=3)
    for g in range(3):
        part = ops.conv2d(x[:, 2 * g : 2 * g + 2].copy(), weight[3 * g : 3 * g + 3])
        assert np.allclose(y[:, 3 * g : 3 * g + 3], part, rtol=0, atol=1e-13)


# Pictures and kernels that need several blocks of rows, of columns, of images; and more than one range of channels.
LARGE = {
    "rows": ((2, 48, 70, 65), (19, 48, 3, 3), 1, 1, 1, 1),
    "columns": ((1, 64, 2, 3000), (5, 64, 1, 5), 1, (0, 2), 1, 1),
    "strided": ((2, 64, 61, 67), (9, 64, 3, 3), 2, 1, 1, 1),
    "small pictures": ((33, 16, 4, 4), (70, 16, 3, 3), 1, 1, 1, 1),
    "small pictures, many channels": ((37, 200, 5, 3), (67, 200, 3, 3), 1, 1, 1, 1),
    "small pictures, strided": ((35, 24, 9, 9), (20, 24, 3, 3), (2, 3), 1, 1, 1),
    "small pictures, groups": ((19, 34, 6, 7), (24, 17, 3, 2), (1, 2), (2, 1), (2, 1), 2),
    "small pictures, stride beyond the kernel": ((16, 9, 11, 10), (13, 9, 2, 1), 3, 1, 1, 1),
    "few channels": ((5, 3, 40, 41), (37, 3, 5, 4), 1, 2, 1, 1),
    "one channel": ((9, 1, 28, 28), (32, 1, 3, 3), (2, 1), 1, (2, 1), 1),
    "dilated": ((2, 32, 40, 90), (8, 32, 3, 3), 1, 9, (9, 8), 1),
    "depthwise": ((3, 40, 33, 35), (80, 1, 5, 5), 1, 2, 1, 40),
    "patches": ((2, 3, 96, 96), (33, 3, 16, 16), 16, 0, 1, 1),
}
# The same for Winograd's algorithm: blocks of rows, of parts of a row, of images; more than one part of the channels.
# And what the other algorithms serve.
TILED = {
    "tiles": ((3, 64, 31, 37), (40, 64, 3, 3), 1, 1, 1, 1),
    "tiles in long rows": ((1, 17, 6, 1200), (33, 17, 3, 3), 1, (0, 2), 1, 1),
    "tiles of many images": ((40, 130, 4, 4), (270, 130, 3, 3), 1, 1, 1, 1),
    "tiles of one image": ((1, 70, 9, 9), (40, 70, 3, 3), 1, 1, 1, 1),
    "tiles, kernel of 5": ((4, 32, 15, 14), (48, 32, 5, 5), 1, 2, 1, 1),
    "tiles, dilated": ((2, 40, 33, 30), (33, 40, 3, 3), 1, (2, 3), (2, 3), 1),
    "tiles, much padding": ((2, 33, 10, 12), (20, 33, 3, 3), 1, 4, 1, 1),
    "planes": ((3, 20, 28, 29), (20, 1, 3, 3), 1, 1, 1, 20),
    "planes of many rows": ((2, 9, 150, 130), (9, 1, 5, 5), 1, (3, 0), (2, 1), 9),
    "small planes": ((4, 33, 5, 7), (33, 1, 3, 3), 1, 2, 1, 33),
    "rows as planes": ((3, 10, 1, 200), (10, 1, 1, 5), 1, (0, 2), (1, 3), 10),
    "matrix products": ((3, 40, 9, 11), (36, 20, 1, 1), 1, 0, 1, 2),
    "tiles of one row": ((2, 48, 1, 500), (64, 48, 1, 3), 1, (0, 1), 1, 1),
}
LARGE |= TILED


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("case", LARGE)
def test_blocks_of_large_convolutions_meet_without_seams(case, threads):
    shape, kernel, stride, padding, dilation, groups = LARGE[case]
    rng = np.random.default_rng(3)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in (shape, kernel))
    bias = rng.standard_normal(len(weight)).astype(np.float32)
    numbers = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    forward = {"x": x, "weight": weight, "bias": bias, **numbers}
    with team(threads):
        y = call("conv2d", "numpy", forward)
        assert_close("conv2d", call("conv2d", "native", forward), y, tolerances("conv2d", forward, y, np.float32))
        backward = {"dy": rng.standard_normal(y[0].shape).astype(np.float32), "x": x, "weight": weight, **numbers}
        grads = call("conv2d_backward", "numpy", backward)
        bounds = tolerances("conv2d_backward", backward, grads, np.float32)
        assert_close("conv2d_backward", call("conv2d_backward", "native", backward), grads, bounds)


@pytest.mark.parametrize("case", LARGE)
def test_any_number_of_threads_gives_the_same_bits(case):
    shape, kernel, stride, padding, dilation, groups = LARGE[case]
    rng = np.random.default_rng(4)
    x, weight = (rng.standard_normal(s).astype(np.float32) for s in (shape, kernel))
    numbers = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    results = []
    for threads in (1, 2, 7):
        with backend("native"), team(threads):
            y = ops.conv2d(x, weight, **numbers)
            results.append((y, *ops.conv2d_backward(y, x, weight, **numbers)))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", range(6))
@pytest.mark.parametrize("case", TILED)
def test_every_algorithm_stays_within_the_bound_with_the_same_bits_on_any_number_of_threads(case, algorithm, dtype):
    shape, kernel, stride, padding, dilation, groups = TILED[case]
    rng = np.random.default_rng(6)
    x, weight = (rng.standard_normal(s).astype(dtype) for s in (shape, kernel))
    numbers = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    forward = {"x": x, "weight": weight, "bias": None, **numbers}
    y = call("conv2d", "numpy", forward)
    backward = {"dy": rng.standard_normal(y[0].shape).astype(dtype), "x": x, "weight": weight, **numbers}
    expected = y + call("conv2d_backward", "numpy", backward)
    bounds = tolerances("conv2d", forward, y, dtype) + tolerances("conv2d_backward", backward, expected[1:], dtype)
    suffix = {"float32": "f32", "float64": "f64"}[dtype]
    names = [f"conv_{name}_{suffix}" for name in ("collect", "spread", "correlate")]
    results = []
    try:
        for name in names:
            native.set_parameter(name, algorithm)
        for threads in (1, 2, 7):
            with team(threads):
                results.append(call("conv2d", "native", forward) + call("conv2d_backward", "native", backward))
    finally:
        for name in names:
            native.set_parameter(name, None)
    assert_close("conv2d", results[0], expected, bounds)
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other))


def test_algorithms_differ_where_both_apply():
    rng = np.random.default_rng(7)
    x, weight = (rng.standard_normal(s, np.float32) for s in ((2, 32, 12, 12), (32, 32, 3, 3)))
    results = []
    try:
        for algorithm in (1, 2, 3):
            native.set_parameter("conv_collect_f32", algorithm)
            results.append(ops.conv2d.bodies["native"](x, weight))
    finally:
        native.set_parameter("conv_collect_f32", None)
    assert not any(np.array_equal(results[i], results[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def _example(name):
    rng = np.random.default_rng(5)
    one = name == "conv1d"
    x = rng.standard_normal((3, 4, 9) if one else (3, 4, 6, 7))
    weight = rng.standard_normal((4, 4, 3) if one else (4, 4, 3, 2))
    dy = rng.standard_normal(getattr(ops, name)(x, weight).shape)
    return getattr(ops, f"{name}_backward"), dy, x, weight


NAMES = ["conv1d", "conv2d", "conv_transpose2d"]


@pytest.mark.parametrize("name", NAMES)
def test_add_to_adds_in_place_and_returns_the_arrays(name, body):
    backward, dy, x, weight = _example(name)
    dx, dweight, dbias = backward(dy, x, weight)
    a, b = np.ones_like(weight), np.full(4, 2.0)
    dx2, a2, b2 = backward(dy, x, weight, add_to=(a, b))
    assert a2 is a and b2 is b and np.array_equal(dx, dx2)
    assert np.allclose(a, 1 + dweight, rtol=0, atol=1e-12) and np.allclose(b, 2 + dbias, rtol=0, atol=1e-12)
    _, a3, none = backward(dy, x, weight, add_to=(a, None))
    assert a3 is a and none is None
    assert np.allclose(a, 1 + 2 * dweight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_dx_is_left_out_when_not_needed(name, body):
    backward, dy, x, weight = _example(name)
    full, short = backward(dy, x, weight), backward(dy, x, weight, need_dx=False)
    assert short[0] is None
    assert np.array_equal(full[1], short[1]) and np.array_equal(full[2], short[2])


@pytest.mark.parametrize("name", NAMES)
def test_empty_batch_has_gradients_of_zero(name, body):
    backward, dy, x, weight = _example(name)
    assert getattr(ops, name)(x[:0], weight).shape == (0, *dy.shape[1:])
    dx, dweight, dbias = backward(dy[:0], x[:0], weight)
    assert dx.shape == (0, *x.shape[1:]) and not dweight.any() and not dbias.any()
    a = np.ones_like(weight)
    backward(dy[:0], x[:0], weight, add_to=(a, None))
    assert (a == 1).all()


def test_huge_stride_and_dilation_that_never_act_are_accepted(body):
    x, weight = np.arange(12.0).reshape(1, 1, 3, 4), np.ones((1, 1, 3, 1))
    y = ops.conv2d(x, weight, stride=2**31 - 1, dilation=(1, 2**31 - 1))
    assert y.tolist() == [[[[12.0]]]]
    dx, _, _ = ops.conv2d_backward(np.ones_like(y), x, weight, stride=2**31 - 1, dilation=(1, 2**31 - 1))
    assert dx.sum() == 3


X, WEIGHT = np.zeros((2, 4, 5, 6)), np.zeros((6, 4, 3, 3))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weight": np.zeros((6, 4, 7, 3))}, ValueError, "conv2d: kernel spans 7, but the padded input has only 5"),
        ({"dilation": 3}, ValueError, "conv2d: kernel spans 7, but the padded input has only 5"),
        ({"weight": np.zeros((6, 3, 3, 3))}, ValueError, "conv2d: x has 4 channels, but weight"),
        ({"groups": 4}, ValueError, "conv2d: weight has shape .* expected its first axis to fall into 4 groups"),
        ({"groups": 0}, ValueError, "conv2d: groups is 0, expected at least 1"),
        ({"stride": 0}, ValueError, "conv2d: stride is 0, expected at least 1"),
        ({"stride": 1.5}, TypeError, "conv2d: stride is 1.5, expected an integer or a pair"),
        ({"stride": (1, 2, 3)}, TypeError, r"conv2d: stride is \(1, 2, 3\)"),
        ({"padding": -1}, ValueError, "conv2d: padding is -1, expected at least 0"),
        ({"padding": 2**40}, ValueError, "conv2d: padding is .* less than 2"),
        ({"padding": 2**30}, ValueError, "conv2d: the padded input would have shape"),
        ({"bias": np.zeros(5)}, ValueError, r"conv2d: bias has shape \(5,\), expected \(6,\)"),
        ({"bias": np.zeros(6, np.float32)}, TypeError, "conv2d: bias has dtype float32"),
        ({"x": np.zeros((2, 4, 0, 6))}, ValueError, "conv2d: x has shape"),
    ],
)
def test_unfitting_arguments_say_what_was_expected(changes, error, message, body):
    with pytest.raises(error, match=message):
        ops.conv2d(**{"x": X, "weight": WEIGHT, **changes})


def test_unfitting_gradient_arguments_say_what_was_expected(body):
    dy = np.zeros((2, 6, 3, 4))
    with pytest.raises(ValueError, match=r"conv2d_backward: dy has shape \(2, 6, 3, 3\), expected \(2, 6, 3, 4\)"):
        ops.conv2d_backward(dy[..., :3], X, WEIGHT)
    with pytest.raises(TypeError, match="conv2d_backward: add_to is a ndarray, expected a pair"):
        ops.conv2d_backward(dy, X, WEIGHT, add_to=np.zeros(WEIGHT.shape))
    with pytest.raises(ValueError, match="conv2d_backward: add_to: dweight has shape"):
        ops.conv2d_backward(dy, X, WEIGHT, add_to=(np.zeros(3), None))
    with pytest.raises(ValueError, match="conv2d_backward: add_to: dweight must be writable and C-contiguous"):
        ops.conv2d_backward(dy, X, WEIGHT, add_to=(np.zeros(WEIGHT.shape[::-1]).T, None))


def test_unfitting_transposed_arguments_say_what_was_expected(body):
    weight = np.zeros((4, 6, 3, 3))
    with pytest.raises(ValueError, match="conv_transpose2d: output_padding is 2, expected less than stride 2"):
        ops.conv_transpose2d(X, weight, stride=2, output_padding=2)
    with pytest.raises(ValueError, match="conv_transpose2d: padding 4 leaves nothing of the result"):
        ops.conv_transpose2d(X, weight, padding=4)
    with pytest.raises(ValueError, match="conv_transpose2d: x has 4 channels, but weight"):
        ops.conv_transpose2d(X, np.zeros((5, 6, 3, 3)))
