"""Gradients of SLTT, SLTT-K, BPTT and OTTT: against central differences of a smooth twin, and against each other."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend
from refimpl.baselines.bptt import bptt_gradient
from refimpl.baselines.ottt import ottt_gradient
from refimpl.methods.spiking.sltt import draw_steps, sltt_gradient
from refimpl.models.snn import Simulation, spiking_mlp, spiking_nfnet, spiking_resnet, spiking_vgg
from refimpl.models.spiking_classifier import StepLoss
from refimpl.nn import initialise
from refimpl.nn.spiking import Memory, Neuron
from tests.harness import central_differences, relative_error
from tests.strategies.spiking import primitive

SURROGATES = ("triangle", "rectangle", "sigmoid", "atan")


# ---------------------------------------------------------------- a twin of the whole network


@dataclass(frozen=True)
class Twin(Neuron):
    """A neuron that records its first run through the network. In later runs its spike is smooth:
    s = s* + H(u - threshold) - H(u* - threshold), H the primitive of the surrogate, so that its derivative is the
    surrogate and its value, at the recorded parameters, the recorded spike. With `frozen`, each step starts from the
    recorded state: that is what SLTT differentiates."""

    frozen: bool = False
    log: list = field(default_factory=list)
    place: list = field(default_factory=lambda: [None])

    def start(self):
        self.place[0] = 0

    def fire(self, x, v):
        if self.place[0] is None:
            spike, v_next, u = super().fire(x, v)
            self.log.append((np.zeros_like(x) if v is None else v.copy(), spike, u))
            return spike, v_next, u
        v_star, s_star, u_star = self.log[self.place[0]]
        self.place[0] += 1
        v = v_star if self.frozen else np.zeros_like(x) if v is None else v
        u = self.leak * v + x
        rise = primitive(u - self.threshold, self.surrogate, self.width)
        rise = rise - primitive(u_star - self.threshold, self.surrogate, self.width)
        resetting = s_star if self.detach_reset else s_star + rise
        v_next = u - self.threshold * resetting if self.reset == "subtract" else (1 - resetting) * u
        return s_star + rise, v_next, u

    def clear_of_kinks(self):
        kinks = {"rectangle": (-0.5, 0.5), "triangle": (-1.0, 0.0, 1.0)}.get(self.surrogate, ())
        return all((np.abs(u - self.threshold - k * self.width) > 3e-4).all() for _, _, u in self.log for k in kinks)


NETS = {
    "mlp": (lambda neuron: spiking_mlp((5,), 3, neuron, hidden=(6, 4), norm=False), (4, 5)),
    "mlp, batch norm": (lambda neuron: spiking_mlp((5,), 3, neuron, hidden=(6, 4)), (4, 5)),
    "vgg": (lambda neuron: spiking_vgg((2, 4, 4), 3, neuron, plan=(3, "pool", 2)), (2, 2, 4, 4)),
    "resnet": (lambda neuron: spiking_resnet((1, 4, 4), 3, neuron, widths=(2, 3)), (2, 1, 4, 4)),
    "nfnet": (lambda neuron: spiking_nfnet((1, 4, 4), 3, neuron, widths=(2, 3), blocks=2), (2, 1, 4, 4)),
}


def problem(name, neuron, seed, T=3, coding="direct"):
    """A network in inference mode (statistics of batch norm are constants: neurons run through Neuron.fire), a batch,
    labels."""
    make, shape = NETS[name]
    net, rng = make(neuron), np.random.default_rng(seed)
    params = initialise(net, rng, "float64")
    params.flat += 0.3 * rng.standard_normal(params.size)
    x = rng.standard_normal(shape if coding != "events" else (shape[0], T, *shape[1:]))
    return net, params, x, rng.integers(0, 3, len(x))


@pytest.mark.parametrize("rule", ["SLTT", "BPTT", "BPTT, reset detached"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("coding", ["direct", "events"])
def test_gradient_equals_central_differences_of_the_smooth_twin(name, rule, coding):
    tried = 0
    for seed in range(40):
        surrogate = SURROGATES[seed % len(SURROGATES)]
        options = {"leak": 0.6, "surrogate": surrogate, "reset": ("subtract", "zero")[seed % 2], "width": 1.5}
        options |= {"detach_reset": rule.endswith("detached"), "frozen": rule == "SLTT"}
        neuron = Twin(**options)
        net, params, x, y = problem(name, neuron, seed, 3, coding)
        loss, grads = StepLoss(0.3, ("ones", "onehot")[seed % 2]), params.zeros_like()
        gradient = sltt_gradient if rule == "SLTT" else bptt_gradient
        gradient(Simulation(net, params, x, 3, coding), grads, y, loss)
        if not neuron.clear_of_kinks():
            continue

        def value(net=net, params=params, x=x, y=y, loss=loss, neuron=neuron):
            neuron.start()
            simulation = Simulation(net, params, x, 3, coding)
            return sum(loss(simulation.step()[0], y, loss.weight(t, 3))[0] for t in range(3))

        chosen = np.random.default_rng(seed).choice(params.size, min(60, params.size), replace=False)
        part = params.flat[chosen].copy()

        def of(value=value, params=params, chosen=chosen, part=part):
            params.flat[chosen] = part
            return value()

        assert relative_error(grads.flat[chosen], central_differences(of, part)) < 1e-6, (seed, surrogate)
        tried += 1
        if tried == 4:
            return
    raise AssertionError(f"only {tried} of 40 draws were clear of kinks")


# ---------------------------------------------------------------- what the rules have in common, and where they part


def gradient_of(rule, net, params, x, T, y, coding="events", reuse=False, **how):
    own, grads = params.copy(), params.zeros_like()
    simulation = Simulation(net, own, x, T, coding, train=True, memory=Memory(reuse))
    value, logits = rule(simulation, grads, y, StepLoss(), **how)
    return grads.flat, value, logits, own.state


def drawn(seed, T, leak, hidden=(7, 5, 6), norm=True, B=6, dtype="float64", surrogate="triangle"):
    rng = np.random.default_rng(seed)
    net = spiking_mlp((8,), 4, Neuron(leak, surrogate=surrogate), hidden, norm)
    params = initialise(net, rng, dtype)
    return net, params, rng.standard_normal((B, T, 8)).astype(dtype) * 2, rng.integers(0, 4, B)


@pytest.mark.parametrize("body", ["numpy", "native"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(1, 7), leak=st.sampled_from([0.0, 0.1, 0.5, 1.0]), norm=st.booleans())
def test_sltt_k_equals_sltt_bit_for_bit_when_k_is_T(body, seed, T, leak, norm):
    net, params, x, y = drawn(seed, T, leak, norm=norm, dtype="float32")
    with backend(body):
        all_steps = gradient_of(sltt_gradient, net, params, x, T, y)
        steps = draw_steps(T, T, np.random.default_rng(seed))
        for reuse in (False, True):
            some = gradient_of(sltt_gradient, net, params, x, T, y, steps=steps, reuse=reuse)
            assert all(np.array_equal(a, b) for a, b in zip(all_steps, some))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(1, 7), leak=st.sampled_from([0.1, 0.5, 1.0]))
def test_the_gradients_of_single_steps_add_up_to_that_of_sltt(seed, T, leak):
    net, params, x, y = drawn(seed, T, leak)
    whole = gradient_of(sltt_gradient, net, params, x, T, y)[0]
    parts = sum(gradient_of(sltt_gradient, net, params, x, T, y, steps=(t,))[0] for t in range(T))
    assert np.abs(whole - parts).max() < 1e-12


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), leak=st.sampled_from([0.1, 0.5, 1.0]), surrogate=st.sampled_from(SURROGATES))
def test_sltt_equals_bptt_at_T_1(seed, leak, surrogate):
    net, params, x, y = drawn(seed, 1, leak, surrogate=surrogate)
    rules = [gradient_of(rule, net, params, x, 1, y)[0] for rule in (sltt_gradient, bptt_gradient)]
    assert np.array_equal(*rules)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(2, 6))
def test_sltt_equals_bptt_without_a_leak(seed, T):
    """Steps are added in the other order: the same up to rounding."""
    net, params, x, y = drawn(seed, T, 0.0)
    sltt, bptt, ottt = (gradient_of(r, net, params, x, T, y)[0] for r in (sltt_gradient, bptt_gradient, ottt_gradient))
    assert np.abs(sltt - bptt).max() < 1e-13 and np.array_equal(sltt, ottt)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(2, 6), leak=st.sampled_from([0.1, 0.5, 1.0]), norm=st.booleans())
def test_readout_gradients_and_all_forward_values_are_the_same(seed, T, leak, norm):
    net, params, x, y = drawn(seed, T, leak, norm=norm)
    sltt = gradient_of(sltt_gradient, net, params, x, T, y)
    bptt = gradient_of(bptt_gradient, net, params, x, T, y)
    few = gradient_of(sltt_gradient, net, params, x, T, y, steps=(0,))
    readout = sum(params[f"body.readout.{name}"].size for name in ("weight", "bias"))
    assert np.abs(sltt[0][-readout:] - bptt[0][-readout:]).max() < 1e-14
    for other in (bptt, few):  # loss, logits, running statistics
        assert all(np.array_equal(a, b) for a, b in zip(sltt[1:], other[1:]))


def test_the_two_gradients_differ_where_there_is_a_leak():
    net, params, x, y = drawn(0, 5, 0.9)
    sltt, bptt = (gradient_of(rule, net, params, x, 5, y)[0] for rule in (sltt_gradient, bptt_gradient))
    assert np.abs(sltt - bptt).max() > 1e-3


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(1, 5))
def test_a_static_image_equals_a_stream_of_the_same_frame(seed, T):
    net, params, x, y = drawn(seed, 1, 0.5)
    x = x[:, 0]
    for rule in (sltt_gradient, bptt_gradient):
        once = gradient_of(rule, net, params, x, T, y, coding="direct")
        stream = gradient_of(rule, net, params, np.repeat(x[:, None], T, axis=1), T, y)
        assert np.abs(once[0] - stream[0]).max() < 1e-13
        assert all(np.array_equal(a, b) for a, b in zip(once[1:], stream[1:]))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(1, 5))
def test_the_gradient_of_a_batch_is_the_mean_over_its_samples_without_batch_norm(seed, T):
    net, params, x, y = drawn(seed, T, 0.5, norm=False)
    whole = gradient_of(sltt_gradient, net, params, x, T, y)[0]
    each = [gradient_of(sltt_gradient, net, params, x[i : i + 1], T, y[i : i + 1])[0] for i in range(len(x))]
    assert np.abs(whole - np.mean(each, axis=0)).max() < 1e-14
    order = np.random.default_rng(seed).permutation(len(x))
    assert np.abs(whole - gradient_of(sltt_gradient, net, params, x[order], T, y[order])[0]).max() < 1e-14


# ---------------------------------------------------------------- neurons


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(1, 12), width=st.sampled_from([1.0, 2.0]))
def test_the_path_through_time_is_bounded_by_powers_of_the_leak(seed, T, width):
    """eps lies in [0, leak] for the triangle with threshold 1 and width >= 1, so that
    |delta_BPTT[t] - delta_SLTT[t]| <= sum_k leak^k |delta_SLTT[t + k]|, k = 1, 2, ..."""
    rng = np.random.default_rng(seed)
    x, leak = rng.standard_normal((T, 3, 4)) * 2, float(rng.random())
    ds = rng.standard_normal(x.shape)
    u = ops.lif_sequence(x, np.zeros((3, 4)), leak)[2]
    whole = ops.lif_sequence_backward(ds, None, u, leak, width=width)[0]
    spatial = ops.lif_sequence_backward(ds, None, u, leak, width=width, temporal=False)[0]
    for t in range(T):
        later = sum((leak**k * np.abs(spatial[t + k]) for k in range(1, T - t)), np.zeros((3, 4)))
        assert (np.abs(whole[t] - spatial[t]) <= later + 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), T=st.integers(1, 20), threshold=st.sampled_from([0.5, 1.0]))
def test_a_soft_reset_without_leak_loses_nothing(seed, T, threshold):
    x = np.random.default_rng(seed).integers(-8, 17, (T, 5)) / 8
    spikes, v, _ = ops.lif_sequence(x, np.zeros(5), 1.0, threshold)
    assert np.array_equal(v, x.sum(axis=0) - threshold * spikes.sum(axis=0))


def test_two_steps_by_hand():
    """One input, one neuron, leak 1/2: u1 = 1.5 fires and leaves v1 = 0.5, u2 = 0.25 + 0.75 = 1 fires again. With
    dL/ds = 1 at both steps, sg(1.5 - 1) = 1/2 and sg(1 - 1) = 1: SLTT gives 1/2 and 1. Backwards in time,
    du2/du1 = leak (1 - sg) = 1/4, so BPTT gives 1/2 + 1/4 and 1."""
    u = ops.lif_sequence(np.array([[1.5], [0.75]]), np.zeros(1), 0.5)[2]
    assert u.tolist() == [[1.5], [1.0]]
    ones = np.ones((2, 1))
    assert ops.lif_sequence_backward(ones, None, u, 0.5, temporal=False)[0].ravel().tolist() == [0.5, 1.0]
    assert ops.lif_sequence_backward(ones, None, u, 0.5)[0].ravel().tolist() == [0.75, 1.0]


# ---------------------------------------------------------------- the loss, the chosen steps


def test_the_loss_of_a_step_and_its_gradient():
    rng = np.random.default_rng(0)
    logits, y = rng.standard_normal((3, 4)), np.array([0, 3, 1])
    for loss in (StepLoss(), StepLoss(0.4, "onehot"), StepLoss(0.0), StepLoss(1.0)):
        value, d = loss(logits, y, 0.25)
        z = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        target = np.ones((3, 4)) if loss.target == "ones" else np.eye(4)[y]
        expected = (1 - loss.a) * -z[np.arange(3), y].mean() + loss.a * ((logits - target) ** 2).mean()
        assert abs(value - 0.25 * expected) < 1e-14
        numeric = central_differences(lambda loss=loss: loss(logits, y, 0.25)[0], logits)
        assert relative_error(d, numeric) < 1e-6
    assert [StepLoss().weight(t, 4) for t in range(4)] == [0.25] * 4
    assert [StepLoss(steps="last").weight(t, 4) for t in range(4)] == [0, 0, 0, 1]


def test_steps_are_drawn_without_replacement_and_evenly():
    rng = np.random.default_rng(0)
    draws = [draw_steps(6, 2, rng) for _ in range(3000)]
    assert all(len(s) == 2 and s <= set(range(6)) for s in draws)
    counts = np.bincount([t for s in draws for t in s], minlength=6)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 2 / 3)
    assert draw_steps(5, None, rng) == draw_steps(5, 5, rng) == frozenset(range(5))
    for K in (0, 7):
        with pytest.raises(ValueError, match=f"draw_steps: K is {K}, expected 1 to T = 6"):
            draw_steps(6, K, rng)


def test_ottt_uses_the_decaying_sum_of_what_came_in():
    """One layer of weights: grad W = sum_t trace[t]^T delta[t]."""
    net = spiking_mlp((3,), 2, Neuron(0.5), hidden=(4,), norm=False, trace=0.5)
    rng = np.random.default_rng(1)
    params, T = initialise(net, rng, "float64"), 4
    x, y = rng.standard_normal((5, T, 3)), rng.integers(0, 2, 5)
    grads = params.zeros_like()
    ottt_gradient(Simulation(net, params, x, T, "events", train=True), grads, y, StepLoss())
    spatial, expected, trace = [], 0.0, np.zeros((5, 3))
    for t in range(T):  # delta[t] from SLTT on step t alone, by the gradient of the encoder's bias per sample
        plain = spiking_mlp((3,), 2, Neuron(0.5), hidden=(4,), norm=False)
        trace = 0.5 * trace + x[:, t]
        for i in range(5):
            g = params.zeros_like()
            one = Simulation(plain, params, x[i : i + 1], T, "events", train=True)
            sltt_gradient(one, g, y[i : i + 1], StepLoss(), steps=(t,))
            spatial.append(g["encoder.bias"] / 5)
            expected = expected + np.outer(trace[i], spatial[-1])
    assert np.allclose(grads["encoder.weight"], expected, atol=1e-14)
