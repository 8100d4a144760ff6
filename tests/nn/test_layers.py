"""Every layer's backward pass against central differences in float64, for its input and all its parameters."""

import inspect

import numpy as np
import pytest

import refimpl
from refimpl import nn
from refimpl.backends import backend
from refimpl.ops.matmul import ACTIVATIONS
from tests.harness import central_differences, relative_error

IMAGE = (2, 4, 6, 5)
CASES = {
    "Linear": (nn.Linear(5, 3), (2, 4, 5)),
    "Linear without bias": (nn.Linear(5, 3, bias=False), (4, 5)),
    "RowLinear": (nn.RowLinear(5, 3), (2, 4, 5)),
    "RowLinear without bias": (nn.RowLinear(5, 3, bias=False), (4, 5)),
    "Conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), IMAGE),
    "Conv1d": (nn.Conv1d(4, 3, 3, padding=1, dilation=2), (2, 4, 9)),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), IMAGE),
    "MaxPool2d": (nn.MaxPool2d(2), IMAGE),
    "AvgPool2d": (nn.AvgPool2d(3, stride=2, padding=1), IMAGE),
    "GlobalAvgPool2d": (nn.GlobalAvgPool2d(), IMAGE),
    "Upsample2d": (nn.Upsample2d(2, "bilinear"), IMAGE),
    "Upsample2d nearest": (nn.Upsample2d(3, "nearest"), IMAGE),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d((2, 3)), IMAGE),
    "Resize2d": (nn.Resize2d((9, 7)), IMAGE),
    "Reshape": (nn.Reshape((10, 12)), IMAGE),
    "Flatten": (nn.Flatten(), IMAGE),
    "LayerNorm": (nn.LayerNorm(7), (3, 2, 7)),
    "RMSNorm": (nn.RMSNorm(7), (3, 2, 7)),
    "GroupNorm": (nn.GroupNorm(4, 2), IMAGE),
    "BatchNorm": (nn.BatchNorm(4), IMAGE),
    "Dropout": (nn.Dropout(0.4), (5, 6)),
    **{f"Activation {n}": (nn.Activation(n), (3, 5)) for n in ("identity", *ACTIVATIONS)},
    "RNN": (nn.RNN(4, 3), (2, 5, 4)),
    "GRU": (nn.GRU(4, 3), (2, 5, 4)),
    "LSTM": (nn.LSTM(4, 3), (2, 5, 4)),
    "SelfAttention": (nn.SelfAttention(8, 2), (2, 5, 8)),
    "SelfAttention, causal, rotary, grouped": (
        nn.SelfAttention(8, 4, kv_heads=2, causal=True, rotary=True, bias=False),
        (2, 5, 8),
    ),
    "Sequential": (nn.Sequential(nn.Linear(5, 4), nn.Activation("tanh"), nn.Linear(4, 2)), (3, 5)),
    "Residual": (nn.Residual(nn.Sequential(nn.Linear(5, 5), nn.Activation("silu"))), (3, 5)),
    "Residual with shortcut": (nn.Residual(nn.Linear(5, 2), nn.Linear(5, 2)), (3, 5)),
    "Concat": (nn.Concat(a=nn.Linear(5, 2), b=nn.Sequential(nn.Activation("tanh"), nn.Linear(5, 3))), (3, 5)),
    "repeat": (nn.repeat(nn.Sequential(nn.Linear(5, 5), nn.Activation("tanh")), 3), (3, 5)),
}


def test_every_layer_has_a_case():
    names = {n for n in nn.__all__ if inspect.isclass(c := getattr(nn, n)) and issubclass(c, nn.Layer)}
    assert names - {"Layer", "Embedding"} <= {case.split()[0].rstrip(",") for case in CASES}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("case", CASES)
def test_layer_backward_equals_central_differences(case, body, train):
    layer, shape = CASES[case]
    rng = np.random.default_rng(3)
    params = nn.initialise(layer, rng, "float64")
    params.flat += 0.1 * rng.standard_normal(params.size)
    state = params.state.copy()
    x = rng.standard_normal(shape)

    def forward():
        params.state[...] = state  # running statistics move in training; each evaluation starts from the same
        return layer.forward(params, x, train, np.random.default_rng(5))

    with backend(body):
        y, saved = forward()
        dy = rng.standard_normal(y.shape)
        grads = params.zeros_like()
        grads.flat += 1.0  # backward adds
        dx = layer.backward(params, grads, saved, dy)
        again = layer.backward(params, second := params.zeros_like(), saved, dy)
        assert np.array_equal(again, dx) and np.allclose(second.flat + 1, grads.flat, atol=1e-12)

        def loss():
            return float((forward()[0] * dy).sum())

        assert relative_error(dx, central_differences(loss, x)) < 1e-6
        assert relative_error(grads.flat - 1, central_differences(loss, params.flat)) < 1e-6


def test_resampling_by_hand():
    """Means over windows of nearly equal extents; interpolation that keeps the corners."""
    x = np.array([[[[1.0, 2, 3, 4, 6]]]])
    assert np.allclose(nn.AdaptiveAvgPool2d((1, 2)).apply({}, x), [2, 13 / 3])
    assert np.allclose(nn.Resize2d((1, 3)).apply({}, x[..., :2]), [1, 1.5, 2])
    assert np.allclose(nn.Resize2d((1, 9)).apply({}, x)[0, 0, 0], [1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6])
    assert np.array_equal(nn.Resize2d((2, 2)).apply({}, x[..., :1]), np.ones((1, 1, 2, 2)))
    assert np.array_equal(nn.AdaptiveAvgPool2d((1, 5)).apply({}, x), x)


def test_embedding_adds_rows():
    layer = nn.Embedding(4, 2)
    params = nn.initialise(layer, np.random.default_rng(0), "float64")
    index = np.array([[1, 3, 1]])
    y, saved = layer.forward(params, index)
    assert np.array_equal(y[0, 0], params["table"][1])
    grads = params.zeros_like()
    assert layer.backward(params, grads, saved, np.ones_like(y)) is None
    assert grads["table"].tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]


def test_first_layer_skips_the_gradient_of_its_input():
    net = nn.Sequential(nn.Linear(3, 4), nn.Activation("relu"), nn.Linear(4, 2))
    params = nn.initialise(net, np.random.default_rng(0))
    y, saved = net.forward(params, np.ones((2, 3), np.float32))
    with_dx, without = params.zeros_like(), params.zeros_like()
    assert net.backward(params, with_dx, saved, np.ones_like(y)).shape == (2, 3)
    assert net.backward(params, without, saved, np.ones_like(y), need_dx=False) is None
    assert np.array_equal(with_dx.flat, without.flat)


BEFORE = {
    "Flatten": (nn.Flatten(), IMAGE, 120),
    "several": (nn.Sequential(a=nn.Activation("relu"), b=nn.MaxPool2d(2), c=nn.Flatten()), IMAGE, 24),
    "Reshape": (nn.Reshape((5, 24)), IMAGE, 24),
    "nothing": (nn.Activation("identity"), (3, 7), 7),
}


class Asked(nn.Linear):
    """A matrix that tells whether the gradient of its input was wanted."""

    def backward(self, params, grads, saved, dy, need_dx=True):
        ASKED.append(need_dx)
        return super().backward(params, grads, saved, dy, need_dx)


ASKED: list[bool] = []


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("before", BEFORE)
def test_no_gradient_goes_below_the_first_layer_with_parameters(before, nested):
    """Layers without parameters in front of it, also inside containers, change nothing about that."""
    first, shape, n = BEFORE[before]
    matrices = {"fc1": Asked(n, 4), "act": nn.Activation("tanh"), "fc2": Asked(4, 2)}
    net = nn.Sequential(**matrices) if nested else None
    net = nn.Sequential(first=first, net=net) if net else nn.Sequential(first=first, **matrices)
    params, x = nn.initialise(net, np.random.default_rng(0), "float64"), np.random.default_rng(1).standard_normal(shape)
    y, saved = net.forward(params, x)
    ASKED.clear()
    found = {}
    for need_dx in (True, False):
        grads = params.zeros_like()
        dx = net.backward(params, grads, saved, np.ones_like(y), need_dx)
        assert (dx is None) is not need_dx and (dx is None or dx.shape == x.shape)
        found[need_dx] = grads.flat
    assert ASKED == [True, True, True, False]
    assert np.array_equal(found[True], found[False])


def test_a_container_without_parameters_has_nothing_to_do_backwards():
    net = nn.Sequential(nn.Flatten(), nn.Activation("relu"))
    y, saved = net.forward(nn.Params({}), np.ones((2, 3, 1)))
    assert net.backward(nn.Params({}), nn.Params({}), saved, y, need_dx=False) is None
    assert nn.Sequential().backward(nn.Params({}), nn.Params({}), [], y, need_dx=False) is None


def test_batchnorm_running_statistics_approach_those_of_the_data():
    layer = nn.BatchNorm(3, momentum=0.5)
    params = nn.initialise(layer, np.random.default_rng(0), "float64")
    x = np.random.default_rng(1).normal(2.0, 3.0, (64, 3, 4, 4))
    for _ in range(40):
        layer.forward(params, x, train=True)
    assert np.allclose(params["mean"], x.mean((0, 2, 3)))
    assert np.allclose(params["variance"], x.var((0, 2, 3), ddof=1))
    assert np.allclose(layer.apply(params, x), layer.forward(params, x, train=True)[0], atol=1e-2)


def test_dropout_is_the_identity_at_inference_and_unbiased_in_training():
    layer = nn.Dropout(0.3)
    x = np.ones((200, 200), np.float32)
    assert layer.apply(nn.Params({}), x) is x
    y, _ = layer.forward(nn.Params({}), x, train=True, rng=np.random.default_rng(0))
    assert abs(y.mean() - 1) < 0.02 and set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    with pytest.raises(ValueError, match="needs rng"):
        layer.forward(nn.Params({}), x, train=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Activation("swoosh"), "expected one of identity"),
        (lambda: nn.Dropout(1.0), "0 <= rate < 1"),
        (lambda: nn.Upsample2d(2, "cubic"), "'nearest' or 'bilinear'"),
        (lambda: nn.SelfAttention(10, 4), "multiple of heads = 4"),
        (lambda: nn.SelfAttention(8, 4, kv_heads=3), "multiple of kv_heads = 3"),
        (lambda: nn.SelfAttention(6, 2, rotary=True), "even width"),
        (lambda: nn.Sequential(nn.Flatten(), a=nn.Flatten()), "all by position or all by name"),
    ],
)
def test_bad_descriptions_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_linear_layer_with_its_activation_is_both_in_one_operation(activation):
    """Outputs, what is saved, and gradients are those of the two layers one after the other."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Activation(activation), nn.Linear(5, 4), nn.Linear(4, 3))
    params = nn.initialise(net, np.random.default_rng(0), "float64")
    x, dy = np.random.default_rng(1).normal(size=(7, 2, 3)), np.random.default_rng(2).normal(size=(7, 3))
    grads, apart = params.zeros_like(), params.zeros_like()
    with refimpl.trace() as trace:
        y, saved = net.forward(params, x)
        dx = net.backward(params, grads, saved, dy)
    assert next(call.op for call in trace) == "dense" and "dense_backward" in [call.op for call in trace]
    h, kept, d = x, [], dy
    for name, layer in net.layers.items():
        h, one = layer.forward(params.scope(name), h)
        kept.append(one)
    for (name, layer), one in zip(reversed(net.layers.items()), reversed(kept)):
        d = layer.backward(params.scope(name), apart.scope(name), one, d)
    assert np.allclose(y, h, atol=1e-14) and np.allclose(dx, d, atol=1e-14)
    assert np.allclose(grads.flat, apart.flat, atol=1e-14)
    assert all(np.allclose(a, b, atol=1e-14) for a, b in zip(saved[1:], kept[1:]))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("body", ["numpy", "native"])
def test_batch_norm_with_its_rectifier_is_both_in_one_operation(body, train):
    """To the bit; in training in one operation, at inference, where a backward pass is rare, in two."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm(3), nn.Activation("relu"), nn.Conv2d(3, 4, 3))
    params, apart = (nn.initialise(net, np.random.default_rng(0), "float32") for _ in range(2))
    rng = np.random.default_rng(1)
    x, dy = rng.normal(size=(7, 2, 9, 8)).astype(np.float32), rng.normal(size=(7, 4, 5, 4)).astype(np.float32)
    grads, others = params.zeros_like(), params.zeros_like()
    with refimpl.backend(body):
        with refimpl.trace() as trace:
            y, saved = net.forward(params, x, train)
            dx = net.backward(params, grads, saved, dy)
        called = [call.op for call in trace]
        assert ("batchnorm_relu" in called) == ("batchnorm_relu_backward" in called) == train
        assert ("relu" in called) == (not train)
        h, kept, d = x, [], dy
        for name, layer in net.layers.items():
            h, one = layer.forward(apart.scope(name), h, train)
            kept.append(one)
        for (name, layer), one in zip(reversed(net.layers.items()), reversed(kept)):
            d = layer.backward(apart.scope(name), others.scope(name), one, d)
    assert np.array_equal(y, h) and np.array_equal(dx, d) and np.array_equal(grads.flat, others.flat)
    assert np.array_equal(params["1.mean"], apart["1.mean"]) and np.array_equal(saved[2], kept[2])


def test_a_backward_pass_ends_at_the_first_layer_that_learns():
    """Without need_dx nothing is computed below it: a reshaping in front of a matrix costs no product with it."""
    net = nn.Sequential(nn.Reshape((6,)), nn.Linear(6, 5), nn.Activation("tanh"), nn.Dropout(0.0), nn.Linear(5, 3))
    params = nn.initialise(net, np.random.default_rng(0), "float64")
    x, dy = np.random.default_rng(1).normal(size=(7, 2, 3)), np.random.default_rng(2).normal(size=(7, 3))
    with_dx, without = params.zeros_like(), params.zeros_like()
    _, saved = net.forward(params, x)
    with refimpl.trace() as trace:
        assert net.backward(params, without, saved, dy, need_dx=False) is None
    assert net.backward(params, with_dx, saved, dy).shape == x.shape
    assert np.array_equal(with_dx.flat, without.flat)
    assert trace[-1].op == "dense_backward" and "dx" not in [r.name for r in trace[-1].results]
