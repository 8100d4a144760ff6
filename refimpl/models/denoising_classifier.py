"""Classifiers that turn noise into a label: what NoProp and its end-to-end baselines share, which is everything but
training.

Inference starts from noise z_0 ~ N(0, I), never from a label, and either applies T blocks one after the other,
    z_t = a_t uhat_t(z_{t-1}, x) + b_t z_{t-1} + sqrt(c_t) eps_t,                                              (3)
or integrates one network from t = 0 to 1: the flow (6) of a time-conditioned denoiser, or a learned velocity. The
read-out turns the end of the way into class logits.

`predict` draws its noise from a stream of the fitted learner and gives every row the same noise, so that the answer
for a row depends on that row alone and not on what else is asked; `denoise(X, rng=...)` draws noise for each row.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.estimator import Classifier, generator
from refimpl.models import diffusion
from refimpl.models.label_denoiser import Denoiser, Embedding, ReadOut, denoiser, prototypes
from refimpl.nn import initialise

__all__ = ["DenoisingClassifier"]

Noise = Callable[[], np.ndarray]


class DenoisingClassifier(Classifier):
    """Base: data, class embedding, read-out, blocks and inference. A subclass takes the hyper-parameters named below in
    its `__init__`, says with `_kind_of_model` which networks it has, and trains them.

    block "mlp" or "conv", width, dropout: the network (models.label_denoiser.denoiser);
    embedding "onehot", "learned" (embedding_dim numbers) or "prototype"; readout "linear", "distance" or "nearest"
    with readout_sigma; lowest, highest: limits of abar; noise "zero" or "sampled": eps_t in (3); draws: starts whose
    logits are averaged; steps, integrator: for one network in continuous time; image_shape: (C, H, W) where X comes as
    rows of pixels; dtype; random_state.
    """

    # "chain": T blocks, (3).  "flow": one denoiser, (6).  "velocity": one network that outputs dz/dt.
    _kind_of_model: str

    embedding: str
    embedding_dim: int
    readout: str
    readout_sigma: float
    lowest: float
    highest: float
    block: str
    width: int
    dropout: float
    batch_size: int
    draws: int
    image_shape: tuple[int, int, int] | None
    dtype: Any
    random_state: Any
    # A model that has no such choice keeps these.
    steps: int = 1
    integrator: str = "euler"
    noise: str = "zero"

    # ------------------------------------------------------------ hyper-parameters

    def _whole(self, **least: int) -> None:
        """The named hyper-parameters are whole numbers of at least the given sizes. Raises ValueError."""
        for name, smallest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < smallest:
                raise self._bad(name, f"a whole number of at least {smallest}")

    def _one_of(self, **allowed: tuple) -> None:
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise self._bad(name, f"one of {', '.join(map(repr, values))}")

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _check_model(self) -> None:
        self._whole(width=1, batch_size=1, embedding_dim=1, draws=1)
        self._one_of(
            embedding=("onehot", "learned", "prototype"),
            readout=("linear", "distance", "nearest"),
            noise=("zero", "sampled"),
            integrator=("euler", "heun"),
            dtype=("float32", "float64"),
        )
        if not 0 < self.lowest < self.highest < 1:
            limits = f"lowest is {self.lowest!r} and highest {self.highest!r}"
            raise ValueError(f"{type(self).__name__}: {limits}, expected 0 < lowest < highest < 1")
        if not self.readout_sigma > 0:
            raise self._bad("readout_sigma", "a positive number")

    # ------------------------------------------------------------ building

    def _build(self, X: Any, y: Any, T: int = 0, schedule: str = "") -> None:
        """Check data, then draw parameters, each group from a random stream of its own.

        Streams: "inference" (never advanced), "embedding", "readout", and "block1".."blockT" for a chain, else "net"
        and, for a flow, "schedule".
        """
        X = self._check_X(X, self.dtype, reset=True)
        numbers = self._check_labels(y, len(X))
        self._check_model()
        shape, K = self._shape(), len(self.classes_)
        chain, flow = self._kind_of_model == "chain", self._kind_of_model == "flow"
        networks = [f"block{t}" for t in range(1, T + 1)] if chain else ["net"]
        names = ["inference", "embedding", "readout", *networks, *(["schedule"] if flow else [])]
        self._rngs = dict(zip(names, generator(self.random_state).spawn(len(names))))

        start = prototypes(X, numbers, K) if self.embedding == "prototype" else None
        D = {"onehot": K, "learned": self.embedding_dim, "prototype": self.n_features_in_}[self.embedding]
        self._embedding = Embedding(self.embedding, K, D, start)
        self._readout = ReadOut(self.readout, K, D, self.readout_sigma)
        self._block_spec: dict[str, Any] = {
            "kind": self.block,
            "shape": shape,
            "D": D,
            "d_out": D if self._kind_of_model == "velocity" else K,
            "width": self.width,
            "timed": not chain,
            "image_label": self.embedding == "prototype",
            "dropout": self.dropout,
        }
        layers = {"embedding": self._embedding, "readout": self._readout}
        layers |= dict.fromkeys(networks, self._block())
        if chain:
            self._chain = diffusion.chain(diffusion.cosine_signal(T, self.lowest, self.highest))
        if flow:
            self._gamma = layers["schedule"] = diffusion.gamma_schedule(schedule, self.lowest, self.highest)
        self._params = {name: initialise(layer, self._rngs[name], self.dtype) for name, layer in layers.items()}
        self._X, self._y = X.reshape(len(X), *shape), numbers

    def _block(self) -> Denoiser:
        """The description of one block (rebuilt when asked for: descriptions hold functions and do not travel between
        processes, `_block_spec` does)."""
        return denoiser(**self._block_spec)

    def _shape(self) -> tuple[int, ...]:
        """Shape of one input: as given, or `image_shape` for rows of pixels."""
        if self.image_shape is None:
            return tuple(self._input_shape)
        if math.prod(self.image_shape) != self.n_features_in_:
            who = type(self).__name__
            raise ValueError(f"{who}: image_shape is {self.image_shape}, but X has {self.n_features_in_} features")
        return tuple(self.image_shape)

    # ------------------------------------------------------------ inference

    def denoise(
        self,
        X: Any,
        rng: np.random.Generator | None = None,
        noise: str | None = None,
        steps: int | None = None,
        integrator: str | None = None,
        order: Sequence[int] | None = None,
        path: bool = False,
    ) -> np.ndarray:
        """Denoise from z_0 ~ N(0, I) to the end; X is all that is looked at.

        With rng, every row gets noise of its own from it; without, all rows share the noise that `predict` uses first.
        noise, steps, integrator: as the hyper-parameters of these names, by default those. order: the blocks of a chain
        (1..T) to apply, by default all of them in turn; the coefficients of (3) stay those of the place. Returns z
        (n, D), or with path=True z_0, z_1, ... as (steps + 1, n, D). Raises ValueError for settings out of range.
        """
        X = self._rows(X)
        roll = self._rollout(noise, steps, integrator, order)
        parts = [np.stack(roll(self._features(x), self._noise_source(rng, len(x)))) for x in self._chunks(X)]
        z = np.concatenate(parts, axis=1)
        return z if path else z[-1]

    def decide(self, z: np.ndarray) -> np.ndarray:
        """Class logits (n, K) of embeddings z (n, D), by the read-out."""
        self._check_fitted()
        W = self._embedding.table(self._params["embedding"])
        return self._readout.forward(self._params["readout"], (z, W))[0]

    def nearest(self, z: np.ndarray) -> np.ndarray:
        """Number (0..K-1) of the class embedding nearest to each z (..., D); with one-hot embeddings, argmax z."""
        self._check_fitted()
        W = self._embedding.table(self._params["embedding"])
        return (z if W is None else z @ W.T - (W * W).sum(axis=1) / 2).argmax(axis=-1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the read-out's logits, averaged over `draws` starts, (n, K)."""
        X = self._rows(X)
        roll = self._rollout(None, None, None, None)
        logits = []
        for x in self._chunks(X):
            features, eps = self._features(x), self._noise_source(None, len(x))
            several = [self.decide(roll(features, eps)[-1]) for _ in range(self.draws)]
            logits.append(np.mean(several, axis=0))
        return ops.softmax(np.concatenate(logits))

    def _rows(self, X: Any) -> np.ndarray:
        self._check_fitted()
        return self._check_X(X, self.dtype, reset=False).reshape(-1, *self._shape())

    def _chunks(self, X: np.ndarray) -> list[np.ndarray]:
        """Parts of X, so that memory stays bounded."""
        n = 1024 if self.block == "mlp" else 256
        return [X[i : i + n] for i in range(0, len(X), n)]

    def _noise_source(self, rng: np.random.Generator | None, n: int) -> Noise:
        """A function that returns fresh standard normal noise (n, D) at each call."""
        D = self._embedding.D
        if rng is not None:
            return lambda: rng.standard_normal((n, D), self.dtype)
        shared = copy.deepcopy(self._rngs["inference"])
        return lambda: np.repeat(shared.standard_normal((1, D), self.dtype), n, axis=0)

    def _features(self, x: np.ndarray) -> list[np.ndarray]:
        """The image's part of every block: the bulk of the work, done once for all steps and draws. (All blocks' first
        weights side by side in one product were no faster: each is large enough to run at the machine's speed.)"""
        block, names = self._block(), [name for name in self._params if name.startswith("block")] or ["net"]
        return [block.features(self._params[name], x)[0] for name in names]

    def _rollout(self, noise, steps, integrator, order) -> Callable[[list[np.ndarray], Noise], list[np.ndarray]]:
        """Check the settings of `denoise`; the function that goes from features and noise to [z_0, z_1, ...]."""
        who = type(self).__name__
        noise = self.noise if noise is None else noise
        if noise not in ("zero", "sampled"):
            raise ValueError(f"{who}: noise is {noise!r}, expected 'zero' or 'sampled'")
        W = self._embedding.table(self._params["embedding"])
        block = self._block()
        if self._kind_of_model == "chain":
            places = range(1, self._chain.T + 1)
            order = list(places) if order is None else list(order)
            if len(order) > len(places) or any(t not in places for t in order):
                raise ValueError(f"{who}: order is {order}, expected at most {len(places)} numbers in 1..{len(places)}")
            return lambda g, eps: self._apply_chain(block, W, g, eps, noise == "sampled", order)
        steps = self.steps if steps is None else steps
        integrator = self.integrator if integrator is None else integrator
        if order is not None:
            raise ValueError(f"{who}: order is {order}, but this model is one network, not a chain of blocks")

        def integrate(g: list[np.ndarray], eps: Noise) -> list[np.ndarray]:
            path = [eps()]
            diffusion.integrate(self._slope(block, W, g[0]), path[0], steps, integrator, path)
            return path

        return integrate

    def _apply_chain(self, block, W, g, eps, sampled, order) -> list[np.ndarray]:
        """Equation (3) for each place t of the chain."""
        path = [eps()]
        for t, number in enumerate(order, start=1):
            f, _ = block.denoise(self._params[f"block{number}"], g[number - 1], path[-1])
            uhat, _ = ops.softmax_mixture(f, W)
            path.append(self._chain.step(t, uhat, path[-1], eps() if sampled else None))
        return path

    def _slope(self, block, W, g) -> Callable[[np.ndarray, float], np.ndarray]:
        """dz/dt of the one network: (6), or its output where that is the velocity."""
        params = self._params["net"]

        def velocity(z: np.ndarray, t: float) -> np.ndarray:
            return block.denoise(params, g, z, np.array([t]))[0]

        def flow(z: np.ndarray, t: float) -> np.ndarray:
            uhat, _ = ops.softmax_mixture(velocity(z, t), W)
            (gamma, dgamma), _ = self._gamma.forward(self._params["schedule"], np.array([t]))
            return diffusion.flow_slope(float(gamma[0]), float(dgamma[0]), uhat, z)

        return velocity if self._kind_of_model == "velocity" else flow
