"""What `refimpl run noprop` and `refimpl bench noprop` do: the experiment with its figure, and the race."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from refimpl import record
from refimpl.baselines import BackpropClassifier, ChainClassifier, ForwardForwardClassifier
from refimpl.data import Dataset, load
from refimpl.methods.local.noprop.learner import NoProp
from refimpl.methods.local.noprop.losses import ct_loss, dt_loss, fm_loss
from refimpl.models.diffusion import chain, cosine_signal, gamma_schedule
from refimpl.models.label_denoiser import ReadOut, denoiser
from refimpl.nn import initialise
from refimpl.optim import AdamW
from refimpl.record import Common, Contender, Experiment, Rule, Step

# Settings of `refimpl run noprop --set name=value`.
SETTINGS = {"T": 10, "width": 128, "epochs": 30, "batch_size": 128, "lr": 1e-3, "embedding": "onehot", "block": "mlp"}


def experiment(data: Dataset, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """NoProp in its three variants, the same blocks trained end to end, an MLP by back-propagation, forward-forward.

    Settings: T, width, epochs (of each DT block; the other learners take as many steps as their epochs need, see
    below), batch_size, lr, embedding, block; and quick. The DT blocks, the chain and the MLP walk `epochs` times
    through the data, CT and FM, which are one network, 6 times as often, forward-forward twice.
    Raises ValueError for a setting that does not exist.
    """
    given = record.given("noprop", SETTINGS, settings)
    s = {**SETTINGS, **given}
    epochs = s["epochs"] if not settings.get("quick") or "epochs" in given else 8
    common: dict[str, Any] = {"batch_size": s["batch_size"], "lr": s["lr"], "random_state": seed}
    blocks: dict[str, Any] = {"width": s["width"], "embedding": s["embedding"], "block": s["block"], **common}
    mlp: dict[str, Any] = {"hidden": (s["width"], s["width"]), **common}
    backprop: dict[str, Any] = {"model": "lenet", **common} if s["block"] == "conv" else mlp
    contenders = [
        Contender("NoProp-DT", NoProp("dt", T=s["T"], epochs=epochs, **blocks)),
        Contender("NoProp-CT", NoProp("ct", epochs=6 * epochs, **blocks)),
        Contender("NoProp-FM", NoProp("fm", epochs=6 * epochs, **blocks)),
        Contender("back-propagation", BackpropClassifier(epochs=epochs, **backprop), "baseline"),
        Contender("chain, end to end", ChainClassifier(T=s["T"], epochs=epochs, **blocks), "baseline"),
        Contender("forward-forward", ForwardForwardClassifier(epochs=2 * epochs, **mlp), "baseline"),
    ]
    return Experiment(contenders, data, lambda figure, results: draw(figure, results, data))


# ---------------------------------------------------------------- the figure


def draw(figure: Any, results: list[dict[str, Any]], data: Dataset) -> None:
    """Accuracy on the way from noise to label; where a test image's label goes; training; the accuracies."""
    from refimpl.viz import style

    learners = {r["name"]: r["learner"] for r in results}
    figure.set_size_inches(2 * style.WIDTH * 0.85, 2 * style.HEIGHT)
    way, ternary, training, bars = figure.subplots(2, 2).ravel()
    colours = {r["name"]: style.BASELINE if r["role"] == "baseline" else style.colour(i) for i, r in enumerate(results)}
    _draw_way(way, learners, data, colours)
    _draw_trajectories(ternary, learners["NoProp-DT"], data)
    _draw_training(training, results, colours)
    _draw_bars(bars, results, colours)


def _own_noise(learner: Any, data: Dataset, **how: Any) -> np.ndarray:
    """The way of every test image, each from a start of its own: (steps + 1, n, D)."""
    return learner.denoise(data.x_test, rng=np.random.default_rng(0), path=True, **how)


def _draw_way(ax: Any, learners: Mapping[str, Any], data: Dataset, colours: Mapping[str, str]) -> None:
    from refimpl.viz import style

    for dash, name in zip(style.DASHES, ("NoProp-DT", "NoProp-CT", "NoProp-FM")):
        path = _own_noise(learners[name], data)
        accuracy = [float(np.mean(learners[name].nearest(z) == data.y_test)) for z in path]
        part = np.arange(len(path)) / (len(path) - 1)
        ax.plot(part, accuracy, dash, color=colours[name], marker="o", markersize=3, label=name)
    ax.axhline(1 / data.n_classes, color=style.MUTED, linewidth=1, linestyle=":")
    ax.set(title="From noise to label", xlabel="part of the way (t / T)", ylabel="test accuracy of the nearest class")
    ax.set_ylim(0, 1.02)
    style.percent_axis(ax.yaxis)
    ax.legend(loc="lower right")


def _draw_trajectories(ax: Any, learner: NoProp, data: Dataset, n: int = 14) -> None:
    """Some test images of the three classes that are confused most, seen from their three corners: a label z is put at
    the mean of the corners with softmax weights of its distances to the three class embeddings."""
    from refimpl.viz import style

    end = learner.nearest(learner.denoise(data.x_test, rng=np.random.default_rng(0)))
    confusion = np.zeros((data.n_classes, data.n_classes))
    np.add.at(confusion, (data.y_test, end), 1)
    confusion += confusion.T
    np.fill_diagonal(confusion, 0)
    first, second = np.unravel_index(confusion.argmax(), confusion.shape)
    rest = np.delete(np.arange(data.n_classes), [first, second])
    classes = [first, second, *rest[np.argsort(-(confusion[first] + confusion[second])[rest])][:1]]
    corners = np.array([[math.cos(a), math.sin(a)] for a in (math.pi / 2, math.pi * 7 / 6, -math.pi / 6)])
    ax.fill(*corners.T, facecolor="none", edgecolor=style.MUTED, linewidth=1)
    for i, k in enumerate(classes[:3]):
        chosen = np.flatnonzero(data.y_test == k)[:n]
        path = learner.denoise(data.x_test[chosen], rng=np.random.default_rng(1), path=True)
        weights = np.exp(
            4 * path[..., classes] if learner.embedding == "onehot" else _closeness(learner, path, classes)
        )
        at = (weights / weights.sum(axis=-1, keepdims=True)) @ corners[: len(classes)]
        for j in range(len(chosen)):
            ax.plot(*at[:, j].T, style.DASHES[i], color=style.colour(i), linewidth=0.9, alpha=0.7)
        ax.plot(*at[0].T, ".", color=style.MUTED, markersize=3)
        ax.plot(*at[-1].T, "o", color=style.colour(i), markersize=4)
        ax.annotate(f"class {k}", corners[i] * 1.12, ha="center", va="center", color=style.colour(i))
    ax.set(title="NoProp-DT: test images of three classes, from noise (grey)", xlim=(-1.35, 1.35), ylim=(-0.8, 1.3))
    ax.set_aspect("equal")
    ax.axis("off")


def _closeness(learner: NoProp, path: np.ndarray, classes: list[int]) -> np.ndarray:
    W = learner._params["embedding"]["table"][classes]
    squared = ((path[..., None, :] - W) ** 2).sum(axis=-1)
    return -2 * squared / squared.mean()


def _draw_training(ax: Any, results: list[dict[str, Any]], colours: Mapping[str, str]) -> None:
    """Denoising error by epoch: one line a DT block, pale for noisy input, full for nearly clean."""
    for r in results:
        learner = r["learner"]
        if r["name"] == "NoProp-DT":
            for t in range(1, learner.T + 1):
                weight = learner.T / 2 * learner._value("eta") * learner._chain.dsnr[t]
                curve = [m["denoising"] / weight for m in r["history"] if m["block"] == t]
                shade = 0.25 + 0.75 * t / learner.T
                label = f"DT, blocks 1 (pale) to {learner.T}" if t == learner.T else None
                part = np.arange(1, len(curve) + 1) / len(curve)
                ax.plot(part, curve, color=colours[r["name"]], alpha=shade, linewidth=1.2, label=label)
        elif r["name"] == "NoProp-FM":
            curve = [m["denoising"] for m in r["history"]]
            part = np.arange(1, len(curve) + 1) / len(curve)
            ax.plot(part, curve, "-.", color=colours[r["name"]], linewidth=1.2, label="FM (velocity)")
    ax.set(title="Training", xlabel="part of the training", ylabel="mean squared error", yscale="log")
    ax.legend(loc="upper right")


def _draw_bars(ax: Any, results: list[dict[str, Any]], colours: Mapping[str, str]) -> None:
    from refimpl.viz import style

    names = [r["name"] for r in results][::-1]
    values = [r["score"] for r in results][::-1]
    ax.barh(names, values, color=[colours[n] for n in names], height=0.65)
    for i, v in enumerate(values):
        ax.annotate(
            f"{100 * v:.1f} %",
            (v, i),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=style.on(colours[names[i]]),
        )
    ax.set(title="Test accuracy", xlim=(0, 1))
    ax.grid(axis="y", visible=False)
    style.percent_axis(ax.xaxis)


# ---------------------------------------------------------------- the race

_B, _D, _WIDTH, _K, _T = 128, 784, 256, 10, 10


def race() -> list[Step]:
    """One DT training step of one block (loss, gradients, AdamW), as in the claims on MNIST."""
    # the image layer without, all others with the gradient of their input; 2 flops a multiplication and addition
    flops = 2.0 * _B * (2 * _D * _WIDTH + 3 * 2 * _WIDTH * _WIDTH + 2 * _K * _WIDTH + 3 * _WIDTH * _K)
    shape = f"B={_B}, D={_D}, width={_WIDTH}, K={_K}"
    return [Step("NoProp-DT step", shape, "float32", _make_step, _make_torch_step, flops)]


def _batch() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    x = rng.random((_B, _D), np.float32)
    return x, rng.integers(0, _K, _B), *rng.standard_normal((2, _B, _K)).astype(np.float32)


def _make_step() -> Any:
    block, readout = denoiser("mlp", (_D,), _K, _K, _WIDTH), ReadOut("linear", _K, _K)
    steps, optimizer = chain(cosine_signal(_T)), AdamW(1e-3, weight_decay=1e-3)
    x, y, eps, eps_last = _batch()
    rng = np.random.default_rng(1)
    params = {name: initialise(layer, rng) for name, layer in (("block", block), ("readout", readout))}
    grads = {name: p.zeros_like() for name, p in params.items()}
    states = {name: optimizer.init(p) for name, p in params.items()}

    def step() -> float:
        terms = dt_loss(block, readout, params, grads, None, None, x, y, 5, steps, 0.1, eps, eps_last)
        for name, p in params.items():
            optimizer.step(p, grads[name], states[name])
            grads[name].flat[...] = 0
        return terms.total

    return step


def _make_torch_step(torch: Any) -> Any:
    nn = torch.nn
    torch.manual_seed(1)
    image = nn.Sequential(nn.Linear(_D, _WIDTH), nn.ReLU())
    label = nn.Sequential(nn.Linear(_K, _WIDTH), nn.ReLU())
    join_image, join_label = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH, bias=False)
    head, readout = nn.Sequential(nn.ReLU(), nn.Linear(_WIDTH, _K)), nn.Linear(_K, _K)
    modules = nn.ModuleList([image, label, join_image, join_label, head, readout])
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3, weight_decay=1e-3, foreach=True)
    steps = chain(cosine_signal(_T))
    x, y, eps, eps_last = map(torch.from_numpy, _batch())
    before, last, weight = float(steps.abar[4]), float(steps.abar[-1]), _T / 2 * 0.1 * float(steps.dsnr[5])

    def step() -> float:
        u = nn.functional.one_hot(y, _K).float()
        z = math.sqrt(before) * u + math.sqrt(1 - before) * eps
        uhat = torch.softmax(head(join_image(image(x)) + join_label(label(z))), dim=1)
        z_last = math.sqrt(last) * u + math.sqrt(1 - last) * eps_last
        loss = nn.functional.cross_entropy(readout(z_last), y) + weight * ((uhat - u) ** 2).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


# ---------------------------------------------------------------- a step to read


def teach() -> list[Step]:
    """One training step of each variant, small enough to read: four digits, eight hidden units, double precision.

    The networks have seen a few hundred images before, so that their gradients mean something.
    """
    shape = "B=4, D=64, width=8, K=10"
    variants = {"dt": "block 5 of 10 (discrete time)", "ct": "continuous time", "fm": "flow matching"}
    return [
        Step(f"NoProp-{v.upper()}: {what}", shape, "float64", partial(_small_step, v)) for v, what in variants.items()
    ]


def _small_step(variant: str) -> Any:
    digits, K, width = load("digits"), 10, 8
    timed = variant != "dt"
    main, schedule = ("net" if timed else "block"), gamma_schedule("learned", 1e-3, 0.999)
    net, readout = denoiser("mlp", (64,), K, K, width, timed, time_width=8), ReadOut("linear", K, K)
    optimizer, steps, rng = AdamW(1e-2, weight_decay=1e-3), chain(cosine_signal(_T)), np.random.default_rng(0)
    layers = {main: net, "readout": readout, **({"schedule": schedule} if variant == "ct" else {})}
    params = {name: initialise(layer, rng, "float64") for name, layer in layers.items()}
    grads = {name: p.zeros_like() for name, p in params.items()}
    states = {name: optimizer.init(p) for name, p in params.items() if p.size}

    def step(rows: np.ndarray) -> float:
        x, y = digits.x_train[rows].reshape(len(rows), -1).astype(np.float64), digits.y_train[rows]
        t, (eps, eps_last) = rng.random(len(y)), rng.standard_normal((2, len(y), K))
        if variant == "dt":
            terms = dt_loss(net, readout, params, grads, None, None, x, y, 5, steps, 0.1, eps, eps_last)
        elif variant == "ct":
            terms = ct_loss(net, readout, schedule, params, grads, None, None, x, y, t, 1.0, eps, eps_last)
        else:
            terms = fm_loss(net, readout, params, grads, None, None, x, y, t, eps)
        for name, state in states.items():
            optimizer.step(params[name], grads[name], state)
            grads[name].flat[...] = 0
        return terms.total

    for _ in range(20):
        step(rng.choice(len(digits.x_train), 32, replace=False))
    shown = np.array([np.flatnonzero(digits.y_train == k)[0] for k in (0, 3, 6, 9)])
    return lambda: step(shown)


def rules(common: Common) -> list[Rule]:
    """One block for each hidden layer of the common network, which each see the input and a noisy label."""
    shared: dict[str, Any] = {
        "T": len(common.hidden),
        "width": common.hidden[0],
        "epochs": common.epochs,
        "batch_size": common.batch_size,
    }

    def make(rate: float, seed: int) -> NoProp:
        return NoProp("dt", lr=rate, random_state=seed, **shared)

    note = "blocks one after the other on the same width, each with the input and a noisy label of its own"
    return [Rule("NoProp", make, (3e-4, 1e-3, 3e-3), ("labels", "own head"), note=note)]
