"""What `refimpl run sltt`, `bench` and `trace` do: the experiment with its figure, the race, a step to read."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from refimpl import nn, record
from refimpl.baselines import BackpropClassifier
from refimpl.baselines.bptt import BPTTClassifier, bptt_gradient
from refimpl.baselines.ottt import OTTTClassifier
from refimpl.data import Data, load
from refimpl.data.sequences import Sequences
from refimpl.methods.spiking.sltt.gradients import sltt_gradient
from refimpl.methods.spiking.sltt.learner import SLTT
from refimpl.models.snn import Simulation, SpikingNet, spiking_mlp, spiking_vgg
from refimpl.models.spiking_classifier import StepLoss
from refimpl.nn import Params, initialise
from refimpl.nn.spiking import Memory
from refimpl.optim import SGD
from refimpl.record import Contender, Experiment, Step

# Settings of `refimpl run sltt --set name=value`.
SETTINGS: dict[str, Any] = {
    "model": "mlp",
    "hidden": (128, 128),
    "T": 6,
    "K": 2,
    "tau": 1.1,
    "epochs": 20,
    "batch_size": 128,
    "lr": 0.1,
}


def experiment(data: Data, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """SLTT and SLTT-K, back-propagation through time with and without the path through the reset, OTTT, and a network
    of the same widths with ReLU in place of spikes.

    Settings: model "mlp" (with hidden), "vgg", "resnet" or "nfnet"; T (event streams: their number of frames), K, tau;
    epochs, batch_size, lr; and quick. Raises ValueError for a setting that does not exist.
    """
    given = record.given("sltt", SETTINGS, settings)
    s = {**SETTINGS, **given}
    x_train = data.train[0]
    events = isinstance(data, Sequences)
    if events:
        if "T" in given and given["T"] != x_train.shape[1]:
            raise ValueError(f"sltt: T is {given['T']}, but {data.name} has {x_train.shape[1]} frames a sample")
        s["T"] = x_train.shape[1]
    epochs = s["epochs"] if not settings.get("quick") or "epochs" in given else 4
    training: dict[str, Any] = {"epochs": epochs, "batch_size": s["batch_size"], "lr": s["lr"], "random_state": seed}
    spiking: dict[str, Any] = {
        "model": s["model"],
        "hidden": s["hidden"],
        "T": s["T"],
        "tau": s["tau"],
        "coding": "events" if events else "direct",
        **training,
    }
    relu = BackpropClassifier(_relu(s, x_train.shape[1:], data), optimizer="momentum", schedule="cosine", **training)
    relu.set_params(weight_decay=0.0)
    contenders = [
        Contender("ReLU network", relu, "baseline"),
        Contender("BPTT", BPTTClassifier(**spiking), "baseline"),
        Contender("BPTT, reset detached", BPTTClassifier(detach_reset=True, **spiking), "baseline"),
        Contender("SLTT", SLTT(**spiking)),
        Contender(f"SLTT-{s['K']}", SLTT(K=s["K"], **spiking)),
    ]
    if s["model"] in ("mlp", "vgg"):
        contenders.insert(3, Contender("OTTT", OTTTClassifier(**spiking), "baseline"))
    return Experiment(contenders, data, lambda figure, results: draw(figure, results, data))


def _relu(s: Mapping[str, Any], shape: tuple[int, ...], data: Data) -> nn.Layer | str:
    """The same widths with batch norm and ReLU. It sees all frames of an event stream at once."""
    if s["model"] != "mlp":
        return "vgg" if s["model"] == "vgg" else "resnet"
    layers: list[nn.Layer] = [nn.Flatten()]
    d = int(np.prod(shape))
    for width in s["hidden"]:
        layers += [nn.Linear(d, width), nn.BatchNorm(width), nn.Activation("relu")]
        d = width
    return nn.Sequential(*layers, nn.Linear(d, int(data.train[1].max()) + 1))


# ---------------------------------------------------------------- memory and time of one step of training

Gradient = Callable[[Simulation, Params, np.ndarray, StepLoss], Any]
RULES: dict[str, tuple[Gradient, bool]] = {
    "SLTT": (sltt_gradient, True),
    "SLTT-2": (lambda simulation, grads, y, loss: sltt_gradient(simulation, grads, y, loss, (0, 1)), True),
    "BPTT": (bptt_gradient, False),
}


def step_costs(net: SpikingNet, x: np.ndarray, y: np.ndarray, T: int, rule: str, repeats: int = 3) -> dict[str, float]:
    """Seconds (the quickest of `repeats`) and peak bytes of the gradient of one batch, x shown at every step.

    Bytes are those of all arrays beyond parameters, gradients and the batch, at the worst moment, by Python's
    allocation tracer, to which NumPy reports every array.
    """
    gradient, online = RULES[rule]
    params = initialise(net, np.random.default_rng(0), x.dtype)
    grads, loss = params.zeros_like(), StepLoss()

    def run() -> None:
        memory = Memory(reuse=online)
        gradient(Simulation(net, params, x, T, train=True, memory=memory), grads, y, loss)

    run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        run()
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()
    return {"seconds": min(seconds), "peak_bytes": float(peak)}


# ---------------------------------------------------------------- the figure


def draw(figure: Any, results: list[dict[str, Any]], data: Data) -> None:
    """Memory and time against T, measured here; training; the accuracies."""
    from refimpl.viz import style

    figure.set_size_inches(2 * style.WIDTH * 0.85, 2 * style.HEIGHT)
    memory, seconds, training, bars = figure.subplots(2, 2).ravel()
    methods = [r["name"] for r in results if r["role"] == "method"]
    colours = {r["name"]: style.BASELINE for r in results} | {n: style.colour(i) for i, n in enumerate(methods)}
    _draw_costs(memory, seconds, data, next(r["learner"] for r in results if r["name"] == "SLTT"))
    _draw_training(training, results, colours)
    _draw_bars(bars, results, colours)


def _draw_costs(memory: Any, seconds: Any, data: Data, learner: SLTT) -> None:
    from refimpl.viz import style

    x, y = data.train[0][:128], np.searchsorted(learner.classes_, data.train[1][:128])
    if learner.coding == "events":
        x = np.ascontiguousarray(x[:, 0])
    steps = (2, 4, 8, 16, 32)
    for i, rule in enumerate(RULES):
        costs = [step_costs(learner._net, x, y, T, rule) for T in steps]
        colour = style.BASELINE if rule == "BPTT" else style.colour(i)
        look: dict[str, Any] = {"marker": "o", "color": colour, "label": rule}
        memory.plot(steps, [c["peak_bytes"] / 2**20 for c in costs], style.DASHES[i], **look)
        seconds.plot(steps, [1e3 * c["seconds"] for c in costs], style.DASHES[i], **look)
    for ax, title, label in (
        (memory, "Memory of one step of training", "peak / MiB"),
        (seconds, "Time of one step of training", "forward and backward / ms"),
    ):
        ax.set(title=title, xlabel="time steps T", ylabel=label, xscale="log")
        ax.set_ylim(bottom=0)
        ax.set_xticks(steps, [str(T) for T in steps])
        ax.minorticks_off()
        ax.legend()


def _draw_training(ax: Any, results: list[dict[str, Any]], colours: Mapping[str, str]) -> None:
    from refimpl.viz import style

    spiking = [r for r in results if r["history"] and "accuracy" in r["history"][0]]
    for i, r in enumerate(spiking):
        curve = [1 - m["accuracy"] for m in r["history"]]
        look = {"color": colours[r["name"]], "linewidth": 1.4, "label": r["name"]}
        ax.plot(range(1, len(curve) + 1), curve, style.DASHES[i % len(style.DASHES)], **look)
    ax.set(title="Training", xlabel="epoch", ylabel="training error")
    ax.set_ylim(bottom=0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.percent_axis(ax.yaxis)
    ax.legend()


def _draw_bars(ax: Any, results: list[dict[str, Any]], colours: Mapping[str, str]) -> None:
    from refimpl.viz import style

    names = [r["name"] for r in results][::-1]
    values = [r["score"] for r in results][::-1]
    ax.barh(names, values, color=[colours[n] for n in names], height=0.65)
    for i, v in enumerate(values):
        place = {"xytext": (-4, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        ax.annotate(f"{100 * v:.1f} %", (v, i), color=style.on(colours[names[i]]), **place)
    ax.set(title="Test accuracy", xlim=(0, 1))
    ax.grid(axis="y", visible=False)
    style.percent_axis(ax.xaxis)


# ---------------------------------------------------------------- the race

_T, _K = 6, 10
_IMAGES, _PLAN = (32, 1, 28, 28), (16, 32)  # batch of the convolutional network, its widths
_B, _D, _HIDDEN = 128, 784, (128, 128)


def race() -> list[Step]:
    """One SLTT training step (T steps forward, each with its backward pass; SGD): a small VGG, and the MLP of the
    claims."""
    first, second = _HIDDEN
    inside = first * second + second * _K
    # the encoder once forward and once for its gradient; in every step the others forward and twice backward
    mlp = 2.0 * _B * (2 * _D * first + 3 * _T * inside)
    B, C, H, W = _IMAGES
    a, b = _PLAN
    pixels = H * W
    vgg = 2.0 * B * (2 * 9 * C * a * pixels + 3 * _T * (9 * a * b * pixels // 4 + b * pixels // 16 * _K))
    return [
        Step(
            "SLTT step, VGG", f"B={B}, {H}x{W}, {a}C3-P2-{b}C3-P2, T={_T}", "float32", _make_vgg, _make_torch_vgg, vgg
        ),
        Step(
            "SLTT step, MLP", f"B={_B}, {_D}-{first}-{second}-{_K}, T={_T}", "float32", _make_mlp, _make_torch_mlp, mlp
        ),
    ]


def _batch(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random(shape, np.float32), rng.integers(0, _K, shape[0])


def _make(net: SpikingNet, x: np.ndarray, y: np.ndarray) -> Any:
    params = initialise(net, np.random.default_rng(1))
    grads, optimizer, loss = params.zeros_like(), SGD(0.1, momentum=0.9), StepLoss()
    state, memory = optimizer.init(params), Memory(reuse=True)

    def step() -> float:
        grads.flat[...] = 0
        value, _ = sltt_gradient(Simulation(net, params, x, _T, train=True, memory=memory), grads, y, loss)
        optimizer.step(params, grads, state)
        return value

    return step


def _make_vgg() -> Any:
    a, b = _PLAN
    return _make(spiking_vgg(_IMAGES[1:], _K, plan=(a, "pool", b, "pool")), *_batch(_IMAGES))


def _make_mlp() -> Any:
    return _make(spiking_mlp((_D,), _K, hidden=_HIDDEN), *_batch((_B, _D)))


def _make_torch(torch: Any, encoder: Any, blocks: list[tuple[Any, Any, Any]], readout: Any, batch: Any) -> Any:
    """The same in PyTorch, eager: one `backward` a step with a detached membrane, gradients add up. The first layer of
    weights, which sees the same image in every step, runs once, as it does here. A block is its weights (None for the
    first, whose weights are the encoder), its batch norm and its pooling."""
    F = torch.nn.functional

    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            ctx.save_for_backward(z)
            return (z >= 0).to(z.dtype)

        @staticmethod
        def backward(ctx, d):
            (z,) = ctx.saved_tensors
            return d * torch.relu(1 - z.abs())

    leak, a = 1 - 1 / 1.1, 0.05
    modules = torch.nn.ModuleList([encoder, readout, *(part for block in blocks for part in block if part is not None)])
    optimizer = torch.optim.SGD(modules.parameters(), lr=0.1, momentum=0.9, foreach=True)
    x, y = map(torch.from_numpy, batch)

    def step() -> float:
        optimizer.zero_grad()
        states: list[Any] = [None] * len(blocks)
        current = encoder(x)
        shown = current.detach().requires_grad_()
        total = 0.0
        for _ in range(_T):
            s = shown
            for i, (weights, norm, pool) in enumerate(blocks):
                u = norm(s if weights is None else weights(s))
                if states[i] is not None:
                    u = u + leak * states[i]
                s = Spike.apply(u - 1)
                states[i] = (u - s).detach()
                s = pool(s)
            o = readout(s.flatten(1))
            loss = ((1 - a) * F.cross_entropy(o, y) + a * F.mse_loss(o, torch.ones_like(o))) / _T
            loss.backward()
            total += loss.item()
        current.backward(shown.grad)
        optimizer.step()
        return total

    return step


def _make_torch_vgg(torch: Any) -> Any:
    tnn = torch.nn
    torch.manual_seed(1)
    a, b = _PLAN
    _, c, h, w = _IMAGES
    first = None, tnn.BatchNorm2d(a), tnn.AvgPool2d(2)
    second = tnn.Conv2d(a, b, 3, padding=1, bias=False), tnn.BatchNorm2d(b), tnn.AvgPool2d(2)
    readout = tnn.Linear(b * (h // 4) * (w // 4), _K)
    return _make_torch(torch, tnn.Conv2d(c, a, 3, padding=1, bias=False), [first, second], readout, _batch(_IMAGES))


def _make_torch_mlp(torch: Any) -> Any:
    tnn = torch.nn
    torch.manual_seed(1)
    first, second = _HIDDEN
    blocks = [
        (None, tnn.BatchNorm1d(first), tnn.Identity()),
        (tnn.Linear(first, second, bias=False), tnn.BatchNorm1d(second), tnn.Identity()),
    ]
    return _make_torch(torch, tnn.Linear(_D, first, bias=False), blocks, tnn.Linear(second, _K), _batch((_B, _D)))


# ---------------------------------------------------------------- a step to read


def teach() -> list[Step]:
    """One training step by SLTT, by SLTT-K and by back-propagation through time, small enough to read: four digits,
    three time steps, eight hidden neurons, double precision. The network has seen a few hundred digits before."""
    shape = "B=4, 64-8-10, T=3"
    rules: dict[str, Gradient] = {
        "SLTT: a step": sltt_gradient,
        "SLTT-1: a step with one of three backward passes": partial(sltt_gradient, steps=(1,)),
        "back-propagation through time: a step": bptt_gradient,
    }
    return [Step(name, shape, "float64", partial(_small_step, gradient)) for name, gradient in rules.items()]


def _small_step(gradient: Gradient) -> Callable[[], float]:
    digits, net = load("digits"), spiking_mlp((64,), _K, hidden=(8,))
    params = initialise(net, np.random.default_rng(1), np.float64)
    grads, optimizer, loss = params.zeros_like(), SGD(0.1, momentum=0.9), StepLoss()
    state = optimizer.init(params)

    def step(gradient: Gradient, rows: np.ndarray) -> float:
        x, y = digits.x_train[rows].reshape(len(rows), -1).astype(np.float64), digits.y_train[rows]
        memory = Memory(reuse=gradient is not bptt_gradient)
        grads.flat[...] = 0
        value, _ = gradient(Simulation(net, params, x, 3, train=True, memory=memory), grads, y, loss)
        optimizer.step(params, grads, state)
        return value

    rng = np.random.default_rng(0)
    for _ in range(20):
        step(sltt_gradient, rng.choice(len(digits.x_train), 32, replace=False))
    shown = np.array([np.flatnonzero(digits.y_train == k)[0] for k in (0, 3, 6, 9)])
    return lambda: step(gradient, shown)
