"""Layers over sequences (B, T, D): recurrent networks and self-attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refimpl import ops
from refimpl.nn import init
from refimpl.nn.layer import Layer
from refimpl.nn.params import Parameter


class _Recurrent(Layer):
    """What the recurrent layers share: weights, a zero initial state, and all states as output."""

    d_in: int
    d_out: int
    gates: int
    biases: tuple[str, ...] = ("bias",)

    def declare(self):
        width = self.gates * self.d_out
        limit = init.uniform(1 / math.sqrt(max(1, self.d_out)))
        return {
            "w_x": Parameter((self.d_in, width), limit),
            "w_h": Parameter((self.d_out, width), limit),
            **{name: Parameter((width,), limit) for name in self.biases},
        }

    def _start(self, x: np.ndarray) -> np.ndarray:
        return np.zeros((len(x), self.d_out), x.dtype)

    def _weights(self, windows) -> tuple[np.ndarray, ...]:
        """The weights, or their gradients."""
        return (windows["w_x"], windows["w_h"], *(windows[name] for name in self.biases))


@dataclass(frozen=True)
class RNN(_Recurrent):
    """h_t = tanh(x_t W_x + h_{t-1} W_h + b), h_0 = 0; all states (B, T, d_out). Elman, 1990."""

    d_in: int
    d_out: int

    gates = 1

    def forward(self, params, x, train=False, rng=None):
        y = ops.rnn_sequence(x, self._start(x), *self._weights(params))
        return y, (x, y)

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, y = saved
        weights, add_to = (params["w_x"], params["w_h"]), self._weights(grads)
        return ops.rnn_sequence_backward(dy, x, self._start(x), *weights, y, need_dx, add_to)[0]


@dataclass(frozen=True)
class GRU(_Recurrent):
    """Gated recurrent units, h_0 = 0; all states (B, T, d_out). See ops.gru_sequence. Cho et al., 2014."""

    d_in: int
    d_out: int

    gates = 3
    biases = ("bias_x", "bias_h")

    def forward(self, params, x, train=False, rng=None):
        y, gates = ops.gru_sequence(x, self._start(x), *self._weights(params))
        return y, (x, y, gates)

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, y, gates = saved
        weights, add_to = (params["w_x"], params["w_h"]), self._weights(grads)
        return ops.gru_sequence_backward(dy, x, self._start(x), *weights, y, gates, need_dx, add_to)[0]


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """Long short-term memory, h_0 = c_0 = 0; all states h (B, T, d_out). See ops.lstm_sequence.

    Hochreiter and Schmidhuber, 1997, with the forget gate of Gers, Schmidhuber and Cummins, 2000.
    """

    d_in: int
    d_out: int

    gates = 4

    def forward(self, params, x, train=False, rng=None):
        start = self._start(x)
        y, c, gates = ops.lstm_sequence(x, start, start, *self._weights(params))
        return y, (x, y, c, gates)

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, y, c, gates = saved
        start, weights, add_to = self._start(x), (params["w_x"], params["w_h"]), self._weights(grads)
        return ops.lstm_sequence_backward(dy, None, x, start, start, *weights, y, c, gates, need_dx, add_to)[0]


@dataclass(frozen=True)
class SelfAttention(Layer):
    """Multi-head self-attention: softmax(Q K^T / sqrt(d_head)) V for each head, then an output projection.

    (B, T, d) to (B, T, d). `kv_heads` < `heads` shares keys and values between groups of query heads (Ainslie et al.,
    2023); `causal` hides later positions; `rotary` turns queries and keys by their position (Su et al., 2021) in place
    of positions added to the input. Vaswani et al., 2017, section 3.2.
    """

    d: int
    heads: int
    kv_heads: int | None = None
    causal: bool = False
    rotary: bool = False
    bias: bool = True

    def __post_init__(self):
        groups = self.kv_heads or self.heads
        if self.heads < 1 or self.d % self.heads:
            raise ValueError(f"SelfAttention: d is {self.d}, expected a multiple of heads = {self.heads}")
        if groups < 1 or self.heads % groups:
            raise ValueError(f"SelfAttention: heads is {self.heads}, expected a multiple of kv_heads = {groups}")
        if self.rotary and self.d // self.heads % 2:
            raise ValueError(f"SelfAttention: rotary needs heads of even width, but d / heads = {self.d // self.heads}")

    def _sizes(self) -> tuple[int, int, int]:
        """Query heads, key heads, width of a head."""
        return self.heads, self.kv_heads or self.heads, self.d // self.heads

    def declare(self):
        H, G, E = self._sizes()
        width, std = (H + 2 * G) * E, init.normal(1 / math.sqrt(self.d))
        weights = {"qkv.weight": Parameter((self.d, width), std), "out.weight": Parameter((self.d, self.d), std)}
        if not self.bias:
            return weights
        return {**weights, "qkv.bias": Parameter((width,), init.zeros), "out.bias": Parameter((self.d,), init.zeros)}

    def _bias(self, windows, part: str) -> np.ndarray | None:
        return windows[f"{part}.bias"] if self.bias else None

    def forward(self, params, x, train=False, rng=None):
        H, G, E = self._sizes()
        B, T, _ = x.shape
        joint = ops.linear(x, params["qkv.weight"], self._bias(params, "qkv"))
        heads = joint.reshape(B, T, H + 2 * G, E).transpose(0, 2, 1, 3)  # (B, heads, T, E)
        q, k, v = (np.ascontiguousarray(part) for part in np.split(heads, (H, H + G), axis=1))
        if self.rotary:
            angles = ops.rotary_angles(T, E, dtype=x.dtype)
            q, k = ops.rotary(q, *angles), ops.rotary(k, *angles)
        a, lse = ops.attention(q, k, v, causal=self.causal)
        merged = np.ascontiguousarray(a.transpose(0, 2, 1, 3)).reshape(B, T, self.d)
        return ops.linear(merged, params["out.weight"], self._bias(params, "out")), (x, q, k, v, a, lse, merged)

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, q, k, v, a, lse, merged = saved
        H, _, E = self._sizes()
        B, T, _ = x.shape
        out = (grads["out.weight"], self._bias(grads, "out"))
        dmerged = ops.linear_backward(dy, merged, params["out.weight"], True, out)[0]
        da = np.ascontiguousarray(dmerged.reshape(B, T, H, E).transpose(0, 2, 1, 3))
        dq, dk, dv = ops.attention_backward(da, q, k, v, a, lse, causal=self.causal)
        if self.rotary:
            angles = ops.rotary_angles(T, E, dtype=x.dtype)
            dq, dk = ops.rotary_backward(dq, *angles), ops.rotary_backward(dk, *angles)
        dheads = np.concatenate((dq, dk, dv), axis=1)
        djoint = np.ascontiguousarray(dheads.transpose(0, 2, 1, 3)).reshape(B, T, -1)
        qkv = (grads["qkv.weight"], self._bias(grads, "qkv"))
        return ops.linear_backward(djoint, x, params["qkv.weight"], need_dx, qkv)[0]
