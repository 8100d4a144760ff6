"""What `refimpl bench steps` races: whole training steps of ordinary networks, forward, backward and optimiser.

Each step is the same network, batch and optimiser in both: ours composed from refimpl.nn, PyTorch's from torch.nn as
its users write it (eager, zero_grad, backward, step). PyTorch gets our weights, and each step returns its loss, so that
the race can compare them before it times anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refimpl import models, ops
from refimpl.nn import Layer, Params, initialise
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


def train_torch(torch: Any, make: Callable[[Any], Any], params: Params, x: np.ndarray, y: np.ndarray) -> Any:
    """The same in PyTorch; `make(torch)` is a module whose parameters come in the order of ours."""
    module = make(torch)
    windows = [params[name] for name in params.shapes]
    for theirs, mine in zip(module.parameters(), windows, strict=True):
        mine = mine.T if mine.ndim == 2 else mine  # a linear weight is (out, in) there
        theirs.data[...] = torch.from_numpy(np.ascontiguousarray(mine))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(inputs), labels)
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


_LENET_MACS = 32 * 32 * 16 * 27 + 16 * 16 * 32 * 144 + 2048 * 128 + 1280
_RESNET_MACS = 32 * 32 * 16 * (27 + 2 * 144) + 16 * 16 * 32 * (144 + 288 + 16) + 8 * 8 * 64 * (288 + 576 + 32) + 640


def steps() -> list[Step]:
    """The training steps of the race, batches of 32 and 128."""
    found = []
    for B in (32, 128):
        mlp = partial(models.mlp, 784, 10, (512, 512))
        found += [
            _classify("MLP 784-512-512-10", mlp, _torch_mlp, (784,), B, 784 * 512 + 512 * 512 + 5120),
            _classify("LeNet", partial(models.lenet, IMAGE, 10), _torch_lenet, IMAGE, B, _LENET_MACS),
            _classify("ResNet-8", partial(models.resnet, IMAGE, 10), _torch_resnet, IMAGE, B, _RESNET_MACS),
        ]
    return found
