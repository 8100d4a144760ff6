"""The losses of NoProp and of its end-to-end chain against autograd, in float64 (skipped where PyTorch is missing)."""

import numpy as np
import pytest

from refimpl.baselines.chain import chain_stages, unrolled_loss
from refimpl.methods.local.noprop import dt_loss
from refimpl.models.diffusion import chain, cosine_signal
from refimpl.models.label_denoiser import ReadOut, denoiser
from refimpl.nn import initialise
from tests.harness import relative_error

torch = pytest.importorskip("torch")
B, K, D, PIXELS, WIDTH, T = 16, 4, 3, 6, 5, 3


def setup():
    rng = np.random.default_rng(0)
    block, readout = denoiser("mlp", (PIXELS,), D, K, WIDTH), ReadOut("linear", K, D)
    params = {f"block{t}": initialise(block, rng, np.float64) for t in range(1, T + 1)}
    params["readout"] = initialise(readout, rng, np.float64)
    W = rng.standard_normal((K, D))
    x, y = rng.standard_normal((B, PIXELS)), rng.integers(0, K, B)
    return block, readout, params, W, x, y, list(rng.standard_normal((T + 1, B, D)))


def theirs(params, W):
    """The same numbers as leaves of autograd."""
    leaves = {n: {k: torch.tensor(v, requires_grad=True) for k, v in p.items()} for n, p in params.items()}
    return leaves, torch.tensor(W, requires_grad=True)


def uhat(p, W, x, z):
    h_x = torch.relu(x @ p["image.1.weight"] + p["image.1.bias"])
    h_z = torch.relu(z @ p["label.0.weight"] + p["label.0.bias"])
    joint = torch.relu(h_x @ p["join_image.weight"] + p["join_image.bias"] + h_z @ p["join_label.weight"])
    return torch.softmax(joint @ p["head.1.weight"] + p["head.1.bias"], dim=1) @ W


def read(p, z, y):
    return torch.nn.functional.cross_entropy(z @ p["linear.weight"] + p["linear.bias"], y)


def compare(loss, grads, dW, their_loss, leaves, their_W):
    assert abs(loss - their_loss.item()) < 1e-12 * max(1, abs(loss))
    their_loss.backward()
    for name, group in grads.items():
        for key, gradient in group.items():
            other = leaves[name][key].grad
            assert relative_error(gradient, np.zeros_like(gradient) if other is None else other.numpy()) < 1e-11
    assert relative_error(dW, their_W.grad.numpy()) < 1e-11


@pytest.mark.parametrize("t", [1, 2, 3])
def test_the_discrete_loss_equals_autograd(t):
    block, readout, params, W, x, y, noise = setup()
    steps = chain(cosine_signal(T, 0.02, 0.9))
    own = {"block": params[f"block{t}"], "readout": params["readout"]}
    grads, dW = {name: p.zeros_like() for name, p in own.items()}, np.zeros_like(W)
    loss = dt_loss(block, readout, own, grads, W, dW, x, y, t, steps, 0.7, noise[0], noise[1]).total

    leaves, w = theirs(own, W)
    u = w[torch.tensor(y)]
    before, last, first = steps.abar[t - 1], steps.abar[-1], steps.abar[0]
    z = np.sqrt(before) * u + np.sqrt(1 - before) * torch.tensor(noise[0])
    z_last = np.sqrt(last) * u + np.sqrt(1 - last) * torch.tensor(noise[1])
    squared = ((uhat(leaves["block"], w, torch.tensor(x), z) - u) ** 2).sum(dim=1).mean()
    kl = 0.5 * (first * (u * u).sum(dim=1).mean() - D * first - D * np.log(1 - first))
    total = read(leaves["readout"], z_last, torch.tensor(y)) + kl + T / 2 * 0.7 * steps.dsnr[t] * squared
    compare(loss, grads, dW, total, leaves, w)


def test_the_chain_end_to_end_equals_autograd():
    block, readout, params, W, x, y, noise = setup()
    steps = chain(cosine_signal(T, 0.02, 0.9))
    grads, dW = {name: p.zeros_like() for name, p in params.items()}, np.zeros_like(W)
    loss = unrolled_loss(block, chain_stages(steps), readout, params, grads, W, dW, x, y, noise[0], noise[1:])
    leaves, w = theirs(params, W)
    z = torch.tensor(noise[0])
    for t in range(1, T + 1):
        mixed = steps.a[t] * uhat(leaves[f"block{t}"], w, torch.tensor(x), z) + steps.b[t] * z
        z = mixed + np.sqrt(steps.c[t]) * torch.tensor(noise[t])
    compare(loss, grads, dW, read(leaves["readout"], z, torch.tensor(y)), leaves, w)
