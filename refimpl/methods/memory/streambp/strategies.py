"""Four ways to the same gradient, over the same layers; they differ in what is stored and what is computed again.

    strategy.gradient(model, params, grads, tokens, objective) -> loss       adds the gradient into grads

Plain: every inner activation of every layer is stored. Checkpoint: each layer's input is stored, and the whole layer is
computed again before its backward pass (Chen et al., 2016). MiniSequence: as that, with the MLP and the head in chunks
of positions (Luo et al., 2024). Stream: everything in chunks, StreamBP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refimpl import ops
from refimpl.methods.memory.streambp.objectives import Objective
from refimpl.methods.memory.streambp.streams import Chunks, chunks, head, log_probs, stream_backward, stream_forward
from refimpl.models.gpt import GPT, Drop, Masks
from refimpl.nn import Params, Scope

__all__ = ["Checkpoint", "MiniSequence", "Plain", "Strategy", "Stream", "strategy"]


@dataclass(frozen=True)
class Strategy:
    """What the strategies share: the checks, and log-probabilities without a gradient."""

    def gradient(
        self,
        model: GPT,
        params: Params,
        grads: Params,
        tokens: np.ndarray,
        objective: Objective,
        padding: np.ndarray | None = None,
        masks: Masks | None = None,
    ) -> float:
        """The loss of `objective` for texts (B, T); adds its gradient into grads. `padding` (B, T) hides tokens from
        all others, `masks` are those of dropout. Raises ValueError where texts and objective have other shapes."""
        model.check(tokens)
        if objective.target.shape != tokens.shape:
            raise ValueError(f"gradient: tokens have shape {tokens.shape}, the objective's {objective.target.shape}")
        return self._gradient(model, params, grads, tokens, objective, padding, masks)

    def _gradient(self, model, params, grads, tokens, objective, padding, masks) -> float:
        raise NotImplementedError

    def hidden(self, model: GPT, params: Params, tokens: np.ndarray, padding: np.ndarray | None = None) -> np.ndarray:
        """The last layer's output (B, T, d), storing nothing else."""
        x = model.embed(params, tokens)
        for name in model.names:
            x = model.block.forward(params.scope(name), x, padding=padding)[0]
        return x

    def log_probs(
        self,
        model: GPT,
        params: Params,
        tokens: np.ndarray,
        target: np.ndarray,
        padding: np.ndarray | None = None,
        temperature: float = 1.0,
        length: Chunks = 100,
    ) -> np.ndarray:
        """log p(target) at each position (B, T), without gradient: what a reference model is asked for."""
        model.check(tokens)
        return log_probs(model, params, self.hidden(model, params, tokens, padding), target, length, temperature)


def _drops(model: GPT, masks: Masks | None) -> list[Drop | None]:
    return [None if masks is None else Drop(masks, i) for i in range(model.layers)]


@dataclass(frozen=True)
class Plain(Strategy):
    """Back-propagation that stores every activation."""

    def _gradient(self, model, params, grads, tokens, objective, padding, masks):
        x, kept = model.embed(params, tokens), []
        for name, drop in zip(model.names, _drops(model, masks)):
            x, saved = model.block.forward(params.scope(name), x, padding=padding, drop=drop)
            kept.append(saved)
        loss = head(model, params, grads, x, objective, x.shape[1])
        for name in reversed(model.names):
            x = model.block.backward(params.scope(name), grads.scope(name), kept.pop(), x)
        model.embed_backward(grads, tokens, x)
        return loss


@dataclass(frozen=True)
class Checkpoint(Strategy):
    """Stores the input of each layer."""

    def _gradient(self, model, params, grads, tokens, objective, padding, masks):
        inputs, x = [], model.embed(params, tokens)
        drops = _drops(model, masks)
        for name, drop in zip(model.names, drops):
            inputs.append(x)
            x = self._forward(model, params.scope(name), x, padding, drop)
        loss = self._head(model, params, grads, x, objective)
        for name, drop in zip(reversed(model.names), reversed(drops)):
            x = self._backward(model, params.scope(name), grads.scope(name), inputs.pop(), x, padding, drop)
        model.embed_backward(grads, tokens, x)
        return loss

    def _forward(self, model, params, x, padding, drop):
        return model.block.forward(params, x, padding=padding, drop=drop)[0]

    def _head(self, model, params, grads, x, objective):
        return head(model, params, grads, x, objective, x.shape[1])

    def _backward(self, model, params, grads, x, dz, padding, drop):
        _, saved = model.block.forward(params, x, padding=padding, drop=drop, need_z=False)
        return model.block.backward(params, grads, saved, dz)


@dataclass(frozen=True)
class MiniSequence(Checkpoint):
    """Stores the input of each layer; MLP and head work on `length` and `head_length` positions at a time."""

    length: Chunks = 500
    head_length: Chunks = 100

    def _attention(self, model, params: Scope, x, padding, drop):
        block = model.block
        u, norm1 = block.normalise.forward(params.scope("norm1"), x)
        joint, qkv = block.qkv.forward(params.scope("qkv"), u)
        q, k, v = block.split(joint, block.heads, block.kv_heads)
        y, attention = block.attend(params, x, q, k, v, padding, drop)
        return y, (norm1, qkv, k, v, attention)

    def _forward(self, model, params, x, padding, drop):
        y, _ = self._attention(model, params, x, padding, drop)
        for s, e in chunks(x.shape[1], self.length):
            y[:, s:e] = model.block.mlp_half(params, np.ascontiguousarray(y[:, s:e]), _at(drop, s))[0]
        return y

    def _head(self, model, params, grads, x, objective):
        return head(model, params, grads, x, objective, self.head_length)

    def _backward(self, model, params, grads, x, dz, padding, drop):
        block = model.block
        y, (norm1, qkv, k, v, attention) = self._attention(model, params, x, padding, drop)
        for s, e in chunks(x.shape[1], self.length):
            part, at = np.ascontiguousarray(y[:, s:e]), _at(drop, s)
            _, mlp = block.mlp_half(params, part, at, need_z=False)
            dz[:, s:e] = block.mlp_half_backward(params, grads, mlp, np.ascontiguousarray(dz[:, s:e]), at)
        del y
        dq, dk, dv = block.attend_backward(params, grads, attention, dz, k, v, padding, drop)
        du = block.qkv.backward(params.scope("qkv"), grads.scope("qkv"), qkv, block.unsplit(dq, dk, dv))
        dx = block.normalise_backward(params.scope("norm1"), grads.scope("norm1"), norm1, du)
        ops.axpy(dx.reshape(-1), dz.reshape(-1), 1.0)
        return dx


def _at(drop: Drop | None, start: int) -> Drop | None:
    return None if drop is None else Drop(drop.masks, drop.layer, start)


@dataclass(frozen=True)
class Stream(Checkpoint):
    """StreamBP: stores the input of each layer; layer and head work on `length` and `head_length` positions at a time,
    forward and backward. `order` and `keep_keys`: see stream_backward; `one_pass`: see head."""

    length: Chunks = 500
    head_length: Chunks = 100
    order: str = "reverse"
    keep_keys: bool = True
    one_pass: bool = False

    def __post_init__(self):
        if self.order not in ("forward", "reverse"):
            raise ValueError(f"Stream: order is {self.order!r}, expected 'forward' or 'reverse'")
        if not self.keep_keys and self.order == "reverse":
            raise ValueError("Stream: keep_keys=False needs order='forward'")

    def hidden(self, model, params, tokens, padding=None):
        x = model.embed(params, tokens)
        for name in model.names:
            x = stream_forward(model.block, params.scope(name), x, self.length, padding)
        return x

    def _forward(self, model, params, x, padding, drop):
        return stream_forward(model.block, params, x, self.length, padding, drop)

    def _head(self, model, params, grads, x, objective):
        return head(model, params, grads, x, objective, self.head_length, self.one_pass)

    def _backward(self, model, params, grads, x, dz, padding, drop):
        how = (self.length, padding, drop, self.order, self.keep_keys)
        return stream_backward(model.block, params, grads, x, dz, *how)


def strategy(name: str, length: Chunks = 500, head_length: Chunks = 100) -> Strategy:
    """ "plain", "checkpoint", "mini-sequence" or "stream". Raises ValueError for another name."""
    if name == "plain":
        return Plain()
    if name == "checkpoint":
        return Checkpoint()
    if name in ("mini-sequence", "stream"):
        return (MiniSequence if name == "mini-sequence" else Stream)(length, head_length)
    raise ValueError(f"strategy is {name!r}, expected one of plain, checkpoint, mini-sequence, stream")
