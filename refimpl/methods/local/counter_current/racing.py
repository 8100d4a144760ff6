"""What `refimpl bench methods counter_current` races: one step of both networks in each variant, losses, gradients,
clipping and gradient descent included. The same steps in PyTorch are as its users would write them: detached inputs,
one loss, one backward pass, clip_grad_norm_, SGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.methods.local.counter_current.autoencoder import CounterCurrentAutoencoder
from refimpl.methods.local.counter_current.learner import CounterCurrent
from refimpl.methods.local.counter_current.losses import SURE, TINY
from refimpl.methods.local.counter_current.networks import mlp_pair, step_flops
from refimpl.nn import Params
from refimpl.record import Step

_B, _D, _WIDTH, _DEPTH, _K = 256, 784, 256, 5, 10
_CNN_B, _CNN_SHAPE, _CNN_CHANNELS = 128, (3, 32, 32), (32, 32, 64, 64, 128)
_CODER_B, _CODER_SHAPE, _CODER_CHANNELS = 32, (1, 32, 32), (16, 32, 64)


def race() -> list[Step]:
    """One step of each variant, as in the claims on MNIST and CIFAR-10, after the warm-up."""
    pair = mlp_pair(_D, _K, (_WIDTH,) * _DEPTH)
    shape = f"B={_B}, {_D}-{_WIDTH}x{_DEPTH}-{_K}"
    cnn = f"B={_CNN_B}, {_text(_CNN_SHAPE, 'x')}, {_text(_CNN_CHANNELS)}"
    coder = f"B={_CODER_B}, {_text(_CODER_SHAPE, 'x')}, {_text(_CODER_CHANNELS)} and back"
    return [
        Step("counter-current step", shape, "float32", _make_step, _make_torch_step, step_flops(pair, _B, _K)),
        Step("counter-current CNN step", cnn, "float32", _make_cnn_step, _make_torch_cnn_step),
        Step("counter-current autoencoder step", coder, "float32", _make_coder_step, _make_torch_coder_step),
    ]


def _text(numbers: tuple[int, ...], between: str = "-") -> str:
    return between.join(map(str, numbers))


def _batch(B: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((B, *shape), np.float32), np.arange(B) % _K


def _load(module: Any, torch: Any, params: Params, level: int) -> None:
    """Our weights of a level into a layer of PyTorch, whose linear layers have them the other way round."""
    mine = params[f"level{level}.weights.weight"]
    module.weight.data[...] = torch.from_numpy(np.ascontiguousarray(mine.T if mine.ndim == 2 else mine))
    if module.bias is not None:
        module.bias.data[...] = torch.from_numpy(params[f"level{level}.weights.bias"].copy())


def _descend(torch: Any, nets: Any, optimizers: Any, loss: Any, clip: float, centralised: bool) -> None:
    """One backward pass, and a step of each network."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for net in nets:
        if centralised:
            for p in net.parameters():
                if p.ndim > 1:
                    p.grad -= p.grad.mean(dim=tuple(range(1, p.ndim)), keepdim=True)
        torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()


# ---------------------------------------------------------------- matrices


def _learner() -> CounterCurrent:
    """Begun on the batch alone, as it stands (it is standard normal already)."""
    learner = CounterCurrent(hidden=(_WIDTH,) * _DEPTH, epochs=1, batch_size=_B, random_state=1)
    learner.begin(*_batch(_B, _D))
    return learner


def _make_step() -> Callable[[], float]:
    learner, (x, y) = _learner(), _batch(_B, _D)
    return lambda: learner._step(x, y).total


def _make_torch_step(torch: Any) -> Callable[[], float]:
    nn, F = torch.nn, torch.nn.functional
    mine = _learner()._params
    widths = [_D, *(_WIDTH,) * _DEPTH, _K]
    L = len(widths) - 1
    up = nn.ModuleList(nn.Linear(widths[i], widths[i + 1], bias=False) for i in range(L))
    down = nn.ModuleList(nn.Linear(widths[i + 1], widths[i], bias=False) for i in range(L))
    for name, modules in (("forward", up), ("feedback", down)):
        for level, module in enumerate(modules, 1):
            _load(module, torch, mine[name], level)
    optimizers = [torch.optim.SGD(net.parameters(), lr=1.0, fused=True) for net in (up, down)]
    x, y = map(torch.from_numpy, _batch(_B, _D))
    onehot, classes = F.one_hot(y, _K).float(), torch.eye(_K)

    def step() -> float:
        a = [x]
        for level, layer in enumerate(up, 1):
            z = layer(a[-1].detach())
            a.append(F.elu(z) if level < L else z)
        c = [classes]
        for level in range(L, 0, -1):
            q = down[level - 1](c[0].detach())
            c.insert(0, F.elu(q) if level > 1 else q)
        loss = F.cross_entropy(a[-1], y)
        for level in range(L):
            loss = loss + 128 / widths[level] * F.mse_loss(a[level] @ c[level].T, onehot)
        _descend(torch, (up, down), optimizers, loss, 1.0, centralised=False)
        return loss.item()

    return step


# ---------------------------------------------------------------- convolutions


def _cnn_learner() -> CounterCurrent:
    """The paper's settings for CIFAR-10 with the channels of the claim; begun on the batch alone."""
    changes: dict[str, Any] = {"warmup": 0, "schedule": "constant", "augment": False, "epochs": 1, "random_state": 1}
    learner = CounterCurrent.paper("cifar-10", "cnn_pool", channels=_CNN_CHANNELS, **changes)
    learner.begin(*_batch(_CNN_B, *_CNN_SHAPE))
    return learner


def _make_cnn_step() -> Callable[[], float]:
    learner, (x, y) = _cnn_learner(), _batch(_CNN_B, *_CNN_SHAPE)
    return lambda: learner._step(x, y).total


def _make_torch_cnn_step(torch: Any) -> Callable[[], float]:
    nn, F = torch.nn, torch.nn.functional
    learner = _cnn_learner()
    widths, L = [_CNN_SHAPE[0], *_CNN_CHANNELS], len(_CNN_CHANNELS) + 1
    top = learner._pair.shapes[-2]

    def conv(c_in: int, c_out: int) -> Any:
        return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)

    up = nn.ModuleList([conv(widths[i], widths[i + 1]) for i in range(L - 1)])
    up.append(nn.Linear(int(np.prod(top)), _K, bias=False))
    down = nn.ModuleList([conv(widths[i + 1], widths[i]) for i in range(L - 1)])
    down.append(nn.Linear(_K, int(np.prod(top)), bias=False))
    for name, modules in (("forward", up), ("feedback", down)):
        for level, module in enumerate(modules, 1):
            _load(module, torch, learner._params[name], level)
    rule = {"lr": learner.lr, "momentum": learner.momentum, "weight_decay": learner.weight_decay, "fused": True}
    optimizers = [torch.optim.SGD(net.parameters(), **rule) for net in (up, down)]
    x, y = map(torch.from_numpy, _batch(_CNN_B, *_CNN_SHAPE))
    onehot, samples, classes = F.one_hot(y, _K).float(), torch.eye(_CNN_B), torch.eye(_K)
    sC, sS = learner.sC, learner.sS

    def unit(a: Any) -> Any:
        return a / (a.norm(dim=1, keepdim=True) + TINY)

    def step() -> float:
        a = [x]
        for layer in up[:-1]:
            a.append(F.max_pool2d(F.elu(layer(a[-1].detach())), 2))
        logits = up[-1](a[-1].detach().flatten(1))
        c = [F.elu(down[-1](classes)).view(-1, *top)]
        for level in range(L - 1, 0, -1):
            q = down[level - 1](F.interpolate(c[0].detach(), scale_factor=2))
            c.insert(0, F.elu(q) if level > 1 else q)
        loss = F.cross_entropy(logits, y)
        sure = logits.detach().softmax(dim=1).gather(1, y[:, None]) > SURE
        for a_l, c_l in zip(a, c):
            ahat, chat = unit(a_l.flatten(1) * ~sure), unit(c_l.flatten(1))
            loss = loss + sC * F.mse_loss(ahat @ chat.T, onehot)
            loss = loss + sS * (F.mse_loss(ahat @ ahat.T, samples) + F.mse_loss(chat @ chat.T, classes))
        _descend(torch, (up, down), optimizers, loss, learner.clip, centralised=True)
        return loss.item()

    return step


# ---------------------------------------------------------------- autoencoder


def _coder() -> CounterCurrentAutoencoder:
    """At the start of a training so long that the rate does not fall within a race."""
    learner = CounterCurrentAutoencoder(_CODER_CHANNELS, epochs=10**6, warmup=0, random_state=1)
    learner.begin(_pictures())
    return learner


def _pictures() -> np.ndarray:
    return np.random.default_rng(0).random((_CODER_B, *_CODER_SHAPE), np.float32)


def _make_coder_step() -> Callable[[], float]:
    learner, x = _coder(), _pictures()
    return lambda: learner._step(x, x)["loss"]


def _make_torch_coder_step(torch: Any) -> Callable[[], float]:
    nn, F = torch.nn, torch.nn.functional
    learner = _coder()
    shapes = learner._pair.shapes
    L = len(shapes) - 1

    def layer(c_in: int, c_out: int, enlarge: bool, bare: bool) -> Any:
        before = [nn.Upsample(scale_factor=2)] if enlarge else []
        conv = nn.Conv2d(c_in, c_out, 3, 1 if enlarge else 2, 1, bias=bare)
        return nn.Sequential(*before, conv, *([] if bare else [nn.BatchNorm2d(c_out, affine=False), nn.ReLU()]))

    up, down = nn.ModuleList(), nn.ModuleList()
    for level in range(1, L + 1):
        below, above, enlarge = shapes[level - 1][0], shapes[level][0], level > L // 2
        up.append(layer(below, above, enlarge, level == L))
        down.append(layer(above, below, not enlarge, level == 1))
    for name, modules in (("forward", up), ("feedback", down)):
        for level, module in enumerate(modules, 1):
            conv = next(m for m in module if isinstance(m, nn.Conv2d))
            _load(conv, torch, learner._params[name], level)
    rule = {"lr": learner.lr, "momentum": learner.momentum, "weight_decay": learner.weight_decay, "fused": True}
    optimizers = [torch.optim.SGD(net.parameters(), **rule) for net in (up, down)]
    x = torch.from_numpy(_pictures())

    def unit(a: Any) -> Any:
        u = a - a.mean(dim=(2, 3), keepdim=True)
        return u / (u.flatten(2).norm(dim=2)[:, :, None, None] + TINY)

    def step() -> float:
        a, c = [x], [x]
        for level in range(L):
            a.append(up[level](a[-1].detach()))
            c.insert(0, down[L - 1 - level](c[0].detach()))
        loss = x.new_zeros(())
        for level, (a_l, c_l) in enumerate(zip(a, c)):
            own = learner.sC * F.mse_loss(a_l, c_l)
            if 0 < level < L:
                own = own + learner.sD * F.mse_loss(unit(a_l), unit(c_l))
            loss = loss + a_l.shape[2] * own
        _descend(torch, (up, down), optimizers, loss, learner.clip, centralised=True)
        return loss.item()

    return step
