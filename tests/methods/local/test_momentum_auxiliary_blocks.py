"""The auxiliary blocks of MAN: their gradients, the paths that carry none, and the exponential moving average."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend
from refimpl.methods.local.momentum_auxiliary.blocks import Following, input_gradient, stretch, trained_names
from refimpl.models.convnet import basic_block
from refimpl.nn import (
    Activation,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    LayerNorm,
    Linear,
    MaxPool2d,
    Sequential,
    initialise,
)
from tests.harness import assert_gradient, central_differences

seeds = st.integers(0, 2**32 - 1)
few_examples = settings(max_examples=4)
FIRST = {  # first layer of the next module, shape of its input, channels of its output
    "block": (basic_block(3, 3), (3, 4, 5), 3),
    "wider": (basic_block(2, 3, 2), (2, 5, 4), 3),
    "convolution": (Sequential(Conv2d(2, 4, 3, 2, 1), BatchNorm(4), Activation("tanh")), (2, 5, 6), 4),
    "linear": (Sequential(Linear(5, 4), Activation("relu")), (5,), 4),
    "bare": (Linear(5, 4), (5,), 4),
}
each_first = pytest.mark.parametrize("kind", FIRST)
VARIANTS = [
    ("released", "both"),
    ("released", "average"),
    ("released", "companion"),
    ("paper", "both"),
    ("scaled", "both"),
]
each_variant = pytest.mark.parametrize(("variant", "paths"), VARIANTS)


class Case:
    """The blocks in float64, an input, and a random linear loss <u, c> on what they return."""

    def __init__(self, kind, variant, paths, seed, B=4):
        first, shape, channels = FIRST[kind]
        self.layer, rng = Following(first, channels, variant, paths), np.random.default_rng(seed)
        self.params = initialise(self.layer, rng, np.float64)
        self.params.flat += 0.2 * rng.standard_normal(self.params.size)
        self.x = rng.standard_normal((B, *shape))
        self.c = rng.standard_normal(self.layer.forward(self.params, self.x, True)[0].shape)

    def loss(self):
        return float((self.layer.forward(self.params, self.x, True)[0] * self.c).sum())

    def backward(self, need_dx=True):
        grads = self.params.zeros_like()
        _, saved = self.layer.forward(self.params, self.x, True)
        return self.layer.backward(self.params, grads, saved, self.c, need_dx), grads


# ---------------------------------------------------------------- gradients


@each_first
@each_variant
@given(seed=seeds)
@few_examples
def test_gradients_of_the_blocks_equal_central_differences(kind, variant, paths, seed):
    case = Case(kind, variant, paths, seed)
    dx, grads = case.backward()
    assert_gradient(dx, case.loss, case.x)
    for name, g in grads.items():
        assert_gradient(g, case.loss, case.params[name], of=name)


@each_first
@given(seed=seeds)
@few_examples
def test_the_loss_depends_on_the_average_but_no_gradient_of_it_exists(kind, seed):
    case = Case(kind, "released", "both", seed)
    _, grads = case.backward()
    name = "average." + trained_names(case.layer.first)[0]
    assert np.abs(central_differences(case.loss, case.params[name])).max() > 1e-4
    assert name not in grads and not any(n.startswith("average") for n in grads)
    assert name in case.params.state_shapes


@each_first
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("body", ["numpy", "native"])
@given(seed=seeds)
@few_examples
def test_the_input_gradient_is_what_the_whole_backward_pass_returns(kind, train, body, seed):
    layer, shape, _ = FIRST[kind]
    rng = np.random.default_rng(seed)
    params, x = initialise(layer, rng, np.float64), rng.standard_normal((3, *shape))
    with backend(body):
        y, saved = layer.forward(params, x, train)
        dy = rng.standard_normal(y.shape)
        expected = layer.backward(params, params.zeros_like(), saved, dy)
        assert np.allclose(input_gradient(layer, params, saved, dy), expected, rtol=1e-12, atol=1e-12)


@given(
    seed=seeds,
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.integers(1, 2),
    groups=st.integers(1, 2),
    extent=st.tuples(st.integers(5, 8), st.integers(5, 8)),
)
def test_the_input_gradient_of_a_convolution_has_its_input_s_shape(seed, stride, padding, dilation, groups, extent):
    rng = np.random.default_rng(seed)
    layer = Conv2d(2, 4, 3, stride, padding, dilation, groups)
    params, x = initialise(layer, rng, np.float64), rng.standard_normal((2, 2, *extent))
    y, saved = layer.forward(params, x)
    dy = rng.standard_normal(y.shape)
    expected = layer.backward(params, params.zeros_like(), saved, dy)
    assert np.allclose(input_gradient(layer, params, saved, dy), expected, rtol=1e-12, atol=1e-12)


def test_layers_without_weights_pass_and_unknown_ones_are_a_clear_error():
    rng = np.random.default_rng(0)
    layer = Sequential(MaxPool2d(2), Dropout(0.5), Flatten())
    x = rng.standard_normal((2, 3, 4, 4))
    y, saved = layer.forward(initialise(layer, rng, np.float64), x, True, rng)
    dx = input_gradient(layer, initialise(layer, rng, np.float64), saved, np.ones_like(y))
    assert dx.shape == x.shape and np.count_nonzero(dx) == np.count_nonzero(y)
    with pytest.raises(TypeError, match="input_gradient: no rule for LayerNorm"):
        input_gradient(LayerNorm(3), initialise(LayerNorm(3), rng), None, x)


# ---------------------------------------------------------------- what must hold exactly


@each_first
@pytest.mark.parametrize("body", ["numpy", "native"])
@given(seed=seeds)
@few_examples
def test_the_scaled_sum_at_one_is_the_plain_sum_to_the_bit(kind, body, seed):
    plain, scaled = Case(kind, "released", "both", seed), Case(kind, "scaled", "both", seed)
    with backend(body):
        scaled.params["scale"][...] = 1
        for name, window in plain.params.items():
            scaled.params[name][...] = window
        (u, _), (v, _) = (c.layer.forward(c.params, plain.x, True) for c in (plain, scaled))
        assert np.array_equal(u, v)
        scaled.x, scaled.c = plain.x, plain.c
        (dx, grads), (dx_scaled, grads_scaled) = plain.backward(), scaled.backward()
        assert np.array_equal(dx, dx_scaled)
        assert all(np.array_equal(g, grads_scaled[name]) for name, g in grads.items())


@each_first
@given(seed=seeds)
@few_examples
def test_with_scale_zero_the_average_alone_drives_the_module(kind, seed):
    case, rng = Case(kind, "scaled", "both", seed), np.random.default_rng(seed)
    case.params["scale"][...] = 0
    u, dx = case.layer.forward(case.params, case.x, True)[0], case.backward()[0]
    for name, window in case.params.items():
        if name.startswith("companion"):
            window[...] = rng.standard_normal(window.shape)
    assert np.array_equal(case.layer.forward(case.params, case.x, True)[0], u)
    again, grads = case.backward()
    assert np.array_equal(again, dx)
    assert all((grads[name] == 0).all() for name in grads if name != "scale")
    e, _ = case.layer.first.forward(case.params.scope("average"), case.x, True)
    assert np.array_equal(u, 2 * e)


@each_variant
def test_without_dx_the_weight_gradients_are_the_same_and_the_average_costs_nothing(variant, paths):
    case = Case("block", variant, paths, 0)
    (_, grads), (dx, again) = case.backward(), case.backward(need_dx=False)
    assert dx is None and np.array_equal(grads.flat, again.flat)


def test_a_unit_computed_by_hand():
    """x = 2, a = 3 (companion), e = 5 (average): u = 3*2 + 5*2 = 16. With du = 1: da = x = 2, no de, dx = 3 + 5 = 8. At
    s = 1/2: u = 0.5*6 + 1.5*10 = 18, da = 0.5*2 = 1, ds = 6 - 10 = -4, dx = 0.5*3 + 1.5*5 = 9."""
    for variant, u, da, dx in (("released", 16, 2, 8), ("scaled", 18, 1, 9)):
        layer = Following(Linear(1, 1, bias=False), 1, variant)
        params = initialise(layer, np.random.default_rng(0), np.float64)
        params["companion.weight"][...], params["average.weight"][...] = 3, 5
        if variant == "scaled":
            params["scale"][...] = 0.5
        grads, x = params.zeros_like(), np.array([[2.0]])
        y, saved = layer.forward(params, x, True)
        back = layer.backward(params, grads, saved, np.ones((1, 1)))
        assert y[0, 0] == u and back[0, 0] == dx and grads["companion.weight"][0, 0] == da
        assert variant == "released" or grads["scale"][0] == -4


# ---------------------------------------------------------------- the moving average


@pytest.mark.parametrize("body", ["numpy", "native"])
@given(seed=seeds, m=st.floats(0, 1), t=st.integers(1, 30))
def test_with_constant_weights_the_average_has_a_closed_form(body, seed, m, t):
    """e_t = theta + m^t (e_0 - theta)."""
    rng = np.random.default_rng(seed)
    theta, e0 = rng.standard_normal(17), rng.standard_normal(17)
    e = e0.copy()
    with backend(body):
        for _ in range(t):
            ops.ema_update(e, theta, m)
    assert np.allclose(e, theta + m**t * (e0 - theta), rtol=1e-12, atol=1e-12)
    if m == 0:
        assert np.array_equal(e, theta)
    if m == 1:
        assert np.array_equal(e, e0)


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(seed=seeds)
def test_momentum_zero_copies_and_momentum_one_keeps_to_the_bit(body, dtype, seed):
    rng = np.random.default_rng(seed)
    theta, e0 = (rng.standard_normal(19).astype(dtype) for _ in range(2))
    with backend(body):
        for m, expected in ((0.0, theta), (1.0, e0)):
            e = e0.copy()
            ops.ema_update(e, theta, m)
            assert np.array_equal(e, expected)


@given(seed=seeds, m=st.floats(0, 1), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_the_average_is_linear_in_what_it_follows(seed, m, a, b):
    rng = np.random.default_rng(seed)
    thetas = rng.standard_normal((2, 6, 5))
    averages = np.zeros((3, 5))
    for one, other in zip(*thetas):
        for e, theta in zip(averages, (one, other, a * one + b * other)):
            ops.ema_update(e, theta, m)
    assert np.allclose(averages[2], a * averages[0] + b * averages[1], rtol=1e-12, atol=1e-12)


@given(seed=seeds, m=st.floats(0, 1))
def test_a_step_moves_the_average_by_one_minus_m_of_the_distance(seed, m):
    rng = np.random.default_rng(seed)
    theta, e = rng.standard_normal((2, 13))
    before = e.copy()
    ops.ema_update(e, theta, m)
    assert np.linalg.norm(e - before) <= (1 - m) * np.linalg.norm(theta - before) * (1 + 1e-12) + 1e-15


@each_first
def test_the_weights_of_block_and_average_are_one_stretch_each_in_the_same_order(kind):
    first, _, channels = FIRST[kind]
    layer = Sequential(before=Linear(2, 2), auxiliary=Following(first, channels), head=Linear(3, 2))
    params, names = initialise(layer, np.random.default_rng(0), np.float64), trained_names(first)
    for path, vector in (("companion", params.flat), ("average", params.state)):
        found = stretch(params, f"auxiliary.{path}", names)
        assert np.shares_memory(found, vector)
        assert np.array_equal(found, np.concatenate([params[f"auxiliary.{path}.{n}"].ravel() for n in names]))


def test_windows_that_lie_apart_are_a_clear_error():
    params = initialise(Sequential(basic_block(2, 2)), np.random.default_rng(0))
    names = trained_names(basic_block(2, 2))
    with pytest.raises(ValueError, match="does not lie behind the window before it"):
        stretch(params, "0", names[::-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "sum"}, "variant is 'sum', expected one of 'released', 'paper', 'scaled'"),
        ({"paths": "none"}, "paths is 'none', expected one of 'both', 'average', 'companion'"),
        ({"variant": "paper", "paths": "average"}, "paths is 'average', expected 'both' for variant 'paper'"),
    ],
)
def test_unusable_settings_are_clear_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Following(Linear(2, 2), 2, **arguments)
