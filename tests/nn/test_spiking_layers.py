"""Layers with a state: one step is a layer like any other, many steps are a recurrence in the open."""

import numpy as np
import pytest

from refimpl import nn, ops
from refimpl.backends import backend
from refimpl.nn import init
from refimpl.nn.spiking import (
    LIF,
    BatchNormLIF,
    Memory,
    Neuron,
    Scale,
    ScaledConv2d,
    SpikeLinear,
    StepDropout,
    StepLayer,
    StepResidual,
    Steps,
    Traced,
    cached_bytes,
)
from tests.harness import central_differences, relative_error

RNG = np.random.default_rng
SMOOTH = {
    "SpikeLinear": (SpikeLinear(5, 16), (6, 5)),
    "SpikeLinear without bias": (SpikeLinear(5, 3, bias=False), (6, 5)),
    "Scale": (Scale(0.3), (3, 4)),
    "Scale, learnable": (Scale(0.3, 0.7), (3, 4)),
    "ScaledConv2d": (ScaledConv2d(3, 4, 3, 1, 1), (2, 3, 5, 4)),
    "ScaledConv2d, strides": (ScaledConv2d(3, 4, (2, 3), 2, 0, bias=False), (2, 3, 5, 4)),
    "ScaledConv2d, one weight": (ScaledConv2d(1, 2, 1), (2, 1, 3, 3)),
    "StepDropout": (StepDropout(0.4), (5, 6)),
    "StepResidual": (StepResidual(Steps(nn.Linear(5, 5), nn.Activation("tanh"))), (3, 5)),
    "StepResidual with a shortcut": (StepResidual(nn.Linear(5, 2), nn.Linear(5, 2)), (3, 5)),
}


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("case", SMOOTH)
def test_backward_equals_central_differences(case, body):
    layer, shape = SMOOTH[case]
    rng = RNG(3)
    params = nn.initialise(layer, rng, "float64")
    params.flat += 0.1 * rng.standard_normal(params.size)
    x = rng.standard_normal(shape)

    def forward():
        return layer.forward(params, x, True, RNG(5))

    with backend(body):
        y, saved = forward()
        dy = rng.standard_normal(y.shape)
        grads = params.zeros_like()
        grads.flat += 1.0  # backward adds
        dx = layer.backward(params, grads, saved, dy)

        def loss():
            return float((forward()[0] * dy).sum())

        assert relative_error(dx, central_differences(loss, x)) < 1e-6
        assert relative_error(grads.flat - 1, central_differences(loss, params.flat)) < 1e-6
        without = layer.backward(params, params.zeros_like(), saved, dy, need_dx=False)
    assert without is None or isinstance(layer, StepDropout)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 7, 5)])
@pytest.mark.parametrize("body", ["numpy", "native"])
def test_batch_norm_and_neurons_in_one_are_the_two_one_after_the_other(shape, body, reuse):
    """Over four steps forward, then back through time, and through space alone."""
    rng, neuron = RNG(0), Neuron(0.7)
    one, two = BatchNormLIF(4, neuron), Steps(norm=nn.BatchNorm(4), lif=LIF(neuron))
    params = nn.initialise(one, rng, "float64")
    params.flat += 0.3 * rng.standard_normal(8)
    other = nn.initialise(two, rng, "float64")
    other.flat[...] = params.flat
    memory, others = Memory(reuse), Memory()
    grads, other_grads = params.zeros_like(), other.zeros_like()
    kept = []
    with backend(body):
        for _ in range(4):
            x = rng.standard_normal(shape) * 2
            y, saved = one.step(params, memory, x, train=True)
            expected, theirs = two.step(other, others, x, train=True)
            assert np.array_equal(y, expected) and 0 < y.mean() < 1
            dy = rng.standard_normal(shape)
            dx = one.step_backward(params, grads, saved, dy, None)
            assert np.allclose(dx, two.step_backward(other, other_grads, theirs, dy, None), atol=1e-12)
            kept.append((saved, theirs, dy))
        assert np.allclose(params.state, other.state) and np.allclose(grads.flat, other_grads.flat, atol=1e-12)
        if reuse:
            return  # the arrays of earlier steps are gone
        dmemory, dothers = Memory(), Memory()
        for saved, theirs, dy in reversed(kept):
            dx = one.step_backward(params, grads, saved, dy, dmemory)
            assert np.allclose(dx, two.step_backward(other, other_grads, theirs, dy, dothers), atol=1e-12)
    assert np.allclose(grads.flat, other_grads.flat, atol=1e-12)


def test_at_inference_the_running_statistics_are_used_and_stay():
    layer, rng = BatchNormLIF(3), RNG(1)
    params = nn.initialise(layer, rng)
    x = rng.standard_normal((50, 3)).astype(np.float32)
    for _ in range(200):
        layer.step(params, Memory(), x, train=True)
    before = params.state.copy()
    y, (u, _, _) = layer.step(params, Memory(), x)
    assert np.array_equal(params.state, before)
    assert np.allclose(u, (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0, ddof=1) + 1e-5), atol=1e-4)
    assert np.array_equal(y, u >= 1)


def test_a_step_from_rest_is_a_layer_and_states_are_carried_on():
    layer = LIF(Neuron(0.5))
    x = np.array([[0.75, 1.0, 2.5]])
    assert layer.apply(nn.Params({}), x).tolist() == [[0, 1, 1]]
    memory = Memory()
    first, _ = layer.step(nn.Params({}), memory, x)
    assert memory["v"].tolist() == [[0.75, 0.0, 1.5]]  # what exceeds the threshold stays
    second, u = layer.step(nn.Params({}), memory, x)
    assert u.tolist() == [[1.125, 1.0, 3.25]] and first.tolist() == [[0, 1, 1]] and second.tolist() == [[1, 1, 1]]


def test_buffers_are_used_again_and_a_rest_forgets_states_alone():
    layer, rng = Steps(a=BatchNormLIF(4), b=BatchNormLIF(4)), RNG(0)
    params, x = nn.initialise(layer, rng), rng.standard_normal((9, 4)).astype(np.float32)
    memory = Memory(reuse=True)
    first, _ = layer.step(params, memory, x, train=True)
    address, copy = first.__array_interface__["data"], first.copy()
    second, _ = layer.step(params, memory, x, train=True)
    assert second.__array_interface__["data"] == address
    again, _ = layer.step(params, memory.rest(), x, train=True)
    assert np.array_equal(again, copy) and again.__array_interface__["data"] == address
    other, _ = layer.step(params, memory.rest(), x[:5], train=True)  # a last, smaller batch
    assert other.shape == (5, 4)


def test_a_dropout_mask_is_drawn_once_for_all_steps_and_anew_for_the_next_batch():
    layer, memory, rng = StepDropout(0.5), Memory(), RNG(0)
    x = np.ones((40, 50), np.float32)
    first, _ = layer.step(nn.Params({}), memory, x, True, rng)
    second, saved = layer.step(nn.Params({}), memory, x, True, rng)
    assert np.array_equal(first, second) and set(np.unique(first)) == {0, 2}
    assert len({row.tobytes() for row in first}) == 40  # a mask for each sample
    assert np.array_equal(layer.step_backward(nn.Params({}), nn.Params({}), saved, x, None), first)
    third, _ = layer.step(nn.Params({}), memory.rest(), x, True, rng)
    assert not np.array_equal(first, third)
    assert layer.apply(nn.Params({}), x) is x
    with pytest.raises(ValueError, match="needs rng"):
        layer.forward(nn.Params({}), x, train=True)
    with pytest.raises(ValueError, match="StepDropout: rate is 1, expected 0 <= rate < 1"):
        StepDropout(1)


def test_a_trace_is_the_decaying_sum_of_the_inputs():
    layer = Traced(nn.Linear(3, 2), 0.5)
    params, memory, rng = nn.initialise(layer, RNG(0), "float64"), Memory(), RNG(1)
    xs = rng.standard_normal((3, 4, 3))
    for x in xs:
        y, saved = layer.step(params, memory, x)
        assert np.allclose(y, x @ params["weight"] + params["bias"])
    assert np.allclose(saved, xs[2] + 0.5 * xs[1] + 0.25 * xs[0])
    grads, dy = params.zeros_like(), rng.standard_normal((4, 2))
    dx = layer.step_backward(params, grads, saved, dy, None)
    assert np.allclose(grads["weight"], saved.T @ dy) and np.allclose(dx, dy @ params["weight"].T)


def test_scaled_weights_have_mean_zero_and_the_variance_of_one_over_the_fan_in():
    layer = ScaledConv2d(4, 5, 3, eps=0.0, bias=False)
    params = nn.initialise(layer, RNG(0), "float64")
    params["weight"][...] = 3 + 2 * RNG(1).standard_normal((5, 4, 3, 3))
    unit, _ = layer._standardise(params["weight"])
    assert np.allclose(unit.mean(axis=1), 0) and np.allclose(unit.var(axis=1, ddof=1), 1 / 36)
    x = RNG(2).standard_normal((2, 4, 6, 6))
    expected = ops.conv2d(x, unit.reshape(5, 4, 3, 3), None)
    assert np.allclose(layer.apply(params, x), expected)


def test_bytes_are_counted_once_for_each_array():
    a, b = np.zeros(10, np.float32), np.zeros((3, 4))
    assert cached_bytes([a, (b, [a, None])], a) == 40 + 96
    assert cached_bytes([]) == 0


def test_every_layer_with_a_state_has_a_backward_pass():
    with pytest.raises(NotImplementedError):
        StepLayer().forward(nn.Params({}), np.zeros((1, 1)))
    net = Steps(SpikeLinear(2, 3, weight_init=init.normal(1.0)), LIF(), nn.Linear(3, 2))
    params = nn.initialise(net, RNG(0))
    y, saved = net.forward(params, np.ones((4, 2), np.float32))
    assert net.backward(params, params.zeros_like(), saved, np.ones_like(y), need_dx=False) is None
