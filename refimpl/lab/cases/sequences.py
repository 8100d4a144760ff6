"""Attention, recurrent layers and spiking neurons."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.lab.cases.case import Case, call, gradient


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
        Case("attention", shape, flops, make, call(forward)),
        Case("attention_backward", shape, 2.5 * flops, make_backward, gradient(forward, "q", "k", "v")),
    ]


def _decoding(b: int, h: int, g: int, s: int, d: int) -> Case:
    """One query for each of h heads, which share g heads of s keys."""

    def make(normal):
        return {"q": normal(b, h, 1, d), "k": normal(b, g, s, d), "v": normal(b, g, s, d)}

    def forward(torch, a):
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(a["q"], a["k"], a["v"], enable_gqa=True) if g < h else attend(a["q"], a["k"], a["v"])

    return Case("attention", f"{b}x{h}/{g}x1 of {s}x{d}", 4.0 * b * h * s * d, make, call(forward))


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
        args = {k: np.zeros_like(v) if k.startswith("bias") else v for k, v in make(normal).items()}
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
        Case("lif_sequence", shape, 5 * size, make, call(forward)),
        Case("lif_sequence_backward", shape, 8 * size, make_backward, call(backward)),
    ]


SEQUENCES: tuple[Case, ...] = (
    *_attention(4, 4, 256, 64),
    _lstm(32, 32, 128, 128),
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
