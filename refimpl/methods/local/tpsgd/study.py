"""What `refimpl run tpsgd` and `refimpl bench` do: the experiment with its figure, the race, a step to read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from refimpl import ops, record
from refimpl.backends import backend
from refimpl.baselines import (
    BackpropClassifier,
    DirectFeedbackAlignmentClassifier,
    FeedbackAlignmentClassifier,
    RandomTargetProjectionClassifier,
    RecurrentClassifier,
    ShallowClassifier,
)
from refimpl.data import load
from refimpl.data.sequences import Sequences
from refimpl.methods.local.tpsgd.codes import Projections
from refimpl.methods.local.tpsgd.layers import convnet, rows_mlp
from refimpl.methods.local.tpsgd.learner import TPSGD
from refimpl.methods.local.tpsgd.measure import timeline
from refimpl.methods.local.tpsgd.recurrent import TPSGDRecurrent
from refimpl.record import Common, Contender, Experiment, Rule, Step

# Settings of `refimpl run tpsgd --set name=value`.
SETTINGS: dict[str, Any] = {
    "model": "mlp",
    "width": 200,
    "depth": 2,
    "steps": 1900,
    "batch_size": 64,
    "lr": 0.05,
    "p": 1.0,
}
QUICK_STEPS = 60


def experiment(data: Any, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """Images: TPSGD with several losses and greedily, back-propagation and the rules with fixed feedback, all on one
    network with the same first weights, batches and rate. Sequences: recurrent layers with targets, BPTT, a reservoir.

    Settings: model "mlp" (depth layers of `width`) or "conv" (depth convolutions of 8 filters; momentum 0.9, hidden
    rate x0.01); steps: of descent, rounded up to whole epochs; batch_size, lr, p; and quick. Raises ValueError for a
    setting that does not exist.
    """
    given = record.given("tpsgd", SETTINGS, settings)
    s = {**SETTINGS, **given}
    if s["model"] not in ("mlp", "conv"):
        raise ValueError(f"tpsgd: model is {s['model']!r}, expected mlp or conv")
    if settings.get("quick") and "steps" not in given:
        s["steps"] = QUICK_STEPS
    epochs = math.ceil(s["steps"] / math.ceil(len(data.x_train) / s["batch_size"]))
    common: dict[str, Any] = {"epochs": epochs, "batch_size": s["batch_size"], "random_state": seed}
    contenders = _heard(s, common) if isinstance(data, Sequences) else _seen(s, common, data)
    return Experiment(contenders, data, lambda figure, results: draw(figure, results, data))


def _seen(s: Mapping[str, Any], common: Mapping[str, Any], data: Any) -> list[Contender]:
    own: dict[str, Any] = {**common, "model": s["model"], "lr": s["lr"], "p": s["p"]}
    if s["model"] == "mlp":
        own["hidden"] = (s["width"],) * s["depth"]
        net, optimizer = rows_mlp(math.prod(data.shape), data.n_classes, own["hidden"]), "sgd"
    else:
        size = 5 if min(data.shape[1:]) >= 12 else 3
        own |= {"channels": (8,) * s["depth"], "size": size, "momentum": 0.9, "hidden_lr": 0.01 * s["lr"]}
        net, optimizer = convnet(data.shape, data.n_classes, own["channels"], size), "momentum"
    twin = {"model": net, "optimizer": optimizer, "lr": s["lr"], "weight_decay": 0.0, **common}
    thirds = {**own, "hidden_lr": own.get("hidden_lr", s["lr"]) / 3}
    return [
        Contender("tpSGD, l2", TPSGD(**own)),
        Contender("tpSGD, l1", TPSGD(**thirds, loss="l1")),
        Contender("tpSGD, logistic", TPSGD(**own, loss="logistic")),
        Contender("tpSGD, greedy", TPSGD(**own, schedule="greedy")),
        Contender("back-propagation", BackpropClassifier(**twin), "baseline"),
        Contender("DRTP", RandomTargetProjectionClassifier(**twin), "baseline"),
        Contender("DFA", DirectFeedbackAlignmentClassifier(**twin), "baseline"),
        Contender("feedback alignment", FeedbackAlignmentClassifier(**twin), "baseline"),
        Contender("frozen hidden layers", ShallowClassifier(**twin), "baseline"),
    ]


def _heard(s: Mapping[str, Any], common: Mapping[str, Any]) -> list[Contender]:
    base: dict[str, Any] = {**common, "hidden": (s["width"],), "lr": s["lr"]}
    own = {**base, "hidden_lr": 0.1 * s["lr"], "p": s["p"]}
    return [
        Contender("tpSGD, all steps", TPSGDRecurrent(**own)),
        Contender("tpSGD, ramp", TPSGDRecurrent(**own, steps="ramp")),
        Contender("tpSGD, last step", TPSGDRecurrent(**own, steps="last")),
        Contender("BPTT", RecurrentClassifier(**base), "baseline"),
        Contender("BPTT, 1 step", RecurrentClassifier(**base, window=1), "baseline"),
        Contender("reservoir", RecurrentClassifier(**base, window=0), "baseline"),
    ]


def rules(common: Common) -> list[Rule]:
    """Target projection with two losses, for `refimpl compare`."""
    shared: dict[str, Any] = {"hidden": common.hidden, "epochs": common.epochs, "batch_size": common.batch_size}

    def of(loss: str) -> Any:
        return lambda rate, seed: TPSGD(loss=loss, lr=rate, random_state=seed, **shared)

    rates, signals = (0.01, 0.03, 0.1), ("labels", "fixed random")
    return [
        Rule("Target projection, l2", of("l2"), rates, signals, note="tanh"),
        Rule("Target projection, logistic", of("logistic"), rates, signals, note="tanh"),
    ]


# ---------------------------------------------------------------- the figure


def draw(figure: Any, results: list[dict[str, Any]], data: Any) -> None:
    """Activities of the last hidden layer and the codes that they were pulled to; local losses; memory over a batch;
    the accuracies."""
    from refimpl.viz import style

    figure.set_size_inches(2 * style.WIDTH * 0.85, 2 * style.HEIGHT)
    plane, losses, memory, bars = figure.subplots(2, 2).ravel()
    learner, (X, y) = results[0]["learner"], data.test
    if isinstance(learner, TPSGD):
        activities, codes = learner.activations(X)[-1], learner.codes(len(learner._shapes) - 1)
    else:
        activities, codes = learner.states(X)[-1][:, -1], learner.codes(len(learner.hidden) - 1)
    draw_plane(plane, activities.reshape(len(X), -1), codes, np.searchsorted(learner.classes_, y))
    for r in results:
        if r["role"] == "method" and "greedy" not in r["name"]:
            curve = np.array([m["local1"] for m in r["history"]])
            i = results.index(r)
            shown = np.arange(1, len(curve) + 1)
            losses.plot(shown, curve / curve[0], style.DASHES[i % 4], color=style.colour(i), label=r["name"])
    losses.set(title="Local loss of the first layer", xlabel="epoch", ylabel="part of the first epoch's")
    losses.legend()
    _draw_memory(memory, results[0]["learner"], data)
    _draw_bars(bars, results)


def draw_plane(ax: Any, activities: np.ndarray, codes: np.ndarray, classes: np.ndarray, most: int = 400) -> None:
    """Activities (n, N) as points and codes (K, N) as stars, in the plane of the codes' two main directions."""
    from refimpl.viz import style

    centre = codes.mean(axis=0)
    _, _, directions = np.linalg.svd(codes - centre, full_matrices=False)
    points, stars = (activities[:most] - centre) @ directions[:2].T, (codes - centre) @ directions[:2].T
    for k in range(len(codes)):
        own = points[classes[:most] == k]
        ax.plot(own[:, 0], own[:, 1], "o", color=style.colour(k), markersize=2.2, alpha=0.6, markeredgewidth=0)
        ax.plot(*stars[k], "*", color=style.colour(k), markersize=13, markeredgecolor=style.INK, markeredgewidth=0.6)
        ax.annotate(str(k), stars[k], xytext=(6, 4), textcoords="offset points", color=style.INK)
    ax.set(title="Activities of test data, and the codes (stars)", xlabel="first direction", ylabel="second direction")


def _draw_memory(ax: Any, learner: Any, data: Any) -> None:
    from refimpl.viz import style

    for curve, label, line, colour in (
        (backprop_timeline(learner, data), "back-propagation", "--", style.BASELINE),
        (local_timeline(learner, data), "tpSGD", "-", style.colour(0)),
    ):
        ax.plot(np.linspace(0, 1, len(curve)), np.array(curve) / 1000, line, color=colour, label=label)
    ax.set(title="Bytes alive during one batch", xlabel="part of the operations", ylabel="kB", ylim=(0, None))
    ax.legend()


_DEEP, _LONG = 8, 40


def local_timeline(learner: Any, data: Any) -> list[int]:
    """Bytes alive after each operation of one batch: a deep network's (8 layers of 128) or a long sequence's."""
    x, y = data.train[0][:64], data.train[1][:64]
    with backend("numpy"):
        if isinstance(learner, TPSGD):
            own: Any = TPSGD(hidden=(128,) * _DEEP, random_state=0)
            own.begin(x, y)
            return timeline(lambda: own._step(own._X, own._y, own._trained))
        own = TPSGDRecurrent(hidden=(64,), random_state=0)
        own.begin(x, y)
        return timeline(lambda: own._step(own._X, own._y))


def backprop_timeline(learner: Any, data: Any) -> list[int]:
    """The same for back-propagation, through the layers or through time."""
    x, y = data.train[0][:64], data.train[1][:64]
    K = len(np.unique(y))
    with backend("numpy"):
        if isinstance(learner, TPSGD):
            net = rows_mlp(math.prod(x.shape[1:]), K, (128,) * _DEEP)
            own: Any = BackpropClassifier(model=net, random_state=0)
            own.begin(x, y)
            return timeline(lambda: own._gradients(own._X, own._y, own._rngs["train"]))
        own = RecurrentClassifier(random_state=0)
        own.begin(x, y)
        return timeline(lambda: own._gradients(own._X, own._y))


def _draw_bars(ax: Any, results: list[dict[str, Any]]) -> None:
    from refimpl.viz import style

    shown = results[::-1]
    colours = [style.BASELINE if r["role"] == "baseline" else style.colour(0) for r in shown]
    ax.barh([r["name"] for r in shown], [r["score"] for r in shown], color=colours, height=0.65)
    for i, r in enumerate(shown):
        ax.annotate(f"{100 * r['score']:.1f} %", (0.02, i), ha="left", va="center", color=style.PAPER)
    ax.set(title="Test accuracy", xlim=(0, 1))
    ax.grid(axis="y", visible=False)
    style.percent_axis(ax.xaxis)


# ---------------------------------------------------------------- the race

_D, _N, _K = 784, 300, 10
_FRAMES, _FEATURES, _UNITS = 10, 20, 64


def race() -> list[Step]:
    """One training step: a single sample at the edge, through layers and through time; and a batch."""
    weights = _D * _N + _N * _K
    recurrent = 8.0 * _FRAMES * _UNITS * (_FEATURES + _UNITS)
    return [
        Step("tpSGD, one sample", f"B=1, {_D}-{_N}-{_K}", "float32",
             partial(_make_step, 1), partial(_make_torch_step, 1), 4.0 * weights),
        Step("tpSGD, a sequence", f"B=1, T={_FRAMES}, {_FEATURES}-{_UNITS}-{_K}", "float32",
             _make_sequence, _make_torch_sequence, recurrent),
        Step("tpSGD, a batch", f"B=64, {_D}-{_N}-{_K}", "float32",
             partial(_make_step, 64), partial(_make_torch_step, 64), 4.0 * 64 * weights),
    ]  # fmt: skip


def _batch(B: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((max(B, _K), *shape), np.float32), np.arange(max(B, _K)) % _K


def _learner(B: int) -> TPSGD:
    learner = TPSGD(hidden=(_N,), batch_size=B, keep_codes=True, random_state=1)
    learner.begin(*_batch(B, _D))
    return learner


def _make_step(B: int) -> Any:
    learner, (x, y) = _learner(B), _batch(B, _D)
    x, y = np.ascontiguousarray(x[:B]), y[:B]
    return lambda: learner._step(x, y, learner._trained)["local1"]


def _make_torch_step(B: int, torch: Any) -> Any:
    """As its users would write it: a detached input, a loss a layer, one backward pass each, SGD."""
    learner, (x, y), F = _learner(B), _batch(B, _D), torch.nn.functional
    layers = [_torch_linear(torch, own, transpose=False) for own in learner._params.values()]
    optimizers = [torch.optim.SGD(layer.parameters(), lr=learner.lr, fused=True) for layer in layers]
    codes, x, y = torch.from_numpy(learner.codes(0).copy()), torch.from_numpy(x[:B].copy()), torch.from_numpy(y[:B])

    def step() -> float:
        h = torch.tanh(layers[0](x))
        local = 0.5 * (h - codes[y]).square().sum(1).mean()
        loss = F.cross_entropy(layers[1](h.detach()), y)
        for optimizer, value in zip(optimizers, (local, loss)):
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return local.item()

    return step


def _torch_linear(torch: Any, own: Any, transpose: bool) -> Any:
    (_, W), (_, b) = own.items()
    layer = torch.nn.Linear(*(W.shape if transpose else W.shape[::-1]))
    layer.weight.data[...] = torch.from_numpy(np.ascontiguousarray(W.T if transpose else W))
    layer.bias.data[...] = torch.from_numpy(b.copy())
    return layer


def _sequence_learner() -> TPSGDRecurrent:
    learner = TPSGDRecurrent(hidden=(_UNITS,), batch_size=1, keep_codes=True, hidden_lr=0.005, random_state=1)
    learner.begin(*_batch(1, _FRAMES, _FEATURES))
    return learner


def _make_sequence() -> Any:
    learner, (x, y) = _sequence_learner(), _batch(1, _FRAMES, _FEATURES)
    x, y = np.ascontiguousarray(x[:1]), y[:1]
    return lambda: learner._step(x, y)["local1"]


def _make_torch_sequence(torch: Any) -> Any:
    """A local loss at every step on a detached state, accumulated over the sequence; SGD with momentum."""
    learner, (x, y), F = _sequence_learner(), _batch(1, _FRAMES, _FEATURES), torch.nn.functional
    own = learner._params["layer0"]
    cell = torch.nn.RNNCell(_FEATURES, _UNITS)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.from_numpy(own["w_x"].T.copy()))
        cell.weight_hh.copy_(torch.from_numpy(own["w_h"].T.copy()))
        cell.bias_ih.copy_(torch.from_numpy(own["bias"].copy()))
        cell.bias_hh.zero_()
    cell.bias_hh.requires_grad_(False)
    readout = _torch_linear(torch, learner._params["readout"], transpose=True)
    groups = [{"params": [p for p in cell.parameters() if p.requires_grad], "lr": learner.hidden_lr}]
    groups.append({"params": readout.parameters(), "lr": learner.lr})
    optimizer = torch.optim.SGD(groups, lr=learner.lr, momentum=0.9, fused=True)
    codes, x, y = torch.from_numpy(learner.codes(0).copy()), torch.from_numpy(x[:1].copy()), torch.from_numpy(y[:1])

    def step() -> float:
        h, total = torch.zeros(1, _UNITS), 0.0
        optimizer.zero_grad()
        for t in range(_FRAMES):
            h = cell(x[:, t], h.detach())
            local = 0.5 * (h - codes[y]).square().sum(1).mean() / _FRAMES
            local.backward()
            total += local.item()
        F.cross_entropy(readout(h.detach()), y).backward()
        optimizer.step()
        return total

    return step


# ---------------------------------------------------------------- a step to read


def teach() -> list[Step]:
    """One training step small enough to read: five digits, averaged to 4 x 4, a hidden layer of 6, double precision."""
    return [
        Step("a layer with codes", "B=5, 16-6-10", "float64", _small_step),
        Step("a recurrent layer with codes", "B=5, T=4, 4-6-10", "float64", _small_sequence),
    ]


def _small() -> tuple[np.ndarray, np.ndarray]:
    x, y = load("digits").train
    return x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).astype(np.float64), y


def _small_step() -> Any:
    x, y = _small()
    learner = TPSGD(hidden=(6,), epochs=3, keep_codes=True, dtype="float64", random_state=0)
    learner.begin(x.reshape(len(x), -1), y)
    learner.advance()
    return lambda: learner._step(learner._X[:5], learner._y[:5], learner._trained)["loss"]


def _small_sequence() -> Any:
    x, y = _small()
    learner = TPSGDRecurrent(hidden=(6,), epochs=3, keep_codes=True, dtype="float64", random_state=0)
    learner.begin(x, y)
    learner.advance()
    return lambda: learner._step(learner._X[:5], learner._y[:5])["loss"]


def gram(K: int, N: int, seed: int = 0) -> np.ndarray:
    """Cosines (K, K) between random codes of signs in N dimensions: nearly the identity."""
    signs = Projections(seed, K, 1.0, "logistic", True, np.float64).table(0, N, "tanh")
    return ops.matmul(signs, signs, transpose_b=True) / N
