"""What the paper says, measured. The thresholds are those of the paper's card, written down before the first run.

Setting of the card's pilot: CIFAR-10 averaged to 16 x 16, 8,000 images to train on and 2,000 to test on, a ResNet of
widths 8, 16, 32 with two blocks a stage, one module for each of its seven layers, heads of pooling and a linear map,
batches of 128, learning rate 0.1 that falls to 0 as a cosine, Nesterov's momentum, 10 epochs. Only 1,000 of the test
images are here, so the 2,000 are training images that are not trained on.

Claims share their runs: a model with a seed is trained once in a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.data import Dataset
from refimpl.methods.local.momentum_auxiliary.learner import MomentumAuxiliary
from refimpl.record import Setting, claim
from refimpl.viz.bars import seed_bars

N_TRAIN, N_TEST = 8000, 2000
Values = list[Mapping[str, Any]]
RUNS: dict[str, dict[str, Any]] = {
    "bp": {"variant": "none", "cuts": ()},
    "greedy": {"variant": "none"},
    "average": {"paths": "average"},
    "companion": {"paths": "companion"},
    "both": {},
    "paper": {"variant": "paper"},
    "scaled": {"variant": "scaled"},
    "m=0": {"m": 0.0},
    "m=1": {"m": 1.0},
    "average m=1": {"paths": "average", "m": 1.0},
    "average random": {"paths": "average", "start": "random"},
    "dgl": {"variant": "none", "head": "dgl", "options": {"width": 32}},
    "dgl both": {"head": "dgl", "options": {"width": 32}},
}
LABELS = {
    "bp": "back-propagation",
    "greedy": "greedy: neither",
    "average": "E alone",
    "companion": "A alone",
    "both": "A + E (MAN)",
    "paper": "variant 2, one pulled block",
    "scaled": "variant 3, scaled sum",
    "m=0": "A + E, m = 0",
    "m=1": "A + E, m = 1",
    "average m=1": "E alone, m = 1",
    "average random": "E alone, random start",
    "dgl": "DGL head",
    "dgl both": "DGL head, A + E",
}
BASELINES = ("bp", "greedy", "dgl")


# ---------------------------------------------------------------- shared


def _data(setting: Setting) -> Dataset:
    """Images averaged to 16 x 16 where they are larger, training and test images as above."""
    data = setting.data
    assert data is not None, "this claim names data sets"
    if setting.quick:
        data = data.quick(setting.seed)
    elif len(data.x_train) >= N_TRAIN + N_TEST:
        drawn = data.subset(N_TRAIN + N_TEST, None, setting.seed)
        x, y = drawn.train
        data = replace(drawn, x_train=x[:N_TRAIN], y_train=y[:N_TRAIN], x_test=x[N_TRAIN:], y_test=y[N_TRAIN:])
    return averaged(data, 16)


def averaged(data: Dataset, most: int) -> Dataset:
    """Images of at most that extent, by means over squares. The extents must be multiples of each other."""
    c, h, w = data.shape
    f = max(1, h // most)

    def smaller(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x.reshape(len(x), c, h // f, f, w // f, f).mean(axis=(3, 5)))

    if f == 1:
        return data
    shape = (c, h // f, w // f)
    return replace(data, x_train=smaller(data.x_train), x_test=smaller(data.x_test), shape=shape)


_done: dict[tuple[Any, ...], dict[str, Any]] = {}


def _run(setting: Setting, name: str) -> dict[str, Any]:
    """Accuracy and distances of a model of RUNS; trained once for each data set and seed."""
    key = (setting.data_name, setting.seed, setting.quick, name)
    if key not in _done:
        data = _data(setting)
        size: dict[str, Any] = {"widths": (8, 16, 32), "blocks": 2, "epochs": 10}
        if setting.quick:
            size = {"widths": (4, 8), "blocks": 1, "epochs": 2}
        learner = MomentumAuxiliary(**{**size, **RUNS[name]}, random_state=setting.seed)
        learner.begin(*data.train)
        while learner.progress_ < learner.total_:
            learner.advance()
            setting.tell(f"{LABELS[name]}: epoch {learner.progress_}")
        learner.finish()
        _done[key] = {"accuracy": learner.score(*data.test), "distances": learner.distances()}
    return _done[key]


def _accuracies(setting: Setting, *names: str) -> dict[str, float]:
    return {name: _run(setting, name)["accuracy"] for name in names}


def _mean(values: Values, name: str) -> float:
    return float(np.mean([v[name] for v in values]))


def _percent(values: Values, name: str) -> str:
    """Mean and spread over the seeds."""
    each = [100 * v[name] for v in values]
    return f"{np.mean(each):.1f} ± {np.std(each, ddof=1):.1f} %" if len(each) > 1 else f"{each[0]:.1f} %"


def _note(values: Values, *names: str) -> str:
    return ", ".join(f"{LABELS[name]} {_percent(values, name)}" for name in names)


def _draw_accuracies(figure: Any, values: Values) -> None:
    names = {name: LABELS[name] for name in RUNS if name in values[0]}
    seed_bars(figure.subplots(), values, names, BASELINES, whole=False)


# ---------------------------------------------------------------- 1: it helps


def _judge_helps(values: Values) -> tuple[bool, str]:
    holds = _mean(values, "both") >= _mean(values, "greedy") + 0.025
    note = _note(values, "both", "greedy", "bp")
    return holds, f"{note}. Not judged, heads of DGL 32 wide: {_note(values, 'dgl both', 'dgl')}"


@claim(
    "momentum_auxiliary",
    "helps",
    "A copy of the next module's first layer, averaged over time, and a trained companion in front of each local head "
    "make local modules learn what the next ones need.",
    "accuracy(MAN) >= accuracy(greedy) + 2.5 points, means over the seeds",
    _judge_helps,
    data=("cifar-10",),
    draw=_draw_accuracies,
)
def helps(setting: Setting) -> dict[str, float]:
    return _accuracies(setting, "bp", "greedy", "both", "dgl", "dgl both")


# ---------------------------------------------------------------- 2: the average alone


def _judge_average(values: Values) -> tuple[bool, str]:
    average = _mean(values, "average")
    holds = average >= _mean(values, "greedy") + 0.01 and average >= _mean(values, "average m=1") + 0.005
    return holds, _note(values, "average", "average m=1", "greedy")


@claim(
    "momentum_auxiliary",
    "average-alone",
    "The averaged copy helps without a companion, and it helps because it follows: the same copy of the first weights, "
    "frozen, does worse.",
    "accuracy(E alone, m = 0.995) >= accuracy(greedy) + 1 point and >= accuracy(E alone, m = 1) + 0.5 points, means "
    "over the seeds",
    _judge_average,
    data=("cifar-10",),
    draw=_draw_accuracies,
)
def average_alone(setting: Setting) -> dict[str, float]:
    return _accuracies(setting, "greedy", "average", "average m=1")


# ---------------------------------------------------------------- 3: ablations


def _judge_ablation(values: Values) -> tuple[bool, str]:
    average = _mean(values, "average")
    holds = _mean(values, "both") >= average + 0.01 and _mean(values, "average random") <= average
    return holds, _note(values, *(name for name in RUNS if name in values[0]))


@claim(
    "momentum_auxiliary",
    "ablation",
    "The companion adds to the average, and the average should start as a copy in short runs: a random start is "
    "forgotten only after 3 / (1 - m) = 600 steps.",
    "accuracy(A + E) >= accuracy(E alone) + 1 point and accuracy(E alone, random start) <= accuracy(E alone, copy), "
    "means over the seeds; all variants reported",
    _judge_ablation,
    data=("cifar-10",),
    draw=_draw_accuracies,
)
def ablation(setting: Setting) -> dict[str, float]:
    names = ("greedy", "average", "companion", "both", "paper", "scaled", "m=0", "m=1", "average random")
    return _accuracies(setting, *names)


# ---------------------------------------------------------------- 4: tracking


def _judge_tracking(values: Values) -> tuple[bool, str]:
    worst = max(max(v["m=0.995"]) for v in values)
    least = min(min(v["m=1"]) for v in values)
    copies = max(max(v["m=0"]) for v in values)
    note = f"m = 0.995: {min(min(v['m=0.995']) for v in values):.3f} to {worst:.3f}; m = 1: {least:.2f} to "
    note += f"{max(max(v['m=1']) for v in values):.2f}; m = 0: at most {copies:.1e}"
    return worst < 0.15 and least > 0.25, note


def _draw_tracking(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    for i, name in enumerate(("m=1", "m=0.995", "m=0")):
        each = np.array([v[name] for v in values])
        module = np.arange(1, each.shape[1] + 1)
        label = name.replace("=", " = ")
        ax.plot(module, each.mean(axis=0), style.DASHES[i], marker="o", color=style.colour(i), label=label)
        ax.fill_between(module, each.min(axis=0), each.max(axis=0), color=style.colour(i), alpha=0.2, linewidth=0)
    ax.axhline(0.15, color=style.INK, linewidth=1, linestyle=":")
    ax.axhline(0.25, color=style.INK, linewidth=1, linestyle=":")
    ax.set(xlabel="module", ylabel="distance of E from what it follows", ylim=(-0.02, None), xticks=module)
    ax.legend()


@claim(
    "momentum_auxiliary",
    "tracking",
    "At the end of training the average has come close to the layer that it follows (learning rate to zero), while a "
    "frozen copy is left behind.",
    "||e - theta|| / ||theta|| < 0.15 for m = 0.995 and > 0.25 for m = 1, every module, each seed",
    _judge_tracking,
    data=("cifar-10",),
    draw=_draw_tracking,
)
def tracking(setting: Setting) -> dict[str, list[float]]:
    runs = {"m=0.995": "both", "m=1": "m=1", "m=0": "m=0"}
    return {name: _run(setting, run)["distances"] for name, run in runs.items()}


# ---------------------------------------------------------------- 5: memory


def _judge_memory(values: Values) -> tuple[bool, str]:
    man, bp, greedy = (max(v[n] for v in values) for n in ("both", "bp", "greedy"))
    holds = man <= 0.65 * bp and man <= 3 * greedy
    note = f"MAN {man / 2**20:.0f} MiB, back-propagation {bp / 2**20:.0f}, greedy {greedy / 2**20:.0f}: "
    note += f"{man / bp:.2f} of back-propagation, {man / greedy:.2f} times greedy; module by module "
    return holds, note + " / ".join(f"{b / 2**20:.0f}" for b in values[0]["modules"]) + " MiB"


def _draw_memory(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    v = values[0]
    module = np.arange(1, len(v["modules"]) + 1)
    ax.bar(module, np.array(v["modules"]) / 2**20, color=style.colour(0), label="MAN", width=0.8)
    ax.bar(module, np.array(v["greedy modules"]) / 2**20, color=style.BASELINE, label="greedy", width=0.5)
    ax.axhline(v["bp"] / 2**20, color=style.INK, linewidth=1, linestyle=":", label="back-propagation, whole network")
    ax.set(xlabel="module", ylabel="kept for the backward pass / MiB", xticks=module)
    ax.legend()


@claim(
    "momentum_auxiliary",
    "memory",
    "Two more blocks a module cost activations, but far less than keeping the whole network for back-propagation "
    "(ResNet-32 in 15 modules, 32 x 32 images, batch of 128).",
    "largest module of MAN <= 0.65 of back-propagation and <= 3 times greedy's, bytes of activations that are kept for "
    "the backward pass",
    _judge_memory,
    draw=_draw_memory,
    quick_judged=True,
)
def memory(setting: Setting) -> dict[str, Any]:
    B = 2 if setting.quick else 128
    rng = setting.rng()
    x, y = rng.random((max(B, 10), 3, 32, 32), np.float32), np.arange(max(B, 10)) % 10
    found: dict[str, list[int]] = {}
    for name in ("bp", "greedy", "both"):
        arguments = {"cuts": "blocks", **RUNS[name]}
        learner = MomentumAuxiliary(blocks=5, batch_size=max(2, B), random_state=setting.seed, **arguments)
        learner.begin(x, y)
        setting.tell(LABELS[name])
        found[name] = learner.kept_bytes(B)
    peaks: dict[str, Any] = {name: max(each) for name, each in found.items()}
    return {**peaks, "modules": found["both"], "greedy modules": found["greedy"]}
