"""What `refimpl bench steps` races: whole training steps of ordinary networks, forward, backward and optimiser.

Each step is the same network, batch and optimiser in both: ours composed from refimpl.nn, PyTorch's from torch.nn as
its users write it (eager, zero_grad, backward, step). PyTorch gets our weights, and each step returns its loss, so that
the race can compare them before it times anything.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refimpl import models, ops
from refimpl.models.gnn import gnn, node_step
from refimpl.models.gpt import next_token_loss
from refimpl.nn import Layer, Params, initialise
from refimpl.nn.graph import Sparse
from refimpl.optim import Adam
from refimpl.record import Step

__all__ = ["steps", "train"]

Shape = tuple[int, ...]
IMAGE = (3, 32, 32)


def train(net: Layer, x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    """A function that does one step of Adam on the mean cross-entropy of a batch, and returns the loss before it."""
    params = initialise(net, np.random.default_rng(1))
    grads, optimizer = params.zeros_like(), Adam(1e-3)
    state = optimizer.init(params)

    def step() -> float:
        logits, saved = net.forward(params, x, train=True)
        loss, p = ops.cross_entropy(logits, y)
        grads.flat[...] = 0
        net.backward(params, grads, saved, ops.cross_entropy_backward(p, y), need_dx=False)
        optimizer.step(params, grads, state)
        return float(loss)

    return step


def train_torch(
    torch: Any,
    make: Callable[[Any], Any],
    params: Params,
    x: np.ndarray,
    y: np.ndarray,
    rows: np.ndarray | None = None,
    tables: tuple[str, ...] = (),
) -> Any:
    """The same in PyTorch; `make(torch)` is a module whose parameters come in the order of ours. `rows`: those of the
    output that count. `tables` names parameters with two axes that are no weights of a linear layer."""
    module = make(torch)
    for theirs, name in zip(module.parameters(), params.shapes, strict=True):
        mine = params[name].T if params[name].ndim == 2 and name not in tables else params[name]  # (out, in) there
        theirs.data[...] = torch.from_numpy(np.ascontiguousarray(mine))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y if rows is None else y[rows])
    chosen = None if rows is None else torch.from_numpy(rows)

    def step() -> float:
        optimizer.zero_grad()
        out = module(inputs) if chosen is None else module(inputs)[chosen]
        loss = torch.nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), labels.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _classify(
    name: str, net: Callable[[], Layer], make: Callable[[Any], Any], shape: Shape, B: int, macs: float
) -> Step:
    """A step on B made-up samples of `shape` in 10 classes. `macs` are the multiplications of one sample's forward
    pass; a step does three times as many (all layers but the first need the gradient of their input)."""

    def batch() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        return rng.standard_normal((B, *shape), np.float32), rng.integers(0, 10, B)

    def make_torch(torch: Any) -> Any:
        return train_torch(torch, make, initialise(net(), np.random.default_rng(1)), *batch())

    text = f"B={B}, {'x'.join(map(str, shape))}"
    return Step(name, text, "float32", lambda: train(net(), *batch()), make_torch, 6.0 * B * macs)


# ---------------------------------------------------------------- the networks in PyTorch


def _torch_mlp(torch: Any) -> Any:
    nn = torch.nn
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def _torch_lenet(torch: Any) -> Any:
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def _torch_resnet(torch: Any) -> Any:
    nn = torch.nn

    def conv_bn(c_in: int, c_out: int, stride: int = 1, size: int = 3) -> list[Any]:
        return [nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(c_out)]

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, c_in: int, c_out: int, stride: int):
            super().__init__()
            self.body = nn.Sequential(*conv_bn(c_in, c_out, stride), nn.ReLU(), *conv_bn(c_out, c_out))
            self.shortcut = nn.Sequential(*conv_bn(c_in, c_out, stride, 1)) if stride != 1 or c_in != c_out else None

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))

    blocks = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*conv_bn(3, 16), nn.ReLU(), *blocks, *pool, nn.Linear(64, 10))


def _torch_gpt(torch: Any) -> Any:
    """GPT-2's layers as PyTorch has them: fused projections, its own causal attention."""
    nn, f = torch.nn, torch.nn.functional
    d, heads = _GPT.d, _GPT.heads

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self):
            super().__init__()
            self.norm1, self.qkv, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
            self.norm2, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

        def forward(self, x: Any) -> Any:
            B, T, _ = x.shape
            q, k, v = (a.view(B, T, heads, d // heads).transpose(1, 2) for a in self.qkv(self.norm1(x)).split(d, 2))
            o = f.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(o.transpose(1, 2).reshape(B, T, d))
            return x + self.down(f.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Net(nn.Module):  # type: ignore[name-defined]
        def __init__(self):
            super().__init__()
            self.embed, self.position = nn.Embedding(_GPT.vocabulary, d), nn.Embedding(_GPT.context, d)
            self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(_GPT.layers))), nn.LayerNorm(d)

        def forward(self, tokens: Any) -> Any:
            x = self.embed(tokens) + self.position(torch.arange(tokens.shape[1]))
            return f.linear(self.norm(self.blocks(x)), self.embed.weight)

    return Net()


def _torch_gcn(torch: Any, operator: Any) -> Any:
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[name-defined]
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(_GCN))

        def forward(self, x: Any) -> Any:
            for i, layer in enumerate(self.layers):
                x = torch.sparse.mm(operator, x @ layer.weight.T) + layer.bias
                x = torch.relu(x) if i < len(self.layers) - 1 else x
            return x

    return Net()


_LENET_MACS = 32 * 32 * 16 * 27 + 16 * 16 * 32 * 144 + 2048 * 128 + 1280
_RESNET_MACS = 32 * 32 * 16 * (27 + 2 * 144) + 16 * 16 * 32 * (144 + 288 + 16) + 8 * 8 * 64 * (288 + 576 + 32) + 640


_GPT = models.GPT(256, layers=4, d=256, heads=8, context=256, positions="learned", norm="layer", mlp="gelu", bias=True)
_GCN = (1433, 128, 128, 7)


def _gpt_step(B: int) -> Step:
    """Next-token prediction on B texts of 256 bytes."""
    T, d = _GPT.context, _GPT.d

    def batch() -> tuple[np.ndarray, np.ndarray]:
        tokens = np.random.default_rng(0).integers(0, _GPT.vocabulary, (B, T + 1))
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])

    def make() -> Callable[[], float]:
        x, y = batch()
        params = initialise(_GPT, np.random.default_rng(1))
        grads, optimizer = params.zeros_like(), Adam(1e-3)
        state = optimizer.init(params)

        def step() -> float:
            grads.flat[...] = 0
            loss = next_token_loss(_GPT, params, grads, x, y)
            optimizer.step(params, grads, state)
            return loss

        return step

    def make_torch(torch: Any) -> Any:
        params = initialise(_GPT, np.random.default_rng(1))
        return train_torch(torch, _torch_gpt, params, *batch(), tables=("embed.table", "position.table"))

    # each weight of a layer once a token; queries with the keys before them, and their sum of values; the head
    macs = _GPT.layers * (12 * d * d + T * d) * T + T * d * _GPT.vocabulary
    return Step("GPT, 4 layers of 256", f"B={B}, T={T}", "float32", make, make_torch, 6.0 * B * macs)


def _gcn_step() -> Step:
    """Node classification on a random graph with as many nodes, edges, features and labelled nodes as Cora."""
    N, E, labelled = 2708, 5278, 140
    net = gnn("gcn", _GCN)

    def graph() -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        x = (rng.random((N, _GCN[0])) < 18 / _GCN[0]).astype(np.float32)
        edges = rng.integers(0, N, (E, 2))
        return net.operator(Sparse.from_edges(N, edges)), x, rng.integers(0, _GCN[-1], N), np.arange(labelled)

    def make() -> Callable[[], float]:
        operator, x, y, rows = graph()
        params = initialise(net, np.random.default_rng(1))
        grads, optimizer = params.zeros_like(), Adam(1e-3)
        state = optimizer.init(params)

        def step() -> float:
            grads.flat[...] = 0
            loss = node_step(net, params, grads, operator, x, y, rows)
            optimizer.step(params, grads, state)
            return loss

        return step

    def make_torch(torch: Any) -> Any:
        operator, x, y, rows = graph()
        parts = (torch.from_numpy(a) for a in (operator.indptr, operator.indices, operator.values))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls this layout a beta version
            sparse = torch.sparse_csr_tensor(*parts, operator.shape, check_invariants=True)
        params = initialise(net, np.random.default_rng(1))
        return train_torch(torch, lambda torch: _torch_gcn(torch, sparse), params, x, y, rows=rows)

    entries = 2 * E + N
    macs = sum(N * a * b + entries * b for a, b in itertools.pairwise(_GCN))
    return Step("GCN, 3 layers", f"N={N}, E={E}, {'-'.join(map(str, _GCN))}", "float32", make, make_torch, 6.0 * macs)


def steps() -> list[Step]:
    """The training steps of the race, batches of 32 and 128 (the graph is one batch)."""
    found = []
    for B in (32, 128):
        mlp = partial(models.mlp, 784, 10, (512, 512))
        found += [
            _classify("MLP 784-512-512-10", mlp, _torch_mlp, (784,), B, 784 * 512 + 512 * 512 + 5120),
            _classify("LeNet", partial(models.lenet, IMAGE, 10), _torch_lenet, IMAGE, B, _LENET_MACS),
            _classify("ResNet-8", partial(models.resnet, IMAGE, 10), _torch_resnet, IMAGE, B, _RESNET_MACS),
            _gpt_step(B),
        ]
    return [*found, _gcn_step()]
