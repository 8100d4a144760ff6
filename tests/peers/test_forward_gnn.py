"""The training steps of ForwardGNN against PyTorch: from the same weights to the same losses, and equal gradients."""

import numpy as np
import pytest

import refimpl
from refimpl.methods.graph.forward_gnn import goodness_loss, link_goodness_loss, race, single_forward_loss
from refimpl.nn import initialise
from refimpl.nn.graph import GATConv, GCNConv, SAGEConv, Sparse
from tests.harness import relative_error

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("entry", race(), ids=lambda entry: entry.name)
def test_a_training_step_is_the_same_in_pytorch(entry):
    with refimpl.backend("native"):
        mine = entry.make()
        losses = [mine() for _ in range(5)]
    theirs = entry.make_torch(torch)
    assert losses == pytest.approx([theirs() for _ in range(5)], rel=1e-4)
    assert losses[-1] < losses[0]


def leaf(a):
    return torch.tensor(a, requires_grad=True)


@pytest.mark.parametrize("make", [GCNConv, SAGEConv, GATConv])
def test_a_layer_equals_autograd(make):
    """The layers as dense formulas of the adjacency matrix."""
    rng = np.random.default_rng(0)
    A = Sparse.from_edges(9, rng.integers(0, 9, (14, 2)))
    layer = make(5, 8)
    params = initialise(layer, rng, np.float64)
    params.flat[...] = rng.standard_normal(params.size)
    x, dy = rng.standard_normal((9, 5)), rng.standard_normal((9, 8))
    grads = params.zeros_like()
    y, saved = layer.forward(params, (layer.operator(A, np.float64), x))
    dx = layer.backward(params, grads, saved, dy.copy())

    p, X, dense = {name: leaf(a) for name, a in params.items()}, leaf(x), torch.tensor(A.dense())
    if make is GCNConv:
        loops = dense + torch.eye(9, dtype=dense.dtype)
        root = loops.sum(1).rsqrt()
        theirs = (root[:, None] * loops * root) @ X @ p["weight"] + p["bias"]
    elif make is SAGEConv:
        mean = dense / dense.sum(1, keepdim=True).clamp(min=1)
        theirs = mean @ X @ p["neighbour"] + X @ p["own"] + p["bias"]
    else:
        h = (X @ p["weight"]).view(9, 4, 2)
        u = ((h * p["source"]).sum(2)[None] + (h * p["target"]).sum(2)[:, None]).permute(2, 0, 1)
        off = (dense + torch.eye(9, dtype=dense.dtype)) == 0
        alpha = torch.softmax(torch.nn.functional.leaky_relu(u, 0.2).masked_fill(off, -torch.inf), dim=2)
        theirs = (alpha @ h.permute(1, 0, 2)).permute(1, 0, 2).reshape(9, 8) + p["bias"]
    assert np.allclose(y, theirs.detach().numpy(), atol=1e-12)
    (theirs * torch.tensor(dy)).sum().backward()
    assert relative_error(dx, X.grad.numpy()) < 1e-11
    for name, a in grads.items():
        assert relative_error(a, p[name].grad.numpy()) < 1e-11


def test_the_losses_equal_autograd():
    rng = np.random.default_rng(1)
    z, virtual, y = rng.standard_normal((6, 4)), rng.standard_normal((3, 4)), rng.integers(0, 3, 6)
    a, b = leaf(z), leaf(virtual)
    loss, dz, dvirtual = single_forward_loss(z, virtual, y, 0.7)
    theirs = torch.nn.functional.cross_entropy(a @ b.T / 0.7, torch.tensor(y))
    theirs.backward()
    assert np.isclose(loss, theirs.item()) and np.allclose(dz, a.grad) and np.allclose(dvirtual, b.grad)
    for positive in (True, False):
        a = leaf(z)
        distance = (a * a).sum(1) - 2.0
        theirs = 0.3 * torch.nn.functional.softplus(-distance if positive else distance).mean()
        theirs.backward()
        loss, dz = goodness_loss(z, positive, 2.0, 0.3)
        assert np.isclose(loss, theirs.item()) and np.allclose(dz, a.grad)
    joined = np.array([1, 0, 1, 0, 0, 0])
    a, b = leaf(z), leaf(rng.standard_normal((6, 4)))
    logit = ((a * b) ** 2).sum(1) - 2.0
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    theirs = bce(logit[joined == 1], torch.ones(2, dtype=logit.dtype)) + bce(
        logit[joined == 0], torch.zeros(4, dtype=logit.dtype)
    )
    theirs.backward()
    loss, du, dv = link_goodness_loss(z, b.detach().numpy(), joined, 2.0)
    assert np.isclose(loss, theirs.item()) and np.allclose(du, a.grad) and np.allclose(dv, b.grad)
