"""PhysicalForwardForward as a learner: labels written into the input, layers trained one by one through opaque physics.

Nothing here but `begin` knows what a physical system is; it is called with real rows and returns real rows. No
derivative of it is ever formed, and its matrices are touched by the drift and replacement that a user asks for alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data import batches
from refimpl.estimator import Classifier, generator
from refimpl.models.physics import SYSTEMS, Scaling, system
from refimpl.nn import Layer, Parameter, Params, init, initialise

__all__ = ["GoodnessLayer", "LabelledInput", "PhysicalForwardForward", "digital_steps", "train_layer"]


@dataclass(frozen=True)
class LabelledInput:
    """Features with room for a label. place "front": `slots` inputs of their own before the features, of which class c
    has the `width` ones from c width on; "pixels": the first K width features, which are overwritten.

    amplitude: what the label's inputs are set to, the largest magnitude of the training features.
    """

    K: int
    features: int
    slots: int
    width: int
    place: str
    amplitude: float

    @property
    def D(self) -> int:
        """Number of inputs."""
        return self.features + (self.slots if self.place == "front" else 0)

    def blank(self, x: np.ndarray) -> np.ndarray:
        """Inputs without a label: its places are 0. x (B, features), already scaled."""
        h = np.zeros((len(x), self.D), x.dtype)
        h[:, self.D - self.features :] = x
        h[:, : self.K * self.width] = 0
        return h

    def overlay(self, blank: np.ndarray, c: np.ndarray) -> np.ndarray:
        """A copy of `blank` with class c (B,) written into it."""
        h = blank.copy()
        places = c[:, None] * self.width + np.arange(self.width)
        h[np.arange(len(h))[:, None], places] = self.amplitude
        return h


@dataclass(frozen=True)
class GoodnessLayer(Layer):
    """z = u W + b, and the fixed direction p of its goodness cos(|z|, p): N(0, 1) / (norm + 1e-4)."""

    d_in: int
    d_out: int

    def declare(self):
        uniform = init.uniform(self.d_in**-0.5)
        weight, bias = Parameter((self.d_in, self.d_out), uniform), Parameter((self.d_out,), uniform)
        return {"weight": weight, "bias": bias, "direction": Parameter((self.d_out,), _direction, trained=False)}

    def forward(self, params, x, train=False, rng=None):
        return ops.linear(x, params["weight"], params["bias"]), x


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    p = rng.standard_normal(shape)
    return p / (np.sqrt((p * p).sum()) + 1e-4)


def train_layer(params: Params, state: optim.State, u: np.ndarray, theta: float, lr: float, steps: int) -> np.ndarray:
    """The inner loop of one layer on what it sees, u (2B, D): right labels, then wrong ones. Returns the losses."""
    m, v = state.vectors["m"], state.vectors["v"]
    direction = params["direction"]
    losses = ops.goodness_steps(params.flat, m, v, u, direction, theta, state.step + 1, lr, steps)
    state.step += steps
    return losses


def digital_steps(
    params: Params, grads: Params, state: optim.State, u: np.ndarray, theta: float, lr: float, steps: int
) -> np.ndarray:
    """The same for the digital layer: z = GELU(u W + b), g = cos(z, p) without the magnitude."""
    optimizer, losses = optim.Adam(lr), np.empty(steps, u.dtype)
    for k in range(steps):
        losses[k] = digital_gradient(params, grads, u, theta)
        optimizer.step(params, grads, state)
    return losses


def digital_gradient(params: Params, grads: Params, u: np.ndarray, theta: float) -> float:
    """The digital layer's loss; its gradient is written into `grads`."""
    t = ops.linear(u, params["weight"], params["bias"])
    loss, _, dz = ops.goodness_contrast(ops.gelu(t), params["direction"], theta, False)
    dt = ops.gelu_backward(dz, t)
    grads.flat[...] = 0
    ops.linear_backward(dt, u, params["weight"], False, (grads["weight"], grads["bias"]))
    return float(loss.mean())


class PhysicalForwardForward(Classifier):
    """Classification by physical layers, each trained through its own contrast of right and wrong labels.

    physics: "acoustic", "microwave", "optical" (simulated, refimpl.models.physics), None (no physics: the linear maps
    alone), or one callable a layer, rows (B, d_in) to rows (B, m): an instrument, say. noise, bits, drift (a part an
    epoch) and replace_at (an epoch) befall simulated systems. physical_widths: outputs m of the systems, by default the
    layer's width. skip: the layer also sees the system's input. variant "digital": GELU layers without physics.

    widths: of the layers; theta, inner_steps, epochs, batch_size (None: all rows), lr: of the training. label "front"
    or "pixels", label_slots (None: as many as needed), label_width: see LabelledInput. scaling: of the features, see
    refimpl.models.physics.Scaling.

    Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        physics: str | Sequence[Callable[[np.ndarray], np.ndarray]] | None = "acoustic",
        widths: tuple[int, ...] = (20, 20),
        physical_widths: tuple[int, ...] | None = None,
        skip: bool = True,
        variant: str = "physical",
        theta: float = 4.0,
        inner_steps: int = 10,
        epochs: int = 200,
        batch_size: int | None = None,
        lr: float = 5e-4,
        label: str = "front",
        label_slots: int | None = None,
        label_width: int = 1,
        scaling: str = "standard",
        noise: float = 0.0,
        bits: int | None = None,
        drift: float = 0.0,
        replace_at: int | None = None,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.physics = physics
        self.widths = widths
        self.physical_widths = physical_widths
        self.skip = skip
        self.variant = variant
        self.theta = theta
        self.inner_steps = inner_steps
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.label = label
        self.label_slots = label_slots
        self.label_width = label_width
        self.scaling = scaling
        self.noise = noise
        self.bits = bits
        self.drift = drift
        self.replace_at = replace_at
        self.dtype = dtype
        self.random_state = random_state

    # The settings of the paper.
    @classmethod
    def paper(cls, physics: str = "acoustic", **changes: Any) -> PhysicalForwardForward:
        """The paper's values for "acoustic" and "microwave" (vowels), "optical" (26 x 26 images) or "digital";
        `changes` replace some. Raises ValueError for others."""
        values: dict[str, dict[str, Any]] = {
            "acoustic": {"label_slots": 8},
            "microwave": {"widths": (20, 20, 20), "lr": 2.5e-4, "epochs": 100, "label_slots": 8},
            "optical": {
                "widths": (676, 676),
                "skip": False,
                "theta": 5.0,
                "inner_steps": 20,
                "epochs": 350,
                "lr": 5e-5,
            },
            "digital": {"widths": (1000, 1000), "variant": "digital", "inner_steps": 25, "epochs": 300, "lr": 1e-4},
        }
        if physics not in values:
            raise ValueError(f"{cls.__name__}: no settings for {physics!r}, expected one of {', '.join(values)}")
        own = values[physics] | {"physics": None if physics == "digital" else physics}
        if physics in ("optical", "digital"):
            own |= {"batch_size": 10_000, "scaling": "none"}
        if physics == "optical":
            own |= {"dtype": "float64"}
        if physics == "digital":
            own |= {"label": "pixels"}
        return cls(**{**own, **changes})

    # ------------------------------------------------------------ training

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _check_settings(self) -> None:
        one_of: dict[str, tuple] = {"variant": ("physical", "digital"), "label": ("front", "pixels")}
        for name, allowed in one_of.items():
            if getattr(self, name) not in allowed:
                raise self._bad(name, f"one of {', '.join(map(repr, allowed))}")
        for name, least in {"inner_steps": 1, "epochs": 0, "label_width": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise self._bad(name, f"a whole number of at least {least}")
        for name in ("batch_size", "label_slots", "replace_at"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | np.integer) or value < 1):
                raise self._bad(name, "None or a whole number of at least 1")
        if not self.widths or any(not isinstance(n, int | np.integer) or n < 1 for n in self.widths):
            raise self._bad("widths", "at least one layer, whole numbers of at least 1")
        if not 0 < self.theta < np.inf:
            raise self._bad("theta", "a positive finite number")
        if not 0 < self.lr < np.inf:
            raise self._bad("lr", "a positive finite number")
        if not 0 <= self.drift <= 1:
            raise self._bad("drift", "a number in [0, 1]")
        self._check_physics()

    def _check_physics(self) -> None:
        L = len(self.widths)
        if isinstance(self.physics, str) and self.physics not in SYSTEMS:
            raise self._bad("physics", f"one of {', '.join(SYSTEMS)}, None, or {L} callables")
        if not isinstance(self.physics, str):
            if self.physics is not None and (len(self.physics) != L or not all(map(callable, self.physics))):
                raise self._bad("physics", f"one of {', '.join(SYSTEMS)}, None, or {L} callables")
            for name in ("noise", "bits", "drift", "replace_at", "physical_widths"):
                if getattr(self, name):
                    raise self._bad(name, "nothing: only simulated systems have it")
        if self.physical_widths is not None and len(self.physical_widths) != L:
            raise self._bad("physical_widths", f"None or {L} widths, one a layer")
        if self.variant == "digital" and self.physics is not None:
            raise self._bad("physics", "None: the digital variant has none")

    def _begin(self, X, y):
        self._check_settings()
        X = self._check_X(X, self.dtype, reset=True)
        y = self._check_labels(y, len(X))
        rng, X, K = generator(self.random_state), X.reshape(len(X), -1), len(self.classes_)
        self._scale = Scaling(X, self.scaling)
        x = self._scale(X)
        needed = K * self.label_width
        slots = needed if self.label_slots is None else self.label_slots
        if self.label == "front" and slots < needed:
            raise self._bad("label_slots", f"at least {needed} for {K} classes")
        if self.label == "pixels" and needed > x.shape[1]:
            raise self._bad("label", f"'front': {K} classes need {needed} inputs, X has {x.shape[1]} features")
        amplitude = float(np.abs(x).max()) or 1.0
        self._input = LabelledInput(K, x.shape[1], slots, self.label_width, self.label, amplitude)
        self._X, self._y = self._input.blank(x), y
        self._normalised = self.physics == "microwave"
        self._build(rng)
        self._optimizers = {name: optim.Adam(self.lr).init(params) for name, params in self._params.items()}
        self._grads = {name: params.zeros_like() for name, params in self._params.items()}
        self.total_ = int(self.epochs)

    def _build(self, rng: np.random.Generator) -> None:
        """Systems and linear maps, drawn in the order of the layers."""
        self._rngs, self._systems = {"train": rng}, []
        d, widths, probe = self._input.D, self.physical_widths or self.widths, self._X[:1]
        for k, n in enumerate(self.widths):
            one: Any = None
            if isinstance(self.physics, str):
                one = system(self.physics, d, widths[k], rng.integers(2**63), self.noise, self.bits)
                self._rngs[f"physics{k + 1}"] = one.rng
            elif self.physics is not None:
                one = self.physics[k]
            seen = d
            if one is not None:
                m = widths[k] if isinstance(self.physics, str) else self._measured(one, probe).shape[1]
                seen = m + (d if self.skip else 0)
            self._systems.append(one)
            layer = f"layer{k + 1}"
            self._params[layer] = initialise(GoodnessLayer(seen, n), rng, self.dtype)
            d, probe = n, np.zeros((1, n), self._X.dtype)

    def _measured(self, one: Callable[[np.ndarray], np.ndarray], h: np.ndarray) -> np.ndarray:
        """What the system answers; checked, because it may be a stranger."""
        y = np.asarray(one(h))
        if y.ndim != 2 or len(y) != len(h) or y.dtype.kind != "f":
            who = type(self).__name__
            raise ValueError(
                f"{who}: a system answered {y.dtype}{list(y.shape)}, expected {len(h)} rows of real numbers"
            )
        return np.ascontiguousarray(y, h.dtype)

    def see(self, k: int, h: np.ndarray) -> np.ndarray:
        """u of layer k (from 0): what its system makes of h, and h itself behind it where there is a skip.

        The microwave surface takes rows between 0 and 1; the skip sees them so too.
        """
        if self._normalised:
            low = h.min(axis=1, keepdims=True)
            span = h.max(axis=1, keepdims=True) - low
            h = (h - low) / np.where(span > 0, span, 1)
        one = self._systems[k]
        if one is None:
            return h
        y = self._measured(one, h)
        return np.concatenate([y, h], axis=1) if self.skip else y

    def activity(self, k: int, u: np.ndarray) -> np.ndarray:
        """z of layer k for what it sees: with its sign, as it is passed on."""
        params = self._params[f"layer{k + 1}"]
        z = ops.linear(u, params["weight"], params["bias"])
        return ops.gelu(z) if self.variant == "digital" else z

    def _advance(self, unit):
        """One epoch: for each batch and layer, the physics once, then the inner steps."""
        self._disturb(unit)
        rng, n, K = self._rngs["train"], len(self._y), self._input.K
        total = [0.0] * len(self.widths)
        for rows in batches(n, self.batch_size or n, rng):
            blank, right = self._X[rows], self._y[rows]
            wrong = (right + rng.integers(1, K, len(rows))) % K
            h = np.concatenate([self._input.overlay(blank, right), self._input.overlay(blank, wrong)])
            for k, (name, params) in enumerate(self._params.items()):
                u = self.see(k, h)
                if self.variant == "digital":
                    args = params, self._grads[name], self._optimizers[name], u
                    losses = digital_steps(*args, self.theta, self.lr, self.inner_steps)
                else:
                    losses = train_layer(params, self._optimizers[name], u, self.theta, self.lr, self.inner_steps)
                total[k] += sum(losses.tolist()) / len(losses) * len(rows) / n
                if k + 1 < len(self.widths):
                    h = self.activity(k, u)
        return {"loss": sum(total) / len(total), **{f"loss{k}": t for k, t in enumerate(total, 1)}}

    def _disturb(self, unit: int) -> None:
        """What happens to the systems before this epoch."""
        for one in self._systems:
            if self.drift:
                one.drift(self.drift)
            if self.replace_at is not None and unit == self.replace_at:
                one.replace()

    # ------------------------------------------------------------ state: the systems are part of it

    def checkpoint(self):
        arrays, meta = super().checkpoint()
        if isinstance(self.physics, str):
            for k, one in enumerate(self._systems, 1):
                arrays |= {f"physics/{k}/{name}": a for name, a in one.state().items()}
        return arrays, meta

    def restore(self, arrays, meta):
        super().restore(arrays, meta)
        if isinstance(self.physics, str):
            for one in self._systems:
                one.refresh()

    # ------------------------------------------------------------ inference

    def goodness(self, X: Any, layers: bool = False) -> np.ndarray:
        """G of every class (n, K), the sum over the layers; with `layers` each layer's own, (L, n, K)."""
        self._check_fitted()
        X = self._check_X(X, self.dtype, reset=False).reshape(-1, self.n_features_in_)
        blank, magnitude = self._input.blank(self._scale(X)), self.variant == "physical"
        found = np.zeros((len(self.widths), len(X), self._input.K), self.dtype)
        for start in range(0, len(X), 1024):
            part = slice(start, start + 1024)
            for c in range(self._input.K):
                h = self._input.overlay(blank[part], np.full(len(blank[part]), c))
                for k, params in enumerate(self._params.values()):
                    h = self.activity(k, self.see(k, h))
                    found[k, part, c] = _cosine(h, params["direction"], magnitude)
        return found if layers else found.sum(axis=0)

    def predict_proba(self, X):
        """Softmax of theta times the classes' goodness, (n, K)."""
        return ops.softmax(np.asarray(self.theta * self.goodness(X), self.dtype))

    @property
    def evaluations_(self) -> int:
        """Rows that were sent through simulated systems so far."""
        return sum(getattr(one, "evaluations", 0) for one in self._systems)


def _cosine(z: np.ndarray, p: np.ndarray, magnitude: bool) -> np.ndarray:
    """g = cos(|z|, p) row by row, 0 for a row of zeros."""
    length = np.sqrt((z * z).sum(axis=1) * (p * p).sum())
    return ((np.abs(z) if magnitude else z) @ p) / np.where(length > 0, length, 1)
