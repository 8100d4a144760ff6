"""What the paper says, measured. The thresholds are those of the paper's card, written down before the first run.

The model is a nano-llama: d = 64, 4 query and 2 key heads of width 16, MLP of width 172, 4 layers, over bytes (256
tokens) or 2048 tokens. Memory is what NumPy's arrays take at the worst moment (measure.py), beyond parameters and
gradients; a baseline gets what StreamBP gets where it can: logits and their gradient share one array in all of them,
and no layer computes an output again that only the next one needed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from refimpl.backends import arena, available_backends, backend
from refimpl.methods.memory.streambp.distributed import Rank, simulate, train
from refimpl.methods.memory.streambp.measure import Flops, flops
from refimpl.methods.memory.streambp.objectives import DPO, GRPO, SFT, Objective, shifted
from refimpl.methods.memory.streambp.strategies import Checkpoint, MiniSequence, Plain, Strategy, Stream
from refimpl.methods.memory.streambp.streams import Chunks, stream_backward
from refimpl.methods.memory.streambp.study import Probe, lengths
from refimpl.models.gpt import GPT, generate
from refimpl.nn import Params, initialise
from refimpl.optim import AdamW
from refimpl.record import Setting, claim

Values = list[Mapping[str, Any]]
TEXTS = ("coriolanus", "tinyshakespeare")


def nano(V: int = 256) -> GPT:
    return GPT(V, layers=4, d=64, heads=4, kv_heads=2, hidden=172)


def _texts(setting: Setting, B: int, T: int, rng: np.random.Generator) -> np.ndarray:
    """B stretches of T bytes of the training text."""
    text = setting.data.train_bytes
    starts = rng.integers(0, len(text) - T, B)
    return np.stack([text[s : s + T] for s in starts]).astype(np.int64)


def _start(setting: Setting, V: int = 256, dtype: Any = np.float64) -> tuple[GPT, Params]:
    model = nano(V)
    params = initialise(model, np.random.default_rng([setting.seed, 1]), np.float64)
    return model, Params(params.shapes, dtype=dtype, flat=params.flat.astype(dtype))


def _most(values: Values, name: str) -> float:
    return max(v[name] for v in values)


def _core() -> str:
    return "native" if "native" in available_backends() else "numpy"


# ---------------------------------------------------------------- 1: exact


def _partitions(T: int) -> dict[str, Chunks]:
    """One chunk, two, seven unequal ones, one for each position."""
    cuts = [round(T * c) for c in (0, 0.02, 0.11, 0.3, 0.34, 0.62, 0.97, 1)]
    unequal = [e - s for s, e in pairwise(cuts)]
    return {"1": T, "2": [T // 2, T - T // 2], "7 unequal": unequal, f"{T}": 1}


def objectives(tokens: np.ndarray, rng: np.random.Generator) -> dict[str, Objective]:
    """The three objectives on four texts, half of each a completion; references and old policies made up."""
    target, mask = shifted(tokens, np.broadcast_to(np.arange(tokens.shape[1]) >= tokens.shape[1] // 2, tokens.shape))
    reference = -5.5 + 0.1 * rng.standard_normal(tokens.shape)
    old = reference + 0.1 * rng.standard_normal(tokens.shape)
    A = rng.standard_normal(len(tokens))
    return {
        "SFT": SFT(target, mask),
        "GRPO": GRPO(target, mask, A, old, reference, beta=0.04),
        "DPO": DPO(target, mask, reference, beta=0.1),
    }


def _gradient(strategy: Strategy, model: GPT, params: Params, tokens: np.ndarray, aim: Objective) -> Params:
    grads = params.zeros_like()
    strategy.gradient(model, params, grads, tokens, aim)
    return grads


def _error(got: Params, expected: Params) -> float:
    """The largest difference in a parameter's gradient, relative to its largest entry; the worst parameter's."""
    return max(float(np.abs(got[n] - d).max() / np.abs(d).max()) for n, d in expected.items())


def _judge_exact(values: Values) -> tuple[bool, str]:
    double, single = _most(values, "float64"), _most(values, "float32")
    names = [n for n in values[0]["each"] if n.startswith("float64")]
    each = ", ".join(f"{n.removeprefix('float64, ')} {max(v['each'][n] for v in values):.0e}" for n in names)
    return double <= 1e-10 and single <= 1e-4, f"float64 {double:.1e}, float32 {single:.1e}; float64 by case: {each}"


def _draw_exact(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    ax = figure.subplots()
    names = list(values[0]["each"])
    parts = list(dict.fromkeys(n.split(", ")[2] for n in names))
    for i, (dtype, aim) in enumerate(dict.fromkeys(tuple(n.split(", ")[:2]) for n in names)):
        y = [max(v["each"][f"{dtype}, {aim}, {p}"] for v in values) or np.nan for p in parts]  # 0 has no logarithm
        dash = style.DASHES[0 if dtype == "float64" else 1]
        ax.plot(parts, y, dash, marker="o", color=style.colour(i % 3), label=f"{aim}, {dtype}")
    for threshold in (1e-10, 1e-4):
        ax.axhline(threshold, color=style.INK, linewidth=1, linestyle=":")
    ax.set(yscale="log", xlabel="chunks (no point: no difference)", ylabel="largest relative difference")
    ax.set_title("Against back-propagation")
    ax.legend(ncols=2)


@claim(
    "streambp",
    "exact",
    "The gradient is that of back-propagation, for every way to cut the sequence (T = 257; 1, 2, 7 unequal and 257 "
    "chunks) and for SFT, GRPO and DPO.",
    "largest difference in each parameter's gradient, relative to its largest entry: <= 1e-10 in float64, <= 1e-4 in "
    "float32, all seeds",
    _judge_exact,
    data=TEXTS,
    draw=_draw_exact,
    quick_judged=True,
)
def exact(setting: Setting) -> dict[str, Any]:
    T = 65 if setting.quick else 257
    rng = np.random.default_rng(setting.seed)
    tokens = _texts(setting, 4, T, rng)
    found: dict[str, Any] = {"each": {}}
    for dtype in ("float64", "float32"):
        model, params = _start(setting, dtype=dtype)
        for name, aim in objectives(tokens, np.random.default_rng([setting.seed, 2])).items():
            expected = _gradient(Plain(), model, params, tokens, aim)
            for label, length in _partitions(T).items():
                setting.tell(f"{dtype} {name} {label}")
                got = _gradient(Stream(length, length), model, params, tokens, aim)
                found["each"][f"{dtype}, {name}, {label}"] = _error(got, expected)
        found[dtype] = max(e for n, e in found["each"].items() if n.startswith(dtype))
    return found


# ---------------------------------------------------------------- 2: memory


def _line(T: list[int], y: list[float]) -> float:
    """R^2 of a straight line."""
    t, v = np.array(T, float), np.array(y, float)
    residual = v - np.polyval(np.polyfit(t, v, 1), t)
    return float(1 - (residual**2).sum() / ((v - v.mean()) ** 2).sum())


def _judge_memory(values: Values) -> tuple[bool, str]:
    notes, holds = [], True
    for body in values[0]["bodies"]:
        least = {n: min(v[body][n] for v in values) for n in ("ckpt_ratio", "plain_ratio", "r2", "curvature")}
        holds &= least["ckpt_ratio"] >= 4 and least["plain_ratio"] >= 10 and least["r2"] >= 0.999
        if body == "numpy":
            holds &= least["curvature"] > 0
        notes.append(
            f"{body}: checkpointing/stream {least['ckpt_ratio']:.1f}, plain/stream {least['plain_ratio']:.1f}, "
            f"line R² {least['r2']:.5f}, checkpointing's quadratic term {least['curvature']:.3g} bytes a position²"
        )
    return bool(holds), "; ".join(notes)


def _draw_memory(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    axes = np.atleast_1d(figure.subplots(1, len(values[0]["bodies"])))
    for ax, body in zip(axes, values[0]["bodies"]):
        v = values[0][body]
        for i, (name, y) in enumerate(v["peaks"].items()):
            T = v["T"][: len(y)]
            ax.plot(T, np.array(y) / 1e6, style.DASHES[i], marker="o", color=style.colour(i), label=name)
        ax.set(title=f"{body} bodies", xlabel="T", ylabel="peak / MB", yscale="log")
        ax.legend()


@claim(
    "streambp",
    "memory",
    "The peak of activations is several times lower than checkpointing's and grows with T along a line (one text, 2048 "
    "tokens, layer chunks of 64, head chunks of 32).",
    "T = 1024: peak(checkpointing) / peak(stream) >= 4 and peak(plain) / peak(stream) >= 10; a line fits stream's peak "
    "over T = 256..2048 with R² >= 0.999; checkpointing's has a positive quadratic term (where attention holds whole "
    "score blocks: the NumPy bodies)",
    _judge_memory,
    draw=_draw_memory,
)
def memory(setting: Setting) -> dict[str, Any]:
    bodies = list(dict.fromkeys(("numpy", _core())))
    lengths_ = [32, 64, 128] if setting.quick else [256, 512, 1024, 2048]
    probe, found = Probe(B=1), {"bodies": bodies}
    at = 1024 if not setting.quick else 128
    for body in bodies:
        with backend(body):
            peaks: dict[str, list[int]] = {"stream": [], "checkpointing": [], "plain": [], "mini-sequence": []}
            for T in lengths_:
                setting.tell(f"{body} T = {T}")
                peaks["stream"].append(probe.peak(Stream(64, 32), T))
                peaks["checkpointing"].append(probe.peak(Checkpoint(), T))
                if T <= at:
                    peaks["plain"].append(probe.peak(Plain(), T))
                    peaks["mini-sequence"].append(probe.peak(MiniSequence(64, 32), T))
        i = lengths_.index(at)
        found[body] = {  # type: ignore[assignment]
            "T": lengths_,
            "peaks": peaks,
            "ckpt_ratio": peaks["checkpointing"][i] / peaks["stream"][i],
            "plain_ratio": peaks["plain"][i] / peaks["stream"][i],
            "r2": _line(lengths_, [float(p) for p in peaks["stream"]]),
            "curvature": float(np.polyfit(lengths_, peaks["checkpointing"], 2)[0]),
        }
    return found


# ---------------------------------------------------------------- 3: floating-point operations


def _judge_flops(values: Values) -> tuple[bool, str]:
    v = values[0]
    exact_ = all(v["scores"][i] * 2 * D == v["whole_scores"] * (1 + D) for i, D in enumerate(v["D"]))
    within = all(total <= v["whole_total"] for total in v["total"])
    same = all(other == v for other in values)
    ratios = ", ".join(f"{s / v['whole_scores']:.4f}" for s in v["scores"])
    totals = ", ".join(f"{t / v['whole_total']:.3f}" for t in v["total"])
    extra = ", ".join(f"{t / v['whole_total']:.3f}" for t in v["uncached_total"])
    note = f"D = {', '.join(map(str, v['D']))}: scores {ratios}; all of the second forward pass {totals} of "
    return exact_ and within and same, note + f"checkpointing's (keys computed again for each chunk: {extra})"


@claim(
    "streambp",
    "flops",
    "D equal chunks compute (1 + D) / (2D) of the scores, and computing a layer again in chunks never costs more than "
    "doing so at once (T = 512, counted at every call).",
    "scores' ratio exactly (1 + D) / (2D) for D = 1, 2, 4, 8, 16; operations of the second forward pass at most "
    "checkpointing's",
    _judge_flops,
    quick_judged=True,
)
def operations(setting: Setting) -> dict[str, Any]:
    model, params = _start(setting)
    T, scope = 512, params.scope("block0")
    x = np.random.default_rng(setting.seed).standard_normal((1, T, model.d))
    whole = flops(lambda: model.block.forward(scope, x, need_z=False))

    def again(D: int, **how: Any) -> Flops:
        grads = params.zeros_like().scope("block0")
        return flops(lambda: stream_backward(model.block, scope, grads, x, x.copy(), T // D, **how))

    D = [1, 2, 4, 8, 16]
    cached = [again(d) for d in D]
    uncached = [again(d, order="forward", keep_keys=False) for d in D]
    return {
        "D": D,
        "scores": [f.scores for f in cached],
        "total": [f.total for f in cached],
        "uncached_total": [f.total for f in uncached],
        "whole_scores": whole.scores,
        "whole_total": whole.total,
    }


# ---------------------------------------------------------------- 4, 5: time


def _timed(strategies: Mapping[Any, Strategy], T: int, B: int = 1, repeats: int = 3) -> dict[Any, float]:
    """Median seconds of a gradient, after one that warms up; the strategies take turns."""
    probe = Probe(256, B)
    work = {name: probe.work(s, T) for name, s in strategies.items()}
    seconds: dict[Any, list[float]] = {name: [] for name in work}
    with backend(_core()), arena():  # as training runs
        for f in work.values():
            f()
        for _ in range(repeats):
            for name, f in work.items():
                began = time.perf_counter()
                f()
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(s) for name, s in seconds.items()}


def _judge_time(values: Values) -> tuple[bool, str]:
    ratio = {T: statistics.median(v["ratio"][i] for v in values) for i, T in enumerate(values[0]["T"])}
    first, last = min(ratio), max(ratio)
    note = ", ".join(f"T = {T}: {r:.2f}" for T, r in ratio.items())
    return ratio[last] <= 1.05 and ratio[last] < ratio[first], f"time(stream) / time(checkpointing), medians: {note}"


@claim(
    "streambp",
    "time",
    "On long texts StreamBP takes no longer than checkpointing, and the longer the text the better (C core, one text, "
    "d = 64, 8 chunks).",
    "T = 4096: time(stream, D = 8) <= 1.05 time(checkpointing), and the ratio is lower there than at T = 512 (3 "
    "repeats, medians)",
    _judge_time,
)
def duration(setting: Setting) -> dict[str, Any]:
    lengths_ = [64, 256] if setting.quick else [512, 1024, 2048, 4096]
    found: dict[str, Any] = {"T": lengths_, "stream": [], "checkpointing": [], "ratio": []}
    for T in lengths_:
        setting.tell(f"T = {T}")
        s = _timed({"stream": Stream(T // 8, 100), "checkpointing": Checkpoint()}, T)
        found["stream"].append(s["stream"])
        found["checkpointing"].append(s["checkpointing"])
        found["ratio"].append(s["stream"] / s["checkpointing"])
    return found


def _judge_chunk(values: Values) -> tuple[bool, str]:
    slow = statistics.median(v["seconds"]["4"] / v["seconds"]["256"] for v in values)
    large = max(v["bytes"]["512"] / v["bytes"]["64"] for v in values)
    return slow >= 1.3 and large <= 2.5, f"time(4) / time(256) {slow:.2f}; peak(512) / peak(64) {large:.2f}"


def _draw_chunk(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    left, right = figure.subplots(1, 2)
    sizes = [int(c) for c in values[0]["seconds"]]
    seconds = np.array([[v["seconds"][str(c)] for c in sizes] for v in values])
    left.plot(sizes, np.median(seconds, axis=0), marker="o", color=style.colour(0))
    left.set(xscale="log", xlabel="chunk length", ylabel="seconds", title="Time of a gradient", ylim=0)
    sizes = [int(c) for c in values[0]["bytes"]]
    right.plot(sizes, [values[0]["bytes"][str(c)] / 1e6 for c in sizes], marker="o", color=style.colour(1))
    right.set(xscale="log", xlabel="chunk length", ylabel="MB", title="Peak memory", ylim=0)


@claim(
    "streambp",
    "chunk-size",
    "The chunk length trades little memory for little time: only very short chunks are slow (T = 2048, C core).",
    "time(chunks of 4) >= 1.3 time(256); peak(512) <= 2.5 peak(64)",
    _judge_chunk,
    draw=_draw_chunk,
)
def chunk_size(setting: Setting) -> dict[str, Any]:
    T, probe = (256 if setting.quick else 2048), Probe(256, 1)
    setting.tell("times")
    seconds = _timed({str(c): Stream(c, 100) for c in (4, 16, 64, 256, 1024)}, T)
    setting.tell("memory")
    with backend(_core()):
        sizes = {str(c): probe.peak(Stream(c, 100), T) for c in (16, 64, 256, 512, 1024)}
    return {"seconds": seconds, "bytes": sizes}


# ---------------------------------------------------------------- 6: training


def _sft(setting: Setting, model: GPT, T: int) -> Callable[[int, Params], tuple[np.ndarray, Objective]]:
    def batch(step: int, params: Params) -> tuple[np.ndarray, Objective]:
        tokens = _texts(setting, 2, T, np.random.default_rng([setting.seed, 3, step]))
        return tokens, SFT(*shifted(tokens))

    return batch


def _dpo(setting: Setting, model: GPT, start: Params) -> Callable[[int, Params], tuple[np.ndarray, Objective]]:
    """Pairs: a text as it is, and with its second half shuffled; the reference is the model before training."""

    def batch(step: int, params: Params) -> tuple[np.ndarray, Objective]:
        rng = np.random.default_rng([setting.seed, 4, step])
        good = _texts(setting, 2, 48, rng)
        bad = good.copy()
        bad[:, 24:] = rng.permuted(bad[:, 24:], axis=1)
        tokens = np.concatenate([good, bad])
        target, mask = shifted(tokens, np.broadcast_to(np.arange(48) >= 24, tokens.shape))
        reference = Plain().log_probs(model, start, tokens, target)
        return tokens, DPO(target, mask, reference, beta=0.5)

    return batch


TARGET = ord("e")


def _grpo(
    setting: Setting, model: GPT, start: Params, rewards: list[float]
) -> Callable[[int, Params], tuple[np.ndarray, Objective]]:
    """Eight completions of a prompt, drawn from the model as it is; the reward is how often TARGET occurs."""

    def batch(step: int, params: Params) -> tuple[np.ndarray, Objective]:
        rng = np.random.default_rng([setting.seed, 5, step])
        prompt = np.repeat(_texts(setting, 1, 16, rng), 8, axis=0)
        drawn = np.stack(list(generate(model, params, prompt, 24, rng)), axis=1)
        tokens = np.concatenate([prompt, drawn], axis=1)
        reward = (drawn == TARGET).sum(axis=1).astype(float)
        A = (reward - reward.mean()) / (reward.std(ddof=1) + 1e-4)
        target, mask = shifted(tokens, np.broadcast_to(np.arange(40) >= 16, tokens.shape))
        reference = Plain().log_probs(model, start, tokens, target)
        rewards.append(float(reward.mean()))
        return tokens, GRPO(target, mask, A, None, reference, beta=0.02)

    return batch


def _follow(strategy: Strategy, model: GPT, start: Params, batch: Any, steps: int, lr: float, tell: Any) -> list[float]:
    """The loss at each step of AdamW."""
    params, optimizer = start.copy(), AdamW(lr)
    state, grads, losses = optimizer.init(params), params.zeros_like(), []
    for step in range(steps):
        tokens, aim = batch(step, params)
        grads.flat[...] = 0
        losses.append(strategy.gradient(model, params, grads, tokens, aim))
        optimizer.step(params, grads, state)
        if step % 20 == 19:
            tell(f"step {step + 1}")
    return losses


def _judge_training(values: Values) -> tuple[bool, str]:
    worst = {n: max(v["apart"][n] for v in values) for n in values[0]["apart"]}
    ends = {n: (values[0]["first"][n], np.mean([v["last"][n] for v in values])) for n in worst}
    note = ", ".join(f"{n} {worst[n]:.1e} (loss {a:.3f} to {b:.3f})" for n, (a, b) in ends.items())
    reward = f"{np.mean([v['reward'][0] for v in values]):.1f} to {np.mean([v['reward'][1] for v in values]):.1f}"
    return max(worst.values()) <= 1e-6, f"largest difference of losses: {note}; GRPO's mean reward {reward}"


def _draw_training(figure: Any, values: Values) -> None:
    from refimpl.viz import style

    axes = figure.subplots(1, 3)
    for ax, name in zip(axes, values[0]["losses"]):
        for i, v in enumerate(values):
            one, other = v["losses"][name]
            ax.plot(one, color=style.colour(i), linewidth=2.5, alpha=0.4)
            ax.plot(other, "--", color=style.colour(i), linewidth=1)
        ax.set(title=name, xlabel="step", ylabel="loss: plain (wide), stream (dashed)")


@claim(
    "streambp",
    "training",
    "Training is the same, step for step: 200 steps of SFT on T = 256, 50 of DPO and of GRPO (float64, AdamW).",
    "|loss(stream) - loss(plain)| <= 1e-6 at every step, 3 seeds",
    _judge_training,
    data=TEXTS,
    draw=_draw_training,
    quick_judged=True,
)
def training(setting: Setting) -> dict[str, Any]:
    model, start = _start(setting)
    T = 64 if setting.quick else 256
    long, short = (20, 5) if setting.quick else (200, 50)
    rewards: list[float] = []
    makers: dict[str, tuple[Any, int, float]] = {
        "SFT": (lambda s: _sft(setting, model, T), long, 3e-3),
        "DPO": (lambda s: _dpo(setting, model, s), short, 5e-4),
        "GRPO": (lambda s: _grpo(setting, model, s, rewards), short, 1e-3),
    }
    found: dict[str, Any] = {"apart": {}, "first": {}, "last": {}, "losses": {}}
    policy = start
    for name, (make, steps, lr) in makers.items():
        runs = []
        for strategy in (Plain(), Stream(48, 20)):
            setting.tell(f"{name} {type(strategy).__name__}")
            rewards.clear()
            runs.append(_follow(strategy, model, policy, make(policy), steps, lr, setting.tell))
        if name == "GRPO":  # of the last run, StreamBP's
            found["reward"] = [float(np.mean(rewards[:5])), float(np.mean(rewards[-5:]))]
        if name == "SFT":  # the others start from what SFT has learned
            policy = start.copy()
            _continue(model, policy, make(policy), steps, lr)
        found["apart"][name] = float(np.abs(np.array(runs[0]) - np.array(runs[1])).max())
        found["first"][name], found["last"][name] = runs[1][0], runs[1][-1]
        found["losses"][name] = [r[:: max(1, steps // 50)] for r in runs]
    return found


def _continue(model: GPT, params: Params, batch: Any, steps: int, lr: float) -> None:
    """Train `params` in place."""
    optimizer = AdamW(lr)
    state, grads = optimizer.init(params), params.zeros_like()
    for step in range(steps):
        tokens, aim = batch(step, params)
        grads.flat[...] = 0
        Stream(128, 100).gradient(model, params, grads, tokens, aim)
        optimizer.step(params, grads, state)


# ---------------------------------------------------------------- 7: distributed


def _judge_ranks(values: Values) -> tuple[bool, str]:
    apart = max(max(v["apart"].values()) for v in values)
    exact_ = all(v["sent"] == v["expected"] for v in values)
    naive = all(v["naive_layers"] == v["D"] * v["once_layers"] for v in values)
    v = values[0]
    note = f"parameters apart by {apart:.1e}; bytes " + ("as by the formulas" if exact_ else f"{v['sent']}")
    return apart <= 1e-12 and exact_ and naive, note + f"; layers' gradients naively {v['naive_layers']:,} bytes, " + (
        f"{v['naive_layers'] / v['once_layers']:g} times those of one sum a layer (D = {v['D']})"
    )


@claim(
    "streambp",
    "distributed",
    "On 4 ranks with optimiser, gradients and parameters in shards, training equals one process, and gradients are "
    "communicated once a layer, as without chunks.",
    "parameters after 5 steps within 1e-12 of one process (float64), for ZeRO-1, 2 and 3; bytes sent by all ranks: "
    "2 (R - 1) θ for plain sums and the like for each stage; summing after every chunk D times as much",
    _judge_ranks,
    data=TEXTS,
    quick_judged=True,
)
def distributed(setting: Setting) -> dict[str, Any]:
    R, steps, T, length = 4, 2 if setting.quick else 5, 64, 16
    model, params = _start(setting)
    rng = np.random.default_rng([setting.seed, 6])
    whole, parts = [], [[] for _ in range(R)]  # type: ignore[var-annotated]
    for _ in range(steps):
        tokens = _texts(setting, R, T, rng)
        target, mask = shifted(tokens)
        whole.append((tokens, SFT(target, mask)))
        for r in range(R):
            parts[r].append((tokens[r : r + 1], SFT(target[r : r + 1], mask[r : r + 1], float(mask.sum()))))
    alone, optimizer = params.copy(), AdamW(1e-3)
    state, grads = optimizer.init(alone), alone.zeros_like()
    for tokens, aim in whole:
        grads.flat[...] = 0
        Plain().gradient(model, alone, grads, tokens, aim)
        optimizer.step(alone, grads, state)
    n = params.size * params.flat.itemsize
    ends = params.flat.itemsize * sum(params[name].size for name in ("embed.table", "norm.gain"))
    unit = steps * (R - 1)
    found: dict[str, Any] = {"apart": {}, "sent": {}, "D": T // length}
    for stage, naive in ((0, False), (1, False), (2, False), (3, False), (0, True)):
        setting.tell(f"ZeRO-{stage}{' naively' * naive}")
        ranks = [Rank(model, r, R, stage, length, 16, naive) for r in range(R)]
        run = simulate([train(rank, params, parts[r]) for r, rank in enumerate(ranks)])
        after = simulate([rank.parameters() for rank in ranks]).results
        apart = max(float(np.abs(vector - alone.flat).max()) for vector in after)
        if naive:
            found["naive_layers"] = sum(run.sent) - unit * 2 * ends
        else:
            found["sent"][f"ZeRO-{stage}"] = sum(run.sent)
        found["apart"][f"ZeRO-{stage}{' naive' * naive}"] = apart
    found["once_layers"] = found["sent"]["ZeRO-0"] - unit * 2 * ends
    gathered = ends + 2 * (n - ends)  # ZeRO-3: the tables once, a layer forward and backward
    found["expected"] = {
        "ZeRO-0": unit * 2 * n,
        "ZeRO-1": unit * 3 * n,
        "ZeRO-2": unit * 2 * n,
        "ZeRO-3": unit * (n + gathered),
    }
    return found


# ---------------------------------------------------------------- 8: the longest text


def _judge_longest(values: Values) -> tuple[bool, str]:
    ratio = min(v["StreamBP"]["longest"] / v["checkpointing"]["longest"] for v in values)
    v = values[0]
    each = ", ".join(f"{n} {m['longest']:,}{' or more' * m['capped']}" for n, m in v.items())
    return ratio >= 2.8, f"{each}; StreamBP / checkpointing {ratio:.1f}{' or more' * v['StreamBP']['capped']}"


@claim(
    "streambp",
    "longest-text",
    "Within the same memory StreamBP trains on texts several times longer than checkpointing can (128 texts, 2048 "
    "tokens, 1 GB of activations).",
    "longest(StreamBP) >= 2.8 longest(checkpointing), each found by measuring",
    _judge_longest,
)
def longest_text(setting: Setting) -> dict[str, Any]:
    limit = 2e7 if setting.quick else 1e9
    setting.tell("measuring")
    with backend(_core()):
        return lengths(Probe(B=1 if setting.quick else 128), limit, factor=3.2)
