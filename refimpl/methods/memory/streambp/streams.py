"""The gradient in pieces: the head and a layer, chunk by chunk along the sequence.

For z = F_W(x) and any partition of its rows, the gradient is linear in the cotangent dz:

    dW = Σ_i (∂z_i/∂W)^T dz_i,      dx = Σ_i (∂z_i/∂x)^T dz_i.                                                     (0)

So one chunk of rows is computed again, sent backward, added and forgotten, and then the next. A row of a causal layer
reads the rows up to its own only: of these it needs the keys and values, which are computed once and kept.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from refimpl import ops
from refimpl.methods.memory.streambp.objectives import DPO, Objective
from refimpl.models.gpt import GPT, Block, Drop
from refimpl.nn import Scope

__all__ = ["Chunks", "chunks", "head", "linear_pair", "log_probs", "stream_backward", "stream_forward", "stream_steps"]

Chunks = int | Sequence[int]
FEW = 512  # rows that are projected in one go, however short the chunks are: calls cost too


def chunks(T: int, length: Chunks) -> list[tuple[int, int]]:
    """Rows [s, e) of each chunk: chunks of one length (the last may be shorter), or of given lengths that add to T.
    Raises ValueError where they do not."""
    if isinstance(length, int):
        if length < 1:
            raise ValueError(f"chunks: the length is {length}, expected at least 1")
        return [(s, min(s + length, T)) for s in range(0, T, length)]
    if sum(length) != T or min(length) < 1:
        raise ValueError(f"chunks: lengths {tuple(length)} do not add up to {T} rows, each at least 1")
    ends = np.cumsum(length).tolist()
    return list(zip([0, *ends[:-1]], ends))


# ---------------------------------------------------------------- 1. the linear toy


def linear_pair(
    x: np.ndarray, w1: np.ndarray, w2: np.ndarray, dz: np.ndarray, length: Chunks
) -> tuple[np.ndarray, np.ndarray]:
    """dW1 and dW2 of z = (x W1) W2 without ever holding y = x W1 whole (the paper's A.1): y_i = x_i W1,
    dW2 += y_i^T dz_i, dW1 += x_i^T (dz_i W2^T)."""
    dw1, dw2 = np.zeros_like(w1), np.zeros_like(w2)
    for s, e in chunks(len(x), length):
        y = ops.linear(x[s:e], w1)
        dy = ops.linear_backward(dz[s:e], y, w2, True, (dw2, None))[0]
        ops.linear_backward(dy, x[s:e], w1, False, (dw1, None))
    return dw1, dw2


# ---------------------------------------------------------------- 2. the head


def _rows(a: np.ndarray, s: int, e: int) -> np.ndarray:
    return np.ascontiguousarray(a[:, s:e])


def _logits(model: GPT, params: Scope, x: np.ndarray, s: int, e: int, temperature: float):
    """Logits of rows [s, e) of the last layer's output, for each row of the batch; and what the way back needs."""
    h, norm = model.block.normalise.forward(params.scope("norm"), _rows(x, s, e))
    h = h.reshape(-1, model.d)
    if temperature != 1:
        h = h * h.dtype.type(1 / temperature)
    return model.logits(params, h), h, norm


def log_probs(
    model: GPT, params: Scope, x: np.ndarray, target: np.ndarray, length: Chunks, temperature: float = 1.0
) -> np.ndarray:
    """lp (B, T) from the last layer's output x (B, T, d), without gradient."""
    lp = np.empty(target.shape, x.dtype)
    for s, e in chunks(x.shape[1], length):
        z, *_ = _logits(model, params, x, s, e, temperature)
        lp[:, s:e] = ops.log_prob(z, target[:, s:e].reshape(-1))[0].reshape(len(x), e - s)
    return lp


def head(
    model: GPT,
    params: Scope,
    grads: Scope,
    x: np.ndarray,
    objective: Objective,
    length: Chunks,
    one_pass: bool = False,
) -> float:
    """The loss; adds the gradients of the table and the final norm, and OVERWRITES x, the last layer's output, by its
    gradient. The logits exist for one chunk of positions at a time.

    A loss that needs all log-probabilities first (DPO) takes two passes over the chunks, or with `one_pass` one pass
    for each pair with κ = 1, whose gradients are scaled by κ afterwards.
    """
    if one_pass and isinstance(objective, DPO):
        return _head_one_pass(model, params, grads, x, objective, length)
    loss, dlp = 0.0, None
    if not objective.separable:
        loss, dlp = objective.whole(log_probs(model, params, x, objective.target, length, objective.temperature))
    for s, e in chunks(x.shape[1], length):
        z, h, norm = _logits(model, params, x, s, e, objective.temperature)
        y = objective.target[:, s:e].reshape(-1)
        lp, lse = ops.log_prob(z, y)
        if dlp is None:
            more, d = objective.part(lp.reshape(len(x), e - s), s, e)
            loss += more
        else:
            d = dlp[:, s:e]
        _back(model, params, grads, x, s, e, (z, y, lse, h, norm), d, objective.temperature)
    return loss


def _back(model, params, grads, x, s, e, saved, dlp, temperature) -> None:
    """From dL/dlp of a chunk to the gradient of x's rows, in x itself."""
    z, y, lse, h, norm = saved
    dz = ops.log_prob_backward(np.ascontiguousarray(dlp).reshape(-1), z, y, lse, out=z)
    dh = model.logits_backward(params, grads, h, dz)
    if temperature != 1:
        dh *= dh.dtype.type(1 / temperature)
    dh = dh.reshape(len(x), e - s, model.d)
    x[:, s:e] = model.block.normalise_backward(params.scope("norm"), grads.scope("norm"), norm, dh)


def _head_one_pass(model, params, grads, x, objective: DPO, length: Chunks) -> float:
    """The gradients of the table and the norm mix what they add up, so each pair has its own sum, scaled by its κ."""
    P, T = objective.pairs, x.shape[1]
    names = [name for name in grads if name.split(".")[0] in ("embed", "norm")]
    own = Scope({name: np.zeros_like(grads[name]) for name in names})
    signs, c = objective.signs().astype(x.dtype), np.zeros(P)
    loss = 0.0
    for b in range(P):
        pair = [b, P + b]
        xb = x[pair]
        for name in names:
            own[name][...] = 0
        for s, e in chunks(T, length):
            z, h, norm = _logits(model, params, xb, s, e, 1.0)
            y = objective.target[pair, s:e].reshape(-1)
            lp, lse = ops.log_prob(z, y)
            d = signs[pair, s:e]
            c[b] += np.where(d != 0, d * (lp.reshape(2, -1) - objective.reference[pair, s:e]), 0).sum()
            _back(model, params, own, xb, s, e, (z, y, lse, h, norm), d, 1.0)
        kappa = objective.kappa(c)[1][b]
        for name in names:
            ops.axpy(grads[name].reshape(-1), own[name].reshape(-1), float(kappa))
        x[pair] = xb * x.dtype.type(kappa)
    loss, _ = objective.kappa(c)
    return loss


# ---------------------------------------------------------------- 3. a layer


class _Layer:
    """One layer with its parameters. On the way back queries and keys are projected apart: all keys first."""

    def __init__(self, block: Block, params: Scope, padding: np.ndarray | None, drop: Drop | None):
        self.block, self.params, self.padding, self.drop = block, params, padding, drop
        self.middle, self.end = block.heads * block.width, (block.heads + 2 * block.kv_heads) * block.width

    @functools.cached_property
    def q_params(self) -> Scope:
        return self.block.qkv.columns(self.params.scope("qkv"), 0, self.middle)

    @functools.cached_property
    def kv_params(self) -> Scope:
        return self.block.qkv.columns(self.params.scope("qkv"), self.middle, self.end)

    def keys_values(self, x: np.ndarray, k: np.ndarray, v: np.ndarray, length: Chunks) -> None:
        """k, v (B, G, T, E) of all rows: all that later rows need to know of a row. Any partition will do."""
        for s, e in chunks(x.shape[1], max(length, FEW // len(x)) if isinstance(length, int) else length):
            u, _ = self.block.normalise.forward(self.params.scope("norm1"), _rows(x, s, e))
            joint, _ = self.block.qkv.forward(self.kv_params, u)
            _, k[:, :, s:e], v[:, :, s:e] = self.block.split(joint, 0, self.block.kv_heads, s)

    def attend(self, xi: np.ndarray, q: np.ndarray, s: int, e: int, k: np.ndarray, v: np.ndarray, need_z: bool):
        """Rows [s, e) of the output, from the same rows xi of x, their queries, and the keys up to e."""
        drop = None if self.drop is None else Drop(self.drop.masks, self.drop.layer, s)
        y, attention = self.block.attend(self.params, xi, q, k[:, :, :e], v[:, :, :e], self._padding(e), drop)
        z, mlp = self.block.mlp_half(self.params, y, drop, need_z)
        return z, (attention, mlp, drop)

    def rows(self, x: np.ndarray, s: int, e: int, k: np.ndarray, v: np.ndarray):
        """What the way back needs of rows [s, e): everything but the output itself is computed again."""
        xi = _rows(x, s, e)
        u, norm1 = self.block.normalise.forward(self.params.scope("norm1"), xi)
        joint, qkv = self.block.qkv.forward(self.q_params, u)
        q, _, _ = self.block.split(joint, self.block.heads, 0, s)
        _, saved = self.attend(xi, q, s, e, k, v, need_z=False)
        return norm1, qkv, *saved

    def rows_backward(self, grads: Scope, saved, dz: np.ndarray, k, v, dk, dv, e: int):
        """dy, which reaches x's rows directly, and dq; adds to dk and dv of the rows up to e."""
        _, _, attention, mlp, drop = saved
        dy = self.block.mlp_half_backward(self.params, grads, mlp, dz, drop)
        add_to = (dk[:, :, :e], dv[:, :, :e])
        kv = (k[:, :, :e], v[:, :, :e])
        dq, _, _ = self.block.attend_backward(self.params, grads, attention, dy, *kv, self._padding(e), drop, add_to)
        return dy, dq

    def _padding(self, e: int) -> np.ndarray | None:
        return None if self.padding is None else np.ascontiguousarray(self.padding[:, :e])

    def empty(self, x: np.ndarray, T: int, zero: bool = False) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(x), self.block.kv_heads, T, self.block.width)
        make = np.zeros if zero else np.empty
        return make(shape, x.dtype), make(shape, x.dtype)


def stream_forward(
    block: Block,
    params: Scope,
    x: np.ndarray,
    length: Chunks,
    padding: np.ndarray | None = None,
    drop: Drop | None = None,
) -> np.ndarray:
    """z, chunk by chunk, as a prompt is read."""
    layer, T = _Layer(block, params, padding, drop), x.shape[1]
    k, v = layer.empty(x, T)
    z = np.empty_like(x)
    for s, e in chunks(T, length):  # the keys that a chunk needs are there when its turn comes
        xi = _rows(x, s, e)
        u, _ = block.normalise.forward(params.scope("norm1"), xi)
        joint, _ = block.qkv.forward(params.scope("qkv"), u)
        q, k[:, :, s:e], v[:, :, s:e] = block.split(joint, block.heads, block.kv_heads, s)
        z[:, s:e] = layer.attend(xi, q, s, e, k, v, need_z=True)[0]
    return z


def stream_backward(
    block: Block,
    params: Scope,
    grads: Scope,
    x: np.ndarray,
    dz: np.ndarray,
    length: Chunks,
    padding: np.ndarray | None = None,
    drop: Drop | None = None,
    order: str = "reverse",
    keep_keys: bool = True,
) -> np.ndarray:
    """dx from the layer's input x and dz, which is OVERWRITTEN by dx; adds the gradients of the layer's parameters.

    order="forward" is the paper's, in three steps: 1 keys and values of all rows; 2 chunk by chunk, dK, dV and
    du = dL/d norm(x) are summed; 3 dK and dV are projected back, and du goes through the norm. order="reverse" starts
    with the last chunk: the keys of a chunk are seen by later chunks only, so its dK and dV are complete when it has
    been worked through itself, and du exists for one chunk at a time. Without `keep_keys` (order "forward") keys and
    values of all earlier rows are computed again for every chunk, as in the paper's released code: the same gradient,
    slower.
    """
    for _ in stream_steps(block, params, grads, x, dz, length, padding, drop, order, keep_keys):
        pass
    return dz


def stream_steps(
    block: Block,
    params: Scope,
    grads: Scope,
    x: np.ndarray,
    dz: np.ndarray,
    length: Chunks,
    padding: np.ndarray | None = None,
    drop: Drop | None = None,
    order: str = "reverse",
    keep_keys: bool = True,
) -> Iterator[tuple[int, int]]:
    """`stream_backward` as a generator of the chunks, each after it has been worked through; dz holds dx at the end.
    Raises ValueError for another order, and where keys are not kept in reverse order."""
    if order not in ("forward", "reverse"):
        raise ValueError(f"stream_backward: order is {order!r}, expected 'forward' or 'reverse'")
    if not keep_keys and order == "reverse":
        raise ValueError("stream_backward: keys that are computed again for every chunk need order='forward'")
    layer = _Layer(block, params, padding, drop)
    if order == "reverse":
        yield from _from_the_end(layer, grads, x, dz, length)
    else:
        yield from _in_order(layer, grads, x, dz, length, keep_keys)


def _from_the_end(layer: _Layer, grads: Scope, x, dz, length: Chunks) -> Iterator[tuple[int, int]]:
    block, params, T = layer.block, layer.params, x.shape[1]
    k, v = layer.empty(x, T)
    layer.keys_values(x, k, v, length)
    dk, dv = layer.empty(x, T, zero=True)
    for s, e in reversed(chunks(T, length)):
        saved = layer.rows(x, s, e, k, v)
        dy, dq = layer.rows_backward(grads, saved, _rows(dz, s, e), k, v, dk, dv, e)
        djoint = block.unsplit(dq, dk[:, :, s:e], dv[:, :, s:e], s)
        norm1, qkv = saved[:2]
        du = block.qkv.backward(params.scope("qkv"), grads.scope("qkv"), qkv, djoint)
        du = block.normalise_backward(params.scope("norm1"), grads.scope("norm1"), norm1, du)
        np.add(dy, du, out=dz[:, s:e])
        yield s, e


def _in_order(layer: _Layer, grads: Scope, x, dz, length: Chunks, keep_keys: bool) -> Iterator[tuple[int, int]]:
    block, params, T = layer.block, layer.params, x.shape[1]
    names = [name for name in params.scope("qkv") if name in grads.scope("qkv")]
    dq_params, dkv_params = (
        Scope({name: np.zeros_like(part[name]) for name in names}) for part in (layer.q_params, layer.kv_params)
    )
    du = np.zeros_like(x)
    if keep_keys:  # step 1
        k, v = layer.empty(x, T)
        layer.keys_values(x, k, v, length)
        dk, dv = layer.empty(x, T, zero=True)

    def keys_backward(e: int) -> None:
        """Step 3, for the rows up to e: through the projection of keys and values."""
        u, _ = block.normalise.forward(params.scope("norm1"), _rows(x, 0, e))
        u = u.reshape(-1, block.d)
        h = ops.linear(u, layer.kv_params["a"]) if block.rank else None
        none = np.empty((len(x), 0, e, block.width), x.dtype)
        djoint = block.unsplit(none, dk, dv)
        du[:, :e] += block.qkv.backward(layer.kv_params, dkv_params, (u, h), djoint)

    for s, e in chunks(T, length):  # step 2
        if not keep_keys:
            k, v = layer.empty(x, e)
            layer.keys_values(x[:, :e], k, v, e)
            dk, dv = layer.empty(x, e, zero=True)
        saved = layer.rows(x, s, e, k, v)
        dy, dq = layer.rows_backward(grads, saved, _rows(dz, s, e), k, v, dk, dv, e)
        none = np.empty((len(x), 0, e - s, block.width), x.dtype)
        du[:, s:e] += block.qkv.backward(layer.q_params, dq_params, saved[1], block.unsplit(dq, none, none, s))
        dz[:, s:e] = dy
        if not keep_keys:
            keys_backward(e)
        yield s, e
    if keep_keys:
        keys_backward(T)
    block.qkv.add_columns(grads.scope("qkv"), dq_params, 0)
    block.qkv.add_columns(grads.scope("qkv"), dkv_params, layer.middle)
    _, norm1 = block.normalise.forward(params.scope("norm1"), x)
    dz += block.normalise_backward(params.scope("norm1"), grads.scope("norm1"), norm1, du)
