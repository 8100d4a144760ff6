"""Every gradient of the three losses against central differences in float64, with respect to every parameter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.methods.local.noprop import ct_loss, dt_denoising, dt_loss, fm_loss
from refimpl.models.diffusion import LearnedGamma, chain, cosine_signal, gamma_schedule
from refimpl.models.label_denoiser import ReadOut, denoiser
from refimpl.nn import initialise
from tests.harness import central_differences, relative_error

seeds = st.integers(0, 2**32 - 1)
B, K, PIXELS, WIDTH = 4, 3, 3, 3


class Case:
    """A small model of smooth functions (a kink has no derivative to compare with), its data and its noise."""

    def __init__(self, seed, D=2, readout="linear", timed=False, d_out=K, schedule="linear", **spec):
        self.rng = rng = np.random.default_rng(seed)
        spec = {"kind": "mlp", "shape": (PIXELS,), "width": WIDTH, "activation": "tanh", "time_width": 4, **spec}
        self.net = denoiser(D=D or K, d_out=d_out, timed=timed, **spec)
        self.readout = ReadOut(readout, K, D or K, 0.8)
        self.schedule = gamma_schedule(schedule, 0.05, 0.9)
        if schedule == "learned":
            self.schedule = LearnedGamma(self.schedule.g0, self.schedule.g1, 4)
        layers = {"net": self.net, "readout": self.readout, "schedule": self.schedule}
        self.params = {name: initialise(layer, rng, np.float64) for name, layer in layers.items()}
        for params in self.params.values():
            params.flat += 0.3 * rng.standard_normal(params.size)
        self.params["block"] = self.params["net"]
        self.W = rng.standard_normal((K, D)) if D else None
        self.x, self.y = rng.standard_normal((B, *spec["shape"])), rng.integers(0, K, B)
        self.t = rng.random(B)
        self.eps, self.eps_last = rng.standard_normal((2, B, D or K))

    def check(self, loss, groups):
        """loss(grads, dW) -> Terms adds gradients; every window of the groups must equal the numeric one."""
        grads = {name: params.zeros_like() for name, params in self.params.items()}
        grads["block"] = grads["net"]
        dW = None if self.W is None else np.zeros_like(self.W)
        loss(grads, dW)
        wrt = {name: (self.params[name].flat, grads[name].flat) for name in groups}
        if self.W is not None:
            wrt["W"] = (self.W, dW)

        def total():
            unused = {name: params.zeros_like() for name, params in self.params.items()}
            return loss(unused, None if self.W is None else np.zeros_like(self.W)).total

        for name, (values, gradient) in wrt.items():
            if values.size:
                error = relative_error(gradient, central_differences(total, values))
                assert error < 1e-6, f"d{name} is off by {error:.1e}"


@pytest.mark.parametrize("readout", ["linear", "distance", "nearest"])
@pytest.mark.parametrize("D", [None, 2, 5])
@settings(max_examples=5)
@given(seed=seeds, t=st.integers(1, 4))
def test_gradients_of_the_discrete_loss_equal_central_differences(D, readout, seed, t):
    case, steps = Case(seed, D, readout), chain(cosine_signal(4, 0.02, 0.9))

    def loss(grads, dW):
        model = case.net, case.readout, case.params, grads, case.W, dW
        return dt_loss(*model, case.x, case.y, t, steps, 0.7, case.eps, case.eps_last)

    case.check(loss, ("net", "readout"))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "learned"])
@pytest.mark.parametrize("D", [None, 2])
@settings(max_examples=5)
@given(seed=seeds)
def test_gradients_of_the_continuous_loss_equal_central_differences(D, schedule, seed):
    case = Case(seed, D, "distance" if seed % 2 else "linear", timed=True, schedule=schedule)

    def loss(grads, dW):
        model = case.net, case.readout, case.schedule, case.params, grads, case.W, dW
        return ct_loss(*model, case.x, case.y, case.t, 0.7, case.eps, case.eps_last)

    case.check(loss, ("net", "readout", "schedule"))


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("readout", ["linear", "distance", "nearest"])
@settings(max_examples=5)
@given(seed=seeds)
def test_gradients_of_anchored_flow_matching_equal_central_differences(readout, sigma, seed):
    case = Case(seed, 2, readout, timed=True, d_out=2)

    def loss(grads, dW):
        model = case.net, case.readout, case.params, grads, case.W, dW
        return fm_loss(*model, case.x, case.y, case.t, case.eps, True, sigma, case.eps_last)

    case.check(loss, ("net", "readout"))


@settings(max_examples=5)
@given(seed=seeds)
def test_gradients_of_plain_flow_matching_equal_central_differences(seed):
    case = Case(seed, None, timed=True, d_out=K)

    def loss(grads, dW):
        return fm_loss(case.net, case.readout, case.params, grads, None, None, case.x, case.y, case.t, case.eps)

    case.check(loss, ("net", "readout"))


@settings(max_examples=5)
@given(seed=seeds)
def test_without_the_anchor_the_embedding_learns_from_the_velocity_alone(seed):
    case = Case(seed, 2, timed=True, d_out=2)
    dW = np.zeros_like(case.W)

    def terms(dW):
        grads = {name: params.zeros_like() for name, params in case.params.items()}
        return fm_loss(case.net, case.readout, case.params, grads, case.W, dW, case.x, case.y, case.t, case.eps)

    terms(dW)
    numeric = central_differences(lambda: terms(np.zeros_like(dW)).denoising, case.W)
    assert relative_error(dW, numeric) < 1e-6


def conv_case(seed, timed, image_label):
    D = 16 if image_label else 2
    return Case(seed, D, kind="conv", shape=(1, 4, 4), width=4, timed=timed, image_label=image_label, dropout=0.3)


@pytest.mark.parametrize("image_label", [False, True])
@pytest.mark.parametrize("timed", [False, True])
def test_gradients_of_the_convolutional_block_equal_central_differences_along_random_lines(timed, image_label):
    """26,000 and more parameters, so along directions; the same dropout masks in every call."""
    case, steps = conv_case(5, timed, image_label), chain(cosine_signal(4, 0.02, 0.9))

    def loss(grads, dW):
        rng = np.random.default_rng(1)
        if timed:
            model = case.net, case.readout, case.schedule, case.params, grads, case.W, dW
            return ct_loss(*model, case.x, case.y, case.t, 0.7, case.eps, case.eps_last, rng)
        model = case.net, case.readout, case.params, grads, case.W, dW
        return dt_loss(*model, case.x, case.y, 2, steps, 0.7, case.eps, case.eps_last, rng)

    grads = {name: params.zeros_like() for name, params in case.params.items()}
    grads["block"] = grads["net"]
    dW = np.zeros_like(case.W)
    loss(grads, dW)
    for values, gradient in ((case.params["net"].flat, grads["net"].flat), (case.W, dW)):
        for i in range(3):
            direction = np.random.default_rng(i).standard_normal(values.shape)
            direction /= np.linalg.norm(direction)
            start, step = values.copy(), np.zeros(1)

            def along():
                values[...] = start + step[0] * direction  # noqa: B023  (called inside the loop)
                spare = {name: params.zeros_like() for name, params in case.params.items()}
                return loss({**spare, "block": spare["net"]}, np.zeros_like(dW)).total

            numeric = central_differences(along, step, 1e-6)[0]
            values[...] = start
            analytic = float((gradient * direction).sum())
            assert abs(analytic - numeric) < 1e-6 * max(1, abs(numeric))


@given(seed=seeds, t=st.integers(1, 4))
def test_rotating_the_embedding_with_the_first_label_weight_and_the_noise_changes_nothing(seed, t):
    """W -> W Q, eps -> eps Q, first label weight -> Q^T weight, read-out weight -> Q^T weight."""
    case, steps = Case(seed, 3), chain(cosine_signal(4, 0.02, 0.9))
    Q, _ = np.linalg.qr(case.rng.standard_normal((3, 3)))

    def value(W, eps, eps_last):
        grads = {name: params.zeros_like() for name, params in case.params.items()}
        model = case.net, case.readout, case.params, {**grads, "block": grads["net"]}, W, None
        return dt_loss(*model, case.x, case.y, t, steps, 0.7, eps, eps_last)

    before = value(case.W, case.eps, case.eps_last)
    for group, name in (("net", "label.0.weight"), ("readout", "linear.weight")):
        window = case.params[group][name]
        window[...] = Q.T @ window
    after = value(case.W @ Q, case.eps @ Q, case.eps_last @ Q)
    for a, b in zip(vars(before).values(), vars(after).values()):
        assert np.isclose(a, b, rtol=1e-10)


@given(seed=seeds)
def test_prior_and_read_out_send_nothing_to_a_block(seed):
    case, steps = Case(seed), chain(cosine_signal(4, 0.02, 0.9))
    grads = {name: params.zeros_like() for name, params in case.params.items()}
    model = case.net, case.readout, case.params, {**grads, "block": grads["net"]}, case.W, None
    dt_loss(*model, case.x, case.y, 2, steps, 0.7, case.eps, case.eps_last)
    alone = case.params["net"].zeros_like()
    dt_denoising(case.net, case.params["net"], alone, case.W, None, case.x, case.y, 2, steps, 0.7, case.eps)
    assert np.array_equal(alone.flat, grads["net"].flat)
