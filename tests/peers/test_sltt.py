"""Gradients of SLTT and of back-propagation through time against autograd, in float64 (skipped without PyTorch)."""

import numpy as np
import pytest

from refimpl.baselines.bptt import bptt_gradient
from refimpl.methods.spiking.sltt import sltt_gradient
from refimpl.models.snn import Simulation, spiking_mlp, spiking_vgg
from refimpl.models.spiking_classifier import StepLoss
from refimpl.nn import initialise
from refimpl.nn.spiking import Neuron
from tests.harness import relative_error

torch = pytest.importorskip("torch")
T, K, LEAK = 5, 3, 0.6


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return (z >= 0).to(z.dtype)

    @staticmethod
    def backward(ctx, d):
        (z,) = ctx.saved_tensors
        return d * torch.relu(1 - z.abs())


def theirs(params, weights, pool, x, y, cut, detach_reset, a):
    """Loss and gradients by autograd; `weights`: per layer its name, its function, and that of its batch norm."""
    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    F, states, total = torch.nn.functional, [None] * (len(weights) - 1), 0.0
    for t in range(T):
        s = torch.tensor(x[:, t])
        for i, (name, apply) in enumerate(weights[:-1]):
            current = apply(s, leaves[f"{name}.weight"], None)
            gain, bias = leaves[f"body.lif{LAYER[name]}.gain"], leaves[f"body.lif{LAYER[name]}.bias"]
            u = F.batch_norm(current, None, None, gain, bias, training=True, eps=1e-5)
            if states[i] is not None:
                u = u + LEAK * (states[i].detach() if cut else states[i])
            s = Spike.apply(u - 1)
            states[i] = u - (s.detach() if detach_reset else s)
            s = pool(s)
        name, apply = weights[-1]
        o = apply(s.flatten(1), leaves[f"{name}.weight"], leaves[f"{name}.bias"])
        target = torch.tensor(y)
        total = total + ((1 - a) * F.cross_entropy(o, target) + a * F.mse_loss(o, torch.ones_like(o))) / T
    total.backward()
    return total.item(), {k: leaf.grad for k, leaf in leaves.items()}


LAYER = {"encoder": 1, "body.fc2": 2, "body.conv3": 3}


def linear(x, w, b):
    return torch.nn.functional.linear(x, w.mT, b)


def conv(x, w, b):
    return torch.nn.functional.conv2d(x, w, b, padding=1)


@pytest.mark.parametrize("rule", ["SLTT", "BPTT", "BPTT, reset detached"])
@pytest.mark.parametrize("model", ["mlp", "vgg"])
def test_gradient_equals_autograd(model, rule):
    rng = np.random.default_rng(0)
    neuron = Neuron(LEAK, detach_reset=rule.endswith("detached"))
    if model == "mlp":
        net, shape = spiking_mlp((7,), K, neuron, hidden=(9, 8)), (7,)
        weights = [("encoder", linear), ("body.fc2", linear), ("body.readout", linear)]
        pool = torch.nn.Identity()
    else:
        net, shape = spiking_vgg((2, 8, 8), K, neuron, plan=(4, "pool", 5, "pool")), (2, 8, 8)
        weights = [("encoder", conv), ("body.conv3", conv), ("body.readout", linear)]
        pool = torch.nn.AvgPool2d(2)
    params = initialise(net, rng, np.float64)
    params.flat += 0.2 * rng.standard_normal(params.size)
    x, y = rng.standard_normal((6, T, *shape)) * 2, rng.integers(0, K, 6)
    trained = {k: params[k].copy() for k in params.shapes}
    loss, their_grads = theirs(trained, weights, pool, x, y, rule == "SLTT", rule.endswith("detached"), 0.2)
    grads = params.zeros_like()
    gradient = sltt_gradient if rule == "SLTT" else bptt_gradient
    value, _ = gradient(Simulation(net, params, x, T, "events", train=True), grads, y, StepLoss(0.2))
    assert abs(value - loss) < 1e-12
    for name, theirs_d in their_grads.items():
        assert relative_error(grads[name], theirs_d.numpy()) < 1e-11, name


def test_the_steps_of_the_race_do_the_same_work():
    """Both lower their loss from about the same start."""
    from refimpl.methods.spiking.sltt import race

    for entry in race():
        ours, their = entry.make(), entry.make_torch(torch)
        first = ours(), their()
        last = [(ours(), their()) for _ in range(8)][-1]
        assert abs(first[0] - first[1]) < 0.5 and last[0] < first[0] and last[1] < first[1], entry.name
