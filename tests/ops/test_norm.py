"""Normalisations: properties, worked examples, errors."""

import numpy as np
import pytest

from refimpl import backend, ops
from tests.harness import team


@pytest.fixture(params=["numpy", "native"], autouse=True)
def body(request):
    with backend(request.param):
        yield request.param


RNG = np.random.default_rng(0)


def _normalised(name, x):
    """y without gain and bias, and its rows: what shares a mean and a variance."""
    C = x.shape[1]
    if name == "layernorm":
        y = ops.layernorm(x, None, None)[0]
        return y, y.reshape(-1, x.shape[-1])
    if name == "groupnorm":
        y = ops.groupnorm(x, None, None, 2)[0]
        return y, y.reshape(len(x) * 2, -1)
    y = ops.batchnorm(x, None, None)[0]
    return y, np.moveaxis(y, 1, 0).reshape(C, -1)


SHAPES = [(40, 6), (20, 4, 3), (8, 4, 2, 5), (5, 6, 9, 8), (3, 2, 80, 70)]
NAMES = ["layernorm", "groupnorm", "batchnorm"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_normalised_has_mean_zero_and_variance_one(name, shape):
    _, rows = _normalised(name, RNG.standard_normal(shape) * 3 + 5)
    assert np.allclose(rows.mean(axis=1), 0, atol=1e-12)
    assert np.allclose(rows.var(axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_distant_mean_costs_no_accuracy(name, shape):
    """x in float32 around 1e4 in steps that float32 holds exactly: y is as good as the mean's own last place allows."""
    x = (1e4 + RNG.integers(-2000, 2000, shape) / 1024).astype(np.float32)
    exact, rows = _normalised(name, x.astype(np.float64))
    y, _ = _normalised(name, x)
    assert len(rows)
    # One rounding of the mean: half a unit in the last place of 1e4, over a standard deviation of 1.1.
    rstd = 1 / min(np.sqrt(v) for v in _variances(name, x.astype(np.float64)))
    assert np.abs(y - exact).max() < 1.01 * 0.5 * np.spacing(np.float32(1e4)) * rstd + 1e-5


def _variances(name, x):
    if name == "layernorm":
        return x.reshape(-1, x.shape[-1]).var(axis=1)
    if name == "groupnorm":
        return x.reshape(len(x) * 2, -1).var(axis=1)
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1).var(axis=1)


@pytest.mark.parametrize("value", [0.1, 1e4, -3e6])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(30, 70), (4, 6, 9, 8)])
def test_constant_input_gives_zero(name, shape, value):
    """Exactly: the corrected mean is the constant itself, whatever the first sum was."""
    y, _ = _normalised(name, np.full(shape, value, np.float32))
    assert not y.any()


def test_layernorm_worked_by_hand():
    x = np.array([[1.0, 3.0]])
    y, mean, rstd = ops.layernorm(x, np.array([2.0, 10.0]), np.array([0.5, 0.0]), eps=0.0)
    assert np.array_equal(y, [[-1.5, 10.0]])
    assert np.array_equal(mean, [2.0])
    assert np.array_equal(rstd, [1.0])


def test_rmsnorm_worked_by_hand():
    y, rrms = ops.rmsnorm(np.array([[1.0, 7.0]]), np.array([5.0, 10.0]), eps=0.0)
    assert np.allclose(y, [[1.0, 14.0]], rtol=1e-15)
    assert np.allclose(rrms, [0.2], rtol=1e-15)


def test_batchnorm_worked_by_hand():
    x = np.array([[1.0, 0.0], [3.0, 8.0]])
    y, mean, rstd = ops.batchnorm(x, np.array([1.0, 2.0]), np.array([0.0, 1.0]), eps=0.0)
    assert np.array_equal(y, [[-1.0, -1.0], [1.0, 3.0]])
    assert np.array_equal(mean, [2.0, 4.0])
    assert np.array_equal(rstd, [1.0, 0.25])


def test_batchnorm_variance_follows_from_rstd():
    x = RNG.standard_normal((20, 3, 6, 7))
    _, _, rstd = ops.batchnorm(x, None, None)
    assert np.allclose(1 / rstd**2 - 1e-5, x.var(axis=(0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_inference_with_the_statistics_of_the_batch_equals_the_training_form(shape):
    x = RNG.standard_normal(shape)
    gain, bias = RNG.standard_normal((2, shape[1]))
    y, mean, rstd = ops.batchnorm(x, gain, bias)
    again = ops.batchnorm_inference(x, gain, bias, mean, 1 / rstd**2 - 1e-5)
    assert np.allclose(again, y, rtol=1e-9, atol=1e-11)


def test_groupnorm_with_one_group_is_layernorm_of_the_sample():
    x = RNG.standard_normal((3, 4, 6, 6))
    y, mean, _ = ops.groupnorm(x, None, None, 1)
    expected, mean_row, _ = ops.layernorm(x.reshape(3, -1), None, None)
    assert np.allclose(y.reshape(3, -1), expected, atol=1e-14)
    assert np.allclose(mean[:, 0], mean_row, atol=1e-15)


def test_positions_as_columns_and_as_segments_agree(body):
    """The C kernels treat few and many positions apart: the same channels in both layouts."""
    x = RNG.standard_normal((8, 5, 64))
    gain, bias = RNG.standard_normal((2, 5))
    segments = ops.batchnorm(x, gain, bias)
    few = x.reshape(8, 5, 4, 16).transpose(0, 2, 1, 3).reshape(32, 5, 16)
    columns = ops.batchnorm(few, gain, bias)
    back = columns[0].reshape(8, 4, 5, 16).transpose(0, 2, 1, 3).reshape(8, 5, 64)
    assert np.allclose(segments[0], back, atol=1e-13)
    assert np.allclose(segments[1], columns[1], atol=1e-15)
    assert np.allclose(segments[2], columns[2], rtol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_dx_is_orthogonal_to_what_the_normalisation_removes(name, shape):
    """dx has mean zero and, with eps = 0, no component along x: moving x along either leaves y as it is."""
    x, dy = RNG.standard_normal(shape), RNG.standard_normal(shape)
    args = (2, 0.0) if name == "groupnorm" else (0.0,)
    _, mean, rstd = getattr(ops, name)(x, None, None, *args)
    dx, _, _ = getattr(ops, f"{name}_backward")(dy, x, None, mean, rstd)
    if name == "batchnorm":
        dx, x = (np.moveaxis(a, 1, 0).reshape(shape[1], -1) for a in (dx, x))
    else:
        dx, x = (a.reshape(*mean.shape, -1) for a in (dx, x))
    assert np.allclose(dx.sum(axis=-1), 0, atol=1e-10)
    assert np.allclose((dx * x).sum(axis=-1), 0, atol=1e-10)


def test_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal((2, 300, 33)).astype(np.float32)
    images, dimages = rng.standard_normal((2, 5, 6, 9, 9)).astype(np.float32)

    def results():
        out = []
        for a, da in ((x, dy), (images, dimages)):
            for name, more in (("layernorm", ()), ("groupnorm", (3,)), ("batchnorm", ())):
                y, mean, rstd = getattr(ops, name)(a, None, None, *more)
                out += [y, mean, rstd, *getattr(ops, f"{name}_backward")(da, a, None, mean, rstd)]
            y, rrms = ops.rmsnorm(a, None)
            out += [y, rrms, *ops.rmsnorm_backward(da, a, None, rrms)]
        return out

    expected = results()
    for n in (2, 3):
        with team(n):
            assert all(np.array_equal(a, b) for a, b in zip(results(), expected))


def test_empty_batches():
    y, mean, _ = ops.layernorm(np.zeros((0, 4)), None, None)
    assert y.shape == (0, 4)
    assert mean.shape == (0,)
    assert ops.groupnorm(np.zeros((0, 4, 3)), None, None, 2)[1].shape == (0, 2)
    dx, dgain, dbias = ops.layernorm_backward(np.zeros((0, 4)), y, None, mean, mean)
    assert dx.shape == (0, 4)
    assert not dgain.any()
    assert not dbias.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: ops.layernorm(x[:, :0], None, None),
            r"layernorm: x has shape \(4, 0\), expected at least 1 element",
        ),
        (lambda x: ops.layernorm(x, np.ones(5), None), r"layernorm: gain has shape \(5,\), expected \(6,\)"),
        (lambda x: ops.layernorm(x, None, np.ones((1, 6))), r"layernorm: bias has shape \(1, 6\), expected \(6,\)"),
        (lambda x: ops.layernorm(x, None, None, -1.0), "layernorm: eps is -1.0, expected at least 0"),
        (lambda x: ops.layernorm(x, None, None, np.nan), "layernorm: eps is nan, expected at least 0"),
        (lambda x: ops.groupnorm(x, None, None, 4), "groupnorm: groups is 4, expected a divisor of the 6 channels"),
        (lambda x: ops.groupnorm(x, None, None, 0), "groupnorm: groups is 0, expected a divisor of the 6 channels"),
        (lambda x: ops.groupnorm(x[0], None, None, 1), r"groupnorm: x has shape \(6,\), expected at least 2 axes"),
        (lambda x: ops.batchnorm(x[:0], None, None), r"batchnorm: x has shape \(0, 6\), expected at least 1 element"),
        (
            lambda x: ops.batchnorm_inference(x, None, None, np.ones(5), np.ones(6)),
            r"batchnorm_inference: mean has shape \(5,\), expected \(6,\)",
        ),
        (
            lambda x: ops.groupnorm_backward(x, x, None, np.ones((4, 5)), np.ones((4, 5))),
            "groupnorm_backward: groups is 5, expected a divisor of the 6 channels",
        ),
    ],
)
def test_errors_say_what_was_given_and_what_was_expected(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(np.ones((4, 6)))


def test_mixed_dtypes_are_refused():
    with pytest.raises(TypeError, match=r"^layernorm: gain has dtype float64, but x has float32"):
        ops.layernorm(np.ones((4, 6), np.float32), np.ones(6), None)
