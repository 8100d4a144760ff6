"""What `refimpl run physical_ff` and `refimpl bench` do: the experiment with its figure, the race, steps to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from refimpl import ops, record
from refimpl.baselines import ForwardForwardClassifier, PhysicalBackpropClassifier, RidgeClassifier
from refimpl.data import Dataset, load
from refimpl.data.vowels import Vowels
from refimpl.methods.local.physical_ff.learner import PhysicalForwardForward
from refimpl.optim import Adam
from refimpl.record import Common, Contender, Experiment, Rule, Step

# Settings of `refimpl run physical_ff --set name=value`; None: the value for vowels or for images, below.
SETTINGS: dict[str, Any] = {"theta": None, "inner_steps": None, "epochs": None, "lr": None, "noise": 0.0, "drift": 0.0}
VOWELS: dict[str, Any] = {"theta": 4.0, "inner_steps": 10, "epochs": 200, "lr": 5e-4}
IMAGES: dict[str, Any] = {"theta": 5.0, "inner_steps": 5, "epochs": 12, "lr": 1e-3}
N_TRAIN, N_TEST, BATCH = 6000, 1000, 500


def experiment(data: Any, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """Vowels: all three physical systems, no physics, back-propagation through the system and through models of it,
    ridge regression, forward-forward. Images: optical layers, no physics, the digital variant, ridge, forward-forward.

    Settings: theta, inner_steps, epochs, lr, noise, drift; and quick. Raises ValueError for a setting that does not
    exist, and for images that have colours.
    """
    asked = {k: v for k, v in settings.items() if v is not None}
    given = record.given("physical_ff", {**SETTINGS, **IMAGES}, asked)
    spoken = isinstance(data, Vowels)
    s = {**SETTINGS, **(VOWELS if spoken else IMAGES), **given}
    if settings.get("quick") and given.get("epochs") is None:
        s["epochs"] = 40 if spoken else 3
    contenders = _spoken(s, seed) if spoken else None
    data = data.standardised() if spoken else small_images(data, seed)
    contenders = contenders or _seen(s, seed, data)
    return Experiment(contenders, data, lambda figure, results: draw(figure, results, data))


def _spoken(s: Mapping[str, Any], seed: int) -> list[Contender]:
    own: dict[str, Any] = {k: s[k] for k in ("theta", "inner_steps", "epochs", "lr")}
    own |= {"label_slots": 8, "random_state": seed}
    world: dict[str, Any] = {"noise": s["noise"], "drift": s["drift"]}
    steep = own | {"lr": 4 * s["lr"]}
    P, B, R, F = PhysicalForwardForward, PhysicalBackpropClassifier, RidgeClassifier, ForwardForwardClassifier
    waves = steep | {"epochs": max(1, s["epochs"] // 5), "widths": (20, 20, 20)}
    # each baseline with the features and the learning rate that serve it best
    through: dict[str, Any] = {"epochs": max(1, 3 * s["epochs"] // 2), "lr": 3e-2, "random_state": seed}
    modelled = {"epochs": s["epochs"], "lr": 1e-2, "scaling": "centred", "random_state": seed}
    return [
        Contender("acoustic", P("acoustic", **own, **world)),
        Contender("microwave, 2 bits", P("microwave", **waves, **world)),
        Contender("optical, no skip", P("optical", skip=False, **steep, **world)),
        Contender("no physics", P(None, **own), "baseline"),
        Contender("ideal back-propagation", B(**through), "baseline"),
        Contender("in silico, twin off by 0.5", B(gradient="twin", twin_error=0.5, **modelled), "baseline"),
        Contender("physics-aware, twin off by 0.5", B(gradient="aware", twin_error=0.5, **through), "baseline"),
        Contender("ridge", R(random_state=seed), "baseline"),
        Contender("ridge on acoustic layer", R(physics="acoustic", padding=8, random_state=seed), "baseline"),
        Contender("forward-forward", F((40, 40), epochs=s["epochs"], random_state=seed), "baseline"),
    ]  # fmt: skip


def _seen(s: Mapping[str, Any], seed: int, data: Dataset) -> list[Contender]:
    n = int(np.prod(data.shape))
    own: dict[str, Any] = {k: s[k] for k in ("theta", "inner_steps", "epochs", "lr")}
    own |= {"widths": (n, n), "label_width": 4, "scaling": "none", "batch_size": BATCH, "random_state": seed}
    P, R, F = PhysicalForwardForward, RidgeClassifier, ForwardForwardClassifier
    world: dict[str, Any] = {"noise": s["noise"], "drift": s["drift"]}
    ridge: dict[str, Any] = {"scaling": "none", "dtype": "float32", "random_state": seed}
    return [
        Contender("optical, 1 layer", P("optical", skip=False, **{**own, "widths": (n,)}, **world)),
        Contender("optical, 2 layers", P("optical", skip=False, **own, **world)),
        Contender("digital", P(None, variant="digital", **own)),
        Contender("no physics", P(None, **own), "baseline"),
        Contender("ridge", R(**ridge), "baseline"),
        Contender("ridge on optical layer", R(physics="optical", width=n, **ridge), "baseline"),
        Contender("forward-forward", F((n, n), epochs=s["epochs"], random_state=seed), "baseline"),
    ]  # fmt: skip


def small_images(data: Dataset, seed: int, n_train: int = N_TRAIN, n_test: int = N_TEST) -> Dataset:
    """At most so many images; 28 x 28 pixels become 14 x 14 by averages of four. Raises ValueError for colours."""
    C, H, W = data.shape
    if C != 1:
        raise ValueError(f"physical_ff: {data.name} has {C} colours, expected grey images")
    data = data.subset(min(n_train, len(data.x_train)), min(n_test, len(data.x_test)), seed)
    if (H, W) != (28, 28):
        return data
    pooled = [x.reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5), dtype=np.float32) for x in (data.x_train, data.x_test)]
    title = f"{data.title}, averaged to 14 x 14"
    return replace(data, x_train=pooled[0], x_test=pooled[1], shape=(1, 14, 14), title=title)


# ---------------------------------------------------------------- the figure


def draw(figure: Any, results: list[dict[str, Any]], data: Any) -> None:
    """Goodness with right and wrong labels; which label is best for which class; training; the accuracies."""
    from refimpl.viz import style

    figure.set_size_inches(2 * style.WIDTH * 0.85, 2 * style.HEIGHT)
    histogram, table, training, bars = figure.subplots(2, 2).ravel()
    shown = results[0]
    colours = {r["name"]: style.BASELINE if r["role"] == "baseline" else style.colour(i) for i, r in enumerate(results)}
    X, y = data.test
    layers = shown["learner"].goodness(X, layers=True)
    draw_goodness(histogram, layers, y)
    draw_labels(table, layers.sum(axis=0), y, getattr(data, "classes", None))
    for r in results:
        if r["role"] == "method":
            curve = [m["loss"] for m in r["history"]]
            part = np.arange(1, len(curve) + 1) / len(curve)
            training.plot(part, curve, color=colours[r["name"]], linewidth=1.3, label=r["name"])
    training.axhline(np.log(2), color=style.MUTED, linewidth=1, linestyle=":")
    training.set(title="Contrastive loss (dotted: log 2)", xlabel="part of the training", ylabel="loss", yscale="log")
    training.legend(loc="lower left")
    _draw_bars(bars, results, colours)


def draw_goodness(ax: Any, layers: np.ndarray, y: np.ndarray) -> None:
    """Histograms of the goodness g of right and wrong labels, layer by layer; layers (L, n, K)."""
    from refimpl.viz import style

    right = np.eye(layers.shape[2], dtype=bool)[y]
    low, high = float(layers.min()), float(layers.max())
    edges = np.linspace(low, high + 1e-6, 41)
    for k, g in enumerate(layers):
        for kind, chosen in (("right", right), ("wrong", ~right)):
            part, _ = np.histogram(g[chosen], edges, density=True)
            colour = style.colour(0 if kind == "right" else 1)
            label = f"layer {k + 1}, {kind} label"
            ax.stairs(part, edges, color=colour, linestyle=style.DASHES[k % 4], linewidth=1.4, label=label)
    ax.set(title="Test data with right and wrong labels", xlabel="goodness, cos(|z|, p)", ylabel="density")
    ax.legend(loc="upper center")


def draw_labels(ax: Any, G: np.ndarray, y: np.ndarray, classes: Any = None) -> None:
    """Mean goodness that test data of each class have with each label, above the mean of their labels."""
    K = G.shape[1]
    means = np.array([G[y == k].mean(axis=0) if (y == k).any() else np.zeros(K) for k in range(K)])
    means -= means.mean(axis=1, keepdims=True)
    ax.imshow(means, aspect="auto")
    names = list(classes) if classes is not None else [str(k) for k in range(K)]
    ax.set_xticks(range(K), names)
    ax.set_yticks(range(K), names)
    ax.grid(visible=False)
    ax.set(title="Goodness of every label (bright: high)", xlabel="label written into the input", ylabel="class")


def _draw_bars(ax: Any, results: list[dict[str, Any]], colours: Mapping[str, str]) -> None:
    from refimpl.viz import style

    names, values = [r["name"] for r in results][::-1], [r["score"] for r in results][::-1]
    ax.barh(names, values, color=[colours[n] for n in names], height=0.68)
    for i, v in enumerate(values):
        where = {"xytext": (-4, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        ax.annotate(f"{100 * v:.1f} %", (v, i), color=style.on(colours[names[i]]), **where)
    ax.set(title="Test accuracy", xlim=(0, 1))
    ax.grid(axis="y", visible=False)
    style.percent_axis(ax.xaxis)


# ---------------------------------------------------------------- the race

_VOWELS: dict[str, Any] = {"label_slots": 8, "random_state": 0}
_IMAGES: dict[str, Any] = {"widths": (196, 196), "skip": False, "theta": 5.0, "inner_steps": 5, "lr": 1e-3}
_IMAGES |= {"label_width": 4, "scaling": "none", "batch_size": 500, "random_state": 0}


def race() -> list[Step]:
    """One training step, simulated physics included: the paper's acoustic layers on a batch of all vowels, and optical
    layers on 500 images of 14 x 14 pixels."""
    B, n = 206, 10
    acoustic = 2 * n * 8.0 * B * 40 * 20 + 2 * 2 * B * (2 * 20 * 40 + 2 * 40 * 40)
    optical = 2 * 5 * 8.0 * 500 * 196 * 196 + 2 * 500 * 2 * 2 * 196 * (236 + 196)
    return [
        Step("physical FF, acoustic", f"B={B}, 40->20, 2 layers, {n} inner", "float32",
             partial(_make_step, "acoustic"), partial(_make_torch_step, "acoustic"), acoustic),
        Step("physical FF, optical", "B=500, 196->196, 2 layers, 5 inner", "float32",
             partial(_make_step, "optical"), partial(_make_torch_step, "optical"), optical),
    ]  # fmt: skip


def _learner(kind: str) -> PhysicalForwardForward:
    rng = np.random.default_rng(0)
    X, K = (rng.standard_normal((206, 12)), 7) if kind == "acoustic" else (rng.random((500, 196)), 10)
    learner = PhysicalForwardForward(kind, **(_VOWELS if kind == "acoustic" else _IMAGES))
    learner.begin(X.astype(np.float32), np.arange(len(X)) % K)
    return learner


def _make_step(kind: str) -> Any:
    learner = _learner(kind)
    return lambda: learner._advance(0)["loss"]  # all rows are one batch


def _make_torch_step(kind: str, torch: Any) -> Any:
    own, F = _learner(kind), torch.nn.functional
    rng, K, theta, skip = own._rngs["train"], own._input.K, own.theta, own.skip
    blank, y, amplitude = torch.from_numpy(own._X), torch.from_numpy(own._y), own._input.amplitude
    width, B = own.label_width, len(own._y)
    linears, optimizers, matrices, directions = [], [], [], []
    for params, one in zip(own._params.values(), own._systems):
        linear = torch.nn.Linear(*params["weight"].shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(params["weight"].T.copy()))
            linear.bias.copy_(torch.from_numpy(params["bias"].copy()))
        linears.append(linear)
        optimizers.append(torch.optim.Adam(linear.parameters(), lr=own.lr, foreach=True))
        directions.append(torch.from_numpy(params["direction"].copy()))
        matrices.append({k: torch.complex(*torch.from_numpy(m.astype(np.float32))).T for k, m in one.state().items()})

    def physics(k: int, h: Any) -> Any:
        if kind == "optical":
            return (h.to(torch.complex64) @ matrices[k]["T"]).abs()
        x = h.abs() / (torch.linalg.vector_norm(h, dim=1, keepdim=True) + 1e-6)
        a = x.to(torch.complex64) @ matrices[k]["H"]
        return (a + 2.4 * ((a.abs() ** 2 * a) @ matrices[k]["G"])).abs()

    def overlay(c: Any) -> Any:
        places = c[:, None] * width + torch.arange(width)
        return blank[order].scatter(1, places, amplitude)

    order = torch.arange(B)

    def step() -> float:
        nonlocal order
        order = torch.from_numpy(rng.permutation(B))
        right = y[order]
        wrong = (right + torch.from_numpy(rng.integers(1, K, B))) % K
        h, total = torch.cat([overlay(right), overlay(wrong)]), 0.0
        for k, (linear, optimizer, p) in enumerate(zip(linears, optimizers, directions)):
            with torch.no_grad():
                u = torch.cat([physics(k, h), h], dim=1) if skip else physics(k, h)
            for _ in range(own.inner_steps):
                g = F.cosine_similarity(linear(u).abs(), p[None], dim=1)
                loss = F.softplus(-theta * (g[:B] - g[B:])).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            with torch.no_grad():
                h = linear(u)
        return total / (len(linears) * own.inner_steps)

    return step


# ---------------------------------------------------------------- steps to read


def teach() -> list[Step]:
    """Two training steps small enough to read: four vowels, acoustic layers of four units, double precision. First a
    pass of the inner loop taken apart into its operations, then a step of two layers as training runs it."""
    return [
        Step("one pass of the inner loop, taken apart", "B=4, D=20, 4 units", "float64", _small_pass),
        Step("two acoustic layers", "B=4, D=20, 2 layers of 4 units", "float64", _small_step),
    ]


def _small_learner() -> PhysicalForwardForward:
    """A learner that has trained for ten epochs, and then sees four vowels only."""
    vowels = load("surrogate-vowels").standardised()
    X, y = vowels.train
    shown = np.array([np.flatnonzero(y == k)[0] for k in (0, 1, 3, 5)])
    learner = PhysicalForwardForward(
        widths=(4, 4), inner_steps=2, epochs=10, lr=1e-2, label_slots=8, dtype="float64", random_state=0
    )
    learner.begin(X, y)
    for _ in range(10):
        learner.advance()
    learner._X, learner._y = learner._X[shown], learner._y[shown]
    return learner


def _small_step() -> Any:
    learner = _small_learner()
    return lambda: learner._advance(10)["loss"]


def _small_pass() -> Any:
    """The operations that `goodness_steps` fuses, one by one."""
    learner = _small_learner()
    name = next(iter(learner._params))
    params, state, adam = learner._params[name], learner._optimizers[name], Adam(learner.lr)
    grads, y, K = params.zeros_like(), learner._y, learner._input.K
    h = np.concatenate([learner._input.overlay(learner._X, labels) for labels in (y, (y + 1) % K)])

    def step() -> float:
        u = learner.see(0, h)  # the physics: seen, never differentiated
        z = ops.linear(u, params["weight"], params["bias"])
        loss, _, dz = ops.goodness_contrast(z, params["direction"], learner.theta, True)
        grads.flat[...] = 0
        ops.linear_backward(dz, u, params["weight"], False, (grads["weight"], grads["bias"]))
        adam.step(params, grads, state)
        return float(loss.mean())

    return step


def rules(common: Common) -> list[Rule]:
    """The digital variant on the common widths: no physics, GELU layers, the same goodness."""

    def make(rate: float, seed: int) -> PhysicalForwardForward:
        shared: dict[str, Any] = {"widths": common.hidden, "epochs": common.epochs, "batch_size": common.batch_size}
        return PhysicalForwardForward(None, variant="digital", lr=rate, random_state=seed, **shared)

    note = "digital layers, GELU; ten steps of Adam a batch; labels are part of the input, every label is tried"
    signals = ("labels", "fixed random", "second pass")
    return [Rule("Physical forward-forward", make, (2e-4, 5e-4, 1e-3), signals, note=note)]
