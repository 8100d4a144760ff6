"""What `refimpl run streambp` and `refimpl bench methods streambp` do: the experiment with its figure, and the race."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refimpl import record
from refimpl.data import load
from refimpl.data.text import Text
from refimpl.methods.memory.streambp.learner import LanguageModel
from refimpl.methods.memory.streambp.measure import peak_bytes, timeline
from refimpl.methods.memory.streambp.objectives import SFT, shifted
from refimpl.methods.memory.streambp.strategies import Checkpoint, MiniSequence, Plain, Strategy, Stream
from refimpl.models.gpt import GPT
from refimpl.nn import Params, initialise
from refimpl.optim import AdamW
from refimpl.record import Contender, Experiment, Score, Step

# Settings of `refimpl run streambp --set name=value`.
SETTINGS: dict[str, Any] = {
    "T": 256,
    "batch_size": 4,
    "steps": 300,
    "lr": 5e-3,
    "chunk": 128,
    "tokenizer": "bytes",
    "vocabulary": 512,
    "layers": 4,
    "d": 64,
    "limit": 10**9,
}
NAMES = {
    "stream": "StreamBP",
    "plain": "back-propagation",
    "checkpoint": "checkpointing",
    "mini-sequence": "mini-sequence",
}


def experiment(data: Text, seed: int, settings: Mapping[str, Any]) -> Experiment:
    """The same language model, trained on the same batches by four strategies.

    Settings: T, batch_size, steps, lr, chunk (positions that StreamBP works on at a time), tokenizer, vocabulary (of
    "bpe"), layers, d, limit (bytes, for the longest sequence that fits; not with quick); and quick. Raises ValueError
    for a setting that does not exist.
    """
    given = record.given("streambp", SETTINGS, settings)
    if not isinstance(data, Text):
        raise ValueError(f"streambp: {data.name} is not a text")
    quick = bool(settings.get("quick"))
    s = {**SETTINGS, **({"steps": 30, "T": 64} if quick else {}), **given}
    if not s["limit"] > 0:
        raise ValueError(f"streambp: limit is {s['limit']}, expected a number of bytes")
    shared = {k: s[k] for k in ("T", "batch_size", "steps", "lr", "chunk", "tokenizer", "vocabulary", "layers", "d")}
    shared |= {"head_chunk": s["chunk"], "hidden": 4 * math.ceil(2 * s["d"] / 3), "random_state": seed}
    contenders = [
        Contender(title, LanguageModel(name, **shared), "method" if name == "stream" else "baseline")
        for name, title in NAMES.items()
    ]
    limit = None if quick else float(s["limit"])
    return Experiment(
        contenders,
        data,
        lambda figure, results: draw(figure, results, limit),
        Score("cost of the test text", False, "bits a byte", False),
    )


# ---------------------------------------------------------------- memory

VOCABULARY, TEXTS = 2048, 128  # for the longest sequence: as many tokens as BPE usually has, and a batch of texts


def strategies(chunk: int = 64, head_chunk: int = 32) -> dict[str, Strategy]:
    """The four of them by their names in tables."""
    made = (Stream(chunk, head_chunk), Plain(), Checkpoint(), MiniSequence(chunk, head_chunk))
    return dict(zip(NAMES.values(), made))


class Probe:
    """Peak memory of one gradient of a nano-llama (d = 64, 4 layers) for texts of T made-up tokens, measured."""

    def __init__(self, V: int = VOCABULARY, B: int = TEXTS, **options: Any):
        self.model = GPT(V, **{"layers": 4, "d": 64, "heads": 4, "kv_heads": 2, "hidden": 172, **options})
        self.params = initialise(self.model, np.random.default_rng(0))
        self.grads, self.B = self.params.zeros_like(), B

    def work(self, strategy: Strategy, T: int) -> Callable[[], float]:
        tokens = np.random.default_rng(0).integers(0, self.model.vocabulary, (self.B, T))
        target, mask = shifted(tokens)
        objective = SFT(target, mask.astype(np.float32))
        return lambda: strategy.gradient(self.model, self.params, self.grads, tokens, objective)

    def peak(self, strategy: Strategy, T: int) -> int:
        return peak_bytes(self.work(strategy, T))


def longest(peak: Callable[[int], int], limit: float, start: int = 128, most: int | None = None) -> dict[str, Any]:
    """The longest sequence whose peak is within the limit, found by measuring: doubled until it is too long, then
    narrowed down to 3 %. `most`: no longer one is tried. Returns the lengths measured, their peaks, and the longest."""
    measured: dict[int, int] = {}

    def fits(T: int) -> bool:
        if T not in measured:
            measured[T] = peak(T)
        return measured[T] <= limit

    low, high = 0, start
    while fits(high):
        low, high = high, 2 * high
        if most is not None and high >= most:
            high = most
            if low >= most or fits(high):
                low = max(low, high)
                break
    while high - low > max(1, 0.03 * low):
        guess = (low + high) // 2
        if low and measured[high] > measured[low]:  # memory grows about linearly
            slope = (measured[high] - measured[low]) / (high - low)
            guess = int(low + (limit - measured[low]) / slope * 0.99)
        guess = min(high - 1, max(low + 1, guess))
        if fits(guess):
            low = guess
        else:
            high = guess
    T = sorted(measured)
    return {"T": T, "bytes": [measured[t] for t in T], "longest": low, "capped": most is not None and low >= most}


def lengths(probe: Probe, limit: float, factor: float = 2.9) -> dict[str, dict[str, Any]]:
    """`longest` of each strategy; StreamBP and mini-sequence are tried up to `factor` times checkpointing's longest."""
    found: dict[str, dict[str, Any]] = {}
    made = strategies()
    for name in ("back-propagation", "checkpointing"):
        found[name] = longest(functools.partial(probe.peak, made[name]), limit)
    most = math.ceil(factor * found["checkpointing"]["longest"])
    for name in ("mini-sequence", "StreamBP"):
        found[name] = longest(functools.partial(probe.peak, made[name]), limit, max(1, most // 2), most)
    return found


# ---------------------------------------------------------------- the figure


def draw(figure: Any, results: list[dict[str, Any]], limit: float | None) -> None:
    """Training; memory during one gradient; memory as the sequence grows; the longest sequence within the limit."""
    from refimpl.viz import style

    figure.set_size_inches(2 * style.WIDTH * 0.85, 2 * style.HEIGHT)
    training, memory, growth, bars = figure.subplots(2, 2).ravel()
    learner = results[0]["learner"]
    _draw_training(training, results)
    _draw_timeline(memory, learner)
    probe = Probe(B=8 if limit is None else TEXTS)
    if limit is None:  # quick
        found = {n: {"T": [32, 64, 128], "bytes": [probe.peak(s, t) for t in (32, 64, 128)]} for n, s in _all()}
    else:
        found = lengths(probe, limit)
    _draw_growth(growth, found, limit, probe)
    _draw_longest(bars, found, limit)


def _all() -> list[tuple[str, Strategy]]:
    return list(strategies().items())


def colour(name: str) -> str:
    from refimpl.viz import style

    order = {"StreamBP": 0, "back-propagation": 1, "checkpointing": 3, "mini-sequence": 2}
    return style.colour(order[name])


def _draw_training(ax: Any, results: list[dict[str, Any]]) -> None:
    from refimpl.viz import style

    first = np.array([h["loss"] for h in results[0]["history"]])
    for i, r in enumerate(results):
        loss = np.array([h["loss"] for h in r["history"]])
        width = 5 - 1.2 * i
        label = f"{r['name']}: {r['seconds']:.1f} s"
        steps = 10 * (1 + np.arange(len(loss)))
        ax.plot(steps, loss / math.log(2), style.DASHES[i], color=colour(r["name"]), linewidth=width, label=label)
    apart = max(np.abs(np.array([h["loss"] for h in r["history"]]) - first).max() for r in results)
    same = f"losses at most {apart:.0e} apart" if apart else "losses equal to the bit"
    ax.set(title=f"The same training: {same}", xlabel="steps", ylabel="training loss / bits")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend()


def _draw_timeline(ax: Any, learner: LanguageModel) -> None:
    from refimpl.viz import style

    T = max(512, learner.T)
    probe = Probe(B=4)
    for i, (name, strategy) in enumerate(strategies(64, 64).items()):
        alive = np.array(timeline(probe.work(strategy, T))) / 1e6
        part = np.linspace(0, 1, len(alive))
        ax.fill_between(part, alive, color=colour(name), alpha=0.15, linewidth=0)
        ax.plot(part, alive, style.DASHES[i], color=colour(name), linewidth=1.3, label=f"{name}: {alive.max():.0f} MB")
    ax.set(title=f"Memory during one gradient (4 texts of {T})", xlabel="operations done", ylabel="alive / MB")
    ax.set_ylim(0, 1.2 * ax.get_ylim()[1])  # room for the legend
    style.percent_axis(ax.xaxis)
    ax.legend()


def _draw_growth(ax: Any, found: Mapping[str, Mapping[str, Any]], limit: float | None, probe: Probe) -> None:
    from refimpl.viz import style

    for i, (name, m) in enumerate(found.items()):
        ax.plot(m["T"], np.array(m["bytes"]) / 1e6, style.DASHES[i], marker="o", color=colour(name), label=name)
    if limit is not None:
        ax.axhline(limit / 1e6, color=style.INK, linewidth=1)
        ax.annotate(
            f"{limit / 1e9:g} GB", (1, limit / 1e6), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    title = f"Peak memory, measured ({probe.B} texts, {probe.model.vocabulary} tokens)"
    ax.set(title=title, xlabel="length of a text, T", ylabel="peak / MB", xlim=0)
    ax.set_ylim(0, 1.5 * limit / 1e6 if limit is not None else 1.25 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper right", ncols=2)


def _draw_longest(ax: Any, found: Mapping[str, Mapping[str, Any]], limit: float | None) -> None:
    from refimpl.viz import style

    names = [n for n in NAMES.values() if n in found][::-1]
    if limit is None:
        values = [found[n]["bytes"][-1] / 1e6 for n in names]
        title, unit = f"Peak memory at T = {found[names[0]]['T'][-1]}", "MB"
    else:
        values = [found[n]["longest"] for n in names]
        title, unit = f"Longest text within {limit / 1e9:g} GB", "tokens"
    base = values[names.index("checkpointing")]
    ax.barh(names, values, color=[colour(n) for n in names], height=0.65)
    for i, (n, v) in enumerate(zip(names, values)):
        more = "at least " if limit is not None and found[n]["capped"] else ""
        text = f"{more}{v:,.0f} {unit}, {v / base:.1f} × checkpointing"
        inside = v > 0.55 * max(values)
        ax.annotate(
            text,
            (v, i),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            ha="right" if inside else "left",
            va="center",
            color=style.on(colour(n)) if inside else style.INK,
        )
    ax.set(title=title, xlabel=unit)
    ax.grid(axis="y", visible=False)


# ---------------------------------------------------------------- the race


def race() -> list[Step]:
    """One training step: StreamBP on a long text, and plain back-propagation on a batch of short ones."""
    long = {"layers": 4, "d": 128, "heads": 4, "kv_heads": 2, "hidden": 344}
    short = {"layers": 4, "d": 256, "heads": 4, "kv_heads": 4, "hidden": 684}
    return [
        _step("StreamBP step", 1, 2048, 256, Stream(256, 256), long),
        _step("back-propagation step", 8, 256, 256, Plain(), short),
    ]


def _step(name: str, B: int, T: int, V: int, strategy: Strategy, sizes: dict[str, Any]) -> Step:
    def batch() -> tuple[np.ndarray, np.ndarray]:
        rows = np.random.default_rng(0).integers(0, V, (B, T + 1))
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])

    def make() -> Callable[[], float]:
        model = GPT(V, **sizes)
        params = initialise(model, np.random.default_rng(1))
        grads, optimizer = params.zeros_like(), AdamW(1e-3)
        state = optimizer.init(params)
        tokens, target = batch()
        objective = SFT(target, np.ones(target.shape, np.float32))

        def step() -> float:
            grads.flat[...] = 0
            loss = strategy.gradient(model, params, grads, tokens, objective)
            optimizer.step(params, grads, state)
            return loss

        return step

    def make_torch(torch: Any) -> Callable[[], float]:
        model = GPT(V, **sizes)
        params = initialise(model, np.random.default_rng(1))
        length = strategy.length if isinstance(strategy, Stream) else None
        return torch_step(torch, model, params, *batch(), length)

    shape = f"B={B}, T={T}, d={sizes['d']}, L={sizes['layers']}, V={V}"
    return Step(name, shape, "float32", make, make_torch, _flops(B, T, V, sizes, isinstance(strategy, Stream)))


def _flops(B: int, T: int, V: int, s: Mapping[str, int], again: bool) -> float:
    """Products of one step: forward once, or twice where layers are computed again, backward twice as much; attention
    by causal halves, its backward pass 2.5 times as much as forward (scores are made again)."""
    d, E = s["d"], s["d"] // s["heads"]
    dense = 2.0 * B * T * (d * (s["heads"] + 2 * s["kv_heads"]) * E + d * d + 3 * d * s["hidden"])
    attention = 2.0 * B * T * T * d
    layers = s["layers"] * (dense * (3 + again) + attention * (3.5 + again))
    return layers + 3 * 2.0 * B * T * d * V


def torch_step(
    torch: Any, model: GPT, params: Params, tokens: np.ndarray, target: np.ndarray, length: Any = None
) -> Callable[[], float]:
    """The same training step in PyTorch, eager: by its autograd, or with `length` by StreamBP, autograd within a
    chunk."""
    nn: Any = torch.nn
    F = nn.functional
    b, T = model.block, tokens.shape[1]
    H, G, E = b.heads, b.kv_heads, b.width
    assert b.rotary and b.norm == "rms" and b.mlp == "swiglu" and not b.bias
    angle = np.arange(T)[:, None] * 10000.0 ** (-2 * np.arange(E // 2) / E)
    cos, sin = (torch.tensor(f(angle), dtype=torch.float32) for f in (np.cos, np.sin))

    def rotate(x: Any, s: int) -> Any:
        x1, x2 = x.chunk(2, dim=-1)
        c, n = cos[s : s + x.shape[2]], sin[s : s + x.shape[2]]
        return torch.cat([x1 * c - x2 * n, x2 * c + x1 * n], dim=-1)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.RMSNorm(b.d, eps=1e-5), nn.RMSNorm(b.d, eps=1e-5)
            self.qkv = nn.Linear(b.d, (H + 2 * G) * E, bias=False)
            self.out, self.up = nn.Linear(b.d, b.d, bias=False), nn.Linear(b.d, 2 * b.hidden, bias=False)
            self.down = nn.Linear(b.hidden, b.d, bias=False)

        def after(self, x: Any, o: Any) -> Any:
            y = x + self.out(o.transpose(1, 2).flatten(2))
            g, u = self.up(self.norm2(y)).chunk(2, dim=-1)
            return y + self.down(F.silu(g) * u)

        def forward(self, x: Any) -> Any:
            q, k, v = (
                a.unflatten(2, (-1, E)).transpose(1, 2)
                for a in self.qkv(self.norm1(x)).split((H * E, G * E, G * E), dim=2)
            )
            o = F.scaled_dot_product_attention(rotate(q, 0), rotate(k, 0), v, is_causal=True, enable_gqa=H != G)
            return self.after(x, o)

        def keys_values(self, x: Any) -> Any:
            kv = F.linear(self.norm1(x), self.qkv.weight[H * E :]).unflatten(2, (-1, E)).transpose(1, 2)
            k, v = kv.chunk(2, dim=1)
            return rotate(k, 0), v

        def rows(self, x: Any, k: Any, v: Any, s: int) -> Any:
            e = s + x.shape[1]
            q = F.linear(self.norm1(x), self.qkv.weight[: H * E]).unflatten(2, (-1, E)).transpose(1, 2)
            sees = torch.ones(x.shape[1], e, dtype=torch.bool).tril(s)  # is_causal would align the other corner
            k, v = k[:, :, :e], v[:, :, :e]
            o = F.scaled_dot_product_attention(rotate(q, s), k, v, attn_mask=sees, enable_gqa=H != G)
            return self.after(x, o)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(model.vocabulary, b.d)
            self.layers = nn.ModuleList(Layer() for _ in range(model.layers))
            self.norm = nn.RMSNorm(b.d, eps=1e-5)

    net = Model()
    for theirs, name in zip(net.parameters(), _torch_names(model), strict=True):
        mine = params[name].T if name.endswith(".weight") else params[name]  # a linear weight is (out, in) there
        theirs.data[...] = torch.from_numpy(np.ascontiguousarray(mine))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    x_in, labels = torch.from_numpy(tokens), torch.from_numpy(target)

    def plain() -> Any:
        x = net.table(x_in)
        for layer in net.layers:
            x = layer(x)
        loss = F.cross_entropy((net.norm(x) @ net.table.weight.T).flatten(0, 1), labels.flatten())
        loss.backward()
        return loss

    def stream() -> Any:
        inputs = []
        with torch.no_grad():
            x = net.table(x_in)
            for layer in net.layers:
                inputs.append(x)
                k, v = layer.keys_values(x)
                x = torch.cat([layer.rows(x[:, s : s + length], k, v, s) for s in range(0, T, length)], dim=1)
        dx, loss = torch.empty_like(x), 0.0
        for s in range(0, T, length):
            part = x[:, s : s + length].detach().requires_grad_()
            z = (net.norm(part) @ net.table.weight.T).flatten(0, 1)
            share = F.cross_entropy(z, labels[:, s : s + length].flatten(), reduction="sum") / labels.numel()
            share.backward()
            dx[:, s : s + length] = part.grad
            loss = loss + share.detach()
        for layer, x in zip(reversed(net.layers), reversed(inputs)):
            whole = x.detach().requires_grad_()
            k, v = layer.keys_values(whole)
            kd, vd = k.detach().requires_grad_(), v.detach().requires_grad_()
            direct = torch.empty_like(x)
            for s in range(0, T, length):
                part = x[:, s : s + length].detach().requires_grad_()
                layer.rows(part, kd, vd, s).backward(dx[:, s : s + length])
                direct[:, s : s + length] = part.grad
            torch.autograd.backward([k, v], [kd.grad, vd.grad])
            dx = direct + whole.grad
        net.table(x_in).backward(dx)
        return loss

    def step() -> float:
        optimizer.zero_grad()
        loss = plain() if length is None else stream()
        optimizer.step()
        return loss.item()

    return step


def _torch_names(model: GPT) -> Sequence[str]:
    """Our names in the order of the PyTorch module's parameters."""
    parts = ("norm1.gain", "norm2.gain", "qkv.weight", "out.weight", "up.weight", "down.weight")
    return ["embed.table", *(f"{name}.{part}" for name in model.names for part in parts), "norm.gain"]


# ---------------------------------------------------------------- a step to read


def teach() -> list[Step]:
    """One training step by StreamBP and by plain back-propagation, small enough to read: eight letters in two chunks of
    four, width 8, double precision. The model has seen a few hundred short texts before."""
    shape = "B=1, T=8, d=8, V=27, L=1"
    made = {"StreamBP": Stream(4, 4), "back-propagation": Plain()}
    return [Step(f"{name}: a step", shape, "float64", functools.partial(_small_step, s)) for name, s in made.items()]


def _small_step(strategy: Strategy) -> Callable[[], float]:
    letters = np.array([c - 96 if 97 <= c <= 122 else 0 for c in load("coriolanus").train_bytes.tobytes().lower()])
    model, optimizer = GPT(27, layers=1, d=8, heads=2, kv_heads=1, hidden=6), AdamW(1e-2)
    params = initialise(model, np.random.default_rng(0), "float64")
    state, grads = optimizer.init(params), params.zeros_like()

    def step(strategy: Strategy, rows: np.ndarray) -> float:
        tokens = letters[rows[:, None] + np.arange(9)]
        target = np.ascontiguousarray(tokens[:, 1:])
        objective = SFT(target, np.ones(target.shape))
        grads.flat[...] = 0
        loss = strategy.gradient(model, params, grads, np.ascontiguousarray(tokens[:, :-1]), objective)
        optimizer.step(params, grads, state)
        return loss

    for i in range(200):
        step(Plain(), np.random.default_rng(i).integers(0, len(letters) - 9, 16))
    return lambda: step(strategy, np.array([0]))
