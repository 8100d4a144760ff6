"""What the paper says, measured on Cora. The thresholds are those of the paper's card, from before the first run.

All nets are GCNs of width 128, trained at most 300 epochs (SF and FF: each layer) with a validation every two epochs
and a patience of 100 validations, Adam with weight decay 5e-4; splits into 64 % training, 16 % validation and 20 % test
nodes (or edges), drawn anew for each seed. In test, FF is told the labels of the validation nodes, SF and
back-propagation are not, as in the paper.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from refimpl.baselines import BackpropGNN, BackpropLinks
from refimpl.data.graphs import GraphData, LinkData
from refimpl.methods.graph.forward_gnn.learner import ForwardGNN
from refimpl.methods.graph.forward_gnn.links import ForwardGNNLinks
from refimpl.methods.graph.forward_gnn.losses import single_forward_loss
from refimpl.nn import Params
from refimpl.nn.graph import Sparse
from refimpl.record import Setting, claim
from refimpl.viz.bars import seed_bars

Values = Sequence[Mapping[str, Any]]

EPOCHS, QUICK_EPOCHS = 300, 6


def _split(setting: Setting) -> GraphData:
    data = setting.data.quick(setting.seed) if setting.quick else setting.data
    return data.split(setting.seed)


def _epochs(setting: Setting) -> int:
    return QUICK_EPOCHS if setting.quick else EPOCHS


def _train(learner: Any, data: GraphData | LinkData, setting: Setting, name: str) -> Any:
    """Fit, telling how far it is."""
    learner.begin(*data.train)
    while learner.progress_ < learner.total_:
        learner.advance()
        if learner.progress_ % 25 == 0:
            setting.tell(f"{name}, {learner.progress_} of at most {learner.total_}")
    learner.finish()
    setting.tell(f"{name}, trained")
    return learner


def _mean(values: Values, name: str) -> float:
    return float(np.mean([v[name] for v in values]))


def _std(values: Values, name: str) -> float:
    return float(np.std([v[name] for v in values], ddof=1)) if len(values) > 1 else 0.0


def _percent(values: Values, name: str) -> str:
    """Mean and spread over the seeds."""
    spread = f" ± {100 * _std(values, name):.1f}" if len(values) > 1 else ""
    return f"{100 * _mean(values, name):.1f}{spread} %"


# ---------------------------------------------------------------- 1: on par with back-propagation


def _judge_on_par(values: Values) -> tuple[bool, str]:
    note = "; ".join(
        f"{L} layers: SF {_percent(values, f'sf{L}')}, back-propagation {_percent(values, f'bp{L}')}" for L in (2, 4)
    )
    return _mean(values, "sf2") >= _mean(values, "bp2") - 0.01, f"{note} (the verdict is about 2 layers)"


@claim(
    "forward_gnn",
    "on-par",
    "A GCN whose layers learn one after the other by single-forward is on par with the same GCN trained by "
    "back-propagation, or better.",
    "accuracy(SF) >= accuracy(BP) - 1.0 point, 2 layers, means over the seeds",
    _judge_on_par,
    data=("cora",),
    draw=lambda figure, values: seed_bars(
        figure.subplots(),
        values,
        {
            "sf2": "SF, 2 layers",
            "bp2": "back-propagation, 2 layers",
            "sf4": "SF, 4 layers",
            "bp4": "back-propagation, 4 layers",
        },
        quantity="test accuracy",
        baselines=("bp2", "bp4"),
    ),
)
def on_par(setting: Setting) -> dict[str, float]:
    data, found = _split(setting), {}
    for L in (2, 4):
        common: dict[str, Any] = {"layers": L, "epochs": _epochs(setting), "random_state": setting.seed}
        found[f"sf{L}"] = _train(ForwardGNN("sf", **common), data, setting, f"SF, {L} layers").score(*data.test)
        found[f"bp{L}"] = _train(BackpropGNN(**common), data, setting, f"BP, {L} layers").score(*data.test)
    return found


# ---------------------------------------------------------------- 2: depth

DEPTHS = (1, 2, 3, 4)


def _judge_depth(values: Values) -> tuple[bool, str]:
    curves = np.array([v["sf"] for v in values])
    mean = curves.mean(axis=0)
    std = curves.std(axis=0, ddof=1) if len(curves) > 1 else np.zeros(len(DEPTHS))
    backprop = np.mean([v["bp"] for v in values], axis=0)
    holds = mean[3] >= mean[1] - 0.01 and std[[1, 3]].max() <= 0.015
    note = ", ".join(f"{L}: {100 * m:.1f} ± {100 * s:.1f} %" for L, m, s in zip(DEPTHS, mean, std))
    note = f"SF by depth {note}; back-propagation " + ", ".join(f"{100 * b:.1f}" for b in backprop) + " %. "
    inner = np.sqrt(np.mean([np.square(v["same_split_std"]) for v in values], axis=0))
    note += f"A seed also draws the split: with the split kept, three initialisations differ by {100 * inner[0]:.1f} "
    note += f"points (2 layers) and {100 * inner[1]:.1f} (4 layers); drawing as many test nodes by chance alone gives "
    return bool(holds), note + f"{100 * np.mean([v['sampling_std'] for v in values]):.1f}"


def _draw_depth(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    for name, label, colour, dash in (("sf", "SF", style.colour(0), "-"), ("bp", "BP", style.BASELINE, "--")):
        curves = np.array([v[name] for v in values])
        ax.plot(DEPTHS, curves.mean(axis=0), dash, marker="o", color=colour, label=label)
        ax.fill_between(DEPTHS, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel="layers", ylabel="test accuracy", xticks=DEPTHS)
    style.percent_axis(ax.yaxis)
    ax.legend()


@claim(
    "forward_gnn",
    "depth",
    "More layers do not harm single-forward, and its accuracy hardly depends on the seed.",
    "accuracy of 4 layers >= accuracy of 2 layers - 1.0 point, means over the seeds; standard deviation over the seeds "
    "<= 1.5 points for both",
    _judge_depth,
    data=("cora",),
    draw=_draw_depth,
)
def depth(setting: Setting) -> dict[str, Any]:
    data = _split(setting)
    found: dict[str, Any] = {"sf": [], "bp": [], "same_split_std": []}
    for L in DEPTHS:
        common: dict[str, Any] = {"layers": L, "epochs": _epochs(setting), "random_state": setting.seed}
        found["sf"].append(_train(ForwardGNN("sf", **common), data, setting, f"SF, {L} layers").score(*data.test))
        found["bp"].append(_train(BackpropGNN(**common), data, setting, f"BP, {L} layers").score(*data.test))
        if L in (2, 4):  # for the note: how much of the spread comes from training
            seeds = [setting.seed + 100 * i for i in (1, 2)]
            others = [ForwardGNN("sf", **{**common, "random_state": s}) for s in seeds]
            again = [_train(other, data, setting, f"SF again, {L} layers").score(*data.test) for other in others]
            found["same_split_std"].append(float(np.std([found["sf"][-1], *again], ddof=1)))
    p, n = found["sf"][3], int(data.masks[2].sum())
    return {**found, "sampling_std": float(np.sqrt(p * (1 - p) / n))}


# ---------------------------------------------------------------- 3: memory


def kept_arrays(saved: Any, not_counted: Sequence[Any]) -> int:
    """Bytes of the arrays in `saved` (tuples and lists of arrays, layers' saved values), each once, without those that
    are parts of `not_counted`: parameters, the graph, the input features."""
    own, done = {}, set()

    def buffers(value: Any) -> list[np.ndarray]:
        if isinstance(value, np.ndarray):
            while isinstance(value.base, np.ndarray):
                value = value.base
            return [value]
        if isinstance(value, Sparse):
            return [a for a in (value.indptr, value.indices, value.values) if a is not None]
        if isinstance(value, Params):
            return [value.flat]
        if isinstance(value, list | tuple):
            return [a for v in value for a in buffers(v)]
        return []

    done = {id(a) for a in buffers(list(not_counted))}
    for a in buffers(saved):
        if id(a) not in done:
            own[id(a)] = a.nbytes
    return sum(own.values())


def sf_kept(learner: ForwardGNN) -> int:
    """What a step of SF keeps for its backward pass in the phase that the learner is in: the layer's input (its
    neighbours summed, once for all steps), its output and the probabilities. The data themselves do not count."""
    scheme: Any = learner._scheme
    phase = learner._phase
    z, saved = scheme.forward(phase, scheme.given)
    own, virtual = scheme.split(z, learner._train)
    single_forward_loss(z[own], z[virtual], learner._labels[learner._train], learner.temperature)
    p = np.empty((len(learner._train), learner._n_classes), z.dtype)  # what the loss keeps
    given = [scheme.given] if phase == 0 else [scheme.given[0]]
    return kept_arrays([saved, z, p], [given, learner._params[f"layer{phase + 1}"]])


def bp_kept(learner: BackpropGNN) -> int:
    """What a step of back-propagation keeps when its backward pass begins; data do not count."""
    out, saved = learner._net.forward(learner._params["net"], (learner._operator, learner._graph.x))
    p = np.empty((len(learner._train), learner._n_classes), out.dtype)
    return kept_arrays([saved, out, p], [learner._operator, learner._graph.x, learner._params["net"]])


def _judge_memory(values: Values) -> tuple[bool, str]:
    equal = max(max(v["sf"][1:]) / min(v["sf"][1:]) for v in values)
    growth = min(v["bp"][3] / v["bp"][0] for v in values)
    sf, bp = values[0]["sf"], values[0]["bp"]  # splits differ by a few bytes
    kib = " / ".join(f"{b / 1024:.0f}" for b in sf)
    note = f"SF keeps {kib} KiB in the steps of layers 1 to 4 (largest over smallest of layers 2 to 4: {equal:.3f}), "
    note += f"at most {max(sf) / sf[0]:.2f} times that of a net of one layer, however deep; back-propagation "
    return equal <= 1.05 and growth >= 3, note + " / ".join(f"{b / 1024:.0f}" for b in bp) + (
        f" KiB for 1 to 4 layers: {growth:.1f} times as much"
    )


def _draw_memory(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    sf, bp = np.array(values[0]["sf"]) / 1e6, np.array(values[0]["bp"]) / 1e6
    place = np.array(DEPTHS)
    ax.bar(place - 0.2, np.maximum.accumulate(sf), 0.38, color=style.colour(0), label="SF: the largest step so far")
    ax.bar(place + 0.2, bp, 0.38, color=style.BASELINE, label="back-propagation")
    ax.set(xlabel="layers", ylabel="MB kept for the backward pass", xticks=place)
    ax.grid(axis="x", visible=False)
    ax.legend()


@claim(
    "forward_gnn",
    "memory",
    "What a training step keeps for its backward pass does not grow with depth for single-forward, and does for "
    "back-propagation.",
    "bytes kept by SF in the steps of layers 2 to 4: ratio <= 1.05; bytes kept by BP with 4 layers >= 3 times those "
    "with 1 layer",
    _judge_memory,
    data=("cora",),
    draw=_draw_memory,
)
def memory(setting: Setting) -> dict[str, list[int]]:
    data = _split(setting)
    setting.tell("bytes kept by each step")
    learner = ForwardGNN("sf", layers=4, epochs=1, random_state=setting.seed)
    learner.begin(*data.train)
    sf = []
    while learner.progress_ < learner.total_:
        sf.append(sf_kept(learner))
        learner.advance()
    bp = []
    for L in DEPTHS:
        baseline = BackpropGNN(layers=L, epochs=1, random_state=setting.seed)
        baseline.begin(*data.train)
        bp.append(bp_kept(baseline))
    return {"sf": sf, "bp": bp}


# ---------------------------------------------------------------- 4: speed


def _seconds(steps: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, float]:
    """Median seconds of each step; they take turns, so that whatever else the machine does meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(t)) for name, t in times.items()}


def _judge_speed(values: Values) -> tuple[bool, str]:
    ratio = float(np.mean([v["bp4"] / v["sf_layer2"] for v in values]))
    first, total = (float(np.mean([v["bp4"] / v[name] for v in values])) for name in ("sf_layer1", "sf_all4"))
    ms = {name: 1000 * _mean(values, name) for name in ("sf_layer1", "sf_layer2", "sf_all4", "bp4")}
    note = (
        f"an epoch of back-propagation with 4 layers takes {ms['bp4']:.2f} ms, one of an SF layer with its neighbours "
    )
    note += (
        f"summed once {ms['sf_layer2']:.2f} ms ({ratio:.1f} times less), of the first layer {ms['sf_layer1']:.2f} ms "
    )
    return ratio >= 1.5, note + f"({first:.1f}), of all four layers {ms['sf_all4']:.2f} ms ({total:.1f})"


def _draw_speed(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    names = {
        "sf_layer2": "SF, a later layer",
        "sf_layer1": "SF, first layer",
        "sf_all4": "SF, all 4 layers",
        "bp4": "back-propagation",
    }
    for i, (name, label) in enumerate(names.items()):
        each = [1000 * v[name] for v in values]
        ax.barh(label, np.mean(each), color=style.BASELINE if name == "bp4" else style.colour(i), height=0.6)
        ax.plot(each, [label] * len(each), "o", color=style.INK, markersize=4, markerfacecolor="none")
    ax.invert_yaxis()
    ax.set(xlabel="milliseconds an epoch, 4 layers of width 128 (circles: seeds)")
    ax.grid(axis="y", visible=False)


@claim(
    "forward_gnn",
    "speed",
    "Because a layer's input does not change while it learns, its neighbours are summed once; an epoch of one layer is "
    "then cheaper than one of the whole net by back-propagation.",
    "seconds an epoch, BP with 4 layers >= 1.5 times SF with one (later) layer; mean ratio over the seeds",
    _judge_speed,
    data=("cora",),
    draw=_draw_speed,
)
def speed(setting: Setting) -> dict[str, float]:
    data = _split(setting)
    setting.tell("timing epochs")
    learner = ForwardGNN("sf", layers=4, random_state=setting.seed)
    learner.begin(*data.train)
    baseline = BackpropGNN(layers=4, random_state=setting.seed)
    baseline.begin(*data.train)
    found: dict[str, float] = {"sf_all4": 0.0}
    for phase in range(4):
        learner._enter(phase)
        steps = {"sf": partial(learner._epoch, phase), "bp4": partial(baseline._epoch, 0)}
        seconds = _seconds(steps, 5 if setting.quick else 60)
        found["sf_all4"] += seconds["sf"]
        if phase < 2:
            found[f"sf_layer{phase + 1}"] = seconds["sf"]
        found["bp4"] = seconds["bp4"] if phase == 1 else found.get("bp4", 0.0)  # beside the later layer
    return found


# ---------------------------------------------------------------- 5: no negatives beat label appending

RATES = (1e-3, 1e-2)


def _judge_negative_free(values: Values) -> tuple[bool, str]:
    best = max(("ff_1e-3", "ff_1e-2"), key=lambda name: _mean(values, name))
    note = f"SF {_percent(values, 'sf')}; FF-LA {_percent(values, 'ff_1e-3')} at learning rate 1e-3, "
    note += f"{_percent(values, 'ff_1e-2')} at 1e-2; after 100 epochs a layer SF {_percent(values, 'sf_100')}, FF-LA "
    note += f"{_percent(values, 'ff_1e-3_100')} and {_percent(values, 'ff_1e-2_100')}"
    return _mean(values, "sf") >= _mean(values, best) + 0.005, note


@claim(
    "forward_gnn",
    "negative-free",
    "Single-forward, which needs no negative pass, is better than forward-forward with appended labels (2 layers; as "
    "many epochs for both, FF-LA at the better of two learning rates).",
    "accuracy(SF, learning rate 1e-3) >= accuracy(FF-LA at its better learning rate) + 0.5 points, means over seeds",
    _judge_negative_free,
    data=("cora",),
    draw=lambda figure, values: seed_bars(
        figure.subplots(),
        values,
        {
            "sf": "SF",
            "sf_100": "SF, 100 epochs",
            "ff_1e-2": "FF-LA, lr 1e-2",
            "ff_1e-2_100": "FF-LA, lr 1e-2, 100 epochs",
            "ff_1e-3": "FF-LA, lr 1e-3",
            "ff_1e-3_100": "FF-LA, lr 1e-3, 100 epochs",
        },
        "test accuracy",
    ),
)
def negative_free(setting: Setting) -> dict[str, float]:
    data, found = _split(setting), {}
    for epochs, end in ((_epochs(setting), ""), (min(100, _epochs(setting)), "_100")):
        common: dict[str, Any] = {"layers": 2, "epochs": epochs, "random_state": setting.seed}
        found[f"sf{end}"] = _train(ForwardGNN("sf", lr=1e-3, **common), data, setting, "SF").score(*data.test)
        for lr, name in zip(RATES, ("ff_1e-3", "ff_1e-2")):
            learner = _train(ForwardGNN("ff-la", lr=lr, **common), data, setting, f"FF-LA, {lr}, {epochs} epochs")
            found[f"{name}{end}"] = learner.score(*data.test)
    return found


# ---------------------------------------------------------------- 6: links


def _judge_links(values: Values) -> tuple[bool, str]:
    note = "AUC with 4 layers: " + ", ".join(
        f"{label} {_percent(values, name)}"
        for name, label in (("ce4", "CE"), ("ff4", "FF"), ("top4", "CE-Top-To-Input"), ("bp4", "back-propagation"))
    )
    note += f"; with 2: CE {_percent(values, 'ce2')}, back-propagation {_percent(values, 'bp2')}"
    return _mean(values, "ce4") - _mean(values, "bp4") >= 0.02, note


@claim(
    "forward_gnn",
    "links",
    "For link prediction a deep GCN whose layers each learn by cross-entropy is better than one trained by "
    "back-propagation.",
    "AUC(CE, 4 layers) - AUC(BP, 4 layers) >= 2 points, means over the seeds",
    _judge_links,
    data=("cora",),
    draw=lambda figure, values: seed_bars(
        figure.subplots(),
        values,
        {
            "ce4": "CE, 4 layers",
            "top4": "CE-Top-To-Input, 4",
            "ff4": "FF, 4 layers",
            "bp4": "back-propagation, 4",
            "ce2": "CE, 2 layers",
            "bp2": "back-propagation, 2",
        },
        quantity="area under the ROC curve",
        baselines=("bp4", "bp2"),
    ),
)
def links(setting: Setting) -> dict[str, float]:
    whole = setting.data.quick(setting.seed) if setting.quick else setting.data
    data = whole.links(setting.seed)
    common: dict[str, Any] = {"epochs": _epochs(setting), "random_state": setting.seed}
    learners = {
        "ce4": ForwardGNNLinks("ce", layers=4, **common),
        "ff4": ForwardGNNLinks("ff", layers=4, **common),
        "top4": ForwardGNNLinks("ce-top-to-input", layers=4, **common),
        "bp4": BackpropLinks(layers=4, **common),
        "ce2": ForwardGNNLinks("ce", layers=2, **common),
        "bp2": BackpropLinks(layers=2, **common),
    }
    return {name: _train(learner, data, setting, name).score(*data.test) for name, learner in learners.items()}
