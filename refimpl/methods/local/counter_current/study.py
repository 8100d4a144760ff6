"""What `refimpl run counter_current` does: the experiment with its figure; steps to read; the common network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import record
from refimpl.baselines import (
    AutoencoderBackprop,
    BackpropClassifier,
    DifferenceTargetPropagationClassifier,
    DirectFeedbackAlignmentClassifier,
    FeedbackAlignmentClassifier,
    RandomTargetProjectionClassifier,
    ShallowClassifier,
)
from refimpl.data import Dataset, load
from refimpl.methods.local.counter_current.autoencoder import CounterCurrentAutoencoder
from refimpl.methods.local.counter_current.learner import VARIANTS, CounterCurrent
from refimpl.models.autoencoder import task_pair
from refimpl.record import Common, Contender, Experiment, Rule, Score, Step

# Settings of `refimpl run counter_current --set name=value`.
SETTINGS = {"variant": "mlp", "width": 256, "depth": 5, "steps": 640, "batch_size": 256, "lr": 1.0}
CODER_SETTINGS = {"width": 16, "depth": 2, "steps": 1800, "batch_size": 32, "lr": 0.01, "task": "identity"}
QUICK_STEPS = 100


def experiment(data: Dataset, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """Counter-current learning, the same with an untrained feedback network, and the rules that it is compared with.

    Settings: variant ("mlp", "cnn", "cnn_pool" or "autoencoder"); width, depth: of the hidden layers (a convolutional
    network has width / 4 channels, twice as many at every second level, and one level for each time that the image can
    be halved, at most depth); steps: of gradient descent, rounded up to whole epochs; batch_size; lr; and quick.
    Back-propagation and the learner of the last layer alone have the same network, first weights and settings; the
    other rules (for "mlp") the same widths with tanh, Adam and a rate of 1e-3.

    For "autoencoder" see `autoencoder_experiment`. Raises ValueError for a setting that does not exist.
    """
    if settings.get("variant") == "autoencoder":
        return autoencoder_experiment(data, seed, settings)
    s = _completed(SETTINGS, settings)
    if s["variant"] not in VARIANTS:
        raise ValueError(
            f"counter_current: variant is {s['variant']!r}, expected one of {', '.join((*VARIANTS, 'autoencoder'))}"
        )
    epochs = math.ceil(s["steps"] / math.ceil(len(data.x_train) / s["batch_size"]))
    common: dict[str, Any] = {"epochs": epochs, "batch_size": s["batch_size"], "random_state": seed}
    shape: dict[str, Any] = {"variant": s["variant"]}
    if s["variant"] == "mlp":
        shape["hidden"] = (s["width"],) * s["depth"]
    else:
        halvings = min(s["depth"], (math.gcd(*data.shape[1:]) & -math.gcd(*data.shape[1:])).bit_length() - 1)
        shape |= {"channels": tuple(s["width"] // 4 * 2 ** (i // 2) for i in range(max(1, halvings))), "warmup": 100}
        shape |= {"target_filter": s["variant"] == "cnn_pool", "centralise": s["variant"] == "cnn_pool"}
    same: dict[str, Any] = {**shape, **common, "lr": s["lr"]}
    probe = CounterCurrent(**{**same, "epochs": 0})
    probe.begin(*data.train)
    twin = {"model": probe.network(), "optimizer": "sgd", "lr": s["lr"], "weight_decay": 0.0, "clip": 1.0, **common}
    contenders = [
        Contender("counter-current", CounterCurrent(**same)),
        Contender("feedback untrained", CounterCurrent(**same, train_feedback=False)),
        Contender("back-propagation", BackpropClassifier(**twin), "baseline"),
        Contender("last layer alone", ShallowClassifier(**twin), "baseline"),
    ]
    if s["variant"] == "mlp":
        rules = {"hidden": shape["hidden"], "activation": "tanh", "optimizer": "adam", "weight_decay": 0.0, **common}
        contenders += [
            Contender("feedback alignment", FeedbackAlignmentClassifier(**rules), "baseline"),
            Contender("direct f. a.", DirectFeedbackAlignmentClassifier(**rules), "baseline"),
            Contender("random targets", RandomTargetProjectionClassifier(**rules), "baseline"),
            Contender("target propagation", DifferenceTargetPropagationClassifier(**rules), "baseline"),
        ]
    return Experiment(contenders, data, lambda figure, results: draw(figure, results, data))


def _completed(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those that were given in the place of defaults; fewer steps where it should be quick."""
    own = record.given("counter_current", defaults, settings)
    quick = {"steps": QUICK_STEPS} if settings.get("quick") and "steps" not in own else {}
    return {**defaults, **own, **quick}


@dataclass(frozen=True)
class Pictures:
    """A data set of images without its labels: for learners that make images of images."""

    whole: Dataset

    name = property(lambda self: self.whole.name)
    title = property(lambda self: self.whole.title)
    sizes = property(lambda self: self.whole.sizes)
    train = property(lambda self: (self.whole.x_train,))
    test = property(lambda self: (self.whole.x_test,))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"x_train": self.whole.x_train, "x_test": self.whole.x_test}

    def quick(self, seed: int) -> Pictures:
        return Pictures(self.whole.quick(seed))


def autoencoder_experiment(data: Dataset, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """Variant C and the same autoencoder trained by back-propagation, from the same first weights.

    Settings: width: channels of the first layer, twice as many at each further one; depth: how often the image is
    halved; steps: rounded up to whole epochs; batch_size; lr: of counter-current learning (back-propagation has the
    paper's 0.03 and its other settings); task: what to make of an image, see models.autoencoder.task_pair.
    """
    s = _completed({"variant": "autoencoder", **CODER_SETTINGS}, settings)
    epochs = math.ceil(s["steps"] / math.ceil(len(data.x_train) / s["batch_size"]))
    same: dict[str, Any] = {"channels": tuple(s["width"] * 2**i for i in range(s["depth"])), "task": s["task"]}
    same |= {"epochs": epochs, "batch_size": s["batch_size"], "batches_per_epoch": None, "random_state": seed}
    contenders = [
        Contender("counter-current", CounterCurrentAutoencoder(lr=s["lr"], **same)),
        Contender("back-propagation", AutoencoderBackprop(**same), "baseline"),
    ]
    pictures, score = Pictures(data), Score("minus squared error of a test pixel", fraction=False, decimals=4)
    return Experiment(contenders, pictures, lambda figure, results: draw_autoencoder(figure, results, pictures), score)


# ---------------------------------------------------------------- the figures


def draw_autoencoder(figure: Any, results: list[dict[str, Any]], data: Pictures) -> None:
    """Test images and what the networks make of them; errors of a pixel; the losses of the levels between."""
    from refimpl.viz import style

    ccl, bp = (next(r for r in results if r["name"] == name) for name in ("counter-current", "back-propagation"))
    learner = ccl["learner"]
    x, target = task_pair(data.whole.x_test[:12], learner.task, np.random.default_rng(0))
    rows = {"input": x} if learner.task == "identity" else {"input": x, "target": target}
    rows |= {"counter-current": learner.reconstruct(x), "its feedback network": learner.look_back(target)}
    rows |= {"back-propagation": bp["learner"].reconstruct(x)}
    figure.set_size_inches(2 * style.WIDTH * 0.85, 2 * style.HEIGHT)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.0, 1.0))
    for line, (name, images) in zip(top.subplots(len(rows), len(x)), rows.items()):
        for ax, image in zip(line, np.clip(images, 0, 1)):
            picture = image.transpose(1, 2, 0)
            ax.imshow(picture if len(image) == 3 else picture[:, :, 0], cmap="gray", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", color=style.INK)
    errors, levels = bottom.subplots(1, 2)
    L, epochs = learner._pair.L, np.arange(1, len(ccl["history"]) + 1)
    pixel = learner.sC * learner._padded[1]  # the loss at an end is this times the squared error of a pixel
    curves = {"counter-current": f"level{L}", "its feedback network": "level0"}
    for i, (name, metric) in enumerate(curves.items()):
        error = [m[metric] / pixel for m in ccl["history"]]
        errors.plot(epochs, error, style.DASHES[i], color=style.colour(i), label=name)
    errors.plot(epochs, [m["loss"] for m in bp["history"]], color=style.BASELINE, label="back-propagation")
    errors.set(title="Squared error of a training pixel", xlabel="epoch", yscale="log")
    errors.legend()
    for level in range(1, L):
        curve = [m[f"level{level}"] for m in ccl["history"]]
        levels.plot(epochs, curve, style.DASHES[level % 4], color=style.colour(level), label=str(level))
    levels.set(title="How far both networks disagree, level by level", xlabel="epoch", yscale="log")
    levels.legend(title="level", ncols=min(L - 1, 3))


def draw(figure: Any, results: list[dict[str, Any]], data: Dataset) -> None:
    """Similarity of images and classes at each level; what each level knows; weights that come to agree; accuracies."""
    from refimpl.viz import style

    learner = next(r["learner"] for r in results if r["name"] == "counter-current")
    history = next(r["history"] for r in results if r["name"] == "counter-current")
    similarities = learner.similarities(data.x_test)
    figure.set_size_inches(2 * style.WIDTH * 0.85, 2 * style.HEIGHT)
    top, bottom = figure.subfigures(2, 1, height_ratios=(0.62, 1.3))
    _draw_similarities(top, similarities, data)
    levels, cosines, bars = bottom.subplots(1, 3, width_ratios=(1, 1, 1.25))
    known = [float(np.mean(learner.classes_[s.argmax(axis=1)] == data.y_test)) for s in similarities]
    levels.plot(known, "o-", color=style.colour(0))
    levels.axhline(1 / data.n_classes, color=style.MUTED, linewidth=1, linestyle=":")
    levels.set(title="What each level knows", xlabel="level", ylabel="test accuracy of the level alone", ylim=(0, 1.02))
    levels.set_xticks(range(len(known)))
    style.percent_axis(levels.yaxis)
    epochs = np.arange(1, len(history) + 1)
    for level in range(1, len(known)):
        curve = [m[f"cosine{level}"] for m in history]
        cosines.plot(epochs, curve, style.DASHES[level % 4], color=style.colour(level), label=str(level))
    cosines.set(title="No weight is copied, yet", xlabel="epoch", ylabel="cosine of F and W transposed")
    cosines.legend(title="level", ncols=2)
    _draw_bars(bars, results)


def _draw_similarities(figure: Any, similarities: list[np.ndarray], data: Dataset) -> None:
    """For each level the mean similarity of the images of a class (row) to each prototype (column)."""
    from refimpl.viz import style

    panels = figure.subplots(1, len(similarities), sharey=True)
    figure.suptitle(
        "Mean similarity of images (rows: their class) and classes (columns), level by level", x=0.01, ha="left"
    )
    for level, (ax, s) in enumerate(zip(np.atleast_1d(panels), similarities)):
        mean = np.array([s[data.y_test == k].mean(axis=0) for k in range(data.n_classes) if (data.y_test == k).any()])
        most = np.abs(mean).max() or 1.0
        ax.imshow(mean, cmap="RdBu_r", vmin=-most, vmax=most)
        ax.set_title("image" if level == 0 else "logits" if level == len(similarities) - 1 else f"level {level}")
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
    np.atleast_1d(panels)[0].set_ylabel("class of the image", color=style.INK)


def _draw_bars(ax: Any, results: list[dict[str, Any]]) -> None:
    from refimpl.viz import style

    shown = results[::-1]
    values = [r["score"] for r in shown]
    colours = [style.BASELINE if r["role"] == "baseline" else style.colour(0) for r in shown]
    ax.barh([r["name"] for r in shown], values, color=colours, height=0.65)
    for i, v in enumerate(values):
        ax.annotate(f"{100 * v:.1f} %", (0.02, i), ha="left", va="center", color=style.PAPER)
    ax.set(title="Test accuracy", xlim=(0, 1))
    ax.grid(axis="y", visible=False)
    style.percent_axis(ax.xaxis)


# ---------------------------------------------------------------- a step to read


def teach() -> list[Step]:
    """One training step of both networks, small enough to read: four digits, two levels of six and one of ten, double
    precision. The networks have seen a few hundred digits before."""
    return [Step("counter-current step", "B=4, 64-6-6-10", "float64", _small_step)]


def _small_step() -> Any:
    digits, rng = load("digits"), np.random.default_rng(0)
    learner = CounterCurrent(hidden=(6, 6), batch_size=32, dtype="float64", random_state=0)
    learner.begin(*digits.train)
    for _ in range(20):
        rows = rng.choice(len(digits.x_train), 32, replace=False)
        learner._step(learner._X[rows], learner._y[rows])
    shown = np.array([np.flatnonzero(digits.y_train == k)[0] for k in (0, 3, 6, 9)])
    return lambda: learner._step(learner._X[shown], learner._y[shown]).total


# ---------------------------------------------------------------- one common network


def rules(common: Common) -> list[Rule]:
    """Variant A on the common widths."""
    shared: dict[str, Any] = {"hidden": common.hidden, "epochs": common.epochs, "batch_size": common.batch_size}

    def make(rate: float, seed: int) -> CounterCurrent:
        return CounterCurrent("mlp", lr=rate, random_state=seed, **shared)

    return [
        Rule("Counter-current learning", make, (0.3, 1.0, 3.0), ("labels", "second network"), note="ELU, no biases")
    ]
