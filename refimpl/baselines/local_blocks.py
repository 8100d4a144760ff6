"""Greedy local learning: a network in gradient-isolated modules, each with a local loss; one module is
back-propagation.

    for each module j from the bottom:   h = f_j(x),  L_j = objective_j(h, y),  gradients of f_j and objective_j alone
                                         x = h, a constant from here on

The objectives are those of refimpl/models/local_losses.py. Layers start from the same weights whatever the rule and the
cuts, and inference runs the layers and the last classifier only, so that a comparison of rules is one of rules.

Sources: Belilovsky, Eickenberg and Oyallon, "Greedy layerwise learning can scale to ImageNet", 2019, and "Decoupled
greedy learning of CNNs", 2020; Nøkland and Eidnes, "Training neural networks with local error signals", 2019; Wang et
al., "Revisiting locally supervised learning: an alternative to end-to-end training", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data import batches
from refimpl.data.augment import augment, check_augmentations
from refimpl.estimator import Classifier, generator
from refimpl.models.column import Column, mlp_column, resnet_column, spread_cuts
from refimpl.models.isolated import CrossEntropy, Isolated, Objective, Target, flops, kept_bytes, local_step
from refimpl.models.local_losses import RULES, objective
from refimpl.nn import Params

__all__ = ["LocalBlocksClassifier", "WarmCosine"]


@dataclass(frozen=True)
class WarmCosine:
    """Epoch e = 1..E has the rate lr (1 + cos(pi e / E)) / 2; in the first `warmup` epochs that comes in by and by,
    times (e - 1) / warmup, plus 0.01 (warmup + 1 - e) / warmup. `steps`: of an epoch."""

    lr: float
    epochs: int
    steps: int
    warmup: int = 10

    def __call__(self, step: int) -> float:
        e = step // self.steps + 1
        cosine = 0.5 * self.lr * (1 + math.cos(math.pi * min(e, self.epochs) / self.epochs))
        if e > self.warmup:
            return cosine
        return cosine * (e - 1) / self.warmup + 0.01 * (self.warmup + 1 - e) / self.warmup


class LocalBlocksClassifier(Classifier):
    """Classification by local learning in gradient-isolated modules.

    Network: network "resnet" (widths, blocks a stage) or "mlp" (hidden); image_shape: (C, H, W) where images come as
    rows of pixels; inputs are standardised (mean and deviation of each channel, or feature, over the training data).

    Rule: rule "greedy", "dgl", "predsim" or "infopro", its `options` (see models.local_losses.objective); where to cut:
    `modules` of nearly equal length (None: one a layer; 1: back-propagation), or `cuts`, the last layer of each module
    but the last.

    Training: stochastic gradient descent with Nesterov's momentum; lr, momentum, weight_decay (of auxiliary parameters
    too); schedule "cosine" (to 0, a step at a time), "warm" (WarmCosine, with `warmup` epochs) or "constant"; augment:
    any of "crop", "reflect", "flip", "cutout"; update "module" (each module right after its backward pass, whose
    gradients need no memory later) or "end" (all at the end of the step): the same numbers. epochs, batch_size.
    Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        rule: str = "greedy",
        network: str = "resnet",
        widths: tuple[int, ...] = (16, 32, 64),
        blocks: int = 5,
        hidden: tuple[int, ...] = (256, 256, 256),
        modules: int | None = None,
        cuts: tuple[int, ...] | None = None,
        options: Mapping[str, Any] | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        schedule: str = "cosine",
        warmup: int = 10,
        augment: tuple[str, ...] = (),
        update: str = "module",
        epochs: int = 10,
        batch_size: int = 128,
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.rule = rule
        self.network = network
        self.widths = widths
        self.blocks = blocks
        self.hidden = hidden
        self.modules = modules
        self.cuts = cuts
        self.options = options
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.warmup = warmup
        self.augment = augment
        self.update = update
        self.epochs = epochs
        self.batch_size = batch_size
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    # What a subclass must have too, whatever else its arguments are.
    network: str
    widths: tuple[int, ...]
    blocks: int
    hidden: tuple[int, ...]
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    warmup: int
    augment: tuple[str, ...]
    update: str
    epochs: int
    batch_size: int
    image_shape: tuple[int, int, int] | None
    dtype: Any
    random_state: Any

    # ------------------------------------------------------------ what a rule says

    def _cuts(self, column: Column) -> tuple[int, ...]:
        """The last layer of each module but the last, increasing."""
        if self.cuts is None:
            return spread_cuts(column.n, column.n if self.modules is None else self.modules)
        return tuple(self.cuts)

    def _objective(self, column: Column, cuts: tuple[int, ...], j: int) -> Objective:
        """The objective of local module j = 0, 1, ..., len(cuts) - 1, whose last layer is cuts[j]."""
        r = j / (len(cuts) - 1) if len(cuts) > 1 else 0.0
        return objective(self.rule, column, column.shapes[cuts[j]], r, self.options)

    def _started(self) -> None:
        """Called when all parameters are drawn (self._modules, self._all): where some start as copies of others."""

    def _after_backward(self, j: int) -> None:
        """Called when the gradients of module j are complete, before its update and before those above it."""

    # ------------------------------------------------------------ checks

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _check_rule(self) -> None:
        """Checks of the arguments that only this rule has."""
        if self.rule not in RULES:
            raise self._bad("rule", f"one of {', '.join(RULES)}")
        if self.cuts is not None and self.modules is not None:
            raise self._bad("modules", "None where cuts are given")

    def _check_settings(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("warmup", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise self._bad(name, f"a whole number of at least {least}")
        allowed = {
            "network": ("resnet", "mlp"),
            "schedule": ("cosine", "warm", "constant"),
            "update": ("module", "end"),
            "dtype": ("float32", "float64"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise self._bad(name, f"one of {', '.join(map(repr, values))}")
        if not 0 < self.lr < math.inf:
            raise self._bad("lr", "a positive finite number")
        if not 0 <= self.momentum < 1:
            raise self._bad("momentum", "0 <= momentum < 1")
        if not 0 <= self.weight_decay < math.inf:
            raise self._bad("weight_decay", "a finite number of at least 0")
        check_augmentations(type(self).__name__, self.augment)
        self._check_rule()

    def _shape(self) -> tuple[int, ...]:
        """Shape of one input: as given, or `image_shape` for rows of pixels."""
        who = type(self).__name__
        if self.image_shape is not None:
            if math.prod(self.image_shape) != self.n_features_in_:
                raise ValueError(f"{who}: image_shape is {self.image_shape}, but X has {self.n_features_in_} features")
            return tuple(self.image_shape)
        if self.network == "resnet" and len(self._input_shape) != 3:
            raise ValueError(f"{who}: X has shape (n, {self.n_features_in_}), expected images, or image_shape")
        return tuple(self._input_shape)

    def _checked_cuts(self, column: Column) -> tuple[int, ...]:
        cuts = self._cuts(column)
        in_order = all(a < b for a, b in zip((-1, *cuts), (*cuts, column.n - 1)))
        if not in_order or any(not isinstance(cut, int | np.integer) for cut in cuts):
            who = type(self).__name__
            raise ValueError(f"{who}: cuts are {cuts}, expected increasing layers from 0 to {column.n - 2}")
        return cuts

    # ------------------------------------------------------------ training

    def _column(self, shape: tuple[int, ...], K: int) -> Column:
        if self.network == "mlp":
            return mlp_column(shape, K, tuple(self.hidden))
        return resnet_column((shape[0], shape[1], shape[2]), K, tuple(self.widths), self.blocks)

    def _begin(self, X, y):
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_labels(y, len(X))
        self._check_settings()
        shape = self._shape()
        if self.augment and len(shape) != 3:
            raise self._bad("augment", f"() for samples of shape {shape}: only images (C, H, W) are augmented")
        self._X, self._y = X.reshape(len(X), *shape), y
        self._column_ = self._column(shape, len(self.classes_))
        self._cuts_ = self._checked_cuts(self._column_)
        self._modules = self._isolated(self._column_, self._cuts_)
        if any(_reconstructs(m.objective) for m in self._modules) and not (X.min() >= 0 and X.max() <= 1):
            who = type(self).__name__
            raise ValueError(f"{who}: X has values from {X.min()} to {X.max()}, expected 0 to 1 to reconstruct")
        rng = generator(self.random_state)
        streams = dict(zip(("layers", "objectives", "order", "augment", "steps"), rng.spawn(5)))
        self._rngs = {name: streams[name] for name in ("order", "augment", "steps")}
        self._draw(streams["layers"], streams["objectives"])
        self._statistics = _statistics(self._X)
        steps = math.ceil(len(X) / self.batch_size)
        rates: dict[str, optim.Rate] = {
            "cosine": optim.Cosine(self.lr, self.epochs * steps),
            "warm": WarmCosine(self.lr, max(1, self.epochs), steps, self.warmup),
            "constant": self.lr,
        }
        self._optimizer = optim.SGD(rates[self.schedule], self.momentum, self.momentum > 0, self.weight_decay)
        self._optimizers = {name: self._optimizer.init(params) for name, params in self._params.items()}
        self._started()
        self.total_ = int(self.epochs)

    def _isolated(self, column: Column, cuts: tuple[int, ...]) -> list[Isolated]:
        ends, modules, first = [*cuts, column.n - 1], [], 0
        for j, last in enumerate(ends):
            layers = {f"layer{i}": column.layers[i] for i in range(first, last + 1)}
            own = CrossEntropy(column.readout) if j == len(cuts) else self._objective(column, cuts, j)
            modules.append(Isolated(layers, own))
            first = last + 1
        return modules

    def _draw(self, layers: np.random.Generator, objectives: np.random.Generator) -> None:
        """First parameters: one generator for each layer and one for the classifier, which no rule or cut changes."""
        own = layers.spawn(self._column_.n + 1)
        others = objectives.spawn(len(self._modules))
        self._all: list[Params] = []
        for j, module in enumerate(self._modules):
            rngs = {f"layer{i}": rng for i, rng in enumerate(own)}
            rngs["objective"] = own[-1] if j == len(self._modules) - 1 else others[j]
            self._all.append(module.initialise(rngs, self.dtype))
        self._params = {f"module{j}": params for j, params in enumerate(self._all)}
        self._grads = [params.zeros_like() for params in self._all]

    def _prepared(self, x: np.ndarray) -> np.ndarray:
        mean, scale = self._statistics
        return (x - mean) * scale

    def _advance(self, unit):
        n = len(self._y)
        total = np.zeros(len(self._modules))
        for rows in batches(n, self.batch_size, self._rngs["order"]):
            total += np.array(self._step(*self._batch(rows))) * (len(rows) / n)
        return self._metrics(total)

    def _batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images, augmented, and class numbers."""
        image = self._X[rows]
        return augment(image, self.augment, self._rngs["augment"]) if self.augment else image, self._y[rows]

    def _metrics(self, total: np.ndarray) -> dict[str, float]:
        """The mean losses of an epoch by name; that of the classifier is the loss."""
        return {"loss": total[-1]} | {f"loss{j}": total[j] for j in range(len(total) - 1)}

    def _update(self, j: int) -> None:
        name = f"module{j}"
        self._optimizer.step(self._all[j], self._grads[j], self._optimizers[name])
        self._grads[j].flat[...] = 0

    def _step(self, image: np.ndarray, y: np.ndarray, kept: Any = None) -> list[float]:
        """One step of all modules on a batch of images as they are; returns the local losses, the classifier's last."""

        def done(j: int) -> None:
            self._after_backward(j)
            if self.update == "module":
                self._update(j)

        x, target = self._prepared(image), Target(y, image)
        losses = local_step(self._modules, self._all, self._grads, x, target, self._rngs["steps"], done, kept)
        if self.update == "end":
            for j in range(len(self._modules)):
                self._update(j)
        return losses

    # ------------------------------------------------------------ what a step costs

    def kept_bytes(self, B: int = 128) -> list[int]:
        """Bytes of activations that each module keeps for its backward pass, counted in a step on B samples while it
        runs. The learner must be in training (begun, not finished); it is left as it was."""
        counts: list[int] = []
        self._probe(B, lambda j, saved: counts.append(kept_bytes(saved)))
        return counts

    def step_flops(self, B: int = 128) -> int:
        """Floating-point operations of the products of one step on B samples, counted while it runs."""
        return flops(lambda: self._probe(B))

    def _probe(self, B: int, kept: Any = None) -> None:
        rows = np.arange(B) % len(self._y)
        image, y = self._X[rows], self._y[rows]
        params, grads = [p.copy() for p in self._all], [g.zeros_like() for g in self._grads]
        rng = np.random.default_rng(0)
        local_step(self._modules, params, grads, self._prepared(image), Target(y, image), rng, kept=kept)

    # ------------------------------------------------------------ inference

    def _chunks(self, X: Any):
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())
        return (self._prepared(X[i : i + 512]) for i in range(0, len(X), 512))

    def activations(self, X: Any, upto: int | None = None) -> list[np.ndarray]:
        """Outputs of layers 0..upto (None: all) at inference, each (n, C_l, ...)."""
        last = self._column_.n - 1 if upto is None else upto
        parts = []
        for x in self._chunks(X):
            outs: list[np.ndarray] = []
            for module, params in zip(self._modules, self._all):
                for name, layer in module.layers.items():
                    if len(outs) <= last:
                        x = layer.apply(params.scope(name), x)
                        outs.append(x)
            parts.append(outs)
        return [np.concatenate(level) for level in zip(*parts)]

    def logits(self, X: Any) -> np.ndarray:
        """Logits (n, K) of the classifier behind the last layer; local objectives have no part in them."""
        found = []
        for x in self._chunks(X):
            for module, params in zip(self._modules, self._all):
                x = module.apply(params, x)
            found.append(self._column_.readout.apply(self._all[-1].scope("objective"), x))
        return np.concatenate(found)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the logits, (n, K)."""
        return ops.softmax(self.logits(X))


def _reconstructs(own: Objective) -> bool:
    """Whether the objective, or the one that it wraps as `inner`, draws the image."""
    inner = getattr(own, "inner", None)
    return hasattr(own, "decoder") or (inner is not None and _reconstructs(inner))


def _statistics(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and inverse deviation of each channel (of a vector: each feature), shaped to meet X."""
    axes = tuple(i for i in range(X.ndim) if i != 1)
    mean = X.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = X.std(axis=axes, keepdims=True, dtype=np.float64)
    return mean.astype(X.dtype), (1 / np.where(deviation > 0, deviation, 1)).astype(X.dtype)
