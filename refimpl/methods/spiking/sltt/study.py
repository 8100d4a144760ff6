"""What `refimpl run sltt` and `refimpl bench sltt` do: the experiment with its figure, and the race."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.methods.spiking.sltt.gradients import sltt_gradient
from refimpl.models.snn import Simulation, spiking_mlp
from refimpl.models.spiking_classifier import StepLoss
from refimpl.nn import initialise
from refimpl.nn.spiking import Memory
from refimpl.optim import SGD
from refimpl.record import Step

# ---------------------------------------------------------------- the race

_B, _D, _HIDDEN, _K, _T = 128, 784, (128, 128), 10, 6


def race() -> list[Step]:
    """One SLTT training step (T forward and backward passes, SGD), as in the claims."""
    first, second = _HIDDEN
    inside = first * second + second * _K
    # encoder once forward and once for its gradient; per step the others forward and twice backward
    flops = 2.0 * _B * (2 * _D * first + 3 * _T * inside)
    shape = f"B={_B}, {_D}-{first}-{second}-{_K}, T={_T}"
    return [Step("SLTT step", shape, "float32", _make_step, _make_torch_step, flops)]


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((_B, _D), np.float32), rng.integers(0, _K, _B)


def _make_step() -> Any:
    net = spiking_mlp((_D,), _K, hidden=_HIDDEN)
    params = initialise(net, np.random.default_rng(1))
    grads, optimizer, loss = params.zeros_like(), SGD(0.1, momentum=0.9), StepLoss()
    state = optimizer.init(params)
    x, y = _batch()
    memory = Memory(reuse=True)

    def step() -> float:
        grads.flat[...] = 0
        value, _ = sltt_gradient(Simulation(net, params, x, _T, train=True, memory=memory), grads, y, loss)
        optimizer.step(params, grads, state)
        return value

    return step


def _make_torch_step(torch: Any) -> Any:
    """The same in PyTorch, eager: one `backward` a step with a detached membrane, gradients add up. The first layer,
    which sees the same image in every step, runs once, as it does here."""
    nn, F = torch.nn, torch.nn.functional
    torch.manual_seed(1)

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return (z >= 0).to(z.dtype)

        @staticmethod
        def backward(ctx, d):
            (z,) = ctx.saved_tensors
            return d * torch.relu(1 - z.abs())

    first, second = _HIDDEN
    leak, a = 1 - 1 / 1.1, 0.05
    encoder, fc2, readout = nn.Linear(_D, first), nn.Linear(first, second), nn.Linear(second, _K)
    norm1, norm2 = nn.BatchNorm1d(first), nn.BatchNorm1d(second)
    modules = nn.ModuleList([encoder, fc2, readout, norm1, norm2])
    optimizer = torch.optim.SGD(modules.parameters(), lr=0.1, momentum=0.9, foreach=True)
    x, y = map(torch.from_numpy, _batch())

    def fire(current, v):
        u = current if v is None else leak * v.detach() + current
        s = Spike.apply(u - 1)
        return s, (u - s).detach()

    def step() -> float:
        optimizer.zero_grad()
        v1 = v2 = None
        current = encoder(x)
        shown = current.detach().requires_grad_()
        total = 0.0
        for _ in range(_T):
            s, v1 = fire(norm1(shown), v1)
            s, v2 = fire(norm2(fc2(s)), v2)
            o = readout(s)
            loss = ((1 - a) * F.cross_entropy(o, y) + a * F.mse_loss(o, torch.ones_like(o))) / _T
            loss.backward()
            total += loss.item()
        current.backward(shown.grad)
        optimizer.step()
        return total

    return step
