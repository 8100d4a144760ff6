"""Classifiers of spikes: what SLTT and its baselines share, which is everything but how a gradient comes about.

Each of the T steps has logits o[t] and a loss of its own (Deng et al., "Temporal efficient training of spiking neural
network via gradient re-weighting", 2022):

    l[t] = (1 - a) CE(o[t], y) + a MSE(o[t], target),    L = 1/T sum_t l[t]

The cross-entropy is a mean over the batch, the squared error one over batch and classes. The class is the largest entry
of sum_t o[t].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data import batches
from refimpl.data.augment import augment, check_augmentations
from refimpl.estimator import Classifier, generator
from refimpl.models.snn import CODINGS, Simulation, SpikingNet, build_snn
from refimpl.nn import Params, initialise
from refimpl.nn.spiking import Memory, Neuron

__all__ = ["SpikingClassifier", "StepLoss"]


@dataclass(frozen=True)
class StepLoss:
    """The loss of one step, weighted as it counts in L.

    a: weight of the squared error; target: "ones" (all logits are drawn to 1: a regulariser) or "onehot"; steps:
    "every", or "last" for L = l[T].
    """

    a: float = 0.05
    target: str = "ones"
    steps: str = "every"

    def weight(self, t: int, T: int) -> float:
        """What l[t] counts in L, t = 0 .. T - 1."""
        return 1 / T if self.steps == "every" else float(t == T - 1)

    def __call__(self, logits: np.ndarray, y: np.ndarray, weight: float) -> tuple[float, np.ndarray]:
        """weight l[t] and its gradient in the logits."""
        cross_entropy, p = ops.cross_entropy(logits, y)
        dlogits = ops.cross_entropy_backward(p, y, dloss=(1 - self.a) * weight)
        value = (1 - self.a) * float(cross_entropy)
        if self.a:
            if self.target == "ones":
                target = np.ones_like(logits)
            else:
                target = np.zeros_like(logits)
                target[np.arange(len(y)), y] = 1
            value += self.a * float(ops.mse(logits, target))
            dlogits += ops.mse_backward(logits, target, dloss=self.a * weight)
        return weight * value, dlogits


class SpikingClassifier(Classifier):
    """Base: data, network, training loop and inference. A subclass says in `_gradient` how a batch's gradient is found.

    Model: model "mlp" (hidden, norm), "vgg", "resnet", "nfnet" (see models.snn; `options` are further arguments of
    these functions) or a SpikingNet; T: steps; tau: time constant, leak = 1 - 1/tau; threshold, reset, surrogate,
    surrogate_width: the neurons (nn.spiking.Neuron); dropout: rate, one mask a sample for all steps.

    Input: coding "direct" (X (n, ...), shown at every step), "pulse" (at the first step only) or "events" (X
    (n, T, ...), a frame for each step); image_shape: (C, H, W) where images come as rows of pixels; normalise: subtract
    each channel's mean and divide by its deviation (over the training data); augment: any of "crop", "flip", "cutout".

    Training: loss_weight, loss_target, loss_steps: a, target and steps of StepLoss (with loss_steps="last" the logits
    of the last step decide at inference too); epochs, batch_size, optimizer, lr, weight_decay, schedule "cosine" (to 0,
    a step down every epoch) or "constant". Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        model: Any = "mlp",
        hidden: tuple[int, ...] = (128, 128),
        norm: bool = True,
        options: dict[str, Any] | None = None,
        T: int = 6,
        tau: float = 1.1,
        threshold: float = 1.0,
        reset: str = "subtract",
        surrogate: str = "triangle",
        surrogate_width: float = 1.0,
        dropout: float = 0.0,
        coding: str = "direct",
        image_shape: tuple[int, int, int] | None = None,
        normalise: bool = False,
        augment: tuple[str, ...] = (),
        loss_weight: float = 0.05,
        loss_target: str = "ones",
        loss_steps: str = "every",
        epochs: int = 20,
        batch_size: int = 128,
        optimizer: str = "momentum",
        lr: float = 0.1,
        weight_decay: float = 0.0,
        schedule: str = "cosine",
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.model = model
        self.hidden = hidden
        self.norm = norm
        self.options = options
        self.T = T
        self.tau = tau
        self.threshold = threshold
        self.reset = reset
        self.surrogate = surrogate
        self.surrogate_width = surrogate_width
        self.dropout = dropout
        self.coding = coding
        self.image_shape = image_shape
        self.normalise = normalise
        self.augment = augment
        self.loss_weight = loss_weight
        self.loss_target = loss_target
        self.loss_steps = loss_steps
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.dtype = dtype
        self.random_state = random_state

    model: Any
    hidden: tuple[int, ...]
    norm: bool
    options: dict[str, Any] | None
    T: int
    tau: float
    threshold: float
    reset: str
    surrogate: str
    surrogate_width: float
    dropout: float
    coding: str
    image_shape: tuple[int, int, int] | None
    normalise: bool
    augment: tuple[str, ...]
    loss_weight: float
    loss_target: str
    loss_steps: str
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    schedule: str
    dtype: Any
    random_state: Any

    _online = True  # whether the backward pass of a step runs before the next step
    _memory: Memory | None = None

    def _gradient(self, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Add the gradient of one batch to `_grads`; returns its loss and the sum of the logits."""
        raise NotImplementedError

    def _neuron(self) -> Neuron:
        return Neuron(
            1 - 1 / self.tau,
            self.threshold,
            self.reset,
            self.surrogate,
            self.surrogate_width,
        )

    def _model_options(self) -> dict[str, Any]:
        """What the function that builds the network gets besides shape, classes and neuron."""
        options: dict[str, Any] = dict(self.options or {})
        if self.model == "mlp":
            options = {"hidden": tuple(self.hidden), "norm": self.norm, **options}
        if self.dropout:
            if self.model == "nfnet":
                raise self._bad("dropout", "0: model 'nfnet' has none")
            options["dropout"] = self.dropout
        return options

    # ------------------------------------------------------------ checks

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _check_settings(self) -> None:
        for name, least in (("T", 1), ("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise self._bad(name, f"a whole number of at least {least}")
        allowed: dict[str, tuple] = {
            "coding": CODINGS,
            "loss_target": ("ones", "onehot"),
            "loss_steps": ("every", "last"),
            "schedule": ("cosine", "constant"),
            "reset": ("subtract", "zero"),
            "surrogate": ("rectangle", "triangle", "sigmoid", "atan"),
            "dtype": ("float32", "float64"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise self._bad(name, f"one of {', '.join(map(repr, values))}")
        if not self.tau >= 1:
            raise self._bad("tau", "a number of at least 1, inf for no leak")
        if not 0 <= self.loss_weight <= 1:
            raise self._bad("loss_weight", "a number in [0, 1]")
        if not 0 <= self.dropout < 1:
            raise self._bad("dropout", "0 <= dropout < 1")
        for name in ("threshold", "surrogate_width"):
            if not 0 < getattr(self, name) < math.inf:
                raise self._bad(name, "a positive finite number")
        check_augmentations(type(self).__name__, self.augment)

    def _shape(self) -> tuple[int, ...]:
        """Shape of one sample: as given, or `image_shape` for rows of pixels."""
        if self.image_shape is None:
            return tuple(self._input_shape)
        if math.prod(self.image_shape) != self.n_features_in_:
            who = type(self).__name__
            raise ValueError(f"{who}: image_shape is {self.image_shape}, but X has {self.n_features_in_} features")
        return tuple(self.image_shape)

    def _frame_shape(self) -> tuple[int, ...]:
        """Shape of what the network sees at one step."""
        shape, who = self._shape(), type(self).__name__
        if self.coding != "events":
            return shape
        if len(shape) < 2 or shape[0] != self.T:
            raise ValueError(f"{who}: X has samples of shape {shape}, expected ({self.T}, ...): a frame for each step")
        return shape[1:]

    # ------------------------------------------------------------ training

    def _begin(self, X, y):
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_labels(y, len(X))
        self._check_settings()
        frame = self._frame_shape()
        if self.augment and (len(frame) != 3 or self.coding == "events"):
            raise self._bad("augment", f"() for samples of shape {self._shape()}: only images (C, H, W) are augmented")
        rngs = generator(self.random_state).spawn(5)
        self._rngs = dict(zip(("parameters", "order", "dropout", "steps", "augment"), rngs))
        if isinstance(self.model, SpikingNet):
            self._net = self.model
        else:
            made = build_snn(self.model, frame, len(self.classes_), self._neuron(), **self._model_options())
            self._net = made
        self._params = {"net": initialise(self._net, self._rngs["parameters"], self.dtype)}
        self._X, self._y = X.reshape(len(X), *self._shape()), y
        self._statistics = self._channel_statistics() if self.normalise else None
        steps = math.ceil(len(X) / self.batch_size)
        schedules = {"cosine": optim.Cosine(self.lr, self.epochs), "constant": optim.Constant(self.lr)}
        rate = optim.PerEpoch(schedules[self.schedule], steps)
        self._optimizer = optim.by_name(self.optimizer, rate, self.weight_decay)
        self._optimizers = {"net": self._optimizer.init(self._params["net"])}
        self._grads: Params = self._params["net"].zeros_like()
        self._memory = None
        self.total_ = int(self.epochs)

    def finish(self) -> None:
        super().finish()
        self._memory = None

    def _channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of each channel of an image (of each feature, where samples are vectors)."""
        channel = 2 if self.coding == "events" else 1
        axes = tuple(i for i in range(self._X.ndim) if i != channel)
        deviation = self._X.std(axis=axes, keepdims=True, dtype=np.float64)
        deviation[deviation == 0] = 1
        mean = self._X.mean(axis=axes, keepdims=True, dtype=np.float64)
        return mean.astype(self.dtype), deviation.astype(self.dtype)

    def _prepared(self, x: np.ndarray) -> np.ndarray:
        if self._statistics is None:
            return x
        mean, deviation = self._statistics
        return (x - mean) / deviation

    def _advance(self, unit):
        total, right, n = 0.0, 0, len(self._X)
        for rows in batches(n, self.batch_size, self._rngs["order"]):
            x, y = self._X[rows], self._y[rows]
            if self.augment:
                x = augment(x, self.augment, self._rngs["augment"])
            self._grads.flat[...] = 0
            loss, logits = self._gradient(self._prepared(x), y)
            self._optimizer.step(self._params["net"], self._grads, self._optimizers["net"])
            total += loss * len(rows)
            right += int((logits.argmax(axis=1) == y).sum())
        return {"loss": total / n, "accuracy": right / n}

    def _simulation(self, x: np.ndarray, train: bool) -> Simulation:
        """T steps on a batch. In training, one memory serves all batches; where each step is over before the next
        begins, so do its buffers."""
        if not train:
            return Simulation(self._net, self._params["net"], x, self.T, self.coding)
        if self._memory is None:
            self._memory = Memory(reuse=self._online)
        where = self.T, self.coding, True, self._rngs["dropout"], self._memory
        return Simulation(self._net, self._params["net"], x, *where)

    def _loss(self) -> StepLoss:
        return StepLoss(self.loss_weight, self.loss_target, self.loss_steps)

    # ------------------------------------------------------------ inference

    def step_logits(self, X: Any) -> np.ndarray:
        """Logits of every step, (T, n, K)."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())
        n = 1024 if self.model == "mlp" else 256
        parts = []
        for i in range(0, len(X), n):
            simulation = self._simulation(self._prepared(X[i : i + n]), train=False)
            parts.append(np.stack([simulation.step()[0] for _ in range(self.T)]))
        return np.concatenate(parts, axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the mean logits over the steps (of the last step's with loss_steps="last"), (n, K)."""
        logits = self.step_logits(X)
        return ops.softmax(logits[-1] if self.loss_steps == "last" else logits.mean(axis=0))
