"""What the paper says, measured. The thresholds are those of the paper's card, written down before the first run.

MNIST is 4,000 training and 2,000 test images, as the card asks; digits are all there are, with as many more epochs as
give the same number of steps. Networks 784 (or 64)-128-128-10 with batch norm, T = 6, tau = 1.1, SGD 0.1 with momentum
and a cosine to 0 over 8 epochs, batches of 128, unless a claim says otherwise.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refimpl.baselines.bptt import BPTTClassifier, bptt_gradient
from refimpl.data import Dataset
from refimpl.methods.spiking.sltt.gradients import draw_steps, sltt_gradient
from refimpl.methods.spiking.sltt.learner import SLTT
from refimpl.models.snn import Simulation, SpikingNet, spiking_mlp
from refimpl.models.spiking_classifier import StepLoss
from refimpl.nn import Params, initialise
from refimpl.nn.spiking import BatchNormLIF, Memory, Neuron, SpikeLinear, Steps, cached_bytes
from refimpl.record import Setting, claim
from refimpl.viz.bars import seed_bars

N_TRAIN, N_TEST, BATCH, EPOCHS = 4000, 2000, 128, 8
Values = list[Mapping[str, Any]]


# ---------------------------------------------------------------- shared


def _data(setting: Setting) -> Dataset:
    data = setting.data
    assert data is not None, "this claim names data sets"
    if setting.quick:
        return data.subset(min(400, len(data.x_train)), min(200, len(data.x_test)), seed=setting.seed)
    if setting.data_name == "digits":
        return data
    return data.subset(N_TRAIN, N_TEST, seed=setting.seed)


def _epochs(card: int, data: Dataset, quick: bool) -> int:
    """Epochs with as many steps as `card` epochs of 4,000 images."""
    if quick:
        return 2
    steps = card * math.ceil(N_TRAIN / BATCH)
    return round(steps / math.ceil(len(data.x_train) / BATCH))


def _accuracy(learner: Any, data: Dataset, setting: Setting, what: str) -> float:
    """Test accuracy after training, telling how far it is."""
    learner.begin(data.x_train, data.y_train)
    while learner.progress_ < learner.total_:
        learner.advance()
        setting.tell(f"{what} {100 * learner.progress_ // learner.total_} %")
    learner.finish()
    return learner.score(data.x_test, data.y_test)


def _mean(values: Values, name: str) -> float:
    return float(np.mean([v[name] for v in values]))


def _percent(values: Values, name: str) -> str:
    """Mean and spread over the seeds."""
    each = [100 * v[name] for v in values]
    return f"{np.mean(each):.1f} ± {np.std(each, ddof=1):.1f} %" if len(each) > 1 else f"{each[0]:.1f} %"


# ---------------------------------------------------------------- 1: accuracy


def _judge_parity(values: Values) -> tuple[bool, str]:
    gap = abs(_mean(values, "sltt") - _mean(values, "bptt"))
    note = f"SLTT {_percent(values, 'sltt')}, BPTT {_percent(values, 'bptt')}, apart by {100 * gap:.2f} points; "
    note += f"BPTT with the reset detached {_percent(values, 'bptt_detached')}"
    return gap <= 0.015, note


@claim(
    "sltt",
    "accuracy-parity",
    "Without the path through time the network classifies as well as with it.",
    "|accuracy(SLTT) - accuracy(BPTT)| <= 1.5 points, means over the seeds",
    _judge_parity,
    data=("digits", "mnist"),
    draw=lambda figure, values: seed_bars(
        figure.subplots(),
        values,
        {"sltt": "SLTT", "bptt": "BPTT", "bptt_detached": "BPTT, reset detached"},
        ("bptt", "bptt_detached"),
    ),
)
def accuracy_parity(setting: Setting) -> dict[str, float]:
    data = _data(setting)
    common: dict[str, Any] = {
        "epochs": _epochs(EPOCHS, data, setting.quick),
        "batch_size": BATCH,
        "random_state": setting.seed,
    }
    learners = {
        "sltt": SLTT(**common),
        "bptt": BPTTClassifier(**common),
        "bptt_detached": BPTTClassifier(detach_reset=True, **common),
    }
    return {name: _accuracy(learner, data, setting, name) for name, learner in learners.items()}


# ---------------------------------------------------------------- 2: the two gradients point the same way

LEAKS = (1 - 1 / 1.1, 0.2, 0.5, 0.8, 1.0)


def _judge_alignment(values: Values) -> tuple[bool, str]:
    training = np.array([v["training"] for v in values])
    curve = np.mean([v["cosine"] for v in values], axis=0)
    falling = bool((np.diff(curve) < 0).all())
    note = f"tau = 1.1: at the start {training[:, 0].mean():.4f}, least during training {training.min():.4f}; by leak "
    note += ", ".join(f"{leak:.2g}: {c:.3f}" for leak, c in zip(LEAKS, curve))
    return bool(training.min() >= 0.99) and falling, note


def _draw_alignment(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    left, right = figure.subplots(1, 2)
    curves = np.array([v["cosine"] for v in values])
    left.plot(LEAKS, curves.mean(axis=0), marker="o", color=style.colour(0))
    left.fill_between(LEAKS, curves.min(axis=0), curves.max(axis=0), color=style.colour(0), alpha=0.2, linewidth=0)
    left.set(title="At the start", xlabel="leak", ylabel="cosine of SLTT and BPTT")
    curves = np.array([v["training"] for v in values])
    epochs = np.arange(curves.shape[1])
    right.plot(epochs, curves.mean(axis=0), marker="o", color=style.colour(1))
    right.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=style.colour(1), alpha=0.2, linewidth=0)
    right.axhline(0.99, color=style.MUTED, linewidth=1, linestyle=":")
    right.set(title="In training, tau = 1.1", xlabel="epoch", ylabel="cosine")


def cosine(net: SpikingNet, params: Params, x: np.ndarray, y: np.ndarray, T: int) -> float:
    """Of SLTT's gradient with that of BPTT, over all parameters; running statistics stay as they are."""
    both = []
    for gradient in (sltt_gradient, bptt_gradient):
        own, grads = params.copy(), params.zeros_like()
        gradient(Simulation(net, own, x, T, train=True), grads, y, StepLoss())
        both.append(grads.flat.astype(np.float64))
    a, b = both
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


@claim(
    "sltt",
    "alignment",
    "The path through time adds next to nothing to the gradient, the less the smaller the leak (T = 10, three hidden "
    "layers).",
    "cosine of the two gradients over all parameters >= 0.99 at tau = 1.1, at the start and in training (every seed); "
    "strictly decreasing in the leak (mean over the seeds)",
    _judge_alignment,
    data=("digits", "mnist"),
    draw=_draw_alignment,
)
def alignment(setting: Setting) -> dict[str, list[float]]:
    data, T, hidden = _data(setting), 10, (128, 128, 128)
    x, y = data.x_train[:BATCH], data.y_train[:BATCH]

    def at_start(leak: float) -> float:
        net = spiking_mlp(data.shape, data.n_classes, Neuron(leak), hidden)
        return cosine(net, initialise(net, np.random.default_rng(setting.seed)), x, y, T)

    curve = [at_start(leak) for leak in LEAKS]
    epochs = _epochs(EPOCHS, data, setting.quick)
    learner = SLTT(hidden=hidden, T=T, epochs=epochs, batch_size=BATCH, random_state=setting.seed)
    learner.begin(data.x_train, data.y_train)
    training = [cosine(learner._net, learner._params["net"], x, y, T)]
    while learner.progress_ < learner.total_:
        learner.advance()
        training.append(cosine(learner._net, learner._params["net"], x, y, T))
        setting.tell(f"training {100 * learner.progress_ // learner.total_} %")
    return {"cosine": curve, "training": training}


# ---------------------------------------------------------------- 3: memory

STEPS = (1, 2, 4, 8, 16, 32)


def _judge_memory(values: Values) -> tuple[bool, str]:
    at = {T: i for i, T in enumerate(STEPS)}
    ratio = {name: max(v[name][at[32]] / v[name][at[4]] for v in values) for name in ("sltt", "bptt")}
    least = min(v["bptt"][at[32]] / v["bptt"][at[4]] for v in values)
    kept = ", ".join(f"{name.upper()} {values[0][name][at[32]] / 2**10:.0f} KiB" for name in ("sltt", "bptt"))
    note = f"T = 32 over T = 4: SLTT {ratio['sltt']:.3f}, BPTT {ratio['bptt']:.3f}; kept at T = 32: {kept}"
    return ratio["sltt"] <= 1.01 and 7.92 <= least and ratio["bptt"] <= 8.08, note


def _draw_memory(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    for i, (name, label) in enumerate((("sltt", "SLTT"), ("bptt", "BPTT"))):
        mebibytes = np.mean([v[name] for v in values], axis=0) / 2**20
        colour = style.BASELINE if name == "bptt" else style.colour(0)
        ax.plot(STEPS, mebibytes, style.DASHES[i], marker="o", color=colour, label=label)
    ax.set(xscale="log", yscale="log", xlabel="time steps T", ylabel="arrays kept for the backward pass / MiB")
    ax.set_xticks(STEPS, [str(T) for T in STEPS])
    ax.minorticks_off()
    ax.legend()


@claim(
    "sltt",
    "memory",
    "SLTT keeps one time step for its backward pass, whatever T; BPTT keeps all (a frame of its own for every step).",
    "bytes kept at T = 32 over those at T = 4, counted exactly: SLTT <= 1.01, BPTT = 8 within 1 %",
    _judge_memory,
    data=("digits", "mnist"),
    draw=_draw_memory,
    quick_judged=True,
)
def memory(setting: Setting) -> dict[str, list[int]]:
    data = _data(setting)
    net = spiking_mlp(data.shape, data.n_classes)
    params = initialise(net, np.random.default_rng(setting.seed))
    x, y = data.x_train[:BATCH], data.y_train[:BATCH]
    found: dict[str, list[int]] = {"sltt": [], "bptt": []}
    for T in STEPS:
        setting.tell(f"T = {T}")
        stream = np.repeat(x[:, None], T, axis=1)
        for name, gradient in (("sltt", sltt_gradient), ("bptt", bptt_gradient)):
            kept: list[Any] = []
            memory = Memory(reuse=name == "sltt")
            simulation = Simulation(net, params, stream, T, "events", train=True, memory=memory)
            gradient(simulation, params.zeros_like(), y, StepLoss(), kept=kept)
            found[name].append(cached_bytes(kept))
    return found


# ---------------------------------------------------------------- 4: work


def _judge_work(values: Values) -> tuple[bool, str]:
    L = values[0]["layers"]
    right = all(
        n == 2 * L * T and n2 == 2 * L * 2
        for v in values
        for T, n, n2 in zip(v["T"], v["products_sltt"], v["products_sltt_2"])
    )
    ratio = max(v["seconds_sltt_2"] / v["seconds_sltt"] for v in values)
    note = f"products at T = {', '.join(map(str, values[0]['T']))}: SLTT {values[0]['products_sltt']}, SLTT-2 "
    note += f"{values[0]['products_sltt_2']}; backward time of SLTT-2 at T = 24: at most {ratio:.2f} of SLTT's. "
    note += "In training the gradient of the input is not asked for, which saves one of the 2 L products of a step"
    return right and ratio <= 0.4, note


def _draw_work(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    for i, (name, label) in enumerate((("products_sltt", "SLTT"), ("products_sltt_2", "SLTT-2"))):
        ax.plot(values[0]["T"], values[0][name], style.DASHES[i], marker="o", color=style.colour(i), label=label)
    ax.set(xlabel="time steps T", ylabel="matrix products in the backward pass")
    ax.set_ylim(bottom=0)
    ax.legend()


@dataclass(frozen=True)
class Counted(SpikeLinear):
    """A layer that counts the matrix products of its backward pass."""

    products: ClassVar[int] = 0

    def backward(self, params, grads, saved, dy, need_dx=True):
        Counted.products += 1 + need_dx
        return super().backward(params, grads, saved, dy, need_dx)


@dataclass
class Timed(Simulation):
    """A simulation that adds up the seconds of its backward passes."""

    seconds: float = 0.0

    def back(self, grads, saved, dlogits, dmemory=None):
        began = time.perf_counter()
        super().back(grads, saved, dlogits, dmemory)
        self.seconds += time.perf_counter() - began

    def close(self, grads):
        began = time.perf_counter()
        super().close(grads)
        self.seconds += time.perf_counter() - began


def _counted_products(sizes: Sequence[int], x: np.ndarray, T: int, steps: frozenset[int]) -> int:
    """Of the backward passes of the given steps, the gradient of the input included."""
    parts: dict[str, Any] = {}
    for i, (d_in, d_out) in enumerate(itertools.pairwise(sizes), start=1):
        parts[f"fc{i}"] = Counted(d_in, d_out)
        if i < len(sizes) - 1:
            parts[f"lif{i}"] = BatchNormLIF(d_out)
    net = Steps(**parts)
    params = initialise(net, np.random.default_rng(0))
    grads, memory = params.zeros_like(), Memory()
    Counted.products = 0
    for t in range(T):
        logits, saved = net.step(params, memory, x, train=True)
        if t in steps:
            net.step_backward(params, grads, saved, np.ones_like(logits), None, need_dx=True)
    return Counted.products


@claim(
    "sltt",
    "work",
    "SLTT-K does the backward pass of K steps only: its work does not depend on T.",
    "matrix products in the backward pass: 2 L T for SLTT, 2 L K for SLTT-K (L layers of weights); backward time of "
    "SLTT-2 at T = 24 <= 0.4 of SLTT's (every seed)",
    _judge_work,
    data=("digits", "mnist"),
    draw=_draw_work,
)
def work(setting: Setting) -> dict[str, Any]:
    data = _data(setting)
    rng = setting.rng()
    flat = data.x_train[:BATCH].reshape(min(BATCH, len(data.x_train)), -1)
    sizes, times = (flat.shape[1], 128, 128, data.n_classes), (2, 6, 12, 24)
    found: dict[str, Any] = {"layers": len(sizes) - 1, "T": list(times), "products_sltt": [], "products_sltt_2": []}
    for T in times:
        found["products_sltt"].append(_counted_products(sizes, flat, T, draw_steps(T, None, rng)))
        found["products_sltt_2"].append(_counted_products(sizes, flat, T, draw_steps(T, 2, rng)))
    net = spiking_mlp(data.shape, data.n_classes)
    params = initialise(net, np.random.default_rng(setting.seed))
    x, y = data.x_train[:BATCH], data.y_train[:BATCH]
    seconds: dict[str, list[float]] = {"sltt": [], "sltt_2": []}
    memory = Memory(reuse=True)
    for _ in range(3 if setting.quick else 20):
        for name, K in (("sltt", None), ("sltt_2", 2)):
            timed = Timed(net, params, x, 24, train=True, memory=memory)
            sltt_gradient(timed, params.zeros_like(), y, StepLoss(), draw_steps(24, K, rng))
            seconds[name].append(timed.seconds)
        setting.tell(f"backward {1e3 * seconds['sltt'][-1]:.1f} ms and {1e3 * seconds['sltt_2'][-1]:.1f} ms")
    return {**found, **{f"seconds_{name}": float(np.median(s)) for name, s in seconds.items()}}


# ---------------------------------------------------------------- 5: few steps


def _judge_few_steps(values: Values) -> tuple[bool, str]:
    all_steps, two, one = (_mean(values, name) for name in ("sltt", "sltt_2", "sltt_1"))
    note = ", ".join(f"{label} {_percent(values, name)}" for name, label in NAMES.items())
    return two >= all_steps - 0.03 and two >= one, note


NAMES = {"sltt": "SLTT", "sltt_2": "SLTT-2", "sltt_1": "SLTT-1"}


@claim(
    "sltt",
    "few-steps",
    "Two of six steps chosen at random for the backward pass are nearly as good as all.",
    "accuracy(SLTT-2) >= accuracy(SLTT) - 3 points and >= accuracy(SLTT-1) at T = 6, means over the seeds",
    _judge_few_steps,
    data=("digits", "mnist"),
    draw=lambda figure, values: seed_bars(figure.subplots(), values, NAMES),
)
def few_steps(setting: Setting) -> dict[str, float]:
    data = _data(setting)
    epochs = _epochs(EPOCHS, data, setting.quick)
    found = {}
    for name, K in (("sltt", None), ("sltt_2", 2), ("sltt_1", 1)):
        learner = SLTT(K=K, epochs=epochs, batch_size=BATCH, random_state=setting.seed)
        found[name] = _accuracy(learner, data, setting, NAMES[name])
    return found


# ---------------------------------------------------------------- 6: where it must fail


def _judge_limit(values: Values) -> tuple[bool, str]:
    gap = _mean(values, "bptt") - _mean(values, "sltt")
    note = f"BPTT {_percent(values, 'bptt')}, SLTT {_percent(values, 'sltt')}, apart by {100 * gap:.0f} points"
    return gap >= 0.2, note


@claim(
    "sltt",
    "limit",
    "Where the answer needs memory, SLTT fails: an image shown at the first of four steps only, the loss at the last "
    "(one hidden layer of 64 without batch norm, leak 0.9, Adam 3e-3, 10 epochs). No weight of the first layer but its "
    "bias then gets a gradient.",
    "accuracy(BPTT) >= accuracy(SLTT) + 20 points, means over the seeds",
    _judge_limit,
    data=("digits", "mnist"),
    draw=lambda figure, values: seed_bars(figure.subplots(), values, {"sltt": "SLTT", "bptt": "BPTT"}, ("bptt",)),
)
def limit(setting: Setting) -> dict[str, float]:
    data = _data(setting)
    common: dict[str, Any] = {
        "hidden": (64,),
        "norm": False,
        "T": 4,
        "tau": 10.0,
        "coding": "pulse",
        "loss_weight": 0.0,
        "loss_steps": "last",
        "optimizer": "adam",
        "lr": 3e-3,
        "schedule": "constant",
        "epochs": _epochs(10, data, setting.quick),
        "batch_size": BATCH,
        "random_state": setting.seed,
    }
    learners = {"sltt": SLTT(**common), "bptt": BPTTClassifier(**common)}
    return {name: _accuracy(learner, data, setting, name) for name, learner in learners.items()}
