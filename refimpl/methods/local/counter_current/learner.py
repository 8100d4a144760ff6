"""Counter-current learning as a classifier: fit, predict, score; training in resumable units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl._names import expected
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.methods.local.counter_current.losses import Terms, centralise, clip, gradients, normalised
from refimpl.methods.local.counter_current.networks import Pair, Standardise, conv_pair, mlp_pair
from refimpl.nn import Flatten, Sequential, initialise

VARIANTS = ("mlp", "cnn", "cnn_pool")


class CounterCurrent(Classifier):
    """Classification by counter-current learning. (The autoencoder, variant C, is `CounterCurrentAutoencoder`.)

    Networks: variant "mlp" (A) with `hidden` widths, "cnn" (convolutions of stride 2) or "cnn_pool" (convolutions and
    pooling; both B) with `channels`; images are padded with zeros to extents that can be halved that often.
    image_shape: (C, H, W) where X comes as rows of pixels. Inputs are standardised (one mean and deviation a channel).

    Losses: sC, sS: weights of similarity and decorrelation (sS only in the convolutional variants); target_filter:
    samples that are sure already give no gradient (convolutional variants); feedback_input "classes" or "batch": what
    goes down; train_feedback False leaves the feedback network at its first random weights.

    Steps: lr, feedback_lr (None: the same), momentum, weight_decay; clip, feedback_clip (None: the same, inf for none)
    and clip_scope "network" or "level"; centralise: gradients; warmup: steps over which the loss is faded in; schedule
    "constant" or "cosine" (an epoch at a time, to 1e-3); augment: random shifts by up to 4 pixels and mirror images;
    epochs, batch_size. Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        variant: str = "mlp",
        hidden: tuple[int, ...] = (256,) * 5,
        channels: tuple[int, ...] = (128, 128, 256, 256, 512),
        sC: float = 0.5,
        sS: float = 0.5,
        target_filter: bool = False,
        feedback_input: str = "classes",
        train_feedback: bool = True,
        lr: float = 1.0,
        feedback_lr: float | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float = 1.0,
        feedback_clip: float | None = None,
        clip_scope: str = "network",
        centralise: bool = False,
        warmup: int = 0,
        schedule: str = "constant",
        augment: bool = False,
        epochs: int = 20,
        batch_size: int = 256,
        image_shape: tuple[int, int, int] | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.variant = variant
        self.hidden = hidden
        self.channels = channels
        self.sC = sC
        self.sS = sS
        self.target_filter = target_filter
        self.feedback_input = feedback_input
        self.train_feedback = train_feedback
        self.lr = lr
        self.feedback_lr = feedback_lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.clip = clip
        self.feedback_clip = feedback_clip
        self.clip_scope = clip_scope
        self.centralise = centralise
        self.warmup = warmup
        self.schedule = schedule
        self.augment = augment
        self.epochs = epochs
        self.batch_size = batch_size
        self.image_shape = image_shape
        self.dtype = dtype
        self.random_state = random_state

    @classmethod
    def paper(cls, data: str = "mnist", variant: str = "mlp", **changes: Any) -> CounterCurrent:
        """The paper's values for "mnist", "fashion-mnist", "cifar-10" or "cifar-100"; `changes` replace some. Raises
        ValueError for another name."""
        known = ("mnist", "fashion-mnist", "cifar-10", "cifar-100")
        if data not in known:
            raise ValueError(f"CounterCurrent: no settings for {data!r}, {expected(data, known)}")
        values: dict[str, Any] = {"variant": variant, "epochs": 100}
        if variant == "mlp" and data.startswith("cifar"):
            values |= {"hidden": (1024,) * 3}
        if variant != "mlp":
            values |= {"warmup": 100}
        if variant == "cnn_pool":
            values |= {"batch_size": 128, "momentum": 0.8, "weight_decay": 1e-6, "sC": 1.0, "clip": 0.3}
            values |= {"centralise": True, "target_filter": True, "schedule": "cosine", "augment": True}
            if data == "cifar-100":
                values |= {"momentum": 0.5, "clip": math.inf, "target_filter": False}
        return cls(**{**values, **changes})

    # ------------------------------------------------------------ training

    def _begin(self, X, y):
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_labels(y, len(X))
        self._check_settings()
        X = X.reshape(len(X), *self._shape())
        self._standardise = _standardise(X)
        self._pair = self._networks()
        rng = generator(self.random_state)
        self._rngs = {"train": rng}
        nets = {"forward": self._pair.forward_network, "feedback": self._pair.feedback_network}
        self._params = {name: initialise(net, rng, self.dtype) for name, net in nets.items()}
        self._grads = {name: params.zeros_like() for name, params in self._params.items()}
        steps = math.ceil(len(X) / self.batch_size)
        self._optimizer = {
            name: optim.SGD(self._rate(lr, steps), momentum=self.momentum, weight_decay=self.weight_decay)
            for name, lr in (
                ("forward", self.lr),
                ("feedback", self.lr if self.feedback_lr is None else self.feedback_lr),
            )
        }
        self._optimizers = {name: self._optimizer[name].init(params) for name, params in self._params.items()}
        self._X, self._y = self._prepared(X), y
        self.total_ = int(self.epochs)

    def _check_settings(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("warmup", 0)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise self._bad(name, f"a whole number of at least {least}")
        for name, allowed in (
            ("variant", VARIANTS),
            ("clip_scope", ("network", "level")),
            ("schedule", ("constant", "cosine")),
            ("feedback_input", ("classes", "batch")),
        ):
            if getattr(self, name) not in allowed:
                raise self._bad(name, f"one of {', '.join(map(repr, allowed))}")
        for name in ("hidden", "channels"):
            widths = getattr(self, name)
            if not isinstance(widths, tuple | list) or not all(
                isinstance(n, int | np.integer) and n > 0 for n in widths
            ):
                raise self._bad(name, "whole numbers of at least 1")
        for name in ("lr", "feedback_lr", "clip", "feedback_clip", "sC"):
            value = getattr(self, name)
            if not (value is None and name.startswith("feedback")) and not value > 0:
                raise self._bad(name, "a positive number")
        if not self.sS >= 0:
            raise self._bad("sS", "a number of at least 0")
        if self.variant == "mlp" and self.target_filter:
            raise self._bad("target_filter", "False for variant 'mlp'")
        if self.variant == "mlp" and self.augment:
            raise self._bad("augment", "False for variant 'mlp'")

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _shape(self) -> tuple[int, ...]:
        """Shape of one input before padding: as given, or `image_shape` for rows of pixels."""
        who = type(self).__name__
        if self.image_shape is not None:
            if math.prod(self.image_shape) != self.n_features_in_:
                raise ValueError(f"{who}: image_shape is {self.image_shape}, but X has {self.n_features_in_} features")
            return tuple(self.image_shape)
        if self.variant != "mlp" and len(self._input_shape) != 3:
            raise ValueError(f"{who}: X has shape (n, {self.n_features_in_}), expected images, or image_shape")
        return tuple(self._input_shape)

    def _networks(self) -> Pair:
        shape, K = self._shape(), len(self.classes_)
        if self.variant == "mlp":
            return mlp_pair(math.prod(shape), K, tuple(self.hidden))
        unit = 2 ** len(self.channels)
        padded = (shape[0], *(unit * math.ceil(n / unit) for n in shape[1:]))
        return conv_pair(padded, K, tuple(self.channels), pool=self.variant == "cnn_pool")

    def _prepared(self, X: np.ndarray) -> np.ndarray:
        """Standardised, and flat or padded with black for the networks."""
        x = self._standardise.apply({}, X)
        if self.variant == "mlp":
            return x.reshape(len(x), -1)
        _, h, w = self._pair.shapes[0]
        pad = [(0, 0), (0, 0), *(((n - m) // 2, n - m - (n - m) // 2) for n, m in ((h, x.shape[2]), (w, x.shape[3])))]
        if not any(map(any, pad)):
            return x
        black = self._standardise.apply({}, np.zeros((1, x.shape[1], 1, 1), x.dtype))
        return np.pad(x - black, pad) + black

    def _rate(self, lr: float, steps: int) -> optim.Rate:
        return (
            lr if self.schedule == "constant" else optim.PerEpoch(optim.Cosine(lr, self.epochs, min(lr, 1e-3)), steps)
        )

    def _clips(self) -> dict[str, float]:
        return {"forward": self.clip, "feedback": self.clip if self.feedback_clip is None else self.feedback_clip}

    def _advance(self, unit):
        rng, n, L = self._rngs["train"], len(self._y), self._pair.L
        total = np.zeros(L + 2)
        for rows in batches(n, self.batch_size, rng):
            x = self._X[rows]
            terms = self._step(_moved(x, rng) if self.augment else x, self._y[rows])
            total += np.array([*terms.levels, terms.cross_entropy, terms.kept / len(rows)]) * (len(rows) / n)
        metrics = {"loss": total[: L + 1].sum(), "cross_entropy": total[L]}
        metrics |= {f"level{level}": total[level] for level in range(L)}
        metrics |= {f"cosine{level}": cosine for level, cosine in self.cosines().items()}
        return metrics | ({"kept": total[L + 1]} if self.target_filter else {})

    def _step(self, x: np.ndarray, y: np.ndarray):
        """One step of both networks on a standardised batch."""
        for grads in self._grads.values():
            grads.flat[...] = 0
        terms = self._gradients(x, y)
        done = self._optimizers["forward"].step
        for name, most in self._clips().items():
            if name == "feedback" and not self.train_feedback:
                continue
            grads = self._grads[name]
            if done < self.warmup:
                ops.scale_inplace(grads.flat, (done + 1) / self.warmup)
            if self.centralise:
                centralise(grads)
            if most < math.inf:
                clip(grads, most, self.clip_scope == "level")
            self._optimizer[name].step(self._params[name], grads, self._optimizers[name])
        return terms

    def _gradients(self, x: np.ndarray, y: np.ndarray) -> Terms:
        """Add the gradients of a batch into `_grads`."""
        networks = self._params["forward"], self._params["feedback"], self._grads["forward"], self._grads["feedback"]
        sS = None if self.variant == "mlp" else self.sS
        on_batch = self.feedback_input == "batch"
        return gradients(self._pair, *networks, x, y, len(self.classes_), self.sC, sS, self.target_filter, on_batch)

    # ------------------------------------------------------------ inference, and what the levels know

    def _chunks(self, X: Any):
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())
        return (self._prepared(X[i : i + 1024]) for i in range(0, len(X), 1024))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of a_L, (n, K). The feedback network is not needed."""
        self._check_fitted()
        net, params = self._pair.forward_network, self._params["forward"]
        return np.concatenate([ops.softmax(net.apply(params, x)) for x in self._chunks(X)])

    def activities(self, X: Any) -> list[np.ndarray]:
        """a_0..a_L, each (n, n_l)."""
        self._check_fitted()
        found = [self._pair.ascend(self._params["forward"], x)[0] for x in self._chunks(X)]
        return [np.concatenate([a.reshape(len(a), -1) for a in level]) for level in zip(*found)]

    def prototypes(self) -> list[np.ndarray]:
        """c_0..c_L, each (K, n_l): what the feedback network makes of each class."""
        self._check_fitted()
        c, _ = self._pair.descend(self._params["feedback"], np.eye(len(self.classes_), dtype=self.dtype))
        return [level.reshape(len(level), -1) for level in c]

    def similarities(self, X: Any) -> list[np.ndarray]:
        """S_l = a_l c_l^T, (n, K), of all levels 0..L; in the convolutional variants of normalised rows."""
        pairs = zip(self.activities(X), self.prototypes())
        if self.variant == "mlp":
            return [a @ c.T for a, c in pairs]
        return [normalised(a) @ normalised(c).T for a, c in pairs]

    def predict_at(self, X: Any, level: int) -> np.ndarray:
        """The class that a level alone would say: argmax of a_l c_l^T. Raises ValueError for another level."""
        self._check_fitted()
        if not 0 <= level <= self._pair.L:
            raise ValueError(f"{type(self).__name__}: level is {level}, expected 0..{self._pair.L}")
        return self.classes_[self.similarities(X)[level].argmax(axis=1)]

    def cosines(self) -> dict[int, float]:
        """Cosine between the forward weights of each level and the feedback weights, transposed. (Convolutions: input
        and output channels exchanged, kernels as they are.)"""
        found = {}
        for level in range(1, self._pair.L + 1):
            name = f"level{level}.weights.weight"
            up, down = self._params["forward"][name], self._params["feedback"][name].swapaxes(0, 1)
            length = np.linalg.norm(up) * np.linalg.norm(down)
            found[level] = float((up * down).sum() / length) if length else 0.0
        return found

    def network(self) -> Sequential:
        """The forward network with standardising in front: for back-propagation and other rules on the same inputs.
        Its first weights are this learner's for the same random_state. Raises ValueError where images are padded."""
        if self.variant != "mlp" and self._shape() != self._pair.shapes[0]:
            raise ValueError(f"{type(self).__name__}: images of shape {self._shape()} are padded, expected none to be")
        flatten = {"flatten": Flatten()} if self.variant == "mlp" else {}
        return Sequential(standardise=self._standardise, **flatten, **self._pair.forward_network.layers)


def _standardise(X: np.ndarray) -> Standardise:
    axes = tuple(i for i in range(X.ndim) if i != 1) if X.ndim == 4 else None
    mean, scale = np.atleast_1d(X.mean(axis=axes, dtype=np.float64)), np.atleast_1d(X.std(axis=axes, dtype=np.float64))
    scale = np.where(scale > 0, scale, 1.0)
    return Standardise(tuple(map(float, mean)), tuple(map(float, scale)))


def _moved(x: np.ndarray, rng: np.random.Generator, most: int = 4) -> np.ndarray:
    """Each image shifted by up to `most` pixels (its edge repeated), every second one on average mirrored."""
    _, _, h, w = x.shape
    wide = np.pad(x, ((0, 0), (0, 0), (most, most), (most, most)), mode="edge")
    moved = np.empty_like(x)
    for i, (down, right) in enumerate(rng.integers(0, 2 * most + 1, (len(x), 2))):
        moved[i] = wide[i, :, down : down + h, right : right + w]
    mirrored = rng.random(len(x)) < 0.5
    moved[mirrored] = moved[mirrored, :, :, ::-1]
    return moved
