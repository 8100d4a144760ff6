"""The same denoising networks as NoProp's, trained end to end: back-propagation through every step of the inference.

    ChainClassifier         T blocks and the stochastic chain (3): the paper's "Backprop"
    UnrolledFlowClassifier  one network and the Euler steps of the flow (6): stands for the paper's adjoint method

Both run from noise z_0 to the end and learn from the cross-entropy of the read-out there. Every step of either has the
form
    z' = a uhat(z, x) + b z + s eps
so one loss serves both. Its backward pass goes through all steps in reverse, and what it stored on the way forward
grows with their number. (NoProp's does not.)

The read-out is by default the distance to the class embeddings. A linear one, learned from scratch, lets two classes
share an embedding early in training, and end-to-end gradients rarely part them again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data import batches
from refimpl.models.denoising_classifier import DenoisingClassifier
from refimpl.models.diffusion import Chain, signal
from refimpl.models.label_denoiser import Denoiser, ReadOut
from refimpl.nn import Layer, Scope

__all__ = ["ChainClassifier", "Stage", "UnrolledFlowClassifier", "chain_stages", "flow_stages", "unrolled_loss"]


@dataclass(frozen=True)
class Stage:
    """One step z' = a uhat(z, x) + b z + s eps; `group` names the parameters, t is the time if the block takes one."""

    group: str
    a: float
    b: float
    s: float = 0.0
    t: float | None = None


def chain_stages(chain: Chain) -> list[Stage]:
    """Equation (3), a block of its own for each step."""
    return [
        Stage(f"block{t}", float(chain.a[t]), float(chain.b[t]), math.sqrt(chain.c[t])) for t in range(1, chain.T + 1)
    ]


def flow_stages(schedule: Layer, params: Scope, steps: int) -> list[Stage]:
    """Euler steps of (6): z' = z + h (-gamma'/2) (sqrt(abar) uhat - abar z), h = 1 / steps."""
    times = np.arange(steps) / steps
    (gamma, dgamma), _ = schedule.forward(params, times)
    abar = signal(gamma)
    a = -dgamma / (2 * steps) * np.sqrt(abar)
    b = 1 + dgamma / (2 * steps) * abar
    return [Stage("net", float(a[i]), float(b[i]), 0.0, float(times[i])) for i in range(steps)]


def unrolled_loss(
    block: Denoiser,
    stages: Sequence[Stage],
    readout: ReadOut,
    params: Mapping[str, Scope],
    grads: Mapping[str, Scope],
    W: np.ndarray | None,
    dW: np.ndarray | None,
    x: np.ndarray,
    y: np.ndarray,
    start: np.ndarray,
    noise: Sequence[np.ndarray | None],
    rng: np.random.Generator | None = None,
) -> float:
    """Cross-entropy of the read-out after all stages, from z = start (B, D); adds all gradients into `grads` and dW.

    noise: eps of each stage, None for none. W None is the one-hot embedding. Backward, with dz = dL/dz':
        duhat = a dz;   df and dW through the mixture;   dz <- b dz + (the block's own gradient in z)
    """
    features: dict[str, Any] = {}  # the image's part, once for each set of parameters
    z, kept = start, []
    for stage, eps in zip(stages, noise):
        own = params[stage.group]
        if stage.group not in features:
            features[stage.group] = block.features(own, x, True, rng)
        g = features[stage.group][0]
        f, saved = block.denoise(own, g, z, None if stage.t is None else np.array([stage.t]), True, rng)
        uhat, p = ops.softmax_mixture(f, W)
        kept.append((saved, p))
        z = ops.fma_combine(stage.a, uhat, stage.b, z, stage.s, eps)
    o, saved = readout.forward(params["readout"], (z, W))
    loss, p = ops.cross_entropy(o, y)
    do = ops.cross_entropy_backward(p, y)

    dz = readout.backward(params["readout"], grads["readout"], saved, do, dW=dW)
    dfeatures: dict[str, np.ndarray] = {}
    uses = Counter(stage.group for stage in stages)
    for stage in reversed(stages):
        saved, p = kept.pop()  # what a stage stored is let go of with its gradient
        own, into = params[stage.group], grads[stage.group]
        df, through_mixture = ops.softmax_mixture_backward(dz.dtype.type(stage.a) * dz, p, W)
        if dW is not None:
            dW += through_mixture
        dg, through_block = block.denoise_backward(own, into, saved, df)
        dz = ops.fma_combine(1.0, through_block, stage.b, dz)
        dfeatures[stage.group] = dfeatures[stage.group] + dg if stage.group in dfeatures else dg
        uses[stage.group] -= 1
        if not uses[stage.group]:
            _, image = features.pop(stage.group)
            block.features_backward(own, into, image, dfeatures.pop(stage.group))
    return float(loss)


class _Unrolled(DenoisingClassifier):
    """What both learners share: an epoch of steps along the gradient of `unrolled_loss`."""

    optimizer: str
    lr: float
    weight_decay: float
    clip: float | None
    epochs: int

    def _start(self, X: Any, y: Any, T: int, schedule: str) -> None:
        self._whole(epochs=0)
        if self.clip is not None and not self.clip > 0:
            raise self._bad("clip", "None or a positive number")
        self._build(X, y, T, schedule)
        self._optimizer = optim.by_name(self.optimizer, self.lr, self.weight_decay)
        self._grads = {name: params.zeros_like() for name, params in self._params.items()}
        self._optimizers = {name: self._optimizer.init(p) for name, p in self._params.items() if p.size}
        self.total_ = int(self.epochs)

    def _stages(self) -> list[Stage]:
        raise NotImplementedError

    def _advance(self, unit):
        rng, n, D, total = self._rngs["readout"], len(self._y), self._embedding.D, 0.0
        table, block, stages = self._embedding.table, self._block(), self._stages()
        W, dW = table(self._params["embedding"]), table(self._grads["embedding"])
        for rows in batches(n, self.batch_size, rng):
            start = rng.standard_normal((len(rows), D), self.dtype)
            noise = [rng.standard_normal((len(rows), D), self.dtype) if stage.s else None for stage in stages]
            model = block, stages, self._readout, self._params, self._grads, W, dW
            loss = unrolled_loss(*model, self._X[rows], self._y[rows], start, noise, rng)
            for name, state in self._optimizers.items():
                if self.clip is not None:
                    optim.clip_by_norm(self._grads[name], self.clip)
                self._optimizer.step(self._params[name], self._grads[name], state)
                self._grads[name].flat[...] = 0
            total += loss * len(rows) / n
        return {"loss": total}


class ChainClassifier(_Unrolled):
    """The stochastic chain of T blocks trained by back-propagation through all of them.

    Arguments as in NoProp; clip is the largest gradient norm of one block, or None. Noise is sampled in every step of
    training, and in those of `predict` where noise is "sampled".
    """

    _kind_of_model = "chain"

    def __init__(
        self,
        embedding: str = "onehot",
        embedding_dim: int = 20,
        lowest: float = 1e-3,
        highest: float = 0.999,
        T: int = 10,
        block: str = "mlp",
        width: int = 128,
        dropout: float = 0.2,
        epochs: int = 30,
        batch_size: int = 128,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        clip: float | None = None,
        readout: str = "nearest",
        readout_sigma: float = 0.3,
        noise: str = "sampled",
        draws: int = 8,
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.embedding = embedding
        self.embedding_dim = embedding_dim
        self.lowest = lowest
        self.highest = highest
        self.T = T
        self.block = block
        self.width = width
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.readout = readout
        self.readout_sigma = readout_sigma
        self.noise = noise
        self.draws = draws
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    def _begin(self, X, y):
        self._whole(T=1)
        self._start(X, y, self.T, "")

    def _stages(self):
        return chain_stages(self._chain)


class UnrolledFlowClassifier(_Unrolled):
    """One time-conditioned denoiser trained by back-propagation through the Euler steps of its flow (6).

    Arguments as in NoProp; schedule "linear" or "cosine" (no learned one: its gradient would run through the steps);
    steps: of training and, with the integrator, of `predict`.
    """

    _kind_of_model = "flow"

    def __init__(
        self,
        embedding: str = "onehot",
        embedding_dim: int = 20,
        schedule: str = "linear",
        lowest: float = 1e-3,
        highest: float = 0.999,
        steps: int = 10,
        integrator: str = "euler",
        block: str = "mlp",
        width: int = 128,
        dropout: float = 0.2,
        epochs: int = 30,
        batch_size: int = 128,
        optimizer: str = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        readout: str = "nearest",
        readout_sigma: float = 0.3,
        draws: int = 8,
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.embedding = embedding
        self.embedding_dim = embedding_dim
        self.schedule = schedule
        self.lowest = lowest
        self.highest = highest
        self.steps = steps
        self.integrator = integrator
        self.block = block
        self.width = width
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.readout = readout
        self.readout_sigma = readout_sigma
        self.draws = draws
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    def _begin(self, X, y):
        self._whole(steps=1)
        self._one_of(schedule=("linear", "cosine"))
        self._start(X, y, 0, self.schedule)

    def _stages(self):
        return flow_stages(self._gamma, self._params["schedule"], self.steps)
