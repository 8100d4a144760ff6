"""What `refimpl run auglocal` and `refimpl bench auglocal` do: the experiment with its figure, and the race."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refimpl import record
from refimpl.baselines import LocalBlocksClassifier, RidgeClassifier
from refimpl.data import Dataset, load
from refimpl.methods.local.auglocal.learner import AugLocal
from refimpl.methods.local.auglocal.schedule import depths, selected, strides
from refimpl.models.column import Column
from refimpl.record import Common, Contender, Experiment, Rule, Step

# Settings of `refimpl run auglocal --set name=value`.
SETTINGS: dict[str, Any] = {"network": "resnet", "d": 2, "tau": 0.5, "width": 8, "blocks": 2, "epochs": 15}
SETTINGS |= {"batch_size": 64, "lr": 0.1}
QUICK_EPOCHS = 4


def experiment(data: Dataset, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """AugLocal, the other local rules with one module a layer, and back-propagation, on the same network.

    Settings: network ("resnet" of widths width, 2 width, 4 width with so many blocks a stage, or "mlp" of 3 blocks + 1
    layers of 16 width); d, tau; epochs, batch_size, lr; and quick. Raises ValueError for a setting that does not exist.
    """
    given = record.given("auglocal", SETTINGS, settings)
    s = {**SETTINGS, **given}
    if settings.get("quick") and "epochs" not in given:
        s["epochs"] = QUICK_EPOCHS
    n = 3 * s["blocks"] + 1
    common: dict[str, Any] = {"network": s["network"], "blocks": s["blocks"], "random_state": seed}
    common |= {"widths": tuple(s["width"] * 2**i for i in range(3)), "hidden": (16 * s["width"],) * n}
    common |= {name: s[name] for name in ("epochs", "batch_size", "lr")}
    contenders = [
        Contender("AugLocal", AugLocal(s["d"], s["tau"], **common)),
        Contender("greedy", LocalBlocksClassifier("greedy", **common), "baseline"),
        Contender("DGL", LocalBlocksClassifier("dgl", **common), "baseline"),
        Contender("PredSim", LocalBlocksClassifier("predsim", **common), "baseline"),
        Contender("InfoPro", LocalBlocksClassifier("infopro", **common), "baseline"),
        Contender("back-propagation", LocalBlocksClassifier(modules=1, **common), "baseline"),
    ]
    return Experiment(contenders, data, lambda figure, results: draw(figure, results, data))


# ---------------------------------------------------------------- the figure


def draw(figure: Any, results: list[dict[str, Any]], data: Dataset) -> None:
    """The column and its thinned copies; what each module keeps; what each layer knows; the accuracies."""
    from matplotlib.ticker import PercentFormatter

    from refimpl.viz import style

    figure.set_size_inches(2 * style.WIDTH * 0.85, 2 * style.HEIGHT)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    by_name = {r["name"]: r for r in results}
    mine = by_name["AugLocal"]["learner"]
    draw_columns(top.subplots(), mine._column_, mine.d, mine.tau)
    memory, knows, bars = bottom.subplots(1, 3, width_ratios=(1, 1, 1.2))
    shown = {"AugLocal": style.colour(0), "greedy": style.colour(1), "back-propagation": style.BASELINE}
    for i, (name, colour) in enumerate(shown.items()):
        learner = by_name[name]["learner"]
        kept = np.array(_kept(learner, data)) / 2**20
        memory.plot(kept, style.DASHES[i], marker="o", color=colour, label=name)
        knows.plot(probes(learner, data), style.DASHES[i], marker="o", color=colour, label=name)
    memory.set(title="Kept for the backward pass", xlabel="module", ylabel=f"MiB, {_BATCH} images", ylim=(0, None))
    memory.legend()
    knows.set(title="What each layer knows", xlabel="layer", ylabel="test accuracy of a linear read-out")
    knows.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    in_order = results[::-1]
    values = [r["score"] for r in in_order]
    colours = [style.BASELINE if r["role"] == "baseline" else style.colour(0) for r in in_order]
    bars.barh([r["name"] for r in in_order], values, color=colours, height=0.65)
    for i, v in enumerate(values):
        bars.annotate(f"{100 * v:.1f} %", (0.02, i), ha="left", va="center", color=style.PAPER)
    bars.set(title="Test accuracy", xlim=(0, 1))
    bars.grid(axis="y", visible=False)
    style.percent_axis(bars.xaxis)


_BATCH = 128


def _kept(learner: LocalBlocksClassifier, data: Dataset) -> list[int]:
    """Bytes that each module keeps, of a fresh learner with the same settings."""
    fresh = type(learner)(**learner.get_params())
    fresh.begin(data.x_train, data.y_train)
    return fresh.kept_bytes(_BATCH)


def probes(learner: LocalBlocksClassifier, data: Dataset, most: int = 2000) -> list[float]:
    """Test accuracy of a linear read-out (ridge regression) on the output of each layer; on at most `most` training
    images. Maps are averaged over squares to at most 4 x 4 first."""

    def features(a: np.ndarray) -> np.ndarray:
        if a.ndim == 4 and a.shape[2] > 4 and a.shape[2] % 4 == 0 and a.shape[3] % 4 == 0:
            h, w = a.shape[2] // 4, a.shape[3] // 4
            a = a.reshape(*a.shape[:2], 4, h, 4, w).mean(axis=(3, 5))
        return a.reshape(len(a), -1)

    train, test = learner.activations(data.x_train[:most]), learner.activations(data.x_test)
    found = []
    for a, b in zip(train, test):
        probe = RidgeClassifier().fit(features(a), data.y_train[: len(a)])
        found.append(probe.score(features(b), data.y_test))
    return found


def draw_columns(ax: Any, column: Column, d: int, tau: float = 0.5, selection: str = "uniform") -> None:
    """The network as a row of layers from left to right, and under each local layer its auxiliary network: a block for
    each layer that is picked, below that layer. Heights are extents, shades are widths."""
    from matplotlib.patches import FancyArrowPatch, Rectangle

    from refimpl.viz import style

    n, deep = column.n, depths(column.n, d, tau)
    rows = len(deep)
    widest = max(column.widths)
    extent = [s[1] if len(s) == 3 else column.widths[0] for s in column.shapes]

    def box(x: float, y: float, height: float, colour: str, width: int, stride: int = 1) -> None:
        shade = 0.25 + 0.75 * width / widest
        ax.add_patch(Rectangle((x - 0.3, y - height / 2), 0.6, height, facecolor=colour, alpha=shade, linewidth=0))
        if stride > 1:
            ax.plot([x - 0.36] * 2, [y - height / 2, y + height / 2], color=style.INK, linewidth=1.2)

    for l in range(n):
        y_of = 0.8 * extent[l] / extent[0]
        box(l, 0, max(0.25, y_of), style.colour(0), column.widths[l])
        ax.annotate(str(l), (l, 0.52), ha="center", va="bottom", color=style.MUTED, fontsize=8)
        if l < rows:
            ax.plot([l + 0.5] * 2, [-0.45, 0.45], ":", color=style.colour(1), linewidth=1.4)
    ax.annotate("read-out", (n - 0.55, 0), va="center", fontsize=8.5)
    for l, depth in enumerate(deep):
        y = -1.0 - 0.62 * l
        picks = selected(n, l, depth, selection)
        at = [l, *picks] if selection != "repeated" else [l + 0.7 * i for i in range(len(picks) + 1)]
        for a, b in itertools.pairwise(at):
            ax.plot([a, b], [y, y], color=style.MUTED, linewidth=0.9, zorder=0)
        ax.plot([l, l], [-0.4, y], color=style.MUTED, linewidth=0.6, zorder=0)
        for x, k, stride in zip(at[1:], picks, strides(column.widths, l, picks)):
            box(x, y, max(0.16, 0.5 * extent[k] / extent[0]), style.colour(2), column.widths[k], stride)
        ax.add_patch(
            FancyArrowPatch((at[-1] + 0.3, y), (at[-1] + 0.7, y), arrowstyle="->", mutation_scale=8, color=style.MUTED)
        )
        ax.annotate(f"loss {l}", (at[-1] + 0.75, y), va="center", fontsize=8, color=style.colour(1))
    ax.set(xlim=(-0.6, n + 0.7), ylim=(-1.0 - 0.62 * rows, 0.95), xticks=[], yticks=[])
    title = "The network, cut behind each local layer (dotted); below, its thinned copies (bars: a stride of 2)"
    ax.set_title(title)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.grid(visible=False)


def columns_svg(column: Column, d: int, tau: float = 0.5) -> str:
    """The same as `draw_columns` in a small SVG without text sizes to settle, for pages with many of them."""
    from refimpl.viz import style

    n, deep, widest = column.n, depths(column.n, d, tau), max(column.widths)
    x_of, y_of, step = (lambda k: 24 + 40 * k), (lambda l: 62 + 20 * l), 9
    parts: list[str] = []

    def box(x: float, y: float, colour: str, width: int, stride: int = 1) -> None:
        place = f'x="{x - 14}" y="{y - 7}" width="28" height="14"'
        parts.append(f'<rect {place} fill="{colour}" fill-opacity="{0.25 + 0.75 * width / widest:.2f}"/>')
        if stride > 1:
            parts.append(f'<path d="M{x - 17} {y - step}v{2 * step}" stroke="currentColor" stroke-width="1.6"/>')

    def told(x: float, y: float, words: str, anchor: str = "middle") -> None:
        parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="currentColor">{words}</text>')

    for l in range(n):
        told(x_of(l), 12, str(l))
        box(x_of(l), 26, style.colour(0), column.widths[l])
        if l < len(deep):
            parts.append(f'<path d="M{x_of(l) + 20} 17v18" stroke="{style.colour(1)}" stroke-dasharray="2"/>')
    told(x_of(n) - 16, 30, "read-out", "start")
    for l, depth in enumerate(deep):
        picks = selected(n, l, depth)
        line = f"M{x_of(l)} 35V{y_of(l)}H{x_of(picks[-1])}"
        parts.append(f'<path d="{line}" fill="none" stroke="currentColor" stroke-opacity="0.45"/>')
        for k, stride in zip(picks, strides(column.widths, l, picks)):
            box(x_of(k), y_of(l), style.colour(2), column.widths[k], stride)
        told(x_of(n) - 16, y_of(l) + 4, f"loss {l}", "start")
    size = f"{x_of(n) + 40} {y_of(len(deep)) - 4}"
    label = f"layers of the network, and those that auxiliary networks copy, d = {d}, tau = {tau}"
    head = f'<svg viewBox="0 0 {size}" role="img" aria-label="{label}" style="width: 100%; max-width: 44rem" '
    return f'{head} font-size="11" font-family="sans-serif">{"".join(parts)}</svg>'


# ---------------------------------------------------------------- the race

_B, _SHAPE, _K = 128, (3, 16, 16), 10
_PILOT: dict[str, Any] = {"widths": (8, 16, 32), "blocks": 2, "batch_size": _B, "schedule": "constant", "lr": 0.1}


def race() -> list[Step]:
    """One step of all modules, as in the claims on CIFAR-10: n = 7 layers, d = 2."""
    x, _ = _batch()
    learner = AugLocal(2, **_PILOT, random_state=1)
    learner.begin(x[:8], np.arange(8) % 2)
    flops = learner.step_flops(8) * _B / 8
    return [Step("AugLocal step", "B=128, 3x16x16, widths 8/16/32, n=7, d=2", "float32", _make, _make_torch, flops)]


def _batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((_B, *_SHAPE), np.float32), np.arange(_B) % _K


def _learner() -> AugLocal:
    learner = AugLocal(2, **_PILOT, random_state=1)
    learner.begin(*_batch())
    return learner


def _make() -> Any:
    learner, (x, y) = _learner(), _batch()
    return lambda: float(sum(learner._step(x, y)))


def _make_torch(torch: Any) -> Any:
    """As its users would write it: detached inputs, a backward pass for each module, one optimiser."""
    nn = torch.nn
    mine = _learner()
    column = mine._column_

    def conv_bn(c_in: int, c_out: int, stride: int = 1, size: int = 3) -> list[Any]:
        return [nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(c_out)]

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self, c_in: int, c_out: int, stride: int):
            super().__init__()
            self.body = nn.Sequential(*conv_bn(c_in, c_out, stride), nn.ReLU(), *conv_bn(c_out, c_out))
            self.shortcut = nn.Sequential(*conv_bn(c_in, c_out, stride, 1)) if stride != 1 or c_in != c_out else None

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + (x if self.shortcut is None else self.shortcut(x)))

    def layer(l: int) -> Any:
        if l == 0:
            return nn.Sequential(*conv_bn(_SHAPE[0], column.widths[0]), nn.ReLU())
        stride = 2 if column.shapes[l][1] < column.shapes[l - 1][1] else 1
        return Block(column.widths[l - 1], column.widths[l], stride)

    def head(l: int, picks: Sequence[int]) -> Any:
        widths = [column.widths[l], *(column.widths[k] for k in picks)]
        steps = strides(column.widths, l, picks)
        blocks = [Block(a, b, s) for (a, b), s in zip(itertools.pairwise(widths), steps)]
        norm = [nn.BatchNorm1d(widths[-1])] if len(picks) == 1 else []
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *norm, nn.Linear(widths[-1], _K))

    local = [nn.ModuleList([layer(l), head(l, mine.picks(column, l))]) for l in mine._cuts_]
    top = nn.Sequential(*(layer(l) for l in range(len(local), column.n)))
    read = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(column.widths[-1], _K))
    modules = nn.ModuleList([*local, nn.ModuleList([top, read])])
    for module, params in zip(modules, mine._all):
        for theirs, name in zip(module.parameters(), params.shapes, strict=True):
            value = params[name].T if params[name].ndim == 2 else params[name]  # (out, in) there
            theirs.data[...] = torch.from_numpy(np.ascontiguousarray(value))
    optimizer = torch.optim.SGD(
        modules.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
    )
    images, labels = map(torch.from_numpy, _batch())
    mean, scale = map(torch.from_numpy, mine._statistics)

    def step() -> float:
        optimizer.zero_grad()
        x, total = (images - mean) * scale, 0.0
        for body, objective in modules:
            h = body(x)
            loss = nn.functional.cross_entropy(objective(h), labels)
            loss.backward()
            total += loss.item()
            x = h.detach()
        optimizer.step()
        return total

    return step


# ---------------------------------------------------------------- small enough to read


def teach() -> list[Step]:
    """One training step small enough to read: four digits of 4 x 4 pixels, a ResNet of widths 2 and 4 with one block a
    stage (n = 3), d = 1, in double precision. Layer 0 is a local module, layers 1 and 2 are the last one."""
    return [Step("AugLocal, n = 3 and d = 1", "B=4, 1x4x4, widths 2/4", "float64", _small_step)]


def _small_step() -> Any:
    digits = load("digits")
    x = digits.x_train.reshape(-1, 1, 4, 2, 4, 2).mean(axis=(3, 5)).astype(np.float64)
    learner = AugLocal(1, widths=(2, 4), blocks=1, schedule="constant", lr=0.05, epochs=2, batch_size=32)
    learner.set_params(dtype="float64", random_state=0)
    learner.begin(x, digits.y_train)
    learner.advance()
    shown = np.array([np.flatnonzero(digits.y_train == k)[0] for k in (0, 3, 6, 9)])
    return lambda: float(sum(learner._step(x[shown], digits.y_train[shown])))


# ---------------------------------------------------------------- for `refimpl compare`


def rules(common: Common) -> list[Rule]:
    """The common network with d = 1: its last two hidden layers are one module, every other one is local."""

    def make(rate: float, seed: int) -> AugLocal:
        shared: dict[str, Any] = {"hidden": common.hidden, "epochs": common.epochs, "batch_size": common.batch_size}
        return AugLocal(1, network="mlp", lr=rate, random_state=seed, **shared)

    note = "auxiliary networks of one hidden layer; the last two hidden layers are one module of back-propagation"
    signals = ("labels", "own head", "error from above", "weights above")
    return [Rule("AugLocal", make, (0.01, 0.03, 0.1), signals, note=note)]
