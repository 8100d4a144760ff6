"""Spiking networks: an encoder, which turns a frame into currents, and a body of spiking layers with a linear read-out.

"Direct coding": the frame itself, pixels or counts of events, is what the first layer of weights sees in each step; it
is the encoder. No neuron follows the read-out, so each step has real-valued logits (B, K).

    spiking_mlp      linear layers, each with batch norm and LIF neurons
    spiking_vgg      convolutions with batch norm and LIF neurons, average pooling
    spiking_resnet   pre-activation blocks: BN, LIF, conv, BN, LIF, dropout, conv, and a shortcut that carries spikes
    spiking_nfnet    the same without batch norm: scaled weight standardisation, variances kept by constants
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refimpl.nn import (
    AvgPool2d,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    Params,
    Sequential,
    declare_all,
    init,
)
from refimpl.nn.spiking import (
    LIF,
    BatchNormLIF,
    Memory,
    Neuron,
    Scale,
    ScaledConv2d,
    SpikeLinear,
    StepDropout,
    StepLayer,
    StepResidual,
    Steps,
    Traced,
)

__all__ = [
    "CODINGS",
    "SNN_MODELS",
    "Simulation",
    "SpikingNet",
    "build_snn",
    "frames",
    "spiking_mlp",
    "spiking_nfnet",
    "spiking_resnet",
    "spiking_vgg",
]

Shape = tuple[int, ...]
DEFAULT = Neuron()
CODINGS = ("direct", "pulse", "events")


@dataclass(frozen=True)
class SpikingNet(StepLayer):
    """Encoder and body: frames in, logits (B, K) out. The encoder has no state, unless it keeps traces."""

    encoder: Layer
    body: Steps

    def declare(self):
        return declare_all(encoder=self.encoder, body=self.body)

    def _parts(self) -> Steps:
        return Steps(encoder=self.encoder, body=self.body)

    def step(self, params, memory, x, train=False, rng=None):
        return self._parts().step(params, memory, x, train, rng)

    def step_backward(self, params, grads, saved, dy, dmemory, need_dx=True):
        return self._parts().step_backward(params, grads, saved, dy, dmemory, need_dx)


# ---------------------------------------------------------------- running a network


def frames(x: np.ndarray, T: int, coding: str) -> Iterator[np.ndarray]:
    """What the network sees at each step. "direct": x (B, ...) every time; "pulse": x at the first step and silence
    afterwards; "events": x (B, T, ...), one frame a step. Raises ValueError for another coding or number of frames."""
    if coding not in CODINGS:
        raise ValueError(f"coding is {coding!r}, expected one of {', '.join(CODINGS)}")
    if coding == "events":
        if x.ndim < 3 or x.shape[1] != T:
            raise ValueError(f"events have shape {x.shape}, expected (B, {T}, ...): T frames a sample")
        return (np.ascontiguousarray(x[:, t]) for t in range(T))
    silence = np.zeros_like(x) if coding == "pulse" else x
    return (silence if t else x for t in range(T))


@dataclass
class Simulation:
    """T steps of a network on one batch, forward step by step; what to keep for which backward pass is the caller's.

        simulation = Simulation(net, params, x, T, "direct", train=True, rng=rng)
        logits, saved = simulation.step()                      T times
        simulation.back(grads, saved, dlogits, dmemory)        through this step (see nn.spiking for dmemory)
        simulation.close(grads)                                the encoder's gradient, where it saw one frame T times

    A static image costs the encoder one product a batch and not one a step: its current is the same in every step, and
    its gradient is that of the sum over the steps. `memory`: that of an earlier simulation, to go on in its buffers.
    """

    net: SpikingNet
    params: Params
    x: np.ndarray
    T: int
    coding: str = "direct"
    train: bool = False
    rng: np.random.Generator | None = None
    memory: Memory = field(default_factory=Memory)
    dcurrent: np.ndarray | None = None

    def __post_init__(self):
        self.memory.rest()
        self._frames = frames(self.x, self.T, self.coding)
        self._once = self.coding == "direct" and not isinstance(self.net.encoder, StepLayer)
        if self._once:
            encoder = self.params.scope("encoder")
            self._current, self._encoded = self.net.encoder.forward(encoder, self.x, self.train, self.rng)

    def step(self) -> tuple[np.ndarray, Any]:
        """The next step: logits (B, K), and what its backward pass needs."""
        if self._once:
            current, encoded = self._current, None
        else:
            current, encoded = self._encode(next(self._frames))
        memory = self.memory.part("body")
        logits, saved = self.net.body.step(self.params.scope("body"), memory, current, self.train, self.rng)
        return logits, (encoded, saved)

    def _encode(self, frame):
        encoder = self.params.scope("encoder")
        if isinstance(self.net.encoder, StepLayer):
            memory = self.memory.part("encoder")
            return self.net.encoder.step(encoder, memory, frame, self.train, self.rng)
        return self.net.encoder.forward(encoder, frame, self.train, self.rng)

    def back(self, grads: Params, saved: Any, dlogits: np.ndarray, dmemory: Memory | None = None) -> None:
        """Back through one step; adds to `grads`."""
        encoded, inside = saved
        body = self.params.scope("body"), grads.scope("body")
        dbody = None if dmemory is None else dmemory.part("body")
        dcurrent = self.net.body.step_backward(*body, inside, dlogits, dbody)
        if not self._once:
            self.net.encoder.backward(self.params.scope("encoder"), grads.scope("encoder"), encoded, dcurrent, False)
        elif self.dcurrent is None:
            self.dcurrent = dcurrent.copy() if self.memory.reuse else dcurrent
        else:
            self.dcurrent += dcurrent

    def close(self, grads: Params) -> None:
        """After the last step back."""
        if self._once and self.dcurrent is not None:
            encoder = self.params.scope("encoder"), grads.scope("encoder")
            self.net.encoder.backward(*encoder, self._encoded, self.dcurrent, False)
            self.dcurrent = None


# ---------------------------------------------------------------- architectures


def _uniform_linear(d_in: int, d_out: int, bias: bool) -> SpikeLinear:
    """Weights and biases U(-1/sqrt(d_in), 1/sqrt(d_in))."""
    limit = init.uniform(1 / math.sqrt(max(1, d_in)))
    return SpikeLinear(d_in, d_out, bias, weight_init=limit, bias_init=limit)


def spiking_mlp(
    shape: Shape,
    d_out: int,
    neuron: Neuron = DEFAULT,
    hidden: tuple[int, ...] = (128, 128),
    norm: bool = True,
    dropout: float = 0.0,
    trace: float | None = None,
) -> SpikingNet:
    """Linear layers of the hidden widths with LIF neurons (after batch norm with `norm`), and a linear read-out.

    A layer before batch norm has no bias: the norm would take it off again. `trace`: the leak of presynaptic traces in
    all weight gradients (OTTT), None for none.
    """
    if not hidden:
        raise ValueError(f"spiking_mlp: hidden is {hidden!r}, expected at least one width")
    d_in = math.prod(shape)

    def weights(a: int, b: int, bias: bool = not norm) -> Layer:
        layer = _uniform_linear(a, b, bias)
        return layer if trace is None else Traced(layer, trace)

    parts: dict[str, Layer] = {}
    for i, width in enumerate(hidden, start=1):
        if i > 1:
            parts[f"fc{i}"] = weights(hidden[i - 2], width)
        parts[f"lif{i}"] = BatchNormLIF(width, neuron) if norm else LIF(neuron)
        if dropout:
            parts[f"drop{i}"] = StepDropout(dropout)
    encoder = weights(d_in, hidden[0])
    flat: Layer = encoder if len(shape) == 1 else _chain(Flatten(), encoder)
    return SpikingNet(flat, Steps(**parts, readout=weights(hidden[-1], d_out, True)))


def _chain(first: Layer, then: Layer) -> Layer:
    """Two layers, a container with a state only where one of them has one."""
    return Steps(first, then) if isinstance(then, StepLayer) else Sequential(first, then)


def _images(name: str, shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{name}: frames of shape {tuple(shape)}, expected (C, H, W)")
    return shape[0], shape[1], shape[2]


def _conv(c_in: int, c_out: int, stride: int = 1, size: int = 3) -> Conv2d:
    """3x3 (or size x size) without bias, Kaiming-normal by its fan-out."""
    weight_init = init.kaiming_normal(c_out * size * size)
    return Conv2d(c_in, c_out, size, stride, padding=size // 2, bias=False, weight_init=weight_init)


# Channels of the VGG-11 for event cameras, "pool" halves height and width.
VGG_11 = (64, 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def spiking_vgg(
    shape: Shape,
    d_out: int,
    neuron: Neuron = DEFAULT,
    plan: tuple[int | str, ...] = (32, "pool", 64, "pool"),
    dropout: float = 0.0,
    trace: float | None = None,
) -> SpikingNet:
    """3x3 convolutions with batch norm and LIF neurons by the `plan` (channels, or "pool" for 2x2 average pooling),
    dropout, and a linear read-out initialised with N(0, 0.01²)."""
    c, h, w = _images("spiking_vgg", shape)
    if not plan or plan[0] == "pool":
        raise ValueError(f"spiking_vgg: plan is {plan!r}, expected channels first")

    def weights(layer: Any) -> Layer:
        return layer if trace is None else Traced(layer, trace)

    parts: dict[str, Layer] = {}
    encoder: Layer | None = None
    for i, width in enumerate(plan, start=1):
        if isinstance(width, str):
            if min(h, w) < 2:
                raise ValueError(f"spiking_vgg: frames of shape {tuple(shape)} are too small for plan {plan!r}")
            parts[f"pool{i}"] = AvgPool2d(2)
            h, w = h // 2, w // 2
            continue
        conv = weights(_conv(c, width))
        if encoder is None:
            encoder = conv
        else:
            parts[f"conv{i}"] = conv
        parts[f"lif{i}"] = BatchNormLIF(width, neuron)
        c = width
    assert encoder is not None
    if dropout:
        parts["drop"] = StepDropout(dropout)
    readout = Linear(c * h * w, d_out, weight_init=init.normal(0.01))
    return SpikingNet(encoder, Steps(**parts, flatten=Flatten(), readout=weights(readout)))


def _preact_block(c_in: int, c_out: int, stride: int, neuron: Neuron, dropout: float) -> Steps:
    """BN, LIF, then conv, BN, LIF, dropout, conv, with a shortcut from the spikes of the first LIF."""
    body: dict[str, Layer] = {"conv1": _conv(c_in, c_out, stride), "lif": BatchNormLIF(c_out, neuron)}
    if dropout:
        body["drop"] = StepDropout(dropout)
    body["conv2"] = _conv(c_out, c_out)
    project = _conv(c_in, c_out, stride, size=1) if stride != 1 or c_in != c_out else None
    return Steps(lif=BatchNormLIF(c_in, neuron), sum=StepResidual(Steps(**body), project))


def _per_stage(blocks: int | Sequence[int], widths: Sequence[int]) -> Sequence[int]:
    """How many blocks each stage has."""
    each = [blocks] * len(widths) if isinstance(blocks, int) else list(blocks)
    if len(each) != len(widths) or min(each) < 1:
        raise ValueError(f"blocks is {blocks!r}, expected a number of at least 1, or {len(widths)}: one a stage")
    return each


def spiking_resnet(
    shape: Shape,
    d_out: int,
    neuron: Neuron = DEFAULT,
    widths: tuple[int, ...] = (16, 32),
    blocks: int | Sequence[int] = 1,
    dropout: float = 0.0,
) -> SpikingNet:
    """Pre-activation ResNet: a 3x3 convolution as encoder, `blocks` blocks a stage (one number, or one for each stage;
    stride 2 from the second on), batch norm and LIF, global average pooling, a linear read-out. widths (64, 128, 256,
    512) with blocks=2: ResNet-18. Raises ValueError where there are not as many numbers of blocks as widths.

    Source: He et al., "Identity mappings in deep residual networks", 2016, with spikes.
    """
    c_in, _, _ = _images("spiking_resnet", shape)
    parts: dict[str, Layer] = {}
    c = widths[0]
    for stage, (width, n) in enumerate(zip(widths, _per_stage(blocks, widths)), start=1):
        for block in range(1, n + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            parts[f"stage{stage}_block{block}"] = _preact_block(c, width, stride, neuron, dropout)
            c = width
    head = {"lif": BatchNormLIF(c, neuron), "pool": GlobalAvgPool2d(), "readout": Linear(c, d_out)}
    return SpikingNet(_conv(c_in, widths[0]), Steps(**parts, **head))


SPIKE_GAIN = 2.74  # makes the variance of a spike's contribution about 1
BRANCH = 0.2  # weight of a residual branch


def spiking_nfnet(
    shape: Shape,
    d_out: int,
    neuron: Neuron = DEFAULT,
    widths: tuple[int, ...] = (16, 32),
    blocks: int | Sequence[int] = 1,
) -> SpikingNet:
    """The pre-activation ResNet without batch norm: convolutions with scaled weight standardisation, spikes times 2.74
    before each, branches times 0.2 and a learnable number that starts at 0; a block divides its input by the standard
    deviation expected there. Where the shape stays, the shortcut is the block's input; where it changes, a 1x1
    convolution of its spikes. widths (64, 128, 256, 512) with blocks=(3, 4, 6, 3): NF-ResNet-34.

    Source: Brock, De and Smith, 2021, with spikes.
    """
    c_in, _, _ = _images("spiking_nfnet", shape)
    parts: dict[str, Layer] = {}
    c, variance = widths[0], 1.0
    for stage, (width, n) in enumerate(zip(widths, _per_stage(blocks, widths)), start=1):
        for block in range(1, n + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            project = stride != 1 or c != width
            spikes = {"scale": Scale(1 / math.sqrt(variance)), "lif": LIF(neuron), "gain": Scale(SPIKE_GAIN)}
            body = {
                "conv1": ScaledConv2d(c, width, 3, stride, 1),
                "lif": LIF(neuron),
                "gain": Scale(SPIKE_GAIN),
                "conv2": ScaledConv2d(width, width, 3, 1, 1),
                "branch": Scale(BRANCH, 0.0),
            }
            if project:
                shortcut = ScaledConv2d(c, width, 1, stride)
                made = Steps(**spikes, sum=StepResidual(Steps(**body), shortcut))
                variance = 1.0 + BRANCH**2
            else:
                made = Steps(sum=StepResidual(Steps(first=Steps(**spikes), rest=Steps(**body))))
                variance += BRANCH**2
            parts[f"stage{stage}_block{block}"] = made
            c = width
    head = {"scale": Scale(1 / math.sqrt(variance)), "lif": LIF(neuron), "gain": Scale(SPIKE_GAIN)}
    head |= {"pool": GlobalAvgPool2d(), "readout": Linear(c, d_out)}
    return SpikingNet(ScaledConv2d(c_in, widths[0], 3, 1, 1), Steps(**parts, **head))


SNN_MODELS: dict[str, Callable[..., SpikingNet]] = {
    "mlp": spiking_mlp,
    "vgg": spiking_vgg,
    "resnet": spiking_resnet,
    "nfnet": spiking_nfnet,
}


def build_snn(name: str, shape: Shape, d_out: int, neuron: Neuron, **options: Any) -> SpikingNet:
    """A spiking network by name for frames of `shape`. Raises ValueError for an unknown name or a shape it cannot
    take."""
    if name not in SNN_MODELS:
        raise ValueError(f"model is {name!r}, expected one of {', '.join(SNN_MODELS)}")
    return SNN_MODELS[name](shape, d_out, neuron, **options)
