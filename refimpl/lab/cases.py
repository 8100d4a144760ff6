"""What `refimpl bench ops` races: operations with arguments of the sizes that the papers use, and PyTorch's same.

Numbers of floating-point operations are nominal: an addition, multiplication, comparison, division, exp or square root
counts as one, and a gelu as 8 (an erf or tanh among them). Bytes are not declared: every input read once and every
output written once is the least that an operation must move, and the race takes that from the arrays themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops

__all__ = ["CASES", "Case"]

Args = dict[str, Any]
Torch = Callable[[Any, Mapping[str, Any]], Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """One operation at one size. `make(normal)` gives its arguments from a source of float32 normal arrays.

    `torch(torch, t)` gets the arguments with arrays as tensors and returns a function that computes the same; what that
    returns is compared with the first results of ours (for an operation that works in place: with what it wrote).
    """

    op: str
    shape: str
    flops: float
    make: Callable[[Callable[..., np.ndarray]], Args]
    torch: Torch | None = None


def _gradient(f: Callable[..., Any], *names: str) -> Torch:
    """A backward pass as PyTorch does it: the graph is built once, walking back through it is timed."""

    def prepare(torch: Any, t: Mapping[str, Any]) -> Callable[[], Any]:
        inputs = [t[n].detach().clone().requires_grad_() for n in names]
        with torch.enable_grad():
            y = f(torch, dict(t) | dict(zip(names, inputs)))
        return lambda: torch.autograd.grad(y, inputs, t["dy"], retain_graph=True)

    return prepare


def _call(f: Callable[[Any, Mapping[str, Any]], Any]) -> Torch:
    return lambda torch, t: lambda: f(torch, t)


def _matmul(n: int, k: int, m: int) -> Case:
    def make(normal):
        return {"a": normal(n, k), "b": normal(k, m)}

    return Case("matmul", f"{n}x{k}x{m}", 2.0 * n * k * m, make, _call(lambda torch, t: t["a"] @ t["b"]))


def _linear(rows: int, d_in: int, d_out: int) -> list[Case]:
    def make(normal):
        return {"x": normal(rows, d_in), "weight": normal(d_in, d_out), "bias": normal(d_out)}

    def make_backward(normal):
        return {"dy": normal(rows, d_out), "x": normal(rows, d_in), "weight": normal(d_in, d_out)}

    def backward(torch, t):
        return t["dy"] @ t["weight"].T, t["x"].T @ t["dy"], t["dy"].sum(0)

    shape, flops = f"{rows}x{d_in}x{d_out}", 2.0 * rows * d_in * d_out
    forward = _call(lambda torch, t: torch.addmm(t["bias"], t["x"], t["weight"]))
    return [
        Case("linear", shape, flops, make, forward),
        Case("linear_backward", shape, 2 * flops, make_backward, _call(backward)),
    ]


def _elementwise(op: str, n: int, flops: int, torch: Torch, **more: Any) -> Case:
    return Case(op, f"{n:,}".replace(",", " "), float(flops * n), lambda normal: {"x": normal(n), **more}, torch)


def _softmax(rows: int, k: int) -> list[Case]:
    def make_backward(normal):
        e = np.exp(normal(rows, k))
        return {"dy": normal(rows, k), "y": e / e.sum(axis=1, keepdims=True)}

    n, shape = float(rows * k), f"{rows}x{k}"
    forward = _call(lambda torch, t: torch.softmax(t["z"], -1))
    backward = _call(lambda torch, t: torch._softmax_backward_data(t["dy"], t["y"], -1, t["y"].dtype))
    return [
        Case("softmax", shape, 4 * n, lambda normal: {"z": normal(rows, k)}, forward),
        Case("softmax_backward", shape, 4 * n, make_backward, backward),
    ]


def _cross_entropy(rows: int, k: int) -> Case:
    def make(normal):
        return {"logits": normal(rows, k), "target": np.arange(rows, dtype=np.int64) * 7919 % k}

    def forward(torch, t):
        return torch.nn.functional.cross_entropy(t["logits"], t["target"])

    return Case("cross_entropy", f"{rows}x{k}", 5.0 * rows * k, make, _call(forward))


def _layernorm(rows: int, d: int) -> list[Case]:
    def make(normal):
        return {"x": normal(rows, d), "gain": normal(d), "bias": normal(d)}

    def make_backward(normal):
        x = normal(rows, d)
        mean = x.mean(axis=1)
        rstd = (1 / np.sqrt(x.var(axis=1) + 1e-5)).astype(np.float32)
        return {"dy": normal(rows, d), "x": x, "gain": normal(d), "mean": mean, "rstd": rstd}

    def forward(torch, t):
        return torch.nn.functional.layer_norm(t["x"], (d,), t["gain"], t["bias"])

    def with_bias(torch, t):
        bias = torch.zeros(d, requires_grad=True)
        return torch.nn.functional.layer_norm(t["x"], (d,), t["gain"], bias)

    n, shape = float(rows * d), f"{rows}x{d}"
    return [
        Case("layernorm", shape, 7 * n, make, _call(forward)),
        Case("layernorm_backward", shape, 13 * n, make_backward, _gradient(with_bias, "x", "gain")),
    ]


def _batchnorm(b: int, c: int, h: int, w: int) -> Case:
    def make(normal):
        return {"x": normal(b, c, h, w), "gain": normal(c), "bias": normal(c)}

    def forward(torch, t):
        return torch.nn.functional.batch_norm(t["x"], None, None, t["gain"], t["bias"], training=True)

    return Case("batchnorm", f"{b}x{c}x{h}x{w}", 7.0 * b * c * h * w, make, _call(forward))


def _conv2d(b: int, c: int, h: int, o: int, k: int) -> list[Case]:
    pad = k // 2

    def make(normal):
        return {"x": normal(b, c, h, h), "weight": normal(o, c, k, k), "bias": normal(o), "padding": pad}

    def make_backward(normal):
        return {"dy": normal(b, o, h, h), "x": normal(b, c, h, h), "weight": normal(o, c, k, k), "padding": pad}

    def forward(torch, t):
        return torch.nn.functional.conv2d(t["x"], t["weight"], t["bias"], padding=pad)

    def with_bias(torch, t):
        bias = torch.zeros(o, requires_grad=True)
        return torch.nn.functional.conv2d(t["x"], t["weight"], bias, padding=pad)

    shape, flops = f"{b}x{c}x{h}x{h} k{k}", 2.0 * b * o * h * h * c * k * k
    return [
        Case("conv2d", shape, flops, make, _call(forward)),
        Case("conv2d_backward", shape, 2 * flops, make_backward, _gradient(with_bias, "x", "weight")),
    ]


def _max_pool2d(b: int, c: int, h: int) -> Case:
    def make(normal):
        return {"x": normal(b, c, h, h), "size": 2}

    def forward(torch, t):
        return torch.nn.functional.max_pool2d(t["x"], 2, return_indices=True)[0]

    return Case("max_pool2d", f"{b}x{c}x{h}x{h}", 1.0 * b * c * h * h, make, _call(forward))


def _attention(b: int, h: int, t: int, d: int) -> list[Case]:
    def make(normal):
        return {"q": normal(b, h, t, d), "k": normal(b, h, t, d), "v": normal(b, h, t, d), "causal": True}

    def make_backward(normal):
        args = make(normal)
        s = args["q"] @ args["k"].swapaxes(-1, -2) / np.float32(math.sqrt(d))
        s = np.where(np.tri(t, dtype=bool), s, np.float32(-np.inf))
        m = s.max(axis=-1, keepdims=True)
        p = np.exp(s - m)
        total = p.sum(axis=-1, keepdims=True)
        return {"dy": normal(b, h, t, d), **args, "y": p / total @ args["v"], "lse": (m + np.log(total))[..., 0]}

    def forward(torch, a):
        return torch.nn.functional.scaled_dot_product_attention(a["q"], a["k"], a["v"], is_causal=True)

    # half of the T x T products are above the diagonal
    shape, flops = f"{b}x{h}x{t}x{d}", 2.0 * b * h * t * t * d
    return [
        Case("attention", shape, flops, make, _call(forward)),
        Case("attention_backward", shape, 2.5 * flops, make_backward, _gradient(forward, "q", "k", "v")),
    ]


def _lstm(b: int, t: int, d: int, n: int) -> Case:
    def make(normal):
        scale = np.float32(1 / math.sqrt(n))
        weights = {"w_x": normal(d, 4 * n) * scale, "w_h": normal(n, 4 * n) * scale, "bias": normal(4 * n)}
        return {"x": normal(b, t, d), "h0": normal(b, n), "c0": normal(b, n), **weights}

    def prepare(torch, a):
        module = torch.nn.LSTM(d, n, batch_first=True)
        module.weight_ih_l0.data[...] = a["w_x"].T
        module.weight_hh_l0.data[...] = a["w_h"].T
        module.bias_ih_l0.data[...] = a["bias"]
        module.bias_hh_l0.data.zero_()
        state = (a["h0"][None], a["c0"][None])
        return lambda: module(a["x"], state)[0]

    return Case("lstm_sequence", f"{b}x{t}x{d} N{n}", 2.0 * b * t * (d + n) * 4 * n, make, prepare)


def _adam(n: int) -> Case:
    def make(normal):
        zeros = np.zeros(n, np.float32)
        hyper = {"step": 1, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        return {"param": normal(n), "grad": normal(n), "m": zeros, "v": zeros.copy(), **hyper}

    def prepare(torch, t):
        param = torch.nn.Parameter(t["param"].clone())
        param.grad = t["grad"].clone()
        optimizer = torch.optim.Adam([param], lr=1e-3, fused=True)

        def step():
            optimizer.step()
            return param

        return step

    return Case("adam_update", f"{n:,}".replace(",", " "), 12.0 * n, make, prepare)


def _embedding(rows: int, v: int, d: int) -> Case:
    def make(normal):
        return {"index": np.arange(rows, dtype=np.int64) * 7919 % v, "table": normal(v, d)}

    return Case("embedding", f"{rows} of {v}x{d}", 0.0, make, _call(lambda torch, t: t["table"][t["index"]]))


def _functional(name: str, *more: Any) -> Torch:
    return _call(lambda torch, t: getattr(torch.nn.functional, name)(t["x"], *more))


# ---------------------------------------------------------------- products, attention and sequences


def _product(m: int, k: int, n: int) -> list[Case]:
    """op(a) op(b) with no operand, the second or the first one transposed."""

    def case(transpose_a: bool, transpose_b: bool) -> Case:
        def make(normal):
            a, b = normal(k, m) if transpose_a else normal(m, k), normal(n, k) if transpose_b else normal(k, n)
            return {"a": a, "b": b, "transpose_a": transpose_a, "transpose_b": transpose_b}

        def forward(torch, t):
            return (t["a"].T if transpose_a else t["a"]) @ (t["b"].T if transpose_b else t["b"])

        label = f"{m}x{k}x{n} {'NT'[transpose_a]}{'NT'[transpose_b]}"
        return Case("matmul", label, 2.0 * m * k * n, make, _call(forward))

    return [case(False, False), case(False, True), case(True, False)]


def _decoding(b: int, h: int, g: int, s: int, d: int) -> Case:
    """One query for each of h heads, which share g heads of s keys."""

    def make(normal):
        return {"q": normal(b, h, 1, d), "k": normal(b, g, s, d), "v": normal(b, g, s, d)}

    def forward(torch, a):
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(a["q"], a["k"], a["v"], enable_gqa=True) if g < h else attend(a["q"], a["k"], a["v"])

    return Case("attention", f"{b}x{h}/{g}x1 of {s}x{d}", 4.0 * b * h * s * d, make, _call(forward))


def _recurrent(kind: str, b: int, t: int, d: int, n: int) -> list[Case]:
    """Forward and backward pass against PyTorch's module of the same name."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind]
    op = f"{kind.lower()}_sequence"

    def make(normal):
        scale = np.float32(1 / math.sqrt(n))
        states = {"h0": normal(b, n), **({"c0": normal(b, n)} if kind == "LSTM" else {})}
        weights = {"w_x": normal(d, gates * n) * scale, "w_h": normal(n, gates * n) * scale}
        biases = {name: normal(gates * n) for name in (("bias_x", "bias_h") if kind == "GRU" else ("bias",))}
        return {"x": normal(b, t, d), **states, **weights, **biases}

    def make_backward(normal):
        args = make(normal)
        results = getattr(ops, op).numpy(**args)
        kept = dict(zip({"RNN": ("y",), "GRU": ("y", "gates"), "LSTM": ("y", "c", "gates")}[kind], _tuple(results)))
        given = {k: v for k, v in args.items() if not k.startswith("bias")}
        return {"dy": normal(b, t, n), **({"dc": None} if kind == "LSTM" else {}), **given, **kept}

    def module(torch, a):
        made = getattr(torch.nn, kind)(d, n, batch_first=True)
        made.weight_ih_l0.data[...] = a["w_x"].T
        made.weight_hh_l0.data[...] = a["w_h"].T
        for name, parameter in (("bias_x", made.bias_ih_l0), ("bias_h", made.bias_hh_l0)):
            parameter.data[...] = a.get(name, a.get("bias", 0.0) if name == "bias_x" else 0.0)
        return made

    def state(a):
        return (a["h0"][None], a["c0"][None]) if kind == "LSTM" else a["h0"][None]

    def forward(torch, a):
        made, start = module(torch, a), state(a)
        return lambda: made(a["x"], start)[0]

    def backward(torch, a):
        made, x = module(torch, a), a["x"].clone().requires_grad_()
        with torch.enable_grad():
            y = made(x, state(a))[0]
        wrt = [x, *made.parameters()]
        # the first result, dx, is compared: ours lie transposed
        return lambda: torch.autograd.grad(y, wrt, a["dy"], retain_graph=True)[:1]

    shape, flops = f"{b}x{t}x{d} N{n}", 2.0 * b * t * (d + n) * gates * n
    return [Case(op, shape, flops, make, forward), Case(f"{op}_backward", shape, 2 * flops, make_backward, backward)]


def _tuple(results: Any) -> tuple:
    return results if isinstance(results, tuple) else (results,)


def _lif(b: int, t: int, n: int) -> list[Case]:
    """Leaky integrate-and-fire neurons against PyTorch's loop over the steps, with a triangle as surrogate slope."""
    leak = 0.9

    def make(normal):
        return {"x": normal(t, b, n), "v0": np.zeros((b, n), np.float32), "leak": leak}

    def make_backward(normal):
        args = make(normal)
        u = ops.lif_sequence.numpy(**args)[2]
        return {"dspikes": normal(t, b, n), "dv_last": None, "u": u, "leak": leak, "detach_reset": True}

    def forward(torch, a):
        v, spikes = a["v0"], []
        for x in a["x"]:
            u = leak * v + x
            spike = (u >= 1).to(u.dtype)
            v = u - spike
            spikes.append(spike)
        return torch.stack(spikes)

    def backward(torch, a):
        du, dx = None, []
        for ds, u in zip(reversed(a["dspikes"]), reversed(a["u"])):
            slope = (1 - (u - 1).abs()).clamp(min=0)
            du = ds * slope if du is None else ds * slope + leak * du
            dx.append(du)
        return torch.stack(dx[::-1])

    shape, size = f"{t}x{b}x{n}", float(b * t * n)
    return [
        Case("lif_sequence", shape, 5 * size, make, _call(forward)),
        Case("lif_sequence_backward", shape, 8 * size, make_backward, _call(backward)),
    ]


SEQUENCES: tuple[Case, ...] = (
    *(case for n in (64, 128, 256, 512, 1024, 2048) for case in _product(n, n, n)),
    *(case for n in (8, 32) for case in _product(n, n, n)),
    *_product(1, 784, 512),
    *_product(1, 2048, 2048),
    *_product(32, 784, 256),
    *_product(128, 10, 64),
    *_product(2048, 256, 16),
    *_product(64, 4096, 64),
    *_linear(1, 784, 512),
    *_linear(32, 784, 256),
    *_linear(128, 256, 10),
    *_attention(4, 8, 64, 64),
    *_attention(1, 4, 1024, 64),
    *_attention(1, 1, 4096, 64),
    _decoding(1, 8, 8, 1024, 64),
    _decoding(1, 8, 2, 1024, 64),
    *_lif(32, 32, 1024),
    *_recurrent("RNN", 32, 32, 128, 128),
    *_recurrent("GRU", 32, 32, 128, 128),
    *_recurrent("LSTM", 16, 100, 28, 64),
    *_recurrent("LSTM", 8, 64, 256, 256),
)

CASES: tuple[Case, ...] = (
    _matmul(128, 784, 256),
    _matmul(512, 512, 512),
    _matmul(1024, 1024, 1024),
    *_linear(128, 784, 256),
    *_linear(2048, 256, 1024),
    *_conv2d(32, 32, 16, 64, 3),
    *_conv2d(8, 64, 32, 64, 3),
    _max_pool2d(32, 64, 16),
    *_layernorm(2048, 512),
    _batchnorm(32, 64, 16, 16),
    *_softmax(128, 10),
    *_softmax(2048, 1024),
    _cross_entropy(128, 10),
    _cross_entropy(2048, 1024),
    _elementwise("relu", 1_000_000, 1, _functional("relu")),
    _elementwise("gelu", 1_000_000, 8, _functional("gelu")),
    _elementwise("tanh", 1_000_000, 1, _call(lambda torch, t: torch.tanh(t["x"]))),
    _elementwise("sigmoid", 1_000_000, 3, _call(lambda torch, t: torch.sigmoid(t["x"]))),
    *_attention(4, 4, 256, 64),
    _lstm(32, 32, 128, 128),
    _embedding(4096, 1024, 256),
    _adam(1_000_000),
    *SEQUENCES,
)
