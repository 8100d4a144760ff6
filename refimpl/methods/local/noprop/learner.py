"""NoProp as a learner: fit, predict, score; training in resumable units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import optim
from refimpl.data import batches
from refimpl.methods.local.noprop.losses import ct_loss, dt_denoising, end_losses, fm_loss
from refimpl.models.denoising_classifier import DenoisingClassifier
from refimpl.models.diffusion import Chain
from refimpl.models.label_denoiser import denoiser
from refimpl.nn import Params

# What a hyper-parameter left at None means, by variant.
DEFAULTS: dict[str, dict[str, Any]] = {
    "dt": {
        "schedule": "cosine",
        "eta": 0.1,
        "epochs": 30,
        "optimizer": "adamw",
        "weight_decay": 1e-3,
        "clip": math.inf,
    },
    "ct": {"schedule": "linear", "eta": 1.0, "epochs": 200, "optimizer": "adam", "weight_decay": 0.0, "clip": 1.0},
    "fm": {"schedule": None, "eta": None, "epochs": 200, "optimizer": "adam", "weight_decay": 0.0, "clip": math.inf},
}
_SCHEDULES = {"dt": ("cosine",), "ct": ("linear", "cosine", "learned"), "fm": (None,)}


class NoProp(DenoisingClassifier):
    """Classification by blocks that learn to denoise the label, each on its own.

    variant: "dt" (T separate blocks, discrete time), "ct" (one network, continuous time) or "fm" (one network, flow
    matching). None stands for the variant's own value in DEFAULTS.

    Model: embedding "onehot", "learned" (embedding_dim numbers) or "prototype"; schedule "cosine" (dt), "linear",
    "cosine" or "learned" (ct); lowest, highest: limits of abar; T: blocks of dt; block "mlp" or "conv", width, dropout
    (conv): the network; readout "linear", "distance" or "nearest" with readout_sigma; image_shape: (C, H, W) where X
    comes as rows of pixels.

    Training: eta: weight of the denoising term (dt, ct); epochs (for dt: of each block), batch_size, optimizer, lr,
    weight_decay, clip (largest gradient norm of a group of parameters, inf for none); embedding_lr: of a learned
    embedding, by default lr / 10, because blocks that know nothing yet pull the classes together (at lr, some merge);
    order: of the blocks, "forward", "reverse" or a permutation of 1..T, without influence on the result where the
    embedding is one-hot; anchor, sigma: of flow matching (anchor None: where the embedding is learned).

    Inference: integrator "euler" or "heun" and steps (ct, fm); noise "zero" or "sampled" in the steps (dt); draws:
    starts whose logits are averaged.

    Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        variant: str = "dt",
        embedding: str = "onehot",
        embedding_dim: int = 20,
        schedule: str | None = None,
        lowest: float = 1e-3,
        highest: float = 0.999,
        T: int = 10,
        block: str = "mlp",
        width: int = 128,
        dropout: float = 0.2,
        eta: float | None = None,
        epochs: int | None = None,
        batch_size: int = 128,
        optimizer: str | None = None,
        lr: float = 1e-3,
        embedding_lr: float | None = None,
        weight_decay: float | None = None,
        clip: float | None = None,
        order: str | Sequence[int] = "forward",
        readout: str = "linear",
        readout_sigma: float = 1.0,
        anchor: bool | None = None,
        sigma: float = 0.0,
        integrator: str = "heun",
        steps: int = 20,
        noise: str = "zero",
        draws: int = 8,
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.variant = variant
        self.embedding = embedding
        self.embedding_dim = embedding_dim
        self.schedule = schedule
        self.lowest = lowest
        self.highest = highest
        self.T = T
        self.block = block
        self.width = width
        self.dropout = dropout
        self.eta = eta
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.embedding_lr = embedding_lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.order = order
        self.readout = readout
        self.readout_sigma = readout_sigma
        self.anchor = anchor
        self.sigma = sigma
        self.integrator = integrator
        self.steps = steps
        self.noise = noise
        self.draws = draws
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    @classmethod
    def paper(cls, variant: str = "dt", **changes: Any) -> NoProp:
        """The paper's values (MNIST), for images or with image_shape; `changes` replace some."""
        values: dict[str, Any] = {"variant": variant, "block": "conv", "width": 256, "epochs": 100}
        values |= {"lr": 1e-3, "embedding_lr": 1e-3}
        if variant == "ct":
            values |= {"schedule": "learned"}
        if variant in ("ct", "fm"):
            values |= {"integrator": "euler", "steps": 1000}
        return cls(**{**values, **changes})

    # ------------------------------------------------------------ training

    def _value(self, name: str) -> Any:
        """A hyper-parameter, or the variant's own value where it is None."""
        given = getattr(self, name)
        return DEFAULTS[self.variant][name] if given is None else given

    def _begin(self, X, y):
        self._one_of(variant=tuple(DEFAULTS))
        self._kind_of_model = {"dt": "chain", "ct": "flow", "fm": "velocity"}[self.variant]
        self._check_training()
        self._build(X, y, self.T, self._value("schedule") or "")
        self._optimizer = optim.by_name(self._value("optimizer"), self.lr, self._value("weight_decay"))
        slow = self.lr / 10 if self.embedding_lr is None else self.embedding_lr
        self._embedding_optimizer = dataclasses.replace(self._optimizer, lr=slow)
        trained = {name: params for name, params in self._params.items() if params.size}
        self._optimizers = {name: self._optimizer.init(params) for name, params in trained.items()}
        self._grads = {name: params.zeros_like() for name, params in self._params.items()}
        self.total_ = self._value("epochs") * (self.T if self.variant == "dt" else 1)

    def _check_training(self) -> None:
        self._whole(T=1, steps=1)
        if not isinstance(self._value("epochs"), int | np.integer) or self._value("epochs") < 0:
            raise self._bad("epochs", "None or a whole number of at least 0")
        for name in ("schedule", "eta"):
            if self.variant == "fm" and getattr(self, name) is not None:
                raise self._bad(name, "None: flow matching has none")
        if self.schedule not in (None, *_SCHEDULES[self.variant]):
            allowed = ", ".join(map(repr, _SCHEDULES[self.variant]))
            raise self._bad("schedule", f"one of {allowed} for variant {self.variant!r}")
        if self.variant != "fm" and not self._value("eta") > 0:
            raise self._bad("eta", "a positive number")
        if not self._value("clip") > 0:
            raise self._bad("clip", "a positive number, or inf for none")
        if not self.sigma >= 0:
            raise self._bad("sigma", "a number of at least 0")
        self._training_order()

    def _training_order(self) -> list[int]:
        """Numbers of the blocks, 1..T, in the order of training."""
        numbers = list(range(1, self.T + 1))
        if isinstance(self.order, str):
            self._one_of(order=("forward", "reverse"))
            return numbers if self.order == "forward" else numbers[::-1]
        if sorted(self.order) != numbers:
            raise self._bad("order", f"'forward', 'reverse' or a permutation of 1..{self.T}")
        return list(self.order)

    def _advance(self, unit):
        return self._advance_chain(unit) if self.variant == "dt" else self._advance_network()

    def _step(self, name: str) -> None:
        """One optimiser step of one group of parameters along its gradient, which is then set to zero."""
        if name in self._optimizers:
            optimizer = self._embedding_optimizer if name == "embedding" else self._optimizer
            _step(optimizer, self._params[name], self._grads[name], self._optimizers[name], self._value("clip"))

    def _tables(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """W_E and its gradient, both None for one-hot."""
        table = self._embedding.table
        return table(self._params["embedding"]), table(self._grads["embedding"])

    # ---- discrete time: a unit is one epoch of one block, and one of the read-out beside it

    def _job(self, t: int) -> Job:
        name = f"block{t}"
        return Job(
            t=t,
            spec=self._block_spec,
            params=self._params[name],
            optimizer=self._optimizer,
            state=self._optimizers[name],
            rng=self._rngs[name],
            X=self._X,
            y=self._y,
            chain=self._chain,
            eta=self._value("eta"),
            batch_size=self.batch_size,
            clip=self._value("clip"),
        )

    def _advance_chain(self, unit: int) -> dict[str, float]:
        """Block and read-out walk through the data in orders of their own. They share nothing but a learned embedding,
        whose gradient is the sum of what both say (all terms of L_t, some from another mini-batch)."""
        t = self._training_order()[unit % self.T]
        total = np.zeros(3)
        for denoising, ends in zip(self._job(t).epoch(self._grads[f"block{t}"], *self._tables()), self._ends_epoch()):
            total += (denoising, *ends)
            self._step("embedding")
        return _chain_metrics(t, total)

    def _ends_epoch(self) -> Iterator[tuple[float, float]]:
        """One epoch of the read-out (and the prior term of a learned embedding), step by step; yields each
        mini-batch's share of the mean losses."""
        rng, n = self._rngs["readout"], len(self._y)
        first, last = self._chain.abar[0], self._chain.abar[-1]
        for rows in batches(n, self.batch_size, rng):
            eps = rng.standard_normal((len(rows), self._embedding.D), self.dtype)
            params, grads = self._params["readout"], self._grads["readout"]
            losses = end_losses(self._readout, params, grads, *self._tables(), self._y[rows], first, last, eps)
            self._step("readout")
            share = len(rows) / n
            yield losses[0] * share, losses[1] * share

    def fit(self, X: Any, y: Any, executor: Executor | None = None):
        """Train on X (n, features) or (n, C, H, W) and y (n,).

        With an executor (of processes, threads or machines) the blocks of variant "dt" are trained side by side, to the
        same bits as one after the other. Raises ValueError for unusable data, and for an executor where there are no
        independent blocks: another variant, or an embedding that all blocks learn together.
        """
        if executor is None:
            return super().fit(X, y)
        if self.variant != "dt" or self.embedding != "onehot":
            what = f"variant is {self.variant!r} and embedding {self.embedding!r}"
            raise ValueError(
                f"NoProp: {what}, but an executor needs independent blocks: variant 'dt', embedding 'onehot'"
            )
        self.begin(X, y)
        epochs = self._value("epochs")
        futures = {t: executor.submit(_train_block, self._job(t), epochs) for t in self._training_order()}
        ends = [np.sum([*self._ends_epoch()], axis=0) for _ in range(self.total_)]
        losses = {}
        for t, future in futures.items():
            job, losses[t] = future.result()
            name = f"block{t}"
            self._params[name].assign(job.params)
            self._optimizers[name], self._rngs[name] = job.state, job.rng
        for unit, pair in enumerate(ends):
            t = self._training_order()[unit % self.T]
            self.history_.append(_chain_metrics(t, np.array([losses[t][unit // self.T], *pair])))
        self.progress_ = self.total_
        self.finish()
        return self

    # ---- continuous time: a unit is one epoch of the one network

    def _advance_network(self) -> dict[str, float]:
        rng, rng_last, n, total = self._rngs["net"], self._rngs["readout"], len(self._y), np.zeros(3)
        net, (W, dW) = self._block(), self._tables()
        for rows in batches(n, self.batch_size, rng):
            shape = len(rows), self._embedding.D
            x, y, t, eps = self._X[rows], self._y[rows], rng.random(len(rows)), rng.standard_normal(shape, self.dtype)
            if self.variant == "ct":
                eps_last = rng_last.standard_normal(shape, self.dtype)
                flow = net, self._readout, self._gamma, self._params, self._grads
                terms = ct_loss(*flow, W, dW, x, y, t, self._value("eta"), eps, eps_last, rng)
            else:
                path_noise = rng_last.standard_normal(shape, self.dtype) if self.sigma else None
                model = net, self._readout, self._params, self._grads
                terms = fm_loss(*model, W, dW, x, y, t, eps, self._anchored(), self.sigma, path_noise, rng)
            for name in self._optimizers:
                self._step(name)
            total += np.array([terms.denoising, terms.cross_entropy, terms.prior]) * (len(rows) / n)
        return _metrics(total)

    def _anchored(self) -> bool:
        return self.embedding != "onehot" if self.anchor is None else self.anchor


# ---------------------------------------------------------------- one block, here or in another process


@dataclass
class Job:
    """Everything that training one block takes; nothing of it belongs to another block."""

    t: int
    spec: dict[str, Any]
    params: Params
    optimizer: optim.Optimizer
    state: optim.State
    rng: np.random.Generator
    X: np.ndarray
    y: np.ndarray
    chain: Chain
    eta: float
    batch_size: int
    clip: float

    def epoch(self, grads: Params, W: np.ndarray | None = None, dW: np.ndarray | None = None) -> Iterator[float]:
        """One epoch, step by step; yields each mini-batch's share of the mean denoising loss. The gradient of a learned
        embedding is left in dW, to be used before the next step."""
        block, n = denoiser(**self.spec), len(self.y)
        for rows in batches(n, self.batch_size, self.rng):
            eps = self.rng.standard_normal((len(rows), self.spec["D"]), self.params.dtype)
            data = self.X[rows], self.y[rows], self.t
            loss = dt_denoising(block, self.params, grads, W, dW, *data, self.chain, self.eta, eps, self.rng)
            _step(self.optimizer, self.params, grads, self.state, self.clip)
            yield loss * len(rows) / n


def _train_block(job: Job, epochs: int) -> tuple[Job, list[float]]:
    """All epochs of one block; the job as it is afterwards, without the data, and the loss of each epoch."""
    grads = job.params.zeros_like()
    losses = [sum(job.epoch(grads)) for _ in range(epochs)]
    job.X = job.y = np.empty(0)
    return job, losses


def _step(optimizer: optim.Optimizer, params: Params, grads: Params, state: optim.State, clip: float) -> None:
    if clip < math.inf:
        optim.clip_by_norm(grads, clip)
    optimizer.step(params, grads, state)
    grads.flat[...] = 0


def _metrics(total: np.ndarray) -> dict[str, float]:
    return {"loss": float(total.sum()), **dict(zip(("denoising", "cross_entropy", "prior"), map(float, total)))}


def _chain_metrics(t: int, total: np.ndarray) -> dict[str, float]:
    return {"block": float(t), **_metrics(total)}
