"""Layers that carry a state from step to step: spiking neurons, and what belongs around them.

A network of spikes is run for T steps. In each step every layer is called once, and a layer with a state finds it in a
`memory` of its own, a dictionary that is empty before the first step:

    memory = Memory()
    for t in range(T):
        y, saved[t] = net.step(params, memory, x[t], train, rng)        # overwrites the states in `memory`

The backward pass comes in two kinds, and which one runs is visible in the call:

    net.step_backward(params, grads, saved[t], dy, None)                through space only: states are constants
    for t in reversed(range(T)):                                        through time: `dmemory` carries the gradient of
        net.step_backward(params, grads, saved[t], dy[t], dmemory)      the states from step t + 1 to step t

`forward` and `backward` of such a layer are those of a single step from rest, so it is a layer like any other. `saved`
holds what the backward pass of its own step needs and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.nn import init
from refimpl.nn.containers import Residual, Sequential, learns, lowest
from refimpl.nn.layer import Layer
from refimpl.nn.layers import BatchNorm, Conv2d, Linear, Pair, _pair
from refimpl.nn.params import Parameter

__all__ = [
    "LIF",
    "BatchNormLIF",
    "Neuron",
    "Scale",
    "ScaledConv2d",
    "SpikeLinear",
    "StepDropout",
    "StepLayer",
    "StepResidual",
    "Steps",
    "Traced",
    "cached_bytes",
]


class Memory(dict):
    """States by name, those of a container's parts in a Memory each. `buffers` are arrays without a meaning: with
    `reuse`, a step writes its arrays where those of the step before stood, which is right for whoever runs the backward
    pass of a step before the next step, or none at all."""

    def __init__(self, reuse: bool = False):
        super().__init__()
        self.reuse = reuse
        self.buffers: dict[str, Any] = {}

    def part(self, name: str) -> Memory:
        """The memory of the part `name`."""
        found = self.get(name)
        if found is None:
            found = self[name] = Memory(self.reuse)
        return found

    def rest(self) -> Memory:
        """Forget all states, as before the first step; buffers stay."""
        for name in list(self):
            if isinstance(self[name], Memory):
                self[name].rest()
            else:
                del self[name]
        return self

    def buffer(self, name: str, like: np.ndarray) -> np.ndarray | None:
        """The array of this name from the step before, with `reuse`; None where none is there yet."""
        if not self.reuse:
            return None
        found = self.buffers.get(name)
        if found is None or found.shape != like.shape or found.dtype != like.dtype:
            found = self.buffers[name] = np.empty(like.shape, like.dtype)
        return found


@dataclass(frozen=True)
class Neuron:
    """A leaky integrate-and-fire neuron and its surrogate gradient; the equations are those of ops.spiking.

    leak: what is left of the potential after a step, 1 - 1/tau; threshold; reset "subtract" or "zero"; surrogate
    "rectangle", "triangle", "sigmoid" or "atan" with its width; detach_reset: the spike in the reset is a constant.
    """

    leak: float = 1 - 1 / 1.1
    threshold: float = 1.0
    reset: str = "subtract"
    surrogate: str = "triangle"
    width: float = 1.0
    detach_reset: bool = False

    def fire(self, x: np.ndarray, v: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step from the state v (None: from rest): spikes, next state, potentials before firing."""
        v = np.zeros_like(x) if v is None else v
        return ops.lif_step(x, v, self.leak, self.threshold, self.reset)

    def backward(self, dspike: np.ndarray, dv: np.ndarray | None, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradients of input and former state; dv None: nothing comes from later steps."""
        surrogate = self.surrogate, self.width, self.detach_reset
        return ops.lif_step_backward(dspike, dv, u, self.leak, self.threshold, self.reset, 1.0, *surrogate)


class StepLayer(Layer):
    """A layer with a state. A subclass implements `step` and `step_backward`."""

    def step(self, params, memory: Memory, x, train=False, rng=None) -> tuple[np.ndarray, Any]:
        """One step: output and saved; overwrites this layer's state in `memory`."""
        raise NotImplementedError

    def step_backward(self, params, grads, saved, dy, dmemory: Memory | None, need_dx=True) -> np.ndarray | None:
        """One step back: adds parameter gradients into `grads`, returns dx. `dmemory` holds the gradients of the states
        after this step and is overwritten with those before it; None cuts the path through time."""
        raise NotImplementedError

    def forward(self, params, x, train=False, rng=None):
        return self.step(params, Memory(), x, train, rng)

    def backward(self, params, grads, saved, dy, need_dx=True):
        return self.step_backward(params, grads, saved, dy, None, need_dx)


def _step(layer: Layer, name: str, params, memory: Memory, x, train, rng) -> tuple[np.ndarray, Any]:
    """One step of the part `name` of a container, with or without a state."""
    if isinstance(layer, StepLayer):
        return layer.step(params.scope(name), memory.part(name), x, train, rng)
    return layer.forward(params.scope(name), x, train, rng)


def _step_backward(layer: Layer, name: str, params, grads, saved, dy, dmemory: Memory | None, need_dx):
    inside = params.scope(name), grads.scope(name), saved, dy
    if isinstance(layer, StepLayer):
        return layer.step_backward(*inside, None if dmemory is None else dmemory.part(name), need_dx)
    return layer.backward(*inside, need_dx)


# ---------------------------------------------------------------- neurons


@dataclass(frozen=True)
class LIF(StepLayer):
    """Leaky integrate-and-fire neurons: currents in, spikes out; state: the potential after the reset."""

    neuron: Neuron = Neuron()

    def step(self, params, memory, x, train=False, rng=None):
        spike, memory["v"], u = self.neuron.fire(x, memory.get("v"))
        return spike, u

    def step_backward(self, params, grads, saved, dy, dmemory, need_dx=True):
        dx, dv = self.neuron.backward(dy, None if dmemory is None else dmemory.get("v"), saved)
        if dmemory is not None:
            dmemory["v"] = dv
        return dx


@dataclass(frozen=True)
class BatchNormLIF(StepLayer):
    """Batch norm of the current (B, C, ...), then LIF neurons. Statistics are those of one time step, and the running
    ones move at every step."""

    c: int
    neuron: Neuron = Neuron()
    momentum: float = 0.1
    eps: float = 1e-5

    def _norm(self) -> BatchNorm:
        return BatchNorm(self.c, self.momentum, self.eps)

    def declare(self):
        return self._norm().declare()

    def step(self, params, memory, x, train=False, rng=None):
        if not train:
            current, normalised = self._norm().forward(params, x)
            spike, memory["v"], u = self.neuron.fire(current, memory.get("v"))
            return spike, (u, normalised, memory)
        arrays, n = (x, memory.get("v"), params["gain"], params["bias"]), self.neuron
        running = params["mean"], params["variance"]
        out = tuple(memory.buffer(name, x) for name in ("spike", "v", "u")) if memory.reuse else None
        numbers = n.leak, n.threshold, n.reset, self.eps, running, self.momentum, out
        spike, memory["v"], u, mean, rstd = ops.batchnorm_lif_step(*arrays, *numbers)
        return spike, (u, (x, mean, rstd), memory)

    def step_backward(self, params, grads, saved, dy, dmemory, need_dx=True):
        u, (x, mean, rstd), memory = saved
        dv_next, n = None if dmemory is None else dmemory.get("v"), self.neuron
        if mean is None:  # statistics that do not depend on this batch
            dcurrent, dv = n.backward(dy, dv_next, u)
            dx = self._norm().backward(params, grads, saved[1], dcurrent, need_dx)
        else:
            arrays = dy, dv_next, x, u, params["gain"], mean, rstd
            numbers = n.leak, n.threshold, n.reset, n.surrogate, n.width, n.detach_reset
            into = grads["gain"], grads["bias"]
            options = dmemory is not None, into, memory.buffer("dx", x)
            dx, dv, _, _ = ops.batchnorm_lif_step_backward(*arrays, *numbers, *options)
        if dmemory is not None:
            dmemory["v"] = dv
        return dx


# ---------------------------------------------------------------- containers


class Steps(StepLayer, Sequential):
    """Layers one after the other in every step, with or without a state; names as in Sequential."""

    def step(self, params, memory, x, train=False, rng=None):
        saved = []
        for name, layer in self.layers.items():
            x, kept = _step(layer, name, params, memory, x, train, rng)
            saved.append(kept)
        return x, saved

    def step_backward(self, params, grads, saved, dy, dmemory, need_dx=True):
        """Without need_dx it ends at the first layer that has parameters, or a state that has a gradient."""
        last = None if need_dx else lowest(self.layers, lambda layer: isinstance(layer, StepLayer) or learns(layer))
        for (name, layer), kept in zip(reversed(self.layers.items()), reversed(saved)):
            dy = _step_backward(layer, name, params, grads, kept, dy, dmemory, need_dx or name != last)
            if name == last:
                break
        return dy if need_dx else None


@dataclass(frozen=True)
class StepResidual(StepLayer, Residual):
    """y = body(x) + shortcut(x) in every step; the shortcut is the identity unless a layer is given."""

    def step(self, params, memory, x, train=False, rng=None):
        y, body = _step(self.body, "body", params, memory, x, train, rng)
        if self.shortcut is None:
            return y + x, (body, None)
        s, shortcut = _step(self.shortcut, "shortcut", params, memory, x, train, rng)
        return y + s, (body, shortcut)

    def step_backward(self, params, grads, saved, dy, dmemory, need_dx=True):
        body, kept = saved
        dx = _step_backward(self.body, "body", params, grads, body, dy, dmemory, need_dx)
        if self.shortcut is None:
            return dx + dy if need_dx else None
        ds = _step_backward(self.shortcut, "shortcut", params, grads, kept, dy, dmemory, need_dx)
        return dx + ds if need_dx else None


# ---------------------------------------------------------------- around the neurons


@dataclass(frozen=True)
class StepDropout(StepLayer):
    """Dropout whose mask is drawn for each sample at the first step and stays for all steps of the batch."""

    rate: float

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"StepDropout: rate is {self.rate}, expected 0 <= rate < 1")

    def step(self, params, memory, x, train=False, rng=None):
        if not train or self.rate == 0:
            return x, None
        if "mask" not in memory:
            if rng is None:
                raise ValueError("StepDropout: a step with train=True needs rng, the source of the mask")
            memory["mask"] = rng.random(x.shape, np.float32) >= self.rate
        return ops.dropout(x, memory["mask"], self.rate), memory["mask"]

    def step_backward(self, params, grads, saved, dy, dmemory, need_dx=True):
        return dy if saved is None else ops.dropout_backward(dy, saved, self.rate)


@dataclass(frozen=True)
class Traced(StepLayer):
    """A layer of weights (its `saved` is its input) whose weight gradient uses the decaying sum of its inputs,
    trace[t] = leak trace[t-1] + x[t], in the place of x[t]. Xiao et al., "Online training through time for spiking
    neural networks", 2022."""

    layer: Linear | Conv2d
    leak: float

    def declare(self):
        return self.layer.declare()

    def step(self, params, memory, x, train=False, rng=None):
        y, _ = self.layer.forward(params, x, train, rng)
        memory["trace"] = x if "trace" not in memory else x.dtype.type(self.leak) * memory["trace"] + x
        return y, memory["trace"]

    def step_backward(self, params, grads, saved, dy, dmemory, need_dx=True):
        return self.layer.backward(params, grads, saved, dy, need_dx)


@dataclass(frozen=True)
class SpikeLinear(Linear):
    """Linear for inputs (B, D) that are mostly zeros: spikes, events, dark images. See ops.event_linear."""

    def forward(self, params, x, train=False, rng=None):
        return ops.event_linear(x, params["weight"], params["bias"] if self.bias else None), x

    def backward(self, params, grads, saved, dy, need_dx=True):
        add_to = (grads["weight"], grads["bias"] if self.bias else None)
        return ops.event_linear_backward(dy, saved, params["weight"], need_dx, add_to)[0]


@dataclass(frozen=True)
class Scale(Layer):
    """y = factor x, or factor gain x with a learnable number `gain` that starts at `start`."""

    factor: float
    start: float | None = None

    def declare(self):
        return {} if self.start is None else {"gain": Parameter((1,), init.constant(self.start))}

    def _factor(self, params, x):
        return x.dtype.type(self.factor) * (1 if self.start is None else params["gain"][0])

    def forward(self, params, x, train=False, rng=None):
        return self._factor(params, x) * x, None if self.start is None else x

    def backward(self, params, grads, saved, dy, need_dx=True):
        if self.start is not None:
            grads["gain"][...] += dy.dtype.type(self.factor) * np.vdot(dy, saved)
        return self._factor(params, dy) * dy if need_dx else None


@dataclass(frozen=True)
class ScaledConv2d(Layer):
    """A convolution with scaled weight standardisation: each filter's kernel is

        W^ = gain (W - mean) / sqrt(variance fan_in + eps)

    mean and (unbiased) variance over the fan_in weights of the filter. No batch norm is needed after it. Brock, De and
    Smith, "Characterizing signal propagation to close the performance gap in unnormalized ResNets", 2021.
    """

    c_in: int
    c_out: int
    size: Pair
    stride: Pair = 1
    padding: Pair = 0
    bias: bool = True
    eps: float = 1e-4

    def declare(self):
        shape = (self.c_out, self.c_in, *_pair(self.size))
        fan_out = self.c_out * math.prod(shape[2:])
        weight = {"weight": Parameter(shape, init.kaiming_normal(fan_out)), "gain": Parameter((self.c_out,), init.ones)}
        return weight | ({"bias": Parameter((self.c_out,), init.zeros)} if self.bias else {})

    def _standardise(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(W - mean) / sqrt(variance fan_in + eps) as rows of filters, and the factor 1/sqrt(...)."""
        rows = weight.reshape(self.c_out, -1)
        fan_in = rows.shape[1]
        centred = rows - rows.mean(axis=1, keepdims=True)
        variance = (centred * centred).sum(axis=1, keepdims=True) / max(1, fan_in - 1)
        factor = 1 / np.sqrt(variance * weight.dtype.type(fan_in) + weight.dtype.type(self.eps))
        return centred * factor, factor

    def forward(self, params, x, train=False, rng=None):
        unit, factor = self._standardise(params["weight"])
        weight = (unit * params["gain"][:, None]).reshape(params["weight"].shape)
        y = ops.conv2d(x, weight, params["bias"] if self.bias else None, self.stride, self.padding)
        return y, (x, unit, factor)

    def backward(self, params, grads, saved, dy, need_dx=True):
        """With W^ = gain h, h = c f, c = W - mean, f = (v n + eps)^-1/2, v = Σ c² / (n - 1):
        dgain = Σ dW^ h, dh = gain dW^, dc = f dh - c f³ n / (n - 1) Σ (dh c) = f (dh - h n / (n - 1) Σ (dh h)),
        dW = dc - mean(dc)."""
        x, unit, factor = saved
        gain, n = params["gain"][:, None], unit.shape[1]
        weight = (unit * gain).reshape(params["weight"].shape)
        dx, dweight, dbias = ops.conv2d_backward(dy, x, weight, self.stride, self.padding, 1, 1, need_dx)
        dunit = dweight.reshape(unit.shape)
        along = (dunit * unit).sum(axis=1, keepdims=True)
        grads["gain"][...] += along[:, 0]
        dcentred = gain * factor * (dunit - unit * (unit.dtype.type(n / max(1, n - 1)) * along))
        dcentred -= dcentred.mean(axis=1, keepdims=True)
        grads["weight"][...] += dcentred.reshape(dweight.shape)
        if self.bias:
            grads["bias"][...] += dbias
        return dx


def cached_bytes(*saved: Any) -> int:
    """Bytes of all different arrays in nested `saved` structures: what the backward pass keeps alive."""
    found: dict[tuple[int, int], int] = {}
    stack = list(saved)
    while stack:
        item = stack.pop()
        if isinstance(item, np.ndarray):
            found[item.__array_interface__["data"][0], item.nbytes] = item.nbytes
        elif isinstance(item, list | tuple):
            stack.extend(item)
    return sum(found.values())
