"""A decoder-only transformer: GPT-2's and Llama's, by its settings.

    model = GPT(vocabulary=256, layers=4, d=64, heads=4, kv_heads=2)      # rotary positions, RMSNorm, SwiGLU
    params = nn.initialise(model, rng)
    logits, saved = model.forward(params, tokens)                         # (B, T) -> (B, T, V)

Each layer reads a stream x (B, T, d) and adds to it twice (pre-norm):

    y = x + Attention(norm(x)) W_o,      z = y + MLP(norm(y))

Everything but attention is computed row by row, and attention is causal, so a row of z needs the rows of x up to its
own position only. That is what memory-saving training and text generation with a cache both live on, and why a layer
is offered here in its parts too: `keys_values` (all that later rows need to know of a row), `attention_half` and
`mlp_half` (rows [s, e) of y and z), each with its backward pass.

The head is tied: logits = norm(x) E^T with the embedding table E (V, d). Radford et al., 2019; Touvron et al., 2023.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from refimpl import ops
from refimpl.nn import Layer, LayerNorm, Linear, Params, RMSNorm, Scope, declare_all, init
from refimpl.nn.params import Parameter

__all__ = ["GPT", "Block", "Cache", "generate", "next_token_loss", "rows_of_logits"]


@functools.lru_cache(maxsize=32)
def _angles(T: int, E: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """The rotary table of T positions; read-only, because it is shared."""
    table = ops.rotary_angles(T, E, dtype=np.dtype(dtype))
    for a in table:
        a.flags.writeable = False
    return table


def _add(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y += x on all threads."""
    ops.axpy(y.reshape(-1), x.reshape(-1), 1.0)
    return y


@dataclass(frozen=True)
class Block(Layer):
    """One pre-norm layer, (B, T, d) to (B, T, d).

    `kv_heads` < `heads` shares keys and values between groups of query heads (Ainslie et al., 2023). `hidden` is the
    MLP's width; `mlp` is "swiglu", (silu(w W_g) * w W_u) W_d with W_g and W_u side by side in "up.weight" (Shazeer,
    2020), or "gelu". `norm` is "rms" or "layer". `out_std` is the deviation of the initial weights that write into the
    stream, `std` of all others.
    """

    d: int
    heads: int
    kv_heads: int
    hidden: int
    rotary: bool = True
    norm: str = "rms"
    mlp: str = "swiglu"
    bias: bool = False
    std: float = 0.02
    out_std: float = 0.02

    def __post_init__(self):
        if self.heads < 1 or self.d % self.heads:
            raise ValueError(f"Block: d is {self.d}, expected a multiple of heads = {self.heads}")
        if self.kv_heads < 1 or self.heads % self.kv_heads:
            raise ValueError(f"Block: heads is {self.heads}, expected a multiple of kv_heads = {self.kv_heads}")
        if self.rotary and self.width % 2:
            raise ValueError(f"Block: rotary needs heads of even width, but d / heads = {self.width}")
        if self.hidden < 1:
            raise ValueError(f"Block: hidden is {self.hidden}, expected at least 1")
        for name, value, known in (("norm", self.norm, ("rms", "layer")), ("mlp", self.mlp, ("swiglu", "gelu"))):
            if value not in known:
                raise ValueError(f"Block: {name} is {value!r}, expected one of {', '.join(known)}")

    @functools.cached_property
    def normalise(self) -> RMSNorm | LayerNorm:
        return RMSNorm(self.d) if self.norm == "rms" else LayerNorm(self.d)

    @functools.cached_property
    def qkv(self) -> Linear:
        return Linear(self.d, (self.heads + 2 * self.kv_heads) * self.width, self.bias, init.normal(self.std))

    @functools.cached_property
    def out(self) -> Linear:
        return Linear(self.d, self.d, self.bias, init.normal(self.out_std))

    @functools.cached_property
    def up(self) -> Linear:
        wide = 2 * self.hidden if self.mlp == "swiglu" else self.hidden
        return Linear(self.d, wide, self.bias, init.normal(self.std))

    @functools.cached_property
    def down(self) -> Linear:
        return Linear(self.hidden, self.d, self.bias, init.normal(self.out_std))

    @property
    def width(self) -> int:
        """Width of a head."""
        return self.d // self.heads

    def declare(self):
        return declare_all(
            norm1=self.normalise, qkv=self.qkv, out=self.out, norm2=self.normalise, up=self.up, down=self.down
        )

    # ------------------------------------------------------------ the whole layer at once

    def forward(self, params, x, train=False, rng=None, padding=None, start=0):
        """(B, T, d) to (B, T, d); `padding` (B, T) bool hides keys, `start` is the position of the first row."""
        u, norm1 = self.normalise.forward(params.scope("norm1"), x)
        joint = ops.linear(u, params["qkv.weight"], self._bias(params, "qkv"))
        q, k, v = self.split(joint, self.heads, self.kv_heads, start)
        o, lse = ops.attention(q, k, v, padding=padding, causal=True)
        merged = self.merge(o)
        y = _add(ops.linear(merged, params["out.weight"], self._bias(params, "out")), x)
        z, mlp = self.mlp_half(params, y)
        return z, (norm1, u, q, k, v, o, lse, merged, mlp, padding, start)

    def backward(self, params, grads, saved, dy, need_dx=True):
        norm1, u, q, k, v, o, lse, merged, mlp, padding, start = saved
        dy = self.mlp_half_backward(params, grads, mlp, dy)
        dmerged = self.out.backward(params.scope("out"), grads.scope("out"), merged, dy)
        dq, dk, dv = ops.attention_backward(self.unmerge(dmerged), q, k, v, o, lse, padding=padding, causal=True)
        djoint = self.unsplit(dq, dk, dv, start)
        du = self.qkv.backward(params.scope("qkv"), grads.scope("qkv"), u, djoint)
        dx = self.normalise.backward(params.scope("norm1"), grads.scope("norm1"), norm1, du)
        return _add(dx, dy)

    # ------------------------------------------------------------ its parts

    def mlp_half(self, params: Scope, y: np.ndarray):
        """z = y + MLP(norm(y)) for any rows."""
        w, norm2 = self.normalise.forward(params.scope("norm2"), y)
        g = ops.linear(w, params["up.weight"], self._bias(params, "up"))
        a = ops.swiglu(g) if self.mlp == "swiglu" else ops.gelu_tanh(g)
        z = _add(ops.linear(a, params["down.weight"], self._bias(params, "down")), y)
        return z, (norm2, w, g, a)

    def mlp_half_backward(self, params: Scope, grads: Scope, saved, dz: np.ndarray) -> np.ndarray:
        norm2, w, g, a = saved
        da = self.down.backward(params.scope("down"), grads.scope("down"), a, dz)
        dg = ops.swiglu_backward(da, g) if self.mlp == "swiglu" else ops.gelu_tanh_backward(da, g, out=da)
        dw = self.up.backward(params.scope("up"), grads.scope("up"), w, dg)
        return _add(self.normalise.backward(params.scope("norm2"), grads.scope("norm2"), norm2, dw), dz)

    def split(self, joint: np.ndarray, heads: int, kv_heads: int, start: int = 0):
        """Columns of a projection as heads (B, ., T, E): q and k turned to their positions, and v."""
        return ops.split_heads(joint, heads, kv_heads, *self.angles(joint, start, joint.shape[1]))

    def unsplit(self, dq, dk, dv, start: int = 0) -> np.ndarray:
        """The gradient of the projection from those of the heads."""
        return ops.split_heads_backward(dq, dk, dv, *self.angles(dq, start, dq.shape[2]))

    def merge(self, o: np.ndarray) -> np.ndarray:
        """(B, H, T, E) to (B, T, H E)."""
        return ops.merge_heads(o)

    def unmerge(self, merged: np.ndarray) -> np.ndarray:
        return ops.merge_heads_backward(merged, self.heads)

    def angles(self, like: np.ndarray, start: int, rows: int):
        """cos and sin for positions start to start + rows; None without rotary positions."""
        if not self.rotary:
            return None, None
        cos, sin = _angles(1 << max(6, (start + rows - 1).bit_length()), self.width, like.dtype.name)
        return cos[start : start + rows], sin[start : start + rows]

    def _bias(self, params: Scope, name: str) -> np.ndarray | None:
        return params[f"{name}.bias"] if self.bias else None


@dataclass(frozen=True)
class GPT(Layer):
    """Tokens (B, T) to logits (B, T, V).

    `positions` is "rotary" or "learned" (a table of `context` rows); `hidden` is 4 d for "gelu" and 8/3 d, rounded up
    to a multiple of 4, for "swiglu" where it is not given. Initial weights: N(0, 0.02^2), those that write into the
    stream smaller by sqrt(2 layers) (Radford et al., 2019).
    """

    vocabulary: int
    layers: int = 4
    d: int = 64
    heads: int = 4
    kv_heads: int | None = None
    hidden: int | None = None
    context: int = 1024
    positions: str = "rotary"
    norm: str = "rms"
    mlp: str = "swiglu"
    bias: bool = False

    def __post_init__(self):
        for name in ("vocabulary", "layers", "d", "heads", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"GPT: {name} is {getattr(self, name)}, expected at least 1")
        if self.positions not in ("rotary", "learned"):
            raise ValueError(f"GPT: positions is {self.positions!r}, expected 'rotary' or 'learned'")
        _ = self.block  # checks the rest

    @functools.cached_property
    def block(self) -> Block:
        """What each layer is; they differ in their parameters only."""
        hidden = self.hidden or (4 * self.d if self.mlp == "gelu" else 4 * math.ceil(2 * self.d / 3))
        rotary, std = self.positions == "rotary", 0.02 / math.sqrt(2 * self.layers)
        kv_heads = self.kv_heads or self.heads
        return Block(self.d, self.heads, kv_heads, hidden, rotary, self.norm, self.mlp, self.bias, out_std=std)

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names, first to last."""
        return tuple(f"block{i}" for i in range(self.layers))

    def declare(self):
        tables = {"embed.table": Parameter((self.vocabulary, self.d), init.normal(0.02))}
        if self.positions == "learned":
            tables["position.table"] = Parameter((self.context, self.d), init.normal(0.02))
        blocks = dict.fromkeys(self.names, self.block)
        return {**tables, **declare_all(**blocks, norm=self.block.normalise)}

    def check(self, tokens: np.ndarray, start: int = 0) -> None:
        """Raise an error for anything but integers (B, T) that this model can read."""
        if not isinstance(tokens, np.ndarray) or tokens.dtype.kind not in "iu":
            given = tokens.dtype if isinstance(tokens, np.ndarray) else type(tokens).__name__
            raise TypeError(f"GPT: tokens are {given}, expected a numpy array of integers")
        if tokens.ndim != 2 or 0 in tokens.shape:
            raise ValueError(f"GPT: tokens have shape {tokens.shape}, expected (B, T) with at least one token")
        if self.positions == "learned" and start + tokens.shape[1] > self.context:
            most = start + tokens.shape[1]
            raise ValueError(f"GPT: a text of {most} tokens is longer than the context of {self.context}")

    # ------------------------------------------------------------ the model at once

    def forward(self, params, x, train=False, rng=None, padding=None):
        h, saved = self.trunk(params, x, padding)
        return self.logits(params, h), (h, saved)

    def backward(self, params, grads, saved, dy, need_dx=True):
        h, kept = saved
        self.trunk_backward(params, grads, kept, self.logits_backward(params, grads, h, dy))
        return None  # a token has no gradient

    # ------------------------------------------------------------ its parts

    def embed(self, params: Params, tokens: np.ndarray, start: int = 0) -> np.ndarray:
        """The stream's first rows (B, T, d), T tokens from position `start` on."""
        x = ops.embedding(tokens, params["embed.table"])
        if self.positions == "learned":
            x += params["position.table"][start : start + tokens.shape[1]]
        return x

    def embed_backward(self, grads: Params, tokens: np.ndarray, dx: np.ndarray) -> None:
        _add(grads["embed.table"], ops.embedding_backward(dx, tokens, self.vocabulary))
        if self.positions == "learned":
            grads["position.table"][: tokens.shape[1]] += dx.sum(axis=0)

    def trunk(self, params: Params, tokens: np.ndarray, padding: np.ndarray | None = None):
        """Everything below the head: h = norm(x_L), (B, T, d), and what its backward pass needs."""
        self.check(tokens)
        x, kept = self.embed(params, tokens), []
        for name in self.names:
            x, saved = self.block.forward(params.scope(name), x, padding=padding)
            kept.append(saved)
        h, norm = self.block.normalise.forward(params.scope("norm"), x)
        return h, (tokens, kept, norm)

    def trunk_backward(self, params: Params, grads: Params, saved, dh: np.ndarray) -> None:
        """Adds all gradients below the head. Lets go of what each layer saved as soon as it is used."""
        tokens, kept, norm = saved
        dx = self.block.normalise.backward(params.scope("norm"), grads.scope("norm"), norm, dh)
        for name in reversed(self.names):
            dx = self.block.backward(params.scope(name), grads.scope(name), kept.pop(), dx)
        self.embed_backward(grads, tokens, dx)

    def logits(self, params: Params, h: np.ndarray) -> np.ndarray:
        """h E^T for any rows."""
        return ops.linear(h, params["embed.table"].T)

    def logits_backward(self, params: Params, grads: Params, h: np.ndarray, dlogits: np.ndarray) -> np.ndarray:
        """dh = dlogits E; adds dE = dlogits^T h, the gradient of the linear map with input dlogits and output h."""
        table = params["embed.table"]
        ops.linear_backward(h, dlogits, table, False, (grads["embed.table"], None))
        return ops.linear(dlogits, table)


# ---------------------------------------------------------------- next-token prediction


def next_token_loss(
    model: GPT,
    params: Params,
    grads: Params | None,
    tokens: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    padding: np.ndarray | None = None,
) -> float:
    """L = -Σ w_t log p(target_t) / Σ w_t over all positions (B, T); adds its gradient into `grads` if given.

    Plain back-propagation: every activation is stored.
    """
    h, saved = model.trunk(params, tokens, padding)
    rows, flat = h.reshape(-1, model.d), target.reshape(-1)
    logits = model.logits(params, rows)
    lp, lse = ops.log_prob(logits, flat)
    if weight is None:
        w, total = np.ones_like(lp), float(lp.size)
    else:
        w = weight.reshape(-1).astype(lp.dtype)
        total = float(w.sum())
        if not total > 0:
            raise ValueError("next_token_loss: no token counts: every weight is 0")
    loss = -float(np.dot(w, lp)) / total
    if grads is not None:
        dlogits = ops.log_prob_backward(w * lp.dtype.type(-1 / total), logits, flat, lse, out=logits)
        dh = model.logits_backward(params, grads, rows, dlogits)
        del logits, dlogits
        model.trunk_backward(params, grads, saved, dh.reshape(h.shape))
    return loss


# ---------------------------------------------------------------- generation


class Cache:
    """Keys and values of what was read so far: (layers, B, G, S, E) twice, and the number of positions filled."""

    def __init__(self, model: GPT, B: int, most: int, dtype: np.dtype):
        block = model.block
        shape = (model.layers, B, block.kv_heads, most, block.width)
        self.k, self.v, self.length = np.empty(shape, dtype), np.empty(shape, dtype), 0


def rows_of_logits(model: GPT, params: Params, tokens: np.ndarray, cache: Cache) -> np.ndarray:
    """Logits (B, V) after reading `tokens` (B, n) behind what the cache holds, which grows by them."""
    model.check(tokens, cache.length)
    block, start = model.block, cache.length
    end = start + tokens.shape[1]
    x = model.embed(params, tokens, start)
    for i, name in enumerate(model.names):
        scope = params.scope(name)
        u, _ = block.normalise.forward(scope.scope("norm1"), x)
        joint = ops.linear(u, scope["qkv.weight"], block._bias(scope, "qkv"))
        q, k, v = block.split(joint, block.heads, block.kv_heads, start)
        cache.k[i, :, :, start:end], cache.v[i, :, :, start:end] = k, v
        o, _ = ops.attention(q, cache.k[i, :, :, :end], cache.v[i, :, :, :end], causal=True)
        x = x + ops.linear(block.merge(o), scope["out.weight"], block._bias(scope, "out"))
        x, _ = block.mlp_half(scope, x)
    cache.length = end
    h, _ = block.normalise.forward(params.scope("norm"), np.ascontiguousarray(x[:, -1]))
    return model.logits(params, h)


def generate(
    model: GPT,
    params: Params,
    prompt: np.ndarray,
    n: int,
    rng: np.random.Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
):
    """Yields n tokens (B,) that continue `prompt` (B, T), one by one, each drawn from softmax(logits / temperature).

    `top_k` draws from the k most probable tokens only; temperature 0 takes the most probable one. Each token is read
    once: keys and values of earlier ones are kept. With learned positions the text may not outgrow the context.
    """
    if temperature < 0:
        raise ValueError(f"generate: temperature is {temperature}, expected at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"generate: top_k is {top_k}, expected at least 1")
    model.check(prompt)
    if model.positions == "learned" and prompt.shape[1] + n - 1 > model.context:
        raise ValueError(
            f"generate: prompt and text are {prompt.shape[1] + n} tokens long, the context is {model.context}"
        )
    cache = Cache(model, len(prompt), prompt.shape[1] + n, params.dtype)
    new = prompt
    for _ in range(n):
        z = rows_of_logits(model, params, new, cache).astype(np.float64)
        if top_k is not None and top_k < z.shape[1]:
            least = np.partition(z, -top_k, axis=1)[:, -top_k, None]
            z = np.where(z < least, -np.inf, z)
        if temperature > 0:
            z = z / temperature + rng.gumbel(size=z.shape)  # its largest entry is a draw from softmax(z / temperature)
        token = z.argmax(axis=1)
        yield token
        new = token[:, None]
