"""What the paper says, measured. The thresholds are those of the paper's card, written down before the first run.

MNIST (and Fashion-MNIST) is 8,000 training and 2,000 test images, as in the pilot on MNIST that all thresholds come
from, 784-256x5-10, batches of 256, plain gradient descent with rate 1 and gradients clipped at norm 1. Digits are all
there are, with as many more epochs as give the same number of steps. Back-propagation and the learner of the last layer
alone have the same network, inputs, first weights and steps.

CIFAR-10 has no pilot and no threshold: 20,000 training and 2,500 test images, the convolutional network with pooling
and all settings of the card but two, a quarter of its channels (32-32-64-64-128) and 20 epochs instead of 100.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.backends import backend
from refimpl.baselines import AutoencoderBackprop, BackpropClassifier, ShallowClassifier
from refimpl.data import Dataset
from refimpl.methods.local.counter_current.autoencoder import CounterCurrentAutoencoder
from refimpl.methods.local.counter_current.learner import CounterCurrent
from refimpl.methods.local.counter_current.networks import backprop_flops, mlp_pair, step_flops
from refimpl.methods.local.counter_current.twins import BackpropTwin, LastLayerTwin
from refimpl.nn import initialise
from refimpl.record import Setting, claim
from refimpl.viz.bars import seed_bars

N_TRAIN, N_TEST, BATCH = 8000, 2000, 256
Values = list[Mapping[str, Any]]


# ---------------------------------------------------------------- shared


def _data(setting: Setting) -> Dataset:
    data = setting.data
    assert data is not None, "this claim names data sets"
    if setting.quick:
        return data.quick(setting.seed)
    return data if setting.data_name == "digits" else data.subset(N_TRAIN, N_TEST, seed=setting.seed)


def _epochs(pilot: int, data: Dataset, quick: bool) -> int:
    """Epochs with as many steps as `pilot` epochs of 8,000 images."""
    steps = pilot * math.ceil(N_TRAIN / BATCH)
    return max(1, pilot // 4) if quick else round(steps / math.ceil(len(data.x_train) / BATCH))


def _fit(learner: Any, data: Dataset, setting: Setting, what: str) -> Any:
    learner.begin(*data.train)
    while learner.progress_ < learner.total_:
        learner.advance()
        if learner.progress_ % max(1, learner.total_ // 20) == 0:
            setting.tell(f"{what} {100 * learner.progress_ // learner.total_} %")
    learner.finish()
    return learner


def _counter_current(data: Dataset, setting: Setting, pilot: int) -> CounterCurrent:
    epochs = _epochs(pilot, data, setting.quick)
    return _fit(CounterCurrent(epochs=epochs, random_state=setting.seed), data, setting, "counter-current")


def _twin(kind: Any, learner: CounterCurrent, data: Dataset, setting: Setting) -> Any:
    """Another rule on the same network with the same settings."""
    same: dict[str, Any] = {"epochs": learner.epochs, "batch_size": BATCH, "random_state": setting.seed}
    other = kind(model=learner.network(), optimizer="sgd", lr=1.0, weight_decay=0.0, clip=1.0, **same)
    return _fit(other, data, setting, kind.__name__)


def _mean(values: Values, name: str) -> float:
    return float(np.mean([v[name] for v in values]))


def _percent(values: Values, name: str) -> str:
    """Mean and spread over the seeds."""
    each = [100 * v[name] for v in values]
    return f"{np.mean(each):.1f} ± {np.std(each, ddof=1):.1f} %" if len(each) > 1 else f"{each[0]:.1f} %"


# ---------------------------------------------------------------- 1: hidden layers learn


def _judge_deep(values: Values) -> tuple[bool, str]:
    note = f"counter-current {_percent(values, 'ccl')}, last layer alone {_percent(values, 'shallow')}, "
    holds = all(v["ccl"] >= v["shallow"] + 0.10 for v in values)
    return holds, note + f"back-propagation {_percent(values, 'bp')}"


@claim(
    "counter_current",
    "deep-features",
    "Counter-current learning trains the hidden layers: with them frozen at their first random weights, the same "
    "network does much worse (five hidden layers of 256, 20 epochs).",
    "accuracy(counter-current) >= accuracy(only the last layer trained) + 10 points, each seed",
    _judge_deep,
    data=("digits", "mnist", "fashion-mnist"),
    draw=lambda figure, values: seed_bars(
        figure.subplots(),
        values,
        {"ccl": "counter-current", "bp": "back-propagation", "shallow": "last layer alone"},
        ("bp", "shallow"),
    ),
)
def deep_features(setting: Setting) -> dict[str, float]:
    data = _data(setting)
    learner = _counter_current(data, setting, 20)
    twins = {"bp": BackpropClassifier, "shallow": ShallowClassifier}
    found = {name: _twin(kind, learner, data, setting).score(*data.test) for name, kind in twins.items()}
    return {"ccl": learner.score(*data.test), **found}


# ---------------------------------------------------------------- 2: close to back-propagation


def _judge_close(values: Values) -> tuple[bool, str]:
    gap = _mean(values, "bp") - _mean(values, "ccl")
    note = f"counter-current {_percent(values, 'ccl')}, back-propagation {_percent(values, 'bp')}"
    return gap <= 0.025, f"{note}, mean gap {100 * gap:.1f} points"


@claim(
    "counter_current",
    "close-to-backprop",
    "With enough steps counter-current learning comes close to back-propagation (80 epochs).",
    "accuracy(back-propagation) - accuracy(counter-current) <= 2.5 points, means over the seeds",
    _judge_close,
    data=("digits", "mnist", "fashion-mnist"),
    draw=lambda figure, values: seed_bars(
        figure.subplots(), values, {"ccl": "counter-current", "bp": "back-propagation"}, ("bp",)
    ),
)
def close_to_backprop(setting: Setting) -> dict[str, float]:
    data = _data(setting)
    learner = _counter_current(data, setting, 80)
    twin = _twin(BackpropClassifier, learner, data, setting)
    return {"ccl": learner.score(*data.test), "bp": twin.score(*data.test)}


# ---------------------------------------------------------------- 3: every level knows the class


def _judge_levels(values: Values) -> tuple[bool, str]:
    each = np.mean([v["accuracy"] for v in values], axis=0)
    untrained = np.mean([v["untrained"] for v in values], axis=0)
    note = "levels 1 to 5: " + " / ".join(f"{100 * a:.1f}" for a in each[1:]) + f" % (level 0: {100 * each[0]:.1f} %); "
    note += "network of back-propagation against an untrained feedback network: "
    lowest = min(min(v["accuracy"][1:]) for v in values)
    return lowest >= 0.88, note + " / ".join(f"{100 * a:.0f}" for a in untrained[1:]) + " %"


def _draw_levels(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    names = {"accuracy": "counter-current", "untrained": "back-propagation, untrained feedback network"}
    for i, (name, label) in enumerate(names.items()):
        curves = np.array([v[name] for v in values])
        level = np.arange(curves.shape[1])
        colour = style.colour(0) if i == 0 else style.BASELINE
        ax.plot(level, curves.mean(axis=0), style.DASHES[i], marker="o", color=colour, label=label)
        ax.fill_between(level, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="level (0: the image itself)", ylabel="test accuracy of the level alone", ylim=(0, 1), xticks=level)
    style.percent_axis(ax.yaxis)
    ax.legend()


@claim(
    "counter_current",
    "every-level",
    "Every level is a classifier: the class whose feedback activity is most similar to the forward activity is right "
    "nearly as often as the output (20 epochs).",
    "accuracy of argmax a_l c_l^T >= 88 % at all levels l = 1..5, each seed",
    _judge_levels,
    data=("digits", "mnist", "fashion-mnist"),
    draw=_draw_levels,
)
def every_level(setting: Setting) -> dict[str, list[float]]:
    data = _data(setting)
    learner = _counter_current(data, setting, 20)
    twin = _twin(BackpropClassifier, learner, data, setting)
    other = CounterCurrent(epochs=0, random_state=setting.seed).fit(*data.train)
    other._params["forward"].load(twin._params["net"].arrays())

    def levels(learner: CounterCurrent) -> list[float]:
        classes = learner.classes_
        found = learner.similarities(data.x_test)[:-1]
        return [float(np.mean(classes[s.argmax(axis=1)] == data.y_test)) for s in found]

    return {"accuracy": levels(learner), "untrained": levels(other)}


# ---------------------------------------------------------------- 4: alignment without transport


def _judge_alignment(values: Values) -> tuple[bool, str]:
    curves = np.mean([v["cosines"] for v in values], axis=0)  # epochs, levels
    last = min(v["cosines"][-1][-1] for v in values)
    mean = min(float(np.mean(v["cosines"][-1])) for v in values)
    note = "cosines of levels 1 to 6 at the end: " + " / ".join(f"{c:.2f}" for c in curves[-1])
    note += f"; before training {curves[0, -1]:.2f} at the last"
    start = max(abs(v["cosines"][0][-1]) for v in values)
    return last > 0.3 and mean > 0.05 and start < 0.1, note


def _draw_alignment(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    curves = np.array([v["cosines"] for v in values])
    epochs = np.arange(curves.shape[1])
    for level in range(curves.shape[2]):
        colour = style.colour(level)
        ax.plot(epochs, curves[:, :, level].mean(axis=0), style.DASHES[level % 4], color=colour, label=f"{level + 1}")
    ax.set(xlabel="epoch", ylabel="cosine of F and W transposed")
    ax.legend(title="level", ncols=2)


@claim(
    "counter_current",
    "alignment",
    "Forward and feedback weights come to agree although no weight is ever copied (20 epochs).",
    "cosine(F_L, W_L^T) from below 0.1 to above 0.3, and mean over the layers above 0.05, each seed",
    _judge_alignment,
    data=("digits", "mnist", "fashion-mnist"),
    draw=_draw_alignment,
)
def alignment(setting: Setting) -> dict[str, list[list[float]]]:
    data = _data(setting)
    learner = CounterCurrent(epochs=_epochs(20, data, setting.quick), random_state=setting.seed)
    learner.begin(*data.train)
    curves = [list(learner.cosines().values())]
    while learner.progress_ < learner.total_:
        learner.advance()
        curves.append(list(learner.cosines().values()))
        setting.tell(f"epoch {learner.progress_}")
    return {"cosines": curves}


# ---------------------------------------------------------------- 5: a cheaper step


def _judge_cheaper(values: Values) -> tuple[bool, str]:
    flops, seconds = _mean(values, "flops") / _mean(values, "bp_flops"), _mean(values, "ratio")
    note = f"{_mean(values, 'flops') / 1e6:.0f} against {_mean(values, 'bp_flops') / 1e6:.0f} million operations "
    note += f"({flops:.2f}); time of the NumPy step {seconds:.2f} of back-propagation's"
    return flops <= 0.9 and seconds <= 1.15, note


def _draw_cheaper(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    for i, (name, label) in enumerate((("flops", "operations"), ("ratio", "time of the NumPy step"))):
        each = [v[name] / (v["bp_flops"] if name == "flops" else 1.0) for v in values]
        ax.barh(label, np.mean(each), color=style.colour(i), height=0.5)
        ax.plot(each, [label] * len(each), "o", color=style.INK, markersize=4, markerfacecolor="none")
    ax.axvline(1, color=style.BASELINE)
    ax.set(xlabel="counter-current over back-propagation (line: equal; circles: seeds)", xlim=(0, 1.3))
    ax.grid(axis="y", visible=False)


@claim(
    "counter_current",
    "cheaper-step",
    "A training step costs less than one of back-propagation: no layer needs the gradient of its input, and the "
    "feedback network runs on ten rows (784-256x5-10, batch of 256).",
    "operations <= 0.9 of back-propagation's, time of the NumPy step <= 1.15 of back-propagation's; means over seeds",
    _judge_cheaper,
    draw=_draw_cheaper,
)
def cheaper_step(setting: Setting) -> dict[str, float]:
    K, rng = 10, setting.rng()
    pair = mlp_pair(784, K)
    x, y = rng.standard_normal((BATCH, 784), np.float32), rng.integers(0, K, BATCH)
    learner = CounterCurrent(epochs=1, random_state=setting.seed)
    learner.begin(x, np.arange(BATCH) % K)
    net, optimizer = pair.forward_network, optim.SGD(1.0)
    params = initialise(net, rng)
    grads, state = params.zeros_like(), optimizer.init(params)

    def backprop() -> None:
        grads.flat[...] = 0
        out, saved = net.forward(params, x, train=True)
        _, p = ops.cross_entropy(out, y)
        net.backward(params, grads, saved, ops.cross_entropy_backward(p, y), need_dx=False)
        optim.clip_by_norm(grads, 1.0)
        optimizer.step(params, grads, state)

    steps = {"ccl": lambda: learner._step(x, y), "bp": backprop}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with backend("numpy"):
        for turn in range(10 if setting.quick else 60):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - started)
            setting.tell(f"turn {turn + 1}")
    median = {name: statistics.median(s[5:]) for name, s in seconds.items()}
    counted = {"flops": step_flops(pair, BATCH, K), "bp_flops": backprop_flops(pair, BATCH)}
    return {**counted, "seconds": median["ccl"], "bp_seconds": median["bp"], "ratio": median["ccl"] / median["bp"]}


# ---------------------------------------------------------------- 6: autoencoder


def _judge_autoencoder(values: Values) -> tuple[bool, str]:
    start, end, bp = (_mean(values, name) for name in ("start", "ccl", "bp"))
    note = f"error {start:.4f} before training, {end:.4f} after, {start / end:.2f} times less; back-propagation "
    note += f"{bp:.4f}, of which it is {end / bp:.1f} times; the feedback network's own {_mean(values, 'feedback'):.4f}"
    return start >= 5 * end and end <= 3 * bp, note


def _draw_autoencoder(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    for i, (name, label) in enumerate((("ccl_test", "counter-current"), ("bp_test", "back-propagation"))):
        for v in values:
            colour = style.BASELINE if name == "bp_test" else style.colour(i)
            ax.plot(range(len(v[name])), v[name], color=colour, label=label if v is values[0] else None)
    ax.set(xlabel="epoch of 100 batches (a line a seed)", ylabel="squared error of a test pixel", yscale="log")
    ax.legend()


@claim(
    "counter_current",
    "autoencoder",
    "A convolutional autoencoder learns by counter-current learning too (channels 1-16-32-64 and back, images padded "
    "to 32 x 32, 10 epochs of 100 batches of 32).",
    "the test error falls to a fifth or less of its value before training, and to at most 3 times that of the same "
    "network trained by back-propagation; means over the seeds",
    _judge_autoencoder,
    data=("mnist",),
    draw=_draw_autoencoder,
)
def autoencoder(setting: Setting) -> dict[str, Any]:
    data = _data(setting)
    epochs: dict[str, Any] = {"epochs": 2, "batches_per_epoch": 10} if setting.quick else {"epochs": 10}
    x_test = data.x_test

    def error(learner: Any) -> float:
        return -float(learner.score(x_test))

    found: dict[str, Any] = {}
    for name, kind in (("ccl", CounterCurrentAutoencoder), ("bp", AutoencoderBackprop)):
        learner: Any = kind(random_state=setting.seed, **epochs)
        learner.begin(data.x_train)
        found[f"{name}_test"] = [error(learner)]
        while learner.progress_ < learner.total_:
            learner.advance()
            found[f"{name}_test"].append(error(learner))
            setting.tell(f"{name} epoch {learner.progress_}")
        learner.finish()
        found[name] = found[f"{name}_test"][-1]
        if name == "ccl":
            back = learner.look_back(x_test)
            found["feedback"] = float(np.mean(np.square(back - x_test, dtype=np.float64)))
    return {"start": found["ccl_test"][0], **found}


# ---------------------------------------------------------------- no threshold: the convolutional network on CIFAR-10

CIFAR: dict[str, Any] = {"channels": (32, 32, 64, 64, 128), "epochs": 20}
CIFAR_TRAIN, CIFAR_TEST = 20_000, 2500


def _cifar_data(setting: Setting) -> Dataset:
    """Both parts from the training batches, because the test batch that is read here has 1,000 images."""
    assert setting.data is not None, "this claim names data sets"
    n_train, n_test = (150, 50) if setting.quick else (CIFAR_TRAIN, CIFAR_TEST)
    drawn = setting.data.subset(n_train + n_test, 1, setting.seed)
    x, y = drawn.train
    return replace(drawn, x_train=x[:n_train], y_train=y[:n_train], x_test=x[n_train:], y_test=y[n_train:])


def _tell_cifar(values: Values) -> tuple[None, str]:
    gap = _mean(values, "bp") - _mean(values, "ccl")
    note = f"counter-current {_percent(values, 'ccl')}, back-propagation {_percent(values, 'bp')} (mean gap "
    return None, note + f"{100 * gap:.1f} points), last layer alone {_percent(values, 'shallow')}"


def _draw_cifar(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    rules = {"bp": "back-propagation", "ccl": "counter-current", "shallow": "last layer alone"}
    for i, (name, label) in enumerate(rules.items()):
        curves = np.array([v[f"{name}_test"] for v in values])
        epochs = np.arange(1, curves.shape[1] + 1)
        colour = style.colour(0) if name == "ccl" else style.BASELINE
        ax.plot(epochs, curves.mean(axis=0), style.DASHES[i], color=colour, label=label)
        ax.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="epoch (mean; band: the seeds)", ylabel="test accuracy")
    ax.xaxis.get_major_locator().set_params(integer=True)
    style.percent_axis(ax.yaxis)
    ax.legend()


@claim(
    "counter_current",
    "cifar-cnn",
    "A convolutional network with pooling learns CIFAR-10 by counter-current learning (channels 3-32-32-64-64-128, "
    "20,000 images, 20 epochs, other settings of the paper), next to the same network trained by back-propagation.",
    "none: the card has no number for convolutional networks on CIFAR-10",
    _tell_cifar,
    data=("cifar-10",),
    draw=_draw_cifar,
)
def cifar_cnn(setting: Setting) -> dict[str, Any]:
    data = _cifar_data(setting)
    sizes = {"channels": (4, 4, 8), "epochs": 2} if setting.quick else CIFAR
    alone = {"target_filter": False, "train_feedback": False}
    found: dict[str, Any] = {}
    for name, kind, changes in (
        ("ccl", CounterCurrent, {}),
        ("bp", BackpropTwin, alone),
        ("shallow", LastLayerTwin, alone),
    ):
        learner: Any = kind.paper("cifar-10", "cnn_pool", **sizes, **changes, random_state=setting.seed)
        learner.begin(*data.train)
        found[f"{name}_test"] = []
        while learner.progress_ < learner.total_:
            learner.advance()
            found[f"{name}_test"].append(learner.score(*data.test))
            setting.tell(f"{name} epoch {learner.progress_}")
        learner.finish()
        found[name] = found[f"{name}_test"][-1]
        if name == "ccl":
            classes, levels = learner.classes_, learner.similarities(data.x_test)[:-1]
            found["levels"] = [float(np.mean(classes[s.argmax(axis=1)] == data.y_test)) for s in levels]
    return found
