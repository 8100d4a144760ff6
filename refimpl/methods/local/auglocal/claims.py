"""What the paper says, measured. The thresholds are those of the paper's card, written down before the first run.

The pilot, from which they come: 8,000 training and 2,000 test images of CIFAR-10 (both from its training batches,
because the test batch that is read here has 1,000), averaged to 16 x 16; a ResNet of widths 8/16/32 with 2 blocks a
stage (n = 7 layers); batches of 128, Nesterov's momentum 0.9, rate 0.1 falling to 0 as a cosine, weight decay 1e-4, 10
epochs, no augmentation; one module per layer. A seed draws images, first weights and the order of the batches.

Several claims look at the same trained networks, so these are kept within a process.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from refimpl.baselines import LocalBlocksClassifier
from refimpl.data import Dataset
from refimpl.methods.local.auglocal.learner import AugLocal
from refimpl.methods.local.auglocal.schedule import selected
from refimpl.methods.local.auglocal.thinned import agreement, auxiliary, copied
from refimpl.models.column import resnet_column
from refimpl.models.isolated import CrossEntropy, Isolated
from refimpl.models.representation import linear_cka
from refimpl.nn import initialise
from refimpl.record import Setting, claim
from refimpl.viz.bars import seed_bars

Values = list[Mapping[str, Any]]
PILOT: dict[str, Any] = {"widths": (8, 16, 32), "blocks": 2, "lr": 0.1, "weight_decay": 1e-4, "batch_size": 128}
EPOCHS, N_TRAIN, N_TEST = 10, 8000, 2000
MLP: dict[str, Any] = {"network": "mlp", "hidden": (256,) * 5}


# ---------------------------------------------------------------- shared


def halved(data: Dataset) -> Dataset:
    """Images averaged over squares of 2 x 2 pixels. Raises ValueError for an odd extent."""
    c, h, w = data.shape
    if h % 2 or w % 2:
        raise ValueError(f"halved: images of {h} x {w} pixels, expected even extents")

    def means(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))

    title = f"{data.title}, averaged to {h // 2} x {w // 2}"
    shape = (c, h // 2, w // 2)
    return replace(data, x_train=means(data.x_train), x_test=means(data.x_test), shape=shape, title=title)


def pilot_data(data: Dataset, seed: int, n_train: int = N_TRAIN, n_test: int = N_TEST) -> Dataset:
    """n_train + n_test of the training images, halved; none is in both parts."""
    drawn = data.subset(n_train + n_test, 1, seed)
    x, y = drawn.train
    train, test = (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:])
    return halved(replace(drawn, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1]))


_trained: dict[Any, Any] = {}
_data: dict[Any, Dataset] = {}


def _pilot(setting: Setting, n_train: int = N_TRAIN) -> Dataset:
    key = setting.seed, n_train, setting.quick
    if key not in _data:
        assert setting.data is not None, "this claim names data sets"
        sizes = (400, 200) if setting.quick else (n_train, N_TEST)
        _data[key] = pilot_data(setting.data, setting.seed, *sizes)
    return _data[key]


def _fit(setting: Setting, kind: type, n_train: int = N_TRAIN, epochs: int = EPOCHS, **options: Any) -> Any:
    """The learner with these options, trained on the pilot's images; not again where this process has it."""
    key = str((setting.seed, setting.quick, kind, n_train, epochs, sorted(options.items(), key=lambda item: item[0])))
    if key not in _trained:
        data = _pilot(setting, n_train)
        learner = kind(**{**PILOT, **options}, epochs=2 if setting.quick else epochs, random_state=setting.seed)
        learner.begin(*data.train)
        while learner.progress_ < learner.total_:
            learner.advance()
            setting.tell(f"{learner!r}, epoch {learner.progress_}")
        learner.finish()
        _trained[key] = learner
    return _trained[key]


def _bp(setting: Setting, **options: Any) -> Any:
    return _fit(setting, LocalBlocksClassifier, modules=1, **options)


def _greedy(setting: Setting, **options: Any) -> Any:
    return _fit(setting, LocalBlocksClassifier, rule="greedy", **options)


def _auglocal(setting: Setting, **options: Any) -> Any:
    return _fit(setting, AugLocal, **options)


def _one_module() -> LocalBlocksClassifier:
    return LocalBlocksClassifier(modules=1)


def _score(setting: Setting, learner: Any, n_train: int = N_TRAIN) -> float:
    return learner.score(*_pilot(setting, n_train).test)


def _mean(values: Values, name: str) -> float:
    return float(np.mean([v[name] for v in values]))


def _percent(values: Values, name: str) -> str:
    """Mean and spread over the seeds."""
    each = [100 * v[name] for v in values]
    return f"{np.mean(each):.1f} ± {np.std(each, ddof=1):.1f} %" if len(each) > 1 else f"{each[0]:.1f} %"


# ---------------------------------------------------------------- 1: ordering

_ORDERING = {
    "bp": "back-propagation",
    "auglocal": "AugLocal, d = 2",
    "greedy": "greedy",
    "long_bp": "n = 10: back-propagation",
    "long_auglocal": "n = 10: AugLocal, d = 2",
    "long_dgl": "n = 10: DGL",
    "long_greedy": "n = 10: greedy",
    "mlp_bp": "MLP: back-propagation",
    "mlp_auglocal": "MLP: AugLocal, d = 2",
    "mlp_greedy": "MLP: greedy",
}


def _judge_ordering(values: Values) -> tuple[bool, str]:
    bp, mine, greedy = (_mean(values, name) for name in ("bp", "auglocal", "greedy"))
    longer = _mean(values, "long_auglocal") > _mean(values, "long_greedy")
    note = "; ".join(f"{label} {_percent(values, name)}" for name, label in _ORDERING.items())
    return mine >= greedy + 0.03 and mine >= bp - 0.035 and longer, note


@claim(
    "auglocal",
    "ordering",
    "Thinned copies of the rest of the network close most of the gap between greedy local learning and "
    "back-propagation, with one module per layer.",
    "accuracy(AugLocal) >= accuracy(greedy) + 3 points and >= accuracy(back-propagation) - 3.5 points, and in the "
    "longer network (n = 10, 4,000 images, 6 epochs) AugLocal > greedy; means over the seeds",
    _judge_ordering,
    data=("cifar-10",),
    draw=lambda figure, values: seed_bars(
        figure.subplots(),
        values,
        _ORDERING,
        ("bp", "greedy", "long_bp", "long_dgl", "long_greedy", "mlp_bp", "mlp_greedy"),
        whole=False,
    ),
)
def ordering(setting: Setting) -> dict[str, float]:
    longer: dict[str, Any] = {"blocks": 3, "n_train": 4000, "epochs": 6}
    dgl = _fit(setting, LocalBlocksClassifier, rule="dgl", options={"width": 32}, **longer)
    found = {f"long_{k}": _score(setting, f(setting, **longer), 4000) for k, f in _RULES.items()}
    found["long_dgl"] = _score(setting, dgl, 4000)
    found |= {k: _score(setting, f(setting)) for k, f in _RULES.items()}
    return found | {f"mlp_{k}": _score(setting, f(setting, lr=0.03, **MLP)) for k, f in _RULES.items()}


_RULES = {"bp": _bp, "auglocal": _auglocal, "greedy": _greedy}


# ---------------------------------------------------------------- 2: depth matters

_DEPTH = {
    "d1": "d = 1",
    "d2": "d = 2",
    "d3": "d = 3",
    "repeated": "d = 2, blocks of stride 1 and constant width",
    "consecutive": "d = 2, the next layers",
    "conv": "d = 2, plain convolutions",
}


def _judge_depth(values: Values) -> tuple[bool, str]:
    d1, d2, d3, repeated = (_mean(values, name) for name in ("d1", "d2", "d3", "repeated"))
    note = "; ".join(f"{label} {_percent(values, name)}" for name, label in _DEPTH.items())
    note += f"; margins: d = 3 over d = 1 {100 * (d3 - d1):+.1f}, evenly picked over repeated "
    return d3 >= d1 - 0.005 and d2 > repeated, note + f"{100 * (d2 - repeated):+.1f} points"


@claim(
    "auglocal",
    "depth",
    "Deeper auxiliary networks do no worse, and layers picked evenly from those above do better than as many blocks of "
    "the layer's own width and extent.",
    "accuracy(d = 3) >= accuracy(d = 1) - 0.5 points, and accuracy(d = 2, evenly picked) > accuracy(d = 2, blocks of "
    "stride 1 and constant width); means over the seeds",
    _judge_depth,
    data=("cifar-10",),
    draw=lambda figure, values: seed_bars(
        figure.subplots(), values, _DEPTH, ("repeated", "consecutive", "conv"), whole=False
    ),
)
def depth(setting: Setting) -> dict[str, float]:
    learners = {"d1": {"d": 1}, "d2": {"d": 2}, "d3": {"d": 3}}
    learners |= {"repeated": {"selection": "repeated"}, "consecutive": {"selection": "consecutive"}}  # type: ignore[dict-item]
    learners |= {"conv": {"unit": "conv"}}  # type: ignore[dict-item]
    return {name: _score(setting, _auglocal(setting, **({} if name == "d2" else o))) for name, o in learners.items()}


# ---------------------------------------------------------------- 3: memory


def resnet32(learner: Any, B: int, seed: int, quick: bool) -> Any:
    """A learner of ResNet-32 (of ResNet-14, where it should be quick), begun on B random images of 32 x 32."""
    rng = np.random.default_rng(seed)
    x, y = rng.random((B, 3, 32, 32), np.float32), np.arange(B) % 10
    learner.set_params(blocks=2 if quick else 5, widths=(16, 32, 64), batch_size=B, random_state=seed)
    learner.begin(x, y)
    return learner


def _judge_memory(values: Values) -> tuple[bool, str]:
    parts, holds = [], True
    for v in values:
        ratios = [max(v[f"d{d}"]) / v["bp"] for d in (1, 3, 5)]
        holds = holds and max(ratios) <= 0.6 and ratios == sorted(ratios)
        parts = [f"d = {d}: {r:.2f}" for d, r in zip((1, 3, 5), ratios)]
    greedy = max(values[-1]["greedy"]) / values[-1]["bp"]
    return holds, f"largest module over back-propagation's {values[-1]['bp'] / 2**20:.0f} MiB: " + ", ".join(
        parts
    ) + f" (greedy: {greedy:.2f})"


def _draw_memory(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax, v = figure.subplots(), values[0]
    for i, name in enumerate(("greedy", "d1", "d3", "d5")):
        colour = style.BASELINE if name == "greedy" else style.colour(i)
        label = name if name == "greedy" else f"AugLocal, d = {name[1:]}"
        ax.plot(np.array(v[name]) / 2**20, style.DASHES[i % 4], marker="o", color=colour, label=label, markersize=3.5)
    ax.axhline(v["bp"] / 2**20, color=style.INK, linewidth=1)
    ax.annotate("back-propagation", (0, v["bp"] / 2**20), xytext=(2, -12), textcoords="offset points")
    ax.set(xlabel="module", ylabel="activations kept (MiB)", ylim=(0, None))
    ax.legend()


@claim(
    "auglocal",
    "memory",
    "A module's activations can be let go as soon as it is updated: the largest module keeps much less than "
    "back-propagation (ResNet-32, 32 x 32 images, batches of 128; bytes counted while a step runs).",
    "largest module <= 0.6 of back-propagation for d = 1, 3, 5, and not larger for a smaller d",
    _judge_memory,
    draw=_draw_memory,
    quick_judged=False,
)
def memory(setting: Setting) -> dict[str, Any]:
    B = 8 if setting.quick else 128
    learners = {f"d{d}": AugLocal(d) for d in (1, 3, 5)} | {"greedy": LocalBlocksClassifier()}

    def kept(learner: Any) -> list[int]:
        return resnet32(learner, B, setting.seed, setting.quick).kept_bytes(B)

    return {name: kept(learner) for name, learner in learners.items()} | {"bp": kept(_one_module())[0]}


# ---------------------------------------------------------------- 4: representation


def _judge_representation(values: Values) -> tuple[bool, str]:
    pairs = [(float(np.mean(v["auglocal"])), float(np.mean(v["greedy"]))) for v in values]
    note = "mean over the layers, AugLocal (d = 3) / greedy, each seed: "
    return all(a > g for a, g in pairs), note + ", ".join(f"{a:.3f} / {g:.3f}" for a, g in pairs)


def _draw_representation(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    figure.set_size_inches(1.6 * style.WIDTH, style.HEIGHT)
    curve, heat_a, heat_g = figure.subplots(1, 3, width_ratios=(1.3, 1, 1))
    for i, (name, label) in enumerate((("auglocal", "AugLocal, d = 3"), ("greedy", "greedy"))):
        each = np.array([v[name] for v in values])
        colour = style.colour(0) if i == 0 else style.BASELINE
        curve.plot(each.mean(axis=0), style.DASHES[i], marker="o", color=colour, label=label)
        curve.fill_between(range(each.shape[1]), each.min(axis=0), each.max(axis=0), color=colour, alpha=0.2)
    curve.set(xlabel="layer", ylabel="CKA with this layer of back-propagation", ylim=(0, 1))
    curve.legend()
    for ax, name in ((heat_a, "auglocal"), (heat_g, "greedy")):
        ax.imshow(np.mean([v[f"{name}_map"] for v in values], axis=0), vmin=0, vmax=1, cmap="cividis", origin="lower")
        ax.set(title="AugLocal" if name == "auglocal" else name, xlabel="layer of back-propagation", ylabel="layer")
        ax.set(xticks=range(len(values[0]["greedy"])), yticks=range(len(values[0]["greedy"])))
        ax.grid(visible=False)


@claim(
    "auglocal",
    "representation",
    "Layers trained by AugLocal come to represent images as those trained by back-propagation do, more than greedily "
    "trained ones (linear CKA on 512 test images).",
    "mean over the layers of CKA(layer l, layer l of back-propagation): AugLocal (d = 3) > greedy, each seed",
    _judge_representation,
    data=("cifar-10",),
    draw=_draw_representation,
)
def representation(setting: Setting) -> dict[str, Any]:
    x = _pilot(setting).x_test[:512]
    reference = _bp(setting).activations(x)
    found: dict[str, Any] = {}
    for name, learner in (("auglocal", _auglocal(setting, d=3)), ("greedy", _greedy(setting))):
        mine = learner.activations(x)
        table = [[linear_cka(a, b) for b in reference] for a in mine]
        found |= {name: [table[i][i] for i in range(len(table))], f"{name}_map": table}
    return found


# ---------------------------------------------------------------- 5: gradient agreement


def _judge_gradients(values: Values) -> tuple[bool, str]:
    worst = max(max(v["difference"]) for v in values)
    copies = min(min(v["copy"]) for v in values)
    means = {k: float(np.mean([np.mean(v[k]) for v in values])) for k in ("full", "d3", "d2", "d1")}
    higher = all(c > r for v in values for c, r in zip(v["copy"], v["d1"]))
    note = (
        f"copies: cosine {copies:.6f}, largest relative difference {worst:.1e}; random weights, mean over the layers: "
    )
    note += ", ".join(f"{'all layers' if k == 'full' else 'd = ' + k[1:]} {m:.3f}" for k, m in means.items())
    return worst < 1e-6 and higher, note


def _draw_gradients(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    names = {"copy": "copy of all layers above", "full": "all layers, random", "d3": "d = 3", "d1": "d = 1"}
    for i, (name, label) in enumerate(names.items()):
        each = np.array([v[name] for v in values])
        ax.plot(each.mean(axis=0), style.DASHES[i % 4], marker="o", color=style.colour(i), label=label)
    ax.set(xlabel="layer", ylabel="cosine with the gradient of back-propagation")
    ax.legend()


@claim(
    "auglocal",
    "gradient-agreement",
    "With a copy of all layers above, weights too, as its auxiliary network, a layer's local gradient is that of "
    "back-propagation; random networks of small depth are far from it (at the first weights, in double precision).",
    "copy of all layers above: equal to 1e-6; cosine(copy) > cosine(random, d = 1) for every layer; each seed",
    _judge_gradients,
    data=("cifar-10",),
    draw=_draw_gradients,
)
def gradient_agreement(setting: Setting) -> dict[str, list[float]]:
    data, rng = _pilot(setting), setting.rng()
    x, y = data.x_train[:128].astype(np.float64), data.y_train[:128]
    x = (x - x.mean(axis=(0, 2, 3), keepdims=True)) / x.std(axis=(0, 2, 3), keepdims=True)
    column = resnet_column(data.shape, 10, PILOT["widths"], PILOT["blocks"])
    layers = {f"layer{i}": layer for i, layer in enumerate(column.layers)}
    rngs = {name: np.random.default_rng(rng.integers(2**32)) for name in (*layers, "objective")}
    whole = Isolated(layers, CrossEntropy(column.readout)).initialise(rngs, np.float64)
    found: dict[str, list[float]] = {"copy": [], "difference": [], "full": [], "d3": [], "d2": [], "d1": []}
    for l in range(column.n - 1):
        everything = tuple(range(l + 1, column.n))
        net = auxiliary(column, l, everything, norm=False)
        params = initialise(net, rng, np.float64)
        found["full"].append(agreement(column, whole, x, y, l, net, params)[0])
        copied(net, params, everything, whole)
        cosine, difference = agreement(column, whole, x, y, l, net, params)
        found["copy"].append(cosine)
        found["difference"].append(difference)
        for d in (3, 2, 1):
            net = auxiliary(column, l, selected(column.n, l, d))
            found[f"d{d}"].append(agreement(column, whole, x, y, l, net, initialise(net, rng, np.float64))[0])
    return found


# ---------------------------------------------------------------- 6: orders of updates


def _judge_orders(values: Values) -> tuple[bool, str]:
    worst = max(v["different"] for v in values)
    return worst == 0, f"{worst} of {values[0]['parameters']} parameters differ after 5 steps"


@claim(
    "auglocal",
    "orders",
    "Updating each module right after its backward pass, or all modules at the end of the step, is the same.",
    "identical parameters after 5 steps, each seed",
    _judge_orders,
    data=("cifar-10",),
    quick_judged=True,
)
def orders(setting: Setting) -> dict[str, int]:
    data, found = _pilot(setting), []
    for update in ("module", "end"):
        learner = AugLocal(**PILOT, update=update, epochs=1, random_state=setting.seed)
        learner.begin(*data.train)
        for i in range(5):
            rows = np.arange(64 * i, 64 * (i + 1)) % len(data.x_train)
            learner._step(data.x_train[rows], data.y_train[rows])
        found.append(np.concatenate([p.flat for p in learner._all] + [p.state for p in learner._all]))
    return {"different": int((found[0] != found[1]).sum()), "parameters": found[0].size}


# ---------------------------------------------------------------- 7: what auxiliary networks cost


def _judge_cost(values: Values) -> tuple[bool, str]:
    v, D = values[0], range(1, 6)
    pyramid, flat = ([v[f"{name}{d}"] / v["bp"] for d in D] for name in ("pyramid", "flat"))
    grows = all(a < b for a, b in itertools.pairwise(pyramid))
    cheaper = all(p < f for p, f in zip(pyramid[1:], flat[1:]))
    gap = abs(_mean(values, "accuracy_pyramid") - _mean(values, "accuracy_flat"))
    note = "operations over back-propagation's, d = 1..5: tau = 0.5 " + " / ".join(f"{r:.2f}" for r in pyramid)
    note += ", tau = 0 " + " / ".join(f"{r:.2f}" for r in flat)
    note += f"; accuracy at d = 3 {_percent(values, 'accuracy_pyramid')} and {_percent(values, 'accuracy_flat')}"
    if v["pyramid2"] == v["flat2"]:
        note += "; at d = 2 both are the same network, because d_l = 1.5..2 is rounded to 2 for every layer"
    return grows and cheaper and gap <= 0.01, note


def _draw_cost(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax, v = figure.subplots(), values[0]
    for i, (name, label) in enumerate((("pyramid", "tau = 0.5"), ("flat", "tau = 0"))):
        ratios = [v[f"{name}{d}"] / v["bp"] for d in range(1, 6)]
        ax.plot(range(1, 6), ratios, style.DASHES[i], marker="o", color=style.colour(i), label=label)
    ax.axhline(1, color=style.BASELINE, linewidth=1)
    ax.set(xlabel="d", ylabel="operations of a step over back-propagation's", xticks=range(1, 6), ylim=(0, None))
    ax.legend()


@claim(
    "auglocal",
    "cost",
    "Auxiliary networks cost operations, more with their depth; the pyramid saves some at no loss of accuracy "
    "(operations counted at ResNet-32, accuracy in the pilot at d = 3).",
    "operations grow with d = 1..5; tau = 0.5 is cheaper than tau = 0 for every d >= 2; |accuracy(tau = 0.5) - "
    "accuracy(tau = 0)| <= 1 point, means over the seeds",
    _judge_cost,
    data=("cifar-10",),
    draw=_draw_cost,
)
def cost(setting: Setting) -> dict[str, float]:
    B = 4
    found: dict[str, float] = {}
    for name, tau in (("pyramid", 0.5), ("flat", 0.0)):
        for d in range(1, 6):
            found[f"{name}{d}"] = resnet32(AugLocal(d, tau), B, setting.seed, setting.quick).step_flops(B)
    found["bp"] = resnet32(_one_module(), B, setting.seed, setting.quick).step_flops(B)
    found["accuracy_pyramid"] = _score(setting, _auglocal(setting, d=3))
    found["accuracy_flat"] = _score(setting, _auglocal(setting, d=3, tau=0.0))
    return found
