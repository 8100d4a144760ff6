"""TPSGD: fully connected and convolutional networks, layer by layer, as a classifier.

For layer i = 1 .. L, with its input x_{i-1} taken for a constant:
    z_i = x_{i-1} W_i^T + b_i,  y_i = s(z_i)                                                                      (2)
    t_i = code of the label, see codes.py                                                                         (1)
    d_i = dJ_i/dz_i                          refimpl/ops/target.py has all six losses                             (3)
    dW_i = 1/B d_i^T x_{i-1},  db_i = 1/B Σ_b d_i                                                                 (4)
    W_i -= eta_i dW_i,  b_i -= eta_i db_i                                                                         (5)
    x_i = y_i goes on; z_i and x_{i-1} are let go of
(a feature map has 1 / (H W) beside 1 / B in (4)). The output layer's target is the label itself: softmax and
cross-entropy, d_L = softmax(z_L) - y*.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl import models, ops, optim
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.methods.local.tpsgd.codes import Projections
from refimpl.methods.local.tpsgd.layers import ACTIVATIONS, convnet, local_layers, pass_on, rows_mlp
from refimpl.nn import Activation, Layer, Params, initialise
from refimpl.ops.target import LOSSES

__all__ = ["TPSGD"]


class TPSGD(Classifier):
    """Classification by target projection stochastic gradient descent.

    model: "mlp" (hidden widths), "conv" (channels, filters of `size`, max pooling), "lenet", "vgg", or any layers in a
    row whose hidden ones end in tanh, sigmoid or relu; image_shape: (C, H, W) where X comes as rows of pixels.

    loss: "l2", "l1", "logistic", "huber" (delta), "cosine" or "linear" (which is direct random target projection).
    targets "projection": random codes of deviation p, made reachable unless squash is False, drawn anew from a key
    whenever they are needed unless keep_codes; or one array (K, n_i) of codes a hidden layer (`class_means`).
    target: "map", "pooled" or "channel" (one code a channel): where the target of a feature map lies.

    schedule: "simultaneous" or "greedy" (one layer after the other, `epochs` each); refresh: a layer passes on what it
    says after its update; lr, hidden_lr (None: lr; a sequence: one a hidden layer), momentum, epochs, batch_size.

    Adaptors: source, a fitted learner (a BackpropClassifier or TPSGD), gives the network, its first weights and the
    classes; layers: numbers of the hidden layers to train, None for all; train_output False freezes the last one.

    Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        model: str | Layer = "mlp",
        hidden: tuple[int, ...] = (300,),
        channels: tuple[int, ...] = (8,),
        size: int = 5,
        activation: str = "tanh",
        loss: str = "l2",
        delta: float = 1.0,
        p: float = 1.0,
        squash: bool = True,
        targets: str | Sequence[np.ndarray] = "projection",
        target: str = "map",
        keep_codes: bool = False,
        schedule: str = "simultaneous",
        refresh: bool = False,
        lr: float = 0.05,
        hidden_lr: float | Sequence[float] | None = None,
        momentum: float = 0.0,
        epochs: int = 15,
        batch_size: int = 64,
        source: Any = None,
        layers: Sequence[int] | None = None,
        train_output: bool = True,
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.model = model
        self.hidden = hidden
        self.channels = channels
        self.size = size
        self.activation = activation
        self.loss = loss
        self.delta = delta
        self.p = p
        self.squash = squash
        self.targets = targets
        self.target = target
        self.keep_codes = keep_codes
        self.schedule = schedule
        self.refresh = refresh
        self.lr = lr
        self.hidden_lr = hidden_lr
        self.momentum = momentum
        self.epochs = epochs
        self.batch_size = batch_size
        self.source = source
        self.layers = layers
        self.train_output = train_output
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    # ------------------------------------------------------------ checking, building

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _check_settings(self) -> None:
        one_of: dict[str, tuple] = {
            "loss": LOSSES,
            "activation": ACTIVATIONS,
            "target": ("map", "pooled", "channel"),
            "schedule": ("simultaneous", "greedy"),
        }
        for name, allowed in one_of.items():
            if getattr(self, name) not in allowed:
                raise self._bad(name, f"one of {', '.join(allowed)}")
        for name, least in (("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise self._bad(name, f"a whole number of at least {least}")
        for name in ("delta", "p"):
            if not 0 < getattr(self, name) < math.inf:
                raise self._bad(name, "a positive finite number")
        rates = np.atleast_1d(np.asarray(0.0 if self.hidden_lr is None else self.hidden_lr, float))
        if not np.isfinite(rates).all() or (rates < 0).any():
            raise self._bad("hidden_lr", "None, or finite numbers of at least 0")
        if not 0 <= self.lr < math.inf:
            raise self._bad("lr", "a finite number of at least 0")
        if not 0 <= self.momentum < 1:
            raise self._bad("momentum", "a number in [0, 1)")
        if isinstance(self.targets, str) and self.targets != "projection":
            raise self._bad("targets", "'projection' or one array of codes a hidden layer")

    def _shape(self) -> tuple[int, ...]:
        if self.image_shape is None:
            return tuple(self._input_shape)
        if math.prod(self.image_shape) != self.n_features_in_:
            who = type(self).__name__
            raise ValueError(f"{who}: image_shape is {self.image_shape}, but X has {self.n_features_in_} features")
        return tuple(self.image_shape)

    def network(self) -> Layer:
        """The network for the data seen in `fit` or `begin`, of use as `model` of other learners."""
        if self.source is not None:
            return self.source._net
        shape, K = self._shape(), len(self.classes_)
        if isinstance(self.model, Layer):
            return self.model
        if self.model == "mlp":
            return rows_mlp(math.prod(shape), K, tuple(self.hidden), self.activation)
        if self.model == "conv":
            if len(shape) != 3:
                raise self._bad("model", f"'mlp' for inputs of shape {shape}: 'conv' takes images (C, H, W)")
            return convnet((shape[0], shape[1], shape[2]), K, tuple(self.channels), self.size, self.activation)
        return models.build(self.model, shape, K)

    def _begin(self, X, y):
        self._check_settings()
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_labels(y, len(X))
        if self.source is not None:
            y = self._old_classes(y)
        X = X.reshape(len(X), *self._shape())
        rng = generator(self.random_state)
        self._rngs = {"train": rng}
        self._net = self.network()
        self._parts = local_layers(self._net, self.target)
        self._params = {f"layer{i}": initialise(part.net, rng, self.dtype) for i, part in enumerate(self._parts)}
        if self.source is not None:
            self._take_over()
        # The key of the projections lives in a generator that never moves on: so checkpoints hold it.
        self._rngs["codes"] = np.random.default_rng(rng.integers(0, 2**32, 4).tolist())
        self._measure(X[:1])
        self._codes_from_key()
        self._check_layers()
        self._steppers = [optim.SGD(rate, self.momentum) for rate in self._rates()]
        self._optimizers = {
            name: stepper.init(own) for (name, own), stepper in zip(self._params.items(), self._steppers)
        }
        self._velocities = [
            Params(own.shapes, flat=self._optimizers[name].vectors["velocity"]) if self.momentum else None
            for name, own in self._params.items()
        ]
        # one buffer serves the gradients of all layers: only one of them is at work at a time
        buffer = np.zeros(max(own.size for own in self._params.values()), self.dtype)
        self._grads = [Params(own.shapes, flat=buffer[: own.size]) for own in self._params.values()]
        self._X, self._y = X, y
        L = len(self._parts)
        self.total_ = int(self.epochs) * (L if self.schedule == "greedy" else 1)

    def _old_classes(self, y: np.ndarray) -> np.ndarray:
        """Class numbers of the source for those of the new data."""
        old, new = self.source.classes_, self.classes_
        numbers = np.minimum(np.searchsorted(old, new), len(old) - 1)
        if (old[numbers] != new).any():
            odd = new[old[numbers] != new][0]
            raise ValueError(f"{type(self).__name__}: y holds the class {odd.item()!r}, which `source` does not know")
        self.classes_ = old
        return numbers[y]

    def _take_over(self) -> None:
        theirs = {name: a for own in self.source._params.values() for name, a in own.items()}
        for own in self._params.values():
            own.load({name: theirs[name] for name in own})

    def _measure(self, x: np.ndarray) -> None:
        """Shape of one sample at the target of each hidden layer."""
        self._shapes = []
        for i, part in enumerate(self._parts[:-1]):
            y = part.output(self._params[f"layer{i}"], x)
            self._shapes.append(y.shape[1:])
            x = pass_on(part.above, y)

    def _codes_from_key(self) -> None:
        self._kept: dict[int, np.ndarray] = {}
        key = int(copy.deepcopy(self._rngs["codes"]).integers(0, 2**63))
        self._projections = Projections(key, len(self.classes_), self.p, self.loss, self.squash, self.dtype)

    def restore(self, arrays, meta):
        super().restore(arrays, meta)
        self._codes_from_key()

    def _check_layers(self) -> None:
        hidden = len(self._parts) - 1
        chosen = range(hidden) if self.layers is None else self.layers
        if any(not isinstance(i, int | np.integer) or not 0 <= i < hidden for i in chosen):
            raise self._bad("layers", f"None or numbers of hidden layers, 0 to {hidden - 1}")
        self._trained = {int(i) for i in chosen} | ({hidden} if self.train_output else set())
        for part in self._parts[:-1]:
            if self.loss == "logistic" and part.activation == "relu":
                raise self._bad("loss", "one without the logistic function where a layer has relu")
        if isinstance(self.targets, str):
            return
        expected = [(len(self.classes_), math.prod(shape)) for shape in self._shapes]
        given = [np.shape(a) for a in self.targets]
        if given != expected:
            raise ValueError(f"{type(self).__name__}: targets have shapes {given}, expected {expected}")

    def _rates(self) -> list[float]:
        hidden = len(self._parts) - 1
        if self.hidden_lr is None or np.ndim(self.hidden_lr) == 0:
            rate: Any = self.lr if self.hidden_lr is None else self.hidden_lr
            return [float(rate)] * hidden + [self.lr]
        rates = [float(r) for r in self.hidden_lr]  # type: ignore[union-attr]
        if len(rates) != hidden:
            raise self._bad("hidden_lr", f"one rate, or one for each of the {hidden} hidden layers")
        return [*rates, self.lr]

    # ------------------------------------------------------------ the codes (1)

    def codes(self, i: int) -> np.ndarray:
        """Codes (K, n_i) of hidden layer i."""
        if not isinstance(self.targets, str):
            return np.ascontiguousarray(self.targets[i], dtype=self.dtype)
        found = self._kept.get(i)
        if found is None:
            found = self._drawn(i, None)
            if self.keep_codes:
                self._kept[i] = found
        return found

    def _drawn(self, i: int, classes: np.ndarray | None) -> np.ndarray:
        shape, activation = self._shapes[i], self._parts[i].activation
        assert activation is not None
        if self.target == "channel" and len(shape) == 3:
            return np.repeat(self._projections.table(i, shape[0], activation, classes), shape[1] * shape[2], axis=1)
        return self._projections.table(i, math.prod(shape), activation, classes)

    def _looked_up(self, i: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes, and the row of them for each sample: of all classes, or of a few samples' classes alone."""
        if len(labels) >= len(self.classes_) or self.keep_codes or not isinstance(self.targets, str):
            return labels, self.codes(i)
        return np.arange(len(labels)), self._drawn(i, labels)

    # ------------------------------------------------------------ one layer, (2) to (5)

    def _local_step(self, i: int, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
        """Hidden layer i sees its input, its target and itself. Returns what it passes on, and its mean loss."""
        part, name = self._parts[i], f"layer{i}"
        params, B = self._params[name], len(x)
        x = pass_on(part.before, x)
        labels, codes = self._looked_up(i, labels)
        kind = (self.loss, part.activation, self.delta)
        if part.fused:
            (name_w, _), v = part.weights, self._velocities[i]
            W, b = params[f"{name_w}.weight"], params[f"{name_w}.bias"]
            v_W, v_b = (v[f"{name_w}.weight"], v[f"{name_w}.bias"]) if v is not None else (None, None)
            y, J = ops.target_step(
                x, labels, W, b, codes, v_W, v_b, self._steppers[i].rate(0), self.momentum, *kind
            )  # (2) to (5)
            self._optimizers[name].step += 1
        else:
            z, saved = part.below.forward(params, x, train=True)  # (2)
            positions = math.prod(z.shape[2:])
            y, J, d = ops.target_loss(z.reshape(B, -1), labels, codes, *kind, 1 / (B * positions))  # (3)
            grads = self._grads[i]
            grads.flat[...] = 0
            part.below.backward(params, grads, saved, d.reshape(z.shape), need_dx=False)  # (4)
            self._steppers[i].step(params, grads, self._optimizers[name])  # (5)
            y = y.reshape(z.shape)
        if self.refresh:
            y = Activation(part.activation or "").apply(params, part.below.apply(params, x))
        return pass_on(part.above, y), float(J.mean())

    def _output_step(self, x: np.ndarray, labels: np.ndarray) -> float:
        """The last layer: its target is the label."""
        i = len(self._parts) - 1
        part, name, grads = self._parts[i], f"layer{i}", self._grads[i]
        params = self._params[name]
        z, saved = part.below.forward(params, pass_on(part.before, x), train=True)
        loss, probabilities = ops.cross_entropy(z, labels)
        grads.flat[...] = 0
        part.below.backward(params, grads, saved, ops.cross_entropy_backward(probabilities, labels), need_dx=False)
        self._steppers[i].step(params, grads, self._optimizers[name])
        return float(loss)

    def _step(self, x: np.ndarray, labels: np.ndarray, trained: set[int]) -> dict[str, float]:
        """One batch through all layers up to the last trained one; returns their losses."""
        losses, last = {}, len(self._parts) - 1
        for i, part in enumerate(self._parts):
            if not trained or i > max(trained):
                break
            if i not in trained:
                x = part.apply(self._params[f"layer{i}"], x)
            elif i < last:
                x, losses[f"local{i + 1}"] = self._local_step(i, x, labels)
            else:
                losses["loss"] = self._output_step(x, labels)
        return losses

    def _advance(self, unit):
        trained = self._trained
        if self.schedule == "greedy":
            trained = trained & {unit // max(1, int(self.epochs))}
        total: dict[str, float] = {}
        for rows in batches(len(self._X), self.batch_size, self._rngs["train"]):
            for name, value in self._step(self._X[rows], self._y[rows], trained).items():
                total[name] = total.get(name, 0.0) + value * len(rows) / len(self._X)
        return total

    # ------------------------------------------------------------ looking and predicting

    def _inputs(self, X: Any) -> np.ndarray:
        self._check_fitted()
        return self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())

    def activations(self, X: Any) -> list[np.ndarray]:
        """Outputs y_i of all hidden layers, where their targets are, for X (n, ...)."""
        x, found = self._inputs(X), []
        for i, part in enumerate(self._parts[:-1]):
            y = part.output(self._params[f"layer{i}"], x)
            found.append(y)
            x = pass_on(part.above, y)
        return found

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the logits, (n, K): a plain forward pass, no codes."""
        X, chunks = self._inputs(X), []
        for start in range(0, len(X), 1024):
            x = X[start : start + 1024]
            for i, part in enumerate(self._parts):
                x = part.apply(self._params[f"layer{i}"], x)
            chunks.append(x)
        return ops.softmax(np.concatenate(chunks))
