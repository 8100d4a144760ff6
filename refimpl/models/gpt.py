"""A decoder-only transformer: GPT-2's and Llama's, by its settings.

    model = GPT(vocabulary=256, layers=4, d=64, heads=4, kv_heads=2)      # rotary positions, RMSNorm, SwiGLU
    params = nn.initialise(model, rng)
    logits, saved = model.forward(params, tokens)                         # (B, T) -> (B, T, V)

Each layer reads a stream x (B, T, d) and adds to it twice (pre-norm):

    y = x + Attention(norm(x)) W_o,      z = y + MLP(norm(y))

Everything but attention is computed row by row, and attention is causal, so a row of z needs the rows of x up to its
own position only. That is what memory-saving training and text generation with a cache both live on, and why a layer
is offered here in its parts too: `qkv` with `split`, `attend` and `mlp_half`, each with its backward pass.

The head is tied: logits = norm(x) E^T with the embedding table E (V, d). Radford et al., 2019; Touvron et al., 2023.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from refimpl import ops
from refimpl.nn import Layer, LayerNorm, Params, RMSNorm, Scope, init
from refimpl.nn.params import Parameter

__all__ = ["GPT", "Block", "Cache", "Drop", "Masks", "Projection", "generate", "next_token_loss", "rows_of_logits"]


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


class Masks:
    """Dropout masks by position: what row t of a layer is multiplied with does not depend on which other rows are
    computed with it, or when. So a layer may be run again, in pieces, and meets the same mask.

    Row t of text b takes its random numbers from block (b T + t) of a counter-based generator (Philox; Salmon et al.,
    2011) with the key (`key`, layer). 16 bits an entry: the rate is rounded to a multiple of 1/65536.
    """

    def __init__(self, rate: float, key: int, T: int):
        if not 0 <= rate < 1:
            raise ValueError(f"Masks: rate is {rate}, expected 0 <= rate < 1")
        self.rate, self.key, self.T = rate, int(key), T

    def rows(self, layer: int, half: int, like: np.ndarray, start: int) -> np.ndarray:
        """True where an entry of `like` (B, n, d) is kept: rows start to start + n of half 0 or 1 of a layer."""
        B, n, d = like.shape
        blocks = -(-d // 16)  # of four 64-bit numbers a row
        keep = np.empty((B, n, d), np.bool_)
        for b in range(B):
            generator = np.random.Philox(key=[self.key, 2 * layer + half], counter=(b * self.T + start) * blocks)
            draws = generator.random_raw(4 * blocks * n).view(np.uint16).reshape(n, 16 * blocks)
            np.greater_equal(draws[:, :d], round(65536 * self.rate), out=keep[b])
        return keep


@dataclass(frozen=True)
class Drop:
    """The masks of one layer from row `start` on."""

    masks: Masks
    layer: int
    start: int = 0

    def __call__(self, half: int, branch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A branch with entries dropped, and the mask."""
        keep = self.masks.rows(self.layer, half, branch, self.start)
        return ops.dropout(branch, keep, self.masks.rate), keep

    def backward(self, dbranch: np.ndarray, keep: np.ndarray) -> np.ndarray:
        return ops.dropout_backward(dbranch, keep, self.masks.rate)


@dataclass(frozen=True)
class Projection(Layer):
    """y = x W + b; with `rank` > 0 also + scale (x A) B, where only A (d_in, rank) and B (rank, d_out) are trained.

    A starts normal and B at zero, so that training starts from the frozen weights (Hu et al., "LoRA", 2021). What is
    frozen lives in the parameters' state and has no gradient.
    """

    d_in: int
    d_out: int
    bias: bool
    std: float
    rank: int = 0
    scale: float = 1.0

    def declare(self):
        trained = self.rank == 0
        found = {"weight": Parameter((self.d_in, self.d_out), init.normal(self.std), trained)}
        if self.bias:
            found["bias"] = Parameter((self.d_out,), init.zeros, trained)
        if self.rank:
            found["a"] = Parameter((self.d_in, self.rank), init.normal(1 / math.sqrt(self.d_in)))
            found["b"] = Parameter((self.rank, self.d_out), init.zeros)
        return found

    def forward(self, params, x, train=False, rng=None):
        shape = x.shape[:-1]
        x = x.reshape(-1, self.d_in)  # rows: what the operation is quickest with
        y = ops.linear(x, params["weight"], params["bias"] if self.bias else None)
        h = None
        if self.rank:
            h = ops.linear(x, params["a"])
            ops.axpy(y.reshape(-1), ops.linear(h, params["b"]).reshape(-1), self.scale)
        return y.reshape(*shape, -1), (x, h)

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, h = saved
        shape, dy = dy.shape[:-1], dy.reshape(-1, dy.shape[-1])
        if not self.rank:
            add_to = (grads["weight"], grads["bias"] if self.bias else None)
            dx = ops.linear_backward(dy, x, params["weight"], need_dx, add_to)[0]
        else:
            scaled = dy * dy.dtype.type(self.scale)
            dh = ops.linear_backward(scaled, h, params["b"], True, (grads["b"], None))[0]
            dx = ops.linear_backward(dh, x, params["a"], need_dx, (grads["a"], None))[0]
            dx = _add(ops.linear(dy, params["weight"].T), dx) if need_dx else None
        return dx.reshape(*shape, -1) if need_dx else None

    def columns(self, scope: Scope, first: int, last: int) -> Scope:
        """The parameters of the same map to outputs first to last only (copies; A is shared)."""
        return Scope({n: w if n == "a" else np.ascontiguousarray(w[..., first:last]) for n, w in scope.items()})

    def add_columns(self, grads: Scope, part: Scope, first: int) -> None:
        """grads += the gradients of such columns."""
        for name, d in part.items():
            window = grads[name] if name == "a" else grads[name][..., first : first + d.shape[-1]]
            window += d


@dataclass(frozen=True)
class Block(Layer):
    """One pre-norm layer, (B, T, d) to (B, T, d).

    `kv_heads` < `heads` shares keys and values between groups of query heads (Ainslie et al., 2023). `hidden` is the
    MLP's width; `mlp` is "swiglu", (silu(w W_g) * w W_u) W_d with W_g and W_u side by side in "up.weight" (Shazeer,
    2020), or "gelu" (its tanh form). `norm` is "rms" or "layer". `out_std` is the deviation of the initial weights that
    write into the stream, `std` of all others. `rank` > 0 trains adapters of that rank only (see Projection).
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
    rank: int = 0
    scale: float = 1.0

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

    def _projection(self, d_in: int, d_out: int, std: float) -> Projection:
        return Projection(d_in, d_out, self.bias, std, self.rank, self.scale)

    @functools.cached_property
    def qkv(self) -> Projection:
        return self._projection(self.d, (self.heads + 2 * self.kv_heads) * self.width, self.std)

    @functools.cached_property
    def out(self) -> Projection:
        return self._projection(self.d, self.d, self.out_std)

    @functools.cached_property
    def up(self) -> Projection:
        return self._projection(self.d, self.hidden * (2 if self.mlp == "swiglu" else 1), self.std)

    @functools.cached_property
    def down(self) -> Projection:
        return self._projection(self.hidden, self.d, self.out_std)

    @property
    def width(self) -> int:
        """Width of a head."""
        return self.d // self.heads

    def declare(self):
        norm = declare_norm(self.normalise, self.rank == 0)
        parts = (("norm1", norm), ("qkv", self.qkv.declare()), ("out", self.out.declare()), ("norm2", norm))
        parts += (("up", self.up.declare()), ("down", self.down.declare()))
        return {f"{part}.{name}": spec for part, specs in parts for name, spec in specs.items()}

    # ------------------------------------------------------------ the whole layer at once

    def forward(self, params, x, train=False, rng=None, padding=None, drop=None, need_z=True):
        """(B, T, d) to (B, T, d); `padding` (B, T) bool hides keys. Without `need_z` z is None: a layer that is run
        again for its backward pass needs no output."""
        u, norm1 = self.normalise.forward(params.scope("norm1"), x)
        joint, qkv = self.qkv.forward(params.scope("qkv"), u)
        q, k, v = self.split(joint, self.heads, self.kv_heads)
        y, attention = self.attend(params, x, q, k, v, padding, drop)
        z, mlp = self.mlp_half(params, y, drop, need_z)
        return z, (norm1, qkv, k, v, attention, mlp, padding, drop)

    def backward(self, params, grads, saved, dy, need_dx=True):
        norm1, qkv, k, v, attention, mlp, padding, drop = saved
        dy = self.mlp_half_backward(params, grads, mlp, dy, drop)
        dq, dk, dv = self.attend_backward(params, grads, attention, dy, k, v, padding, drop)
        djoint = self.unsplit(dq, dk, dv)
        du = self.qkv.backward(params.scope("qkv"), grads.scope("qkv"), qkv, djoint)
        return _add(self.normalise_backward(params.scope("norm1"), grads.scope("norm1"), norm1, du), dy)

    # ------------------------------------------------------------ its parts

    def attend(self, params: Scope, x, q, k, v, padding=None, drop=None):
        """y = x + attention(q, k, v) W_o for rows x whose queries see all of k up to their own position."""
        o, lse = ops.attention(q, k, v, padding=padding, causal=True)
        branch, out = self.out.forward(params.scope("out"), ops.merge_heads(o))
        keep = None
        if drop is not None:
            branch, keep = drop(0, branch)
        return _add(branch, x), (q, o, lse, out, keep)

    def attend_backward(self, params: Scope, grads: Scope, saved, dy, k, v, padding=None, drop=None, add_to=None):
        """dq, dk, dv; what reaches x directly is dy itself. With `add_to` = (dk, dv) those are added there."""
        q, o, lse, out, keep = saved
        dbranch = dy if keep is None else drop.backward(dy, keep)
        dmerged = self.out.backward(params.scope("out"), grads.scope("out"), out, dbranch)
        do = ops.merge_heads_backward(dmerged, self.heads)
        return ops.attention_backward(do, q, k, v, o, lse, padding=padding, causal=True, add_to=add_to)

    def mlp_half(self, params: Scope, y: np.ndarray, drop=None, need_z: bool = True):
        """z = y + MLP(norm(y)) for any rows."""
        w, norm2 = self.normalise.forward(params.scope("norm2"), y)
        g, up = self.up.forward(params.scope("up"), w)
        a = ops.swiglu(g) if self.mlp == "swiglu" else ops.gelu_tanh(g)
        z = keep = None
        if need_z:
            branch, down = self.down.forward(params.scope("down"), a)
            if drop is not None:
                branch, keep = drop(1, branch)
            z = _add(branch, y)
        else:
            rows = a.reshape(-1, self.hidden)
            down = (rows, ops.linear(rows, params["down.a"]) if self.rank else None)
            if drop is not None:
                keep = drop.masks.rows(drop.layer, 1, y, drop.start)
        return z, (norm2, up, g, down, keep)

    def mlp_half_backward(self, params: Scope, grads: Scope, saved, dz: np.ndarray, drop=None) -> np.ndarray:
        norm2, up, g, down, keep = saved
        dbranch = dz if keep is None else drop.backward(dz, keep)
        da = self.down.backward(params.scope("down"), grads.scope("down"), down, dbranch)
        dg = ops.swiglu_backward(da, g) if self.mlp == "swiglu" else ops.gelu_tanh_backward(da, g, out=da)
        dw = self.up.backward(params.scope("up"), grads.scope("up"), up, dg)
        return _add(self.normalise_backward(params.scope("norm2"), grads.scope("norm2"), norm2, dw), dz)

    def normalise_backward(self, params: Scope, grads: Scope, saved, dy: np.ndarray) -> np.ndarray:
        """dx; the gain's gradient is added where it is trained."""
        if "gain" not in grads:
            grads = Scope({name: np.zeros_like(window) for name, window in params.items()})
        return self.normalise.backward(params, grads, saved, dy)

    def split(self, joint: np.ndarray, heads: int, kv_heads: int, start: int = 0):
        """Columns of a projection as heads (B, ., T, E): q and k turned to their positions, and v."""
        return ops.split_heads(joint, heads, kv_heads, *self._positions(joint, start, joint.shape[1]))

    def unsplit(self, dq, dk, dv, start: int = 0) -> np.ndarray:
        """The gradient of the projection from those of the heads."""
        return ops.split_heads_backward(dq, dk, dv, *self._positions(dq, start, dq.shape[2]))

    def _positions(self, like: np.ndarray, start: int, rows: int):
        """cos and sin for positions start to start + rows; None without rotary positions."""
        if not self.rotary:
            return None, None
        cos, sin = _angles(1 << max(6, (start + rows - 1).bit_length()), self.width, like.dtype.name)
        return cos[start : start + rows], sin[start : start + rows]


def declare_norm(layer: Layer, trained: bool) -> dict[str, Parameter]:
    return {name: Parameter(spec.shape, spec.init, trained) for name, spec in layer.declare().items()}


@dataclass(frozen=True)
class GPT(Layer):
    """Tokens (B, T) to logits (B, T, V).

    `positions` is "rotary" or "learned" (a table of `context` rows); `hidden` is 4 d for "gelu" and 8/3 d, rounded up
    to a multiple of 4, for "swiglu" where it is not given. Initial weights: N(0, std^2), those that write into the
    stream smaller by sqrt(2 layers) (Radford et al., 2019). `dropout` is applied to what each half of a layer adds to
    the stream. `rank` > 0 freezes everything but adapters of that rank, times `scale`, on the layers' matrices.
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
    dropout: float = 0.0
    rank: int = 0
    scale: float = 1.0
    std: float | None = None

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"GPT: dropout is {self.dropout}, expected 0 <= dropout < 1")
        if self.rank < 0:
            raise ValueError(f"GPT: rank is {self.rank}, expected at least 0")
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
        first = self.first_std
        rotary, std = self.positions == "rotary", first / math.sqrt(2 * self.layers)
        kv_heads = self.kv_heads or self.heads
        kind = (rotary, self.norm, self.mlp, self.bias)
        return Block(
            self.d, self.heads, kv_heads, hidden, *kind, std=first, out_std=std, rank=self.rank, scale=self.scale
        )

    @property
    def first_std(self) -> float:
        """Of initial weights: as given, or falling as 1/sqrt(d), so that it is GPT-2's 0.02 at its width of 768."""
        return 0.02 * math.sqrt(768 / self.d) if self.std is None else self.std

    @property
    def names(self) -> tuple[str, ...]:
        """The layers' names, first to last."""
        return tuple(f"block{i}" for i in range(self.layers))

    def declare(self):
        trained = self.rank == 0
        found = {"embed.table": Parameter((self.vocabulary, self.d), init.normal(self.first_std), trained)}
        if self.positions == "learned":
            found["position.table"] = Parameter((self.context, self.d), init.normal(self.first_std), trained)
        block = self.block.declare()
        for name in self.names:
            found |= {f"{name}.{part}": spec for part, spec in block.items()}
        norm = declare_norm(self.block.normalise, trained)
        return found | {f"norm.{part}": spec for part, spec in norm.items()}

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
        h, saved = self.trunk(params, x, padding, self.masks(x.shape[1], rng) if train else None)
        return self.logits(params, h), (h, saved)

    def backward(self, params, grads, saved, dy, need_dx=True):
        h, kept = saved
        self.trunk_backward(params, grads, kept, self.logits_backward(params, grads, h, dy))
        return None  # a token has no gradient

    def masks(self, T: int, rng: np.random.Generator | None) -> Masks | None:
        """Fresh dropout masks for texts of T tokens; None without dropout."""
        if self.dropout == 0:
            return None
        if rng is None:
            raise ValueError("GPT: dropout in training needs rng, the source of the masks")
        return Masks(self.dropout, int(rng.integers(2**63)), T)

    # ------------------------------------------------------------ its parts

    def embed(self, params: Scope, tokens: np.ndarray, start: int = 0) -> np.ndarray:
        """The stream's first rows (B, T, d), T tokens from position `start` on."""
        x = ops.embedding(tokens, params["embed.table"])
        if self.positions == "learned":
            x += params["position.table"][start : start + tokens.shape[1]]
        return x

    def embed_backward(self, grads: Scope, tokens: np.ndarray, dx: np.ndarray) -> None:
        if "embed.table" in grads:
            _add(grads["embed.table"], ops.embedding_backward(dx, tokens, self.vocabulary))
        if "position.table" in grads:
            grads["position.table"][: tokens.shape[1]] += dx.sum(axis=0)

    def trunk(self, params: Params, tokens: np.ndarray, padding: np.ndarray | None = None, masks: Masks | None = None):
        """Everything below the head: h = norm(x_L), (B, T, d), and what its backward pass needs."""
        self.check(tokens)
        x, kept = self.embed(params, tokens), []
        for i, name in enumerate(self.names):
            drop = None if masks is None else Drop(masks, i)
            x, saved = self.block.forward(params.scope(name), x, padding=padding, drop=drop)
            kept.append(saved)
        h, norm = self.block.normalise.forward(params.scope("norm"), x)
        return h, (tokens, kept, norm)

    def trunk_backward(self, params: Params, grads: Params, saved, dh: np.ndarray) -> None:
        """Adds all gradients below the head. Lets go of what each layer saved as soon as it is used."""
        tokens, kept, norm = saved
        dx = self.block.normalise_backward(params.scope("norm"), grads.scope("norm"), norm, dh)
        for name in reversed(self.names):
            dx = self.block.backward(params.scope(name), grads.scope(name), kept.pop(), dx)
        self.embed_backward(grads, tokens, dx)

    def logits(self, params: Scope, h: np.ndarray) -> np.ndarray:
        """h E^T for any rows."""
        return ops.linear(h, params["embed.table"].T)

    def logits_backward(self, params: Scope, grads: Scope, h: np.ndarray, dlogits: np.ndarray) -> np.ndarray:
        """dh = dlogits E; adds dE = dlogits^T h, the gradient of the linear map with input dlogits and output h."""
        table = params["embed.table"]
        dh = ops.linear(dlogits, table)
        if "embed.table" in grads:
            ops.linear_backward(h, dlogits, table, False, (grads["embed.table"], None))
        return dh


# ---------------------------------------------------------------- next-token prediction


def next_token_loss(
    model: GPT,
    params: Params,
    grads: Params | None,
    tokens: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray | None = None,
    padding: np.ndarray | None = None,
    masks: Masks | None = None,
) -> float:
    """L = -Σ w_t log p(target_t) / Σ w_t over all positions (B, T); adds its gradient into `grads` if given.

    Plain back-propagation: every activation is stored.
    """
    h, saved = model.trunk(params, tokens, padding, masks)
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
        joint, _ = block.qkv.forward(scope.scope("qkv"), u)
        q, cache.k[i, :, :, start:end], cache.v[i, :, :, start:end] = block.split(
            joint, block.heads, block.kv_heads, start
        )
        x, _ = block.attend(scope, x, q, cache.k[i, :, :, :end], cache.v[i, :, :, :end])
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
