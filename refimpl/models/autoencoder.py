"""A convolutional autoencoder of images, layer by layer, and what its learners share.

An encoder layer is a convolution 3 x 3 of stride 2, a decoder layer enlarges the map by 2 (nearest neighbour) and has a
convolution 3 x 3 behind it. Batch norm and ReLU follow, but for the layer that makes an image: it is bare. Scale and
shift of the batch norm stay 1 and 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.data import batches
from refimpl.estimator import Estimator, generator
from refimpl.nn import Activation, BatchNorm, Conv2d, Layer, Parameter, Sequential, Upsample2d
from refimpl.nn.init import ones, orthogonal, zeros

Shape = tuple[int, ...]
TASKS = ("identity", "colour", "erase", "rotate", "shift", "invert")
SMALL = 1e-3  # factor of the first weights of enlarging layers


# ---------------------------------------------------------------- layers


@dataclass(frozen=True)
class Normalise(BatchNorm):
    """Batch norm whose scale and shift are not trained."""

    def declare(self):
        fixed = {"gain": Parameter((self.c,), ones, trained=False), "bias": Parameter((self.c,), zeros, trained=False)}
        return {**super().declare(), **fixed}

    def _learn(self, grads, dgain, dbias):
        """Nothing."""


def shrinking(c_in: int, c_out: int, bare: bool = False) -> dict[str, Layer]:
    """(B, c_in, H, W) to (B, c_out, H/2, W/2); orthogonal first weights."""
    conv = Conv2d(c_in, c_out, 3, 2, 1, bias=bare, weight_init=orthogonal())
    return {"weights": conv} if bare else {"weights": conv, "norm": Normalise(c_out), "phi": Activation("relu")}


def enlarging(c_in: int, c_out: int, bare: bool = False) -> dict[str, Layer]:
    """(B, c_in, H, W) to (B, c_out, 2H, 2W); orthogonal first weights times 1e-3, and 0 where `bare`."""
    first = zeros if bare else orthogonal(SMALL)
    conv = Conv2d(c_in, c_out, 3, 1, 1, bias=bare, weight_init=first)
    layers: dict[str, Layer] = {"enlarge": Upsample2d(2), "weights": conv}
    return layers if bare else {**layers, "norm": Normalise(c_out), "phi": Activation("relu")}


def autoencoder(shape: Shape, channels: tuple[int, ...]) -> tuple[tuple[dict[str, Layer], ...], tuple[Shape, ...]]:
    """Layers 1..L, L = 2 len(channels), and the shapes of levels 0..L. Raises ValueError for images that cannot be
    halved so often."""
    unit = 2 ** len(channels)
    if not channels or len(shape) != 3 or shape[1] % unit or shape[2] % unit:
        raise ValueError(f"autoencoder: images of shape {shape}, expected (C, H, W) with H and W multiples of {unit}")
    _, h, w = shape
    down = [shape, *((n, h // 2**i, w // 2**i) for i, n in enumerate(channels, 1))]
    shapes = (*down, *down[-2::-1])
    widths, n = [s[0] for s in shapes], len(channels)
    layers = [shrinking(widths[i], widths[i + 1]) for i in range(n)]
    layers += [enlarging(widths[i], widths[i + 1], bare=i == 2 * n - 1) for i in range(n, 2 * n)]
    return tuple(layers), shapes


def network(layers: dict[int, dict[str, Layer]]) -> Sequential:
    """Layers in a row, named by level: "level2.weights.weight"."""
    return Sequential(**{f"level{i}.{name}": layer for i, level in layers.items() for name, layer in level.items()})


# ---------------------------------------------------------------- what to make of an image


def task_pair(images: np.ndarray, task: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of a task on images (n, C, H, W) with values in 0..1.

    "identity": the image from itself. "colour", "erase": the image from a copy that lacks one colour channel, or a
    square of a third of its height, drawn for each image. "rotate", "shift", "invert": the image turned by a quarter,
    rolled by an eighth of its height and width, or 1 - image, from the image.
    """
    n, C, h, w = images.shape
    if task == "identity":
        return images, images
    if task == "colour":
        x = images.copy()
        x[np.arange(n), rng.integers(0, C, n)] = 0
        return x, images
    if task == "erase":
        side = max(1, h // 3)
        top, left = rng.integers(0, h - side + 1, n), rng.integers(0, max(1, w - side + 1), n)
        down, right = (np.arange(extent) - first[:, None] for extent, first in ((h, top), (w, left)))  # from the corner
        inside = ((down >= 0) & (down < side))[:, :, None] & ((right >= 0) & (right < side))[:, None]
        x = images.copy()
        x.swapaxes(0, 1)[:, inside] = 0
        return x, images
    if task == "rotate":
        return images, np.ascontiguousarray(np.rot90(images, axes=(2, 3)))
    if task == "shift":
        return images, np.roll(images, (h // 8, w // 8), axis=(2, 3))
    return images, 1 - images


# ---------------------------------------------------------------- learners


class ImageAutoencoder(Estimator):
    """What learners of the convolutional autoencoder share: data, padding, tasks, reconstruction, score.

    A subclass adds `_networks` (draws parameters and optimisers) and `_step(x, target)` (one step; returns its losses
    by name).
    """

    channels: tuple[int, ...]
    task: str
    epochs: int
    batch_size: int
    batches_per_epoch: int | None
    image_shape: tuple[int, int, int] | None
    dtype: str
    random_state: Any
    _kind = "regressor"

    def begin(self, X: Any, target: Any = None) -> None:
        super().begin(X, target)

    def fit(self, X: Any, target: Any = None):
        """Train on images X (n, C, H, W), or rows of pixels with `image_shape`. target: other images of the same shape
        to make of X; None: what `task` says. Raises ValueError or TypeError for unusable data."""
        return super().fit(X, target)

    def _begin(self, X, target):
        X = self._check_X(X, self.dtype, reset=True)
        for name, least in (("epochs", 0), ("batch_size", 1), ("batches_per_epoch", 1), ("warmup", 0)):
            value = getattr(self, name)
            if name == "batches_per_epoch" and value is None:
                continue
            if not isinstance(value, int | np.integer) or value < least:
                raise self._bad(name, f"a whole number of at least {least}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise self._bad(name, "a positive number")
        if self.task not in TASKS:
            raise self._bad("task", f"one of {', '.join(map(repr, TASKS))}")
        shape = self._shape()
        if self.task == "colour" and shape[0] < 2:
            raise self._bad("task", f"another one for images of shape {shape}")
        if self.task == "rotate" and shape[1] != shape[2]:
            raise self._bad("task", f"another one for images of shape {shape}")
        if target is not None and self.task != "identity":
            raise self._bad("task", "'identity' where a target is given")
        self._X = X.reshape(len(X), *shape)
        self._y = None if target is None else self._checked_target(target, len(X))
        unit = 2 ** len(self.channels)
        self._padded = (shape[0], *(unit * math.ceil(n / unit) for n in shape[1:]))
        rng = generator(self.random_state)
        self._rngs = {"train": rng}
        steps = math.ceil(len(X) / self.batch_size)
        self._networks(rng, min(steps, self.batches_per_epoch or steps))
        self.total_ = int(self.epochs)

    def _networks(self, rng: np.random.Generator, steps: int) -> None:
        """Draw parameters and set up optimisers; `steps` are those of an epoch."""
        raise NotImplementedError

    def _step(self, x: np.ndarray, target: np.ndarray) -> dict[str, float]:
        raise NotImplementedError

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _shape(self) -> Shape:
        who = type(self).__name__
        if self.image_shape is not None:
            if math.prod(self.image_shape) != self.n_features_in_:
                raise ValueError(f"{who}: image_shape is {self.image_shape}, but X has {self.n_features_in_} features")
            return tuple(self.image_shape)
        if len(self._input_shape) != 3:
            raise ValueError(f"{who}: X has shape (n, {self.n_features_in_}), expected images, or image_shape")
        return tuple(self._input_shape)

    def _checked_target(self, target: Any, n: int) -> np.ndarray:
        y = self._check_X(target, self.dtype, reset=False)
        if len(y) != n:
            who = type(self).__name__
            raise ValueError(f"{who}: Found input variables with inconsistent numbers of samples: [{n}, {len(y)}]")
        return y.reshape(n, *self._shape())

    def _frame(self) -> list[tuple[int, int]]:
        """How far images are padded, before and after, along H and W."""
        return [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(self._padded[1:], self._shape()[1:])]

    def _pad(self, images: np.ndarray) -> np.ndarray:
        frame = self._frame()
        return np.pad(images, [(0, 0), (0, 0), *frame]) if any(map(any, frame)) else images

    def _crop(self, images: np.ndarray) -> np.ndarray:
        (top, _), (left, _) = self._frame()
        _, h, w = self._shape()
        return images[:, :, top : top + h, left : left + w]

    def _advance(self, unit):
        rng, count, total = self._rngs["train"], 0, {}
        order = list(batches(len(self._X), self.batch_size, rng))[: self.batches_per_epoch]
        for rows in order:
            x, target = (self._X[rows], self._y[rows]) if self._y is not None else self._pair_of(self._X[rows], rng)
            for name, value in self._step(self._pad(x), self._pad(target)).items():
                total[name] = total.get(name, 0.0) + value * len(rows)
            count += len(rows)
        return {name: value / count for name, value in total.items()}

    def _pair_of(self, images: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return task_pair(images, self.task, rng)

    def _through(self, net: Layer, group: str, X: Any) -> np.ndarray:
        """Images through a whole network as at inference, in the shape in which X came."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False)
        params = self._params[group]

        def chunks() -> Iterator[np.ndarray]:
            images = X.reshape(-1, *self._shape())
            for i in range(0, len(X), 256):
                yield self._crop(net.apply(params, self._pad(images[i : i + 256])))

        return np.concatenate(list(chunks())).reshape(X.shape)

    def reconstruct(self, X: Any) -> np.ndarray:
        """What the network makes of images, in the shape of X."""
        raise NotImplementedError

    def predict(self, X: Any) -> np.ndarray:
        """The same as `reconstruct`."""
        return self.reconstruct(X)

    def score(self, X: Any, target: Any = None) -> float:
        """Minus the mean squared error of a pixel. target None: what `task` says, from a copy of X with the same
        damage at every call."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())
        if target is None:
            X, wanted = self._pair_of(X, np.random.default_rng(0))
        else:
            wanted = self._checked_target(target, len(X))
        error = self.reconstruct(X) - wanted
        return -float(np.mean(np.square(error, dtype=np.float64)))
