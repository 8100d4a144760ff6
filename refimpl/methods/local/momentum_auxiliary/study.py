"""What `refimpl run`, the race and `refimpl trace` do with MAN."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from refimpl import record
from refimpl.baselines import LocalBlocksClassifier
from refimpl.data import Dataset, load
from refimpl.methods.local.momentum_auxiliary.learner import MomentumAuxiliary
from refimpl.record import Common, Contender, Experiment, Rule, Step

SETTINGS: dict[str, Any] = {
    "network": "resnet",
    "width": 8,
    "blocks": 2,
    "epochs": 10,
    "batch_size": 64,
    "lr": 0.1,
    "m": 0.995,
}
QUICK_EPOCHS = 3


def experiment(data: Dataset, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """MAN, its ablations and variants, the local rules that it builds on, and back-propagation on the same network.

    Settings: network ("resnet" with three stages of width, 2 width, 4 width and `blocks` blocks each, or "mlp" with
    blocks + 2 layers of 8 width); width; blocks; epochs; batch_size; lr; m; and quick. One module a layer; first
    weights of the layers are the same in all of them. Raises ValueError for a setting that does not exist.
    """
    given = record.given("momentum_auxiliary", SETTINGS, settings)
    s = {**SETTINGS, **given}
    if s["network"] not in ("resnet", "mlp"):
        raise ValueError(f"momentum_auxiliary: network is {s['network']!r}, expected one of resnet, mlp")
    if settings.get("quick") and "epochs" not in given:
        s["epochs"] = QUICK_EPOCHS
    width, blocks = s["width"], s["blocks"]
    same: dict[str, Any] = {name: s[name] for name in ("network", "epochs", "batch_size", "lr")}
    same |= {"widths": (width, 2 * width, 4 * width), "blocks": blocks, "hidden": (8 * width,) * (blocks + 2)}
    same |= {"random_state": seed}
    man: dict[str, Any] = {**same, "m": s["m"]}
    infopro = {"first": (5.0, 0.5), "last": (0.2, 0.5)}
    contenders = [
        Contender("A + E (MAN)", MomentumAuxiliary(**man)),
        Contender("E alone", MomentumAuxiliary(**man, paths="average")),
        Contender("A alone", MomentumAuxiliary(**man, paths="companion")),
        Contender("variant 2 (paper)", MomentumAuxiliary(**man, variant="paper")),
        Contender("variant 3 (scaled)", MomentumAuxiliary(**man, variant="scaled")),
        Contender("greedy", LocalBlocksClassifier("greedy", **same), "baseline"),
        Contender("DGL", LocalBlocksClassifier("dgl", **same), "baseline"),
        Contender("PredSim", LocalBlocksClassifier("predsim", **same), "baseline"),
        Contender("InfoPro", LocalBlocksClassifier("infopro", **same, options=infopro), "baseline"),
        Contender("back-propagation", LocalBlocksClassifier(**same, modules=1), "baseline"),
    ]
    return Experiment(contenders, data, lambda figure, results: draw(figure, results, data))


def rules(common: Common) -> list[Rule]:
    """MAN on the common network, one module a layer."""

    def make(rate: float, seed: int) -> MomentumAuxiliary:
        shared: dict[str, Any] = {"hidden": common.hidden, "epochs": common.epochs, "batch_size": common.batch_size}
        return MomentumAuxiliary(network="mlp", lr=rate, random_state=seed, **shared)

    return [Rule("MAN", make, (0.01, 0.03, 0.1), ("labels", "own head", "weights above"))]


# ---------------------------------------------------------------- the figure


def probe(learner: LocalBlocksClassifier, data: Dataset, most: int = 2000) -> list[float]:
    """Test accuracy of a linear read-out (ridge regression to one-hot labels) of each layer's pooled output."""

    def features(x: np.ndarray) -> list[np.ndarray]:
        pooled = [a.mean(axis=(2, 3)) if a.ndim == 4 else a for a in learner.activations(x)]
        return [np.concatenate([a, np.ones((len(a), 1), a.dtype)], axis=1).astype(np.float64) for a in pooled]

    y = data.y_train[:most]
    onehot = np.eye(data.n_classes)[y]
    found = []
    for train, test in zip(features(data.x_train[:most]), features(data.x_test)):
        gram = train.T @ train + 1e-3 * len(train) * np.eye(train.shape[1])
        weights = np.linalg.solve(gram, train.T @ onehot)
        found.append(float(np.mean((test @ weights).argmax(axis=1) == data.y_test)))
    return found


def draw(figure: Any, results: list[dict[str, Any]], data: Dataset) -> None:
    """How closely each E follows its layer; what each layer knows; accuracies."""
    from refimpl.viz import style

    named = {r["name"]: r for r in results}
    figure.set_size_inches(2 * style.WIDTH * 0.85, style.HEIGHT * 1.15)
    follow, known, bars = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    history = named["A + E (MAN)"]["history"]
    modules = sum(name.startswith("distance") for name in history[0])
    epochs = np.arange(1, len(history) + 1)
    for j in range(modules):
        curve = [m[f"distance{j}"] for m in history]
        follow.plot(epochs, curve, style.DASHES[j % 4], color=style.colour(j), label=str(j + 1))
    follow.set(
        title="E follows the next layer", xlabel="epoch", ylabel="distance, over the layer's norm", ylim=(0, None)
    )
    follow.legend(title="module", ncols=2)
    for i, name in enumerate(("A + E (MAN)", "greedy", "back-propagation")):
        accuracies = probe(named[name]["learner"], data)
        colour = style.colour(0) if i == 0 else style.BASELINE
        known.plot(range(len(accuracies)), accuracies, style.DASHES[i], marker="o", color=colour, label=name)
    known.set(title="What each layer knows", xlabel="layer", ylabel="test accuracy of a linear probe")
    known.set_xticks(range(len(accuracies)))
    style.percent_axis(known.yaxis)
    known.legend()
    shown = results[::-1]
    values = [r["score"] for r in shown]
    colours = [style.BASELINE if r["role"] == "baseline" else style.colour(0) for r in shown]
    bars.barh([r["name"] for r in shown], values, color=colours, height=0.65)
    for i, v in enumerate(values):
        bars.annotate(f"{100 * v:.1f} %", (0.02, i), ha="left", va="center", color=style.PAPER)
    bars.set(title="Test accuracy", xlim=(0, 1))
    bars.grid(axis="y", visible=False)
    style.percent_axis(bars.xaxis)


# ---------------------------------------------------------------- the race

_B, _SHAPE, _WIDTHS, _BLOCKS, _K, _LR, _M = 128, (3, 16, 16), (8, 16, 32), 2, 10, 0.1, 0.995


def race() -> list[Step]:
    """One step of all modules (blocks, heads, backward passes, gradient descent, following), as in the claims."""
    shape = f"B={_B}, ResNet {'/'.join(map(str, _WIDTHS))} x {_BLOCKS} on 3x16x16, 7 modules"
    flops = float(_learner().step_flops(_B))
    return [Step("MAN step", shape, "float32", _make_step, _make_torch_step, flops)]


def _batch() -> tuple[np.ndarray, np.ndarray]:
    """Random images and all classes in turn."""
    x = np.random.default_rng(0).random((_B, *_SHAPE), np.float32)
    return x, np.arange(_B) % _K


def _learner() -> MomentumAuxiliary:
    learner = MomentumAuxiliary(
        widths=_WIDTHS, blocks=_BLOCKS, m=_M, lr=_LR, schedule="constant", epochs=1, batch_size=_B, random_state=1
    )
    learner.begin(*_batch())
    return learner


def _make_step() -> Any:
    learner, (x, y) = _learner(), _batch()
    return lambda: math.fsum(learner._step(x, y))


def _make_torch_step(torch: Any) -> Any:
    """As its users would write it: detached inputs, one loss, one backward pass, SGD, copies moved under no_grad."""
    nn, F = torch.nn, torch.nn.functional
    learner = _learner()

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, c_in: int, c_out: int, stride: int):
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(c_out)
            self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(c_out)
            self.shortcut = nn.Sequential()
            if stride != 1 or c_in != c_out:
                self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

        def forward(self, x: Any) -> Any:
            h = F.relu(self.bn1(self.conv1(x)))
            return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))

    def fill(module: Any, arrays: list[np.ndarray]) -> None:
        for p, a in zip(module.parameters(), arrays, strict=True):
            p.data[...] = torch.from_numpy(np.ascontiguousarray(a.T if a.ndim == 2 else a))

    def mine(j: int, prefix: str) -> list[np.ndarray]:
        params = learner._all[j]
        return [params[n] for n in params.shapes if n.startswith(prefix)]

    plan = [(w, 2 if s and not b else 1) for s, w in enumerate(_WIDTHS) for b in range(_BLOCKS)]
    stem = nn.Sequential(nn.Conv2d(3, _WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU())
    layers, c = [stem], _WIDTHS[0]
    for width, stride in plan:
        layers.append(Block(c, width, stride))
        c = width
    for j, layer in enumerate(layers):
        fill(layer, mine(j, f"layer{j}."))
    averages = [copy.deepcopy(layer).requires_grad_(False) for layer in layers[1:]]
    companions = [copy.deepcopy(layer) for layer in layers[1:]]
    heads = [nn.Linear(width, _K) for width, _ in plan]
    last = nn.Linear(c, _K)
    for j, (companion, head) in enumerate(zip(companions, heads)):
        fill(companion, mine(j, "objective.following.companion."))
        fill(head, mine(j, "objective.head."))
    fill(last, mine(len(plan), "objective."))
    trained = [p for m in (*layers, *companions, *heads, last) for p in m.parameters()]
    optimizer = torch.optim.SGD(trained, lr=_LR, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True)
    image, y = map(torch.from_numpy, _batch())
    mean, scale = (torch.from_numpy(np.ascontiguousarray(a)) for a in learner._statistics)

    def step() -> float:
        x, total = (image - mean) * scale, 0.0
        optimizer.zero_grad()
        for layer, average, companion, head in zip(layers[:-1], averages, companions, heads):
            h = layer(x)
            u = companion(h) + average(h)
            loss = F.cross_entropy(head(u.mean(dim=(2, 3))), y)
            loss.backward()
            total += loss.item()
            x = h.detach()
        loss = F.cross_entropy(last(layers[-1](x).mean(dim=(2, 3))), y)
        loss.backward()
        with torch.no_grad():
            for average, layer in zip(averages, layers[1:]):
                for e, theta in zip(average.parameters(), layer.parameters()):
                    e.lerp_(theta, 1 - _M)
        optimizer.step()
        return total + loss.item()

    return step


# ---------------------------------------------------------------- a step to read


def teach() -> list[Step]:
    """One step of two modules, small enough to read: four digits, a stem and a block of two channels, in double
    precision. The network has seen the digits before, so that its gradients mean something."""
    return [Step("MAN: two modules", "B=4, 1x8x8, 2 channels, K=10", "float64", _small_step)]


def _small_step() -> Any:
    digits = load("digits")
    learner = MomentumAuxiliary(
        widths=(2,), blocks=1, lr=0.05, m=0.9, epochs=5, batch_size=64, dtype="float64", random_state=0
    )
    learner.begin(*digits.train)
    for _ in range(5):
        learner.advance()
    shown = np.array([np.flatnonzero(digits.y_train == k)[0] for k in (0, 1, 3, 7)])
    x, y = learner._X[shown], learner._y[shown]
    return lambda: math.fsum(learner._step(x, y))
