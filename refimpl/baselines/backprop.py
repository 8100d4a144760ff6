"""Back-propagation: the learner that every paper here compares with.

End-to-end gradient descent on the mean loss of mini-batches (Rumelhart, Hinton and Williams, 1986):
    forward through all layers, dL/dlogits, backward through all layers, one optimiser step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refimpl import models, ops, optim
from refimpl.data import batches
from refimpl.estimator import Classifier, Estimator, Regressor, generator
from refimpl.nn import Layer, initialise


class _Backprop(Estimator):
    """What classifier and regressor share: everything but the loss."""

    def __init__(
        self,
        model: str | Layer = "mlp",
        hidden: tuple[int, ...] = (256,),
        image_shape: tuple[int, int, int] | None = None,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        schedule: str = "constant",
        clip: float | None = None,
        epochs: int = 20,
        batch_size: int = 128,
        dtype: str = "float32",
        random_state: Any = None,
        activation: str = "relu",
    ):
        self.model = model
        self.hidden = hidden
        self.image_shape = image_shape
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.clip = clip
        self.epochs = epochs
        self.batch_size = batch_size
        self.dtype = dtype
        self.random_state = random_state
        self.activation = activation

    def _shape(self) -> tuple[int, ...]:
        """Shape of one input: as given, or `image_shape` for rows of pixels."""
        if self.image_shape is None:
            return tuple(self._input_shape)
        if math.prod(self.image_shape) != self.n_features_in_:
            who = type(self).__name__
            raise ValueError(f"{who}: image_shape is {self.image_shape}, but X has {self.n_features_in_} features")
        return tuple(self.image_shape)

    def _build(self, X: np.ndarray, y: np.ndarray, d_out: int) -> None:
        who = type(self).__name__
        for name, value, least in (("epochs", self.epochs, 0), ("batch_size", self.batch_size, 1)):
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{who}: {name} is {value!r}, expected a whole number of at least {least}")
        shape = self._shape()
        if isinstance(self.model, Layer):
            self._net = self.model
        else:
            options = {"hidden": self.hidden, "activation": self.activation} if self.model == "mlp" else {}
            self._net = models.build(self.model, shape, d_out, **options)
        rng = generator(self.random_state)
        self._rngs = {"train": rng}
        self._params = {"net": initialise(self._net, rng, self.dtype)}
        steps = self.epochs * math.ceil(len(X) / self.batch_size)
        rates: dict[str, optim.Rate] = {"constant": self.lr, "cosine": optim.Cosine(self.lr, steps)}
        if self.schedule not in rates:
            raise ValueError(f"{who}: schedule is {self.schedule!r}, expected one of {', '.join(rates)}")
        self._optimizer = optim.by_name(self.optimizer, rates[self.schedule], self.weight_decay)
        self._optimizers = {"net": self._optimizer.init(self._params["net"])}
        self._grads = self._params["net"].zeros_like()
        self._X, self._y = X.reshape(len(X), *shape), y
        self.total_ = int(self.epochs)

    def _loss(self, out: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean loss and its gradient with respect to the network's output."""
        raise NotImplementedError

    def _gradients(self, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> float:
        """Mean loss of a mini-batch; adds its gradients into `self._grads`."""
        params = self._params["net"]
        out, saved = self._net.forward(params, x, train=True, rng=rng)
        loss, dout = self._loss(out, y)
        self._net.backward(params, self._grads, saved, dout, need_dx=False)
        return loss

    def _advance(self, unit: int) -> dict[str, float]:
        params, rng, total = self._params["net"], self._rngs["train"], 0.0
        for rows in batches(len(self._X), self.batch_size, rng):
            self._grads.flat[...] = 0
            loss = self._gradients(self._X[rows], self._y[rows], rng)
            if self.clip is not None:
                optim.clip_by_norm(self._grads, self.clip)
            self._optimizer.step(params, self._grads, self._optimizers["net"])
            total += loss * len(rows)
        return {"loss": total / len(self._X)}

    def _outputs(self, X: Any) -> np.ndarray:
        """Network outputs for all rows, computed in chunks so that memory stays bounded."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())
        chunks = [self._net.apply(self._params["net"], X[i : i + 1024]) for i in range(0, len(X), 1024)]
        return np.concatenate(chunks)


class BackpropClassifier(_Backprop, Classifier):
    """Classification by end-to-end back-propagation of the cross-entropy.

    model: "mlp", "lenet", "vgg", "resnet" or any Layer whose output has one column a class; hidden, activation: widths
    and activation of the MLP; image_shape: (C, H, W) where X comes as rows of pixels; optimizer: see optim.by_name;
    schedule: "constant" or "cosine"; clip: largest gradient norm or None. Reproducible for a given random_state,
    backend and thread count.
    """

    def _begin(self, X, y):
        X = self._check_X(X, self.dtype, reset=True)
        self._build(X, self._check_labels(y, len(X)), len(self.classes_))

    def _loss(self, out, y):
        loss, p = ops.cross_entropy(out, y)
        return float(loss), ops.cross_entropy_backward(p, y)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the network's outputs, (n, K)."""
        return ops.softmax(self._outputs(X))


class BackpropRegressor(_Backprop, Regressor):
    """Regression by end-to-end back-propagation of the mean squared error.

    Arguments as in BackpropClassifier. The target is standardised inside (mean 0, deviation 1) and predictions are
    given in its own units.
    """

    def _begin(self, X, y):
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_target(y, len(X))
        self._mean, self._scale = float(y.mean()), float(y.std()) or 1.0
        self._build(X, ((y - self._mean) / self._scale).astype(self.dtype)[:, None], 1)

    def _loss(self, out, y):
        return float(ops.mse(out, y)), ops.mse_backward(out, y)

    def predict(self, X: Any) -> np.ndarray:
        """Predicted values (n,), in the network's dtype."""
        return (self._outputs(X)[:, 0].astype(np.float64) * self._scale + self._mean).astype(self.dtype)
